"""Clients of the emulators, as quickly made as possible, and SQS queues as consumers of our events read them."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import cache
from typing import Any

import orjson
from aiobotocore.session import AioSession
from botocore.credentials import ReadOnlyCredentials

from reservation.aws.client import AwsClient
from reservation.aws.lean import LeanWire
from reservation.aws.session import AwsConfig, session

REGION = "us-east-1"
_ALL_THE_TIME_SECONDS = 100.0

_PROTOCOLS = {"dynamodb": ("DynamoDB_20120810", "1.0"), "events": ("AWSEvents", "1.1")}


class _Credentials:
    async def get_frozen_credentials(self) -> ReadOnlyCredentials:
        return ReadOnlyCredentials("local", "local", None)


class UnhurriedWire(LeanWire):
    """Its tries have all the time that they need. For tests that count tries, or say what is told of each: a machine
    that stands still for a second ends none of them."""

    async def send(self, operation: str, params: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        return await super().send(operation, params, _ALL_THE_TIME_SECONDS)


def quick_wire(service: str, url: str, kind: type[LeanWire] = LeanWire) -> LeanWire:
    """The lean wire as reservation.aws.session makes it, without the half second in which aiobotocore reads the
    description of the service."""
    target_prefix, json_version = _PROTOCOLS[service]
    return kind(
        _Credentials(),
        endpoint_url=url,
        region=REGION,
        signing_name=service,
        target_prefix=target_prefix,
        json_version=json_version,
    )


@asynccontextmanager
async def quick_client(service: str, url: str) -> AsyncIterator[AwsClient]:
    client = AwsClient(quick_wire(service, url))
    try:
        yield client
    finally:
        await client.close()


@cache
def _session() -> AioSession:
    """One for all: it reads each description once."""
    return session(AwsConfig(REGION))


def admin_client(service: str, url: str) -> AbstractAsyncContextManager[Any]:
    """An aiobotocore client, for what is done once."""
    return _session().create_client(service, endpoint_url=url)  # type: ignore[no-any-return]


async def received(sqs: Any, queue_url: str, count: int) -> list[dict[str, Any]]:
    """The EventBridge envelopes in a queue, in any order: waits for `count`, then takes what else is there. All of them
    are deleted."""
    envelopes: list[dict[str, Any]] = []
    while True:
        wait = 10 if len(envelopes) < count else 0
        answer = await sqs.receive_message(QueueUrl=queue_url, MaxNumberOfMessages=10, WaitTimeSeconds=wait)
        messages = answer.get("Messages", [])
        if not messages:
            return envelopes
        envelopes += [orjson.loads(message["Body"]) for message in messages]
        done = [{"Id": str(number), "ReceiptHandle": each["ReceiptHandle"]} for number, each in enumerate(messages)]
        await sqs.delete_message_batch(QueueUrl=queue_url, Entries=done)
