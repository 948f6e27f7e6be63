"""The invariants that the store tests rely on: right tables have no violation, and each kind of damage is seen."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from reservation.domain import model
from reservation.domain.idempotency import Key
from reservation.domain.model import Money, Reservation, Seat, Status
from reservation.dynamodb.items import (
    Item,
    new_seat_to_item,
    order_to_item,
    outbox_to_item,
    record_to_item,
    reservation_to_item,
    slot_key,
)
from tests.support.invariants import Rows, violations

NOW, DEADLINE = 1_735_689_600_000, 1_735_689_660_000


def seat(number: int) -> Seat:
    return Seat(f"A-{number}", "Floor", "A", str(number), Money(100, "KRW"))


def held(name: str, number: int) -> Reservation:
    return Reservation(
        f"rsv_{name}", "evt", "user", Status.HOLD, (seat(number),), NOW, NOW, DEADLINE, 1, f"op_{name}", "0001"
    )


def advanced(after: Reservation | None) -> Reservation:
    assert after is not None
    return after


HELD = replace(held("held", 1), slot=1)
TO_SELL, TO_CANCEL, TO_EXPIRE = held("sold", 2), held("cancelled", 3), held("expired", 4)
SOLD = advanced(model.confirm(TO_SELL, payment_intent_id="pay", now=NOW, op_id="op_confirm"))
CANCELLED = advanced(model.cancel(TO_CANCEL, reason="", now=NOW, op_id="op_cancel"))
EXPIRED = advanced(model.expire(TO_EXPIRE, now=DEADLINE, op_id="op_expire"))


FOREIGN = replace(
    held("other", 5), id="hld_rsv_other", status=Status.CONFIRMED, payment_intent_id="pay", order_id="ord"
)
"""A hold for another service's reservation, sold: its order and its events are not ours."""


def seat_of(number: int, **state: Item) -> Item:
    return new_seat_to_item("evt", seat(number)) | state


HELD_SEAT = {"status": {"S": "HELD"}, "holder": {"S": HELD.id}, "holderKey": {"S": ""}}
HELD_SEAT |= {"holdExpiresAt": {"N": str(DEADLINE)}}


def slot_of(number: int, **state: Item) -> Item:
    """A slot of the one user there is, as it is while HELD has it."""
    return slot_key("evt", "user", number) | HELD_SEAT | state


RIGHT = Rows(
    reservations=tuple(map(reservation_to_item, (HELD, SOLD, CANCELLED, EXPIRED, FOREIGN))),
    orders=(order_to_item(SOLD),),
    idempotency=(record_to_item(Key("k1", "f"), HELD, NOW), record_to_item(Key("k2", "f"), SOLD, NOW)),
    outbox=tuple(outbox_to_item(it, "") for it in (HELD, TO_SELL, SOLD, TO_CANCEL, CANCELLED, TO_EXPIRE, EXPIRED)),
    inventory=(
        {"pk": {"S": "evt#"}, "eventId": {"S": "evt"}},
        seat_of(1, **HELD_SEAT),
        seat_of(2, status={"S": "SOLD"}, holder={"S": SOLD.id}),
        seat_of(3),
        seat_of(4),
        slot_of(1),
        seat_of(5, status={"S": "SOLD"}, holder={"S": FOREIGN.id}),
    ),
)


def with_seat(number: int, **state: Item) -> Rows:
    changed = seat_of(number, **state)
    return replace(RIGHT, inventory=(*(it for it in RIGHT.inventory if it["pk"] != changed["pk"]), changed))


def with_slots(*slots: Item) -> Rows:
    """With these instead of those that are there."""
    return replace(RIGHT, inventory=(*(it for it in RIGHT.inventory if it["pk"] != slot_of(1)["pk"]), *slots))


def with_reservation(before: Reservation, **changes: Any) -> Rows:
    others = (it for it in RIGHT.reservations if it["reservationId"]["S"] != before.id)
    return replace(RIGHT, reservations=(*others, reservation_to_item(before) | changes))


def with_record(answer: Reservation) -> Rows:
    return replace(RIGHT, idempotency=(*RIGHT.idempotency, record_to_item(Key("k3", "f"), answer, NOW)))


def without_event(reservation: Reservation) -> Rows:
    gone = outbox_to_item(reservation, "")["seq"]
    return replace(RIGHT, outbox=tuple(row for row in RIGHT.outbox if row["seq"] != gone))


DAMAGE: dict[str, tuple[Callable[[], Rows], str]] = {
    "a free seat with a holder": (lambda: with_seat(3, holder={"S": HELD.id}), "is nobody's and has ['holder']"),
    "a seat held for nobody": (lambda: with_seat(3, **HELD_SEAT | {"holder": {"S": "rsv_x"}}), "does not exist"),
    "a seat its holder does not name": (lambda: with_seat(3, **HELD_SEAT), "does not name it"),
    "a seat of a cancelled one": (lambda: with_seat(3, **HELD_SEAT | {"holder": {"S": CANCELLED.id}}), "CANCELLED"),
    "a seat of an expired one": (lambda: with_seat(4, **HELD_SEAT | {"holder": {"S": EXPIRED.id}}), "EXPIRED"),
    "a sold seat of a hold": (lambda: with_seat(1, status={"S": "SOLD"}, holder={"S": HELD.id}), "which is HOLD"),
    "a seat with another deadline": (lambda: with_seat(1, **HELD_SEAT | {"holdExpiresAt": {"N": "1"}}), "until 1"),
    "a sold seat with a deadline": (
        lambda: with_seat(2, status={"S": "SOLD"}, holder={"S": SOLD.id}, holdExpiresAt={"N": "1"}),
        "is sold and has",
    ),
    "a slot of nobody": (lambda: with_slots(slot_of(1), slot_of(0, holder={"S": "rsv_x"})), "which is no hold"),
    "a slot of a sold one": (lambda: with_slots(slot_of(1), slot_of(0, holder={"S": SOLD.id})), "which is no hold"),
    "a slot its holder does not name": (lambda: with_slots(slot_of(1), slot_of(0)), "does not name it"),
    "a slot with another deadline": (lambda: with_slots(slot_of(1, holdExpiresAt={"N": "1"})), "is held until 1"),
    "a live hold without its slot": (with_slots, f"{HELD.id} is HOLD without its slot 1"),
    "a live hold whose slot is another's": (
        lambda: with_slots(slot_of(1, holder={"S": "rsv_x"})),
        f"{HELD.id} is HOLD without its slot 1",
    ),
    "a live hold without its seat": (lambda: with_seat(1), f"{HELD.id} is HOLD without"),
    "a sold reservation without its seat": (lambda: with_seat(2), f"{SOLD.id} is CONFIRMED without"),
    "a state nobody makes": (lambda: with_reservation(HELD, status={"S": "PENDING"}), "which no command makes"),
    "a hold that is not due": (lambda: with_reservation(HELD, expiryShard={"S": "9"}), "in the due index under 9"),
    "a sold one that is due": (lambda: with_reservation(SOLD, expiryShard={"S": "0001"}), "in the due index"),
    "a hold that was paid": (lambda: with_reservation(HELD, paymentIntentId={"S": "pay"}), "an order or a payment"),
    "a reservation twice": (
        lambda: replace(RIGHT, reservations=(*RIGHT.reservations, RIGHT.reservations[0])),
        "is there 2 times",
    ),
    "a seat sold twice": (
        lambda: with_reservation(replace(SOLD, id="rsv_again")),
        "seat evt#A-2 belongs to ['rsv_sold', 'rsv_again']",
    ),
    "no order": (lambda: replace(RIGHT, orders=()), f"{SOLD.id} has 0 orders"),
    "two orders": (lambda: replace(RIGHT, orders=RIGHT.orders * 2), f"{SOLD.id} has 2 orders"),
    "an order of a hold": (
        lambda: replace(RIGHT, orders=(*RIGHT.orders, order_to_item(replace(HELD, order_id="ord_held")))),
        f"{HELD.id} has 1 orders",
    ),
    "an order over another sum": (
        lambda: replace(RIGHT, orders=(RIGHT.orders[0] | {"amount": {"N": "1"}},)),
        "is not what its reservation says",
    ),
    "a key record of nobody": (lambda: with_record(held("x", 5)), "which never was"),
    "a key record of a version to come": (lambda: with_record(replace(CANCELLED, version=3)), "which never was"),
    "a key record of another operation": (lambda: with_record(replace(CANCELLED, op_id="op_x")), "another operation"),
    "two key records of one command": (lambda: with_record(HELD), "2 key records"),
    "an order of another service": (
        lambda: replace(RIGHT, orders=(*RIGHT.orders, order_to_item(FOREIGN))),
        f"{FOREIGN.id} has 1 orders",
    ),
    "an event of another service": (
        lambda: replace(RIGHT, outbox=(*RIGHT.outbox, outbox_to_item(FOREIGN, ""))),
        "another service's reservation",
    ),
    "another service's hold in a user's list": (lambda: with_reservation(FOREIGN, userId={"S": "user"}), "user's list"),
    "an event of nobody": (
        lambda: replace(RIGHT, outbox=(*RIGHT.outbox, outbox_to_item(held("x", 5), ""))),
        "which does not exist",
    ),
    "a missing event": (lambda: without_event(TO_SELL), "has version 2 and events [2]"),
    "no event at all": (lambda: without_event(HELD), "has version 1 and events []"),
    "an event too many": (
        lambda: replace(RIGHT, outbox=(*RIGHT.outbox, outbox_to_item(replace(SOLD, updated_at=NOW + 9), ""))),
        "events [1, 2, 2]",
    ),
    "events in the wrong order": (
        lambda: replace(
            without_event(TO_SELL),
            outbox=(*without_event(TO_SELL).outbox, outbox_to_item(replace(TO_SELL, updated_at=NOW + 9), "")),
        ),
        "events [2, 1]",
    ),
    "an event of another state": (
        lambda: replace(
            without_event(SOLD),
            outbox=(*without_event(SOLD).outbox, outbox_to_item(replace(CANCELLED, id=SOLD.id), "")),
        ),
        "its last event reservation.cancelled",
    ),
    "an event in another shard": (
        lambda: replace(
            without_event(HELD), outbox=(*without_event(HELD).outbox, outbox_to_item(replace(HELD, shard="9"), ""))
        ),
        "is in shard 9",
    ),
    "an event that contradicts itself": (
        lambda: replace(RIGHT, outbox=(RIGHT.outbox[0] | {"type": {"S": "x"}}, *RIGHT.outbox[1:])),
        "contradicts itself",
    ),
}


def test_right_tables_have_no_violation() -> None:
    assert violations(RIGHT) == []


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_seen(damage: str) -> None:
    damaged, words = DAMAGE[damage]
    found = violations(damaged())
    assert any(words in violation for violation in found), found


@pytest.mark.parametrize("taken_over", [with_seat(1), with_slots()], ids=["seat", "slot"])
def test_only_a_hold_that_has_ended_may_have_lost_its_seat_or_slot(taken_over: Rows) -> None:
    assert violations(taken_over, now=DEADLINE) == []
    assert violations(taken_over, now=DEADLINE - 1) != []
