"""How many live holds of one event a user may have: exactly so many, whatever happens at the same time."""

import asyncio
from collections import Counter
from typing import Any

import pytest

from reservation.domain import events, model
from reservation.domain.errors import HoldExtensionDenied, HoldLimitReached, IdempotencyConflict, SeatUnavailable
from reservation.domain.model import Event, Seat, Status
from reservation.ports import Recorded
from tests.support.invariants import violations
from tests.support.store import HOLD_MS, NOW, PRICE, SEATS, Party, SettableClock, Venue, Wire, soon

LIMITED = Event("evt_limited", max_holds_per_user=2)
MANY = [Seat(f"M-{number}", "Floor", "M", str(number), PRICE) for number in range(64)]
KEYS = pytest.mark.parametrize("key", ["", "key_1"], ids=["keyless", "keyed"])


@pytest.fixture
def wire() -> Wire:
    """Slots are called as seats are."""
    return "lean"


@pytest.fixture
async def party(venue: Venue) -> Party:
    """A process by whose policy a user may have two holds of an event."""
    return venue.party(max_holds=2)


async def at_the_limit(party: Party, user: str = "user_1") -> list[model.Reservation]:
    return [(await party.create(seat_id, user=user)).reservation for seat_id in ("A-1", "A-2")]


@KEYS
async def test_one_hold_more_than_allowed_is_refused_and_leaves_nothing(venue: Venue, party: Party, key: str) -> None:
    await at_the_limit(party)
    before = await venue.rows()
    with pytest.raises(HoldLimitReached):
        await party.create("A-3", key=key)
    assert await venue.rows() == before
    assert violations(before) == []


async def test_a_hold_takes_a_slot_which_tells_its_holder(venue: Venue, party: Party) -> None:
    held = await at_the_limit(party)
    rows = await venue.rows()
    assert sorted(str(each.slot) for each in held) == ["0", "1"]
    stored = {item["reservationId"]["S"]: item["slot"]["N"] for item in rows.reservations}
    assert stored == {each.id: str(each.slot) for each in held}
    assert rows.slots == {
        f"evt_2025_1001##slot#user_1#{each.slot}": {
            "pk": {"S": f"evt_2025_1001##slot#user_1#{each.slot}"},
            "status": {"S": "HELD"},
            "holder": {"S": each.id},
            "holderKey": {"S": ""},
            "holdExpiresAt": {"N": "4000000060000"},
        }
        for each in held
    }
    assert (await party.get(held[0].id)).slot == held[0].slot


async def test_the_limit_is_per_user_and_event(venue: Venue, party: Party) -> None:
    await venue.sell(SEATS, Event("evt_other"))
    await at_the_limit(party)
    assert (await party.create("A-3", user="user_2")).reservation.status is Status.HOLD
    assert (await party.create("A-3", event="evt_other")).reservation.status is Status.HOLD
    assert violations(await venue.rows()) == []


async def test_an_events_own_limit_wins(venue: Venue) -> None:
    await venue.sell(SEATS, LIMITED)
    for service_limit in (None, 1, 20):
        party, user = venue.party(max_holds=service_limit), f"user_{service_limit}"
        seat_ids = [seat.id for seat in SEATS]
        held = [(await party.create(seat_id, user=user, event=LIMITED.id)).reservation for seat_id in seat_ids[:2]]
        with pytest.raises(HoldLimitReached):
            await party.create("A-3", user=user, event=LIMITED.id)
        for each in held:
            await party.cancel(each.id)


async def test_without_a_limit_there_are_no_slots_and_no_reads_of_them(venue: Venue) -> None:
    party = venue.party()
    await party.inventory.facts("evt_2025_1001", [seat.id for seat in SEATS], soon())
    before = venue.client.stats["calls"]
    for seat in SEATS:
        assert (await party.create(seat.id)).reservation.slot is None
    assert venue.client.stats["calls"] - before == len(SEATS)
    assert (await venue.rows()).slots == {}


@pytest.mark.parametrize("end", ["confirm", "cancel"])
async def test_a_hold_that_ends_leaves_its_slot_to_the_next(venue: Venue, party: Party, end: str) -> None:
    """What is sold is no hold any more."""
    held = await at_the_limit(party)
    await getattr(venue.party(), end)(held[0].id)
    assert len((await venue.rows()).slots) == 1
    assert (await party.create("A-3")).reservation.slot == held[0].slot
    with pytest.raises(HoldLimitReached):
        await party.create("A-4")
    assert violations(await venue.rows()) == []


async def test_a_hold_whose_end_is_recorded_leaves_its_slot_to_the_next(venue: Venue, party: Party) -> None:
    held = await at_the_limit(party)
    venue.clock.advance(HOLD_MS)
    await venue.party().service.expire(held[0], soon())
    assert [item["holder"]["S"] for item in (await venue.rows()).slots.values()] == [held[1].id]
    await at_the_limit(party)
    assert violations(await venue.rows(), now=venue.clock.now()) == []


@KEYS
async def test_past_holds_do_not_count_though_nobody_records_their_end(venue: Venue, party: Party, key: str) -> None:
    """And when somebody does at last, the slots stay with the holds that have them by then."""
    old = await at_the_limit(party)
    venue.clock.advance(HOLD_MS - 1)
    with pytest.raises(HoldLimitReached):
        await party.create("A-3", key=key)
    venue.clock.advance(1)
    new = [(await party.create(seat_id, key=key and f"{key}-{seat_id}")).reservation for seat_id in ("A-3", "A-4")]
    with pytest.raises(HoldLimitReached):
        await party.create("A-5", key=key)
    before = (await venue.rows()).slots
    assert {item["holder"]["S"] for item in before.values()} == {each.id for each in new}
    for each in old:
        assert (await venue.party().service.expire(each, soon())).status is Status.EXPIRED
    rows = await venue.rows()
    assert rows.slots == before
    assert {rows.seats[f"evt_2025_1001#{seat_id}"]["status"]["S"] for seat_id in ("A-1", "A-2")} == {"AVAILABLE"}
    assert violations(rows, now=venue.clock.now()) == []


async def test_an_extended_hold_keeps_its_slot_to_its_new_end(venue: Venue, party: Party) -> None:
    held = await at_the_limit(party)
    await party.extend(held[0].id, seconds=30)
    assert violations(await venue.rows()) == []
    venue.clock.advance(HOLD_MS)
    assert (await party.create("A-3")).reservation.slot == held[1].slot
    with pytest.raises(HoldLimitReached):
        await party.create("A-4")
    venue.clock.advance(30_000)
    assert (await party.create("A-4")).reservation.slot == held[0].slot


@pytest.mark.parametrize("sent", [{"key": "key_1"}, {"token": "rtkn_1"}], ids=["key", "token"])
async def test_a_replay_at_the_limit_gets_the_original_answer(venue: Venue, sent: dict[str, Any]) -> None:
    """From every process, also when the limit is one and the reservation itself fills it."""
    for limit, user in ((1, "user_1"), (2, "user_2")):
        party = venue.party(max_holds=limit)
        if limit == 2:
            await party.create("A-5", user=user)
        seat_id = f"A-{limit}"
        first = await party.create(seat_id, user=user, **sent)
        for somebody in (party, venue.party(max_holds=limit)):
            again = await somebody.create(seat_id, user=user, **sent)
            assert again.replayed
            assert events.body(again.reservation) == events.body(first.reservation)
        with pytest.raises(HoldLimitReached):
            await party.create("A-6", user=user)
    assert violations(await venue.rows()) == []


async def test_at_the_limit_a_key_with_other_content_is_still_a_conflict_of_keys(party: Party) -> None:
    await party.create("A-1", key="key_1")
    await party.create("A-2")
    with pytest.raises(IdempotencyConflict):
        await party.create("A-3", key="key_1")


async def test_a_taken_seat_below_the_limit_is_told_as_such_and_takes_no_slot(venue: Venue, party: Party) -> None:
    await party.create("A-1", user="user_2")
    before = await venue.rows()
    with pytest.raises(SeatUnavailable):
        await party.create("A-1", "A-2")
    assert await venue.rows() == before


@KEYS
async def test_of_64_creates_of_one_user_at_once_exactly_as_many_succeed_as_are_allowed(venue: Venue, key: str) -> None:
    await venue.sell(MANY, LIMITED)
    parties = [venue.party() for _ in range(4)]
    calls = [
        parties[number % 4].create(seat.id, event=LIMITED.id, key=key and f"{key}-{number}", patience=60)
        for number, seat in enumerate(MANY)
    ]
    results = Counter(map(type, await asyncio.gather(*calls, return_exceptions=True)))
    assert results == {Recorded: 2, HoldLimitReached: 62}
    rows = await venue.rows()
    assert len(rows.reservations) == len(rows.slots) == 2
    assert violations(rows) == []


async def test_equal_creates_at_once_fill_one_slot_and_get_one_answer(venue: Venue) -> None:
    parties = [venue.party(max_holds=1) for _ in range(5)]
    calls = [party.create("A-1", key="key_1") for party in parties for _ in range(4)]
    results = await asyncio.gather(*calls)
    assert sum(not result.replayed for result in results) == 1
    assert len({result.reservation.id for result in results}) == 1
    assert violations(await venue.rows()) == []


class TestASlotTakenOverByAFastClock:
    """The clocks of two processes differ, and one has given the slot away while to the other the hold is alive."""

    @pytest.fixture
    async def held(self, venue: Venue) -> model.Reservation:
        held = (await venue.party(max_holds=1).create("A-1")).reservation
        fast = venue.party(clock=SettableClock(NOW + HOLD_MS), max_holds=1)
        assert (await fast.create("A-2")).reservation.slot == held.slot
        return held

    @pytest.mark.parametrize("command", ["confirm", "cancel"])
    @KEYS
    async def test_does_not_refuse_a_payment_or_a_cancel(
        self, venue: Venue, held: model.Reservation, command: str, key: str
    ) -> None:
        before = (await venue.rows()).slots
        made = await getattr(venue.party(), command)(held.id, "pay_1", key=key)
        assert made.reservation.version == 2
        rows = await venue.rows()
        assert rows.slots == before
        assert violations(rows, now=NOW + HOLD_MS) == []

    async def test_cannot_be_held_for_longer(self, venue: Venue, held: model.Reservation) -> None:
        """That would be one live hold too many. The hold itself stays as it was."""
        before = await venue.rows()
        with pytest.raises(HoldExtensionDenied) as denied:
            await venue.party().extend(held.id, key="key_1")
        assert (denied.value.extensions_left, denied.value.seconds_left) == (0, 0)
        assert await venue.rows() == before
        assert (await venue.party().confirm(held.id)).reservation.status is Status.CONFIRMED

    async def test_stays_its_new_holders_when_both_seat_and_slot_are_lost(
        self, venue: Venue, held: model.Reservation
    ) -> None:
        fast = venue.party(clock=SettableClock(NOW + HOLD_MS))
        await fast.create("A-1", user="user_2")
        before = (await venue.rows()).slots
        assert (await fast.service.expire(held, soon())).status is Status.EXPIRED
        rows = await venue.rows()
        assert rows.slots == before
        assert rows.details(held.id)[-1]["releasedSeats"] == []
        assert violations(rows, now=NOW + HOLD_MS) == []


async def test_a_hold_made_before_there_was_a_limit_needs_no_slot(venue: Venue) -> None:
    held = (await venue.party().create("A-1")).reservation
    limited = venue.party(max_holds=1)
    await limited.create("A-2")
    for command in (limited.extend, limited.confirm):
        await command(held.id)
    assert (await limited.get(held.id)).status is Status.CONFIRMED
    assert violations(await venue.rows()) == []
