"""Each reservation alone is linearizable: created once, and what was said of it can all be true in some order."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from reservation.domain.model import Status
from tests.chaos.history import Attempt, Kind
from tests.chaos.linearize import Op
from tests.chaos.told import REFUSALS, Bounds, Command, Story


@dataclass(frozen=True, slots=True)
class State:
    """`until`: of a HOLD. `lost`: this HOLD was once said to be over, because of its time, and nobody may have it any
    more; it need not be settled yet, so a reader whose clock is behind may still see it. `payment`: of a CONFIRMED."""

    status: str
    until: int = 0
    lost: bool = False
    payment: str = ""


ABSENT = State("")
_FINAL = State(Status.EXPIRED)


def ops_of(story: Story, bounds: Bounds) -> Iterator[Op[State]]:
    """What happened to it and what was read of it, the tables last. Its create must be known."""
    create, stored = story.create, story.stored
    assert create is not None
    first = story.first_end(bounds.hold)
    yield Op(create.start, _earliest(create.end, story, "created"), partial(_create, first), "create", _of(create))
    for command in story.commands:
        yield from _change(command, story, bounds)
        for attempt in command.attempts:
            if attempt.status in REFUSALS and attempt.answered is not None:
                refused = partial(_refused, attempt, bounds)
                yield _read(attempt, refused, f"{attempt.kind} refused {attempt.status}")
    for attempt in story.gets:
        if attempt.answered is not None and (attempt.ok or attempt.status == "RESERVATION_NOT_FOUND"):
            yield _read(attempt, partial(_get, attempt, bounds), "get")
    if stored is not None:
        if stored.status is Status.EXPIRED:
            yield Op(create.start, _earliest(None, story, "expired"), partial(_expire, bounds), "expire")
        end = bounds.read_at
        state = State(stored.status, stored.hold_expires_at, payment=stored.payment_intent_id)
        yield Op(end, end, partial(_ends_as, state), f"the tables say {stored.status}")


def _read(attempt: Attempt, step: partial[State | None], words: str) -> Op[State]:
    return Op(attempt.called, attempt.answered, step, words, (attempt,), reads=True)


def _of(command: Command) -> tuple[Attempt, ...]:
    return tuple(command.attempts)


def _earliest(end: int | None, story: Story, type_: str) -> int | None:
    """What an event told of had happened when the bus took it."""
    events = [each.at for each in story.told_of(type_)]
    return min([*events, *([] if end is None else [end])], default=None)


def _change(command: Command, story: Story, bounds: Bounds) -> Iterator[Op[State]]:
    if not command.may_have_effect:
        return
    first, start, end = command.first, command.start, command.end
    match first.kind:
        case Kind.CONFIRM:
            if len(story.of(Kind.CONFIRM)) == 1:
                end = _earliest(end, story, "confirmed")
            yield Op(start, end, partial(_confirm, start - bounds.skew, first.payment_id), "confirm", _of(command))
        case Kind.CANCEL:
            if len(story.of(Kind.CANCEL)) == 1:
                end = _earliest(end, story, "cancelled")
            yield Op(start, end, partial(_cancel, start - bounds.skew), "cancel", _of(command))
        case Kind.EXTEND:
            ends = [each.answer.hold_expires_at for each in command.oks if each.answer is not None]
            step = partial(_extend, start - bounds.skew, first.seconds * 1000, ends[0] if ends else None)
            yield Op(start, end, step, f"extend by {first.seconds} s", _of(command))


def _create(until: int, state: State, now: int) -> State | None:
    return State(Status.HOLD, until) if state == ABSENT else None


def _confirm(began: int, payment: str, state: State, now: int) -> State | None:
    """`began`: what the slowest clock may have shown when it was asked for. What was begun in time may land late."""
    if state.status == Status.CONFIRMED:
        return state if state.payment == payment else None
    return State(Status.CONFIRMED, payment=payment) if _lives(state, began) else None


def _cancel(began: int, state: State, now: int) -> State | None:
    if state.status == Status.CANCELLED:
        return state
    return State(Status.CANCELLED) if _lives(state, began) else None


def _extend(began: int, by: int, told: int | None, state: State, now: int) -> State | None:
    until = state.until + by
    return State(Status.HOLD, until) if _lives(state, began) and told in (None, until) else None


def _expire(bounds: Bounds, state: State, now: int) -> State | None:
    return _FINAL if state.status == Status.HOLD and now + bounds.skew >= state.until else None


def _lives(state: State, at: int) -> bool:
    return state.status == Status.HOLD and not state.lost and at < state.until


def _refused(attempt: Attempt, bounds: Bounds, state: State, now: int) -> State | None:
    match attempt.status:
        case "RESERVATION_EXPIRED":
            return _over(state, now + bounds.skew)
        case "RESERVATION_ALREADY_CONFIRMED":
            other = attempt.kind is not Kind.CONFIRM or state.payment != attempt.payment_id
            return state if state.status == Status.CONFIRMED and other else None
        case "RESERVATION_ALREADY_CANCELLED":
            return state if state.status == Status.CANCELLED else None
        case "RESERVATION_NOT_FOUND":
            return state if state == ABSENT else None
        case "HOLD_EXTENSION_DENIED":
            return state if state.status == Status.HOLD and attempt.called - bounds.skew < state.until else None
    return None


def _over(state: State, latest: int) -> State | None:
    """After it was said that it is over, which is final. `latest`: what the fastest clock may have shown."""
    if state.status == Status.HOLD and latest >= state.until:
        return State(Status.HOLD, state.until, lost=True)
    return state if state.status == Status.EXPIRED else None


def _get(attempt: Attempt, bounds: Bounds, state: State, now: int) -> State | None:
    answer = attempt.answer
    if answer is None:
        return state if state == ABSENT else None
    match answer.status:
        case Status.HOLD:
            in_time = attempt.called - bounds.skew <= state.until + bounds.read_skew + bounds.distrust
            same = state.status == Status.HOLD and answer.hold_expires_at == state.until
            return state if same and in_time else None
        case Status.EXPIRED:
            return _over(state, now + bounds.skew - bounds.read_skew)
        case Status.CONFIRMED:
            return state if state.status == Status.CONFIRMED and answer.payment_id == state.payment else None
    return state if state.status == answer.status else None


def _ends_as(stored: State, state: State, now: int) -> State | None:
    same = state.status == stored.status and (
        state.until == stored.until if state.status == Status.HOLD else state.payment == stored.payment
    )
    return state if same else None
