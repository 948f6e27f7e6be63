"""What the proxies before DynamoDB and EventBridge can do to one request: for tests that build an exact interleaving,
and for those that do anything at any time."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import orjson

FOR_EVER = 1_000_000_000
"""How often a fault befalls requests that need not come."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request as a matcher sees it: `TransactWriteItems` and its JSON."""

    operation: str
    params: dict[str, Any]


@dataclass(slots=True)
class RejectBefore:
    """Refused with an AWS error before anything happens."""

    code: str
    status: int = 400
    message: str = "refused by a test"


@dataclass(slots=True)
class Throttle(RejectBefore):
    """Refused as too much traffic before anything happens."""

    code: str = "ThrottlingException"
    message: str = "Rate of requests exceeds the allowed throughput."


@dataclass(slots=True)
class Answer:
    """Answered so, and never forwarded."""

    status: int
    body: bytes


@dataclass(slots=True)
class LoseRequest:
    """The connection ends before the request reaches DynamoDB: not applied, and the caller cannot know."""


@dataclass(slots=True)
class LoseReply:
    """The connection ends after DynamoDB has answered: applied, and the caller cannot know."""


@dataclass(slots=True)
class _Pause:
    """Waits until a test sets `event`; `reached` is set when the request has come to this point."""

    event: asyncio.Event = field(default_factory=asyncio.Event)
    reached: asyncio.Event = field(default_factory=asyncio.Event)

    async def wait(self) -> None:
        self.reached.set()
        await self.event.wait()


@dataclass(slots=True)
class Hold(_Pause):
    """On its way to DynamoDB: it conflicts with nothing yet. A caller that gives up does not take it back."""


@dataclass(slots=True)
class HoldOngoing(_Pause):
    """A write that DynamoDB has begun and not applied: overlapping requests conflict with it."""


@dataclass(slots=True)
class HoldReply(_Pause):
    """Applied, and its reply on the way."""


@dataclass(slots=True)
class Swallow(_Pause):
    """Never reaches DynamoDB, and its connection is silent until `event`, then ends."""


@dataclass(slots=True)
class Delay:
    """On its way for so many seconds. A caller that gives up does not take it back."""

    seconds: float

    async def wait(self) -> None:
        await asyncio.sleep(self.seconds)


@dataclass(slots=True)
class Reset:
    """The connection is reset before the request reaches DynamoDB."""


@dataclass(slots=True)
class CutReply:
    """Applied, and the connection ends in the middle of the reply's body."""


@dataclass(slots=True)
class SpoilChecksum:
    """Applied, and the checksum of the reply is not that of its body."""


@dataclass(slots=True)
class FailEntries:
    """Of EventBridge: every other entry of the call is not accepted, for a reason that passes."""

    code: str


Fault = (
    RejectBefore
    | Answer
    | LoseRequest
    | LoseReply
    | Hold
    | HoldOngoing
    | HoldReply
    | Swallow
    | Delay
    | Reset
    | CutReply
    | SpoilChecksum
    | FailEntries
)


def error_body(code: str, message: str) -> bytes:
    """The JSON of an AWS error."""
    return orjson.dumps({"__type": f"com.amazonaws.dynamodb.v20120810#{code}", "message": message})


def cancellation_body(reasons: list[dict[str, Any]]) -> bytes:
    """The JSON of a cancelled transaction; one reason per item, in the order of the request."""
    codes = ", ".join(reason["Code"] for reason in reasons)
    return orjson.dumps(
        {
            "__type": "com.amazonaws.dynamodb.v20120810#TransactionCanceledException",
            "Message": f"Transaction cancelled, please refer cancellation reasons for specific reasons [{codes}]",
            "CancellationReasons": reasons,
        }
    )
