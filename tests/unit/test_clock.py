"""The clock, and how far it may be from DynamoDB's before it is not believed."""

import time

import pytest

from reservation.aws.client import ServerDate
from reservation.clock import TOLERANCE_SECONDS, Clock

HOUR = 3600.0
HOUR_MS = 3_600_000


def _answered(seconds_ago: float = 0.0, *, server_ahead: float = 0.0) -> ServerDate:
    """The Date of an answer that came `seconds_ago`. Date has whole seconds; half of one is what it says too little on
    average, so that a server without any skew is told here as half a second behind."""
    return ServerDate(time.time() - seconds_ago + server_ahead - 0.5, time.monotonic() - seconds_ago)


def test_now_is_the_wall_clock_in_milliseconds() -> None:
    before = time.time_ns() // 1_000_000
    now = Clock(lambda: None).now()
    assert before <= now <= time.time_ns() // 1_000_000


def test_an_offset_moves_the_clock() -> None:
    before = time.time_ns() // 1_000_000
    behind, ahead = Clock(lambda: None, offset=-HOUR_MS).now(), Clock(lambda: None, offset=HOUR_MS).now()
    after = time.time_ns() // 1_000_000
    assert before - HOUR_MS <= behind <= after - HOUR_MS
    assert before + HOUR_MS <= ahead <= after + HOUR_MS


def test_before_the_first_answer_the_skew_is_unknown_and_the_clock_not_believed() -> None:
    clock = Clock(lambda: None)
    assert clock.skew_seconds is None
    assert not clock.trusted()


@pytest.mark.parametrize("seconds_ago", [0.0, 60.0, HOUR])
@pytest.mark.parametrize("offset", [0, 1_500, -1_500, 5_000, -5_000, HOUR_MS])
def test_the_skew_is_how_far_this_clock_is_ahead_however_old_the_answer(offset: int, seconds_ago: float) -> None:
    date = _answered(seconds_ago)
    skew = Clock(lambda: date, offset=offset).skew_seconds
    assert skew == pytest.approx(offset / 1000, abs=0.1)


@pytest.mark.parametrize(
    ("offset", "trusted"),
    [(0, True), (1_800, True), (-1_800, True), (2_200, False), (-2_200, False), (HOUR_MS, False)],
)
def test_a_clock_more_than_two_seconds_off_is_not_believed(offset: int, trusted: bool) -> None:
    assert TOLERANCE_SECONDS == 2.0
    date = _answered()
    assert Clock(lambda: date, offset=offset).trusted() is trusted


def test_a_drill_may_allow_its_clocks_to_be_further_off() -> None:
    date = _answered()
    assert [Clock(lambda: date, offset=offset, tolerance=3.0).trusted() for offset in (2_500, 3_500)] == [True, False]


def test_the_clock_is_judged_by_the_latest_answer() -> None:
    dates = [_answered(server_ahead=HOUR)]
    clock = Clock(lambda: dates[-1])
    assert not clock.trusted()
    dates.append(_answered())
    assert clock.trusted()
