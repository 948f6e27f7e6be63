"""What the customers of a run asked and were told: one record an attempt, one JSON line each.

An attempt is one request on the wire. A customer who is left without a definite answer asks again with the same key, so
one command may have many attempts. All times are milliseconds of this machine's own clock, which nobody skews.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

import orjson


class Kind(StrEnum):
    CREATE = "create"
    CONFIRM = "confirm"
    CANCEL = "cancel"
    EXTEND = "extend"
    GET = "get"
    CHECK = "check"
    """CheckAvailability, of `seat_ids`."""


class Door(StrEnum):
    REST = "rest"
    """JSON through Envoy."""
    GRPC = "grpc"
    """gRPC through Envoy."""
    PROCESS = "process"
    """gRPC, straight to the process that the attempt names."""


OK = "OK"
UNKNOWN = "UNKNOWN"
"""No answer of the service: a broken connection, the client's own time limit, an answer without a reason of ours."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What an answer says; empty where it says nothing.

    `status`: of the reservation (HOLD, CONFIRMED ...). `at`: when it was confirmed or cancelled. `hold_expires_at` is
    also an extension's new end. `seat_ids`: reserved, confirmed, released, those of a reservation that was read, or
    those that a check found available; `unavailable`: the others of a check, or the seats that SEAT_UNAVAILABLE names.
    Times as the answer tells them: by the clock of the process that decided.
    """

    reservation_id: str = ""
    status: str = ""
    seat_ids: tuple[str, ...] = ()
    hold_expires_at: int | None = None
    order_id: str = ""
    payment_id: str = ""
    at: int | None = None
    amount: int | None = None
    unavailable: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request and what came of it.

    `number` is unique in the run and grows with `called`. `status`: OK, the reason of a refusal (SEAT_UNAVAILABLE,
    UPSTREAM_TIMEOUT ...), or UNKNOWN. `called` is rounded down and `answered` up; `answered` is None if the attempt
    never ended. `process`: who answered, if that is known.

    `key`: the idempotency key, unique to one command of one user. A create sends it as its reservation_token too, so
    that the tables and the events tell which create a reservation comes from, even one that nobody was told of. One
    without a key, and so without a token, is the only create of its user.

    `seat_ids` and `event_id`: of a create and a check; `quantity` and `section`: of a create that names no seats;
    `reservation_id`: of all that is about a reservation; `payment_id`: of a confirm; `seconds`: of an extension.
    """

    number: int
    user: str
    kind: Kind
    door: Door
    called: int
    answered: int | None
    status: str
    process: str = ""
    key: str = ""
    event_id: str = ""
    seat_ids: tuple[str, ...] = ()
    reservation_id: str = ""
    payment_id: str = ""
    seconds: int = 0
    quantity: int = 0
    section: str = ""
    replayed: bool = False
    answer: Answer | None = None
    """Of an OK; of a SEAT_UNAVAILABLE only `unavailable`, the seats that the refusal names. Else None."""

    @property
    def ok(self) -> bool:
        return self.status == OK

    @property
    def name(self) -> str:
        """What tells a create from all others."""
        return self.key or self.user


@dataclass(frozen=True, slots=True)
class Delivery:
    """An event as the bus accepted it, once for each time that it did. `at`: when that call was answered, by this
    machine's clock. `detail`: the EventBridge detail."""

    at: int
    detail: dict[str, Any]


class Journal(AbstractContextManager["Journal", None]):
    """Writes a history. Each attempt is noted once, at its end, so the lines are in the order of the answers; what is
    still under way at the end of a run is noted then, as never answered."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")

    def note(self, attempt: Attempt) -> None:
        self._file.write(orjson.dumps(attempt, option=orjson.OPT_APPEND_NEWLINE))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._file.close()


def read(path: Path) -> Iterator[Attempt]:
    """As they were noted."""
    with path.open("rb") as lines:
        for line in lines:
            yield _attempt(orjson.loads(line))


def _attempt(noted: dict[str, Any]) -> Attempt:
    answer = noted.pop("answer")
    kind, door = Kind(noted.pop("kind")), Door(noted.pop("door"))
    return Attempt(**_tuples(noted), kind=kind, door=door, answer=Answer(**_tuples(answer)) if answer else None)


def _tuples(noted: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in noted.items()}
