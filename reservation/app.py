"""The composition root: settings become a running service. Only this module builds objects."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from random import Random

import grpc
import structlog

from reservation.api.inventory import InventoryHandlers, inventory_service
from reservation.api.reservations import ReservationHandlers, reservation_service
from reservation.api.server import Health, build
from reservation.audience import Audience
from reservation.availability import Availability
from reservation.aws.client import AwsClient
from reservation.aws.errors import AwsError
from reservation.aws.session import AwsConfig, Service, connect
from reservation.background.expiry import Expiry
from reservation.background.leader import Leader
from reservation.background.readiness import Readiness
from reservation.background.relay import Relay
from reservation.clock import Clock
from reservation.dynamodb.halls import Halls
from reservation.dynamodb.leases import LeaseTable
from reservation.dynamodb.outbox import Outbox
from reservation.dynamodb.reservations import DynamoReservations
from reservation.dynamodb.seats import EmbeddedInventory
from reservation.dynamodb.tables import Tables
from reservation.eventbridge import EventBridge
from reservation.service import Policy, Reservations
from reservation.settings import Settings
from reservation.watches import Watches

log = structlog.get_logger()

DRAIN_SECONDS = 10.0
"""How long requests under way may take to finish after a stop was asked for."""


class StartError(Exception):
    """The service cannot start; the text says what to change."""


@dataclass(frozen=True, slots=True)
class Running:
    """A service that takes requests on `grpc_port`."""

    grpc_port: int


def tables_of(settings: Settings) -> Tables:
    return Tables(
        reservations=settings.dynamodb_table_reservations,
        orders=settings.dynamodb_table_orders,
        idempotency=settings.dynamodb_table_idempotency,
        outbox=settings.dynamodb_table_outbox,
        inventory=settings.dynamodb_table_inventory,
        leases=settings.dynamodb_table_leases,
    )


def aws_config_of(settings: Settings) -> AwsConfig:
    return AwsConfig(region=settings.aws_region, profile=settings.aws_profile, client=settings.aws_client)


@asynccontextmanager
async def running(settings: Settings, *, clock_offset: int = 0) -> AsyncIterator[Running]:
    """Serves inside the block. `clock_offset` (milliseconds) moves the service's clock, for tests and drills.

    Raises StartError. Shutting down, in this order: not ready, watches end, no new requests, those under way finish,
    commands whose callers left finish, loops stop, leases are handed over, connections close.
    """
    async with AsyncExitStack() as closing:
        clients = await _connect(settings, closing)
        await _require_bus(clients.events, settings.eventbridge_bus_name)
        parts = _Parts(settings, clients, Clock(lambda: clients.requests.server_date, offset=clock_offset))
        reservations = parts.reservations(clients.requests)
        watches = Watches(reservations, parts.audience, parts.clock, max_clock_skew=parts.policy.max_clock_skew)
        expiry = parts.expiry()
        health = Health()
        await health.start()
        server = build(parts.services(reservations, watches), health)
        port = _bind(server, settings)
        readiness = Readiness(clients.requests, parts.tables, parts.clock, health.ready)
        await parts.background.enroll()
        await server.start()
        log.warning("authentication.off", consequence="every caller is believed; keep the ports private")
        log.info("serving", grpc_port=port, worker_id=parts.background.worker_id)
        loops = [
            asyncio.create_task(loop, name=name)
            for name, loop in (
                ("readiness", readiness.run()),
                ("leader", parts.background.leader.run()),
                ("expiry", expiry.run()),
                ("hints", parts.halls.run()),
                ("watches", watches.run()),
            )
        ]
        try:
            yield Running(port)
        finally:
            await health.leave()
            parts.audience.close()  # or the server would wait for watches, which have no end of their own
            await server.stop(DRAIN_SECONDS)
            await reservations.drain()
            await parts.background.stop(loops)
            await parts.halls.flush()
            log.info("stopped")


@dataclass(frozen=True, slots=True)
class _Clients:
    """One for requests and one for each loop that must not wait behind them: a heartbeat least of all."""

    requests: AwsClient
    loops: AwsClient
    leases: AwsClient
    events: AwsClient


async def _connect(settings: Settings, closing: AsyncExitStack) -> _Clients:
    config = aws_config_of(settings)

    async def client(service: Service, endpoint: str | None, pool_size: int) -> AwsClient:
        connected = await connect(config, service, endpoint_url=endpoint, pool_size=pool_size)
        closing.push_async_callback(connected.close)
        return connected

    return _Clients(
        requests=await client("dynamodb", settings.dynamodb_endpoint, 64),
        loops=await client("dynamodb", settings.dynamodb_endpoint, 32),
        leases=await client("dynamodb", settings.dynamodb_endpoint, 4),
        events=await client("events", settings.eventbridge_endpoint, 32),
    )


async def _require_bus(client: AwsClient, bus: str) -> None:
    """PutEvents to a bus that is not there reports success, and the events are gone. Only a definite answer counts: a
    time-out or a missing permission says nothing about the bus."""
    try:
        if not await EventBridge(client, bus).bus_exists():
            raise StartError(f"there is no event bus {bus} (EVENTBRIDGE_BUS_NAME): events sent to it would vanish")
    except AwsError as error:
        log.warning("bus.unchecked", bus=bus, error=str(error))


class _Background:
    """The leader, and the relay that works on what it holds. `worker_id`: this process's name in the leases table."""

    def __init__(self, worker_id: str, leader: Leader, relay: Relay) -> None:
        self.worker_id = worker_id
        self.leader = leader
        self.relay = relay

    async def enroll(self) -> None:
        try:
            await self.leader.enroll()
        except AwsError as error:
            log.warning("leases.not_enrolled", error=str(error))  # its loop goes on trying

    async def stop(self, loops: Iterable[asyncio.Task[None]]) -> None:
        """Ends the work before the leases that allow it are handed over."""
        await self.relay.stop()
        for loop in loops:
            loop.cancel()
        await asyncio.gather(*loops, return_exceptions=True)
        await self.leader.stop()


def _background(settings: Settings, clients: _Clients, clock: Clock) -> _Background:
    tables = tables_of(settings)
    leases = LeaseTable(clients.leases, tables.leases, lease_seconds=settings.lease_seconds)

    def follow(gained: frozenset[str], lost: frozenset[str]) -> None:
        for shard in lost:
            relay.lost(shard)
        for shard in gained:
            relay.gained(shard)

    worker_id = os.urandom(8).hex()
    leader = Leader(
        leases,
        worker_id=worker_id,
        lease_seconds=settings.lease_seconds,
        shard_count=settings.shards,
        monotonic=time.monotonic,
        now=clock.now,
        random=Random(),
        on_change=follow,
        fit=clock.trusted,  # without it nothing would be expired, and its shards must be another's
    )
    relay = Relay(
        Outbox(clients.loops, tables.outbox),
        EventBridge(clients.events, settings.eventbridge_bus_name),
        may_work_on=leader.may_work_on,
        now=clock.now,
    )
    return _Background(worker_id, leader, relay)


class _Parts:
    """What requests and the loops beside them have in common, and what is made of it."""

    def __init__(self, settings: Settings, clients: _Clients, clock: Clock) -> None:
        self.settings = settings
        self.tables = tables_of(settings)
        self.clients = clients
        self.clock = clock
        self.policy = _policy(settings)
        self.background = _background(settings, clients, clock)
        self.halls = Halls(clients.loops, self.tables.inventory, now=clock.now)
        self.audience = Audience()

    def inventory(self, client: AwsClient) -> EmbeddedInventory:
        leader = self.background.leader
        return EmbeddedInventory(
            client, self.tables.inventory, halls=self.halls, stripe=lambda: leader.position, now=self.clock.now
        )

    def reservations(self, client: AwsClient) -> Reservations:
        inventory = self.inventory(client)
        store = DynamoReservations(
            client,
            self.tables,
            inventory,
            now=self.clock.now,
            key_window=self.settings.idempotency_ttl_seconds * 1000,
            event_written=self.background.relay.nudge,
            changed=self.audience.notice,
        )
        return Reservations(store, inventory, self.policy, self.clock, self.background.leader.shard_for)

    def expiry(self) -> Expiry:
        """Over connections of its own: at the peak of a sale holds must end on time."""
        leader = self.background.leader
        return Expiry(
            self.reservations(self.clients.loops),
            held_shards=lambda: leader.held,
            may_work_on=leader.may_work_on,
            now=self.clock.now,
            clock_trusted=self.clock.trusted,
        )

    def services(self, reservations: Reservations, watches: Watches) -> list[grpc.GenericRpcHandler]:
        availability = Availability(self.inventory(self.clients.requests), self.clock)
        return [
            reservation_service(ReservationHandlers(reservations, watches, max_seats=self.policy.max_seats)),
            inventory_service(InventoryHandlers(availability, max_seats=self.policy.max_seats)),
        ]


def _policy(settings: Settings) -> Policy:
    return Policy(
        hold=settings.hold_seconds * 1000,
        max_clock_skew=int(settings.max_clock_skew_seconds * 1000),
        max_seats=settings.max_seats_per_reservation,
        max_holds_per_user=settings.max_holds_per_user,
        max_extensions=settings.hold_extensions_max,
        max_hold_total=settings.hold_total_seconds_max * 1000,
    )


def _bind(server: grpc.aio.Server, settings: Settings) -> int:
    address = f"{settings.bind_host}:{settings.grpc_server_port}"
    try:
        port: int = server.add_insecure_port(address)
    except RuntimeError as error:
        raise StartError(f"cannot listen on {address} (BIND_HOST:GRPC_SERVER_PORT): is it in use?") from error
    return port
