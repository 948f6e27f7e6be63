"""One effect per idempotency key, and every answer that promised something is still true at the end."""

from collections.abc import Iterator

from reservation.domain.model import Reservation, SeatStatus, Status
from tests.chaos.history import Answer, Attempt, Kind
from tests.chaos.told import REFUSALS, Command, Told, may_have_effect
from tests.chaos.violation import Violation

ONE_EFFECT, STILL_TRUE = "one effect per key", "what was answered stays true"


def one_effect_per_key(told: Told) -> Iterator[Violation]:
    for command in told.commands:
        for text in _effects(command, told):
            yield Violation(ONE_EFFECT, command.first.name, text, tuple(command.attempts))


def _effects(command: Command, told: Told) -> Iterator[str]:
    first = command.first
    answers = {each.answer for each in command.oks}
    if len(answers) > 1:
        yield f"has {len(answers)} different answers"
    if first.kind in (Kind.CREATE, Kind.EXTEND) and len(command.originals) > 1:
        yield f"was carried out {len(command.originals)} times"
    if first.kind is Kind.CREATE:
        made = told.tokens.get(first.name, ())
        if len(made) > 1:
            yield f"made {len(made)} reservations: {', '.join(made)}"
        if made and not command.may_have_effect:
            yield f"was refused each time and made {made[0]}"
    if (refused := _refused_after_success(command, told)) is not None:
        yield f"was refused ({refused.status}, #{refused.number}) after it had succeeded"


def _refused_after_success(command: Command, told: Told) -> Attempt | None:
    success = command.end
    if success is None:
        return None
    forgotten = command.start + told.bounds.key_window - told.bounds.skew
    for each in command.attempts:
        late = each.answered is None or each.answered >= forgotten
        if each.status in REFUSALS and each.called > success and not late:
            return each
    return None


def answers_stay_true(told: Told) -> Iterator[Violation]:
    for command in told.commands:
        for attempt in command.originals[:1] or command.oks[:1]:
            assert attempt.answer is not None
            for text in _lies(attempt, attempt.answer, command, told):
                yield Violation(STILL_TRUE, _subject(attempt), text, tuple(command.attempts))
    for story in told.stories.values():
        if story.stored is None and any(each.ok for each in story.gets):
            yield Violation(STILL_TRUE, story.id, "was read and is not in the tables", story.attempts)
        if story.stored is not None and story.create is None:
            yield Violation(STILL_TRUE, story.id, "is in the tables and nobody asked for it", story.attempts)


def _subject(attempt: Attempt) -> str:
    return attempt.reservation_id or (attempt.answer.reservation_id if attempt.answer else "")


def _lies(attempt: Attempt, answer: Answer, command: Command, told: Told) -> Iterator[str]:
    story = told.stories.get(_subject(attempt))
    stored = story.stored if story is not None else None
    if stored is None:
        yield "is not in the tables"
        return
    match attempt.kind:
        case Kind.CREATE:
            yield from _lies_of_create(attempt, answer, command, stored, told)
        case Kind.CONFIRM:
            yield from _lies_of_confirm(attempt, answer, stored, told)
        case Kind.CANCEL if stored.status is not Status.CANCELLED:
            yield f"was cancelled and is {stored.status}"
        case Kind.EXTEND if (answer.hold_expires_at or 0) > stored.hold_expires_at:
            yield f"was extended until {answer.hold_expires_at} and ended at {stored.hold_expires_at}"


def _lies_of_create(
    attempt: Attempt, answer: Answer, command: Command, stored: Reservation, told: Told
) -> Iterator[str]:
    if answer.status != Status.HOLD:
        yield f"was created as {answer.status}"
    if set(answer.seat_ids) != set(stored.seat_ids) or (
        attempt.seat_ids and set(attempt.seat_ids) != {*answer.seat_ids}
    ):
        yield f"was to have {attempt.seat_ids}, was told {answer.seat_ids} and has {stored.seat_ids}"
    if (stored.user_id, stored.event_id) != (attempt.user, attempt.event_id):
        yield f"is of {stored.user_id} and {stored.event_id}"
    until, bounds = answer.hold_expires_at, told.bounds
    earliest = min(each.called for each in command.attempts if may_have_effect(each)) + bounds.hold - bounds.skew
    latest = (command.end or bounds.read_at) + bounds.hold + bounds.skew
    if until is None or not earliest <= until <= latest:
        yield f"was held until {until}, which is not {bounds.hold} ms"


def _lies_of_confirm(attempt: Attempt, answer: Answer, stored: Reservation, told: Told) -> Iterator[str]:
    if stored.status is not Status.CONFIRMED:
        yield f"was confirmed and is {stored.status}"
        return
    if stored.payment_intent_id != attempt.payment_id:
        yield f"was confirmed with {attempt.payment_id} and is paid with {stored.payment_intent_id}"
    if not answer.order_id or answer.order_id != told.orders.get(stored.id):
        yield f"was confirmed with order {answer.order_id} and has {told.orders.get(stored.id)}"
    for seat_id in stored.seat_ids:
        seat = told.seats.get(f"{stored.event_id}#{seat_id}")
        if seat is None or (seat.status, seat.holder) != (SeatStatus.SOLD, stored.id):
            yield f"was sold {seat_id}, which is {seat and seat.status} for {seat and seat.holder!r}"
