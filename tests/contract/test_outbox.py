"""The outbox table: rows in order until they are deleted, and dead letters that are never in two places or in none."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import orjson
import pytest

from reservation.aws.errors import AwsError
from reservation.aws.session import AwsConfig, connect
from reservation.domain.errors import ServiceUnavailable
from reservation.dynamodb.items import dead_letter_partition, outbox_row_to_item
from reservation.dynamodb.outbox import DeadLetter, Outbox, UnreadableRow
from tests.support.aws import REGION
from tests.support.conflict_proxy import ConflictProxy
from tests.support.faults import Answer, Hold, HoldOngoing, LoseReply, RejectBefore, Request
from tests.support.outbox import NOW, SHARD, OutboxTable, outbox_table, row, rows
from tests.support.verdicts import until

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
async def table(backend_url: str) -> AsyncIterator[OutboxTable]:
    async with outbox_table(backend_url) as table:
        yield table


@asynccontextmanager
async def through_proxy(table: OutboxTable, **options: Any) -> AsyncIterator[tuple[ConflictProxy, Outbox]]:
    """The outbox as one sees it whose requests the proxy may spoil."""
    async with (
        ConflictProxy(table.url, **{"hold": 0.0} | options) as proxy,
        table.seen_through(proxy.url) as outbox,
    ):
        yield proxy, outbox


def is_(operation: str) -> Callable[[Request], bool]:
    return lambda request: request.operation == operation


async def test_a_page_has_the_rows_of_its_shard_in_the_order_in_which_they_leave(table: OutboxTable) -> None:
    wanted = [row("b", at=10), row("a", 1, at=20), row("a", 2, at=20), row("c", at=30)]
    await table.write(*random.Random(1).sample(wanted, len(wanted)), row("d", shard="0008"))
    page = await table.outbox.page(SHARD)
    assert (page.rows, page.next) == (tuple(wanted), None)


async def test_pages_follow_each_other_without_a_gap_or_a_repetition(table: OutboxTable) -> None:
    wanted = rows([f"{number:02d}" for number in range(12)], versions=2)
    await table.write(*wanted)
    found: list[object] = []
    after = None
    for _ in range(4):
        page = await table.outbox.page(SHARD, after, limit=7)
        found += page.rows
        after = page.next
    assert found == sorted(wanted, key=lambda each: each.seq)
    assert after is None


async def test_a_late_commit_under_an_older_key_is_on_the_next_first_page(table: OutboxTable) -> None:
    await table.write(row("a", at=5_000))
    await table.outbox.page(SHARD)
    await table.write(row("b", at=0))
    assert (await table.outbox.page(SHARD)).rows == (row("b", at=0), row("a", at=5_000))


async def test_a_row_that_cannot_be_read_is_in_its_place_and_names_its_reservation(table: OutboxTable) -> None:
    spoilt = outbox_row_to_item(row("b"))
    del spoilt["detail"]
    other_kind = outbox_row_to_item(row("c")) | {"type": {"N": "7"}}
    await table.write(row("a"), row("d"))
    await table.write_items(spoilt, other_kind)
    found = (await table.outbox.page(SHARD)).rows
    assert found == (row("a"), UnreadableRow(SHARD, row("b").seq), UnreadableRow(SHARD, row("c").seq), row("d"))
    assert [each.reservation_id for each in found] == ["rsv_a", "rsv_b", "rsv_c", "rsv_d"]
    assert [each.written_at for each in found] == [NOW + 1] * 4


async def test_any_number_of_rows_is_deleted_and_no_other(table: OutboxTable) -> None:
    written = rows([f"{number:03d}" for number in range(70)])
    await table.write(*written)
    await table.outbox.delete(written[3:])
    assert await table.seqs() == [each.seq for each in written[:3]]


async def test_to_delete_what_is_gone_is_no_error_and_to_delete_nothing_is_no_call(table: OutboxTable) -> None:
    await table.outbox.delete([row("a")])
    calls = table.dynamodb.stats["calls"]
    await table.outbox.delete([])
    assert table.dynamodb.stats["calls"] == calls


async def test_what_a_batch_leaves_unprocessed_is_deleted_by_the_next(table: OutboxTable) -> None:
    """DynamoDB may do a part of a batch and answer 200."""
    written = rows(["a", "b", "c"])
    await table.write(*written)
    undone = {table.name: [{"DeleteRequest": {"Key": {"shard": {"S": SHARD}, "seq": {"S": row("b").seq}}}}]}
    async with through_proxy(table) as (proxy, outbox):
        proxy.script(is_("BatchWriteItem"), Answer(200, orjson.dumps({"UnprocessedItems": undone})))
        await outbox.delete(written)
        assert proxy.stats["BatchWriteItem"] == 2
    assert await table.seqs() == [row("a").seq, row("c").seq]


async def test_a_buried_row_is_out_of_its_shard_and_keeps_its_event_and_the_refusal(table: OutboxTable) -> None:
    await table.write(row("a"), row("b"))
    assert await table.outbox.bury(row("a"), "MalformedDetail", "Detail is malformed.", NOW + 9)
    assert await table.seqs() == [row("b").seq]
    letter = DeadLetter(row("a"), "MalformedDetail", "Detail is malformed.", NOW + 9)
    assert await table.outbox.show(SHARD, row("a").seq) == letter
    assert [each async for each in table.outbox.dead([SHARD])] == [letter]


async def test_dead_letters_are_listed_shard_by_shard_and_no_live_row_is_among_them(table: OutboxTable) -> None:
    dead = [row("b", shard="0001"), row("c", shard="0001"), row("a", shard="0002"), row("x", shard="0009")]
    await table.write(*dead, row("alive", shard="0001"))
    for each in reversed(dead):
        await table.outbox.bury(each, "InvalidArgument", "", NOW)
    listed = [letter.row async for letter in table.outbox.dead(["0001", "0002", "0003"])]
    assert listed == dead[:3]
    assert [await table.outbox.count_dead(shard) for shard in ("0001", "0003")] == [2, 0]


async def test_a_letter_that_is_not_there_cannot_be_shown(table: OutboxTable) -> None:
    await table.write(row("a"))
    assert await table.outbox.show(SHARD, row("a").seq) is None


async def test_what_another_process_has_published_is_not_buried(table: OutboxTable) -> None:
    """Its dead letter could be replayed years later."""
    assert not await table.outbox.bury(row("a"), "InvalidArgument", "", NOW)
    assert await table.items() == []


async def test_a_replayed_row_is_back_under_its_key_as_it_was(table: OutboxTable) -> None:
    await table.write(row("a", 1), row("a", 2))
    await table.outbox.bury(row("a", 1), "InvalidArgument", "no", NOW)
    assert await table.outbox.replay(row("a", 1))
    assert (await table.outbox.page(SHARD)).rows == (row("a", 1), row("a", 2))
    assert await table.outbox.show(SHARD, row("a", 1).seq) is None


async def test_a_letter_is_replayed_once(table: OutboxTable) -> None:
    """Of two operators one is told that there is nothing to replay; the event is not written a second time."""
    await table.write(row("a"))
    await table.outbox.bury(row("a"), "InvalidArgument", "", NOW)
    assert sorted(await asyncio.gather(*(table.outbox.replay(row("a")) for _ in range(4)))) == [False] * 3 + [True]
    await table.outbox.delete([row("a")])
    assert not await table.outbox.replay(row("a"))
    assert await table.items() == []


async def test_a_purged_letter_is_gone_and_its_row_does_not_come_back(table: OutboxTable) -> None:
    await table.write(row("a"), row("b"))
    for each in (row("a"), row("b")):
        await table.outbox.bury(each, "InvalidArgument", "", NOW)
    await table.outbox.purge(row("a"))
    assert [letter.row async for letter in table.outbox.dead([SHARD])] == [row("b")]
    assert not await table.outbox.replay(row("a"))
    assert await table.seqs() == []


async def test_purging_leaves_a_live_row_alone(table: OutboxTable) -> None:
    await table.write(row("a"))
    await table.outbox.purge(row("a"))
    assert await table.seqs() == [row("a").seq]


@pytest.mark.parametrize("move", ["bury", "replay"])
async def test_a_move_whose_reply_was_lost_is_made_once_and_known_to_be_made(table: OutboxTable, move: str) -> None:
    await table.write(row("a"))
    if move == "replay":
        await table.outbox.bury(row("a"), "InvalidArgument", "", NOW)
    async with through_proxy(table) as (proxy, outbox):
        proxy.script(is_("TransactWriteItems"), LoseReply())
        assert await _move(outbox, move)
    expected = SHARD if move == "replay" else dead_letter_partition(SHARD)
    assert [item["shard"]["S"] for item in await table.items()] == [expected]


@pytest.mark.parametrize("move", ["bury", "replay"])
async def test_a_move_that_fails_changes_nothing(table: OutboxTable, move: str) -> None:
    await table.write(row("a"))
    if move == "replay":
        await table.outbox.bury(row("a"), "InvalidArgument", "", NOW)
    before = await table.items()
    async with through_proxy(table) as (proxy, outbox):
        proxy.script(is_("TransactWriteItems"), RejectBefore("AccessDeniedException"))
        with pytest.raises(AwsError, match="AccessDenied"):
            await _move(outbox, move)
    assert await table.items() == before


async def test_a_move_waits_for_another_transaction_on_the_row(table: OutboxTable) -> None:
    await table.write(row("a"))
    async with through_proxy(table) as (proxy, outbox):
        ongoing = HoldOngoing()
        proxy.script(is_("TransactWriteItems"), ongoing)
        moving = asyncio.gather(*(outbox.bury(row("a"), "InvalidArgument", "", NOW) for _ in range(4)))
        await until(lambda: proxy.stats["conflict"] >= 3)
        ongoing.event.set()
        moves = await moving
    assert sorted(moves) == [False] * 3 + [True]


async def _move(outbox: Outbox, move: str) -> bool:
    if move == "replay":
        return await outbox.replay(row("a"))
    return await outbox.bury(row("a"), "InvalidArgument", "", NOW)


async def test_a_store_that_does_not_answer_is_unavailable(table: OutboxTable) -> None:
    async with through_proxy(table, throttle=1.0) as (_, outbox):
        for call in (outbox.page(SHARD), outbox.delete([row("a")])):
            with pytest.raises(ServiceUnavailable):
                await call


@pytest.mark.parametrize("wire", ["lean", "aiobotocore"])
async def test_both_wires_read_and_write_the_same(table: OutboxTable, wire: Any) -> None:
    odd = replace(row("ü"), detail='{"text":"\\u0000 ünï 🌮"}')
    await table.write(odd, row("z"))
    client = await connect(AwsConfig(REGION, client=wire), "dynamodb", endpoint_url=table.url)
    outbox = Outbox(client, table.name)
    try:
        assert (await outbox.page(SHARD, limit=1)).next is not None
        assert (await outbox.page(SHARD)).rows == (row("z"), odd)
        assert await outbox.bury(odd, "MalformedDetail", "nö", NOW)
        assert [letter.row async for letter in outbox.dead([SHARD])] == [odd]
        assert await outbox.replay(odd)
        await outbox.delete([odd, row("z")])
    finally:
        await client.close()
    assert await table.items() == []


async def test_a_page_sees_what_was_committed_before_it_was_asked_for(table: OutboxTable) -> None:
    """Reads are consistent: an eventually consistent one could miss the row, and its nudge was the only one."""
    async with through_proxy(table) as (proxy, outbox):
        held = Hold()
        proxy.script(lambda request: request.operation == "Query" and request.params["ConsistentRead"], held)
        looking = asyncio.create_task(outbox.page(SHARD))
        await held.reached.wait()
        await table.write(row("a"))
        held.event.set()
        assert (await looking).rows == (row("a"),)
