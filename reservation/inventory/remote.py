"""InventoryService of another process, by gRPC."""

import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import betterproto2
import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from reservation.domain import errors
from reservation.domain.errors import FieldViolation, InventoryServiceError, ReservationError
from reservation.domain.model import Event, Money, Reservation, Seat, Status, Wish, order_id_of
from reservation.gen.com.traffic_tacos.reservation import v1 as messages
from reservation.inventory.breaker import Breaker, Rejected, State
from reservation.inventory.token import TokenFile

_SERVICE = "com.traffic_tacos.reservation.v1.InventoryService"
_EPOCH = datetime.fromtimestamp(0, UTC)
_NO_PRICE = Money(0, "")

# What another service refuses for good. Anything else that fails may have taken effect, or may work the next time.
_REFUSALS: dict[str, type[ReservationError]] = {
    kind.code: kind
    for kind in (
        errors.EventNotFound,
        errors.ReservationNotFound,
        errors.SaleNotOpen,
        errors.HoldLimitReached,
        errors.ReservationExpired,
        errors.ReservationAlreadyConfirmed,
        errors.ReservationAlreadyCancelled,
        errors.IdempotencyConflict,
    )
}
_FROM_CUSTOMERS = frozenset({"event_id", "seat_ids", "quantity", "section"})
"""Fields of ReserveSeat that customers have filled in; what is wrong with the others is between the services."""

CHANNEL_OPTIONS = (
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", 10 * 1024 * 1024),
    ("grpc.max_send_message_length", 10 * 1024 * 1024),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.lb_policy_name", "round_robin"),
)

M = TypeVar("M", bound=betterproto2.Message)


@dataclass(frozen=True, slots=True)
class Taken:
    """Seats that the remote inventory holds for a reservation, up to a time in milliseconds."""

    seats: tuple[Seat, ...]
    until: int


class RemoteInventory:
    """Every call has `timeout` seconds, or up to `until` (in time.monotonic() seconds) if that is sooner.

    Raises the refusals that the other service gives, and InventoryServiceError for everything else: a failure, no
    answer, an answer that cannot be. Then it is not known what the call did, unless it is CircuitOpen or Rejected.
    `asked` is told of each call that was made: the service, the method, and the seconds.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        breaker: Breaker,
        *,
        timeout: float,
        token: TokenFile | None = None,
        asked: Callable[[str, str, float], None] = lambda service, method, seconds: None,
    ) -> None:
        """`token`: for a service that asks for one."""
        self._channel = channel
        self._breaker = breaker
        self._timeout = timeout
        self._token = token
        self._asked = asked

    @property
    def circuit(self) -> State:
        """See Breaker.state."""
        return self._breaker.state

    async def facts(self, event_id: str, seat_ids: Sequence[str], until: float) -> tuple[Event, tuple[Seat, ...]]:
        """See ports.Inventory. The other service tells them with the hold; until then a seat is a name."""
        return Event(event_id), tuple(Seat(seat_id, "", "", "", _NO_PRICE) for seat_id in seat_ids)

    @asynccontextmanager
    async def choice(self, event: Event, wish: Wish, until: float) -> AsyncIterator[tuple[str, ...]]:
        """See ports.Inventory. The other service chooses, with the hold."""
        if wish.accessible:
            raise errors.InvalidRequest([FieldViolation("accessible", "cannot be asked of this inventory")])
        yield ()

    def require_reachable(self) -> None:
        """Raises CircuitOpen."""
        self._breaker.require_closed()

    async def reserve(self, wanted: Reservation, until: float) -> Taken:
        """Holds the seats at least until its `hold_expires_at`; again, it prolongs them."""
        request = messages.ReserveSeatRequest(
            reservation_id=wanted.id,
            event_id=wanted.event_id,
            seat_ids=list(wanted.seat_ids),
            quantity=wanted.wish.quantity if wanted.wish is not None else len(wanted.seats),
            user_id=wanted.user_id,
            hold_expires_at=_EPOCH + timedelta(milliseconds=wanted.hold_expires_at),
            section=wanted.wish.section if wanted.wish is not None else "",
            allow_split=wanted.wish is not None and wanted.wish.allow_split,
        )
        with self._breaker.call():
            answer = await self._call("ReserveSeat", request, messages.ReserveSeatResponse, wanted, until)
            _require(answer.status is messages.ReservationStatus.HOLD)
            seats = _seats if wanted.wish is None else _chosen
            return Taken(seats(answer.reserved_seats, wanted), _milliseconds(answer.hold_expires_at))

    async def commit(self, intent: Reservation, until: float) -> None:
        """Sells them. A refusal such as ReservationExpired is for good: they can never be sold to this reservation."""
        request = messages.CommitReservationRequest(
            reservation_id=intent.id,
            event_id=intent.event_id,
            seat_ids=list(intent.seat_ids),
            quantity=len(intent.seats),
            payment_intent_id=intent.payment_intent_id,
            user_id=intent.user_id,
        )
        with self._breaker.call():
            answer = await self._call("CommitReservation", request, messages.CommitReservationResponse, intent, until)
            _require(answer.status is messages.ReservationStatus.CONFIRMED)
            _require(answer.order_id == order_id_of(intent.id))
            _seats(answer.sold_seats, intent)

    async def release(self, ended: Reservation, until: float) -> tuple[str, ...]:
        """The ids of the seats that this has made free; a hold that was over before had none. Raises
        ReservationAlreadyConfirmed."""
        request = messages.ReleaseHoldRequest(
            reservation_id=ended.id, event_id=ended.event_id, seat_ids=list(ended.seat_ids), reason=ended.reason
        )
        try:
            with self._breaker.call():
                answer = await self._call("ReleaseHold", request, messages.ReleaseHoldResponse, ended, until)
                _require(answer.status.name in (Status.CANCELLED, Status.EXPIRED))
        except (errors.ReservationExpired, errors.ReservationNotFound, errors.ReservationAlreadyCancelled):
            return ()
        told = {seat.id for seat in answer.released_seats}
        return tuple(seat_id for seat_id in ended.seat_ids if seat_id in told)

    async def for_sale(self, taken: Reservation, until: float) -> tuple[str, ...]:
        """Which of its seats the other service would sell to somebody else."""
        request = messages.CheckAvailabilityRequest(event_id=taken.event_id, seat_ids=list(taken.seat_ids))
        with self._breaker.call():
            answer = await self._call("CheckAvailability", request, messages.CheckAvailabilityResponse, taken, until)
        told = {seat.id for seat in answer.available_seats}
        return tuple(seat_id for seat_id in taken.seat_ids if seat_id in told)

    async def _call(
        self, method: str, request: betterproto2.Message, answer: type[M], about: Reservation, until: float
    ) -> M:
        seconds = min(self._timeout, until - time.monotonic())
        if seconds <= 0:
            raise InventoryServiceError
        rpc = self._channel.unary_unary(f"/{_SERVICE}/{method}")
        sent_at = time.monotonic()
        try:
            raw = await rpc(bytes(request), timeout=seconds, metadata=self._metadata(about))
        except grpc.aio.AioRpcError as error:
            raise _told(error, method, about) from error
        finally:
            self._asked(_SERVICE, method, time.monotonic() - sent_at)
        try:
            return answer.parse(raw)
        except Exception as error:  # whatever betterproto2 makes of bytes that are no message
            raise InventoryServiceError from error

    def _metadata(self, about: Reservation) -> tuple[tuple[str, str], ...]:
        traceparent = about.saga.traceparent if about.saga is not None else ""
        token = self._token.metadata() if self._token is not None else ()
        return (("traceparent", traceparent), *token) if traceparent else token


def _require(sensible: bool) -> None:
    if not sensible:
        raise InventoryServiceError


def _seats(told: Sequence[messages.Seat], wanted: Reservation) -> tuple[Seat, ...]:
    """The seats in the order in which they are wanted. Raises InventoryServiceError if they are others, or no seats."""
    by_id = {seat.id: seat for seat in told}
    _require(len(told) == len(by_id) and by_id.keys() == set(wanted.seat_ids))
    return tuple(_seat(by_id[seat_id]) for seat_id in wanted.seat_ids)


def _chosen(told: Sequence[messages.Seat], wanted: Reservation) -> tuple[Seat, ...]:
    """The seats that fulfil its wish. Raises InventoryServiceError if they do not."""
    wish = wanted.wish
    _require(wish is not None and len({seat.id for seat in told}) == len(told) == wish.quantity)
    _require(all(wish is not None and wish.section in ("", seat.section) for seat in told))
    return tuple(_seat(seat) for seat in told)


def _seat(told: messages.Seat) -> Seat:
    price = told.price
    _require(all(isinstance(text, str) for text in (told.section, told.row, told.number)))
    if price is None or not isinstance(price.amount, int) or not isinstance(price.currency, str) or not price.currency:
        raise InventoryServiceError
    return Seat(told.id, told.section, told.row, told.number, Money(price.amount, price.currency))


def _milliseconds(told: object) -> int:
    if not isinstance(told, datetime):
        raise InventoryServiceError
    return (told - _EPOCH) // timedelta(milliseconds=1)


def _told(error: grpc.aio.AioRpcError, method: str, about: Reservation) -> ReservationError:
    """What the other service has refused and why, if it says so in our words."""
    details = _details(error)
    reason, facts = details.get("reason", ""), details.get("facts", {})
    if reason == errors.SeatUnavailable.code:
        told = facts.get("seat_ids", "").split(",")
        return errors.SeatUnavailable([seat_id for seat_id in about.seat_ids if seat_id in told] or about.seat_ids)
    if reason == errors.InvalidRequest.code:
        violations = details.get("violations", ())
        by_customer = {violation.field.partition("[")[0] for violation in violations} <= _FROM_CUSTOMERS
        return errors.InvalidRequest(violations) if method == "ReserveSeat" and by_customer else Rejected()
    kind = _REFUSALS.get(reason, InventoryServiceError)
    return kind()


def _details(error: grpc.aio.AioRpcError) -> Mapping[str, Any]:
    trailing = dict(error.trailing_metadata() or ())
    found: dict[str, Any] = {}
    try:
        status = status_pb2.Status.FromString(trailing.get("grpc-status-details-bin", b""))
        for packed in status.details:
            info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
            if packed.Unpack(info):
                found |= {"reason": info.reason, "facts": dict(info.metadata)}
            elif packed.Unpack(bad):
                found["violations"] = [FieldViolation(each.field, each.description) for each in bad.field_violations]
    except DecodeError:
        return {}
    return found
