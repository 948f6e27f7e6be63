"""What callers ask for. `content` is what makes two requests under one idempotency key equal: named parts, so that a
field which comes later leaves the fingerprints of requests without it as they are."""

from dataclasses import dataclass

from reservation.domain.model import Metadata, Status


@dataclass(frozen=True, slots=True)
class Wish:
    """Seats whose choice is left to the service. `section`: empty for any. `allow_split`: they need not be adjacent.
    `accessible`: one of them must be."""

    quantity: int
    section: str = ""
    allow_split: bool = False
    accessible: bool = False

    @property
    def content(self) -> tuple[str, ...]:
        flags = [name for name, set_ in (("split", self.allow_split), ("accessible", self.accessible)) if set_]
        return ("quantity", str(self.quantity), "section", self.section, *flags)


@dataclass(frozen=True, slots=True)
class Create:
    """Hold these seats, or those that fulfil the wish. `idempotency_key` and `reservation_token` may be empty."""

    event_id: str
    seat_ids: tuple[str, ...]
    user_id: str
    reservation_token: str = ""
    idempotency_key: str = ""
    metadata: Metadata | None = None
    traceparent: str = ""
    wish: Wish | None = None

    @property
    def content(self) -> tuple[str, ...]:
        wished = self.wish.content if self.wish is not None else ()
        return ("event", self.event_id, "token", self.reservation_token, "seats", *sorted(self.seat_ids), *wished)


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


@dataclass(frozen=True, slots=True)
class Extend:
    """Let a hold end so many seconds later. `owner` as in Confirm."""

    reservation_id: str
    seconds: int
    reason: str
    owner: str | None
    idempotency_key: str = ""
    traceparent: str = ""

    @property
    def content(self) -> tuple[str, ...]:
        return ("reservation", self.reservation_id, "seconds", str(self.seconds), "reason", self.reason)


@dataclass(frozen=True, slots=True)
class Listing:
    """A page of one user's reservations, newest first: only those of the event, and in the status, that it names.

    `size`: how many are looked at; those that are filtered out leave the page shorter. `begin`: the `next` of the page
    before (see ports.Page), empty for the first one.
    """

    user_id: str
    event_id: str = ""
    status: Status | None = None
    size: int = 20
    begin: str = ""
