"""How the demo reaches the system: the REST door as any HTTP client uses it, and the queue that gets the events."""

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from reservation import app
from reservation.aws.session import session
from reservation.local import Stack

_SECONDS = 10

Receive = Callable[[], Awaitable[list[dict[str, Any]]]]


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: dict[str, Any]


class Rest:
    """Raises OSError if there is no answer within 10 seconds."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def get(self, path: str) -> Reply:
        return await asyncio.to_thread(self._send, urllib.request.Request(self._url + path))  # noqa: S310

    async def post(self, path: str, body: dict[str, Any], *, key: str | None = None) -> Reply:
        headers = {"Content-Type": "application/json"}
        if key is not None:
            headers["Idempotency-Key"] = key
        request = urllib.request.Request(self._url + path, json.dumps(body).encode(), headers)  # noqa: S310
        return await asyncio.to_thread(self._send, request)

    async def stream(self, path: str) -> AsyncGenerator[dict[str, Any]]:
        """The server-sent events of a GET that succeeds, until the server ends it."""
        answer = await asyncio.to_thread(urllib.request.urlopen, self._url + path, timeout=_SECONDS)
        with answer:
            while line := await asyncio.to_thread(answer.readline):
                if line.startswith(b"data: "):
                    yield json.loads(line.removeprefix(b"data: "))

    def _send(self, request: urllib.request.Request) -> Reply:
        try:
            with urllib.request.urlopen(request, timeout=_SECONDS) as answer:  # noqa: S310
                return Reply(answer.status, dict(answer.headers), json.load(answer))
        except urllib.error.HTTPError as answer:
            with answer:
                return Reply(answer.code, dict(answer.headers), json.load(answer))


@asynccontextmanager
async def queue(stack: Stack) -> AsyncIterator[Receive]:
    """A function that waits for events up to a second and returns their details, in the order of arrival."""
    config = app.aws_config_of(stack.settings)
    async with session(config).create_client("sqs", endpoint_url=stack.aws_url) as sqs:

        async def receive() -> list[dict[str, Any]]:
            reply = await sqs.receive_message(QueueUrl=stack.queue_url, MaxNumberOfMessages=10, WaitTimeSeconds=1)
            found = reply.get("Messages", [])
            for message in found:
                await sqs.delete_message(QueueUrl=stack.queue_url, ReceiptHandle=message["ReceiptHandle"])
            return [json.loads(message["Body"])["detail"] for message in found]

        yield receive
