"""Reservations, seats and what may become of them. Times are milliseconds since the epoch; `now` always comes in."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from reservation.domain.errors import (
    HoldExtensionDenied,
    ReservationAlreadyCancelled,
    ReservationAlreadyConfirmed,
    ReservationExpired,
    ReservationNotFound,
)


class Status(StrEnum):
    """Names as in the protocol's ReservationStatus."""

    PENDING = "PENDING"
    HOLD = "HOLD"
    CONFIRMED = "CONFIRMED"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"
    FAILED = "FAILED"
    REFUNDED = "REFUNDED"


class SeatStatus(StrEnum):
    """Names as in the protocol's Seat.Status."""

    AVAILABLE = "AVAILABLE"
    HELD = "HELD"
    SOLD = "SOLD"
    BLOCKED = "BLOCKED"


@dataclass(frozen=True, slots=True)
class Money:
    """An amount in the smallest unit of an ISO 4217 currency."""

    amount: int
    currency: str


class SectionKind(StrEnum):
    """Names as in the protocol's GetInventoryStatusResponse.Section.Kind."""

    NUMBERED = "NUMBERED"
    GENERAL_ADMISSION = "GENERAL_ADMISSION"


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a seat's hint is: the number of a block within the event, and a position within the block."""

    block: int
    position: int


@dataclass(frozen=True, slots=True)
class Seat:
    """The static facts of a seat, or of one place of a general-admission section (without row and number). Within a
    reservation `price` is the price at which it was held."""

    id: str
    section: str
    row: str
    number: str
    price: Money
    accessible: bool = False
    spot: Spot | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """The static facts of an event. A limit that is None is as the service's settings say. The sale's start and end, in
    milliseconds since the epoch, are None where there is none."""

    id: str
    name: str = ""
    hold_seconds: int | None = None
    max_seats: int | None = None
    max_holds_per_user: int | None = None
    prevent_orphans: bool = True
    sale_starts_at: int | None = None
    sale_ends_at: int | None = None

    def on_sale(self, now: int) -> bool:
        starts, ends = self.sale_starts_at, self.sale_ends_at
        return (starts is None or starts <= now) and (ends is None or now < ends)


@dataclass(frozen=True, slots=True)
class Metadata:
    """Where a request came from. Kept for people to read; decides nothing."""

    source: str = ""
    user_agent: str = ""
    ip_address: str = ""
    session_id: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reservation:
    """One reservation at one version.

    `op_id` names the command that wrote this version: a writer whose own op id is found here has succeeded, whatever
    its connection said. `extended_by` are the commands that have extended the hold: unlike all others, an extension may
    be followed by another command, and its writer must recognise it still. `reason`: the last one given, for a cancel
    or an extension. `shard` fixes the partition of its outbox rows and of its entry in the due index. `slot` is which
    of the live holds that its user may have of the event it takes (None: they are not limited).
    """

    id: str
    event_id: str
    user_id: str
    status: Status
    seats: tuple[Seat, ...]
    created_at: int
    updated_at: int
    hold_expires_at: int
    version: int
    op_id: str
    shard: str
    reservation_token: str = ""
    payment_intent_id: str = ""
    order_id: str = ""
    reason: str = ""
    metadata: Metadata | None = None
    slot: int | None = None
    extended_by: tuple[str, ...] = ()

    @property
    def seat_ids(self) -> tuple[str, ...]:
        return tuple(seat.id for seat in self.seats)

    @property
    def total(self) -> Money | None:
        return total_of(self.seats)

    @property
    def seat_status(self) -> SeatStatus | None:
        """What this reservation's seats are because of it; None once it has no claim to them."""
        return _SEAT_STATUS.get(self.status)

    @property
    def is_final(self) -> bool:
        """Nothing that its user waits for is still to come."""
        return self.status not in (Status.PENDING, Status.HOLD)


_SEAT_STATUS = {Status.HOLD: SeatStatus.HELD, Status.CONFIRMED: SeatStatus.SOLD}


def total_of(seats: Iterable[Seat]) -> Money | None:
    """The sum of the prices, None without seats. All seats of an event have one currency (checked at import)."""
    prices = [seat.price for seat in seats]
    return Money(sum(price.amount for price in prices), prices[0].currency) if prices else None


def order_id_of(reservation_id: str) -> str:
    """Derived, so that two confirms of one reservation can never make two orders."""
    return "ord_" + reservation_id.removeprefix("rsv_")


def confirm(held: Reservation, *, payment_intent_id: str, now: int, op_id: str) -> Reservation | None:
    """The reservation after a confirm; None if this very payment has confirmed it already.

    Raises ReservationExpired (also for a payment that comes one millisecond late), ReservationAlreadyConfirmed (by
    another payment), ReservationAlreadyCancelled, ReservationNotFound (PENDING: nobody was told of it yet).
    """
    if held.status is Status.CONFIRMED and held.payment_intent_id == payment_intent_id:
        return None
    _require_live_hold(held, now)
    return _next_version(
        held,
        now,
        op_id=op_id,
        status=Status.CONFIRMED,
        payment_intent_id=payment_intent_id,
        order_id=order_id_of(held.id),
    )


def cancel(held: Reservation, *, reason: str, now: int, op_id: str) -> Reservation | None:
    """The reservation after a cancel; None if it is cancelled already. Raises like confirm()."""
    if held.status is Status.CANCELLED:
        return None
    _require_live_hold(held, now)
    return _next_version(held, now, op_id=op_id, status=Status.CANCELLED, reason=reason)


def extend(
    held: Reservation, *, extension_ms: int, reason: str, now: int, op_id: str, max_extensions: int, max_total: int
) -> Reservation | None:
    """The reservation with a hold that ends `extension_ms` (positive) later; None if this very command has extended it
    already. `max_total`: what a hold may last from its creation, in milliseconds.

    Raises HoldExtensionDenied (too often, or too long in all), and like confirm().
    """
    if op_id in held.extended_by:
        return None
    _require_live_hold(held, now)
    extensions_left = max(0, max_extensions - len(held.extended_by))
    time_left = max(0, held.created_at + max_total - held.hold_expires_at)
    if not extensions_left or extension_ms > time_left:
        raise HoldExtensionDenied(extensions_left=extensions_left, seconds_left=time_left // 1000)
    return _next_version(
        held,
        now,
        op_id=op_id,
        hold_expires_at=held.hold_expires_at + extension_ms,
        extended_by=(*held.extended_by, op_id),
        reason=reason,
    )


def expire(held: Reservation, *, now: int, op_id: str) -> Reservation | None:
    """The reservation after its hold has run out; None if it is no hold (any more), or its time has not come."""
    if held.status is not Status.HOLD or now < held.hold_expires_at:
        return None
    return _next_version(held, now, op_id=op_id, status=Status.EXPIRED)


def as_seen(stored: Reservation, *, now: int, max_clock_skew: int) -> Reservation:
    """What a reader is told: a hold nobody settled is EXPIRED once it is past its time by more than the clocks of two
    processes may differ. Until then another process may still confirm it, and EXPIRED must stay true once said."""
    if stored.status is Status.HOLD and now > stored.hold_expires_at + max_clock_skew:
        return replace(stored, status=Status.EXPIRED)
    return stored


def _require_live_hold(reservation: Reservation, now: int) -> None:
    match reservation.status:
        case Status.HOLD if now < reservation.hold_expires_at:
            return
        case Status.HOLD | Status.EXPIRED | Status.FAILED:
            raise ReservationExpired
        case Status.CONFIRMED | Status.REFUNDED:
            raise ReservationAlreadyConfirmed
        case Status.CANCELLED:
            raise ReservationAlreadyCancelled
        case Status.PENDING:
            raise ReservationNotFound


def _next_version(before: Reservation, now: int, **changes: object) -> Reservation:
    # Never earlier than the version before, whatever this process's clock says: events are ordered by this time.
    return replace(
        before,
        updated_at=max(now, before.updated_at + 1),
        version=before.version + 1,
        **changes,  # type: ignore[arg-type]
    )
