"""Time that passes only when a test says so."""

import asyncio
import heapq
from itertools import count

from tests.support.store import NOW, SettableClock

_ENOUGH = 60
"""Turns of the event loop after which everything that could go on has gone on, if nothing waits for the outside."""


class MovedTime(SettableClock):
    """A clock, and a sleep that ends when it has been moved far enough."""

    def __init__(self, now: int = NOW, *, trusted: bool = True) -> None:
        super().__init__(now, trusted=trusted)
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = count()

    def monotonic(self) -> float:
        """Seconds, later than any time.monotonic(): a deadline by this clock never cuts a test short."""
        return self.now() / 1000

    def believe(self, trusted: bool) -> None:
        self._trusted = trusted

    async def sleep(self, seconds: float) -> None:
        awake: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.now() + seconds * 1000, next(self._order), awake))
        await awake

    async def move(self, milliseconds: int) -> None:
        """Wakes every sleeper at its time, in order, and lets each go on before the next one wakes."""
        end = self.now() + milliseconds
        await settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            at, _, awake = heapq.heappop(self._sleepers)
            self.advance(max(0, -int(-at // 1) - self.now()))
            if not awake.done():
                awake.set_result(None)
                await settle()
        self.advance(end - self.now())
        await settle()


async def settle() -> None:
    for _ in range(_ENOUGH):
        await asyncio.sleep(0)
