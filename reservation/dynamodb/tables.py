"""The tables: names, keys, indexes, and their creation. Billing is by request, so there is no capacity to plan."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

TTL_ATTRIBUTE = "expiresAt"
"""Of the idempotency table: seconds since 1970."""

DUE_INDEX = "expiry"
USER_INDEX = "user"


@dataclass(frozen=True, slots=True)
class Tables:
    """The table names."""

    reservations: str
    orders: str
    idempotency: str
    outbox: str
    inventory: str
    leases: str


async def create_tables(dynamodb: Any, tables: Tables) -> list[str]:
    """Creates the tables that are missing, waits until all are usable and returns the names of the new ones.

    `dynamodb` is an aiobotocore client. Raises botocore's ClientError.
    """
    created = []
    for definition in definitions(tables):
        try:
            await dynamodb.create_table(BillingMode="PAY_PER_REQUEST", **definition)
        except dynamodb.exceptions.ResourceInUseException:
            continue
        created.append(definition["TableName"])
    await asyncio.gather(*(_usable(dynamodb, definition["TableName"]) for definition in definitions(tables)))
    await _expire_records(dynamodb, tables.idempotency)
    return created


async def _expire_records(dynamodb: Any, table: str) -> None:
    """Also for a table that was there: an earlier run may have died in between."""
    current = await dynamodb.describe_time_to_live(TableName=table)
    if current["TimeToLiveDescription"]["TimeToLiveStatus"] in ("DISABLED", "DISABLING"):
        wanted = {"Enabled": True, "AttributeName": TTL_ATTRIBUTE}
        await dynamodb.update_time_to_live(TableName=table, TimeToLiveSpecification=wanted)


async def _usable(dynamodb: Any, table: str) -> None:
    await dynamodb.get_waiter("table_exists").wait(TableName=table, WaiterConfig={"Delay": 1, "MaxAttempts": 60})


def definitions(tables: Tables) -> list[dict[str, Any]]:
    """Each table as CreateTable takes it, but for its billing."""
    return [
        _table(
            tables.reservations,
            ["reservationId:S", "eventId:S"],
            indexes=[
                # Live holds by the time they end. Sparse: `expiryShard` is removed with the hold. Only keys, so an
                # entry costs one write unit however large the reservation is.
                _index(DUE_INDEX, ["expiryShard:S", "holdExpiresAt:N"]),
                # A user's reservations by age: reservation ids begin with the time.
                _index(USER_INDEX, ["userId:S", "reservationId:S"]),
            ],
        ),
        _table(tables.orders, ["orderId:S", "reservationId:S"]),
        _table(tables.idempotency, ["idempotencyKey:S"]),
        _table(tables.outbox, ["shard:S", "seq:S"]),
        _table(tables.inventory, ["pk:S"]),
        _table(tables.leases, ["leaseKey:S"]),
    ]


def _table(name: str, key: Sequence[str], indexes: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    """`key` is "attribute:type", first the hash key, then the range key."""
    attributes = dict(attribute.split(":") for attribute in key)
    for index in indexes:
        attributes |= index.pop("attributes")
    definition: dict[str, Any] = {
        "TableName": name,
        "KeySchema": _key_schema(key),
        "AttributeDefinitions": [{"AttributeName": n, "AttributeType": t} for n, t in attributes.items()],
    }
    if indexes:
        definition["GlobalSecondaryIndexes"] = list(indexes)
    return definition


def _index(name: str, key: Sequence[str]) -> dict[str, Any]:
    return {
        "IndexName": name,
        "KeySchema": _key_schema(key),
        "Projection": {"ProjectionType": "KEYS_ONLY"},
        "attributes": dict(attribute.split(":") for attribute in key),
    }


def _key_schema(key: Sequence[str]) -> list[dict[str, str]]:
    kinds = ("HASH", "RANGE")
    return [
        {"AttributeName": attribute.split(":")[0], "KeyType": kind} for attribute, kind in zip(key, kinds, strict=False)
    ]
