"""The load runs: what is asked of a system, and what comes of it."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from tests.load import k6, rolling, stack
from tests.load.k6 import Measured
from tests.load.rolling import LATE, Native, Restarts
from tests.load.stack import Stack
from tests.support.command import ended, environment_of

SCRIPTS = ("flash_sale", "steady_sale", "read_heavy")
ROLLING = "rolling_restart"
RESTARTED = 3
"""Processes."""

RATES = {"flash_sale": 60, "steady_sale": 30, "read_heavy": 100, ROLLING: 40}
"""Customers a second: what two cores bear that also run the emulated DynamoDB, Envoy and the customers themselves."""

P95_MS, _ANY_MS = 120, 60_000
_FEWEST_REQUESTS, _FEWEST_ROUNDS = 20_000, 3

_QUIET_SECONDS = stack.HOLD_SECONDS + 6.0  # then every hold has ended for longer than the audit's grace
_SEATS_A_CUSTOMER = 4

Report = dict[str, Any]
"""What was measured. "problems" says what is wrong with it, nothing if all is well."""


@dataclass(frozen=True, slots=True)
class Load:
    """`rate` customers a second for `seconds`; `seed` decides what they do. `timed`: how fast the answers were counts,
    and whether all customers could be sent; else a request that failed because time was up is no problem. `quiet`:
    seconds from the last request to the audit."""

    rate: int
    seconds: int
    seed: int = 1
    timed: bool = True
    quiet: float = _QUIET_SECONDS

    @property
    def seats(self) -> int:
        """So many that a sale does not come to its end."""
        return 1_000 + _SEATS_A_CUSTOMER * self.rate * self.seconds

    def variables(self, *, most_failed: str) -> dict[str, Any]:
        """As the scripts read them."""
        customers = self.rate * self.seconds
        return {
            "rate": self.rate,
            "seconds": self.seconds,
            "seed": self.seed,
            "seats": self.seats,
            "p95_ms": P95_MS if self.timed else _ANY_MS,
            "failed": most_failed if self.timed else "rate<=1",
            "max_dropped": customers // 100 if self.timed else customers,
        }


async def sale(script: str, system: Stack, load: Load) -> Report:
    """One of SCRIPTS, where `load.seats` are on sale. Raises RunFailed."""
    async with _costs(system) as costs:
        measured = await k6.run(script, system.doors, **load.variables(most_failed="rate<0.01"))
    problems = _problems(measured, load)
    return _figures(measured) | _per_request(costs, measured.requests) | {"problems": problems}


async def rolling_restart(
    system: Stack, load: Load, *, rounds: int = _FEWEST_ROUNDS, requests: int = _FEWEST_REQUESTS
) -> Report:
    """Restarts each process so often at least, and goes on until there were so many requests, however long that takes.
    Raises RunFailed."""
    async with rolling.stop_sign() as sign:
        variables = load.variables(most_failed="rate==0") | {"p95_ms": _ANY_MS, "stop_sign": sign.url}
        customers = asyncio.create_task(k6.run(ROLLING, system.doors, **variables))
        try:
            async with rolling.native_clients(system.addresses, load.rate / 3) as native:
                restarts = await rolling.restart(
                    system.office.services,
                    lambda made: customers.done() or (made >= rounds and sign.requests + native.requests >= requests),
                )
            sign.raised = True
            measured = await customers
        finally:
            customers.cancel()
            await asyncio.gather(customers, return_exceptions=True)
    made = measured.requests + native.requests
    problems = _problems(measured, load) + _restart_problems(restarts, native, load)
    problems += [f"only {restarts.rounds} rounds"] if restarts.rounds < rounds else []
    problems += [f"only {made} requests"] if made < requests else []
    return _figures(measured) | {
        "requests": made,
        "failed": measured.failed + native.failed,
        "native_requests": native.requests,
        "restarts": restarts.made,
        "problems": problems,
    }


async def audited(system: Stack, load: Load, report: Report) -> Report:
    """The report with what `reservation audit` finds when all is quiet."""
    await asyncio.sleep(load.quiet)
    audit = await ended("audit", **environment_of(system.office.settings))
    broken = [] if audit.code == 0 else [f"audit: {audit.out_words or audit.err_words}"]
    return report | {"audit": audit.out_words, "problems": report["problems"] + broken}


def _problems(measured: Measured, load: Load) -> list[str]:
    problems = [f"missed: {threshold}" for threshold in measured.missed]
    if not load.timed and measured.failed > measured.late:
        problems.append(f"{measured.failed - measured.late} requests failed, and not because time was up")
    if not measured.requests:
        problems.append("no requests")
    return problems


def _restart_problems(restarts: Restarts, native: Native, load: Load) -> list[str]:
    failures = {told: count for told, count in native.failures.items() if load.timed or not told.startswith(LATE)}
    unclean = [f"exit code {code} of a process that was told to stop" for code in restarts.unclean]
    return [f"native: {count} x {told}" for told, count in failures.items()] + unclean


def _figures(measured: Measured) -> Report:
    return {
        "requests": measured.requests,
        "p50_ms": round(measured.value("answered", "med"), 1),
        "p95_ms": round(measured.value("answered", "p(95)"), 1),
        "p99_ms": round(measured.value("answered", "p(99)"), 1),
        "failed": measured.failed,
        "late": measured.late,
        "refused": measured.refused,
        "limited": int(measured.value("limited")),
        "replayed": int(measured.value("replayed")),
        "dropped": int(measured.value("dropped_iterations")),
        "p95_ms_of": measured.p95_of_operations,
        "told": measured.told,
    }


@asynccontextmanager
async def _costs(system: Stack) -> AsyncIterator[dict[str, float]]:
    """Filled at the end of the block: CPU seconds of the service and of Envoy, and how long it took."""
    costs: dict[str, float] = {}
    service, envoy = system.cpu_seconds()
    began = time.monotonic()
    yield costs
    costs["seconds"] = time.monotonic() - began
    costs["service"], costs["envoy"] = (
        after - before for after, before in zip(system.cpu_seconds(), (service, envoy), strict=True)
    )


def _per_request(costs: dict[str, float], requests: int) -> Report:
    return {
        "requests_per_s": round(requests / costs["seconds"], 1),
        "service_cpu_ms": round(1000 * costs["service"] / max(requests, 1), 3),
        "envoy_cpu_ms": round(1000 * costs["envoy"] / max(requests, 1), 3),
    }
