"""The protocol by which seats are held and sold, small enough to try every order of events.

A command is a read and then one transaction. The read supplies values and decides nothing; the transaction is a table
of named conditions, each on one item, and all of its changes happen or none. Anything may come between the two: other
commands, the passing of time, a retry of the same request by another process. So whatever any number of processes do,
what reaches DynamoDB is one of the orders of steps here.

- A request that is lost is one whose transaction never comes; one that is late comes after its retry.
- A reply is lost to the process, which then sends its transaction under a new token and meets what it has written; or
  to the caller, who asks again with the idempotency key, which is a new attempt.
- A try that is not answered in time may still be on its way. Its attempt goes on without it, and it arrives at any
  later moment, maybe long after its caller was answered, or never. It is judged then, by what it asserted when it was
  sent. The store remembers the tokens of what it has applied, and of what it has refused none; the model has no tokens,
  so the conditions alone must tell what has been done. One whose connection breaks has arrived, or never will.
- A process that dies makes no further step.

Time is a small number. Trusted clocks differ by SKEW at most, and in that is the time for which a transaction that is
not late is under way: its `now` is from when it was sent. Of the other kind of clock each transaction may say any time.

That every hold ends is shown in two parts: whenever a hold is past its time, settling it succeeds, and so does a create
that takes its seats over; and each of these leaves one hold less that can be past its time. A settling that is never
kept from its turn therefore ends them all.

Left out, because it is the same mechanism: places of general admission (a place is a seat), more than one slot a user,
holds for other services (without order and events). Because it needs a model of its own: the saga of a remote
inventory, leases, the relay (rows are written here, not sent). Because it decides nothing: hints, remembered refusals,
and that of the many of one process who want a seat one writes. Because DynamoDB, the domain or other tests answer for
it: verdicts of which only a part can be seen, ids that collide, the times in the order of the outbox, tokens in place
of keys, a second payment, what operators change by hand.
"""

from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

from tests.model.state import (
    ANY_TIME,
    CREATE,
    EXPIRED,
    EXTEND,
    EXTENSION,
    FREE,
    HOLD,
    HOLD_TIME,
    KEY,
    KEYED_COMMANDS,
    MAX_EXTENSIONS,
    ORDER,
    RESERVATION,
    SEAT,
    SETTLE,
    SKEW,
    SLOT,
    Answer,
    Attempt,
    Late,
    Record,
    Reservation,
    Seat,
    State,
    answer_of,
    at_work,
    ended,
    key_of,
    moved,
    put,
    told_expired,
)
from tests.model.transactions import (
    APPLY,
    STATUS_AFTER,
    TRANSACTIONS,
    Transactions,
    items_of,
    price_is_as_read,
    seat_is_free_or_ended,
)
from tests.model.world import (
    CAUTIONS,
    OF_A_BUSY_STORE,
    OF_A_REFUSAL,
    OF_THE_TIME,
    OWN_EXTENSION,
    OWN_RECORD,
    OWN_RESERVATION,
    RECOGNITIONS,
    Wanted,
    World,
)


class Step(NamedTuple):
    """What may happen next. `answer`: a caller is told so. `refused`: a caller is told that nothing happened. `late`:
    this try arrives, and is applied."""

    what: str
    state: State
    attempt: Attempt | None = None
    now: int = 0
    answer: Answer | None = None
    refused: bool = False
    late: Late | None = None

    def __str__(self) -> str:
        if self.attempt is None:
            return self.what
        keyed = " with the key" if self.attempt.keyed else ""
        who = f"{self.attempt.command} of {self.attempt.reservation}{keyed}"
        return f"{who}, op {self.attempt.op}, at {self.now}: {self.what}"


class Protocol:
    """The steps of a world. `recognitions` and `cautions`: those that attempts are capable of."""

    def __init__(
        self,
        world: World,
        transactions: Transactions = TRANSACTIONS,
        recognitions: Collection[str] = RECOGNITIONS,
        cautions: Collection[str] = CAUTIONS,
    ) -> None:
        self.world = world
        self._recognitions = recognitions
        self._cautions = cautions
        self._conditions = {
            command: [(item, conditions) for item, conditions in items.items() if conditions]
            for command, items in transactions.items()
        }

    def start(self) -> State:
        world = self.world
        users = 1 + max(wanted.user for wanted in world.creates)
        return State(
            time=0 if world.trusted else None,
            seats=(Seat(0), Seat(1)),
            slots=(None,) * users if world.slots else (),
            reservations=(None,) * world.reservations,
            records=(None,) * users * len(KEYED_COMMANDS),
            orders=(0,) * world.reservations,
            attempts=(),
            starts=world.starts,
            reprices=world.reprices,
            delays=world.delays,
        )

    def steps(self, state: State) -> Iterator[Step]:
        """Everything that may happen next."""
        yield from self._others(state)
        if state.starts and len(state.attempts) < self.world.in_flight:
            yield from self._begin(state)
        for attempt in state.attempts:
            for now in self._times(state):
                yield from map(self._noted, self._write(state, attempt, now))
            yield from map(self._noted, self._late_steps(state, attempt))
        if state.late is not None:
            yield from self._arrive(state, state.late)

    def _times(self, state: State) -> tuple[int, ...]:
        """What the clock of a process may say."""
        return ANY_TIME if state.time is None else (state.time, state.time + SKEW)

    def _own_times(self, state: State) -> tuple[int, ...]:
        """The same, for a time that is only compared with what clocks say later. Of clocks that say anything one is
        enough."""
        return (0,) if state.time is None else self._times(state)

    def _others(self, state: State) -> Iterator[Step]:
        """What no attempt does."""
        if state.time is not None:
            if state.time < self.world.until:
                yield Step(f"it is {state.time + 1}", state._replace(time=state.time + 1))
            yield from self._look(state, state.time + SKEW)
        if state.reprices:
            for seat in state.seats:
                if seat.status == FREE:
                    seats = put(state.seats, seat.number, seat._replace(price=seat.price + 1))
                    yield Step(
                        f"seat {seat.number} costs more", state._replace(seats=seats, reprices=state.reprices - 1)
                    )

    def _look(self, state: State, now: int) -> Iterator[Step]:
        """A reader is told EXPIRED of a hold that nobody has settled, once no clock can be before its end."""
        for number, there in enumerate(state.reservations):
            held = there is not None and there.status == HOLD and not there.told_expired
            if held and there is not None and now > there.ends + self.world.patience:
                yield Step(f"a reader is told that {number} is expired", told_expired(state, number))

    # The read

    def _begin(self, state: State) -> Iterator[Step]:
        taken = [attempt.op for attempt in at_work(state)]
        op = next(each for each in range(1, 10) if each not in taken)
        for attempt in self._reads(state, op):
            attempts = tuple(sorted((*state.attempts, attempt)))
            yield Step("begins", state._replace(attempts=attempts, starts=state.starts - 1), attempt)

    def _reads(self, state: State, op: int) -> Iterator[Attempt]:
        number = self._new_number(state)
        if number is not None:
            for wanted in self.world.creates:
                for now in self._own_times(state):
                    yield self.create(state, wanted, number, op, now)
        for number, there in enumerate(state.reservations):
            if there is not None:
                for command in self.world.changes:
                    for keyed in self.world.keyed if command != SETTLE else (False,):
                        yield self.change(state, command, number, op, keyed)

    def _new_number(self, state: State) -> int | None:
        """Of a reservation that nobody has made or is about to make."""
        for number, there in enumerate(state.reservations):
            if there is None and all(number != attempt.reservation for attempt in at_work(state)):
                return number
        return None

    def create(self, state: State, wanted: Wanted, number: int, op: int, now: int) -> Attempt:
        """One that has read the prices."""
        prices = tuple(state.seats[seat].price for seat in wanted.seats)
        user, seats, keyed = wanted
        return Attempt(CREATE, user, keyed, number, op, seats, prices, self.world.slots, now + HOLD_TIME)

    def change(self, state: State, command: str, number: int, op: int, keyed: bool = False) -> Attempt:
        """One that has read the reservation."""
        there = state.reservations[number]
        assert there is not None
        return self._as_read(Attempt(command, there.user, keyed, number, op, (), (), False, 0), there)

    def _as_read(self, attempt: Attempt, there: Reservation) -> Attempt:
        return attempt._replace(
            seats=there.seats,
            slot=self.world.slots,
            ends=there.ends,
            version=there.version,
            extensions=there.extensions,
            settling=False,
            overtaken=False,
        )

    # The transaction

    def alone(self, state: State, attempt: Attempt, now: int) -> Step:
        """The last step of an attempt that nobody gets in the way of. Its op must be nobody's."""
        step = next(self._write(state, attempt, now))
        while left := [each for each in step.state.attempts if each.op == attempt.op]:
            step = next(self._write(step.state, left[0], now))
        return step

    def _write(self, state: State, attempt: Attempt, now: int) -> Iterator[Step]:
        command = SETTLE if attempt.settling else attempt.command
        failed = self._failed(state, attempt, command, now)
        if _denied(attempt) and not attempt.settling and not attempt.applied and KEY not in failed:
            yield Step("refused: extended enough", ended(state, attempt), attempt, now, refused=True)
        elif not failed:
            yield from self._applied(state, attempt, command, now)
        elif KEY in failed:
            yield self._known(state, attempt, now)
        elif command == CREATE:
            yield self._read_hold(state, attempt, failed, now)
        else:
            yield self._read_change(state, attempt, command, failed, now)

    def _failed(self, state: State, attempt: Attempt, command: str, now: int) -> dict[str, list[Any]]:
        """The items whose conditions do not hold, by their kind."""
        failed: dict[str, list[Any]] = {}
        for kind, conditions in self._conditions[command]:
            for item in items_of(state, attempt, kind):
                for condition in conditions:
                    if not condition(item, attempt, now):
                        failed.setdefault(kind, []).append(item)
                        break
        return failed

    def _applied(self, state: State, attempt: Attempt, command: str, now: int) -> Iterator[Step]:
        after = APPLY[command](state, attempt)
        if attempt.settling:
            after = told_expired(after, attempt.reservation)
            yield Step("settled, then refused", ended(after, attempt), attempt, now, refused=True)
            return
        answer = answer_of(after, attempt.reservation)
        if attempt.keyed:
            after = self._recorded(after, attempt, answer, now)
        told = None if command == SETTLE else answer
        yield Step("applied, and answered unless the reply is lost", ended(after, attempt), attempt, now, answer=told)
        if self.world.lost_replies and command != SETTLE and not attempt.applied:
            again = moved(after, attempt, attempt._replace(applied=True))
            yield Step("applied, and to be tried again for want of a reply", again, attempt, now)

    def _recorded(self, state: State, attempt: Attempt, answer: Answer, now: int) -> State:
        key = key_of(attempt)
        before = state.records[key]
        effects = 1
        if before is not None and state.time is not None and before.ends > state.time + SKEW:
            effects += before.effects
        ends = self.world.key_window + (now if state.time is not None else 0)
        record = Record(attempt.op, attempt.content, answer, ends, effects)
        return state._replace(records=put(state.records, key, record))

    # The try that is late

    def _late_steps(self, state: State, attempt: Attempt) -> Iterator[Step]:
        """A try of it becomes late; or has, and no further one is taken."""
        late = state.late
        if attempt.overtaken or (late is not None and late.sent.op == attempt.op and not attempt.applied):
            after = ended(state, attempt)
            if attempt.overtaken and OF_A_BUSY_STORE in self._cautions:
                yield Step("not known: the store is busy until its time is up", after, attempt)
            else:
                yield Step("refused: the store is busy until its time is up", after, attempt, refused=True)
        writes = attempt.command != SETTLE and not attempt.settling and not attempt.applied and not _denied(attempt)
        if state.delays and late is None and writes:
            for now in self._own_times(state):
                after = moved(state, attempt, attempt._replace(overtaken=True))
                after = after._replace(late=Late(attempt, now), delays=state.delays - 1)
                yield Step("is not answered in time, and still on its way", after, attempt, now)

    def _noted(self, step: Step) -> Step:
        """A refusal, with the try that may belie it."""
        late, mine = step.state.late, step.attempt
        if not step.refused or late is None or mine is None:
            return step
        if late.sent.op == mine.op:
            return step._replace(state=step.state._replace(late=late._replace(refused=True)))
        if not _repeats(mine, late.sent):
            return step
        later = late._replace(refused_again=True) if self.world.outlasting else None
        return step._replace(state=step.state._replace(late=later))

    def _arrive(self, state: State, late: Late) -> Iterator[Step]:
        """Whoever sent it hears nothing of it."""
        sent = late.sent
        for now in self._times(state) if state.time is None else (late.now,):
            after = state._replace(late=None)
            if self._failed(state, sent, sent.command, now):
                yield Step("arrives late, and is refused", after, sent, now)
                continue
            after = APPLY[sent.command](after, sent)
            if sent.keyed:
                after = self._recorded(after, sent, answer_of(after, sent.reservation), now)
            mine = next((each for each in state.attempts if each.op == sent.op), None)
            after = moved(after, mine, mine._replace(applied=True)) if mine is not None else ended(after, sent)
            yield Step("arrives late, and is applied", after, sent, now, late=late)

    # The verdict, if it was not applied

    def _known(self, state: State, attempt: Attempt, now: int) -> Step:
        """What the key's record says wins over everything."""
        record = state.records[key_of(attempt)]
        assert record is not None
        after = ended(state, attempt)
        if attempt.applied and record.op == attempt.op and OWN_RECORD in self._recognitions:
            return Step("finds its own record", after, attempt, now, answer=record.answer)
        if record.content != attempt.content or OWN_RECORD not in self._recognitions:
            return Step("refused: the key was used for something else", after, attempt, now, refused=True)
        return Step("replayed", after, attempt, now, answer=record.answer)

    def _read_hold(self, state: State, attempt: Attempt, failed: dict[str, list[Any]], now: int) -> Step:
        number = attempt.reservation
        if OWN_RESERVATION in self._recognitions and (
            RESERVATION in failed or any(seat.holder == number for seat in failed.get(SEAT, ()))
        ):
            answer = Answer(number, HOLD, 1, attempt.ends, attempt.prices)
            return Step("finds its own reservation", ended(state, attempt), attempt, now, answer=answer)
        repriced = all(not price_is_as_read(seat, attempt, now) for seat in failed.get(SEAT, ()))
        taken = any(not seat_is_free_or_ended(seat, attempt, now) for seat in failed.get(SEAT, ())) or not repriced
        if taken or RESERVATION in failed or SLOT in failed:
            if attempt.overtaken and OF_A_REFUSAL in self._cautions:
                return Step("not known: a seat or the slot is taken now", ended(state, attempt), attempt, now)
            return Step("refused: a seat or the slot is taken", ended(state, attempt), attempt, now, refused=True)
        prices = tuple(state.seats[seat].price for seat in attempt.seats)
        return Step("reads the prices again", moved(state, attempt, attempt._replace(prices=prices)), attempt, now)

    def _read_change(
        self, state: State, attempt: Attempt, command: str, failed: dict[str, list[Any]], now: int
    ) -> Step:
        if RESERVATION in failed:
            return self._superseded(state, attempt, now)
        lost = {seat.number for seat in failed.get(SEAT, ()) if seat.holder != attempt.reservation}
        if lost and command != SETTLE:
            after = told_expired(ended(state, attempt), attempt.reservation)
            return Step("refused: a seat is somebody else's by now", after, attempt, now, refused=True)
        if lost:
            left = attempt._replace(seats=tuple(seat for seat in attempt.seats if seat not in lost))
            return Step("leaves out the seats that it has lost", moved(state, attempt, left), attempt, now)
        if ORDER in failed:
            return Step("fails: there is an order", ended(state, attempt), attempt, now, refused=True)
        if not any(slot is None or slot.holder != attempt.reservation for slot in failed.get(SLOT, ())):
            return Step("tries again", state, attempt, now)
        if command == EXTEND:
            return Step("refused: its slot is somebody else's", ended(state, attempt), attempt, now, refused=True)
        left = attempt._replace(slot=False)
        return Step("leaves out the slot that it has lost", moved(state, attempt, left), attempt, now)

    def _superseded(self, state: State, attempt: Attempt, now: int) -> Step:
        """The reservation is not what was read, or its time is not right."""
        there = state.reservations[attempt.reservation]
        assert there is not None
        after = ended(state, attempt)
        answer = answer_of(state, attempt.reservation)
        if attempt.op in there.extended_by and OWN_EXTENSION in self._recognitions:
            own = answer._replace(status=HOLD, version=attempt.version + 1, ends=attempt.ends + EXTENSION)
            return Step("finds its own extension", after, attempt, now, answer=own)
        if attempt.command == SETTLE:
            return Step("leaves it to others", after, attempt, now)
        if there.status == STATUS_AFTER[attempt.command] != HOLD:
            return Step("finds it done", after, attempt, now, answer=answer)
        if there.status == HOLD:
            if attempt.overtaken and there.version == attempt.version and OF_THE_TIME in self._cautions:
                return Step("not known: it is past its time by now", after, attempt, now)
            again = self._as_read(attempt, there)
            if there.ends <= now and not attempt.settling:
                again = again._replace(settling=True)
            return Step("reads the reservation again", moved(state, attempt, again), attempt, now)
        if there.status == EXPIRED:
            after = told_expired(after, attempt.reservation)
        return Step(f"refused: it is {there.status}", after, attempt, now, refused=True)


def _denied(attempt: Attempt) -> bool:
    return attempt.command == EXTEND and attempt.extensions >= MAX_EXTENSIONS


def _repeats(mine: Attempt, other: Attempt) -> bool:
    return mine.keyed and other.keyed and key_of(mine) == key_of(other) and mine.content == other.content
