"""Tables for a test of many examples, each of which finds them as if they were new: to make new ones would take longer
than an example. Everything runs in one event loop, for tests that are synchronous."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from typing import Any, TypeVar

from reservation.aws.client import AwsClient
from reservation.domain.errors import ReservationError, ServiceUnavailable, UpstreamTimeout
from reservation.domain.model import Event, Seat
from reservation.dynamodb.items import Item, event_to_item
from tests.support.store import Party, Venue, open_venue

T = TypeVar("T")

_BATCH = 25  # BatchWriteItem takes no more
_TRIES, _IMPATIENT_SECONDS = 100, 1.0  # less, and a choice that has to try many seats comes to no end, however often


class FreshTables:
    """`client`: what processes call DynamoDB with. `faulty`: it may lose what they say or are told."""

    def __init__(self, runner: asyncio.Runner, venue: Venue, client: AwsClient, *, faulty: bool) -> None:
        self.venue = venue
        self.faulty = faulty
        self.patience = _IMPATIENT_SECONDS if faulty else 10.0
        """Of a command, in seconds."""
        self._runner = runner
        self._client = client
        self._hall: tuple[Item, ...] = ()

    def run(self, call: Awaitable[T]) -> T:
        async def called() -> T:
            return await call

        return self._runner.run(called())

    def party(self, **settings: Any) -> Party:
        """As Venue.party() takes them."""
        return self.venue.party(self._client, **settings)

    async def fill(self, event: Event, seats: Sequence[Seat]) -> None:
        """With an event and its seats, the same in each example but for the event's settings."""
        if not self._hall:
            await self.clear()
            await self.venue.sell(seats, event)
            self._hall = (await self.venue.rows()).inventory
        await self.venue.put(self.venue.tables.inventory, *self._hall)
        await self.venue.put(self.venue.tables.inventory, event_to_item(event))

    async def clear(self) -> None:
        """When everything under way has come to its end."""
        await self.venue.drain()
        await asyncio.gather(*(task for task in asyncio.all_tasks() if task.get_name().startswith("hall ")))
        rows, tables = await self.venue.rows(), self.venue.tables
        await self._delete(tables.reservations, rows.reservations, "reservationId", "eventId")
        await self._delete(tables.orders, rows.orders, "orderId", "reservationId")
        await self._delete(tables.idempotency, rows.idempotency, "idempotencyKey")
        await self._delete(tables.outbox, rows.outbox, "shard", "seq")
        await self._delete(tables.inventory, rows.inventory, "pk")

    async def _delete(self, table: str, items: Sequence[Item], *key: str) -> None:
        deletes = [{"DeleteRequest": {"Key": {name: item[name] for name in key}}} for item in items]
        for start in range(0, len(deletes), _BATCH):
            request = {"RequestItems": {table: deletes[start : start + _BATCH]}}
            answer = await self.venue.client.call("BatchWriteItem", request)
            assert not answer.get("UnprocessedItems")

    async def answer(self, call: Callable[[], Awaitable[T]]) -> T | ReservationError:
        """The definite one, be it a refusal. Where faults are, whatever has no definite outcome is called again."""
        for tries_left in reversed(range(_TRIES if self.faulty else 1)):
            try:
                return await call()
            except ReservationError as refusal:
                definite = not isinstance(refusal, (UpstreamTimeout, ServiceUnavailable))
                if definite or not tries_left:
                    return refusal
        raise AssertionError("the last try ends it")


@contextmanager
def fresh_tables(url: str, **faults: Any) -> Iterator[FreshTables]:
    """On the emulator at `url`, reached through a conflict proxy with these `faults`, if there are any."""
    with asyncio.Runner() as runner:
        opened = AsyncExitStack()
        venue = runner.run(opened.enter_async_context(open_venue(url)))
        try:
            client = venue.client
            if faults:
                _, client = runner.run(opened.enter_async_context(venue.behind(**faults)))
            yield FreshTables(runner, venue, client, faulty=bool(faults))
        finally:
            runner.run(opened.aclose())
