"""A hold ends by the clock alone: no background work exists in any of these tests."""

import pytest

from reservation.domain import model
from reservation.domain.errors import ReservationExpired, SeatUnavailable, ServiceUnavailable, UpstreamTimeout
from reservation.domain.model import Reservation, Status
from reservation.ports import Superseded
from tests.support.invariants import violations
from tests.support.store import HOLD_MS, NOW, SKEW_MS, SettableClock, Venue, in_the_last_moment, soon

HOUR = 3_600_000
DEADLINE = NOW + HOLD_MS
CLOCKS = {"right": 0, "an hour slow": -HOUR, "an hour fast": HOUR}
COMMANDS = ["confirm", "cancel", "extend"]


async def test_a_hold_is_taken_over_at_its_deadline_and_not_a_millisecond_before(venue: Venue) -> None:
    old = (await venue.party().create("A-1", "A-2")).reservation
    venue.clock.advance(HOLD_MS - 1)
    with pytest.raises(SeatUnavailable):
        await venue.party().create("A-1", "A-2", user="user_2")
    venue.clock.advance(1)
    new = (await venue.party().create("A-1", "A-2", user="user_2")).reservation
    rows = await venue.rows()
    assert {rows.seats[f"evt_2025_1001#{seat_id}"]["holder"]["S"] for seat_id in ("A-1", "A-2")} == {new.id}
    assert new.id != old.id
    assert violations(rows, now=DEADLINE) == []


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("clock", CLOCKS)
async def test_who_lost_a_seat_is_refused_whatever_the_clock_says(venue: Venue, clock: str, command: str) -> None:
    """One of its two seats has gone to another customer: the reservation can be neither paid nor given back, and the
    other customer's seats are as before."""
    old = (await venue.party().create("A-1", "A-2")).reservation
    venue.clock.advance(HOLD_MS)
    new = (await venue.party().create("A-2", "A-3", user="user_2")).reservation
    late = venue.party(clock=SettableClock(DEADLINE + CLOCKS[clock]))
    for key in ("", "key_1"):
        with pytest.raises(ReservationExpired):
            await getattr(late, command)(old.id, "pay_1", key=key)
    rows = await venue.rows()
    assert rows.idempotency == ()
    assert violations(rows, now=DEADLINE) == []
    assert (await venue.party().confirm(new.id)).reservation.status is Status.CONFIRMED


@pytest.mark.parametrize("command", COMMANDS)
async def test_a_refusal_for_time_is_final_before_it_is_told(venue: Venue, command: str) -> None:
    """Somebody refunds a payment because of it. So the hold is settled first, and no other clock can confirm it."""
    held = (await venue.party().create("A-1", "A-2")).reservation
    venue.clock.advance(HOLD_MS)
    with pytest.raises(ReservationExpired):
        await getattr(venue.party(), command)(held.id, "pay_1", key="key_1")
    settled = await venue.rows()
    slow = venue.party(clock=SettableClock(NOW))
    for late in (slow.confirm, slow.cancel, slow.extend):
        with pytest.raises(ReservationExpired):
            await late(held.id)
    assert (await slow.get(held.id)).status is Status.EXPIRED
    assert await venue.rows() == settled
    assert [settled.seats[f"evt_2025_1001#{it}"]["status"] for it in ("A-1", "A-2")] == [{"S": "AVAILABLE"}] * 2
    expired = settled.details(held.id)[-1]
    assert (expired["type"], expired["releasedSeats"]) == ("reservation.expired", ["A-1", "A-2"])
    assert settled.idempotency == ()
    assert violations(settled) == []


async def test_a_live_hold_can_be_paid_to_the_last_millisecond(venue: Venue) -> None:
    held = (await venue.party().create("A-1")).reservation
    venue.clock.advance(HOLD_MS - 1)
    told = await in_the_last_moment(lambda: venue.party().confirm(held.id))
    assert told.reservation.status is Status.CONFIRMED


async def test_a_seat_is_sold_only_while_its_own_hold_lasts(venue: Venue) -> None:
    """Whatever its reservation says: the seat's item is the truth about the seat."""
    held = (await venue.party().create("A-1")).reservation
    past = (await venue.seat("A-1")) | {"holdExpiresAt": {"N": str(NOW)}}
    await venue.put(venue.tables.inventory, past)
    sold = model.confirm(held, payment_intent_id="pay_1", now=NOW, op_id="op_confirm")
    assert sold is not None
    with pytest.raises((ServiceUnavailable, UpstreamTimeout)):  # the latter where the store is slower than that
        await venue.party().store.advance(held, sold, None, "", soon(0.3))
    assert await venue.seat("A-1") == past


async def test_a_process_whose_clock_is_not_trusted_changes_nothing(venue: Venue) -> None:
    """An hour fast it would end live holds, and an hour slow it would make holds that are over. It still reads, and
    reports a hold as it is stored."""
    held = (await venue.party().create("A-1")).reservation
    before = await venue.rows()
    for offset in (-HOUR, HOUR):
        wrong = venue.party(clock=SettableClock(NOW + offset, trusted=False))
        for seat_id in ("A-1", "A-2"):
            with pytest.raises(ServiceUnavailable):
                await wrong.create(seat_id, user="user_2", key="key_1")
        for command in (wrong.confirm, wrong.cancel, wrong.extend):
            with pytest.raises(ServiceUnavailable):
                await command(held.id)
        with pytest.raises(ServiceUnavailable):
            await wrong.service.expire(held, soon())
        assert await wrong.get(held.id) == held
    assert await venue.rows() == before


async def test_a_sold_seat_is_never_taken_over(venue: Venue) -> None:
    held = (await venue.party().create("A-1")).reservation
    await venue.party().confirm(held.id)
    for clock in (SettableClock(NOW + 24 * HOUR), SettableClock(NOW - HOUR)):
        with pytest.raises(SeatUnavailable):
            await venue.party(clock=clock).create("A-1", user="user_2")
    assert (await venue.party().get(held.id)).status is Status.CONFIRMED
    assert violations(await venue.rows(), now=NOW + 24 * HOUR) == []


async def test_a_reader_is_told_expired_only_after_the_skew(venue: Venue) -> None:
    held = (await venue.party().create("A-1")).reservation
    venue.clock.advance(HOLD_MS + SKEW_MS)
    assert (await venue.party().get(held.id)).status is Status.HOLD
    venue.clock.advance(1)
    assert (await venue.party().get(held.id)).status is Status.EXPIRED


async def test_a_seat_taken_over_again_and_again_belongs_to_the_last(venue: Venue) -> None:
    holders = []
    for customer in range(4):
        holders.append((await venue.party().create("A-1", user=f"user_{customer}")).reservation)
        venue.clock.advance(HOLD_MS)
    venue.clock.advance(-1)
    for old in holders[:-1]:
        with pytest.raises(ReservationExpired):
            await venue.party(clock=SettableClock(NOW)).confirm(old.id)
    told = await in_the_last_moment(lambda: venue.party().confirm(holders[-1].id))
    assert told.reservation.status is Status.CONFIRMED
    assert violations(await venue.rows(), now=venue.clock.now()) == []


class TestSettling:
    """What records that a hold has run out. It is recorded once, and frees only what the hold still has."""

    async def test_it_writes_the_end_and_its_event_and_frees_the_seats(self, venue: Venue) -> None:
        held = (await venue.party().create("A-1", "A-2", token="rtkn_1")).reservation
        venue.clock.advance(HOLD_MS)
        settled = await venue.party().service.expire(held, soon())
        assert (settled.status, settled.version, settled.updated_at) == (Status.EXPIRED, 2, DEADLINE)
        assert await venue.party().get(held.id) == settled
        rows = await venue.rows()
        assert "expiryShard" not in rows.reservations[0]
        detail = rows.details(held.id)[-1]
        assert (detail["type"], detail["releasedSeats"]) == ("reservation.expired", ["A-1", "A-2"])
        assert detail["reservation"]["status"] == "EXPIRED"
        assert detail["reservationToken"] == "rtkn_1"
        assert violations(rows) == []
        assert (await venue.party().create("A-2", "A-1", user="user_2")).reservation.status is Status.HOLD

    async def test_it_leaves_alone_what_the_next_customer_has(self, venue: Venue) -> None:
        """Of three seats one was taken over, one taken over and sold, and one is still its own. Released by whose they
        are, never by how many: https://github.com/eventespresso/event-espresso-core/pull/2060"""
        held = (await venue.party().create("A-1", "A-2", "A-3")).reservation
        venue.clock.advance(HOLD_MS)
        new = (await venue.party().create("A-1", user="user_2")).reservation
        sold = (await venue.party().create("A-2", user="user_3")).reservation
        await venue.party().confirm(sold.id)
        before = await venue.rows()
        await venue.party().service.expire(held, soon())
        rows = await venue.rows()
        assert rows.details(held.id)[-1]["releasedSeats"] == ["A-3"]
        assert rows.seats["evt_2025_1001#A-1"]["holder"] == {"S": new.id}
        assert {pk for pk, seat in rows.seats.items() if seat != before.seats[pk]} == {"evt_2025_1001#A-3"}
        assert violations(rows, now=DEADLINE) == []

    async def test_it_frees_nothing_when_nothing_is_left(self, venue: Venue) -> None:
        held = (await venue.party().create("A-1")).reservation
        venue.clock.advance(HOLD_MS)
        await venue.party().create("A-1", user="user_2")
        await venue.party().service.expire(held, soon())
        rows = await venue.rows()
        assert rows.details(held.id)[-1]["releasedSeats"] == []
        assert violations(rows) == []

    async def test_it_does_not_come_early(self, venue: Venue) -> None:
        held = (await venue.party().create("A-1")).reservation
        before = await venue.rows()
        venue.clock.advance(HOLD_MS - 1)
        assert await venue.party().service.expire(held, soon()) == held
        with pytest.raises(Superseded):
            await venue.party().store.settle(held, _expired(held), soon())
        assert await venue.rows() == before

    @pytest.mark.parametrize("command", COMMANDS)
    async def test_it_finds_out_what_another_command_made_of_the_hold(self, venue: Venue, command: str) -> None:
        held = (await venue.party().create("A-1")).reservation
        made = (await getattr(venue.party(), command)(held.id)).reservation
        before = await venue.rows()
        venue.clock.advance(HOLD_MS)
        found = await venue.party().service.expire(held, soon())
        assert (found.status, found.version, found.op_id) == (made.status, 2, made.op_id)
        assert await venue.rows() == before

    async def test_it_is_recorded_once(self, venue: Venue) -> None:
        """By whoever comes first; who comes second is told so."""
        held = (await venue.party().create("A-1")).reservation
        venue.clock.advance(HOLD_MS)
        first = await venue.party().service.expire(held, soon())
        venue.clock.advance(1)
        second = await venue.party().service.expire(held, soon())
        assert second.op_id == first.op_id
        rows = await venue.rows()
        assert len(rows.outbox) == 2
        assert violations(rows) == []

    async def test_who_records_it_again_recognises_itself(self, venue: Venue) -> None:
        """An earlier try was applied and its reply was lost."""
        held = (await venue.party().create("A-1")).reservation
        venue.clock.advance(HOLD_MS)
        after = _expired(held)
        await venue.party().store.settle(held, after, soon())
        before = await venue.rows()
        await venue.party().store.settle(held, after, soon())
        assert await venue.rows() == before


def _expired(held: Reservation) -> Reservation:
    after = model.expire(held, now=DEADLINE, op_id="op_settle")
    assert after is not None
    return after
