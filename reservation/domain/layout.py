"""Where the seats of an event are."""

from dataclasses import dataclass

from reservation.domain.model import SectionKind


@dataclass(frozen=True, slots=True)
class Place:
    """A seat, or a place of general admission. `position`: of its hint within its block."""

    seat_id: str
    number: str
    position: int
    amount: int
    accessible: bool = False


@dataclass(frozen=True, slots=True)
class Block:
    """Places in the order in which they stand: neighbours are adjacent. `number`: of the block, within the event."""

    number: int
    section: str
    row: str
    places: tuple[Place, ...]


@dataclass(frozen=True, slots=True)
class Section:
    """Numbered: each block is a row, the best first. `currency`: of all its amounts."""

    name: str
    kind: SectionKind
    currency: str
    blocks: tuple[Block, ...]
