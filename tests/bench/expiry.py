"""How late holds end: from a hold's end to the reply of the transaction that settles it.

Holds are made first, as quickly as the emulator bears, to end at an even pace. Then a process of its own runs the
expirer on every shard, by a clock that stands right before the first end.
"""

import asyncio
import sys
import time
import uuid
from asyncio.subprocess import PIPE

import orjson
import uvloop

from reservation import ministack
from reservation.aws.client import AwsClient
from reservation.domain.model import Event, Money, Reservation, Seat, Status
from reservation.dynamodb.events import EventImport
from reservation.dynamodb.tables import Tables, create_tables
from tests.bench import processes
from tests.bench.expiry_worker import store_of, tables_of
from tests.bench.figures import Figure, failed, figure, percentile
from tests.support.aws import admin_client, quick_client
from tests.support.store import NOW, shard_by_hash

_HOLDS, _ENDS_A_SECOND = 2000, 200
_MAKERS = 8
_EVENT = Event("evt_2025_1001", "Traffic Tacos Live")
_SEATS = [Seat(f"S-{number}", "Floor", "S", str(number), Money(120_000, "KRW")) for number in range(_HOLDS)]
_FIRST_END_MS = NOW
_START_SECONDS = 4.0  # for the process to start and to look ahead
_PATIENCE_SECONDS = 30.0


def measure(rounds: int = 5) -> dict[str, Figure]:
    """By the settling process's clock, as the expirer tells its `settled`; 2,000 holds a round."""
    done = [uvloop.run(_round()) for _ in range(rounds)]
    every = [late for each in done for late in each]
    told = figure(
        [percentile(each, 99) if each else 0 for each in done],
        "ms",
        p50_ms=percentile(every or [0], 50),
        max_ms=max(every, default=0),
        settled=len(every),
        ends_per_s=_ENDS_A_SECOND,
    )
    missing = rounds * _HOLDS - len(every)
    return {"expiry_lateness_p99_ms": failed(told, f"{missing} holds were not settled") if missing else told}


async def _round() -> list[int]:
    """By how many milliseconds each hold was late."""
    prefix = f"benchmark-{uuid.uuid4().hex[:8]}"
    tables = tables_of(prefix)
    async with ministack.running() as emulator, quick_client("dynamodb", emulator.url) as client:
        async with admin_client("dynamodb", emulator.url) as dynamodb:
            await create_tables(dynamodb, tables)
        await EventImport(client, tables.inventory).run(_EVENT, _SEATS, lambda _: None)
        await _make_holds(client, tables)
        ahead = _FIRST_END_MS - time.time_ns() // 1_000_000 - int(_START_SECONDS * 1000)
        worker = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.bench.expiry_worker", emulator.url, prefix, str(ahead), str(_HOLDS)),
            cwd=processes.ROOT,
            stdout=PIPE,
        )
        out, _ = await worker.communicate()
        return list(orjson.loads(out))


async def _make_holds(client: AwsClient, tables: Tables) -> None:
    store = store_of(client, tables, lambda: NOW - 60_000)
    numbers = iter(range(_HOLDS))

    async def make() -> None:
        for number in numbers:
            await store.hold(_hold(number), None, "", time.monotonic() + _PATIENCE_SECONDS)

    await asyncio.gather(*(make() for _ in range(_MAKERS)))


def _hold(number: int) -> Reservation:
    reservation_id = f"rsv_{number:032x}"
    return Reservation(
        id=reservation_id,
        event_id=_EVENT.id,
        user_id="user_1",
        status=Status.HOLD,
        seats=(_SEATS[number],),
        created_at=NOW - 60_000,
        updated_at=NOW - 60_000,
        hold_expires_at=_FIRST_END_MS + number * 1000 // _ENDS_A_SECOND,
        version=1,
        op_id=f"{number:016x}",
        shard=shard_by_hash(reservation_id),
    )
