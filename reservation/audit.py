"""The audit: reads all tables and reports every broken promise. It changes nothing and works on a live system.

Tables are read one after the other while sales go on, so a first finding is only a suspect: what it is about is read
again, strongly consistent, and it is reported if it is still so every time.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from reservation.aws.client import AwsClient
from reservation.domain.model import Reservation, SeatStatus, Status, order_id_of
from reservation.dynamodb.items import Item, SeatState, reservation_from_item, seat_state_from_item
from reservation.dynamodb.tables import Tables

_RECHECKS, _RECHECK_SECONDS = 3, 1.0
_QUESTIONS_AT_ONCE, _ANSWER_SECONDS = 16, 5.0


@dataclass(frozen=True, slots=True)
class Finding:
    """A broken promise. `kind` names the rule, `subject` the item; `seats` and `reservations` are what it is about."""

    kind: str
    subject: str
    text: str = field(compare=False)
    seats: tuple[str, ...] = field(default=(), compare=False)
    reservations: tuple[str, ...] = field(default=(), compare=False)


@dataclass(slots=True)
class Snapshot:
    """What was read: seats by key, reservations and orders by id, events still in the outbox by (shard, seq).

    `seats_elsewhere`: they are in a remote inventory, so what our own table says of them means nothing."""

    seats_elsewhere: bool = False

    seats: dict[str, SeatState] = field(default_factory=dict)
    reservations: dict[str, Reservation] = field(default_factory=dict)
    orders: dict[str, str] = field(default_factory=dict)
    outbox: dict[tuple[str, str], str] = field(default_factory=dict)
    for_sale: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Seats that a reservation holds or has bought, and that the remote inventory would sell to others."""


@dataclass(frozen=True, slots=True)
class Graces:
    """How long after its time a thing may take, in milliseconds."""

    expiry: int = 5_000
    outbox: int = 30_000
    saga: int = 30_000


def findings(snapshot: Snapshot, *, now: int, graces: Graces) -> Iterator[Finding]:
    """Every rule, over everything in the snapshot."""
    for pk, seat in snapshot.seats.items():
        yield from _seat_findings(pk, seat, snapshot)
    for reservation in snapshot.reservations.values():
        yield from _reservation_findings(reservation, snapshot, now, graces)
    for order_id, reservation_id in snapshot.orders.items():
        sold_to = snapshot.reservations.get(reservation_id)
        if sold_to is None or sold_to.status is not Status.CONFIRMED:
            text = f"is for a reservation that is {sold_to.status if sold_to else 'missing'}"
            yield Finding("order-without-sale", order_id, text, reservations=(reservation_id,))
    for (shard, seq), reservation_id in snapshot.outbox.items():
        if (late := now - int(seq.split("#")[0])) > graces.outbox:
            text = f"has waited {late / 1000:.0f} s to be published"
            yield Finding("event-stuck", f"{shard}/{seq}", text, reservations=(reservation_id,))


def _seat_findings(pk: str, seat: SeatState, snapshot: Snapshot) -> Iterator[Finding]:
    if seat.status not in (SeatStatus.HELD, SeatStatus.SOLD):
        return
    holder = snapshot.reservations.get(seat.holder)
    about = {"seats": (pk,), "reservations": (seat.holder,)}
    if holder is None or pk not in _seat_pks(holder):
        yield Finding("seat-without-reservation", pk, f"is {seat.status} for {seat.holder}, which has it not", **about)
    elif holder.seat_status is not seat.status:
        yield Finding("seat-state", pk, f"is {seat.status} for {holder.id}, which is {holder.status}", **about)


def _reservation_findings(reservation: Reservation, snapshot: Snapshot, now: int, graces: Graces) -> Iterator[Finding]:
    pks = _seat_pks(reservation)
    about = {"seats": pks, "reservations": (reservation.id,)}
    if reservation.saga is not None and now - reservation.saga.until > graces.saga:
        text = f"is {reservation.status}, and what is under way with it does not come to its end"
        yield Finding("saga-stuck", reservation.id, text, **about)
    if for_sale := snapshot.for_sale.get(reservation.id):
        text = f"is {reservation.status}, and the remote inventory would sell {', '.join(for_sale)} to others"
        yield Finding("inventory-differs", reservation.id, text, **about)
    past = _is_over(reservation, now)
    if past and now - reservation.hold_expires_at > graces.expiry:
        late = (now - reservation.hold_expires_at) / 1000
        yield Finding("hold-stuck", reservation.id, f"ended {late:.0f} s ago and is still a HOLD", **about)
    lost = [pk for pk in pks if not _has(snapshot.seats.get(pk), reservation)]
    if reservation.seat_status is not None and lost and not past and not snapshot.seats_elsewhere:
        text = f"is {reservation.status} without {', '.join(lost)}"
        yield Finding("reservation-without-seats", reservation.id, text, **about)
    ordered = reservation.foreign or order_id_of(reservation.id) in snapshot.orders
    if reservation.status is Status.CONFIRMED and not ordered:
        yield Finding("sale-without-order", reservation.id, "is CONFIRMED and has no order", **about)


def _is_over(reservation: Reservation, now: int) -> bool:
    """A hold past its time. One that is being sold has no end."""
    return reservation.status is Status.HOLD and reservation.saga is None and now >= reservation.hold_expires_at


def _has(seat: SeatState | None, reservation: Reservation) -> bool:
    return seat is not None and seat.holder == reservation.id and seat.status is reservation.seat_status


def _seat_pks(reservation: Reservation) -> tuple[str, ...]:
    return tuple(f"{reservation.event_id}#{seat_id}" for seat_id in reservation.seat_ids)


def missing_events(snapshot: Snapshot, received: Mapping[str, set[int]]) -> Iterator[Finding]:
    """Versions of reservations that nobody received and that do not wait in the outbox any more."""
    waiting: dict[str, set[int]] = defaultdict(set)
    for (_, seq), reservation_id in snapshot.outbox.items():
        waiting[reservation_id].add(int(seq.rsplit("#", 1)[1]))
    for reservation in snapshot.reservations.values():
        if reservation.foreign:
            continue
        told = received.get(reservation.id, set()) | waiting[reservation.id]
        if lost := set(range(1, reservation.version + 1)) - told:
            text = f"version {', '.join(map(str, sorted(lost)))} was never received"
            yield Finding("event-lost", reservation.id, text, reservations=(reservation.id,))


ForSale = Callable[[Reservation, float], Awaitable[tuple[str, ...]]]
"""Which of a reservation's seats the remote inventory would sell to somebody else; asked up to a time.monotonic()."""


class Audit:
    """`now` gives milliseconds since the epoch. `seats_elsewhere` as in Snapshot. With `for_sale` the remote inventory
    is asked about every seat that is held or sold; its errors are raised."""

    def __init__(
        self,
        client: AwsClient,
        tables: Tables,
        *,
        now: Callable[[], int],
        graces: Graces = Graces(),
        seats_elsewhere: bool = False,
        for_sale: ForSale | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._client = client
        self._tables = tables
        self._now = now
        self._graces = graces
        self._seats_elsewhere = seats_elsewhere
        self._for_sale = for_sale
        self._sleep = sleep

    async def run(self, received: Mapping[str, set[int]] | None = None) -> tuple[Snapshot, list[Finding]]:
        """What was read, and what is wrong. `received`: versions that a queue received, by reservation id."""
        snapshot = await self._read_everything()
        suspects = set(self._judge(snapshot, received))
        for _ in range(_RECHECKS):
            if not suspects:
                break
            await self._sleep(_RECHECK_SECONDS)
            suspects &= set(self._judge(await self._read_again(suspects), received))
        return snapshot, sorted(suspects, key=lambda finding: (finding.kind, finding.subject))

    def _judge(self, snapshot: Snapshot, received: Mapping[str, set[int]] | None) -> Iterator[Finding]:
        yield from findings(snapshot, now=self._now(), graces=self._graces)
        if received is not None:
            yield from missing_events(snapshot, received)

    async def _read_everything(self) -> Snapshot:
        tables, snapshot = self._tables, Snapshot(self._seats_elsewhere)
        for item in await self._scan(tables.outbox):
            _add_event(snapshot, item)
        for item in await self._scan(tables.inventory):
            _add_seat(snapshot, item)
        for item in await self._scan(tables.reservations):
            _add_reservation(snapshot, item)
        for item in await self._scan(tables.orders):
            _add_order(snapshot, item)
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
                if reservation.seat_status is not None and not _is_over(reservation, now):
                    questions.create_task(ask(reservation))

    async def _read_again(self, suspects: Iterable[Finding]) -> Snapshot:
        """Seats before their holders: who holds a seat was written together with it."""
        suspects = list(suspects)
        snapshot = Snapshot(self._seats_elsewhere)
        for pk in {pk for suspect in suspects for pk in suspect.seats}:
            await self._read_seat(snapshot, pk)
        holders = {seat.holder for seat in snapshot.seats.values() if seat.holder}
        for reservation_id in holders | {each for suspect in suspects for each in suspect.reservations}:
            await self._read_reservation(snapshot, reservation_id)
        for suspect in suspects:
            if suspect.kind == "event-stuck":
                await self._read_event(snapshot, *suspect.subject.split("/", 1))
            elif suspect.kind == "order-without-sale":
                await self._read_orders(snapshot, suspect.subject)
        await self._ask_what_is_for_sale(snapshot)
        return snapshot

    async def _read_seat(self, snapshot: Snapshot, pk: str) -> None:
        if (item := await self._get(self._tables.inventory, {"pk": {"S": pk}})) is not None:
            _add_seat(snapshot, item)

    async def _read_event(self, snapshot: Snapshot, shard: str, seq: str) -> None:
        if (item := await self._get(self._tables.outbox, {"shard": {"S": shard}, "seq": {"S": seq}})) is not None:
            _add_event(snapshot, item)

    async def _read_reservation(self, snapshot: Snapshot, reservation_id: str) -> None:
        for item in await self._query(self._tables.reservations, "reservationId", reservation_id):
            _add_reservation(snapshot, item)
            for pk in _seat_pks(snapshot.reservations[reservation_id]):
                if pk not in snapshot.seats:
                    await self._read_seat(snapshot, pk)
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

    async def _scan(self, table: str) -> list[Item]:
        items: list[Item] = []
        page: dict[str, Any] = {"TableName": table, "ConsistentRead": True}
        while True:
            reply = await self._client.call("Scan", page, timeout=30.0)
            items += reply["Items"]
            if not (last := reply.get("LastEvaluatedKey")):
                return items
            page["ExclusiveStartKey"] = last


def _add_seat(snapshot: Snapshot, item: Item) -> None:
    if "status" in item:  # the event's own item has none
        snapshot.seats[item["pk"]["S"]] = seat_state_from_item(item)


def _add_reservation(snapshot: Snapshot, item: Item) -> None:
    reservation = reservation_from_item(item)
    snapshot.reservations[reservation.id] = reservation


def _add_order(snapshot: Snapshot, item: Item) -> None:
    snapshot.orders[item["orderId"]["S"]] = item["reservationId"]["S"]


def _add_event(snapshot: Snapshot, item: Item) -> None:
    if not item["shard"]["S"].startswith("dead#"):
        snapshot.outbox[item["shard"]["S"], item["seq"]["S"]] = item["reservationId"]["S"]


async def received_versions(sqs: Any, queue_url: str) -> dict[str, set[int]]:
    """The versions of each reservation that a queue behind an EventBridge rule holds. Messages are left in it; they are
    hidden from other receivers for two minutes. `sqs` is an aiobotocore client."""
    received: dict[str, set[int]] = defaultdict(set)
    empty = 0
    while empty < 2:
        reply = await sqs.receive_message(
            QueueUrl=queue_url, MaxNumberOfMessages=10, WaitTimeSeconds=1, VisibilityTimeout=120
        )
        messages = reply.get("Messages", [])
        empty = 0 if messages else empty + 1
        for message in messages:
            detail = orjson.loads(message["Body"])["detail"]
            received[detail["reservation"]["reservationId"]].add(detail["version"])
    return received
