"""What a run came to, as people read it, and whether it was enough."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.table import Table

from tests.chaos.check import check
from tests.chaos.history import OK, Attempt, Kind
from tests.chaos.injection import BUS_FAULTS, STORE_FAULTS
from tests.chaos.nemesis import LEAST_IN_TEN_MINUTES
from tests.chaos.run import Happened, Left
from tests.chaos.told import REFUSALS

OPERATIONS = "operations"
_LEAST_OPERATIONS, _FAULTS_OF_A_KIND = 100_000, 20
"""In ten minutes, at least."""


def checked(happened: Happened) -> int:
    """Attempts that had a definite answer. The others are checked too, but might all have come to nothing."""
    return sum(count for (_, status), count in happened.answers.items() if status == OK or status in REFUSALS)


def shortfalls(happened: Happened) -> dict[str, str]:
    """What there was too little of, and the words for it: where little happens little goes wrong."""
    return {
        name: f"only {count} {name}, {least} are the least in {happened.asked_seconds:g} s"
        for name, count, per_ten_minutes in _counted(happened)
        if count < (least := math.ceil(per_ten_minutes * happened.asked_seconds / 600))
    }


def _counted(happened: Happened) -> Iterator[tuple[str, int, int]]:
    """Each with the least that there must be in ten minutes."""
    yield OPERATIONS, checked(happened), _LEAST_OPERATIONS
    for harm, least in LEAST_IN_TEN_MINUTES.items():
        yield harm, happened.harms[harm], least
    for endpoint, kinds in (("DynamoDB", STORE_FAULTS), ("EventBridge", BUS_FAULTS)):
        for kind in kinds:
            yield f"{endpoint}: {kind}", happened.faults[endpoint][kind], _FAULTS_OF_A_KIND


def wrong(happened: Happened, left: Left, history: Iterable[Attempt]) -> list[list[str]]:
    """Every broken promise, as lines."""
    violations = check(history, left.rows, left.deliveries, left.bounds)
    found = [list(violation.lines()) for violation in violations]
    found += [[f"audit: {each.kind} {each.subject} {each.text}"] for each in left.findings]
    return found + [[problem] for problem in happened.problems]


def tell(happened: Happened, left: Left, out: Console) -> None:
    out.print(_operations(happened))
    out.print(_harm(happened))
    versions = sum(map(len, left.received.versions.values()))
    figures = {
        "operations with a definite answer": f"{checked(happened)} in {happened.seconds:.0f} s",
        "of them per second": f"{checked(happened) / happened.seconds:.0f}",
        "seconds of partition": f"{happened.partition_seconds:.0f} ({happened.partitioned_calls} calls)",
        "reservations": len(left.rows.reservations),
        "events": f"{versions}, {left.received.messages} times delivered",
    }
    for name, value in figures.items():
        out.print(f"{name}: {value}")


def _operations(happened: Happened) -> Table:
    table = Table("operation", "answers", "of each status", title="operations")
    for kind in Kind:
        statuses = Counter({status: count for (each, status), count in happened.answers.items() if each is kind})
        told = ", ".join(f"{status} {count}" for status, count in statuses.most_common())
        table.add_row(kind, str(statuses.total()), told)
    return table


def _harm(happened: Happened) -> Table:
    table = Table("fault", "times", "least", title="faults")
    for name, count, per_ten_minutes in list(_counted(happened))[1:]:
        table.add_row(name, str(count), str(math.ceil(per_ten_minutes * happened.asked_seconds / 600)))
    return table
