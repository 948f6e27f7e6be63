"""A sale in which everything goes right, one thing after the other, at instants and by clocks that a test chooses: what
it leaves behind is what a check must find nothing wrong with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from reservation.domain import model
from reservation.domain.errors import ReservationError
from reservation.domain.model import Money, Reservation, Seat, Status
from reservation.dynamodb.items import (
    new_seat_to_item,
    order_to_item,
    outbox_row_from_item,
    outbox_to_item,
    reservation_to_item,
)
from tests.chaos.history import OK, UNKNOWN, Answer, Attempt, Delivery, Door, Kind
from tests.chaos.told import Bounds
from tests.support.invariants import Rows

EVENT, SKEW, READ_SKEW, HOLD, GRACE = "evt", 2_000, 4_000, 6_000, 5_000
START = 1_735_689_600_000
"""When sales begin. Tests count from there, in milliseconds."""


@dataclass(frozen=True, slots=True)
class How:
    """How an attempt goes: `called` so long before it is decided and `answered` so long after. `clock`: the error of
    the clock that decides. `lost`: the customer hears nothing."""

    called: int = 5
    answered: int = 5
    clock: int = 0
    lost: bool = False


PLAIN = How()


@dataclass(slots=True)
class Sale:
    seats: Sequence[str] = ("A", "B", "C")
    history: list[Attempt] = field(default_factory=list)
    deliveries: list[Delivery] = field(default_factory=list)
    reservations: dict[str, Reservation] = field(default_factory=dict)
    holders: dict[str, str] = field(default_factory=dict)
    answers: dict[str, Answer] = field(default_factory=dict)

    # What customers do

    def create(self, user: str, seats: Sequence[str], at: int, how: How = PLAIN) -> str:
        """The id of the reservation that the key `user` has, also if its customer is not told; empty: refused."""
        asked = {"key": user, "event_id": EVENT, "seat_ids": tuple(seats)}
        reservation_id = f"rsv_{user}"
        if user in self.answers:
            self._note(Kind.CREATE, user, at, how, OK, self.answers[user], replayed=True, **asked)
            return reservation_id
        if taken := [seat for seat in seats if self._is_taken(seat, at + how.clock)]:
            refusal = Answer(unavailable=tuple(taken))
            self._note(Kind.CREATE, user, at, how, "SEAT_UNAVAILABLE", refusal, **asked)
            return ""
        now = START + at + how.clock
        made = Reservation(
            reservation_id,
            EVENT,
            user,
            Status.HOLD,
            tuple(map(_seat, seats)),
            now,
            now,
            now + HOLD,
            1,
            f"op_{user}",
            "0001",
            reservation_token=user,
        )
        self.holders |= dict.fromkeys(seats, made.id)
        self._write(made, at)
        self.answers[user] = Answer(made.id, "HOLD", made.seat_ids, made.hold_expires_at)
        self._note(Kind.CREATE, user, at, how, OK, self.answers[user], **asked)
        return reservation_id

    def confirm(self, reservation_id: str, at: int, how: How = PLAIN, *, payment: str = "pay") -> None:
        def change(held: Reservation, now: int, op_id: str) -> Reservation | None:
            return model.confirm(held, payment_intent_id=payment, now=now, op_id=op_id)

        self._change(Kind.CONFIRM, reservation_id, at, how, change, key=f"confirm {payment}", payment_id=payment)

    def cancel(self, reservation_id: str, at: int, how: How = PLAIN) -> None:
        def change(held: Reservation, now: int, op_id: str) -> Reservation | None:
            return model.cancel(held, reason="", now=now, op_id=op_id)

        self._change(Kind.CANCEL, reservation_id, at, how, change, key="cancel")

    def extend(self, reservation_id: str, at: int, how: How = PLAIN, *, seconds: int = 2, key: str = "extend") -> None:
        def change(held: Reservation, now: int, op_id: str) -> Reservation | None:
            limits: dict[str, Any] = {"max_extensions": 3, "max_total": 60_000, "extension_ms": seconds * 1000}
            return model.extend(held, reason="", now=now, op_id=op_id, **limits)

        self._change(Kind.EXTEND, reservation_id, at, how, change, key=key, seconds=seconds)

    def get(self, reservation_id: str, at: int, how: How = PLAIN) -> None:
        stored = self.reservations[reservation_id]
        seen = model.as_seen(stored, now=START + at + how.clock, max_clock_skew=READ_SKEW)
        answer = Answer(
            seen.id, seen.status, seen.seat_ids, seen.hold_expires_at, seen.order_id, seen.payment_intent_id
        )
        self._note(Kind.GET, stored.user_id, at, how, OK, answer, reservation_id=reservation_id)

    def check(self, seats: Sequence[str], at: int, how: How = PLAIN) -> None:
        taken = tuple(seat for seat in seats if self._is_taken(seat, at + how.clock))
        answer = Answer(seat_ids=tuple(seat for seat in seats if seat not in taken), unavailable=taken)
        self._note(Kind.CHECK, "looker", at, how, OK, answer, event_id=EVENT, seat_ids=tuple(seats))

    # What time does

    def expire(self, reservation_id: str, at: int, *, clock: int = 0) -> None:
        """Settles it, if its time is over by that clock."""
        after = model.expire(self.reservations[reservation_id], now=START + at + clock, op_id=f"op_{at}")
        if after is not None:
            self._write(after, at)

    def over(self, at: int) -> tuple[list[Attempt], Rows, list[Delivery], Bounds]:
        """What it leaves behind when it ends, in the order of check()'s arguments."""
        for reservation_id in self.reservations:
            self.expire(reservation_id, at, clock=SKEW)
        return self.history, self.rows(), self.deliveries, self.bounds(at)

    def bounds(self, at: int) -> Bounds:
        return Bounds(SKEW, READ_SKEW, HOLD, GRACE, START, START + at + 10, {EVENT: len(self.seats)})

    def rows(self) -> Rows:
        stored = self.reservations.values()
        orders = tuple(order_to_item(each) for each in stored if each.status is Status.CONFIRMED)
        return Rows(tuple(map(reservation_to_item, stored)), orders, (), (), tuple(map(self._seat_item, self.seats)))

    # The tables

    def _change(
        self,
        kind: Kind,
        reservation_id: str,
        at: int,
        how: How,
        change: Callable[[Reservation, int, str], Reservation | None],
        *,
        key: str,
        **asked: Any,
    ) -> None:
        held, now = self.reservations[reservation_id], START + at + how.clock
        asked |= {"reservation_id": reservation_id, "key": f"{reservation_id} {key}"}
        if (known := self.answers.get(asked["key"])) is not None:
            self._note(kind, held.user_id, at, how, OK, known, replayed=True, **asked)
            return
        try:
            if any(self.holders.get(seat) != held.id for seat in held.seat_ids) and held.status is Status.HOLD:
                after = model.confirm(held, payment_intent_id="", now=held.hold_expires_at, op_id="")
            else:
                after = change(held, now, f"op_{at}")
        except ReservationError as refusal:
            self.expire(reservation_id, at, clock=how.clock)  # the refusal is final
            self._note(kind, held.user_id, at, how, refusal.code, None, **asked)
            return
        if after is not None:
            self._write(after, at)
        now_is = self.reservations[reservation_id]
        answer = Answer(held.id, now_is.status, now_is.seat_ids, now_is.hold_expires_at, now_is.order_id)
        self.answers[asked["key"]] = answer
        self._note(kind, held.user_id, at, how, OK, answer, **asked)

    def _write(self, after: Reservation, at: int) -> None:
        self.reservations[after.id] = after
        mine = [seat for seat in after.seat_ids if self.holders.get(seat) == after.id]
        if after.seat_status is None:
            for seat in mine:
                del self.holders[seat]
        row = outbox_row_from_item(outbox_to_item(after, "", mine))
        self.deliveries.append(Delivery(START + at + 3, orjson.loads(row.detail)))

    def _is_taken(self, seat: str, clock: int) -> bool:
        holder = self.reservations.get(self.holders.get(seat, ""))
        if holder is None:
            return False
        return holder.status is Status.CONFIRMED or START + clock < holder.hold_expires_at

    def _seat_item(self, seat: str) -> dict[str, Any]:
        item = new_seat_to_item(EVENT, _seat(seat))
        holder = self.reservations.get(self.holders.get(seat, ""))
        if holder is None:
            return item
        item |= {"status": {"S": str(holder.seat_status)}, "holder": {"S": holder.id}}
        held = {"holderKey": {"S": ""}, "holdExpiresAt": {"N": str(holder.hold_expires_at)}}
        return item | (held if holder.status is Status.HOLD else {})

    def _note(self, kind: Kind, user: str, at: int, how: How, status: str, answer: Answer | None, **about: Any) -> None:
        attempt = Attempt(
            len(self.history) + 1,
            user,
            kind,
            Door.REST,
            START + at - how.called,
            START + at + how.answered,
            status,
            answer=answer,
            **about,
        )
        if how.lost:
            attempt = replace(attempt, status=UNKNOWN, answer=None, replayed=False)
        self.history.append(attempt)


def _seat(seat_id: str) -> Seat:
    return Seat(seat_id, "Floor", "A", seat_id, Money(100, "KRW"))
