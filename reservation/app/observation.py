"""How this process is seen: its name, metrics, traces and lines."""

import os
import re
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING

from reservation.api.outcomes import Outcomes
from reservation.app.errors import StartError
from reservation.domain.model import Reservation
from reservation.settings import Settings
from reservation.telemetry import exposition
from reservation.telemetry.logs import pseudonyms
from reservation.telemetry.metrics import Metrics
from reservation.telemetry.untraced import NoTraces

if TYPE_CHECKING:
    from reservation.telemetry.traces import Traces


@dataclass(frozen=True, slots=True)
class Telemetry:
    """What is told of this process, and the name by which it is told of and known in the leases table."""

    worker_id: str
    metrics: Metrics
    traces: "Traces | NoTraces"
    outcomes: Outcomes

    def moved(self, before: Reservation | None, after: Reservation) -> None:
        self.metrics.moved(before.status.value if before is not None else None, after.status.value)


def telemetry_of(settings: Settings) -> Telemetry:
    worker_id, metrics = new_worker_id(), Metrics()
    outcomes = Outcomes(
        metrics,
        pseudonym=pseudonyms(settings.log_user_key.get_secret_value()),
        lines_per_second=settings.log_access_per_second,
    )
    return Telemetry(worker_id, metrics, _traces_of(settings, worker_id), outcomes)


def _traces_of(settings: Settings, worker_id: str) -> "Traces | NoTraces":
    if settings.otel_exporter_otlp_endpoint is None:
        return NoTraces()
    from reservation.telemetry.traces import Traces  # who traces nothing does not wait for it: see telemetry.untraced

    return Traces(
        settings.otel_exporter_otlp_endpoint,
        settings.otel_traces_sampler_arg,
        version=version(),
        instance=worker_id,
    )


@asynccontextmanager
async def exposing(settings: Settings, telemetry: Telemetry) -> AsyncIterator[int]:
    """The port that metrics are told on inside the block. Raises StartError."""
    info = {"version": version(), "commit": settings.git_commit}
    async with AsyncExitStack() as closing:
        try:
            serving = exposition.serving(telemetry.metrics.registry, info, port=settings.metrics_port)
            port = await closing.enter_async_context(serving)
        except OSError as error:
            raise StartError(f"cannot listen on port {settings.metrics_port} (METRICS_PORT): {error}") from error
        yield port


def version() -> str:
    try:
        return metadata.version("traffic-tacos-reservation")
    except metadata.PackageNotFoundError:
        return "unknown"  # it runs from a folder


def new_worker_id() -> str:
    """Says which process it is: host-pid-chance. One that starts again in a container has the host and pid it had."""
    host = re.sub("[^A-Za-z0-9]+", "-", socket.gethostname().partition(".")[0])
    return f"{host[:63]}-{os.getpid()}-{os.urandom(4).hex()}"
