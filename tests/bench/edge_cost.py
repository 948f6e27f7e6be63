"""CPU of Envoy per create over REST, at saturation: one worker thread, the whole configuration, nothing behind it.

Behind it are echoes that answer a ready-made create response, two of them, so that Envoy is what everybody waits for.
Rates and concurrency are limited as always, but never reached. How busy its thread was stands in the figure: an Envoy
that has time to spare takes more CPU for each request, because it reads fewer of them at a time.
"""

from contextlib import ExitStack

import uvloop

from reservation.api import convert
from reservation.edge import EdgeConfig, RunningEdge, running
from tests.bench import processes
from tests.bench.figures import Figure, failed, figure
from tests.bench.generator import Generator, offering
from tests.bench.offer import Offer
from tests.bench.sink import HELD

_ECHOES = 2
_IN_FLIGHT = 64
_SECONDS = 4.0
_UNLIMITED = 1_000_000


def measure(rounds: int = 5) -> dict[str, Figure]:
    answer = convert.created(HELD).hex()
    with ExitStack() as stack:
        echoes = [
            stack.enter_context(processes.printing_its_port("tests.bench.echo", "0", answer)) for _ in range(_ECHOES)
        ]
        return {"edge_cpu_ms": uvloop.run(_measure(tuple(port for _, port in echoes), rounds))}


async def _measure(ports: tuple[int, ...], rounds: int) -> Figure:
    config = EdgeConfig(
        port=0,
        admin_port=0,
        grpc_ports=ports,
        rate_per_second=_UNLIMITED,
        rate_burst=_UNLIMITED,
        max_concurrent_rpcs=4 * _IN_FLIGHT,
    )
    async with running(config, concurrency=1) as edge, offering(edge.url) as generator:
        await _round(edge, generator)
        return _figure([await _round(edge, generator) for _ in range(rounds)])


async def _round(edge: RunningEdge, generator: Generator) -> tuple[float, float, dict[str, int]]:
    """CPU in ms of a request, how busy the thread was, and the answers."""
    before = processes.cpu_seconds(edge.pid)
    offered = await generator.make(Offer(_SECONDS, in_flight=_IN_FLIGHT, confirm_every=0))
    spent = processes.cpu_seconds(edge.pid) - before
    return spent * 1000 / sum(offered.answers.values()), spent / offered.seconds, offered.answers


def _figure(rounds: list[tuple[float, float, dict[str, int]]]) -> Figure:
    costs, busy, answers = zip(*rounds, strict=True)
    told = figure(
        costs,
        "ms",
        thread_busy=round(sorted(busy)[len(busy) // 2], 2),
        requests=sum(sum(each.values()) for each in answers),
    )
    others = {answer for each in answers for answer in each} - {"create 201"}
    return failed(told, f"answers were {', '.join(sorted(others))}") if others else told
