"""Streams over a real channel: how they end, what is told of an error on the way, and what is left of a caller."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from structlog.testing import capture_logs

from reservation.api import convert
from reservation.api.call import Call
from reservation.api.registration import Stream, StreamHandler
from reservation.auth.access import Access
from reservation.auth.caller import Right
from reservation.auth.keyring import Keyring
from reservation.auth.keys import Keys
from reservation.auth.tokens import LEEWAY_MS, Tokens
from reservation.domain.errors import ServiceUnavailable
from reservation.gen.com.traffic_tacos.reservation import v1 as messages
from tests.support.key_server import SigningKey, bearing, published
from tests.support.store import SettableClock
from tests.support.system import OPEN, PACKAGE, refusal, refusal_of, serving_only

Messages = AsyncGenerator[bytes]

HOLD = messages.GetReservationResponse(reservation_id="rsv_1")
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE_ID}-00f067aa0ba902b7-00"
REST = (("x-envoy-original-path", "/v1/reservations/rsv_1/watch"), ("traceparent", TRACEPARENT))


@asynccontextmanager
async def serving_stream(handler: StreamHandler, access: Access = OPEN) -> AsyncIterator[Callable[..., Any]]:
    """A function that begins a call."""
    stream = Stream("WatchReservation", messages.WatchReservationRequest, handler, Right.RESERVATIONS, convert.in_band)
    async with serving_only(stream, access=access) as channel:
        rpc = channel.unary_stream(
            f"/{PACKAGE}.ReservationService/WatchReservation",
            response_deserializer=messages.GetReservationResponse.FromString,
        )
        yield lambda **options: rpc(b"", **options)


def ended(logged: list[Any]) -> list[str]:
    """The codes of the calls that the access log tells of."""
    return [entry["code"] for entry in logged if entry["event"] == "rpc"]


async def fails_when_begun(_request: Any, _call: Call) -> Messages:
    yield bytes(HOLD)
    raise ServiceUnavailable


async def crashes_when_begun(_request: Any, _call: Call) -> Messages:
    yield bytes(HOLD)
    raise RuntimeError("secret")


async def has_nothing_to_tell(_request: Any, _call: Call) -> Messages:
    nothing: tuple[bytes, ...] = ()
    for message in nothing:
        yield message


async def tells_an_empty_message(_request: Any, _call: Call) -> Messages:
    yield b""
    yield bytes(HOLD)


@pytest.mark.parametrize("headers", [(), REST])
async def test_a_stream_ends_when_its_callers_token_does(headers: Any) -> None:
    clock = SettableClock()
    key = SigningKey.new("key", "EdDSA")

    async def fetch() -> Keys:
        return published(key)

    async def outlives_the_token(_request: Any, _call: Call) -> Messages:
        yield bytes(HOLD)
        clock.advance(60_000 + LEEWAY_MS)
        yield bytes(HOLD)
        await asyncio.Event().wait()

    tokens = Tokens(Keyring(fetch), issuer="https://issuer.example", audience="reservations", now=clock.now)
    claims = {"iss": "https://issuer.example", "aud": "reservations", "sub": "ann", "exp": clock.now() / 1000 + 60}
    async with serving_stream(outlives_the_token, Access(tokens, trust_direct=False)) as begin:
        call = begin(metadata=(*headers, *bearing(key.sign(claims))))
        told = [await call.read() for _ in range(2)]
        assert told == [HOLD, HOLD]
        if headers:
            last = json.loads(bytes.fromhex((await call.read()).reservation_id.removeprefix("error:")))
            assert last["error"]["code"] == "UNAUTHENTICATED"
        refused = await refusal(call.read())
        assert refused.status is grpc.StatusCode.UNAUTHENTICATED
        assert refused.text == "Unauthenticated: the token has expired"


@pytest.mark.parametrize(
    ("handler", "told"),
    [(has_nothing_to_tell, []), (tells_an_empty_message, [messages.GetReservationResponse(), HOLD])],
)
async def test_a_stream_ends_when_its_handler_does(handler: StreamHandler, told: list[Any]) -> None:
    with capture_logs() as logged:
        async with serving_stream(handler) as begin:
            call = begin()
            assert [message async for message in call] == told
            assert await call.code() is grpc.StatusCode.OK
    assert ended(logged) == ["OK"]


@pytest.mark.parametrize(
    ("handler", "status", "code"),
    [
        (fails_when_begun, grpc.StatusCode.UNAVAILABLE, "SERVICE_UNAVAILABLE"),
        (crashes_when_begun, grpc.StatusCode.INTERNAL, "INTERNAL_ERROR"),
    ],
)
async def test_an_error_on_the_way_is_a_status_and_over_rest_a_last_message_before_it(
    handler: StreamHandler, status: grpc.StatusCode, code: str
) -> None:
    with capture_logs() as logged:
        async with serving_stream(handler) as begin:
            native, rest = begin(), begin(metadata=REST)
            assert await native.read() == HOLD
            refused = await refusal(native.read())
            assert (refused.status, refused.reason) == (status, code)
            assert await rest.read() == HOLD
            told = (await rest.read()).reservation_id
            assert (await refusal(rest.read())).status is status
    assert told.startswith("error:")
    error = json.loads(bytes.fromhex(told.removeprefix("error:")))["error"]
    assert (error["code"], error["path"], error["traceId"]) == (code, REST[0][1], TRACE_ID)
    assert ended(logged) == [code, code]
    assert len([entry for entry in logged if entry["event"] == "rpc.failed"]) == (2 if code == "INTERNAL_ERROR" else 0)
    assert "secret" not in refused.text + json.dumps(error)


async def test_an_error_before_the_first_message_is_a_status_and_nothing_else() -> None:
    async def fails(_request: Any, _call: Call) -> Messages:
        raise ServiceUnavailable
        yield bytes(HOLD)

    async with serving_stream(fails) as begin:
        for metadata in ((), REST):
            refused = await refusal(begin(metadata=metadata).read())
            assert refused.status is grpc.StatusCode.UNAVAILABLE
        assert "x-error-body" in refused.trailing


@pytest.mark.parametrize("busy", [False, True], ids=["while it waits", "while it tells"])
async def test_the_handler_of_a_caller_that_leaves_is_closed_at_once_and_nothing_has_failed(busy: bool) -> None:
    under_way = 0
    closed = asyncio.Event()

    async def endless(_request: Any, _call: Call) -> Messages:
        nonlocal under_way
        under_way += 1
        try:
            yield bytes(HOLD)
            while busy:
                yield bytes(HOLD)
            await asyncio.Event().wait()
        finally:
            under_way -= 1
            if not under_way:
                closed.set()

    with capture_logs() as logged:
        async with serving_stream(endless) as begin:
            calls = [begin() for _ in range(20)]
            for call in calls:
                assert await call.read() == HOLD
            assert under_way == 20
            for call in calls:
                call.cancel()
            async with asyncio.timeout(30):
                await closed.wait()
    assert ended(logged) == ["CANCELLED"] * 20
    assert [entry for entry in logged if entry["log_level"] == "error"] == []


async def test_a_callers_deadline_ends_its_stream_and_closes_the_handler() -> None:
    closed = asyncio.Event()

    async def endless(_request: Any, _call: Call) -> Messages:
        try:
            yield bytes(HOLD)
            await asyncio.Event().wait()
        finally:
            closed.set()

    async with serving_stream(endless) as begin:
        call = begin(timeout=2.5)
        assert await call.read() == HOLD
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await call.read()
        assert refusal_of(ended.value).status is grpc.StatusCode.DEADLINE_EXCEEDED
        async with asyncio.timeout(30):
            await closed.wait()
