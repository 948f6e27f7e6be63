"""CPU per request with two processes of the service behind Envoy, beside that with one, and how evenly they share.

Each process is `reservation serve` over a sink that answers at once. An Envoy knows the first process, another one
both; creates go through one and the other in turn, so many under way for each process. Counted is the CPU time of the
processes that the requests went to, with all that they do beside them. Which process took how many, Envoy says.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass

import httpx
import uvloop

from reservation.edge import EdgeConfig, RunningEdge, running
from reservation.ministack import free_port
from reservation.settings import Settings
from tests.bench import processes
from tests.bench.figures import Figure, failed, figure, middle
from tests.bench.generator import Generator, offering
from tests.bench.offer import Offer

_IN_FLIGHT = 32
_SECONDS = 4.0
_UNLIMITED = 1_000_000
_FAIR = (0.4, 0.6)


@dataclass(frozen=True, slots=True)
class _Service:
    pid: int
    port: int


@dataclass(frozen=True, slots=True)
class _Round:
    """CPU in ms of a request, and what part of the requests each process took."""

    cost: float
    shares: list[float]
    answers: dict[str, int]


def measure(rounds: int = 5) -> dict[str, Figure]:
    with ExitStack() as stack:
        _, sink_port = stack.enter_context(processes.printing_its_port("tests.bench.sink", "0"))
        sink = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{sink_port}"}
        services = [_service(stack, sink) for _ in range(2)]
        return {"process_scaling": uvloop.run(_measure(services, rounds))}


def _service(stack: ExitStack, sink: dict[str, str]) -> _Service:
    port = free_port("127.0.0.1")
    settings = sink | {"GRPC_SERVER_PORT": str(port)} | processes.ONE_USER_WITHOUT_LIMIT
    return _Service(stack.enter_context(processes.service(settings)), port)


async def _measure(services: list[_Service], rounds: int) -> Figure:
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(_before(services[:1]))
        two = await stack.enter_async_context(_before(services))
        for service in services:
            await processes.answers(f"127.0.0.1:{service.port}")
        await one.round()
        await two.round()
        ones, twos = zip(*[(await one.round(), await two.round()) for _ in range(rounds)], strict=True)
    return _figure(list(ones), list(twos))


def _figure(ones: list[_Round], twos: list[_Round]) -> Figure:
    shares = [share for each in twos for share in each.shares]
    told = figure(
        [two.cost / one.cost for one, two in zip(ones, twos, strict=True)],
        "x",
        one_ms=middle((each.cost for each in ones), 4),
        two_ms=middle((each.cost for each in twos), 4),
        shares=f"{min(shares):.1%} to {max(shares):.1%}",
        requests=sum(sum(each.answers.values()) for each in ones + twos),
    )
    problems = []
    if min(shares) < _FAIR[0] or max(shares) > _FAIR[1]:
        problems.append(f"a process took {max(shares):.0%} of a round's requests")
    if others := {answer for each in ones + twos for answer in each.answers} - {"create 201"}:
        problems.append(f"answers were {', '.join(sorted(others))}")
    return failed(told, *problems) if problems else told


class _Edge:
    """An Envoy with the processes behind it and the load before it."""

    def __init__(self, edge: RunningEdge, services: list[_Service], generator: Generator) -> None:
        self._edge = edge
        self._services = services
        self._generator = generator

    async def round(self) -> _Round:
        cpu, taken = self._cpu_seconds(), await self._taken()
        offer = Offer(_SECONDS, in_flight=_IN_FLIGHT * len(self._services), confirm_every=0)
        offered = await self._generator.make(offer)
        spent = self._cpu_seconds() - cpu
        parts = [after - before for before, after in zip(taken, await self._taken(), strict=True)]
        return _Round(spent * 1000 / sum(parts), [part / sum(parts) for part in parts], offered.answers)

    def _cpu_seconds(self) -> float:
        return sum(processes.cpu_seconds(service.pid) for service in self._services)

    async def _taken(self) -> list[int]:
        """Requests so far, of each process."""
        async with httpx.AsyncClient(base_url=self._edge.admin_url) as admin:
            told = (await admin.get("/clusters", params={"format": "json"})).json()
        (cluster,) = (each for each in told["cluster_statuses"] if each["name"] == "grpc_upstream")
        taken = {
            host["address"]["socket_address"]["port_value"]: next(
                int(stat.get("value", 0)) for stat in host["stats"] if stat["name"] == "rq_total"
            )
            for host in cluster["host_statuses"]
        }
        return [taken[service.port] for service in self._services]


@asynccontextmanager
async def _before(services: list[_Service]) -> AsyncIterator[_Edge]:
    config = EdgeConfig(
        port=0,
        admin_port=0,
        grpc_ports=tuple(service.port for service in services),
        rate_per_second=_UNLIMITED,
        rate_burst=_UNLIMITED,
        max_concurrent_rpcs=Settings().max_concurrent_rpcs,
    )
    async with running(config) as edge, offering(edge.url) as generator:
        yield _Edge(edge, services, generator)
