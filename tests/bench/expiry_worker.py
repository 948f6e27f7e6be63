"""The settling process of the expiry benchmark: the expirer of a service, on every shard.

`python -m tests.bench.expiry_worker URL PREFIX AHEAD HOLDS` works on the tables of that prefix, by a clock that is so
many milliseconds ahead, until it has settled so many holds or half a minute is over. Then it prints by how many
milliseconds each was late, as a JSON list.
"""

import asyncio
import sys
import time
from collections.abc import Callable
from contextlib import suppress

import orjson
import uvloop

from reservation.aws.client import AwsClient, ServerDate
from reservation.background.expiry import Expiry
from reservation.cli import collect_rarely
from reservation.clock import Clock
from reservation.dynamodb.halls import Halls
from reservation.dynamodb.reservations import DynamoReservations
from reservation.dynamodb.seats import EmbeddedInventory
from reservation.dynamodb.tables import Tables
from reservation.service import Policy, Reservations
from reservation.telemetry import logs
from tests.support.aws import quick_client
from tests.support.store import HOLD_MS, SHARDS, SKEW_MS, WINDOW_MS, shard_by_hash
from tests.support.system import TABLES

_PATIENCE_SECONDS = 30.0


def tables_of(prefix: str) -> Tables:
    return Tables(**{name: f"{prefix}-{name}" for name in TABLES})


def inventory_of(client: AwsClient, tables: Tables, now: Callable[[], int]) -> EmbeddedInventory:
    return EmbeddedInventory(client, tables.inventory, halls=Halls(client, tables.inventory, now=now), now=now)


def store_of(client: AwsClient, tables: Tables, now: Callable[[], int]) -> DynamoReservations:
    inventory = inventory_of(client, tables, now)
    return DynamoReservations(client, tables, inventory, now=now, key_window=WINDOW_MS)


async def work(url: str, prefix: str, ahead: int, holds: int) -> None:
    tables = tables_of(prefix)
    clock = Clock(lambda: ServerDate(time.time() + ahead / 1000, time.monotonic()), offset=ahead)
    lateness: list[int] = []
    all_settled = asyncio.Event()

    def note(late: int) -> None:
        lateness.append(late)
        if len(lateness) == holds:
            all_settled.set()

    async with quick_client("dynamodb", url) as client:
        inventory = inventory_of(client, tables, clock.now)
        policy = Policy(hold=HOLD_MS, max_clock_skew=SKEW_MS)
        expiry = Expiry(
            Reservations(store_of(client, tables, clock.now), inventory, policy, clock, shard_by_hash),
            held_shards=lambda: [f"{number:04d}" for number in range(SHARDS)],
            may_work_on=lambda _: True,
            now=clock.now,
            clock_trusted=clock.trusted,
            settled=note,
        )
        collect_rarely()
        expiring = asyncio.create_task(expiry.run())
        with suppress(TimeoutError):
            await asyncio.wait_for(all_settled.wait(), _PATIENCE_SECONDS)
        expiring.cancel()
        await asyncio.wait([expiring])
    print(orjson.dumps(lateness).decode())


if __name__ == "__main__":
    logs.configure(level="ERROR", log_format="json")
    uvloop.run(work(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
