"""A relay to be killed: `python -m tests.support.relay_process DYNAMODB_URL EVENTS_URL TABLE SHARD`."""

import asyncio
import sys
import time

from reservation.background.relay import Relay
from reservation.dynamodb.outbox import Outbox
from reservation.eventbridge import EventBridge
from tests.support.aws import quick_client


async def main(dynamodb_url: str, events_url: str, table: str, shard: str) -> None:
    """Works on the shard for ever."""
    async with quick_client("dynamodb", dynamodb_url) as dynamodb, quick_client("events", events_url) as events:
        relay = Relay(
            Outbox(dynamodb, table),
            EventBridge(events, "bus"),
            may_work_on=lambda _: True,
            now=lambda: time.time_ns() // 1_000_000,
        )
        await relay.run_shard(shard)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
