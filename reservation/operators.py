"""What operators look into and put right: dead letters, leases, shards, and the audit."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table

from reservation import app
from reservation.audit import Audit, received_versions
from reservation.aws.client import AwsClient
from reservation.aws.session import connect, session
from reservation.dynamodb.items import DeadLetter, dead_letter_partition, saga_partition
from reservation.dynamodb.leases import NOBODY, LeaseTable
from reservation.dynamodb.outbox import Outbox
from reservation.dynamodb.retirement import retire
from reservation.dynamodb.tables import DUE_INDEX
from reservation.settings import Settings


class Operators:
    """One method a command. Each prints to `out` and returns whether all is well."""

    def __init__(self, settings: Settings, client: AwsClient, out: Console) -> None:
        self._settings = settings
        self._client = client
        self._out = out
        self._tables = app.tables_of(settings)
        self._outbox = Outbox(client, self._tables.outbox)
        self._leases = LeaseTable(client, self._tables.leases, lease_seconds=settings.lease_seconds)

    # Dead letters

    async def list_dead(self) -> bool:
        """Every dead letter, one a line. False if there are any."""
        table = _table("shard", "seq", "type", "error", "died")
        async for letter in self._dead():
            row = letter.row
            table.add_row(row.shard, row.seq, row.type, letter.error_code, _time(letter.died_at))
        self._out.print(table if table.row_count else "no dead letters")
        return table.row_count == 0

    async def show_dead(self, shard: str, seq: str) -> bool:
        letter = await self._outbox.show(shard, seq)
        if letter is None:
            self._out.print("no such dead letter")
            return False
        self._out.print(f"{letter.error_code}: {letter.error_message}", markup=False)
        self._out.print_json(letter.row.detail)
        return True

    async def replay_dead(self, shard: str | None, seq: str | None) -> bool:
        """One dead letter, or all: back to where they came from."""
        replayed = [letter async for letter in self._chosen(shard, seq) if await self._outbox.replay(letter.row)]
        self._out.print(f"{len(replayed)} replayed")
        return bool(replayed) or seq is None

    async def purge_dead(self, shard: str, seq: str) -> bool:
        """Its event will never be published."""
        purged = [letter async for letter in self._chosen(shard, seq)]
        for letter in purged:
            await self._outbox.purge(letter.row)
        self._out.print(f"{len(purged)} purged")
        return bool(purged)

    async def _chosen(self, shard: str | None, seq: str | None) -> AsyncIterator[DeadLetter]:
        async for letter in self._dead():
            if shard in (None, letter.row.shard) and seq in (None, letter.row.seq):
                yield letter

    async def _dead(self) -> AsyncIterator[DeadLetter]:
        names = [shard.name for shard in (await self._leases.scan()).shards]
        async for letter in self._outbox.dead(names):
            yield letter

    # Leases and shards

    async def leases(self) -> bool:
        """Who holds what, and since when."""
        roll = await self._leases.scan()
        table = _table("shard", "owner", "token", "since", "")
        for shard in roll.shards:
            owner = "-" if shard.owner == NOBODY else shard.owner
            table.add_row(shard.name, owner, str(shard.token), _time(shard.since), "retiring" if shard.retiring else "")
        self._out.print(table)
        workers = ", ".join(f"{worker.id} since {_time(worker.started_at)}" for worker in roll.workers)
        self._out.print(f"workers: {workers or 'none'}", soft_wrap=True)
        return True

    async def add_shard(self, name: str) -> bool:
        await self._leases.add_shard(name, _now())
        self._out.print(f"{name} is there; processes use it from their next look at the leases on")
        return True

    async def retire_shard(self, name: str) -> bool:
        """Waits until nobody chooses it any more, and removes it if it is empty."""
        self._out.print(f"waiting until no process can choose {name} any more ...")
        removed = await retire(
            self._leases,
            name,
            self._is_empty,
            lease_seconds=self._settings.lease_seconds,
            sleep=asyncio.sleep,
            monotonic=time.monotonic,
        )
        self._out.print(
            f"{name} is removed" if removed else f"{name} is not empty yet and takes nothing new; run it again"
        )
        return removed

    async def _is_empty(self, shard: str) -> bool:
        """Live holds first: a confirm moves its event from there into the outbox."""
        held = 0
        for partition in (shard, saga_partition(shard)):
            held += await self._count(self._tables.reservations, "expiryShard", partition, IndexName=DUE_INDEX)
        waiting = await self._count(self._tables.outbox, "shard", shard, ConsistentRead=True)
        dead = await self._count(self._tables.outbox, "shard", dead_letter_partition(shard), ConsistentRead=True)
        return held == waiting == dead == 0

    async def _count(self, table: str, key: str, value: str, **more: object) -> int:
        query = {
            "TableName": table,
            "KeyConditionExpression": "#key = :value",
            "ExpressionAttributeNames": {"#key": key},
            "ExpressionAttributeValues": {":value": {"S": value}},
            "Select": "COUNT",
            "Limit": 1,
        }
        return int((await self._client.call("Query", query | more))["Count"])

    # The audit

    async def audit(self, queue_url: str | None, *, inventory: bool = False) -> bool:
        """False if any promise is broken. `inventory`: by the remote inventory too, which is asked about every seat."""
        received = await self._received(queue_url) if queue_url else None
        async with AsyncExitStack() as closing:
            remote = app.remote_inventory(self._settings, closing)
            if inventory and remote is None:
                self._out.print("no remote inventory is set (GRPC_CLIENT_INVENTORY_SERVICE_ADDRESS)")
                return False

            audit = Audit(
                self._client,
                self._tables,
                now=_now,
                seats_elsewhere=remote is not None,
                for_sale=remote.for_sale if remote is not None and inventory else None,
            )
            snapshot, broken = await audit.run(received)
        for finding in broken:
            self._out.print(f"{finding.kind}: {finding.subject} {finding.text}", markup=False, soft_wrap=True)
        read = (
            f"{len(snapshot.reservations)} reservations, {len(snapshot.seats)} seats, {len(snapshot.orders)} orders, "
            f"{len(snapshot.outbox)} events waiting"
        )
        self._out.print(f"{len(broken)} broken of: {read}" if broken else f"clean: {read}", soft_wrap=True)
        return not broken

    async def _received(self, queue_url: str) -> dict[str, set[int]]:
        settings = self._settings
        config = app.aws_config_of(settings)
        async with session(config).create_client("sqs", endpoint_url=settings.aws_endpoint_url) as sqs:
            return await received_versions(sqs, queue_url)


@asynccontextmanager
async def operators(settings: Settings, out: Console) -> AsyncIterator[Operators]:
    async with AsyncExitStack() as closing:
        client = await connect(app.aws_config_of(settings), "dynamodb", endpoint_url=settings.dynamodb_endpoint)
        closing.push_async_callback(client.close)
        yield Operators(settings, client, out)


def _now() -> int:
    return time.time_ns() // 1_000_000


def _time(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(sep=" ", timespec="seconds")


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading)
    return table
