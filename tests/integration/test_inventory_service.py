"""InventoryService over a real channel: what a service that sells from this inventory is answered."""

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
import pytest_asyncio

from reservation.catalog import Catalog
from reservation.domain.model import Event, Money, Seat
from reservation.gen.com.traffic_tacos.reservation import v1 as messages
from tests.support.system import EVENT_ID, System, call, create_request, hold, own_settings, refusal, selling

pytestmark = pytest.mark.asyncio(loop_scope="module")

HOLD, CONFIRMED = messages.ReservationStatus.HOLD, messages.ReservationStatus.CONFIRMED
CANCELLED = messages.ReservationStatus.CANCELLED
PLACES = tuple(Seat(f"P-{number}", "Pit", "", "", Money(50_000, "KRW")) for number in range(1, 5))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(ministack_url: str) -> AsyncIterator[System]:
    async with selling(own_settings(ministack_url)) as system:
        yield system


def reserve(name: str, seat_ids: Sequence[str], **fields: Any) -> messages.ReserveSeatRequest:
    wanted = {"reservation_id": name, "event_id": EVENT_ID, "seat_ids": list(seat_ids)} | fields
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


# A choice of seats


async def test_seats_are_chosen_held_and_told_again_when_asked_again(system: System) -> None:
    first = (await call(system.channel, reserve("rsv_wish", [], quantity=3, section="Standing"))).message
    assert (first.hold_id, first.status) == ("hld_rsv_wish", HOLD)
    assert {(seat.section, seat.row, seat.status.name) for seat in first.reserved_seats} == {("Standing", "", "HELD")}
    assert len({seat.id for seat in first.reserved_seats}) == 3
    for again in (
        reserve("rsv_wish", [], quantity=3, section="Standing"),
        reserve("rsv_wish", [], quantity=3),
        reserve("rsv_wish", [seat.id for seat in first.reserved_seats]),
    ):
        assert (await call(system.channel, again)).message == first
    held = [item for item in await system.items("inventory") if item.get("holder", {}).get("S") == first.hold_id]
    assert len(held) == 3


@pytest.mark.parametrize(
    "other", [{"quantity": 3}, {"quantity": 2, "section": "Floor"}, {"seat_ids": ["A-50"]}], ids=str
)
async def test_the_same_id_with_another_wish_is_refused(system: System, other: dict[str, Any]) -> None:
    name = "rsv_other_wish"
    await call(system.channel, reserve(name, [], quantity=2, section="Standing"))
    refused = await refusal(call(system.channel, reserve(name, **({"seat_ids": []} | other))))
    assert (refused.status, refused.reason) == (grpc.StatusCode.ALREADY_EXISTS, "IDEMPOTENCY_CONFLICT")


async def test_a_wish_is_extended_by_the_same_request_with_a_later_end(system: System) -> None:
    ends_at = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=30)
    wish: dict[str, Any] = {"quantity": 2, "section": "Standing"}
    first = (await call(system.channel, reserve("rsv_longer", [], hold_expires_at=ends_at, **wish))).message
    later = ends_at + timedelta(seconds=30)
    extended = (await call(system.channel, reserve("rsv_longer", [], hold_expires_at=later, **wish))).message
    assert (extended.reserved_seats, extended.hold_expires_at) == (first.reserved_seats, later)


async def test_a_wish_for_what_is_not_there_is_refused_for_good(system: System) -> None:
    refused = await refusal(call(system.channel, reserve("rsv_nowhere", [], quantity=1, section="Balcony")))
    assert (refused.reason, refused.violations) == ("INVALID_REQUEST", ("section",))
    await system.put_on_sale(Catalog(Event("evt_small"), PLACES))
    await call(system.channel, reserve("rsv_all", [], event_id="evt_small", quantity=4))
    refused = await refusal(call(system.channel, reserve("rsv_late", [], event_id="evt_small", quantity=1)))
    assert (refused.reason, refused.facts) == ("SEAT_UNAVAILABLE", {"seat_ids": ""})


# What the event allows


BY_ID_OR_QUANTITY = pytest.mark.parametrize("wanted", [{"seat_ids": ["P-1"]}, {"seat_ids": [], "quantity": 1}], ids=str)


@BY_ID_OR_QUANTITY
@pytest.mark.parametrize(
    "event",
    [Event("evt_early", sale_starts_at=9_999_999_999_000), Event("evt_over", sale_ends_at=1_000)],
    ids=["early", "over"],
)
async def test_before_and_after_its_sale_an_event_sells_nothing_to_services_either(
    system: System, event: Event, wanted: dict[str, Any]
) -> None:
    await system.put_on_sale(Catalog(event, PLACES))
    refused = await refusal(call(system.channel, reserve("rsv_closed", event_id=event.id, **wanted)))
    assert (refused.status, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "SALE_NOT_OPEN")


@pytest.mark.parametrize(
    ("wanted", "field"),
    [({"seat_ids": ["P-1", "P-2", "P-3"]}, "seat_ids"), ({"seat_ids": [], "quantity": 3}, "quantity")],
)
async def test_no_service_gets_more_seats_than_the_event_allows(
    system: System, wanted: dict[str, Any], field: str
) -> None:
    await system.put_on_sale(Catalog(Event("evt_two_each", max_seats=2), PLACES))
    refused = await refusal(call(system.channel, reserve("rsv_three", event_id="evt_two_each", **wanted)))
    assert (refused.reason, refused.violations) == ("INVALID_REQUEST", (field,))


@BY_ID_OR_QUANTITY
async def test_a_users_holds_are_limited_whoever_asks_for_them_and_asking_again_takes_no_other(
    system: System, wanted: dict[str, Any]
) -> None:
    event_id = f"evt_once_{len(wanted['seat_ids'])}"
    await system.put_on_sale(Catalog(Event(event_id, max_holds_per_user=1), PLACES))
    first = reserve(f"rsv_{event_id}", ["P-4"], event_id=event_id, user_id="ann")
    assert (await call(system.channel, first)).message == (await call(system.channel, first)).message
    second = reserve(f"rsv_{event_id}_2", event_id=event_id, user_id="ann", **wanted)
    refused = await refusal(call(system.channel, second))
    assert (refused.status, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "HOLD_LIMIT_REACHED")
    await call(system.channel, release(first.reservation_id, event_id=event_id))
    await call(system.channel, second)
