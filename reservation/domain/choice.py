"""Which of a section's open seats: the best adjacent ones, the nearest ones, or any places of general admission.

The seats of a block are the bits of a mask, in the order in which they stand; a set bit is what the mask's name says.
Blocks stand best first and are known by their index. Chance comes in as `random`: a number from 0 up to, never, 1.

Processes that sell one event choose at the same time and hear of each other's sales late. So that they seldom want the
same seats, a stripe `(me, n)` gives each of n processes its own parts of a section to choose from first.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import chain, islice
from typing import Generic, NamedTuple, Protocol, TypeVar

from reservation.domain.commands import Wish

SEGMENT = 10
"""Adjacent seats of a row that belong to one process's stripe; counted through a section, each row starts a new one."""

AMONG = 64
"""Of how many best choices one is taken by chance where processes have no stripe to keep them apart."""

_QUESTIONS = 256

Stripe = tuple[int, int]
Random = Callable[[], float]

Pick = list[tuple[int, int]]
"""The chosen seats: the index of a block and the mask of its seats. Empty: nothing fits."""


class Row:
    """A row, or a block of places. `open`: those that may be chosen. `segment`: the number of its first segment."""

    __slots__ = ("accessible", "length", "open", "segment")

    def __init__(self, length: int, accessible: int, segment: int) -> None:
        self.length = length
        self.accessible = accessible
        self.segment = segment
        self.open = (1 << length) - 1


class Chooser(Protocol):
    """The choice within one section."""

    def occupy(self, index: int, seats: int) -> None:
        """Exactly these seats of a block are not to be chosen, from now on."""

    def together(self, wish: Wish, *, tidy: bool, stripe: Stripe, random: Random) -> Pick:
        """The best choice that keeps the wished seats together; `tidy`: that leaves no single seat behind, too."""

    def apart(self, wish: Wish, *, stripe: Stripe, random: Random) -> Pick:
        """The best choice of seats that need not be together."""


Q = TypeVar("Q")


class _Offers(Generic[Q]):
    """The blocks that have an answer to a question. One without is not asked again until it has changed: what is sold
    out costs nothing, however much of it there is."""

    def __init__(self, rows: list[Row], answer: Callable[[Row, Q], int]) -> None:
        self._rows = rows
        self._answer = answer
        self._all = (1 << len(rows)) - 1
        self._hopeful: dict[Q, int] = {}
        self._changed = 0

    def occupy(self, index: int, seats: int) -> None:
        row = self._rows[index]
        still_open = (1 << row.length) - 1 & ~seats
        if still_open != row.open:
            row.open = still_open
            self._changed |= 1 << index

    def to(self, question: Q, order: Callable[[int], Iterator[int]]) -> Iterator[tuple[int, int]]:
        """(Index, answer) of the blocks with an answer; `order` turns the mask of those worth asking into indices."""
        self._heed_changes()
        for index in order(self._hopeful.setdefault(question, self._all)):
            if answer := self._answer(self._rows[index], question):
                yield index, answer
            else:
                self._hopeful[question] &= ~(1 << index)

    def _heed_changes(self) -> None:
        if len(self._hopeful) > _QUESTIONS:
            self._hopeful.clear()
        if self._changed:
            for question in self._hopeful:
                self._hopeful[question] |= self._changed
            self._changed = 0


class _Window(NamedTuple):
    """Adjacent seats of one row. `accessible`: at least one of them, none of them, or (None) no matter. `tidy`: they
    leave no single open seat between taken ones, the end of the row counting as taken. `stripe`: within one segment of
    this process."""

    quantity: int
    accessible: bool | None
    tidy: bool = False
    stripe: Stripe | None = None


class Numbered:
    """Rows of numbered seats.

    Together: in the best row, nearest to its centre, then towards its beginning. Of several processes each takes the
    best within its own segments, and without one, by chance, one of the best of all.

    Apart: the best single seat (an accessible one, if that is wished) and those nearest to it, first by the distance
    of their rows, then by how much further left or right of their row's centre they are; of equally near ones that in
    the better row, and then towards its beginning. Single seats that are left behind do not matter to this choice.
    """

    def __init__(self, rows: list[Row]) -> None:
        self._rows = rows
        self._windows: _Offers[_Window] = _Offers(rows, _starts)
        self.occupy = self._windows.occupy

    def together(self, wish: Wish, *, tidy: bool, stripe: Stripe, random: Random) -> Pick:
        best = self._best(_Window(wish.quantity, wish.accessible, tidy), stripe, random)
        return [(best[0], (1 << wish.quantity) - 1 << best[1])] if best else []

    def apart(self, wish: Wish, *, stripe: Stripe, random: Random) -> Pick:
        anchor = self._best(_Window(1, wish.accessible), stripe, random)
        if anchor is None:
            return []
        others = _Window(1, None if wish.accessible else False)
        seats = list(islice(self._nearest(others, *anchor), wish.quantity))
        return _by_block(seats) if len(seats) == wish.quantity else []

    def _best(self, window: _Window, stripe: Stripe, random: Random) -> tuple[int, int] | None:
        """The index of the row and the first seat in it."""
        if stripe[1] == 1:
            return next(self._in_order(window), None)
        if own := next(self._in_order(window._replace(stripe=stripe)), None):
            return own
        best = list(islice(self._in_order(window), AMONG))
        return best[int(random() * len(best))] if best else None

    def _in_order(self, window: _Window) -> Iterator[tuple[int, int]]:
        for index, starts in self._windows.to(window, _ascending):
            for start in _outward(starts, self._rows[index].length - window.quantity):
                yield index, start

    def _nearest(self, window: _Window, row: int, seat: int) -> Iterator[tuple[int, int]]:
        """Single seats by their distance from this one, itself the first."""
        aside = 2 * seat - self._rows[row].length
        level: list[tuple[int, int, int]] = []
        distance = 0
        for index, seats in self._windows.to(window, lambda rows: _outward(rows, 2 * row)):
            if abs(index - row) > distance:
                yield from ((there, each) for _, there, each in sorted(level))
                level, distance = [], abs(index - row)
            length = self._rows[index].length
            level += ((abs(2 * each - length - aside), index, each) for each in _ascending(seats))
        yield from ((there, each) for _, there, each in sorted(level))


class GeneralAdmission:
    """Places without a number, in blocks. A process takes the lowest open ones of its own blocks, and once those are
    used up others', from a random place on."""

    def __init__(self, rows: list[Row]) -> None:
        self._rows = rows
        self._blocks: _Offers[bool] = _Offers(rows, _places)
        self.occupy = self._blocks.occupy

    def together(self, wish: Wish, *, tidy: bool, stripe: Stripe, random: Random) -> Pick:
        pick: Pick = []
        missing = wish.quantity
        for index, places in chain(self._own(wish, stripe), self._others(wish, stripe, random)):
            chosen = _lowest(places, missing)
            pick.append((index, chosen))
            missing -= chosen.bit_count()
            if not missing:
                return pick
        return []

    def apart(self, wish: Wish, *, stripe: Stripe, random: Random) -> Pick:
        return []  # places are never further apart than together() takes them

    def _own(self, wish: Wish, stripe: Stripe) -> Iterator[tuple[int, int]]:
        own = _striped(len(self._rows), *stripe)
        return self._blocks.to(wish.accessible, lambda blocks: _ascending(blocks & own))

    def _others(self, wish: Wish, stripe: Stripe, random: Random) -> Iterator[tuple[int, int]]:
        own = _striped(len(self._rows), *stripe)
        first = int(random() * len(self._rows))
        blocks = self._blocks.to(
            wish.accessible,
            lambda blocks: (each for part in _turned(blocks & ~own, first) for each in _ascending(part)),
        )
        for index, places in blocks:
            place = int(random() * self._rows[index].length)
            yield from ((index, part) for part in _turned(places, place) if part)


def _starts(row: Row, window: _Window) -> int:
    """The seats of the row at which such a window may begin."""
    quantity, accessible, tidy, stripe = window
    free = row.open
    ordinary = free & ~row.accessible
    starts = _runs(ordinary if accessible is False else free, quantity)
    if accessible:
        starts &= ~_runs(ordinary, quantity)
    if stripe is not None:
        starts &= _in_segments(row.length, row.segment % stripe[1], quantity, *stripe)
    if tidy and starts:
        single_before = free << 1 & ~(free << 2)
        single_behind = free >> quantity & ~(free >> quantity + 1)
        starts &= ~(single_before | single_behind)
    return starts


def _places(row: Row, accessible: bool) -> int:
    return row.open & row.accessible if accessible else row.open


def _runs(mask: int, length: int) -> int:
    """The bits at which that many adjacent set bits begin."""
    done = 1
    while done < length:
        step = min(done, length - done)
        mask &= mask >> step
        done += step
    return mask


@lru_cache(maxsize=4096)
def _in_segments(length: int, first: int, quantity: int, me: int, n: int) -> int:
    """Where that many seats may begin to be within one of my segments. `first`: the number of the row's first one."""
    if quantity > SEGMENT:
        return 0
    starts = (1 << SEGMENT - quantity + 1) - 1
    segments = range(-(-length // SEGMENT))
    return sum(starts << SEGMENT * each for each in segments if (first + each) % n == me)


@lru_cache(maxsize=1024)
def _striped(blocks: int, me: int, n: int) -> int:
    return sum(1 << each for each in range(me, blocks, n))


def _ascending(mask: int) -> Iterator[int]:
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest


def _outward(mask: int, centre: int) -> Iterator[int]:
    """The set bits, those nearest to half of `centre` first; of two equally near ones the lower."""
    low = mask & (1 << max(centre // 2 + 1, 0)) - 1
    high = mask ^ low
    while low or high:
        under, over = low.bit_length() - 1, (high & -high).bit_length() - 1
        if not high or (low and centre - 2 * under <= 2 * over - centre):
            yield under
            low ^= 1 << under
        else:
            yield over
            high ^= 1 << over


def _turned(mask: int, first: int) -> tuple[int, int]:
    """What is at and after that bit, and what is before."""
    before = mask & (1 << first) - 1
    return mask ^ before, before


def _lowest(mask: int, count: int) -> int:
    return sum(1 << each for each in islice(_ascending(mask), count))


def _by_block(seats: list[tuple[int, int]]) -> Pick:
    masks: dict[int, int] = {}
    for index, seat in seats:
        masks[index] = masks.get(index, 0) | 1 << seat
    return sorted(masks.items())
