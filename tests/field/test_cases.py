"""Twelve failures of other systems, and the tests that hold them off here. What happened there is behind the links in
the tests' docstrings."""

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]

CASES = {
    "the last seat is sold twice": [
        "field/test_last_seat_and_late_payment.py::test_the_last_seat_is_sold_once_on_every_path",
        "field/test_last_seat_and_late_payment.py::test_the_last_seat_is_one_customers_however_often_it_asks",
    ],
    "two lines of one call are counted apart": [
        "field/test_counts.py::test_one_call_never_counts_a_seat_twice",
        "field/test_counts.py::test_wishes_at_once_never_add_up_to_more_than_the_house",
    ],
    "who goes round the lock takes too much": [
        "field/test_counts.py::test_after_any_history_the_seats_count_as_the_reservations_do",
    ],
    "what ran out never comes back": [
        "field/test_last_seat_and_late_payment.py"
        "::test_with_nobody_to_clean_up_an_ended_hold_is_free_for_reads_and_buyers_alike",
    ],
    "a release frees what others have": [
        "contract/test_store_expiry.py::test_it_leaves_alone_what_the_next_customer_has",
    ],
    "a crash or one bad row leaves holds for ever": [
        "integration/test_processes.py"
        "::test_processes_killed_under_load_lose_nothing_and_repeat_only_what_was_under_way",
        "contract/test_expiry.py::test_a_poison_record_never_stops_the_rest",
        "contract/test_audit.py::test_a_hold_past_its_grace_is_found_and_one_within_it_is_not",
    ],
    "a failing call makes a hold longer": [
        "field/test_last_seat_and_late_payment.py::test_no_call_that_fails_moves_the_end_of_a_hold",
    ],
    "a payment comes too late": [
        "field/test_last_seat_and_late_payment.py"
        "::test_a_payment_that_comes_too_late_sells_nothing_and_the_history_stays",
    ],
    "an end of a hold counts twice or not at all": [
        "field/test_counts.py::test_each_end_of_a_hold_counts_once_however_often_it_is_told",
        "contract/test_state_machine.py::test_on_ministack",
    ],
    "a key is stuck, forgotten or another user's": [
        "integration/test_unknown_outcomes.py::test_its_command_goes_on_and_somebody_waits_for_it",
        "integration/test_unknown_outcomes.py::test_is_told_as_such_and_the_same_key_finds_out",
        "contract/test_store_idempotency.py::test_a_record_wins_over_what_has_become_of_the_reservation",
        "contract/test_store_idempotency.py::test_fifty_equal_creates_on_ten_processes_have_one_effect_and_one_answer",
        "integration/test_interleavings.py::test_another_users_equal_key_in_flight_is_just_another_customer",
    ],
    "a hold ends by another's clock": [
        "integration/test_processes.py"
        "::test_with_clocks_apart_a_seat_has_one_owner_and_who_is_an_hour_off_leaves_all_to_the_others",
    ],
    "an event goes nowhere and nobody notices": [
        "integration/test_bus_check.py::test_a_bus_that_turns_out_to_be_missing_is_told_once_and_waited_for",
        "integration/test_eventbridge.py::test_each_event_has_its_own_outcome_in_the_order_of_the_call",
        "integration/test_relay.py::test_events_of_a_reservation_are_accepted_in_order_although_middle_ones_fail",
    ],
}


@pytest.mark.parametrize("case", CASES)
def test_each_case_has_its_tests_and_they_say_where_it_happened(case: str) -> None:
    for each in CASES[case]:
        path, name = each.split("::")
        assert "https://github.com/" in _docstrings(TESTS / path)[name], each


def _docstrings(path: Path) -> dict[str, str]:
    """Of all tests in a file, by name."""
    nodes = ast.walk(ast.parse(path.read_text()))
    tests = (node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return {test.name: ast.get_docstring(test) or "" for test in tests if test.name.startswith("test_")}
