"""Answers of DynamoDB that a test makes up, and the requests that they are for."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from reservation.dynamodb.items import Item
from tests.support.conflict_proxy import ConflictProxy
from tests.support.faults import Answer, Hold, Request, cancellation_body

Reason = dict[str, Any]

CONFLICT: Reason = {"Code": "TransactionConflict", "Message": "Transaction is ongoing for the item"}
EVERYTHING_CONFLICTS = dict.fromkeys(("idempotency", "inventory", "reservations", "orders", "outbox"), CONFLICT)
_NONE: Reason = {"Code": "None"}


def failed(item: Item | None) -> Reason:
    """The condition did not hold: the item was this."""
    reason: Reason = {"Code": "ConditionalCheckFailed", "Message": "The conditional request failed"}
    return reason | ({"Item": item} if item else {})


def transaction(request: Request) -> bool:
    return request.operation == "TransactWriteItems"


def probe(request: Request) -> bool:
    """The read of many items after a conflict."""
    return request.operation == "BatchGetItem"


def script_verdict(
    proxy: ConflictProxy,
    reasons: Mapping[str, Reason],
    which: Callable[[Request], bool] = transaction,
    *,
    times: int = 1,
) -> None:
    """The next transaction is cancelled for these reasons and never reaches DynamoDB; or so many, or of those that are
    meant. The reasons stand under the end of a table's name ("idempotency") or under a seat's key
    ("evt_2025_1001#A-1"); all other items are free of blame."""
    answer = Answer(400, b"")

    def matches(request: Request) -> bool:
        if not which(request):
            return False
        actions = [action for entry in request.params["TransactItems"] for action in entry.values()]
        answer.body = cancellation_body([_reason_of(action, reasons) for action in actions])
        return True

    proxy.script(matches, answer, times=times)


def script_read(proxy: ConflictProxy, items: Mapping[str, Sequence[Item]]) -> None:
    """The next BatchGetItem finds these items, by table, and nothing else."""
    body = {"Responses": {table: list(found) for table, found in items.items()}, "UnprocessedKeys": {}}
    proxy.script(probe, Answer(200, orjson.dumps(body)))


def noting_token(tokens: list[str]) -> Callable[[Request], bool]:
    """Matches the next transaction and appends its request token."""

    def matches(request: Request) -> bool:
        if transaction(request):
            tokens.append(request.params["ClientRequestToken"])
        return transaction(request)

    return matches


def nothing() -> Hold:
    """A fault that does nothing: the request goes on at once."""
    released = Hold()
    released.event.set()
    return released


async def until(condition: Callable[[], bool]) -> None:
    """Lets others go on until it is true."""
    while not condition():  # noqa: ASYNC110  # nobody would set an event for it
        await asyncio.sleep(0)


def _reason_of(action: Mapping[str, Any], reasons: Mapping[str, Reason]) -> Reason:
    seat = action.get("Key", {}).get("pk", {}).get("S", "")
    table = action["TableName"].rpartition("-")[2]
    return reasons.get(seat) or reasons.get(table, _NONE)
