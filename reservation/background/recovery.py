"""Brings sagas to their end whose process died, or that the remote inventory did not answer, on the shards this process
may work on."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable

import structlog

from reservation.domain.model import Reservation
from reservation.ports import Sagas

log = structlog.get_logger()

_LOOK_EVERY_SECONDS = 1.0
_TRY_SECONDS = 1.5
_AT_ONCE = 8


class Recovery:
    """`may_work_on` is asked right before each change. `now` gives milliseconds since the epoch; unless the clock is
    trusted nothing is touched."""

    def __init__(
        self,
        sagas: Sagas,
        *,
        held_shards: Callable[[], Iterable[str]],
        may_work_on: Callable[[str], bool],
        now: Callable[[], int],
        clock_trusted: Callable[[], bool],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._sagas = sagas
        self._held_shards = held_shards
        self._may_work_on = may_work_on
        self._now = now
        self._clock_trusted = clock_trusted
        self._sleep = sleep
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def run(self) -> None:
        """A pass a second until cancelled."""
        while True:
            await asyncio.gather(*(self.recover(shard) for shard in self._held_shards()))
            await self._sleep(_LOOK_EVERY_SECONDS)

    async def recover(self, shard: str) -> None:
        """One pass over a shard. Errors are told in the log, and the next pass sees the same sagas again."""
        try:
            page: object | None = None
            while True:
                found = await self._sagas.unfinished(shard, page, time.monotonic() + _TRY_SECONDS)
                for reservation_id in found.unreadable:
                    log.error("recovery.unreadable", reservation_id=reservation_id)
                await asyncio.gather(*(self._finish(shard, stuck) for stuck in found.holds))
                if (page := found.next) is None:
                    return
        except Exception as error:
            log.warning("recovery.failed", shard=shard, error=repr(error))

    async def _finish(self, shard: str, stuck: Reservation) -> None:
        if stuck.saga is None or stuck.saga.until > self._now():
            return
        async with self._slots:
            if not self._may_work_on(shard) or not self._clock_trusted():
                return
            try:
                await self._sagas.finish(stuck, time.monotonic() + _TRY_SECONDS)
            except Exception as error:
                log.warning("recovery.not_finished", reservation_id=stuck.id, error=repr(error))
            else:
                log.info("recovery.finished", reservation_id=stuck.id, was=stuck.status.value)
