# The service's image. It holds no Envoy: that runs beside it, from Envoy's own image (see compose.yaml and deploy/).
#
# Python 3.11 is what every test runs on. Others that pyproject.toml names: --build-arg PYTHON=3.13
ARG PYTHON=3.11

FROM python:${PYTHON}-slim-trixie AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_DEPS=1 PIP_ONLY_BINARY=:all: PIP_ROOT_USER_ACTION=ignore
WORKDIR /build

# Every file is pinned by its hash, so that the same commit makes the same image; `tox run -e lock` moves the pins.
# Only wheels: nothing is compiled, and no setup.py of others runs.
COPY deploy/image/ ./
RUN pip install --require-hashes --requirement build-requirements.txt \
    && python -m venv --without-pip /opt/reservation \
    && pip --python /opt/reservation install --require-hashes --requirement requirements.txt

COPY pyproject.toml README.md LICENSE ./
COPY .ci/swagger_ui.py .ci/
COPY envoy envoy
COPY reservation reservation
# The check fails if the pins lack what the service needs.
RUN pip wheel --no-build-isolation --wheel-dir dist . \
    && pip --python /opt/reservation install --no-index dist/*.whl \
    && pip --python /opt/reservation check

FROM python:${PYTHON}-slim-trixie
# Nothing is installed here any more, and what is not there needs no security updates. /edge is for a volume in which
# this user leaves Envoy's configuration.
RUN pip uninstall --yes --root-user-action=ignore setuptools wheel pip \
    && groupadd --gid 10001 reservation \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin reservation \
    && install --directory --owner=10001 --group=10001 /edge
COPY --from=build /opt/reservation /opt/reservation

# pip has compiled the bytecode, and the root may be read-only.
ENV PATH=/opt/reservation/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001:10001
EXPOSE 8010 8011
STOPSIGNAL SIGTERM
# Ready, not only alive. The small module instead of `reservation health`: this runs every 10 seconds.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --start-interval=1s --retries=3 \
    CMD ["sh", "-c", "exec python -m reservation.probe 127.0.0.1:${GRPC_SERVER_PORT:-8011}"]
ENTRYPOINT ["reservation"]
CMD ["serve"]

# Last, so that another commit alone makes no other layer.
ARG VERSION=dev
ARG COMMIT=unknown
ENV GIT_COMMIT=${COMMIT}
LABEL org.opencontainers.image.title="Traffic Tacos Reservation" \
    org.opencontainers.image.description="Ticket reservation service: exclusive seat holds, gRPC, DynamoDB, no oversell" \
    org.opencontainers.image.licenses="MIT" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${COMMIT}"
