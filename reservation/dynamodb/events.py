"""Events and their seats as an operator brings them in."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count

from reservation.aws.client import AwsClient
from reservation.aws.errors import ConditionFailed
from reservation.domain.model import Event, Seat, SeatStatus
from reservation.dynamodb.items import (
    Item,
    event_to_item,
    new_seat_to_item,
    price_to_item,
    seat_from_item,
    seat_key,
)
from reservation.dynamodb.transaction import Action, Role, back_off, transact

_BATCH = 100  # TransactWriteItems takes no more
_AT_ONCE = 4
_PATIENCE_SECONDS = 30.0


@dataclass(slots=True)
class Imported:
    """How many seats were new, were there with a former price that could be changed, were there as they are in the
    file, or were left as they are because somebody holds or owns them or their place in the hall differs."""

    added: int = 0
    repriced: int = 0
    unchanged: int = 0
    kept: int = 0


class EventImport:
    """Writes an event and its seats so that it may be interrupted and run again: a seat that is there is never
    overwritten, only the price of a free one follows the file. The event itself is written last, so nothing can be
    reserved before everything is there."""

    def __init__(self, client: AwsClient, inventory_table: str) -> None:
        self._client = client
        self._table = inventory_table

    async def run(self, event: Event, seats: Sequence[Seat], progress: Callable[[int], None]) -> Imported:
        """`progress` is told of the number of seats that were dealt with since it was told last.

        Raises ServiceUnavailable, UpstreamTimeout: run it again.
        """
        imported = Imported()
        batches = _batches(seats)

        async def work() -> None:
            for batch in batches:
                await self._add(event.id, batch, imported)
                progress(len(batch))

        async with asyncio.TaskGroup() as workers:
            for _ in range(_AT_ONCE):
                workers.create_task(work())
        put = {"TableName": self._table, "Item": event_to_item(event)}
        await self._client.call("PutItem", put)
        return imported

    async def _add(self, event_id: str, seats: Sequence[Seat], imported: Imported) -> None:
        """Puts the seats that are not there, all in one transaction, and settles the others one by one."""
        missing = {seat.id: seat for seat in seats}
        until = time.monotonic() + _PATIENCE_SECONDS
        for attempt in count():
            if not missing:
                return
            verdict = await transact(self._client, [self._put(event_id, seat) for seat in missing.values()], until)
            if verdict is None:
                imported.added += len(missing)
                return
            for there in verdict.failed(Role.SEAT):
                await self._settle(event_id, missing.pop(there.subject), there.item or {}, imported)
            if not verdict.failed(Role.SEAT):
                await back_off(attempt, until, verdict)

    def _put(self, event_id: str, seat: Seat) -> Action:
        put = {
            "TableName": self._table,
            "Item": new_seat_to_item(event_id, seat),
            "ConditionExpression": "attribute_not_exists(pk)",
            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
        }
        return Action(Role.SEAT, {"Put": put}, seat.id)

    async def _settle(self, event_id: str, wanted: Seat, there: Item, imported: Imported) -> None:
        present = seat_from_item(there)
        if present == wanted:
            imported.unchanged += 1
        elif (present.section, present.row, present.number) == (wanted.section, wanted.row, wanted.number):
            await self._reprice(event_id, wanted, imported)
        else:
            imported.kept += 1

    async def _reprice(self, event_id: str, seat: Seat, imported: Imported) -> None:
        price = price_to_item(seat.price)
        update = {
            "TableName": self._table,
            "Key": seat_key(event_id, seat.id),
            "UpdateExpression": "SET amount = :amount, currency = :currency",
            "ConditionExpression": "#status = :available OR (#status = :held AND holdExpiresAt <= :now)",
            "ExpressionAttributeNames": {"#status": "status"},
            "ExpressionAttributeValues": {
                ":amount": price["amount"],
                ":currency": price["currency"],
                ":available": {"S": SeatStatus.AVAILABLE.value},
                ":held": {"S": SeatStatus.HELD.value},
                ":now": {"N": str(time.time_ns() // 1_000_000)},
            },
        }
        try:
            await self._client.call("UpdateItem", update)
        except ConditionFailed:
            imported.kept += 1
        else:
            imported.repriced += 1


def _batches(seats: Sequence[Seat]) -> Iterator[Sequence[Seat]]:
    return (seats[start : start + _BATCH] for start in range(0, len(seats), _BATCH))
