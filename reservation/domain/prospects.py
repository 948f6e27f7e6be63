"""Which of many things may still have what is asked for."""

from collections.abc import Callable, Hashable, Iterator
from typing import TypeVar

from reservation.domain.bits import ascending

_MOST_QUESTIONS = 256

Answer = TypeVar("Answer")


class Prospects:
    """Things, known by their index, that are asked questions. One without an answer is not asked the same again until
    it has changed: what is sold out costs nothing, however much of it there is."""

    def __init__(self, count: int) -> None:
        self._all = (1 << count) - 1
        self._hopeful: dict[Hashable, int] = {}
        self._changed = 0

    def changed(self, index: int) -> None:
        self._changed |= 1 << index

    def answers(
        self,
        question: Hashable,
        ask: Callable[[int], Answer],
        order: Callable[[int], Iterator[int]] = ascending,
    ) -> Iterator[tuple[int, Answer]]:
        """(Index, answer) of those that have one: what `ask` says of an index, unless it is false. Whether there is
        one must depend on the question and the thing alone. `order`: from the mask of those worth asking."""
        self._heed_changes()
        for index in order(self._hopeful.setdefault(question, self._all)):
            if answer := ask(index):
                yield index, answer
            else:
                self._hopeful[question] &= ~(1 << index)

    def _heed_changes(self) -> None:
        if len(self._hopeful) > _MOST_QUESTIONS:
            self._hopeful.clear()
        if self._changed:
            for question in self._hopeful:
                self._hopeful[question] |= self._changed
            self._changed = 0
