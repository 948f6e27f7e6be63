"""Until when the seats of a block are taken, as far as this process knows. Times are milliseconds since the epoch."""

from collections.abc import Callable, Mapping
from functools import lru_cache

from reservation.domain.layout import Block, Place, seat_of
from reservation.domain.model import Seat, SeatStatus

FREE = 0
SOLD = 10**15
BLOCKED = 10**15 + 1
"""A hint is the time until which a seat is taken. One that has passed is as good as FREE."""

FRESH = 1_000
"""How long what this process has learnt itself outlives a block that was read: the read may have begun before it."""


class BlockHints:
    """The hints of one block.

    `occupy` is told which seats are not to be chosen (bit i: the i-th as they stand) whenever that may have changed.
    `taken` are those whose hint had not passed when settle() last looked.
    """

    __slots__ = ("_bits", "_claimed", "_currency", "_fresh", "_occupy", "_untils", "layout", "taken")

    def __init__(self, layout: Block, currency: str, occupy: Callable[[int], None]) -> None:
        self.layout = layout
        self.taken = 0
        self._bits = _bits(tuple(place.position for place in layout.places))
        self._currency = currency
        self._occupy = occupy
        self._untils: dict[int, int] = {}
        self._fresh: dict[int, int] = {}
        self._claimed = 0

    def __contains__(self, position: int) -> bool:
        return position in self._bits

    def learn(self, position: int, until: int, now: int) -> None:
        """Something that this process knows at first hand. A hint that ends soon stays fresh no longer than it says."""
        self._untils[position] = until
        self._fresh[position] = min(now + FRESH, until) if until > now else now + FRESH
        bit = self._bits[position]
        self.taken = self.taken | bit if until > now else self.taken & ~bit
        self._occupy(self.taken | self._claimed)

    def read(self, untils: Mapping[int, int], now: int) -> bool:
        """Replaces what is not fresh; whether that made a difference, so that it has to be settled."""
        self._fresh = {position: until for position, until in self._fresh.items() if until > now}
        known = {**untils, **{position: self._untils[position] for position in self._fresh}}
        if not known.keys() <= self._bits.keys():
            known = {position: until for position, until in known.items() if position in self._bits}
        before, self._untils = self._untils, known
        return known != before

    def settle(self, now: int) -> int:
        """Frees what has passed by now; when the next hint will (SOLD or later: none)."""
        bits, taken, end = self._bits, 0, SOLD
        for position, until in self._untils.items():
            if until > now:
                taken |= bits[position]
                end = min(end, until)
        self.taken = taken
        self._occupy(self.taken | self._claimed)
        return end

    def claim(self, index: int, claimed: bool) -> None:
        bit = 1 << index
        self._claimed = self._claimed | bit if claimed else self._claimed & ~bit
        self._occupy(self.taken | self._claimed)

    def count(self, until: int) -> int:
        """How many places have exactly this hint."""
        return list(self._untils.values()).count(until)

    def until(self, place: Place) -> int:
        return self._untils.get(place.position, FREE)

    def status(self, place: Place, now: int) -> SeatStatus:
        until = self.until(place)
        if until >= SOLD:
            return SeatStatus.SOLD if until == SOLD else SeatStatus.BLOCKED
        return SeatStatus.HELD if until > now else SeatStatus.AVAILABLE

    def seat(self, place: Place) -> Seat:
        return seat_of(self.layout, place, self._currency)


@lru_cache(maxsize=1024)
def _bits(positions: tuple[int, ...]) -> Mapping[int, int]:
    """The bit of each position; one table for all the blocks that are laid out alike."""
    return {position: 1 << index for index, position in enumerate(positions)}
