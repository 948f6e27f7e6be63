"""The operators' commands on a whole system: leases, shards, dead letters, audit."""

import json
import uuid
from dataclasses import replace
from io import StringIO
from pathlib import Path

import grpc
import pytest
from rich.console import Console

from reservation import app
from reservation.aws.session import session
from reservation.clock import Clock
from reservation.dynamodb.items import DeadLetter, OutboxRow, dead_letter_to_item
from reservation.dynamodb.leases import LeaseTable
from reservation.eventbridge import create_bus, subscribe_queue
from reservation.gen.com.traffic_tacos.reservation import v1 as messages
from reservation.operators import Operators
from reservation.settings import Settings
from tests.support.command import ended, environment_of
from tests.support.system import (
    System,
    call,
    dynamodb_of,
    make_tables,
    own_settings,
    scan,
    selling,
    serving,
    table_name,
)

LETTER = DeadLetter(
    OutboxRow("0003", "1900000000000#rsv_1#000001", "rsv_1", "reservation.created", '{"messageId":"rsv_1#1"}'),
    error_code="MalformedDetail",
    error_message="Detail is malformed.",
    died_at=1_900_000_000_000,
)


@pytest.fixture
def settings(ministack_url: str) -> Settings:
    """A bus of its own, and EventBridge within reach."""
    bus = f"bus-{uuid.uuid4().hex[:8]}"
    return own_settings(ministack_url, aws_eventbridge_endpoint=None, eventbridge_bus_name=bus, lease_seconds=1.0)


@pytest.fixture
async def queue(settings: Settings) -> str:
    """The URL of a queue that gets every event."""
    aws = session(app.aws_config_of(settings))
    async with (
        aws.create_client("events", endpoint_url=settings.aws_endpoint_url) as events,
        aws.create_client("sqs", endpoint_url=settings.aws_endpoint_url) as sqs,
    ):
        await create_bus(events, settings.eventbridge_bus_name)
        bus = settings.eventbridge_bus_name
        return await subscribe_queue(events, sqs, bus, bus)


async def _sell(system: System) -> None:
    held = await call(system.channel, _create(system.fresh_seats(2)))
    confirm = messages.ConfirmReservationRequest(reservation_id=held.message.reservation_id, payment_intent_id="pay_1")
    await call(system.channel, confirm)


def _create(seat_ids: list[str]) -> messages.CreateReservationRequest:
    return messages.CreateReservationRequest(event_id="evt_2025_1001", seat_ids=seat_ids)


async def test_a_sale_is_published_and_the_audit_is_clean_up_to_the_queue(settings: Settings, queue: str) -> None:
    async with selling(settings) as system:
        await _sell(system)
        environment = environment_of(settings)
        for _ in range(2):  # the first one leaves the queue as it was
            told = await ended("audit", "--queue", queue, **environment)
            assert told.code == 0, told
            assert "clean: 1 reservations" in told.out
        leases = await ended("leases", **environment)
        assert leases.code == 0
        assert "0015" in leases.out
    put = {"TableName": table_name(settings, "orders"), "Item": {"orderId": {"S": "o"}, "reservationId": {"S": "r"}}}
    async with dynamodb_of(settings) as dynamodb:
        await dynamodb.call("PutItem", put)
    broken = await ended("audit", **environment)
    assert broken.code == 1
    assert "order-without-sale: o" in broken.out


async def test_the_audit_goes_by_dynamodbs_clock(settings: Settings, queue: str) -> None:
    """By the clock of a machine a minute ahead, a hold of a minute would have ended long ago."""
    async with selling(settings) as system:
        await call(system.channel, _create(system.fresh_seats(1)))
        clock = Clock(lambda: system.dynamodb.server_date, offset=60_000 + 5_000 + 2_000 + 1_000)
        out = StringIO()
        assert await Operators(settings, system.dynamodb, Console(file=out), clock=clock).audit(None), out.getvalue()


async def test_a_bus_that_is_not_there_stops_the_start(settings: Settings) -> None:
    with pytest.raises(app.StartError, match=settings.eventbridge_bus_name):
        async with serving(settings):
            raise AssertionError("it started")


async def test_dead_letters_are_listed_shown_replayed_and_purged(settings: Settings, queue: str) -> None:
    async with selling(settings) as system:
        environment = environment_of(settings)
        assert (await ended("outbox", "list", **environment)).code == 0
        put = {"TableName": table_name(settings, "outbox"), "Item": dead_letter_to_item(LETTER)}
        await system.dynamodb.call("PutItem", put)
        listed = await ended("outbox", "list", COLUMNS="200", **environment)
        assert listed.code == 1
        assert "MalformedDetail" in listed.out
        shown = await ended("outbox", "show", LETTER.row.shard, LETTER.row.seq, **environment)
        assert json.loads(LETTER.row.detail)["messageId"] in shown.out
        assert (await ended("outbox", "show", "0001", "nothing", **environment)).code == 1
        replayed = await ended("outbox", "replay", **environment)
        assert "1 replayed" in replayed.out
        await system.dynamodb.call("PutItem", put)
        assert "1 purged" in (await ended("outbox", "purge", LETTER.row.shard, LETTER.row.seq, **environment)).out
        assert (await ended("outbox", "list", **environment)).code == 0


async def test_shards_are_added_and_retired(settings: Settings, queue: str) -> None:
    async with selling(settings) as system:
        environment = environment_of(settings) | {"LEASE_SECONDS": "1"}
        assert (await ended("shards", "add", "0099", **environment)).code == 0
        assert "0099" in (await ended("shards", "list", **environment)).out
        assert (await ended("shards", "retire", "0099", **environment)).code == 0
        assert "0099" not in (await ended("shards", "list", **environment)).out
        with pytest.raises(grpc.aio.AioRpcError):
            await call(system.channel, messages.GetReservationRequest(reservation_id="rsv_unknown"))


async def test_adding_a_shard_says_what_became_of_it_and_brings_back_one_that_retires(settings: Settings) -> None:
    await make_tables(settings)
    async with dynamodb_of(settings) as dynamodb:
        leases = LeaseTable(dynamodb, settings.dynamodb_table_leases, lease_seconds=1)

        async def add() -> str:
            out = StringIO()
            assert await Operators(settings, dynamodb, Console(file=out)).add_shard("0003")
            assert [shard.retiring for shard in (await leases.scan()).shards] == [False]
            return out.getvalue()

        assert "0003 is new" in await add()
        assert "0003 is in use already" in await add()
        await leases.mark_retiring("0003")
        assert "0003 was retiring" in await add()


@pytest.mark.parametrize("name", ["", "dead#0003", "0003#", "a b", 65 * "x"])
async def test_a_shard_whose_rows_could_be_taken_for_others_is_not_added(settings: Settings, name: str) -> None:
    await make_tables(settings)
    async with dynamodb_of(settings) as dynamodb:
        assert not await Operators(settings, dynamodb, Console(file=StringIO())).add_shard(name)
        assert await scan(dynamodb, settings.dynamodb_table_leases) == []


@pytest.mark.parametrize("name", ["0000", "4711"])
async def test_a_shard_that_cannot_be_retired_is_named(settings: Settings, name: str) -> None:
    await make_tables(settings)
    out = StringIO()
    async with dynamodb_of(settings) as dynamodb:
        assert not await Operators(settings, dynamodb, Console(file=out)).retire_shard(name)
    assert f"no shard {name}" in out.getvalue()


async def test_a_dead_letter_that_is_no_json_is_shown_as_it_is(settings: Settings) -> None:
    await make_tables(settings)
    out = StringIO()
    broken = replace(LETTER, row=replace(LETTER.row, detail="{[no json]"))
    async with dynamodb_of(settings) as dynamodb:
        put = {"TableName": table_name(settings, "outbox"), "Item": dead_letter_to_item(broken)}
        await dynamodb.call("PutItem", put)
        assert await Operators(settings, dynamodb, Console(file=out)).show_dead(broken.row.shard, broken.row.seq)
    assert "{[no json]" in out.getvalue()


async def test_a_file_name_that_looks_like_markup_is_told_as_it_is(tmp_path: Path) -> None:
    bad = tmp_path / "[" / "x].csv"
    bad.parent.mkdir()
    bad.write_text("nonsense")
    refused = await ended("events", "import", str(bad))
    assert refused.code == 1
    assert "[/x].csv was not imported" in refused.err_words
