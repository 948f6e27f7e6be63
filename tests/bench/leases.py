"""How long a dead worker's shards lie idle, and what the leases cost while nothing happens.

Three worker processes share the shards of one table. One after the other is killed and replaced; in between, after
fair shares have come about, nothing happens for a while.
"""

import asyncio
import random
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count

import uvloop

from reservation.aws.client import AwsClient
from reservation.aws.session import AwsConfig, connect
from reservation.dynamodb.leases import NOBODY, LeaseTable
from reservation.ministack import Ministack
from tests.bench import processes
from tests.bench.figures import Figure, figure
from tests.support.lease_workers import table_definition

_LEASE_SECONDS = 5.0
_SHARDS, _WORKERS = 16, 3
_TABLE = "benchmark-leases"
_IDLE_SECONDS = 10.0
_LOOK_EVERY_SECONDS = 0.02
_PATIENCE_SECONDS = 60.0

Owners = dict[str, str]


def measure_failover(rounds: int = 5) -> dict[str, Figure]:
    """At least three kills. `lease_failover_s` is the longest time from a `kill -9` until the last of the dead worker's
    shards had a new owner."""
    with Ministack() as emulator:
        failovers, rates = uvloop.run(_measure(emulator.url, max(3, rounds)))
    failover = figure(failovers, "s", median=round(sorted(failovers)[len(failovers) // 2], 2))
    return {
        "lease_failover_s": failover | {"value": round(max(failovers), 2), "lease_s": _LEASE_SECONDS},
        "lease_idle_calls_per_s": figure(rates, "1/s", workers=_WORKERS, shards=_SHARDS),
    }


async def _measure(url: str, kills: int) -> tuple[list[float], list[float]]:
    failovers: list[float] = []
    rates: list[float] = []
    async with _fleet(url) as fleet:
        await fleet.start(_WORKERS)
        for _ in range(kills):
            await fleet.until(fleet.shared_out)
            if len(rates) < 3:
                rates.append(await fleet.idle_calls_per_second())
            # A kill may come at any time between two ticks.
            await asyncio.sleep(random.uniform(0, _LEASE_SECONDS / 3))
            failovers.append(await fleet.kill_one())
            await fleet.start(1)
    return failovers, rates


class _Fleet:
    """The worker processes that live."""

    def __init__(self, url: str, client: AwsClient) -> None:
        self._url = url
        self._leases = LeaseTable(client, _TABLE, lease_seconds=_LEASE_SECONDS)
        self._names = (f"worker-{number}" for number in count())
        self._processes: dict[str, Process] = {}

    async def start(self, number: int) -> None:
        for _, name in zip(range(number), self._names, strict=False):
            arguments = (self._url, _TABLE, name, str(_SHARDS), str(_LEASE_SECONDS))
            self._processes[name] = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.bench.lease_worker", *arguments),
                cwd=processes.ROOT,
                stdin=PIPE,
                stdout=PIPE,
                stderr=DEVNULL,
            )

    async def stop(self) -> None:
        # Some input, if only none: without it Python 3.11 leaves the pipe open whose end the worker waits for.
        await asyncio.gather(*(process.communicate(b"") for process in self._processes.values()))

    async def kill_one(self) -> float:
        """Seconds until everything that the victim had is somebody else's."""
        victim = random.choice(list(self._processes))
        process = self._processes.pop(victim)
        process.kill()
        killed_at = time.monotonic()
        await self.until(lambda owners: not {victim, NOBODY} & set(owners.values()))
        seconds = time.monotonic() - killed_at
        await process.wait()
        return seconds

    async def idle_calls_per_second(self) -> float:
        before, began = await self._calls(), time.monotonic()
        await asyncio.sleep(_IDLE_SECONDS)
        return (await self._calls() - before) / (time.monotonic() - began)

    async def _calls(self) -> int:
        total = 0
        for process in self._processes.values():
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(b"calls\n")
            total += int(await process.stdout.readline())
        return total

    def shared_out(self, owners: Owners) -> bool:
        """Every shard has an owner who lives, and nobody has two more than another."""
        sizes = Counter(owners.values())
        return sizes.keys() == self._processes.keys() and max(sizes.values()) - min(sizes.values()) <= 1

    async def until(self, reached: Callable[[Owners], bool]) -> None:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while True:
                if reached({shard.name: shard.owner for shard in (await self._leases.scan()).shards}):
                    return
                await asyncio.sleep(_LOOK_EVERY_SECONDS)


@asynccontextmanager
async def _fleet(url: str) -> AsyncIterator[_Fleet]:
    """Over a new table; its workers end with the block."""
    client = await connect(AwsConfig("us-east-1"), "dynamodb", endpoint_url=url)
    await client.call("CreateTable", table_definition(_TABLE))
    fleet = _Fleet(url, client)
    try:
        yield fleet
    finally:
        await fleet.stop()
        await client.close()
