"""`python -m tests.load [--script NAME] [--seconds N] [--rate N] [--seed N] [--json FILE]`: customers of a whole system
come over REST and gRPC; what came of it as a table and as JSON.

Exits 1 if a threshold was missed (p95 under 120 ms, under 1 % of the requests failed; after restarts: none failed), a
body was wrong, or the audit found a broken promise.
"""

import argparse
import json
import os
import sys
from pathlib import Path

import uvloop
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tests.bench import processes
from tests.load import stack
from tests.load.k6 import RunFailed
from tests.load.runs import RATES, RESTARTED, ROLLING, SCRIPTS, Load, Report, audited, rolling_restart, sale

_COLUMNS = {
    "requests": ("requests",),
    "per s": ("requests_per_s",),
    "p50/p95/p99 ms": ("p50_ms", "p95_ms", "p99_ms"),
    "failed": ("failed",),
    "409/429": ("refused", "limited"),
    "not sent": ("dropped",),
    "CPU ms service/Envoy": ("service_cpu_ms", "envoy_cpu_ms"),
}
"""Headings, and the figures below them."""

_WIDTH = 120


def main() -> None:
    arguments = _arguments()
    processes.forget_real_credentials()
    out = Console(width=_WIDTH)
    reports: dict[str, Report] = {}
    for script in arguments.script or SCRIPTS:
        out.print(f"[dim]{script}: a system starts, and {_rate(script, arguments)} customers a second come ...[/dim]")
        try:
            reports[script] = uvloop.run(_run(script, arguments))
        except RunFailed as failed:
            reports[script] = {"problems": [str(failed)]}
    out.print(_table(reports))
    for script, report in reports.items():
        _tell(out, script, report)
    if arguments.json:
        arguments.json.write_text(json.dumps({"load_average": os.getloadavg(), "runs": reports}, indent=2) + "\n")
    sys.exit(any(report["problems"] for report in reports.values()))


async def _run(script: str, arguments: argparse.Namespace) -> Report:
    load = Load(rate=_rate(script, arguments), seconds=arguments.seconds, seed=arguments.seed)
    services = RESTARTED if script == ROLLING else arguments.services
    async with stack.up(services=services, seats=load.seats) as system:
        report = await (rolling_restart(system, load) if script == ROLLING else sale(script, system, load))
        return await audited(system, load, report)


def _rate(script: str, arguments: argparse.Namespace) -> int:
    return arguments.rate or RATES[script]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="load", description=__doc__)
    parser.add_argument(
        "--script", action="append", choices=[*SCRIPTS, ROLLING], help="may be repeated; else the sales"
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--seconds", type=int, default=60, help="of each sale")
    length.add_argument("--minutes", type=lambda text: 60 * int(text), dest="seconds")
    parser.add_argument("--rate", type=int, help="customers a second")
    parser.add_argument("--seed", type=int, default=1, help="decides what each customer does")
    parser.add_argument("--services", type=int, default=1, help="processes of the service in a sale")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args()


def _table(reports: dict[str, Report]) -> Table:
    table = Table(title=f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs")
    for heading in ("script", *_COLUMNS):
        table.add_column(heading)
    for script, report in reports.items():
        table.add_row(
            script, *("/".join(_told(report.get(name, "-")) for name in names) for names in _COLUMNS.values())
        )
    return table


def _told(value: object) -> str:
    return str(sum(value.values())) if isinstance(value, dict) else str(value)


def _tell(out: Console, script: str, report: Report) -> None:
    above = {name for names in _COLUMNS.values() for name in names} - {"refused"}
    more = {name: value for name, value in report.items() if name not in above | {"told", "problems"} and value}
    out.print(f"{script}: {escape(', '.join(f'{name} {value}' for name, value in more.items()))}", soft_wrap=True)
    for problem in report["problems"]:
        out.print(f"  [red]{escape(problem)}[/red]", soft_wrap=True)
    for line in report.get("told", [])[:10] if report["problems"] else []:
        out.print(f"    {escape(line)}", soft_wrap=True)


if __name__ == "__main__":
    main()
