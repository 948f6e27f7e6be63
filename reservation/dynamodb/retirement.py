"""Taking a shard out of use."""

from collections.abc import Awaitable, Callable

from reservation.aws.client import AwsClient
from reservation.dynamodb.items import dead_letter_partition
from reservation.dynamodb.leases import LeaseTable
from reservation.dynamodb.tables import DUE_INDEX, Tables

LASTING_SHARD = "0000"
"""The shard that is never retired: whoever does not know which are in use chooses this one."""

WRITERS_LOOK_WITHIN_LEASES = 2
"""Nobody chooses a shard from a scan that is older."""

_COMMAND_SECONDS = 4.5
"""A command begins no try after 2.5 s; that try may wait a second for a connection and another for its reply."""


class NotRetirable(Exception):
    """The shard is the one that lasts, or there is none of that name. Nothing was changed."""


async def retire(
    leases: LeaseTable,
    shard: str,
    is_empty: Callable[[str], Awaitable[bool]],
    *,
    lease_seconds: float,
    sleep: Callable[[float], Awaitable[None]],
    monotonic: Callable[[], float],
) -> bool:
    """Marks the shard as retiring, waits until nobody can choose it any more, and removes it if it is empty.

    False: it was not empty, or was brought back into use meanwhile. It stays as it is and is worked on; do the same
    again later.

    `is_empty` must not answer True while a reservation of this shard can still have another event.

    Raises NotRetirable and AwsError. A setting that asks for the shard brings it back at the next start of a worker.
    """
    if shard == LASTING_SHARD or not await leases.mark_retiring(shard):
        raise NotRetirable(shard)
    safe_at = monotonic() + WRITERS_LOOK_WITHIN_LEASES * lease_seconds + _COMMAND_SECONDS
    while (left := safe_at - monotonic()) > 0:
        await sleep(left)
    return await is_empty(shard) and await leases.remove_shard(shard)


async def is_empty(client: AwsClient, tables: Tables, shard: str) -> bool:
    """Whether a shard that nobody chooses any more has neither live holds, nor events that wait, nor dead letters.

    Each place is read after those from which something may move into it, so that nothing is missed on its way: a
    confirm moves from the holds to the events, a burial from there to the dead letters, and a replay back. An event
    that is replayed is not buried again within the time of two reads: that takes eight refusals. Raises AwsError.
    """

    async def outbox_has(partition: str) -> bool:
        return await _has(client, tables.outbox, "shard", partition, ConsistentRead=True)

    return not (
        await _has(client, tables.reservations, "expiryShard", shard, IndexName=DUE_INDEX)
        or await outbox_has(shard)
        or await outbox_has(dead_letter_partition(shard))
        or await outbox_has(shard)
    )


async def _has(client: AwsClient, table: str, key: str, value: str, **more: object) -> bool:
    query = {
        "TableName": table,
        "KeyConditionExpression": "#key = :value",
        "ExpressionAttributeNames": {"#key": key},
        "ExpressionAttributeValues": {":value": {"S": value}},
        "Select": "COUNT",
        "Limit": 1,
    }
    return int((await client.call("Query", query | more))["Count"]) > 0
