"""Which events may leave: the order of a reservation's events, and who waits for whom."""

import random
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reservation.background.lane import Lane, Pass, back_off
from reservation.dynamodb.outbox import OutboxPage, OutboxRow, UnreadableRow
from tests.support.outbox import NOW, SHARD, row, rows
from tests.unit.examples import patient


class Clock:
    seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds


def lane(clock: Clock | None = None) -> Lane:
    """Its back-offs are the longest that are possible."""
    return Lane(SHARD, monotonic=(clock or Clock()).monotonic, random=lambda: 1.0)


def look(lane: Lane, *rows: OutboxRow | UnreadableRow) -> Pass:
    """A pass over a shard that has these rows."""
    this = Pass(lane)
    this.add(OutboxPage(rows, None))
    return this


def test_only_the_next_event_of_each_reservation_may_leave() -> None:
    this = look(lane(), row("a", 1), row("a", 2), row("b", 4), row("b", 5))
    assert this.ready == [row("a", 1), row("b", 4)]


def test_an_event_that_was_put_off_holds_up_its_reservation_and_no_other() -> None:
    it = lane()
    look(it, row("a", 1), row("a", 2)).put_off(row("a", 1))
    assert look(it, row("a", 1), row("a", 2), row("b", 1)).ready == [row("b", 1)]


def test_an_event_that_was_put_off_may_leave_after_its_back_off() -> None:
    clock = Clock()
    it = lane(clock)
    look(it, row("a")).put_off(row("a"))
    assert it.next_try == pytest.approx(0.1)
    clock.seconds = it.next_try
    assert look(it, row("a")).ready == [row("a")]


def test_the_next_version_waits_for_its_predecessors_acceptance_not_for_its_deletion() -> None:
    it = lane()
    look(it, row("a", 1), row("a", 2)).accept([row("a", 1)])
    this = look(it, row("a", 1), row("a", 2))
    assert (this.ready, this.undeleted) == ([row("a", 2)], [row("a", 1)])


def test_refusals_are_counted_for_an_event_and_not_for_its_reservation() -> None:
    it = lane()
    this = look(it, row("a", 1), row("a", 2))
    assert [this.put_off(row("a", 1), refused=True) for _ in range(3)] == [1, 2, 3]
    this.bury(row("a", 1))
    assert look(it, row("a", 2)).put_off(row("a", 2), refused=True) == 1


def test_what_is_put_off_for_passing_reasons_is_never_counted_as_refused() -> None:
    this = look(lane(), row("a"))
    assert [this.put_off(row("a")) for _ in range(50)] == [0] * 50
    assert this.put_off(row("a"), refused=True) == 1


def test_an_event_that_is_gone_is_forgotten() -> None:
    """Another process has published it: nothing must be waited for on its account."""
    it = lane()
    look(it, row("a"), row("b")).put_off(row("a"))
    look(it, row("b"))
    assert it.next_try == float("inf")


def test_an_event_behind_pages_that_were_not_read_is_not_forgotten() -> None:
    it = lane()
    look(it, row("a"), row("b")).put_off(row("b"))
    this = Pass(it)
    this.add(OutboxPage((row("a"),), next=row("a").seq))
    assert it.next_try == pytest.approx(0.1)


def test_a_row_nobody_can_read_holds_up_its_reservation_and_no_other() -> None:
    unreadable = UnreadableRow(SHARD, row("a", 1).seq)
    this = look(lane(), unreadable, row("a", 2), row("b", 1))
    assert (this.ready, this.unreadable) == ([row("b", 1)], [unreadable])


def test_a_row_that_became_unreadable_is_not_waited_for() -> None:
    """Its back-off would end again and again without anything to do."""
    it = lane()
    look(it, row("a")).put_off(row("a"))
    look(it, UnreadableRow(SHARD, row("a").seq))
    assert it.next_try == float("inf")


def test_a_pass_looks_past_pages_of_events_that_may_not_leave() -> None:
    it = lane()
    waiting = rows([f"{number:03d}" for number in range(200)])
    this = look(it, *waiting)
    for each in waiting:
        this.put_off(each)
    this = Pass(it)
    this.add(OutboxPage(tuple(waiting), next=waiting[-1].seq))
    assert this.needs_a_page
    this.add(OutboxPage((row("new"),), next=None))
    assert not this.needs_a_page
    assert this.ready == [row("new")]


def test_a_pass_with_enough_to_send_reads_no_further_and_is_soon_followed_by_another() -> None:
    this = Pass(lane())
    many = rows([f"{number:03d}" for number in range(200)])
    this.add(OutboxPage(tuple(many), next=many[-1].seq))
    assert not this.needs_a_page
    assert this.again_at_once


def test_after_a_pass_that_moved_nothing_there_is_something_to_wait_for() -> None:
    this = look(lane(), row("a", 1), row("a", 2))
    this.put_off(row("a", 1))
    assert not this.again_at_once


def test_the_age_is_that_of_the_oldest_event_that_is_left() -> None:
    it = lane()
    this = look(it, UnreadableRow(SHARD, "not#ours#1"), row("a", at=1_000), row("b", at=2_000))
    this.note_oldest()
    assert it.age(NOW + 4_001) == 3.0
    this.accept([row("a", at=1_000)])
    this.note_oldest()
    assert it.age(NOW + 4_001) == 2.0
    assert it.age(NOW) == 0.0  # a writer's clock was ahead
    look(it).note_oldest()
    assert it.age(NOW + 4_001) == 0.0


@patient
@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_a_back_off_is_at_most_five_seconds_and_doubles_its_limit_until_then(failures: int, chance: float) -> None:
    assert 0 <= back_off(failures, lambda: chance) <= min(5.0, 0.05 * 2 ** min(failures, 20))
    assert back_off(failures, lambda: chance) <= back_off(failures + 1, lambda: chance)


@patient
@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(1, 4))
def test_whatever_the_bus_does_events_of_a_reservation_leave_in_order(
    seed: int, reservations: int, versions: int
) -> None:
    """Deletions may fail, so that published rows are met again; none is sent again. Buried ones end the promise."""
    dice, clock = random.Random(seed), Clock()
    it = lane(clock)
    table = sorted(rows(map(str, range(reservations)), versions), key=lambda each: each.seq)
    left, sent = list(table), defaultdict(list)
    while left:
        this = look(it, *left)
        assert len({each.reservation_id for each in this.ready}) == len(this.ready)
        left = [each for each in left if each not in this.undeleted]
        for each in this.ready:
            if dice.random() < 0.5:
                this.put_off(each)
                continue
            this.accept([each])
            sent[each.reservation_id].append(each)
            if dice.random() < 0.5:
                left.remove(each)
                it.forget_accepted([each])
        clock.seconds += 5
    assert sorted((each for one in sent.values() for each in one), key=lambda each: each.seq) == table
    assert all(one == sorted(one, key=lambda each: each.seq) for one in sent.values())
