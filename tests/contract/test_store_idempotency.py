"""One effect per idempotency key, and the original answer for whoever repeats the request."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from reservation.domain import events
from reservation.domain.errors import (
    HoldExtensionDenied,
    IdempotencyConflict,
    ReservationAlreadyCancelled,
    ReservationAlreadyConfirmed,
    ReservationError,
    SeatUnavailable,
)
from reservation.domain.model import Event, Status
from reservation.ports import Recorded
from tests.support.invariants import violations
from tests.support.store import EVENT, HOLD_MS, SEATS, WINDOW_MS, SettableClock, Venue, soon


def answer(recorded: Recorded) -> dict[str, Any]:
    """What the caller reads: the body without what the answers to commands do not carry."""
    body = events.body(recorded.reservation)
    body.pop("metadata", None)
    return body


async def refused(command: Awaitable[Any], reason: type[ReservationError]) -> None:
    with pytest.raises(ReservationError) as refusal:
        await command
    assert type(refusal.value) is reason


async def test_an_equal_create_gets_the_original_answer_from_any_process(venue: Venue) -> None:
    """Also when the seats come in another order, time has passed and the reservation has gone on."""
    here, there = venue.party(), venue.party()
    first = await here.create("A-1", "A-2", key="key_1")
    for again in [
        await here.create("A-1", "A-2", key="key_1"),
        await there.create("A-2", "A-1", key="key_1"),
        await venue.party().create("A-1", "A-2", key="key_1", patience=2.5),
    ]:
        assert again.replayed
        assert answer(again) == answer(first)
    await there.confirm(first.reservation.id)
    venue.clock.advance(HOLD_MS + 1)
    again = await here.create("A-1", "A-2", key="key_1")
    assert again.replayed
    assert answer(again) == answer(first)
    assert not first.replayed
    rows = await venue.rows()
    assert len(rows.reservations) == len(rows.idempotency) == 1
    assert violations(rows) == []


@pytest.mark.parametrize("command", ["confirm", "cancel", "extend"])
async def test_an_equal_command_gets_the_original_answer_from_any_process(venue: Venue, command: str) -> None:
    held = (await venue.party().create("A-1")).reservation

    def call() -> Awaitable[Recorded]:
        call: Callable[..., Awaitable[Recorded]] = getattr(venue.party(), command)
        return call(held.id, "pay_1", key="key_1")

    first = await call()
    venue.clock.advance(2 * HOLD_MS)
    again = await call()
    assert (first.replayed, again.replayed) == (False, True)
    assert answer(again) == answer(first)
    rows = await venue.rows()
    assert len(rows.outbox) == 2
    assert violations(rows) == []


async def test_an_equal_extension_gets_the_original_answer_whatever_came_after_it(venue: Venue) -> None:
    """Also where another one would be denied, and when the reservation is sold. Without a key every one counts."""
    held = (await venue.party().create("A-1")).reservation
    first = await venue.party().extend(held.id, key="key_1")
    for _ in range(2):
        assert not (await venue.party().extend(held.id)).replayed
    for denied in ("", "key_2"):
        await refused(venue.party().extend(held.id, key=denied), HoldExtensionDenied)
    replays = [await venue.party().extend(held.id, key="key_1")]
    await venue.party().confirm(held.id)
    replays.append(await venue.party().extend(held.id, key="key_1"))
    assert [(again.replayed, answer(again)) for again in replays] == [(True, answer(first))] * 2
    assert first.reservation.hold_expires_at == held.hold_expires_at + 30_000
    rows = await venue.rows()
    assert len(rows.idempotency) == 1
    assert violations(rows) == []


async def test_an_extension_by_other_seconds_or_for_another_reason_is_other_content(venue: Venue) -> None:
    held = (await venue.party().create("A-1")).reservation
    await venue.party().extend(held.id, "slow bank", key="key_1")
    before = await venue.rows()
    await refused(venue.party().extend(held.id, "slow bank", seconds=31, key="key_1"), IdempotencyConflict)
    await refused(venue.party().extend(held.id, "card declined", key="key_1"), IdempotencyConflict)
    assert await venue.rows() == before


async def test_a_key_that_comes_with_other_content_is_a_conflict(venue: Venue) -> None:
    """Whatever would have become of the other content: more or other seats, another token, event or payment."""
    await venue.sell(SEATS, Event("evt_other"))
    party = venue.party()
    held = (await party.create("A-1", "A-2", key="key_1", token="rtkn_1")).reservation
    other = (await party.create("A-8")).reservation
    await party.confirm(other.id, "pay_1", key="key_2")
    before = await venue.rows()
    for somebody in (party, venue.party()):
        await refused(somebody.create("A-1", key="key_1", token="rtkn_1"), IdempotencyConflict)
        await refused(somebody.create("A-1", "A-2", "A-8", key="key_1", token="rtkn_1"), IdempotencyConflict)
        await refused(somebody.create("A-5", key="key_1", token="rtkn_1"), IdempotencyConflict)
        await refused(somebody.create("A-1", "A-2", key="key_1", token="rtkn_2"), IdempotencyConflict)
        await refused(somebody.create("A-1", "A-2", key="key_1"), IdempotencyConflict)
        await refused(
            somebody.create("A-1", "A-2", key="key_1", token="rtkn_1", event="evt_other"), IdempotencyConflict
        )
        await refused(somebody.confirm(held.id, "pay_1", key="key_2"), IdempotencyConflict)
        await refused(somebody.confirm(other.id, "pay_2", key="key_2"), IdempotencyConflict)
    assert await venue.rows() == before
    assert violations(before) == []


async def test_a_cancel_with_another_reason_is_other_content(venue: Venue) -> None:
    party = venue.party()
    held = (await party.create("A-1")).reservation
    await party.cancel(held.id, "changed my mind", key="key_1")
    await refused(party.cancel(held.id, "ill", key="key_1"), IdempotencyConflict)


async def test_a_key_belongs_to_one_user_and_one_command(venue: Venue) -> None:
    """The same text for another user or another command is another key."""
    party = venue.party()
    mine = (await party.create("A-1", user="user_1", key="key_1")).reservation
    other = (await party.create("A-2", user="user_2", key="key_1")).reservation
    confirmed = await party.confirm(mine.id, key="key_1")
    cancelled = await party.cancel(other.id, key="key_1")
    assert not confirmed.replayed
    assert not cancelled.replayed
    assert [it.reservation.status for it in (confirmed, cancelled)] == [Status.CONFIRMED, Status.CANCELLED]
    rows = await venue.rows()
    assert len(rows.idempotency) == 4
    assert violations(rows) == []


async def test_a_key_means_the_same_whoever_acts_for_the_user(venue: Venue) -> None:
    held = (await venue.party().create("A-1", user="user_1")).reservation
    await venue.party().confirm(held.id, owner="user_1", key="key_1")
    assert (await venue.party().confirm(held.id, owner=None, key="key_1")).replayed


async def test_the_window_ends_to_the_millisecond_and_then_the_key_is_new(venue: Venue) -> None:
    party = venue.party()
    first = await party.create("A-1", key="key_1")
    await party.cancel(first.reservation.id)
    venue.clock.advance(WINDOW_MS - 1)
    assert (await party.create("A-1", key="key_1")).replayed
    venue.clock.advance(1)
    second = await party.create("A-1", "A-2", key="key_1")
    assert not second.replayed
    assert second.reservation.id != first.reservation.id
    assert (await party.create("A-1", "A-2", key="key_1")).replayed
    rows = await venue.rows()
    assert len(rows.idempotency) == 1
    assert violations(rows) == []


async def test_a_window_that_does_not_end_on_a_whole_second_is_never_cut_short(venue: Venue) -> None:
    """The table keeps whole seconds: the window lasts up to 999 ms longer, and the two ways to ask agree."""
    clock = SettableClock(venue.clock.now() + 1)
    party = venue.party(clock=clock)
    first = await party.create("A-1", key="key_1")
    await party.cancel(first.reservation.id)
    clock.advance(WINDOW_MS)
    assert (await party.create("A-1", key="key_1")).replayed
    clock.advance(998)
    assert (await party.create("A-1", key="key_1")).replayed
    clock.advance(1)
    assert not (await party.create("A-1", key="key_1")).replayed


async def test_a_refusal_is_not_remembered_under_its_key(venue: Venue) -> None:
    """The same key may win once the seat is free."""
    party = venue.party()
    other = (await party.create("A-1", user="user_2")).reservation
    await refused(party.create("A-1", key="key_1"), SeatUnavailable)
    assert (await venue.rows()).idempotency == ()
    await party.cancel(other.id)
    assert not (await party.create("A-1", key="key_1")).replayed


async def test_without_a_key_a_reservation_token_tells_equal_creates(venue: Venue) -> None:
    here, there = venue.party(), venue.party()
    first = await here.create("A-1", "A-2", token="rtkn_1")
    for party in (here, there):
        again = await party.create("A-2", "A-1", token="rtkn_1")
        assert again.replayed
        assert answer(again) == answer(first)
    other = await there.create("A-3", token="rtkn_1")
    assert not other.replayed
    await refused(there.create("A-1", "A-2", token="rtkn_1", user="user_2"), SeatUnavailable)
    assert violations(await venue.rows()) == []


async def test_a_token_is_forgotten_with_the_hold_it_made(venue: Venue) -> None:
    """It stands for a customer, who may want the same seats again after missing the deadline."""
    first = await venue.party().create("A-1", token="rtkn_1")
    venue.clock.advance(HOLD_MS - 1)
    assert (await venue.party().create("A-1", token="rtkn_1")).replayed
    venue.clock.advance(1)
    second = await venue.party().create("A-1", token="rtkn_1")
    assert not second.replayed
    assert second.reservation.id != first.reservation.id
    assert violations(await venue.rows(), now=venue.clock.now()) == []


async def test_a_token_beside_a_key_leaves_the_key_its_window(venue: Venue) -> None:
    await venue.party().create("A-1", token="rtkn_1", key="key_1")
    venue.clock.advance(HOLD_MS)
    assert (await venue.party().create("A-1", token="rtkn_1", key="key_1")).replayed


async def test_without_key_and_token_every_create_is_one_of_its_own(venue: Venue) -> None:
    for party in (venue.party(), venue.party()):
        results = await asyncio.gather(*[party.create("A-1") for _ in range(4)], return_exceptions=True)
        kinds = Counter(type(result) for result in results)
        assert kinds[Recorded] + kinds[SeatUnavailable] == 4
    rows = await venue.rows()
    assert len(rows.reservations) == 1
    assert rows.idempotency == ()
    assert violations(rows) == []


async def test_fifty_equal_creates_in_one_process_share_one_transaction(venue: Venue) -> None:
    party = venue.party()
    await party.inventory.facts(EVENT.id, ["A-1", "A-2"], soon())
    before = venue.client.stats["calls"]
    results = await asyncio.gather(*[party.create("A-1", "A-2", key="key_1") for _ in range(50)])
    assert venue.client.stats["calls"] - before == 1
    assert sum(not result.replayed for result in results) == 1
    assert all(answer(result) == answer(results[0]) for result in results)
    assert violations(await venue.rows()) == []


async def test_fifty_equal_creates_on_ten_processes_have_one_effect_and_one_answer(venue: Venue) -> None:
    """https://github.com/square1-io/laravel-idempotency/issues/1"""
    parties = [venue.party() for _ in range(10)]
    results = await asyncio.gather(*[party.create("A-1", "A-2", key="key_1") for party in parties for _ in range(5)])
    assert sum(not result.replayed for result in results) == 1
    assert all(answer(result) == answer(results[0]) for result in results)
    rows = await venue.rows()
    assert len(rows.reservations) == len(rows.outbox) == 1
    assert violations(rows) == []


async def test_equal_commands_at_once_have_one_effect_and_one_answer(venue: Venue) -> None:
    parties = [venue.party() for _ in range(4)]
    for seat, command in (("A-1", "confirm"), ("A-2", "cancel"), ("A-3", "extend")):
        held = (await parties[0].create(seat)).reservation
        calls = [getattr(party, command)(held.id, "pay_1", key="key_1") for party in parties for _ in range(3)]
        results = await asyncio.gather(*calls)
        assert sum(not result.replayed for result in results) == 1
        assert all(answer(result) == answer(results[0]) for result in results)
    assert violations(await venue.rows()) == []


async def test_a_record_wins_over_what_has_become_of_the_reservation(venue: Venue) -> None:
    """A repeated confirm is told the original, even one whose own content would be refused by now; another is not.
    https://github.com/KanishJebaMathewM/Truxify/issues/9954"""
    party = venue.party()
    held = (await party.create("A-1")).reservation
    first = await party.confirm(held.id, "pay_1", key="key_1")
    again = await party.confirm(held.id, "pay_1", key="key_1")
    assert (again.replayed, answer(again)) == (True, answer(first))
    await refused(party.confirm(held.id, "pay_2", key="key_2"), ReservationAlreadyConfirmed)
    given_back = (await party.create("A-2")).reservation
    await party.cancel(given_back.id, key="key_3")
    await refused(party.confirm(given_back.id, key="key_4"), ReservationAlreadyCancelled)
    assert (await party.cancel(given_back.id, key="key_3")).replayed


async def test_a_record_wins_over_an_event_that_was_taken_off_sale(venue: Venue) -> None:
    first = await venue.party().create("A-1", key="key_1")
    await venue.client.call("DeleteItem", {"TableName": venue.tables.inventory, "Key": {"pk": {"S": "evt_2025_1001#"}}})
    again = await venue.party().create("A-1", key="key_1")
    assert (again.replayed, answer(again)) == (True, answer(first))


async def test_a_record_wins_over_seats_that_are_not_there(venue: Venue) -> None:
    """The key was used with other content, whatever that content is."""
    await venue.party().create("A-1", key="key_1")
    await refused(venue.party().create("Z-1", key="key_1"), IdempotencyConflict)
