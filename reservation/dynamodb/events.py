"""Events and their seats as an operator brings them in."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count

from reservation.aws.client import AwsClient
from reservation.aws.errors import ConditionFailed
from reservation.domain.layout import merged, seats_of
from reservation.domain.model import Event, Seat, SeatStatus
from reservation.domain.seating import BLOCKED, FREE, Hall
from reservation.dynamodb.hints import HintTable
from reservation.dynamodb.items import (
    Item,
    event_from_item,
    event_key,
    event_to_item,
    new_seat_to_item,
    seat_from_item,
    seat_key,
)
from reservation.dynamodb.layouts import Layouts
from reservation.dynamodb.transaction import Action, Role, back_off, transact

_BATCH = 100  # TransactWriteItems takes no more
_AT_ONCE = 4
_PATIENCE_SECONDS = 30.0

_NOBODYS_IF = "#status IN (:available, :blocked) OR (#status = :held AND holdExpiresAt <= :now)"
_CHANGING = ("amount", "currency", "accessible", "spot")


@dataclass(slots=True)
class Imported:
    """How many seats were new, were there with another price or accessibility that could be changed, were there as they
    are in the file, or were left as they are because somebody holds or owns them or their place in the
    hall differs."""

    added: int = 0
    changed: int = 0
    unchanged: int = 0
    kept: int = 0


class EventImport:
    """Writes an event and its seats so that it may be interrupted and run again: a seat that is there is never
    overwritten, only the price of an unsold one follows the file. The layout is written first, because a seat's place
    in it is for ever, and the event itself last, so that nothing can be reserved before everything is there."""

    def __init__(self, client: AwsClient, inventory_table: str) -> None:
        self._client = client
        self._table = inventory_table
        self._layouts = Layouts(client, inventory_table)

    async def run(
        self,
        event: Event,
        seats: Sequence[Seat],
        progress: Callable[[int], None],
        *,
        keep_settings: bool = False,
    ) -> Imported:
        """`progress` is told of the number of seats that were dealt with since it was told last. `keep_settings`: of an
        event that is there already only the name changes, and that only to one that is not empty.

        Raises ServiceUnavailable, UpstreamTimeout: run it again; InvalidRequest, if the seats do not go with those that
        are there (see layout.merged): nothing was written.
        """
        imported = Imported()
        batches = _batches(await self._lay_out(event.id, seats))

        async def work() -> None:
            for batch in batches:
                await self._add(event.id, batch, imported)
                progress(len(batch))

        async with asyncio.TaskGroup() as workers:
            for _ in range(_AT_ONCE):
                workers.create_task(work())
        if keep_settings and (there := await find_event(self._client, self._table, event.id)) is not None:
            event = replace(there, name=event.name or there.name)
        put = {"TableName": self._table, "Item": event_to_item(event)}
        await self._client.call("PutItem", put)
        return imported

    async def _lay_out(self, event_id: str, seats: Sequence[Seat]) -> list[Seat]:
        """The seats with the spots that they have from now on."""
        until = time.monotonic() + _PATIENCE_SECONDS
        before = await self._layouts.load(event_id, until)
        sections = merged(before.sections, seats)
        if sections != before.sections:
            await self._layouts.replace(event_id, before, sections, until)
        spots = {seat.id: seat.spot for seat in seats_of(sections)}
        return [replace(seat, spot=spots[seat.id]) for seat in seats]

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
            await self._change(event_id, wanted, imported)
        else:
            imported.kept += 1

    async def _change(self, event_id: str, seat: Seat, imported: Imported) -> None:
        wanted = new_seat_to_item(event_id, seat)
        names = [name for name in _CHANGING if name in wanted]
        change = "SET " + ", ".join(f"{name} = :{name}" for name in names)
        if not seat.accessible:
            change += " REMOVE accessible"
        values = {f":{name}": wanted[name] for name in names}
        values |= _nobodys_values(time.time_ns() // 1_000_000)
        if await _update_seat(self._client, self._table, event_id, seat.id, change, _NOBODYS_IF, values):
            imported.changed += 1
        else:
            imported.kept += 1


class SeatBlocks:
    """Takes seats off sale and puts them back. Every method raises ServiceUnavailable and AwsError.

    `now` gives milliseconds since the epoch. It decides which holds have ended, so it must be right."""

    def __init__(self, client: AwsClient, inventory_table: str, *, now: Callable[[], int]) -> None:
        self._client = client
        self._table = inventory_table
        self._hints = HintTable(client, inventory_table)
        self._now = now

    async def block(self, event_id: str, seat_id: str) -> bool:
        """False: there is no such seat, or somebody holds or owns it; nothing was changed."""
        change = "SET #status = :blocked REMOVE holder, holderKey, holdExpiresAt"
        return await self._move(event_id, seat_id, change, BLOCKED)

    async def unblock(self, event_id: str, seat_id: str) -> bool:
        """The same for the way back."""
        change = "SET #status = :available REMOVE holder, holderKey, holdExpiresAt"
        return await self._move(event_id, seat_id, change, FREE)

    async def _move(self, event_id: str, seat_id: str, change: str, taken_until: int) -> bool:
        # Blocked seats may be blocked again, and free ones freed: a try whose reply was lost is no refusal.
        values = _nobodys_values(self._now())
        item = await _update_seat(self._client, self._table, event_id, seat_id, change, _NOBODYS_IF, values)
        if item is not None and (spot := seat_from_item(item).spot) is not None:
            await self._hints.write(event_id, spot.block, {spot.position: taken_until})
        return item is not None


def _nobodys_values(now: int) -> Item:
    """What _NOBODYS_IF names."""
    return {
        ":available": {"S": SeatStatus.AVAILABLE.value},
        ":blocked": {"S": SeatStatus.BLOCKED.value},
        ":held": {"S": SeatStatus.HELD.value},
        ":now": {"N": str(now)},
    }


async def _update_seat(
    client: AwsClient, table: str, event_id: str, seat_id: str, change: str, condition: str, values: Item
) -> Item | None:
    """The seat's item as it is then; None: the condition did not hold."""
    update = {
        "TableName": table,
        "Key": seat_key(event_id, seat_id),
        "UpdateExpression": change,
        "ConditionExpression": condition,
        "ExpressionAttributeNames": {"#status": "status"},
        "ExpressionAttributeValues": values,
        "ReturnValues": "ALL_NEW",
    }
    try:
        item: Item = (await client.call("UpdateItem", update))["Attributes"]
    except ConditionFailed:
        return None
    return item


async def find_event(client: AwsClient, table: str, event_id: str) -> Event | None:
    request = {"TableName": table, "Key": event_key(event_id), "ConsistentRead": True}
    item = (await client.call("GetItem", request)).get("Item")
    return event_from_item(item) if item else None


async def read_hall(client: AwsClient, table: str, event_id: str) -> Hall:
    """How an event's seats stand, with the newest hints. Raises ServiceUnavailable."""
    until = time.monotonic() + _PATIENCE_SECONDS
    hall = Hall((await Layouts(client, table).load(event_id, until)).sections)
    async for hints in HintTable(client, table).read(event_id, hall.block_numbers, until, consistent=True):
        for block, ends in hints.items():
            hall.hints(block, ends, now=0)
    return hall


def _batches(seats: Sequence[Seat]) -> Iterator[Sequence[Seat]]:
    return (seats[start : start + _BATCH] for start in range(0, len(seats), _BATCH))
