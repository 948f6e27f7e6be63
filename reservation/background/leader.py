"""Which shards this process may work on. It spares work and never decides: every write of that work is conditional."""

import asyncio
import math
import zlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import islice
from random import Random

import structlog

from reservation.aws.errors import AwsError
from reservation.background.observer import Observer
from reservation.dynamodb.leases import NOBODY, LeaseTable, Roll, Shard
from reservation.dynamodb.retirement import LASTING_SHARD, WRITERS_LOOK_WITHIN_LEASES

log = structlog.get_logger()

_BELIEF_LEASES = 0.8
"""How long a good beat is believed in. Others wait for a whole one; the rest is for clocks that run at other rates."""

_AT_ONCE = 8

OnChange = Callable[[frozenset[str], frozenset[str]], None]


class Leader:
    """One worker's part in the leases.

    `worker_id` is this process's alone, also after a restart. `monotonic` gives seconds, `now` milliseconds since the
    epoch. `fit` tells whether this process is able to do the work: until it has been for a lease, it holds nothing.
    `on_change(gained, lost)` is called with every change, at once and synchronously; it must not raise.
    Its owner runs `run`, and calls `stop` after `run` has been cancelled.
    """

    def __init__(
        self,
        leases: LeaseTable,
        *,
        worker_id: str,
        lease_seconds: float,
        shard_count: int,
        monotonic: Callable[[], float],
        now: Callable[[], int],
        random: Random,
        on_change: OnChange,
        fit: Callable[[], bool] = lambda: True,
    ) -> None:
        self.shards: tuple[str, ...] = ()
        """The shards that may be chosen for new reservations, sorted, as of the last scan. Empty: not enrolled yet."""
        self.position: tuple[int, int] = (0, 1)
        """(this worker's rank from 0, their number) among the live workers of the last scan."""
        self._leases = leases
        self._id = worker_id
        self._lease = lease_seconds
        self._shard_count = shard_count
        self._monotonic = monotonic
        self._now = now
        self._random = random
        self._on_change = on_change
        self._fit = fit
        self._observer = Observer(lease_seconds)
        self._owned: dict[str, Shard] = {}
        self._favourites: tuple[str, ...] = ()
        self._share = 0
        self._believes_until = -math.inf
        self._looked_at = -math.inf
        self._aside_until = -math.inf
        self._started_at: int | None = None
        self._enrolled = False

    def may_work_on(self, shard: str) -> bool:
        """To be asked right before every side effect. Never True in two processes at one instant, also when one of them
        was stopped in between and goes on."""
        return shard in self._owned and self._believes()

    @property
    def held(self) -> frozenset[str]:
        """The shards that may be worked on now."""
        return frozenset(self._owned) if self._believes() else frozenset()

    def shard_for(self, key: str) -> str:
        """The shard for a new reservation: one of those held here, so that its events leave at once, else any. Who has
        not been able to look at the table for two leases takes the one that is never retired."""
        if not self.shards or self._monotonic() >= self._looked_at + WRITERS_LOOK_WITHIN_LEASES * self._lease:
            return LASTING_SHARD
        names = self._favourites if self._favourites and self._believes() else self.shards
        return names[zlib.crc32(key.encode()) % len(names)]

    async def enroll(self) -> None:
        """Joins the others: adds the shards that the setting asks for and that are missing (it removes none), and looks
        around. Takes nothing yet. Raises AwsError; run() does it again then."""
        await self._beat()
        roll = await self._look()
        missing = {f"{number:04d}" for number in range(self._shard_count)} - {shard.name for shard in roll.shards}
        if missing:
            await self._together(self._leases.add_shard(name, self._now()) for name in sorted(missing))
            await self._look()
        self._enrolled = True

    async def tick(self) -> None:
        """One bounded pass: says that it lives, and when it is time looks around and moves towards its fair share.
        Raises AwsError; the next pass then goes on from what it finds."""
        if not self._fit():
            self._aside_until = self._monotonic() + self._lease
        if self._monotonic() < self._aside_until:
            await self._step_aside()
            return
        await self._beat()
        if self._owned or self._share or self._monotonic() >= self._looked_at + self._lease:
            await self._balance(await self._look())

    async def run(self) -> None:
        """Ticks until cancelled, and survives errors. What is held is dropped as soon as the belief in it ends, also
        while a tick waits for an answer."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._tick_forever())
            tasks.create_task(self._watch_belief())

    async def stop(self) -> None:
        """Hands everything over: to be called when run() and all work on the shards have ended. Does not raise when the
        table cannot be reached; the others then wait for a lease."""
        try:
            await self._hand_over("stopping")
        except AwsError as error:
            log.warning("leases.not_handed_over", error=str(error))

    # Leaving

    async def _step_aside(self) -> None:
        if self._started_at is not None:
            await self._hand_over("not fit")
            self._started_at = None

    async def _hand_over(self, reason: str) -> None:
        """Gives up everything at once, and the others count on this worker no more."""
        self._drop_all(reason)
        mine = [shard for shard in (await self._leases.scan()).shards if shard.owner == self._id]
        await self._together(self._leases.give_back(shard, self._now()) for shard in mine)
        await self._leases.leave(self._id)

    # The belief

    def _believes(self) -> bool:
        return self._monotonic() < self._believes_until

    async def _beat(self) -> None:
        self._drop_if_past()
        sent_at = self._monotonic()
        worker = await self._leases.beat(self._id, self._now())
        # The answer may have come after the end of the belief in the last one. Others may have acted on that: they see
        # the counter move again, but what they took stays theirs.
        self._drop_if_past()
        if worker.started_at != self._started_at and self._started_at is not None:
            self._drop_all("declared dead")
        self._started_at = worker.started_at
        self._believes_until = sent_at + _BELIEF_LEASES * self._lease

    def _drop_if_past(self) -> None:
        if not self._believes():
            self._drop_all("belief ended")

    def _drop_all(self, reason: str) -> None:
        self._believes_until = -math.inf
        self._lose(list(self._owned), reason)

    async def _watch_belief(self) -> None:
        while True:
            left = self._believes_until - self._monotonic()
            await asyncio.sleep(left if left > 0 else self._lease / 10)
            self._drop_if_past()

    async def _tick_forever(self) -> None:
        while True:
            began = self._monotonic()
            try:
                await (self.tick() if self._enrolled else self.enroll())
            except AwsError as error:
                log.warning("leases.tick_failed", error=str(error))
            except Exception:
                log.exception("leases.tick_failed")
            pause = self._lease / 3 * self._random.uniform(0.85, 1.0)
            await asyncio.sleep(max(self._lease / 100, pause - (self._monotonic() - began)))

    # The shares

    async def _look(self) -> Roll:
        asked_at = self._monotonic()
        roll = await self._leases.scan()
        self._observer.note(roll, asked_at=asked_at, answered_at=self._monotonic())
        self._looked_at = asked_at
        self.shards = tuple(shard.name for shard in roll.shards if not shard.retiring)
        workers = sorted(self._observer.live | {self._id})
        self.position = workers.index(self._id), len(workers)
        self._share = _fair_share(len(roll.shards), *self.position)
        found = {shard.name: shard for shard in roll.shards}
        gone = [name for name, mine in self._owned.items() if not _same_ownership(found.get(name), mine)]
        self._lose(gone, "taken over or removed")
        self._prefer_held()
        return roll

    async def _balance(self, roll: Roll) -> None:
        """Hands all surplus back at once, and takes what is missing."""
        # Mine in the table only: from before a pause, or taken by a call whose reply never came. They are taken anew,
        # because something may still be on its way under their old tokens.
        strays = [shard for shard in roll.shards if shard.owner == self._id and shard.name not in self._owned]
        free = [shard for shard in roll.shards if shard.owner == NOBODY]
        room = max(0, self._share - len(self._owned))
        surplus = self._random.sample(sorted(self._owned), max(0, len(self._owned) - self._share))
        back = [self._owned[name] for name in surplus] + strays[room:]
        self._lose(surplus, "handed back")
        await self._together(self._leases.give_back(shard, self._now()) for shard in back)
        others = [shard for shard in (*free, *self._observer.abandoned) if shard.owner != self._id]
        self._random.shuffle(others)
        await self._take([*strays[:room], *others])
        await self._bury()

    async def _take(self, candidates: Sequence[Shard]) -> None:
        """Takes until the share is full. What comes late is left to the next tick, for the beat must be in time."""
        late = self._monotonic() + self._lease / 3
        remaining = iter(candidates)
        while (room := self._share - len(self._owned)) > 0 and self._monotonic() < late:
            batch = list(islice(remaining, min(room, _AT_ONCE)))
            if not batch:
                return
            await self._together(self._take_one(shard) for shard in batch)

    async def _take_one(self, shard: Shard) -> None:
        taken = await self._leases.take(shard, self._id, self._now())
        if taken is not None and self._believes():
            self._owned[taken.name] = taken
            self._prefer_held()
            log.info("leases.gained", shard=taken.name, fencing_token=taken.token, after=shard.owner)
            self._on_change(frozenset({taken.name}), frozenset())

    async def _bury(self) -> None:
        # One worker does it for all: a hundred of them would make ten thousand calls for a hundred dead.
        if self.position[0] == 0:
            await self._together(self._leases.bury(worker) for worker in self._observer.buriable)

    def _lose(self, names: Sequence[str], reason: str) -> None:
        if not names:
            return
        for name in names:
            del self._owned[name]
        self._prefer_held()
        log.info("leases.lost", shards=sorted(names), reason=reason)
        self._on_change(frozenset(), frozenset(names))

    def _prefer_held(self) -> None:
        self._favourites = tuple(name for name in self.shards if name in self._owned)

    async def _together(self, calls: Iterable[Awaitable[object]]) -> None:
        """A few at a time, all of them, whatever becomes of each; raises the first error at the end."""
        remaining = iter(calls)
        errors: list[BaseException] = []
        while batch := list(islice(remaining, _AT_ONCE)):
            ends = await asyncio.gather(*batch, return_exceptions=True)
            errors += [end for end in ends if isinstance(end, BaseException)]
        if errors:
            raise errors[0]


def _fair_share(shards: int, rank: int, workers: int) -> int:
    """Equal parts; the first workers have one more each where it does not come out even."""
    share, rest = divmod(shards, workers)
    return share + (rank < rest)


def _same_ownership(found: Shard | None, mine: Shard) -> bool:
    return found is not None and (found.owner, found.token) == (mine.owner, mine.token)
