"""The outbox table: the events of each shard in the order in which they leave, and the dead letters beside them.

A row is written with the change that it tells of and deleted once the bus has accepted it. So what is left of a shard
is what is still to be published, and a reader needs no cursor, which a late commit under an older key could slip past.
"""

import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reservation.aws.client import AwsClient
from reservation.dynamodb.items import (
    DeadLetter,
    Item,
    OutboxRow,
    UnreadableRow,
    dead_letter_from_item,
    dead_letter_key,
    dead_letter_partition,
    dead_letter_to_item,
    outbox_key,
    outbox_row_from_item,
    outbox_row_to_item,
)
from reservation.dynamodb.transaction import TRY_SECONDS, Action, Role, back_off, told_in_domain_terms, transact

__all__ = ["DeadLetter", "Outbox", "OutboxPage", "OutboxRow", "UnreadableRow"]

_DELETES_A_CALL = 25
_PATIENCE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class OutboxPage:
    """Rows in the order in which they leave. `next`: the `after` of the page that follows; None: this was the last."""

    rows: tuple[OutboxRow | UnreadableRow, ...]
    next: str | None


class Outbox:
    """Reads are strongly consistent.

    Every method tries for about 5 seconds and raises ServiceUnavailable when nothing was changed, UpstreamTimeout when
    that is not known, and AwsError for what no retry can cure.
    """

    def __init__(self, client: AwsClient, table: str) -> None:
        self._client = client
        self._table = table

    async def page(self, shard: str, after: str | None = None, limit: int = 200) -> OutboxPage:
        """At most `limit` rows of a shard from its beginning, or those behind the seq `after`."""
        items, following = await self._query(shard, after, limit)
        return OutboxPage(tuple(_row(item) for item in items), following)

    async def delete(self, rows: Sequence[OutboxRow]) -> None:
        """Deletes rows whose events were accepted. Harmless for rows that are gone, and for those of another process:
        what was published needs no row, whoever published it."""
        requests = [{"DeleteRequest": {"Key": outbox_key(row)}} for row in rows]
        for start in range(0, len(requests), _DELETES_A_CALL):
            await self._delete(requests[start : start + _DELETES_A_CALL])

    async def bury(self, row: OutboxRow, error_code: str, error_message: str, now: int) -> bool:
        """Makes the row a dead letter: at every moment it is either in its shard or among the dead.

        `now`: milliseconds since the epoch. False: it is in its shard no more, because another process or an operator
        has dealt with it; nothing was changed.
        """
        letter = DeadLetter(row, error_code, error_message, now)
        return await self._move(outbox_key(row), dead_letter_to_item(letter))

    # For operators

    async def dead(self, shards: Iterable[str]) -> AsyncIterator[DeadLetter]:
        """The dead letters of these shards, shard by shard in the order of their rows."""
        for shard in shards:
            after: str | None = None
            while True:
                items, after = await self._query(dead_letter_partition(shard), after, 200)
                for item in items:
                    yield dead_letter_from_item(item)
                if after is None:
                    break

    async def count_dead(self, shard: str) -> int:
        """How many dead letters a shard has."""
        request: dict[str, Any] = {
            "TableName": self._table,
            "KeyConditionExpression": "#shard = :shard",
            "ExpressionAttributeNames": {"#shard": "shard"},
            "ExpressionAttributeValues": {":shard": {"S": dead_letter_partition(shard)}},
            "Select": "COUNT",
        }
        count = 0
        while True:
            answer = await self._call("Query", request)
            count += int(answer["Count"])
            if "LastEvaluatedKey" not in answer:
                return count
            request["ExclusiveStartKey"] = answer["LastEvaluatedKey"]

    async def show(self, shard: str, seq: str) -> DeadLetter | None:
        """The dead letter of the row that had this key in its shard."""
        row = OutboxRow(shard, seq, reservation_id="", type="", detail="")
        request = {"TableName": self._table, "Key": dead_letter_key(row), "ConsistentRead": True}
        answer = await self._call("GetItem", request)
        return dead_letter_from_item(answer["Item"]) if "Item" in answer else None

    async def replay(self, row: OutboxRow) -> bool:
        """Puts a dead letter's row back into its shard under its old seq: it leaves next of its reservation, after
        whatever has left meanwhile. False: it is no dead letter any more; nothing was changed."""
        return await self._move(dead_letter_key(row), outbox_row_to_item(row))

    async def purge(self, row: OutboxRow) -> None:
        """Deletes a dead letter: its event will never be published."""
        await self._call("DeleteItem", {"TableName": self._table, "Key": dead_letter_key(row)})

    # The calls

    async def _query(self, partition: str, after: str | None, limit: int) -> tuple[list[Item], str | None]:
        """The items, and the seq of the last one if there are more."""
        behind = "" if after is None else " AND seq > :after"
        values = {":shard": {"S": partition}} | ({} if after is None else {":after": {"S": after}})
        request = {
            "TableName": self._table,
            "KeyConditionExpression": f"#shard = :shard{behind}",
            "ExpressionAttributeNames": {"#shard": "shard"},
            "ExpressionAttributeValues": values,
            "ConsistentRead": True,
            "Limit": limit,
        }
        answer = await self._call("Query", request)
        last = answer.get("LastEvaluatedKey")
        return answer["Items"], last["seq"]["S"] if last else None

    async def _delete(self, requests: list[Any]) -> None:
        until = time.monotonic() + _PATIENCE_SECONDS
        attempt = 0
        while True:
            answer = await self._call("BatchWriteItem", {"RequestItems": {self._table: requests}})
            requests = answer.get("UnprocessedItems", {}).get(self._table, [])
            if not requests:
                return
            await back_off(attempt, until)
            attempt += 1

    async def _move(self, source: Item, item: Item) -> bool:
        delete = {
            "TableName": self._table,
            "Key": source,
            "ConditionExpression": "attribute_exists(seq)",
        }
        actions = [
            Action(Role.OUTBOX, {"Delete": delete}),
            Action(Role.OUTBOX, {"Put": {"TableName": self._table, "Item": item}}),
        ]
        until = time.monotonic() + _PATIENCE_SECONDS
        attempt = 0
        while (verdict := await transact(self._client, actions, until)) is not None:
            if verdict.failed(Role.OUTBOX):
                return False
            await back_off(attempt, until)
            attempt += 1
        return True

    async def _call(self, operation: str, request: Mapping[str, Any]) -> dict[str, Any]:
        with told_in_domain_terms(writing=True):
            return await self._client.call(operation, request, timeout=TRY_SECONDS)


def _row(item: Mapping[str, Any]) -> OutboxRow | UnreadableRow:
    try:
        return outbox_row_from_item(item)
    except (KeyError, TypeError, ValueError):
        return UnreadableRow(item["shard"]["S"], item["seq"]["S"])
