"""Every item of every table: attribute names, keys, and two pure functions an item (to_item, from_item)."""

import base64
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from reservation.domain import events
from reservation.domain.idempotency import Key, Record, Running
from reservation.domain.model import (
    Event,
    Metadata,
    Money,
    Reservation,
    Saga,
    Seat,
    SeatStatus,
    Spot,
    Status,
    Wish,
)
from reservation.domain.seating import BLOCKED, FREE, SOLD

Item = dict[str, Any]
"""An item in DynamoDB's own JSON: attribute name -> {"S": text} and so on."""

_DEAD = "dead#"
_TAKEN_UNTIL = {SeatStatus.AVAILABLE: FREE, SeatStatus.SOLD: SOLD, SeatStatus.BLOCKED: BLOCKED}


@dataclass(frozen=True, slots=True)
class SeatState:
    """Who has a seat, as its item says. `holder_key` is the idempotency key id of the request that took it."""

    status: SeatStatus
    price: Money
    holder: str = ""
    holder_key: str = ""
    hold_expires_at: int = 0

    @property
    def taken_until(self) -> int:
        """The seat's hint, see domain.seating."""
        return self.hold_expires_at if self.status is SeatStatus.HELD else _TAKEN_UNTIL[self.status]

    def takeable(self, now: int) -> bool:
        """Free, or held by a hold that has ended."""
        if self.status is SeatStatus.HELD:
            return self.hold_expires_at <= now
        return self.status is SeatStatus.AVAILABLE


@dataclass(frozen=True, slots=True)
class SlotState:
    """Who has a slot, as its item says. `holder_key` as in SeatState."""

    holder: str
    holder_key: str
    hold_expires_at: int

    def takeable(self, now: int) -> bool:
        """Whether the hold that has it has ended."""
        return self.hold_expires_at <= now


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """One event on its way out: `detail` is its JSON as it will be sent, `type` its detail-type.

    Within a shard `seq` is the order in which events leave: the time of the change by its writer's clock, then the
    reservation's id and version, separated by "#".
    """

    shard: str
    seq: str
    reservation_id: str
    type: str
    detail: str

    @property
    def written_at(self) -> int | None:
        """Milliseconds since the epoch; None if the seq does not say."""
        return _time_of(self.seq)


@dataclass(frozen=True, slots=True)
class UnreadableRow:
    """A row that no code of this version understands. Its key is known, and tells whose it is and how old."""

    shard: str
    seq: str

    @property
    def reservation_id(self) -> str:
        return self.seq.partition("#")[2].rpartition("#")[0]

    @property
    def version(self) -> int | None:
        """The reservation's version that it tells of; None if the seq does not say."""
        version = self.seq.rpartition("#")[2]
        return int(version) if version.isdecimal() else None

    @property
    def written_at(self) -> int | None:
        """See OutboxRow."""
        return _time_of(self.seq)


def _time_of(seq: str) -> int | None:
    written_at = seq.partition("#")[0]
    return int(written_at) if written_at.isdecimal() else None


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event that the bus has refused for good, as it was in its shard, with the bus's last words.

    `died_at`: milliseconds since the epoch."""

    row: OutboxRow
    error_code: str
    error_message: str
    died_at: int


_SLOT, _HINTS = "#slot#", "#hints#"


# Neither event ids nor seat ids contain "#", so a seat's key can never be read as another one, a key with an empty seat
# id is free to be the event's own, and one with two "#" in a row to be what stands beside it. A user id may contain
# "#": what follows the last one is the slot's number.
def seat_key(event_id: str, seat_id: str) -> Item:
    return {"pk": {"S": f"{event_id}#{seat_id}"}}


def event_key(event_id: str) -> Item:
    return {"pk": {"S": f"{event_id}#"}}


def layout_key(event_id: str) -> Item:
    return {"pk": {"S": f"{event_id}##layout"}}


def layout_part_key(event_id: str, version: str, part: int) -> Item:
    return {"pk": {"S": f"{event_id}##layout#{version}#{part}"}}


def hints_key(event_id: str, block: int) -> Item:
    return {"pk": {"S": f"{event_id}#{_HINTS}{block}"}}


def is_seat_pk(pk: str) -> bool:
    """Whether an inventory item with this key is a seat or a place."""
    return pk.count("#") == 1 and not pk.endswith("#")


def hinted_block(pk: str) -> tuple[str, int] | None:
    """The event and the block whose hints an inventory item has; None for any other item."""
    event_id, _, kind = pk.partition("#")
    return (event_id, int(kind.removeprefix(_HINTS))) if kind.startswith(_HINTS) else None


def slot_key(event_id: str, user_id: str, number: int) -> Item:
    return {"pk": {"S": f"{event_id}#{_SLOT}{user_id}#{number}"}}


def slot_key_of(reservation: Reservation) -> Item:
    """Of the slot that the reservation takes; it must take one."""
    if reservation.slot is None:
        raise ValueError("the reservation takes no slot")
    return slot_key(reservation.event_id, reservation.user_id, reservation.slot)


def is_slot_key(pk: str) -> bool:
    return pk.partition("#")[2].startswith(_SLOT)


def reservation_key(reservation: Reservation) -> Item:
    return {"reservationId": {"S": reservation.id}, "eventId": {"S": reservation.event_id}}


def reservation_to_item(reservation: Reservation) -> Item:
    item = _answer_to_item(reservation) | {"shard": {"S": reservation.shard}}
    if reservation.foreign:
        item["heldFor"] = item.pop("userId")  # so it is in nobody's list of reservations
    # The due index is sparse: only live holds are in it, and what is under way in a partition of its own.
    if reservation.saga is not None:
        item["expiryShard"] = {"S": saga_partition(reservation.shard)}
        item["saga"] = {"M": _saga_to_item(reservation.saga)}
    elif reservation.status is Status.HOLD:
        item["expiryShard"] = {"S": reservation.shard}
    if reservation.reservation_token:
        item["reservationToken"] = {"S": reservation.reservation_token}
    if reservation.reason:
        item["reason"] = {"S": reservation.reason}
    if reservation.metadata is not None:
        item["metadata"] = {"M": _metadata_to_item(reservation.metadata)}
    if reservation.slot is not None:
        item["slot"] = {"N": str(reservation.slot)}
    if reservation.wish is not None:
        item["wish"] = {"M": _wish_to_item(reservation.wish)}
    if reservation.extended_by:
        item["extendedBy"] = op_ids_to_attribute(reservation.extended_by)
    return item


def op_ids_to_attribute(op_ids: Sequence[str]) -> Item:
    return {"L": [{"S": op_id} for op_id in op_ids]}


def reservation_from_item(item: Mapping[str, Any]) -> Reservation:
    metadata = item.get("metadata")
    return Reservation(
        id=item["reservationId"]["S"],
        event_id=item["eventId"]["S"],
        user_id=item["heldFor" if "heldFor" in item else "userId"]["S"],
        status=Status(item["status"]["S"]),
        seats=tuple(_seat_from_item(seat["M"]) for seat in item["seats"]["L"]),
        created_at=int(item["createdAt"]["N"]),
        updated_at=int(item["updatedAt"]["N"]),
        hold_expires_at=int(item["holdExpiresAt"]["N"]),
        version=int(item["version"]["N"]),
        op_id=item["opId"]["S"],
        shard=_text(item, "shard"),
        reservation_token=_text(item, "reservationToken"),
        payment_intent_id=_text(item, "paymentIntentId"),
        order_id=_text(item, "orderId"),
        reason=_text(item, "reason"),
        metadata=_metadata_from_item(metadata["M"]) if metadata else None,
        slot=_optional_number(item, "slot"),
        extended_by=tuple(op_id["S"] for op_id in item["extendedBy"]["L"]) if "extendedBy" in item else (),
        saga=_saga_from_item(item["saga"]["M"]) if "saga" in item else None,
        wish=_wish_from_item(item["wish"]["M"]) if "wish" in item else None,
    )


def saga_partition(shard: str) -> str:
    """Of the due index: the reservations of a shard that a saga is under way with."""
    return f"saga#{shard}"


def record_to_item(key: Key, answer: Reservation, expires_at: int) -> Item:
    """`expires_at` in milliseconds; stored in whole seconds, rounded up, because it is the table's TTL attribute.

    The record carries the whole answer: a reader that finds the record need not find the reservation yet."""
    return {
        "idempotencyKey": {"S": key.id},
        "fingerprint": {"S": key.fingerprint},
        "opId": {"S": answer.op_id},
        "answer": {"M": _answer_to_item(answer)},
        "expiresAt": {"N": str(-(-expires_at // 1000))},
    }


def running_to_item(key: Key, reservation: Reservation, expires_at: int) -> Item:
    """The record of a key while a saga of this reservation runs. `expires_at` as in record_to_item."""
    return {
        "idempotencyKey": {"S": key.id},
        "fingerprint": {"S": key.fingerprint},
        "reservationId": {"S": reservation.id},
        "expiresAt": {"N": str(-(-expires_at // 1000))},
    }


def record_from_item(item: Mapping[str, Any]) -> Record | Running:
    key = Key(item["idempotencyKey"]["S"], item["fingerprint"]["S"])
    expires_at = int(item["expiresAt"]["N"]) * 1000
    if "answer" not in item:
        return Running(key, item["reservationId"]["S"], expires_at)
    return Record(key, item["opId"]["S"], reservation_from_item(item["answer"]["M"]), expires_at)


def order_to_item(confirmed: Reservation) -> Item:
    item = {
        "orderId": {"S": confirmed.order_id},
        "reservationId": {"S": confirmed.id},
        "eventId": {"S": confirmed.event_id},
        "userId": {"S": confirmed.user_id},
        "paymentIntentId": {"S": confirmed.payment_intent_id},
        "seats": {"L": [{"M": _seat_to_item(seat)} for seat in confirmed.seats]},
        "createdAt": {"N": str(confirmed.updated_at)},
    }
    if (total := confirmed.total) is not None:
        item |= price_to_item(total)
    return item


def packed(data: bytes) -> Item:
    """The attribute of something large: DynamoDB's price goes by the size. An event of up to ten seats so keeps its row
    under the KB up to which a write takes one unit.

    zlib's defaults would go through 256 KB of memory for it, in a process whose caches have other things to keep."""
    deflating = zlib.compressobj(level=1, wbits=12, memLevel=5)
    return {"B": deflating.compress(data) + deflating.flush()}


def unpacked(attribute: Mapping[str, Any]) -> bytes:
    """Raises KeyError, TypeError and ValueError."""
    told = attribute["B"]  # aiobotocore tells the bytes, the lean wire what came: their base64
    try:
        return zlib.decompress(told if isinstance(told, bytes) else base64.b64decode(told))
    except zlib.error as error:
        raise ValueError(str(error)) from error


def outbox_to_item(reservation: Reservation, traceparent: str, released: Sequence[str] = ()) -> Item:
    """The row that tells of this version. Rows of one reservation sort in the order of its versions, because its
    `updated_at` only grows, whatever the clocks of its writers say. `released` as in events.detail."""
    detail = events.detail(reservation, traceparent=traceparent, released=released)
    return outbox_row_to_item(
        OutboxRow(
            shard=reservation.shard,
            seq=f"{reservation.updated_at:013d}#{reservation.id}#{reservation.version:06d}",
            reservation_id=reservation.id,
            type=events.type_of(reservation).value,
            detail=orjson.dumps(detail).decode(),
        )
    )


def outbox_key(row: OutboxRow) -> Item:
    return {"shard": {"S": row.shard}, "seq": {"S": row.seq}}


def outbox_row_to_item(row: OutboxRow) -> Item:
    return outbox_key(row) | {
        "reservationId": {"S": row.reservation_id},
        "type": {"S": row.type},
        "detail": packed(row.detail.encode()),
    }


def outbox_row_from_item(item: Mapping[str, Any]) -> OutboxRow:
    """Raises KeyError, TypeError and ValueError."""
    return OutboxRow(
        shard=item["shard"]["S"],
        seq=item["seq"]["S"],
        reservation_id=item["reservationId"]["S"],
        type=item["type"]["S"],
        detail=unpacked(item["detail"]).decode(),
    )


def dead_letter_partition(shard: str) -> str:
    """Where the dead letters of a shard lie, in the order in which they would have left it."""
    return _DEAD + shard


def shard_of_dead_letters(partition: str) -> str | None:
    """The shard whose dead letters lie there; None: it is a shard's own."""
    return partition.removeprefix(_DEAD) if partition.startswith(_DEAD) else None


def dead_letter_key(row: OutboxRow) -> Item:
    return outbox_key(replace(row, shard=dead_letter_partition(row.shard)))


def dead_letter_to_item(letter: DeadLetter) -> Item:
    return (
        outbox_row_to_item(letter.row)
        | dead_letter_key(letter.row)
        | {
            "errorCode": {"S": letter.error_code},
            "errorMessage": {"S": letter.error_message},
            "diedAt": {"N": str(letter.died_at)},
        }
    )


def dead_letter_from_item(item: Mapping[str, Any]) -> DeadLetter:
    row = outbox_row_from_item(item)
    return DeadLetter(
        row=replace(row, shard=row.shard.removeprefix(_DEAD)),
        error_code=item["errorCode"]["S"],
        error_message=item["errorMessage"]["S"],
        died_at=int(item["diedAt"]["N"]),
    )


def new_seat_to_item(event_id: str, seat: Seat) -> Item:
    return (
        seat_key(event_id, seat.id)
        | _seat_to_item(seat)
        | {"eventId": {"S": event_id}, "status": {"S": SeatStatus.AVAILABLE.value}}
    )


def seat_from_item(item: Mapping[str, Any]) -> Seat:
    return _seat_from_item(item)


def seat_state_from_item(item: Mapping[str, Any]) -> SeatState:
    return SeatState(
        status=SeatStatus(item["status"]["S"]),
        price=_price_from_item(item),
        holder=_text(item, "holder"),
        holder_key=_text(item, "holderKey"),
        hold_expires_at=int(item["holdExpiresAt"]["N"]) if "holdExpiresAt" in item else 0,
    )


def slot_state_from_item(item: Mapping[str, Any]) -> SlotState:
    return SlotState(item["holder"]["S"], _text(item, "holderKey"), int(item["holdExpiresAt"]["N"]))


def hint_name(position: int) -> str:
    return f"p{position}"


def hints_from_item(item: Mapping[str, Any]) -> dict[int, int]:
    """Until when each seat of a block is taken, by its position; see domain.seating."""
    return {int(name[1:]): int(value["N"]) for name, value in item.items() if name != "pk"}


def event_to_item(event: Event) -> Item:
    numbers = {
        "holdSeconds": event.hold_seconds,
        "maxSeats": event.max_seats,
        "maxHoldsPerUser": event.max_holds_per_user,
        "saleStartsAt": event.sale_starts_at,
        "saleEndsAt": event.sale_ends_at,
    }
    return (
        event_key(event.id)
        | {"eventId": {"S": event.id}, "name": {"S": event.name}, "preventOrphans": {"BOOL": event.prevent_orphans}}
        | {name: {"N": str(value)} for name, value in numbers.items() if value is not None}
    )


def event_from_item(item: Mapping[str, Any]) -> Event:
    return Event(
        id=item["eventId"]["S"],
        name=_text(item, "name"),
        hold_seconds=_optional_number(item, "holdSeconds"),
        max_seats=_optional_number(item, "maxSeats"),
        max_holds_per_user=_optional_number(item, "maxHoldsPerUser"),
        prevent_orphans=item.get("preventOrphans", {}).get("BOOL", True),
        sale_starts_at=_optional_number(item, "saleStartsAt"),
        sale_ends_at=_optional_number(item, "saleEndsAt"),
    )


def _answer_to_item(reservation: Reservation) -> Item:
    """The part of a reservation that answers are made of."""
    item: Item = {
        "reservationId": {"S": reservation.id},
        "eventId": {"S": reservation.event_id},
        "userId": {"S": reservation.user_id},
        "status": {"S": reservation.status.value},
        "seats": {"L": [{"M": _seat_to_item(seat)} for seat in reservation.seats]},
        "createdAt": {"N": str(reservation.created_at)},
        "updatedAt": {"N": str(reservation.updated_at)},
        "holdExpiresAt": {"N": str(reservation.hold_expires_at)},
        "version": {"N": str(reservation.version)},
        "opId": {"S": reservation.op_id},
    }
    if reservation.order_id:
        item["orderId"] = {"S": reservation.order_id}
    if reservation.payment_intent_id:
        item["paymentIntentId"] = {"S": reservation.payment_intent_id}
    return item


def _wish_to_item(wish: Wish) -> Item:
    return {
        "quantity": {"N": str(wish.quantity)},
        "section": {"S": wish.section},
        "allowSplit": {"BOOL": wish.allow_split},
        "accessible": {"BOOL": wish.accessible},
    }


def _wish_from_item(item: Mapping[str, Any]) -> Wish:
    return Wish(
        quantity=int(item["quantity"]["N"]),
        section=item["section"]["S"],
        allow_split=item["allowSplit"]["BOOL"],
        accessible=item["accessible"]["BOOL"],
    )


def _saga_to_item(saga: Saga) -> Item:
    return {
        "until": {"N": str(saga.until)},
        "keyId": {"S": saga.key_id},
        "fingerprint": {"S": saga.fingerprint},
        "keyEndsWithHold": {"BOOL": saga.key_ends_with_hold},
        "traceparent": {"S": saga.traceparent},
    }


def _saga_from_item(item: Mapping[str, Any]) -> Saga:
    return Saga(
        until=int(item["until"]["N"]),
        key_id=item["keyId"]["S"],
        fingerprint=item["fingerprint"]["S"],
        key_ends_with_hold=item["keyEndsWithHold"]["BOOL"],
        traceparent=item["traceparent"]["S"],
    )


def _seat_to_item(seat: Seat) -> Item:
    item: Item = {
        "id": {"S": seat.id},
        "section": {"S": seat.section},
        "row": {"S": seat.row},
        "number": {"S": seat.number},
        **price_to_item(seat.price),
    }
    if seat.accessible:
        item["accessible"] = {"BOOL": True}
    if seat.spot is not None:
        item["spot"] = {"S": f"{seat.spot.block}.{seat.spot.position}"}
    return item


def _seat_from_item(item: Mapping[str, Any]) -> Seat:
    return Seat(
        id=item["id"]["S"],
        section=item["section"]["S"],
        row=item["row"]["S"],
        number=item["number"]["S"],
        price=_price_from_item(item),
        accessible=item.get("accessible", {}).get("BOOL", False),
        spot=_spot(item["spot"]["S"]) if "spot" in item else None,
    )


def _spot(text: str) -> Spot:
    block, _, position = text.partition(".")
    return Spot(int(block), int(position))


def price_to_item(price: Money) -> Item:
    return {"amount": {"N": str(price.amount)}, "currency": {"S": price.currency}}


def _price_from_item(item: Mapping[str, Any]) -> Money:
    return Money(int(item["amount"]["N"]), item["currency"]["S"])


def _metadata_to_item(metadata: Metadata) -> Item:
    return {
        "source": {"S": metadata.source},
        "userAgent": {"S": metadata.user_agent},
        "ipAddress": {"S": metadata.ip_address},
        "sessionId": {"S": metadata.session_id},
        "tags": {"M": {name: {"S": value} for name, value in metadata.tags.items()}},
    }


def _metadata_from_item(item: Mapping[str, Any]) -> Metadata:
    return Metadata(
        source=item["source"]["S"],
        user_agent=item["userAgent"]["S"],
        ip_address=item["ipAddress"]["S"],
        session_id=item["sessionId"]["S"],
        tags={name: value["S"] for name, value in item["tags"]["M"].items()},
    )


def _optional_number(item: Mapping[str, Any], name: str) -> int | None:
    return int(item[name]["N"]) if name in item else None


def _text(item: Mapping[str, Any], name: str) -> str:
    attribute = item.get(name)
    return attribute["S"] if attribute else ""
