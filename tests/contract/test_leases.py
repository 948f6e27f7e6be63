"""The leases table: who wins, who is told so, and what a lost reply does. On both emulators."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reservation import app
from reservation.aws.client import AwsClient
from reservation.aws.errors import AwsError, Throttled, TransportError
from reservation.dynamodb.items import (
    DeadLetter,
    Item,
    dead_letter_partition,
    dead_letter_to_item,
    outbox_row_to_item,
    reservation_to_item,
)
from reservation.dynamodb.leases import (
    NOBODY,
    LeaseTable,
    Roll,
    Shard,
    Worker,
    shard_from_item,
    shard_to_item,
    worker_from_item,
)
from reservation.dynamodb.outbox import Outbox
from reservation.dynamodb.retirement import LASTING_SHARD, NotRetirable, is_empty, retire
from reservation.settings import Settings
from tests.support.conflict_proxy import ConflictProxy
from tests.support.faults import Hold, LoseReply, LoseRequest, Request, Throttle
from tests.support.outbox import SHARD, row
from tests.support.system import dynamodb_of, make_tables, own_settings, table_name
from tests.unit.examples import HOLD

LEASE = 5.0
FREE = Shard("0001", since=10)
MINE = Shard("0001", owner="me", token=1, since=20)


@pytest.fixture(scope="module")
def tables(backend_url: str) -> Settings:
    """Tables for all tests of this module: to make them takes longer than a test."""
    settings = own_settings(backend_url)
    asyncio.run(make_tables(settings))
    return settings


@pytest.fixture
async def settings(tables: Settings) -> Settings:
    """With an empty leases table."""
    async with dynamodb_of(tables) as client:
        table = {"TableName": tables.dynamodb_table_leases}
        for item in (await client.call("Scan", table))["Items"]:
            await client.call("DeleteItem", table | {"Key": {"leaseKey": item["leaseKey"]}})
    return tables


@asynccontextmanager
async def leases_at(settings: Settings, url: str) -> AsyncIterator[LeaseTable]:
    async with dynamodb_of(settings.model_copy(update={"aws_endpoint_url": url})) as client:
        yield LeaseTable(client, settings.dynamodb_table_leases, lease_seconds=LEASE)


@pytest.fixture
async def leases(settings: Settings) -> AsyncIterator[LeaseTable]:
    assert settings.aws_endpoint_url is not None
    async with leases_at(settings, settings.aws_endpoint_url) as leases:
        yield leases


@pytest.fixture
async def proxy(settings: Settings) -> AsyncIterator[ConflictProxy]:
    assert settings.aws_endpoint_url is not None
    async with ConflictProxy(settings.aws_endpoint_url, hold=0.0) as proxy:
        yield proxy


@pytest.fixture
async def through_proxy(settings: Settings, proxy: ConflictProxy) -> AsyncIterator[LeaseTable]:
    async with leases_at(settings, proxy.url) as leases:
        yield leases


def any_(operation: str) -> Callable[[Request], bool]:
    return lambda request: request.operation == operation


async def shard(leases: LeaseTable, name: str = "0001") -> Shard:
    (found,) = [each for each in (await leases.scan()).shards if each.name == name]
    return found


async def workers(leases: LeaseTable) -> tuple[Worker, ...]:
    return (await leases.scan()).workers


@given(
    st.builds(
        Shard,
        name=st.from_regex(r"[0-9]{4}", fullmatch=True),
        owner=st.text(max_size=20),
        token=st.integers(0, 2**60),
        since=st.integers(0, 2**45),
        retiring=st.booleans(),
    )
)
def test_a_shard_comes_back_from_its_item_as_it_was(shard: Shard) -> None:
    assert shard_from_item(shard_to_item(shard)) == shard


def test_a_worker_is_read_from_its_item() -> None:
    item = {"leaseKey": {"S": "worker#a#b"}, "counter": {"N": "7"}, "startedAt": {"N": "99"}}
    assert worker_from_item(item) == Worker("a#b", counter=7, started_at=99)


async def test_a_table_without_items_is_an_empty_roll(leases: LeaseTable) -> None:
    assert await leases.scan() == Roll((), ())


async def test_the_roll_is_sorted_and_passes_over_items_of_other_kinds(leases: LeaseTable, settings: Settings) -> None:
    async with dynamodb_of(settings) as client:
        await client.call(
            "PutItem", {"TableName": settings.dynamodb_table_leases, "Item": {"leaseKey": {"S": "notice#1"}}}
        )
    for name in ("0002", "0000", "0001"):
        await leases.add_shard(name, 10)
    for worker in ("c", "a", "b"):
        await leases.beat(worker, 20)
    assert await leases.scan() == Roll(
        tuple(Worker(name, counter=1, started_at=20) for name in "abc"),
        tuple(Shard(f"{number:04d}", since=10) for number in range(3)),
    )


async def test_a_roll_of_many_pages_is_read_whole(leases: LeaseTable, settings: Settings) -> None:
    """A page of a Scan ends at 1 MB."""
    filling = {"filling": {"S": "x" * 300_000}}
    async with dynamodb_of(settings) as client:
        for number in range(8):
            item = shard_to_item(Shard(f"{number:04d}")) | filling
            await client.call("PutItem", {"TableName": settings.dynamodb_table_leases, "Item": item})
        first = await client.call("Scan", {"TableName": settings.dynamodb_table_leases})
    assert "LastEvaluatedKey" in first
    assert [each.name for each in (await leases.scan()).shards] == [f"{number:04d}" for number in range(8)]


class TestTheWorkersItem:
    async def test_a_beat_makes_it_and_every_other_one_moves_its_counter(self, leases: LeaseTable) -> None:
        beats = [await leases.beat("me", now) for now in (100, 200, 300)]
        assert beats == [Worker("me", counter, started_at=100) for counter in (1, 2, 3)]
        assert await workers(leases) == (beats[-1],)

    async def test_one_that_was_removed_and_made_anew_has_started_anew(self, leases: LeaseTable) -> None:
        await leases.beat("me", 100)
        await leases.leave("me")
        assert await workers(leases) == ()
        assert await leases.beat("me", 200) == Worker("me", counter=1, started_at=200)

    async def test_after_a_lost_reply_it_has_moved_and_is_still_the_same(
        self, through_proxy: LeaseTable, proxy: ConflictProxy
    ) -> None:
        await through_proxy.beat("me", 100)
        proxy.script(any_("UpdateItem"), LoseReply())
        assert await through_proxy.beat("me", 200) == Worker("me", counter=3, started_at=100)

    async def test_a_dead_one_is_buried(self, leases: LeaseTable) -> None:
        dead = await leases.beat("dead", 100)
        await leases.bury(dead)
        await leases.bury(dead)
        assert await workers(leases) == ()

    async def test_one_that_has_moved_since_is_not_buried(self, leases: LeaseTable) -> None:
        seen = await leases.beat("alive", 100)
        now = await leases.beat("alive", 200)
        await leases.bury(seen)
        assert await workers(leases) == (now,)

    async def test_one_that_was_made_anew_is_not_buried_for_its_former_counter(self, leases: LeaseTable) -> None:
        seen = await leases.beat("alive", 100)
        await leases.leave("alive")
        again = await leases.beat("alive", 200)
        assert again.counter == seen.counter
        await leases.bury(seen)
        assert await workers(leases) == (again,)


class TestTheShardsItem:
    async def test_a_free_shard_is_taken_under_the_next_token(self, leases: LeaseTable) -> None:
        await leases.add_shard("0001", 10)
        assert await leases.take(FREE, "me", 20) == MINE
        assert await shard(leases) == MINE

    @pytest.mark.parametrize(
        "outdated", [replace(MINE, token=0), replace(MINE, owner="another"), replace(MINE, owner=NOBODY)]
    )
    async def test_who_knows_another_owner_or_token_takes_nothing(self, leases: LeaseTable, outdated: Shard) -> None:
        await leases.add_shard("0001", 10)
        await leases.take(FREE, "me", 20)
        assert await leases.take(outdated, "thief", 30) is None
        assert await shard(leases) == MINE

    async def test_of_many_takers_exactly_one_wins(self, leases: LeaseTable) -> None:
        await leases.add_shard("0001", 10)
        ends = await asyncio.gather(*(leases.take(FREE, f"w{number}", 20) for number in range(20)))
        (won,) = [end for end in ends if end is not None]
        assert await shard(leases) == won

    async def test_a_shard_that_does_not_exist_is_neither_taken_nor_made(self, leases: LeaseTable) -> None:
        assert await leases.take(FREE, "me", 20) is None
        await leases.give_back(MINE, 30)
        assert await leases.scan() == Roll((), ())

    async def test_one_that_is_given_back_is_free_and_keeps_its_token(self, leases: LeaseTable) -> None:
        await leases.add_shard("0001", 10)
        await leases.take(FREE, "me", 20)
        await leases.give_back(MINE, 30)
        assert await shard(leases) == Shard("0001", token=1, since=30)

    async def test_tokens_grow_with_every_owner_and_never_come_again(self, leases: LeaseTable) -> None:
        await leases.add_shard("0001", 10)
        tokens = []
        for worker in ("a", "b", "b", "a"):
            taken = await leases.take(await shard(leases), worker, 20)
            assert taken is not None
            tokens.append(taken.token)
            if worker == "b":
                await leases.give_back(taken, 30)
        assert tokens == [1, 2, 3, 4]

    @pytest.mark.parametrize("theirs", [Shard("0001", "another", 2), Shard("0001", "me", 2)])
    async def test_a_late_give_back_changes_nothing_for_a_later_owner(self, leases: LeaseTable, theirs: Shard) -> None:
        """Also if the later owner is the same worker, which has taken it anew."""
        await leases.add_shard("0001", 10)
        await leases.take(FREE, "me", 20)
        assert await leases.take(MINE, theirs.owner, 30) == replace(theirs, since=30)
        await leases.give_back(MINE, 40)
        assert await shard(leases) == replace(theirs, since=30)

    async def test_adding_one_that_is_there_changes_nothing(self, leases: LeaseTable) -> None:
        await leases.add_shard("0001", 10)
        await leases.take(FREE, "me", 20)
        await leases.mark_retiring("0001")
        assert not await leases.add_shard("0001", 30)
        assert await shard(leases) == replace(MINE, retiring=True)

    async def test_a_taken_shard_shows_that_it_is_retiring(self, leases: LeaseTable) -> None:
        await leases.add_shard("0001", 10)
        await leases.mark_retiring("0001")
        assert await leases.take(await shard(leases), "me", 20) == replace(MINE, retiring=True)

    async def test_only_a_retiring_one_is_removed_whoever_has_it(self, leases: LeaseTable) -> None:
        await leases.add_shard("0001", 10)
        await leases.take(FREE, "me", 20)
        assert not await leases.remove_shard("0001")
        assert await shard(leases) == MINE
        assert await leases.mark_retiring("0001")
        assert await leases.remove_shard("0001")
        assert await leases.remove_shard("0001")
        assert await leases.scan() == Roll((), ())

    async def test_only_a_retiring_one_is_brought_back_and_its_owner_keeps_it(self, leases: LeaseTable) -> None:
        assert not await leases.bring_back("0001")
        assert await leases.scan() == Roll((), ())
        await leases.add_shard("0001", 10)
        await leases.take(FREE, "me", 20)
        assert not await leases.bring_back("0001")
        await leases.mark_retiring("0001")
        assert await leases.bring_back("0001")
        assert await shard(leases) == MINE

    async def test_one_that_does_not_exist_cannot_retire(self, leases: LeaseTable) -> None:
        assert not await leases.mark_retiring("0001")
        assert await leases.scan() == Roll((), ())


class TestLostReplies:
    async def test_a_take_whose_reply_was_lost_is_recognised_as_ones_own(
        self, through_proxy: LeaseTable, proxy: ConflictProxy
    ) -> None:
        await through_proxy.add_shard("0001", 10)
        proxy.script(any_("UpdateItem"), LoseReply())
        assert await through_proxy.take(FREE, "me", 20) == MINE
        assert proxy.stats["UpdateItem"] == 2

    async def test_a_take_that_never_arrived_and_lost_against_another_is_not_taken_for_ones_own(
        self, through_proxy: LeaseTable, leases: LeaseTable, proxy: ConflictProxy
    ) -> None:
        await through_proxy.add_shard("0001", 10)
        proxy.script(any_("UpdateItem"), LoseRequest())
        proxy.script(any_("UpdateItem"), LoseRequest())
        with pytest.raises(TransportError):
            await through_proxy.take(FREE, "me", 20)
        won = await leases.take(FREE, "another", 20)
        assert await through_proxy.take(FREE, "me", 20) is None
        assert await shard(leases) == won

    async def test_a_give_back_whose_reply_was_lost_is_done(
        self, through_proxy: LeaseTable, leases: LeaseTable, proxy: ConflictProxy
    ) -> None:
        await through_proxy.add_shard("0001", 10)
        await through_proxy.take(FREE, "me", 20)
        proxy.script(any_("UpdateItem"), LoseReply())
        await through_proxy.give_back(MINE, 30)
        assert await shard(leases) == Shard("0001", token=1, since=30)

    @pytest.mark.parametrize("operation", ["add", "bury", "remove"])
    async def test_additions_and_removals_may_be_repeated(
        self, through_proxy: LeaseTable, proxy: ConflictProxy, operation: str
    ) -> None:
        await through_proxy.add_shard("0000", 10)
        await through_proxy.mark_retiring("0000")
        dead = await through_proxy.beat("dead", 10)
        proxy.script(any_("PutItem" if operation == "add" else "DeleteItem"), LoseReply())
        match operation:
            case "add":
                await through_proxy.add_shard("0001", 10)
                assert await shard(through_proxy) == FREE
            case "bury":
                await through_proxy.bury(dead)
                assert await workers(through_proxy) == ()
            case _:
                await through_proxy.remove_shard("0000")
                assert (await through_proxy.scan()).shards == ()

    async def test_one_throttle_is_survived_and_two_are_told(
        self, through_proxy: LeaseTable, proxy: ConflictProxy
    ) -> None:
        proxy.script(any_("UpdateItem"), Throttle())
        assert (await through_proxy.beat("me", 100)).counter == 1
        for _ in range(2):
            proxy.script(any_("UpdateItem"), Throttle())
        with pytest.raises(Throttled):
            await through_proxy.beat("me", 100)


class TestRetirement:
    @pytest.fixture
    def waited(self) -> list[float]:
        return []

    @pytest.fixture
    def retiring(self, leases: LeaseTable, waited: list[float]) -> Callable[..., Any]:
        """retire() in a time that is only counted, by sleeps that end early."""

        async def sleep(seconds: float) -> None:
            waited.append(min(seconds, 5.0))

        async def start(shard: str, is_empty: Callable[[str], Any]) -> bool:
            return await retire(
                leases, shard, is_empty, lease_seconds=LEASE, sleep=sleep, monotonic=lambda: 1000 + sum(waited)
            )

        return start

    async def test_an_empty_shard_goes_when_nobody_can_choose_it_any_more(
        self, leases: LeaseTable, retiring: Any, waited: list[float]
    ) -> None:
        """Scans from before the mark are good for two leases, and a command may take 4.5 s with its last try."""
        await leases.add_shard("0001", 10)

        async def is_empty(name: str) -> bool:
            assert (await shard(leases, name)).retiring
            assert sum(waited) == 2 * LEASE + 4.5
            return True

        assert await retiring("0001", is_empty)
        assert await leases.scan() == Roll((), ())

    async def test_one_that_is_not_empty_stays_retiring_and_goes_later(self, leases: LeaseTable, retiring: Any) -> None:
        await leases.add_shard("0001", 10)
        answers = iter([False, True])

        async def is_empty(_: str) -> bool:
            return next(answers)

        assert not await retiring("0001", is_empty)
        assert await shard(leases) == replace(FREE, retiring=True)
        assert await retiring("0001", is_empty)
        assert (await leases.scan()).shards == ()

    async def test_one_that_is_brought_back_meanwhile_stays(self, leases: LeaseTable, retiring: Any) -> None:
        await leases.add_shard("0001", 10)

        async def is_empty(name: str) -> bool:
            return await leases.bring_back(name)

        assert not await retiring("0001", is_empty)
        assert await shard(leases) == FREE

    @pytest.mark.parametrize("name", [LASTING_SHARD, "0009"])
    async def test_neither_the_lasting_shard_nor_an_unknown_one_can_go(
        self, leases: LeaseTable, retiring: Any, waited: list[float], name: str
    ) -> None:
        await leases.add_shard(LASTING_SHARD, 10)
        with pytest.raises(NotRetirable, match=name):
            await retiring(name, lambda _: pytest.fail("was asked"))
        assert await leases.scan() == Roll((), (Shard(LASTING_SHARD, since=10),))
        assert waited == []

    @pytest.mark.parametrize("place", ["reservations", "outbox", "dead"])
    async def test_a_shard_with_anything_in_it_is_not_empty(self, settings: Settings, place: str) -> None:
        letter = DeadLetter(row("a"), "MalformedDetail", "", 10)
        item = {
            "reservations": reservation_to_item(replace(HOLD, shard=SHARD)),
            "outbox": outbox_row_to_item(letter.row),
            "dead": dead_letter_to_item(letter),
        }[place]
        async with stored_in(settings, "outbox" if place == "dead" else place, item) as client:
            assert not await is_empty(client, app.tables_of(settings), SHARD)
            assert await is_empty(client, app.tables_of(settings), "0001")
        async with dynamodb_of(settings) as client:
            assert await is_empty(client, app.tables_of(settings), SHARD)

    async def test_a_dead_letter_that_is_replayed_during_the_look_is_not_missed(
        self, settings: Settings, proxy: ConflictProxy
    ) -> None:
        """After the events that wait were read, and before the dead letters are."""
        letter, tables = DeadLetter(row("a"), "MalformedDetail", "", 10), app.tables_of(settings)
        async with (
            stored_in(settings, "outbox", dead_letter_to_item(letter)) as client,
            dynamodb_of(settings.model_copy(update={"aws_endpoint_url": proxy.url})) as slow,
        ):
            look = Hold()
            proxy.script(lambda request: dead_letter_partition(SHARD) in str(request.params), look)
            looking = asyncio.create_task(is_empty(slow, tables, SHARD))
            await look.reached.wait()
            assert await Outbox(client, tables.outbox).replay(letter.row)
            look.event.set()
            assert not await looking
            await Outbox(client, tables.outbox).delete([letter.row])


@asynccontextmanager
async def stored_in(settings: Settings, table: str, *items: Item) -> AsyncIterator[AwsClient]:
    """Inside the block the table has these items. The client reaches it directly."""
    async with dynamodb_of(settings) as client:
        for item in items:
            await client.call("PutItem", {"TableName": table_name(settings, table), "Item": item})
        yield client
        names = ("shard", "seq") if table == "outbox" else ("reservationId", "eventId")
        for item in items:
            key = {name: item[name] for name in names}
            await client.call("DeleteItem", {"TableName": table_name(settings, table), "Key": key})


async def test_a_table_that_is_missing_is_an_error(settings: Settings) -> None:
    async with dynamodb_of(settings) as client:
        leases = LeaseTable(client, "nowhere-leases", lease_seconds=LEASE)
        for call in (leases.scan(), leases.beat("me", 1), leases.take(FREE, "me", 1)):
            with pytest.raises(AwsError, match="ResourceNotFoundException"):
                await call
