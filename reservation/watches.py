"""The use case of watching: a reservation now, and after every change, until its final state.

Changes made by this process are told by the store at once. For those of others everything that is watched is looked at
once a second, a hundred reservations by one cheap read. A hold that nobody settles is known to have ended by a timer.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager

import structlog

from reservation.audience import Audience, Watched
from reservation.domain.errors import ReservationNotFound
from reservation.domain.model import Reservation, Status
from reservation.ports import Clock
from reservation.service import Reservations

log = structlog.get_logger()

LOOK_EVERY_SECONDS = 1.0
_BATCH = 100
_TRY_SECONDS = 1.0
_CLOSE_LOOKS_AT_ONCE = 16  # holds that were made together end together


class Watches:
    """`max_clock_skew` in milliseconds: so long after its time a hold that nobody settled reads EXPIRED.

    `audience` must be told of what this process changes.
    """

    def __init__(
        self,
        reservations: Reservations,
        audience: Audience,
        clock: Clock,
        *,
        max_clock_skew: int,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reservations = reservations
        self._audience = audience
        self._clock = clock
        self._max_clock_skew = max_clock_skew
        self._sleep = sleep
        self._monotonic = monotonic
        self._slots = asyncio.Semaphore(_CLOSE_LOOKS_AT_ONCE)
        self._timers: dict[str, asyncio.Task[None]] = {}

    async def watch(self, reservation_id: str, owner: str | None, until: float) -> AsyncGenerator[Reservation]:
        """First the reservation as it is, then each change, never an older version after a younger one; the state again
        when there is none for 15 seconds. Ends after a final state. `owner` and `until` are those of Reservations.get,
        for the first read. Whoever does not iterate to the end must close it.

        Raises ReservationNotFound, RateLimitExceeded, ServiceUnavailable (no first read, or this process stops).
        """
        with self._audience.admitted(reservation_id) as watched:
            found = await self._reservations.get(reservation_id, owner, until)
            with self._timed(watched), self._audience.seated(watched, found) as watcher:
                while True:
                    news = await watcher.news.get()
                    if not isinstance(news, Reservation):
                        raise news
                    yield news
                    if news.is_final:
                        return

    async def run(self) -> None:
        """Looks about once a second until cancelled."""
        while True:
            started = self._monotonic()
            await self.look()
            await self._sleep(max(0.0, LOOK_EVERY_SECONDS - (self._monotonic() - started)))

    async def look(self) -> None:
        """One bounded pass over all that is watched. Errors are told in the log; the next pass looks again."""
        self._audience.repeat(within=LOOK_EVERY_SECONDS)
        known = self._audience.changeable()
        await asyncio.gather(*(self._look_at(known[at : at + _BATCH]) for at in range(0, len(known), _BATCH)))

    async def _look_at(self, known: Sequence[Reservation]) -> None:
        try:
            for reservation in await self._reservations.newer(known, self._monotonic() + _TRY_SECONDS):
                self._audience.notice(reservation)
        except Exception as error:
            log.warning("watch.look_failed", watched=len(known), error=repr(error))

    @contextmanager
    def _timed(self, watched: Watched) -> Iterator[None]:
        """A timer for the end of the hold, which all who watch it share."""
        if watched.id not in self._timers:
            self._timers[watched.id] = asyncio.create_task(self._wait_for_end(watched), name=f"watch {watched.id}")
        try:
            yield
        finally:
            if not watched.watchers:
                self._timers.pop(watched.id).cancel()

    async def _wait_for_end(self, watched: Watched) -> None:
        while (latest := watched.latest) is not None and not latest.is_final:
            early = latest.hold_expires_at + self._max_clock_skew + 1 - self._clock.now()
            if early > 0:
                await self._sleep(early / 1000)
                continue
            if latest.status is Status.HOLD and self._clock.trusted():
                async with self._slots:
                    await self._look_closely(watched.id)
            await self._sleep(LOOK_EVERY_SECONDS)

    async def _look_closely(self, reservation_id: str) -> None:
        """EXPIRED ends a watch, so it must be true for good: it is said after a consistent read only."""
        try:
            until = self._monotonic() + _TRY_SECONDS
            self._audience.notice(await self._reservations.get(reservation_id, None, until))
        except ReservationNotFound:
            self._audience.end(reservation_id, ReservationNotFound)
        except Exception as error:
            log.warning("watch.look_failed", reservation_id=reservation_id, error=repr(error))
