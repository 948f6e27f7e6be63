"""Leaders in any interleaving: each call of each of them may be stopped on its way there and on its way back, for any
time, may be lost in both places, and may be applied long after its caller has given it up. Real time is one for all,
and only the test moves it."""

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hypothesis import example, given, settings
from hypothesis import strategies as st

from reservation.aws.client import ServerDate, Wire
from reservation.aws.errors import AwsError, TransportError
from tests.support.lease_workers import Member, Workers, lease_workers

Fate = Literal["goes on", "is lost", "comes late"]

# A belief ends after 4 s, a lease after 5.
SECONDS = (0.0, 0.0, 0.0, 0.3, 1.7, 2.6, 3.9, 4.1, 5.1, 16.0)

TO_THE_END = 0

LOOP_TURNS = 25
"""More than any tick needs from the answer of one call to the sending of the next."""


@dataclass(frozen=True, slots=True)
class Scene:
    """Time passes, while nobody does anything; what was late arrives, if it is to; then one worker makes so many steps,
    the last of them with this fate."""

    worker: int
    seconds: float = 0.0
    steps: int = TO_THE_END
    fate: Fate = "goes on"
    late_ones_arrive: bool = False


class SteppedWire:
    """Each request waits for the test before it is sent, and its answer again."""

    server_date: ServerDate | None = None

    def __init__(self, wire: Wire) -> None:
        self.waiting: deque[asyncio.Future[Fate]] = deque()
        self.late: list[tuple[str, Mapping[str, Any]]] = []
        self.under_way = 0
        self.free_running = True
        self._wire = wire

    async def send(self, operation: str, params: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        if await self._fate() == "comes late":
            self.late.append((operation, params))
            raise _GIVEN_UP
        self.under_way += 1
        try:
            answer = await self._wire.send(operation, params, 30.0)
        finally:
            self.under_way -= 1
            await self._fate()
        return answer

    async def _fate(self) -> Fate:
        if self.free_running:
            return "goes on"
        self.waiting.append(asyncio.get_running_loop().create_future())
        fate = await self.waiting[-1]
        if fate == "is lost":
            raise _GIVEN_UP
        return fate

    async def let_the_late_arrive(self) -> None:
        while self.late:
            operation, params = self.late.pop(0)
            try:
                await self._wire.send(operation, params, 30.0)
            except AwsError as verdict:
                assert verdict.code == "ConditionalCheckFailedException"  # noqa: PT017  which nobody hears

    async def renew_credentials(self, timeout: float | None) -> None:
        await self._wire.renew_credentials(timeout)

    async def close(self) -> None:
        await self._wire.close()


_GIVEN_UP = TransportError("TimedOut", "by the test")


class Play:
    """Workers with fair shares, whose every step is the test's from then on."""

    def __init__(self, workers: Workers) -> None:
        self.workers = workers
        self.wires: list[SteppedWire] = []
        self.members: list[Member] = []
        self.ticks: dict[int, asyncio.Task[None]] = {}
        self.seen: dict[str, tuple[int, str]] = {}

    async def begin(self, *names: str) -> None:
        self.members = await self.workers.enrolled(*names, shard_count=2, wrap=self._stepped)
        for wire in self.wires:
            wire.free_running = False

    def _stepped(self, wire: Wire) -> Wire:
        self.wires.append(SteppedWire(wire))
        return self.wires[-1]

    async def show(self, scene: Scene) -> None:
        self.workers.time += scene.seconds
        if scene.late_ones_arrive:
            for wire in self.wires:
                await wire.let_the_late_arrive()
        if scene.steps == TO_THE_END:
            await self._step(scene.worker, scene.fate)
            while scene.worker in self.ticks:
                await self._step(scene.worker, "goes on")
        for left in reversed(range(scene.steps)):
            await self._step(scene.worker, "goes on" if left else scene.fate)

    async def _step(self, position: int, fate: Fate) -> None:
        """The worker begins a tick, or the first of its calls that wait moves on, or is given up where it is."""
        member, wire = self.members[position], self.wires[position]
        changes = len(member.changes)
        if wire.waiting:
            wire.waiting.popleft().set_result(fate)
        elif position not in self.ticks:
            self.ticks[position] = asyncio.create_task(member.leader.tick())
        await self._settle(wire)
        if (tick := self.ticks.get(position)) and tick.done():
            del self.ticks[position]
            assert isinstance(tick.exception(), TransportError | None)
        if len(member.changes) > changes:
            await self._check_tokens()
        self._check()

    async def _settle(self, wire: SteppedWire) -> None:
        turns = 0
        while turns < LOOP_TURNS:
            await asyncio.sleep(0)
            turns = 0 if wire.under_way else turns + 1

    def _check(self) -> None:
        both = {shard: names for shard, names in self.workers.workers_of().items() if len(names) > 1}
        assert not both
        assert all(set(member.held) <= set(member.told) for member in self.members)

    async def _check_tokens(self) -> None:
        for shard in (await self.workers.roll()).shards:
            token, owner = self.seen.get(shard.name, (-1, ""))
            assert shard.token > token or (shard.token == token and shard.owner in (owner, ""))
            self.seen[shard.name] = shard.token, shard.owner

    async def end(self) -> None:
        """Everybody goes on undisturbed and ticks at its pace: all is shared out again."""
        for position, wire in enumerate(self.wires):
            while position in self.ticks:
                await self._step(position, "goes on")
            wire.free_running = True
        for _ in range(8):
            self.workers.time += 1.6
            await self.workers.tick(*self.members)
            self._check()
        owners = await self.workers.owners()
        assert {shard: [owner] for shard, owner in owners.items()} == self.workers.workers_of()


scenes = st.builds(
    Scene,
    worker=st.integers(0, 1),
    seconds=st.sampled_from(SECONDS),
    steps=st.sampled_from([*[TO_THE_END] * 6, 1, 2, 3, 4, 5, 6]),
    fate=st.sampled_from([*["goes on"] * 8, "is lost", "comes late"]),
    late_ones_arrive=st.booleans(),
)

# A tick's steps: 1 begins it, 2 the beat is applied, 3 its answer has come, 4 the scan is made, 5 its answer has come.
DEAD_FOR_A_LEASE = (Scene(0), Scene(1), Scene(1, 5.1), Scene(0))
BEAT_COMES_LATE = (Scene(0), Scene(1), Scene(0, 2.6, 1, "comes late"), Scene(1, 2.6), Scene(0, late_ones_arrive=True))
ANSWER_OF_A_BEAT_COMES_LATE = (Scene(0), Scene(1), Scene(0, 2.6, 1), Scene(1, 2.6), Scene(0, 0.0, 2), Scene(1))
ANSWER_OF_A_SCAN_COMES_LATE = (Scene(0), Scene(1), Scene(1, 1.7, 4), Scene(0, 1.7), Scene(1, 1.7), Scene(0))
FIRST_SCAN_IS_LONG = (Scene(0), Scene(1, 0.0, 3), Scene(0, 2.6), Scene(1), Scene(1, 2.6), Scene(0))
TAKE_COMES_LATE = (Scene(0), Scene(1), Scene(1, 5.1, 6, "comes late"), Scene(0, 0.0), Scene(1, 0.0, 0, "goes on", True))


@settings(max_examples=20, deadline=None)
@given(script=st.lists(scenes, min_size=10, max_size=25))
@example(script=DEAD_FOR_A_LEASE)
@example(script=BEAT_COMES_LATE)
@example(script=ANSWER_OF_A_BEAT_COMES_LATE)
@example(script=ANSWER_OF_A_SCAN_COMES_LATE)
@example(script=FIRST_SCAN_IS_LONG)
@example(script=TAKE_COMES_LATE)
def test_no_shard_is_ever_worked_on_by_two(ministack_url: str, script: Sequence[Scene]) -> None:
    """And tokens only grow, and in the end every shard has found its worker again."""

    async def play() -> None:
        async with lease_workers(ministack_url) as workers:
            leaders = Play(workers)
            await leaders.begin("a", "b")
            for scene in script:
                await leaders.show(scene)
            await leaders.end()

    asyncio.run(play())
