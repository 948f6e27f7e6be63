"""How long creates take at a quarter, a half, three quarters and nine tenths of what a process can do.

The service is `reservation serve`, which verifies tokens; the store is a sink that answers after `_STORE_MS`, as
DynamoDB does. Each round first measures the capacity, as many under way as keep the service busy, and then each load:
requests arrive by chance, whatever becomes of those before, and a latency counts from when its request was due. With
two cores or more, the service has one of its own and all others share another. Each token comes twice.

The curves are drawn to `latency.png` beside this file.
"""

import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import uvloop
from prometheus_client.parser import text_string_to_metric_families

from reservation.ministack import free_ports
from tests.bench import processes
from tests.bench.callers import Callers, Load, Made, callers
from tests.bench.figures import Figure, failed, figure, middle, percentile
from tests.bench.sink import USER
from tests.support.key_server import KeyServer, SigningKey, key_server

_STORE_MS = 3
_SECONDS = 5.0
_IN_FLIGHT = 32
_WARM_UP = 2000
_PEAK = 3000
_LOADS = (25, 50, 75, 90)
_TOLD = 75
_PERCENTILES = (50, 95, 99)
_PLOT = Path(__file__).with_name("latency.png")

Lags = dict[float, float]
"""How many waits of the event loop ended at most so many seconds late."""


@dataclass(frozen=True, slots=True)
class _Round:
    """`made`: by the per cent of the capacity (a second). `lags`: at `_TOLD` of it."""

    capacity: float
    made: dict[int, Made]
    lags: Lags


@dataclass(frozen=True, slots=True)
class _Stage:
    issuer: KeyServer
    callers: Callers
    metrics_url: str

    async def make(self, requests: float, rate: float = 0) -> Made:
        signed = [self.issuer.token(USER) for _ in range(int(requests) // 2)]  # before the load, which it would slow
        return await self.callers.make(Load([token for each in signed for token in (each, each)], rate, _IN_FLIGHT))

    async def lags(self) -> Lags:
        async with httpx.AsyncClient() as client:
            text = (await client.get(self.metrics_url)).text
        return {
            float(sample.labels["le"]): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == "event_loop_lag_seconds_bucket"
        }


def measure(rounds: int = 5) -> dict[str, Figure]:
    with tempfile.TemporaryDirectory() as directory:
        done = uvloop.run(_measure(Path(directory), rounds))
    curves = {
        percent: [middle((percentile(each.made[load].latencies_ms, percent) for each in done), 2) for load in _LOADS]
        for percent in _PERCENTILES
    }
    _draw(curves, middle((each.capacity for each in done), 0))
    return _figures(done, curves)


async def _measure(directory: Path, rounds: int) -> list[_Round]:
    async with _stage(directory) as stage:
        await stage.make(_WARM_UP)
        return [await _round(stage) for _ in range(rounds)]


async def _round(stage: _Stage) -> _Round:
    peak = await stage.make(_PEAK)
    capacity = len(peak.latencies_ms) / peak.seconds
    made, lags = {}, dict[float, float]()
    for load in _LOADS:
        rate = capacity * load / 100
        before = await stage.lags()
        made[load] = await stage.make(rate * _SECONDS, rate)
        if load == _TOLD:
            lags = {le: value - before[le] for le, value in (await stage.lags()).items()}
    return _Round(capacity, made, lags)


@asynccontextmanager
async def _stage(directory: Path) -> AsyncIterator[_Stage]:
    port, metrics_port = free_ports("127.0.0.1", 2)
    async with key_server(directory, SigningKey.new("bench", "RS256")) as issuer, AsyncExitStack() as stack:
        with _on_core(1):
            sink = processes.printing_its_port("tests.bench.sink", "0", str(_STORE_MS))
            _, sink_port = stack.enter_context(sink)
            making = await stack.enter_async_context(callers(port))
        settings = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{sink_port}",
            "GRPC_SERVER_PORT": str(port),
            "METRICS_PORT": str(metrics_port),
            **issuer.environment(),
        }
        with _on_core(0):
            stack.enter_context(processes.service(settings | processes.ONE_USER_WITHOUT_LIMIT))
        await processes.answers(f"127.0.0.1:{port}")
        yield _Stage(issuer, making, f"http://127.0.0.1:{metrics_port}/metrics")


@contextmanager
def _on_core(number: int) -> Iterator[None]:
    """Processes that are started within run on one core alone, if this one may use two."""
    cores = os.sched_getaffinity(0)
    if len(cores) > 1:
        os.sched_setaffinity(0, {sorted(cores)[number]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def _figures(rounds: list[_Round], curves: dict[int, list[float]]) -> dict[str, Figure]:
    capacity = middle((each.capacity for each in rounds), 0)
    failures = sum(made.failed for each in rounds for made in each.made.values())
    figures = {
        f"latency_p{percent}_ms": figure(
            [percentile(each.made[_TOLD].latencies_ms, percent) for each in rounds],
            "ms",
            **{f"at_{load}_percent": value for load, value in zip(_LOADS, curve, strict=True)},
            capacity_per_s=capacity,
        )
        for percent, curve in curves.items()
    }
    figures["loop_lag_p99_ms"] = _lag(rounds)
    if failures:
        return {name: failed(each, f"{failures} requests failed") for name, each in figures.items()}
    return figures


def _lag(rounds: list[_Round]) -> Figure:
    """The bound of the bucket that it lies in: no finer is the service's own measure."""
    counts = {le: sum(each.lags[le] for each in rounds) for le in rounds[0].lags}
    waits = max(counts.values())

    def bound(percent: float) -> float:
        return 1000 * min(le for le, count in counts.items() if count >= waits * percent / 100)

    return figure([bound(99)], "ms at most", p50_ms=bound(50), waits=int(waits))


def _draw(curves: dict[int, list[float]], capacity: float) -> None:
    from matplotlib.figure import Figure as Drawing  # half a second, which the other benchmarks need not wait

    drawing = Drawing(figsize=(6.4, 3.6), layout="constrained")
    axes = drawing.subplots()
    for percent, curve in curves.items():
        axes.plot(_LOADS, curve, marker="o", label=f"p{percent}")
    axes.set(
        xlabel=f"load, % of {capacity:.0f} creates a second",
        ylabel="ms",
        title=f"One process, a store that takes {_STORE_MS} ms",
        xticks=_LOADS,
        ylim=(0, None),
    )
    axes.grid(alpha=0.3)
    axes.legend()
    drawing.savefig(_PLOT, dpi=90)
