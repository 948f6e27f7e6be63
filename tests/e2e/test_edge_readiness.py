"""Several processes behind one Envoy, some of which are not ready, or gone."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx
import pytest
import pytest_asyncio

from reservation.edge import RunningEdge
from tests.support.edge import edge_over, stats, stub_process
from tests.support.stub_service import StubService, stub_service

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass(frozen=True, slots=True)
class _World:
    stubs: tuple[StubService, StubService]
    edge: RunningEdge
    client: httpx.AsyncClient

    async def creates(self, count: int) -> list[int]:
        """So many creates, which must succeed; how many each process got."""
        before = [len(stub.calls("CreateReservation")) for stub in self.stubs]
        for _ in range(count):
            assert (await self.client.post("/v1/reservations", json={})).status_code == 201
        return [len(stub.calls("CreateReservation")) - had for stub, had in zip(self.stubs, before, strict=True)]

    async def set_ready(self, *ready: bool) -> None:
        """Returns when Envoy knows it."""
        for stub, serving in zip(self.stubs, ready, strict=True):
            await stub.set_health("readiness", serving=serving)
        await _until_ready(self.edge, sum(ready))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world() -> AsyncIterator[_World]:
    async with (
        stub_service() as one,
        stub_service() as other,
        edge_over(one.port, other.port) as edge,
        httpx.AsyncClient(base_url=edge.url, timeout=10) as client,
    ):
        await _until_ready(edge, 2)
        yield _World((one, other), edge, client)


async def test_a_process_that_is_not_ready_gets_no_request_until_it_is(world: _World) -> None:
    await world.set_ready(True, False)
    assert await world.creates(20) == [20, 0]
    await world.set_ready(True, True)
    assert min(await world.creates(40)) > 0


async def test_while_no_process_is_ready_all_of_them_are_asked(world: _World) -> None:
    """They know better than Envoy what they can still answer."""
    await world.set_ready(False, False)
    assert min(await world.creates(40)) > 0


async def test_requests_for_a_process_that_is_gone_go_to_another_before_envoy_knows() -> None:
    async with (
        stub_service() as stub,
        stub_process() as (process, port),
        edge_over(stub.port, port) as edge,
        httpx.AsyncClient(base_url=edge.url, timeout=10) as client,
    ):
        await _until_ready(edge, 2)
        process.kill()
        await process.wait()
        for _ in range(20):
            assert (await client.post("/v1/reservations", json={})).status_code == 201


async def _until_ready(edge: RunningEdge, count: int) -> None:
    """Waits until Envoy takes so many processes for ready, for streams too."""
    async with asyncio.timeout(30):
        while set((await stats(edge, r"grpc_.*membership_healthy$")).values()) != {count}:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
