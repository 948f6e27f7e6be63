"""Commands under way."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from reservation.domain.errors import IdempotencyInProgress, RateLimitExceeded, ServiceUnavailable, UpstreamTimeout

T = TypeVar("T")

MOST = 2_000
"""Flights at a time: more than any number of calls that a process can serve within their time."""


@dataclass(frozen=True, slots=True)
class Landed(Generic[T]):
    """What a flight came to. `joined`: another caller's flight, shared."""

    result: T
    joined: bool


@dataclass(slots=True)
class Flights:
    """Runs each command in a task of its own, to its end even when its caller has left: what was sent to the store may
    take effect, and somebody has to hear of it. Equal commands share one flight.

    While their callers wait, calls are limited where they come in. But while the store is slow, callers that soon give
    up leave one flight after the other: MOST limits these."""

    _tasks: set[asyncio.Task[Any]] = field(default_factory=set)
    _shared: dict[Hashable, tuple[asyncio.Task[Any], float]] = field(default_factory=dict)
    """With the time, in time.monotonic() seconds, until which each goes on trying."""

    async def run(self, key: Hashable | None, command: Callable[[], Awaitable[T]], until: float) -> Landed[T]:
        """`key`: what makes two commands equal; None: this one is like no other. `until` in time.monotonic() seconds.

        Raises whatever the command raises, UpstreamTimeout when the time is up first (the flight goes on), and
        RateLimitExceeded.
        """
        while True:
            shared = self._shared.get(key) if key is not None else None
            task, patience = shared or self._start(key, command, until)
            await asyncio.wait((task,), timeout=max(0.0, until - time.monotonic()))  # which leaves the task alone
            if not task.done():
                raise UpstreamTimeout
            try:
                return Landed(task.result(), joined=shared is not None)
            except (UpstreamTimeout, ServiceUnavailable, IdempotencyInProgress):
                if shared is None or until <= patience or time.monotonic() >= until:
                    raise
                # The flight ended with its first caller's patience, not with this one's.

    def _start(
        self, key: Hashable | None, command: Callable[[], Awaitable[T]], until: float
    ) -> tuple[asyncio.Task[T], float]:
        if len(self._tasks) >= MOST:
            raise RateLimitExceeded
        task = asyncio.ensure_future(command())
        task.set_name("command")
        self._tasks.add(task)
        if key is not None:
            self._shared[key] = task, until
        task.add_done_callback(lambda done: self._land(key, done))
        return task, until

    def _land(self, key: Hashable | None, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if key is not None:
            self._shared.pop(key, None)
        if not task.cancelled():
            task.exception()  # heard here, should no caller be left to hear it

    async def drain(self) -> None:
        """Waits until every flight has landed."""
        while self._tasks:
            await asyncio.wait(self._tasks)
