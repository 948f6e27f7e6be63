"""Workers that share one leases table, all in this process, in a time that only the test moves."""

import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

from reservation.aws.client import AwsClient, Wire
from reservation.background.leader import Leader
from reservation.dynamodb.leases import LeaseTable, Roll
from tests.support.aws import quick_client, quick_wire

LEASE = 5.0


@dataclass(slots=True)
class Member:
    """One worker. It is paused, or dead, for as long as the test does not let it tick."""

    name: str
    leader: Leader
    client: AwsClient
    leases: LeaseTable
    changes: list[tuple[frozenset[str], frozenset[str]]]
    """What on_change was told, in its order: (gained, lost)."""

    @property
    def held(self) -> list[str]:
        return sorted(self.leader.held)

    @property
    def calls(self) -> int:
        return self.client.stats["calls"]

    @property
    def told(self) -> list[str]:
        """What a listener believes to be held, who knows nothing but the changes."""
        held: set[str] = set()
        for gained, lost in self.changes:
            assert not gained & held
            assert lost <= held
            held = (held | gained) - lost
        return sorted(held)


@dataclass(slots=True)
class Workers:
    """`time` is the real time in seconds, in which all clocks run; `table` is one that nobody else has."""

    url: str
    table: str
    leases: LeaseTable
    _stack: AsyncExitStack
    time: float = 1000.0
    members: dict[str, Member] = field(default_factory=dict)

    def add(
        self,
        name: str,
        *,
        shard_count: int = 8,
        lease: float = LEASE,
        patience: float = LEASE,
        url: str = "",
        rate: float = 1.0,
        offset: float = 0.0,
        monotonic: Callable[[], float] | None = None,
        wrap: Callable[[Wire], Wire] = lambda wire: wire,
        changed: Callable[[frozenset[str], frozenset[str]], None] = lambda gained, lost: None,
        fit: Callable[[], bool] = lambda: True,
    ) -> Member:
        """A worker that has not enrolled yet. Its clock shows `offset` seconds more than `rate` times the time.

        `patience`: the lease that its calls allow for, a third of it for each try.
        """
        client = AwsClient(wrap(quick_wire("dynamodb", url or self.url)), random=lambda: 0.0)
        self._stack.push_async_callback(client.close)
        leases = LeaseTable(client, self.table, lease_seconds=patience)
        changes: list[tuple[frozenset[str], frozenset[str]]] = []

        def on_change(gained: frozenset[str], lost: frozenset[str]) -> None:
            changes.append((gained, lost))
            changed(gained, lost)

        leader = Leader(
            leases,
            worker_id=name,
            lease_seconds=lease,
            shard_count=shard_count,
            monotonic=monotonic or (lambda: self.time * rate + offset),
            now=lambda: int(self.time * 1000),
            random=Random(name),
            on_change=on_change,
            fit=fit,
        )
        self.members[name] = Member(name, leader, client, leases, changes)
        return self.members[name]

    async def enrolled(self, *names: str, **options: Any) -> list[Member]:
        """Workers that know each other, and hold nothing yet."""
        members = [self.add(name, **options) for name in names]
        for member in members:
            await member.leader.enroll()
        for member in members:
            await member.leader.tick()
        return members

    async def tick(self, *members: Member) -> None:
        """One tick each, in this order, at one instant."""
        for member in members:
            await member.leader.tick()

    async def live(self, seconds: float, *members: Member, step: float = LEASE / 3) -> None:
        """Time passes for all, and these tick."""
        for _ in steps(seconds, step):
            self.time += step
            await self.tick(*members)

    async def roll(self) -> Roll:
        return await self.leases.scan()

    async def owners(self) -> dict[str, str]:
        return {shard.name: shard.owner for shard in (await self.roll()).shards}

    async def tokens(self) -> dict[str, int]:
        return {shard.name: shard.token for shard in (await self.roll()).shards}

    def workers_of(self) -> dict[str, list[str]]:
        """Who may work on each shard at this instant."""
        shards = {shard for member in self.members.values() for shard in member.leader.shards}
        return {
            shard: [name for name, member in self.members.items() if member.leader.may_work_on(shard)]
            for shard in sorted(shards)
        }


def steps(seconds: float, step: float) -> Iterator[int]:
    return iter(range(round(seconds / step)))


def sizes(members: Iterable[Member]) -> list[int]:
    return sorted((len(member.held) for member in members), reverse=True)


def table_definition(table: str) -> dict[str, Any]:
    """What makes a leases table, as CreateTable takes it."""
    return {
        "TableName": table,
        "BillingMode": "PAY_PER_REQUEST",
        "KeySchema": [{"AttributeName": "leaseKey", "KeyType": "HASH"}],
        "AttributeDefinitions": [{"AttributeName": "leaseKey", "AttributeType": "S"}],
    }


@asynccontextmanager
async def lease_workers(url: str) -> AsyncIterator[Workers]:
    """A table of its own on the emulator at `url`; clients are closed at the end."""
    table = f"t{uuid.uuid4().hex[:12]}-leases"
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(quick_client("dynamodb", url))
        await client.call("CreateTable", table_definition(table))
        yield Workers(url, table, LeaseTable(client, table, lease_seconds=LEASE), stack)
        await client.call("DeleteTable", {"TableName": table})
