"""When something next comes to its end."""

from heapq import heappop, heappush


class Ends:
    """The next end of each of many things, known by their number."""

    def __init__(self) -> None:
        self._next: dict[int, int] = {}
        self._heap: list[tuple[int, int]] = []

    def __contains__(self, number: int) -> bool:
        return number in self._next

    def __len__(self) -> int:
        """How much is remembered: little more than the things that have an end."""
        return len(self._heap)

    def put(self, number: int, end: int) -> None:
        """Of two ends of a thing the earlier is kept."""
        if number not in self._next or end < self._next[number]:
            self._next[number] = end
            heappush(self._heap, (end, number))

    def pop(self, now: int) -> int | None:
        """A thing whose end has come, which then has none; None if there is none."""
        while self._heap and self._heap[0][0] <= now:
            end, number = heappop(self._heap)
            if self._next.get(number) == end:
                del self._next[number]
                return number
        return None
