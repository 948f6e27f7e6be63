"""Settles holds that have run out, on the shards this process may work on.

Nothing depends on it but punctuality: past holds are refused and their seats can be taken without it. It looks a little
ahead in the due index and gives each hold a timer of its own, so holds end milliseconds after their time and an idle
shard costs one query a second.
"""

import asyncio
import math
import time
from collections import ChainMap, Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import structlog
from cachetools import TTLCache

from reservation.domain.errors import ServiceUnavailable, UpstreamTimeout
from reservation.domain.model import Reservation, Status
from reservation.service import Reservations

log = structlog.get_logger()

LOOK_EVERY_SECONDS = 1.0
_HORIZON_MS = 2_000
_LOOK_SECONDS = 2.0
_TRY_SECONDS = 5.0
_AT_ONCE = 32

_WAITING = 2_000
"""How many timers a shard may have: what is read ahead of a store that does not keep up is read in vain."""

# A settled hold may stay in the index for a moment, which is eventually consistent.
_SETTLED_QUIET_SECONDS = 2.0
_TROUBLE_KEPT = 10_000
_FAILED_QUIET_SECONDS, _FAILED_QUIET_MAX_SECONDS = 1.0, 60.0


def quiet_seconds(tries: int) -> float:
    """How long a hold is left alone that could not be settled or read so many times, from 1 on."""
    return min(_FAILED_QUIET_MAX_SECONDS, _FAILED_QUIET_SECONDS * 2.0 ** min(tries - 1, 10))


class Expiry:
    """`may_work_on` is asked right before each change. `now` gives milliseconds since the epoch; unless the clock is
    trusted nothing is settled. `settled` is told by how many milliseconds each hold was late."""

    def __init__(
        self,
        reservations: Reservations,
        *,
        held_shards: Callable[[], Iterable[str]],
        may_work_on: Callable[[str], bool],
        now: Callable[[], int],
        clock_trusted: Callable[[], bool],
        settled: Callable[[int], None] = lambda late: None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reservations = reservations
        self._held_shards = held_shards
        self._may_work_on = may_work_on
        self._now = now
        self._clock_trusted = clock_trusted
        self._settled = settled
        self._sleep = sleep
        self._monotonic = monotonic
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._timers: dict[str, asyncio.Task[None]] = {}
        self._waiting: Counter[str] = Counter()
        self._quiet_until: dict[str, float] = {}
        self._known = ChainMap[str, Any](self._timers, self._quiet_until)  # nothing is to be done about these now
        self._trouble: TTLCache[str, int] = TTLCache(_TROUBLE_KEPT, 10 * _FAILED_QUIET_MAX_SECONDS, timer=monotonic)
        self._store_rests_until = -math.inf
        self.failed = 0
        """Tries to settle that failed for the record itself, and items that could not be read."""

    async def run(self) -> None:
        """Looks ahead about once a second until cancelled. Its timers end with it; what was sent is seen through."""
        try:
            while True:
                started = self._monotonic()
                shards = list(self._held_shards())
                turns = (LOOK_EVERY_SECONDS * place / len(shards) for place in range(len(shards)))
                await asyncio.gather(*map(self._look_in_turn, shards, turns))
                await self._sleep(max(0.0, LOOK_EVERY_SECONDS - (self._monotonic() - started)))
        finally:
            for timer in self._timers.values():
                timer.cancel()
            await asyncio.gather(*self._timers.values(), return_exceptions=True)
            await self._reservations.drain()

    async def _look_in_turn(self, shard: str, turn: float) -> None:
        """`turn`: after how many seconds. All shards at once would hold up the holds that end at that moment."""
        if turn:
            await self._sleep(turn)
        await self.look_ahead(shard)

    async def look_ahead(self, shard: str) -> None:
        """One bounded pass: a timer for each hold of the shard that ends soon, past all that are left alone for now.
        Errors are told in the log, and the next pass sees the same holds again."""
        self._forget_old_quiet()
        until = self._monotonic() + _LOOK_SECONDS
        try:
            page: object | None = None
            while self._waiting[shard] < _WAITING:
                found = await self._reservations.due(shard, self._now() + _HORIZON_MS, page, until, besides=self._known)
                self._report_unreadable(found.unreadable)
                for held in found.holds:
                    self._set_timer(shard, held)
                if (page := found.next) is None:
                    return
        except Exception as error:
            log.warning("expiry.look_ahead_failed", shard=shard, error=repr(error))

    async def settle_all(self) -> None:
        """Waits for the timers that are set."""
        while self._timers:
            await asyncio.gather(*self._timers.values())

    def _set_timer(self, shard: str, held: Reservation) -> None:
        if held.id in self._known:
            return
        timer = asyncio.create_task(self._settle_in_time(shard, held), name=f"expiry {held.id}")
        self._timers[held.id] = timer
        self._waiting[shard] += 1
        timer.add_done_callback(lambda _: self._forget_timer(shard, held.id))

    def _forget_timer(self, shard: str, reservation_id: str) -> None:
        del self._timers[reservation_id]
        self._waiting[shard] -= 1

    async def _settle_in_time(self, shard: str, held: Reservation) -> None:
        # Timers may fire a millisecond early, and then the condition on the time would fail.
        while (early := held.hold_expires_at - self._now()) > 0:
            await self._sleep(early / 1000)
        async with self._slots:
            if self._store_rests() or not self._may_work_on(shard) or not self._clock_trusted():
                return
            try:
                became = await self._reservations.expire(held, self._monotonic() + _TRY_SECONDS)
            except (ServiceUnavailable, UpstreamTimeout) as error:
                self._let_the_store_rest(error)
                return
            except Exception as error:
                self._fail(held.id, error)
                return
        if became.status is Status.EXPIRED:
            self._settled(self._now() - held.hold_expires_at)
        self._trouble.pop(held.id, None)
        if became.status is not Status.HOLD:
            self._quiet_until[held.id] = self._monotonic() + _SETTLED_QUIET_SECONDS

    def _store_rests(self) -> bool:
        return self._monotonic() < self._store_rests_until

    def _let_the_store_rest(self, error: Exception) -> None:
        """Begins no settlement until the next look, which finds the same holds again. It says nothing about them."""
        if not self._store_rests():
            self._store_rests_until = self._monotonic() + LOOK_EVERY_SECONDS
            log.warning("expiry.store_failed", error=repr(error.__cause__ or error))

    def _fail(self, reservation_id: str, error: Exception) -> None:
        """Leaves one hold alone for a while, longer each time; the others go on."""
        self.failed += 1
        tries = self._trouble[reservation_id] = self._trouble.get(reservation_id, 0) + 1
        quiet = quiet_seconds(tries)
        self._quiet_until[reservation_id] = self._monotonic() + quiet
        log.error("expiry.failed", reservation_id=reservation_id, tries=tries, retry_in=quiet, exc_info=error)

    def _report_unreadable(self, reservation_ids: Iterable[str]) -> None:
        for reservation_id in reservation_ids:
            if reservation_id not in self._quiet_until:
                self._fail(reservation_id, ValueError("an item of the due index cannot be read"))

    def _forget_old_quiet(self) -> None:
        now = self._monotonic()
        for reservation_id in [each for each, until in self._quiet_until.items() if until <= now]:
            del self._quiet_until[reservation_id]
