"""Who watches which reservation, and what each is still to be told. It keeps the books: nothing here waits or reads."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from reservation.domain.errors import RateLimitExceeded, ReservationError, ServiceUnavailable
from reservation.domain.model import Reservation

PER_PROCESS, PER_USER = 5_000, 5
REPEAT_SECONDS = 15.0
"""No stream is silent for longer, so that a silent one can be known for dead."""

News = Reservation | type[ReservationError]
"""A version of the reservation, or why there will be no other."""


@dataclass(eq=False, slots=True)
class Watcher:
    """One stream. `news`: what it is still to be told, in order. `told_at`: when the last of it came, in monotonic
    seconds."""

    news: asyncio.Queue[News] = field(default_factory=asyncio.Queue)
    told_at: float = 0.0


@dataclass(eq=False, slots=True)
class Watched:
    """One reservation. `latest`: the youngest version that was heard of; None: the first read is still under way.
    `streams` counts its watchers, and those who will be when their first read has come back."""

    id: str
    latest: Reservation | None = None
    watchers: set[Watcher] = field(default_factory=set)
    streams: int = 0


class Audience:
    """Everybody who watches anything, on this process."""

    def __init__(
        self,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        per_process: int = PER_PROCESS,
        per_user: int = PER_USER,
    ) -> None:
        self._monotonic = monotonic
        self._per_process = per_process
        self._per_user = per_user
        self._watched: dict[str, Watched] = {}
        self._streams = 0
        self._of_user: Counter[str] = Counter()
        self._closed = False

    def __len__(self) -> int:
        """How many streams there are."""
        return self._streams

    @contextmanager
    def admitted(self, reservation_id: str) -> Iterator[Watched]:
        """Inside, the reservation is listened to. Raises RateLimitExceeded, or ServiceUnavailable after close()."""
        self._require_open()
        if self._streams >= self._per_process:
            raise RateLimitExceeded
        watched = self._watched.setdefault(reservation_id, Watched(reservation_id))
        self._streams += 1
        watched.streams += 1
        try:
            yield watched
        finally:
            self._streams -= 1
            watched.streams -= 1
            if not watched.streams:
                del self._watched[reservation_id]

    @contextmanager
    def seated(self, watched: Watched, found: Reservation) -> Iterator[Watcher]:
        """One more watcher inside. `found`: what a consistent read since its admission has found; the first news is
        that, or what is younger by now. Raises like admitted(), here for the limit of the reservation's user."""
        self._require_open()
        if self._of_user[found.user_id] >= self._per_user:
            raise RateLimitExceeded
        self._hear(watched, found)
        watcher = Watcher()
        self._tell(watcher, watched.latest or found)
        watched.watchers.add(watcher)
        self._of_user[found.user_id] += 1
        try:
            yield watcher
        finally:
            watched.watchers.remove(watcher)
            self._of_user[found.user_id] -= 1
            if not self._of_user[found.user_id]:
                del self._of_user[found.user_id]

    def notice(self, reservation: Reservation) -> None:
        """A version of a reservation, from wherever it was heard of: whoever watches it is told, unless it is old."""
        if (watched := self._watched.get(reservation.id)) is not None:
            self._hear(watched, reservation)

    def end(self, reservation_id: str, reason: type[ReservationError]) -> None:
        """There is nothing more to be told of this reservation."""
        if (watched := self._watched.get(reservation_id)) is not None:
            for watcher in watched.watchers:
                self._tell(watcher, reason)

    def close(self) -> None:
        """Ends every stream, and begins none from now on."""
        self._closed = True
        for reservation_id in self._watched:
            self.end(reservation_id, ServiceUnavailable)

    def changeable(self) -> list[Reservation]:
        """The youngest known versions of what is watched and may change."""
        return [each.latest for each in self._watched.values() if each.latest is not None and not each.latest.is_final]

    def repeat(self, within: float) -> None:
        """Tells the state again to whoever would hear nothing for too long, if the next call comes `within` seconds."""
        overdue = self._monotonic() + within - REPEAT_SECONDS
        for watched in self._watched.values():
            for watcher in watched.watchers:
                if watched.latest is not None and watcher.told_at < overdue and watcher.news.empty():
                    self._tell(watcher, watched.latest)

    def _hear(self, watched: Watched, reservation: Reservation) -> None:
        if watched.latest is None or _age(reservation) > _age(watched.latest):
            watched.latest = reservation
            for watcher in watched.watchers:
                self._tell(watcher, reservation)

    def _tell(self, watcher: Watcher, news: News) -> None:
        watcher.news.put_nowait(news)
        watcher.told_at = self._monotonic()

    def _require_open(self) -> None:
        if self._closed:
            raise ServiceUnavailable


def _age(reservation: Reservation) -> tuple[int, bool]:
    """What a hold reads once its time is over has the version of the hold, and comes after it."""
    return reservation.version, reservation.is_final
