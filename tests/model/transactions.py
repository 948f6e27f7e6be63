"""The transactions: their conditions, by the names of reservation/dynamodb/conditions.py, and what they change."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from tests.model.state import (
    CANCEL,
    CANCELLED,
    CONFIRM,
    CONFIRMED,
    CREATE,
    EXPIRED,
    EXTEND,
    EXTENSION,
    FREE,
    GONE,
    HELD,
    HOLD,
    KEY,
    NOBODY,
    ORDER,
    OUTBOX,
    RESERVATION,
    SEAT,
    SETTLE,
    SLOT,
    SOLD,
    Attempt,
    Record,
    Reservation,
    Seat,
    Slot,
    State,
    key_of,
    put,
    told_expired,
)


def key_is_new(record: Record | None, mine: Attempt, now: int) -> bool:
    return record is None or record.ends <= now


def order_is_new(orders: int, mine: Attempt, now: int) -> bool:
    return orders == 0


def reservation_is_new(reservation: Reservation | None, mine: Attempt, now: int) -> bool:
    return reservation is None


def reservation_is_hold(reservation: Reservation, mine: Attempt, now: int) -> bool:
    return reservation.status == HOLD


def reservation_version(reservation: Reservation, mine: Attempt, now: int) -> bool:
    return reservation.version == mine.version


def hold_is_unexpired(item: Reservation | Seat | Slot | None, mine: Attempt, now: int) -> bool:
    return item is not None and item.ends > now


def hold_is_ended(reservation: Reservation, mine: Attempt, now: int) -> bool:
    return reservation.ends <= now


def is_mine(item: Seat | Slot | None, mine: Attempt, now: int) -> bool:
    held = item is not None and (isinstance(item, Slot) or item.status == HELD)
    return held and item is not None and item.holder == mine.reservation


def price_is_as_read(seat: Seat, mine: Attempt, now: int) -> bool:
    return seat.price == mine.prices[mine.seats.index(seat.number)]


def seat_is_free_or_ended(seat: Seat, mine: Attempt, now: int) -> bool:
    return seat.status == FREE or (seat.status == HELD and seat.ends <= now)


def slot_is_free_or_ended(slot: Slot | None, mine: Attempt, now: int) -> bool:
    return slot is None or slot.ends <= now


Condition = Callable[[Any, Attempt, int], bool]

Transactions = Mapping[str, Mapping[str, tuple[Condition, ...]]]

TRANSACTIONS: Transactions = {
    CREATE: {
        KEY: (key_is_new,),
        RESERVATION: (reservation_is_new,),
        SEAT: (price_is_as_read, seat_is_free_or_ended),
        SLOT: (slot_is_free_or_ended,),
        OUTBOX: (),
    },
    CONFIRM: {
        KEY: (key_is_new,),
        RESERVATION: (reservation_is_hold, reservation_version, hold_is_unexpired),
        SEAT: (is_mine, hold_is_unexpired),
        SLOT: (is_mine,),
        ORDER: (order_is_new,),
        OUTBOX: (),
    },
    CANCEL: {
        KEY: (key_is_new,),
        RESERVATION: (reservation_is_hold, reservation_version, hold_is_unexpired),
        SEAT: (is_mine,),
        SLOT: (is_mine,),
        OUTBOX: (),
    },
    EXTEND: {
        KEY: (key_is_new,),
        RESERVATION: (reservation_is_hold, reservation_version, hold_is_unexpired),
        SEAT: (is_mine, hold_is_unexpired),
        SLOT: (is_mine, hold_is_unexpired),
        OUTBOX: (),
    },
    SETTLE: {
        RESERVATION: (reservation_is_hold, reservation_version, hold_is_ended),
        SEAT: (is_mine,),
        SLOT: (is_mine,),
        OUTBOX: (),
    },
}
"""What each command writes, and the conditions of it, by the kind of item."""


class Guard(NamedTuple):
    """One condition of one command's transaction, on each item of this kind."""

    command: str
    item: str
    condition: str

    def __str__(self) -> str:
        return f"{self.command}:{self.item}:{self.condition}"


GUARDS = tuple(
    Guard(command, item, condition.__name__)
    for command, items in TRANSACTIONS.items()
    for item, conditions in items.items()
    for condition in conditions
)


def without(guards: Collection[Guard], transactions: Transactions = TRANSACTIONS) -> Transactions:
    """The same transactions, as if somebody had forgotten these conditions."""
    return {
        command: {
            item: tuple(each for each in conditions if Guard(command, item, each.__name__) not in guards)
            for item, conditions in items.items()
        }
        for command, items in transactions.items()
    }


def items_of(state: State, mine: Attempt, kind: str) -> tuple[Any, ...]:
    """Those of one kind that the attempt's transaction writes."""
    match kind:
        case "key":
            return (state.records[key_of(mine)],) if mine.keyed and not mine.settling else ()
        case "reservation":
            return (state.reservations[mine.reservation],)
        case "seat":
            return tuple(state.seats[seat] for seat in mine.seats)
        case "slot":
            return (state.slots[mine.user],) if mine.slot else ()
    return (state.orders[mine.reservation],)


# What the transactions change


def _create(state: State, mine: Attempt) -> State:
    number = mine.reservation
    before = state.reservations[number]
    made = Reservation(mine.user, mine.seats, mine.prices, HOLD, 1, mine.ends, mine.op)
    made = made._replace(events=1 + (before.events if before else 0))
    seats = tuple(
        seat._replace(status=HELD, holder=number, ends=mine.ends) if seat.number in mine.seats else seat
        for seat in state.seats
    )
    slots = put(state.slots, mine.user, Slot(number, mine.ends)) if mine.slot else state.slots
    return state._replace(reservations=put(state.reservations, number, made), seats=seats, slots=slots)


def _confirm(state: State, mine: Attempt) -> State:
    state = _change(state, mine, CONFIRMED, Seat(0, SOLD, mine.reservation))
    return state._replace(orders=put(state.orders, mine.reservation, state.orders[mine.reservation] + 1))


def _cancel(state: State, mine: Attempt) -> State:
    return _change(state, mine, CANCELLED, Seat(0))


def _settle(state: State, mine: Attempt) -> State:
    return told_expired(_change(state, mine, EXPIRED, Seat(0)), mine.reservation)


def _change(state: State, mine: Attempt, status: str, becomes: Seat) -> State:
    """The end of a hold: its seats become free or sold, its slot free."""
    seats = tuple(
        becomes._replace(number=seat.number, price=seat.price) if seat.number in mine.seats else seat
        for seat in state.seats
    )
    slots = put(state.slots, mine.user, None) if mine.slot else state.slots
    return _next_version(state, mine, status=status)._replace(seats=seats, slots=slots)


def _extend(state: State, mine: Attempt) -> State:
    ends = mine.ends + EXTENSION
    seats = tuple(seat._replace(ends=ends) if seat.number in mine.seats else seat for seat in state.seats)
    slot = (state.slots[mine.user] if mine.slot else None) or Slot(NOBODY, GONE)
    slots = put(state.slots, mine.user, slot._replace(ends=ends)) if mine.slot else state.slots
    there = state.reservations[mine.reservation]
    assert there is not None
    by = (*there.extended_by, mine.op)
    longer = _next_version(state, mine, ends=ends, extensions=mine.extensions + 1, extended_by=by)
    return longer._replace(seats=seats, slots=slots)


def _next_version(state: State, mine: Attempt, **changes: Any) -> State:
    there = state.reservations[mine.reservation]
    assert there is not None
    after = there._replace(version=mine.version + 1, op=mine.op, events=there.events + 1, **changes)
    return state._replace(reservations=put(state.reservations, mine.reservation, after))


APPLY = {CREATE: _create, CONFIRM: _confirm, CANCEL: _cancel, EXTEND: _extend, SETTLE: _settle}
STATUS_AFTER = {CREATE: HOLD, CONFIRM: CONFIRMED, CANCEL: CANCELLED, EXTEND: HOLD, SETTLE: EXPIRED}
