"""What the protocol does not say of a REST operation: what it is called, how it can be refused, examples of all that is
sent. Answers and refusals are made by the code that makes the real ones."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from google.protobuf import json_format

from reservation.api import convert
from reservation.api.descriptors import wire_class
from reservation.api.pages import Pages
from reservation.availability import SeatPage
from reservation.domain import errors as refusals
from reservation.domain.model import Metadata, Money, Reservation, Seat, SeatStatus, SectionKind, Status
from reservation.domain.seating import Count
from reservation.openapi import errors
from reservation.openapi.errors import Failure, invalid
from reservation.ports import Page

Json = dict[str, Any]

_NOON = 1_735_732_800_000  # 2025-01-01T12:00:00Z
EVENT_ID = "evt_2025_1001"
_PRICE = Money(120_000, "KRW")

HELD = Reservation(
    id="rsv_019421d0f8009f2c4be7a1d3c5e68b70",
    event_id=EVENT_ID,
    user_id="user_123",
    status=Status.HOLD,
    seats=tuple(Seat(f"A-{number}", "Floor", "A", str(number), _PRICE) for number in (12, 13)),
    created_at=_NOON,
    updated_at=_NOON,
    hold_expires_at=_NOON + 60_000,
    version=1,
    op_id="",
    shard="",
    metadata=Metadata("web", "Mozilla/5.0", "203.0.113.7", "ses_1"),
)
SOLD = replace(
    HELD,
    status=Status.CONFIRMED,
    payment_intent_id="pay_1",
    order_id="ord_019421d0f8009f2c4be7a1d3c5e68b70",
    updated_at=_NOON + 30_000,
)
_CANCELLED = replace(HELD, status=Status.CANCELLED, updated_at=_NOON + 30_000)
_COUNTS = (
    Count("Floor", SectionKind.NUMBERED, 200, available=150, held=20, sold=28, blocked=2),
    Count("Standing", SectionKind.GENERAL_ADMISSION, 2000, available=1990, held=4, sold=6, blocked=0),
)
_PAGES = Pages("example")


@dataclass(frozen=True, slots=True)
class Operation:
    """`key`: whether an idempotency key must be sent (True), may be (False), or means nothing (None). `parameters` and
    `body` are what an example sends, `answer` is what it gets, `links` are what that leads to, `failures` those of this
    operation alone."""

    summary: str
    answer: Any
    failures: tuple[Failure, ...]
    parameters: Json = field(default_factory=dict)
    body: Json | None = None
    key: bool | None = None
    success: int = 200
    links: Mapping[str, Json] = field(default_factory=dict)
    note: str = ""


def _json(name: str, encoded: bytes) -> Json:
    """A message as Envoy prints it."""
    wire = wire_class(name).FromString(encoded)
    printed: Json = json_format.MessageToDict(wire, always_print_fields_with_no_presence=True)
    return printed


def _refused(*reasons: refusals.ReservationError) -> tuple[Failure, ...]:
    return tuple(map(errors.of, reasons))


_MADE = "$response.body#/reservationId"


def _link(operation: str, **others: Any) -> Json:
    """What to do next with the reservation that an answer tells of."""
    return {"operationId": operation, "requestBody": {"reservationId": _MADE, **others}}


_BAD_ID = invalid("reservation_id", "is longer than 128 characters")
_SHARED_KEY: Sequence[refusals.ReservationError] = (refusals.IdempotencyConflict(), refusals.IdempotencyInProgress())
_NO_RESERVATION = refusals.ReservationNotFound()
_REMOTE = refusals.InventoryServiceError()
_BODY = _json("GetReservationResponse", convert.reservation_body(HELD))
_BY_ID = {"reservation_id": HELD.id}
_OF_EVENT = (invalid("section", "is not a section of this event"), errors.NO_SUCH_PATH)
_ABOUT_EVENT = _refused(refusals.EventNotFound(), refusals.NotImplementedYet())

OPERATIONS = {
    "CreateReservation": Operation(
        "Hold seats",
        _json("CreateReservationResponse", convert.created(HELD)),
        (
            invalid("seat_ids", "names a seat twice"),
            *_refused(
                refusals.MissingIdempotencyKey(),
                refusals.EventNotFound(),
                refusals.SeatUnavailable(["A-13"]),
                refusals.SaleNotOpen(),
                refusals.HoldLimitReached(),
                *_SHARED_KEY,
                _REMOTE,
            ),
        ),
        body={"eventId": EVENT_ID, "quantity": 2, "seatIds": ["A-12", "A-13"], "reservationToken": "rtkn_xyz789"},
        key=True,
        success=201,
        links={
            "read": {"operationId": "getReservation", "parameters": {"reservationId": _MADE}},
            "confirm": _link("confirmReservation", paymentIntentId=SOLD.payment_intent_id),
            "cancel": _link("cancelReservation"),
            "extend": _link("extendHold", extensionSeconds=30),
        },
    ),
    "GetReservation": Operation(
        "Read a reservation",
        _BODY,
        (_BAD_ID, *_refused(_NO_RESERVATION), errors.NO_SUCH_PATH),
        _BY_ID,
    ),
    "ConfirmReservation": Operation(
        "Sell the held seats",
        _json("ConfirmReservationResponse", convert.confirmed(SOLD)),
        (
            invalid("payment_intent_id", "is required"),
            *_refused(
                _NO_RESERVATION,
                refusals.ReservationExpired(),
                refusals.ReservationAlreadyConfirmed(),
                refusals.ReservationAlreadyCancelled(),
                *_SHARED_KEY,
                _REMOTE,
            ),
        ),
        body={"reservationId": HELD.id, "paymentIntentId": SOLD.payment_intent_id},
        key=False,
    ),
    "CancelReservation": Operation(
        "Return the held seats",
        _json("CancelReservationResponse", convert.cancelled(_CANCELLED)),
        (
            _BAD_ID,
            *_refused(
                _NO_RESERVATION,
                refusals.ReservationExpired(),
                refusals.ReservationAlreadyConfirmed(),
                *_SHARED_KEY,
                _REMOTE,
            ),
        ),
        body={"reservationId": HELD.id, "reason": "changed my mind"},
        key=False,
    ),
    "ExtendHold": Operation(
        "Hold the seats for longer",
        _json("ExtendHoldResponse", convert.extended(replace(HELD, hold_expires_at=_NOON + 90_000), 30)),
        (
            invalid("extension_seconds", "is not between 1 and 3600"),
            *_refused(
                _NO_RESERVATION,
                refusals.HoldExtensionDenied(extensions_left=0, seconds_left=180),
                refusals.ReservationExpired(),
                refusals.ReservationAlreadyConfirmed(),
                refusals.ReservationAlreadyCancelled(),
                *_SHARED_KEY,
                _REMOTE,
            ),
        ),
        body={"reservationId": HELD.id, "extensionSeconds": 30},
        key=False,
    ),
    "ListReservations": Operation(
        "List one's own reservations",
        _json("ListReservationsResponse", convert.listed(Page((HELD,), ""), _PAGES)),
        (invalid("page_token", "is no token of this list"),),
        {"event_id": EVENT_ID, "status": "HOLD", "page_size": 20},
    ),
    "WatchReservation": Operation(
        "Watch a reservation",
        f"data: {json.dumps(_BODY, separators=(',', ':'))}\n\n",
        (_BAD_ID, *_refused(_NO_RESERVATION), errors.NO_SUCH_PATH),
        _BY_ID,
        note=(
            " Server-sent events: the data of each is a GetReservationResponse. A stream that has to end before the"
            " reservation is final says so in a last event, whose data is an Error; watch again then."
        ),
    ),
    "GetInventoryStatus": Operation(
        "Count what is left",
        _json("GetInventoryStatusResponse", convert.inventory_status(EVENT_ID, _COUNTS, _NOON)),
        (*_OF_EVENT, *_ABOUT_EVENT),
        {"event_id": EVENT_ID},
    ),
    "ListSeats": Operation(
        "Draw the seat map",
        _json(
            "ListSeatsResponse",
            convert.seat_page(SeatPage([(seat, SeatStatus.HELD) for seat in HELD.seats], None, _NOON), _PAGES),
        ),
        (*_OF_EVENT, *_ABOUT_EVENT),
        {"event_id": EVENT_ID, "section": "Floor", "page_size": 100},
    ),
}
"""By the name of the rpc."""
