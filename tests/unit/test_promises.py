"""The sums behind the figures that must be 0: each kind of broken promise is counted, and a kept one is not."""

from dataclasses import replace

import pytest

from reservation.audit.promises import Snapshot
from reservation.domain.model import Reservation, Status
from tests.bench import promises
from tests.bench.promises import Held, Told
from tests.unit.examples import HOLD

CONFIRMED = replace(HOLD, status=Status.CONFIRMED, version=2)
EXPIRED = replace(HOLD, status=Status.EXPIRED, version=2)
SEATS = HOLD.seat_ids
ENDS = HOLD.hold_expires_at / 1000
CREATED = HOLD.created_at / 1000


def stored(*reservations: Reservation) -> Snapshot:
    return Snapshot(reservations={each.id: each for each in reservations})


def sure(since: float, until: float = ENDS) -> Held:
    return Held(SEATS[:1], since, until)


def test_two_customers_sure_of_a_seat_at_one_moment_hold_it_doubly() -> None:
    told = Told(held={"one": sure(CREATED), "two": sure(ENDS - 0.001, ENDS + 60)})
    assert promises.doubly_held(told, stored()) == [SEATS[0]]


def test_the_next_customer_after_a_hold_has_ended_holds_the_seat_alone() -> None:
    told = Told(held={"one": sure(CREATED), "two": sure(ENDS, ENDS + 60)})
    assert promises.doubly_held(told, stored()) == []


def test_an_answer_after_the_end_of_its_hold_made_nobody_sure() -> None:
    told = Told(held={"one": sure(ENDS + 5), "two": sure(ENDS, ENDS + 60)})
    assert promises.doubly_held(told, stored()) == []


def test_who_has_bought_a_seat_is_sure_of_it_for_ever() -> None:
    told = Told(held={"one": sure(CREATED), "two": sure(ENDS + 60, ENDS + 120)}, sold={"one"})
    assert promises.doubly_held(told, stored()) == [SEATS[0]]


def test_a_sale_that_no_customer_was_told_of_counts_too() -> None:
    told = Told(held={"two": sure(ENDS + 60, ENDS + 120)})
    assert promises.doubly_held(told, stored(CONFIRMED)) == [SEATS[0]]


def test_who_was_told_of_the_hold_and_not_of_the_sale_has_bought_all_the_same() -> None:
    told = Told(held={HOLD.id: sure(CREATED), "two": sure(ENDS + 60, ENDS + 120)})
    assert promises.doubly_held(told, stored(CONFIRMED)) == [SEATS[0]]


@pytest.mark.parametrize(
    ("sold", "snapshot", "broken"),
    [
        (set(), stored(HOLD), []),
        (set(), stored(EXPIRED), []),
        ({HOLD.id}, stored(CONFIRMED), []),
        (set(), stored(), [HOLD.id]),
        ({HOLD.id}, stored(EXPIRED), [HOLD.id]),
    ],
    ids=["held", "ended", "sold", "not stored", "sold and expired"],
)
def test_an_answer_is_kept_while_the_tables_say_so(sold: set[str], snapshot: Snapshot, broken: list[str]) -> None:
    assert promises.unkept(Told(held={HOLD.id: sure(CREATED)}, sold=sold), snapshot) == broken


def test_a_version_that_the_queue_never_received_is_lost() -> None:
    assert promises.lost_events(Told(), stored(CONFIRMED), {HOLD.id: {1, 2}}) == set()
    assert promises.lost_events(Told(), stored(CONFIRMED), {HOLD.id: {2}}) == {(HOLD.id, 1)}
    assert promises.lost_events(Told(), stored(CONFIRMED), {HOLD.id: {1}}) == {(HOLD.id, 2)}


def test_an_event_of_what_a_customer_was_told_is_lost_even_if_nothing_is_stored() -> None:
    told = Told(held={"one": sure(CREATED)}, sold={"one"})
    assert promises.lost_events(told, stored(), {"one": {1}}) == {("one", 2)}


def test_a_hold_past_its_end_is_stuck() -> None:
    assert promises.stuck(stored(HOLD), HOLD.hold_expires_at) == []
    assert promises.stuck(stored(HOLD), HOLD.hold_expires_at + 1) == [HOLD.id]
    assert promises.stuck(stored(EXPIRED), HOLD.hold_expires_at + 1) == []
