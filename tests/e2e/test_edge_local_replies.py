"""What Envoy answers by itself wears the same error envelope as the service's own errors."""

import asyncio
import json
import re
import signal
from collections.abc import AsyncIterator
from typing import Any

import grpc
import httpx
import pytest
import pytest_asyncio

from tests.support.edge import (
    TRACE_ID,
    TRACEPARENT,
    EdgeOverStub,
    check_error,
    edge_over,
    edge_over_stub,
    stub_process,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")
BODY_LIMIT = 65_536


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world() -> AsyncIterator[EdgeOverStub]:
    async with edge_over_stub() as world:
        yield world


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["HTTP/1.1", "HTTP/2"])
async def rest(world: EdgeOverStub, request: pytest.FixtureRequest) -> AsyncIterator[httpx.AsyncClient]:
    http2 = request.param == "HTTP/2"
    async with httpx.AsyncClient(
        base_url=world.edge.url, headers=TRACEPARENT, http1=not http2, http2=http2, timeout=10
    ) as client:
        yield client


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/reservations", '{"eventId": "evt_1", '),
        ("POST", "/v1/reservations", "not JSON"),
        ("POST", "/v1/reservations", "[]"),
        ("POST", "/v1/reservations", '{"quantity": "many"}'),
        ("POST", "/v1/reservations", '{"quantity": 2147483648}'),
        ("POST", "/v1/reservations", '{"eventId": 7}'),
        ("POST", "/v1/reservations", '{"eventId": "\ud800"}'.encode("utf-8", "surrogatepass")),
        ("GET", "/v1/reservations/rsv_1?nope=1", None),
        ("GET", "/v1/reservations?status=hold", None),
        ("GET", "/v1/reservations?pageSize=many", None),
    ],
)
async def test_a_request_that_cannot_be_understood_is_400(
    rest: httpx.AsyncClient, method: str, path: str, body: str | bytes | None
) -> None:
    answer = await rest.request(method, path, content=body)
    error = check_error(answer, 400, "INVALID_REQUEST", path.partition("?")[0], TRACE_ID)
    assert error["message"] == "Malformed request body or parameters"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/v1/nothing"),
        ("GET", "/v2/reservations"),
        ("PUT", "/v1/reservations"),
        ("DELETE", "/v1/reservations/rsv_1"),
        ("POST", "/v1/reservations/rsv_1/watch"),
        ("POST", "/com.traffic_tacos.reservation.v1.ReservationService/CreateReservation"),
        ("GET", "/actuator/health/nothing"),
        ("OPTIONS", "/v1/reservations"),
    ],
)
async def test_an_unknown_route_or_method_is_404(rest: httpx.AsyncClient, method: str, path: str) -> None:
    answer = await rest.request(method, path, json={} if method == "POST" else None)
    check_error(answer, 404, "NOT_FOUND", path, TRACE_ID)


@pytest.mark.parametrize("pieces", [1, 8], ids=["whole", "in pieces"])
async def test_a_body_over_64_kib_is_413_and_one_of_64_kib_is_read(
    world: EdgeOverStub, rest: httpx.AsyncClient, pieces: int
) -> None:
    """In pieces it comes without a length, and is small at every moment: only the sum is too much."""
    fits = b'{"eventId":"' + b"e" * (BODY_LIMIT - 14) + b'"}'
    assert (await rest.post("/v1/reservations", content=_in_pieces(fits, pieces))).status_code == 201
    assert len(world.stub.decoded[-1].request.event_id) == BODY_LIMIT - 14
    answer = await rest.post("/v1/reservations", content=_in_pieces(fits + b" ", pieces))
    check_error(answer, 413, "PAYLOAD_TOO_LARGE", "/v1/reservations", TRACE_ID)


async def test_without_a_traceparent_the_trace_is_a_new_one(world: EdgeOverStub) -> None:
    async with httpx.AsyncClient(base_url=world.edge.url) as client:
        errors = [check_error(await client.get("/v1/nothing"), 404, "NOT_FOUND", "/v1/nothing") for _ in range(2)]
    first, second = (error["traceId"] for error in errors)
    assert re.fullmatch("[0-9a-f]{32}", first)
    assert first != second


@pytest.mark.parametrize(
    ("request_text", "status"),
    [
        (b"NOT HTTP\r\n\r\n", 400),
        (b"GET /v1/reservations/rsv_1 HTTP/1.1\r\nHost: x\r\nX-Large: " + b"x" * 70_000 + b"\r\n\r\n", 431),
    ],
)
async def test_broken_http_is_an_envelope_without_path(world: EdgeOverStub, request_text: bytes, status: int) -> None:
    head, body = await _raw_exchange(world.target, request_text)
    assert head.startswith(f"HTTP/1.1 {status} ".encode())
    error = json.loads(body)["error"]
    assert (error["code"], error["path"], error["traceId"]) == ("INVALID_REQUEST", "", "")


async def test_an_escaped_slash_and_an_underscore_in_a_header_name_are_refused(world: EdgeOverStub) -> None:
    """Servers differ in how they read these; what may be read in two ways goes no further."""
    async with httpx.AsyncClient(base_url=world.edge.url, headers=TRACEPARENT) as client:
        slash = await client.get("/v1/reservations/a%2Fb")
        underscore = await client.get("/v1/reservations/rsv_1", headers={"x_edge": "0"})
    check_error(slash, 400, "INVALID_REQUEST", "/v1/reservations/a/b", TRACE_ID)
    assert (underscore.status_code, underscore.json()["error"]["code"]) == (400, "INVALID_REQUEST")


async def test_a_service_that_is_down_is_503_and_unavailable(deaf_port: int) -> None:
    async with edge_over(deaf_port) as edge:
        async with httpx.AsyncClient(base_url=edge.url, headers=TRACEPARENT) as rest:
            answer = await rest.post("/v1/reservations", json={})
        check_error(answer, 503, "SERVICE_UNAVAILABLE", "/v1/reservations", TRACE_ID)
        async with grpc.aio.insecure_channel(edge.url.removeprefix("http://")) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await _create(channel)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "{" not in refused.value.details(), "a gRPC client was shown JSON"


async def test_a_frozen_service_is_504_and_a_killed_one_503() -> None:
    async with (
        stub_process() as (process, port),
        edge_over(port) as edge,
        httpx.AsyncClient(base_url=edge.url, headers=TRACEPARENT, timeout=10) as rest,
    ):
        assert (await rest.post("/v1/reservations", json={})).status_code == 201
        process.send_signal(signal.SIGSTOP)
        frozen = await rest.post("/v1/reservations", json={})
        check_error(frozen, 504, "UPSTREAM_TIMEOUT", "/v1/reservations", TRACE_ID)
        process.kill()
        await process.wait()
        killed = await rest.post("/v1/reservations", json={})
        check_error(killed, 503, "SERVICE_UNAVAILABLE", "/v1/reservations", TRACE_ID)


async def _in_pieces(body: bytes, pieces: int) -> AsyncIterator[bytes]:
    size = -(-len(body) // pieces)
    for start in range(0, len(body), size):
        yield body[start : start + size]
        await asyncio.sleep(0)  # lets the piece go out alone


async def _raw_exchange(target: str, request_text: bytes) -> tuple[bytes, bytes]:
    host, _, port = target.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(request_text)
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split()[0])
        return head, await reader.readexactly(length)
    finally:
        writer.close()


def _create(channel: grpc.aio.Channel) -> Any:
    return channel.unary_unary("/com.traffic_tacos.reservation.v1.ReservationService/CreateReservation")(b"")
