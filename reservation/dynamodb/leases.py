"""The leases table: one item a worker, whose counter says that it lives, and one item a shard, which says whose it is.

A shard's item changes only with its owner, never with a renewal, so that nothing ever collides with renewals. A token
grows by one with every take-over; with the owner it is the whole condition of every change of ownership.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from reservation.aws.client import AwsClient
from reservation.aws.errors import ConditionFailed
from reservation.dynamodb.items import Item

NOBODY = ""

_WORKER, _SHARD = "worker#", "shard#"
_ATTEMPTS = 2
_NAMES = {"#owner": "owner", "#token": "token", "#counter": "counter"}  # all three are words of the expression language


@dataclass(frozen=True, slots=True)
class Worker:
    """A process that works on shards. `started_at` (milliseconds) is when its item came to be: one that was removed and
    made anew has another."""

    id: str
    counter: int
    started_at: int


@dataclass(frozen=True, slots=True)
class Shard:
    """Whose a shard is, `since` when (milliseconds), and under which token. `retiring`: takes no new reservations."""

    name: str
    owner: str = NOBODY
    token: int = 0
    since: int = 0
    retiring: bool = False


@dataclass(frozen=True, slots=True)
class Roll:
    """All workers and shards, sorted by name. Not of one instant: each item is as it was at some time of the scan."""

    workers: tuple[Worker, ...]
    shards: tuple[Shard, ...]


class LeaseTable:
    """Every method raises AwsError. A try may take a third of a lease, a call makes two."""

    def __init__(self, client: AwsClient, table: str, *, lease_seconds: float) -> None:
        self._client = client
        self._table = table
        self._timeout = lease_seconds / 3

    async def beat(self, worker_id: str, now: int) -> Worker:
        """Moves the worker's counter on, by more than one if a reply was lost. Makes the item if there is none."""
        answer = await self._call(
            "UpdateItem",
            Key=_worker_key(worker_id),
            UpdateExpression="ADD #counter :one SET startedAt = if_not_exists(startedAt, :now)",
            ExpressionAttributeNames=_named("#counter"),
            ExpressionAttributeValues={":one": _number(1), ":now": _number(now)},
            ReturnValues="ALL_NEW",
        )
        return worker_from_item(answer["Attributes"])

    async def scan(self) -> Roll:
        """Strongly consistent, item by item. Items of other kinds are passed over."""
        workers, shards = [], []
        page: dict[str, Any] = {}
        while True:
            page = await self._call("Scan", ConsistentRead=True, **_from_where(page))
            for item in page["Items"]:
                key = item["leaseKey"]["S"]
                if key.startswith(_WORKER):
                    workers.append(worker_from_item(item))
                elif key.startswith(_SHARD):
                    shards.append(shard_from_item(item))
            if "LastEvaluatedKey" not in page:
                return Roll(
                    tuple(sorted(workers, key=lambda worker: worker.id)),
                    tuple(sorted(shards, key=lambda shard: shard.name)),
                )

    async def take(self, shard: Shard, worker_id: str, now: int) -> Shard | None:
        """The shard as the worker has it now. None: it is no longer as `shard` says, so somebody else was first."""
        taken = replace(shard, owner=worker_id, token=shard.token + 1, since=now)
        try:
            await self._change_owner(shard, taken)
        except ConditionFailed as failed:
            return taken if _shows(failed.item, taken) else None  # it is ours already: an earlier reply was lost
        return taken

    async def give_back(self, shard: Shard, now: int) -> None:
        """Afterwards the shard's owner does not have it under this token any more, and anybody may take it."""
        try:
            await self._change_owner(shard, replace(shard, owner=NOBODY, since=now))
        except ConditionFailed:
            return  # given back by a try whose reply was lost, or somebody else's by now

    async def leave(self, worker_id: str) -> None:
        """Removes the worker's own item."""
        await self._call("DeleteItem", Key=_worker_key(worker_id))

    async def bury(self, worker: Worker) -> None:
        """Removes a dead worker's item, unless it has shown a sign of life since."""
        try:
            await self._call(
                "DeleteItem",
                Key=_worker_key(worker.id),
                ConditionExpression="#counter = :counter AND startedAt = :started",
                ExpressionAttributeNames=_named("#counter"),
                ExpressionAttributeValues={
                    ":counter": _number(worker.counter),
                    ":started": _number(worker.started_at),
                },
            )
        except ConditionFailed:
            return

    async def add_shard(self, name: str, now: int) -> bool:
        """Adds a shard that nobody has yet. False: one of that name is there, and stays as it is, retiring or not."""
        try:
            await self._call(
                "PutItem",
                Item=shard_to_item(Shard(name, since=now)),
                ConditionExpression="attribute_not_exists(leaseKey)",
            )
        except ConditionFailed:
            return False
        return True

    async def bring_back(self, name: str) -> bool:
        """Takes the mark off a shard that was to retire. False: there is no such shard, or it bears no mark."""
        try:
            await self._call(
                "UpdateItem",
                Key=_shard_key(name),
                UpdateExpression="REMOVE retiring",
                ConditionExpression="retiring = :true",
                ExpressionAttributeValues={":true": {"BOOL": True}},
            )
        except ConditionFailed:
            return False
        return True

    async def mark_retiring(self, name: str) -> bool:
        """False: there is no such shard."""
        try:
            await self._call(
                "UpdateItem",
                Key=_shard_key(name),
                UpdateExpression="SET retiring = :true",
                ConditionExpression="attribute_exists(leaseKey)",
                ExpressionAttributeValues={":true": {"BOOL": True}},
            )
        except ConditionFailed:
            return False
        return True

    async def remove_shard(self, name: str) -> bool:
        """Removes a shard if it is retiring. False: it is there and is not. Whoever owns it learns of that at the next
        scan; requiring it to be free would be in vain, because a shard stays owned for as long as it exists."""
        try:
            await self._call(
                "DeleteItem",
                Key=_shard_key(name),
                ConditionExpression="attribute_not_exists(leaseKey) OR retiring = :true",
                ExpressionAttributeValues={":true": {"BOOL": True}},
            )
        except ConditionFailed:
            return False
        return True

    async def _change_owner(self, before: Shard, after: Shard) -> None:
        await self._call(
            "UpdateItem",
            Key=_shard_key(before.name),
            UpdateExpression="SET #owner = :owner, #token = :token, since = :since",
            ConditionExpression="#owner = :old_owner AND #token = :old_token",
            ExpressionAttributeNames=_named("#owner", "#token"),
            ExpressionAttributeValues={
                ":owner": {"S": after.owner},
                ":token": _number(after.token),
                ":since": _number(after.since),
                ":old_owner": {"S": before.owner},
                ":old_token": _number(before.token),
            },
            ReturnValuesOnConditionCheckFailure="ALL_OLD",
        )

    async def _call(self, operation: str, **params: Any) -> dict[str, Any]:
        request = {"TableName": self._table} | params
        return await self._client.call(operation, request, timeout=self._timeout, attempts=_ATTEMPTS)


def worker_from_item(item: Mapping[str, Any]) -> Worker:
    return Worker(
        id=item["leaseKey"]["S"].removeprefix(_WORKER),
        counter=int(item["counter"]["N"]),
        started_at=int(item["startedAt"]["N"]),
    )


def shard_to_item(shard: Shard) -> Item:
    item = _shard_key(shard.name) | {
        "owner": {"S": shard.owner},
        "token": _number(shard.token),
        "since": _number(shard.since),
    }
    return item | {"retiring": {"BOOL": True}} if shard.retiring else item


def shard_from_item(item: Mapping[str, Any]) -> Shard:
    return Shard(
        name=item["leaseKey"]["S"].removeprefix(_SHARD),
        owner=item["owner"]["S"],
        token=int(item["token"]["N"]),
        since=int(item["since"]["N"]),
        retiring=item.get("retiring", {}).get("BOOL", False),
    )


def _shows(item: Item | None, taken: Shard) -> bool:
    if item is None:
        return False
    found = shard_from_item(item)
    return (found.owner, found.token) == (taken.owner, taken.token)


def _from_where(page: Mapping[str, Any]) -> dict[str, Any]:
    return {"ExclusiveStartKey": page["LastEvaluatedKey"]} if page else {}


def _worker_key(worker_id: str) -> Item:
    return {"leaseKey": {"S": f"{_WORKER}{worker_id}"}}


def _shard_key(name: str) -> Item:
    return {"leaseKey": {"S": f"{_SHARD}{name}"}}


def _named(*names: str) -> dict[str, str]:
    return {name: _NAMES[name] for name in names}


def _number(value: int) -> dict[str, str]:
    return {"N": str(value)}
