"""The health routes tell what the service says of itself, and DOWN when it can say nothing."""

import signal
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from tests.support.edge import TRACE_ID, TRACEPARENT, EdgeOverStub, check_error, edge_over, edge_over_stub, stub_process

pytestmark = pytest.mark.asyncio(loop_scope="module")
LIVENESS, READINESS = "/actuator/health/liveness", "/actuator/health/readiness"
OVERALL = ("/health", "/actuator/health")
EVERY_PATH = (*OVERALL, LIVENESS, READINESS)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world() -> AsyncIterator[EdgeOverStub]:
    async with edge_over_stub() as world:
        yield world


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["HTTP/1.1", "HTTP/2"])
async def client(world: EdgeOverStub, request: pytest.FixtureRequest) -> AsyncIterator[httpx.AsyncClient]:
    http2 = request.param == "HTTP/2"
    async with httpx.AsyncClient(
        base_url=world.edge.url, headers=TRACEPARENT, http1=not http2, http2=http2, timeout=10
    ) as client:
        yield client


@pytest.mark.parametrize(
    ("not_serving", "down"),
    [
        ((), ()),
        (("readiness",), (READINESS,)),
        (("", "readiness"), (*OVERALL, READINESS)),
        (("", "liveness", "readiness"), EVERY_PATH),
    ],
)
async def test_each_route_tells_the_state_of_its_own_service(
    world: EdgeOverStub, client: httpx.AsyncClient, not_serving: tuple[str, ...], down: tuple[str, ...]
) -> None:
    for service in ("", "liveness", "readiness"):
        await world.stub.set_health(service, serving=service not in not_serving)
    for path in EVERY_PATH:
        await _expect(client, path, up=path not in down)


async def test_a_query_is_ignored_so_a_cache_buster_is_no_outage(
    world: EdgeOverStub, client: httpx.AsyncClient
) -> None:
    await world.stub.set_health("", serving=True)
    await _expect(client, "/health?ts=1767225600", up=True)


async def test_a_service_name_without_state_is_down(client: httpx.AsyncClient) -> None:
    await _expect(client, "/actuator/health/readiness?service=unheard-of", up=False)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
async def test_another_method_is_an_unknown_route_and_no_outage(client: httpx.AsyncClient, method: str) -> None:
    check_error(await client.request(method, "/health"), 404, "NOT_FOUND", "/health", TRACE_ID)


async def test_a_frozen_service_and_a_killed_one_are_down() -> None:
    async with (
        stub_process() as (process, port),
        edge_over(port) as edge,
        httpx.AsyncClient(base_url=edge.url, timeout=10) as client,
    ):
        for path in EVERY_PATH:
            await _expect(client, path, up=True)
        process.send_signal(signal.SIGSTOP)
        await _expect(client, LIVENESS, up=False)
        process.kill()
        await process.wait()
        for path in EVERY_PATH:
            await _expect(client, path, up=False)


async def _expect(client: httpx.AsyncClient, path: str, *, up: bool) -> None:
    answer = await client.get(path)
    assert (answer.status_code, answer.json()) == ((200, {"status": "UP"}) if up else (503, {"status": "DOWN"})), path
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    assert not [name for name in answer.headers if name.startswith("grpc-")]
