"""Asks a running service how it is: `python -m reservation.probe [HOST:PORT [NAME]]`, exit code 0 if it is well.

It imports next to nothing of ours, on purpose: a container's health check starts it every few seconds, and the whole
command line would cost it eight times the CPU.
"""

import os
import sys
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

SERVING = "SERVING"
SECONDS = 2.0


def state(address: str, name: str = "readiness") -> str:
    """What the service at `address` (host:port) says of "readiness" or "liveness": SERVING, NOT_SERVING; or why there
    was no such answer within 2 seconds. Blocks. By TLS if Envoy would ask it so: with what EDGE_UPSTREAM_... say.

    Raises OSError if one of those files cannot be read.
    """
    with _channel(address) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=name), timeout=SECONDS
            )
        except grpc.RpcError as error:
            return f"{error.code().name}: {error.details()}"
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def _channel(address: str) -> grpc.Channel:
    # A proxy that is set for the way out is none on the way to ourselves.
    options: list[tuple[str, int | str]] = [("grpc.enable_http_proxy", 0)]
    authorities, key, certificate = (_content(f"EDGE_UPSTREAM_{kind}_FILE") for kind in ("CA", "KEY", "CERT"))
    if authorities is None:
        return grpc.insecure_channel(address, options=options)
    name = os.environ.get("EDGE_UPSTREAM_SERVER_NAME") or "localhost"
    options.append(("grpc.ssl_target_name_override", name))
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(authorities, key, certificate), options)


def _content(variable: str) -> bytes | None:
    path = os.environ.get(variable)
    return Path(path).read_bytes() if path else None


if __name__ == "__main__":
    found = state(*(sys.argv[1:] or ["127.0.0.1:8011"]))
    sys.stdout.write(f"{found}\n")
    sys.exit(found != SERVING)
