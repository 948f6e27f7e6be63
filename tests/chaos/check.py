"""Whether the service kept its promises: pure functions of what customers were told, of the tables at the end, and of
the events in the order in which the bus accepted them."""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import TypeVar

from tests.chaos import reservation_claims, seat_claims
from tests.chaos.answer_claims import answers_stay_true, one_effect_per_key
from tests.chaos.history import Attempt, Delivery
from tests.chaos.linearize import Op, linearize, shortest
from tests.chaos.table_claims import capacity_is_kept, events_get_out, holds_end, tables_agree
from tests.chaos.told import Bounds, Told, told
from tests.chaos.violation import Violation, distinct
from tests.support.invariants import Rows

RESERVATIONS, SEATS = "a reservation is linearizable", "a seat is linearizable"

S = TypeVar("S", bound=Hashable)


def check(
    history: Iterable[Attempt], rows: Rows, deliveries: Sequence[Delivery], bounds: Bounds
) -> Iterator[Violation]:
    """Everything that is wrong, claim by claim."""
    known = told(history, rows, deliveries, bounds)
    yield from _seats(known)
    yield from _reservations(known)
    yield from one_effect_per_key(known)
    yield from answers_stay_true(known)
    yield from holds_end(known)
    yield from events_get_out(known, rows, deliveries)
    yield from capacity_is_kept(known.seats, bounds)
    yield from tables_agree(rows, bounds)


def _seats(known: Told) -> Iterator[Violation]:
    for pk, ops in seat_claims.ops_by_seat(known).items():
        yield from _stuck(SEATS, pk, seat_claims.FREE, ops)


def _reservations(known: Told) -> Iterator[Violation]:
    for story in known.stories.values():
        if story.create is not None:
            ops = list(reservation_claims.ops_of(story, known.bounds))
            yield from _stuck(RESERVATIONS, story.id, reservation_claims.ABSENT, ops)


def _stuck(claim: str, subject: str, initial: S, ops: Sequence[Op[S]]) -> Iterator[Violation]:
    stuck = linearize(initial, ops)
    if stuck is None:
        return
    if stuck.undecided:
        yield Violation(claim, subject, "has too many possible pasts to decide", stuck.op.attempts)
        return
    stuck = shortest(initial, stuck)
    states = " or ".join(map(str, stuck.states[:4])) or "nothing"
    led = ", ".join(op.words for op in stuck.ops if op is not stuck.op)
    text = f"cannot have come to: {stuck.op.words}. It was {states}, after: {led}"
    yield Violation(claim, subject, text, distinct(each for op in stuck.ops for each in op.attempts))
