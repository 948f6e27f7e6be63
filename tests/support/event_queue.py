"""A queue behind a rule of the bus, which receives every event, and its consumer."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import orjson

from reservation import app
from reservation.aws.client import AwsClient
from reservation.aws.session import connect, session
from reservation.eventbridge import create_bus, subscribe_queue
from reservation.settings import Settings


@dataclass(slots=True)
class Received:
    """What the queue delivered: versions by reservation id, and how many messages."""

    versions: defaultdict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    messages: int = 0

    async def receive(self) -> set[tuple[str, int]]:
        """See audit.Receiver."""
        return {(reservation_id, version) for reservation_id, told in self.versions.items() for version in told}


async def subscribe(settings: Settings, queue_name: str) -> str:
    """The URL of a new queue that gets every event of the bus, which is made if it is missing."""
    aws, endpoint = session(app.aws_config_of(settings)), settings.eventbridge_endpoint
    to_events, to_sqs = [aws.create_client(name, endpoint_url=endpoint) for name in ("events", "sqs")]
    async with to_events as events, to_sqs as sqs:
        await create_bus(events, settings.eventbridge_bus_name)
        return await subscribe_queue(events, sqs, settings.eventbridge_bus_name, queue_name)


@asynccontextmanager
async def receiving(settings: Settings, queue_url: str, received: Received) -> AsyncIterator[None]:
    """Inside the block a consumer takes everything out of the queue."""
    sqs = await connect(app.aws_config_of(settings), "sqs", endpoint_url=settings.eventbridge_endpoint)

    async def receive_for_ever() -> None:
        while True:
            await _receive(sqs, queue_url, received)

    receiver = asyncio.create_task(receive_for_ever())
    try:
        yield
    finally:
        receiver.cancel()
        with suppress(asyncio.CancelledError):
            await receiver
        await sqs.close()


async def _receive(sqs: AwsClient, queue_url: str, received: Received) -> None:
    request = {"QueueUrl": queue_url, "MaxNumberOfMessages": 10, "WaitTimeSeconds": 1}
    delivered = (await sqs.call("ReceiveMessage", request)).get("Messages", [])
    for message in delivered:
        detail = orjson.loads(message["Body"])["detail"]
        received.versions[detail["reservation"]["reservationId"]].add(detail["version"])
    received.messages += len(delivered)
    if delivered:
        done = [{"Id": str(number), "ReceiptHandle": each["ReceiptHandle"]} for number, each in enumerate(delivered)]
        await sqs.call("DeleteMessageBatch", {"QueueUrl": queue_url, "Entries": done})
