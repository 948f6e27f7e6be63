"""Whether operations that overlap can have taken effect one at a time, each at some instant between its call and its
answer, on one small object.

After Wing and Gong (https://doi.org/10.1006/jpdc.1993.1015) in the just-in-time form of Lowe
(https://doi.org/10.1002/cpe.3928): the history is read once from its beginning; kept are all the states that the object
may be in, each with the operations under way that have not taken effect in it. An operation has to when it is answered,
so what it takes is decided as late as can be, and the first answer that no state allows ends the shortest prefix that
is wrong.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from tests.chaos.history import Attempt

S = TypeVar("S", bound=Hashable)


@dataclass(frozen=True, slots=True, eq=False)
class Op(Generic[S]):
    """`step`, given a state and the time, is the state after it; None: impossible in that state by then. What is
    possible must not become impossible as time goes by. An op that leaves the state as it is can do so any time. `end`:
    None for what may take effect at any time after its start, or never."""

    start: int
    end: int | None
    step: Callable[[S, int], S | None]
    words: str
    attempts: tuple[Attempt, ...] = ()
    reads: bool = False


@dataclass(frozen=True, slots=True)
class Stuck(Generic[S]):
    """`op` was answered, and in none of `states`, which are all that its object may have been in, can it have taken
    effect. `ops`: those that led there, in the order of their starts. `undecided`: too many states to tell."""

    op: Op[S]
    states: tuple[S, ...]
    ops: tuple[Op[S], ...]
    undecided: bool = False


_Config = tuple[S, frozenset[int]]


@dataclass(slots=True)
class _Search(Generic[S]):
    ops: Sequence[Op[S]]
    steps_left: int
    configs: set[_Config[S]] = field(default_factory=set)

    def start(self, number: int) -> None:
        op, now = self.ops[number], self.ops[number].start
        self.configs = {
            (state, pending) if op.step(state, now) == state else (state, pending | {number})
            for state, pending in self.configs
        }
        self.steps_left -= len(self.configs)

    def end(self, number: int, now: int) -> bool:
        """Whether the op can have taken effect by now."""
        done: set[_Config[S]] = set()
        seen = set(self.configs)
        to_do = list(self.configs)
        while to_do and self.steps_left > 0:
            state, pending = self._after_reads(*to_do.pop(), now)
            if number not in pending:
                done.add((state, pending))
                continue
            self.steps_left -= len(pending)
            for each in pending:
                after = self.ops[each].step(state, now)
                if after is not None and (config := (after, pending - {each})) not in seen:
                    seen.add(config)
                    to_do.append(config)
        if not done:
            return False
        self.configs = done
        return True

    def _after_reads(self, state: S, pending: frozenset[int], now: int) -> _Config[S]:
        """Whatever changes nothing may as well take effect."""
        satisfied = [each for each in pending if self.ops[each].step(state, now) == state]
        return (state, pending.difference(satisfied)) if satisfied else (state, pending)


def linearize(initial: S, ops: Sequence[Op[S]], *, most_steps: int = 200_000) -> Stuck[S] | None:
    """None: they can have."""
    search = _Search(ops, most_steps, {(initial, frozenset())})
    moments = [(op.start, False, number) for number, op in enumerate(ops)]
    moments += [(op.end, True, number) for number, op in enumerate(ops) if op.end is not None]
    moments.sort()
    for now, ends, number in moments:
        if not ends:
            search.start(number)
            continue
        before = search.configs
        if not search.end(number, now):
            led = sorted((op for op in ops if op.start <= now), key=lambda op: op.start)
            states = tuple({state for state, _ in before})
            return Stuck(ops[number], states, tuple(led), undecided=search.steps_left <= 0)
    return None


def shortest(initial: S, stuck: Stuck[S]) -> Stuck[S]:
    """The same, without the reads that it does not take to see that something is wrong: fewer and fewer are left out,
    as long as the rest is still impossible."""
    if stuck.undecided:
        return stuck
    reads = [op for op in stuck.ops if op.reads and op is not stuck.op]
    size = len(reads)
    while size:
        position = 0
        while position < len(reads):
            left_out = set(reads[position : position + size])
            again = linearize(initial, [op for op in stuck.ops if op not in left_out])
            if again is not None and not again.undecided:
                stuck, reads = again, [op for op in reads if op not in left_out]
            else:
                position += size
        size //= 2
    return stuck
