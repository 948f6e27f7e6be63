"""A service that sells from the inventory of a second one, each a process with tables of its own."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from io import StringIO

import betterproto2
import grpc
import pytest
import pytest_asyncio
from rich.console import Console

from reservation import catalog
from reservation.domain.model import Saga
from reservation.dynamodb.events import EventImport
from reservation.dynamodb.items import reservation_from_item, reservation_to_item
from reservation.gen.com.traffic_tacos.reservation import v1 as messages
from reservation.operators import operators
from reservation.settings import Settings
from tests.support.command import Command, environment_of, started
from tests.support.system import (
    EVENT_ID,
    PACKAGE,
    Answer,
    System,
    call,
    create_request,
    dynamodb_of,
    hold,
    make_tables,
    own_settings,
    refusal,
    refusal_of,
    scan,
    selling,
    serving,
    table_name,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONFIRMED, CANCELLED = messages.ReservationStatus.CONFIRMED, messages.ReservationStatus.CANCELLED


@dataclass(frozen=True, slots=True)
class Pair:
    """`seller` asks the other service, whose process is `keeper`."""

    seller: System
    keeper: Command
    keepers: Settings

    async def seat(self, seat_id: str) -> str:
        """Its status at the service that keeps it."""
        async with dynamodb_of(self.keepers) as dynamodb:
            seats = await scan(dynamodb, table_name(self.keepers, "inventory"))
        return next(str(seat["status"]["S"]) for seat in seats if seat["pk"]["S"] == f"{EVENT_ID}#{seat_id}")


@asynccontextmanager
async def pair_of(url: str) -> AsyncIterator[Pair]:
    """The seller is patient, because the machine may be busy: what is slow is tested by a process that is stopped."""
    keepers = own_settings(url)
    await make_tables(keepers)
    async with dynamodb_of(keepers) as dynamodb:
        demo = catalog.demo()
        await EventImport(dynamodb, keepers.dynamodb_table_inventory).run(demo.event, demo.seats, lambda _: None)
    environment = environment_of(keepers) | {"GRPC_SERVER_PORT": "0", "LOG_FORMAT": "json"}
    async with started("serve", **environment) as keeper:
        port = (await keeper.says(r'"grpc_port":(\d+)'))[1]
        address, timeout = f"static://127.0.0.1:{port}", "1s"
        sellers = own_settings(
            url, grpc_client_inventory_service_address=address, grpc_client_inventory_service_timeout=timeout
        )
        await make_tables(sellers)
        async with serving(sellers) as seller:
            yield Pair(seller, keeper, keepers)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair(ministack_url: str) -> AsyncIterator[Pair]:
    async with pair_of(ministack_url) as pair:
        yield pair


async def test_seats_are_held_refused_sold_and_returned_through_the_other_service(pair: Pair) -> None:
    channel = pair.seller.channel
    sold_id, returned_id = pair.seller.fresh_seats(2)
    created = (await _at_last(pair.seller, create_request([sold_id], idempotency_key="key_first"))).message
    assert (created.seat_ids, created.total_amount.amount) == ([sold_id], 120_000)
    refused = await refusal(call(channel, create_request([sold_id, returned_id])))
    assert (refused.reason, refused.facts["seat_ids"]) == ("SEAT_UNAVAILABLE", sold_id)
    payment = messages.ConfirmReservationRequest(reservation_id=created.reservation_id, payment_intent_id="pay_1")
    assert (await call(channel, payment)).message.status is CONFIRMED
    returned = await hold(channel, [returned_id])
    assert await pair.seat(returned_id) == "HELD"
    cancel = messages.CancelReservationRequest(reservation_id=returned)
    assert (await call(channel, cancel)).message.status is CANCELLED
    assert (await pair.seat(sold_id), await pair.seat(returned_id)) == ("SOLD", "AVAILABLE")


async def test_seats_are_chosen_by_the_other_service(pair: Pair) -> None:
    wish = {"quantity": 3, "section": "Standing"}
    created = (await call(pair.seller.channel, create_request([], **wish))).message
    assert {(seat.section, seat.row) for seat in created.reserved_seats} == {("Standing", "")}
    assert [await pair.seat(seat_id) for seat_id in created.seat_ids] == ["HELD"] * 3
    assert created.total_amount.amount == 3 * 50_000


async def test_a_watch_tells_what_becomes_of_seats_that_are_elsewhere(pair: Pair) -> None:
    held = await hold(pair.seller.channel, pair.seller.fresh_seats())
    watch = messages.WatchReservationRequest(reservation_id=held)
    rpc = pair.seller.channel.unary_stream(
        f"/{PACKAGE}.ReservationService/WatchReservation", bytes, messages.GetReservationResponse.FromString
    )
    told = aiter(rpc(watch, timeout=30))
    seen = [(await anext(told)).status]
    await call(pair.seller.channel, messages.ConfirmReservationRequest(held, "pay_1"))
    seen += [each.status async for each in told]
    assert seen == [messages.ReservationStatus.HOLD, CONFIRMED]


async def test_a_user_lists_reservations_whose_seats_are_elsewhere_newest_first(pair: Pair) -> None:
    channel = pair.seller.channel
    named = await hold(channel, pair.seller.fresh_seats(), user_id="lister")
    chosen = await hold(channel, [], quantity=2, section="Standing", user_id="lister")
    await call(channel, messages.CancelReservationRequest(named))
    page = (await call(channel, messages.ListReservationsRequest("lister"))).message
    assert [(each.reservation_id, each.status, each.quantity) for each in page.reservations] == [
        (chosen, messages.ReservationStatus.HOLD, 2),
        (named, CANCELLED, 1),
    ]


async def test_what_is_wrong_with_a_request_is_told_as_the_other_service_says_it(pair: Pair) -> None:
    refused = await refusal(call(pair.seller.channel, create_request(["A-1", "Z-99"])))
    assert (refused.reason, refused.violations) == ("INVALID_REQUEST", ("seat_ids[1]",))
    refused = await refusal(call(pair.seller.channel, create_request(["A-1"], event_id="evt_nowhere")))
    assert refused.reason == "EVENT_NOT_FOUND"


@pytest.mark.parametrize(
    "request_of",
    [
        messages.CheckAvailabilityRequest(EVENT_ID, ["A-1"]),
        messages.ReserveSeatRequest("rsv_1", EVENT_ID, ["A-1"]),
        messages.CommitReservationRequest("rsv_1", EVENT_ID, payment_intent_id="pay_1"),
        messages.ReleaseHoldRequest("rsv_1", EVENT_ID),
        messages.GetInventoryStatusRequest(EVENT_ID),
        messages.ListSeatsRequest(EVENT_ID),
    ],
    ids=lambda request: type(request).__name__,
)
async def test_who_keeps_no_seats_serves_no_inventory(pair: Pair, request_of: betterproto2.Message) -> None:
    refused = await refusal(call(pair.seller.channel, request_of))
    assert (refused.status, refused.reason) == (grpc.StatusCode.UNIMPLEMENTED, "NOT_IMPLEMENTED")


async def test_while_the_other_process_stands_still_nothing_is_held_and_then_all_goes_on(pair: Pair) -> None:
    (seat_id,) = pair.seller.fresh_seats()
    request = create_request([seat_id], idempotency_key="key_still")
    pair.keeper.process.send_signal(signal.SIGSTOP)
    try:
        refused = await refusal(call(pair.seller.channel, request))
    finally:
        pair.keeper.process.send_signal(signal.SIGCONT)
    assert (refused.status, refused.reason) == (grpc.StatusCode.UNAVAILABLE, "INVENTORY_SERVICE_ERROR")
    assert refused.retry_after == 1.0
    assert (await _at_last(pair.seller, request)).message.seat_ids == [seat_id]


async def test_a_sale_that_a_dead_process_has_begun_is_made(pair: Pair) -> None:
    reservation_id = await hold(pair.seller.channel, pair.seller.fresh_seats())
    (stored,) = [
        each for each in await pair.seller.items("reservations") if each["reservationId"]["S"] == reservation_id
    ]
    held = reservation_from_item(stored)
    intent = replace(held, payment_intent_id="pay_1", op_id="op_intent", saga=Saga(until=held.created_at))
    put = {"TableName": table_name(pair.seller.settings, "reservations"), "Item": reservation_to_item(intent)}
    await pair.seller.dynamodb.call("PutItem", put)
    read = messages.GetReservationRequest(reservation_id=reservation_id)
    while (await call(pair.seller.channel, read)).message.status is not CONFIRMED:  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    assert await pair.seat(held.seat_ids[0]) == "SOLD"


async def test_without_the_other_process_holds_are_refused_and_reads_go_on(ministack_url: str) -> None:
    async with pair_of(ministack_url) as pair:
        held = await hold(pair.seller.channel, pair.seller.fresh_seats())
        told = "clean: 1 reservations (1 HOLD), 0 seats, 0 orders, 1 events waiting, 0 dead letters"
        assert await _audit(pair.seller, inventory=False) == (True, told)
        pair.keeper.process.kill()
        await pair.keeper.process.wait()
        refused = await refusal(call(pair.seller.channel, create_request(pair.seller.fresh_seats())))
        assert refused.reason == "INVENTORY_SERVICE_ERROR"
        read = messages.GetReservationRequest(reservation_id=held)
        assert (await call(pair.seller.channel, read)).message.status is messages.ReservationStatus.HOLD


async def test_without_a_remote_inventory_there_is_none_to_audit(ministack_url: str) -> None:
    async with selling(own_settings(ministack_url)) as system:
        clean, told = await _audit(system, inventory=True)
    assert (clean, "GRPC_CLIENT_INVENTORY_SERVICE_ADDRESS" in told) == (False, True)


async def _audit(system: System, *, inventory: bool) -> tuple[bool, str]:
    out = StringIO()
    async with operators(system.settings, Console(file=out, width=200)) as them:
        return await them.audit(None, inventory=inventory), out.getvalue().strip()


async def _at_last(seller: System, request: messages.CreateReservationRequest) -> Answer:
    """The same request again as long as it is told to come again."""
    while True:
        try:
            return await call(seller.channel, request)
        except grpc.aio.AioRpcError as error:
            if refusal_of(error).retry_after is None:
                raise
            await asyncio.sleep(0.2)
