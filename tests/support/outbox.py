"""An outbox to test with: a table of its own, rows of made-up reservations, and time that only a test moves."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from reservation.aws.client import AwsClient
from reservation.dynamodb.items import Item, outbox_row_from_item, outbox_row_to_item, outbox_to_item
from reservation.dynamodb.outbox import Outbox, OutboxRow
from tests.support.aws import quick_client
from tests.unit.examples import HOLD, NEW_YEAR

SHARD = "0007"
NOW = NEW_YEAR


def row(name: str, version: int = 1, *, at: int = 0, shard: str = SHARD) -> OutboxRow:
    """The event of a version of the reservation `rsv_<name>`, written `at` milliseconds after NOW plus its version."""
    reservation = replace(HOLD, id=f"rsv_{name}", version=version, updated_at=NOW + at + version, shard=shard)
    return outbox_row_from_item(outbox_to_item(reservation, traceparent=""))


def rows(reservations: Iterable[str], versions: int = 1) -> list[OutboxRow]:
    return [row(name, version) for name in reservations for version in range(1, versions + 1)]


@dataclass(frozen=True, slots=True)
class OutboxTable:
    """A table with nothing else in it. `dynamodb` and `outbox` reach it directly."""

    name: str
    url: str
    dynamodb: AwsClient
    outbox: Outbox

    @asynccontextmanager
    async def seen_through(self, url: str) -> AsyncIterator[Outbox]:
        """The same table by way of another endpoint."""
        async with quick_client("dynamodb", url) as dynamodb:
            yield Outbox(dynamodb, self.name)

    async def write(self, *rows: OutboxRow) -> None:
        await self.write_items(*(outbox_row_to_item(row) for row in rows))

    async def write_items(self, *items: Item) -> None:
        puts = [{"PutRequest": {"Item": item}} for item in items]
        for start in range(0, len(puts), 25):
            request: dict[str, Any] = {"RequestItems": {self.name: puts[start : start + 25]}}
            answer = await self.dynamodb.call("BatchWriteItem", request)
            assert not answer.get("UnprocessedItems")

    async def seqs(self, partition: str = SHARD) -> list[str]:
        """What is in a partition, in order."""
        items = await self.items()
        return sorted(item["seq"]["S"] for item in items if item["shard"]["S"] == partition)

    async def items(self) -> list[Item]:
        found: list[Item] = []
        request: dict[str, Any] = {"TableName": self.name, "ConsistentRead": True}
        while True:
            page = await self.dynamodb.call("Scan", request)
            found += page["Items"]
            if "LastEvaluatedKey" not in page:
                return found
            request["ExclusiveStartKey"] = page["LastEvaluatedKey"]


@asynccontextmanager
async def outbox_table(aws_url: str) -> AsyncIterator[OutboxTable]:
    name = f"t{uuid.uuid4().hex[:12]}-outbox"
    async with quick_client("dynamodb", aws_url) as dynamodb:
        keys = {"shard": "HASH", "seq": "RANGE"}
        definition = {
            "TableName": name,
            "BillingMode": "PAY_PER_REQUEST",
            "KeySchema": [{"AttributeName": each, "KeyType": kind} for each, kind in keys.items()],
            "AttributeDefinitions": [{"AttributeName": each, "AttributeType": "S"} for each in keys],
        }
        await dynamodb.call("CreateTable", definition)
        yield OutboxTable(name, aws_url, dynamodb, Outbox(dynamodb, name))


class StandingTime:
    """Monotonic seconds that stand still until a test moves them, and pauses that go by them."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._pauses: list[tuple[float, asyncio.Future[None], asyncio.Event]] = []
        self._news = asyncio.Event()

    def monotonic(self) -> float:
        return self._seconds

    async def pause(self, event: asyncio.Event, seconds: float) -> None:
        """Until `event` is set, or until time has been moved by so much."""
        over = asyncio.get_running_loop().create_future()
        mine = (self._seconds + seconds, over, event)
        self._pauses.append(mine)
        self._news.set()
        is_set = asyncio.create_task(event.wait())
        try:
            await asyncio.wait([over, is_set], return_when=asyncio.FIRST_COMPLETED)
        finally:
            is_set.cancel()
            self._pauses.remove(mine)

    def advance(self, seconds: float) -> None:
        self._seconds += seconds
        for until, over, _ in self._pauses:
            if until <= self._seconds and not over.done():
                over.set_result(None)

    async def until_paused(self) -> float:
        """Waits until somebody rests and nothing has ended that yet; for how many seconds more."""
        while True:
            for until, over, event in self._pauses:
                if not over.done() and not event.is_set():
                    return until - self._seconds
            self._news.clear()
            await self._news.wait()
