"""What may become of a reservation: every state, every command, every side of the deadline."""

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reservation.domain import model
from reservation.domain.errors import (
    HoldExtensionDenied,
    ReservationAlreadyCancelled,
    ReservationAlreadyConfirmed,
    ReservationError,
    ReservationExpired,
    ReservationNotFound,
)
from reservation.domain.model import Money, Reservation, SeatStatus, Status, order_id_of, total_of
from tests.unit.examples import HOLD, in_state, patient, reservations, seats, times

SKEW = 1_000
DEADLINE = HOLD.hold_expires_at

TIMES = {
    "before": DEADLINE - 1,
    "at the deadline": DEADLINE,
    "at the end of the skew": DEADLINE + SKEW,
    "after the skew": DEADLINE + SKEW + 1,
}


def extended(held: Reservation, now: int, **changes: Any) -> Reservation | None:
    """After a command that would be granted."""
    wish: dict[str, Any] = {"extension_ms": 30_000, "reason": "card declined", "now": now, "op_id": "op_9"}
    return model.extend(held, **wish | {"max_extensions": 3, "max_total": 300_000} | changes)


COMMANDS: dict[str, Callable[[Reservation, int], Reservation | None]] = {
    "confirm, same payment": lambda it, now: model.confirm(it, payment_intent_id="pay_1", now=now, op_id="op"),
    "confirm, other payment": lambda it, now: model.confirm(it, payment_intent_id="pay_2", now=now, op_id="op"),
    "cancel": lambda it, now: model.cancel(it, reason="changed my mind", now=now, op_id="op"),
    "extend": extended,
    "expire": lambda it, now: model.expire(it, now=now, op_id="op"),
    "get": lambda it, now: model.as_seen(it, now=now, max_clock_skew=SKEW),
}

Outcome = Status | type[ReservationError] | None
"""The status that the command leaves or tells, what it raises, or None: there is nothing (more) to do."""

LATE = ReservationExpired
SOLD = ReservationAlreadyConfirmed
BACK = ReservationAlreadyCancelled
UNTOLD = ReservationNotFound
ANY = tuple(TIMES)


class Row(NamedTuple):
    state: Status
    when: tuple[str, ...]
    confirm_same: Outcome
    confirm_other: Outcome
    cancel: Outcome
    extend: Outcome
    expire: Outcome
    get: Outcome


TABLE = [
    Row(Status.HOLD, ("before",), Status.CONFIRMED, Status.CONFIRMED, Status.CANCELLED, Status.HOLD, None, Status.HOLD),
    Row(
        Status.HOLD, ("at the deadline", "at the end of the skew"), LATE, LATE, LATE, LATE, Status.EXPIRED, Status.HOLD
    ),
    Row(Status.HOLD, ("after the skew",), LATE, LATE, LATE, LATE, Status.EXPIRED, Status.EXPIRED),
    Row(Status.PENDING, ANY, UNTOLD, UNTOLD, UNTOLD, UNTOLD, None, Status.PENDING),
    Row(Status.CONFIRMED, ANY, None, SOLD, SOLD, SOLD, None, Status.CONFIRMED),
    Row(Status.CANCELLED, ANY, BACK, BACK, None, BACK, None, Status.CANCELLED),
    Row(Status.EXPIRED, ANY, LATE, LATE, LATE, LATE, None, Status.EXPIRED),
    Row(Status.FAILED, ANY, LATE, LATE, LATE, LATE, None, Status.FAILED),
    Row(Status.REFUNDED, ANY, SOLD, SOLD, SOLD, SOLD, None, Status.REFUNDED),
]

CASES = [
    (row.state, when, command, outcome)
    for row in TABLE
    for when in row.when
    for command, outcome in zip(COMMANDS, row[2:], strict=True)
]


def test_the_table_names_every_state_time_and_command_once() -> None:
    assert sorted(case[:3] for case in CASES) == sorted(product(Status, TIMES, COMMANDS))


@pytest.mark.parametrize(
    ("state", "when", "command", "outcome"), CASES, ids=[f"{case[0]}-{case[1]}-{case[2]}" for case in CASES]
)
def test_every_state_meets_every_command(state: Status, when: str, command: str, outcome: Outcome) -> None:
    stored = in_state(state)
    if isinstance(outcome, type):
        with pytest.raises(ReservationError) as refused:
            COMMANDS[command](stored, TIMES[when])
        assert type(refused.value) is outcome
        return
    after = COMMANDS[command](stored, TIMES[when])
    assert (after.status if after else None) == outcome


def test_seeing_changes_nothing_but_the_status() -> None:
    seen = model.as_seen(HOLD, now=TIMES["after the skew"], max_clock_skew=SKEW)
    assert seen == replace(HOLD, status=Status.EXPIRED)


@patient
@given(now=st.integers(DEADLINE - 3 * SKEW, DEADLINE + 3 * SKEW), apart=st.integers(-SKEW, SKEW))
def test_who_was_told_expired_is_never_proven_wrong(now: int, apart: int) -> None:
    """Neither by a confirm nor by an extension: two processes whose clocks differ by no more than the allowed skew
    never contradict each other."""
    if model.as_seen(HOLD, now=now, max_clock_skew=SKEW).status is Status.EXPIRED:
        for command in (COMMANDS["confirm, same payment"], extended):
            with pytest.raises(ReservationExpired):
                command(HOLD, now + apart)


def _confirm(held: Reservation, now: int) -> Reservation | None:
    return model.confirm(replace(held, hold_expires_at=now + 1), payment_intent_id="pay_9", now=now, op_id="op_9")


def _cancel(held: Reservation, now: int) -> Reservation | None:
    return model.cancel(replace(held, hold_expires_at=now + 1), reason="late train", now=now, op_id="op_9")


def _extend(held: Reservation, now: int) -> Reservation | None:
    return extended(replace(held, hold_expires_at=now + 1, created_at=now), now, max_extensions=99)


def _expire(held: Reservation, now: int) -> Reservation | None:
    return model.expire(replace(held, hold_expires_at=now), now=now, op_id="op_9")


every_change = pytest.mark.parametrize("command", [_confirm, _cancel, _extend, _expire])
"""Commands whose time is just right, whenever `now` is."""


@every_change
@patient
@given(held=reservations([Status.HOLD]), now=times)
def test_a_version_follows_the_one_before_whatever_the_clock_says(
    command: Callable[[Reservation, int], Reservation | None], held: Reservation, now: int
) -> None:
    """The clock may run back, even before the reservation's own creation: time and version still grow."""
    after = command(held, now)
    assert after is not None
    assert after.version == held.version + 1
    assert after.updated_at == max(now, held.updated_at + 1)
    assert after.op_id == "op_9"


@every_change
@patient
@given(held=reservations([Status.HOLD]), now=times)
def test_a_command_changes_only_what_it_is_about(
    command: Callable[[Reservation, int], Reservation | None], held: Reservation, now: int
) -> None:
    """Not the hold's end either, by which the refusal of a late payment is judged, unless it is about that."""
    after = command(held, now)
    assert after is not None
    told: dict[Any, dict[str, Any]] = {
        _confirm: {"status": Status.CONFIRMED, "payment_intent_id": "pay_9", "order_id": order_id_of(held.id)},
        _cancel: {"status": Status.CANCELLED, "reason": "late train"},
        _extend: {
            "created_at": now,
            "hold_expires_at": now + 30_001,
            "extended_by": (*held.extended_by, "op_9"),
            "reason": "card declined",
        },
        _expire: {"status": Status.EXPIRED},
    }
    deadline = now if command is _expire else now + 1
    stamps: dict[str, Any] = {"updated_at": after.updated_at, "version": after.version, "op_id": after.op_id}
    assert after == replace(held, **{"hold_expires_at": deadline} | stamps | told[command])


LASTED = 60_000
"""What HOLD lasts from its creation, in milliseconds."""


@pytest.mark.parametrize(
    ("wish", "granted"),
    [
        ({"extension_ms": 1, "max_extensions": 1, "max_total": LASTED + 1}, True),
        ({"extension_ms": 30_000, "max_extensions": 1, "max_total": LASTED + 30_000}, True),
        ({"extension_ms": 30_001, "max_extensions": 1, "max_total": LASTED + 30_000}, False),
        ({"extension_ms": 1, "max_extensions": 1, "max_total": LASTED}, False),
        ({"extension_ms": 1, "max_extensions": 1, "max_total": 5_000}, False),
        ({"extension_ms": 1, "max_extensions": 0, "max_total": 300_000}, False),
    ],
)
def test_an_extension_is_granted_whole_or_not_at_all(wish: dict[str, int], granted: bool) -> None:
    if granted:
        after = extended(HOLD, DEADLINE - 1, **wish)
        assert after is not None
        assert after.hold_expires_at == DEADLINE + wish["extension_ms"]
    else:
        with pytest.raises(HoldExtensionDenied):
            extended(HOLD, DEADLINE - 1, **wish)


@pytest.mark.parametrize(
    ("extended_by", "max_total", "left"),
    [((), 0, (2, 0)), (("op_1",), LASTED + 29_999, (1, 29)), (("op_1", "op_2", "op_3"), LASTED + 90_000, (0, 90))],
)
def test_a_denied_extension_tells_what_is_left(
    extended_by: tuple[str, ...], max_total: int, left: tuple[int, int]
) -> None:
    with pytest.raises(HoldExtensionDenied) as denied:
        extended(replace(HOLD, extended_by=extended_by), DEADLINE - 1, max_extensions=2, max_total=max_total)
    assert (denied.value.extensions_left, denied.value.seconds_left) == left


@patient
@given(wishes=st.lists(st.integers(1, 3_600_000)), most=st.integers(0, 9), total=st.integers(5_000, 3_600_000))
def test_no_row_of_extensions_exceeds_the_limits_or_shortens_the_hold(wishes: list[int], most: int, total: int) -> None:
    held = HOLD
    for number, wish in enumerate(wishes):
        limits = {"max_extensions": most, "max_total": total}
        try:
            after = extended(held, held.hold_expires_at - 1, extension_ms=wish, op_id=f"op_{number}", **limits)
        except HoldExtensionDenied:
            continue
        assert after is not None
        assert held.hold_expires_at < after.hold_expires_at <= after.created_at + total
        held = after
    assert len(held.extended_by) <= most


@pytest.mark.parametrize("status", Status)
def test_a_command_that_has_extended_a_hold_has_nothing_more_to_do(status: Status) -> None:
    """Whatever has become of the hold since, and whoever extended it after that."""
    assert extended(replace(in_state(status), extended_by=("op_9", "op_10")), DEADLINE) is None


def test_the_order_id_is_derived_from_the_reservation_id_alone() -> None:
    """Two confirms of one reservation, by other payments and at other times, would write the same order."""
    first = model.confirm(HOLD, payment_intent_id="pay_1", now=DEADLINE - 9_000, op_id="op_1")
    second = model.confirm(HOLD, payment_intent_id="pay_2", now=DEADLINE - 1, op_id="op_2")
    assert first is not None
    assert second is not None
    assert first.order_id == second.order_id == "ord_0194"


@patient
@given(st.lists(st.text(), min_size=2, max_size=2, unique=True))
def test_two_reservations_never_share_an_order(suffixes: list[str]) -> None:
    one, other = (order_id_of(f"rsv_{suffix}") for suffix in suffixes)
    assert one != other


def test_the_total_is_the_sum_in_the_seats_currency() -> None:
    assert HOLD.total == total_of(HOLD.seats) == Money(230_000, "KRW")


def test_without_seats_there_is_no_total() -> None:
    assert total_of(()) is None


@patient
@given(st.lists(seats, min_size=1))
def test_the_total_does_not_depend_on_the_order_of_the_seats(chosen: list[model.Seat]) -> None:
    one_currency = [replace(seat, price=replace(seat.price, currency="KRW")) for seat in chosen]
    assert total_of(one_currency) == total_of(reversed(one_currency))


def test_seats_are_held_or_sold_by_a_reservation_only_while_it_has_a_claim_to_them() -> None:
    claims = {status: in_state(status).seat_status for status in Status}
    assert {status: claim for status, claim in claims.items() if claim is not None} == {
        Status.HOLD: SeatStatus.HELD,
        Status.CONFIRMED: SeatStatus.SOLD,
    }
