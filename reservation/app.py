"""The composition root: settings become a running service. Only this module builds objects."""

import os
import re
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from random import Random

import grpc
import structlog

from reservation.api.inventory import inventory_service
from reservation.api.reservations import ReservationHandlers, reservation_service
from reservation.api.server import Health, build
from reservation.aws.client import AwsClient
from reservation.aws.errors import AwsError
from reservation.aws.session import AwsConfig, Service, connect
from reservation.background.bus import Bus, BusCheck
from reservation.background.expiry import Expiry
from reservation.background.leader import Leader
from reservation.background.loops import Loops
from reservation.background.readiness import Readiness
from reservation.background.relay import Relay
from reservation.clock import Clock
from reservation.dynamodb.leases import LeaseTable
from reservation.dynamodb.outbox import Outbox
from reservation.dynamodb.reservations import DynamoReservations
from reservation.dynamodb.seats import EmbeddedInventory
from reservation.dynamodb.tables import Tables
from reservation.eventbridge import EventBridge
from reservation.service import Policy, Reservations
from reservation.settings import Settings

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

    Raises StartError, and LoopDied when a loop dies: it interrupts the block. Shutting down, in this order: not ready,
    no new requests, those under way finish, commands whose callers left finish, loops stop, leases are handed over,
    connections close.
    """
    async with AsyncExitStack() as closing:
        clients = await _connect(settings, closing)
        bus = BusCheck(_events(settings, clients), settings.eventbridge_bus_name)
        if await bus.check() is Bus.MISSING:
            raise StartError(f"{bus.problem} (EVENTBRIDGE_BUS_NAME): events sent to it would vanish")
        clock = Clock(lambda: clients.requests.server_date, offset=clock_offset)
        worker_id = new_worker_id()
        loops = Loops()
        background = _background(settings, clients, clock, bus, worker_id, loops)
        reservations = _reservations(settings, clients.requests, clock, background)
        expiry = _expiry(settings, clients, clock, background)
        health = Health()
        await health.start()
        handlers = ReservationHandlers(reservations, max_seats=settings.max_seats_per_reservation)
        server = build([reservation_service(handlers), inventory_service()], health)
        port = _bind(server, settings)
        readiness = Readiness(clients.requests, tables_of(settings), clock, bus, health.ready)
        await background.enroll()
        await server.start()
        log.warning("authentication.off", consequence="every caller is believed; keep the ports private")
        log.info("serving", grpc_port=port, worker=worker_id)
        loops.start(readiness.run(), name="readiness")
        loops.start(bus.run(), name="bus")
        loops.start(background.leader.run(), name="leader")
        loops.start(expiry.run(), name="expiry")
        try:
            async with loops.watched():
                yield Running(port)
        finally:
            await health.leave()
            await server.stop(DRAIN_SECONDS)
            await reservations.drain()
            await background.stop(loops)
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


class _Background:
    """The leader, and the relay that works on what it holds."""

    def __init__(self, leader: Leader, relay: Relay) -> None:
        self.leader = leader
        self.relay = relay

    async def enroll(self) -> None:
        try:
            await self.leader.enroll()
        except AwsError as error:
            log.warning("leases.not_enrolled", error=str(error))  # its loop goes on trying

    async def stop(self, loops: Loops) -> None:
        """Ends the work before the leases that allow it are handed over."""
        await self.relay.stop()
        await loops.stop()
        await self.leader.stop()


def new_worker_id() -> str:
    """Says which process it is: host-pid-chance. One that starts again in a container has the host and pid it had."""
    host = re.sub("[^A-Za-z0-9]+", "-", socket.gethostname().partition(".")[0])
    return f"{host[:63]}-{os.getpid()}-{os.urandom(4).hex()}"


def _events(settings: Settings, clients: _Clients) -> EventBridge:
    return EventBridge(clients.events, settings.eventbridge_bus_name)


def _background(
    settings: Settings, clients: _Clients, clock: Clock, bus: BusCheck, worker_id: str, loops: Loops
) -> _Background:
    tables = tables_of(settings)
    leases = LeaseTable(clients.leases, tables.leases, lease_seconds=settings.lease_seconds)

    def follow(gained: frozenset[str], lost: frozenset[str]) -> None:
        for shard in lost:
            relay.lost(shard)
        for shard in gained:
            relay.gained(shard)

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
        _events(settings, clients),
        may_work_on=lambda shard: bus.may_publish and leader.may_work_on(shard),
        now=clock.now,
        start=loops.start,
    )
    return _Background(leader, relay)


def _reservations(settings: Settings, client: AwsClient, clock: Clock, background: _Background) -> Reservations:
    tables = tables_of(settings)
    inventory = EmbeddedInventory(client, tables.inventory, now=clock.now)
    store = DynamoReservations(
        client,
        tables,
        inventory,
        now=clock.now,
        key_window=settings.idempotency_ttl_seconds * 1000,
        event_written=background.relay.nudge,
    )
    policy = Policy(hold=settings.hold_seconds * 1000, max_clock_skew=int(settings.max_clock_skew_seconds * 1000))
    return Reservations(store, inventory, policy, clock, background.leader.shard_for)


def _expiry(settings: Settings, clients: _Clients, clock: Clock, background: _Background) -> Expiry:
    """Over connections of its own: at the peak of a sale holds must end on time."""
    leader = background.leader
    return Expiry(
        _reservations(settings, clients.loops, clock, background),
        held_shards=lambda: leader.held,
        may_work_on=leader.may_work_on,
        now=clock.now,
        clock_trusted=clock.trusted,
    )


def _bind(server: grpc.aio.Server, settings: Settings) -> int:
    address = f"{settings.bind_host}:{settings.grpc_server_port}"
    try:
        port: int = server.add_insecure_port(address)
    except RuntimeError as error:
        raise StartError(f"cannot listen on {address} (BIND_HOST:GRPC_SERVER_PORT): is it in use?") from error
    return port
