"""Tables to test with: a fresh set on an emulator, and any number of processes that sell from it."""

import asyncio
import time
import uuid
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from aiobotocore.session import AioSession

from reservation.aws.client import AwsClient
from reservation.aws.session import AwsConfig, connect, session
from reservation.domain.commands import Cancel, Commit, Confirm, Create, Extend, Release, Reserve
from reservation.domain.errors import ServiceUnavailable, UpstreamTimeout
from reservation.domain.model import Event, Metadata, Money, Reservation, Seat, Wish
from reservation.dynamodb.events import EventImport
from reservation.dynamodb.halls import Halls
from reservation.dynamodb.items import Item, seat_key
from reservation.dynamodb.reservations import DynamoReservations
from reservation.dynamodb.seats import EmbeddedInventory
from reservation.dynamodb.tables import Tables, create_tables
from reservation.holds import Holds
from reservation.ports import Recorded
from reservation.service import Policy, Reservations
from tests.support.aws import UnhurriedWire, quick_wire
from tests.support.conflict_proxy import ConflictProxy
from tests.support.invariants import Rows

Wire = Literal["lean", "aiobotocore"]

NOW = 4_000_000_000_000
"""Where clocks start, in milliseconds. Far ahead, because emulators delete what is past its TTL by the real time."""

HOLD_MS, WINDOW_MS, SKEW_MS, SHARDS = 60_000, 300_000, 1_000, 16

EVENT = Event("evt_2025_1001", "Traffic Tacos Live")
PRICE = Money(120_000, "KRW")
SEATS = tuple(Seat(f"A-{number}", "Floor", "A", str(number), PRICE) for number in range(1, 9))
"""What is on sale in a new venue."""


class SettableClock:
    """Milliseconds since the epoch. Stands still until a test moves it."""

    def __init__(self, now: int = NOW, *, trusted: bool = True) -> None:
        self._start = self._now = now
        self._trusted = trusted

    def now(self) -> int:
        return self._now

    def monotonic(self) -> float:
        """Seconds since the start of the test."""
        return (self._now - self._start) / 1000

    def trusted(self) -> bool:
        return self._trusted

    def advance(self, milliseconds: int) -> None:
        self._now += milliseconds


@dataclass(frozen=True, slots=True)
class Party:
    """One process that sells: its clock, its caches, its commands under way. `patience` is in seconds."""

    client: AwsClient
    clock: SettableClock
    halls: Halls
    inventory: EmbeddedInventory
    store: DynamoReservations
    service: Reservations
    holds: Holds

    async def create(
        self,
        *seat_ids: str,
        user: str = "user_1",
        key: str = "",
        token: str = "",
        event: str = EVENT.id,
        metadata: Metadata | None = None,
        traceparent: str = "",
        wish: Wish | None = None,
        patience: float = 10.0,
    ) -> Recorded:
        command = Create(event, seat_ids, user, token, key, metadata, traceparent, wish)
        return await self.service.create(command, soon(patience))

    async def confirm(
        self,
        reservation_id: str,
        payment: str = "pay_1",
        *,
        owner: str | None = None,
        key: str = "",
        traceparent: str = "",
        patience: float = 10.0,
    ) -> Recorded:
        return await self.service.confirm(Confirm(reservation_id, payment, owner, key, traceparent), soon(patience))

    async def cancel(
        self,
        reservation_id: str,
        reason: str = "",
        *,
        owner: str | None = None,
        key: str = "",
        traceparent: str = "",
        patience: float = 10.0,
    ) -> Recorded:
        return await self.service.cancel(Cancel(reservation_id, reason, owner, key, traceparent), soon(patience))

    async def extend(
        self,
        reservation_id: str,
        reason: str = "",
        *,
        seconds: int = 30,
        owner: str | None = None,
        key: str = "",
        traceparent: str = "",
        patience: float = 10.0,
    ) -> Recorded:
        command = Extend(reservation_id, seconds, reason, owner, key, traceparent)
        return await self.service.extend(command, soon(patience))

    async def reserve(
        self,
        reservation_id: str,
        *seat_ids: str,
        until: int | None = None,
        event: str = EVENT.id,
        user: str = "user_1",
        wish: Wish | None = None,
    ) -> Reservation:
        """For another service's reservation; `until` in milliseconds."""
        return await self.holds.reserve(Reserve(reservation_id, event, seat_ids, user, until, wish), soon())

    async def commit(
        self, reservation_id: str, *seat_ids: str, quantity: int = 0, payment: str = "pay_1", event: str = EVENT.id
    ) -> Reservation:
        return await self.holds.commit(Commit(reservation_id, event, seat_ids, quantity, payment), soon())

    async def release(
        self, reservation_id: str, *seat_ids: str, quantity: int = 0, reason: str = "", event: str = EVENT.id
    ) -> Reservation:
        return await self.holds.release(Release(reservation_id, event, seat_ids, quantity, reason), soon())

    async def get(self, reservation_id: str, owner: str | None = None) -> Reservation:
        return await self.service.get(reservation_id, owner, soon())


def soon(seconds: float = 10.0) -> float:
    """A deadline, in time.monotonic() seconds."""
    return time.monotonic() + seconds


async def in_the_last_moment(command: Callable[[], Awaitable[Recorded]]) -> Recorded:
    """The answer of a command whose hold has a moment left. No try may begin after that. On a busy machine the first
    one may not have begun by then, or not be answered in its time: by a clock that stands still it is not too late yet,
    and equal commands are answered alike."""
    until = soon()
    while True:
        try:
            return await command()
        except (ServiceUnavailable, UpstreamTimeout):
            assert time.monotonic() < until


def shard_by_hash(reservation_id: str) -> str:
    return f"{zlib.crc32(reservation_id.encode()) % SHARDS:04d}"


class Venue:
    """A fresh set of tables on one emulator. `client` goes straight to it; `clock` is every party's unless it gets one
    of its own."""

    def __init__(self, url: str, wire: Wire, tables: Tables, client: AwsClient) -> None:
        self.url = url
        self.tables = tables
        self.client = client
        self.clock = SettableClock()
        self._wire: Wire = wire
        self._clients = [client]
        self._parties: list[Party] = []

    def party(
        self,
        client: AwsClient | None = None,
        *,
        clock: SettableClock | None = None,
        hold: int = HOLD_MS,
        window: int = WINDOW_MS,
        shard: str | None = None,
        stripe: tuple[int, int] = (0, 1),
        max_holds: int | None = None,
        changed: Callable[[Reservation], None] = lambda reservation: None,
        moved: Callable[[Reservation | None, Reservation], None] = lambda before, after: None,
    ) -> Party:
        """Another process. `hold` and `window` (of idempotency keys) in milliseconds. `shard`: of every reservation.
        `stripe`: its rank among the processes that choose seats, and their number. What it learns is told to the others
        only by `halls.flush`. `max_holds`: of one user at a time in one event. `changed` as DynamoReservations takes
        it."""
        client, clock = client or self.client, clock or self.clock
        table = self.tables.inventory
        halls = Halls(client, table, now=clock.now, monotonic=clock.monotonic)
        inventory = EmbeddedInventory(
            client, table, halls=halls, stripe=lambda: stripe, now=clock.now, monotonic=clock.monotonic
        )
        store = DynamoReservations(
            client, self.tables, inventory, now=clock.now, key_window=window, changed=changed, moved=moved
        )
        policy = Policy(hold=hold, max_clock_skew=SKEW_MS, max_holds_per_user=max_holds)
        service = Reservations(store, inventory, policy, clock, lambda key: shard or shard_by_hash(key))
        party = Party(client, clock, halls, inventory, store, service, Holds(service, store, policy, clock))
        self._parties.append(party)
        return party

    async def connect(self, url: str, wire: Wire | None = None) -> AwsClient:
        """A client of its own for a process behind a proxy, or with another wire, closed with the venue."""
        client = await connect(AwsConfig("us-east-1", client=wire or self._wire), "dynamodb", endpoint_url=url)
        self._clients.append(client)
        return client

    @asynccontextmanager
    async def behind(
        self, *, unhurried: bool = False, **settings: Any
    ) -> AsyncIterator[tuple[ConflictProxy, AwsClient]]:
        """A conflict proxy before the emulator and a client of it; transactions take no time unless `settings` say
        so. `unhurried`: no try of that client ends because it takes long. At the end every command under way has
        landed."""
        async with ConflictProxy(self.url, **{"hold": 0.0, **settings}) as proxy:
            yield proxy, self._unhurried(proxy.url) if unhurried else await self.connect(proxy.url)
            await self.drain()

    def _unhurried(self, url: str) -> AwsClient:
        client = AwsClient(quick_wire("dynamodb", url, UnhurriedWire))
        self._clients.append(client)
        return client

    async def sell(self, seats: Sequence[Seat] = SEATS, event: Event = EVENT) -> None:
        await EventImport(self.client, self.tables.inventory).run(event, seats, lambda _: None)

    async def rows(self) -> Rows:
        """Everything there is, each table in the order of its keys."""
        tables = self.tables
        names = (tables.reservations, tables.orders, tables.idempotency, tables.outbox, tables.inventory)
        return Rows(*[tuple(sorted(await self._scan(name), key=_key)) for name in names])

    async def seat(self, seat_id: str, event_id: str = EVENT.id) -> Item:
        key = seat_key(event_id, seat_id)
        request = {"TableName": self.tables.inventory, "Key": key, "ConsistentRead": True}
        item: Item = (await self.client.call("GetItem", request))["Item"]
        return item

    async def put(self, table: str, *items: Item) -> None:
        puts = [{"PutRequest": {"Item": item}} for item in items]
        for start in range(0, len(puts), 25):
            request = {"RequestItems": {table: puts[start : start + 25]}}
            answer = await self.client.call("BatchWriteItem", request)
            assert not answer.get("UnprocessedItems")

    async def _scan(self, table: str) -> list[Item]:
        items: list[Item] = []
        page: dict[str, Any] = {"TableName": table, "ConsistentRead": True}
        while True:
            reply = await self.client.call("Scan", page, timeout=30.0)
            items += reply["Items"]
            if not (last := reply.get("LastEvaluatedKey")):
                return items
            page["ExclusiveStartKey"] = last

    async def drain(self) -> None:
        """Waits until no command is under way."""
        for party in self._parties:
            await party.holds.drain()
            await party.service.drain()

    async def close(self) -> None:
        await self.drain()
        for client in self._clients:
            await client.close()


@asynccontextmanager
async def open_venue(url: str, wire: Wire = "lean") -> AsyncIterator[Venue]:
    """Tables of our own on the emulator at `url`, so that tests share it; gone at the end. SEATS are on sale."""
    prefix = f"test-{uuid.uuid4().hex}"
    names = ("reservations", "orders", "idempotency", "outbox", "inventory", "leases")
    tables = Tables(*(f"{prefix}-{name}" for name in names))
    async with _session().create_client("dynamodb", endpoint_url=url) as dynamodb:
        await create_tables(dynamodb, tables)
        client = await connect(AwsConfig("us-east-1", client=wire), "dynamodb", endpoint_url=url)
        venue = Venue(url, wire, tables, client)
        try:
            await venue.sell()
            yield venue
        finally:
            await venue.close()
            await asyncio.gather(*(dynamodb.delete_table(TableName=f"{prefix}-{name}") for name in names))


@cache
def _session() -> AioSession:
    """One for all venues: it reads the description of the API once."""
    return session(AwsConfig("us-east-1"))


def _key(item: Item) -> list[str]:
    names = ("pk", "shard", "seq", "orderId", "reservationId", "idempotencyKey")
    return [item[name]["S"] for name in names if name in item]
