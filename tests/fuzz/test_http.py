"""Requests that are hardly HTTP, over bare connections to the real edge: every answer wears the envelope, and one
request never becomes two."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from tests.support.fuzz import examples
from tests.support.system import edge_of, own_settings, selling

pytestmark = pytest.mark.asyncio(loop_scope="module")

SMUGGLED = "/v1/reservations/smuggled"
SILENCE_SECONDS = 0.3
PATIENCE_SECONDS = 10

_METHODS = (
    b"GET", b"POST", b"PUT", b"DELETE", b"PATCH", b"HEAD", b"OPTIONS", b"TRACE", b"CONNECT", b"PRI", b"get", b"G T",
    b"X" * 300, b"",
)  # fmt: skip
_TARGETS = (
    b"/v1/reservations", b"/v1/reservations/rsv_1", b"/v1/reservations/confirm", b"/v1/events/evt_2025_1001/seats",
    b"/v1/reservations/rsv_1/watch", b"/health", b"/actuator/health/readiness", b"/v3/api-docs", b"/", b"*", b"",
    b"//", b"/%", b"/v1/../v1/reservations", b"/v1//reservations", b"/v1/reservations/..%2f..%2fadmin",
    b"/v1/reservations/%2e%2e/x", b"/v1/reservations/%00", b"/v1/reservations/%ff", b"/v1/reservations/\xff\xfe",
    b"/v1/reservations/%zz", b"/v1/reservations/a%20b", b"/v1/reservations?pageSize=%",
    b"/v1/reservations?pageSize=1&pageSize=2", b"/v1/reservations?status=HOLD%00", b"/v1/reservations?",
    b"/v1/reservations;x=1", b"/v1/reservations#x", b"/v1/reservations/" + b"x" * 9000,
    b"http://elsewhere/v1/reservations", b"/com.traffic_tacos.reservation.v1.ReservationService/CreateReservation",
    b"/grpc.health.v1.Health/Check", b"/stats", b"/quitquitquit", b"/v1/reservations\\x", b"/V1/RESERVATIONS",
    b"/v1/reservations/rsv_1/watch?userId=%22", b"/grpc.reflection.v1alpha.ServerReflection/x",
)  # fmt: skip
_VERSIONS = (*[b"HTTP/1.1"] * 6, b"HTTP/1.0", b"HTTP/0.9", b"HTTP/2.0", b"HTTP/1.1 ", b"")
_HEADERS = (
    b"Content-Type: application/json", b"Content-Type: text/xml", b"Content-Type: application/grpc",
    b"Content-Type: application/grpc-web+proto", b"Content-Type: application/json; charset=utf-16", b"Content-Type:",
    b"Content-Type: application/json\r\nContent-Type: text/plain", b"Content-Length: 5", b"Content-Length: 0",
    b"Content-Length: -1", b"Content-Length: 99999999999999999999", b"Content-Length: +3", b"Content-Length: 3, 3",
    b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity", b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding: \x0bchunked", b"Transfer-Encoding : chunked", b"Expect: 100-continue", b"Expect: x",
    b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAAP__",
    b"Upgrade: websocket\r\nConnection: Upgrade", b"Idempotency-Key: a\r\nIdempotency-Key: b",
    b"Idempotency-Key: \xff\xfe", b'Idempotency-Key: "', b"Idempotency-Key: \x01", b"Idempotency-Key: " + b"k" * 9000,
    b"x-envoy-original-path: /admin", b"x-edge: 0", b"x-http-status: 200", b"x-error-body: {}", b"grpc-timeout: 1n",
    b"grpc-timeout: x", b"x_edge: 1", b"traceparent: " + b'"' * 55,
    b"traceparent: 00-" + b"\xff" * 32 + b"-" + b"0" * 16 + b"-01", b"x-request-id: \"},{", b"Host: a\r\nHost: b",
    b"Accept: text/html", b"Cookie: " + b"c" * 5000, b" folded: 1", b"no colon", b": empty", b"Connection: close",
    b"Range: bytes=0-1", b"Content-Encoding: gzip", b"Origin: https://x", b"TE: trailers", b"a!b: 1", b"$: 1",
    b"x-y-bin: !", b"grpc-encoding: gzip", b"grpc-encoding: x", b"grpc-trace-bin: AA",
    b"grpc-previous-rpc-attempts: x",
)  # fmt: skip
_BODIES = (
    b"", b"{}", b"{}", b'{"reservationId":"rsv_1","paymentIntentId":"pay_1"}', b"[]", b"null", b'"', b"{" * 20_000,
    b'{"a":' * 10_000, b'{"eventId":"evt_2025_1001","quantity":1}', b'{"eventId":1e400}', b'{"eventId":"\xff"}',
    b'{"eventId":"\\ud800"}', b'{"eventId":"a","eventId":"b"}', b'{"event_id":"a","eventId":"b"}',
    b'{"metadata":{"tags":{"":{}}}}', b"x" * 70_000, b"5\r\nhello\r\n0\r\n\r\n", b"0\r\n\r\n",
    b"FFFFFFFFFFFFFFFFF\r\n", b"5;ext=\"\r\nhello\r\n0\r\ntrailer: 1\r\n\r\n", b"-1\r\n\r\n", b"\0" * 100,
)  # fmt: skip
_SMUGGLE = b"GET " + SMUGGLED.encode() + b" HTTP/1.1\r\nHost: x\r\n\r\n"


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """One request, or what somebody takes for one. Half of them are framed as they should be."""
    body = draw(st.sampled_from(_BODIES) | st.binary(max_size=30))
    headers = draw(st.lists(st.sampled_from(_HEADERS), max_size=3))
    if draw(st.booleans()):
        headers.append(b"Content-Length: %d" % len(body))
    start = b" ".join(
        (draw(st.sampled_from(_METHODS)), draw(st.sampled_from(_TARGETS)), draw(st.sampled_from(_VERSIONS)))
    )
    return b"\r\n".join([start, b"Host: x", *headers, b"", b""]) + body


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def address(ministack_url: str) -> AsyncIterator[tuple[str, int]]:
    async with selling(own_settings(ministack_url)) as system, edge_of(system) as edge:
        yield edge.rest.base_url.host, edge.rest.base_url.port or 0
        assert (await edge.rest.get("/health")).json() == {"status": "UP"}


@given(sent=st.lists(messages() | st.binary(max_size=100), min_size=1, max_size=12))
@examples(12)
async def test_whatever_is_sent_every_answer_to_it_is_whole_and_wears_the_envelope(
    address: tuple[str, int], sent: list[bytes]
) -> None:
    await asyncio.gather(*(check_answers(address, each) for each in sent))


_FRAMINGS = (
    b"Content-Length: %d\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding: chunked\r\nContent-Length: %d",
    b"Content-Length: %d\r\nContent-Length: 0",
    b"Content-Length: 0\r\nContent-Length: %d",
    b"Content-Length: %d\r\nTransfer-Encoding: identity",
    b"Content-Length: %d\r\nTransfer-Encoding: xchunked",
    b"Content-Length: %d\r\nTransfer-Encoding:\tchunked",
    b"Content-Length: %d\r\nTransfer-Encoding : chunked",
    b"Content-Length: %d\r\n Transfer-Encoding: chunked",
    b"Content-Length: %d\r\nX: 1\nTransfer-Encoding: chunked",
    b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity",
)
"""How two servers come to differ about where a request ends. The number is the length of a body that ends with another
request; by chunks it would end before that."""


@pytest.mark.parametrize("framing", _FRAMINGS)
async def test_a_request_in_the_body_of_another_is_never_answered(address: tuple[str, int], framing: bytes) -> None:
    body = b"0\r\n\r\n" + _SMUGGLE
    head = b"POST /v1/reservations/confirm HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    answers = await check_answers(address, head + framing % len(body) + b"\r\n\r\n" + body, at_least=1)
    assert len(answers) == 1
    assert SMUGGLED.encode() not in b"".join(answers)


async def check_answers(address: tuple[str, int], sent: bytes, *, at_least: int = 0) -> list[bytes]:
    """The bodies of all answers to this, on a connection of its own. Nothing tells whether more than `at_least` will
    come, so that after a silence we hang up: it may have been half a request."""
    reader, writer = await asyncio.open_connection(*address)
    bodies: list[bytes] = []
    try:
        with suppress(ConnectionError, asyncio.IncompleteReadError, TimeoutError):
            writer.write(sent)
            while True:
                async with asyncio.timeout(PATIENCE_SECONDS if len(bodies) < at_least else SILENCE_SECONDS):
                    await reader.readuntil(b"HTTP/1.1 ")
                bodies.append(await _checked_answer(reader, sent))
        with suppress(ConnectionError):
            writer.write_eof()
        async with asyncio.timeout(PATIENCE_SECONDS):
            with suppress(ConnectionError):
                await reader.read()
    finally:
        writer.transport.abort()
    return bodies


async def _checked_answer(reader: asyncio.StreamReader, sent: bytes) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    status = int(head[:3])
    if status < 200:
        return b""
    body = b"" if sent.startswith(b"HEAD") or status in (204, 304) else await _body(reader, head.lower())
    if not (status == 501 and b"Transfer-Encoding" in sent):  # https://www.rfc-editor.org/rfc/rfc9112#section-6.1-16
        assert status < 500, (head, body)
    if status >= 400 and body:
        check_error(head, body, is_grpc=b"application/grpc" in sent)
    return body


def check_error(head: bytes, body: bytes, *, is_grpc: bool) -> None:
    """Who says that it speaks gRPC is told in plain text."""
    if not (is_grpc and b"text/plain" in head):
        assert b"content-type: application/json" in head, (head, body)
        (error,) = json.loads(body).values()
        assert {"code", "message", "timestamp", "path", "traceId"} <= set(error), body


async def _body(reader: asyncio.StreamReader, head: bytes) -> bytes:
    if b"transfer-encoding: chunked" not in head:
        return await reader.readexactly(int(head.partition(b"content-length:")[2].split(b"\r\n")[0] or 0))
    body = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readexactly(2)
    return body
