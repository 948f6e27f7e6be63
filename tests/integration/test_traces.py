"""The spans of sampled requests, as a collector receives them over OTLP."""

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from reservation.gen.com.traffic_tacos.reservation import v1 as messages
from tests.support.collector import Collector, Tree, attributes, collecting, tree
from tests.support.system import (
    PACKAGE,
    System,
    call,
    create_request,
    hold,
    make_tables,
    own_settings,
    refusal,
    selling,
    serving,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

SERVICE, INVENTORY = f"/{PACKAGE}.ReservationService", f"/{PACKAGE}.InventoryService"
CREATE = f"{SERVICE}/CreateReservation"
PARENT = "00f067aa0ba902b7"


@dataclass(frozen=True, slots=True)
class Traced:
    """A service that tells the collector of what is sampled: of calls without a traceparent, none."""

    collector: Collector
    system: System


@pytest.fixture(scope="module", autouse=True)
def _at_once() -> Any:
    """Spans are sent as they end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        yield


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def traced(ministack_url: str) -> AsyncIterator[Traced]:
    async with collecting() as collector:
        settings = own_settings(
            ministack_url,
            otel_exporter_otlp_endpoint=collector.endpoint,
            otel_traces_sampler_arg=0,
            aws_eventbridge_endpoint=ministack_url,
            eventbridge_bus_name="default",
            shards=1,
        )
        async with selling(settings) as system:
            yield Traced(collector, system)


def sampled() -> tuple[str, tuple[tuple[str, str], ...]]:
    """A new trace, and the metadata of a call that belongs to it."""
    trace_id = os.urandom(16).hex()
    return trace_id, (("traceparent", f"00-{trace_id}-{PARENT}-01"),)


async def test_a_create_is_one_tree_down_to_its_transaction(traced: Traced) -> None:
    trace_id, metadata = sampled()
    seats = traced.system.fresh_seats(2)
    await call(traced.system.channel, create_request(seats, idempotency_key="k1"), metadata=metadata)
    spans = await traced.collector.receives(trace_id, CREATE)
    transaction: Tree = ("store.hold", [("DynamoDB.TransactWriteItems", [])])
    ((root, below),) = tree(spans, PARENT)
    assert root == CREATE
    assert below[-1] == transaction
    assert {name for name, _ in below[:-1]} == {"inventory.facts"}
    told = attributes(next(span for span in spans if span.name == "DynamoDB.TransactWriteItems"))
    tables = sorted(value.string_value for value in told["aws.dynamodb.table_names"].values)
    settings = traced.system.settings
    assert tables == sorted(
        getattr(settings, f"dynamodb_table_{name}") for name in ("reservations", "idempotency", "inventory", "outbox")
    )
    assert traced.collector.resources[-1]["service.name"] == "reservation-api"


async def test_log_lines_events_and_publishing_belong_to_the_trace_of_their_request(traced: Traced) -> None:
    trace_id, metadata = sampled()
    (seat_id,) = traced.system.fresh_seats()
    with capture_logs(processors=[merge_contextvars]) as logged:
        held = (await call(traced.system.channel, create_request([seat_id], user_id="u"), metadata=metadata)).message
    spans = await traced.collector.receives(trace_id, CREATE)
    (server,) = (span for span in spans if span.name == CREATE)
    (line,) = (entry for entry in logged if entry["event"] == "rpc")
    assert (line["traceId"], line["spanId"], line["rpc"]) == (trace_id, server.span_id.hex(), "CreateReservation")
    assert (line["reservation_id"], line["code"]) == (held.reservation_id, "OK")
    assert "u" not in (line["user"], "")
    link = await _published(traced.collector, trace_id)
    assert link.span_id == server.span_id, "the event names the span that it comes from"


async def _published(collector: Collector, trace_id: str) -> Any:
    """The link to a trace of a span that published an event of it."""
    async with asyncio.timeout(30):
        while True:
            for span in collector.spans:
                for link in span.links:
                    if link.trace_id.hex() == trace_id:
                        assert tree(collector.of(span.trace_id.hex()), "") == [
                            ("outbox.publish", [("EventBridge.PutEvents", [])])
                        ]
                        return link
            await asyncio.sleep(0.05)


async def test_a_refusal_is_told_in_its_span_and_no_failure_of_dynamodb(traced: Traced) -> None:
    (seat_id,) = traced.system.fresh_seats()
    await hold(traced.system.channel, [seat_id])
    trace_id, metadata = sampled()
    get = messages.GetReservationRequest(reservation_id="rsv_none")
    await refusal(call(traced.system.channel, get, metadata=metadata))
    spans = await traced.collector.receives(trace_id, f"{SERVICE}/GetReservation")
    assert tree(spans, PARENT) == [(f"{SERVICE}/GetReservation", [("store.find", [("DynamoDB.Query", [])])])]
    assert {span.status.code for span in spans} == {0}
    (server,) = (span for span in spans if span.parent_span_id.hex() == PARENT)
    assert attributes(server)["rpc.grpc.status_code"] == 5


@pytest.mark.parametrize("metadata", [(), (("traceparent", f"00-{'a' * 32}-{PARENT}-00"),)])
async def test_what_is_not_sampled_has_no_span(traced: Traced, metadata: tuple[tuple[str, str], ...]) -> None:
    before = len(traced.collector.spans)
    await call(traced.system.channel, create_request(traced.system.fresh_seats()), metadata=metadata)
    trace_id, sentinel = sampled()
    await call(traced.system.channel, messages.ListReservationsRequest(), metadata=sentinel)
    await traced.collector.receives(trace_id, f"{SERVICE}/ListReservations")
    assert [span.name for span in traced.collector.spans[before:] if span.trace_id.hex() != trace_id] == []


async def test_a_trace_goes_on_in_the_inventory_of_another_service(traced: Traced, ministack_url: str) -> None:
    settings = own_settings(
        ministack_url,
        otel_exporter_otlp_endpoint=traced.collector.endpoint,
        grpc_client_inventory_service_address=traced.system.address,
        grpc_client_inventory_service_timeout="1s",
        shards=1,
    )
    await make_tables(settings)
    trace_id, metadata = sampled()
    (seat_id,) = traced.system.fresh_seats()
    async with serving(settings) as seller:
        await call(seller.channel, create_request([seat_id]), metadata=metadata)
    # Its end has flushed what it had to tell.
    spans = await traced.collector.receives(trace_id, CREATE)
    write: Tree = ("store.write", [("DynamoDB.TransactWriteItems", [])])
    hold_there: Tree = ("store.hold", [("DynamoDB.TransactWriteItems", [])])
    ((root, below),) = tree(spans, PARENT)
    assert root == CREATE
    assert below[0] == below[-1] == write
    ((client, served),) = (each for each in below if each[0] == f"{INVENTORY}/ReserveSeat")
    ((server, there),) = served
    assert client == server
    assert there[-1] == hold_there


async def test_a_service_without_a_collector_starts_serves_and_stops(ministack_url: str, deaf_port: int) -> None:
    settings = own_settings(
        ministack_url,
        otel_exporter_otlp_endpoint=f"http://127.0.0.1:{deaf_port}",
        otel_traces_sampler_arg=1,
        shards=1,
    )
    async with selling(settings) as system:
        await hold(system.channel, system.fresh_seats())
