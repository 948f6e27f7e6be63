"""What a check finds wrong, and how it is told."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tests.chaos.history import Attempt


@dataclass(frozen=True, slots=True)
class Violation:
    """`claim` is the promise that is broken, `subject` the seat, reservation or key, `attempts` those that show it:
    the shortest prefix of the history that does, as far as it is about the subject."""

    claim: str
    subject: str
    text: str
    attempts: tuple[Attempt, ...] = ()

    def lines(self) -> Iterator[str]:
        """For people. Times in seconds since the first of the attempts."""
        yield f"{self.claim}: {self.subject} {self.text}"
        began = min((each.called for each in self.attempts), default=0)
        for attempt in sorted(self.attempts, key=lambda each: each.number):
            yield f"  {_told(attempt, began)}"


def distinct(attempts: Iterable[Attempt]) -> tuple[Attempt, ...]:
    """Each once, in the order of their numbers."""
    return tuple(sorted({each.number: each for each in attempts}.values(), key=lambda each: each.number))


def _told(attempt: Attempt, began: int) -> str:
    ended = "never" if attempt.answered is None else f"{(attempt.answered - began) / 1000:.3f}"
    about = attempt.reservation_id or ",".join(attempt.seat_ids)
    more = [attempt.payment_id, f"{attempt.seconds} s" if attempt.seconds else "", f"key {attempt.key}"]
    asked = " ".join([attempt.kind, about, *(each for each in more if each and each != "key ")])
    by = f"{attempt.door} {attempt.process}".rstrip()
    return (
        f"#{attempt.number} {(attempt.called - began) / 1000:.3f}..{ended} {by} {attempt.user}: {asked}"
        f" -> {attempt.status}{_answer(attempt, began)}"
    )


def _answer(attempt: Attempt, began: int) -> str:
    answer = attempt.answer
    if answer is None:
        return ""
    until = "" if answer.hold_expires_at is None else f"until {(answer.hold_expires_at - began) / 1000:.3f}"
    not_free = "without " + ",".join(answer.unavailable) if answer.unavailable else ""
    told = [answer.status, answer.reservation_id, ",".join(answer.seat_ids), until, answer.order_id, not_free]
    replayed = ["replayed"] if attempt.replayed else []
    return " " + " ".join([each for each in told if each] + replayed)
