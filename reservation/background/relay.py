"""Publishes the outbox of the shards that this process may work on.

A row is deleted after the bus has accepted its event, so a crash in between publishes it again: consumers deduplicate
by messageId. Only a definite refusal of an event itself counts towards burying it; a bus that is down, busy or closed
to us is asked again for as long as it takes.
"""

import asyncio
import random as chance
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import structlog

from reservation.aws.errors import AwsError
from reservation.background.lane import Lane, Pass, back_off
from reservation.domain.errors import ReservationError
from reservation.dynamodb.outbox import Outbox, OutboxRow
from reservation.eventbridge import ENTRIES_A_CALL, Accepted, EventBridge, Outcome, Refused, Retry, refused_for_content

log = structlog.get_logger()

POLL_SECONDS = 0.25
CALLS_AT_ONCE = 4
REFUSALS = 8
"""After so many definite refusals an event is buried."""

_LAGGING_SECONDS = 10.0
_SHORTEST_REST_SECONDS = 0.005


async def until_set(event: asyncio.Event, seconds: float) -> None:
    """Returns when `event` is set, or after `seconds`."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


class Relay:
    """`may_work_on`, of the shard, and `may_publish`, of the bus, are asked right before every PutEvents; who may only
    do the first sees how long the events wait. `now` gives milliseconds since the epoch, `monotonic`
    seconds, `random` numbers in [0, 1). `on_dead` is told of each event that was buried, `on_accepted` of each that the
    bus accepted and how many seconds after it was written; `pause` is how it waits.
    `start` starts the loop of a shard, as asyncio.create_task does, and hears of its death.

    Its owner calls `stop` before it closes what it has handed in.
    """

    def __init__(
        self,
        outbox: Outbox,
        bus: EventBridge,
        *,
        may_work_on: Callable[[str], bool],
        may_publish: Callable[[], bool] = lambda: True,
        now: Callable[[], int],
        monotonic: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = chance.random,
        on_dead: Callable[[OutboxRow, Refused], None] = lambda row, refusal: None,
        on_accepted: Callable[[float], None] = lambda seconds: None,
        pause: Callable[[asyncio.Event, float], Awaitable[None]] = until_set,
        start: Callable[..., asyncio.Task[None]] = asyncio.create_task,
    ) -> None:
        self.published = 0
        """Events that the bus accepted."""
        self.put_off = 0
        """Times that an entry was not accepted."""
        self.refused_calls = 0
        """Calls that failed as a whole."""
        self.dead = 0
        """Events that this process buried."""
        self.unreadable = 0
        """Rows that could not be read, counted anew twice a minute while they are there."""
        self._outbox = outbox
        self._bus = bus
        self._may_work_on = may_work_on
        self._may_publish = may_publish
        self._now = now
        self._monotonic = monotonic
        self._random = random
        self._on_dead = on_dead
        self._on_accepted = on_accepted
        self._pause = pause
        self._start = start
        self._lanes: dict[str, Lane] = {}
        self._loops: dict[str, asyncio.Task[None]] = {}
        self._stopping = False

    @property
    def oldest_age(self) -> float:
        """Seconds since the oldest event that this process has to publish was written; 0 if there is none."""
        now = self._now()
        return max((lane.age(now) for lane in self._lanes.values()), default=0.0)

    # Which shards

    def nudge(self, shard: str) -> None:
        """A hint that the shard has a new row. Any shard may be named, any number of times."""
        if (lane := self._lanes.get(shard)) is not None:
            lane.nudge.set()

    def gained(self, shard: str) -> None:
        """Works on the shard from now on."""
        if self._stopping:
            return
        self._lane(shard).over.clear()
        if shard not in self._loops:
            self._loops[shard] = self._start(self.run_shard(shard), name=f"relay {shard}")

    def lost(self, shard: str) -> None:
        """Begins no call for the shard any more. One under way goes on: what it publishes is then deleted, too."""
        if (lane := self._lanes.get(shard)) is not None:
            lane.over.set()
            lane.nudge.set()

    async def stop(self) -> None:
        """Begins no call any more; returns when those under way are answered and what they published is deleted."""
        self._stopping = True
        for shard in self._lanes:
            self.lost(shard)
        await asyncio.gather(*self._loops.values(), return_exceptions=True)

    # The loop

    async def run_shard(self, shard: str) -> None:
        """Repeats the pass until the shard is lost. Errors are told in the log."""
        lane = self._lane(shard)
        try:
            while not lane.over.is_set():
                if self._may_work_on(shard) and self._may_publish():
                    await self._rest(lane, await self._try(lane, self.pass_(shard)))
                    continue
                if self._may_work_on(shard):
                    await self._try(lane, self._look(lane))  # it must be seen how long the events wait
                await self._pause(lane.over, POLL_SECONDS)
        finally:
            # Both in the step that ends the task: whoever gains the shard after it finds no trace of it.
            del self._lanes[shard]
            self._loops.pop(shard, None)

    async def _try(self, lane: Lane, running: Awaitable[Pass]) -> Pass | None:
        """None: it failed."""
        try:
            return await running
        except (AwsError, ReservationError) as error:
            log.warning("outbox.store_failed", shard=lane.shard, error=repr(error.__cause__ or error))
        except Exception:
            log.exception("outbox.pass_failed", shard=lane.shard)
        finally:
            self._tell_lag(lane)
        return None

    async def _rest(self, lane: Lane, done: Pass | None) -> None:
        if done is None or done.call_failed:
            lane.failures = 1 if done is not None and done.published else lane.failures + 1
            # However many rows are written meanwhile: a bus that has just refused is left in peace.
            await self._pause(lane.over, back_off(lane.failures, self._random))
            return
        lane.failures = 0
        if not done.again_at_once:
            await self._pause(lane.nudge, self._until_next_look(lane))

    def _until_next_look(self, lane: Lane) -> float:
        poll = POLL_SECONDS * (0.8 + 0.4 * self._random())
        return min(poll, max(_SHORTEST_REST_SECONDS, lane.next_try - self._monotonic()))

    # One pass

    async def pass_(self, shard: str) -> Pass:
        """Looks at the shard from its beginning and tries once to publish every event that may leave now.

        Raises what Outbox raises; everything that was accepted by then is remembered and not sent again.
        """
        lane = self._lane(shard)
        lane.nudge.clear()  # before the look: a row written during it sets the flag again
        this = await self._look(lane)
        self._tell_unreadable(lane, this)
        await self._delete(lane, this.undeleted)
        try:
            await self._send(lane, this)
        finally:
            this.note_oldest()
        return this

    async def _look(self, lane: Lane) -> Pass:
        this = Pass(lane)
        after = None
        while this.needs_a_page:
            page = await self._outbox.page(lane.shard, after)
            this.add(page)
            after = page.next
        this.note_oldest()
        return this

    async def _send(self, lane: Lane, this: Pass) -> None:
        """A few batches at a time. Each is seen through to its deletions, whatever becomes of the others."""
        batches = [this.ready[start : start + ENTRIES_A_CALL] for start in range(0, len(this.ready), ENTRIES_A_CALL)]
        ahead = iter(batches)

        async def work() -> None:
            for batch in ahead:
                await self._put(lane, this, batch)

        workers = [work() for _ in batches[:CALLS_AT_ONCE]]
        for failure in await asyncio.gather(*workers, return_exceptions=True):
            if failure is not None:
                raise failure

    async def _put(self, lane: Lane, this: Pass, rows: Sequence[OutboxRow]) -> None:
        if this.call_failed or lane.over.is_set() or not (self._may_work_on(lane.shard) and self._may_publish()):
            return
        try:
            outcomes = await self._bus.put(rows)
        except AwsError as error:
            await self._divide(lane, this, rows, error)
        else:
            await self._take_note(lane, this, rows, outcomes)

    async def _divide(self, lane: Lane, this: Pass, rows: Sequence[OutboxRow], error: AwsError) -> None:
        """A call that was refused for what is in it is split until the event that spoils it stands alone."""
        self.refused_calls += 1
        if not refused_for_content(error):
            self._give_up(lane, this, repr(error))
        elif len(rows) == 1:
            await self._take_note(lane, this, rows, [Refused(error.code, error.message)])
        else:
            middle = len(rows) // 2
            await self._put(lane, this, rows[:middle])
            await self._put(lane, this, rows[middle:])

    def _give_up(self, lane: Lane, this: Pass, reason: str) -> None:
        """Leaves the bus in peace for the rest of the pass."""
        if not this.call_failed:
            this.call_failed = True
            log.warning("outbox.call_failed", shard=lane.shard, reason=reason)

    async def _take_note(self, lane: Lane, this: Pass, rows: Sequence[OutboxRow], outcomes: Sequence[Outcome]) -> None:
        judged = list(zip(rows, outcomes, strict=True))
        accepted = [row for row, outcome in judged if isinstance(outcome, Accepted)]
        self.published += len(accepted)
        self.put_off += len(rows) - len(accepted)
        this.accept(accepted)
        self._tell_delivery(accepted)
        doomed = []
        for row, outcome in judged:
            if isinstance(outcome, Retry):
                this.put_off(row)
            elif isinstance(outcome, Refused) and this.put_off(row, refused=True) >= REFUSALS:
                doomed.append((row, outcome))
        if len(rows) > 1 and all(isinstance(outcome, Retry) for outcome in outcomes):
            self._give_up(lane, this, "every entry was put off")  # that says something about the bus, not about them
        await self._delete(lane, accepted)
        for row, refusal in doomed:
            await self._bury(this, row, refusal)

    async def _delete(self, lane: Lane, rows: Sequence[OutboxRow]) -> None:
        await self._outbox.delete(rows)
        lane.forget_accepted(rows)

    async def _bury(self, this: Pass, row: OutboxRow, refusal: Refused) -> None:
        buried = await self._outbox.bury(row, refusal.code, refusal.message, self._now())
        this.bury(row)
        if buried:
            self.dead += 1
            log.error("outbox.dead_letter", shard=row.shard, seq=row.seq, code=refusal.code, message=refusal.message)
            self._on_dead(row, refusal)

    # What operators hear

    def _tell_unreadable(self, lane: Lane, this: Pass) -> None:
        for row in this.unreadable:
            if lane.report_unreadable(row):
                self.unreadable += 1
                log.error("outbox.unreadable", shard=row.shard, seq=row.seq)

    def _tell_delivery(self, rows: Sequence[OutboxRow]) -> None:
        now = self._now()
        for row in rows:
            if row.written_at is not None:
                self._on_accepted(max(0.0, (now - row.written_at) / 1000))

    def _tell_lag(self, lane: Lane) -> None:
        age = lane.age(self._now())
        if age > _LAGGING_SECONDS and lane.report_lag():
            log.warning("outbox.lagging", shard=lane.shard, oldest_seconds=round(age, 1))

    def _lane(self, shard: str) -> Lane:
        if shard not in self._lanes:
            self._lanes[shard] = Lane(shard, monotonic=self._monotonic, random=self._random)
        return self._lanes[shard]
