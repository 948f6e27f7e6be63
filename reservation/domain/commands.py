"""What callers ask for. `content` is what makes two requests under one idempotency key equal: named parts, so that a
field which comes later leaves the fingerprints of requests without it as they are."""

from dataclasses import dataclass

from reservation.domain.model import Metadata


@dataclass(frozen=True, slots=True)
class Create:
    """Hold these seats. `idempotency_key` and `reservation_token` may be empty."""

    event_id: str
    seat_ids: tuple[str, ...]
    user_id: str
    reservation_token: str = ""
    idempotency_key: str = ""
    metadata: Metadata | None = None
    traceparent: str = ""

    @property
    def content(self) -> tuple[str, ...]:
        return ("event", self.event_id, "token", self.reservation_token, "seats", *sorted(self.seat_ids))


@dataclass(frozen=True, slots=True)
class Confirm:
    """Sell a held reservation's seats. `owner`: whose it must be; None: the caller acts for everybody."""

    reservation_id: str
    payment_intent_id: str
    owner: str | None
    idempotency_key: str = ""
    traceparent: str = ""

    @property
    def content(self) -> tuple[str, ...]:
        return ("reservation", self.reservation_id, "payment", self.payment_intent_id)


@dataclass(frozen=True, slots=True)
class Cancel:
    """Return a held reservation's seats. `owner` as in Confirm."""

    reservation_id: str
    reason: str
    owner: str | None
    idempotency_key: str = ""
    traceparent: str = ""

    @property
    def content(self) -> tuple[str, ...]:
        return ("reservation", self.reservation_id, "reason", self.reason)
