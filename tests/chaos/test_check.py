"""The check that chaos relies on: it finds nothing wrong with right sales, and each kind of wrong in wrong ones."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.chaos.answer_claims import ONE_EFFECT, STILL_TRUE
from tests.chaos.check import RESERVATIONS, SEATS, check
from tests.chaos.history import OK, UNKNOWN, Answer, Attempt, Door, Journal, Kind, read
from tests.chaos.linearize import Op, linearize
from tests.chaos.right_sale import HOLD, READ_SKEW, SKEW, START, How, Sale
from tests.chaos.table_claims import AGREEMENT, CAPACITY, EVENTS, HOLDS_END
from tests.chaos.violation import Violation

LOST, EARLY, LATE = How(lost=True), How(clock=SKEW), How(clock=-SKEW)


def wrongs(sale: Sale, end: int = 60_000) -> list[Violation]:
    return list(check(*sale.over(end)))


def claims(found: Iterable[Violation]) -> set[str]:
    return {each.claim for each in found}


# Right sales


def test_a_sale_of_everything_that_customers_do_is_right() -> None:
    sale = Sale()
    first, second = sale.create("u1", "AB", 100), sale.create("u2", "C", 120)
    sale.create("u3", "BC", 200)
    sale.extend(first, 300)
    sale.confirm(first, 7_000)
    sale.cancel(second, 400)
    third = sale.create("u4", "C", 500)
    for reservation_id in (first, second, third):
        sale.get(reservation_id, 20_000)
    sale.check("ABC", 600)
    sale.confirm(third, 30_000)

    assert wrongs(sale) == []


def test_a_customer_who_heard_nothing_may_or_may_not_have_the_seat() -> None:
    sale = Sale()
    sale.create("u1", "A", 100, LOST)
    sale.create("u2", "A", 200)  # refused: the seat is u1's, who does not know
    sale.create("u3", "B", 300, LOST)
    sale.create("u3", "B", 400)
    sale.create("u4", "B", 500, LOST)  # refused, and not told
    held = sale.create("u5", "C", 600)
    sale.confirm(held, 700, LOST)
    sale.get(held, 800)
    sale.confirm(held, 900)

    assert wrongs(sale) == []


def test_a_hold_may_end_early_or_late_by_as_much_as_the_clocks_differ() -> None:
    sale = Sale()
    early = sale.create("u1", "A", 0)
    sale.create("u2", "A", HOLD - SKEW, EARLY)
    sale.confirm(early, HOLD - SKEW + 100)  # refused, though its time is not over
    late = sale.create("u3", "B", 0)
    sale.get(late, HOLD + SKEW - 200, LATE)
    sale.confirm(late, HOLD + SKEW - 100, LATE)

    assert {each.status for each in sale.history} == {OK, "RESERVATION_EXPIRED"}
    assert wrongs(sale) == []


def test_a_command_that_began_in_time_may_take_effect_after_it() -> None:
    sale = Sale()
    held = sale.create("u1", "A", 0)
    sale.confirm(held, HOLD - 1)
    edited(sale, 1, answered=START + HOLD + 10_000)

    assert wrongs(sale) == []


def test_a_refusal_may_be_as_stale_as_a_remembered_one() -> None:
    sale = Sale()
    held = sale.create("u1", "A", 100)
    sale.create("u2", "A", 150)
    sale.cancel(held, 200)

    def refused(called: int) -> set[str]:
        edited(sale, 1, called=START + called, answered=START + called + 5)
        return claims(wrongs(sale))

    assert refused(200 + 240) == set()
    assert refused(200 + 260) == {SEATS}


def test_an_unsettled_hold_may_be_read_by_clocks_that_differ() -> None:
    sale = Sale()
    held = sale.create("u1", "A", 0)
    sale.get(held, HOLD + READ_SKEW - SKEW + 1, EARLY)
    sale.get(held, HOLD + READ_SKEW + SKEW - 10, LATE)

    assert [each.answer.status for each in sale.history if each.answer] == ["HOLD", "EXPIRED", "HOLD"]
    assert wrongs(sale) == []


# Wrong ones


def edited(sale: Sale, number: int, **changes: Any) -> None:
    """Makes an attempt say something else; from 0."""
    sale.history[number] = replace(sale.history[number], **changes)


def told(sale: Sale, number: int, **changes: Any) -> None:
    """Makes an answer say something else; from 0."""
    answer = sale.history[number].answer
    assert answer is not None
    edited(sale, number, answer=replace(answer, **changes))


def double_hold(sale: Sale) -> None:
    sale.create("u1", "A", 0)
    sale.holders.clear()
    sale.create("u2", "A", 1_000)


def double_sale(sale: Sale) -> None:
    double_hold(sale)
    sale.confirm("rsv_u2", 2_000)
    sale.holders["A"] = "rsv_u1"
    sale.confirm("rsv_u1", 2_500)


def taken_too_early(sale: Sale) -> None:
    sale.create("u1", "A", 0)
    sale.create("u2", "A", HOLD - SKEW - 100, How(clock=SKEW + 100))


def resurrected_hold(sale: Sale) -> None:
    held = sale.create("u1", "A", 0)
    stored = sale.reservations[held]
    sale.confirm(held, HOLD + 1)
    sale.reservations[held] = stored
    sale.holders["A"] = held
    sale.confirm(held, HOLD + 100, LATE, payment="other")


def late_confirm(sale: Sale) -> None:
    held = sale.create("u1", "A", 0)
    sale.confirm(held, HOLD + SKEW + 100, How(clock=-SKEW - 200))


def lost_hold(sale: Sale) -> None:
    del sale.reservations[sale.create("u1", "A", 0)]
    sale.holders.clear()
    sale.deliveries.clear()


def unsold_sale(sale: Sale) -> None:
    sale.confirm(sale.create("u1", "A", 0), 100)
    sale.holders.clear()


def forgotten_cancel(sale: Sale) -> None:
    held = sale.create("u1", "A", 0)
    stored = sale.reservations[held]
    sale.cancel(held, 100)
    sale.reservations[held] = stored
    sale.holders["A"] = held
    del sale.deliveries[-1]


def forgotten_extension(sale: Sale) -> None:
    held = sale.create("u1", "A", 0)
    stored = sale.reservations[held]
    sale.extend(held, 100)
    sale.reservations[held] = stored
    del sale.deliveries[-1]


def extended_by_more(sale: Sale) -> None:
    held = sale.create("u1", "A", 0)
    sale.extend(held, 100)
    sale.extend(held, 200, key="another")
    told(sale, 2, hold_expires_at=START + HOLD + 9_000)


def refused_free_seat(sale: Sale) -> None:
    sale.check("A", 0)
    sale.create("u1", "A", 1_000)
    edited(sale, 0, kind=Kind.CREATE, status="SEAT_UNAVAILABLE", answer=Answer(unavailable=("A",)), key="u0")


def refused_long_after_the_hold(sale: Sale) -> None:
    sale.create("u1", "A", 0)
    sale.create("u2", "A", HOLD + SKEW + 10, How(clock=-SKEW - 20))


def refused_for_his_own_hold(sale: Sale) -> None:
    sale.create("u1", "A", 0, LOST)
    sale.create("u1", "A", 100)
    edited(sale, 1, status="SEAT_UNAVAILABLE", answer=Answer(unavailable=("A",)), replayed=False)


def two_effects(sale: Sale) -> None:
    sale.create("u1", "A", 0, LOST)
    sale.reservations["rsv_twin"] = replace(sale.reservations.pop("rsv_u1"), id="rsv_twin")
    sale.deliveries.clear()
    sale.holders["A"] = "rsv_twin"
    del sale.answers["u1"]
    sale.create("u1", "B", 100)
    edited(sale, 0, seat_ids=("B",))


def another_replay(sale: Sale) -> None:
    sale.create("u1", "A", 0)
    sale.create("u1", "A", 100)
    told(sale, 1, hold_expires_at=START + HOLD + 100)


def unmarked_replay(sale: Sale) -> None:
    sale.create("u1", "A", 0)
    sale.create("u1", "A", 100)
    edited(sale, 1, replayed=False)


def refused_after_success(sale: Sale) -> None:
    held = sale.create("u1", "A", 0)
    sale.cancel(held, 100)
    sale.cancel(held, 200)
    edited(sale, 2, status="RESERVATION_ALREADY_CANCELLED", answer=None, replayed=False)


def effect_of_a_refusal(sale: Sale) -> None:
    sale.create("u1", "A", 0)
    edited(sale, 0, status="INVALID_REQUEST", answer=None)


def refused_without_a_key(sale: Sale) -> None:
    sale.create("u1", "A", 0)
    edited(sale, 0, key="", status="SEAT_UNAVAILABLE", answer=Answer(unavailable=("A",)))
    stored = sale.reservations["rsv_u1"]
    sale.reservations["rsv_u1"] = replace(stored, reservation_token="")


def effect_of_nothing(sale: Sale) -> None:
    sale.create("u1", "A", 0)
    edited(sale, 0, status="SERVICE_UNAVAILABLE", answer=None, door=Door.PROCESS)


def read_back_in_time(sale: Sale) -> None:
    held = sale.create("u1", "A", 0)
    sale.get(held, 100)
    sale.cancel(held, 200)
    edited(sale, 1, called=START + 300, answered=START + 305)


def read_before_it_was(sale: Sale) -> None:
    held = sale.create("u1", "A", 1_000)
    sale.confirm(held, 1_100)
    sale.get(held, 1_200)
    edited(sale, 2, called=START + 1_010, answered=START + 1_020)


def read_of_a_dead_hold(sale: Sale) -> None:
    held = sale.create("u1", "A", 0)
    sale.get(held, HOLD + READ_SKEW + SKEW + 100, How(clock=-SKEW - 200))


def expired_and_sold(sale: Sale) -> None:
    held = sale.create("u1", "A", 0)
    sale.get(held, HOLD + READ_SKEW + 10)
    sale.confirm(held, HOLD + READ_SKEW + 100, How(called=READ_SKEW + 5_000, clock=-READ_SKEW - 200))


def seen_free_while_sold(sale: Sale) -> None:
    sale.confirm(sale.create("u1", "A", 0), 100)
    sale.check("A", 200)
    told(sale, 2, seat_ids=("A",), unavailable=())


def short_hold(sale: Sale) -> None:
    sale.create("u1", "A", 0, How(clock=-SKEW - 100))


def freed_what_was_not_its_own(sale: Sale) -> None:
    first = sale.create("u1", "A", 0)
    sale.create("u2", "A", HOLD)
    sale.holders["A"] = first
    sale.expire(first, HOLD + 500)
    sale.create("u3", "A", HOLD + 1_000)


def lost_event(sale: Sale) -> None:
    sale.cancel(sale.create("u1", "A", 0), 100)
    del sale.deliveries[1]


def events_in_wrong_order(sale: Sale) -> None:
    sale.cancel(sale.create("u1", "A", 0), 100)
    sale.deliveries.reverse()


def event_of_nothing(sale: Sale) -> None:
    sale.cancel(sale.create("u1", "A", 0), 100)
    envelope = sale.deliveries[1].detail
    sale.deliveries.append(replace(sale.deliveries[1], detail=envelope | {"version": 3}))


def unknown_reservation(sale: Sale) -> None:
    sale.create("u1", "A", 0)
    sale.history.clear()


WRONG: dict[str, tuple[Callable[[Sale], None], str]] = {
    "a seat is held twice": (double_hold, SEATS),
    "a seat is sold twice": (double_sale, SEATS),
    "a hold is taken before its time is over by any clock": (taken_too_early, SEATS),
    "a hold that was refused is sold": (resurrected_hold, RESERVATIONS),
    "a hold is sold after its time by every clock": (late_confirm, RESERVATIONS),
    "a hold that was promised is nowhere": (lost_hold, STILL_TRUE),
    "a sale without its seat": (unsold_sale, STILL_TRUE),
    "a cancel that was answered is forgotten": (forgotten_cancel, STILL_TRUE),
    "an extension that was answered is forgotten": (forgotten_extension, STILL_TRUE),
    "an extension is longer than asked for": (extended_by_more, RESERVATIONS),
    "a free seat is refused": (refused_free_seat, SEATS),
    "a seat is refused after its hold ended by every clock": (refused_long_after_the_hold, SEATS),
    "a customer is refused for his own hold": (refused_for_his_own_hold, SEATS),
    "a key makes two reservations": (two_effects, ONE_EFFECT),
    "a replay differs": (another_replay, ONE_EFFECT),
    "a replay is not marked": (unmarked_replay, ONE_EFFECT),
    "a key is refused after its success": (refused_after_success, ONE_EFFECT),
    "a refused create makes a reservation": (effect_of_a_refusal, ONE_EFFECT),
    "a create without a key is refused for its own seats": (refused_without_a_key, ONE_EFFECT),
    "a create that had no effect makes a reservation": (effect_of_nothing, ONE_EFFECT),
    "a read shows what was before": (read_back_in_time, RESERVATIONS),
    "a read shows what is yet to come": (read_before_it_was, RESERVATIONS),
    "a read shows a hold long after its end": (read_of_a_dead_hold, RESERVATIONS),
    "what was read as expired is sold": (expired_and_sold, RESERVATIONS),
    "a sold seat is seen free": (seen_free_while_sold, SEATS),
    "a hold is shorter than promised": (short_hold, STILL_TRUE),
    "a settlement frees another's seat": (freed_what_was_not_its_own, SEATS),
    "an event is lost": (lost_event, EVENTS),
    "events come in the wrong order": (events_in_wrong_order, EVENTS),
    "an event tells of a version that is not": (event_of_nothing, EVENTS),
    "a reservation that nobody asked for": (unknown_reservation, STILL_TRUE),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_found(name: str) -> None:
    make, claim = WRONG[name]
    sale = Sale()
    make(sale)

    assert claim in claims(wrongs(sale))


def test_a_hold_that_nobody_ends_is_found() -> None:
    sale = Sale()
    sale.create("u1", "A", 0)

    def found(at: int) -> set[str]:
        return claims(check(sale.history, sale.rows(), sale.deliveries, sale.bounds(at)))

    assert found(HOLD + SKEW) == set()
    assert HOLDS_END in found(60_000)


def test_a_seat_that_is_nowhere_is_found() -> None:
    history, rows, deliveries, bounds = Sale().over(1_000)
    fewer = replace(rows, inventory=rows.inventory[1:])

    assert claims(check(history, fewer, deliveries, bounds)) == {CAPACITY}


def test_a_seat_held_for_a_hold_that_is_over_is_found() -> None:
    sale = Sale()
    sale.create("u1", "A", 0)
    held = sale.rows().inventory
    history, rows, deliveries, bounds = sale.over(60_000)

    assert AGREEMENT in claims(check(history, replace(rows, inventory=held), deliveries, bounds))


# What is told


def test_a_violation_tells_no_more_than_it_takes_to_see_it() -> None:
    sale = Sale()
    first = sale.create("u1", "A", 0)
    for number in range(20):
        sale.create(f"refused {number}", "A", 10 + number)
        sale.get(first, 10 + number)
    sale.cancel(first, 1_000)
    sale.get(first, 1_100)
    told(sale, -1, status="HOLD")
    sale.get(first, 2_000)

    (found,) = wrongs(sale)

    assert [each.number for each in found.attempts] == [1, 42, 43]
    assert [line.split(" -> ")[1] for line in found.lines() if " -> " in line] == [
        "OK HOLD rsv_u1 A until 6.005",
        "OK CANCELLED rsv_u1 A until 6.005",
        "OK HOLD rsv_u1 A until 6.005",
    ]


def test_a_search_that_takes_too_long_says_so() -> None:
    def anywhere(state: int, now: int) -> int | None:
        return state + 1

    def nowhere(state: int, now: int) -> int | None:
        return None

    ops = [Op(0, None, anywhere, "adds one") for _ in range(30)] + [Op(0, 1, nowhere, "cannot be")]

    stuck = linearize(0, ops, most_steps=1_000)

    assert stuck is not None
    assert stuck.undecided


def test_a_history_is_read_as_it_was_written(tmp_path: Any) -> None:
    sale = Sale()
    sale.confirm(sale.create("u1", "AB", 0), 100, LOST)
    sale.create("u2", "A", 200)
    with Journal(tmp_path / "history") as journal:
        for attempt in sale.history:
            journal.note(attempt)

    assert list(read(tmp_path / "history")) == sale.history


# Any sale

CLOCKS = (-SKEW, 0, SKEW)
hows = st.builds(
    How,
    called=st.integers(1, 400),
    answered=st.integers(1, 400),
    clock=st.sampled_from(CLOCKS),
    lost=st.sampled_from([False, False, False, True]),
)
steps = st.tuples(
    st.sampled_from(["create"] * 4 + ["again", "confirm", "cancel", "extend", "get", "check", "expire"]),
    st.integers(1, 1_500),
    st.integers(0, 30),
    hows,
)


def play(plan: list[tuple[str, int, int, How]]) -> Sale:
    """One step after the other, the waits between them as told; each about the seat or reservation of its number."""
    sale, at = Sale(), 0
    for number, (what, wait, chosen, how) in enumerate(plan):
        at += wait
        known = list(sale.reservations)
        about = known[chosen % len(known)] if known else ""
        if what == "create":
            sale.create(f"u{number}", ("A", "B", "C", "AB", "BC")[chosen % 5], at, how)
        elif what == "check":
            sale.check("ABC", at, how)
        elif not about:
            continue
        elif what == "again":
            sale.create(about.removeprefix("rsv_"), sale.reservations[about].seat_ids, at, how)
        elif what == "expire":
            sale.expire(about, at, clock=how.clock)
        else:
            getattr(sale, what)(about, at, how)
    return sale


@settings(max_examples=120)
@given(st.lists(steps, min_size=10, max_size=40))
def test_nothing_is_wrong_with_any_right_sale(plan: list[tuple[str, int, int, How]]) -> None:
    assert [list(each.lines()) for each in wrongs(play(plan), 200_000)] == []


def corrupt(attempt: Attempt) -> Attempt | None:
    """The same with an answer that cannot be true; None: of this one, nobody could tell."""
    answer = attempt.answer
    if attempt.status == UNKNOWN or answer is None or attempt.kind is Kind.CHECK:
        return None
    if attempt.status == "SEAT_UNAVAILABLE":
        return replace(attempt, status=OK, answer=Answer("rsv_none", "HOLD", attempt.seat_ids, attempt.called + HOLD))
    if attempt.kind is Kind.GET:
        return replace(attempt, answer=replace(answer, status="CONFIRMED", payment_id="of nobody"))
    return replace(attempt, answer=replace(answer, reservation_id="rsv_none"), reservation_id="rsv_none")


@settings(max_examples=100)
@given(st.lists(steps, min_size=5, max_size=30), st.integers(0, 100))
def test_a_lie_in_any_sale_is_found(plan: list[tuple[str, int, int, How]], chosen: int) -> None:
    sale = play(plan)
    lies = [(number, lie) for number, each in enumerate(sale.history) if (lie := corrupt(each)) is not None]
    if lies:
        number, lie = lies[chosen % len(lies)]
        sale.history[number] = lie
        assert wrongs(sale, 200_000) != []


def test_many_customers_of_one_seat_are_judged_in_passing() -> None:
    sale = Sale()
    for number in range(3_000):
        sale.create(f"u{number}", "A", number * 2, How(called=100, answered=100))

    assert wrongs(sale) == []
