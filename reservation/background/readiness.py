"""Whether this process can serve: its tables answer, its clock can be believed, and its events have a bus to go to."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog

from reservation.aws.client import AwsClient
from reservation.aws.errors import AwsError, Throttled
from reservation.background.bus import BusCheck
from reservation.clock import Clock
from reservation.dynamodb.tables import Tables

log = structlog.get_logger()

CHECK_EVERY_SECONDS = 1.0
_PASS_SECONDS = 2.0


class Readiness:
    """Asks the store about once a second and waits 2 seconds at most: a dead store is told within 4 seconds."""

    def __init__(
        self, client: AwsClient, tables: Tables, clock: Clock, bus: BusCheck, tell: Callable[[bool], Awaitable[None]]
    ) -> None:
        self._client = client
        self._clock = clock
        self._bus = bus
        self._tell = tell
        self._unproven = {
            tables.reservations: ("reservationId", "eventId"),
            tables.orders: ("orderId", "reservationId"),
            tables.idempotency: ("idempotencyKey",),
            tables.outbox: ("shard", "seq"),
            tables.leases: ("leaseKey",),
        }
        self._probed = {tables.inventory: ("pk",)}
        self._ready: bool | None = None

    @property
    def ready(self) -> bool:
        """What the last check has found."""
        return self._ready is True

    async def run(self) -> None:
        """Repeats the check until cancelled. The first one is the start's, before anything is served."""
        while True:
            await asyncio.sleep(CHECK_EVERY_SECONDS)
            await self.check()

    async def check(self) -> bool:
        """One pass, and tells its result. Every table is read once, then only one: a store that answers for one table
        is alive, and a table does not go missing by itself."""
        problem = await self._problem()
        if (problem is None) != self._ready:
            self._ready = problem is None
            log.info("readiness", ready=self._ready, problem=problem)
        await self._tell(self._ready)
        return self._ready

    async def _problem(self) -> str | None:
        try:
            async with asyncio.timeout(_PASS_SECONDS):
                for table in list(self._unproven):
                    await self._read(table, self._unproven[table])
                    del self._unproven[table]
                for table, key in self._probed.items():
                    await self._read(table, key)
        except TimeoutError:
            return "no answer"
        except AwsError as error:
            return error.code
        except Exception as error:
            log.error("readiness.failed", exc_info=error)
            return type(error).__name__
        if (skew := self._clock.skew_seconds) is None:
            return "DynamoDB has not told the time yet"
        if not self._clock.trusted():
            return f"the clock is {skew:.1f} s off DynamoDB's"
        return self._bus.problem

    async def _read(self, table: str, key: tuple[str, ...]) -> None:
        request = {"TableName": table, "Key": {name: {"S": "readiness"} for name in key}}
        with suppress(Throttled):  # who asks for fewer calls is alive
            await self._client.call("GetItem", request, timeout=_PASS_SECONDS / 2, attempts=2)
