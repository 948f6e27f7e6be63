"""The policies in deploy/aws allow what the service and its operators ask of DynamoDB, and nothing else."""

import asyncio
import uuid
from io import StringIO
from typing import Any

import betterproto2
import grpc
from rich.console import Console

from reservation import app, catalog
from reservation.aws.client import AwsClient
from reservation.catalog import Catalog
from reservation.domain.model import Event, Money, Seat
from reservation.dynamodb.events import EventImport
from reservation.dynamodb.items import DeadLetter, OutboxRow, dead_letter_to_item
from reservation.dynamodb.tables import create_tables
from reservation.eventbridge import create_bus
from reservation.gen.com.traffic_tacos.reservation import v1 as messages
from reservation.operators import Operators
from reservation.settings import Settings
from tests.support.aws import REGION, admin_client, quick_client
from tests.support.cloudformation import Permission, permissions
from tests.support.conflict_proxy import ConflictProxy
from tests.support.faults import Request
from tests.support.system import (
    EVENT_ID,
    PACKAGE,
    System,
    call,
    own_settings,
    refusal,
    serving,
    table_name,
)

NEVER_REACHED_HERE = {
    # An event becomes a dead letter only after the bus has refused it eight times.
    Permission("DeleteItem", "outbox"),
}
LETTER = DeadLetter(
    OutboxRow("0001", "1900000000000#rsv_1#000001", "rsv_1", "reservation.created", '{"messageId":"rsv_1#1"}'),
    error_code="MalformedDetail",
    error_message="Detail is malformed.",
    died_at=1_900_000_000_000,
)
SMALL = Catalog(Event("evt_small", "Small"), (Seat("A-1", "Floor", "A", "1", Money(1, "KRW")),))
LARGER = Catalog(SMALL.event, (*SMALL.seats, Seat("A-2", "Floor", "A", "2", Money(1, "KRW"))))

_PARTS_OF_A_TRANSACTION = {
    "Put": "PutItem",
    "Update": "UpdateItem",
    "Delete": "DeleteItem",
    "ConditionCheck": "ConditionCheckItem",
}


class Needed(set[Permission]):
    """What the requests that it hears need."""

    def hear(self, request: Request) -> None:
        match request.operation, request.params:
            case "TransactWriteItems", {"TransactItems": parts}:
                for part in parts:
                    ((kind, body),) = part.items()
                    self._need(_PARTS_OF_A_TRANSACTION[kind], body["TableName"])
            case ("BatchGetItem" | "BatchWriteItem") as action, {"RequestItems": tables}:
                for table in tables:
                    self._need(action, table)
            case action, {"TableName": table, **others}:
                self._need(action, table, others.get("IndexName", ""))

    def _need(self, action: str, table: str, index: str = "") -> None:
        self.add(Permission(action, table.rpartition("-")[2], index))


async def test_the_service_and_its_operators_may_do_what_they_do_and_nothing_else(ministack_url: str) -> None:
    """A sale from the own inventory and one from another service's, with everything that operators do beside them."""
    by_service, by_operators = Needed(), Needed()
    async with (
        ConflictProxy(ministack_url, hold=0, heard=by_service.hear) as services_door,
        ConflictProxy(ministack_url, hold=0, heard=by_operators.hear) as operators_door,
    ):
        settings = await _prepared(ministack_url, operators_door)
        async with quick_client("dynamodb", operators_door.url) as operating:
            await _import(operating, settings, catalog.demo(), SMALL, LARGER)
            async with serving(_through(services_door, settings)) as keeper:
                elsewhere = await _prepared(
                    ministack_url,
                    operators_door,
                    grpc_client_inventory_service_address=keeper.address,
                    grpc_client_inventory_service_timeout=1.0,
                )
                unattended = await _prepared(ministack_url, operators_door, lease_seconds=1.0)
                async with serving(_through(services_door, elsewhere)) as seller:
                    await asyncio.gather(
                        _sell(keeper, "A-12", "A-13"),
                        _sell(seller, "B-12", "B-13"),
                        _operate(_operators(settings, operating), settings),
                        _operate_shards(_operators(unattended, operating)),
                    )
    assert by_operators == permissions("OperatorsPolicy")
    assert by_service | NEVER_REACHED_HERE == permissions("ServicePolicy")
    assert not by_service & NEVER_REACHED_HERE


def _through(door: ConflictProxy, settings: Settings) -> Settings:
    return settings.model_copy(update={"aws_dynamodb_endpoint": door.url})


async def _prepared(aws_url: str, operators_door: ConflictProxy, **changes: object) -> Settings:
    """Settings with tables and a bus that nobody else has."""
    bus = f"bus-{uuid.uuid4().hex[:8]}"
    own: dict[str, Any] = {"aws_region": REGION, "aws_eventbridge_endpoint": None, "eventbridge_bus_name": bus}
    own |= {"hold_seconds": 5, "max_holds_per_user": 20, "shards": 2}
    settings = own_settings(aws_url, **own, **changes)
    async with admin_client("events", aws_url) as events:
        await create_bus(events, bus)
    async with admin_client("dynamodb", operators_door.url) as dynamodb:
        await create_tables(dynamodb, app.tables_of(settings))
    return settings


async def _import(dynamodb: AwsClient, settings: Settings, *catalogs: Catalog) -> None:
    for each in catalogs:
        await EventImport(dynamodb, settings.dynamodb_table_inventory).run(each.event, each.seats, lambda _: None)


async def _sell(system: System, *seats: str) -> None:
    """Everything that a reservation can go through, until its events are published."""
    kept = await _hold(system, seat_ids=list(seats), idempotency_key="kept")
    assert await _hold(system, seat_ids=list(seats), idempotency_key="kept") == kept
    refused = await refusal(_hold(system, seat_ids=list(seats), idempotency_key="refused"))
    assert refused.reason == "SEAT_UNAVAILABLE"
    extend = messages.ExtendHoldRequest(reservation_id=kept, extension_seconds=5, idempotency_key="longer")
    await _ask(system, extend)
    await _ask(system, messages.ConfirmReservationRequest(reservation_id=kept, payment_intent_id="pay_1"))
    given_back = await _hold(system, quantity=2, idempotency_key="given back")
    await _ask(system, messages.CancelReservationRequest(reservation_id=given_back))
    running_out = await _hold(system, quantity=1, section="Standing", idempotency_key="running out")
    await _ask(system, messages.ListReservationsRequest())
    assert (await _watched(system, running_out))[-1] == "EXPIRED"
    async with quick_client("dynamodb", str(system.settings.aws_endpoint_url)) as dynamodb:
        outbox = {"TableName": table_name(system.settings, "outbox"), "Select": "COUNT", "ConsistentRead": True}
        while (await dynamodb.call("Scan", outbox))["Count"]:  # noqa: ASYNC110  # nobody would set an event for it
            await asyncio.sleep(0.05)


async def _hold(system: System, **fields: Any) -> str:
    return str((await _ask(system, messages.CreateReservationRequest(event_id=EVENT_ID, **fields))).reservation_id)


async def _ask(system: System, request: betterproto2.Message) -> Any:
    """Again, where another service's inventory has not answered in its second: this machine may be busy."""
    while True:
        try:
            return (await call(system.channel, request)).message
        except grpc.aio.AioRpcError as error:
            if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ABORTED):
                raise
        await asyncio.sleep(0.1)


async def _watched(system: System, reservation_id: str) -> list[str]:
    kinds = messages.WatchReservationRequest, messages.GetReservationResponse
    rpc = f"/{PACKAGE}.ReservationService/WatchReservation"
    watch = system.channel.unary_stream(rpc, kinds[0].SerializeToString, kinds[1].FromString)
    request = messages.WatchReservationRequest(reservation_id=reservation_id)
    return [message.status.name async for message in watch(request, timeout=30)]


def _operators(settings: Settings, operating: AwsClient) -> Operators:
    return Operators(settings, operating, Console(file=StringIO()))


async def _operate(operators: Operators, settings: Settings) -> None:
    letter = {"TableName": table_name(settings, "outbox"), "Item": dead_letter_to_item(LETTER)}
    sold_by_nobody = {"orderId": {"S": "ord_1"}, "reservationId": {"S": "rsv_1"}}
    async with quick_client("dynamodb", str(settings.aws_endpoint_url)) as dynamodb:
        await dynamodb.call("PutItem", letter)
        assert await operators.show_dead(LETTER.row.shard, LETTER.row.seq)
        assert await operators.replay_dead(LETTER.row.shard, LETTER.row.seq)
        await dynamodb.call("PutItem", letter)
        assert await operators.purge_dead(LETTER.row.shard, LETTER.row.seq)
        await dynamodb.call("PutItem", {"TableName": table_name(settings, "orders"), "Item": sold_by_nobody})
    assert await operators.show_event(EVENT_ID)
    assert await operators.block_seats(EVENT_ID, ["C-1"])
    assert await operators.unblock_seats(EVENT_ID, ["C-1"])
    assert not await operators.audit(None), "an order without a reservation is looked at twice"


async def _operate_shards(operators: Operators) -> None:
    """Where nobody works on them: a shard that a reservation has come to is not removed."""
    assert await operators.leases()
    assert await operators.add_shard("0099")
    assert await operators.retire_shard("0099")
