"""The events that leave this service, and the JSON form of a reservation that they share with GET's body."""

from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import Any

from reservation.domain.model import Metadata, Money, Reservation, Seat, Status


class EventType(StrEnum):
    """EventBridge detail-types."""

    CREATED = "reservation.created"
    CONFIRMED = "reservation.confirmed"
    CANCELLED = "reservation.cancelled"
    EXPIRED = "reservation.expired"
    HOLD_EXTENDED = "reservation.hold_extended"


_TYPE_OF = {
    Status.HOLD: EventType.CREATED,
    Status.CONFIRMED: EventType.CONFIRMED,
    Status.CANCELLED: EventType.CANCELLED,
    Status.EXPIRED: EventType.EXPIRED,
}


def type_of(reservation: Reservation) -> EventType:
    """The event that tells of the change which made this version."""
    if reservation.status is Status.HOLD and reservation.version > 1:
        return EventType.HOLD_EXTENDED
    return _TYPE_OF[reservation.status]


def message_id(reservation: Reservation) -> str:
    """What consumers deduplicate by: at-least-once delivery repeats it, nothing else ever carries it."""
    return f"{reservation.id}#{reservation.version}"


def detail(reservation: Reservation, *, traceparent: str, released: Sequence[str] = ()) -> dict[str, Any]:
    """The EventBridge detail that tells of this version of a reservation.

    `released`: the seats that this very change made free. An expired hold may have lost some to a later customer
    before: who frees all of `seatIds` on an expiry frees seats that are somebody else's.
    """
    envelope: dict[str, Any] = {
        "messageId": message_id(reservation),
        "type": type_of(reservation).value,
        "version": reservation.version,
        "occurredAt": timestamp(reservation.updated_at),
        "traceparent": traceparent,
        "reservationToken": reservation.reservation_token,
        "reservation": body(reservation),
    }
    if reservation.status in (Status.CANCELLED, Status.EXPIRED):
        envelope["releasedSeats"] = list(released)
    return envelope


def body(reservation: Reservation) -> dict[str, Any]:
    """The reservation as REST clients read it: proto3 JSON, so 64-bit numbers are text and unset messages absent."""
    result: dict[str, Any] = {
        "reservationId": reservation.id,
        "eventId": reservation.event_id,
        "userId": reservation.user_id,
        "status": reservation.status.value,
        "seats": [_seat(seat, reservation) for seat in reservation.seats],
        "quantity": len(reservation.seats),
        "createdAt": timestamp(reservation.created_at),
        "updatedAt": timestamp(reservation.updated_at),
        "holdExpiresAt": timestamp(reservation.hold_expires_at),
        "paymentIntentId": reservation.payment_intent_id,
        "orderId": reservation.order_id,
        "seatIds": list(reservation.seat_ids),
    }
    if (total := reservation.total) is not None:
        result["totalAmount"] = _money(total)
    if reservation.metadata is not None:
        result["metadata"] = _metadata(reservation.metadata)
    return result


def timestamp(milliseconds: int) -> str:
    """RFC 3339 as proto3 JSON prints it: no fraction for whole seconds, else three digits."""
    seconds, fraction = divmod(milliseconds, 1000)
    return f"{_second(seconds)}.{fraction:03d}Z" if fraction else f"{_second(seconds)}Z"


@lru_cache(maxsize=256)
def _second(seconds: int) -> str:
    """All that happens within a second shares its text."""
    return datetime.fromtimestamp(seconds, UTC).isoformat().removesuffix("+00:00")


def _seat(seat: Seat, reservation: Reservation) -> dict[str, Any]:
    status = reservation.seat_status
    return {
        "id": seat.id,
        "section": seat.section,
        "row": seat.row,
        "number": seat.number,
        "price": _money(seat.price),
        "status": status.value if status else "STATUS_UNSPECIFIED",
    }


def _money(money: Money) -> dict[str, Any]:
    return {"amount": str(money.amount), "currency": money.currency}


def _metadata(metadata: Metadata) -> dict[str, Any]:
    return {
        "source": metadata.source,
        "userAgent": metadata.user_agent,
        "ipAddress": metadata.ip_address,
        "sessionId": metadata.session_id,
        "tags": dict(metadata.tags),
    }
