"""The real service in this process over an emulated DynamoDB, with or without Envoy before it, and how tests call it.

Every service has tables of its own, so that tests share an emulator and nothing else.
"""

import signal
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import betterproto2
import grpc
import httpx
import psutil
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from reservation import app, catalog
from reservation.api.limits import Limits
from reservation.api.registration import Method, Stream, service
from reservation.api.server import Health, build
from reservation.auth.access import Access
from reservation.aws.client import AwsClient
from reservation.aws.session import connect, session
from reservation.catalog import DEMO_EVENT, Catalog
from reservation.domain.model import Reservation
from reservation.dynamodb.events import EventImport
from reservation.dynamodb.items import Item, reservation_to_item
from reservation.dynamodb.tables import create_tables
from reservation.gen.com.traffic_tacos.reservation import v1 as messages
from reservation.settings import Settings
from tests.support.edge import edge_over
from tests.support.invariants import event_of

PACKAGE = "com.traffic_tacos.reservation.v1"
ERROR_DOMAIN = "reservation.traffic-tacos"
EVENT_ID = DEMO_EVENT.id
TABLES = ("reservations", "orders", "idempotency", "outbox", "inventory", "leases")

_INVENTORY = ("CheckAvailability", "ReserveSeat", "CommitReservation", "ReleaseHold", "GetInventoryStatus", "ListSeats")
_SERVICE_OF = dict.fromkeys(_INVENTORY, "InventoryService")

Metadata = Sequence[tuple[str, str]]

OPEN = Access(None, trust_direct=True)
"""Nobody verifies tokens."""


@dataclass(frozen=True, slots=True)
class System:
    """A service that takes requests, and a channel to it.

    `dynamodb` reaches its tables directly. `seats` are the ids of the demo event's seats that no test has had yet.
    """

    settings: Settings
    dynamodb: AwsClient
    address: str
    channel: grpc.aio.Channel
    metrics_port: int
    seats: Iterator[str] = field(default_factory=lambda: (seat.id for seat in catalog.demo().seats))

    def fresh_seats(self, count: int = 1) -> list[str]:
        return [next(self.seats) for _ in range(count)]

    async def items(self, name: str) -> list[Item]:
        """Every item of a table, which is named as in TABLES."""
        return await scan(self.dynamodb, table_name(self.settings, name))

    async def everything(self) -> dict[str, list[Item]]:
        """Every item but the leases, which beat."""
        return {name: await self.items(name) for name in TABLES if name != "leases"}

    async def store(self, reservation: Reservation) -> Reservation:
        """Writes it as it is, whatever its seats are, under an id of its own."""
        stored = replace(reservation, id=f"rsv_{uuid.uuid4().hex}")
        put = {"TableName": table_name(self.settings, "reservations"), "Item": reservation_to_item(stored)}
        await self.dynamodb.call("PutItem", put)
        return stored

    async def events_of(self, reservation_id: str) -> list[dict[str, Any]]:
        """The details in the outbox, in their order."""
        rows = [row for row in await self.items("outbox") if row["reservationId"]["S"] == reservation_id]
        return [event_of(row) for row in sorted(rows, key=lambda row: str(row["seq"]["S"]))]

    async def put_on_sale(self, *catalogs: Catalog) -> None:
        importing = EventImport(self.dynamodb, self.settings.dynamodb_table_inventory)
        for each in catalogs:
            await importing.run(each.event, each.seats, lambda _: None)


@dataclass(frozen=True, slots=True)
class Edge:
    """Envoy before a service: its REST door and its gRPC door."""

    rest: httpx.AsyncClient
    channel: grpc.aio.Channel


def own_settings(aws_url: str, **changes: Any) -> Settings:
    """Settings for free ports and for tables that nobody else has."""
    prefix = f"t{uuid.uuid4().hex[:12]}"
    values: dict[str, Any] = {f"dynamodb_table_{name}": f"{prefix}-{name}" for name in TABLES}
    values |= {"aws_endpoint_url": aws_url, "grpc_server_port": 0, "server_port": 0, "metrics_port": 0}
    values |= {"user_rate_per_second": 100_000, "user_rate_burst": 100_000, "linger_seconds": 0}
    # Nobody listens there: the events stay in the outbox, where tests read them.
    values |= {"aws_eventbridge_endpoint": "http://127.0.0.1:9"}
    return Settings(**values | changes)


def table_name(settings: Settings, name: str) -> str:
    return str(getattr(settings, f"dynamodb_table_{name}"))


async def scan(dynamodb: AwsClient, table: str) -> list[Item]:
    """Every item, in an order that only the items decide."""
    request: dict[str, Any] = {"TableName": table, "ConsistentRead": True}
    found: list[Item] = []
    while True:
        page = await dynamodb.call("Scan", request)
        found += page["Items"]
        if "LastEvaluatedKey" not in page:
            return sorted(found, key=str)
        request["ExclusiveStartKey"] = page["LastEvaluatedKey"]


@asynccontextmanager
async def dynamodb_of(settings: Settings) -> AsyncIterator[AwsClient]:
    client = await connect(app.aws_config_of(settings), "dynamodb", endpoint_url=settings.dynamodb_endpoint)
    try:
        yield client
    finally:
        await client.close()


async def make_tables(settings: Settings) -> None:
    client = session(app.aws_config_of(settings)).create_client("dynamodb", endpoint_url=settings.dynamodb_endpoint)
    async with client as dynamodb:
        await create_tables(dynamodb, app.tables_of(settings))


@asynccontextmanager
async def serving(settings: Settings, **options: Any) -> AsyncIterator[System]:
    """The service, whether its tables are there or not; with `options` as app.running takes them."""
    async with dynamodb_of(settings) as dynamodb, app.running(settings, **options) as service:
        address = f"localhost:{service.grpc_port}"
        async with grpc.aio.insecure_channel(address) as channel:
            yield System(settings, dynamodb, address, channel, service.metrics_port)


@asynccontextmanager
async def selling(settings: Settings, **options: Any) -> AsyncIterator[System]:
    """The service over new tables, with the demo event on sale; with `options` as app.running takes them."""
    await make_tables(settings)
    async with serving(settings, **options) as system:
        await system.put_on_sale(catalog.demo())
        yield system


def limits_of(
    *,
    max_concurrent: int = 1000,
    user_per_second: float = 0,
    user_burst: int = 1,
    monotonic_ns: Any = time.monotonic_ns,
) -> Limits:
    """None that a test would meet by chance."""
    return Limits(
        max_concurrent=max_concurrent, user_per_second=user_per_second, user_burst=user_burst, monotonic_ns=monotonic_ns
    )


@asynccontextmanager
async def serving_only(
    *methods: Method | Stream,
    health: Health | None = None,
    access: Access = OPEN,
    limits: Limits | None = None,
    max_rpcs: int | None = None,
) -> AsyncIterator[grpc.aio.Channel]:
    """The server of the API with these methods of ReservationService, and no service behind it."""
    services = [service("ReservationService", methods, access, limits or limits_of())]
    server = build(services, health or Health(), max_rpcs=max_rpcs)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        await server.stop(None)


@asynccontextmanager
async def edge_of(system: System) -> AsyncIterator[Edge]:
    """A real Envoy before the service."""
    async with (
        edge_over(int(system.address.rpartition(":")[2]), metrics_port=system.metrics_port) as envoy,
        httpx.AsyncClient(base_url=envoy.url, timeout=10) as rest,
        grpc.aio.insecure_channel(envoy.url.removeprefix("http://")) as channel,
    ):
        yield Edge(rest, channel)


def watch_health(channel: grpc.aio.Channel, name: str) -> Any:
    """The stream of this name's states."""
    return health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=name))


async def becomes(watch: Any, status: int) -> None:
    while (await watch.read()).status != status:
        pass


@contextmanager
def frozen(url: str) -> Iterator[None]:
    """Inside the block the child process that listens there takes connections and answers nothing."""
    process = _child_on(int(url.rpartition(":")[2]))
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def _child_on(port: int) -> psutil.Process:
    for child in psutil.Process().children():
        if any(connection.laddr.port == port for connection in child.net_connections(kind="tcp")):
            return child
    raise AssertionError(f"no child of ours listens on {port}")


# Calls


def create_request(seat_ids: Sequence[str], **fields: Any) -> messages.CreateReservationRequest:
    """A request for seats of the demo event."""
    wanted: dict[str, Any] = {"event_id": EVENT_ID, "seat_ids": list(seat_ids), "quantity": len(seat_ids)}
    return messages.CreateReservationRequest(**wanted | fields)


@dataclass(frozen=True, slots=True)
class Answer:
    """A call that succeeded. `metadata`: what came before the message."""

    message: Any
    metadata: dict[str, str]

    @property
    def replayed(self) -> bool:
        return self.metadata.get("idempotent-replayed") == "true"


async def call(
    channel: grpc.aio.Channel, request: betterproto2.Message, *, metadata: Metadata = (), timeout: float = 30
) -> Answer:
    """Calls the method that takes such a request. Raises grpc.aio.AioRpcError.

    The generated stub takes neither metadata nor a deadline.
    """
    kind = type(request)
    method = kind.__name__.removesuffix("Request")
    response: type[betterproto2.Message] = getattr(messages, f"{method}Response")
    name = f"{_SERVICE_OF.get(method, 'ReservationService')}/{method}"
    rpc = channel.unary_unary(f"/{PACKAGE}.{name}", kind.SerializeToString, response.FromString)
    under_way = rpc(request, metadata=tuple(metadata), timeout=timeout)
    message = await under_way
    return Answer(message, dict(await under_way.initial_metadata()))


async def hold(channel: grpc.aio.Channel, seat_ids: Sequence[str], **fields: Any) -> str:
    """The id of a new reservation of these seats."""
    return str((await call(channel, create_request(seat_ids, **fields))).message.reservation_id)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A call that failed, with what google.rpc.Status says: the names of the fields, and the facts of the ErrorInfo."""

    status: grpc.StatusCode
    text: str
    trailing: dict[str, Any]
    reason: str = ""
    domain: str = ""
    facts: dict[str, str] = field(default_factory=dict)
    violations: tuple[str, ...] = ()
    retry_after: float | None = None


async def refusal(under_way: Awaitable[Any]) -> Refusal:
    """How a call is refused; fails the test if it is not."""
    try:
        answer = await under_way
    except grpc.aio.AioRpcError as error:
        return refusal_of(error)
    raise AssertionError(f"not refused: {answer}")


def refusal_of(error: grpc.aio.AioRpcError) -> Refusal:
    trailing = dict(error.trailing_metadata())
    status = status_pb2.Status.FromString(trailing.get("grpc-status-details-bin", b""))
    if status.details:
        assert (status.code, status.message) == (error.code().value[0], error.details())
    details: dict[str, Any] = {}
    for packed in status.details:
        details |= _unpacked(packed)
    return Refusal(error.code(), error.details() or "", trailing, **details)


def _unpacked(packed: Any) -> dict[str, Any]:
    info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    if packed.Unpack(info):
        return {"reason": info.reason, "domain": info.domain, "facts": dict(info.metadata)}
    if packed.Unpack(bad):
        return {"violations": tuple(violation.field for violation in bad.field_violations)}
    if packed.Unpack(retry):
        return {"retry_after": retry.retry_delay.ToMilliseconds() / 1000}
    raise AssertionError(f"a detail that no client expects: {packed.type_url}")
