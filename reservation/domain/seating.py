"""An event's hall as one process sees it: who has which seat until when, and which seats to choose for a wish.

What is known here are hints. They come late and may be wrong: they say what to try and what to show, never what is so.
Times are milliseconds since the epoch; the hall's time is the latest that it was told, it never goes back.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from reservation.domain.bits import ascending
from reservation.domain.choice import Chooser, GeneralAdmission, Manner, Numbered, Pick, rows_of
from reservation.domain.commands import Wish
from reservation.domain.ends import Ends
from reservation.domain.hints import BLOCKED, FREE, SOLD, BlockHints
from reservation.domain.layout import Block, Place, Section
from reservation.domain.model import Seat, SeatStatus, SectionKind, Spot
from reservation.domain.prospects import Prospects

__all__ = ["BLOCKED", "FREE", "SOLD", "Block", "Count", "Hall", "Place", "Section"]


@dataclass(frozen=True, slots=True)
class Count:
    """A section's places by their hints."""

    name: str
    kind: SectionKind
    total: int
    available: int
    held: int
    sold: int
    blocked: int


class Hall:
    """Built from an event's sections, the best first; at first everything is free. Spots, blocks, seats and sections
    that it does not have are passed over: the layout may have been read before they were added."""

    def __init__(self, sections: Iterable[Section]) -> None:
        sections = tuple(sections)
        self._prospects = Prospects(len(sections))
        self._sections = [
            _Section(section, partial(self._prospects.changed, index)) for index, section in enumerate(sections)
        ]
        self._named = {section.name: 1 << index for index, section in enumerate(sections)}
        self._blocks = [block for section in self._sections for block in section.blocks]
        self._by_number = {block.layout.number: block for block in self._blocks}
        self._ordinals: dict[str, int] = {}
        self._firsts: list[int] = []
        for block in self._blocks:
            self._firsts.append(len(self._ordinals))
            for place in block.layout.places:
                self._ordinals[place.seat_id] = len(self._ordinals)
        self._claims: dict[str, int] = {}
        self._now = 0
        self._ends = Ends()

    @property
    def block_numbers(self) -> tuple[int, ...]:
        return tuple(self._by_number)

    def __len__(self) -> int:
        """How many places there are."""
        return len(self._ordinals)

    @property
    def section_names(self) -> tuple[str, ...]:
        return tuple(section.layout.name for section in self._sections)

    @property
    def claimed(self) -> tuple[str, ...]:
        """The seats that somebody here is trying to get."""
        return tuple(self._claims)

    def hint(self, spot: Spot, until: int, *, now: int) -> None:
        """What this process has just learnt of one seat, be it from its own transaction or from another's refusal."""
        self._advance(now)
        block = self._by_number.get(spot.block)
        if block is not None and spot.position in block:
            block.learn(spot.position, until, self._now)
            self._await(spot.block, until)

    def hints(self, block: int, untils: Mapping[int, int], *, now: int) -> None:
        """A whole block as it was read; positions that are not named are FREE. `now`: best when the read was begun."""
        self._advance(now)
        if (known := self._by_number.get(block)) is not None and known.read(untils, now):
            self._await(block, known.settle(self._now))

    def claim(self, seat_ids: Iterable[str]) -> None:
        """Seats of a transaction under way are not chosen for others. Each claim wants its own release()."""
        for seat_id in seat_ids:
            self._claims[seat_id] = self._claims.get(seat_id, 0) + 1
            self._claim(seat_id, True)

    def release(self, seat_ids: Iterable[str]) -> None:
        for seat_id in seat_ids:
            if self._claims.get(seat_id, 0) > 1:
                self._claims[seat_id] -= 1
            elif self._claims.pop(seat_id, 0):
                self._claim(seat_id, False)

    def choose(
        self,
        wish: Wish,
        *,
        now: int,
        stripe: tuple[int, int],
        prevent_orphans: bool,
        random: Callable[[], float],
    ) -> tuple[str, ...]:
        """The ids of the seats to try for a wish of one seat or more; empty if nothing fits.

        Seats that are together in any section go before those that are apart in another one, and those that leave no
        single seat behind (`prevent_orphans`) before those that do; then the order of the sections decides. How seats
        are chosen within a section: see Numbered and GeneralAdmission. `stripe`: which of how many live processes
        this is, from 0; `random`: a number from 0 up to, never, 1.
        """
        self._advance(now)
        asked = self._asked(wish.section)

        def choose(manner: Manner, index: int) -> Pick:
            return self._sections[index].chooser.choose(wish, manner, stripe, random)

        def in_order(sections: int) -> Iterator[int]:
            return ascending(sections & asked)

        for manner in [Manner.TIDY] * prevent_orphans + [Manner.TOGETHER] + [Manner.APART] * wish.allow_split:
            question = (manner, wish.quantity, wish.accessible)
            for index, pick in self._prospects.answers(question, partial(choose, manner), in_order):
                return self._sections[index].ids(pick)
        return ()

    def held(self, section: str = "") -> Iterator[str]:
        """The seats (of one section) that are taken for a time only, as of the hall's time: before a wish is refused,
        these are worth a look at what is really so."""
        for block in self._blocks_of(section):
            for place in block.layout.places if block.layout.number in self._ends else ():
                if self._now < block.until(place) < SOLD:
                    yield place.seat_id

    def counts(self, now: int) -> list[Count]:
        """By section; the parts add up to the total. Claims do not count: nobody has these seats yet."""
        self._advance(now)
        return [section.count() for section in self._sections]

    def seats(
        self, section: str = "", start: int = 0, limit: int = 500, *, now: int
    ) -> tuple[list[tuple[Seat, SeatStatus]], int | None]:
        """Up to `limit` seats (of one section) in the order of the hall, from the `start`-th on, and where the next
        page starts; None after the last."""
        self._advance(now)
        page: list[tuple[Seat, SeatStatus]] = []
        before = 0
        for block in self._blocks_of(section):
            skipped = max(start - before, 0)
            before += len(block.layout.places)
            for place in block.layout.places[skipped:]:
                if len(page) == limit:
                    return page, start + limit
                page.append((block.seat(place), block.status(place, self._now)))
        return page, None

    def seat(self, seat_id: str) -> Seat | None:
        found = self._find(seat_id)
        if found is None:
            return None
        block, index = found
        return block.seat(block.layout.places[index])

    def _asked(self, section: str) -> int:
        """The mask of the section of that name; of all sections if it is empty."""
        return self._named.get(section, 0) if section else (1 << len(self._sections)) - 1

    def _blocks_of(self, section: str) -> Iterator[BlockHints]:
        return (block for index in ascending(self._asked(section)) for block in self._sections[index].blocks)

    def _find(self, seat_id: str) -> tuple[BlockHints, int] | None:
        ordinal = self._ordinals.get(seat_id)
        if ordinal is None:
            return None
        at = bisect_right(self._firsts, ordinal) - 1
        return self._blocks[at], ordinal - self._firsts[at]

    def _claim(self, seat_id: str, claimed: bool) -> None:
        if (found := self._find(seat_id)) is not None:
            block, index = found
            block.claim(index, claimed)

    def _advance(self, now: int) -> None:
        """Frees the seats whose time is over by then."""
        self._now = max(self._now, now)
        while (number := self._ends.pop(self._now)) is not None:
            self._await(number, self._by_number[number].settle(self._now))

    def _await(self, block: int, end: int) -> None:
        """Sees to it that the block is settled again when this hint passes."""
        if self._now < end < SOLD:
            self._ends.put(block, end)


class _Section:
    """A section's state. `changed` is called when something has been opened or taken in it."""

    def __init__(self, layout: Section, changed: Callable[[], None]) -> None:
        chooser = Numbered if layout.kind is SectionKind.NUMBERED else GeneralAdmission
        self.layout = layout
        self.chooser: Chooser = chooser(
            rows_of([[place.accessible for place in block.places] for block in layout.blocks])
        )
        self.blocks = [
            BlockHints(block, layout.currency, partial(self._occupy, index))
            for index, block in enumerate(layout.blocks)
        ]
        self._changed = changed

    def _occupy(self, index: int, seats: int) -> None:
        if self.chooser.occupy(index, seats):
            self._changed()

    def ids(self, pick: Pick) -> tuple[str, ...]:
        blocks = self.layout.blocks
        return tuple(blocks[index].places[seat].seat_id for index, mask in pick for seat in ascending(mask))

    def count(self) -> Count:
        total = sum(len(block.layout.places) for block in self.blocks)
        taken = sum(block.taken.bit_count() for block in self.blocks)
        sold, blocked = (sum(block.count(until) for block in self.blocks) for until in (SOLD, BLOCKED))
        layout = self.layout
        return Count(layout.name, layout.kind, total, total - taken, taken - sold - blocked, sold, blocked)
