"""One effect per key: what a key's scope is, and what makes two requests equal."""

import hashlib
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reservation.domain.commands import Cancel, Confirm, Create, Extend, Wish
from reservation.domain.errors import IdempotencyConflict
from reservation.domain.idempotency import Key, Record, scoped_key, token_key
from reservation.domain.model import Metadata
from tests.unit.examples import HOLD, NEW_YEAR, patient

parts = st.lists(st.text(max_size=8), max_size=4).map(tuple)
FIELDS: dict[str, Any] = {"user_id": "user_1", "rpc": "CreateReservation", "key": "k1", "content": ("evt_1", "A-12")}


def test_a_request_repeated_has_the_same_key_and_fingerprint() -> None:
    assert scoped_key(**FIELDS) == scoped_key(**FIELDS)


@pytest.mark.parametrize(("field", "other"), [("user_id", "user_2"), ("rpc", "CancelReservation"), ("key", "k2")])
def test_a_key_belongs_to_one_user_and_one_rpc(field: str, other: str) -> None:
    ours, theirs = scoped_key(**FIELDS), scoped_key(**FIELDS | {field: other})
    assert ours.id != theirs.id
    assert ours.fingerprint == theirs.fingerprint


def test_other_content_keeps_the_key_and_changes_the_fingerprint() -> None:
    first, second = scoped_key(**FIELDS), scoped_key(**FIELDS | {"content": ("evt_1", "A-13")})
    assert first.id == second.id
    assert first.fingerprint != second.fingerprint


@patient
@given(parts, parts)
def test_only_equal_content_has_equal_fingerprints(one: tuple[str, ...], other: tuple[str, ...]) -> None:
    same = scoped_key(**FIELDS | {"content": one}).fingerprint == scoped_key(**FIELDS | {"content": other}).fingerprint
    assert same == (one == other)


@patient
@given(st.text(min_size=1), st.data())
def test_where_a_text_is_cut_into_parts_is_part_of_the_fingerprint(text: str, data: st.DataObject) -> None:
    """Joined parts would be ambiguous: "A-1" + "2" and "A-" + "12"."""
    here, there = data.draw(st.lists(st.integers(0, len(text)), min_size=2, max_size=2, unique=True))
    cut = [scoped_key(**FIELDS | {"content": (text[:at], text[at:])}).fingerprint for at in (here, there)]
    assert cut[0] != cut[1]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("1:a",), ("a",)),
        (("a1:b",), ("a", "b")),
        (("", "a"), ("a", "")),
        ((), ("",)),
        (("é",), ("e\u0301",)),  # no normalisation: equal means equal bytes
    ],
)
def test_content_that_looks_like_its_own_encoding_is_told_apart(one: tuple[str, ...], other: tuple[str, ...]) -> None:
    keys = [scoped_key(**FIELDS | {"content": content}) for content in (one, other)]
    assert keys[0].fingerprint != keys[1].fingerprint


@patient
@given(st.text(min_size=1), st.data())
def test_scopes_that_read_alike_when_joined_are_told_apart(text: str, data: st.DataObject) -> None:
    cuts = st.tuples(*[st.integers(0, len(text))] * 2).map(sorted)
    scopes = [(text[:a], text[a:b], text[b:]) for a, b in (data.draw(cuts), data.draw(cuts))]
    ids = {scoped_key(user_id=user, rpc=rpc, key=key, content=()).id for user, rpc, key in scopes}
    assert len(ids) == len(set(scopes))


TOKEN: dict[str, Any] = {"user_id": "user_1", "rpc": "CreateReservation", "token": "rtkn_1", "content": ("evt_1",)}


@pytest.mark.parametrize(
    ("field", "other"),
    [("user_id", "user_2"), ("rpc", "CancelReservation"), ("token", "rtkn_2"), ("content", ("evt_2",))],
)
def test_a_token_key_belongs_to_one_user_rpc_token_and_content(field: str, other: Any) -> None:
    """So other content under one token is another request and never a conflict."""
    assert token_key(**TOKEN) == token_key(**TOKEN)
    assert token_key(**TOKEN).id != token_key(**TOKEN | {field: other}).id


def test_only_a_tokens_key_ends_with_the_hold_it_made() -> None:
    """It stands for a customer, who may want the same seats again once the hold is over."""
    assert token_key(**TOKEN).ends_with_hold
    assert not scoped_key(**FIELDS).ends_with_hold


def test_a_key_and_a_token_of_the_same_text_are_two_keys() -> None:
    scope: dict[str, Any] = {"user_id": "user_1", "rpc": "CreateReservation", "content": ("evt_1",)}
    assert scoped_key(key="same", **scope).id != token_key(token="same", **scope).id


@patient
@given(st.text(max_size=4), st.text(max_size=4), st.text(max_size=4))
def test_no_key_can_be_written_that_is_some_tokens_key(user: str, token: str, key: str) -> None:
    from_token = token_key(user_id=user, rpc="R", token=token, content=("evt_1",))
    assert from_token.id != scoped_key(user_id=user, rpc="R", key=key, content=("evt_1",)).id
    tail = token + from_token.fingerprint
    assert from_token.id != scoped_key(user_id=user, rpc="R", key=tail, content=("evt_1",)).id


RECORD = Record(Key("id", "print"), op_id="op_1", answer=HOLD, expires_at=NEW_YEAR)


def test_a_record_replays_its_answer_to_the_same_content() -> None:
    assert RECORD.replay(Key("id", "print")) is HOLD


def test_a_record_refuses_other_content_under_its_key() -> None:
    with pytest.raises(IdempotencyConflict):
        RECORD.replay(Key("id", "other print"))


CREATE = Create(
    event_id="evt_1",
    seat_ids=("A-12", "A-13"),
    user_id="user_1",
    reservation_token="rtkn_1",
    idempotency_key="k1",
    metadata=Metadata(source="web"),
    traceparent="00-1",
)
CONFIRM = Confirm("rsv_1", payment_intent_id="pay_1", owner="user_1", idempotency_key="k1", traceparent="00-1")
CANCEL = Cancel("rsv_1", reason="late train", owner="user_1", idempotency_key="k1", traceparent="00-1")
EXTEND = Extend("rsv_1", seconds=30, reason="slow bank", owner="user_1", idempotency_key="k1", traceparent="00-1")

MATTERS: list[tuple[Any, str, Any]] = [
    (CREATE, "event_id", "evt_2"),
    (CREATE, "seat_ids", ("A-12", "A-14")),
    (CREATE, "reservation_token", "rtkn_2"),
    (CREATE, "wish", Wish(2)),
    (CONFIRM, "reservation_id", "rsv_2"),
    (CONFIRM, "payment_intent_id", "pay_2"),
    (CANCEL, "reservation_id", "rsv_2"),
    (CANCEL, "reason", "rain"),
    (EXTEND, "reservation_id", "rsv_2"),
    (EXTEND, "seconds", 31),
    (EXTEND, "reason", "rain"),
]
MATTERS_NOT: list[tuple[Any, str, Any]] = [
    (CREATE, "user_id", "user_2"),  # the scope holds it, and the key
    (CREATE, "idempotency_key", "k2"),
    (CREATE, "metadata", Metadata(source="app", tags={"retry": "1"})),
    (CREATE, "traceparent", "00-2"),
    (CONFIRM, "owner", None),  # the scope holds the reservation's own user, whoever acts for that user
    (CONFIRM, "idempotency_key", "k2"),
    (CONFIRM, "traceparent", "00-2"),
    (CANCEL, "owner", None),
    (CANCEL, "idempotency_key", "k2"),
    (CANCEL, "traceparent", "00-2"),
    (EXTEND, "owner", None),
    (EXTEND, "idempotency_key", "k2"),
    (EXTEND, "traceparent", "00-2"),
]


def _names(cases: list[tuple[Any, str, Any]]) -> list[str]:
    return [f"{type(command).__name__}.{field}" for command, field, _ in cases]


def test_every_field_of_every_command_either_matters_or_does_not() -> None:
    """A new field has to be decided about."""
    known = [f"{kind.__name__}.{field.name}" for kind in (Create, Confirm, Cancel, Extend) for field in fields(kind)]
    assert sorted(_names(MATTERS) + _names(MATTERS_NOT)) == sorted(known)


@pytest.mark.parametrize(("command", "field", "other"), MATTERS, ids=_names(MATTERS))
def test_a_field_that_matters_makes_another_request(command: Any, field: str, other: Any) -> None:
    assert replace(command, **{field: other}).content != command.content


@pytest.mark.parametrize(("command", "field", "other"), MATTERS_NOT, ids=_names(MATTERS_NOT))
def test_a_field_that_does_not_matter_leaves_the_request_equal(command: Any, field: str, other: Any) -> None:
    assert replace(command, **{field: other}).content == command.content


def test_the_order_in_which_seats_are_named_does_not_matter() -> None:
    assert replace(CREATE, seat_ids=("A-13", "A-12")).content == CREATE.content


@pytest.mark.parametrize(
    "other", [Wish(3), Wish(2, "Floor"), Wish(2, allow_split=True), Wish(2, accessible=True)], ids=repr
)
def test_every_field_of_a_wish_matters(other: Wish) -> None:
    assert replace(CREATE, seat_ids=(), wish=other).content != replace(CREATE, seat_ids=(), wish=Wish(2)).content


def test_fewer_seats_are_another_request() -> None:
    assert replace(CREATE, seat_ids=("A-12",)).content != CREATE.content


@pytest.mark.parametrize(
    ("command", "content"),
    [
        (CREATE, ("event", "evt_1", "token", "rtkn_1", "seats", "A-12", "A-13")),
        (CONFIRM, ("reservation", "rsv_1", "payment", "pay_1")),
        (CANCEL, ("reservation", "rsv_1", "reason", "late train")),
    ],
    ids=["create", "confirm", "cancel"],
)
def test_content_is_what_it_was_in_the_release_before(command: Any, content: tuple[str, ...]) -> None:
    """Records outlive a deployment: other content for the same request would answer its retry with a conflict."""
    assert command.content == content


def test_keys_are_what_they_were_in_the_release_before() -> None:
    key = scoped_key(user_id="user_1", rpc="CreateReservation", key="k1", content=("evt_1", "A-12"))
    assert key.id == hashlib.sha256(b"3:key6:user_117:CreateReservation2:k1").hexdigest()
    assert key.fingerprint == hashlib.sha256(b"5:evt_14:A-12").hexdigest()


@patient
@given(*[st.tuples(st.text(max_size=3), st.text(max_size=3), st.lists(st.text(max_size=3), max_size=3))] * 2)
def test_creates_are_equal_only_with_equal_event_token_and_seats(
    one: tuple[str, str, list[str]], other: tuple[str, str, list[str]]
) -> None:
    """No field's text can pass for another field's."""
    commands = [Create(event, tuple(seats), "u", token) for event, token, seats in (one, other)]
    equal = one[:2] == other[:2] and sorted(one[2]) == sorted(other[2])
    assert (commands[0].content == commands[1].content) == equal
