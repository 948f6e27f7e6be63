"""What must be true of the tables whenever no command is under way, whatever happened before."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import orjson

from reservation.domain.model import Reservation, Seat, SeatStatus, Status, hold_id_of, order_id_of
from reservation.dynamodb.items import (
    Item,
    is_seat_pk,
    is_slot_key,
    outbox_row_from_item,
    reservation_from_item,
    seat_state_from_item,
    slot_key_of,
    slot_state_from_item,
)

_EVENT_OF = {
    Status.HOLD: "reservation.created",
    Status.CONFIRMED: "reservation.confirmed",
    Status.CANCELLED: "reservation.cancelled",
    Status.EXPIRED: "reservation.expired",
}


@dataclass(frozen=True, slots=True)
class Rows:
    """Everything in the tables, as DynamoDB's own JSON."""

    reservations: tuple[Item, ...]
    orders: tuple[Item, ...]
    idempotency: tuple[Item, ...]
    outbox: tuple[Item, ...]
    inventory: tuple[Item, ...]

    @property
    def seats(self) -> dict[str, Item]:
        """The seat items by key; the inventory without its events, slots, layouts and hints."""
        return {pk: item for item in self.inventory if is_seat_pk(pk := item["pk"]["S"])}

    @property
    def slots(self) -> dict[str, Item]:
        """The items of the slots that limit the holds of a user, by key."""
        return {item["pk"]["S"]: item for item in self.inventory if is_slot_key(item["pk"]["S"])}

    def details(self, reservation_id: str) -> list[dict[str, Any]]:
        """What the outbox tells of a reservation, in the order in which it will leave."""
        rows = sorted(self.outbox, key=lambda row: row["seq"]["S"])
        return [event_of(row) for row in rows if row["reservationId"]["S"] == reservation_id]


def event_of(row: Item) -> dict[str, Any]:
    """The event that a row of the outbox tells."""
    told: dict[str, Any] = orjson.loads(outbox_row_from_item(row).detail)
    return told


def violations(rows: Rows, *, now: int = 0, seats_elsewhere: bool = False, events_left: bool = False) -> list[str]:
    """Everything that is wrong, in words; empty if nothing is.

    `now`: the latest clock of any process so far, in milliseconds. Only a hold that ended by then may have lost seats.
    `seats_elsewhere`: they are in a remote inventory. `events_left`: a relay took them out of the outbox.
    """
    return [
        *_wrong_seats(rows),
        *_wrong_reservations(rows, now, seats_elsewhere=seats_elsewhere),
        *seats_with_two_owners(_reservations(rows).values(), now),
        *_wrong_slots(rows, now),
        *_wrong_orders(rows),
        *_wrong_records(rows),
        *([] if events_left else _wrong_outbox(rows)),
    ]


def _reservations(rows: Rows) -> dict[str, Reservation]:
    return {item["reservationId"]["S"]: reservation_from_item(item) for item in rows.reservations}


def _seat_pks(reservation: Reservation) -> list[str]:
    return [f"{reservation.event_id}#{seat_id}" for seat_id in reservation.seat_ids]


def _wrong_seats(rows: Rows) -> Iterator[str]:
    """A seat that is held or sold is so by a reservation that exists, names it and is in the matching state."""
    reservations = _reservations(rows)
    for pk, item in rows.seats.items():
        state = seat_state_from_item(item)
        taken_by = {"holder", "holderKey", "holdExpiresAt"} & set(item)
        if state.status in (SeatStatus.AVAILABLE, SeatStatus.BLOCKED):
            if taken_by:
                yield f"seat {pk} is nobody's and has {sorted(taken_by)}"
            continue
        holder = reservations.get(state.holder)
        if holder is None:
            yield f"seat {pk} is {state.status} for {state.holder!r}, which does not exist"
            continue
        if pk not in _seat_pks(holder):
            yield f"seat {pk} is {state.status} for {holder.id}, which does not name it"
        if holder.seat_status is not state.status:
            yield f"seat {pk} is {state.status} for {holder.id}, which is {holder.status}"
        if state.status is SeatStatus.HELD and state.hold_expires_at != holder.hold_expires_at:
            yield f"seat {pk} is held until {state.hold_expires_at}, its reservation until {holder.hold_expires_at}"
        if state.status is SeatStatus.SOLD and taken_by != {"holder"}:
            yield f"seat {pk} is sold and has {sorted(taken_by)}"


def disagreements(own: Rows, other: Rows, *, now: int) -> list[str]:
    """What two services say differently about the sales of the first from the inventory of the second, once no command
    and no saga is under way. A hold that ended by `now` may be gone on one side before the other."""
    told = {each.id: each for each in _reservations(own).values()}
    kept = {each.id: each for each in _reservations(other).values() if each.foreign}
    found = [f"{each.id} is {each.status} and nobody has finished it" for each in told.values() if each.saga]
    claims = {hold_id_of(each.id): each for each in told.values() if _has_claim(each, now)}
    holds = {each.id: each for each in kept.values() if _has_claim(each, now)}
    for hold_id in sorted(claims.keys() | holds.keys()):
        claim, hold = claims.get(hold_id), holds.get(hold_id)
        if claim is None or hold is None:
            here, there = told.get(hold_id.removeprefix("hld_")), kept.get(hold_id)
            found.append(f"{hold_id} is {here and here.status} here and {there and there.status} there")
        elif (claim.status, claim.seats) != (hold.status, _as_told(hold.seats)):
            found.append(
                f"{hold_id} is {claim.status} of {claim.seat_ids} here, {hold.status} of {hold.seat_ids} there"
            )
        elif claim.hold_expires_at > hold.hold_expires_at:
            found.append(f"{hold_id} ends there before it ends here")
    return found


def _as_told(seats: Iterable[Seat]) -> tuple[Seat, ...]:
    """What one service tells another of its seats: not where their hints are."""
    return tuple(replace(seat, spot=None, accessible=False) for seat in seats)


def _has_claim(reservation: Reservation, now: int) -> bool:
    live = reservation.status is Status.HOLD and reservation.hold_expires_at > now
    return live or reservation.status is Status.CONFIRMED


def _wrong_reservations(rows: Rows, now: int, *, seats_elsewhere: bool) -> Iterator[str]:
    """Whoever has a claim has all its seats; the due index has the live holds and nothing else."""
    holders = {pk: item["holder"]["S"] for pk, item in rows.seats.items() if "holder" in item}
    for item in rows.reservations:
        reservation = reservation_from_item(item)
        lost = [pk for pk in _seat_pks(reservation) if holders.get(pk) != reservation.id]
        past = reservation.status is Status.HOLD and reservation.hold_expires_at <= now
        if reservation.status not in _EVENT_OF and not (seats_elsewhere and reservation.status is Status.FAILED):
            yield f"{reservation.id} is {reservation.status}, which no command makes"
        if reservation.seat_status is not None and lost and not past and not seats_elsewhere:
            yield f"{reservation.id} is {reservation.status} without {lost}"
        due = item.get("expiryShard", {}).get("S")
        if due != (reservation.shard if reservation.status is Status.HOLD else None):
            yield f"{reservation.id} is {reservation.status} and in the due index under {due}"
        if reservation.foreign and "userId" in item:
            yield f"{reservation.id} is in its user's list"
        if reservation.status is not Status.CONFIRMED and (reservation.order_id or reservation.payment_intent_id):
            yield f"{reservation.id} is {reservation.status} and has an order or a payment"
    for reservation_id, count in Counter(item["reservationId"]["S"] for item in rows.reservations).items():
        if count > 1:
            yield f"{reservation_id} is there {count} times"


def seats_with_two_owners(reservations: Iterable[Reservation], now: int) -> Iterator[str]:
    """`now`: as for `violations`."""
    owners: dict[str, list[str]] = defaultdict(list)
    for reservation in reservations:
        live = reservation.status is Status.HOLD and reservation.hold_expires_at > now
        if live or reservation.status is Status.CONFIRMED:
            for pk in _seat_pks(reservation):
                owners[pk].append(reservation.id)
    for pk, claims in owners.items():
        if len(claims) > 1:
            yield f"seat {pk} belongs to {claims}"


def _wrong_slots(rows: Rows, now: int) -> Iterator[str]:
    """A held slot belongs to a hold that names it and ends with it, and whoever names one has it while he is a live
    hold."""
    reservations = _reservations(rows)
    slots = {pk: slot_state_from_item(item) for pk, item in rows.slots.items()}
    for pk, slot in slots.items():
        holder = reservations.get(slot.holder)
        if holder is None or holder.status is not Status.HOLD:
            yield f"slot {pk} is held for {slot.holder!r}, which is no hold"
        elif holder.slot is None or slot_key_of(holder)["pk"]["S"] != pk:
            yield f"slot {pk} is held for {holder.id}, which does not name it"
        elif slot.hold_expires_at != holder.hold_expires_at:
            yield f"slot {pk} is held until {slot.hold_expires_at}, its reservation until {holder.hold_expires_at}"
    for each in reservations.values():
        live = each.status is Status.HOLD and each.hold_expires_at > now
        if live and each.slot is not None:
            named = slots.get(slot_key_of(each)["pk"]["S"])
            if named is None or named.holder != each.id:
                yield f"{each.id} is HOLD without its slot {each.slot}"


def _wrong_orders(rows: Rows) -> Iterator[str]:
    """Exactly one for each confirmed reservation, with its payment and seats."""
    reservations = _reservations(rows)
    confirmed = {each.id for each in reservations.values() if each.status is Status.CONFIRMED and not each.foreign}
    ordered = Counter(order["reservationId"]["S"] for order in rows.orders)
    for reservation_id in sorted(confirmed | set(ordered)):
        if ordered[reservation_id] != (reservation_id in confirmed):
            yield f"{reservation_id} has {ordered[reservation_id]} orders"
    for order in rows.orders:
        reservation = reservations.get(order["reservationId"]["S"])
        if reservation is None or order != _order_of(reservation):
            yield f"order {order['orderId']['S']} is not what its reservation says"


def _order_of(confirmed: Reservation) -> Item:
    total = confirmed.total
    assert total is not None
    return {
        "orderId": {"S": order_id_of(confirmed.id)},
        "reservationId": {"S": confirmed.id},
        "eventId": {"S": confirmed.event_id},
        "userId": {"S": confirmed.user_id},
        "paymentIntentId": {"S": confirmed.payment_intent_id},
        "seats": {"L": [{"M": _seat(seat)} for seat in confirmed.seats]},
        "amount": {"N": str(total.amount)},
        "currency": {"S": total.currency},
        "createdAt": {"N": str(confirmed.updated_at)},
    }


def _seat(seat: Seat) -> Item:
    spot = {"spot": {"S": f"{seat.spot.block}.{seat.spot.position}"}} if seat.spot is not None else {}
    accessible = {"accessible": {"BOOL": True}} if seat.accessible else {}
    return {
        **spot,
        **accessible,
        "id": {"S": seat.id},
        "section": {"S": seat.section},
        "row": {"S": seat.row},
        "number": {"S": seat.number},
        "amount": {"N": str(seat.price.amount)},
        "currency": {"S": seat.price.currency},
    }


def _wrong_records(rows: Rows) -> Iterator[str]:
    """Each tells of one command that took effect, and no two of the same one."""
    reservations = _reservations(rows)
    told: Counter[tuple[str, int]] = Counter()
    for item in rows.idempotency:
        if "answer" not in item:
            yield f"a key record waits for a saga of {item['reservationId']['S']}"
            continue
        answer = reservation_from_item(item["answer"]["M"])
        told[answer.id, answer.version] += 1
        reservation = reservations.get(answer.id)
        if reservation is None or answer.version > reservation.version:
            yield f"a key record tells of {answer.id} version {answer.version}, which never was"
        elif answer.version == reservation.version and item["opId"]["S"] != reservation.op_id:
            yield f"the key record of {answer.id} version {answer.version} names another operation"
    for (reservation_id, version), count in told.items():
        if count > 1:
            yield f"{count} key records tell of {reservation_id} version {version}"


def _last_event(reservation: Reservation) -> str | None:
    if reservation.status is Status.HOLD and reservation.version > 1:
        return "reservation.hold_extended"
    return _EVENT_OF.get(reservation.status)


def _wrong_outbox(rows: Rows) -> Iterator[str]:
    """One row a version, in the order of the versions, in the reservation's own shard."""
    reservations = _reservations(rows)
    sent: dict[str, list[Item]] = defaultdict(list)
    for row in sorted(rows.outbox, key=lambda row: row["seq"]["S"]):
        sent[row["reservationId"]["S"]].append(row)
    for reservation_id in sorted(set(sent) | {each.id for each in reservations.values() if not each.foreign}):
        reservation = reservations.get(reservation_id)
        if reservation is None:
            yield f"events tell of {reservation_id}, which does not exist"
            continue
        if reservation.foreign:
            yield f"events tell of {reservation_id}, which stands for another service's reservation"
            continue
        details = [event_of(row) for row in sent[reservation_id]]
        if [detail["version"] for detail in details] != list(range(1, reservation.version + 1)):
            yield f"{reservation_id} has version {reservation.version} and events {[d['version'] for d in details]}"
        elif details and details[-1]["type"] != _last_event(reservation):
            yield f"{reservation_id} is {reservation.status} and its last event {details[-1]['type']}"
        for row, detail in zip(sent[reservation_id], details, strict=True):
            if row["shard"]["S"] != reservation.shard:
                yield f"an event of {reservation_id} is in shard {row['shard']['S']}"
            if row["type"]["S"] != detail["type"] or detail["messageId"] != f"{reservation_id}#{detail['version']}":
                yield f"an event of {reservation_id} contradicts itself"
