"""CPU of this process per TransactWriteItems: plain aiobotocore against this package's clients.

The transaction is the one that the store sends for a create of two seats; 32 calls are in flight; a sink in its own
process answers at once.
"""

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from itertools import cycle, islice
from typing import Any, Literal

import uvloop

from reservation.aws.client import AwsClient, ServerDate
from reservation.aws.session import AwsConfig, connect, session
from reservation.domain.idempotency import scoped_key
from reservation.dynamodb.halls import Halls
from reservation.dynamodb.reservations import DynamoReservations
from reservation.dynamodb.seats import EmbeddedInventory
from reservation.dynamodb.tables import Tables
from tests.bench import processes
from tests.bench.figures import Figure, figure
from tests.bench.sink import HELD, USER

_IN_FLIGHT = 32
_TABLES = Tables(
    **{
        name: f"traffic-tacos-{name}"
        for name in ("reservations", "orders", "idempotency", "outbox", "inventory", "leases")
    }
)

Call = Callable[[dict[str, Any]], Awaitable[Any]]


def measure(rounds: int = 5) -> dict[str, Figure]:
    """Interleaved rounds of a bare aiobotocore client, of ours over aiobotocore, and of ours over its own wire."""
    with processes.printing_its_port("tests.bench.sink", "0") as (_, port):
        costs = uvloop.run(_measure(f"http://127.0.0.1:{port}", rounds))
    ratios = [bare / lean for bare, lean in zip(costs["bare"], costs["lean"], strict=True)]
    each = {f"{name}_ms": figure(costs[name], "ms")["value"] for name in costs}
    return {"aws_call_ratio": figure(ratios, "x", **each)}


async def _measure(url: str, rounds: int) -> dict[str, list[float]]:
    async with AsyncExitStack() as stack:
        variants: dict[str, tuple[Call, int]] = {
            "bare": (await stack.enter_async_context(_bare(url)), 640),
            "aiobotocore": (await stack.enter_async_context(_wired(url, "aiobotocore")), 640),
            "lean": (await stack.enter_async_context(_wired(url, "lean")), 9600),
        }
        for call, _ in variants.values():
            await _cpu_ms_per_call(call, 320)
        costs: dict[str, list[float]] = {name: [] for name in variants}
        for _ in range(rounds):
            for name, (call, calls) in variants.items():
                costs[name].append(await _cpu_ms_per_call(call, calls))
    return costs


@asynccontextmanager
async def _bare(url: str) -> AsyncIterator[Call]:
    """aiobotocore as it comes."""
    async with session(AwsConfig("us-east-1")).create_client("dynamodb", endpoint_url=url) as client:

        async def call(params: dict[str, Any]) -> Any:
            return await client.transact_write_items(**params)

        yield call


@asynccontextmanager
async def _wired(url: str, kind: Literal["lean", "aiobotocore"]) -> AsyncIterator[Call]:
    client = await connect(AwsConfig("us-east-1", client=kind), "dynamodb", endpoint_url=url)

    async def call(params: dict[str, Any]) -> Any:
        return await client.call("TransactWriteItems", params)

    try:
        yield call
    finally:
        await client.close()


async def _cpu_ms_per_call(call: Call, calls: int) -> float:
    # A few, used in turn: thousands of them would measure cache misses that a service does not have.
    requests = islice(cycle(await transactions(2 * _IN_FLIGHT)), calls)

    async def worker() -> None:
        for request in requests:
            await call(request)

    gc.collect()
    started = time.process_time()
    async with asyncio.TaskGroup() as group:
        for _ in range(_IN_FLIGHT):
            group.create_task(worker())
    return (time.process_time() - started) * 1000 / calls


async def transactions(number: int) -> list[dict[str, Any]]:
    """The requests that the store makes of so many creates of two seats."""
    recorder = _Recorder()
    client = AwsClient(recorder)
    table = _TABLES.inventory
    halls = Halls(client, table, now=lambda: HELD.created_at)
    inventory = EmbeddedInventory(client, table, halls=halls, now=lambda: HELD.created_at)
    store = DynamoReservations(
        client,
        _TABLES,
        inventory,
        now=lambda: HELD.created_at,
        key_window=300_000,
    )
    for each in range(number):
        draft = replace(HELD, id=f"rsv_{each:032x}")
        key = scoped_key(user_id=USER, rpc="CreateReservation", key=str(each), content=draft.seat_ids)
        await store.hold(draft, key, "", time.monotonic() + 10)
    return recorder.requests


class _Recorder:
    """A wire to nowhere that keeps what it was given."""

    server_date: ServerDate | None = None

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []

    async def send(self, operation: str, params: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        self.requests.append(dict(params))
        return {}

    async def renew_credentials(self, timeout: float | None) -> None:
        """It has none."""

    async def close(self) -> None:
        """It is not open."""
