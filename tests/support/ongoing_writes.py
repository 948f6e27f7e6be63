"""Which items of our tables are being written at this moment."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

Key = tuple[str, ...]

# By the end of a table's name. A Put carries its key among the attributes of its Item.
_KEY_ATTRIBUTES = {
    "reservations": ("reservationId", "eventId"),
    "orders": ("orderId", "reservationId"),
    "idempotency": ("idempotencyKey",),
    "outbox": ("shard", "seq"),
    "inventory": ("pk",),
    "leases": ("leaseKey",),
}

SINGLE_WRITES = frozenset({"PutItem", "UpdateItem", "DeleteItem"})


class OngoingWrites:
    """Items of transactions that are prepared and not applied yet, and of other writes on their way."""

    def __init__(self) -> None:
        self.prepared: set[Key] = set()
        self.tokens: set[str] = set()
        self._others: Counter[Key] = Counter()

    def touch(self, key: Key) -> bool:
        """Whether any write of this item is ongoing."""
        return key in self.prepared or key in self._others

    @contextmanager
    def transaction(self, keys: set[Key], token: str | None) -> Iterator[None]:
        """A transaction prepares `keys`, none of which is prepared already."""
        tokens = {token} if token else set()
        self.prepared |= keys
        self.tokens |= tokens
        try:
            yield
        finally:
            self.prepared -= keys
            self.tokens -= tokens

    @contextmanager
    def write(self, keys: list[Key]) -> Iterator[None]:
        """A write outside any transaction; several may touch one item."""
        self._others.update(keys)
        try:
            yield
        finally:
            self._others.subtract(keys)
            self._others = +self._others


def item_keys(operation: str, params: Mapping[str, Any]) -> list[Key]:
    """The items that a request writes, or reads in a transaction, in its order; none for any other request.

    Raises KeyError for a table that is not one of ours, and for a request without its key.
    """
    if operation in ("TransactWriteItems", "TransactGetItems"):
        return [_item_key(action) for item in params["TransactItems"] for action in item.values()]
    if operation in SINGLE_WRITES:
        return [_item_key(params)]
    if operation == "BatchWriteItem":
        return [
            _item_key({"TableName": table, **action})
            for table, entries in params["RequestItems"].items()
            for entry in entries
            for action in entry.values()
        ]
    return []


def key_attributes_of(action: Mapping[str, Any]) -> dict[str, Any]:
    """The key of the item that a Put, Update, Delete, Get or ConditionCheck is about, as `Key` wants it."""
    attributes = action["Key"] if "Key" in action else action["Item"]
    return {name: attributes[name] for name in _key_names(action["TableName"])}


def _item_key(action: Mapping[str, Any]) -> Key:
    return (action["TableName"], *map(str, key_attributes_of(action).values()))


@cache
def _key_names(table: str) -> tuple[str, ...]:
    for suffix, names in _KEY_ATTRIBUTES.items():
        if table.endswith(suffix):
            return names
    raise KeyError(f"key of table {table}")
