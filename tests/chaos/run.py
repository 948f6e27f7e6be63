"""A run: customers come, everything fails around them, then all is healed, and when it is quiet the sums are done."""

import asyncio
import math
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import grpc
import orjson

from reservation import app
from reservation.audit.promises import Finding, Graces
from reservation.audit.reading import Audit
from reservation.aws.client import AwsClient
from reservation.domain.model import Status
from reservation.dynamodb.items import reservation_from_item
from tests.bench.processes import REDIAL
from tests.chaos import nemesis, system
from tests.chaos.customers import Customers, hall_for
from tests.chaos.doors import Entrance, GrpcEntrance, RestEntrance
from tests.chaos.history import Delivery, Journal, Kind
from tests.chaos.nemesis import Harm, Nemesis
from tests.chaos.system import Hall, System
from tests.chaos.told import Bounds
from tests.support.event_bus_proxy import EventBusProxy
from tests.support.event_queue import Received, receiving
from tests.support.invariants import Rows
from tests.support.system import scan

CUSTOMERS = 120
"""At once: what two cores bear that also run the emulators, Envoy, the proxies and the customers themselves."""

_QUIET_WITHIN_SECONDS, _LOOK_EVERY_SECONDS = 60.0, 1.0
_DISTRUST_MS = 15_000  # a freeze, and the time until DynamoDB answers again
_GRACES = Graces(expiry=10_000, outbox=10_000)


@dataclass(frozen=True, slots=True)
class Happened:
    """A run that is over. `seconds`: until the last of the customers had left, who came for `asked_seconds`. `answers`
    by kind and status; `faults` by endpoint and kind. `problems`: what the processes did that they should not have."""

    asked_seconds: float
    seconds: float
    answers: Counter[tuple[Kind, str]]
    faults: dict[str, Counter[str]]
    harms: Counter[Harm]
    partitioned_calls: int
    partition_seconds: float
    problems: list[str]


@dataclass(frozen=True, slots=True)
class Left:
    """What there is at the end: everything in the tables, what the bus accepted and the queue delivered, and what the
    audit finds."""

    rows: Rows
    deliveries: list[Delivery]
    received: Received
    findings: list[Finding]
    bounds: Bounds


async def run(
    seconds: float, seed: int, history: Path, logs: Path, *, customers: int = CUSTOMERS
) -> tuple[Happened, Left]:
    """`customers`: at once. The requests and answers are then in the file `history`, and what the processes
    said in the folder `logs`."""
    rng, received = random.Random(seed), Received()
    hall = hall_for(seconds)
    async with AsyncExitStack() as stack:
        this = await stack.enter_async_context(system.up(rng, hall, logs))
        await stack.enter_async_context(receiving(this.settings, this.queue_url, received))
        entrances = await stack.enter_async_context(_entrances(this))
        journal = stack.enter_context(Journal(history))
        crowd = Customers(seed, entrances, journal, seconds)
        happened = await _break(this, rng, crowd, seconds, customers)
        calm_at = _now()
        await _quiet(this)
        return happened, await _left(this, received, calm_at, hall)


async def _break(this: System, rng: random.Random, crowd: Customers, seconds: float, at_once: int) -> Happened:
    harm = Nemesis(this.members, this.store)
    plans = nemesis.plan(rng, seconds, len(this.members))
    began, enough = time.monotonic(), asyncio.Event()
    async with asyncio.TaskGroup() as trouble:
        this.store.active = this.bus.active = True
        trouble.create_task(crowd.come(at_once, enough))
        await asyncio.gather(harm.run(plans), asyncio.sleep(seconds))
        enough.set()
    this.store.active = this.bus.active = False
    return Happened(
        asked_seconds=seconds,
        seconds=time.monotonic() - began,
        answers=crowd.answers,
        faults={"DynamoDB": this.store.counts, "EventBridge": this.bus.counts},
        harms=harm.done,
        partitioned_calls=this.store.partitioned_calls,
        partition_seconds=this.store.partition_seconds,
        problems=harm.problems,
    )


async def _left(this: System, received: Received, calm_at: int, hall: Hall) -> Left:
    tables = app.tables_of(this.settings)
    _, findings = await Audit(this.dynamodb, tables, now=_now, graces=_GRACES, receiver=received).run()
    names = (tables.reservations, tables.orders, tables.idempotency, tables.outbox, tables.inventory)
    rows = Rows(*[tuple(await scan(this.dynamodb, name)) for name in names])
    bounds = Bounds(
        skew=round(1000 * system.SKEW_SECONDS),
        read_skew=round(1000 * system.MAX_CLOCK_SKEW_SECONDS),
        hold=1000 * system.HOLD_SECONDS,
        grace=_GRACES.expiry,
        distrust=_DISTRUST_MS,
        calm_at=calm_at,
        read_at=_now(),
        capacity={system.EVENT_ID: hall.seats + hall.places},
    )
    return Left(rows, list(_deliveries(this.events)), received, findings, bounds)


def _deliveries(bus: EventBusProxy) -> Iterator[Delivery]:
    """In the order in which the bus accepted them."""
    epoch = time.time() - time.monotonic()
    for entry, accepted_at in zip(bus.accepted, bus.accepted_at, strict=True):
        yield Delivery(math.ceil(1000 * (epoch + accepted_at)), orjson.loads(entry["Detail"]))


@asynccontextmanager
async def _entrances(this: System) -> AsyncIterator[list[Entrance]]:
    """Half of the customers come over REST."""
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
        rest = RestEntrance(http, this.edge.url)
        grpc_edge = await stack.enter_async_context(
            grpc.aio.insecure_channel(this.edge.url.removeprefix("http://"), options=REDIAL)
        )
        direct = [
            GrpcEntrance(
                await stack.enter_async_context(grpc.aio.insecure_channel(each.service.address, options=REDIAL)),
                each.name,
            )
            for each in this.members
        ]
        through = GrpcEntrance(grpc_edge)
        yield [rest, rest, rest, through, through, *direct]


async def _quiet(this: System) -> None:
    """Waits until no hold lives and no event waits, or long enough: what is wrong then will be found."""
    tables = app.tables_of(this.settings)
    with suppress(TimeoutError):
        async with asyncio.timeout(_QUIET_WITHIN_SECONDS):
            while True:
                waiting = await scan(this.dynamodb, tables.outbox)
                if not waiting and not await _hold_lives(this.dynamodb, tables.reservations):
                    return
                await asyncio.sleep(_LOOK_EVERY_SECONDS)


async def _hold_lives(dynamodb: AwsClient, reservations: str) -> bool:
    items = await scan(dynamodb, reservations)
    return any(reservation_from_item(item).status is Status.HOLD for item in items)


def _now() -> int:
    return time.time_ns() // 1_000_000
