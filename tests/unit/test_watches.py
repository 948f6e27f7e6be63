"""What a watch tells, when, and what it costs, in time that only the test moves."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from reservation.audience import PER_PROCESS, PER_USER, REPEAT_SECONDS, Audience
from reservation.aws.client import AwsClient
from reservation.domain.errors import (
    RateLimitExceeded,
    ReservationError,
    ReservationNotFound,
    ServiceUnavailable,
)
from reservation.domain.model import Reservation, Status
from reservation.dynamodb.halls import Halls
from reservation.dynamodb.reservations import DynamoReservations
from reservation.dynamodb.seats import EmbeddedInventory
from reservation.dynamodb.tables import Tables
from reservation.service import Policy, Reservations
from reservation.watches import Watches
from tests.support.moved_time import MovedTime, settle
from tests.support.read_only_wire import ReadOnlyWire
from tests.support.store import NOW, SKEW_MS
from tests.unit.examples import HOLD, in_state

LATER = 10_000
"""Milliseconds to the end of the hold."""

HELD = replace(HOLD, hold_expires_at=NOW + LATER)
PAID = replace(in_state(Status.CONFIRMED), hold_expires_at=HELD.hold_expires_at)
EXTENDED = replace(HELD, version=2, hold_expires_at=NOW + 3 * LATER, extended_by=("op_extend",))
FINAL = [Status.CONFIRMED, Status.CANCELLED, Status.EXPIRED, Status.FAILED, Status.REFUNDED]


@dataclass
class Stream:
    """What one caller has been told, and how it ended: not yet, well, or with an error."""

    told: list[Reservation] = field(default_factory=list)
    at: list[float] = field(default_factory=list)
    error: ReservationError | None = None
    task: asyncio.Task[None] | None = None

    @property
    def ended(self) -> bool:
        return self.task is not None and self.task.done()

    async def leave(self) -> None:
        assert self.task is not None
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


class Stage:
    """The watches of one process over a store in memory. HELD is stored."""

    def __init__(self, **limits: int) -> None:
        self.time = MovedTime()
        self.wire = ReadOnlyWire()
        self.wire.put(HELD)
        self.audience = Audience(monotonic=self.time.monotonic, **limits)
        tables = Tables(*(["reservations", "orders", "idempotency", "outbox", "inventory", "leases"]))
        client = AwsClient(self.wire, attempts=1)
        halls = Halls(client, tables.inventory, now=self.time.now)
        inventory = EmbeddedInventory(client, tables.inventory, halls=halls, now=self.time.now)
        store = DynamoReservations(client, tables, inventory, now=self.time.now, key_window=300_000)
        policy = Policy(hold=60_000, max_clock_skew=SKEW_MS)
        service = Reservations(store, inventory, policy, self.time, lambda _: "0000")
        self.watches = Watches(
            service,
            self.audience,
            self.time,
            max_clock_skew=SKEW_MS,
            sleep=self.time.sleep,
            monotonic=self.time.monotonic,
        )

    async def watch(self, reservation_id: str = HELD.id, owner: str | None = None) -> Stream:
        stream = Stream()
        stream.task = asyncio.create_task(self._follow(stream, reservation_id, owner))
        await settle()
        return stream

    async def _follow(self, stream: Stream, reservation_id: str, owner: str | None) -> None:
        try:
            async with aclosing(self.watches.watch(reservation_id, owner, self.time.monotonic() + 1)) as states:
                async for state in states:
                    stream.told.append(state)
                    stream.at.append(self.time.monotonic() - NOW / 1000)
        except ReservationError as error:
            stream.error = error

    async def refused(self, reservation_id: str = HELD.id, owner: str | None = None) -> ReservationError | None:
        stream = await self.watch(reservation_id, owner)
        assert (stream.told, stream.ended) == ([], True)
        return stream.error


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    """Time goes on in it when a test moves it; left without a stream and without a task of its own."""
    stage = Stage()
    running = asyncio.create_task(stage.watches.run())
    yield stage
    stage.audience.close()
    await settle()
    running.cancel()
    await settle()
    assert len(stage.audience) == 0
    assert [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("watch ")] == []


# What is told


async def test_the_state_is_told_at_once_and_a_change_by_this_process_the_moment_it_is_made(stage: Stage) -> None:
    stream = await stage.watch()
    assert (stream.told, stream.ended) == ([HELD], False)
    stage.audience.notice(EXTENDED)
    await settle()
    assert (stream.told, stream.ended) == ([HELD, EXTENDED], False)
    stage.audience.notice(replace(PAID, version=3))
    await settle()
    assert (stream.told[2:], stream.ended, stream.error) == ([replace(PAID, version=3)], True, None)
    assert stream.at == [0, 0, 0]


@pytest.mark.parametrize("status", FINAL)
async def test_a_watch_of_what_is_final_is_one_message(stage: Stage, status: Status) -> None:
    stage.wire.put(in_state(status))
    stream = await stage.watch()
    assert (stream.told, stream.ended, stream.error) == ([in_state(status)], True, None)


@pytest.mark.parametrize("status", FINAL)
async def test_a_change_by_another_process_is_told_within_two_seconds(stage: Stage, status: Status) -> None:
    stream = await stage.watch()
    await stage.time.move(500)
    stage.wire.put(in_state(status))
    await stage.time.move(2_000)
    assert (stream.told, stream.ended, stream.error) == ([HELD, in_state(status)], True, None)
    assert stream.at[1] <= 2.5


async def test_a_replica_that_lags_takes_nothing_back(stage: Stage) -> None:
    stage.wire.replica = dict(stage.wire.stored)
    stream = await stage.watch()
    stage.audience.notice(EXTENDED)
    await stage.time.move(5_000)
    stage.audience.notice(HELD)
    await settle()
    assert stream.told == [HELD, EXTENDED]


async def test_a_change_during_the_first_read_is_told_and_the_older_state_that_was_read_is_not(stage: Stage) -> None:
    stage.wire.open.clear()
    stream = await stage.watch()
    stage.audience.notice(EXTENDED)
    stage.wire.open.set()
    await settle()
    assert stream.told == [EXTENDED]


async def test_what_the_first_read_of_one_finds_is_news_to_those_who_watch_already(stage: Stage) -> None:
    early = await stage.watch()
    stage.wire.put(EXTENDED)
    late = await stage.watch()
    assert (early.told, late.told) == ([HELD, EXTENDED], [EXTENDED])


async def test_what_came_while_a_caller_was_slow_is_told_in_order(stage: Stage) -> None:
    watch = stage.watches.watch(HELD.id, None, stage.time.monotonic() + 1)
    async with aclosing(watch):
        assert await anext(watch) == HELD
        stage.audience.notice(EXTENDED)
        stage.audience.notice(replace(PAID, version=3))
        await stage.time.move(60_000)
        assert [state async for state in watch] == [EXTENDED, replace(PAID, version=3)]


async def test_the_state_is_repeated_so_that_no_stream_is_silent_for_longer_than_fifteen_seconds(stage: Stage) -> None:
    held = replace(HELD, hold_expires_at=NOW + 3_600_000)
    stage.wire.put(held)
    await stage.time.move(300)
    stream = await stage.watch()
    await stage.time.move(300_000)
    assert set(map(id, stream.told)) == {id(stream.told[0])}
    gaps = [after - before for before, after in zip(stream.at, stream.at[1:], strict=False)]
    assert max(gaps) <= REPEAT_SECONDS == 15
    assert min(gaps) > REPEAT_SECONDS - 2
    assert stream.at[-1] > 285


# The end of a hold


async def test_an_end_that_nobody_settles_is_told_after_the_skew_by_one_consistent_read_for_all(stage: Stage) -> None:
    streams = [await stage.watch() for _ in range(3)]
    stage.wire.reads.clear()
    await stage.time.move(LATER + SKEW_MS)
    assert [stream.told for stream in streams] == [[HELD]] * 3
    assert stage.wire.reads["Query"] == 0
    await stage.time.move(1)
    for stream in streams:
        assert [each.status for each in stream.told] == [Status.HOLD, Status.EXPIRED]
        assert (stream.ended, stream.error) == (True, None)
    assert stage.wire.reads["Query"] == 1


async def test_a_payment_in_the_last_moment_that_no_replica_shows_yet_is_told_and_no_expiry(stage: Stage) -> None:
    stream = await stage.watch()
    stage.wire.replica = dict(stage.wire.stored)
    stage.wire.put(PAID)
    await stage.time.move(LATER + SKEW_MS + 1)
    assert (stream.told, stream.ended) == ([HELD, PAID], True)


async def test_an_extension_that_no_replica_shows_yet_is_found_at_the_old_deadline_and_the_new_one_counts(
    stage: Stage,
) -> None:
    stream = await stage.watch()
    stage.wire.replica = dict(stage.wire.stored)
    stage.wire.put(EXTENDED)
    await stage.time.move(LATER + SKEW_MS + 1)
    assert stream.told == [HELD, EXTENDED]
    await stage.time.move(2 * LATER - 1)
    assert not stream.ended
    await stage.time.move(2_000)
    assert (stream.told[-1].status, stream.ended) == (Status.EXPIRED, True)


async def test_no_clock_that_is_not_trusted_ends_a_watch_or_asks_on_and_on(stage: Stage) -> None:
    stream = await stage.watch()
    stage.time.believe(False)
    stage.wire.reads.clear()
    await stage.time.move(LATER + 60_000)
    assert {each.status for each in stream.told} == {Status.HOLD}
    assert stage.wire.reads["Query"] == 0
    stage.time.believe(True)
    await stage.time.move(1_000)
    assert (stream.told[-1].status, stream.ended) == (Status.EXPIRED, True)


async def test_a_pending_reservation_is_followed_until_it_is_something(stage: Stage) -> None:
    pending = replace(HELD, status=Status.PENDING)
    stage.wire.put(pending)
    stream = await stage.watch()
    stage.wire.reads.clear()
    await stage.time.move(LATER + 5_000)
    assert (stage.wire.reads["Query"], stream.ended) == (0, False)
    stage.wire.put(in_state(Status.FAILED))
    await stage.time.move(2_000)
    assert (stream.told[-1], stream.ended) == (in_state(Status.FAILED), True)


async def test_a_reservation_that_is_gone_at_its_end_is_not_found(stage: Stage) -> None:
    stream = await stage.watch()
    stage.wire.stored.clear()
    await stage.time.move(LATER)
    assert not stream.ended, "a replica may not know it yet"
    await stage.time.move(SKEW_MS + 1)
    assert isinstance(stream.error, ReservationNotFound)


# Who may watch, and how many


@pytest.mark.parametrize(("reservation_id", "owner"), [("rsv_nobody", None), (HELD.id, "user_2")])
async def test_what_get_does_not_find_is_not_found(stage: Stage, reservation_id: str, owner: str | None) -> None:
    watched = await stage.watch()
    assert isinstance(await stage.refused(reservation_id, owner), ReservationNotFound)
    assert len(stage.audience) == 1
    assert watched.told == [HELD]


async def test_a_user_has_five_watches_whoever_opens_them_and_a_place_is_free_at_once(stage: Stage) -> None:
    assert PER_USER == 5
    stage.wire.put(replace(HELD, id="rsv_other"), replace(HELD, id="rsv_bob", user_id="bob"))
    streams = [await stage.watch(each, owner) for each in (HELD.id, "rsv_other") for owner in (None, HELD.user_id)]
    streams.append(await stage.watch())
    assert isinstance(await stage.refused(), RateLimitExceeded)
    assert isinstance(await stage.refused("rsv_other", HELD.user_id), RateLimitExceeded)
    assert (await stage.watch("rsv_bob")).told
    await streams[0].leave()
    assert (await stage.watch()).told
    assert isinstance(await stage.refused(), RateLimitExceeded)


async def test_a_process_has_so_many_watches_and_refuses_the_next_before_it_reads() -> None:
    assert PER_PROCESS == 5_000
    stage = Stage(per_process=3)
    stage.wire.put(*(replace(HELD, id=f"rsv_{n}", user_id=f"user_{n}") for n in range(4)))
    stage.wire.open.clear()
    streams = [await stage.watch(f"rsv_{n}") for n in range(3)]
    stage.wire.reads.clear()
    assert isinstance(await stage.refused("rsv_3"), RateLimitExceeded), "those that are not read yet count, too"
    assert not stage.wire.reads
    stage.wire.open.set()
    await settle()
    assert all(stream.told for stream in streams)
    await streams[0].leave()
    streams.append(await stage.watch("rsv_3"))
    assert streams[-1].told
    for stream in streams:
        await stream.leave()
    assert len(stage.audience) == 0


@pytest.mark.parametrize("reading", [False, True])
async def test_who_leaves_is_forgotten_at_once_and_the_others_are_not(stage: Stage, reading: bool) -> None:
    stays = await stage.watch()
    if reading:
        stage.wire.open.clear()
    leaves = await stage.watch()
    assert len(stage.audience) == 2
    await leaves.leave()
    assert len(stage.audience) == 1
    stage.wire.open.set()
    await stage.time.move(LATER + SKEW_MS + 1)
    assert (stays.told[-1].status, stays.ended) == (Status.EXPIRED, True)
    assert len(stage.audience) == 0


async def test_a_reservation_that_all_have_left_costs_nothing_and_can_be_watched_again(stage: Stage) -> None:
    await (await stage.watch()).leave()
    stage.wire.reads.clear()
    await stage.time.move(5_000)
    assert not stage.wire.reads
    again = await stage.watch()
    await stage.time.move(LATER)
    assert (again.told[-1].status, again.ended) == (Status.EXPIRED, True)


async def test_a_stop_ends_every_watch_and_begins_none(stage: Stage) -> None:
    watching = await stage.watch()
    stage.wire.open.clear()
    reading = await stage.watch()
    stage.audience.close()
    stage.wire.open.set()
    await settle()
    assert watching.told == [HELD]
    assert isinstance(watching.error, ServiceUnavailable)
    assert reading.told == []
    assert isinstance(reading.error, ServiceUnavailable)
    assert isinstance(await stage.refused(), ServiceUnavailable)


# What it costs, and what fails


@pytest.mark.parametrize(("reservations", "reads"), [(1_000, 10), (1, 1)])
async def test_a_thousand_watchers_cost_one_read_a_second_for_each_hundred_reservations(
    reservations: int, reads: int
) -> None:
    stage = Stage(per_user=1_000)
    stage.wire.put(*(replace(HELD, id=f"rsv_{n}", hold_expires_at=NOW + 600_000) for n in range(reservations)))
    streams = await asyncio.gather(*(stage.watch(f"rsv_{n % reservations}") for n in range(1_000)))
    running = asyncio.create_task(stage.watches.run())
    await settle()
    for _ in range(20):
        stage.wire.reads.clear()
        await stage.time.move(1_000)
        assert stage.wire.reads == {"BatchGetItem": reads}
    running.cancel()
    await asyncio.gather(*(stream.leave() for stream in streams))


async def test_a_store_that_does_not_answer_ends_no_watch_and_is_told_in_the_log(stage: Stage) -> None:
    stream = await stage.watch()
    stage.wire.down = True
    with capture_logs() as logged:
        await stage.time.move(LATER + 10_000)
    assert {entry["event"] for entry in logged} == {"watch.look_failed"}
    assert (len(stream.told), stream.ended) == (2, False)
    stage.wire.down = False
    await stage.time.move(2_000)
    assert (stream.told[-1].status, stream.ended, stream.error) == (Status.EXPIRED, True, None)


async def test_a_first_read_that_fails_is_refused(stage: Stage) -> None:
    stage.wire.down = True
    assert isinstance(await stage.refused(), ReservationError)
    assert len(stage.audience) == 0


async def test_an_item_that_cannot_be_read_keeps_no_news_from_the_others(stage: Stage) -> None:
    other = replace(HELD, id="rsv_other")
    stage.wire.put(other)
    streams: list[Any] = [await stage.watch(), await stage.watch(other.id)]
    stage.wire.put(replace(PAID, id=HELD.id), replace(PAID, id=other.id))
    stage.wire.stored[HELD.id] |= {"status": {"S": "LATER_INVENTED"}}
    await stage.time.move(2_000)
    assert [stream.ended for stream in streams] == [False, True]
    await streams[0].leave()
