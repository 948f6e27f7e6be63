"""Two processes behind one scripted endpoint, for tests that build an exact interleaving."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from reservation.domain import events
from reservation.ports import Recorded
from tests.support.conflict_proxy import ConflictProxy
from tests.support.faults import HoldOngoing
from tests.support.invariants import violations
from tests.support.store import EVENT, SEATS, Party, Venue, open_venue, soon
from tests.support.verdicts import transaction, until

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Stage:
    """Processes `one` and `two` behind one scripted endpoint, which may take its time, `direct` beside it; all know the
    facts of the seats."""

    venue: Venue
    proxy: ConflictProxy
    one: Party
    two: Party
    direct: Party

    @asynccontextmanager
    async def ongoing(self, call: Awaitable[T]) -> AsyncIterator[asyncio.Task[T]]:
        """Inside, DynamoDB has begun the transaction of `call` and not applied it."""
        pause = HoldOngoing()
        self.proxy.script(transaction, pause)
        task = asyncio.ensure_future(call)
        await pause.reached.wait()
        yield task
        pause.event.set()
        await asyncio.wait([task])

    async def contend(self, call: Awaitable[T]) -> asyncio.Task[T]:
        """`call`, after DynamoDB has refused it twice because of what is ongoing."""
        before = self.proxy.stats["conflict"]
        task = asyncio.ensure_future(call)
        await until(lambda: task.done() or self.proxy.stats["conflict"] >= before + 2)
        return task


@asynccontextmanager
async def open_stage(url: str) -> AsyncIterator[Stage]:
    """On the emulator at `url`. Raises AssertionError if in the end the tables are not as they must be."""
    async with open_venue(url) as venue, venue.behind(unhurried=True) as (proxy, client):
        stage = Stage(venue, proxy, venue.party(client), venue.party(client), venue.party())
        for party in (stage.one, stage.two, stage.direct):
            await party.inventory.facts(EVENT.id, [seat.id for seat in SEATS], soon())
        proxy.stats.clear()
        yield stage
        assert violations(await venue.rows(), now=venue.clock.now()) == []


def answer(recorded: Recorded) -> dict[str, Any]:
    """What the caller reads."""
    return events.body(recorded.reservation)
