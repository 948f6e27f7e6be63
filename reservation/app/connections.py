"""Whom this process calls: AWS, and a remote inventory."""

import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import grpc

from reservation.app.errors import StartError
from reservation.app.observation import Telemetry
from reservation.aws.client import AwsClient
from reservation.aws.session import AwsConfig, Service, connect, session
from reservation.dynamodb.tables import Tables
from reservation.eventbridge import EventBridge
from reservation.inventory.breaker import Breaker
from reservation.inventory.remote import CHANNEL_OPTIONS, RemoteInventory
from reservation.inventory.token import TokenFile
from reservation.settings import Settings
from reservation.tls import BadCertificate, KeyPair, channel_credentials


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


@dataclass(frozen=True, slots=True)
class Clients:
    """One for requests and one for each loop that must not wait behind them: a heartbeat least of all."""

    requests: AwsClient
    loops: AwsClient
    leases: AwsClient
    events: AwsClient


async def connect_clients(settings: Settings, closing: AsyncExitStack, telemetry: Telemetry) -> Clients:
    config, trace = aws_config_of(settings), telemetry.traces.aws
    shared = session(config)

    async def client(service: Service, endpoint: str | None, pool_size: int) -> AwsClient:
        connected = await connect(
            config, service, endpoint_url=endpoint, pool_size=pool_size, trace=trace, shared=shared
        )
        closing.push_async_callback(connected.close)
        return connected

    clients = Clients(
        requests=await client("dynamodb", settings.dynamodb_endpoint, 64),
        loops=await client("dynamodb", settings.dynamodb_endpoint, 32),
        leases=await client("dynamodb", settings.dynamodb_endpoint, 4),
        events=await client("events", settings.eventbridge_endpoint, 32),
    )
    of_dynamodb = {"requests": clients.requests, "loops": clients.loops, "leases": clients.leases}
    telemetry.metrics.aws_clients("dynamodb", of_dynamodb)
    telemetry.metrics.aws_clients("eventbridge", {"events": clients.events})
    return clients


def events_of(settings: Settings, clients: Clients, telemetry: Telemetry) -> EventBridge:
    """The bus that events go to, as often made as it is needed: it has no state."""
    return EventBridge(clients.events, settings.eventbridge_bus_name, around=telemetry.traces.publishing)


def key_pair(certificate: Path | None, key: Path | None) -> KeyPair | None:
    """None: no certificate is set. The settings see to it that both are, or neither."""
    return KeyPair(certificate.absolute(), key.absolute()) if certificate is not None and key is not None else None


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
    pair = key_pair(settings.grpc_client_inventory_service_cert_file, settings.grpc_client_inventory_service_key_file)
    try:
        credentials = channel_credentials(ca, pair)
    except BadCertificate as error:
        raise StartError(f"{error} (GRPC_CLIENT_INVENTORY_SERVICE_CA_FILE, _CERT_FILE, _KEY_FILE)") from error
    return grpc.aio.secure_channel(address, credentials, options=CHANNEL_OPTIONS, interceptors=interceptors)
