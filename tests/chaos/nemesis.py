"""Who does harm to the processes: kills them, freezes them, restarts them, and cuts them off from the store."""

import asyncio
import math
import random
import signal
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from tests.chaos.injection import Cut, Injector
from tests.chaos.system import Member


class Harm(StrEnum):
    KILL = "kill -9"
    FREEZE = "SIGSTOP for 10 s"
    RESTART = "rolling restart"
    PARTITION = "partition"


LEAST_IN_TEN_MINUTES: Mapping[Harm, int] = {Harm.KILL: 30, Harm.FREEZE: 20, Harm.RESTART: 20, Harm.PARTITION: 20}

_SPARE = 1.1
"""So many times as much as must be done is planned."""

_FREEZE_SECONDS = 10.0
_PARTITION_SECONDS = (3.0, 9.0)
_LATEST_PART = 0.3
"""A harm begins in the first third of its slot, so that it mostly ends within."""


@dataclass(frozen=True, slots=True)
class Planned:
    """`at` in seconds from the beginning, at the earliest. `seconds`: how long it lasts, where that is not up to the
    process. `cut`: of a partition."""

    at: float
    harm: Harm
    seconds: float = 0.0
    cut: Cut | None = None


def plan(rng: random.Random, seconds: float, processes: int) -> list[list[Planned]]:
    """What is done to each process, in the order of time. What is done to one does not overlap; what is done to several
    does."""
    harms = [harm for harm, count in LEAST_IN_TEN_MINUTES.items() for _ in range(_planned(count, seconds))]
    rng.shuffle(harms)
    return [_spread(rng, harms[number::processes], seconds) for number in range(processes)]


def _planned(per_ten_minutes: int, seconds: float) -> int:
    return math.ceil(_SPARE * per_ten_minutes * seconds / 600)


def _spread(rng: random.Random, harms: Sequence[Harm], seconds: float) -> list[Planned]:
    slot = seconds / max(1, len(harms))
    return [_at((number + rng.uniform(0, _LATEST_PART)) * slot, harm, rng) for number, harm in enumerate(harms)]


def _at(at: float, harm: Harm, rng: random.Random) -> Planned:
    if harm is Harm.FREEZE:
        return Planned(at, harm, _FREEZE_SECONDS)
    if harm is Harm.PARTITION:
        return Planned(at, harm, rng.uniform(*_PARTITION_SECONDS), rng.choice(list(Cut)))
    return Planned(at, harm)


class Nemesis:
    """`done` counts what was done. `problems`: what the processes did that they should not have."""

    def __init__(self, members: Sequence[Member], store: Injector) -> None:
        self.done: Counter[Harm] = Counter()
        self.problems: list[str] = []
        self._members = members
        self._store = store
        self._may = asyncio.Semaphore(len(members) - 1)  # one process is always left alone

    async def run(self, plans: Sequence[Sequence[Planned]]) -> None:
        """Does what is planned, however long that takes where processes are slow to come back, and leaves every process
        alive and together with the store."""
        async with asyncio.TaskGroup() as under_way:
            for member, planned in zip(self._members, plans, strict=True):
                under_way.create_task(self._follow(member, planned, time.monotonic()))

    async def _follow(self, member: Member, planned: Sequence[Planned], began: float) -> None:
        for each in planned:
            await asyncio.sleep(max(0.0, began + each.at - time.monotonic()))
            async with self._may:
                try:
                    await self._do(each, member)
                except RuntimeError as error:
                    self.problems.append(f"process {member.name}: {error}")
                    return
            self.done[each.harm] += 1

    async def _do(self, planned: Planned, member: Member) -> None:
        if not member.service.lives:
            self.problems.append(f"process {member.name} ended by itself")
            await member.service.start()
        match planned.harm:
            case Harm.KILL:
                await member.service.kill()
                await member.service.start()
            case Harm.FREEZE:
                member.service.signal(signal.SIGSTOP)
                try:
                    await asyncio.sleep(planned.seconds)
                finally:
                    member.service.signal(signal.SIGCONT)
            case Harm.RESTART:
                if code := await member.service.stop():
                    self.problems.append(f"process {member.name} was told to stop and ended with {code}")
                await member.service.start()
            case Harm.PARTITION:
                assert planned.cut is not None
                async with self._store.partition(member.name, planned.cut):
                    await asyncio.sleep(planned.seconds)
