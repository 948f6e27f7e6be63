"""The composition root: settings become a running service. Only this module builds objects."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from random import Random

import grpc
import structlog

from reservation.api.inventory import InventoryHandlers, inventory_service
from reservation.api.reservations import ReservationHandlers, reservation_service
from reservation.api.server import Health, build
from reservation.aws.client import AwsClient
from reservation.aws.errors import AwsError
from reservation.aws.session import AwsConfig, Service, connect
from reservation.background.expiry import Expiry
from reservation.background.leader import Leader
from reservation.background.readiness import Readiness
from reservation.background.recovery import Recovery
from reservation.background.relay import Relay
from reservation.clock import Clock
from reservation.dynamodb.leases import LeaseTable
from reservation.dynamodb.outbox import Outbox
from reservation.dynamodb.reservations import DynamoReservations
from reservation.dynamodb.sagas import DynamoSagas
from reservation.dynamodb.seats import EmbeddedInventory
from reservation.dynamodb.tables import Tables
from reservation.eventbridge import EventBridge
from reservation.holds import Holds
from reservation.inventory.breaker import Breaker
from reservation.inventory.remote import CHANNEL_OPTIONS, RemoteInventory
from reservation.inventory.saga import RemoteSales
from reservation.service import Policy, Reservations, new_op_id
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

    Raises StartError. Shutting down, in this order: not ready, no new requests, those under way finish, commands whose
    callers left finish, loops stop, leases are handed over, connections close.
    """
    async with AsyncExitStack() as closing:
        clients = await _connect(settings, closing)
        await _require_bus(clients.events, settings.eventbridge_bus_name)
        clock = Clock(lambda: clients.requests.server_date, offset=clock_offset)
        background = _background(settings, clients, clock)
        remote = remote_inventory(settings, closing)
        use_cases = _use_cases(settings, clients.requests, clock, background, remote)
        # Over connections of their own: at the peak of a sale holds must end on time.
        settling = _use_cases(settings, clients.loops, clock, background, remote)
        health = Health()
        await health.start()
        server = build(_services(use_cases, settings), health)
        port = _bind(server, settings)
        readiness = Readiness(clients.requests, tables_of(settings), clock, health.ready)
        await background.enroll()
        await server.start()
        log.warning("authentication.off", consequence="every caller is believed; keep the ports private")
        log.info("serving", grpc_port=port, inventory=settings.grpc_client_inventory_service_address or "embedded")
        loops = [
            asyncio.create_task(loop, name=name)
            for name, loop in {
                "readiness": readiness.run(),
                "leader": background.leader.run(),
                **_work_of(settling, clock, background),
            }.items()
        ]
        try:
            yield Running(port)
        finally:
            await health.leave()
            await server.stop(DRAIN_SECONDS)
            await use_cases.drain()
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


async def _require_bus(client: AwsClient, bus: str) -> None:
    """PutEvents to a bus that is not there reports success, and the events are gone. Only a definite answer counts: a
    time-out or a missing permission says nothing about the bus."""
    try:
        if not await EventBridge(client, bus).bus_exists():
            raise StartError(f"there is no event bus {bus} (EVENTBRIDGE_BUS_NAME): events sent to it would vanish")
    except AwsError as error:
        log.warning("bus.unchecked", bus=bus, error=str(error))


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

    leader = Leader(
        leases,
        worker_id=os.urandom(8).hex(),
        lease_seconds=settings.lease_seconds,
        shard_count=settings.shards,
        monotonic=time.monotonic,
        now=clock.now,
        random=Random(),
        on_change=follow,
    )
    relay = Relay(
        Outbox(clients.loops, tables.outbox),
        EventBridge(clients.events, settings.eventbridge_bus_name),
        may_work_on=leader.may_work_on,
        now=clock.now,
    )
    return _Background(leader, relay)


@dataclass(frozen=True, slots=True)
class _UseCases:
    """`holds`: none if the seats are another service's. `sagas`: only then."""

    reservations: Reservations
    holds: Holds | None = None
    sagas: RemoteSales | None = None

    async def drain(self) -> None:
        if self.holds is not None:
            await self.holds.drain()
        await self.reservations.drain()


def remote_inventory(settings: Settings, closing: AsyncExitStack) -> RemoteInventory | None:
    """Closed with `closing`. None: this service keeps the seats itself."""
    address = settings.grpc_client_inventory_service_address
    if address is None:
        return None
    channel = grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
    closing.push_async_callback(channel.close)
    breaker = Breaker(settings.grpc_client_inventory_service_failure_rate_threshold, monotonic=time.monotonic)
    return RemoteInventory(channel, breaker, timeout=settings.grpc_client_inventory_service_timeout)


def _use_cases(
    settings: Settings, client: AwsClient, clock: Clock, background: _Background, remote: RemoteInventory | None
) -> _UseCases:
    tables, shard_for = tables_of(settings), background.leader.shard_for
    policy = Policy(
        hold=settings.hold_seconds * 1000,
        max_clock_skew=int(settings.max_clock_skew_seconds * 1000),
        max_seats=settings.max_seats_per_reservation,
        max_holds_per_user=settings.max_holds_per_user,
        max_extensions=settings.hold_extensions_max,
        max_hold_total=settings.hold_total_seconds_max * 1000,
    )
    window, nudge = settings.idempotency_ttl_seconds * 1000, background.relay.nudge
    if remote is not None:
        records = DynamoSagas(client, tables, now=clock.now, key_window=window, event_written=nudge)
        sagas = RemoteSales(records, remote, now=clock.now, new_op_id=new_op_id)
        return _UseCases(Reservations(sagas, remote, policy, clock, shard_for), sagas=sagas)
    inventory = EmbeddedInventory(client, tables.inventory, now=clock.now)
    store = DynamoReservations(client, tables, inventory, now=clock.now, key_window=window, event_written=nudge)
    reservations = Reservations(store, inventory, policy, clock, shard_for)
    return _UseCases(reservations, holds=Holds(reservations, store, policy, clock))


def _services(use_cases: _UseCases, settings: Settings) -> list[grpc.GenericRpcHandler]:
    max_seats = settings.max_seats_per_reservation
    inventory = InventoryHandlers(use_cases.holds, max_seats=max_seats) if use_cases.holds is not None else None
    return [
        reservation_service(ReservationHandlers(use_cases.reservations, max_seats=max_seats)),
        inventory_service(inventory),
    ]


def _work_of(use_cases: _UseCases, clock: Clock, background: _Background) -> dict[str, Coroutine[None, None, None]]:
    """The loops that settle what is over, on the shards that this process holds."""
    leader = background.leader
    expiry = Expiry(
        use_cases.reservations,
        held_shards=lambda: leader.held,
        may_work_on=leader.may_work_on,
        now=clock.now,
        clock_trusted=clock.trusted,
    )
    if use_cases.sagas is None:
        return {"expiry": expiry.run()}
    recovery = Recovery(
        use_cases.sagas,
        held_shards=lambda: leader.held,
        may_work_on=leader.may_work_on,
        now=clock.now,
        clock_trusted=clock.trusted,
    )
    return {"expiry": expiry.run(), "recovery": recovery.run()}


def _bind(server: grpc.aio.Server, settings: Settings) -> int:
    address = f"{settings.bind_host}:{settings.grpc_server_port}"
    try:
        port: int = server.add_insecure_port(address)
    except RuntimeError as error:
        raise StartError(f"cannot listen on {address} (BIND_HOST:GRPC_SERVER_PORT): is it in use?") from error
    return port
