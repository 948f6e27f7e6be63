"""A seat that is off sale is nobody's to buy, and one that somebody has is not the operator's to take."""

import pytest

from reservation.domain.errors import SeatUnavailable
from reservation.domain.model import SeatStatus, Status, Wish
from reservation.dynamodb.events import SeatBlocks
from reservation.dynamodb.items import seat_state_from_item
from tests.support.faults import LoseReply, Request
from tests.support.invariants import violations
from tests.support.store import EVENT, HOLD_MS, SEATS, Party, SettableClock, Venue, in_the_last_moment, soon

AVAILABLE, BLOCKED = SeatStatus.AVAILABLE, SeatStatus.BLOCKED


def blocks(venue: Venue) -> SeatBlocks:
    return SeatBlocks(venue.client, venue.tables.inventory, now=venue.clock.now)


async def status(venue: Venue, seat_id: str) -> SeatStatus:
    return seat_state_from_item(await venue.seat(seat_id)).status


async def shown(party: Party, seat_id: str) -> SeatStatus:
    hall = await party.halls.hall(EVENT.id, soon())
    return {seat.id: status for seat, status in hall.seats(now=party.clock.now())[0]}[seat_id]


async def test_a_blocked_seat_is_refused_not_chosen_and_not_counted_as_free(venue: Venue) -> None:
    assert await blocks(venue).block(EVENT.id, "A-4")
    party = venue.party()
    with pytest.raises(SeatUnavailable) as refused:
        await party.create("A-3", "A-4")
    assert refused.value.seat_ids == ("A-4",)
    (count,) = (await party.halls.hall(EVENT.id, soon())).counts(venue.clock.now())
    assert (count.available, count.held, count.blocked, count.total) == (7, 0, 1, 8)
    wish = Wish(1)
    chosen = [(await party.create(wish=wish)).reservation.seat_ids for _ in range(7)]
    assert {seat_id for each in chosen for seat_id in each} == {seat.id for seat in SEATS} - {"A-4"}
    with pytest.raises(SeatUnavailable):
        await party.create(wish=wish)
    assert violations(await venue.rows()) == []


async def test_an_unblocked_seat_is_on_sale_again_for_everybody(venue: Venue) -> None:
    one, two = venue.party(), venue.party()
    assert await blocks(venue).block(EVENT.id, "A-1")
    for party in (one, two):
        assert await shown(party, "A-1") is BLOCKED
        with pytest.raises(SeatUnavailable):
            await party.create("A-1")
    assert await blocks(venue).unblock(EVENT.id, "A-1")
    await one.halls.flush()  # what it learnt from its refusal is out of date by now
    venue.clock.advance(2_001)
    assert [await shown(party, "A-1") for party in (one, two)] == [AVAILABLE, AVAILABLE]
    assert (await two.create("A-1")).reservation.seat_ids == ("A-1",)


async def test_a_seat_that_is_held_or_sold_is_neither_blocked_nor_freed(venue: Venue) -> None:
    party = venue.party()
    held = (await party.create("A-1")).reservation
    await party.confirm((await party.create("A-2")).reservation.id)
    venue.clock.advance(HOLD_MS - 1)
    before = (await venue.rows()).seats
    for seat_id in ("A-1", "A-2", "Z-99", ""):
        assert not await blocks(venue).block(EVENT.id, seat_id)
        assert not await blocks(venue).unblock(EVENT.id, seat_id)
    assert (await venue.rows()).seats == before
    assert (await in_the_last_moment(lambda: party.confirm(held.id))).reservation.status is Status.CONFIRMED


async def test_a_hold_that_has_passed_may_be_blocked_and_its_expiry_leaves_that_be(venue: Venue) -> None:
    party = venue.party()
    held = (await party.create("A-1", "A-2")).reservation
    await party.halls.flush()
    venue.clock.advance(HOLD_MS)
    assert await blocks(venue).block(EVENT.id, "A-1")
    assert (await party.service.expire(held, soon())).status is Status.EXPIRED
    assert [await status(venue, seat_id) for seat_id in ("A-1", "A-2")] == [BLOCKED, AVAILABLE]
    assert (await venue.rows()).details(held.id)[-1]["releasedSeats"] == ["A-2"]
    await party.halls.flush()
    venue.clock.advance(2_001)
    assert await shown(party, "A-1") is BLOCKED
    assert violations(await venue.rows(), now=venue.clock.now()) == []


async def test_it_goes_by_the_clock_that_it_is_given_and_no_other(venue: Venue) -> None:
    """By that of a machine that is a minute ahead, a hold of a minute has passed."""
    await venue.party().create("A-1")
    clock = SettableClock(venue.clock.now() + HOLD_MS - 1)
    ahead = SeatBlocks(venue.client, venue.tables.inventory, now=clock.now)
    assert not await ahead.block(EVENT.id, "A-1")
    clock.advance(1)
    assert await ahead.block(EVENT.id, "A-1")


def update(request: Request) -> bool:
    return request.operation == "UpdateItem"


async def test_a_lost_reply_is_no_refusal(venue: Venue) -> None:
    async with venue.behind() as (proxy, client):
        through = SeatBlocks(client, venue.tables.inventory, now=venue.clock.now)
        proxy.script(update, LoseReply())
        assert await through.block(EVENT.id, "A-1")
        assert await status(venue, "A-1") is BLOCKED
        proxy.script(update, LoseReply())
        assert await through.unblock(EVENT.id, "A-1")
    assert await status(venue, "A-1") is AVAILABLE
    assert await shown(venue.party(), "A-1") is AVAILABLE
