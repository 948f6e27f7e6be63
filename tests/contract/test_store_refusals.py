"""A process may repeat "taken" for 250 ms without asking, and never says it wrongly for that."""

import pytest

from reservation.domain.errors import SeatUnavailable
from reservation.domain.model import Event, Status
from tests.support.invariants import violations
from tests.support.store import HOLD_MS, SEATS, Party, Venue, Wire


@pytest.fixture
def wire() -> Wire:
    """What a process remembers has nothing to do with how it calls."""
    return "lean"


async def told_taken(party: Party, *seat_ids: str, key: str = "", user: str = "user_2") -> int:
    """How many calls it took to be refused."""
    before = party.client.stats["calls"]
    with pytest.raises(SeatUnavailable) as refused:
        await party.create(*seat_ids, key=key, user=user)
    assert "A-1" in refused.value.seat_ids
    return party.client.stats["calls"] - before


async def test_a_refusal_is_repeated_without_asking_for_a_quarter_of_a_second(venue: Venue) -> None:
    await venue.party().create("A-1")
    party = venue.party()
    assert await told_taken(party, "A-1", "A-2") == 2  # the facts, and the transaction
    venue.clock.advance(249)
    assert await told_taken(party, "A-1", "A-2") == 0
    venue.clock.advance(1)
    assert await told_taken(party, "A-1", "A-2") == 1


async def test_a_refusal_tells_of_its_own_seats_only(venue: Venue) -> None:
    await venue.party().create("A-1")
    party = venue.party()
    await told_taken(party, "A-1", "A-2")
    assert (await party.create("A-2", user="user_2")).reservation.seat_ids == ("A-2",)


async def test_a_refusal_of_another_event_is_another_seat(venue: Venue) -> None:
    await venue.sell(SEATS, Event("evt_other"))
    await venue.party().create("A-1")
    party = venue.party()
    await told_taken(party, "A-1")
    assert (await party.create("A-1", event="evt_other")).reservation.event_id == "evt_other"


async def test_a_refusal_ends_with_the_hold_it_saw(venue: Venue) -> None:
    """100 ms before the deadline it is worth 100 ms."""
    await venue.party().create("A-1")
    party = venue.party()
    venue.clock.advance(HOLD_MS - 100)
    await told_taken(party, "A-1")
    venue.clock.advance(99)
    assert await told_taken(party, "A-1") == 0
    venue.clock.advance(1)
    assert (await party.create("A-1", user="user_2")).reservation.status is Status.HOLD


@pytest.mark.parametrize("key", ["", "key_9"], ids=["keyless", "keyed"])
async def test_a_refusal_is_dropped_when_this_process_frees_the_seat(venue: Venue, key: str) -> None:
    held = (await venue.party().create("A-1", "A-2")).reservation
    party = venue.party()
    await told_taken(party, "A-1", "A-2")
    await party.cancel(held.id, key=key)
    assert (await party.create("A-1", "A-2", user="user_2")).reservation.seat_ids == ("A-1", "A-2")


async def test_when_another_process_frees_the_seat_the_refusal_ends_within_its_time(venue: Venue) -> None:
    elsewhere, party = venue.party(), venue.party()
    held = (await elsewhere.create("A-1")).reservation
    await told_taken(party, "A-1")
    await elsewhere.cancel(held.id)
    venue.clock.advance(250)
    assert (await party.create("A-1", user="user_2")).reservation.status is Status.HOLD


async def test_a_sold_seat_is_refused_from_memory_as_well(venue: Venue) -> None:
    held = (await venue.party().create("A-1")).reservation
    await venue.party().confirm(held.id)
    party = venue.party()
    await told_taken(party, "A-1")
    assert await told_taken(party, "A-1") == 0


async def test_a_request_with_a_key_is_refused_from_memory_only_after_a_look_at_its_record(venue: Venue) -> None:
    await venue.party().create("A-1")
    party = venue.party()
    await told_taken(party, "A-1")
    assert await told_taken(party, "A-1", key="key_1") == 1
    assert (await venue.rows()).idempotency == ()


@pytest.mark.parametrize("sold", [False, True], ids=["held", "sold"])
async def test_a_memory_of_ones_own_seat_does_not_refuse_the_replay(venue: Venue, sold: bool) -> None:
    """The winner's seat stands in this process's memory because others were refused here."""
    first = await venue.party().create("A-1", key="key_1", user="user_1")
    if sold:
        await venue.party().confirm(first.reservation.id)
    party = venue.party()
    await told_taken(party, "A-1")
    again = await party.create("A-1", key="key_1", user="user_1")
    assert again.replayed
    assert again.reservation.id == first.reservation.id
    assert violations(await venue.rows()) == []


async def test_a_memory_of_a_seat_of_a_former_key_does_not_refuse_for_ever(venue: Venue) -> None:
    """The key's window has ended while its hold goes on: the seat is taken, and the answer is found by asking."""
    await venue.party(hold=2 * HOLD_MS, window=HOLD_MS).create("A-1", key="key_1", user="user_1")
    venue.clock.advance(HOLD_MS)
    party = venue.party()
    await told_taken(party, "A-1")
    await told_taken(party, "A-1", key="key_1", user="user_1")
