"""What the use cases need from the outside. Times are milliseconds since the epoch; `until` is in time.monotonic()
seconds: after it nothing new is begun, while what was sent is still awaited."""

from collections.abc import Container, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

from reservation.domain.commands import Listing
from reservation.domain.idempotency import Key, Record, Running
from reservation.domain.model import Event, Reservation, Seat, SeatStatus, Wish
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
        """Seats that fulfil the wish and look free, nobody else's choice in this process inside the block; none if the
        choice is made elsewhere, by whoever holds the seats.

        Entering raises InvalidRequest (no such section), SeatUnavailable (naming none) and ServiceUnavailable.
        """
        ...


class SeatMaps(Protocol):
    """What the seats of an inventory look like."""

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

    async def recall(self, key: Key, until: float) -> Record | Running | None:
        """The live record of a key, strongly consistent."""
        ...

    async def hold(
        self, draft: Reservation, key: Key | None, traceparent: str, until: float, *, max_holds: int | None = None
    ) -> Recorded:
        """Takes the draft's seats, all or none, and records the reservation. `max_holds` (1 to 20): how many live holds
        of the event its user may have, this one included; None: any number.

        Raises SeatUnavailable, HoldLimitReached, IdempotencyConflict, IdempotencyInProgress, StaleFacts, and for a
        foreign draft Superseded: a hold of its id is there.
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

    async def due(
        self, shard: str, before: int, page: object | None, until: float, *, besides: Container[str] = ()
    ) -> DuePage:
        """Holds of a shard that end before a time (milliseconds), by an index that may be a moment out of date. `page`:
        a DuePage's `next`, None for the first. Those whose ids are in `besides` are not read."""
        ...

    async def settle(self, before: Reservation, after: Reservation, until: float) -> None:
        """Records that a hold has run out, and frees those of its seats that it still holds; others have been taken
        over since, and stay their holders'.

        Raises Superseded (it was confirmed, cancelled, extended or settled meanwhile, or its time has not come).
        """
        ...


class Known(Exception):
    """The idempotency key has a record already. Nothing was written."""

    def __init__(self, record: Record | Running) -> None:
        super().__init__(record.key.id)
        self.record = record


class Mark(Enum):
    """What a step of a saga does to the record of its key."""

    OPEN = auto()
    """New: the saga runs. Raises Known if there is a record."""
    ANSWER = auto()
    """New: the reservation as the step leaves it is the answer. Raises Known if there is a record."""
    CLOSE = auto()
    """The same, for the record that the saga has opened; if that is the saga's no more it is left alone."""
    FORGET = auto()
    """The record that the saga has opened is deleted; if it is the saga's no more it is left alone."""


@dataclass(frozen=True, slots=True)
class Step:
    """One write of a saga: `before`, as some writer left it (None: there was nothing), becomes `after`. An event tells
    of it if it makes a new version, and a sale has its order. `released` as in events.detail."""

    before: Reservation | None
    after: Reservation
    key: Key | None = None
    mark: Mark = Mark.ANSWER
    traceparent: str = ""
    released: tuple[str, ...] = ()


class SagaRecords(Protocol):
    """The own side of sales from a remote inventory: reservations, orders, idempotency records and outbox rows, all of
    a step or nothing; no seats. Errors as in ReservationStore."""

    async def find(self, reservation_id: str, until: float) -> Reservation | None:
        """See ReservationStore."""
        ...

    async def recall(self, key: Key, until: float) -> Record | Running | None:
        """See ReservationStore."""
        ...

    async def page(self, wanted: Listing, until: float) -> Page:
        """See ReservationStore."""
        ...

    async def newer(self, known: Sequence[Reservation], until: float) -> Sequence[Reservation]:
        """See ReservationStore."""
        ...

    async def due(
        self, shard: str, before: int, page: object | None, until: float, *, besides: Container[str] = ()
    ) -> DuePage:
        """See ReservationStore."""
        ...

    async def unfinished(self, shard: str, page: object | None, until: float) -> DuePage:
        """The reservations of a shard that a saga is under way with, by an index that may be a moment out of date."""
        ...

    async def write(self, step: Step, until: float) -> None:
        """Raises Superseded (`before` is what it is no more), Known, IdempotencyInProgress."""
        ...


class Sagas(Protocol):
    """Sagas whose process may have died."""

    async def unfinished(self, shard: str, page: object | None, until: float) -> DuePage:
        """See SagaRecords."""
        ...

    async def finish(self, stuck: Reservation, until: float) -> None:
        """Brings one that nobody works on any more to its end. Does nothing if somebody does.

        Raises InventoryServiceError, UpstreamTimeout and ServiceUnavailable: it is not at its end yet.
        """
        ...
