"""A sale to measure: real service processes over one store, an event to sell from, and a channel to each process."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import grpc

from reservation import app
from reservation.aws.client import AwsClient
from reservation.catalog import DEMO_EVENT
from reservation.domain.model import Event, Money, Seat
from reservation.dynamodb.events import EventImport
from reservation.dynamodb.leases import NOBODY, LeaseTable
from reservation.settings import Settings
from tests.bench import processes
from tests.bench.processes import KillableService
from tests.support.command import environment_of
from tests.support.system import dynamodb_of, make_tables

_PATIENCE_SECONDS = 60.0
_LOOK_EVERY_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class BoxOffice:
    """`channels` are to the `services`, in their order. `dynamodb` reaches the tables directly."""

    settings: Settings
    dynamodb: AwsClient
    services: list[KillableService]
    channels: list[grpc.aio.Channel]


@asynccontextmanager
async def opened(settings: Settings, *, services: int, seats: int, hold_seconds: int) -> AsyncIterator[BoxOffice]:
    """New tables with seats `S-0`, `S-1`, ... on sale; every process serves and the shards are shared out fairly."""
    await make_tables(settings)
    async with AsyncExitStack() as closing:
        dynamodb = await closing.enter_async_context(dynamodb_of(settings))
        event = Event(DEMO_EVENT.id, DEMO_EVENT.name, hold_seconds)
        importing = EventImport(dynamodb, settings.dynamodb_table_inventory)
        await importing.run(event, [_seat(number) for number in range(seats)], lambda _: None)
        running = await closing.enter_async_context(processes.killable(environment_of(settings), services))
        await _shared_out(settings, dynamodb, services)
        channels = [
            await closing.enter_async_context(grpc.aio.insecure_channel(each.address, options=processes.REDIAL))
            for each in running
        ]
        await asyncio.gather(*(channel.channel_ready() for channel in channels))
        yield BoxOffice(settings, dynamodb, running, channels)


async def offer(rate: float, seconds: float, customer: Callable[[int], Awaitable[None]]) -> None:
    """`customer(0)`, `customer(1)`, ... come at an even pace, whatever becomes of those before. Waits for all."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with asyncio.TaskGroup() as under_way:
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, began + number / rate - loop.time()))
            under_way.create_task(_come(customer, number))


async def _come(customer: Callable[[int], Awaitable[None]], number: int) -> None:
    await customer(number)


async def _shared_out(settings: Settings, dynamodb: AwsClient, services: int) -> None:
    """Waits until every shard has an owner and nobody has two more than another."""
    leases = LeaseTable(dynamodb, app.tables_of(settings).leases, lease_seconds=settings.lease_seconds)
    async with asyncio.timeout(_PATIENCE_SECONDS):
        while True:
            sizes = Counter(shard.owner for shard in (await leases.scan()).shards)
            if len(sizes) == services and NOBODY not in sizes and max(sizes.values()) - min(sizes.values()) <= 1:
                return
            await asyncio.sleep(_LOOK_EVERY_SECONDS)


def _seat(number: int) -> Seat:
    return Seat(f"S-{number}", "Floor", "S", str(number), Money(120_000, "KRW"))
