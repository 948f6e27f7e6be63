"""A page token belongs to one list, and whatever else is sent as one is known for no token."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reservation.api.pages import Pages
from tests.unit.examples import patient

PAGES = Pages("reservations", "user_1", "evt_1", "HOLD")
begins = st.text(st.characters(codec="utf-8"), min_size=1, max_size=64)


@given(begin=begins)
@patient
def test_a_token_leads_to_where_its_page_begins_and_is_fit_for_a_query_string(begin: str) -> None:
    token = PAGES.token(begin)
    assert PAGES.begin(token) == begin
    assert token.isascii()
    assert set(token).isdisjoint("+/=&?# ")


@given(token=st.text(max_size=80) | st.binary(max_size=60).map(lambda raw: base64.urlsafe_b64encode(raw).decode()))
@patient
def test_what_nobody_was_given_is_no_token(token: str) -> None:
    assert PAGES.begin(token) is None


@given(begin=begins, data=st.data())
@patient
def test_a_damaged_token_is_no_token(begin: str, data: st.DataObject) -> None:
    token = PAGES.token(begin)
    start = data.draw(st.integers(0, len(token)))
    length = data.draw(st.integers(0, 3))
    damaged = token[:start] + data.draw(st.text(max_size=3)) + token[start + length :]
    assert PAGES.begin(damaged) in ({begin} if damaged == token else {None})


@pytest.mark.parametrize("more", ["=", "==", "\n", " ", "!", "A"])
def test_another_spelling_of_the_same_bytes_is_no_token(more: str) -> None:
    assert PAGES.begin(PAGES.token("0194") + more) is None


@pytest.mark.parametrize(
    "other",
    [
        Pages("reservations", "user_2", "evt_1", "HOLD"),
        Pages("reservations", "user_1", "evt_2", "HOLD"),
        Pages("reservations", "user_1", "evt_1", "EXPIRED"),
        Pages("seats", "user_1", "evt_1", "HOLD"),
        Pages("reservations", "user_1evt_1", "", "HOLD"),
        Pages("reservations", "user_1", "evt_1"),
    ],
)
def test_a_token_of_another_list_is_no_token(other: Pages) -> None:
    assert other.begin(PAGES.token("0194")) is None


def test_an_empty_text_and_one_without_a_beginning_are_no_tokens() -> None:
    assert PAGES.begin("") is None
    assert PAGES.begin(PAGES.token("")) is None
    assert PAGES.begin("A" * 600) is None
