"""Which calls have a line in the log, and what it says."""

from collections import Counter

import grpc
import pytest
from structlog.testing import capture_logs

from reservation.api.call import Call
from reservation.api.descriptors import PACKAGE
from reservation.api.outcomes import Outcomes, Report
from reservation.telemetry.logs import pseudonyms

OK, NOT_FOUND = grpc.StatusCode.OK, grpc.StatusCode.NOT_FOUND
SERVICE = f"{PACKAGE}.ReservationService"


class Clock:
    def __init__(self) -> None:
        self.now = 100.25

    def __call__(self) -> float:
        return self.now


def call_of(user: str = "") -> Call:
    call = Call(0.0, via_edge=True, path=None, traceparent="", trace_id="", idempotency_key="")
    if user:
        call.user = user
    return call


def succeed(report: Report, times: int) -> None:
    for _ in range(times):
        report(call_of(), "OK", OK, 200, "", 100.0)


def test_beyond_the_limit_a_line_stands_for_a_hundred_successes_until_the_second_is_over() -> None:
    clock = Clock()
    report = Outcomes(lines_per_second=10, monotonic=clock).reports(SERVICE, "GetReservation")
    with capture_logs() as logged:
        succeed(report, 10 + 300)
    assert [line.get("stands_for", 1) for line in logged] == [1] * 10 + [100] * 3
    clock.now += 1
    with capture_logs() as logged:
        succeed(report, 10)
    assert len(logged) == 10


def test_refusals_are_thinned_by_themselves_and_faults_never() -> None:
    report = Outcomes(lines_per_second=10, monotonic=Clock()).reports(SERVICE, "GetReservation")
    with capture_logs() as logged:
        succeed(report, 10 + 100)
        for _ in range(10 + 200):
            report(call_of(), "RESERVATION_NOT_FOUND", NOT_FOUND, 404, "rsv_1", 100.0)
        for _ in range(50):
            report(call_of(), "SERVICE_UNAVAILABLE", grpc.StatusCode.UNAVAILABLE, 503, "rsv_1", 100.0)
    lines = Counter((line["code"], line.get("stands_for", 1)) for line in logged)
    assert lines == {
        ("OK", 1): 10,
        ("OK", 100): 1,
        ("RESERVATION_NOT_FOUND", 1): 10,
        ("RESERVATION_NOT_FOUND", 100): 2,
        ("SERVICE_UNAVAILABLE", 1): 50,
    }


@pytest.mark.parametrize("key", ["", "secret"])
def test_a_line_tells_users_apart_and_names_none(key: str) -> None:
    report = Outcomes(pseudonym=pseudonyms(key)).reports(SERVICE, "GetReservation")
    with capture_logs() as logged:
        for user in ("ada@example.com", "ada@example.com", "bob@example.com"):
            report(call_of(user), "OK", OK, 200, "", 100.0)
    first, again, other = (line["user"] for line in logged)
    assert first == again != other
    assert "example" not in str(logged)


def test_pseudonyms_of_other_keys_are_others() -> None:
    assert pseudonyms("one")("ada") != pseudonyms("other")("ada")
