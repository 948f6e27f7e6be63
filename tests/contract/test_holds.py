"""Seats that another service sells from this inventory: held, sold and given back once, by its own reservation id."""

import asyncio

import pytest

from reservation.domain.errors import (
    EventNotFound,
    IdempotencyConflict,
    InvalidRequest,
    ReservationAlreadyCancelled,
    ReservationAlreadyConfirmed,
    ReservationError,
    ReservationExpired,
    ReservationNotFound,
    SeatUnavailable,
    ServiceUnavailable,
)
from reservation.domain.model import Status, Wish
from tests.contract.test_audit import broken_of
from tests.support.invariants import violations
from tests.support.store import EVENT, HOLD_MS, NOW, SettableClock, Venue, soon

DEADLINE = NOW + HOLD_MS
LONGEST = NOW + 300_000


async def test_seats_are_held_until_the_time_that_was_asked_for(venue: Venue) -> None:
    hold = await venue.party().reserve("rsv_1", "A-1", "A-2", until=NOW + 7_000)
    assert (hold.id, hold.status, hold.hold_expires_at) == ("hld_rsv_1", Status.HOLD, NOW + 7_000)
    assert [seat.price for seat in hold.seats] == [seat.price for seat in hold.seats if seat.price.amount == 120_000]
    seat = await venue.seat("A-1")
    assert (seat["status"], seat["holder"]) == ({"S": "HELD"}, {"S": "hld_rsv_1"})
    with pytest.raises(SeatUnavailable):
        await venue.party().create("A-2")
    rows = await venue.rows()
    assert (rows.outbox, rows.orders, rows.idempotency) == ((), (), ())
    assert violations(rows) == []


async def test_without_a_time_it_ends_as_our_own_holds_do(venue: Venue) -> None:
    assert (await venue.party().reserve("rsv_1", "A-1")).hold_expires_at == DEADLINE


async def test_a_hold_never_shares_an_id_with_our_own_reservations(venue: Venue) -> None:
    own = (await venue.party().create("A-1")).reservation
    hold = await venue.party().reserve(own.id, "A-2")
    assert hold.id != own.id
    await venue.party().release(own.id)
    assert await venue.party().get(own.id) == own
    assert violations(await venue.rows()) == []


async def test_equal_requests_answer_the_same_hold(venue: Venue) -> None:
    first = await venue.party().reserve("rsv_1", "A-1", "A-2", until=DEADLINE)
    venue.clock.advance(1_000)
    before = await venue.rows()
    assert await venue.party().reserve("rsv_1", "A-2", "A-1", until=DEADLINE) == first
    assert await venue.party().reserve("rsv_1", "A-1", "A-2") == first
    assert await venue.rows() == before


async def test_of_twenty_equal_requests_at_once_one_takes_the_seats_and_all_answer_it(venue: Venue) -> None:
    async with venue.behind(hold=0.002) as (_, client):
        parties = [venue.party(client), venue.party(client)]
        asked = (parties[n % 2].reserve("rsv_1", "A-1", "A-2", until=DEADLINE) for n in range(20))
        answers = await asyncio.gather(*asked)
    assert {(hold.id, hold.op_id, hold.version) for hold in answers} == {("hld_rsv_1", answers[0].op_id, 1)}
    assert violations(await venue.rows()) == []


@pytest.mark.parametrize("quantity", [2, 8], ids=["some", "all there are"])
async def test_of_twenty_equal_wishes_at_once_one_is_fulfilled_and_all_answer_it(venue: Venue, quantity: int) -> None:
    """Each process chooses other seats, and finds out that the hold is there already."""
    async with venue.behind(hold=0.002) as (_, client):
        parties = [venue.party(client, stripe=(rank, 2)) for rank in range(2)]
        wish = Wish(quantity, allow_split=True)
        asked = (parties[n % 2].reserve("rsv_1", until=DEADLINE, wish=wish) for n in range(20))
        answers = await asyncio.gather(*asked)
    assert {(hold.id, hold.op_id, hold.seat_ids) for hold in answers} == {
        ("hld_rsv_1", answers[0].op_id, answers[0].seat_ids)
    }
    rows = await venue.rows()
    assert sum(seat["status"]["S"] == "HELD" for seat in rows.seats.values()) == quantity
    assert violations(rows) == []


async def test_a_later_time_extends_the_hold_and_an_earlier_one_never_shortens_it(venue: Venue) -> None:
    await venue.party().reserve("rsv_1", "A-1", "A-2", until=DEADLINE)
    extended = await venue.party().reserve("rsv_1", "A-1", "A-2", until=DEADLINE + 20_000)
    assert (extended.hold_expires_at, extended.version) == (DEADLINE + 20_000, 2)
    assert await venue.party().reserve("rsv_1", "A-1", "A-2", until=DEADLINE + 10_000) == extended
    assert (await venue.seat("A-2"))["holdExpiresAt"] == {"N": str(DEADLINE + 20_000)}
    venue.clock.advance(HOLD_MS)
    with pytest.raises(SeatUnavailable):
        await venue.party().create("A-1")
    assert (await venue.party().commit("rsv_1")).status is Status.CONFIRMED
    assert violations(await venue.rows()) == []


@pytest.mark.parametrize(("seat_ids", "event"), [(("A-1",), EVENT.id), (("A-1", "A-3"), EVENT.id), (("A-1",), "evt_2")])
async def test_the_same_id_with_other_content_is_refused(venue: Venue, seat_ids: tuple[str, ...], event: str) -> None:
    await venue.party().reserve("rsv_1", "A-1", "A-2")
    before = await venue.rows()
    for command in ("reserve", "commit", "release"):
        with pytest.raises(IdempotencyConflict):
            await getattr(venue.party(), command)("rsv_1", *seat_ids, event=event)
    for command in ("commit", "release"):
        with pytest.raises(IdempotencyConflict):
            await getattr(venue.party(), command)("rsv_1", quantity=3)
    assert await venue.rows() == before


@pytest.mark.parametrize(("until", "error"), [(NOW, ReservationExpired), (LONGEST + 1, InvalidRequest)])
async def test_no_hold_ends_before_it_begins_or_lasts_longer_than_any_may(
    venue: Venue, until: int, error: type[ReservationError]
) -> None:
    with pytest.raises(error):
        await venue.party().reserve("rsv_1", "A-1", until=until)
    await venue.party().reserve("rsv_2", "A-1", until=LONGEST)


async def test_what_is_not_on_sale_or_taken_is_refused_and_leaves_nothing(venue: Venue) -> None:
    await venue.party().create("A-1")
    before = await venue.rows()
    for seat_ids, event, error in (
        (("A-2", "A-1"), EVENT.id, SeatUnavailable),
        (("A-2", "Z-9"), EVENT.id, InvalidRequest),
        (("A-2",), "evt_nowhere", EventNotFound),
    ):
        with pytest.raises(error):
            await venue.party().reserve("rsv_1", *seat_ids, event=event)
    assert await venue.rows() == before


async def test_a_commit_sells_once_and_answers_every_time(venue: Venue) -> None:
    await venue.party().reserve("rsv_1", "A-1", "A-2")
    sold = await venue.party().commit("rsv_1", "A-2", "A-1", quantity=2)
    assert (sold.status, sold.order_id, sold.payment_intent_id) == (Status.CONFIRMED, "ord_1", "pay_1")
    rows = await venue.rows()
    assert await venue.party().commit("rsv_1") == sold
    with pytest.raises(ReservationAlreadyConfirmed):
        await venue.party().commit("rsv_1", payment="pay_2")
    assert await venue.rows() == rows
    assert [rows.seats[f"{EVENT.id}#{seat_id}"]["status"] for seat_id in ("A-1", "A-2")] == [{"S": "SOLD"}] * 2
    assert (rows.outbox, rows.orders) == ((), ())
    assert violations(rows) == []


async def test_what_is_sold_is_not_released(venue: Venue) -> None:
    await venue.party().reserve("rsv_1", "A-1")
    await venue.party().commit("rsv_1")
    before = await venue.rows()
    with pytest.raises(ReservationAlreadyConfirmed):
        await venue.party().release("rsv_1")
    with pytest.raises(ReservationAlreadyConfirmed):
        await venue.party().reserve("rsv_1", "A-1", until=LONGEST)
    assert await venue.rows() == before


async def test_a_release_frees_once_and_never_what_somebody_else_has_by_now(venue: Venue) -> None:
    await venue.party().reserve("rsv_1", "A-1", "A-2")
    released = await venue.party().release("rsv_1", "A-1", "A-2", reason="changed my mind")
    assert (released.status, released.reason) == (Status.CANCELLED, "changed my mind")
    other = (await venue.party().create("A-1")).reservation
    before = await venue.rows()
    assert (await venue.party().release("rsv_1")).op_id == released.op_id
    for again in (venue.party().reserve("rsv_1", "A-1", "A-2"), venue.party().commit("rsv_1")):
        with pytest.raises(ReservationAlreadyCancelled):
            await again
    assert await venue.rows() == before
    assert (await venue.party().confirm(other.id)).reservation.status is Status.CONFIRMED
    assert violations(await venue.rows()) == []


async def test_a_release_that_comes_before_its_reserve_leaves_it_nothing_to_do(venue: Venue) -> None:
    """The caller has given up on a reserve that is still on its way."""
    for _ in range(2):
        released = await venue.party().release("rsv_1", "A-1")
        assert (released.status, released.seats) == (Status.CANCELLED, ())
    for late in (venue.party().reserve("rsv_1", "A-1"), venue.party().commit("rsv_1", "A-1")):
        with pytest.raises(ReservationAlreadyCancelled):
            await late
    assert (await venue.seat("A-1"))["status"] == {"S": "AVAILABLE"}
    assert violations(await venue.rows()) == []


async def test_a_release_that_comes_before_its_wish_leaves_nothing_to_choose(venue: Venue) -> None:
    await venue.party().release("rsv_1")
    with pytest.raises(ReservationAlreadyCancelled):
        await venue.party().reserve("rsv_1", wish=Wish(2))
    assert {seat["status"]["S"] for seat in (await venue.rows()).seats.values()} == {"AVAILABLE"}


async def test_what_was_never_held_is_not_sold(venue: Venue) -> None:
    with pytest.raises(ReservationNotFound):
        await venue.party().commit("rsv_1", "A-1")
    assert (await venue.rows()).reservations == ()


@pytest.mark.parametrize("settled", [False, True])
async def test_after_its_time_a_hold_is_neither_sold_nor_extended_and_its_release_frees_nothing(
    venue: Venue, settled: bool
) -> None:
    hold = await venue.party().reserve("rsv_1", "A-1", "A-2")
    venue.clock.advance(HOLD_MS)
    if settled:
        await venue.party().service.expire(hold, soon())
    other = (await venue.party().create("A-2")).reservation
    for late in (venue.party().reserve("rsv_1", "A-1", "A-2", until=DEADLINE + 1_000), venue.party().commit("rsv_1")):
        with pytest.raises(ReservationExpired):
            await late
    assert (await venue.party().release("rsv_1")).status is Status.EXPIRED
    rows = await venue.rows()
    assert rows.seats[f"{EVENT.id}#A-2"]["holder"] == {"S": other.id}
    assert rows.seats[f"{EVENT.id}#A-1"]["status"] == {"S": "AVAILABLE"}
    assert [row["reservationId"]["S"] for row in rows.outbox] == [other.id]
    assert violations(rows, now=DEADLINE) == []


async def test_a_hold_whose_seat_was_taken_over_is_not_sold_whatever_the_clock_says(venue: Venue) -> None:
    await venue.party().reserve("rsv_1", "A-1", "A-2")
    await venue.party(clock=SettableClock(DEADLINE)).create("A-2")
    with pytest.raises(ReservationExpired):
        await venue.party().commit("rsv_1")
    assert (await venue.seat("A-1"))["status"] == {"S": "HELD"}


async def test_it_ends_on_time_like_any_other_and_without_an_event(venue: Venue) -> None:
    hold = await venue.party(shard="0003").reserve("rsv_1", "A-1")
    (due,) = (await venue.party().service.due("0003", DEADLINE, None, soon())).holds
    assert due == hold
    venue.clock.advance(HOLD_MS)
    assert (await venue.party().service.expire(due, soon())).status is Status.EXPIRED
    rows = await venue.rows()
    assert rows.seats[f"{EVENT.id}#A-1"]["status"] == {"S": "AVAILABLE"}
    assert rows.outbox == ()
    assert violations(rows) == []


async def test_no_customer_sees_or_touches_it_even_the_one_it_is_for(venue: Venue) -> None:
    hold = await venue.party().reserve("rsv_1", "A-1", user="ann")
    for touch in ("get", "confirm", "cancel"):
        with pytest.raises(ReservationNotFound):
            await getattr(venue.party(), touch)(hold.id, owner="ann")
    (item,) = (await venue.rows()).reservations
    assert ("userId" in item, item["heldFor"]) == (False, {"S": "ann"})


async def test_a_process_whose_clock_is_not_trusted_holds_and_sells_nothing(venue: Venue) -> None:
    await venue.party().reserve("rsv_1", "A-1")
    before = await venue.rows()
    wrong = venue.party(clock=SettableClock(NOW, trusted=False))
    for command in (wrong.reserve("rsv_2", "A-2"), wrong.commit("rsv_1"), wrong.release("rsv_1")):
        with pytest.raises(ServiceUnavailable):
            await command
    assert await venue.rows() == before


async def test_the_audit_finds_nothing_wrong_with_holds_of_every_kind(venue: Venue) -> None:
    party = venue.party()
    await party.reserve("rsv_1", "A-1")
    await party.reserve("rsv_2", "A-2")
    await party.commit("rsv_2")
    await party.reserve("rsv_3", "A-3")
    await party.release("rsv_3")
    await party.release("rsv_4")
    assert await broken_of(venue) == []


async def test_the_audit_finds_a_hold_that_lost_its_seat(venue: Venue) -> None:
    await venue.party().reserve("rsv_1", "A-1")
    await venue.put(venue.tables.inventory, (await venue.seat("A-1")) | {"holder": {"S": "hld_rsv_9"}})
    assert {finding.kind for finding in await broken_of(venue)} == {
        "seat-without-reservation",
        "reservation-without-seats",
    }
