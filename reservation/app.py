"""The composition root: settings become a running service. Only this module builds objects."""

import asyncio
import os
import re
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from random import Random
from typing import Any

import grpc
import structlog

from reservation.api.inventory import InventoryHandlers, inventory_service
from reservation.api.limits import Limits
from reservation.api.outcomes import Outcomes
from reservation.api.reservations import ReservationHandlers, reservation_service
from reservation.api.server import Health, build
from reservation.audience import PER_PROCESS, Audience
from reservation.auth import issuer
from reservation.auth.access import Access
from reservation.auth.issuer import Issuer
from reservation.auth.keyring import Keyring
from reservation.auth.tokens import Tokens
from reservation.auth.urls import is_loopback
from reservation.availability import Availability
from reservation.aws.client import AwsClient
from reservation.aws.errors import AwsError
from reservation.aws.session import AwsConfig, Service, connect
from reservation.background.bus import Bus, BusCheck
from reservation.background.dead_letters import DeadLetters
from reservation.background.expiry import Expiry
from reservation.background.leader import Leader
from reservation.background.loops import Loops
from reservation.background.readiness import Readiness
from reservation.background.recovery import Recovery
from reservation.background.relay import Relay
from reservation.clock import Clock
from reservation.domain.model import Reservation
from reservation.dynamodb.halls import Halls
from reservation.dynamodb.leases import LeaseTable
from reservation.dynamodb.outbox import Outbox
from reservation.dynamodb.reservations import DynamoReservations
from reservation.dynamodb.sagas import DynamoSagas
from reservation.dynamodb.seats import EmbeddedInventory
from reservation.dynamodb.tables import Tables
from reservation.edge import EdgeConfig
from reservation.edge_tls import ListenerTls, UpstreamTls
from reservation.eventbridge import EventBridge
from reservation.holds import Holds
from reservation.inventory.breaker import Breaker
from reservation.inventory.remote import CHANNEL_OPTIONS, RemoteInventory
from reservation.inventory.saga import RemoteSales
from reservation.inventory.token import TokenFile
from reservation.service import Policy, Reservations, new_op_id
from reservation.settings import Settings
from reservation.telemetry import exposition
from reservation.telemetry.gauges import Gauges
from reservation.telemetry.logs import pseudonyms
from reservation.telemetry.metrics import Metrics
from reservation.telemetry.traces import INVENTORY_STEPS, STORE_STEPS, NoTraces, Traces
from reservation.tls import BadCertificate, KeyPair, ServerCertificate, channel_credentials
from reservation.watches import Watches

log = structlog.get_logger()

DRAIN_SECONDS = 10.0
"""How long requests under way may take to finish after a stop was asked for."""


class StartError(Exception):
    """The service cannot start; the text says what to change."""


@dataclass(frozen=True, slots=True)
class Running:
    """A service that takes requests on `grpc_port`, and tells of itself on `metrics_port`."""

    grpc_port: int
    metrics_port: int


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


def edge_config_of(settings: Settings) -> EdgeConfig:
    """Envoy for this service. Raises StartError if only one of the two would speak TLS with the other."""
    if (settings.tls_cert_file is None) != (settings.edge_upstream_ca_file is None):
        raise StartError(
            "Envoy and the service speak TLS with each other, or neither does: set both or none of TLS_CERT_FILE"
            " and EDGE_UPSTREAM_CA_FILE"
        )
    listener = _key_pair(settings.edge_tls_cert_file, settings.edge_tls_key_file)
    upstream = _key_pair(settings.edge_upstream_cert_file, settings.edge_upstream_key_file)
    ca, client_ca = _absolute(settings.edge_upstream_ca_file), _absolute(settings.edge_tls_client_ca_file)
    return EdgeConfig(
        bind_host=settings.bind_host,
        port=settings.server_port,
        grpc_ports=(settings.grpc_server_port,),
        listener_tls=ListenerTls(listener, client_ca) if listener is not None else None,
        upstream_tls=UpstreamTls(ca, settings.edge_upstream_server_name, upstream) if ca is not None else None,
        cors_origins=settings.cors_allowed_origins,
        rate_per_second=settings.edge_rate_per_second,
        rate_burst=settings.edge_rate_burst,
        trusted_hops=settings.edge_trusted_hops,
        max_concurrent_rpcs=settings.max_concurrent_rpcs,
        metrics_port=settings.metrics_port,
        sampling=settings.otel_traces_sampler_arg,
    )


def _key_pair(certificate: Path | None, key: Path | None) -> KeyPair | None:
    return KeyPair(certificate.absolute(), key.absolute()) if certificate is not None and key is not None else None


def _absolute(file: Path | None) -> Path | None:
    """Envoy runs in another folder."""
    return file.absolute() if file is not None else None


@asynccontextmanager
async def running(
    settings: Settings, *, clock_offset: int = 0, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
) -> AsyncIterator[Running]:
    """Serves inside the block. `clock_offset` (milliseconds) moves the service's clock, for tests and drills; `sleep`
    is how it lingers.

    Raises StartError, and LoopDied when a loop dies: it interrupts the block. Shutting down, in this order: not ready,
    but serving until who looks at readiness has gone elsewhere; watches end, no new requests, those under way finish,
    commands whose callers left finish, loops stop, leases are handed over, connections close, spans that are left are
    sent.
    """
    _require_authentication(settings)
    credentials = _server_credentials(settings)
    async with AsyncExitStack() as closing:
        keyring = _keyring(settings, closing)
        telemetry = _telemetry(settings)
        closing.push_async_callback(telemetry.traces.close)
        metrics_port = await closing.enter_async_context(_exposition(settings, telemetry))
        clients = await _connect(settings, closing, telemetry)
        bus = BusCheck(_events(settings, clients, telemetry), settings.eventbridge_bus_name)
        if await bus.check() is Bus.MISSING:
            raise StartError(f"{bus.problem} (EVENTBRIDGE_BUS_NAME): events sent to it would vanish")
        clock = Clock(lambda: clients.requests.server_date, offset=clock_offset)
        loops = Loops()
        remote = remote_inventory(
            settings,
            closing,
            interceptors=telemetry.traces.client_interceptors(),
            asked=telemetry.metrics.asked_elsewhere,
        )
        parts = _Parts(settings, clients, clock, bus, loops, remote, telemetry)
        use_cases = parts.use_cases(clients.requests)
        watches = Watches(use_cases.reservations, parts.audience, clock, max_clock_skew=parts.policy.max_clock_skew)
        health = Health()
        await health.start()
        if keyring is not None:
            await keyring.refresh()
        else:
            log.warning("authentication.off", consequence="every caller is believed; keep the ports private")
        services = parts.services(use_cases, watches, _access(settings, keyring, clock))
        server = build(services, health, max_rpcs=_most_open(settings))
        port = _bind(server, settings, credentials)
        readiness = Readiness(clients.requests, parts.tables, parts.clock, bus, health.ready)
        await readiness.check()  # so that the first command finds a clock that is known to be right, or refused
        await parts.background.enroll()
        await server.start()
        log.info(
            "serving",
            grpc_port=port,
            metrics_port=metrics_port,
            worker_id=parts.background.worker_id,
            inventory=settings.grpc_client_inventory_service_address or "embedded",
            tls="off" if settings.tls_cert_file is None else "mutual" if settings.tls_client_ca_file else "on",
        )
        loops.start(readiness.run(), name="readiness")
        loops.start(bus.run(), name="bus")
        loops.start(parts.background.leader.run(), name="leader")
        loops.start(parts.halls.run(), name="hints")
        loops.start(watches.run(), name="watches")
        if keyring is not None:
            loops.start(keyring.run(), name="issuer keys")
        # Over connections of their own: at the peak of a sale holds must end on time.
        for name, loop in parts.work_of(parts.use_cases(clients.loops)).items():
            loops.start(loop, name=name)
        for name, loop in parts.looks(readiness, keyring).items():
            loops.start(loop, name=name)
        try:
            async with loops.watched():
                yield Running(port, metrics_port)
        finally:
            await health.leave()
            # A server that stops cancels what arrives until its goodbye has reached the clients, and what no handler
            # has begun (https://github.com/grpc/grpc/issues/41785): callers must have gone elsewhere before.
            await sleep(settings.linger_seconds)
            parts.audience.close()  # or the server would wait for watches, which have no end of their own
            await server.stop(DRAIN_SECONDS)
            await use_cases.drain()
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


@dataclass(frozen=True, slots=True)
class _Telemetry:
    """What is told of this process, and the name by which it is told of and known in the leases table."""

    worker_id: str
    metrics: Metrics
    traces: Traces | NoTraces
    outcomes: Outcomes

    def moved(self, before: Reservation | None, after: Reservation) -> None:
        self.metrics.moved(before.status.value if before is not None else None, after.status.value)


def _telemetry(settings: Settings) -> _Telemetry:
    worker_id, metrics = new_worker_id(), Metrics()
    traces: Traces | NoTraces = NoTraces()
    if settings.otel_exporter_otlp_endpoint is not None:
        traces = Traces(
            settings.otel_exporter_otlp_endpoint,
            settings.otel_traces_sampler_arg,
            version=_version(),
            instance=worker_id,
        )
    outcomes = Outcomes(
        metrics,
        pseudonym=pseudonyms(settings.log_user_key.get_secret_value()),
        lines_per_second=settings.log_access_per_second,
    )
    return _Telemetry(worker_id, metrics, traces, outcomes)


@asynccontextmanager
async def _exposition(settings: Settings, telemetry: _Telemetry) -> AsyncIterator[int]:
    info = {"version": _version(), "commit": settings.git_commit}
    async with AsyncExitStack() as closing:
        try:
            serving = exposition.serving(telemetry.metrics.registry, info, port=settings.metrics_port)
            port = await closing.enter_async_context(serving)
        except OSError as error:
            raise StartError(f"cannot listen on port {settings.metrics_port} (METRICS_PORT): {error}") from error
        yield port


def _version() -> str:
    try:
        return metadata.version("traffic-tacos-reservation")
    except metadata.PackageNotFoundError:
        return "unknown"  # it runs from a folder


async def _connect(settings: Settings, closing: AsyncExitStack, telemetry: _Telemetry) -> _Clients:
    config, trace = aws_config_of(settings), telemetry.traces.aws

    async def client(service: Service, endpoint: str | None, pool_size: int) -> AwsClient:
        connected = await connect(config, service, endpoint_url=endpoint, pool_size=pool_size, trace=trace)
        closing.push_async_callback(connected.close)
        return connected

    clients = _Clients(
        requests=await client("dynamodb", settings.dynamodb_endpoint, 64),
        loops=await client("dynamodb", settings.dynamodb_endpoint, 32),
        leases=await client("dynamodb", settings.dynamodb_endpoint, 4),
        events=await client("events", settings.eventbridge_endpoint, 32),
    )
    of_dynamodb = {"requests": clients.requests, "loops": clients.loops, "leases": clients.leases}
    telemetry.metrics.aws_clients("dynamodb", of_dynamodb)
    telemetry.metrics.aws_clients("eventbridge", {"events": clients.events})
    return clients


def _require_authentication(settings: Settings) -> None:
    if settings.jwt_issuer_uri is None and not is_loopback(settings.bind_host) and not settings.allow_unauthenticated:
        raise StartError(
            f"BIND_HOST={settings.bind_host} would let in everybody who reaches it: set JWT_ISSUER_URI and JWT_AUDIENCE"
            ", or ALLOW_UNAUTHENTICATED=true where nobody else can"
        )


def _keyring(settings: Settings, closing: AsyncExitStack) -> Keyring | None:
    """None: authentication is off. Closed with `closing`."""
    if settings.jwt_issuer_uri is None:
        return None
    try:
        session = issuer.connect(settings.jwt_issuer_uri, settings.jwt_ca_file)
    except OSError as error:
        raise StartError(f"JWT_CA_FILE={settings.jwt_ca_file}: {error}") from error
    closing.push_async_callback(session.close)
    keyring = Keyring(Issuer(session, settings.jwt_issuer_uri).keys)
    closing.push_async_callback(keyring.close)
    return keyring


def _access(settings: Settings, keyring: Keyring | None, clock: Clock) -> Access:
    tokens = None
    if keyring is not None and settings.jwt_issuer_uri is not None and settings.jwt_audience is not None:
        tokens = Tokens(keyring, issuer=settings.jwt_issuer_uri, audience=settings.jwt_audience, now=clock.now)
    return Access(tokens, trust_direct=settings.grpc_auth == "trusted")


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

    async def stop(self, loops: Loops) -> None:
        """Ends the work before the leases that allow it are handed over."""
        await self.relay.stop()
        await loops.stop()
        await self.leader.stop()


def new_worker_id() -> str:
    """Says which process it is: host-pid-chance. One that starts again in a container has the host and pid it had."""
    host = re.sub("[^A-Za-z0-9]+", "-", socket.gethostname().partition(".")[0])
    return f"{host[:63]}-{os.getpid()}-{os.urandom(4).hex()}"


def _events(settings: Settings, clients: _Clients, telemetry: _Telemetry) -> EventBridge:
    return EventBridge(clients.events, settings.eventbridge_bus_name, around=telemetry.traces.publishing)


def _background(
    settings: Settings, clients: _Clients, clock: Clock, bus: BusCheck, loops: Loops, telemetry: _Telemetry
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
        worker_id=telemetry.worker_id,
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
        _events(settings, clients, telemetry),
        may_work_on=leader.may_work_on,
        may_publish=lambda: bus.may_publish,
        now=clock.now,
        start=loops.start,
        on_accepted=telemetry.metrics.delivered,
    )
    return _Background(telemetry.worker_id, leader, relay)


@dataclass(frozen=True, slots=True)
class _UseCases:
    """`inventory` and `holds`: none if the seats are another service's. `sagas`: only then."""

    reservations: Reservations
    inventory: EmbeddedInventory | None = None
    holds: Holds | None = None
    sagas: RemoteSales | None = None

    async def drain(self) -> None:
        if self.holds is not None:
            await self.holds.drain()
        await self.reservations.drain()


def remote_inventory(
    settings: Settings,
    closing: AsyncExitStack,
    *,
    interceptors: Sequence[grpc.aio.ClientInterceptor] = (),
    asked: Callable[[str, str, float], None] = lambda service, method, seconds: None,
) -> RemoteInventory | None:
    """Closed with `closing`. None: this service keeps the seats itself. Raises StartError."""
    address = settings.grpc_client_inventory_service_address
    if address is None:
        return None
    channel = _channel(settings, address, interceptors)
    closing.push_async_callback(channel.close)
    breaker = Breaker(settings.grpc_client_inventory_service_failure_rate_threshold, monotonic=time.monotonic)
    timeout, token = settings.grpc_client_inventory_service_timeout, _inventory_token(settings)
    return RemoteInventory(channel, breaker, timeout=timeout, token=token, asked=asked)


def _inventory_token(settings: Settings) -> TokenFile | None:
    path = settings.grpc_client_inventory_service_token_file
    try:
        return TokenFile(path) if path is not None else None
    except (OSError, ValueError) as error:
        raise StartError(f"GRPC_CLIENT_INVENTORY_SERVICE_TOKEN_FILE={path}: {error}") from error


def _channel(settings: Settings, address: str, interceptors: Sequence[grpc.aio.ClientInterceptor]) -> grpc.aio.Channel:
    ca = settings.grpc_client_inventory_service_ca_file
    if ca is None:
        return grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS, interceptors=interceptors)
    pair = _key_pair(settings.grpc_client_inventory_service_cert_file, settings.grpc_client_inventory_service_key_file)
    try:
        credentials = channel_credentials(ca, pair)
    except BadCertificate as error:
        raise StartError(f"{error} (GRPC_CLIENT_INVENTORY_SERVICE_CA_FILE, _CERT_FILE, _KEY_FILE)") from error
    return grpc.aio.secure_channel(address, credentials, options=CHANNEL_OPTIONS, interceptors=interceptors)


class _Parts:
    """What requests and the loops beside them have in common, and what is made of it."""

    def __init__(
        self,
        settings: Settings,
        clients: _Clients,
        clock: Clock,
        bus: BusCheck,
        loops: Loops,
        remote: RemoteInventory | None,
        telemetry: _Telemetry,
    ) -> None:
        self.settings = settings
        self.tables = tables_of(settings)
        self.clock = clock
        self.policy = _policy(settings)
        self.telemetry = telemetry
        self.background = _background(settings, clients, clock, bus, loops, telemetry)
        self.halls = Halls(clients.loops, self.tables.inventory, now=clock.now)
        self.audience = Audience()
        self.outbox = Outbox(clients.loops, self.tables.outbox)
        self._remote = remote

    def use_cases(self, client: AwsClient) -> _UseCases:
        return self._embedded(client) if self._remote is None else self._from_elsewhere(client, self._remote)

    def _embedded(self, client: AwsClient) -> _UseCases:
        leader = self.background.leader
        inventory = EmbeddedInventory(
            client, self.tables.inventory, halls=self.halls, stripe=lambda: leader.position, now=self.clock.now
        )
        store = DynamoReservations(
            client,
            self.tables,
            inventory,
            now=self.clock.now,
            key_window=self._key_window,
            event_written=self.background.relay.nudge,
            changed=self.audience.notice,
            moved=self.telemetry.moved,
        )
        drawn = self.telemetry.traces.steps(store, STORE_STEPS)
        facts = self.telemetry.traces.steps(inventory, INVENTORY_STEPS)
        reservations = Reservations(drawn, facts, self.policy, self.clock, leader.shard_for)
        return _UseCases(reservations, inventory, Holds(reservations, drawn, self.policy, self.clock))

    def _from_elsewhere(self, client: AwsClient, remote: RemoteInventory) -> _UseCases:
        records = DynamoSagas(
            client,
            self.tables,
            now=self.clock.now,
            key_window=self._key_window,
            event_written=self.background.relay.nudge,
        )
        sagas = RemoteSales(
            self.telemetry.traces.steps(records, STORE_STEPS),
            remote,
            now=self.clock.now,
            new_op_id=new_op_id,
            changed=self.audience.notice,
            moved=self.telemetry.moved,
        )
        shard_for = self.background.leader.shard_for
        return _UseCases(Reservations(sagas, remote, self.policy, self.clock, shard_for), sagas=sagas)

    @property
    def _key_window(self) -> int:
        return self.settings.idempotency_ttl_seconds * 1000

    def services(self, use_cases: _UseCases, watches: Watches, access: Access) -> list[grpc.GenericRpcHandler]:
        max_seats, limits, outcomes = self.policy.max_seats, _limits(self.settings), self.telemetry.outcomes
        handlers = None
        if use_cases.inventory is not None and use_cases.holds is not None:
            availability = Availability(use_cases.inventory, self.clock)
            handlers = InventoryHandlers(availability, use_cases.holds, max_seats=max_seats)
        return [
            self.telemetry.traces.serving(service)
            for service in (
                reservation_service(
                    ReservationHandlers(use_cases.reservations, watches, max_seats=max_seats), access, limits, outcomes
                ),
                inventory_service(handlers, access, limits, outcomes),
            )
        ]

    def work_of(self, use_cases: _UseCases) -> dict[str, Coroutine[None, None, None]]:
        """The loops that settle what is over, on the shards that this process holds."""
        leader = self.background.leader
        expiry = Expiry(
            use_cases.reservations,
            held_shards=lambda: leader.held,
            may_work_on=leader.may_work_on,
            now=self.clock.now,
            clock_trusted=self.clock.trusted,
            settled=self.telemetry.metrics.expired,
        )
        if use_cases.sagas is None:
            return {"expiry": expiry.run()}
        recovery = Recovery(
            use_cases.sagas,
            held_shards=lambda: leader.held,
            may_work_on=leader.may_work_on,
            now=self.clock.now,
            clock_trusted=self.clock.trusted,
        )
        return {"expiry": expiry.run(), "recovery": recovery.run()}

    def looks(self, readiness: Readiness, keyring: Keyring | None) -> dict[str, Coroutine[None, None, None]]:
        """The loops that see for operators how things are."""
        metrics, leader, relay, remote = (
            self.telemetry.metrics,
            self.background.leader,
            self.background.relay,
            self._remote,
        )
        gauges = Gauges(
            metrics,
            ready=lambda: readiness.ready,
            clock_skew=lambda: self.clock.skew_seconds,
            shards=lambda: len(leader.shards),
            shards_held=lambda: len(leader.held),
            oldest_event=lambda: relay.oldest_age,
            watches=lambda: len(self.audience),
            circuit=(lambda: remote.circuit) if remote is not None else None,
            keys_age=(lambda: keyring.age) if keyring is not None else None,
        )
        found = metrics.gauge("outbox_dead_letters", "Dead letters of the shards that this process works on.")
        dead = DeadLetters(self.outbox, held_shards=lambda: leader.held, found=found)
        return {"gauges": gauges.run(), "loop lag": metrics.watch_loop(), "dead letters": dead.run()}


def _policy(settings: Settings) -> Policy:
    return Policy(
        hold=settings.hold_seconds * 1000,
        max_clock_skew=int(settings.max_clock_skew_seconds * 1000),
        max_seats=settings.max_seats_per_reservation,
        max_holds_per_user=settings.max_holds_per_user,
        max_extensions=settings.hold_extensions_max,
        max_hold_total=settings.hold_total_seconds_max * 1000,
    )


def _limits(settings: Settings) -> Limits:
    return Limits(
        max_concurrent=settings.max_concurrent_rpcs,
        user_per_second=settings.user_rate_per_second,
        user_burst=settings.user_rate_burst,
        monotonic_ns=time.monotonic_ns,
    )


def _most_open(settings: Settings) -> int:
    """Watches, as many calls again that are only being refused, and what health and reflection are asked."""
    return PER_PROCESS + 2 * settings.max_concurrent_rpcs + 1000


def _bind(server: grpc.aio.Server, settings: Settings, credentials: Any) -> int:
    address = f"{settings.bind_host}:{settings.grpc_server_port}"
    try:
        port: int = (
            server.add_insecure_port(address) if credentials is None else server.add_secure_port(address, credentials)
        )
    except RuntimeError as error:
        raise StartError(f"cannot listen on {address} (BIND_HOST:GRPC_SERVER_PORT): is it in use?") from error
    return port


def _server_credentials(settings: Settings) -> Any:
    """None: the port speaks plain text."""
    pair = _key_pair(settings.tls_cert_file, settings.tls_key_file)
    if pair is None:
        return None
    try:
        return ServerCertificate(pair, settings.tls_client_ca_file).credentials()
    except BadCertificate as error:
        raise StartError(f"{error} (TLS_CERT_FILE, TLS_KEY_FILE, TLS_CLIENT_CA_FILE)") from error
