"""A watch through every door of the real Envoy and service: what it tells, and how it ends."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import grpc
import httpx
import pytest
import pytest_asyncio

from reservation.domain import events
from reservation.gen.com.traffic_tacos.reservation import v1 as messages
from tests.support.edge import TRACEPARENT, check_nothing_internal
from tests.support.rest import CONFIRM, CREATE, body_of, error_of
from tests.support.system import (
    PACKAGE,
    Edge,
    System,
    call,
    create_request,
    edge_of,
    hold,
    own_settings,
    refusal,
    selling,
    serving,
)
from tests.unit.examples import HOLD

pytestmark = pytest.mark.asyncio(loop_scope="module")

SHORTEST = 5
"""Seconds that a hold lasts at least."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(ministack_url: str) -> AsyncIterator[System]:
    async with selling(own_settings(ministack_url, hold_seconds=SHORTEST)) as system:
        yield system


@asynccontextmanager
async def sse(rest: httpx.AsyncClient, reservation_id: str, user: str) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
    """The events of a watch that has begun."""
    path = f"{CREATE}/{reservation_id}/watch?userId={user}"
    async with rest.stream("GET", path, headers=TRACEPARENT, timeout=30) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        check_nothing_internal(answer)
        yield _events(answer)


async def _events(answer: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    """Every event is one line of JSON and an empty line."""
    lines = answer.aiter_lines()
    async for line in lines:
        assert line.startswith("data: ")
        yield json.loads(line.removeprefix("data: "))
        assert await anext(lines) == ""


def grpc_watch(channel: grpc.aio.Channel, reservation_id: str, user: str = "") -> Any:
    request = messages.WatchReservationRequest(reservation_id=reservation_id, user_id=user)
    rpc = channel.unary_stream(
        f"/{PACKAGE}.ReservationService/WatchReservation",
        messages.WatchReservationRequest.SerializeToString,
        messages.GetReservationResponse.FromString,
    )
    return rpc(request)


async def first_of(watch: Any) -> messages.GetReservationResponse:
    """Its next message. Raises grpc.aio.AioRpcError."""
    message: messages.GetReservationResponse = await watch.read()
    assert message is not grpc.aio.EOF
    return message


async def rest_of(watch: Any) -> list[messages.GetReservationResponse]:
    """Raises grpc.aio.AioRpcError."""
    told = []
    while (message := await watch.read()) is not grpc.aio.EOF:
        told.append(message)
    return told


async def test_every_door_tells_the_body_of_get_now_and_the_moment_it_changes_and_then_ends(
    system: System, edge: Edge
) -> None:
    held = await hold(system.channel, system.fresh_seats(2), user_id="ann", metadata=messages.ReservationMetadata("웹"))
    get = f"{CREATE}/{held}?userId=ann"
    native = [grpc_watch(channel, held, "ann") for channel in (system.channel, edge.channel)]
    async with sse(edge.rest, held, "ann") as told:
        first = await anext(told)
        assert first == body_of(await edge.rest.get(get), 200)
        assert [(await first_of(watch)).status for watch in native] == [messages.ReservationStatus.HOLD] * 2
        payment = {"reservationId": held, "paymentIntentId": "pay_1", "userId": "ann"}
        body_of(await edge.rest.post(CONFIRM, json=payment), 200)
        assert [each async for each in told] == [body_of(await edge.rest.get(get), 200)]
    for watch in native:
        assert [message.status for message in await rest_of(watch)] == [messages.ReservationStatus.CONFIRMED]
        assert await watch.code() is grpc.StatusCode.OK


async def test_changes_by_this_process_are_told_without_waiting_for_a_look_which_comes_once_a_second(
    system: System, edge: Edge
) -> None:
    async with asyncio.timeout(6):
        for _ in range(10):
            held = await hold(system.channel, system.fresh_seats(), user_id="ann")
            watch = grpc_watch(edge.channel, held, "ann")
            await first_of(watch)
            await call(system.channel, messages.CancelReservationRequest(reservation_id=held))
            assert [message.status.name for message in await rest_of(watch)] == ["CANCELLED"]


async def test_a_change_by_another_process_reaches_every_door_long_before_the_hold_would_end(
    system: System, edge: Edge
) -> None:
    async with serving(system.settings.model_copy(update={"hold_seconds": 60})) as other:
        held = await hold(other.channel, system.fresh_seats(), user_id="ann")
        watch = grpc_watch(edge.channel, held, "ann")
        async with sse(edge.rest, held, "ann") as told, asyncio.timeout(30):
            await asyncio.gather(anext(told), first_of(watch))
            await call(other.channel, messages.CancelReservationRequest(reservation_id=held, user_id="ann"))
            assert [each["status"] async for each in told] == ["CANCELLED"]
            assert [message.status.name for message in await rest_of(watch)] == ["CANCELLED"]


async def test_a_hold_that_just_runs_out_is_told_through_both_doors_and_nothing_ends_a_watch_before(
    system: System, edge: Edge
) -> None:
    held = await hold(edge.channel, system.fresh_seats(), user_id="ann", idempotency_key="k")
    watch = grpc_watch(edge.channel, held, "ann")
    async with sse(edge.rest, held, "ann") as told:
        assert [each["status"] async for each in told] == ["HOLD", "EXPIRED"]
    assert [message.status.name for message in await rest_of(watch)] == ["HOLD", "EXPIRED"]


async def test_a_watch_of_what_is_over_is_one_event(system: System, edge: Edge) -> None:
    stored = await system.store(replace(HOLD, user_id="ann"))
    async with sse(edge.rest, stored.id, "ann") as told:
        assert [each async for each in told] == [events.body(stored) | {"status": "EXPIRED", "seats": [
            seat | {"status": "STATUS_UNSPECIFIED"} for seat in events.body(stored)["seats"]]}]  # fmt: skip


async def test_anothers_reservation_is_not_found_and_the_sixth_watch_of_a_user_is_too_many(
    system: System, edge: Edge
) -> None:
    held = await hold(system.channel, system.fresh_seats(), user_id="dora")
    path = f"{CREATE}/{held}/watch"
    answer = await edge.rest.get(path, params={"userId": "bob"}, headers=TRACEPARENT)
    error_of(answer, 404, "RESERVATION_NOT_FOUND", path)
    refused = await refusal(first_of(grpc_watch(edge.channel, held)))
    assert (refused.status, refused.reason) == (grpc.StatusCode.NOT_FOUND, "RESERVATION_NOT_FOUND")
    watches = [grpc_watch(system.channel, held, "dora") for _ in range(5)]
    await asyncio.gather(*(first_of(watch) for watch in watches))
    answer = await edge.rest.get(path, params={"userId": "dora"}, headers=TRACEPARENT)
    error_of(answer, 429, "RATE_LIMIT_EXCEEDED", path)
    assert answer.headers["retry-after"] == "1"
    refused = await refusal(first_of(grpc_watch(edge.channel, held, "dora")))
    assert (refused.status, refused.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMIT_EXCEEDED")
    assert refused.retry_after == 1
    for watch in watches:
        watch.cancel()


async def test_callers_that_leave_make_room_for_others(system: System, edge: Edge) -> None:
    """Twice as many through each door as a user may have at a time."""
    held = await hold(system.channel, system.fresh_seats(), user_id="eve")

    async def over_rest() -> bool:
        async with edge.rest.stream("GET", f"{CREATE}/{held}/watch?userId=eve") as answer:
            return answer.status_code == 200 and (await anext(answer.aiter_lines())).startswith("data: ")

    async def over_grpc(channel: grpc.aio.Channel) -> bool:
        watch = grpc_watch(channel, held, "eve")
        try:
            await first_of(watch)
        except grpc.aio.AioRpcError as error:
            return error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED
        return bool(watch.cancel())

    for attempt in (over_rest, lambda: over_grpc(system.channel), lambda: over_grpc(edge.channel)):
        for _ in range(10):
            async with asyncio.timeout(SHORTEST - 1):  # the hold's end would make room, too
                while not await attempt():
                    pass  # one of the last ones is still on its way out


async def test_a_stop_tells_every_watcher_before_it_waits_for_requests_to_end(system: System) -> None:
    """Those that it had to cut off would read CANCELLED. Over REST an error after the first event is an event, with the
    body that it has elsewhere."""
    async with AsyncExitStack() as stack:
        stopping = await stack.enter_async_context(serving(system.settings))
        async with edge_of(stopping) as edge, grpc.aio.insecure_channel(stopping.address) as channel:
            held = (await call(channel, create_request(system.fresh_seats(), user_id="ann"))).message.reservation_id
            watches = [grpc_watch(each, held, "ann") for each in (channel, edge.channel)]
            async with sse(edge.rest, held, "ann") as told:
                await asyncio.gather(anext(told), *(first_of(watch) for watch in watches))
                stop = asyncio.create_task(stack.aclose())
                (last,) = [each async for each in told]
                refusals = [await refusal(rest_of(watch)) for watch in watches]
                await stop
    error = last["error"]
    assert list(last) == ["error"]
    assert set(error) == {"code", "message", "timestamp", "path", "traceId"}
    assert (error["code"], error["path"]) == ("SERVICE_UNAVAILABLE", f"{CREATE}/{held}/watch")
    assert error["traceId"] == TRACEPARENT["traceparent"][3:35]
    for refused in refusals:
        assert (refused.status, refused.reason) == (grpc.StatusCode.UNAVAILABLE, "SERVICE_UNAVAILABLE")
        assert "x-error-body" not in refused.trailing
