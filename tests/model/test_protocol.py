"""Nothing that is promised can be broken by any order of events; and each condition is there for a reason."""

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import pytest

from tests.model import claims
from tests.model.claims import broken
from tests.model.explore import Found, explore
from tests.model.protocol import Protocol, Step
from tests.model.state import (
    CANCEL,
    CONFIRM,
    CREATE,
    EXTEND,
    FREE,
    HOLD,
    KEYED_COMMANDS,
    SEAT,
    SETTLE,
    SKEW,
    Attempt,
    Seat,
    State,
)
from tests.model.transactions import GUARDS, TRANSACTIONS, Guard, Transactions, seat_is_free_or_ended, without
from tests.model.world import (
    CAUTIONS,
    OF_A_BUSY_STORE,
    OF_A_REFUSAL,
    OF_THE_TIME,
    RECOGNITIONS,
    Wanted,
    World,
)

MORE = int(os.environ.get("MODEL_MORE_STARTS", "0"))
"""So many more attempts are made in each world than in a usual run: one more takes ten times as long or longer."""

ALL = (CONFIRM, CANCEL, EXTEND, SETTLE)
TWO_USERS = (Wanted(0, (0, 1)), Wanted(1, (1,)))
ONE_SEAT = (Wanted(0, (0,)),)
TWO_HOLDS_OF_ONE_USER = (Wanted(0, (0,)), Wanted(0, (1,)))
ONE_SEAT_FOR_TWO = (*ONE_SEAT, Wanted(1, (0,)))
ONE_SEAT_FOR_TWO_WITH_A_KEY = (Wanted(0, (0,), keyed=True), Wanted(1, (0,)))
NO_READERS = 9
"""A patience that does not end."""

ASKED_AGAIN = World(
    ONE_SEAT_FOR_TWO_WITH_A_KEY, (CANCEL,), 4, in_flight=1, trusted=True, until=0, reservations=3, delays=1
)
"""Requests that come one after the other, and one with a key is asked again."""

WORLDS = {
    "clocks that say anything": World(TWO_USERS, ALL, starts=3),
    "sales whatever the clocks say": World(TWO_USERS, (CONFIRM, SETTLE), starts=4, lost_replies=False),
    "trusted clocks": World(TWO_USERS, ALL, starts=3, trusted=True, until=1),
    "readers": World(ONE_SEAT, ALL[:3], starts=3, trusted=True),
    "a seat that changes hands": World(ONE_SEAT_FOR_TWO, (CONFIRM,), starts=3, trusted=True, until=2),
    "keys of creates": World((Wanted(0, (0,), True), Wanted(0, (1,), True)), (CANCEL,), 4, trusted=True, until=0),
    "keys of changes": World(ONE_SEAT, ALL[:3], starts=3, keyed=(True, False), trusted=True, until=0),
    "keys that are forgotten": World(
        (Wanted(0, (0,), True),), (CANCEL, EXTEND), 3, keyed=(True,), trusted=True, lost_replies=False
    ),
    "slots": World(TWO_HOLDS_OF_ONE_USER, ALL, starts=3, trusted=True, until=1, slots=True),
    "prices": World((Wanted(0, (0, 1)),), (SETTLE,), starts=3, reprices=2),
    "late tries": World(TWO_USERS, ALL, starts=3, delays=1),
    "late tries in time": World(
        ONE_SEAT_FOR_TWO, ALL, 3, in_flight=1, trusted=True, until=2, patience=NO_READERS, lost_replies=False, delays=1
    ),
    "late tries of creates with a key": World(
        ONE_SEAT_FOR_TWO_WITH_A_KEY, (CANCEL,), starts=3, trusted=True, until=0, delays=1, outlasting=True
    ),
    "late tries of what is asked again": ASKED_AGAIN._replace(outlasting=True),
    "late tries of changes with a key": World(
        ONE_SEAT, (CONFIRM, EXTEND), starts=3, keyed=(True,), trusted=True, until=0, delays=1
    ),
    "late tries and slots": World(
        TWO_HOLDS_OF_ONE_USER, (CANCEL,), 3, trusted=True, until=0, slots=True, lost_replies=False, delays=1
    ),
}

# Where a forgotten condition shows soonest.
SALE = World(TWO_USERS, ALL, starts=4, lost_replies=False)
READERS = World(ONE_SEAT, ALL, starts=2, trusted=True)
SLOTS = World(TWO_HOLDS_OF_ONE_USER, ALL, starts=3, trusted=True, until=1, slots=True, lost_replies=False)


def one_key_for_two(command: str) -> World:
    """Requests that come one after the other."""
    creates = tuple(wanted._replace(keyed=command == CREATE) for wanted in TWO_HOLDS_OF_ONE_USER)
    return World(creates, () if command == CREATE else (command,), 4, in_flight=1, keyed=(True,), trusted=True, until=0)


BREAKS: Mapping[Guard, tuple[World, str]] = {
    Guard(CREATE, "key", "key_is_new"): (one_key_for_two(CREATE), "a_key_has_one_effect_until_it_is_forgotten"),
    Guard(CREATE, "reservation", "reservation_is_new"): (
        WORLDS["clocks that say anything"],
        "events_tell_of_each_version_once_and_in_order",
    ),
    Guard(CREATE, "seat", "price_is_as_read"): (WORLDS["prices"], "the_price_told_is_the_price_of_the_seat"),
    Guard(CREATE, "seat", "seat_is_free_or_ended"): (SALE, "sold_is_final"),
    Guard(CREATE, "slot", "slot_is_free_or_ended"): (SLOTS, "a_hold_has_its_seats_and_its_slot_until_its_end"),
    Guard(CONFIRM, "key", "key_is_new"): (one_key_for_two(CONFIRM), "a_key_has_one_effect_until_it_is_forgotten"),
    Guard(CONFIRM, "reservation", "reservation_version"): (SALE, "events_tell_of_each_version_once_and_in_order"),
    Guard(CONFIRM, "seat", "is_mine"): (SALE, "what_was_called_expired_stays_so"),
    Guard(CONFIRM, "slot", "is_mine"): (SLOTS, "a_hold_has_its_seats_and_its_slot_until_its_end"),
    Guard(CANCEL, "key", "key_is_new"): (one_key_for_two(CANCEL), "a_key_has_one_effect_until_it_is_forgotten"),
    Guard(CANCEL, "reservation", "reservation_version"): (SALE, "events_tell_of_each_version_once_and_in_order"),
    Guard(CANCEL, "reservation", "hold_is_unexpired"): (READERS, "what_was_called_expired_stays_so"),
    Guard(CANCEL, "seat", "is_mine"): (SALE, "what_was_called_expired_stays_so"),
    Guard(CANCEL, "slot", "is_mine"): (SLOTS, "a_hold_has_its_seats_and_its_slot_until_its_end"),
    Guard(EXTEND, "key", "key_is_new"): (one_key_for_two(EXTEND), "a_key_has_one_effect_until_it_is_forgotten"),
    Guard(EXTEND, "reservation", "reservation_version"): (SALE, "events_tell_of_each_version_once_and_in_order"),
    Guard(EXTEND, "seat", "is_mine"): (SALE, "a_held_seat_is_held_by_a_hold_that_names_it_and_ends_with_it"),
    Guard(EXTEND, "slot", "is_mine"): (SLOTS, "a_hold_has_its_seats_and_its_slot_until_its_end"),
    Guard(SETTLE, "reservation", "reservation_is_hold"): (SALE, "what_has_ended_stays_so"),
    Guard(SETTLE, "reservation", "reservation_version"): (SALE, "events_tell_of_each_version_once_and_in_order"),
    Guard(SETTLE, "reservation", "hold_is_ended"): (READERS, "no_hold_expires_before_its_end"),
    Guard(SETTLE, "seat", "is_mine"): (SALE, "sold_is_final"),
    Guard(SETTLE, "slot", "is_mine"): (SLOTS, "a_hold_has_its_seats_and_its_slot_until_its_end"),
}
"""Each condition without which a claim is broken: where, and which. The sale and the slots have no lost replies, which
only make the way there longer."""


@dataclass(frozen=True, slots=True)
class Backup:
    """Why a condition may be forgotten and nothing is broken: these others of its transaction guard the same, and
    without them it is the last one that keeps `claim` from being broken."""

    others: tuple[Guard, ...]
    world: World
    claim: str


CHANGES = World(ONE_SEAT, ALL, starts=3)


def held_seats(command: str) -> tuple[Guard, ...]:
    """No seat is held for a reservation that is no hold."""
    return tuple(guard for guard in GUARDS if (guard.command, guard.item) == (command, SEAT))


BACKUPS: Mapping[Guard, Backup] = {
    **{
        Guard(command, "reservation", "reservation_is_hold"): Backup(
            held_seats(command), CHANGES, "what_has_ended_stays_so"
        )
        for command in (CONFIRM, CANCEL, EXTEND)
    },
    # A seat or a slot ends with the hold that has it.
    Guard(CONFIRM, "reservation", "hold_is_unexpired"): Backup(
        (Guard(CONFIRM, "seat", "hold_is_unexpired"),), READERS, "what_was_called_expired_stays_so"
    ),
    Guard(CONFIRM, "seat", "hold_is_unexpired"): Backup(
        (Guard(CONFIRM, "reservation", "hold_is_unexpired"),), READERS, "what_was_called_expired_stays_so"
    ),
    Guard(EXTEND, "reservation", "hold_is_unexpired"): Backup(
        (Guard(EXTEND, "seat", "hold_is_unexpired"),), READERS, "what_was_called_expired_stays_so"
    ),
    Guard(EXTEND, "seat", "hold_is_unexpired"): Backup(
        (Guard(EXTEND, "reservation", "hold_is_unexpired"),), READERS, "what_was_called_expired_stays_so"
    ),
    Guard(EXTEND, "slot", "hold_is_unexpired"): Backup(
        (Guard(EXTEND, "reservation", "hold_is_unexpired"), Guard(EXTEND, "seat", "hold_is_unexpired")),
        READERS._replace(slots=True),
        "what_was_called_expired_stays_so",
    ),
    # A reservation that has an order is no hold, and its seats are sold.
    Guard(CONFIRM, "order", "order_is_new"): Backup(
        (
            Guard(CONFIRM, "reservation", "reservation_is_hold"),
            Guard(CONFIRM, "seat", "is_mine"),
            Guard(CONFIRM, "seat", "hold_is_unexpired"),
        ),
        CHANGES,
        "an_order_is_written_once",
    ),
}
"""The conditions that could be left out. They cost nothing, and who changes the others has them to fall back on."""

NEEDED_BY = [
    (OF_A_REFUSAL, CREATE),
    *[(OF_A_BUSY_STORE, command) for command in KEYED_COMMANDS],
    *[(OF_THE_TIME, command) for command in (CONFIRM, CANCEL, EXTEND)],
]
"""Each caution, and whose late try shows what becomes of a refusal without it."""

RECOGNIZED_IN = {
    "record": WORLDS["keys of changes"],
    "reservation": CHANGES,
    "extension": CHANGES,
}


LATE = World(ONE_SEAT_FOR_TWO, ALL[:3], starts=3, delays=1)


def explored(
    world: World,
    forgotten: Collection[Guard] = (),
    recognitions: Collection[str] = RECOGNITIONS,
) -> Found:
    return explore(Protocol(world, without(forgotten), recognitions), broken)


def breaks(claim: str, world: World, forgotten: Collection[Guard] = ()) -> bool:
    """Whether this claim can be broken then, whatever others are."""
    held = getattr(claims, claim)
    found = explore(Protocol(world, without(forgotten)), lambda before, step: None if held(before, step) else claim)
    return found.broken is not None


@pytest.mark.parametrize("name", WORLDS)
def test_no_order_of_events_breaks_a_claim(name: str) -> None:
    world = WORLDS[name]
    found = explored(world._replace(starts=world.starts + MORE))
    assert found.broken is None, str(found)


@pytest.mark.parametrize("guard", BREAKS, ids=str)
def test_a_condition_that_is_forgotten_breaks_a_claim(guard: Guard) -> None:
    world, claim = BREAKS[guard]
    assert explored(world, {guard}).broken == claim


@pytest.mark.parametrize("guard", BACKUPS, ids=str)
def test_a_condition_that_others_stand_in_for_is_the_last_that_guards_a_claim_without_them(guard: Guard) -> None:
    backup = BACKUPS[guard]
    found = explored(backup.world, {guard})
    assert found.broken is None, str(found)
    assert not breaks(backup.claim, backup.world, backup.others)
    assert breaks(backup.claim, backup.world, {guard, *backup.others})


def test_each_condition_is_known_for_what_it_guards() -> None:
    assert sorted([*BREAKS, *BACKUPS]) == sorted(GUARDS)


@pytest.mark.parametrize("recognition", RECOGNITIONS)
def test_who_does_not_know_its_own_effect_says_that_nothing_happened(recognition: str) -> None:
    found = explored(RECOGNIZED_IN[recognition], (), {*RECOGNITIONS} - {recognition})
    assert found.broken == "a_refusal_means_that_nothing_happened"


@pytest.mark.parametrize(("caution", "command"), NEEDED_BY)
def test_who_forgets_its_late_try_says_that_nothing_happened_and_then_it_does(caution: str, command: str) -> None:
    def belied(before: State, step: Step) -> str | None:
        return broken(before, step) if step.late is not None and step.late.sent.command == command else None

    found = explore(Protocol(LATE, cautions={*CAUTIONS} - {caution}), belied)
    assert found.broken == "a_refusal_means_that_nothing_will_happen"


def test_each_caution_is_known_for_the_commands_that_need_it() -> None:
    assert {caution for caution, _ in NEEDED_BY} == {*CAUTIONS}


def test_a_late_try_takes_no_effect_after_its_repetition_was_refused_unless_it_comes_even_later_than_that() -> None:
    """Which is not promised; all the rest is."""
    claim = "a_refused_repetition_means_that_nothing_will_happen"
    assert not breaks(claim, ASKED_AGAIN)
    assert breaks(claim, ASKED_AGAIN._replace(outlasting=True))


def test_a_late_payment_that_was_sent_in_time_may_come_after_a_reader_was_told_of_an_end() -> None:
    """If nobody has recorded it. Whom a refusal tells of an end, that has: only that is the signal to refund."""
    world = World(ONE_SEAT, (CONFIRM,), starts=2, in_flight=1, trusted=True, lost_replies=False, delays=1)
    assert explored(world).broken == "what_was_called_expired_stays_so"


def test_a_reader_who_is_told_of_an_end_at_the_end_is_told_too_early() -> None:
    """By a process whose clock is ahead: another one may sell the seats yet."""
    assert explored(READERS._replace(patience=-SKEW)).broken == "what_was_called_expired_stays_so"


def test_the_way_to_a_broken_claim_is_told_step_by_step() -> None:
    guard = Guard(CREATE, "reservation", "reservation_is_new")
    found = explored(CHANGES, {guard})
    assert [step.what for step in found.steps] == [
        "begins",
        "applied, and to be tried again for want of a reply",
        "applied, and answered unless the reply is lost",
    ]
    assert str(found).startswith("events_tell_of_each_version_once_and_in_order is broken:")


class TestEnds:
    """Nothing is stuck: what the rules allow succeeds for whoever is left alone."""

    WORLD = World(TWO_USERS, ALL, starts=2, trusted=True)

    def test_a_hold_past_its_time_can_be_settled_or_taken_over_and_one_in_time_be_sold(self) -> None:
        found = explore(Protocol(self.WORLD), lambda _, step: stuck(step.state, TRANSACTIONS))
        assert found.broken is None, str(found)

    def test_a_condition_too_many_is_noticed(self) -> None:
        """A create that takes no seat over has to wait for somebody to settle."""
        careful = {**TRANSACTIONS, CREATE: {**TRANSACTIONS[CREATE], SEAT: (_is_free,)}}
        found = explore(Protocol(self.WORLD, careful), lambda _, step: stuck(step.state, careful))
        assert found.broken == "a seat cannot be taken over"


def stuck(state: State, transactions: Transactions) -> str | None:
    """What cannot be done though it must be possible by every clock."""
    assert state.time is not None
    protocol, op = Protocol(TestEnds.WORLD, transactions), 99
    for number, there in enumerate(state.reservations):
        if there is None or there.status != HOLD:
            continue
        if there.ends <= state.time:
            settled = protocol.alone(state, protocol.change(state, SETTLE, number, op), state.time).state
            if settled.reservations[number] == there:
                return "a hold past its time cannot be settled"
        elif there.ends > state.time + SKEW and not there.told_expired:
            sold = protocol.alone(state, protocol.change(state, CONFIRM, number, op), state.time)
            if sold.answer is None:
                return "a hold in its time cannot be sold"
    wanted, number = Wanted(0, (0, 1)), len(state.reservations)
    roomy = state._replace(reservations=(*state.reservations, None), orders=(*state.orders, 0))
    mine = protocol.create(roomy, wanted, number, op, state.time)
    free = all(seat_is_free_or_ended(seat, mine, state.time) for seat in state.seats)
    if free and protocol.alone(roomy, mine, state.time).answer is None:
        return "a seat cannot be taken over"
    return None


def _is_free(seat: Seat, mine: Attempt, now: int) -> bool:
    return seat.status == FREE
