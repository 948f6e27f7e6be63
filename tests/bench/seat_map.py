"""A large hall: how long its import takes, how long it takes to read its whole seat map, and what that does to the
others who are served by the same process."""

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import grpc
import uvloop
from grpc_health.v1 import health_pb2, health_pb2_grpc

from reservation.api.descriptors import wire_class
from reservation.gen.com.traffic_tacos.reservation import v1 as messages
from reservation.ministack import Ministack
from tests.bench import processes
from tests.bench.figures import Figure, failed, figure, percentile
from tests.support.command import environment_of
from tests.support.system import PACKAGE, make_tables, own_settings

_ROWS, _ROW, _PAGE = 1_000, 50, 500
_EVENT = "evt_large"
_LAG_LIMIT_MS = 10.0


def measure(rounds: int = 5) -> dict[str, Figure]:
    """50,000 seats. `import_50k_s`: one `reservation events import`. `seatmap_50k_ms`: all pages, one after the other,
    over gRPC; beside it how long a health check of the same process took meanwhile, less than what it takes at rest."""
    with Ministack() as emulator, tempfile.TemporaryDirectory() as folder:
        settings = own_settings(emulator.url)
        uvloop.run(make_tables(settings))
        environment = environment_of(settings)
        seconds = _import(environment, Path(folder, "large.csv"))
        walks, lags = uvloop.run(_read(environment, rounds))
    lag = percentile(lags, 99)
    seat_map = figure(walks, "ms", seats=_ROWS * _ROW, lag_p99_ms=round(lag, 1), lag_max_ms=round(max(lags), 1))
    if lag > _LAG_LIMIT_MS:
        seat_map = failed(seat_map, f"others waited {lag:.0f} ms")
    return {"import_50k_s": figure([seconds], "s", seats=_ROWS * _ROW), "seatmap_50k_ms": seat_map}


def _import(environment: dict[str, str], file: Path) -> float:
    lines = (f"Floor,{row},{number},120000,KRW" for row in range(_ROWS) for number in range(_ROW))
    file.write_text("section,row,number,price,currency\n" + "\n".join(lines) + "\n")
    command = [sys.executable, "-m", "reservation", "events", "import", str(file), "--event", _EVENT]
    began = time.monotonic()
    subprocess.run(command, cwd=processes.ROOT, env=os.environ | environment, check=True, capture_output=True)
    return time.monotonic() - began


async def _read(environment: dict[str, str], rounds: int) -> tuple[list[float], list[float]]:
    """Milliseconds of each walk over all pages, and of each health check meanwhile less the median at rest."""
    async with processes.killable(environment, 1) as (service,), grpc.aio.insecure_channel(service.address) as channel:
        await _walk(channel)
        at_rest = await _checks(channel, asyncio.create_task(asyncio.sleep(2)))
        walks: list[float] = []
        checks: list[float] = []
        for _ in range(rounds):
            walk = asyncio.create_task(_walk(channel))
            checks += await _checks(channel, walk)
            walks.append(walk.result())
    floor = percentile(at_rest, 50)
    return walks, [max(0.0, each - floor) for each in checks]


async def _walk(channel: grpc.aio.Channel) -> float:
    call = channel.unary_unary(
        f"/{PACKAGE}.InventoryService/ListSeats",
        messages.ListSeatsRequest.SerializeToString,
        wire_class("ListSeatsResponse").FromString,  # what takes long here would look like a lag there
    )
    token, seen = "", 0
    began = time.monotonic()
    while token or not seen:
        page = await call(messages.ListSeatsRequest(event_id=_EVENT, page_size=_PAGE, page_token=token))
        seen += len(page.seats)
        token = page.next_page_token
    assert seen == _ROWS * _ROW
    return (time.monotonic() - began) * 1000


async def _checks(channel: grpc.aio.Channel, while_: "asyncio.Task[object]") -> list[float]:
    """Milliseconds of health checks, one after the other, until the task ends."""
    stub = health_pb2_grpc.HealthStub(channel)
    taken: list[float] = []
    while not while_.done():
        began = time.monotonic()
        await stub.Check(health_pb2.HealthCheckRequest(service="liveness"))
        taken.append((time.monotonic() - began) * 1000)
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(while_), 0.005)
    return taken
