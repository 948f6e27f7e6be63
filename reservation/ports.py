"""What the use cases need from the outside. Times are milliseconds since the epoch; `until` is in time.monotonic()
seconds: after it nothing new is begun, while what was sent is still awaited."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from reservation.domain.commands import Listing, Wish
from reservation.domain.idempotency import Key, Record
from reservation.domain.model import Event, Reservation, Seat, SeatStatus
from reservation.domain.seating import Hall


@dataclass(frozen=True, slots=True)
class Recorded:
    """A command that took effect: the reservation as it left it. `replayed`: an earlier equal request's effect."""

    reservation: Reservation
    replayed: bool = False


class Superseded(Exception):
    """Another command changed the reservation between the read and the write. Nothing was written."""

    def __init__(self, current: Reservation) -> None:
        super().__init__(current.id)
        self.current = current


class StaleFacts(Exception):
    """A seat's price is no longer what was read. Nothing was written; read the facts again."""


@dataclass(frozen=True, slots=True)
class DuePage:
    """Holds in the order in which they end. `unreadable`: ids of items that no code of this version understands.
    `next`: where the next page begins; None: this was the last."""

    holds: tuple[Reservation, ...]
    unreadable: tuple[str, ...]
    next: object | None


@dataclass(frozen=True, slots=True)
class Page:
    """Some of a user's reservations, newest first. `next`: where the next page begins (any text is somewhere to begin);
    empty: this was the last one."""

    reservations: tuple[Reservation, ...]
    next: str


class Clock(Protocol):
    """This process's wall clock."""

    def now(self) -> int: ...

    def trusted(self) -> bool:
        """Whether it may decide about time at all."""
        ...


class Inventory(Protocol):
    """Static facts of what is on sale. They supply values; the store's conditions re-assert each one that is used."""

    async def facts(self, event_id: str, seat_ids: Sequence[str], until: float) -> tuple[Event, tuple[Seat, ...]]:
        """The event and the seats in the order asked for.

        Raises EventNotFound, InvalidRequest (unknown seats, all of them), ServiceUnavailable.
        """
        ...

    def choice(self, event: Event, wish: Wish, until: float) -> AbstractAsyncContextManager[tuple[str, ...]]:
        """Seats that fulfil the wish and look free, nobody else's choice in this process inside the block.

        Entering raises InvalidRequest (no such section), SeatUnavailable (naming none) and ServiceUnavailable.
        """
        ...

    async def look(self, event_id: str, seat_ids: Sequence[str], until: float) -> list[tuple[Seat, SeatStatus]]:
        """What these seats are at this moment. Raises like facts()."""
        ...

    async def hall(self, event_id: str, until: float) -> tuple[Hall, int]:
        """How the event's seats stand and which look free, at most 2 seconds ago, and when that was.

        Raises EventNotFound, ServiceUnavailable.
        """
        ...


class ReservationStore(Protocol):
    """Reservations with their seats, orders, idempotency records and outbox rows: all of a command or nothing.

    Every method raises ServiceUnavailable when nothing was written, and the writing ones UpstreamTimeout when that is
    not known.
    """

    async def find(self, reservation_id: str, until: float) -> Reservation | None:
        """Strongly consistent."""
        ...

    async def page(self, wanted: Listing, until: float) -> Page:
        """Which reservations there are is known a moment late; what has become of them is read strongly consistent. The
        status is left to the caller: what a hold's is depends on the time."""
        ...

    async def newer(self, known: Sequence[Reservation], until: float) -> Sequence[Reservation]:
        """Those of them, 100 at most, that have a newer version by now, by one cheap read: it may be a moment out of
        date, and may leave some out, which a later one will find."""
        ...

    async def recall(self, key: Key, until: float) -> Record | None:
        """The live record of a key, strongly consistent."""
        ...

    async def hold(
        self, draft: Reservation, key: Key | None, traceparent: str, until: float, *, max_holds: int | None = None
    ) -> Recorded:
        """Takes the draft's seats, all or none, and records the reservation. `max_holds` (1 to 20): how many live holds
        of the event its user may have, this one included; None: any number.

        Raises SeatUnavailable, HoldLimitReached, IdempotencyConflict, IdempotencyInProgress, StaleFacts.
        """
        ...

    async def advance(
        self, before: Reservation, after: Reservation, key: Key | None, traceparent: str, until: float
    ) -> Recorded:
        """Replaces a held reservation by its next version (confirmed, cancelled, or a hold that ends later) and moves
        its seats with it.

        Raises ReservationExpired (a seat is not its own any more), HoldExtensionDenied (another hold has taken its
        place among those that its user may have), Superseded (also by time: then `current` is as before, and past),
        IdempotencyConflict, IdempotencyInProgress.
        """
        ...

    async def due(self, shard: str, before: int, page: object | None, until: float) -> DuePage:
        """Holds of a shard that end before a time (milliseconds), by an index that may be a moment out of date. `page`:
        a DuePage's `next`, None for the first."""
        ...

    async def settle(self, before: Reservation, after: Reservation, until: float) -> None:
        """Records that a hold has run out, and frees those of its seats that it still holds; others have been taken
        over since, and stay their holders'.

        Raises Superseded (it was confirmed, cancelled, extended or settled meanwhile, or its time has not come).
        """
        ...
