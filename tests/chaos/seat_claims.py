"""Each seat alone is linearizable: it has one holder at a time, and is refused only while somebody has it."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from reservation.domain.model import SeatStatus, Status
from reservation.dynamodb.items import SeatState
from tests.chaos.history import Attempt, Kind
from tests.chaos.linearize import Op
from tests.chaos.told import Bounds, Command, Story, Told


@dataclass(frozen=True, slots=True)
class State:
    """`holder`: a reservation's id, empty if it is free. `create`: the name of what made it. `until`: of a hold,
    None once it is sold."""

    holder: str = ""
    create: str = ""
    until: int | None = 0

    def taken(self, at: int) -> bool:
        return self.holder != "" and (self.until is None or at < self.until)


FREE = State()


def ops_by_seat(told: Told) -> Mapping[str, list[Op[State]]]:
    """By the seats' keys; the tables come last."""
    ops: dict[str, list[Op[State]]] = defaultdict(list)
    for story in told.stories.values():
        if story.create is not None and (story.stored is not None or story.create.oks):
            for pk, op in _ops_of(story, story.create, told.bounds):
                ops[pk].append(op)
    for command in told.commands:
        for attempt in command.attempts:
            for pk in _refused_seats(attempt):
                ops[pk].append(_refusal(attempt, told.bounds))
    for attempt in told.checks:
        for pk, op in _checked(attempt, told.bounds):
            ops[pk].append(op)
    for pk, found in ops.items():
        if (seat := told.seats.get(pk)) is not None:
            end = told.bounds.read_at
            found.append(Op(end, end, partial(_ends_as, seat), f"the tables say {seat.status} {seat.holder}".rstrip()))
    return ops


def _ops_of(story: Story, create: Command, bounds: Bounds) -> Iterator[tuple[str, Op[State]]]:
    """What this reservation did to each of its seats. That it came to its end is known from the tables."""
    stored = story.stored
    if stored is not None:
        event_id, seat_ids, status = stored.event_id, stored.seat_ids, stored.status
    else:
        event_id, seat_ids, status = create.first.event_id, create.first.seat_ids, Status.HOLD
    mine = State(story.id, create.first.name, story.first_end(bounds.hold))
    changes = [
        Op(
            create.start,
            _by(create.end, story, "created"),
            partial(_take, mine, bounds),
            f"held by {story.id}",
            _of(create),
        )
    ]
    changes += _extensions(story, bounds)
    if status is Status.CONFIRMED:
        changes.append(_last(story, Kind.CONFIRM, "confirmed", bounds))
    if status is Status.CANCELLED:
        changes.append(_last(story, Kind.CANCEL, "cancelled", bounds))
    for seat_id in seat_ids:
        pk = f"{event_id}#{seat_id}"
        yield from ((pk, op) for op in changes)
        if status is Status.EXPIRED:
            yield from ((pk, op) for op in _settlement(story, seat_id, create.start, bounds))


def _by(end: int | None, story: Story, type_: str) -> int | None:
    events = [each.at for each in story.told_of(type_)]
    return min([*events, *([] if end is None else [end])], default=None)


def _of(*commands: Command) -> tuple[Attempt, ...]:
    return tuple(attempt for each in commands for attempt in each.attempts)


def _extensions(story: Story, bounds: Bounds) -> Iterator[Op[State]]:
    commands = story.of(Kind.EXTEND)
    told = {_ms(each.detail["reservation"]["holdExpiresAt"]): each.at for each in story.told_of("hold_extended")}
    for command in commands:
        for until in (each.answer.hold_expires_at for each in command.oks[:1] if each.answer is not None):
            if until is not None and command.end is not None:
                end = min(command.end, told.pop(until, command.end))
                step = partial(_extend, story.id, command.start - bounds.skew, until)
                yield Op(command.start, end, step, f"extended for {story.id}", _of(command))
    for until, at in told.items():
        start = min((each.start for each in commands), default=0)
        step = partial(_extend, story.id, start - bounds.skew, until)
        yield Op(start, at, step, f"extended for {story.id}", _of(*commands))


def _ms(timestamp: str) -> int:
    return round(datetime.fromisoformat(timestamp).timestamp() * 1000)


def _last(story: Story, kind: Kind, type_: str, bounds: Bounds) -> Op[State]:
    commands = story.of(kind)
    start = min((each.start for each in commands), default=0)
    end = _by(min((each.end for each in commands if each.end is not None), default=None), story, type_)
    step = _sell if kind is Kind.CONFIRM else _free
    return Op(start, end, partial(step, story.id, start - bounds.skew), f"{type_} for {story.id}", _of(*commands))


def _settlement(story: Story, seat_id: str, start: int, bounds: Bounds) -> Iterator[Op[State]]:
    """If it is known whether the settlement freed this seat, it did; if not, it may have."""
    words = f"freed from {story.id}, whose time was over"
    step = partial(_settle, story.id, bounds)
    events = story.told_of("expired")
    if not events:
        yield Op(start, None, step, words)
    elif seat_id in events[0].detail.get("releasedSeats", ()):
        yield Op(start, events[0].at, step, words)


def _refused_seats(attempt: Attempt) -> Iterator[str]:
    """A refusal that names no seats says of none which it means, unless only one was asked for."""
    if attempt.status == "SEAT_UNAVAILABLE" and attempt.answered is not None:
        named = attempt.answer.unavailable if attempt.answer is not None else ()
        asked = attempt.seat_ids if len(attempt.seat_ids) == 1 else ()
        yield from (f"{attempt.event_id}#{seat_id}" for seat_id in named or asked)


def _refusal(attempt: Attempt, bounds: Bounds) -> Op[State]:
    step = partial(_unavailable, attempt.called - bounds.skew, attempt.name)
    return Op(attempt.called - bounds.stale, attempt.answered, step, "refused", (attempt,), reads=True)


def _checked(attempt: Attempt, bounds: Bounds) -> Iterator[tuple[str, Op[State]]]:
    if attempt.answer is None or attempt.answered is None:
        return
    start, end, mine = attempt.called, attempt.answered, (attempt,)
    for seat_id in attempt.answer.seat_ids:
        yield (
            f"{attempt.event_id}#{seat_id}",
            Op(start, end, partial(_available, bounds), "seen free", mine, reads=True),
        )
    taken = partial(_unavailable, start - bounds.skew, "")
    for seat_id in attempt.answer.unavailable:
        yield f"{attempt.event_id}#{seat_id}", Op(start, end, taken, "seen taken", mine, reads=True)


def _take(mine: State, bounds: Bounds, state: State, now: int) -> State | None:
    """By the fastest clock."""
    return None if state.taken(now + bounds.skew) else mine


def _extend(holder: str, began: int, until: int, state: State, now: int) -> State | None:
    """`began`: what the slowest clock may have shown when it was asked for. What was begun in time may land late."""
    if state.holder != holder or state.until is None or not began < state.until < until:
        return None
    return State(holder, state.create, until)


def _sell(holder: str, began: int, state: State, now: int) -> State | None:
    return State(holder, state.create, None) if state.holder == holder and state.until and began < state.until else None


def _free(holder: str, began: int, state: State, now: int) -> State | None:
    return FREE if state.holder == holder and state.until and began < state.until else None


def _settle(holder: str, bounds: Bounds, state: State, now: int) -> State | None:
    if state.holder != holder or state.until is None or now + bounds.skew < state.until:
        return None
    return FREE


def _available(bounds: Bounds, state: State, now: int) -> State | None:
    return None if state.taken(now + bounds.skew) else state


def _unavailable(at: int, create: str, state: State, now: int) -> State | None:
    """`at`: what the slowest clock may have shown. Nobody is refused for what is his own by this very request."""
    return state if state.taken(at) and state.create != create else None


def _ends_as(seat: SeatState, state: State, now: int) -> State | None:
    match seat.status:
        case SeatStatus.HELD:
            same = state.holder == seat.holder and state.until == seat.hold_expires_at
        case SeatStatus.SOLD:
            same = state.holder == seat.holder and state.until is None
        case _:
            same = state == FREE
    return state if same else None
