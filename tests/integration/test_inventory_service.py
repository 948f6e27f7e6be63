"""InventoryService over a real channel: what a service that sells from this inventory is answered."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
import pytest_asyncio

from reservation.gen.com.traffic_tacos.reservation import v1 as messages
from tests.support.system import EVENT_ID, System, call, create_request, hold, own_settings, refusal, selling

pytestmark = pytest.mark.asyncio(loop_scope="module")

HOLD, CONFIRMED = messages.ReservationStatus.HOLD, messages.ReservationStatus.CONFIRMED
CANCELLED = messages.ReservationStatus.CANCELLED


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(ministack_url: str) -> AsyncIterator[System]:
    async with selling(own_settings(ministack_url)) as system:
        yield system


def reserve(name: str, seat_ids: list[str], **fields: Any) -> messages.ReserveSeatRequest:
    wanted = {"reservation_id": name, "event_id": EVENT_ID, "seat_ids": seat_ids} | fields
    return messages.ReserveSeatRequest(**wanted)


def commit(name: str, **fields: Any) -> messages.CommitReservationRequest:
    wanted = {"reservation_id": name, "event_id": EVENT_ID, "payment_intent_id": "pay_1"} | fields
    return messages.CommitReservationRequest(**wanted)


def release(name: str, **fields: Any) -> messages.ReleaseHoldRequest:
    return messages.ReleaseHoldRequest(**{"reservation_id": name, "event_id": EVENT_ID} | fields)


def _seats(seat_ids: list[str], status: messages.SeatStatus) -> list[messages.Seat]:
    price = messages.Money(amount=120_000, currency="KRW")
    return [
        messages.Seat(id=each, section="Floor", row=each[0], number=each[2:], price=price, status=status)
        for each in seat_ids
    ]


async def test_seats_are_held_and_sold_through_the_generated_stub(system: System) -> None:
    stub: Any = messages.InventoryServiceStub(system.channel)
    seat_ids = system.fresh_seats(2)
    ends_at = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=30)
    held = await stub.reserve_seat(reserve("rsv_sold", seat_ids, quantity=2, hold_expires_at=ends_at, user_id="ann"))
    assert held == messages.ReserveSeatResponse(
        hold_id="hld_rsv_sold",
        reserved_seats=_seats(seat_ids, messages.SeatStatus.HELD),
        hold_expires_at=ends_at,
        status=HOLD,
    )
    refused = await refusal(call(system.channel, create_request(seat_ids)))
    assert (refused.reason, refused.facts["seat_ids"]) == ("SEAT_UNAVAILABLE", ",".join(seat_ids))
    sold = await stub.commit_reservation(commit("rsv_sold", seat_ids=seat_ids))
    assert sold == messages.CommitReservationResponse(
        order_id="ord_sold",
        sold_seats=_seats(seat_ids, messages.SeatStatus.SOLD),
        status=CONFIRMED,
        committed_at=sold.committed_at,
    )
    assert await stub.commit_reservation(commit("rsv_sold")) == sold


async def test_a_released_hold_tells_its_seats_and_returns_them(system: System) -> None:
    seat_ids = system.fresh_seats(2)
    await call(system.channel, reserve("rsv_back", seat_ids))
    first = (await call(system.channel, release("rsv_back", reason="changed my mind"))).message
    assert first == messages.ReleaseHoldResponse(
        released_seats=_seats(seat_ids, messages.SeatStatus.AVAILABLE),
        status=CANCELLED,
        released_at=first.released_at,
    )
    assert (await call(system.channel, release("rsv_back"))).message == first
    await hold(system.channel, seat_ids)


async def test_a_release_of_what_is_not_there_succeeds_and_releases_nothing(system: System) -> None:
    answer = (await call(system.channel, release("rsv_never"))).message
    assert (answer.status, answer.released_seats) == (CANCELLED, [])


async def test_a_hold_that_would_be_over_before_it_begins_is_refused(system: System) -> None:
    past = datetime(2020, 1, 1, tzinfo=UTC)
    refused = await refusal(call(system.channel, reserve("rsv_late", system.fresh_seats(), hold_expires_at=past)))
    assert (refused.status, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "RESERVATION_EXPIRED")


async def test_bad_requests_name_their_fields(system: System) -> None:
    refused = await refusal(call(system.channel, messages.CommitReservationRequest(quantity=-1)))
    assert refused.violations == ("reservation_id", "event_id", "payment_intent_id", "quantity")
    far = datetime.now(UTC) + timedelta(days=1)
    refused = await refusal(call(system.channel, reserve("rsv_far", system.fresh_seats(), hold_expires_at=far)))
    assert refused.violations == ("hold_expires_at",)


@pytest.mark.parametrize("request_of", [reserve("rsv_e", ["A-1"]), commit("rsv_e"), release("rsv_e")])
async def test_customers_who_come_through_the_edge_may_not_sell_from_it(system: System, request_of: Any) -> None:
    before = await system.items("reservations")
    refused = await refusal(call(system.channel, request_of, metadata=(("x-edge", "1"),)))
    assert (refused.status, refused.reason) == (grpc.StatusCode.PERMISSION_DENIED, "FORBIDDEN")
    assert await system.items("reservations") == before


async def test_a_choice_of_seats_is_not_served_yet(system: System) -> None:
    refused = await refusal(call(system.channel, reserve("rsv_wish", [], quantity=2)))
    assert refused.status is grpc.StatusCode.UNIMPLEMENTED
