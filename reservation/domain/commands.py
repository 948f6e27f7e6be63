"""What callers ask for. `content` is what makes two requests under one idempotency key equal: named parts, so that a
field which comes later leaves the fingerprints of requests without it as they are."""

from collections.abc import Sequence
from dataclasses import dataclass

from reservation.domain.model import Metadata, Reservation, Status, Wish


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


@dataclass(frozen=True, slots=True)
class Reserve:
    """Hold these seats, or those that fulfil the wish, for another service's reservation. `hold_expires_at` in
    milliseconds; None: as holds of this service end. Again with a later end it extends the hold."""

    reservation_id: str
    event_id: str
    seat_ids: tuple[str, ...]
    user_id: str
    hold_expires_at: int | None = None
    wish: Wish | None = None

    def asks_for(self, held: Reservation) -> bool:
        """Whether that is the hold which this command wants, whenever it ends."""
        if self.wish is None or not held.seats or held.event_id != self.event_id:
            return _is_of(held, self.event_id, self.seat_ids)
        sections = {seat.section for seat in held.seats}
        return self.wish.quantity == len(held.seats) and (not self.wish.section or sections == {self.wish.section})


@dataclass(frozen=True, slots=True)
class Commit:
    """Sell the seats that are held for another service's reservation. `seat_ids` and `quantity` may be empty: they are
    compared with the hold and decide nothing."""

    reservation_id: str
    event_id: str
    seat_ids: tuple[str, ...]
    quantity: int
    payment_intent_id: str


@dataclass(frozen=True, slots=True)
class Release:
    """Return the seats that are held for another service's reservation. `seat_ids` and `quantity` as in Commit."""

    reservation_id: str
    event_id: str
    seat_ids: tuple[str, ...]
    quantity: int
    reason: str


def is_about(command: Commit | Release, held: Reservation) -> bool:
    """Whether that is the hold which the caller has in mind."""
    seat_ids = command.seat_ids or held.seat_ids
    return _is_of(held, command.event_id, seat_ids) and (not held.seats or command.quantity in (0, len(held.seats)))


def _is_of(held: Reservation, event_id: str, seat_ids: Sequence[str]) -> bool:
    """A hold without seats was released before it was made: it stands for whatever it would have been."""
    return held.event_id == event_id and (not held.seats or sorted(seat_ids) == sorted(held.seat_ids))
