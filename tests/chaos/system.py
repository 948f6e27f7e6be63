"""The system that is broken: three processes of the service with clocks of their own, a real Envoy before them, and
proxies that do harm between them and the emulators of DynamoDB and EventBridge."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from reservation import ministack
from reservation.aws.client import AwsClient
from reservation.domain.model import Event, Money, Seat
from reservation.dynamodb.events import EventImport
from reservation.edge import RunningEdge
from reservation.settings import Settings
from tests.bench.processes import KillableService
from tests.chaos.injection import BUS_FAULTS, STORE_FAULTS, Injector
from tests.support.conflict_proxy import ConflictProxy
from tests.support.edge import edge_over
from tests.support.event_bus_proxy import EventBusProxy
from tests.support.event_queue import subscribe
from tests.support.system import dynamodb_of, make_tables, own_settings

EVENT_ID = "evt_chaos"
FLOOR, STANDING = "Floor", "Standing"
HOLD_SECONDS = 6
SKEW_SECONDS = 2.0
"""By how much a process's clock is off, at most."""

MAX_CLOCK_SKEW_SECONDS = 2 * SKEW_SECONDS  # one may be early and the other late

_TOLERANCE_SECONDS = SKEW_SECONDS + 3.0  # DynamoDB tells whole seconds, and may take a while to answer

_SHARDS = 6  # each is polled four times a second, which the emulator has no time for

_STORE_SHARE, _BUS_SHARE = 0.015, 0.15
_TRANSACTION_SECONDS = 0.004
_ROW = 50


@dataclass(frozen=True, slots=True)
class Hall:
    """So many seats on the floor, `S-0`, `S-1` and so on, and so many places to stand."""

    seats: int
    places: int

    def seats_and_places(self) -> Iterator[Seat]:
        for number in range(self.seats):
            yield Seat(f"S-{number}", FLOOR, f"Row {number // _ROW}", str(number % _ROW + 1), Money(120_000, "KRW"))
        for number in range(self.places):
            yield Seat(f"{STANDING}-{number}", STANDING, "", "", Money(50_000, "KRW"))


@dataclass(frozen=True, slots=True)
class Member:
    """A process of the service. `name`: its access key id, by which the proxies know it. `offset`: of its clock, in
    milliseconds."""

    name: str
    offset: int
    service: KillableService


@dataclass(frozen=True, slots=True)
class System:
    """`settings` reach the tables past the proxies, and so does `dynamodb`. `store` and `bus` are what befalls the
    calls; the queue receives what `events` accepts."""

    settings: Settings
    dynamodb: AwsClient
    members: tuple[Member, ...]
    edge: RunningEdge
    store: Injector
    bus: Injector
    events: EventBusProxy
    queue_url: str


@asynccontextmanager
async def up(rng: random.Random, hall: Hall, logs: Path) -> AsyncIterator[System]:
    """Inside the block every process serves and sells; nothing befalls it yet. What the processes log is in the folder
    `logs`."""
    store, bus = Injector(rng, _STORE_SHARE, STORE_FAULTS), Injector(rng, _BUS_SHARE, BUS_FAULTS)
    async with AsyncExitStack() as stack:
        # Of the two emulators ministack bears three times as much.
        emulators = [await stack.enter_async_context(ministack.running()) for _ in range(2)]
        store_url, bus_url = (emulator.url for emulator in emulators)
        settings = own_settings(store_url, aws_eventbridge_endpoint=bus_url, shards=_SHARDS)
        queue_url = await subscribe(settings, "chaos")
        await make_tables(settings)
        dynamodb = await stack.enter_async_context(dynamodb_of(settings))
        await EventImport(dynamodb, settings.dynamodb_table_inventory).run(
            Event(EVENT_ID, "Chaos", HOLD_SECONDS), list(hall.seats_and_places()), lambda _: None
        )
        before_store = await stack.enter_async_context(
            ConflictProxy(store_url, hold=_TRANSACTION_SECONDS, mix_reasons=False, befalls=store.befalls)
        )
        before_bus = await stack.enter_async_context(EventBusProxy(bus_url, befalls=bus.befalls))
        broken = settings.model_copy(
            update={"aws_endpoint_url": before_store.url, "aws_eventbridge_endpoint": before_bus.url}
        )
        members = await stack.enter_async_context(_members(broken, rng, logs))
        ports = (int(member.service.address.rpartition(":")[2]) for member in members)
        edge = await stack.enter_async_context(edge_over(*ports))
        yield System(settings, dynamodb, members, edge, store, bus, before_bus, queue_url)


@asynccontextmanager
async def _members(settings: Settings, rng: random.Random, logs: Path) -> AsyncIterator[tuple[Member, ...]]:
    skew = round(1000 * SKEW_SECONDS)
    offsets = {"early": skew, "late": -skew, "between": rng.randrange(-skew, skew)}
    members = tuple(
        Member(name, offset, _service(settings, name, offset, logs / f"{name}.log")) for name, offset in offsets.items()
    )
    try:
        await asyncio.gather(*(member.service.start() for member in members))
        yield members
    finally:
        await asyncio.gather(*(member.service.stop() for member in members))


def _service(settings: Settings, name: str, offset: int, log: Path) -> KillableService:
    changed = settings.model_dump(exclude_defaults=True)
    environment = {key.upper(): str(value) for key, value in changed.items()}
    environment |= {"AWS_ACCESS_KEY_ID": name, "MAX_CLOCK_SKEW_SECONDS": str(MAX_CLOCK_SKEW_SECONDS)}
    module = ("tests.support.service_process", str(offset), str(_TOLERANCE_SECONDS))
    return KillableService(environment, module=module, log=log)
