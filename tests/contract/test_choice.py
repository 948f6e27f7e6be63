"""Seats that the service chooses: the best that are free, never one that is not, and all of them before it says no."""

import asyncio
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest

from reservation.domain.errors import (
    IdempotencyConflict,
    InvalidRequest,
    SaleNotOpen,
    SeatUnavailable,
)
from reservation.domain.model import Event, Money, Seat, Wish
from reservation.dynamodb.hints import HintTable
from reservation.ports import Recorded
from tests.support.faults import LoseReply
from tests.support.invariants import violations
from tests.support.store import HOLD_MS, NOW, PRICE, Party, Venue, Wire
from tests.support.verdicts import transaction

HALL = Event("evt_hall", "Hall")
ROW_A = [Seat(f"A-{number}", "Floor", "A", str(number), PRICE) for number in range(1, 10)]
ROW_B = [Seat(f"B-{number}", "Floor", "B", str(number), PRICE) for number in range(1, 10)]
PIT = [Seat(f"Pit-{number}", "Pit", "", "", Money(50_000, "KRW")) for number in range(1, 11)]
WHEELCHAIR = [Seat(f"W-{number}", "Floor", "W", str(number), PRICE, accessible=number == 2) for number in range(1, 4)]


@pytest.fixture
def wire() -> Wire:
    """What is chosen has nothing to do with how DynamoDB is called."""
    return "lean"


async def choose(
    party: Party,
    quantity: int,
    section: str = "",
    *,
    user: str = "user_1",
    key: str = "",
    patience: float = 10.0,
    **more: Any,
) -> Recorded:
    wish = Wish(quantity, section, **more)
    return await party.create(event=HALL.id, wish=wish, user=user, key=key, patience=patience)


async def chosen(party: Party, quantity: int, section: str = "", **more: Any) -> tuple[str, ...]:
    return (await choose(party, quantity, section, **more)).reservation.seat_ids


async def until_refused(party: Party, quantity: int, section: str = "") -> list[str]:
    """The seats that one customer after the other is given until there are none."""
    got: list[str] = []
    while True:
        try:
            got += await chosen(party, quantity, section=section)
        except SeatUnavailable:
            return got


async def rightly(venue: Venue) -> None:
    await venue.drain()
    assert violations(await venue.rows(), now=venue.clock.now()) == []


async def test_the_best_row_is_sold_from_its_centre(venue: Venue) -> None:
    await venue.sell([*ROW_A, *ROW_B], HALL)
    party = venue.party()
    assert await chosen(party, 3) == ("A-4", "A-5", "A-6")
    assert await chosen(party, 3) in [("A-1", "A-2", "A-3"), ("A-7", "A-8", "A-9")]
    await rightly(venue)


async def test_a_chosen_hold_is_made_of_the_facts_of_its_seats(venue: Venue) -> None:
    await venue.sell(ROW_A, HALL)
    held = (await choose(venue.party(), 2)).reservation
    assert held.seats == tuple(replace(seat, spot=each.spot) for seat, each in zip(ROW_A[3:5], held.seats, strict=True))
    assert held.total == Money(2 * PRICE.amount, PRICE.currency)


@pytest.mark.parametrize(("prevents", "row"), [(True, "B"), (False, "A")])
async def test_no_single_seat_is_left_over_where_that_can_be_avoided(venue: Venue, prevents: bool, row: str) -> None:
    """Of the three seats left in the first row a pair would leave one; the event says whether that matters."""
    await venue.sell([*ROW_A, *ROW_B], replace(HALL, prevent_orphans=prevents))
    party = venue.party()
    await party.create(*(seat.id for seat in ROW_A[:6]), event=HALL.id)
    assert {seat.row for seat in (await choose(party, 2)).reservation.seats} == {row}


async def test_a_named_section_is_the_only_one(venue: Venue) -> None:
    await venue.sell([*ROW_A, *PIT], HALL)
    party = venue.party()
    assert {seat_id.split("-")[0] for seat_id in await until_refused(party, 1, "Floor")} == {"A"}
    assert {seat_id.split("-")[0] for seat_id in await chosen(party, 2, section="Pit")} == {"Pit"}


async def test_an_unknown_section_is_told_as_such(venue: Venue) -> None:
    await venue.sell(ROW_A, HALL)
    with pytest.raises(InvalidRequest) as refused:
        await choose(venue.party(), 2, section="Balcony")
    assert [violation.field for violation in refused.value.violations] == ["section"]


async def test_without_a_section_the_next_one_follows(venue: Venue) -> None:
    await venue.sell([*ROW_A[:4], *PIT], HALL)
    party = venue.party()
    assert [(await chosen(party, 2))[0].split("-")[0] for _ in range(3)] == ["A", "A", "Pit"]


async def test_seats_apart_are_given_only_to_who_takes_them(venue: Venue) -> None:
    await venue.sell(ROW_A[:5], HALL)
    party = venue.party()
    await party.create("A-2", "A-4", event=HALL.id)
    with pytest.raises(SeatUnavailable):
        await choose(party, 2)
    assert len(set(await chosen(party, 2, allow_split=True)) & {"A-1", "A-3", "A-5"}) == 2


async def test_accessible_seats_are_for_who_asks_for_them(venue: Venue) -> None:
    await venue.sell(WHEELCHAIR, HALL)
    party = venue.party()
    with pytest.raises(SeatUnavailable):
        await choose(party, 2)
    assert "W-2" in await chosen(party, 2, accessible=True)


async def test_the_last_place_is_sold_and_only_then_comes_the_refusal(venue: Venue) -> None:
    await venue.sell(PIT, HALL)
    assert sorted(await until_refused(venue.party(), 1)) == sorted(seat.id for seat in PIT)
    await rightly(venue)


@pytest.mark.parametrize("seats", [ROW_A + ROW_B, PIT], ids=["numbered", "general admission"])
async def test_many_at_many_processes_get_everything_once(venue: Venue, seats: Sequence[Seat]) -> None:
    await venue.sell(seats, HALL)
    parties = [venue.party(stripe=(rank, 3)) for rank in range(3)]
    got = await asyncio.gather(*(until_refused(parties[customer % 3], 1) for customer in range(24)))
    assert sorted(seat_id for each in got for seat_id in each) == sorted(seat.id for seat in seats)
    await rightly(venue)


async def test_who_was_too_late_for_his_choice_gets_the_next_best(venue: Venue) -> None:
    """The other process has not told of its sale yet."""
    await venue.sell([*ROW_A, *ROW_B], HALL)
    fast, slow = venue.party(), venue.party()
    for party in (fast, slow):
        await party.halls.hall(HALL.id, float("inf"))
    assert await chosen(fast, 3) == ("A-4", "A-5", "A-6")
    assert await chosen(slow, 3) in [("A-1", "A-2", "A-3"), ("A-7", "A-8", "A-9")]
    await rightly(venue)


async def test_what_another_process_has_told_is_not_even_tried(venue: Venue) -> None:
    await venue.sell([*ROW_A, *ROW_B], HALL)
    fast, slow = venue.party(), venue.party()
    await slow.halls.hall(HALL.id, float("inf"))
    await chosen(fast, 3)
    await fast.halls.flush()
    venue.clock.advance(2_001)
    await slow.halls.hall(HALL.id, float("inf"))
    before = slow.client.stats["calls"]
    assert (await chosen(slow, 3))[0] in ("A-1", "A-7")
    assert slow.client.stats["calls"] - before == 2  # the event's settings, and one transaction


async def test_a_hint_that_wrongly_hides_a_seat_refuses_nobody(venue: Venue) -> None:
    """A process died between a cancel and the telling of it."""
    await venue.sell(ROW_A[:2], HALL)
    hints = HintTable(venue.client, venue.tables.inventory)
    await hints.write(HALL.id, 0, {0: NOW + HOLD_MS, 1: NOW + HOLD_MS})
    assert await chosen(venue.party(), 2) == ("A-1", "A-2")


async def test_a_hold_past_its_time_is_chosen_again_with_nobody_settling_it(venue: Venue) -> None:
    await venue.sell(ROW_A[:2], HALL)
    party = venue.party()
    await chosen(party, 2)
    with pytest.raises(SeatUnavailable):
        await choose(party, 2, user="user_2")
    venue.clock.advance(HOLD_MS)
    assert (await choose(party, 2, user="user_2")).reservation.seat_ids == ("A-1", "A-2")
    await rightly(venue)


async def test_the_same_key_is_given_the_same_seats(venue: Venue) -> None:
    await venue.sell(ROW_A, HALL)
    first = await choose(venue.party(), 2, key="key_1")
    again = await choose(venue.party(), 2, key="key_1")
    assert (again.replayed, again.reservation.seat_ids) == (True, first.reservation.seat_ids)
    with pytest.raises(IdempotencyConflict):
        await choose(venue.party(), 3, key="key_1")


async def test_equal_requests_at_many_processes_are_one_hold(venue: Venue) -> None:
    await venue.sell([*ROW_A, *ROW_B], HALL)
    parties = [venue.party(stripe=(rank, 4)) for rank in range(4)]
    told = await asyncio.gather(*(choose(parties[each % 4], 2, key="key_1") for each in range(20)))
    assert len({each.reservation.id for each in told}) == 1
    assert sum(not each.replayed for each in told) == 1
    await rightly(venue)


async def test_who_has_the_last_seats_is_not_refused_when_asking_again(venue: Venue) -> None:
    await venue.sell(ROW_A[:2], HALL)
    one, other = venue.party(), venue.party()
    first = await choose(one, 2, key="key_1")
    await one.halls.flush()
    again = await choose(other, 2, key="key_1")
    assert (again.replayed, again.reservation.id) == (True, first.reservation.id)


async def test_a_lost_reply_is_no_second_choice(venue: Venue) -> None:
    await venue.sell([*ROW_A, *ROW_B], HALL)
    async with venue.behind() as (proxy, client):
        proxy.script(transaction, LoseReply())
        held = (await choose(venue.party(client), 3)).reservation
    assert held.seat_ids == ("A-4", "A-5", "A-6")
    assert [each["reservationId"]["S"] for each in (await venue.rows()).reservations] == [held.id]
    await rightly(venue)


async def test_a_price_that_has_changed_is_the_new_one(venue: Venue) -> None:
    """The process still knows the layout with the old one."""
    await venue.sell(ROW_A, HALL)
    party = venue.party()
    await chosen(party, 1)
    await venue.sell([replace(seat, price=Money(99, "KRW")) for seat in ROW_A], HALL)
    assert (await choose(party, 2)).reservation.total == Money(198, "KRW")
    await rightly(venue)


async def test_a_cancelled_choice_is_the_best_again(venue: Venue) -> None:
    await venue.sell(ROW_A, HALL)
    party = venue.party()
    held = (await choose(party, 3)).reservation
    await party.cancel(held.id)
    assert await chosen(party, 3) == held.seat_ids


async def test_a_seat_that_was_refused_a_moment_ago_and_is_free_by_now_is_chosen_at_once(venue: Venue) -> None:
    """The look at what is really so before a refusal finds it, and nothing that is remembered stands against that."""
    await venue.sell(ROW_A[:1], HALL)
    one, other = venue.party(), venue.party()
    held = (await one.create("A-1", event=HALL.id)).reservation
    with pytest.raises(SeatUnavailable):
        await other.create("A-1", event=HALL.id)
    await one.cancel(held.id)
    before = venue.client.stats["calls"]
    assert (await choose(other, 1, user="user_2")).reservation.seat_ids == ("A-1",)
    assert venue.client.stats["calls"] - before < 10


# Limits of the event


@pytest.mark.parametrize(("now", "open_"), [(-1, False), (0, True), (59_999, True), (60_000, False)])
async def test_an_event_is_sold_from_its_start_to_its_end(venue: Venue, now: int, open_: bool) -> None:
    await venue.sell(ROW_A, replace(HALL, sale_starts_at=NOW, sale_ends_at=NOW + 60_000))
    venue.clock.advance(now)
    party = venue.party()
    for asked in (choose(party, 1), party.create("A-9", event=HALL.id)):
        with nullcontext() if open_ else pytest.raises(SaleNotOpen):
            await asked


async def test_what_was_sold_in_time_is_confirmed_and_told_again_after_the_sale(venue: Venue) -> None:
    await venue.sell(ROW_A, replace(HALL, sale_ends_at=NOW + 1_000))
    party = venue.party()
    held = await choose(party, 2, key="key_1")
    venue.clock.advance(1_000)
    assert (await choose(party, 2, key="key_1")).reservation.id == held.reservation.id
    await party.confirm(held.reservation.id)


async def test_an_event_may_allow_fewer_seats_at_a_time(venue: Venue) -> None:
    await venue.sell(ROW_A, replace(HALL, max_seats=2))
    party = venue.party()
    with pytest.raises(InvalidRequest) as wished:
        await choose(party, 3)
    with pytest.raises(InvalidRequest) as named:
        await party.create("A-1", "A-2", "A-3", event=HALL.id)
    fields = [refused.value.violations[0].field for refused in (wished, named)]
    assert fields == ["quantity", "seat_ids"]
    assert len(await chosen(party, 2)) == 2
