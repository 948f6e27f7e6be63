"""Which of a section's open seats: the best adjacent ones, those nearest to each other, or any of general admission.

The seats of a block are the bits of a mask, in the order in which they stand. Blocks stand best first and are known by
their index. Chance comes in as `random`: a number from 0 up to, never, 1.

Processes that sell one event choose at the same time and hear of each other's sales late. So that they seldom want the
same seats, a stripe `(me, n)` gives each of n processes its own parts of a section to choose from first.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from enum import Enum, auto
from functools import lru_cache
from itertools import chain, islice
from typing import NamedTuple

from reservation.domain.bits import ascending, lowest, outward, runs, turned
from reservation.domain.model import Wish
from reservation.domain.prospects import Prospects

ROWS_EACH = 4
"""Processes that find so many rows for each of them in a section share out whole rows: parts of rows leave remainders
that fit nobody. Where there are fewer, a process would have no good row at all, and they share out segments."""

SEGMENT = 10
"""So many adjacent seats make a segment; counted through a section, each row begins with a new one."""

AMONG = 64
"""Of how many best choices one is taken by chance where no stripe keeps processes apart."""

Stripe = tuple[int, int]
Random = Callable[[], float]

Pick = list[tuple[int, int]]
"""The chosen seats: the index of a block and the mask of its seats. Empty: nothing fits."""


class Manner(Enum):
    """How the seats of a choice are to each other and to those that it leaves."""

    TIDY = auto()
    """Together, and no open seat is left alone between taken ones, the end of a row counting as taken."""
    TOGETHER = auto()
    APART = auto()


class Row:
    """A row, or a block of places. `open`: those that may be chosen. `segment`: the number of its first segment."""

    __slots__ = ("accessible", "length", "open", "segment")

    def __init__(self, length: int, accessible: int, segment: int) -> None:
        self.length = length
        self.accessible = accessible
        self.segment = segment
        self.open = (1 << length) - 1


def rows_of(accessible: Sequence[Sequence[bool]]) -> list[Row]:
    """The rows of a section, everything open, from whether each of their seats is accessible."""
    rows: list[Row] = []
    segment = 0
    for flags in accessible:
        rows.append(Row(len(flags), sum(1 << at for at, flag in enumerate(flags) if flag), segment))
        segment += _segments(len(flags))
    return rows


class Chooser(ABC):
    """The choice within one section. What fits and what does not is a matter of the open seats alone; stripe and chance
    decide between choices that fit."""

    def __init__(self, rows: list[Row]) -> None:
        self._rows = rows
        self._prospects = Prospects(len(rows))

    def occupy(self, index: int, seats: int) -> bool:
        """Exactly these seats of a block are not to be chosen, from now on. Whether that is news."""
        row = self._rows[index]
        still_open = (1 << row.length) - 1 & ~seats
        if still_open == row.open:
            return False
        row.open = still_open
        self._prospects.changed(index)
        return True

    @abstractmethod
    def choose(self, wish: Wish, manner: Manner, stripe: Stripe, random: Random) -> Pick: ...


class _Window(NamedTuple):
    """Adjacent open seats of one row. `accessible`: at least one of them, none of them, or (None) no matter. `tidy`:
    as in Manner. `stripe`: within one segment of this process."""

    quantity: int
    accessible: bool | None
    tidy: bool = False
    stripe: Stripe | None = None


class Numbered(Chooser):
    """Rows of numbered seats. Accessible ones are left to wishes for them, which get at least one.

    Together: in the best row, nearest to its centre, then towards its beginning. Each of several processes takes the
    best within its own rows or segments; without one there, by chance, one of the best of all.

    Apart: the best single seat (an accessible one, if that is wished) and those nearest to it, first by the distance
    of their rows, then by how much further left or right of their row's centre they are; of equally near ones that in
    the better row, and then towards its beginning. Single seats that are left behind do not matter to this choice.
    """

    def choose(self, wish: Wish, manner: Manner, stripe: Stripe, random: Random) -> Pick:
        if manner is Manner.APART:
            return self._apart(wish, stripe, random)
        best = self._best(_Window(wish.quantity, wish.accessible, manner is Manner.TIDY), stripe, random)
        return [(best[0], (1 << wish.quantity) - 1 << best[1])] if best else []

    def _apart(self, wish: Wish, stripe: Stripe, random: Random) -> Pick:
        anchor = self._best(_Window(1, wish.accessible), stripe, random)
        if anchor is None:
            return []
        others = _Window(1, None if wish.accessible else False)
        seats = list(islice(self._nearest(others, *anchor), wish.quantity))
        return _by_block(seats) if len(seats) == wish.quantity else []

    def _best(self, window: _Window, stripe: Stripe, random: Random) -> tuple[int, int] | None:
        """The index of the row and the first seat in it."""
        if best := next(self._own(window, stripe), None):
            return best
        which = int(random() * AMONG)
        some = list(islice(self._in_order(window), which + 1))
        return some[which % len(some)] if some else None

    def _own(self, window: _Window, stripe: Stripe) -> Iterator[tuple[int, int]]:
        if stripe[1] == 1:
            return self._in_order(window)
        if len(self._rows) < ROWS_EACH * stripe[1]:
            return self._in_order(window._replace(stripe=stripe))
        own = _striped(len(self._rows), *stripe)
        return self._in_order(window, lambda rows: ascending(rows & own))

    def _in_order(
        self, window: _Window, order: Callable[[int], Iterator[int]] = ascending
    ) -> Iterator[tuple[int, int]]:
        for index, starts in self._prospects.answers(window, lambda index: _starts(self._rows[index], window), order):
            for start in outward(starts, self._rows[index].length - window.quantity):
                yield index, start

    def _nearest(self, single: _Window, row: int, seat: int) -> Iterator[tuple[int, int]]:
        """Single seats by their distance from this one, itself the first."""
        aside = 2 * seat - self._rows[row].length
        level: list[tuple[int, int, int]] = []
        reached = 0
        for index, seats in self._prospects.answers(
            single, lambda index: _starts(self._rows[index], single), lambda rows: outward(rows, 2 * row)
        ):
            if abs(index - row) > reached:
                yield from ((there, each) for _, there, each in sorted(level))
                level, reached = [], abs(index - row)
            length = self._rows[index].length
            level += ((abs(2 * each - length - aside), index, each) for each in ascending(seats))
        yield from ((there, each) for _, there, each in sorted(level))


class GeneralAdmission(Chooser):
    """Places without a number, in blocks. A process takes the lowest open ones of its own blocks; once those are used
    up others', from a random place on. They have no neighbours: every manner is the same."""

    def choose(self, wish: Wish, manner: Manner, stripe: Stripe, random: Random) -> Pick:
        places = chain(self._own(wish.accessible, stripe), self._others(wish.accessible, stripe, random))
        pick: Pick = []
        missing = wish.quantity
        for index, mask in places:
            pick.append((index, lowest(mask, missing)))
            missing -= pick[-1][1].bit_count()
            if not missing:
                return pick
        return []

    def _own(self, accessible: bool, stripe: Stripe) -> Iterator[tuple[int, int]]:
        own = _striped(len(self._rows), *stripe)
        return self._places(accessible, lambda blocks: ascending(blocks & own))

    def _others(self, accessible: bool, stripe: Stripe, random: Random) -> Iterator[tuple[int, int]]:
        others = ~_striped(len(self._rows), *stripe)
        first = int(random() * len(self._rows))

        def from_first_on(blocks: int) -> Iterator[int]:
            return chain.from_iterable(map(ascending, turned(blocks & others, first)))

        for index, places in self._places(accessible, from_first_on):
            place = int(random() * self._rows[index].length)
            yield from ((index, part) for part in turned(places, place) if part)

    def _places(self, accessible: bool, order: Callable[[int], Iterator[int]]) -> Iterator[tuple[int, int]]:
        return self._prospects.answers(accessible, lambda index: _places(self._rows[index], accessible), order)


def _starts(row: Row, window: _Window) -> int:
    """The seats of the row at which such a window may begin."""
    quantity, accessible, tidy, stripe = window
    free = row.open
    ordinary = free & ~row.accessible
    starts = runs(ordinary if accessible is False else free, quantity)
    if accessible:
        starts &= ~runs(ordinary, quantity)
    if stripe is not None:
        starts &= _in_segments(row.length, row.segment % stripe[1], quantity, *stripe)
    if tidy and starts:
        alone_before = free << 1 & ~(free << 2)
        alone_behind = free >> quantity & ~(free >> quantity + 1)
        starts &= ~(alone_before | alone_behind)
    return starts


def _places(row: Row, accessible: bool) -> int:
    return row.open & row.accessible if accessible else row.open


def _segments(length: int) -> int:
    return -(-length // SEGMENT)


@lru_cache(maxsize=4096)
def _in_segments(length: int, first: int, quantity: int, me: int, n: int) -> int:
    """Where that many seats may begin to be within one of my segments. `first`: the number of the row's first one."""
    if quantity > SEGMENT:
        return 0
    starts = (1 << SEGMENT - quantity + 1) - 1
    return sum(starts << SEGMENT * each for each in range(_segments(length)) if (first + each) % n == me)


@lru_cache(maxsize=1024)
def _striped(blocks: int, me: int, n: int) -> int:
    return sum(1 << each for each in range(me, blocks, n))


def _by_block(seats: list[tuple[int, int]]) -> Pick:
    masks: dict[int, int] = {}
    for index, seat in seats:
        masks[index] = masks.get(index, 0) | 1 << seat
    return sorted(masks.items())
