"""Who is asked what, and when whose time is over: what keeps a sold-out hall cheap."""

from reservation.domain.ends import Ends
from reservation.domain.prospects import Prospects


class Things:
    """Those that have an answer, and who was asked."""

    def __init__(self, count: int, *answering: int) -> None:
        self.prospects = Prospects(count)
        self.answering = set(answering)

    def asked(self, question: str = "?") -> list[int]:
        asked: list[int] = []

        def ask(index: int) -> bool:
            asked.append(index)
            return index in self.answering

        assert [index for index, _ in self.prospects.answers(question, ask)] == sorted(self.answering)
        return asked


def test_who_has_no_answer_is_not_asked_the_same_again() -> None:
    things = Things(4, 1, 3)
    assert things.asked() == [0, 1, 2, 3]
    assert things.asked() == [1, 3]
    assert things.asked("another") == [0, 1, 2, 3]


def test_who_has_changed_is_asked_again() -> None:
    things = Things(4, 1)
    things.asked()
    things.prospects.changed(2)
    assert things.asked() == [1, 2]
    assert things.asked() == [1]


def test_questions_are_forgotten_before_there_are_too_many() -> None:
    things = Things(2)
    for each in range(500):
        things.asked(str(each))
    assert things.asked("0") == [0, 1]


def test_a_thing_ends_once_at_the_earliest_of_its_ends() -> None:
    ends = Ends()
    for number, end in ((1, 20), (2, 15), (1, 10), (1, 30)):
        ends.put(number, end)
    assert ends.pop(9) is None
    assert (ends.pop(30), 1 in ends, 2 in ends) == (1, False, True)
    assert (ends.pop(30), ends.pop(30)) == (2, None)


def test_a_thing_that_gets_a_new_end_whenever_one_comes_is_remembered_once() -> None:
    ends = Ends()
    ends.put(1, 20)
    ends.put(1, 10)
    for now in range(10, 1_000, 10):
        while ends.pop(now) is not None:
            ends.put(1, now + 10)
    assert len(ends) == 1
