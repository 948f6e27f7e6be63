"""The owner of the loops: none ends unheard."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import structlog

log = structlog.get_logger()


class LoopDied(Exception):
    """A loop ended by an exception, which is the cause."""


class Loops:
    """Runs loops until they are stopped. The death of one is told in the log and ends what is served without it."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._death: LoopDied | None = None
        self._watched: asyncio.Timeout | None = None

    def start(self, loop: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
        """Like asyncio.create_task. A loop may end by itself, if not by an exception."""
        task = asyncio.create_task(loop, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Interrupts the block when a loop dies, by a cancellation as asyncio.timeout does it, and raises LoopDied."""
        try:
            async with asyncio.timeout(None) as self._watched:
                self._interrupt()
                yield
        except TimeoutError:
            if self._death is None:
                raise
        finally:
            self._watched = None
        if self._death is not None:
            raise self._death

    async def stop(self) -> None:
        """Cancels the loops and waits for their ends."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        if self._death is None:
            self._death = LoopDied(f"the loop {task.get_name()} has died: {error!r}")
            self._death.__cause__ = error
            self._interrupt()
        log.critical("loop.died", loop=task.get_name(), exc_info=error)

    def _interrupt(self) -> None:
        if self._death is not None and self._watched is not None:
            self._watched.reschedule(0.0)  # long ago
