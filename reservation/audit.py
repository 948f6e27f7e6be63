"""The audit: reads all tables and reports every broken promise. It changes nothing and works on a live system.

Tables are read one after the other while sales go on, so a first finding is only a suspect: what it is about is read
again, strongly consistent, and it is reported if it is still so every time.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Set
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

import orjson

from reservation.aws.client import AwsClient
from reservation.domain.model import Reservation, SeatStatus, Spot, Status, order_id_of
from reservation.domain.seating import FREE
from reservation.dynamodb.items import (
    Item,
    SeatState,
    SlotState,
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
    slot_key_of,
    slot_state_from_item,
)
from reservation.dynamodb.tables import Tables

_RECHECKS, _RECHECK_SECONDS = 3, 1.0

_SILENCE_SECONDS = 5.0
"""A queue that has not brought an event that was missing for so long does not have it."""

Told = tuple[str, int]
"""An event: the reservation's id and its version."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A broken promise. `kind` names the rule, `subject` the item; the others are what it is about (`seats`: or
    slots)."""

    kind: str
    subject: str
    text: str = field(compare=False)
    seats: tuple[str, ...] = field(default=(), compare=False)
    reservations: tuple[str, ...] = field(default=(), compare=False)
    orders: tuple[str, ...] = field(default=(), compare=False)
    events: tuple[str, ...] = field(default=(), compare=False)


@dataclass(slots=True)
class Snapshot:
    """What was read: seats and slots by key, reservations by id, orders as (their id, their reservation's), events that
    wait in the outbox and those that are dead letters, each by its row's key; the spots of seats by their keys, and
    hints by (event, spot); and what could not be read, by its key."""

    seats: dict[str, SeatState] = field(default_factory=dict)
    slots: dict[str, SlotState] = field(default_factory=dict)
    spots: dict[str, Spot] = field(default_factory=dict)
    hints: dict[tuple[str, Spot], int] = field(default_factory=dict)
    reservations: dict[str, Reservation] = field(default_factory=dict)
    orders: set[tuple[str, str]] = field(default_factory=set)
    outbox: set[UnreadableRow] = field(default_factory=set)
    dead: set[UnreadableRow] = field(default_factory=set)
    unreadable: dict[str, Finding] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Graces:
    """How long after its time a thing may take, in milliseconds; `hint`: how long one may hide a free seat, which is as
    long as a hold can last."""

    expiry: int = 5_000
    outbox: int = 30_000
    hint: int = 300_000


def findings(snapshot: Snapshot, *, now: int, graces: Graces) -> Iterator[Finding]:
    """Every rule, over everything in the snapshot."""
    for pk, seat in snapshot.seats.items():
        yield from _seat_findings(pk, seat, snapshot)
        yield from _hint_findings(pk, seat, snapshot, now, graces)
    for pk, slot in snapshot.slots.items():
        yield from _slot_findings(pk, slot, snapshot)
    for reservation in snapshot.reservations.values():
        yield from _reservation_findings(reservation, snapshot, now, graces)
    for order_id, reservation_id in snapshot.orders:
        yield from _order_findings(order_id, reservation_id, snapshot)
    for row in snapshot.outbox:
        if row.written_at is not None and (late := now - row.written_at) > graces.outbox:
            text = f"has waited {late / 1000:.0f} s to be published"
            yield Finding("event-stuck", _name_of(row), text, events=(_name_of(row),))
    yield from snapshot.unreadable.values()


def _seat_findings(pk: str, seat: SeatState, snapshot: Snapshot) -> Iterator[Finding]:
    if seat.status not in (SeatStatus.HELD, SeatStatus.SOLD):
        return
    holder = snapshot.reservations.get(seat.holder)
    about = {"seats": (pk,), "reservations": (seat.holder,)}
    if holder is None and seat.holder in snapshot.unreadable:
        return
    if holder is None or pk not in _seat_pks(holder):
        yield Finding("seat-without-reservation", pk, f"is {seat.status} for {seat.holder}, which has it not", **about)
    elif holder.seat_status is not seat.status:
        yield Finding("seat-state", pk, f"is {seat.status} for {holder.id}, which is {holder.status}", **about)


def _hint_findings(pk: str, seat: SeatState, snapshot: Snapshot, now: int, graces: Graces) -> Iterator[Finding]:
    """A hint heals at the end of the hold that it tells of; one that tells of a sale or a block never does."""
    spot = snapshot.spots.get(pk)
    if spot is None or not seat.takeable(now):
        return
    event_id = pk.partition("#")[0]
    if snapshot.hints.get((event_id, spot), FREE) > now + graces.hint:
        yield Finding("free-seat-hidden", pk, "is free, and its hint hides it for too long", seats=(pk,))


def _slot_findings(pk: str, slot: SlotState, snapshot: Snapshot) -> Iterator[Finding]:
    holder = snapshot.reservations.get(slot.holder)
    if holder is None and slot.holder in snapshot.unreadable:
        return
    if holder is None or holder.status is not Status.HOLD or _slot_pk(holder) != pk:
        text = f"is held for {slot.holder}, which is no hold that takes it"
        yield Finding("slot-without-hold", pk, text, seats=(pk,), reservations=(slot.holder,))


def _reservation_findings(reservation: Reservation, snapshot: Snapshot, now: int, graces: Graces) -> Iterator[Finding]:
    pks = _seat_pks(reservation)
    about = {"seats": pks, "reservations": (reservation.id,)}
    past = reservation.status is Status.HOLD and now >= reservation.hold_expires_at
    if past and now - reservation.hold_expires_at > graces.expiry:
        late = (now - reservation.hold_expires_at) / 1000
        yield Finding("hold-stuck", reservation.id, f"ended {late:.0f} s ago and is still a HOLD", **about)
    lost = [pk for pk in pks if not _has(snapshot.seats.get(pk), reservation)]
    if reservation.seat_status is not None and lost and not past:
        text = f"is {reservation.status} without {', '.join(lost)}"
        yield Finding("reservation-without-seats", reservation.id, text, **about)
    if reservation.status is Status.HOLD and not past and _lacks_slot(reservation, snapshot):
        slots = {"seats": (str(_slot_pk(reservation)),), "reservations": (reservation.id,)}
        yield Finding("hold-without-slot", reservation.id, f"is a HOLD without slot {reservation.slot}", **slots)
    if reservation.status is Status.CONFIRMED and (order_id_of(reservation.id), reservation.id) not in snapshot.orders:
        yield Finding("sale-without-order", reservation.id, "is CONFIRMED and has no order", **about)


def _order_findings(order_id: str, reservation_id: str, snapshot: Snapshot) -> Iterator[Finding]:
    sold_to = snapshot.reservations.get(reservation_id)
    if sold_to is None and reservation_id in snapshot.unreadable:
        return
    if sold_to is None or sold_to.status is not Status.CONFIRMED:
        text = f"is for a reservation that is {sold_to.status if sold_to else 'missing'}"
        yield Finding("order-without-sale", order_id, text, reservations=(reservation_id,), orders=(order_id,))
    elif order_id != order_id_of(reservation_id):
        text = f"is another order for {reservation_id}"
        yield Finding("order-without-sale", order_id, text, reservations=(reservation_id,), orders=(order_id,))


def _has(seat: SeatState | None, reservation: Reservation) -> bool:
    return seat is not None and seat.holder == reservation.id and seat.status is reservation.seat_status


def _lacks_slot(reservation: Reservation, snapshot: Snapshot) -> bool:
    pk = _slot_pk(reservation)
    slot = snapshot.slots.get(pk) if pk is not None else None
    return pk is not None and (slot is None or slot.holder != reservation.id)


def _seat_pks(reservation: Reservation) -> tuple[str, ...]:
    return tuple(f"{reservation.event_id}#{seat_id}" for seat_id in reservation.seat_ids)


def _slot_pk(reservation: Reservation) -> str | None:
    """None: its user's holds are not limited."""
    return str(slot_key_of(reservation)["pk"]["S"]) if reservation.slot is not None else None


def untold(snapshot: Snapshot) -> Iterator[Told]:
    """Events that are neither in the outbox any more nor dead letters: the bus has accepted them."""
    here = {(row.reservation_id, row.version) for row in snapshot.outbox | snapshot.dead}
    for reservation in snapshot.reservations.values():
        for version in range(1, reservation.version + 1):
            if (reservation.id, version) not in here:
                yield reservation.id, version


def missing_events(snapshot: Snapshot, received: Set[Told]) -> Iterator[Finding]:
    """Versions of reservations that the bus has accepted and nobody received."""
    lost: dict[str, list[int]] = defaultdict(list)
    for reservation_id, version in untold(snapshot):
        if (reservation_id, version) not in received:
            lost[reservation_id].append(version)
    for reservation_id, versions in lost.items():
        text = f"version {', '.join(map(str, versions))} was never received"
        yield Finding("event-lost", reservation_id, text, reservations=(reservation_id,), events=(reservation_id,))


class Receiver(Protocol):
    """Where all events arrive."""

    async def receive(self) -> Set[Told]:
        """Some of the events that were not received yet; none if there are none after about a second."""
        ...


class Audit:
    """`now` gives milliseconds since the epoch. With a `receiver` events are looked for that never came."""

    def __init__(
        self,
        client: AwsClient,
        tables: Tables,
        *,
        now: Callable[[], int],
        graces: Graces = Graces(),
        receiver: Receiver | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._tables = tables
        self._now = now
        self._graces = graces
        self._receiver = receiver
        self._received: set[Told] = set()
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
        tables, snapshot = self._tables, Snapshot()
        async for item in self._scan(tables.inventory):
            _add_inventory(snapshot, item)
        async for item in self._scan(tables.reservations):
            _add_reservation(snapshot, item)
        async for item in self._scan(tables.orders):
            _add_order(snapshot, item)
        await self._read_outbox(snapshot)
        return snapshot

    async def _read_outbox(self, snapshot: Snapshot) -> None:
        async for item in self._scan(self._tables.outbox):
            _add_event(snapshot, item)

    async def _read_again(self, suspects: Iterable[Finding]) -> Snapshot:
        """Seats and slots before their holders: who holds one was written together with it. Events last, as above."""
        suspects = list(suspects)
        snapshot = Snapshot()
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
            for pk in set(_seat_pks(reservation)) - snapshot.seats.keys():
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


_UNREADABLE = (KeyError, TypeError, ValueError)


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
    except _UNREADABLE:
        _add_unreadable(snapshot, "inventory", pk, seats=(pk,))


def _add_seat(snapshot: Snapshot, pk: str, item: Item) -> None:
    snapshot.seats[pk] = seat_state_from_item(item)
    if (spot := seat_from_item(item).spot) is not None:
        snapshot.spots[pk] = spot


def _add_reservation(snapshot: Snapshot, item: Item) -> None:
    reservation_id = item["reservationId"]["S"]
    try:
        snapshot.reservations[reservation_id] = reservation_from_item(item)
    except _UNREADABLE:
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
    except _UNREADABLE:
        _add_unreadable(snapshot, "outbox", _name_of(row), events=(_name_of(row),))


def _add_unreadable(snapshot: Snapshot, table: str, key: str, **about: tuple[str, ...]) -> None:
    text = f"of {table} is nothing that this version understands"
    snapshot.unreadable[key] = Finding("unreadable", key, text, **about)


def _name_of(row: UnreadableRow) -> str:
    return f"{row.shard}/{row.seq}"


class EventQueue:
    """An SQS queue behind an EventBridge rule, as it is: what was received is shown to others again by `release`.
    `sqs` is an aiobotocore client."""

    def __init__(self, sqs: Any, url: str) -> None:
        self._sqs = sqs
        self._url = url
        self._handles: dict[str, str] = {}

    async def receive(self) -> Set[Told]:
        """See Receiver. What was received is hidden from other receivers for two minutes. Messages that are no events
        of ours are passed over."""
        reply = await self._sqs.receive_message(
            QueueUrl=self._url, MaxNumberOfMessages=10, WaitTimeSeconds=1, VisibilityTimeout=120
        )
        messages = reply.get("Messages", [])
        self._handles |= {message["MessageId"]: message["ReceiptHandle"] for message in messages}
        return {told for message in messages if (told := _told(message["Body"])) is not None}

    async def release(self) -> None:
        """Shows everything to other receivers again."""
        handles = iter(self._handles.values())
        while batch := list(islice(handles, 10)):
            entries = [
                {"Id": str(number), "ReceiptHandle": handle, "VisibilityTimeout": 0}
                for number, handle in enumerate(batch)
            ]
            await self._sqs.change_message_visibility_batch(QueueUrl=self._url, Entries=entries)


def _told(body: str) -> Told | None:
    try:
        detail = orjson.loads(body)["detail"]
        return detail["reservation"]["reservationId"], detail["version"]
    except _UNREADABLE:
        return None
