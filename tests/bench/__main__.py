"""`python -m tests.bench [name ...] [--json FILE] [--rounds N]`: the benchmarks, as a table and as JSON.

Names choose figures; without any, all are measured. A benchmark that measures several figures at once runs whole.
Exits 1 if a run failed; whether its figure reaches the goal is for the reader to say.
"""

import argparse
import json
import platform
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench import (
    aws_calls,
    choice,
    contention,
    edge_cost,
    expiry,
    kills,
    latency,
    leases,
    memory,
    outbox_lag,
    overload,
    processes,
    scaling,
    seat_map,
    service_cost,
    startup,
)
from tests.bench.figures import Figure

BENCHMARKS: dict[Callable[[int], dict[str, Figure]], tuple[str, ...]] = {
    aws_calls.measure: ("aws_call_ratio",),
    service_cost.measure: (
        "create_cpu_ms",
        "create_over_floor",
        "tracing_cost",
        "get_cpu_ms",
        "get_over_floor",
        "confirm_cpu_ms",
        "cancel_cpu_ms",
        "echo_cpu_ms",
    ),
    scaling.measure: ("process_scaling",),
    edge_cost.measure: ("edge_cpu_ms",),
    startup.measure: ("startup_s",),
    latency.measure: ("latency_p50_ms", "latency_p95_ms", "latency_p99_ms", "loop_lag_p99_ms"),
    memory.measure: ("rss_mib", "rss_growth"),
    contention.measure_contention: ("contention_p99_ms",),
    contention.measure_replay_storm: ("replay_storm",),
    expiry.measure: ("expiry_lateness_p99_ms",),
    outbox_lag.measure_one_process: ("outbox_lag_p99_ms",),
    outbox_lag.measure_spread: ("outbox_lag_spread_p99_ms",),
    leases.measure_failover: ("lease_failover_s", "lease_idle_calls_per_s"),
    choice.measure_best_available: ("best_available_txn",),
    choice.measure_general_admission: ("ga_txn",),
    seat_map.measure: ("import_50k_s", "seatmap_50k_ms"),
    overload.measure: ("overload_goodput", "overload_p99"),
    kills.measure: ("oversold", "lost_events", "stuck_holds"),
}

GOALS = {
    "aws_call_ratio": ">= 20",
    "create_cpu_ms": "<= 0.35",
    "create_over_floor": "<= 3.0",
    "get_over_floor": "<= 2.5",
    "process_scaling": "<= 1.1",
    "edge_cpu_ms": "<= 0.12",
    "startup_s": "< 1",
    "latency_p95_ms": "< 120",
    "loop_lag_p99_ms": "< 5",
    "rss_mib": "< 160",
    "rss_growth": "<= 5",
    "contention_p99_ms": "<= 60",
    "replay_storm": "0",
    "expiry_lateness_p99_ms": "<= 50",
    "outbox_lag_p99_ms": "<= 100",
    "outbox_lag_spread_p99_ms": "<= 400",
    "lease_failover_s": "<= 8.5",
    "lease_idle_calls_per_s": "<= 5",
    "best_available_txn": "<= 1.1",
    "ga_txn": "<= 1.2",
    "import_50k_s": "<= 60",
    "seatmap_50k_ms": "<= 2500",
    "overload_goodput": ">= 0.8",
    "overload_p99": "<= 3",
    "oversold": "0",
    "lost_events": "0",
    "stuck_holds": "0",
}


def main() -> None:
    arguments = _arguments()
    processes.forget_real_credentials()
    out = Console()
    figures: dict[str, Figure] = {}
    for benchmark, names in BENCHMARKS.items():
        if not arguments.names or set(arguments.names) & set(names):
            out.print(f"[dim]measuring {', '.join(names)} ...[/dim]")
            figures |= benchmark(arguments.rounds)
    out.print(_table(figures))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")
    sys.exit(any("failed" in found for found in figures.values()))


def _arguments() -> argparse.Namespace:
    known = [name for names in BENCHMARKS.values() for name in names]
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*known, []], metavar="name", help=", ".join(known))
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


def _table(figures: dict[str, Figure]) -> Table:
    table = Table(title=f"{platform.python_implementation()} {platform.python_version()}, {platform.machine()}")
    for heading in ("figure", "value", "unit", "spread", "goal", "and"):
        table.add_column(heading)
    for name, found in figures.items():
        more = {key: value for key, value in found.items() if key not in ("value", "unit", "spread")}
        row = (name, str(found["value"]), found["unit"], f"{found['spread']:.0%}", GOALS.get(name, ""))
        table.add_row(*row, ", ".join(f"{key} {value}" for key, value in more.items()))
    return table


if __name__ == "__main__":
    main()
