"""One audit of the tables.

They are read one after the other while sales go on, so a first finding is only a suspect: what it is about is read
again, strongly consistent, and it is reported if it is still so every time.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Set
from typing import Any, Protocol

from reservation.audit.promises import (
    USUAL_GRACES,
    Finding,
    Graces,
    Snapshot,
    Told,
    findings,
    is_over,
    missing_events,
    name_of,
    seat_pks,
    untold,
)
from reservation.aws.client import AwsClient
from reservation.domain.model import Reservation, Spot, order_id_of
from reservation.dynamodb.items import (
    Item,
    UnreadableRow,
    hinted_block,
    hints_from_item,
    hints_key,
    is_seat_pk,
    is_slot_key,
    outbox_row_from_item,
    reservation_from_item,
    seat_from_item,
    seat_state_from_item,
    shard_of_dead_letters,
    slot_state_from_item,
)
from reservation.dynamodb.tables import Tables

_RECHECKS, _RECHECK_SECONDS = 3, 1.0
_QUESTIONS_AT_ONCE, _ANSWER_SECONDS = 16, 5.0

_SILENCE_SECONDS = 5.0
"""A queue that has not brought an event that was missing for so long does not have it."""


class Receiver(Protocol):
    """Where all events arrive."""

    async def receive(self) -> Set[Told]:
        """Some of the events that were not received yet; none if there are none after about a second."""
        ...


ForSale = Callable[[Reservation, float], Awaitable[tuple[str, ...]]]
"""Which of a reservation's seats the remote inventory would sell to somebody else; asked up to a time.monotonic()."""


class Audit:
    """`now` gives milliseconds since the epoch. With a `receiver` events are looked for that never came.
    `seats_elsewhere` as in Snapshot. With `for_sale` the remote inventory is asked about every seat that is held or
    sold; its errors are raised."""

    def __init__(
        self,
        client: AwsClient,
        tables: Tables,
        *,
        now: Callable[[], int],
        graces: Graces = USUAL_GRACES,
        receiver: Receiver | None = None,
        seats_elsewhere: bool = False,
        for_sale: ForSale | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._tables = tables
        self._now = now
        self._graces = graces
        self._receiver = receiver
        self._received: set[Told] = set()
        self._seats_elsewhere = seats_elsewhere
        self._for_sale = for_sale
        self._sleep = sleep
        self._monotonic = monotonic

    async def run(self) -> tuple[Snapshot, list[Finding]]:
        """What was read, and what is wrong."""
        snapshot = await self._read_everything()
        suspects = await self._judge(snapshot)
        for _ in range(_RECHECKS):
            if not suspects:
                break
            await self._sleep(_RECHECK_SECONDS)
            suspects &= await self._judge(await self._read_again(suspects))
        return snapshot, sorted(suspects, key=lambda finding: (finding.kind, finding.subject))

    async def _judge(self, snapshot: Snapshot) -> set[Finding]:
        found = set(findings(snapshot, now=self._now(), graces=self._graces))
        if self._receiver is not None:
            await self._listen(self._receiver, snapshot)
            found |= set(missing_events(snapshot, self._received))
        return found

    async def _listen(self, receiver: Receiver, snapshot: Snapshot) -> None:
        """Receives what the snapshot knows of. The events of a sale that goes on never end, so it cannot wait until
        there are no more."""
        missing = set(untold(snapshot)) - self._received
        until = self._monotonic() + _SILENCE_SECONDS
        while missing and self._monotonic() < until:
            news = await receiver.receive()
            self._received |= news
            if news & missing:
                until = self._monotonic() + _SILENCE_SECONDS
            missing -= news

    async def _read_everything(self) -> Snapshot:
        """The outbox after the reservations: an event that is not there any more is with the bus."""
        tables, snapshot = self._tables, Snapshot(self._seats_elsewhere)
        async for item in self._scan(tables.inventory):
            _add_inventory(snapshot, item)
        async for item in self._scan(tables.reservations):
            _add_reservation(snapshot, item)
        async for item in self._scan(tables.orders):
            _add_order(snapshot, item)
        await self._read_outbox(snapshot)
        await self._ask_what_is_for_sale(snapshot)
        return snapshot

    async def _ask_what_is_for_sale(self, snapshot: Snapshot) -> None:
        """About those that were read before: what is for sale now may have been given back since."""
        for_sale = self._for_sale
        if for_sale is None:
            return
        slots, now = asyncio.Semaphore(_QUESTIONS_AT_ONCE), self._now()

        async def ask(reservation: Reservation) -> None:
            async with slots:
                snapshot.for_sale[reservation.id] = await for_sale(reservation, time.monotonic() + _ANSWER_SECONDS)

        async with asyncio.TaskGroup() as questions:
            for reservation in snapshot.reservations.values():
                if reservation.seat_status is not None and not is_over(reservation, now):
                    questions.create_task(ask(reservation))

    async def _read_outbox(self, snapshot: Snapshot) -> None:
        async for item in self._scan(self._tables.outbox):
            _add_event(snapshot, item)

    async def _read_again(self, suspects: Iterable[Finding]) -> Snapshot:
        """Seats and slots before their holders: who holds one was written together with it. Events last, as above."""
        suspects = list(suspects)
        snapshot = Snapshot(self._seats_elsewhere)
        for pk in {pk for suspect in suspects for pk in suspect.seats}:
            await self._read_seat_or_slot(snapshot, pk)
        holders = {seat.holder for seat in snapshot.seats.values() if seat.holder}
        holders |= {slot.holder for slot in snapshot.slots.values()}
        for reservation_id in holders | {each for suspect in suspects for each in suspect.reservations}:
            await self._read_reservation(snapshot, reservation_id)
        for order_id in {order_id for suspect in suspects for order_id in suspect.orders}:
            await self._read_orders(snapshot, order_id)
        if any(suspect.events for suspect in suspects):
            await self._read_outbox(snapshot)
        await self._ask_what_is_for_sale(snapshot)
        return snapshot

    async def _read_seat_or_slot(self, snapshot: Snapshot, pk: str) -> None:
        if (item := await self._get(self._tables.inventory, {"pk": {"S": pk}})) is not None:
            _add_inventory(snapshot, item)
        if (spot := snapshot.spots.get(pk)) is not None:
            hints = await self._get(self._tables.inventory, hints_key(pk.partition("#")[0], spot.block))
            _add_inventory(snapshot, hints or {})

    async def _read_reservation(self, snapshot: Snapshot, reservation_id: str) -> None:
        for item in await self._query(self._tables.reservations, "reservationId", reservation_id):
            _add_reservation(snapshot, item)
        if (reservation := snapshot.reservations.get(reservation_id)) is not None:
            for pk in set(seat_pks(reservation)) - snapshot.seats.keys():
                await self._read_seat_or_slot(snapshot, pk)
        await self._read_orders(snapshot, order_id_of(reservation_id))

    async def _read_orders(self, snapshot: Snapshot, order_id: str) -> None:
        for item in await self._query(self._tables.orders, "orderId", order_id):
            _add_order(snapshot, item)

    async def _get(self, table: str, key: Item) -> Item | None:
        reply = await self._client.call("GetItem", {"TableName": table, "Key": key, "ConsistentRead": True})
        item: Item | None = reply.get("Item")
        return item

    async def _query(self, table: str, name: str, value: str) -> list[Item]:
        query = {
            "TableName": table,
            "KeyConditionExpression": f"{name} = :value",
            "ExpressionAttributeValues": {":value": {"S": value}},
            "ConsistentRead": True,
        }
        items: list[Item] = (await self._client.call("Query", query))["Items"]
        return items

    async def _scan(self, table: str) -> AsyncIterator[Item]:
        page: dict[str, Any] = {"TableName": table, "ConsistentRead": True}
        while True:
            reply = await self._client.call("Scan", page, timeout=30.0)
            for item in reply["Items"]:
                yield item
            if not (last := reply.get("LastEvaluatedKey")):
                return
            page["ExclusiveStartKey"] = last


UNREADABLE = (KeyError, TypeError, ValueError)


def _add_inventory(snapshot: Snapshot, item: Item) -> None:
    """Seats, slots and hints; of an event's other items nothing is promised."""
    pk = item["pk"]["S"] if item else ""
    try:
        if is_seat_pk(pk):
            _add_seat(snapshot, pk, item)
        elif is_slot_key(pk):
            snapshot.slots[pk] = slot_state_from_item(item)
        elif (block := hinted_block(pk)) is not None:
            event_id, number = block
            for position, taken_until in hints_from_item(item).items():
                snapshot.hints[event_id, Spot(number, position)] = taken_until
    except UNREADABLE:
        _add_unreadable(snapshot, "inventory", pk, seats=(pk,))


def _add_seat(snapshot: Snapshot, pk: str, item: Item) -> None:
    snapshot.seats[pk] = seat_state_from_item(item)
    if (spot := seat_from_item(item).spot) is not None:
        snapshot.spots[pk] = spot


def _add_reservation(snapshot: Snapshot, item: Item) -> None:
    reservation_id = item["reservationId"]["S"]
    try:
        snapshot.reservations[reservation_id] = reservation_from_item(item)
    except UNREADABLE:
        _add_unreadable(snapshot, "reservations", reservation_id, reservations=(reservation_id,))


def _add_order(snapshot: Snapshot, item: Item) -> None:
    snapshot.orders.add((item["orderId"]["S"], item["reservationId"]["S"]))


def _add_event(snapshot: Snapshot, item: Item) -> None:
    """A row's key says whose it is and how old."""
    shard, seq = item["shard"]["S"], item["seq"]["S"]
    alive = shard_of_dead_letters(shard)
    row = UnreadableRow(alive or shard, seq)
    (snapshot.dead if alive else snapshot.outbox).add(row)
    try:
        outbox_row_from_item(item)
    except UNREADABLE:
        _add_unreadable(snapshot, "outbox", name_of(row), events=(name_of(row),))


def _add_unreadable(snapshot: Snapshot, table: str, key: str, **about: tuple[str, ...]) -> None:
    text = f"of {table} is nothing that this version understands"
    snapshot.unreadable[key] = Finding("unreadable", key, text, **about)
