"""Between the protocol's messages and the domain."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from reservation.api.call import Call
from reservation.api.descriptors import wire_class
from reservation.api.pages import Pages
from reservation.availability import Prospect, SeatPage
from reservation.domain.commands import (
    Cancel,
    Commit,
    Confirm,
    Create,
    Extend,
    Listing,
    Release,
    Reserve,
)
from reservation.domain.model import Metadata, Money, Reservation, Seat, SeatStatus, Status, Wish
from reservation.domain.seating import Count
from reservation.gen.com.traffic_tacos.reservation import v1 as messages
from reservation.ports import Page

_PAGE_SIZE = 20
_EPOCH = datetime.fromtimestamp(0, UTC)
_SEAT_STATUS = {status: messages.SeatStatus[status.value] for status in SeatStatus}


def create_command(request: messages.CreateReservationRequest, call: Call, key: str) -> Create:
    return Create(
        event_id=request.event_id,
        seat_ids=tuple(request.seat_ids),
        user_id=call.user,
        reservation_token=request.reservation_token,
        idempotency_key=key,
        metadata=_metadata(request.metadata) if request.metadata is not None else None,
        traceparent=call.traceparent,
        wish=_wish(request) if not request.seat_ids else None,
    )


def _wish(request: messages.CreateReservationRequest) -> Wish:
    return Wish(request.quantity, request.section, request.allow_split, request.accessible)


def confirm_command(request: messages.ConfirmReservationRequest, call: Call, key: str) -> Confirm:
    return Confirm(
        reservation_id=request.reservation_id,
        payment_intent_id=request.payment_intent_id,
        owner=call.owner,
        idempotency_key=key,
        traceparent=call.traceparent,
    )


def cancel_command(request: messages.CancelReservationRequest, call: Call, key: str) -> Cancel:
    return Cancel(
        reservation_id=request.reservation_id,
        reason=request.reason,
        owner=call.owner,
        idempotency_key=key,
        traceparent=call.traceparent,
    )


def extend_command(request: messages.ExtendHoldRequest, call: Call, key: str) -> Extend:
    return Extend(
        reservation_id=request.reservation_id,
        seconds=request.extension_seconds,
        reason=request.reason,
        owner=call.owner,
        idempotency_key=key,
        traceparent=call.traceparent,
    )


def listing(request: messages.ListReservationsRequest, call: Call, pages: Pages) -> Listing:
    named = request.status is not messages.ReservationStatus.RESERVATION_STATUS_UNSPECIFIED
    return Listing(
        user_id=call.user,
        event_id=request.event_id,
        status=Status(str(request.status.name)) if named else None,
        size=request.page_size or _PAGE_SIZE,
        begin=pages.begin(request.page_token) or "",
    )


def reserve_command(request: messages.ReserveSeatRequest) -> Reserve:
    ends_at = request.hold_expires_at
    return Reserve(
        reservation_id=request.reservation_id,
        event_id=request.event_id,
        seat_ids=tuple(request.seat_ids),
        user_id=request.user_id,
        hold_expires_at=_milliseconds(ends_at) if ends_at is not None else None,
        wish=None if request.seat_ids else Wish(request.quantity, request.section, request.allow_split),
    )


def commit_command(request: messages.CommitReservationRequest) -> Commit:
    return Commit(
        reservation_id=request.reservation_id,
        event_id=request.event_id,
        seat_ids=tuple(request.seat_ids),
        quantity=request.quantity,
        payment_intent_id=request.payment_intent_id,
    )


def release_command(request: messages.ReleaseHoldRequest) -> Release:
    return Release(
        reservation_id=request.reservation_id,
        event_id=request.event_id,
        seat_ids=tuple(request.seat_ids),
        quantity=request.quantity,
        reason=request.reason,
    )


def created(reservation: Reservation) -> messages.CreateReservationResponse:
    return messages.CreateReservationResponse(
        reservation_id=reservation.id,
        status=_status(reservation),
        hold_expires_at=_time(reservation.hold_expires_at),
        reserved_seats=_seats(reservation, SeatStatus.HELD),
        total_amount=_money(reservation.total),
        message="Reservation created successfully",
        seat_ids=list(reservation.seat_ids),
    )


def confirmed(reservation: Reservation) -> messages.ConfirmReservationResponse:
    return messages.ConfirmReservationResponse(
        order_id=reservation.order_id,
        status=_status(reservation),
        confirmed_at=_time(reservation.updated_at),
        confirmed_seats=_seats(reservation, SeatStatus.SOLD),
        reservation_id=reservation.id,
        message="Reservation confirmed successfully",
        total_amount=_money(reservation.total),
    )


def cancelled(reservation: Reservation) -> messages.CancelReservationResponse:
    return messages.CancelReservationResponse(
        status=_status(reservation),
        cancelled_at=_time(reservation.updated_at),
        released_seats=_seats(reservation, SeatStatus.AVAILABLE),
        reservation_id=reservation.id,
        message="Reservation cancelled successfully",
    )


def extended(reservation: Reservation, seconds: int) -> messages.ExtendHoldResponse:
    """`seconds`: by how many it was extended."""
    return messages.ExtendHoldResponse(
        new_expires_at=_time(reservation.hold_expires_at),
        extended_seconds=seconds,
        reservation_id=reservation.id,
        status=_status(reservation),
    )


def reservation_body(reservation: Reservation) -> messages.GetReservationResponse:
    return messages.GetReservationResponse(
        reservation_id=reservation.id,
        event_id=reservation.event_id,
        user_id=reservation.user_id,
        status=_status(reservation),
        seats=_seats(reservation, reservation.seat_status),
        quantity=len(reservation.seats),
        total_amount=_money(reservation.total),
        created_at=_time(reservation.created_at),
        updated_at=_time(reservation.updated_at),
        hold_expires_at=_time(reservation.hold_expires_at),
        payment_intent_id=reservation.payment_intent_id,
        order_id=reservation.order_id,
        metadata=_metadata_message(reservation.metadata) if reservation.metadata is not None else None,
        seat_ids=list(reservation.seat_ids),
    )


def prospect(found: Prospect) -> messages.CheckAvailabilityResponse:
    return messages.CheckAvailabilityResponse(
        available=found.all_available,
        available_seats=[_seat(seat, messages.SeatStatus.AVAILABLE) for seat in found.available],
        unavailable_seat_ids=list(found.unavailable),
        remaining_in_section=found.remaining,
    )


def inventory_status(event_id: str, counts: Iterable[Count], as_of: int) -> messages.GetInventoryStatusResponse:
    return messages.GetInventoryStatusResponse(
        event_id=event_id,
        sections=[
            messages.GetInventoryStatusResponseSection(
                section=count.name,
                kind=messages.GetInventoryStatusResponseSectionKind[count.kind.value],
                total=count.total,
                available=count.available,
                held=count.held,
                sold=count.sold,
                blocked=count.blocked,
            )
            for count in counts
        ],
        as_of=_time(as_of),
    )


def seat_page(page: SeatPage, pages: Pages) -> bytes:
    """Encoded: 500 seats would keep the event loop busy for 13 ms with betterproto2."""
    answer = wire_class("ListSeatsResponse")()
    if page.next is not None:
        answer.next_page_token = pages.token(str(page.next))
    answer.as_of.FromMilliseconds(page.as_of)
    for seat, status in page.seats:
        answer.seats.add(
            id=seat.id,
            section=seat.section,
            row=seat.row,
            number=seat.number,
            price={"amount": seat.price.amount, "currency": seat.price.currency},
            status=_SEAT_STATUS[status].value,
        )
    encoded: bytes = answer.SerializeToString()
    return encoded


def in_band(error_body: str) -> messages.GetReservationResponse:
    """A REST stream that has begun has no status left to fail with, and Envoy passes on nothing but messages of this
    type. So the body of an error goes out as the id of no reservation, in hex, which edge.lua turns back."""
    return messages.GetReservationResponse(reservation_id=f"error:{error_body.encode().hex()}")


def listed(page: Page, pages: Pages) -> messages.ListReservationsResponse:
    return messages.ListReservationsResponse(
        reservations=[reservation_body(each) for each in page.reservations],
        next_page_token=pages.token(page.next) if page.next else "",
    )


def reserved(hold: Reservation) -> messages.ReserveSeatResponse:
    return messages.ReserveSeatResponse(
        hold_id=hold.id,
        reserved_seats=_seats(hold, SeatStatus.HELD),
        hold_expires_at=_time(hold.hold_expires_at),
        status=_status(hold),
    )


def committed(hold: Reservation) -> messages.CommitReservationResponse:
    return messages.CommitReservationResponse(
        order_id=hold.order_id,
        sold_seats=_seats(hold, SeatStatus.SOLD),
        status=_status(hold),
        committed_at=_time(hold.updated_at),
    )


def released(hold: Reservation) -> messages.ReleaseHoldResponse:
    """A hold that ended by itself had no seats to release any more."""
    return messages.ReleaseHoldResponse(
        released_seats=_seats(hold, SeatStatus.AVAILABLE) if hold.status is Status.CANCELLED else [],
        status=_status(hold),
        released_at=_time(hold.updated_at),
    )


def _status(reservation: Reservation) -> messages.ReservationStatus:
    return messages.ReservationStatus[reservation.status.value]


def _seats(reservation: Reservation, status: SeatStatus | None) -> list[messages.Seat]:
    told = _SEAT_STATUS[status] if status else messages.SeatStatus.STATUS_UNSPECIFIED
    return [_seat(seat, told) for seat in reservation.seats]


def _seat(seat: Seat, status: messages.SeatStatus) -> messages.Seat:
    return messages.Seat(
        id=seat.id, section=seat.section, row=seat.row, number=seat.number, price=_money(seat.price), status=status
    )


def _money(money: Money | None) -> messages.Money | None:
    return messages.Money(amount=money.amount, currency=money.currency) if money is not None else None


def _time(milliseconds: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=milliseconds)


def _milliseconds(time: datetime) -> int:
    return (time - _EPOCH) // timedelta(milliseconds=1)


def _metadata(message: messages.ReservationMetadata) -> Metadata:
    return Metadata(
        source=message.source,
        user_agent=message.user_agent,
        ip_address=message.ip_address,
        session_id=message.session_id,
        tags=dict(message.tags),
    )


def _metadata_message(metadata: Metadata) -> messages.ReservationMetadata:
    return messages.ReservationMetadata(
        source=metadata.source,
        user_agent=metadata.user_agent,
        ip_address=metadata.ip_address,
        session_id=metadata.session_id,
        tags=dict(metadata.tags),
    )
