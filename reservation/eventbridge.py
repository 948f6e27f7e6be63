"""The event bus: publishing to EventBridge, and setting up a bus with a queue that receives."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from reservation.aws.client import AwsClient, Calling
from reservation.aws.errors import AwsError, TransportError, retry_class

SOURCE = "reservation-api"

ENTRIES_A_CALL = 10
"""PutEvents takes no more."""

# Refusals of the sender, not of the event: a policy somebody has to mend, after which the same entry is accepted.
_SENDER_REFUSED = frozenset(
    {
        "AccessDeniedException",
        "InvalidAccountIdException",
        "NotAuthorizedForDetailTypeException",
        "NotAuthorizedForSourceException",
        "ResourceNotFoundException",
    }
)

# A call refused for what is in it. https://docs.aws.amazon.com/eventbridge/latest/APIReference/CommonErrors.html
_CONTENT_REFUSED = frozenset(
    {
        "HTTP413",
        "InvalidArgument",
        "InvalidParameterCombination",
        "InvalidParameterValue",
        "MalformedDetail",
        "RequestEntityTooLargeException",
        "SerializationException",
        "ValidationError",
        "ValidationException",
    }
)


class Publishable(Protocol):
    """`type`: the detail-type. `detail`: the JSON of the detail."""

    @property
    def type(self) -> str: ...
    @property
    def detail(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Accepted:
    """The bus has the event and will deliver it."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Not accepted, for a reason that is not the event's."""

    code: str


@dataclass(frozen=True, slots=True)
class Refused:
    """Not accepted because of the event itself."""

    code: str
    message: str


Outcome = Accepted | Retry | Refused


Publishing = Callable[[Sequence[Publishable], Callable[[], Calling]], Calling]


class EventBridge:
    """Publishes to one bus. `timeout`: seconds for each call. `around` is given each PutEvents
    and what calls it, and gives what is awaited in its place."""

    def __init__(
        self,
        client: AwsClient,
        bus: str,
        *,
        timeout: float = 3.0,
        around: Publishing = lambda events, put: put(),
    ) -> None:
        self._client = client
        self._bus = bus
        self._timeout = timeout
        self._around = around

    async def put(self, events: Sequence[Publishable]) -> list[Outcome]:
        """One try of one call with 1 to 10 events: what became of each, in their order.

        A bus that does not exist accepts everything and delivers nothing: see bus_exists. Raises AwsError if the call
        failed as a whole; some of the events may have been accepted even so.
        """
        entries = [
            {"EventBusName": self._bus, "Source": SOURCE, "DetailType": event.type, "Detail": event.detail}
            for event in events
        ]
        answer = await self._around(
            events,
            lambda: self._client.call("PutEvents", {"Entries": entries}, timeout=self._timeout, attempts=1),
        )
        results = answer.get("Entries") or []
        if len(results) != len(entries):
            raise TransportError("BadResponse", f"{len(results)} results for {len(entries)} entries", 200)
        return [_outcome(result) for result in results]

    async def bus_exists(self) -> bool:
        """False only if EventBridge says that there is no such bus. Any other failure raises AwsError: it says nothing
        about the bus. All tries together take no longer than `timeout`."""
        half = self._timeout / 2  # a try that begins just before the deadline may take as long again
        deadline = time.monotonic() + half
        try:
            await self._client.call("DescribeEventBus", {"Name": self._bus}, timeout=half, deadline=deadline)
        except AwsError as error:
            if error.code == "ResourceNotFoundException":
                return False
            raise
        return True


def refused_for_content(error: AwsError) -> bool:
    """Whether a call that failed as a whole was refused for what is in it, so that a part of it may be accepted."""
    return error.code in _CONTENT_REFUSED


def _outcome(result: Mapping[str, Any]) -> Outcome:
    """https://docs.aws.amazon.com/eventbridge/latest/APIReference/API_PutEventsResultEntry.html"""
    if result.get("EventId"):
        return Accepted()
    code = result.get("ErrorCode") or "NoEventId"
    if code in _SENDER_REFUSED or code == "NoEventId" or retry_class(AwsError(code)) is not None:
        return Retry(code)
    return Refused(code, result.get("ErrorMessage") or "")


async def create_bus(events: Any, bus: str) -> bool:
    """False: it is there already. `events` is an aiobotocore client. Raises botocore's ClientError."""
    try:
        await events.create_event_bus(Name=bus)
    except events.exceptions.ResourceAlreadyExistsException:
        return False
    return True


async def subscribe_queue(events: Any, sqs: Any, bus: str, queue_name: str) -> str:
    """The URL of a queue that gets every event of this service; makes what is missing of queue, policy and rule.

    Each message's body is EventBridge's envelope, with our event in `detail`. The rule is named after the queue, so its
    name may have 64 characters. `events` and `sqs` are aiobotocore clients. Raises botocore's ClientError.
    """
    url: str = (await sqs.create_queue(QueueName=queue_name))["QueueUrl"]
    attributes = await sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
    queue_arn = attributes["Attributes"]["QueueArn"]
    pattern = json.dumps({"source": [SOURCE]})
    rule = await events.put_rule(Name=queue_name, EventBusName=bus, EventPattern=pattern, State="ENABLED")
    await sqs.set_queue_attributes(QueueUrl=url, Attributes={"Policy": _delivery_policy(queue_arn, rule["RuleArn"])})
    target = {"Id": "queue", "Arn": queue_arn}
    put = await events.put_targets(Rule=queue_name, EventBusName=bus, Targets=[target])
    for failed in put["FailedEntries"]:
        raise AwsError(failed["ErrorCode"], failed["ErrorMessage"])
    return url


def _delivery_policy(queue_arn: str, rule_arn: str) -> str:
    """https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-use-resource-based.html#eb-sqs-permissions"""
    statement = {
        "Effect": "Allow",
        "Principal": {"Service": "events.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Resource": queue_arn,
        "Condition": {"ArnEquals": {"aws:SourceArn": rule_arn}},
    }
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})
