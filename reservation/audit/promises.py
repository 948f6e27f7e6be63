"""What must be true of the tables, whatever happened before, and what is said when it is not."""

from collections import defaultdict
from collections.abc import Iterator, Set
from dataclasses import dataclass, field

from reservation.domain.model import Reservation, SeatStatus, Spot, Status, order_id_of
from reservation.domain.seating import FREE
from reservation.dynamodb.items import SeatState, SlotState, UnreadableRow, slot_key_of

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
    hints by (event, spot); and what could not be read, by its key.

    `seats_elsewhere`: they are in a remote inventory, so what our own table says of them means nothing. `for_sale`:
    seats that a reservation holds or has bought, and that the remote inventory would sell to others."""

    seats_elsewhere: bool = False

    seats: dict[str, SeatState] = field(default_factory=dict)
    slots: dict[str, SlotState] = field(default_factory=dict)
    spots: dict[str, Spot] = field(default_factory=dict)
    hints: dict[tuple[str, Spot], int] = field(default_factory=dict)
    reservations: dict[str, Reservation] = field(default_factory=dict)
    orders: set[tuple[str, str]] = field(default_factory=set)
    outbox: set[UnreadableRow] = field(default_factory=set)
    dead: set[UnreadableRow] = field(default_factory=set)
    unreadable: dict[str, Finding] = field(default_factory=dict)
    for_sale: dict[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Graces:
    """How long after its time a thing may take, in milliseconds; `hint`: how long one may hide a free seat, which is as
    long as a hold can last."""

    expiry: int = 5_000
    outbox: int = 30_000
    hint: int = 300_000
    saga: int = 30_000


USUAL_GRACES = Graces()


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
            yield Finding("event-stuck", name_of(row), text, events=(name_of(row),))
    yield from snapshot.unreadable.values()


def _seat_findings(pk: str, seat: SeatState, snapshot: Snapshot) -> Iterator[Finding]:
    if seat.status not in (SeatStatus.HELD, SeatStatus.SOLD):
        return
    holder = snapshot.reservations.get(seat.holder)
    about = {"seats": (pk,), "reservations": (seat.holder,)}
    if holder is None and seat.holder in snapshot.unreadable:
        return
    if holder is None or pk not in seat_pks(holder):
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
    pks = seat_pks(reservation)
    about = {"seats": pks, "reservations": (reservation.id,)}
    if reservation.saga is not None and now - reservation.saga.until > graces.saga:
        text = f"is {reservation.status}, and what is under way with it does not come to its end"
        yield Finding("saga-stuck", reservation.id, text, **about)
    if for_sale := snapshot.for_sale.get(reservation.id):
        text = f"is {reservation.status}, and the remote inventory would sell {', '.join(for_sale)} to others"
        yield Finding("inventory-differs", reservation.id, text, **about)
    past = is_over(reservation, now)
    if past and now - reservation.hold_expires_at > graces.expiry:
        late = (now - reservation.hold_expires_at) / 1000
        yield Finding("hold-stuck", reservation.id, f"ended {late:.0f} s ago and is still a HOLD", **about)
    lost = [pk for pk in pks if not _has(snapshot.seats.get(pk), reservation)]
    if reservation.seat_status is not None and lost and not past and not snapshot.seats_elsewhere:
        text = f"is {reservation.status} without {', '.join(lost)}"
        yield Finding("reservation-without-seats", reservation.id, text, **about)
    if reservation.status is Status.HOLD and not past and _lacks_slot(reservation, snapshot):
        slots = {"seats": (str(_slot_pk(reservation)),), "reservations": (reservation.id,)}
        yield Finding("hold-without-slot", reservation.id, f"is a HOLD without slot {reservation.slot}", **slots)
    ordered = reservation.foreign or (order_id_of(reservation.id), reservation.id) in snapshot.orders
    if reservation.status is Status.CONFIRMED and not ordered:
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


def is_over(reservation: Reservation, now: int) -> bool:
    """A hold past its time. One that is being sold has no end."""
    return reservation.status is Status.HOLD and reservation.saga is None and now >= reservation.hold_expires_at


def _has(seat: SeatState | None, reservation: Reservation) -> bool:
    return seat is not None and seat.holder == reservation.id and seat.status is reservation.seat_status


def _lacks_slot(reservation: Reservation, snapshot: Snapshot) -> bool:
    pk = _slot_pk(reservation)
    slot = snapshot.slots.get(pk) if pk is not None else None
    return pk is not None and (slot is None or slot.holder != reservation.id)


def seat_pks(reservation: Reservation) -> tuple[str, ...]:
    return tuple(f"{reservation.event_id}#{seat_id}" for seat_id in reservation.seat_ids)


def _slot_pk(reservation: Reservation) -> str | None:
    """None: its user's holds are not limited."""
    return str(slot_key_of(reservation)["pk"]["S"]) if reservation.slot is not None else None


def untold(snapshot: Snapshot) -> Iterator[Told]:
    """Events that are neither in the outbox any more nor dead letters: the bus has accepted them."""
    here = {(row.reservation_id, row.version) for row in snapshot.outbox | snapshot.dead}
    for reservation in snapshot.reservations.values():
        for version in range(1, 1 if reservation.foreign else reservation.version + 1):
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


def name_of(row: UnreadableRow) -> str:
    return f"{row.shard}/{row.seq}"
