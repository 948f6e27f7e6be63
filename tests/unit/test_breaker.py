"""When calls are made and when not: by the rate of failures among the latest, and by probes."""

from collections.abc import Iterable

import pytest

from reservation.domain.errors import InventoryServiceError, ReservationError, SeatUnavailable
from reservation.inventory.breaker import Breaker, CircuitOpen, Rejected

GOOD, BAD = True, False


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def call(breaker: Breaker, outcome: bool) -> None:
    try:
        with breaker.call():
            if not outcome:
                raise InventoryServiceError
    except CircuitOpen:
        raise
    except InventoryServiceError:
        pass


def run(breaker: Breaker, outcomes: Iterable[bool]) -> None:
    for outcome in outcomes:
        call(breaker, outcome)


def test_its_state_is_told() -> None:
    clock = Clock()
    breaker = Breaker(50, monotonic=clock)
    told: list[str] = [breaker.state]
    for outcomes, later in (([BAD] * 10, 0), ([], 2), ([GOOD], 0), ([GOOD] * 2, 0)):
        clock.now += later
        run(breaker, outcomes)
        told.append(breaker.state)
    assert told == ["closed", "open", "half_open", "half_open", "closed"]


def opened(clock: Clock) -> Breaker:
    breaker = Breaker(50, monotonic=clock)
    run(breaker, [BAD] * 10)
    return breaker


def is_open(breaker: Breaker) -> bool:
    try:
        breaker.require_closed()
    except CircuitOpen:
        return True
    return False


def test_nine_failures_are_too_few_to_judge_by_and_ten_are_enough() -> None:
    breaker = Breaker(50, monotonic=Clock())
    run(breaker, [BAD] * 9)
    assert not is_open(breaker)
    call(breaker, BAD)
    assert is_open(breaker)
    with pytest.raises(CircuitOpen), breaker.call():
        raise AssertionError("the call is not made")


@pytest.mark.parametrize(("failures", "opens"), [(24, False), (25, True)])
def test_it_opens_at_the_rate_of_the_latest_fifty_calls(failures: int, opens: bool) -> None:
    breaker = Breaker(50, monotonic=Clock())
    run(breaker, [GOOD] * 100)
    run(breaker, [BAD] * failures)
    assert is_open(breaker) == opens


def test_failures_that_are_interrupted_by_successes_count_all_the_same() -> None:
    breaker = Breaker(50, monotonic=Clock())
    run(breaker, [BAD, GOOD] * 4 + [BAD])
    assert not is_open(breaker)
    call(breaker, GOOD)
    assert is_open(breaker)


@pytest.mark.parametrize("answer", [SeatUnavailable(("A-1",)), Rejected()])
def test_an_answer_that_refuses_is_no_failure(answer: ReservationError) -> None:
    breaker = Breaker(1, monotonic=Clock())
    for _ in range(50):
        with pytest.raises(type(answer)), breaker.call():
            raise answer
    assert not is_open(breaker)


def test_a_call_whose_caller_left_says_nothing() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now += 2.0
    for _ in range(10):
        with pytest.raises(GeneratorExit), breaker.call():
            raise GeneratorExit
    assert not is_open(breaker)


def test_two_seconds_later_three_probes_close_it() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now += 1.99
    assert is_open(breaker)
    clock.now += 0.01
    run(breaker, [GOOD] * 3)
    run(breaker, [BAD] * 9)  # from the beginning
    assert not is_open(breaker)


def test_while_the_probes_are_under_way_nothing_else_is_let_through() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now += 2.0
    with breaker.call(), breaker.call(), breaker.call():
        assert is_open(breaker)
    assert not is_open(breaker)


def test_probes_that_fail_open_it_for_another_two_seconds() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now += 2.0
    run(breaker, [BAD, GOOD, BAD])
    clock.now += 1.99
    assert is_open(breaker)
    clock.now += 0.01
    assert not is_open(breaker)


def test_what_was_begun_before_it_opened_does_not_count_as_a_probe() -> None:
    clock = Clock()
    breaker = Breaker(50, monotonic=clock)
    with breaker.call():
        run(breaker, [BAD] * 10)
        clock.now += 2.0
        run(breaker, [GOOD] * 2)
    call(breaker, BAD)  # the third probe: one of three, so it closes
    assert not is_open(breaker)
