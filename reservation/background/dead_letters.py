"""Counts the dead letters of the shards that this process holds: all processes together count each of them once."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable

import structlog

from reservation.aws.errors import AwsError
from reservation.domain.errors import ReservationError
from reservation.dynamodb.outbox import Outbox

log = structlog.get_logger()

LOOK_EVERY_SECONDS = 15.0


class DeadLetters:
    """`found` is told how many there are."""

    def __init__(
        self,
        outbox: Outbox,
        *,
        held_shards: Callable[[], Iterable[str]],
        found: Callable[[int], None],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._outbox = outbox
        self._held_shards = held_shards
        self._found = found
        self._sleep = sleep

    async def run(self) -> None:
        """Looks every 15 seconds until cancelled. Errors are told in the log, and the last number stands."""
        while True:
            await self._sleep(LOOK_EVERY_SECONDS)
            try:
                await self.look()
            except (AwsError, ReservationError) as error:
                log.warning("dead_letters.not_counted", error=repr(error))

    async def look(self) -> None:
        """Once. Raises what Outbox raises."""
        self._found(sum([await self._outbox.count_dead(shard) for shard in self._held_shards()]))
