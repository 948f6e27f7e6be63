"""The tables at the end: no hold that should have ended, no seat lost or won, no event missing or out of order."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping

from reservation.domain.model import SeatStatus, Status
from reservation.dynamodb.items import SeatState, outbox_row_from_item, shard_of_dead_letters
from tests.chaos.history import Delivery
from tests.chaos.told import Bounds, Story, Told
from tests.chaos.violation import Violation
from tests.support.invariants import Rows, violations

HOLDS_END, EVENTS, CAPACITY, AGREEMENT = "every hold ends", "every event gets out", "no seat is lost", "tables agree"


def holds_end(told: Told) -> Iterator[Violation]:
    bounds = told.bounds
    for story in told.stories.values():
        held = story.stored
        if held is not None and held.status is Status.HOLD:
            due = max(held.hold_expires_at + bounds.skew, bounds.calm_at) + bounds.grace
            if due < bounds.read_at:
                late = (bounds.read_at - held.hold_expires_at) / 1000
                yield Violation(HOLDS_END, story.id, f"ended {late:.1f} s ago and is a HOLD still", story.attempts)


def capacity_is_kept(seats: Mapping[str, SeatState], bounds: Bounds) -> Iterator[Violation]:
    counts: dict[str, Counter[SeatStatus]] = defaultdict(Counter)
    for pk, seat in seats.items():
        counts[pk.partition("#")[0]][seat.status] += 1
    for event_id, total in bounds.capacity.items():
        count = counts[event_id]
        if count.total() != total:
            told = ", ".join(f"{status} {number}" for status, number in sorted(count.items()))
            yield Violation(CAPACITY, event_id, f"has {count.total()} seats of {total}: {told}")


def tables_agree(rows: Rows, bounds: Bounds) -> Iterator[Violation]:
    for text in violations(rows, now=bounds.read_at + bounds.skew, events_left=True):
        yield Violation(AGREEMENT, "", text)


def events_get_out(told: Told, rows: Rows, deliveries: Iterable[Delivery]) -> Iterator[Violation]:
    """`deliveries` in the order in which the bus accepted them."""
    firsts: dict[str, list[int]] = defaultdict(list)
    for delivery in deliveries:
        versions, version = firsts[delivery.detail["reservation"]["reservationId"]], delivery.detail["version"]
        if version not in versions:
            versions.append(version)
    waiting = _waiting(rows, told.bounds)
    for story in told.stories.values():
        for text in _wrong_events(story, firsts.get(story.id, []), waiting.get(story.id, set())):
            yield Violation(EVENTS, story.id, text, story.attempts)
    for row in rows.outbox:
        if shard_of_dead_letters(row["shard"]["S"]) is not None:
            yield Violation(EVENTS, row["reservationId"]["S"], "has a dead letter")


def _waiting(rows: Rows, bounds: Bounds) -> Mapping[str, set[int]]:
    """The versions of each reservation whose events may be in the outbox still."""
    found: dict[str, set[int]] = defaultdict(set)
    for row in map(outbox_row_from_item, rows.outbox):
        written_at, version = row.written_at, int(row.seq.rpartition("#")[2])
        if written_at is None or max(written_at, bounds.calm_at) + bounds.skew + bounds.grace >= bounds.read_at:
            found[row.reservation_id].add(version)
    return found


def _wrong_events(story: Story, delivered: list[int], waiting: set[int]) -> Iterator[str]:
    stored = story.stored
    if stored is None:
        if delivered:
            yield f"is told of by events {delivered} and is not in the tables"
        return
    if delivered != sorted(delivered):
        yield f"has events in the order {delivered}"
    missing = set(range(1, stored.version + 1)) - set(delivered) - waiting
    if missing:
        yield f"has version {stored.version}, and events {sorted(missing)} never left"
    if delivered and max(delivered) > stored.version:
        yield f"has version {stored.version} and events {delivered}"
    gaps = set(range(1, max(delivered, default=0) + 1)) - set(delivered)
    if gaps - missing:
        yield f"has events {delivered}, and {sorted(gaps - missing)} wait still"
    last = story.events.get(stored.version)
    if last is not None and last.detail["reservation"]["status"] != stored.status:
        yield f"is {stored.status}, and its last event says {last.detail['reservation']['status']}"
