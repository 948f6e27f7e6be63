"""A real server that is asked for more than it may do: who is refused, how, and who is not."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest

from reservation.api.limits import Limits, Priority
from reservation.api.registration import Answer, Handler, Method, Stream
from reservation.api.server import Health
from reservation.auth.caller import Right
from reservation.gen.com.traffic_tacos.reservation import v1 as messages
from tests.support.system import (
    Refusal,
    call,
    create_request,
    limits_of,
    refusal,
    serving_only,
    watch_health,
)

CREATE = create_request(["A-1"], user_id="ann")
CONFIRM = messages.ConfirmReservationRequest(reservation_id="rsv_1", payment_intent_id="pay_1", user_id="ann")
CANCEL = messages.CancelReservationRequest(reservation_id="rsv_1", user_id="ann")
WATCH = messages.WatchReservationRequest(reservation_id="rsv_1", user_id="ann")


@dataclass
class Store:
    """Where calls wait until they may end. It counts those that came so far, and how many wait."""

    asked: int = 0
    waiting: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    may_end: asyncio.Event = field(default_factory=asyncio.Event)

    def answering(self) -> Handler:
        async def handle(_request: Any, _call: Any) -> Answer:
            self.asked += 1
            self.waiting.release()
            await self.may_end.wait()
            return Answer(b"")

        return handle

    async def watch(self, _request: Any, _call: Any) -> AsyncGenerator[bytes]:
        self.asked += 1
        yield bytes(messages.GetReservationResponse(reservation_id="rsv_1"))

    async def fills(self, calls: int) -> None:
        for _ in range(calls):
            await self.waiting.acquire()


@asynccontextmanager
async def server(store: Store, limits: Limits) -> AsyncIterator[grpc.aio.Channel]:
    health = Health()
    await health.start()
    right = Right.RESERVATIONS
    methods = (
        Method(
            "CreateReservation",
            messages.CreateReservationRequest,
            store.answering(),
            right,
        ),
        Method(
            "CancelReservation",
            messages.CancelReservationRequest,
            store.answering(),
            right,
            Priority.HOLDER,
        ),
        Method(
            "ConfirmReservation",
            messages.ConfirmReservationRequest,
            store.answering(),
            right,
            Priority.PAYING,
        ),
        Stream("WatchReservation", messages.WatchReservationRequest, store.watch, right, lambda _: b""),
    )
    async with serving_only(*methods, health=health, limits=limits) as channel:
        yield channel


async def test_creates_are_refused_first_then_cancels_and_a_confirm_last_while_health_answers() -> None:
    store = Store()
    async with server(store, limits_of(max_concurrent=8)) as channel:
        under_way = [asyncio.create_task(call(channel, CREATE)) for _ in range(3)]
        await store.fills(3)
        _check(await refusal(call(channel, CREATE)), retry_after=1)
        _check(await refusal(_first(channel)), retry_after=1)
        under_way += [asyncio.create_task(call(channel, CANCEL)) for _ in range(3)]
        await store.fills(3)
        _check(await refusal(call(channel, CANCEL)), retry_after=1)
        under_way += [asyncio.create_task(call(channel, CONFIRM)) for _ in range(2)]
        await store.fills(2)
        _check(await refusal(call(channel, CONFIRM)), retry_after=1)
        assert (await watch_health(channel, "liveness").read()).status == 1
        assert store.asked == len(under_way) == 8
        store.may_end.set()
        await asyncio.gather(*under_way)
        await call(channel, CREATE)


async def test_a_place_is_free_again_when_the_caller_has_left() -> None:
    store = Store()
    async with server(store, limits_of(max_concurrent=8)) as channel:
        for _ in range(3):
            leaving = [asyncio.create_task(_once_there_is_room(channel)) for _ in range(8)]
            async with asyncio.timeout(30):
                await store.fills(8)
            for each in leaving:
                each.cancel()
            await asyncio.gather(*leaving, return_exceptions=True)


async def test_a_call_is_refused_before_its_message_is_read() -> None:
    store = Store()
    async with server(store, limits_of(max_concurrent=8)) as channel:
        under_way = [asyncio.create_task(call(channel, CONFIRM)) for _ in range(8)]
        await store.fills(8)
        garbage = channel.unary_unary("/com.traffic_tacos.reservation.v1.ReservationService/CreateReservation")(b"\xff")
        assert (await refusal(garbage)).reason == "RATE_LIMIT_EXCEEDED"
        store.may_end.set()
        await asyncio.gather(*under_way)


async def test_a_user_who_asks_too_often_is_told_when_he_may_and_can_still_confirm() -> None:
    store, now = Store(), 1_000_000_000_000
    store.may_end.set()
    limits = limits_of(user_per_second=0.25, user_burst=2, monotonic_ns=lambda: now)
    async with server(store, limits) as channel:
        for _ in range(2):
            await call(channel, CREATE)
        _check(await refusal(call(channel, CREATE)), retry_after=4)
        _check(await refusal(_first(channel)), retry_after=4)
        rest = await refusal(call(channel, CREATE, metadata=(("x-envoy-original-path", "/v1/reservations"),)))
        assert rest.trailing["retry-after"] == "4"
        await call(channel, CONFIRM)
        await call(channel, create_request(["A-1"], user_id="bob"))
        await call(channel, create_request(["A-1"]))
        now += 4_000_000_000
        await call(channel, CREATE)


async def test_what_cannot_end_in_time_does_not_begin() -> None:
    """The deadline as it comes, and not as our client keeps it: that would give up by itself."""
    store = Store()
    store.may_end.set()
    async with server(store, limits_of()) as channel:
        late = channel.unary_unary("/com.traffic_tacos.reservation.v1.ReservationService/CreateReservation")
        refused = await refusal(late(bytes(CREATE), metadata=(("grpc-timeout", "4m"),)))
        assert refused.status is grpc.StatusCode.DEADLINE_EXCEEDED
        assert store.asked == 0
        await call(channel, CREATE)


@pytest.mark.parametrize("most", [1, 3])
async def test_what_no_limit_counts_is_refused_by_grpc_itself(most: int) -> None:
    """Watches of health, for instance, which anybody may open."""
    health = Health()
    await health.start()
    async with serving_only(health=health, max_rpcs=most) as channel:
        watches = [watch_health(channel, "liveness") for _ in range(most)]
        for each in watches:
            await each.read()
        refused = watch_health(channel, "liveness")
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await refused.read()
        assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        for each in watches:
            each.cancel()


async def _once_there_is_room(channel: grpc.aio.Channel) -> None:
    """A confirm, again as long as it is refused: the server hears of those who have left a moment later than they."""
    while True:
        _check(await refusal(call(channel, CONFIRM)), retry_after=1)


async def _first(channel: grpc.aio.Channel) -> Any:
    """What a watch says first. Raises AioRpcError."""
    watch = channel.unary_stream("/com.traffic_tacos.reservation.v1.ReservationService/WatchReservation")(bytes(WATCH))
    return await watch.read()


def _check(refused: Refusal, *, retry_after: float) -> None:
    assert refused.status is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (refused.reason, refused.retry_after) == ("RATE_LIMIT_EXCEEDED", retry_after)
