"""A queue that gets every event."""

from collections.abc import Set
from itertools import islice
from typing import Any

import orjson

from reservation.audit.promises import Told


class EventQueue:
    """An SQS queue behind an EventBridge rule, as it is: what was received is shown to others again by `release`.
    `sqs` is an aiobotocore client."""

    def __init__(self, sqs: Any, url: str) -> None:
        self._sqs = sqs
        self._url = url
        self._handles: dict[str, str] = {}

    async def receive(self) -> Set[Told]:
        """See Receiver. What was received is hidden from other receivers for two minutes. Messages that are no events
        of ours are passed over."""
        reply = await self._sqs.receive_message(
            QueueUrl=self._url, MaxNumberOfMessages=10, WaitTimeSeconds=1, VisibilityTimeout=120
        )
        messages = reply.get("Messages", [])
        self._handles |= {message["MessageId"]: message["ReceiptHandle"] for message in messages}
        return {told for message in messages if (told := _told(message["Body"])) is not None}

    async def release(self) -> None:
        """Shows everything to other receivers again."""
        handles = iter(self._handles.values())
        while batch := list(islice(handles, 10)):
            entries = [
                {"Id": str(number), "ReceiptHandle": handle, "VisibilityTimeout": 0}
                for number, handle in enumerate(batch)
            ]
            await self._sqs.change_message_visibility_batch(QueueUrl=self._url, Entries=entries)


def _told(body: str) -> Told | None:
    try:
        detail = orjson.loads(body)["detail"]
        return detail["reservation"]["reservationId"], detail["version"]
    except (KeyError, TypeError, ValueError):
        return None
