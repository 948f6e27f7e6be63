"""The use cases that only look: counts, seat maps, and whether something could be had now. What they tell is at most
two seconds old and reserves nothing."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from cachetools import LRUCache

from reservation.domain.errors import FieldViolation, InvalidRequest
from reservation.domain.model import Seat, SeatStatus, Wish
from reservation.domain.seating import Count, Hall
from reservation.ports import Clock, SeatMaps

_EVENTS_COUNTED = 1_000


@dataclass(frozen=True, slots=True)
class SeatPage:
    """Seats in the order of the hall. `next`: where the page after this one starts; None: there is none. `as_of`: when
    their states were read, in milliseconds since the epoch."""

    seats: list[tuple[Seat, SeatStatus]]
    next: int | None
    as_of: int


@dataclass(frozen=True, slots=True)
class Prospect:
    """Whether seats could be had: which, which not, and how many are free in the section (or, if none was named, in the
    event)."""

    available: tuple[Seat, ...]
    unavailable: tuple[str, ...]
    remaining: int

    @property
    def all_available(self) -> bool:
        return bool(self.available) and not self.unavailable


class Availability:
    """Every method takes `until` in time.monotonic() seconds and raises EventNotFound, InvalidRequest (no such section)
    and ServiceUnavailable."""

    def __init__(self, seat_maps: SeatMaps, clock: Clock) -> None:
        self._seat_maps = seat_maps
        self._clock = clock
        self._counted: LRUCache[str, tuple[int, list[Count]]] = LRUCache(_EVENTS_COUNTED)

    async def counts(self, event_id: str, section: str, until: float) -> tuple[list[Count], int]:
        """By section (or of one), and when they were true, in milliseconds since the epoch."""
        hall, as_of = await self._hall(event_id, section, until)
        return self._counts(event_id, hall, as_of, section), as_of

    async def seats(self, event_id: str, section: str, start: int, limit: int, until: float) -> SeatPage:
        hall, as_of = await self._hall(event_id, section, until)
        seats, following = hall.seats(section, start, limit, now=self._clock.now())
        return SeatPage(seats, following, as_of)

    async def check(self, event_id: str, seat_ids: Sequence[str], wish: Wish, until: float) -> Prospect:
        """Of the seats that are named or, if none is, of those that would be chosen for the wish. Named ones are looked
        at themselves; also raises InvalidRequest for unknown ones."""
        hall, as_of = await self._hall(event_id, wish.section, until)
        remaining = sum(count.available for count in self._counts(event_id, hall, as_of, wish.section))
        if seat_ids:
            found = await self._seat_maps.look(event_id, seat_ids, until)
            available = tuple(seat for seat, status in found if status is SeatStatus.AVAILABLE)
            taken = tuple(seat.id for seat, status in found if status is not SeatStatus.AVAILABLE)
            return Prospect(available, taken, remaining)
        chosen = hall.choose(wish, now=self._clock.now(), stripe=(0, 1), prevent_orphans=False, random=random.random)
        return Prospect(tuple(seat for each in chosen if (seat := hall.seat(each))), (), remaining)

    async def _hall(self, event_id: str, section: str, until: float) -> tuple[Hall, int]:
        hall, as_of = await self._seat_maps.hall(event_id, until)
        if section and section not in hall.section_names:
            raise InvalidRequest([FieldViolation("section", "is not a section of this event")])
        return hall, as_of

    def _counts(self, event_id: str, hall: Hall, as_of: int, section: str) -> list[Count]:
        """Counted once for all who ask: of a large hall it takes some milliseconds."""
        counted = self._counted.get(event_id)
        if counted is None or counted[0] != as_of:
            counted = self._counted[event_id] = as_of, hall.counts(as_of)
        return [count for count in counted[1] if section in ("", count.name)]
