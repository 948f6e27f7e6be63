"""Hints: until when each seat of a block is taken, beside the seats and outside of every transaction.

They decide nothing. A hint that was lost or came late costs one refused transaction, or hides a free seat until the end
of the hold that it tells of; then it has healed by itself.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence

from reservation.aws.client import AwsClient
from reservation.dynamodb.items import hint_name, hinted_block, hints_from_item, hints_key
from reservation.dynamodb.transaction import TRY_SECONDS, batch_get, told_in_domain_terms

_BLOCKS_A_CALL = 100
_CALLS_AT_ONCE = 4

Hints = dict[int, int]
"""Until when (milliseconds since the epoch) the seat at each position of a block is taken; no entry: it is free."""


class HintTable:
    """Every method raises ServiceUnavailable and, for what no retry can cure, AwsError."""

    def __init__(self, client: AwsClient, table: str) -> None:
        self._client = client
        self._table = table

    async def read(
        self, event_id: str, blocks: Sequence[int], until: float, *, consistent: bool = False
    ) -> AsyncIterator[dict[int, Hints]]:
        """The hints of all blocks, up to a hundred blocks at a time; `until` in time.monotonic() seconds."""
        calls = [blocks[start : start + _BLOCKS_A_CALL] for start in range(0, len(blocks), _BLOCKS_A_CALL)]
        for start in range(0, len(calls), _CALLS_AT_ONCE):
            ahead = [self._read(event_id, call, until, consistent) for call in calls[start : start + _CALLS_AT_ONCE]]
            for found in await asyncio.gather(*ahead):
                yield found

    async def _read(self, event_id: str, blocks: Sequence[int], until: float, consistent: bool) -> dict[int, Hints]:
        keys = {self._table: [hints_key(event_id, block) for block in blocks]}
        found: dict[int, Hints] = {block: {} for block in blocks}
        for item in await batch_get(self._client, keys, until, consistent=consistent):
            place = hinted_block(item["pk"]["S"])
            if place is not None:
                found[place[1]] = hints_from_item(item)
        return found

    async def write(self, event_id: str, block: int, hints: Mapping[int, int]) -> None:
        """Changes these positions of the block, at most a hundred."""
        names = {f"#{position}": hint_name(position) for position in hints}
        update = {
            "TableName": self._table,
            "Key": hints_key(event_id, block),
            "UpdateExpression": "SET " + ", ".join(f"#{position} = :{position}" for position in hints),
            "ExpressionAttributeNames": names,
            "ExpressionAttributeValues": {f":{position}": {"N": str(end)} for position, end in hints.items()},
        }
        with told_in_domain_terms(writing=False):
            await self._client.call("UpdateItem", update, timeout=TRY_SECONDS)
