"""Any commands in any order: each answer is one that a plain model of the sales allows, and the tables say the same.

Three processes sell one small hall. Their clocks differ by up to a second, and they hear of each other's sales only
when hints are flushed. STATE_MACHINE_EXAMPLES=2000 runs so many examples of each test, of random choices, instead of
the few that are the same in each run; it wants `--timeout=0`.
"""

import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from random import Random
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from reservation.domain import events
from reservation.domain.commands import Cancel, Confirm, Create, Extend, Listing
from reservation.domain.errors import (
    IdempotencyConflict,
    InvalidRequest,
    ReservationError,
    ReservationNotFound,
)
from reservation.domain.model import Event, Reservation, Seat, SeatStatus, Wish
from reservation.dynamodb.events import SeatBlocks
from reservation.dynamodb.items import hinted_block, reservation_from_item, seat_state_from_item
from reservation.ports import Recorded
from tests.support.expected_sales import Change, Command, ExpectedSales, Hold, content
from tests.support.fresh_tables import FreshTables, fresh_tables
from tests.support.invariants import Rows, violations
from tests.support.store import NOW, PRICE, SKEW_MS, Party, SettableClock, soon

T = TypeVar("T")

EVENT = Event("evt_machine", "Machine", hold_seconds=10, max_holds_per_user=2)
FLOOR = [
    Seat(f"{row}-{number}", "Floor", row, str(number), PRICE, accessible=(row, number) == ("A", 2))
    for row in "AB"
    for number in range(1, 5)
]
PIT = [Seat(f"Pit-{number}", "Pit", "", "", PRICE) for number in range(1, 6)]
HALL = [*FLOOR, *PIT]
SEAT_IDS = [seat.id for seat in HALL]

SHARD, KEY_WINDOW_MS = "0001", 8_000
PROCESSES, TRIES = 3, 40
QUANTUM_MS = 250
"""Clocks move by multiples of it. A hold with less left would end while its command is under way: commands are patient
in real time."""

process = st.integers(0, PROCESSES - 1)
which = st.sampled_from([0, 1, 0, 1, 2, 3, 5])
user = st.sampled_from(["user_1", "user_2", "user_3"])
owner = st.sampled_from(["anybody", "anybody", "its own", "its own", "anybody", "another"])
sent = st.sampled_from(["nothing", "key", "token"])
some_seats = st.lists(st.sampled_from([*SEAT_IDS, "Z-99"]), min_size=1, max_size=3, unique=True)
many_seats = st.lists(st.sampled_from([*SEAT_IDS, "Z-99"]), min_size=2, max_size=9, unique=True)
sections = st.sampled_from(["", "Floor", "Pit", "", "Floor", "Pit", "Floor", "Balcony"])
wishes = st.builds(Wish, st.integers(1, 3), sections, st.booleans(), st.sampled_from([False, False, True]))
payments = st.sampled_from(["pay_1", "pay_2"])


class Machine(RuleBasedStateMachine):
    """Where a command may have to be sent again, each has a key."""

    def __init__(self, tables: FreshTables) -> None:
        super().__init__()
        self._tables = tables
        self._venue = tables.venue
        self._commands: list[Command] = []
        self._answers: list[Reservation] = []
        self._last: tuple[dict[str, object], Rows] | None = None
        self._sound = False

    @initialize(
        offsets=st.lists(st.integers(-2, 2), min_size=PROCESSES, max_size=PROCESSES),
        sale_seconds=st.sampled_from([90, 40]),
        settling=st.sampled_from([True, True, False]),
        off_sale=st.lists(st.sampled_from(SEAT_IDS), max_size=6, unique=True),
    )
    def open(self, offsets: list[int], sale_seconds: int, settling: bool, off_sale: list[str]) -> None:
        """`settling`: whether anybody settles holds at all."""
        event = replace(EVENT, sale_ends_at=NOW + 1000 * sale_seconds)
        self._run(self._tables.fill(event, HALL))
        self._sales = ExpectedSales(event, HALL, KEY_WINDOW_MS)
        self._settling = settling
        self._parties = [
            self._tables.party(
                clock=SettableClock(NOW + QUANTUM_MS * offset),
                stripe=(rank, PROCESSES),
                shard=SHARD,
                window=KEY_WINDOW_MS,
            )
            for rank, offset in enumerate(offsets)
        ]
        self.block(0, off_sale)

    # Creates

    @rule(customers=st.lists(st.tuples(process, user, some_seats, sent), min_size=1, max_size=3))
    def hold_named_seats(self, customers: list[tuple[int, str, list[str], str]]) -> None:
        for process, user, seat_ids, sent in customers:
            self._create(process, self._new_create(user, sent, tuple(seat_ids)))

    @rule(customers=st.lists(st.tuples(process, user, wishes, sent), min_size=1, max_size=3))
    def hold_what_is_wished(self, customers: list[tuple[int, str, Wish, str]]) -> None:
        for process, user, wish, sent in customers:
            self._create(process, self._new_create(user, sent, (), wish))

    @rule(process=process, which=which, user=user, sent=sent)
    def hold_what_somebody_has_or_had(self, process: int, which: int, user: str, sent: str) -> None:
        if not self._answers:
            return
        self._create(process, self._new_create(user, sent, self._hold(which).seat_ids))

    # Changes

    @rule(process=process, which=which, payment=payments, owner=owner, keyed=st.booleans())
    def confirm(self, process: int, which: int, payment: str, owner: str, keyed: bool) -> None:
        if not self._answers:
            return
        hold = self._hold(which)
        self._change(process, Confirm(hold.id, payment, _owner(owner, hold), self._key(keyed)))

    @rule(process=process, which=which, owner=owner, keyed=st.booleans())
    def cancel(self, process: int, which: int, owner: str, keyed: bool) -> None:
        if not self._answers:
            return
        hold = self._hold(which)
        self._change(process, Cancel(hold.id, "changed my mind", _owner(owner, hold), self._key(keyed)))

    @rule(process=process, which=which, seconds=st.sampled_from([5, 30, 291]), owner=owner, keyed=st.booleans())
    def extend(self, process: int, which: int, seconds: int, owner: str, keyed: bool) -> None:
        if not self._answers:
            return
        hold = self._hold(which)
        self._change(process, Extend(hold.id, seconds, "", _owner(owner, hold), self._key(keyed)))

    @rule(process=process, which=which, other=st.booleans())
    def send_again(self, process: int, which: int, other: bool) -> None:
        """The same, or other content under the same key."""
        if not self._commands:
            return
        command = self._commands[-1 - which % len(self._commands)]
        if isinstance(command, Create):
            self._create(process, _other_create(command) if other else _reordered(command))
        else:
            self._change(process, _other_change(command) if other else command)

    # Expiry

    @precondition(lambda self: self._settling)
    @rule(process=process)
    def settle_what_is_due(self, process: int) -> None:
        party, now = self._parties[process], self._now(process)
        holds = self._run(self._due(party, now + 2_000))
        assert {each.id for each in holds} == {
            each.id for each in self._sales.holds.values() if each.status == "HOLD" and each.ends_at <= now + 2_000
        }
        for held in holds:
            self._settle(process, held)

    @precondition(lambda self: self._settling)
    @rule(process=process, which=which)
    def settle_what_was_seen_long_ago(self, process: int, which: int) -> None:
        """Best what has changed since."""
        if not self._answers:
            return
        newest_first = self._answers[::-1]
        answers = sorted(newest_first, key=lambda seen: self._sales.holds[seen.id].version == seen.version)
        self._settle(process, answers[which % len(answers)])

    # Time, hints, blocks

    @rule(quanta=st.sampled_from([1, 2, 4, 10, 20, 40]), ahead=process)
    def wait(self, quanta: int, ahead: int) -> None:
        """And one clock drifts ahead of the others, as far as it may."""
        for party in self._parties:
            party.clock.advance(QUANTUM_MS * quanta)
        if self._now(ahead) + QUANTUM_MS <= min(self._clocks) + SKEW_MS:
            self._parties[ahead].clock.advance(QUANTUM_MS)

    @rule(process=process, which=which)
    def wait_for_the_end_of_a_hold(self, process: int, which: int) -> None:
        """By the clock of one process."""
        if not self._answers:
            return
        left = self._hold(which).ends_at - self._now(process)
        for party in self._parties:
            party.clock.advance(max(0, left))

    @rule(process=process)
    def tell_hints(self, process: int) -> None:
        self._run(self._parties[process].halls.flush())

    @rule(process=process, seat_ids=many_seats)
    def block(self, process: int, seat_ids: list[str]) -> None:
        for seat_id in seat_ids:
            done = self._run(self._blocks(process).block(EVENT.id, seat_id))
            assert done == self._sales.block(seat_id, self._now(process))

    @rule(process=process, seat_ids=many_seats)
    def unblock(self, process: int, seat_ids: list[str]) -> None:
        for seat_id in seat_ids:
            done = self._run(self._blocks(process).unblock(EVENT.id, seat_id))
            assert done == self._sales.unblock(seat_id, self._clocks, self._now(process))

    # Reads

    @rule(process=process, user=user, owner=owner)
    def read(self, process: int, user: str, owner: str) -> None:
        self._look_at_the_seats(process)
        mine = self._list(process, user)
        for hold in mine:
            told = self._get(process, hold.id, _owner(owner, hold))
            if owner == "another":
                assert isinstance(told, ReservationNotFound)
            else:
                assert told.status == self._sales.seen(hold, self._now(process), SKEW_MS)
                assert told.version == hold.version

    def _get(self, process: int, reservation_id: str, owner: str | None) -> Any:
        return self._ask(process, lambda party: party.get(reservation_id, owner))

    def _list(self, process: int, user: str) -> list[Hold]:
        page = self._ask(process, lambda party: party.service.page(Listing(user, EVENT.id, size=100), soon()))
        mine = sorted((each for each in self._sales.holds.values() if each.user == user), key=_id, reverse=True)
        now = self._now(process)
        assert [(each.id, each.status) for each in page.reservations] == [
            (each.id, self._sales.seen(each, now, SKEW_MS)) for each in mine
        ]
        return mine

    def _look_at_the_seats(self, process: int) -> None:
        now = self._now(process)
        looked = self._ask(process, lambda party: party.inventory.look(EVENT.id, SEAT_IDS, soon()))
        free = SeatStatus.AVAILABLE
        truth = {seat_id: free if each.free(now) else each.status for seat_id, each in self._sales.taken.items()}
        assert {seat.id: status for seat, status in looked} == truth
        hall, _ = self._ask(process, lambda party: party.inventory.hall(EVENT.id, soon()))
        for count in hall.counts(now):
            assert count.available + count.held + count.sold + count.blocked == count.total

    # What must be so after each of them

    @invariant()
    def the_tables_are_as_expected(self) -> None:
        rows = self._run(self._rows())
        assert violations(rows, now=max(self._clocks)) == []
        expected = self._sales.state()
        assert _state(rows) == expected
        if self._last is not None and self._last[0] == expected:
            assert rows == self._last[1], "what had no effect has changed something"
        self._last = expected, rows
        self._sound = True

    def teardown(self) -> None:
        if self._sound:
            self._run(self._no_free_seat_is_hidden())
        self._run(self._tables.clear())

    async def _no_free_seat_is_hidden(self) -> None:
        """For ever: whatever came late, a process that starts when all holds are past sees every free seat."""
        await self._venue.drain()
        for party in self._parties:
            await party.halls.flush()
        later = max([*self._clocks, *(each.ends_at for each in self._sales.holds.values())])
        hall, _ = await self._venue.party(clock=SettableClock(later)).inventory.hall(EVENT.id, soon())
        shown = {seat.id for seat, status in hall.seats(now=later)[0] if status is SeatStatus.AVAILABLE}
        assert self._sales.free(later) <= shown

    # Asking

    def _create(self, process: int, command: Create) -> None:
        self._commands.append(command)
        now = self._now(process)
        known = self._sales.known(command, now)
        refusals, may_succeed = self._sales.refusals(command, process, now)
        told = self._ask(process, lambda party: party.service.create(command, soon(self._tables.patience)))
        if known is not None and not (isinstance(told, InvalidRequest) and refusals == {InvalidRequest}):
            _assert_replay(command, known.command, known.answer, told)
        elif isinstance(told, ReservationError):
            assert type(told) in refusals, f"{told!r} is none of {refusals} for {command}"
        else:
            assert may_succeed, f"{told.reservation.seat_ids} for {command}, which must be refused"
            made = told.reservation
            if told.replayed:  # what is remembered under a key does not tell the slot
                made = self._get(process, told.reservation.id, None)
            self._sales.create(command, made, now)
            self._heard(process, told)

    def _change(self, process: int, command: Change) -> None:
        self._commands.append(command)
        hold = self._sales.holds[command.reservation_id]
        foreign = command.owner not in (None, hold.user)
        known = None if foreign else self._sales.known(command, self._now(process))
        expected: Any = ReservationNotFound
        if known is None and not foreign:
            expected = self._sales.change(command, process, self._clocks)
        told = self._ask(process, lambda party: _sent(party, command, soon(self._tables.patience)))
        if known is not None:
            _assert_replay(command, known.command, known.answer, told)
        elif isinstance(told, ReservationError):
            assert type(told) is expected, f"{told!r} and not {expected} for {command}"
        else:
            assert isinstance(expected, bool), f"{told} and not {expected} for {command}"
            reservation = told.reservation
            assert (reservation.id, reservation.status, reservation.version) == (hold.id, hold.status, hold.version)
            assert (reservation.hold_expires_at, reservation.payment_intent_id) == (hold.ends_at, hold.payment)
            if expected:
                self._sales.remember(command, reservation, self._now(process))
                self._heard(process, told)

    def _settle(self, process: int, held: Reservation) -> None:
        hold = self._sales.holds[held.id]
        was_past = held.status == "HOLD" and held.hold_expires_at <= self._now(process)
        if was_past:
            self._sales.expire(hold, process, self._clocks)
        became = self._ask(process, lambda party: party.service.expire(held, soon(self._tables.patience)))
        if was_past:
            assert (became.status, became.hold_expires_at) == (hold.status, hold.ends_at)
        else:
            assert became == held

    def _ask(self, process: int, call: Callable[[Party], Awaitable[T]]) -> Any:
        """The definite answer, be it a refusal."""
        return self._run(self._tables.answer(lambda: call(self._parties[process])))

    def _heard(self, process: int, told: Recorded) -> None:
        assert not told.replayed or self._tables.faulty
        self._answers.append(told.reservation)
        if told.replayed:
            return
        hall = self._parties[process].halls.known(EVENT.id)
        shown = {seat.id: status for seat, status in hall.seats(now=self._now(process))[0]} if hall else {}
        for seat_id in told.reservation.seat_ids if hall else ():
            assert shown[seat_id] is self._sales.taken[seat_id].status, "a process does not show what it has done"

    def _new_create(self, user: str, sent: str, seat_ids: tuple[str, ...], wish: Wish | None = None) -> Create:
        name = f"{sent}_{len(self._commands)}"
        keyed = sent == "key" or (sent == "nothing" and self._tables.faulty)
        token = f"rtkn_{len(self._commands) % 4}" if sent == "token" else ""
        return Create(EVENT.id, seat_ids, user, token, name if keyed else "", wish=wish)

    def _key(self, keyed: bool) -> str:
        return f"key_{len(self._commands)}" if keyed or self._tables.faulty else ""

    def _hold(self, which: int) -> Hold:
        """Counted from the newest one, those that have not ended first."""
        newest_first = list(self._sales.holds.values())[::-1]
        holds = sorted(newest_first, key=lambda hold: hold.status != "HOLD")
        return holds[which % len(holds)]

    def _now(self, process: int) -> int:
        return self._parties[process].clock.now()

    @property
    def _clocks(self) -> list[int]:
        return [party.clock.now() for party in self._parties]

    def _blocks(self, process: int) -> SeatBlocks:
        return SeatBlocks(self._venue.client, self._venue.tables.inventory, now=self._parties[process].clock.now)

    async def _due(self, party: Party, before: int) -> list[Reservation]:
        holds: list[Reservation] = []
        page: object | None = None
        while True:
            found = await party.service.due(SHARD, before, page, soon())
            holds += found.holds
            if (page := found.next) is None:
                return holds

    async def _rows(self) -> Rows:
        """But for hints, which any call may bring up to date."""
        await self._venue.drain()
        rows = await self._venue.rows()
        return replace(rows, inventory=tuple(item for item in rows.inventory if not hinted_block(item["pk"]["S"])))

    def _run(self, call: Awaitable[T]) -> T:
        self._sound = False
        return self._tables.run(call)


def _assert_replay(command: Command, first: Command, answer: Reservation, told: Recorded | ReservationError) -> None:
    if content(command) != first:
        assert isinstance(told, IdempotencyConflict), f"{told!r} for {command} under the key of {first}"
    else:
        assert isinstance(told, Recorded), f"{told!r} for {command}, which had an effect before"
        assert told.replayed
        assert events.body(told.reservation) == events.body(answer)


def _other_create(command: Create) -> Create:
    if command.wish is not None:
        return replace(command, wish=replace(command.wish, quantity=command.wish.quantity % 3 + 1))
    return replace(command, seat_ids=("B-4",) if command.seat_ids != ("B-4",) else ("B-3",))


def _reordered(command: Create) -> Create:
    return replace(command, seat_ids=command.seat_ids[::-1])


def _other_change(command: Change) -> Change:
    match command:
        case Confirm():
            return replace(command, payment_intent_id="pay_3")
        case Cancel():
            return replace(command, reason="something else")
        case Extend():
            return replace(command, seconds=command.seconds + 1)


async def _sent(party: Party, command: Change, until: float) -> Recorded:
    match command:
        case Confirm():
            return await party.service.confirm(command, until)
        case Cancel():
            return await party.service.cancel(command, until)
        case Extend():
            return await party.service.extend(command, until)


def _owner(whose: str, hold: Hold) -> str | None:
    return {"anybody": None, "its own": hold.user, "another": "user_9"}[whose]


def _id(hold: Hold) -> str:
    return hold.id


def _state(rows: Rows) -> dict[str, object]:
    """As ExpectedSales.state()."""
    reservations = [reservation_from_item(item) for item in rows.reservations]
    seats = {seat.id: seat_state_from_item(rows.seats[f"{EVENT.id}#{seat.id}"]) for seat in HALL}
    return {
        "reservations": {
            each.id: (
                each.status,
                each.user_id,
                each.seat_ids,
                each.version,
                each.hold_expires_at,
                len(each.extended_by),
            )
            for each in reservations
        },
        "payments": {each.id: each.payment_intent_id for each in reservations},
        "seats": {seat_id: (each.status, each.holder, each.hold_expires_at) for seat_id, each in seats.items()},
        "slots": {_slot(pk): (item["holder"]["S"], int(item["holdExpiresAt"]["N"])) for pk, item in rows.slots.items()},
        "keys": len(rows.idempotency),
    }


def _slot(pk: str) -> tuple[str, int]:
    _, user, number = pk.rsplit("#", 2)
    return user, int(number)


# The runs


def run(machine: Callable[[], Machine], examples: int, steps: int = 25) -> None:
    """So many examples of so many steps, the same ones in each run unless STATE_MACHINE_EXAMPLES says otherwise."""
    more = int(os.environ.get("STATE_MACHINE_EXAMPLES", "0"))
    run_state_machine_as_test(
        machine,  # type: ignore[arg-type]  # a function that makes one will do
        settings=settings(
            max_examples=more or examples,
            stateful_step_count=2 * steps if more else steps,
            derandomize=not more,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.shrink] if more else [Phase.generate],
        ),
    )


def test_on_ministack(ministack_url: str) -> None:
    """https://github.com/HiEventsDev/Hi.Events/issues/466 https://github.com/HiEventsDev/Hi.Events/pull/1072"""
    with fresh_tables(ministack_url) as tables:
        run(lambda: Machine(tables), 50)


def test_on_dynamodb_local(dynamodb_local_url: str) -> None:
    with fresh_tables(dynamodb_local_url) as tables:
        run(lambda: Machine(tables), 6)


@pytest.mark.parametrize("number", range(10))
def test_with_throttles_and_lost_replies(ministack_url: str, number: int) -> None:
    """Whose outcome is not known to the caller is sent again, with its key.

    Each run is one of its own (its first example is the simplest one there is): which call a fault strikes differs from
    run to run, and examples that grow out of one another have to come out the same.
    """
    with fresh_tables(ministack_url, throttle=0.1, lose_reply=0.15, rng=Random(number)) as tables:
        run(seed(number)(lambda: Machine(tables)), 2)
