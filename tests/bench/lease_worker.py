"""One worker of the lease benchmark: a leader as the service runs it, and nothing else.

`python -m tests.bench.lease_worker URL TABLE WORKER_ID SHARDS LEASE_SECONDS` answers each line on its input with the
number of DynamoDB calls it has made so far, and hands over and ends when its input does.
"""

import asyncio
import contextlib
import sys
import time
from random import Random

import uvloop

from reservation.aws.session import AwsConfig, connect
from reservation.background.leader import Leader
from reservation.dynamodb.leases import LeaseTable
from reservation.telemetry import logs


async def work(url: str, table: str, worker_id: str, shard_count: int, lease_seconds: float) -> None:
    client = await connect(AwsConfig("us-east-1"), "dynamodb", endpoint_url=url)
    leader = Leader(
        LeaseTable(client, table, lease_seconds=lease_seconds),
        worker_id=worker_id,
        lease_seconds=lease_seconds,
        shard_count=shard_count,
        monotonic=time.monotonic,
        now=lambda: time.time_ns() // 1_000_000,
        random=Random(),
        on_change=lambda gained, lost: None,
    )
    running = asyncio.create_task(leader.run())
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    async for _ in lines:
        print(client.stats["calls"], flush=True)
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    await leader.stop()
    await client.close()


if __name__ == "__main__":
    logs.configure(level="WARNING", log_format="json")
    url, table, worker_id, shard_count, lease_seconds = sys.argv[1:]
    uvloop.run(work(url, table, worker_id, int(shard_count), float(lease_seconds)))
