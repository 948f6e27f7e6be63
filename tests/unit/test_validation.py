"""Every bad request and exactly what it is told, all at once; the largest good ones are told nothing."""

from collections.abc import Callable
from typing import Any

import pytest

from reservation.api import validation
from reservation.api.pages import Pages
from reservation.domain.errors import FieldViolation, InvalidRequest
from reservation.gen.com.traffic_tacos.reservation import v1 as messages

MAX_SEATS = 4
LONG, TOO_LONG = "é" * 128, "é" * 129
REQUIRED, OVERLONG, CONTROL = "is required", "is longer than 128 characters", "contains control characters"
BAD_TAG_NAME = "has a name that is empty, too long or contains control characters"
BAD_TAG_VALUE = "has a value that is too long or contains control characters"

TOO_MUCH = "has more than 1024 bytes of text"

Check = Callable[[], None]


def create(**changes: Any) -> Check:
    request = messages.CreateReservationRequest(**{"event_id": "evt_1", "seat_ids": ["A-1", "A-2"]} | changes)
    return lambda: validation.create(request, max_seats=MAX_SEATS)


def metadata(**fields: Any) -> Check:
    return create(metadata=messages.ReservationMetadata(**fields))


def get(**changes: Any) -> Check:
    return lambda: validation.get(messages.GetReservationRequest(**{"reservation_id": "rsv_1"} | changes))


def confirm(**changes: Any) -> Check:
    good = {"reservation_id": "rsv_1", "payment_intent_id": "pay_1"}
    return lambda: validation.confirm(messages.ConfirmReservationRequest(**good | changes))


def cancel(**changes: Any) -> Check:
    return lambda: validation.cancel(messages.CancelReservationRequest(**{"reservation_id": "rsv_1"} | changes))


def extend(**changes: Any) -> Check:
    good: dict[str, Any] = {"reservation_id": "rsv_1", "extension_seconds": 30}
    return lambda: validation.extend(messages.ExtendHoldRequest(**good | changes))


PAGES = Pages("reservations", "user_1")


def list_(**fields: Any) -> Check:
    return lambda: validation.list_(messages.ListReservationsRequest(**fields), PAGES)


def key(value: str) -> Check:
    return lambda: validation.key(value)


UNKNOWN_STATUS = messages.ReservationStatus(99)
NEGATIVE_STATUS = messages.ReservationStatus(-1)

BAD: list[tuple[Check, list[tuple[str, str]]]] = [
    (create(event_id=""), [("event_id", REQUIRED)]),
    (create(event_id=TOO_LONG), [("event_id", OVERLONG)]),
    (create(event_id="evt\n1"), [("event_id", CONTROL)]),
    (create(event_id="evt#1"), [("event_id", "contains #")]),
    (create(user_id=TOO_LONG), [("user_id", OVERLONG)]),
    (create(user_id="user\x00"), [("user_id", CONTROL)]),
    (create(reservation_token=TOO_LONG), [("reservation_token", OVERLONG)]),
    (create(reservation_token="\x1b[31m"), [("reservation_token", CONTROL)]),
    (create(section=TOO_LONG), [("section", OVERLONG)]),
    (create(section="\x7f"), [("section", CONTROL)]),
    (create(seat_ids=["A-1", ""]), [("seat_ids[1]", REQUIRED)]),
    (create(seat_ids=[TOO_LONG]), [("seat_ids[0]", OVERLONG)]),
    (create(seat_ids=["A-1", "A-2", "A\t3"]), [("seat_ids[2]", CONTROL)]),
    (create(seat_ids=["#"]), [("seat_ids[0]", "contains #")]),
    (create(seat_ids=["A-1", "A-2", "A-1"]), [("seat_ids", "names a seat twice")]),
    (create(seat_ids=["1", "2", "3", "4", "5"]), [("seat_ids", "names more than 4 seats")]),
    (create(quantity=1), [("quantity", "is not the number of seat_ids")]),
    (create(quantity=3), [("quantity", "is not the number of seat_ids")]),
    (create(quantity=-2), [("quantity", "is not the number of seat_ids")]),
    (create(seat_ids=[]), [("quantity", "is not between 1 and 4")]),
    (create(seat_ids=[], quantity=-1), [("quantity", "is not between 1 and 4")]),
    (create(seat_ids=[], quantity=5), [("quantity", "is not between 1 and 4")]),
    (metadata(source=TOO_LONG), [("metadata.source", OVERLONG)]),
    (metadata(source="\x9f"), [("metadata.source", CONTROL)]),
    (metadata(user_agent="x" * 513), [("metadata.user_agent", "is longer than 512 characters")]),
    (metadata(ip_address=TOO_LONG), [("metadata.ip_address", OVERLONG)]),
    (metadata(session_id=TOO_LONG), [("metadata.session_id", OVERLONG)]),
    (metadata(tags={str(n): "" for n in range(21)}), [("metadata.tags", "has more than 20 entries")]),
    (metadata(tags={"": "value"}), [("metadata.tags", BAD_TAG_NAME)]),
    (metadata(tags={TOO_LONG: "value"}), [("metadata.tags", BAD_TAG_NAME)]),
    (metadata(tags={"good": "", "ba\rd": ""}), [("metadata.tags", BAD_TAG_NAME)]),
    (metadata(tags={"name": "x" * 257}), [("metadata.tags", BAD_TAG_VALUE)]),
    (metadata(tags={"name": "\x80"}), [("metadata.tags", BAD_TAG_VALUE)]),
    (metadata(user_agent="x" * 500, tags={"a": "x" * 256, "b": "x" * 256, "c": "x" * 10}), [("metadata", TOO_MUCH)]),
    (metadata(user_agent="é" * 510, source="xxxxx"), [("metadata", TOO_MUCH)]),
    (get(reservation_id=""), [("reservation_id", REQUIRED)]),
    (get(reservation_id=TOO_LONG), [("reservation_id", OVERLONG)]),
    (get(reservation_id="rsv\x00"), [("reservation_id", CONTROL)]),
    (get(user_id=TOO_LONG), [("user_id", OVERLONG)]),
    (get(reservation_id="", user_id="\n"), [("reservation_id", REQUIRED), ("user_id", CONTROL)]),
    (confirm(reservation_id=""), [("reservation_id", REQUIRED)]),
    (confirm(payment_intent_id=""), [("payment_intent_id", REQUIRED)]),
    (confirm(payment_intent_id=TOO_LONG), [("payment_intent_id", OVERLONG)]),
    (confirm(payment_intent_id="pay\u0085"), [("payment_intent_id", CONTROL)]),
    (confirm(user_id="\x00"), [("user_id", CONTROL)]),
    (
        confirm(reservation_id="", payment_intent_id="", user_id=TOO_LONG),
        [("reservation_id", REQUIRED), ("user_id", OVERLONG), ("payment_intent_id", REQUIRED)],
    ),
    (cancel(reservation_id=""), [("reservation_id", REQUIRED)]),
    (cancel(reason="x" * 513), [("reason", "is longer than 512 characters")]),
    (cancel(reason="a\nb"), [("reason", CONTROL)]),
    (cancel(user_id=TOO_LONG), [("user_id", OVERLONG)]),
    (extend(reservation_id=""), [("reservation_id", REQUIRED)]),
    (extend(user_id="\x00"), [("user_id", CONTROL)]),
    (extend(extension_seconds=0), [("extension_seconds", "is not between 1 and 3600")]),
    (extend(extension_seconds=-30), [("extension_seconds", "is not between 1 and 3600")]),
    (extend(extension_seconds=3601), [("extension_seconds", "is not between 1 and 3600")]),
    (extend(reason="x" * 513), [("reason", "is longer than 512 characters")]),
    (extend(reason="a\nb"), [("reason", CONTROL)]),
    (list_(user_id=TOO_LONG), [("user_id", OVERLONG)]),
    (list_(event_id="\x00"), [("event_id", CONTROL)]),
    (list_(status=UNKNOWN_STATUS), [("status", "is not one of its values")]),
    (list_(status=NEGATIVE_STATUS), [("status", "is not one of its values")]),
    (list_(page_size=-1), [("page_size", "is not between 0 and 100")]),
    (list_(page_size=101), [("page_size", "is not between 0 and 100")]),
    (list_(page_token="x"), [("page_token", "is no token of this list")]),
    (
        list_(page_size=101, page_token="x" * 600),
        [
            ("page_size", "is not between 0 and 100"),
            ("page_token", "is no token of this list"),
        ],
    ),
    (key("x" * 256), [("idempotency_key", "is longer than 255 characters")]),
    (key("k\x00"), [("idempotency_key", CONTROL)]),
    (
        create(
            event_id="",
            user_id="\x00",
            reservation_token=TOO_LONG,
            section=TOO_LONG,
            seat_ids=["", "A-1", "A-1"],
            quantity=2,
            metadata=messages.ReservationMetadata(session_id=TOO_LONG, tags={"": ""}),
        ),
        [
            ("event_id", REQUIRED),
            ("user_id", CONTROL),
            ("reservation_token", OVERLONG),
            ("section", OVERLONG),
            ("seat_ids[0]", REQUIRED),
            ("seat_ids", "names a seat twice"),
            ("quantity", "is not the number of seat_ids"),
            ("metadata.session_id", OVERLONG),
            ("metadata.tags", BAD_TAG_NAME),
        ],
    ),
]


@pytest.mark.parametrize(
    ("check", "violations"), BAD, ids=["+".join(field for field, _ in violations) for _, violations in BAD]
)
def test_a_bad_request_is_told_exactly_what_is_wrong(check: Check, violations: list[tuple[str, str]]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check()
    assert refused.value.violations == tuple(FieldViolation(*each) for each in violations)


GOOD: list[Check] = [
    create(),
    create(quantity=2),
    create(seat_ids=["1", "2", "3", "4"], quantity=4),
    create(event_id=LONG, user_id=LONG, reservation_token=LONG, section=LONG, seat_ids=[LONG]),
    create(event_id="콘서트 2025, 'A' <1>", user_id="\N{TACO}"),
    metadata(),
    metadata(source="x" * 128, user_agent="x" * 512, ip_address="x" * 128, session_id="x" * 128),
    metadata(tags={str(n): "x" * 40 for n in range(20)}),
    metadata(tags={"n" * 128: "x" * 256}),
    metadata(source="xxxx", user_agent="é" * 510),
    metadata(tags={"empty value": ""}),
    get(),
    get(reservation_id=LONG, user_id=LONG),
    confirm(),
    confirm(reservation_id=LONG, payment_intent_id=LONG, user_id=LONG),
    cancel(),
    cancel(reason="x" * 512),
    extend(),
    extend(extension_seconds=1, reason="x" * 512),
    extend(extension_seconds=3600, reservation_id=LONG, user_id=LONG),
    list_(),
    list_(user_id=LONG, event_id=LONG, page_size=100),
    list_(page_token=PAGES.token("0194")),
    *(list_(status=status) for status in messages.ReservationStatus),
    key(""),
    key("x" * 255),
    key("550e8400-e29b-41d4-a716-446655440000"),
]


@pytest.mark.parametrize("check", GOOD)
def test_a_good_request_is_told_nothing(check: Check) -> None:
    check()


@pytest.mark.parametrize("code", [*range(0x20), *range(0x7F, 0xA0)])
def test_every_control_character_is_refused(code: int) -> None:
    with pytest.raises(InvalidRequest) as refused:
        get(reservation_id=f"rsv{chr(code)}1")()
    assert refused.value.violations == (FieldViolation("reservation_id", CONTROL),)


@pytest.mark.parametrize("quantity", [1, MAX_SEATS])
def test_a_choice_left_to_the_service_is_a_good_request(quantity: int) -> None:
    create(seat_ids=[], quantity=quantity)()


def test_a_refusal_never_repeats_the_offending_value() -> None:
    value = "attacker\n" + "x" * 200
    with pytest.raises(InvalidRequest) as refused:
        create(event_id=value, user_id=value, seat_ids=[value, value], metadata=None)()
    assert "attacker" not in refused.value.text + repr(refused.value.violations)


def test_the_text_names_every_field() -> None:
    with pytest.raises(InvalidRequest) as refused:
        confirm(reservation_id="", payment_intent_id="")()
    assert refused.value.text == "bad request: reservation_id is required; payment_intent_id is required"
