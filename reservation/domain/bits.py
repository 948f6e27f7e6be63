"""Masks as sets of small numbers: a number is in the set if its bit is set."""

from collections.abc import Iterator
from itertools import islice


def ascending(mask: int) -> Iterator[int]:
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest


def outward(mask: int, centre: int) -> Iterator[int]:
    """Those nearest to half of `centre` first; of two equally near ones the lower."""
    low = mask & (1 << max(centre // 2, 0)) - 1
    high = mask ^ low
    while low or high:
        under, over = low.bit_length() - 1, (high & -high).bit_length() - 1
        if not high or (low and centre - 2 * under <= 2 * over - centre):
            yield under
            low ^= 1 << under
        else:
            yield over
            high ^= 1 << over


def runs(mask: int, length: int) -> int:
    """Those with which a run of that many adjacent numbers begins."""
    done = 1
    while done < length:
        step = min(done, length - done)
        mask &= mask >> step
        done += step
    return mask


def lowest(mask: int, count: int) -> int:
    return sum(1 << each for each in islice(ascending(mask), count))


def turned(mask: int, first: int) -> tuple[int, int]:
    """Those from `first` on, and those before it."""
    before = mask & (1 << first) - 1
    return mask ^ before, before
