"""Every state that can be reached, the nearest first."""

import gc
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from tests.model.protocol import Protocol, Step
from tests.model.state import State


@dataclass(frozen=True, slots=True)
class Found:
    """`broken`: the name of the first claim that does not hold, after these steps, and no fewer lead there; None: all
    hold in all `states`."""

    states: int
    broken: str | None = None
    steps: tuple[Step, ...] = ()

    def __str__(self) -> str:
        return "\n".join([f"{self.broken} is broken:", *(str(step) for step in self.steps)])


def explore(protocol: Protocol, broken: Callable[[State, Step], str | None]) -> Found:
    """Tries every step from every state that is reached."""
    # Nothing here is garbage before the end, and to look for some among all the states takes as long as all the rest.
    collecting = gc.isenabled()
    gc.disable()
    try:
        return _explore(protocol, broken)
    finally:
        if collecting:
            gc.enable()


def _explore(protocol: Protocol, broken: Callable[[State, Step], str | None]) -> Found:
    start = protocol.start()
    came_by: dict[State, tuple[State, Step] | None] = {start: None}
    waiting = deque([start])
    while waiting:
        state = waiting.popleft()
        for step in protocol.steps(state):
            if (claim := broken(state, step)) is not None:
                return Found(len(came_by), claim, (*_way(came_by, state), step))
            if step.state not in came_by:
                came_by[step.state] = (state, step)
                waiting.append(step.state)
    return Found(len(came_by))


def _way(came_by: dict[State, tuple[State, Step] | None], state: State) -> tuple[Step, ...]:
    steps = []
    while (origin := came_by[state]) is not None:
        state, step = origin
        steps.append(step)
    return tuple(reversed(steps))
