"""Goodput and latency at three times the capacity, through Envoy, beside the peak and the normal load of the same run.

The service is `reservation serve` over a sink that answers every call of the store after `_STORE_MS`, with Envoy (one
thread) before it and its default limits on concurrency; the limits on rates are out of the way, because all load comes
from one address and one user. Each round measures the peak (as many under way as suffice to keep the service busy, and
no more than Envoy lets through), the normal load at 70 % of it, and then three times the peak, whatever is answered.
Every tenth request is a confirm, at each load.

Everything shares the cores of the machine, so the load generator does as little as it can; what CPU it took at three
times the capacity stands in the figure, per request.
"""

from contextlib import ExitStack

import uvloop

from reservation.edge import EdgeConfig, running
from reservation.ministack import free_port
from reservation.settings import Settings
from tests.bench import processes
from tests.bench.figures import Figure, failed, figure
from tests.bench.generator import Generator, offering
from tests.bench.offer import Offer, Offered

_STORE_MS = 10
_IN_FLIGHT = 40
_NORMAL, _OVERLOAD = 0.7, 3.0
_SECONDS = 4.0
_UNLIMITED = 1_000_000


def measure(rounds: int = 5) -> dict[str, Figure]:
    with ExitStack() as stack:
        _, sink_port = stack.enter_context(processes.printing_its_port("tests.bench.sink", "0", str(_STORE_MS)))
        port = free_port("127.0.0.1")
        settings = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{sink_port}",
            "GRPC_SERVER_PORT": str(port),
        } | processes.ONE_USER_WITHOUT_LIMIT
        stack.enter_context(processes.service(settings))
        return uvloop.run(_measure(port, rounds))


async def _measure(port: int, rounds: int) -> dict[str, Figure]:
    config = EdgeConfig(
        port=0,
        admin_port=0,
        grpc_ports=(port,),
        rate_per_second=_UNLIMITED,
        rate_burst=_UNLIMITED,
        max_concurrent_rpcs=Settings().max_concurrent_rpcs,
    )
    async with running(config) as edge, offering(edge.url) as generator:
        await processes.answers(f"127.0.0.1:{port}")
        await generator.make(Offer(2, in_flight=_IN_FLIGHT))
        return _figures([await _round(generator) for _ in range(rounds)])


async def _round(generator: Generator) -> tuple[Offered, Offered, Offered]:
    peak = await generator.make(Offer(_SECONDS, in_flight=_IN_FLIGHT))
    capacity = peak.count("", accepted=True) / peak.seconds
    normal = await generator.make(Offer(_SECONDS, rate=_NORMAL * capacity))
    return peak, normal, await generator.make(Offer(_SECONDS, rate=_OVERLOAD * capacity))


def _figures(rounds: list[tuple[Offered, Offered, Offered]]) -> dict[str, Figure]:
    peaks, normals, overloads = zip(*rounds, strict=True)
    goodput = figure(
        [_goodput(overload) / _goodput(peak) for peak, overload in zip(peaks, overloads, strict=True)],
        "of peak",
        peak_per_s=_middle([_goodput(each) for each in peaks]),
        offered_of_peak=_middle([_offered(over) / _goodput(peak) for peak, over in zip(peaks, overloads, strict=True)]),
        creates_rejected=sum(each.count("create", accepted=False) for each in overloads),
        confirms_rejected=sum(each.count("confirm", accepted=False) for each in overloads),
        confirms_accepted=sum(each.count("confirm", accepted=True) for each in overloads),
        answers=_sum([each.answers for each in overloads]),
        generator_cpu_us=_middle([each.cpu_seconds * 1e6 / sum(each.answers.values()) for each in overloads]),
    )
    latency = figure(
        [overload.p99_ms / normal.p99_ms for normal, overload in zip(normals, overloads, strict=True)],
        "x normal",
        normal_rejected=sum(each.count("", accepted=False) for each in normals),
        normal_p99_ms=_middle([each.p99_ms for each in normals]),
        normal_median_ms=_middle([each.median_ms for each in normals]),
        overload_p99_ms=_middle([each.p99_ms for each in overloads]),
        overload_median_ms=_middle([each.median_ms for each in overloads]),
    )
    problems = []
    if goodput["confirms_rejected"]:
        problems.append(f"{goodput['confirms_rejected']} confirms were rejected while creates passed")
    if goodput["offered_of_peak"] < 0.9 * _OVERLOAD:
        problems.append(f"only {goodput['offered_of_peak']} times the peak was offered")
    told = {"overload_goodput": goodput, "overload_p99": latency}
    return {name: failed(each, *problems) for name, each in told.items()} if problems else told


def _goodput(offered: Offered) -> float:
    return offered.count("", accepted=True) / offered.seconds


def _offered(offered: Offered) -> float:
    return sum(offered.answers.values()) / offered.seconds


def _middle(values: list[float]) -> float:
    return round(sorted(values)[len(values) // 2], 2)


def _sum(counts: list[dict[str, int]]) -> dict[str, int]:
    return {answer: sum(each.get(answer, 0) for each in counts) for answer in sorted({a for c in counts for a in c})}
