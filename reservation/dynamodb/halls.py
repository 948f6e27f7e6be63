"""The halls that this process sells from: how their seats stand, and which of them look free."""

import asyncio
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain

import structlog
from cachetools import LRUCache

from reservation.aws.client import AwsClient
from reservation.domain.errors import ServiceUnavailable
from reservation.domain.model import Seat, Spot
from reservation.domain.seating import BLOCKED, Hall
from reservation.dynamodb.hints import HintTable
from reservation.dynamodb.layouts import Layouts

log = structlog.get_logger()

HINTS_MAX_AGE_SECONDS = 2.0
"""What a seat map may be behind."""

_HINTS_REFRESH_SECONDS = 1.0  # from then on they are read anew, while those that are there still serve
_LAYOUT_SECONDS = 300.0
_PLACES_KEPT = 400_000
_WRITE_EVERY_SECONDS = 0.05
_WRITES_AT_ONCE = 16
_POSITIONS_A_WRITE = 100
_TRIES = 5
_LOAD_SECONDS = 2.0


@dataclass(slots=True)
class _Entry:
    """A hall, the version of its layout, and when it was last looked at, in monotonic seconds. `read_at`: of its hints,
    in milliseconds since the epoch."""

    hall: Hall
    version: str
    layout_at: float
    hints_at: float = float("-inf")
    read_at: int = 0


@dataclass(slots=True)
class _Pending:
    hints: dict[int, int] = field(default_factory=dict)
    tries: int = 0


class Halls:
    """`now` gives milliseconds since the epoch, `monotonic` seconds; `until` is in time.monotonic() seconds.

    Its owner runs `run`, and calls `flush` once more when nothing is learnt any more.
    """

    def __init__(
        self,
        client: AwsClient,
        table: str,
        *,
        now: Callable[[], int],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._layouts = Layouts(client, table)
        self._hints = HintTable(client, table)
        self._now = now
        self._monotonic = monotonic
        self._entries: LRUCache[str, _Entry] = LRUCache(_PLACES_KEPT, getsizeof=_size)
        self._loads: dict[str, asyncio.Task[_Entry]] = {}
        self._pending: dict[tuple[str, int], _Pending] = {}
        self._writing: dict[tuple[str, int], _Pending] = {}
        self._wanted = asyncio.Event()
        self._released = asyncio.Event()

    async def hall(self, event_id: str, until: float, *, max_age: float = HINTS_MAX_AGE_SECONDS) -> Hall:
        """The hall with hints that were read at most `max_age` seconds ago. It has no sections if the event was never
        laid out. Raises ServiceUnavailable."""
        return (await self._entry(event_id, until, max_age)).hall

    async def hall_and_time(self, event_id: str, until: float) -> tuple[Hall, int]:
        """The same, and when its hints were read, in milliseconds since the epoch."""
        entry = await self._entry(event_id, until, HINTS_MAX_AGE_SECONDS)
        return entry.hall, entry.read_at

    def known(self, event_id: str) -> Hall | None:
        """The hall if it is loaded, however old its hints are."""
        entry = self._entries.get(event_id)
        return entry.hall if entry is not None else None

    def learn(self, event_id: str, seats: Iterable[Seat], taken_until: int, *, tell: bool = True) -> None:
        """What this process found out about these seats, see Hall.hint. `tell`: the other processes, too, soon; of a
        block tells only who blocks: told late, after its end, it would hide a free seat for ever."""
        hall = self.known(event_id)
        for spot in (seat.spot for seat in seats if seat.spot is not None):
            if hall is not None:
                hall.hint(spot, taken_until, now=self._now())
            if tell and taken_until != BLOCKED:
                self._tell(event_id, spot, taken_until)

    def release(self, event_id: str, seat_ids: Iterable[str]) -> None:
        """Ends claims of Hall.claim, and wakes who waits for that."""
        if (hall := self.known(event_id)) is not None:
            hall.release(seat_ids)
        self._released.set()
        self._released = asyncio.Event()

    async def until_released(self, until: float) -> None:
        """Waits until some claim ends. Raises ServiceUnavailable when the time is up."""
        try:
            async with asyncio.timeout(max(0.0, until - time.monotonic())):
                await self._released.wait()
        except TimeoutError:
            raise ServiceUnavailable from None

    # Reading

    async def _entry(self, event_id: str, until: float, max_age: float) -> _Entry:
        not_before = self._monotonic() - max_age
        entry = self._entries.get(event_id)
        while entry is None or entry.hints_at < not_before:
            # A load that is under way may have been sent too early; the next one is new enough. One that fails says
            # nothing about the next, either.
            with suppress(ServiceUnavailable):
                entry = await self._loaded(event_id, until)
            if time.monotonic() >= until:
                raise ServiceUnavailable
        if self._monotonic() - entry.hints_at > _HINTS_REFRESH_SECONDS or self._layout_is_old(entry):
            self._load(event_id)
        return entry

    def _layout_is_old(self, entry: _Entry) -> bool:
        return self._monotonic() - entry.layout_at > _LAYOUT_SECONDS

    async def _loaded(self, event_id: str, until: float) -> _Entry:
        try:
            async with asyncio.timeout(max(0.0, until - time.monotonic())):
                return await asyncio.shield(self._load(event_id))
        except TimeoutError:
            raise ServiceUnavailable from None

    def _load(self, event_id: str) -> "asyncio.Task[_Entry]":
        """One load at a time of an event, whoever waits for it."""
        if event_id not in self._loads:
            task = self._loads[event_id] = asyncio.create_task(self._read(event_id), name=f"hall {event_id}")
            task.add_done_callback(lambda done: self._read_ended(event_id, done))
        return self._loads[event_id]

    def _read_ended(self, event_id: str, task: "asyncio.Task[_Entry]") -> None:
        del self._loads[event_id]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("hall.unread", event_id=event_id, error=repr(error))

    async def _read(self, event_id: str) -> _Entry:
        until = time.monotonic() + _LOAD_SECONDS
        entry = self._entries.get(event_id)
        if entry is None or self._layout_is_old(entry):
            entry = await self._laid_out(event_id, entry, until)
            self._install(event_id, entry)
        sent_at, read_at = self._monotonic(), self._now()
        async for hints in self._hints.read(event_id, entry.hall.block_numbers, until):
            for block, ends in hints.items():
                entry.hall.hints(block, ends, now=read_at)
            await asyncio.sleep(0)
        entry.hints_at, entry.read_at = sent_at, read_at
        return entry

    def _install(self, event_id: str, entry: _Entry) -> None:
        """Before its hints are read: from here on it hears what is learnt, and what was learnt before and may not be
        written yet it is told."""
        before = self._entries.get(event_id)
        if before is not None and before is not entry:
            entry.hall.claim(before.hall.claimed)
        for (of_event, block), pending in chain(self._writing.items(), self._pending.items()):
            if of_event == event_id:
                for position, taken_until in pending.hints.items():
                    entry.hall.hint(Spot(block, position), taken_until, now=self._now())
        self._entries[event_id] = entry

    async def _laid_out(self, event_id: str, entry: _Entry | None, until: float) -> _Entry:
        """The entry with the current layout; the same one if that has not changed."""
        looked_at = self._monotonic()
        if entry is not None and await self._layouts.version(event_id, until) == entry.version:
            entry.layout_at = looked_at
            return entry
        layout = await self._layouts.load(event_id, until)
        hall = await asyncio.to_thread(Hall, layout.sections)  # of 50,000 seats it takes 30 ms to build
        return _Entry(hall, layout.version, looked_at)

    # Telling

    def _tell(self, event_id: str, spot: Spot, taken_until: int) -> None:
        pending = self._pending.setdefault((event_id, spot.block), _Pending())
        pending.hints[spot.position] = taken_until
        self._wanted.set()

    async def run(self) -> None:
        """Writes what was learnt, a little later and block by block together, until cancelled."""
        while True:
            await self._wanted.wait()
            await asyncio.sleep(_WRITE_EVERY_SECONDS)
            await self.flush()

    async def flush(self) -> None:
        """One pass: writes all that was learnt by now. A block that cannot be written is tried again in the next passes
        and given up after a few: its hints heal by themselves."""
        self._wanted.clear()
        ahead, self._pending = self._pending, {}

        async def work() -> None:
            while ahead:
                (event_id, block), pending = ahead.popitem()
                await self._write(event_id, block, pending)

        try:
            await asyncio.gather(*(work() for _ in range(_WRITES_AT_ONCE)))
        finally:  # a pass that is cancelled leaves what it did not come to for the next one
            for (event_id, block), pending in ahead.items():
                self._put_back(event_id, block, pending)

    async def _write(self, event_id: str, block: int, pending: _Pending) -> None:
        items = list(pending.hints.items())
        self._writing[event_id, block] = pending
        try:
            for start in range(0, len(items), _POSITIONS_A_WRITE):
                await self._hints.write(event_id, block, dict(items[start : start + _POSITIONS_A_WRITE]))
        except asyncio.CancelledError:
            self._put_back(event_id, block, pending)
            raise
        except Exception as error:
            log.warning("hints.unwritten", event_id=event_id, block=block, error=repr(error))
            pending.tries += 1
            if pending.tries < _TRIES:
                self._put_back(event_id, block, pending)
        finally:
            del self._writing[event_id, block]

    def _put_back(self, event_id: str, block: int, pending: _Pending) -> None:
        """What was learnt since goes before it."""
        newer = self._pending.setdefault((event_id, block), _Pending())
        newer.hints = pending.hints | newer.hints
        newer.tries = pending.tries
        self._wanted.set()


def _size(entry: _Entry) -> int:
    return min(len(entry.hall), _PLACES_KEPT)
