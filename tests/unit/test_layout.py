"""How seats are laid out, and that no import ever moves one that is laid out."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reservation.domain.errors import InvalidRequest
from reservation.domain.layout import PLACES_A_BLOCK, Block, Place, Section, merged, seats_of
from reservation.domain.model import Money, Seat, SectionKind, Spot
from tests.unit.examples import patient


def seat(row: str, number: int, section: str = "Floor", amount: int = 500, *, accessible: bool = False) -> Seat:
    return Seat(f"{section}.{row}-{number}", section, row, str(number), Money(amount, "KRW"), accessible)


def place(number: int, section: str = "Pit", amount: int = 100) -> Seat:
    return Seat(f"{section}-{number}", section, "", "", Money(amount, "KRW"))


def laid_out(*files: Sequence[Seat]) -> tuple[Section, ...]:
    sections: tuple[Section, ...] = ()
    for seats in files:
        sections = merged(sections, seats)
    return sections


def spots(sections: Sequence[Section]) -> dict[str, Spot]:
    return {each.id: each.spot for each in seats_of(sections) if each.spot is not None}


def order(sections: Sequence[Section]) -> list[str]:
    return [each.id for each in seats_of(sections)]


# As it reads


def test_sections_rows_and_seats_stand_in_the_order_of_the_file() -> None:
    file = [seat("B", 2), place(1), seat("B", 1), seat("A", 1, "Balcony", 700, accessible=True), seat("A", 9)]
    assert laid_out(file) == (
        Section(
            "Floor",
            SectionKind.NUMBERED,
            "KRW",
            (
                Block(0, "Floor", "B", (Place("Floor.B-2", "2", 0, 500), Place("Floor.B-1", "1", 1, 500))),
                Block(1, "Floor", "A", (Place("Floor.A-9", "9", 0, 500),)),
            ),
        ),
        Section("Pit", SectionKind.GENERAL_ADMISSION, "KRW", (Block(2, "Pit", "", (Place("Pit-1", "", 0, 100),)),)),
        Section(
            "Balcony",
            SectionKind.NUMBERED,
            "KRW",
            (Block(3, "Balcony", "A", (Place("Balcony.A-1", "1", 0, 700, accessible=True),)),),
        ),
    )


def test_what_is_laid_out_reads_as_the_seats_it_was_made_of() -> None:
    file = [seat("A", 1, accessible=True), seat("A", 2, amount=7), place(1)]
    assert [replace(each, spot=None) for each in seats_of(laid_out(file))] == file
    assert spots(laid_out(file)) == {"Floor.A-1": Spot(0, 0), "Floor.A-2": Spot(0, 1), "Pit-1": Spot(1, 0)}


def test_places_lie_in_hundreds_and_a_row_in_one_block_however_long_it_is() -> None:
    pit, floor = laid_out([place(n) for n in range(250)] + [seat("A", n) for n in range(400)])
    assert [len(block.places) for block in pit.blocks] == [100, 100, 50]
    assert [len(block.places) for block in floor.blocks] == [400]


def test_more_places_fill_the_last_hundred_first() -> None:
    before = [place(n) for n in range(150)]
    (pit,) = laid_out(before, before + [place(n) for n in range(150, 260)])
    assert [(block.number, len(block.places)) for block in pit.blocks] == [(0, 100), (1, 100), (2, 60)]


def test_a_new_row_gets_a_new_block_and_a_new_seat_the_next_position_of_its_row() -> None:
    after = laid_out([seat("A", 1), seat("B", 1)], [seat("C", 1), seat("B", 2), seat("B", 1), seat("A", 1)])
    assert order(after) == ["Floor.C-1", "Floor.B-2", "Floor.B-1", "Floor.A-1"]
    assert spots(after) == {
        "Floor.C-1": Spot(2, 0),
        "Floor.B-2": Spot(1, 1),
        "Floor.B-1": Spot(1, 0),
        "Floor.A-1": Spot(0, 0),
    }


def test_what_a_file_does_not_name_stays_behind_what_it_names() -> None:
    """But for places of a hundred, which are all alike."""
    after = laid_out([seat("A", 1), seat("A", 2), place(1), seat("A", 1, "Balcony")], [place(2), seat("A", 2)])
    assert order(after) == ["Pit-1", "Pit-2", "Floor.A-2", "Floor.A-1", "Balcony.A-1"]


def test_a_seat_keeps_its_place_and_takes_price_and_accessibility() -> None:
    moved = replace(seat("A", 1), section="Balcony", row="Z", number="9", price=Money(1, "KRW"), accessible=True)
    (floor,) = laid_out([seat("A", 1)], [moved])
    assert floor.blocks == (Block(0, "Floor", "A", (Place("Floor.A-1", "1", 0, 1, accessible=True),)),)


# What does not go together


@pytest.mark.parametrize(
    ("before", "file"),
    [
        ([place(1)], [seat("A", 1, "Pit")]),
        ([seat("A", 1, "Pit")], [place(1)]),
        ([], [place(1), seat("A", 1, "Pit")]),
    ],
)
def test_a_section_never_has_seats_of_both_kinds(before: list[Seat], file: list[Seat]) -> None:
    """Such a seat would say one thing of itself and its layout another."""
    with pytest.raises(InvalidRequest, match="section Pit has seats with and without row and number"):
        merged(merged((), before), file)


def test_an_event_has_one_currency_also_with_the_seats_that_a_file_does_not_name() -> None:
    before = [seat("A", 1), seat("A", 2)]
    dollars = [replace(each, price=Money(5, "USD")) for each in before]
    with pytest.raises(InvalidRequest, match="currency"):
        merged(laid_out(before), dollars[:1])
    (floor,) = merged(laid_out(before), dollars)
    assert floor.currency == "USD"


# Any sequence of imports


@st.composite
def files(draw: st.DrawFn) -> list[Seat]:
    """Some of the seats of one hall, in any order, at any price. Of the pit whole ranges, or no hundred would fill."""
    numbered = st.builds(seat, st.sampled_from("AB"), st.integers(1, 4), st.sampled_from(["Floor", "Balcony"]))
    seats = draw(st.lists(numbered, max_size=12, unique_by=lambda each: each.id))
    first = draw(st.integers(0, 300))
    places = [place(n) for n in range(first, first + draw(st.integers(0, 150)))]
    marked = [
        replace(each, price=Money(draw(st.integers(0, 9)), "KRW"), accessible=draw(st.booleans()))
        for each in draw(st.permutations(seats))
    ]
    at = draw(st.integers(0, len(marked)))
    if draw(st.booleans()):
        places.reverse()
    return [*marked[:at], *places, *marked[at:]]


@patient
@given(st.lists(files(), max_size=5))
def test_no_sequence_of_imports_moves_loses_or_doubles_a_seat(imports: list[list[Seat]]) -> None:
    sections: tuple[Section, ...] = ()
    facts: dict[str, Seat] = {}
    for file in imports:
        before, sections = sections, merged(sections, file)
        facts |= {each.id: each for each in file}
        assert spots(before).items() <= spots(sections).items()
        assert {each.id: replace(each, spot=None) for each in seats_of(sections)} == facts
        assert len(set(spots(sections).values())) == len(order(sections)) == len(facts)
        _check_shape(sections)
        _check_order(sections, before, file)


def _check_shape(sections: Sequence[Section]) -> None:
    blocks = [block for section in sections for block in section.blocks]
    assert len({block.number for block in blocks}) == len(blocks)
    for section in sections:
        assert {block.section for block in section.blocks} == {section.name}
        if section.kind is SectionKind.GENERAL_ADMISSION:
            assert all(0 < len(block.places) <= PLACES_A_BLOCK for block in section.blocks)
        else:
            assert len({block.row for block in section.blocks}) == len(section.blocks)


def _check_order(sections: Sequence[Section], before: Sequence[Section], file: Sequence[Seat]) -> None:
    """Sections as the file names them first, then the others; so the rows within a section, and the seats within."""
    named = {each.id for each in file}
    wanted = [*file, *(each for each in seats_of(before) if each.id not in named)]
    assert [section.name for section in sections] == list(dict.fromkeys(each.section for each in wanted))
    rows: dict[tuple[str, str], list[str]] = defaultdict(list)
    for each in wanted:
        if each.row:
            rows[each.section, each.row].append(each.id)
    for section in sections:
        if section.kind is SectionKind.NUMBERED:
            found = {(section.name, block.row): [each.seat_id for each in block.places] for block in section.blocks}
            assert list(found.items()) == [(key, ids) for key, ids in rows.items() if key[0] == section.name]


def test_the_same_file_again_changes_nothing() -> None:
    file = [place(n) for n in range(150)] + [seat("A", 1), seat("B", 1)]
    assert laid_out(file, file) == laid_out(file)
