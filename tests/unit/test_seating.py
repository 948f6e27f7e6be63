"""Which seats are chosen, against the rules written down naively, and what a hall knows of its seats when."""

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reservation.domain.commands import Wish
from reservation.domain.model import Money, Seat, SeatStatus, SectionKind, Spot
from reservation.domain.seating import BLOCKED, FREE, SOLD, Block, Count, Hall, Place, Section
from tests.unit.examples import NEW_YEAR, patient

NUMBERED, GENERAL = SectionKind.NUMBERED, SectionKind.GENERAL_ADMISSION
ALONE = (0, 1)
"""The stripe of the only process."""

Layout = tuple[Section, ...]
Window = tuple[str, ...]
Draw = Callable[[st.SearchStrategy[Any]], Any]


def section(name: str, *rows: str, kind: SectionKind = NUMBERED, first: int = 0) -> Section:
    """A row is a string with a character for each seat, "a" for an accessible one; seats are named <section><row>.<at>,
    from 0. `first`: the number of the first block."""
    blocks = (
        Block(
            first + row,
            name,
            str(row),
            tuple(Place(f"{name}{row}.{at}", str(at), at, 100, kind == "a") for at, kind in enumerate(seats)),
        )
        for row, seats in enumerate(rows)
    )
    return Section(name, kind, "KRW", tuple(blocks))


def places_of(layout: Layout, name: str = "") -> list[tuple[Section, Block, Place]]:
    return [
        (each, block, place)
        for each in layout
        if name in ("", each.name)
        for block in each.blocks
        for place in block.places
    ]


def choose(
    hall: Hall,
    wish: Wish,
    *,
    now: int = NEW_YEAR,
    stripe: tuple[int, int] = ALONE,
    prevent_orphans: bool = True,
    random: Callable[[], float] = random.random,
) -> Window:
    return hall.choose(wish, now=now, stripe=stripe, prevent_orphans=prevent_orphans, random=random)


# --- the rules, as they read


def windows(row: Block, wish: Wish, free: set[str]) -> list[Window]:
    """Every choice of adjacent seats in the row that grants the wish, the best first."""
    length, quantity = len(row.places), wish.quantity
    found: list[Window] = []
    for start in sorted(
        range(length - quantity + 1), key=lambda start: (abs(start + quantity / 2 - length / 2), start)
    ):
        seats = row.places[start : start + quantity]
        if {seat.seat_id for seat in seats} <= free and any(seat.accessible for seat in seats) == wish.accessible:
            found.append(tuple(seat.seat_id for seat in seats))
    return found


def singles(row: Block, free: set[str]) -> set[str]:
    """The free seats of the row between two taken ones; its ends are taken."""
    flags = [False, *(place.seat_id in free for place in row.places), False]
    return {place.seat_id for at, place in enumerate(row.places, 1) if flags[at - 1 : at + 2] == [False, True, False]}


def is_tidy(row: Block, window: Window, free: set[str]) -> bool:
    return singles(row, free - set(window)) <= singles(row, free)


def together(each: Section, wish: Wish, free: set[str], tidy: bool) -> list[Window]:
    if each.kind is GENERAL:
        ids = [
            place.seat_id for block in each.blocks for place in block.places if place.accessible or not wish.accessible
        ]
        usable = tuple(seat_id for seat_id in ids if seat_id in free)
        return [usable[: wish.quantity]] if len(usable) >= wish.quantity else []
    return [
        window for row in each.blocks for window in windows(row, wish, free) if not tidy or is_tidy(row, window, free)
    ]


def apart(each: Section, wish: Wish, free: set[str]) -> Window:
    anchors = [
        (row, at)
        for row, block in enumerate(each.blocks)
        for window in windows(block, Wish(1, accessible=wish.accessible), free)
        for at, place in enumerate(block.places)
        if window == (place.seat_id,)
    ]
    usable = [
        (row, at, place)
        for row, block in enumerate(each.blocks)
        for at, place in enumerate(block.places)
        if place.seat_id in free and (wish.accessible or not place.accessible)
    ]
    if each.kind is GENERAL or not anchors or len(usable) < wish.quantity:
        return ()

    def aside(row: int, at: int) -> float:
        return at + 0.5 - len(each.blocks[row].places) / 2

    here = anchors[0]
    usable.sort(key=lambda seat: (abs(seat[0] - here[0]), abs(aside(*seat[:2]) - aside(*here)), seat[0], seat[1]))
    return tuple(place.seat_id for _, _, place in sorted(usable[: wish.quantity], key=lambda seat: seat[:2]))


def expected(layout: Layout, wish: Wish, free: set[str], prevent_orphans: bool) -> Window:
    """What the only process chooses."""
    asked = [each for each in layout if wish.section in ("", each.name)]
    for tidy in (True, False) if prevent_orphans else (False,):
        for each in asked:
            if found := together(each, wish, free, tidy):
                return found[0]
    return next((split for each in asked if wish.allow_split and (split := apart(each, wish, free))), ())


# --- any hall, any history


@st.composite
def layouts(draw: st.DrawFn, kinds: tuple[SectionKind, ...] = (NUMBERED, NUMBERED, GENERAL)) -> Layout:
    """Positions and block numbers are in no order."""
    numbers = iter(draw(st.permutations(range(20))))
    sections = []
    for name in "ABC"[: draw(st.integers(1, 3))]:
        kind = draw(st.sampled_from(kinds))
        lengths = draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
        flags = st.just(draw(st.booleans())) if kind is GENERAL else st.sampled_from([False, False, False, True])
        blocks = []
        for row, length in enumerate(lengths):
            positions = draw(st.permutations(range(length)))
            places = (Place(f"{name}{row}.{at}", str(at), positions[at], 100 + at, draw(flags)) for at in range(length))
            blocks.append(Block(next(numbers), name, str(row), tuple(places)))
        sections.append(Section(name, kind, "KRW", tuple(blocks)))
    return tuple(sections)


wishes = st.builds(Wish, st.integers(1, 6), st.sampled_from(["", "", "A", "B", "none"]), st.booleans(), st.booleans())


@dataclass
class Told:
    """A hall and everything that it was told, kept naively."""

    layout: Layout
    now: int = NEW_YEAR
    untils: dict[str, int] = field(default_factory=dict)
    fresh: dict[str, int] = field(default_factory=dict)
    claims: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.hall = Hall(self.layout)

    def status(self, seat_id: str) -> SeatStatus:
        until = self.untils.get(seat_id, FREE)
        if until in (SOLD, BLOCKED):
            return SeatStatus.SOLD if until == SOLD else SeatStatus.BLOCKED
        return SeatStatus.HELD if until > self.now else SeatStatus.AVAILABLE

    @property
    def free(self) -> set[str]:
        everything = {place.seat_id for _, _, place in places_of(self.layout)}
        return {each for each in everything - set(self.claims) if self.status(each) is SeatStatus.AVAILABLE}

    def learn(self, block: Block, place: Place, until: int) -> None:
        self.hall.hint(Spot(block.number, place.position), until, now=self.now)
        self.untils[place.seat_id] = until
        self.fresh[place.seat_id] = min(self.now + 1_000, until) if until > self.now else self.now + 1_000

    def read(self, block: Block, untils: dict[int, int]) -> None:
        self.hall.hints(block.number, untils, now=self.now)
        for place in block.places:
            if self.fresh.get(place.seat_id, 0) <= self.now:
                self.untils[place.seat_id] = untils.get(place.position, FREE)


def history(draw: Draw, layouts: st.SearchStrategy[Layout]) -> Iterator[Told]:
    """A hall after each of several things that happened to it."""
    told = Told(draw(layouts))
    ahead = st.sampled_from([-5_000, 0, 1, 100, 1_000, 3_000]).map(lambda later: told.now + later)
    untils = st.sampled_from([FREE, SOLD, SOLD, BLOCKED]) | ahead
    everything = places_of(told.layout)
    for _ in range(draw(st.integers(1, 10))):
        _, block, place = draw(st.sampled_from(everything))
        match draw(st.sampled_from(["hint", "hints", "hints", "claim", "release", "time"])):
            case "hint":
                told.learn(block, place, draw(untils))
            case "hints":
                told.read(block, draw(st.dictionaries(st.integers(0, 9), untils)))
            case "claim":
                told.hall.claim([place.seat_id])
                told.claims.append(place.seat_id)
            case "release" if told.claims:
                told.hall.release([told.claims.pop()])
            case "time":
                told.now += draw(st.sampled_from([1, 99, 100, 999, 1_000, 5_000]))
        yield told


@patient
@given(st.data(), st.lists(wishes, min_size=1, max_size=3), st.booleans())
def test_the_only_process_chooses_what_the_rules_say(
    data: st.DataObject, asked: list[Wish], prevent_orphans: bool
) -> None:
    for told in history(data.draw, layouts()):
        for wish in asked:
            chosen = choose(told.hall, wish, now=told.now, prevent_orphans=prevent_orphans)
            assert chosen == expected(told.layout, wish, told.free, prevent_orphans)


@patient
@given(st.data())
def test_every_seat_is_shown_as_its_hint_says_and_the_counts_add_up(data: st.DataObject) -> None:
    for told in history(data.draw, layouts()):
        page, following = told.hall.seats(now=told.now)
        assert following is None
        assert [(seat.id, status) for seat, status in page] == [
            (place.seat_id, told.status(place.seat_id)) for _, _, place in places_of(told.layout)
        ]
        for each, counted in zip(told.layout, told.hall.counts(told.now), strict=True):
            ids = [place.seat_id for block in each.blocks for place in block.places]
            statuses = [told.status(seat_id) for seat_id in ids]
            by_status = (statuses.count(SeatStatus(name)) for name in ("AVAILABLE", "HELD", "SOLD", "BLOCKED"))
            assert counted == Count(each.name, each.kind, len(ids), *by_status)
            held = [seat_id for seat_id in ids if told.status(seat_id) is SeatStatus.HELD]
            assert list(told.hall.held(each.name)) == held


def own_windows(each: Section, windows: Iterable[Window], me: int, n: int) -> list[Window]:
    """Those within this process's rows or, where there are less than four of them for each process, segments."""
    segments: dict[str, int] = {}
    whole_rows = len(each.blocks) >= 4 * n
    numbers = count()
    for block in each.blocks:
        for at, place in enumerate(block.places):
            if at == 0 or (at % 10 == 0 and not whole_rows):
                number = next(numbers)
            segments[place.seat_id] = number
    return [
        window for window in windows if len({segments[each] for each in window}) == 1 and segments[window[0]] % n == me
    ]


@st.composite
def long_rows(draw: st.DrawFn) -> Layout:
    rows = draw(st.lists(st.text("..........a", min_size=8, max_size=24), min_size=1, max_size=10))
    return (section("A", *rows),)


@patient
@given(
    st.data(),
    st.builds(Wish, st.integers(1, 4) | st.integers(5, 14), accessible=st.booleans()),
    st.integers(2, 3).flatmap(lambda n: st.tuples(st.integers(0, n - 1), st.just(n))),
)
def test_one_of_several_processes_takes_the_best_of_its_own_or_one_of_the_best_of_all(
    data: st.DataObject, wish: Wish, stripe: tuple[int, int]
) -> None:
    for told in history(data.draw, long_rows()):
        chosen = choose(told.hall, wish, now=told.now, stripe=stripe)
        fitting = together(told.layout[0], wish, told.free, True) or together(told.layout[0], wish, told.free, False)
        if own := own_windows(told.layout[0], fitting, *stripe):
            assert chosen == own[0]
        elif fitting:
            assert chosen in fitting[:64]
        else:
            assert chosen == ()


@patient
@given(
    st.data(),
    st.builds(Wish, st.integers(1, 6), accessible=st.booleans()),
    st.integers(1, 3).flatmap(lambda n: st.tuples(st.integers(0, n - 1), st.just(n))),
)
def test_places_come_from_own_blocks_the_lowest_first_and_then_from_any(
    data: st.DataObject, wish: Wish, stripe: tuple[int, int]
) -> None:
    for told in history(data.draw, layouts((GENERAL,)).map(lambda layout: layout[:1])):
        places = [(index, place) for index, block in enumerate(told.layout[0].blocks) for place in block.places]
        usable = [each for each in places if each[1].seat_id in told.free and each[1].accessible >= wish.accessible]
        own = [place.seat_id for index, place in usable if index % stripe[1] == stripe[0]]
        chosen = choose(told.hall, wish, now=told.now, stripe=stripe)
        assert len(set(chosen)) == (wish.quantity if len(usable) >= wish.quantity else 0)
        assert set(chosen) <= {place.seat_id for _, place in usable}
        if chosen:
            assert list(chosen[: len(own)]) == own[: wish.quantity]


# --- by example


def taking(hall: Hall, *seat_ids: str, until: int = SOLD, now: int = NEW_YEAR) -> Hall:
    for seat_id in seat_ids:
        seat = hall.seat(seat_id)
        assert seat is not None
        assert seat.spot is not None
        hall.hint(seat.spot, until, now=now)
    return hall


PAIR = Wish(2)


def test_the_best_row_goes_first_and_in_it_the_middle() -> None:
    assert choose(Hall((section("A", "......", "........"),)), PAIR) == ("A0.2", "A0.3")


def test_a_choice_that_leaves_a_single_seat_gives_way_to_one_in_a_worse_row_or_section() -> None:
    layout = (section("A", "...", "......"), section("B", "..", first=9))
    assert choose(Hall(layout), PAIR) == ("A1.2", "A1.3")
    assert choose(Hall(layout), PAIR, prevent_orphans=False) == ("A0.0", "A0.1")
    only_untidy = taking(Hall(layout), *(f"A1.{at}" for at in range(6)))
    assert choose(only_untidy, PAIR) == ("B0.0", "B0.1")
    assert choose(only_untidy, Wish(2, "A")) == ("A0.0", "A0.1")


def test_accessible_seats_are_left_to_those_who_ask_for_them() -> None:
    layout = (section("A", ".aa...."),)
    assert choose(Hall(layout), PAIR, prevent_orphans=False) == ("A0.3", "A0.4")
    assert choose(Hall(layout), Wish(2, accessible=True), prevent_orphans=False) == ("A0.2", "A0.3")


def test_a_wish_that_may_be_split_is_kept_together_in_any_section_first() -> None:
    layout = (section("A", ".", "."), section("B", "..", first=9))
    assert choose(Hall(layout), Wish(2, allow_split=True)) == ("B0.0", "B0.1")
    assert choose(Hall(layout), Wish(2, "A", allow_split=True)) == ("A0.0", "A1.0")
    assert choose(Hall(layout), Wish(2, "A")) == ()


def test_a_split_choice_is_around_the_best_seat() -> None:
    hall = taking(Hall((section("A", ".....", ".....", "..."),)), "A0.1", "A0.2", "A0.3", "A1.0", "A1.2", "A1.4")
    assert choose(hall, Wish(4, allow_split=True)) == ("A0.0", "A0.4", "A1.1", "A1.3")


def test_a_split_choice_around_an_accessible_seat_is_told_in_the_order_of_the_hall() -> None:
    hall = Hall((section("A", ".", "a"),))
    assert choose(hall, Wish(2, allow_split=True, accessible=True)) == ("A0.0", "A1.0")


def test_a_hint_that_passes_frees_its_seat_with_no_other_call() -> None:
    hall = taking(Hall((section("A", ".."),)), "A0.0", until=NEW_YEAR + 5)
    hall = taking(hall, "A0.1", until=NEW_YEAR + 9)
    assert choose(hall, PAIR, now=NEW_YEAR + 8) == ()
    assert choose(hall, PAIR, now=NEW_YEAR + 9) == ("A0.0", "A0.1")


def test_the_halls_time_never_goes_back() -> None:
    hall = Hall((section("A", "."),))
    assert choose(hall, Wish(1), now=NEW_YEAR + 5) == ("A0.0",)
    taking(hall, "A0.0", until=NEW_YEAR + 5, now=NEW_YEAR + 4)
    assert choose(hall, Wish(1), now=NEW_YEAR + 4) == ("A0.0",)


@pytest.mark.parametrize(
    ("learnt", "read", "after", "free"),
    [
        (SOLD, {}, 999, False),
        (SOLD, {}, 1_000, True),
        (NEW_YEAR + 60_000, {}, 999, False),
        (FREE, {0: SOLD}, 999, True),
        (FREE, {0: SOLD}, 1_000, False),
        (NEW_YEAR + 100, {0: SOLD}, 100, False),
        (NEW_YEAR + 100, {}, 99, False),
    ],
)
def test_what_was_learnt_here_outlives_a_read_for_a_second_but_not_its_own_end(
    learnt: int, read: dict[int, int], after: int, free: bool
) -> None:
    hall = taking(Hall((section("A", "."),)), "A0.0", until=learnt)
    hall.hints(0, read, now=NEW_YEAR + after)
    assert choose(hall, Wish(1), now=NEW_YEAR + after) == (("A0.0",) if free else ())


def test_a_read_that_was_begun_early_does_not_undo_what_was_learnt_since() -> None:
    hall = taking(Hall((section("A", "."),)), "A0.0")
    assert choose(hall, Wish(1), now=NEW_YEAR + 5_000) == ()
    hall.hints(0, {}, now=NEW_YEAR + 900)
    assert choose(hall, Wish(1), now=NEW_YEAR + 5_000) == ()


def test_a_seat_stays_claimed_until_the_last_claim_is_released() -> None:
    hall = Hall((section("A", "."),))
    hall.claim(["A0.0"])
    hall.claim(["A0.0", "unknown"])
    hall.release(["A0.0", "unknown"])
    assert choose(hall, Wish(1)) == ()
    hall.release(["A0.0"])
    assert choose(hall, Wish(1)) == ("A0.0",)
    hall.release(["A0.0"])
    hall.claim(["A0.0"])
    assert choose(hall, Wish(1)) == ()


def test_however_many_kinds_of_wishes_were_refused_the_next_is_granted_once_it_fits() -> None:
    hall = taking(Hall((section("A", ".."),)), "A0.0", "A0.1", until=NEW_YEAR + 5)
    for quantity in range(1, 400):
        assert choose(hall, Wish(quantity, allow_split=True)) == ()
    assert choose(hall, PAIR, now=NEW_YEAR + 5) == ("A0.0", "A0.1")
    for quantity in range(3, 400):
        assert choose(hall, Wish(quantity, allow_split=True)) == ()
    assert choose(hall, PAIR) == ("A0.0", "A0.1")


def test_what_the_hall_does_not_have_is_passed_over() -> None:
    hall = Hall((section("A", "."),))
    hall.hint(Spot(7, 0), SOLD, now=NEW_YEAR)
    hall.hint(Spot(0, 7), SOLD, now=NEW_YEAR)
    hall.hints(7, {0: SOLD}, now=NEW_YEAR)
    hall.hints(0, {7: SOLD}, now=NEW_YEAR)
    assert hall.seat("unknown") is None
    assert hall.counts(NEW_YEAR) == [Count("A", NUMBERED, total=1, available=1, held=0, sold=0, blocked=0)]
    assert choose(Hall(()), Wish(1)) == ()


def test_a_seat_is_told_with_all_that_is_known_of_it() -> None:
    layout = (Section("Floor", NUMBERED, "KRW", (Block(4, "Floor", "R", (Place("S-1", "1", 7, 90_000, True),)),)),)
    seat = Seat("S-1", "Floor", "R", "1", Money(90_000, "KRW"), accessible=True, spot=Spot(4, 7))
    assert Hall(layout).seat("S-1") == seat
    assert Hall(layout).seats(now=NEW_YEAR) == ([(seat, SeatStatus.AVAILABLE)], None)
    assert Hall(layout).block_numbers == (4,)


@pytest.mark.parametrize(("name", "total"), [("", 12), ("A", 7), ("B", 5), ("none", 0)])
@pytest.mark.parametrize("limit", [1, 3, 5, 7, 12, 500])
def test_the_pages_of_a_section_are_all_its_seats_once(name: str, total: int, limit: int) -> None:
    layout = (section("A", "...", "...."), section("B", ".....", kind=GENERAL, first=9))
    hall, ids, start = Hall(layout), [], 0
    for _ in range(12):
        page, following = hall.seats(name, start, limit, now=NEW_YEAR)
        assert len(page) == min(limit, total - start)
        ids += [seat.id for seat, _ in page]
        if following is None:
            break
        start = following
    assert ids == [place.seat_id for _, _, place in places_of(layout, name)]


# --- several processes


def test_without_seats_of_its_own_a_process_takes_one_of_the_best_64_by_chance() -> None:
    rows = section("A", *["." * 20] * 8)
    theirs = [place.seat_id for row in rows.blocks[1::2] for place in row.places]
    hall = taking(Hall((rows,)), *theirs)
    best = [
        window for row in rows.blocks[::2] for window in windows(row, PAIR, {place.seat_id for place in row.places})
    ]
    chances = iter([0.0, 1 / 64, 0.5, 1 - 1e-9])
    chosen = [choose(hall, PAIR, stripe=(1, 2), prevent_orphans=False, random=lambda: next(chances)) for _ in range(4)]
    assert chosen == [best[0], best[1], best[32], best[63]]


def test_without_places_of_its_own_a_process_takes_others_from_a_random_block_and_place_on() -> None:
    hall = taking(Hall((section("A", "....", "..", "....", kind=GENERAL),)), "A1.0", "A1.1")
    chances = iter([0.4, 0.5, 0.75])
    chosen = choose(hall, Wish(6), stripe=(1, 3), random=lambda: next(chances))
    assert chosen == ("A2.2", "A2.3", "A2.0", "A2.1", "A0.3", "A0.0")


@pytest.mark.parametrize("rows", [3, 40])
@pytest.mark.parametrize("kind", SectionKind)
def test_processes_that_know_nothing_of_each_other_choose_different_seats(rows: int, kind: SectionKind) -> None:
    layout = (section("A", *["." * 50] * rows, kind=kind),)
    chosen: list[str] = []
    for me in range(3):
        hall = Hall(layout)
        for _ in range(rows * 50 // 2 // 3 // 2):
            chosen += (pair := choose(hall, PAIR, stripe=(me, 3)))
            taking(hall, *pair)
    assert len(set(chosen)) == len(chosen) > rows * 20


class Sale:
    """Processes that sell the seats of one section, up to 16 transactions at a time. Each process reads which are sold
    once in so many transactions; of its own, and of seats that it lost, it knows at once."""

    READING = 100

    def __init__(self, layout: Layout, processes: int, quantities: list[int]) -> None:
        self.transactions = self.sales = 0
        self.sold: dict[str, Spot] = {}
        self._halls = [Hall(layout) for _ in range(processes)]
        self._quantities = quantities
        self._at_once = 16 if processes > 1 else 1
        self._chance = random.Random(1)
        self._spots = {place.seat_id: Spot(block.number, place.position) for _, block, place in places_of(layout)}
        self._under_way: list[tuple[Hall, Window]] = []

    def run(self, part: float) -> "Sale":
        """Until that part of all seats is sold."""
        while len(self.sold) < part * len(self._spots):
            while len(self._under_way) < self._at_once:
                self._begin()
            self._end(*self._under_way.pop(self._chance.randrange(len(self._under_way))))
            if self.transactions % self.READING < len(self._halls):
                self._read(self._halls[self.transactions % self.READING])
        return self

    def _begin(self) -> None:
        me = self._chance.randrange(len(self._halls))
        wish = Wish(self._chance.choice(self._quantities))
        seat_ids = choose(self._halls[me], wish, stripe=(me, len(self._halls)), random=self._chance.random)
        assert seat_ids, f"{wish} refused"
        self._halls[me].claim(seat_ids)
        self._under_way.append((self._halls[me], seat_ids))

    def _end(self, hall: Hall, seat_ids: Window) -> None:
        self.transactions += 1
        hall.release(seat_ids)
        lost = self.sold.keys() & set(seat_ids)
        if not lost:
            self.sales += 1
            self.sold |= {seat_id: self._spots[seat_id] for seat_id in seat_ids}
        taking(hall, *(lost or seat_ids), now=NEW_YEAR + self.transactions)

    def _read(self, hall: Hall) -> None:
        blocks: dict[int, dict[int, int]] = {number: {} for number in hall.block_numbers}
        for spot in self.sold.values():
            blocks[spot.block][spot.position] = SOLD
        for number, untils in blocks.items():
            hall.hints(number, untils, now=NEW_YEAR + self.transactions)


def mean_rank(sold: Iterable[Spot], row: int) -> float:
    """Of seats in rows of that length, the best row first, and in it the middle."""
    ranks = [2 * row * spot.block + abs(2 * spot.position + 1 - row) for spot in sold]
    return sum(ranks) / len(ranks)


@pytest.mark.parametrize("row", [50, 37])
@pytest.mark.parametrize("quantities", [[2], [1, 2, 2, 2, 3, 4]], ids=["pairs", "mixed"])
def test_four_processes_seldom_collide_and_sell_almost_the_best_until_nine_tenths_are_sold(
    row: int, quantities: list[int]
) -> None:
    layout = (section("A", *["." * row] * 40),)
    four, one = (Sale(layout, processes, quantities).run(0.9) for processes in (4, 1))
    assert one.transactions == one.sales
    assert four.transactions <= 1.1 * four.sales
    assert mean_rank(four.sold.values(), row) <= 1.05 * mean_rank(one.sold.values(), row)


def test_four_processes_seldom_collide_over_places_of_general_admission() -> None:
    sale = Sale((section("A", *["." * 100] * 20, kind=GENERAL),), 4, [1, 2, 3, 4]).run(0.99)
    assert sale.transactions <= 1.1 * sale.sales
