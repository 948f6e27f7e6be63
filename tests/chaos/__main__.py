"""`python -m tests.chaos [--minutes N] [--seed N] [--history FILE]`: breaks a whole system for ten minutes, and checks
that it kept its promises.

Exits 1 if one was broken, if a process did what it should not, or if too little happened to say so.
"""

import argparse
import itertools
import random
import shutil
import sys
import tempfile
from pathlib import Path

import uvloop
from rich.console import Console

from tests.bench import processes
from tests.chaos.history import read
from tests.chaos.report import shortfalls, tell, wrong
from tests.chaos.run import run

_WIDTH, _MOST_TOLD = 120, 20


def main() -> None:
    arguments = _arguments()
    processes.forget_real_credentials()
    out = Console(width=_WIDTH)
    kept = Path(tempfile.mkdtemp(prefix="chaos-"))
    history = arguments.history or kept / "history.jsonl"
    out.print(f"[dim]seed {arguments.seed}: {arguments.minutes:g} minutes, history in {history}[/dim]", soft_wrap=True)
    happened, left = uvloop.run(run(60 * arguments.minutes, arguments.seed, history, kept))
    tell(happened, left, out)
    violations, missing = wrong(happened, left, read(history)), shortfalls(happened)
    out.print(f"violations: {len(violations)}")
    for line in [*itertools.chain(*violations[:_MOST_TOLD]), *missing.values()]:
        out.print(line, style="red", markup=False, soft_wrap=True)
    if violations or missing:
        out.print(f"logs and history: {kept}", soft_wrap=True)
        out.print(f"again: tox run -e chaos -- --seed {arguments.seed} --minutes {arguments.minutes:g}")
        sys.exit(1)
    shutil.rmtree(kept)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="the least that must happen goes with it")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="decides what is done when")
    parser.add_argument("--history", type=Path, metavar="FILE", help="keeps every request and answer there")
    return parser.parse_args()


if __name__ == "__main__":
    main()
