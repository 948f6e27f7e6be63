"""How the seats of an event stand: sections, best first, of blocks: the rows of numbered seats, best first, or the
hundreds of general-admission places. Where a seat's hint is never changes once it was laid out."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, count

from reservation.domain.errors import FieldViolation, InvalidRequest
from reservation.domain.model import Money, Seat, SectionKind, Spot

PLACES_A_BLOCK = 100
"""Of general admission. A row is one block, however long it is."""


@dataclass(frozen=True, slots=True)
class Place:
    """A seat or a general-admission place of a block. `position` is where its hint is in the block; `amount` its price
    in the smallest unit of the section's currency."""

    seat_id: str
    number: str
    position: int
    amount: int
    accessible: bool = False


@dataclass(frozen=True, slots=True)
class Block:
    """Places in the order in which they stand. `number` is the block's within its event."""

    number: int
    section: str
    row: str
    places: tuple[Place, ...]


@dataclass(frozen=True, slots=True)
class Section:
    """One section; all its places are priced in one currency."""

    name: str
    kind: SectionKind
    currency: str
    blocks: tuple[Block, ...]


def seat_of(block: Block, place: Place, currency: str) -> Seat:
    return Seat(
        id=place.seat_id,
        section=block.section,
        row=block.row,
        number=place.number,
        price=Money(place.amount, currency),
        accessible=place.accessible,
        spot=Spot(block.number, place.position),
    )


def seats_of(sections: Iterable[Section]) -> Iterator[Seat]:
    for section in sections:
        for block in section.blocks:
            for place in block.places:
                yield seat_of(block, place, section.currency)


def is_general_admission(seats: Iterable[Seat]) -> bool:
    """Of one section: its places have neither rows nor numbers."""
    return not any(seat.row or seat.number for seat in seats)


def merged(sections: Sequence[Section], seats: Sequence[Seat]) -> tuple[Section, ...]:
    """The layout of `sections`, as it was, with `seats` as they are to be now.

    The order of sections, rows and seats is that of `seats`; what they do not name stays, behind them. A seat that is
    there keeps its place and takes on the price and the accessibility it is given.

    Raises InvalidRequest for a section with seats of both kinds, and for an event with two currencies.
    """
    there = {seat.id: seat for seat in seats_of(sections)}
    current = (_moved(seat, there.get(seat.id)) for seat in seats)
    named = {seat.id for seat in seats}
    others = [seat for seat in there.values() if seat.id not in named]
    if len({seat.price.currency for seat in chain(seats, others)}) > 1:
        raise InvalidRequest([FieldViolation("currency", "is not one for all seats of the event, old and new")])
    by_section: dict[str, list[Seat]] = {}
    for seat in chain(current, others):
        by_section.setdefault(seat.section, []).append(seat)
    known = {section.name: section for section in sections}
    numbers = count(1 + max((block.number for section in sections for block in section.blocks), default=-1))
    return tuple(_section(name, group, known.get(name), numbers) for name, group in by_section.items())


def _moved(seat: Seat, there: Seat | None) -> Seat:
    if there is None:
        return replace(seat, spot=None)
    return replace(there, price=seat.price, accessible=seat.accessible)


def _section(name: str, seats: Sequence[Seat], known: Section | None, numbers: Iterator[int]) -> Section:
    general = known.kind is SectionKind.GENERAL_ADMISSION if known else is_general_admission(seats)
    if any(general is not is_general_admission([seat]) for seat in seats):
        raise InvalidRequest([FieldViolation(f"section {name}", "has seats with and without row and number")])
    kind = SectionKind.GENERAL_ADMISSION if general else SectionKind.NUMBERED
    blocks = _hundreds(seats, numbers) if general else _rows(seats, known, numbers)
    return Section(name, kind, seats[0].price.currency, tuple(block.finished(name) for block in blocks))


@dataclass(slots=True)
class _Growing:
    """A block that still takes places."""

    number: int
    row: str = ""
    seats: list[Seat] = field(default_factory=list)

    def finished(self, section: str) -> Block:
        positions = count(1 + max((seat.spot.position for seat in self.seats if seat.spot), default=-1))
        places = (
            Place(
                seat.id,
                seat.number,
                seat.spot.position if seat.spot else next(positions),
                seat.price.amount,
                seat.accessible,
            )
            for seat in self.seats
        )
        return Block(self.number, section, self.row, tuple(places))


def _rows(seats: Iterable[Seat], known: Section | None, numbers: Iterator[int]) -> list[_Growing]:
    taken = {block.row: block.number for block in known.blocks} if known else {}
    rows: dict[str, _Growing] = {}
    for seat in seats:
        if seat.row not in rows:
            rows[seat.row] = _Growing(taken[seat.row] if seat.row in taken else next(numbers), seat.row)
        rows[seat.row].seats.append(seat)
    return list(rows.values())


def _hundreds(seats: Iterable[Seat], numbers: Iterator[int]) -> list[_Growing]:
    """Places stay in the blocks they are in; new ones fill the last block first."""
    blocks: dict[int, _Growing] = {}
    new: list[Seat] = []
    for seat in seats:
        if seat.spot is None:
            new.append(seat)
        else:
            blocks.setdefault(seat.spot.block, _Growing(seat.spot.block)).seats.append(seat)
    growing = list(blocks.values())
    for seat in new:
        if not growing or len(growing[-1].seats) >= PLACES_A_BLOCK:
            growing.append(_Growing(next(numbers)))
        growing[-1].seats.append(seat)
    return growing
