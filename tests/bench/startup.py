"""From the start of `reservation serve` until it says that it lives, and until it serves; and what CPU that took.

The service has the settings of a live one: it verifies tokens and asks their issuer for its keys; the store is a sink
that answers at once. Every other start has a collector of spans as well. Whoever waits for it tries to connect every
2 ms, in a process that does nothing else. On a busy machine CPU is the steadier figure.
"""

import asyncio
import tempfile
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import grpc
import uvloop
from grpc_health.v1 import health_pb2, health_pb2_grpc

from reservation.api.server import SERVING
from reservation.ministack import free_port
from tests.bench import processes
from tests.bench.figures import Figure, figure, middle
from tests.support.key_server import SigningKey, key_server
from tests.support.system import becomes, watch_health

_LOOK_EVERY_SECONDS = 0.002
_PATIENCE_SECONDS = 60.0

Settings = dict[str, str]


@dataclass(frozen=True, slots=True)
class _Start:
    """Seconds since the process was begun. `cpu`: what it had used by the time it served."""

    alive: float
    serving: float
    cpu: float


def measure(rounds: int = 5) -> dict[str, Figure]:
    with tempfile.TemporaryDirectory() as directory:
        return uvloop.run(_measure(Path(directory), rounds))


async def _measure(directory: Path, rounds: int) -> dict[str, Figure]:
    async with key_server(directory, SigningKey.new("bench", "RS256")) as issuer:
        with ExitStack() as stack:
            _, sink_port = stack.enter_context(processes.printing_its_port("tests.bench.sink", "0"))
            _, collector_port = stack.enter_context(processes.printing_its_port("tests.bench.spans"))
            settings = {
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{sink_port}",
                **issuer.environment(),
                "LINGER_SECONDS": "0",
            }
            traced = settings | {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector_port}"}
            await _start(traced)  # which compiles what was changed
            starts = [(await _start(settings), await _start(traced)) for _ in range(rounds)]
    without, with_traces = zip(*starts, strict=True)
    return {
        "startup_s": figure(
            [each.alive for each in without],
            "s",
            serving_s=middle(each.serving for each in without),
            cpu_s=middle(each.cpu for each in without),
            traced_s=middle(each.alive for each in with_traces),
            traced_cpu_s=middle(each.cpu for each in with_traces),
        )
    }


async def _start(settings: Settings) -> _Start:
    port = free_port("127.0.0.1")
    begun = time.monotonic()
    with processes.service(settings | {"GRPC_SERVER_PORT": str(port)}) as pid:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            await _listens(port)
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                request = health_pb2.HealthCheckRequest(service="liveness")
                await health_pb2_grpc.HealthStub(channel).Check(request, wait_for_ready=True)
                alive = time.monotonic() - begun
                await becomes(watch_health(channel, ""), SERVING)
                return _Start(alive, time.monotonic() - begun, processes.cpu_seconds(pid))


async def _listens(port: int) -> None:
    """gRPC's own waits between its tries would be in the figure."""
    while True:
        with suppress(ConnectionError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return
        await asyncio.sleep(_LOOK_EVERY_SECONDS)
