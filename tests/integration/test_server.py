"""Native gRPC over a real channel: what a caller gets, once and again, and whose reservations it may touch."""

import asyncio
import json
import shlex
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import grpc
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from reservation.gen.com.traffic_tacos.reservation import v1 as messages
from tests.support.system import (
    EVENT_ID,
    PACKAGE,
    Metadata,
    System,
    becomes,
    call,
    create_request,
    hold,
    own_settings,
    refusal,
    selling,
    serving,
    watch_health,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

VIA_EDGE: Metadata = (("x-edge", "1"),)
HELD, SOLD, AVAILABLE = messages.SeatStatus.HELD, messages.SeatStatus.SOLD, messages.SeatStatus.AVAILABLE


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(ministack_url: str) -> AsyncIterator[System]:
    async with selling(own_settings(ministack_url)) as system:
        yield system


async def test_a_hold_is_created_read_and_confirmed_through_the_generated_stub(system: System) -> None:
    stub: Any = messages.ReservationServiceStub(system.channel)
    seat_ids = system.fresh_seats(2)
    created = await stub.create_reservation(create_request(seat_ids, user_id="ann"))
    assert created.reservation_id.startswith("rsv_")
    assert created == messages.CreateReservationResponse(
        reservation_id=created.reservation_id,
        status=messages.ReservationStatus.HOLD,
        hold_expires_at=created.hold_expires_at,
        reserved_seats=_seats(seat_ids, HELD),
        total_amount=_krw(240_000),
        message="Reservation created successfully",
        seat_ids=seat_ids,
    )
    read = messages.GetReservationRequest(reservation_id=created.reservation_id)
    seen = await stub.get_reservation(read)
    assert seen == messages.GetReservationResponse(
        reservation_id=created.reservation_id,
        event_id=EVENT_ID,
        user_id="ann",
        status=messages.ReservationStatus.HOLD,
        seats=_seats(seat_ids, HELD),
        quantity=2,
        total_amount=_krw(240_000),
        created_at=seen.created_at,
        updated_at=seen.created_at,
        hold_expires_at=seen.created_at + timedelta(seconds=60),
        seat_ids=seat_ids,
    )
    payment = messages.ConfirmReservationRequest(reservation_id=created.reservation_id, payment_intent_id="pay_1")
    confirmed = await stub.confirm_reservation(payment)
    assert confirmed == messages.ConfirmReservationResponse(
        order_id="ord_" + created.reservation_id.removeprefix("rsv_"),
        status=messages.ReservationStatus.CONFIRMED,
        confirmed_at=confirmed.confirmed_at,
        confirmed_seats=_seats(seat_ids, SOLD),
        reservation_id=created.reservation_id,
        message="Reservation confirmed successfully",
        total_amount=_krw(240_000),
    )
    assert await stub.get_reservation(read) == replace(
        seen,
        status=messages.ReservationStatus.CONFIRMED,
        seats=_seats(seat_ids, SOLD),
        updated_at=confirmed.confirmed_at,
        payment_intent_id="pay_1",
        order_id=confirmed.order_id,
    )


async def test_a_cancelled_hold_returns_its_seats(system: System) -> None:
    seat_ids = system.fresh_seats(2)
    held = await hold(system.channel, seat_ids)
    cancelled = (await call(system.channel, messages.CancelReservationRequest(reservation_id=held))).message
    assert cancelled == messages.CancelReservationResponse(
        status=messages.ReservationStatus.CANCELLED,
        cancelled_at=cancelled.cancelled_at,
        released_seats=_seats(seat_ids, AVAILABLE),
        reservation_id=held,
        message="Reservation cancelled successfully",
    )
    seen = await call(system.channel, messages.GetReservationRequest(reservation_id=held))
    assert seen.message.status is messages.ReservationStatus.CANCELLED
    await hold(system.channel, seat_ids)


async def test_an_extended_hold_ends_later_and_is_still_a_hold(system: System) -> None:
    held = await hold(system.channel, system.fresh_seats(2))
    read = messages.GetReservationRequest(reservation_id=held)
    before = (await call(system.channel, read)).message
    request = messages.ExtendHoldRequest(reservation_id=held, extension_seconds=90, reason="slow bank")
    extended = (await call(system.channel, request)).message
    assert extended == messages.ExtendHoldResponse(
        new_expires_at=before.hold_expires_at + timedelta(seconds=90),
        extended_seconds=90,
        reservation_id=held,
        status=messages.ReservationStatus.HOLD,
    )
    seen = (await call(system.channel, read)).message
    assert seen == replace(before, hold_expires_at=extended.new_expires_at, updated_at=seen.updated_at)
    assert seen.updated_at > before.updated_at


# Once, and again


@pytest.mark.parametrize("header", ["", "key-in-header", '"key-in-quotes"'], ids=["field", "header", "quoted header"])
async def test_the_second_of_two_equal_creates_gets_the_first_answer_marked(system: System, header: str) -> None:
    request = create_request(system.fresh_seats(2), idempotency_key="" if header else "key-in-field")
    metadata = (("idempotency-key", header),) if header else ()
    first = await call(system.channel, request, metadata=metadata)
    second = await call(system.channel, request, metadata=metadata)
    assert (first.replayed, second.replayed) == (False, True)
    assert second.message == first.message


async def test_a_quoted_key_and_a_bare_one_are_one_key(system: System) -> None:
    request = create_request(system.fresh_seats())
    first = await call(system.channel, request, metadata=(("idempotency-key", "same"),))
    second = await call(system.channel, request, metadata=(("idempotency-key", '"same"'),))
    assert (second.replayed, second.message) == (True, first.message)


async def test_a_create_without_key_is_known_by_its_reservation_token_and_content(system: System) -> None:
    request = create_request(system.fresh_seats(), reservation_token="rtkn_xyz789")
    first, second = await call(system.channel, request), await call(system.channel, request)
    assert (second.replayed, second.message) == (True, first.message)
    other = await call(system.channel, create_request(system.fresh_seats(), reservation_token="rtkn_xyz789"))
    assert not other.replayed


async def test_an_equal_extension_extends_once_only_if_it_has_a_key(system: System) -> None:
    held = await hold(system.channel, system.fresh_seats())
    keyed = messages.ExtendHoldRequest(reservation_id=held, extension_seconds=30, idempotency_key="k-extend")
    first, second = await call(system.channel, keyed), await call(system.channel, keyed)
    assert (first.replayed, second.replayed) == (False, True)
    assert second.message == first.message
    keyless = await call(system.channel, replace(keyed, idempotency_key=""))
    assert not keyless.replayed
    assert keyless.message.new_expires_at == first.message.new_expires_at + timedelta(seconds=30)


async def test_two_equal_creates_with_neither_are_two_requests(system: System) -> None:
    request = create_request(system.fresh_seats())
    await call(system.channel, request)
    assert (await refusal(call(system.channel, request))).reason == "SEAT_UNAVAILABLE"


async def test_a_key_belongs_to_its_user_and_its_method(system: System) -> None:
    held = await hold(system.channel, system.fresh_seats(), user_id="ann", idempotency_key="shared")
    await hold(system.channel, system.fresh_seats(), user_id="bob", idempotency_key="shared")
    cancel = messages.CancelReservationRequest(reservation_id=held, user_id="ann", idempotency_key="shared")
    assert not (await call(system.channel, cancel)).replayed


@pytest.mark.parametrize(
    "request_of_held",
    [
        messages.ConfirmReservationRequest(payment_intent_id="pay_1"),
        messages.CancelReservationRequest(reason="changed my mind"),
    ],
    ids=["confirm", "cancel"],
)
@pytest.mark.parametrize("key", ["k", ""], ids=["keyed", "keyless"])
async def test_a_second_confirm_or_cancel_answers_as_the_first_and_is_marked_if_it_has_a_key(
    system: System, request_of_held: Any, key: str
) -> None:
    held = await hold(system.channel, system.fresh_seats())
    request = replace(request_of_held, reservation_id=held, idempotency_key=key and f"{key}-{held}")
    first, second = await call(system.channel, request), await call(system.channel, request)
    assert (first.replayed, second.replayed) == (False, bool(key))
    assert second.message == first.message


@pytest.mark.parametrize("processes", [1, 2])
async def test_of_fifty_equal_creates_at_once_one_takes_effect_and_the_others_are_its_replays(
    system: System, processes: int
) -> None:
    before = await system.items("reservations")
    request = create_request(system.fresh_seats(2), idempotency_key=f"storm-{processes}")
    async with serving(system.settings) as second:
        channels = [system.channel, second.channel][:processes]
        answers = await asyncio.gather(*(call(channels[i % processes], request) for i in range(50)))
    assert len({bytes(answer.message) for answer in answers}) == 1
    assert sum(answer.replayed for answer in answers) == 49
    assert len(await system.items("reservations")) == len(before) + 1


# Whose reservation it is


async def test_another_users_reservation_does_not_exist(system: System) -> None:
    held = await hold(system.channel, system.fresh_seats(), user_id="ann")
    for request in _touching(held, user_id="bob"):
        refused = await refusal(call(system.channel, request))
        assert (refused.status, refused.reason) == (grpc.StatusCode.NOT_FOUND, "RESERVATION_NOT_FOUND")
    seen = await call(system.channel, messages.GetReservationRequest(reservation_id=held, user_id="ann"))
    assert seen.message.status is messages.ReservationStatus.HOLD


async def test_a_direct_caller_that_names_nobody_may_touch_every_reservation(system: System) -> None:
    for position in range(4):
        held = await hold(system.channel, system.fresh_seats(), user_id="ann")
        await call(system.channel, _touching(held)[position])


async def test_through_the_edge_whoever_names_nobody_is_anonymous(system: System) -> None:
    of_ann = await hold(system.channel, system.fresh_seats(), user_id="ann")
    for request in _touching(of_ann):
        refused = await refusal(call(system.channel, request, metadata=VIA_EDGE))
        assert refused.reason == "RESERVATION_NOT_FOUND"
    of_nobody = await hold(system.channel, system.fresh_seats())
    read = messages.GetReservationRequest(reservation_id=of_nobody)
    assert (await call(system.channel, read, metadata=VIA_EDGE)).message.user_id == "anonymous"


async def test_through_the_edge_a_create_needs_a_key_and_nothing_else_does(system: System) -> None:
    request = create_request(system.fresh_seats())
    refused = await refusal(call(system.channel, request, metadata=VIA_EDGE))
    assert (refused.status, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "MISSING_IDEMPOTENCY_KEY")
    created = await call(system.channel, request, metadata=(*VIA_EDGE, ("idempotency-key", "k")))
    cancel = messages.CancelReservationRequest(reservation_id=created.message.reservation_id)
    await call(system.channel, cancel, metadata=VIA_EDGE)


async def test_a_forged_rest_path_changes_the_form_of_a_refusal_and_nothing_else(system: System) -> None:
    request = messages.GetReservationRequest(reservation_id="rsv_nobody")
    plain = await refusal(call(system.channel, request))
    path: Metadata = (("x-envoy-original-path", "/v1/forged?secret=1"),)
    forged = await refusal(call(system.channel, request, metadata=path))
    assert (forged.status, forged.text) == (plain.status, plain.text)
    error = json.loads(forged.trailing["x-error-body"])["error"]
    assert (error["code"], error["path"]) == (plain.reason, "/v1/forged")


# As people try it, with grpcurl


async def test_the_documented_line_creates_a_reservation(ministack_url: str) -> None:
    async with selling(own_settings(ministack_url)) as system:
        request = '{"event_id":"evt_2025_1001","quantity":2,"seat_ids":["A-12","A-13"]}'
        told = await _shell(
            f"grpcurl -plaintext -d '{request}' {system.address} {PACKAGE}.ReservationService/CreateReservation"
        )
    answer = json.loads(told)
    assert system.address.startswith("localhost:")
    assert (answer["status"], answer["seatIds"]) == ("HOLD", ["A-12", "A-13"])


async def test_reflection_lists_and_describes_every_service(system: System) -> None:
    listed = await _shell(f"grpcurl -plaintext {system.address} list")
    assert listed.split() == [
        f"{PACKAGE}.InventoryService",
        f"{PACKAGE}.ReservationService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    ]
    for symbol, line in (
        (f"{PACKAGE}.ReservationService", f"rpc WatchReservation ( .{PACKAGE}.WatchReservationRequest )"),
        (f"{PACKAGE}.InventoryService", f"rpc ListSeats ( .{PACKAGE}.ListSeatsRequest )"),
        (f"{PACKAGE}.CreateReservationRequest", "repeated string seat_ids = 2;"),
        ("grpc.health.v1.Health", "rpc Check ( .grpc.health.v1.HealthCheckRequest )"),
        ("grpc.reflection.v1alpha.ServerReflection", "rpc ServerReflectionInfo"),
    ):
        assert line in await _shell(f"grpcurl -plaintext {system.address} describe {symbol}")


async def test_health_lists_its_names(system: System) -> None:
    readiness = watch_health(system.channel, "readiness")
    await becomes(readiness, health_pb2.HealthCheckResponse.SERVING)
    readiness.cancel()
    told = await health_pb2_grpc.HealthStub(system.channel).List(health_pb2.HealthListRequest())
    serving = health_pb2.HealthCheckResponse.SERVING
    listed = {name: state.status for name, state in told.statuses.items()}
    assert listed == {"": serving, "liveness": serving, "readiness": serving}


async def test_health_answers_for_each_of_its_names(system: System) -> None:
    readiness = watch_health(system.channel, "readiness")
    await becomes(readiness, health_pb2.HealthCheckResponse.SERVING)
    readiness.cancel()
    for name in ("", "liveness", "readiness"):
        asked = shlex.quote(json.dumps({"service": name}))
        told = await _shell(f"grpcurl -plaintext -d {asked} {system.address} grpc.health.v1.Health/Check")
        assert json.loads(told) == {"status": "SERVING"}


def _krw(amount: int) -> messages.Money:
    return messages.Money(amount=amount, currency="KRW")


def _seats(seat_ids: list[str], status: messages.SeatStatus) -> list[messages.Seat]:
    """Seats of the demo event's dearer rows."""
    return [
        messages.Seat(id=each, section="Floor", row=each[0], number=each[2:], price=_krw(120_000), status=status)
        for each in seat_ids
    ]


def _touching(reservation_id: str, user_id: str = "") -> list[Any]:
    """One request of each kind that needs to own the reservation."""
    return [
        messages.GetReservationRequest(reservation_id=reservation_id, user_id=user_id),
        messages.ConfirmReservationRequest(reservation_id=reservation_id, payment_intent_id="pay_1", user_id=user_id),
        messages.CancelReservationRequest(reservation_id=reservation_id, user_id=user_id),
        messages.ExtendHoldRequest(reservation_id=reservation_id, extension_seconds=30, user_id=user_id),
    ]


async def _shell(command: str) -> str:
    process = await asyncio.create_subprocess_shell(
        command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    told, _ = await process.communicate()
    assert process.returncode == 0, told.decode()
    return told.decode()
