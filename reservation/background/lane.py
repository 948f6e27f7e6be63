"""Which events of a shard may leave now. It only decides: nothing here waits, reads or sends.

At most one event of a reservation is on its way, and the next may leave only after it was accepted, so first deliveries
are in order although EventBridge promises none. An event that is not accepted holds up its own reservation, no other.
"""

import math
from asyncio import Event
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from reservation.dynamodb.outbox import OutboxPage, OutboxRow, UnreadableRow

ENOUGH = 40
"""How many events a pass looks for. It sends all that it has met by then, so it may be a page more."""

_BACK_OFF_SECONDS, _BACK_OFF_MAX_SECONDS = 0.05, 5.0
_REPORT_AGAIN_SECONDS = 30.0


def back_off(failures: int, random: Callable[[], float]) -> float:
    """Seconds to wait after so many failures: any time up to a limit that doubles with each.

    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """
    return random() * min(_BACK_OFF_MAX_SECONDS, _BACK_OFF_SECONDS * 2.0 ** min(failures, 10))


@dataclass(slots=True)
class _Trouble:
    """What befell the event that a reservation has to publish next. `until` is in monotonic seconds."""

    seq: str
    until: float = 0.0
    failures: int = 0
    refusals: int = 0


class Lane:
    """A shard that this process works on, and what it remembers of it from one pass to the next."""

    def __init__(self, shard: str, *, monotonic: Callable[[], float], random: Callable[[], float]) -> None:
        self.shard = shard
        self.nudge = Event()
        """A hint that a row was written."""
        self.over = Event()
        """No call is to be begun any more."""
        self.failures = 0
        """Passes in a row that met a bus or a store that did not do what was asked."""
        self.oldest: int | None = None
        """When the oldest event that is still to be published was written, in milliseconds. None: there is none."""
        self._monotonic = monotonic
        self._random = random
        self._troubles: dict[str, _Trouble] = {}
        self._accepted: set[str] = set()
        self._reported: dict[str, float] = {}
        self._warned_at = -math.inf

    @property
    def next_try(self) -> float:
        """When the first of the events that were put off may be tried again, in monotonic seconds (infinity: none)."""
        return min((trouble.until for trouble in self._troubles.values()), default=math.inf)

    def age(self, now: int) -> float:
        """Seconds since the oldest event was written, 0 without one. `now`: milliseconds since the epoch."""
        return 0.0 if self.oldest is None else max(0.0, (now - self.oldest) / 1000)

    def may_leave(self, row: OutboxRow) -> bool:
        """Whether it was not put off, or for long enough."""
        trouble = self._troubles.get(row.reservation_id)
        return trouble is None or trouble.seq != row.seq or trouble.until <= self._monotonic()

    def was_accepted(self, row: OutboxRow | UnreadableRow) -> bool:
        """Whether only its deletion is left to do."""
        return row.seq in self._accepted

    def accept(self, row: OutboxRow) -> None:
        self._accepted.add(row.seq)
        self.settle(row)

    def forget_accepted(self, rows: Iterable[OutboxRow]) -> None:
        """They are deleted."""
        self._accepted -= {row.seq for row in rows}

    def settle(self, row: OutboxRow) -> None:
        """Its reservation no longer waits for it."""
        self._troubles.pop(row.reservation_id, None)

    def put_off(self, row: OutboxRow, *, refused: bool) -> int:
        """Makes its reservation wait. How many times this event was refused by now."""
        trouble = self._troubles.get(row.reservation_id)
        if trouble is None or trouble.seq != row.seq:
            trouble = self._troubles[row.reservation_id] = _Trouble(row.seq)
        trouble.failures += 1
        trouble.refusals += refused
        trouble.until = self._monotonic() + back_off(trouble.failures, self._random)
        return trouble.refusals

    def forget_gone(self, there: set[str], next_ones: set[str]) -> None:
        """`there`: the seqs of all rows; `next_ones`: of those that their reservations have to publish next."""
        self._accepted &= there
        self._reported = {seq: at for seq, at in self._reported.items() if seq in there}
        self._troubles = {key: trouble for key, trouble in self._troubles.items() if trouble.seq in next_ones}

    def report_unreadable(self, row: UnreadableRow) -> bool:
        """Whether it is time to tell of it: at first sight, and now and then while it is there."""
        now = self._monotonic()
        due = now >= self._reported.get(row.seq, -math.inf) + _REPORT_AGAIN_SECONDS
        if due:
            self._reported[row.seq] = now
        return due

    def report_lag(self) -> bool:
        """Whether it is time to tell that the shard lags."""
        now = self._monotonic()
        due = now >= self._warned_at + _REPORT_AGAIN_SECONDS
        if due:
            self._warned_at = now
        return due


class Pass:
    """One pass over a shard: what it met, page by page from the beginning, and what came of it."""

    def __init__(self, lane: Lane) -> None:
        self.ready: list[OutboxRow] = []
        """Events that may leave now, one of a reservation, the oldest first."""
        self.undeleted: list[OutboxRow] = []
        """Rows whose events an earlier pass has published."""
        self.unreadable: list[UnreadableRow] = []
        self.published = 0
        self.buried = 0
        self.call_failed = False
        """The bus refused a call or did not answer it: it wants a rest, and no further call is begun in this pass."""
        self._lane = lane
        self._left: dict[str, OutboxRow | UnreadableRow] = {}
        self._next_of: dict[str, str] = {}
        self._more_pages = True

    @property
    def needs_a_page(self) -> bool:
        return self._more_pages and len(self.ready) < ENOUGH

    @property
    def again_at_once(self) -> bool:
        """Whether another pass may find something to send although no time has passed."""
        done = self.published + self.buried > 0
        return not self.call_failed and (self._more_pages or (done and bool(self._left)))

    def add(self, page: OutboxPage) -> None:
        for row in page.rows:
            if self._lane.was_accepted(row) and isinstance(row, OutboxRow):
                self.undeleted.append(row)
            else:
                self._meet(row)
        self._more_pages = page.next is not None
        if not self._more_pages:
            self._forget_gone()

    def accept(self, rows: list[OutboxRow]) -> None:
        for row in rows:
            self._lane.accept(row)
            del self._left[row.seq]
        self.published += len(rows)

    def put_off(self, row: OutboxRow, *, refused: bool = False) -> int:
        """See Lane.put_off."""
        return self._lane.put_off(row, refused=refused)

    def bury(self, row: OutboxRow) -> None:
        self._lane.settle(row)
        del self._left[row.seq]
        self.buried += 1

    def note_oldest(self) -> None:
        """Of those that are left."""
        times = (row.written_at for row in self._left.values())
        self._lane.oldest = next((at for at in times if at is not None), None)

    def _meet(self, row: OutboxRow | UnreadableRow) -> None:
        self._left[row.seq] = row
        if row.reservation_id in self._next_of:
            return
        self._next_of[row.reservation_id] = row.seq
        if isinstance(row, UnreadableRow):
            # Its reservation waits for it: a later version of this program may well understand it.
            self.unreadable.append(row)
        elif self._lane.may_leave(row):
            self.ready.append(row)

    def _forget_gone(self) -> None:
        there = self._left.keys() | {row.seq for row in self.undeleted}
        unreadable = {row.seq for row in self.unreadable}
        self._lane.forget_gone(set(there), set(self._next_of.values()) - unreadable)
