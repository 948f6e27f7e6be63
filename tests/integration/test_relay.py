"""The relay between a real outbox and an event bus that misbehaves: nothing is lost, nothing overtakes."""

import asyncio
import random
import signal
import sys
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from reservation.background.loops import LoopDied, Loops
from reservation.background.relay import REFUSALS, Relay
from reservation.domain.errors import ReservationError
from reservation.dynamodb.items import outbox_row_to_item
from reservation.dynamodb.outbox import OutboxRow
from reservation.eventbridge import EventBridge, Refused, create_bus, subscribe_queue
from tests.support.aws import admin_client, quick_client, received
from tests.support.conflict_proxy import ConflictProxy
from tests.support.event_bus_proxy import Entry, EventBusProxy, first_deliveries, message_id
from tests.support.faults import FOR_EVER, Answer, Fault, Hold, HoldReply, LoseRequest, RejectBefore, Request, Throttle
from tests.support.outbox import NOW, SHARD, OutboxTable, StandingTime, outbox_table, row, rows

pytestmark = pytest.mark.timeout(30)

LONG_ENOUGH = 6.0
"""Seconds after which every back-off is over."""


@dataclass
class Scene:
    """A relay between a table of its own and a bus. Its time stands still, and its back-offs take as long as they may.

    `store` is what stands before the table: it may spoil the relay's requests, and counts them. The relay may work on
    the shards in `owned` and publish while `bus_is_there`; the rows that it buried are in `buried`, and the seconds
    that each event took in `delivered`.
    """

    table: OutboxTable
    store: ConflictProxy
    bus: EventBusProxy
    time: StandingTime = field(default_factory=StandingTime)
    owned: set[str] = field(default_factory=lambda: {SHARD})
    bus_is_there: bool = True
    buried: list[tuple[OutboxRow, Refused]] = field(default_factory=list)
    delivered: list[float] = field(default_factory=list)
    now: int = NOW
    relay: Relay = field(init=False)

    async def one_pass(self) -> None:
        """After every back-off there may have been."""
        self.time.advance(LONG_ENOUGH)
        await self.relay.pass_(SHARD)

    async def passes(self, most: int = 100) -> None:
        """One after the other until the shard is empty, failing ones included."""
        for _ in range(most):
            try:
                await self.one_pass()
            except ReservationError:
                continue
            if not await self.table.seqs():
                return
        raise AssertionError(f"left after {most} passes: {await self.table.seqs()}")

    def published(self) -> list[str]:
        """The message ids that the bus accepted, in the order in which it did."""
        return [message_id(entry) for entry in self.bus.accepted]


@asynccontextmanager
async def scene(
    ministack_url: str,
    *,
    bus: EventBusProxy | None = None,
    bus_name: str = "bus",
    timeout: float = 3.0,
    real_time: bool = False,
    **store: Any,
) -> AsyncIterator[Scene]:
    async with AsyncExitStack() as stack:
        table = await stack.enter_async_context(outbox_table(ministack_url))
        proxy = await stack.enter_async_context(ConflictProxy(ministack_url, **{"hold": 0.0} | store))
        endpoint = await stack.enter_async_context(bus or EventBusProxy())
        outbox = await stack.enter_async_context(table.seen_through(proxy.url))
        client = await stack.enter_async_context(quick_client("events", endpoint.url))
        this = Scene(table, proxy, endpoint)
        still: dict[str, Any] = {
            "monotonic": this.time.monotonic,
            "pause": this.time.pause,
            "random": lambda: 1.0,
        }
        this.relay = Relay(
            outbox,
            EventBridge(client, bus_name, timeout=timeout),
            may_work_on=lambda shard: shard in this.owned,
            may_publish=lambda: this.bus_is_there,
            now=lambda: this.now,
            on_dead=lambda row, refusal: this.buried.append((row, refusal)),
            on_accepted=this.delivered.append,
            **({} if real_time else still),
        )
        yield this
        await this.relay.stop()


@pytest.fixture
async def it(ministack_url: str) -> AsyncIterator[Scene]:
    async with scene(ministack_url) as it:
        yield it


def message_ids(rows: Iterable[OutboxRow]) -> list[str]:
    return [f"{row.reservation_id}#{int(row.seq.rpartition('#')[2])}" for row in rows]


def about(*names: str) -> Callable[[Entry], bool]:
    """Entries of these messages ("a#2") or of all versions of these reservations ("a")."""
    return lambda entry: (
        not {message_id(entry), message_id(entry).partition("#")[0]}.isdisjoint(f"rsv_{name}" for name in names)
    )


def is_(operation: str) -> Callable[[Request], bool]:
    return lambda request: request.operation == operation


async def dead(it: Scene) -> list[OutboxRow]:
    return [letter.row async for letter in it.table.outbox.dead([SHARD])]


# Order


async def test_events_of_a_reservation_are_accepted_in_order_although_middle_ones_fail(it: Scene) -> None:
    """Each of 20 second versions fails twice; each event is nevertheless accepted once, and after its predecessor.
    https://github.com/swarmion/swarmion/issues/1890"""
    names = [f"{number:02d}" for number in range(20)]
    await it.table.write(*rows(names, versions=3))
    it.bus.fail_entries("InternalFailure", times=40, having=about(*(f"{name}#2" for name in names)))
    await it.passes()
    assert sorted(it.published()) == sorted(message_ids(rows(names, versions=3)))
    assert first_deliveries(it.published()) == {f"rsv_{name}": [1, 2, 3] for name in names}
    assert it.relay.published == 60
    assert it.relay.put_off == 40


async def test_no_call_and_no_two_calls_at_once_carry_two_events_of_a_reservation(it: Scene) -> None:
    await it.table.write(*rows(["a", "b"], versions=3))
    held = HoldReply()
    it.bus.fail_calls(held)
    it.relay.gained(SHARD)
    await held.reached.wait()
    it.relay.nudge(SHARD)
    assert [sorted(map(message_id, call)) for call in it.bus.calls] == [["rsv_a#1", "rsv_b#1"]]
    held.event.set()
    await it.bus.until_accepted(6)
    assert all(len({message_id(entry).partition("#")[0] for entry in call}) == len(call) for call in it.bus.calls)


async def test_a_version_waits_for_its_predecessor_and_other_reservations_do_not(it: Scene) -> None:
    await it.table.write(*rows(["a", "b"], versions=2))
    it.bus.fail_entries("ThrottlingException", times=FOR_EVER, having=about("a#1"))
    for _ in range(5):
        await it.one_pass()
    assert it.published() == ["rsv_b#1", "rsv_b#2"]
    assert await it.table.seqs() == [row("a", 1).seq, row("a", 2).seq]


async def test_a_late_commit_with_an_older_key_is_published_too(it: Scene) -> None:
    await it.table.write(row("a", at=5_000))
    await it.one_pass()
    await it.table.write(row("b", at=0))
    await it.one_pass()
    assert it.published() == ["rsv_a#1", "rsv_b#1"]


async def test_a_backlog_leaves_in_batches_of_ten_four_at_once(it: Scene) -> None:
    await it.table.write(*rows([f"{number:03d}" for number in range(95)]))
    replies = [HoldReply() for _ in range(4)]
    for reply in replies:
        it.bus.fail_calls(reply)
    working = asyncio.create_task(it.relay.pass_(SHARD))
    for reply in replies:
        await reply.reached.wait()
    assert [len(call) for call in it.bus.calls] == [10, 10, 10, 10]
    for reply in replies:
        reply.event.set()
    await working
    assert [len(call) for call in it.bus.calls] == [10] * 9 + [5]
    assert len(set(it.published())) == 95


# Whatever may go wrong


async def test_with_a_tenth_of_entries_and_some_calls_failing_nothing_is_lost_and_nothing_dies(
    ministack_url: str,
) -> None:
    """Replies of the store are lost, too. A consumer at the end of a real bus gets every event."""
    name = f"bus-{uuid.uuid4().hex[:8]}"
    written = rows([f"{number:03d}" for number in range(80)], versions=3)
    bus = EventBusProxy(ministack_url, entry_failures=0.1, call_failures=0.03, rng=random.Random(2))
    async with admin_client("events", ministack_url) as admin, admin_client("sqs", ministack_url) as sqs:
        await create_bus(admin, name)
        queue = await subscribe_queue(admin, sqs, name, f"{name}-queue")
        async with scene(
            ministack_url, bus=bus, bus_name=name, throttle=0.03, lose_reply=0.03, rng=random.Random(3)
        ) as it:
            bus.fail_calls(Throttle())  # at least one, however the dice fall
            await it.table.write(*written)
            await it.passes()
            published = it.published()
            assert it.relay.put_off > 0
            assert it.relay.refused_calls > 0
            assert it.buried == []
            assert await it.table.items() == []
        got = [envelope["detail"]["messageId"] for envelope in await received(sqs, queue, len(published))]
    assert sorted(got) == sorted(published)
    assert set(published) == set(message_ids(written))
    assert all(versions == [1, 2, 3] for versions in first_deliveries(published).values())


async def test_while_the_bus_is_down_nothing_is_counted_and_afterwards_all_is_published(it: Scene) -> None:
    written = rows([f"{number:02d}" for number in range(30)], versions=2)
    await it.table.write(*written)
    it.bus.down = True
    for _ in range(3 * REFUSALS):
        await it.one_pass()
    it.bus.down = False
    it.bus.fail_entries("InvalidArgument", times=REFUSALS - 1, having=about("00#1"))
    await it.passes()
    assert sorted(it.published()) == sorted(message_ids(written))
    assert await dead(it) == []


CALL_FAULTS: dict[str, Fault] = {
    "throttled": Throttle(),
    "internal": RejectBefore("InternalFailure", 500),
    "unavailable": RejectBefore("ServiceUnavailable", 503),
    "access denied": RejectBefore("AccessDeniedException", 400),
    "signature": RejectBefore("InvalidSignatureException", 403),
    "missing bus": RejectBefore("ResourceNotFoundException", 400),
    "unknown": RejectBefore("NeverHeardOf", 418),
    "request lost": LoseRequest(),
}


@pytest.mark.parametrize("fault", CALL_FAULTS.values(), ids=CALL_FAULTS)
async def test_a_refused_call_is_repeated_for_ever_and_never_counts(it: Scene, fault: Fault) -> None:
    await it.table.write(row("a"), row("b"))
    it.bus.fail_calls(fault, times=2 * REFUSALS)
    for _ in range(2 * REFUSALS):
        await it.one_pass()
    it.bus.fail_entries("InvalidArgument", times=REFUSALS - 1, having=about("a"))
    await it.passes()
    assert sorted(it.published()) == ["rsv_a#1", "rsv_b#1"]
    assert it.relay.refused_calls == 2 * REFUSALS


async def test_a_call_that_is_not_answered_never_counts(ministack_url: str) -> None:
    async with scene(ministack_url, timeout=0.05) as it:
        await it.table.write(row("a"))
        silence = HoldReply()
        it.bus.fail_calls(silence, times=FOR_EVER)
        while len(it.published()) < REFUSALS:  # a busy machine may not even connect within the timeout
            await it.one_pass()
        silence.event.set()
        assert set(it.published()) == {"rsv_a#1"}  # accepted each time, which the relay cannot know
        assert await dead(it) == []


@pytest.mark.parametrize("code", ["InternalFailure", "ThrottlingException", "AccessDeniedException"])
async def test_an_entry_put_off_for_another_reason_than_itself_never_counts(it: Scene, code: str) -> None:
    await it.table.write(row("a"))
    it.bus.fail_entries(code, times=3 * REFUSALS)
    for _ in range(3 * REFUSALS):
        await it.one_pass()
    await it.passes()
    assert it.published() == ["rsv_a#1"]


async def test_a_bus_that_puts_off_every_entry_is_not_asked_further_in_that_pass(it: Scene) -> None:
    await it.table.write(*rows([f"{number:03d}" for number in range(100)]))
    it.bus.fail_entries("ThrottlingException", times=FOR_EVER)
    await it.one_pass()
    assert len(it.bus.calls) == 4


# Poison


async def test_poison_dies_after_eight_refusals_and_then_its_reservation_goes_on(it: Scene) -> None:
    good = [f"{number:02d}" for number in range(30)]
    await it.table.write(*rows(["bad"], versions=3), *rows(good, versions=2))
    it.bus.fail_entries("MalformedDetail", "Detail is malformed.", times=FOR_EVER, having=about("bad#2"))
    await it.passes()
    refused = Counter(message_id(entry) for call in it.bus.calls for entry in call)["rsv_bad#2"]
    assert refused == REFUSALS == 8
    assert [version for version in it.published() if "bad" in version] == ["rsv_bad#1", "rsv_bad#3"]
    assert set(it.published()) == set(message_ids(rows(good, versions=2))) | {"rsv_bad#1", "rsv_bad#3"}
    assert await dead(it) == [row("bad", 2)]
    assert it.buried == [(row("bad", 2), Refused("MalformedDetail", "Detail is malformed."))]
    assert it.relay.dead == 1
    letter = await it.table.outbox.show(SHARD, row("bad", 2).seq)
    assert letter is not None
    assert (letter.error_code, letter.error_message, letter.died_at) == (
        "MalformedDetail",
        "Detail is malformed.",
        NOW,
    )


async def test_a_burial_is_one_transaction_that_is_made_up_for_if_it_fails(it: Scene) -> None:
    await it.table.write(row("a", 1), row("a", 2))
    it.bus.fail_entries("InvalidArgument", times=REFUSALS + 1, having=about("a#1"))
    it.store.script(is_("TransactWriteItems"), RejectBefore("ValidationException"))
    with capture_logs():
        for _ in range(REFUSALS - 1):
            await it.one_pass()
        with pytest.raises(Exception, match="ValidationException"):
            await it.one_pass()
    assert await it.table.seqs() == [row("a", 1).seq, row("a", 2).seq]
    assert await dead(it) == []
    assert it.relay.dead == 0
    await it.passes()
    assert await dead(it) == [row("a", 1)]
    assert it.store.stats["TransactWriteItems"] == 2
    assert it.published() == ["rsv_a#2"]


async def test_one_event_that_spoils_its_call_is_found_and_the_other_nine_leave(it: Scene) -> None:
    """The call is refused, not the entry. Found anew each time, it dies of the same eight refusals."""
    names = [f"{number}" for number in range(9)]
    await it.table.write(*rows(names), row("bad", 1), row("bad", 2))
    spoilt = RejectBefore("ValidationException", 400, "too large")
    it.bus.fail_calls(spoilt, times=FOR_EVER, having=about("bad#1"))
    await it.one_pass()
    assert sorted(it.published()) == sorted(message_ids(rows(names)))
    assert not any("rsv_bad#2" in map(message_id, call) for call in it.bus.calls)
    await it.passes()
    alone = [call for call in it.bus.calls if list(map(message_id, call)) == ["rsv_bad#1"]]
    assert len(alone) == REFUSALS
    assert await dead(it) == [row("bad", 1)]
    assert it.buried == [(row("bad", 1), Refused("ValidationException", "too large"))]
    assert it.published()[-1] == "rsv_bad#2"


async def test_a_replayed_letter_is_published_and_counted_from_the_start(it: Scene) -> None:
    await it.table.write(row("a", 1), row("a", 2))
    it.bus.fail_entries("InvalidArgument", times=2 * REFUSALS - 1, having=about("a#1"))
    await it.passes()
    assert it.published() == ["rsv_a#2"]
    assert await it.table.outbox.replay(row("a", 1))
    await it.passes()
    assert it.published() == ["rsv_a#2", "rsv_a#1"]
    assert it.relay.dead == 1
    assert await it.table.items() == []


async def test_a_purged_letter_is_never_published(it: Scene) -> None:
    await it.table.write(row("a"))
    it.bus.fail_entries("InvalidArgument", times=REFUSALS)
    await it.passes()
    await it.table.outbox.purge(row("a"))
    await it.one_pass()
    assert it.published() == []
    assert await it.table.items() == []


async def test_a_row_that_cannot_be_read_stops_only_its_reservation(it: Scene) -> None:
    """A later version of this program may understand it, so it stays where it is, and is told of now and then."""
    spoilt = outbox_row_to_item(row("a", 2))
    spoilt["detail"] = {"N": "7"}
    await it.table.write(row("a", 1), row("a", 3), *rows(["b"], versions=3))
    await it.table.write_items(spoilt)
    with capture_logs() as logs:
        for _ in range(10):
            await it.one_pass()
    assert first_deliveries(it.published()) == {"rsv_a": [1], "rsv_b": [1, 2, 3]}
    assert await it.table.seqs() == [row("a", 2).seq, row("a", 3).seq]
    told = [log for log in logs if log["event"] == "outbox.unreadable"]
    assert [log["seq"] for log in told] == [row("a", 2).seq] * 2  # at first sight, and after half of the minute
    assert it.relay.unreadable == 2
    await it.table.write(row("a", 2))
    await it.passes()
    assert first_deliveries(it.published())["rsv_a"] == [1, 2, 3]


# The store


async def test_what_was_accepted_and_could_not_be_deleted_is_not_published_again(it: Scene) -> None:
    await it.table.write(row("a", 1), row("a", 2))
    it.store.script(is_("BatchWriteItem"), RejectBefore("ValidationException"))
    with pytest.raises(Exception, match="ValidationException"):
        await it.one_pass()
    assert await it.table.seqs() == [row("a", 1).seq, row("a", 2).seq]
    await it.one_pass()
    assert it.published() == ["rsv_a#1", "rsv_a#2"]
    assert await it.table.seqs() == []


async def test_one_batchs_failing_deletion_does_not_abandon_the_other_batches(it: Scene) -> None:
    await it.table.write(*rows([f"{number:02d}" for number in range(40)]))
    it.store.script(is_("BatchWriteItem"), RejectBefore("ValidationException"))
    with pytest.raises(Exception, match="ValidationException"):
        await it.one_pass()
    assert len(it.published()) == 40
    assert len(await it.table.seqs()) == 10


async def test_the_loop_survives_a_store_that_fails(it: Scene) -> None:
    await it.table.write(row("a"))
    for _ in range(3):
        it.store.script(is_("Query"), RejectBefore("AccessDeniedException"))
    it.relay.gained(SHARD)
    with capture_logs() as logs:
        for _ in range(3):
            await it.time.until_paused()
            it.time.advance(LONG_ENOUGH)
        await it.bus.until_accepted(1)
    assert [log["event"] for log in logs].count("outbox.store_failed") == 3


async def test_the_loop_survives_an_answer_that_makes_no_sense(it: Scene) -> None:
    await it.table.write(row("a"))
    it.bus.fail_calls(Answer(200, b'{"Entries": [7]}'), times=3)
    it.relay.gained(SHARD)
    with capture_logs() as logs:
        for _ in range(3):
            await it.time.until_paused()
            it.time.advance(LONG_ENOUGH)
        await it.bus.until_accepted(1)
    assert [log["event"] for log in logs].count("outbox.pass_failed") == 3


# When it looks


async def test_a_nudge_leads_to_publication_without_any_time_passing(it: Scene) -> None:
    it.relay.gained(SHARD)
    await it.time.until_paused()
    await it.table.write(row("a"))
    it.relay.nudge(SHARD)
    await it.bus.until_accepted(1)
    assert it.time.monotonic() == 0


async def test_without_a_nudge_an_event_is_found_by_the_next_poll(it: Scene) -> None:
    it.relay.gained(SHARD)
    assert await it.time.until_paused() == pytest.approx(0.3)  # 250 ms and a fifth of jitter
    await it.table.write(row("a"))
    it.time.advance(0.31)
    await it.bus.until_accepted(1)


async def test_a_nudge_during_a_look_leads_to_another_look(it: Scene) -> None:
    """The row was committed after the look had been answered, so this nudge is all that tells of it in time."""
    answered = HoldReply()
    it.store.script(is_("Query"), answered)
    it.relay.gained(SHARD)
    await answered.reached.wait()
    await it.table.write(row("a"))
    it.relay.nudge(SHARD)
    answered.event.set()
    await it.bus.until_accepted(1)
    assert it.time.monotonic() == 0


async def test_in_real_time_it_polls_and_comes_back_to_what_was_put_off(ministack_url: str) -> None:
    async with scene(ministack_url, real_time=True) as it:
        it.bus.fail_entries("ThrottlingException", times=3)
        it.bus.fail_calls(Throttle(), times=2)
        it.relay.gained(SHARD)
        await it.table.write(*rows(["a", "b"], versions=2))
        await it.bus.until_accepted(4)


async def test_a_nudge_for_a_shard_of_others_is_no_error(it: Scene) -> None:
    it.relay.nudge("4711")


async def test_the_next_version_follows_at_once(it: Scene) -> None:
    await it.table.write(*rows(["a"], versions=5))
    it.relay.gained(SHARD)
    await it.bus.until_accepted(5)
    assert it.time.monotonic() == 0


async def test_two_hundred_waiting_events_are_read_past_and_not_read_in_a_loop(it: Scene) -> None:
    """A page full of them costs one more query a look, and looks come only with nudges and polls."""
    await it.table.write(*rows([f"{number:03d}" for number in range(200)]))
    it.bus.fail_entries("InvalidArgument", times=200)
    it.relay.gained(SHARD)
    await it.time.until_paused()
    looked = it.store.stats["Query"]
    assert len(it.bus.calls) == 20
    for number in range(1, 4):
        await it.table.write(row(f"new-{number}"))
        it.relay.nudge(SHARD)
        await it.bus.until_accepted(number)
        await it.time.until_paused()
    # Each nudge: a look that finds the new event, and one that finds what that may have left. 201 rows are two pages.
    assert it.store.stats["Query"] - looked <= 3 * (2 + 2)
    assert await it.time.until_paused() > 0.05
    assert len(it.bus.calls) == 20 + 3


async def test_waiting_events_are_tried_again_when_their_time_has_come(it: Scene) -> None:
    await it.table.write(row("a"))
    it.bus.fail_entries("ThrottlingException")
    it.relay.gained(SHARD)
    assert await it.time.until_paused() == pytest.approx(0.1)
    it.time.advance(0.1)
    await it.bus.until_accepted(1)


async def test_nudges_do_not_press_a_bus_that_has_refused_a_call(it: Scene) -> None:
    await it.table.write(row("a"))
    it.bus.fail_calls(Throttle())
    it.relay.gained(SHARD)
    assert await it.time.until_paused() == pytest.approx(0.1)
    for _ in range(20):
        it.relay.nudge(SHARD)
        assert await it.time.until_paused() > 0
    assert len(it.bus.calls) == 1
    it.time.advance(0.1)
    await it.bus.until_accepted(1)


async def test_a_bus_that_goes_on_refusing_is_asked_ever_more_seldom(it: Scene) -> None:
    await it.table.write(row("a"))
    it.bus.fail_calls(Throttle(), times=10)
    it.relay.gained(SHARD)
    rests = []
    for _ in range(10):
        rests.append(round(await it.time.until_paused(), 3))
        it.time.advance(rests[-1])
    assert rests == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0, 5.0]
    await it.bus.until_accepted(1)


# Whose shard it is


async def test_permission_is_asked_before_every_call(it: Scene) -> None:
    """Lost while four calls are under way: they are the last."""
    await it.table.write(*rows([f"{number:03d}" for number in range(100)]))
    replies = [HoldReply() for _ in range(4)]
    for reply in replies:
        it.bus.fail_calls(reply)
    working = asyncio.create_task(it.relay.pass_(SHARD))
    for reply in replies:
        await reply.reached.wait()
    it.owned.clear()
    for reply in replies:
        reply.event.set()
    await working
    assert len(it.bus.calls) == 4
    assert len(await it.table.seqs()) == 60


async def test_permission_is_asked_within_a_divided_call(it: Scene) -> None:
    await it.table.write(*rows([str(number) for number in range(10)]))
    refusal = HoldReply()
    it.bus.fail_calls(RejectBefore("ValidationException"))
    it.bus.fail_calls(refusal)
    working = asyncio.create_task(it.relay.pass_(SHARD))
    await refusal.reached.wait()
    it.owned.clear()
    refusal.event.set()
    await working
    assert [len(call) for call in it.bus.calls] == [10, 5]


async def test_a_shard_that_may_not_be_worked_on_is_not_even_read(it: Scene) -> None:
    await it.table.write(row("a"))
    it.owned.clear()
    it.relay.gained(SHARD)
    for _ in range(5):
        it.relay.nudge(SHARD)
        await it.time.until_paused()
        it.time.advance(1)
    assert it.store.stats["Query"] == 0
    it.owned.add(SHARD)
    await it.time.until_paused()
    it.time.advance(1)
    await it.bus.until_accepted(1)


async def test_events_that_wait_for_a_bus_are_seen_to_wait(it: Scene) -> None:
    await it.table.write(row("a"))
    it.now = NOW + 7_001
    it.bus_is_there = False
    it.relay.gained(SHARD)
    for _ in range(2):
        await it.time.until_paused()
        it.time.advance(1)
    assert (it.relay.oldest_age, it.bus.calls) == (7.0, [])
    it.bus_is_there = True
    await it.time.until_paused()
    it.time.advance(1)
    await it.bus.until_accepted(1)
    assert it.delivered == [7.0]


async def test_a_lost_shard_is_worked_on_no_more_until_it_is_gained_again(it: Scene) -> None:
    it.relay.gained(SHARD)
    await it.time.until_paused()
    it.relay.lost(SHARD)
    await it.table.write(row("a"))
    await it.relay.stop()
    assert it.bus.calls == []


async def test_a_shard_regained_during_a_call_has_one_loop(it: Scene) -> None:
    await it.table.write(row("a", 1), row("a", 2))
    held = HoldReply()
    it.bus.fail_calls(held)
    it.relay.gained(SHARD)
    await held.reached.wait()
    it.relay.lost(SHARD)
    it.relay.gained(SHARD)
    it.relay.gained(SHARD)
    for _ in range(10):
        it.relay.nudge(SHARD)
        await asyncio.sleep(0)
    assert len(it.bus.calls) == 1
    held.event.set()
    await it.bus.until_accepted(2)
    await it.time.until_paused()
    assert it.published() == ["rsv_a#1", "rsv_a#2"]


async def test_a_shard_gained_again_after_its_loop_has_ended_is_worked_on(it: Scene) -> None:
    it.relay.gained(SHARD)
    await it.time.until_paused()
    (loop,) = (task for task in asyncio.all_tasks() if task.get_name() == f"relay {SHARD}")
    it.relay.lost(SHARD)
    await loop
    it.relay.gained(SHARD)
    await it.table.write(row("a"))
    it.relay.nudge(SHARD)
    await it.bus.until_accepted(1)


async def test_stopping_waits_for_the_calls_under_way_and_for_their_deletions(it: Scene) -> None:
    await it.table.write(*rows([f"{number:03d}" for number in range(100)]))
    replies = [HoldReply() for _ in range(4)]
    for reply in replies:
        it.bus.fail_calls(reply)
    it.relay.gained(SHARD)
    for reply in replies:
        await reply.reached.wait()
    stopping = asyncio.create_task(it.relay.stop())
    await asyncio.sleep(0)
    assert not stopping.done()
    for reply in replies:
        reply.event.set()
    await stopping
    assert len(it.bus.calls) == 4
    assert len(await it.table.seqs()) == 60
    it.relay.gained(SHARD)
    it.relay.nudge(SHARD)
    await it.relay.stop()
    assert len(it.bus.calls) == 4


async def test_the_death_of_a_shards_loop_is_heard_by_its_owner_and_stopping_goes_on(it: Scene) -> None:
    loops = Loops()

    def may_work_on(shard: str) -> bool:
        raise RuntimeError(shard)

    bus = EventBridge(it.table.dynamodb, "bus")
    relay = Relay(it.table.outbox, bus, may_work_on=may_work_on, now=lambda: it.now, start=loops.start)

    async def publish() -> None:
        async with loops.watched():
            relay.gained(SHARD)
            await asyncio.Event().wait()

    with capture_logs(), pytest.raises(LoopDied, match=f"relay {SHARD}"):
        await publish()
    await relay.stop()


async def test_shards_do_not_wait_for_each_other(it: Scene) -> None:
    it.owned.add("0008")
    await it.table.write(row("a"), row("b", shard="0008"))
    silence = Hold()
    it.bus.fail_calls(silence, having=about("a"))
    it.relay.gained(SHARD)
    await silence.reached.wait()
    it.relay.gained("0008")
    await it.bus.until_accepted(1)
    assert it.published() == ["rsv_b#1"]
    silence.event.set()
    await it.bus.until_accepted(2)


# What operators see


async def test_a_lag_is_told_once_in_half_a_minute_and_ends_with_its_cause(it: Scene) -> None:
    await it.table.write(row("a"))
    it.bus.down = True
    it.relay.gained(SHARD)
    with capture_logs() as logs:
        for seconds in (9, 11, 20, 30, 41, 50, 60):
            await it.time.until_paused()
            it.now = NOW + 1 + seconds * 1000
            it.time.advance(10)
        await it.time.until_paused()
        assert it.relay.oldest_age == 60
        it.bus.down = False
        it.time.advance(LONG_ENOUGH)
        await it.bus.until_accepted(1)
        await it.time.until_paused()
    lags = [log["oldest_seconds"] for log in logs if log["event"] == "outbox.lagging"]
    assert lags == [11, 41]
    assert it.relay.oldest_age == 0


async def test_the_age_grows_also_while_the_store_cannot_be_asked(it: Scene) -> None:
    await it.table.write(row("a"))
    it.bus.down = True
    await it.one_pass()
    it.now = NOW + 5_001
    assert it.relay.oldest_age == 5


# A crash


async def test_a_killed_relay_costs_at_most_repetitions_of_what_was_under_way(ministack_url: str) -> None:
    """A process is killed when the bus has accepted four batches and no row of them is deleted. Its successor publishes
    those again, everything else once, and all in order."""
    written = rows([f"{number:02d}" for number in range(60)], versions=2)
    async with scene(ministack_url) as it:
        await it.table.write(*written)
        deletions = [Hold() for _ in range(4)]
        for deletion in deletions:
            it.store.script(is_("BatchWriteItem"), deletion)
        victim = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.support.relay_process"),
            *(it.store.url, it.bus.url, it.table.name, SHARD),
            cwd=Path(__file__).parents[2],
        )
        try:
            for deletion in deletions:
                await deletion.reached.wait()
        finally:
            victim.send_signal(signal.SIGKILL)
            await victim.wait()
        under_way = set(it.published())
        assert len(under_way) >= 40
        await it.passes()
        repeated = {each for each, times in Counter(it.published()).items() if times > 1}
        assert repeated <= under_way
        assert set(it.published()) == set(message_ids(written))
        assert all(versions == [1, 2] for versions in first_deliveries(it.published()).values())
        assert await it.table.items() == []
