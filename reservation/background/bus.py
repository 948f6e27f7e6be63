"""Whether the event bus is there. PutEvents to one that is not reports success, and the events are gone."""

import asyncio
from collections.abc import Awaitable, Callable
from enum import Enum, auto

import structlog

from reservation.aws.errors import AwsError, retry_class
from reservation.eventbridge import EventBridge

log = structlog.get_logger()

CHECK_EVERY_SECONDS = 2.0


class Bus(Enum):
    """What is known of it."""

    UNCHECKED = auto()
    THERE = auto()
    MISSING = auto()
    UNTOLD = auto()
    """EventBridge refuses to say, for want of a permission: it is taken to be there."""


class BusCheck:
    """Asks until the bus is there or EventBridge refuses to say. Until then nothing may be published.

    `pause` is how it waits, in seconds.
    """

    def __init__(
        self, events: EventBridge, name: str, *, pause: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self.bus = Bus.UNCHECKED
        self._events = events
        self._name = name
        self._pause = pause

    @property
    def may_publish(self) -> bool:
        return self.bus in (Bus.THERE, Bus.UNTOLD)

    @property
    def problem(self) -> str | None:
        """What somebody has to mend. An EventBridge that does not answer is no such thing: events only lag."""
        return f"there is no event bus {self._name}" if self.bus is Bus.MISSING else None

    async def run(self) -> None:
        """Repeats the check until it has its answer, and returns. What changes is told in the log."""
        while not self.may_publish:
            await self._pause(CHECK_EVERY_SECONDS)
            before = self.bus
            if await self.check() is before:
                continue
            if self.problem is not None:
                log.error("bus.missing", bus=self._name, consequence="events stay in the outbox")
            else:
                log.info("bus.known", bus=self._name, state=self.bus.name)

    async def check(self) -> Bus:
        """One question, of as many seconds at most as EventBridge.bus_exists takes. Does not raise AwsError."""
        try:
            self.bus = Bus.THERE if await self._events.bus_exists() else Bus.MISSING
        except AwsError as error:
            # One that was missing is so until it is seen.
            if self.bus is Bus.UNCHECKED and retry_class(error) is None:
                self.bus = Bus.UNTOLD
            log.warning("bus.unchecked", bus=self._name, error=str(error))
        return self.bus
