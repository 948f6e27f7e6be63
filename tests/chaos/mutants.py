"""`python -m tests.chaos.mutants [NAME ...]`: breaks the service on purpose, in one small way after the other, and sees
that each is found out.

Each mutant is a copy of the package in which a condition, or whatever else a promise hangs on, is left out. It plays
the small stage until a promise is broken. What is replaced must be there exactly once, so a mutant whose code has moved
fails instead of breaking nothing. The package as it is plays first, and must break nothing.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]

_PLAYS, _ROUNDS = 12, 60
_MOST_SECONDS = 900.0


@dataclass(frozen=True, slots=True)
class Edit:
    """`old`, once in the file of the package, becomes `new`."""

    file: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Mutant:
    name: str
    edits: tuple[Edit, ...]


@dataclass(frozen=True, slots=True)
class Fate:
    """`found`: the first broken promise, empty if there was none. `error`: what it died of before the end."""

    found: str
    seconds: float
    plays: int
    error: str = ""


_CONDITIONS, _MODEL = "dynamodb/conditions.py", "domain/model.py"
_SEATS, _STORE = "dynamodb/seats.py", "dynamodb/reservations.py"

MUTANTS = (
    Mutant(
        "a held seat is taken before its time",
        (
            Edit(
                _CONDITIONS,
                '"(#status = :available OR (#status = :held AND holdExpiresAt <= :now))"',
                '"(#status = :available OR (#status = :held AND holdExpiresAt <> :now))"',
            ),
        ),
    ),
    Mutant(
        "a change does not look at the version",
        (Edit(_CONDITIONS, '"version = :version"', '"(version = :version OR version <> :version)"'),),
    ),
    Mutant(
        "a hold is sold without a look at its time",
        (
            Edit(_MODEL, "case Status.HOLD if now < reservation.hold_expires_at or ", "case Status.HOLD if now or "),
            Edit(_CONDITIONS, '"holdExpiresAt > :now"', '"holdExpiresAt <> :now"'),
            Edit(
                _STORE,
                "until = min(until, time.monotonic() + (before.hold_expires_at",
                "until = max(until, time.monotonic() + (before.hold_expires_at",
            ),
        ),
    ),
    Mutant(
        "a key that is there is written over",
        (
            Edit(
                _CONDITIONS,
                '"attribute_not_exists(idempotencyKey) OR expiresAt <= :now"',
                '"attribute_not_exists(idempotencyKey) OR expiresAt <> :now"',
            ),
        ),
    ),
    Mutant(
        "a create does not know itself again",
        (
            Edit(_SEATS, "if state.holder == draft.id:", "if not draft.id:"),
            Edit(
                _STORE,
                "for there in verdict.failed(Role.RESERVATION):",
                "for there in verdict.failed(Role.RESERVATION) if draft.foreign else ():",
            ),
        ),
    ),
    Mutant(
        "what is given back is free, whoever has it",
        (
            Edit(
                _SEATS,
                'holder, holderKey, holdExpiresAt", MINE\n',
                'holder, holderKey, holdExpiresAt", f"{MINE} OR holder <> :me"\n',
            ),
        ),
    ),
    Mutant(
        "a sale leaves its seats as they are",
        (
            Edit(
                _STORE,
                "            *self._inventory.follow(after, after.seats, now),\n"
                "            *slots.follow(self._tables.inventory, after, now),\n"
                "            *self._order_action(after),",
                "            *self._order_action(after),",
            ),
        ),
    ),
    Mutant(
        "an extension leaves its seats as they are",
        (
            Edit(
                _SEATS,
                '"SET holdExpiresAt = :until", MINE_AND_LIVE',
                '"SET holdExpiresAt = if_not_exists(holdExpiresAt, :until)", MINE_AND_LIVE',
            ),
        ),
    ),
    Mutant(
        "a refusal is remembered for ten times as long",
        (Edit(_SEATS, "\nREFUSAL_MS = 250\n", "\nREFUSAL_MS = 2_500\n"),),
    ),
    Mutant(
        "a remembered refusal decides alone about a key",
        (
            Edit(
                _STORE,
                "            if key.id in taken.values():\n                return None\n            if (record :=",
                "            if key.id == '' and (record :=",
            ),
        ),
    ),
    Mutant(
        "who waited for another is refused whatever became of that",
        (Edit("dynamodb/takers.py", "outcome.set_result(None)", 'outcome.set_result("")'),),
    ),
    Mutant(
        "a read says that a hold is over at its end",
        (Edit(_MODEL, "now > stored.hold_expires_at + max_clock_skew:", "now > stored.hold_expires_at:"),),
    ),
    Mutant(
        "an unknown outcome is told as none",
        (Edit("dynamodb/transaction.py", "if writing and error.maybe_applied:", "if writing and not error:"),),
    ),
    Mutant(
        "an event is deleted before the bus has it",
        (
            Edit(
                "background/relay.py",
                "        await self._delete(lane, accepted)\n",
                "        await self._delete(lane, rows)\n",
            ),
        ),
    ),
    Mutant(
        "nobody settles what is over",
        (
            Edit(
                "background/expiry.py",
                "became = await self._reservations.expire(held, self._monotonic() + _TRY_SECONDS)",
                "became = held",
            ),
        ),
    ),
)


def fate_of(mutant: Mutant | None, folder: Path, seed: int) -> Fate:
    """How the mutant ends (None: the package as it is). Its copy is made in the folder. Raises ValueError if its code
    is not there exactly once."""
    for part in ("reservation", "tests"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    for edit in mutant.edits if mutant is not None else ():
        package = folder / "reservation"
        (package / edit.file).write_text(edited(edit, package))
    command = [sys.executable, "-m", "tests.chaos.play", "--seed", str(seed)]
    command += ["--plays", str(_PLAYS), "--rounds", str(_ROUNDS)]
    began = time.monotonic()
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder), "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        timeout=_MOST_SECONDS,
    )
    lines = done.stdout.splitlines()
    plays = sum(line.startswith("play ") for line in lines)
    found = lines[plays] if done.returncode == 1 and len(lines) > plays else ""
    error = done.stderr[-2_000:] if done.returncode and not found else ""
    return Fate(found, time.monotonic() - began, plays, error)


def edited(edit: Edit, package: Path) -> str:
    """The source of its file in the package, after it. Raises ValueError if what it replaces is not there exactly
    once."""
    source = (package / edit.file).read_text()
    if (count := source.count(edit.old)) != 1:
        raise ValueError(f"{edit.file} has {count} times: {edit.old}")
    return source.replace(edit.old, edit.new)


def _row(name: str, fate: Fate) -> Sequence[str]:
    ended = "DIED" if fate.error else "killed" if fate.found else "survived"
    return name, ended, str(fate.plays), f"{fate.seconds:.0f}", fate.found[:200]


def main() -> None:
    parser = argparse.ArgumentParser(prog="mutants", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="words of those that are wanted; all without")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    wanted = [each for each in MUTANTS if not arguments.names or any(word in each.name for word in arguments.names)]
    out, fates = Console(width=160), []
    for mutant in (None, *wanted):
        with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
            fate = fate_of(mutant, Path(folder), arguments.seed)
        fates.append((mutant, fate))
        out.print(" | ".join(_row(mutant.name if mutant else "none", fate)), soft_wrap=True, highlight=False)
        if fate.error:
            out.print(fate.error, markup=False)
    table = Table("mutant", "fate", "plays", "seconds", "found", title="mutants")
    for mutant, fate in fates:
        table.add_row(*_row(mutant.name if mutant else "(the package as it is)", fate))
    out.print(table)
    sys.exit(any(fate.error or bool(fate.found) == (mutant is None) for mutant, fate in fates))


if __name__ == "__main__":
    main()
