"""What every kind of store does with reservations, orders, idempotency records and outbox rows."""

from collections.abc import Callable, Container, Iterable, Sequence
from typing import Any

from reservation.aws.client import AwsClient
from reservation.domain.commands import Listing
from reservation.domain.errors import IdempotencyInProgress, ReservationError, ServiceUnavailable
from reservation.domain.idempotency import Key, Record, Running
from reservation.domain.model import Reservation, Status
from reservation.dynamodb.conditions import Condition, all_of
from reservation.dynamodb.items import (
    Item,
    order_to_item,
    outbox_to_item,
    record_from_item,
    record_to_item,
    reservation_from_item,
    reservation_key,
    reservation_to_item,
)
from reservation.dynamodb.tables import DUE_INDEX, USER_INDEX, Tables
from reservation.dynamodb.transaction import Action, Cancellation, Role, batch_get, read
from reservation.ports import DuePage, Page

NEW_KEY_IF = all_of(Condition.KEY_IS_NEW)
_NEW_RESERVATION_IF = all_of(Condition.RESERVATION_IS_NEW)
_NEW_ORDER_IF = all_of(Condition.ORDER_IS_NEW)
_DUE_PAGE = 100  # as many as one BatchGetItem reads
_ID = "rsv_"  # what ids of reservations begin with; holds for other services share the table
_LAST = "\U0010ffff"  # no text sorts after it


class DynamoRecords:
    """`now` gives milliseconds since the epoch. `key_window`, in milliseconds, is how long an idempotency key is
    known. `event_written` is told of the shard of each new outbox row."""

    def __init__(
        self,
        client: AwsClient,
        tables: Tables,
        *,
        now: Callable[[], int],
        key_window: int,
        event_written: Callable[[str], None] = lambda shard: None,
    ) -> None:
        self._client = client
        self._tables = tables
        self._now = now
        self._key_window = key_window
        self._event_written = event_written

    async def find(self, reservation_id: str, until: float) -> Reservation | None:
        query = {
            "TableName": self._tables.reservations,
            "KeyConditionExpression": "reservationId = :id",
            "ExpressionAttributeValues": {":id": {"S": reservation_id}},
            "ConsistentRead": True,
        }
        reply = await read(self._client, "Query", query, until)
        return reservation_from_item(reply["Items"][0]) if reply["Items"] else None

    async def page(self, wanted: Listing, until: float) -> Page:
        query = {
            "TableName": self._tables.reservations,
            "IndexName": USER_INDEX,
            "KeyConditionExpression": "userId = :user AND reservationId BETWEEN :oldest AND :newest",
            "ExpressionAttributeValues": {
                ":user": {"S": wanted.user_id},
                ":oldest": {"S": _ID},
                ":newest": {"S": _ID + (wanted.begin or _LAST)},
            },
            "ScanIndexForward": False,
            "Limit": wanted.size + 1,  # one more: the first of the next page
        }
        entries = (await read(self._client, "Query", query, until))["Items"]
        page, rest = entries[: wanted.size], entries[wanted.size :]
        chosen = [entry for entry in page if wanted.event_id in ("", entry["eventId"]["S"])]
        found = [reservation_from_item(item) for item in await self._reservations_of(chosen, until)]
        found.sort(key=lambda reservation: reservation.id, reverse=True)
        return Page(tuple(found), rest[0]["reservationId"]["S"].removeprefix(_ID) if rest else "")

    async def newer(self, known: Sequence[Reservation], until: float) -> Sequence[Reservation]:
        table, versions = self._tables.reservations, {each.id: each.version for each in known}
        request = {"RequestItems": {table: {"Keys": [reservation_key(each) for each in known]}}}
        found = (await read(self._client, "BatchGetItem", request, until))["Responses"].get(table, [])
        changed = [item for item in found if int(item["version"]["N"]) > versions[item["reservationId"]["S"]]]
        return _readable(changed)[0]

    async def recall(self, key: Key, until: float) -> Record | Running | None:
        request = {"TableName": self._tables.idempotency, "Key": key_of_record(key), "ConsistentRead": True}
        return self._live((await read(self._client, "GetItem", request, until)).get("Item"))

    def _live(self, item: Item | None) -> Record | Running | None:
        record = record_from_item(item) if item else None
        # DynamoDB deletes items past their TTL when it finds the time, which may take days.
        return record if record and record.expires_at > self._now() else None

    async def due(
        self, shard: str, before: int, page: object | None, until: float, *, besides: Container[str] = ()
    ) -> DuePage:
        query: dict[str, Any] = {
            "TableName": self._tables.reservations,
            "IndexName": DUE_INDEX,
            "KeyConditionExpression": "expiryShard = :shard AND holdExpiresAt <= :before",
            "ExpressionAttributeValues": {":shard": {"S": shard}, ":before": {"N": str(before)}},
            "Limit": _DUE_PAGE,
        }
        if page is not None:
            query["ExclusiveStartKey"] = page
        reply = await read(self._client, "Query", query, until)
        entries = [entry for entry in reply["Items"] if entry["reservationId"]["S"] not in besides]
        holds, unreadable = _readable(await self._reservations_of(entries, until))
        holds.sort(key=lambda held: held.hold_expires_at)
        return DuePage(tuple(holds), tuple(unreadable), reply.get("LastEvaluatedKey"))

    async def _reservations_of(self, entries: Sequence[Item], until: float) -> list[Item]:
        """The reservations of index entries, as they are now."""
        if not entries:
            return []
        keys = [{name: entry[name] for name in ("reservationId", "eventId")} for entry in entries]
        return await batch_get(self._client, {self._tables.reservations: keys}, until)

    def _new_reservation(self, draft: Reservation) -> dict[str, Any]:
        """The Put of one that is not there yet."""
        return {
            "TableName": self._tables.reservations,
            "Item": reservation_to_item(draft),
            "ConditionExpression": _NEW_RESERVATION_IF,
            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
        }

    def _key_action(self, key: Key | None, answer: Reservation) -> list[Action]:
        if key is None:
            return []
        now = self._now()
        put = {
            "TableName": self._tables.idempotency,
            "Item": record_to_item(key, answer, self._forgotten_at(key, answer)),
            "ConditionExpression": NEW_KEY_IF,
            "ExpressionAttributeValues": {":now": {"N": str(now // 1000)}},
            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
        }
        return [Action(Role.KEY, {"Put": put})]

    def _forgotten_at(self, key: Key, answer: Reservation) -> int:
        end = self._now() + self._key_window
        return min(end, answer.hold_expires_at) if key.ends_with_hold else end

    def _order_action(self, after: Reservation) -> list[Action]:
        if after.status is not Status.CONFIRMED or after.foreign:
            return []
        put = {
            "TableName": self._tables.orders,
            "Item": order_to_item(after),
            "ConditionExpression": _NEW_ORDER_IF,
        }
        return [Action(Role.ORDER, {"Put": put})]

    def _outbox_action(self, after: Reservation, traceparent: str, released: Sequence[str] = ()) -> list[Action]:
        if after.foreign:
            return []
        put = {"TableName": self._tables.outbox, "Item": outbox_to_item(after, traceparent, released)}
        return [Action(Role.OUTBOX, {"Put": put})]


def _readable(items: Iterable[Item]) -> tuple[list[Reservation], list[str]]:
    """The reservations, and the ids of those that no code of this version understands."""
    readable, unreadable = [], []
    for item in items:
        try:
            readable.append(reservation_from_item(item))
        except (KeyError, TypeError, ValueError):
            unreadable.append(item["reservationId"]["S"])
    return readable, unreadable


def key_of_record(key: Key) -> dict[str, Any]:
    return {"idempotencyKey": {"S": key.id}}


def require_no_other_order(verdict: Cancellation) -> None:
    """Raises RuntimeError if an order stands in the way of a sale."""
    if verdict.failed(Role.ORDER) and not verdict.undecided(Role.RESERVATION):
        raise RuntimeError("there is an order for a reservation that is not sold")


def time_is_up(verdict: Cancellation) -> type[ReservationError]:
    return IdempotencyInProgress if verdict.conflicted(Role.KEY) else ServiceUnavailable
