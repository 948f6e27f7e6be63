"""Every way in which a native call fails: gRPC status, google.rpc details, neutral words, and nothing of the inside."""

import asyncio
import traceback
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc
import pytest
import pytest_asyncio
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from reservation import catalog, ministack
from reservation.api.call import Call
from reservation.api.registration import Answer, Handler, Method
from reservation.api.server import MAX_MESSAGE_BYTES, MAX_METADATA_BYTES, OPEN_STREAMS
from reservation.auth.caller import Right
from reservation.catalog import Catalog
from reservation.domain.errors import ReservationError, ReservationNotFound
from reservation.domain.model import Event
from reservation.gen.com.traffic_tacos.reservation import v1 as messages
from tests.support.conflict_proxy import ConflictProxy
from tests.support.faults import HoldOngoing, Request, Throttle
from tests.support.system import (
    ERROR_DOMAIN,
    PACKAGE,
    Refusal,
    System,
    call,
    create_request,
    frozen,
    hold,
    own_settings,
    refusal,
    selling,
    serving,
    serving_only,
    watch_health,
)
from tests.unit.examples import HOLD

pytestmark = pytest.mark.asyncio(loop_scope="module")

AN_HOUR = 3_600_000
TIME_WAS_UP = {"UPSTREAM_TIMEOUT", "SERVICE_UNAVAILABLE"}
LIMITED = Catalog(Event("evt_limited", max_holds_per_user=1), catalog.demo().seats[:2])
SERVED = (
    *(f"ReservationService/{verb}Reservation" for verb in ("Create", "Get", "Confirm", "Cancel")),
    *("ReservationService/ExtendHold", "ReservationService/ListReservations"),
    *(f"InventoryService/{command}" for command in ("ReserveSeat", "CommitReservation", "ReleaseHold")),
    *("InventoryService/CheckAvailability", "InventoryService/GetInventoryStatus", "InventoryService/ListSeats"),
)
STREAM = "ReservationService/WatchReservation"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(ministack_url: str) -> AsyncIterator[System]:
    async with selling(own_settings(ministack_url)) as system:
        yield system


async def test_an_invalid_request_names_every_field_at_once_and_repeats_no_value(system: System) -> None:
    request = messages.CreateReservationRequest(
        event_id="",
        seat_ids=["A-1", "A-1", "secret\n"],
        quantity=7,
        user_id="secret" * 30,
        metadata=messages.ReservationMetadata(source="secret\0", tags={"": "secret"}),
    )
    refused = await refusal(call(system.channel, request))
    _check(refused, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    fields = {"event_id", "seat_ids", "seat_ids[2]", "quantity", "user_id", "metadata.source", "metadata.tags"}
    assert set(refused.violations) == fields
    assert all(field in refused.text for field in fields)
    assert "secret" not in refused.text


async def test_an_unknown_seat_is_an_invalid_request_that_names_its_position(system: System) -> None:
    refused = await refusal(call(system.channel, create_request(["A-1", "Z-99", "Z-100"])))
    _check(refused, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert refused.violations == ("seat_ids[1]", "seat_ids[2]")


async def test_what_does_not_exist_is_not_found(system: System) -> None:
    refused = await refusal(call(system.channel, create_request(["A-1"], event_id="evt_nowhere")))
    _check(refused, grpc.StatusCode.NOT_FOUND, "EVENT_NOT_FOUND")
    for request in (
        messages.GetReservationRequest(reservation_id="rsv_nobody"),
        messages.ConfirmReservationRequest(reservation_id="rsv_nobody", payment_intent_id="pay_1"),
        messages.CancelReservationRequest(reservation_id="rsv_nobody"),
        messages.ExtendHoldRequest(reservation_id="rsv_nobody", extension_seconds=30),
    ):
        refused = await refusal(call(system.channel, request))
        _check(refused, grpc.StatusCode.NOT_FOUND, "RESERVATION_NOT_FOUND")


async def test_the_taken_seat_among_the_wanted_is_named_and_the_free_one_stays_free(system: System) -> None:
    taken, free = system.fresh_seats(2)
    await hold(system.channel, [taken])
    refused = await refusal(call(system.channel, create_request([taken, free])))
    _check(refused, grpc.StatusCode.FAILED_PRECONDITION, "SEAT_UNAVAILABLE")
    assert refused.facts == {"seat_ids": taken}
    await hold(system.channel, [free])


async def test_a_hold_more_than_a_user_may_have_is_refused(system: System) -> None:
    await system.put_on_sale(LIMITED)
    await hold(system.channel, ["A-1"], event_id="evt_limited")
    refused = await refusal(call(system.channel, create_request(["A-2"], event_id="evt_limited")))
    _check(refused, grpc.StatusCode.FAILED_PRECONDITION, "HOLD_LIMIT_REACHED")
    await hold(system.channel, ["A-2"], event_id="evt_limited", user_id="ann")


async def test_a_key_with_other_content_is_a_conflict(system: System) -> None:
    await hold(system.channel, system.fresh_seats(), idempotency_key="reused")
    refused = await refusal(call(system.channel, create_request(system.fresh_seats(), idempotency_key="reused")))
    _check(refused, grpc.StatusCode.ALREADY_EXISTS, "IDEMPOTENCY_CONFLICT")


async def test_a_final_reservation_refuses_what_would_change_it(system: System) -> None:
    confirmed, cancelled = [await hold(system.channel, system.fresh_seats()) for _ in range(2)]
    pay = messages.ConfirmReservationRequest(payment_intent_id="pay_1")
    pay_otherwise = messages.ConfirmReservationRequest(payment_intent_id="pay_2")
    cancel = messages.CancelReservationRequest()
    extend = messages.ExtendHoldRequest(extension_seconds=30)
    await call(system.channel, replace(pay, reservation_id=confirmed))
    await call(system.channel, replace(cancel, reservation_id=cancelled))
    requests: list[tuple[Any, str, str]] = [
        (pay_otherwise, confirmed, "RESERVATION_ALREADY_CONFIRMED"),
        (cancel, confirmed, "RESERVATION_ALREADY_CONFIRMED"),
        (extend, confirmed, "RESERVATION_ALREADY_CONFIRMED"),
        (pay, cancelled, "RESERVATION_ALREADY_CANCELLED"),
        (extend, cancelled, "RESERVATION_ALREADY_CANCELLED"),
    ]
    for request, reservation_id, reason in requests:
        refused = await refusal(call(system.channel, replace(request, reservation_id=reservation_id)))
        _check(refused, grpc.StatusCode.FAILED_PRECONDITION, reason)


@pytest.mark.parametrize(
    "request_of_held",
    [
        messages.ConfirmReservationRequest(payment_intent_id="pay_late"),
        messages.CancelReservationRequest(),
        messages.ExtendHoldRequest(extension_seconds=30),
    ],
    ids=["confirm", "cancel", "extend"],
)
async def test_a_hold_past_its_time_reads_expired_and_refuses_every_command(
    system: System, request_of_held: Any
) -> None:
    stored = await system.store(HOLD)
    read = messages.GetReservationRequest(reservation_id=stored.id)
    assert (await call(system.channel, read)).message.status is messages.ReservationStatus.EXPIRED
    refused = await refusal(call(system.channel, replace(request_of_held, reservation_id=stored.id)))
    _check(refused, grpc.StatusCode.FAILED_PRECONDITION, "RESERVATION_EXPIRED")
    assert (await call(system.channel, read)).message.status is messages.ReservationStatus.EXPIRED


async def test_an_extension_beyond_the_limits_tells_what_is_left_and_leaves_the_hold_as_it_was(system: System) -> None:
    """The service as it starts without settings: three extensions, and 300 seconds in all."""
    held = await hold(system.channel, system.fresh_seats())
    read = messages.GetReservationRequest(reservation_id=held)
    await call(system.channel, messages.ExtendHoldRequest(reservation_id=held, extension_seconds=200))
    before = await call(system.channel, read)
    refused = await refusal(call(system.channel, messages.ExtendHoldRequest(reservation_id=held, extension_seconds=41)))
    _check(refused, grpc.StatusCode.FAILED_PRECONDITION, "HOLD_EXTENSION_DENIED")
    assert refused.facts == {"extensions_left": "2", "seconds_left": "40"}
    assert await call(system.channel, read) == before


async def test_an_extension_says_by_how_much(system: System) -> None:
    held = await hold(system.channel, system.fresh_seats())
    for seconds in (0, -1, 3601):
        request = messages.ExtendHoldRequest(reservation_id=held, extension_seconds=seconds)
        refused = await refusal(call(system.channel, request))
        _check(refused, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
        assert refused.violations == ("extension_seconds",)


async def test_a_process_that_cannot_trust_its_clock_refuses_commands_and_reads_what_is_stored(system: System) -> None:
    """To a clock that is an hour ahead every hold is over, which must not end one. From the first command on."""
    seat_id, other = system.fresh_seats(2)
    held = await hold(system.channel, [seat_id])
    async with serving(system.settings, clock_offset=AN_HOUR) as wrong:
        for request in (
            create_request([seat_id]),
            create_request([other]),
            messages.ConfirmReservationRequest(reservation_id=held, payment_intent_id="pay_1"),
            messages.CancelReservationRequest(reservation_id=held),
            messages.ExtendHoldRequest(reservation_id=held, extension_seconds=30),
        ):
            refused = await refusal(call(wrong.channel, request))
            _check(refused, grpc.StatusCode.UNAVAILABLE, "SERVICE_UNAVAILABLE", retry_after=1.0)
        read = messages.GetReservationRequest(reservation_id=held)
        assert (await call(wrong.channel, read)).message.status is messages.ReservationStatus.HOLD
    assert (await call(system.channel, read)).message.status is messages.ReservationStatus.HOLD


async def test_an_equal_request_still_undecided_when_the_time_is_up_is_in_progress_and_may_be_retried(
    ministack_url: str,
) -> None:
    """The other one is in another process: equal requests of one process wait for each other.

    A caller whose time ends in the middle of a try, and not between two, is told UPSTREAM_TIMEOUT, and one who had to
    wait for so long that none was begun, SERVICE_UNAVAILABLE; hence several.
    """
    async with ConflictProxy(ministack_url) as proxy:
        settings = own_settings(proxy.url)
        async with selling(settings) as first, serving(settings) as second:
            requests = [create_request(first.fresh_seats(), idempotency_key=f"k{n}") for n in range(5)]
            writes = [HoldOngoing() for _ in requests]
            for write in writes:
                proxy.script(lambda asked: asked.operation == "TransactWriteItems", write)
            others = [asyncio.create_task(call(first.channel, request)) for request in requests]
            await asyncio.gather(*(write.reached.wait() for write in writes))
            in_progress: list[Refusal] = []
            while not in_progress:
                refusals = await asyncio.gather(*(refusal(call(second.channel, request)) for request in requests))
                in_progress = [refused for refused in refusals if refused.reason not in TIME_WAS_UP]
            for write in writes:
                write.event.set()
            await asyncio.gather(*others, return_exceptions=True)  # their own time is up as well
            for request in requests:
                assert (await call(second.channel, request)).replayed
    for refused in in_progress:
        _check(refused, grpc.StatusCode.ABORTED, "IDEMPOTENCY_IN_PROGRESS", retry_after=1.0)


async def test_a_store_that_only_throttles_is_unavailable_and_may_be_retried(ministack_url: str) -> None:
    async with ConflictProxy(ministack_url) as proxy, selling(own_settings(proxy.url)) as system:
        for _ in range(5):  # as often as a read is tried
            proxy.script(_reads_a_reservation, Throttle())
        refused = await refusal(call(system.channel, messages.GetReservationRequest(reservation_id="rsv_1")))
    _check(refused, grpc.StatusCode.UNAVAILABLE, "SERVICE_UNAVAILABLE", retry_after=1.0)


def _reads_a_reservation(asked: Request) -> bool:
    return asked.operation == "Query" and ":id" in asked.params["ExpressionAttributeValues"]


async def test_a_command_that_a_frozen_store_swallowed_is_an_unknown_outcome() -> None:
    """Its seat is known already, so all that was sent is the transaction, and nobody can say what became of it."""
    async with ministack.running() as store, selling(own_settings(store.url)) as system:
        (seat_id,) = system.fresh_seats()
        held = await hold(system.channel, [seat_id])
        await call(system.channel, messages.CancelReservationRequest(reservation_id=held))
        with frozen(store.url):
            refused = await refusal(call(system.channel, create_request([seat_id])))
    _check(refused, grpc.StatusCode.DEADLINE_EXCEEDED, "UPSTREAM_TIMEOUT")


async def test_a_read_that_a_frozen_store_swallowed_did_nothing_and_may_be_retried() -> None:
    async with ministack.running() as store, selling(own_settings(store.url)) as system:
        held = await hold(system.channel, system.fresh_seats())
        with frozen(store.url):
            refused = await refusal(call(system.channel, messages.GetReservationRequest(reservation_id=held)))
    _check(refused, grpc.StatusCode.UNAVAILABLE, "SERVICE_UNAVAILABLE", retry_after=1.0)


# Hostile bytes


@pytest.mark.parametrize("raw", [b"\xff", b"\x0a\x01\xff"], ids=["no message", "no UTF-8"])
@pytest.mark.parametrize(
    "method",
    [
        *("/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"),
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    ],
)
async def test_undecodable_bytes_to_health_and_reflection_are_an_invalid_argument_without_a_parsers_words(
    system: System, method: str, raw: bytes
) -> None:
    refused = await _refused_raw(system.channel, method, raw)
    assert refused.status is grpc.StatusCode.INVALID_ARGUMENT
    assert "DecodeError" not in refused.text


@pytest.mark.parametrize("path", [b"/\xff", f"/{PACKAGE}.{SERVED[0]}?".encode() + b"\xff"])
async def test_a_path_that_is_no_text_is_an_unknown_method_and_the_process_goes_on_serving(
    system: System, path: bytes
) -> None:
    refused = await refusal(system.channel.unary_unary(path)(b""))
    assert (refused.status, refused.text) == (grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
    await hold(system.channel, system.fresh_seats())


@pytest.mark.parametrize(
    "method", [*(f"/{PACKAGE}.{served}" for served in (SERVED[0], STREAM)), "/grpc.health.v1.Health/Check"]
)
async def test_a_request_that_ends_without_a_message_is_refused_at_once(system: System, method: str) -> None:
    """Without a deadline: what is not answered at once never is."""
    call = system.channel.stream_stream(method)(iter(()))
    refused = await refusal(asyncio.wait_for(call.read(), 30))
    assert refused.status is grpc.StatusCode.INVALID_ARGUMENT
    assert "cannot be decoded" in refused.text


async def test_streams_that_need_no_token_cannot_take_every_place_that_the_process_has() -> None:
    """Reflection's count too, and who leaves makes room."""
    method = Method("GetReservation", messages.GetReservationRequest, _finds_nothing, Right.RESERVATIONS)
    async with serving_only(method, max_rpcs=OPEN_STREAMS + 10) as channel:
        watches = [watch_health(channel, "liveness") for _ in range(OPEN_STREAMS)]
        await asyncio.gather(*(watch.read() for watch in watches))
        for path in ("/grpc.health.v1.Health/Watch", "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"):
            assert (await _refused_raw(channel, path, b"")).status is grpc.StatusCode.RESOURCE_EXHAUSTED
        refused = await refusal(call(channel, messages.GetReservationRequest(reservation_id="rsv_1")))
        assert refused.reason == "RESERVATION_NOT_FOUND"
        watches.pop().cancel()
        while not await _is_watched(channel):
            pass


async def _finds_nothing(_request: Any, _call: Call) -> Answer:
    raise ReservationNotFound


async def _is_watched(channel: grpc.aio.Channel) -> bool:
    try:
        await watch_health(channel, "liveness").read()
    except grpc.aio.AioRpcError:
        return False
    return True


async def test_a_message_of_64_kib_is_read_and_a_longer_one_is_refused_alone(system: System) -> None:
    fits = messages.GetReservationRequest(reservation_id="r" * (MAX_MESSAGE_BYTES - 4))
    too_long = replace(fits, reservation_id=fits.reservation_id + "r")
    assert len(bytes(fits)) == MAX_MESSAGE_BYTES
    statuses = [(await refusal(call(system.channel, each))).status for each in (fits, too_long, fits)]
    assert statuses == [
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.INVALID_ARGUMENT,
    ]


async def test_metadata_of_30_kib_is_read_and_more_is_refused_alone(system: System) -> None:
    """Each size several times: gRPC by itself refuses by chance between two limits."""
    held = messages.GetReservationRequest(reservation_id=await hold(system.channel, system.fresh_seats(1)))
    fits, large = (("x-large", "x" * 30_000),), (("x-large", "x" * MAX_METADATA_BYTES),)
    read = asyncio.gather(*(call(system.channel, held, metadata=fits) for _ in range(5)))
    refused = asyncio.gather(*(refusal(call(system.channel, held, metadata=large)) for _ in range(5)))
    assert {answer.message.reservation_id for answer in await read} == {held.reservation_id}
    assert {each.status for each in await refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}


async def test_an_id_of_64_kib_does_not_fill_the_log() -> None:
    method = Method("GetReservation", messages.GetReservationRequest, _finds_nothing, Right.RESERVATIONS)
    with capture_logs() as logged:
        async with serving_only(method) as channel:
            await refusal(call(channel, messages.GetReservationRequest(reservation_id="r" * 60_000)))
    (line,) = (entry for entry in logged if entry["event"] == "rpc")
    assert line["reservation_id"] == "r" * 128


# A handler's own fault


async def _raises_what_nobody_foresaw(_request: Any, _call: Call) -> Answer:
    raise RuntimeError("secret of the database")


async def _raises_a_refusal_of_no_kind(_request: Any, _call: Call) -> Answer:
    raise ReservationError


@pytest.mark.parametrize(
    ("handler", "innermost"),
    [
        (_raises_what_nobody_foresaw, "in _raises_what_nobody_foresaw"),
        (_raises_a_refusal_of_no_kind, "in _raises_a_refusal_of_no_kind"),
    ],
)
async def test_a_crash_is_an_internal_error_in_neutral_words_and_its_stack_is_logged(
    handler: Handler, innermost: str
) -> None:
    with capture_logs(processors=[merge_contextvars]) as logged:
        async with serving_only(
            Method("GetReservation", messages.GetReservationRequest, handler, Right.RESERVATIONS)
        ) as channel:
            refused = await refusal(call(channel, messages.GetReservationRequest(reservation_id="rsv_1")))
    _check(refused, grpc.StatusCode.INTERNAL, "INTERNAL_ERROR")
    assert refused.text == "Internal server error"
    assert b"secret" not in refused.trailing["grpc-status-details-bin"]
    (failed,) = (entry for entry in logged if entry["event"] == "rpc.failed")
    assert (failed["rpc"], failed["log_level"]) == ("GetReservation", "error")
    assert innermost in "".join(traceback.format_exception(failed["exc_info"]))


def _check(refused: Refusal, status: grpc.StatusCode, reason: str, retry_after: float | None = None) -> None:
    assert (refused.status, refused.reason) == (status, reason)
    assert (refused.domain, refused.retry_after) == (ERROR_DOMAIN, retry_after)
    assert not {"x-error-body", "x-http-status"} & refused.trailing.keys()


async def _raw(channel: grpc.aio.Channel, method: str, raw: bytes) -> bytes:
    """The first message of the answer. A method without its package is one of ours."""
    path = method if method.startswith("/") else f"/{PACKAGE}.{method}"
    if method in SERVED:
        return bytes(await channel.unary_unary(path)(raw))
    async for message in channel.unary_stream(path)(raw):
        return bytes(message)
    raise AssertionError("the stream ended without a message")


async def _refused_raw(channel: grpc.aio.Channel, method: str, raw: bytes) -> Refusal:
    return await refusal(_raw(channel, method, raw))
