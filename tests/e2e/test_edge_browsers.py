"""What the edge tells browsers: which pages may call it, and what they may do with an answer."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from tests.support.edge import (
    SECURITY_HEADERS,
    EdgeOverStub,
    check_error,
    check_nothing_internal,
    edge_over,
)
from tests.support.stub_service import PACKAGE, stub_service

pytestmark = pytest.mark.asyncio(loop_scope="module")

OWN, OTHER_OWN = "https://tacos.example", "http://localhost:3000"
STRANGERS = ["https://tacos.example.evil.example", "https://evil.example", "http://tacos.example", "null"]
CREATE = f"/{PACKAGE}.ReservationService/CreateReservation"
ALLOWED = "access-control-allow-origin"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world() -> AsyncIterator[EdgeOverStub]:
    async with stub_service() as stub, edge_over(stub.port, cors_origins=(OWN, OTHER_OWN)) as edge:
        yield EdgeOverStub(edge, stub)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def http(world: EdgeOverStub) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=world.edge.url, timeout=10) as client:
        yield client


# Which pages


@pytest.mark.parametrize("path", ["/v1/reservations", CREATE])
async def test_a_page_of_an_allowed_origin_may_ask_and_read(http: httpx.AsyncClient, path: str) -> None:
    for origin in (OWN, OTHER_OWN):
        asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        preflight = await http.options(path, headers=asked)
        assert (preflight.status_code, preflight.headers[ALLOWED]) == (200, origin)
        allowed = preflight.headers["access-control-allow-headers"].split(", ")
        assert {"authorization", "idempotency-key", "content-type", "x-grpc-web"} <= set(allowed)
        assert "access-control-allow-credentials" not in preflight.headers
    rest = await http.post("/v1/reservations", json={"userId": "replayed"}, headers={"Origin": OWN})
    grpc_web = {"content-type": "application/grpc-web+proto", "x-grpc-web": "1", "Origin": OWN}
    for answer in (rest, await http.post(CREATE, content=bytes(5), headers=grpc_web)):
        assert answer.headers[ALLOWED] == OWN
        assert "idempotent-replayed" in answer.headers["access-control-expose-headers"]


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [("/v1/nothing", 404, "NOT_FOUND"), ("/v1/reservations/rsv_1?nope=1", 400, "INVALID_REQUEST")],
)
async def test_a_page_may_read_why_the_edge_refused_it(
    http: httpx.AsyncClient, path: str, status: int, code: str
) -> None:
    answer = await http.get(path, headers={"Origin": OWN})
    check_error(answer, status, code, path.partition("?")[0])
    assert answer.headers[ALLOWED] == OWN


@pytest.mark.parametrize("origin", STRANGERS)
async def test_a_page_of_another_origin_may_neither_ask_nor_read(http: httpx.AsyncClient, origin: str) -> None:
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    for path in ("/v1/reservations", CREATE):
        preflight = await http.options(path, headers=asked)
        assert [name for name in preflight.headers if name.startswith("access-control-")] == []
    answer = await http.post("/v1/reservations", json={}, headers={"Origin": origin})
    assert [name for name in answer.headers if name.startswith("access-control-")] == []


async def test_every_origin_may_if_the_setting_is_a_star() -> None:
    async with (
        stub_service() as stub,
        edge_over(stub.port, cors_origins=("*",)) as edge,
        httpx.AsyncClient(base_url=edge.url) as client,
    ):
        answer = await client.post("/v1/reservations", json={}, headers={"Origin": STRANGERS[0]})
    assert answer.headers[ALLOWED] in (STRANGERS[0], "*")
    assert "access-control-allow-credentials" not in answer.headers


# What with


@pytest.mark.parametrize(
    "path", ["/v1/reservations/rsv_1", "/v1/events/e/seats", "/health", "/actuator/health/nothing"]
)
async def test_every_answer_is_for_its_reader_alone(http: httpx.AsyncClient, path: str) -> None:
    check_nothing_internal(await http.get(path))


@pytest.mark.parametrize("user", ["refused", "refused-late", "plain:INTERNAL", "plain:RESOURCE_EXHAUSTED", "raises"])
async def test_so_is_a_refusal(http: httpx.AsyncClient, user: str) -> None:
    answer = await http.post("/v1/reservations", json={"userId": user})
    assert answer.status_code >= 400
    check_nothing_internal(answer)


async def test_so_is_a_watch(world: EdgeOverStub, http: httpx.AsyncClient) -> None:
    world.stub.may_go_on.set()
    check_nothing_internal(await http.get("/v1/reservations/rsv_1/watch"))


@pytest.mark.parametrize("request_text", [b"NOT HTTP\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 70_000])
async def test_so_is_an_answer_to_what_is_no_http(world: EdgeOverStub, request_text: bytes) -> None:
    host, _, port = world.target.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request_text)
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    writer.close()
    for name, values in SECURITY_HEADERS.items():
        assert all(f"\r\n{name}: {value}\r\n" in head for value in values), head
    assert "\r\nserver:" not in head


async def test_what_an_answer_says_of_itself_stays(http: httpx.AsyncClient) -> None:
    answer = await http.get("/v3/api-docs")
    assert answer.headers.get_list("cache-control") == ["max-age=60"]
