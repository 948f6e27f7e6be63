"""What can be refused, and why. One class a reason; facts are attributes, texts are for callers and carry no ids.

The gateway in front of this service sorts failures by words in their text ("not found", "conflict", "bad request",
"timeout"), so those words are part of the contract.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True)
class FieldViolation:
    """One thing that is wrong with one request field (its name as in the proto file)."""

    field: str
    description: str


class ReservationError(Exception):
    """Base of every refusal that a caller is told about."""

    code = "INTERNAL_ERROR"
    text = "Internal server error"

    def __init__(self) -> None:
        super().__init__(self.text)


class InvalidRequest(ReservationError):
    """The request can never succeed as it is. Carries every violation, not just the first."""

    code = "INVALID_REQUEST"

    def __init__(self, violations: Sequence[FieldViolation]) -> None:
        self.violations = tuple(violations)
        self.text = "bad request: " + "; ".join(f"{each.field} {each.description}".strip() for each in violations)
        super().__init__()


class MissingIdempotencyKey(ReservationError):
    code = "MISSING_IDEMPOTENCY_KEY"
    text = "bad request: the Idempotency-Key header is required"


class Unauthenticated(ReservationError):
    """Who calls is not known. `challenge`: what an HTTP caller is asked for
    (https://www.rfc-editor.org/rfc/rfc6750#section-3)."""

    code = "UNAUTHENTICATED"

    def __init__(self, text: str, challenge: str) -> None:
        self.text = text
        self.challenge = challenge
        super().__init__()

    @classmethod
    def missing(cls) -> Self:
        return cls("Unauthenticated: a bearer token is required", "Bearer")

    @classmethod
    def invalid(cls) -> Self:
        """Why is nobody's business: the words would help who makes tokens up."""
        return cls("Unauthenticated: the token is not valid", 'Bearer error="invalid_token"')

    @classmethod
    def expired(cls) -> Self:
        return cls("Unauthenticated: the token has expired", 'Bearer error="invalid_token"')


class Forbidden(ReservationError):
    """Not for callers of this kind, whoever they are."""

    code = "FORBIDDEN"
    text = "Forbidden"


class EventNotFound(ReservationError):
    code = "EVENT_NOT_FOUND"
    text = "Event not found"


class ReservationNotFound(ReservationError):
    """No such reservation, or one of another user: the two are told apart to nobody."""

    code = "RESERVATION_NOT_FOUND"
    text = "Reservation not found"


class SeatUnavailable(ReservationError):
    """At least one requested seat was not free at some instant of the call (or up to 250 ms before it)."""

    code = "SEAT_UNAVAILABLE"
    text = "Seat conflict: requested seats are not available"

    def __init__(self, seat_ids: Sequence[str]) -> None:
        self.seat_ids = tuple(seat_ids)
        super().__init__()


class SaleNotOpen(ReservationError):
    """The event's sale has not begun, or is over."""

    code = "SALE_NOT_OPEN"
    text = "Sale conflict: the event is not on sale now"


class HoldLimitReached(ReservationError):
    """The user has as many live holds of this event as one user may have."""

    code = "HOLD_LIMIT_REACHED"
    text = "Hold conflict: too many live holds of this event"


class HoldExtensionDenied(ReservationError):
    """The hold cannot be extended (so far); its deadline stays what it was. Carries how often, and by how many whole
    seconds in all, it may still be."""

    code = "HOLD_EXTENSION_DENIED"
    text = "Hold conflict: the hold cannot be extended so often or so far"

    def __init__(self, *, extensions_left: int, seconds_left: int) -> None:
        self.extensions_left = extensions_left
        self.seconds_left = seconds_left
        super().__init__()


class ReservationExpired(ReservationError):
    """The hold is past its time. To a payment service this refusal is the signal to refund."""

    code = "RESERVATION_EXPIRED"
    text = "Reservation conflict: the hold has expired"


class ReservationAlreadyConfirmed(ReservationError):
    code = "RESERVATION_ALREADY_CONFIRMED"
    text = "Reservation conflict: already confirmed"


class ReservationAlreadyCancelled(ReservationError):
    code = "RESERVATION_ALREADY_CANCELLED"
    text = "Reservation conflict: already cancelled"


class IdempotencyConflict(ReservationError):
    """The same key came before with other content."""

    code = "IDEMPOTENCY_CONFLICT"
    text = "Idempotency conflict: this key was used with other content"


class IdempotencyInProgress(ReservationError):
    """An equal request was still being decided when the caller's time was up."""

    code = "IDEMPOTENCY_IN_PROGRESS"
    text = "Idempotency conflict: an equal request is in progress, retry with the same key"


class RateLimitExceeded(ReservationError):
    """More than this process, or this user, may ask for at a time. `retry_after` in seconds."""

    code = "RATE_LIMIT_EXCEEDED"
    text = "Too many requests, retry later"

    def __init__(self, retry_after: float = 1.0) -> None:
        self.retry_after = retry_after
        super().__init__()


class InventoryServiceError(ReservationError):
    """The remote inventory failed, or says what cannot be. The command had no effect that stays."""

    code = "INVENTORY_SERVICE_ERROR"
    text = "Inventory service unavailable, retry"


class UpstreamTimeout(ReservationError):
    """Whether the command took effect is not known; the same key finds out."""

    code = "UPSTREAM_TIMEOUT"
    text = "timeout: the outcome is unknown, retry with the same key"


class ServiceUnavailable(ReservationError):
    """The command had no effect: the store refused or could not be reached in time."""

    code = "SERVICE_UNAVAILABLE"
    text = "Service temporarily unavailable, retry"


class NotImplementedYet(ReservationError):
    code = "NOT_IMPLEMENTED"
    text = "Not implemented"
