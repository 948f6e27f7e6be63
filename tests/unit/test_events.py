"""What leaves this service: one event a change, with the reservation as GET tells it."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from google.protobuf import json_format, message_factory
from hypothesis import given
from hypothesis import strategies as st

from reservation.api import convert
from reservation.api.descriptors import PACKAGE, pool
from reservation.domain import events
from reservation.domain.events import EventType
from reservation.domain.model import Reservation, Status
from tests.unit.examples import HOLD, NEW_YEAR, in_state, patient, reservations, times

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

TYPES = {
    Status.HOLD: "reservation.created",
    Status.CONFIRMED: "reservation.confirmed",
    Status.CANCELLED: "reservation.cancelled",
    Status.EXPIRED: "reservation.expired",
}


@pytest.mark.parametrize(("status", "name"), TYPES.items())
def test_a_status_is_told_under_one_name(status: Status, name: str) -> None:
    assert events.type_of(in_state(status)) == name
    assert events.detail(in_state(status), traceparent="")["type"] == name


def test_a_hold_of_a_later_version_was_extended() -> None:
    assert events.type_of(replace(HOLD, version=2)) == "reservation.hold_extended"


def test_every_event_type_is_told_by_some_status() -> None:
    assert sorted([*TYPES.values(), "reservation.hold_extended"]) == sorted(EventType)


def test_a_message_id_names_reservation_and_version() -> None:
    assert events.message_id(replace(HOLD, version=3)) == "rsv_0194#3"


@patient
@given(*[st.tuples(st.text(), st.integers(1, 99))] * 2)
def test_no_two_versions_share_a_message_id(one: tuple[str, int], other: tuple[str, int]) -> None:
    told = [events.message_id(replace(HOLD, id=name, version=version)) for name, version in (one, other)]
    assert (told[0] == told[1]) == (one == other)


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1, "1970-01-01T00:00:00.001Z"),
        (NEW_YEAR, "2025-01-01T00:00:00Z"),
        (NEW_YEAR + 60_000, "2025-01-01T00:01:00Z"),
        (NEW_YEAR + 500, "2025-01-01T00:00:00.500Z"),
        (NEW_YEAR + 999, "2025-01-01T00:00:00.999Z"),
        (1_709_251_199_050, "2024-02-29T23:59:59.050Z"),
    ],
)
def test_a_timestamp_has_no_fraction_or_three_digits(milliseconds: int, text: str) -> None:
    assert events.timestamp(milliseconds) == text


@patient
@given(times)
def test_a_timestamp_loses_nothing(milliseconds: int) -> None:
    epoch = datetime.fromisoformat("1970-01-01T00:00:00Z")
    assert datetime.fromisoformat(events.timestamp(milliseconds)) - epoch == timedelta(milliseconds=milliseconds)


HELD_BODY: dict[str, Any] = {
    "reservationId": "rsv_0194",
    "eventId": "evt_2025_1001",
    "userId": "user_1",
    "status": "HOLD",
    "seats": [
        {
            "id": "A-12",
            "section": "A",
            "row": "1",
            "number": "12",
            "price": {"amount": "120000", "currency": "KRW"},
            "status": "HELD",
        },
        {
            "id": "A-13",
            "section": "A",
            "row": "1",
            "number": "13",
            "price": {"amount": "110000", "currency": "KRW"},
            "status": "HELD",
        },
    ],
    "quantity": 2,
    "totalAmount": {"amount": "230000", "currency": "KRW"},
    "createdAt": "2025-01-01T00:00:00Z",
    "updatedAt": "2025-01-01T00:00:00Z",
    "holdExpiresAt": "2025-01-01T00:01:00Z",
    "paymentIntentId": "",
    "orderId": "",
    "metadata": {
        "source": "web",
        "userAgent": "Mozilla/5.0",
        "ipAddress": "192.0.2.7",
        "sessionId": "session_1",
        "tags": {"campaign": "spring"},
    },
    "seatIds": ["A-12", "A-13"],
}

SEATS_AND_REST = {
    Status.PENDING: ("STATUS_UNSPECIFIED", {}),
    Status.HOLD: ("HELD", {"updatedAt": "2025-01-01T00:00:00Z"}),
    Status.CONFIRMED: ("SOLD", {"paymentIntentId": "pay_1", "orderId": "ord_0194"}),
    Status.CANCELLED: ("STATUS_UNSPECIFIED", {}),
    Status.EXPIRED: ("STATUS_UNSPECIFIED", {}),
    Status.FAILED: ("STATUS_UNSPECIFIED", {}),
    Status.REFUNDED: ("STATUS_UNSPECIFIED", {"paymentIntentId": "pay_1", "orderId": "ord_0194"}),
}


@pytest.mark.parametrize("status", Status)
def test_the_body_of_each_state(status: Status) -> None:
    seat_status, rest = SEATS_AND_REST[status]
    seats = [seat | {"status": seat_status} for seat in HELD_BODY["seats"]]
    changes = {"status": status.value, "seats": seats, "updatedAt": "2025-01-01T00:00:30Z"} | rest
    assert events.body(in_state(status)) == HELD_BODY | changes


def test_what_is_not_there_is_absent_not_null() -> None:
    bare = events.body(replace(HOLD, metadata=None, seats=()))
    assert "metadata" not in bare
    assert "totalAmount" not in bare
    assert bare["seats"] == bare["seatIds"] == []


@patient
@given(reservations())
def test_the_body_is_what_get_answers(reservation: Reservation) -> None:
    """As the edge's transcoder prints the GET message: 64-bit numbers as text, fields without presence always."""
    message_class = message_factory.GetMessageClass(pool().FindMessageTypeByName(f"{PACKAGE}.GetReservationResponse"))
    answer = message_class.FromString(convert.reservation_body(reservation))
    assert events.body(reservation) == json_format.MessageToDict(answer, always_print_fields_with_no_presence=True)


def test_an_event_is_an_envelope_around_the_body() -> None:
    held = replace(HOLD, updated_at=NEW_YEAR + 250)
    assert events.detail(held, traceparent=TRACEPARENT) == {
        "messageId": "rsv_0194#1",
        "type": "reservation.created",
        "version": 1,
        "occurredAt": "2025-01-01T00:00:00.250Z",
        "traceparent": TRACEPARENT,
        "reservationToken": "rtkn_xyz789",
        "reservation": events.body(held),
    }


@pytest.mark.parametrize("released", [(), ("A-13",), ("A-12", "A-13")])
@pytest.mark.parametrize("status", TYPES)
def test_only_the_end_of_a_hold_releases_seats(status: Status, released: tuple[str, ...]) -> None:
    """Those that this very change made free, which may be fewer than were held."""
    detail = events.detail(in_state(status), traceparent="", released=released)
    ends = status in (Status.CANCELLED, Status.EXPIRED)
    assert detail.get("releasedSeats") == (list(released) if ends else None)
    assert detail["reservation"]["seatIds"] == ["A-12", "A-13"]
