"""What is stored is what is read: every item there and back, keys that cannot be confused, rows that sort."""

import hashlib
from dataclasses import replace

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reservation.domain import events, model
from reservation.domain.idempotency import Key, Record, Running
from reservation.domain.model import Event, Metadata, Money, Reservation, Saga, Seat, SeatStatus, Status
from reservation.dynamodb import items
from reservation.dynamodb.items import Item, SeatState
from tests.unit.examples import HOLD, NEW_YEAR, ids, in_state, patient, prices, reservations, seats, texts, times

TOLD = [Status.HOLD, Status.CONFIRMED, Status.CANCELLED, Status.EXPIRED]
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@patient
@given(reservations())
def test_a_reservation_is_read_as_it_was_written(reservation: Reservation) -> None:
    assert items.reservation_from_item(items.reservation_to_item(reservation)) == reservation


@patient
@given(reservations())
def test_a_hold_for_another_service_is_read_as_it_was_written_and_in_no_users_index(own: Reservation) -> None:
    foreign = replace(own, id=model.hold_id_of(own.id))
    item = items.reservation_to_item(foreign)
    assert items.reservation_from_item(item) == foreign
    assert "userId" not in item


limits = st.none() | st.integers(1, 86_400)


@patient
@given(reservations(), st.text(), st.text(), st.integers(0, 10**10))
def test_a_record_is_read_as_it_was_written(answer: Reservation, key: str, print_: str, second: int) -> None:
    """It keeps what answers are made of; the shard and what only people read stay with the reservation."""
    record = items.record_from_item(items.record_to_item(Key(key, print_), answer, second * 1000))
    assert isinstance(record, Record)
    assert record.key == Key(key, print_)
    assert record.op_id == answer.op_id
    assert record.expires_at == second * 1000
    kept = replace(answer, shard="", reservation_token="", reason="", metadata=None, slot=None)
    assert record.answer == replace(kept, extended_by=(), saga=None, wish=None)


@patient
@given(st.text(), st.text(), ids, st.integers(0, 10**10))
def test_a_record_of_a_running_saga_is_read_as_it_was_written(key: str, print_: str, name: str, second: int) -> None:
    running = Running(Key(key, print_), f"rsv_{name}", second * 1000)
    item = items.running_to_item(running.key, replace(HOLD, id=running.reservation_id), running.expires_at)
    assert items.record_from_item(item) == running


def test_what_a_saga_is_under_way_with_is_due_in_a_partition_of_its_own() -> None:
    saga = Saga(NEW_YEAR, "key_1", "print_1", True, TRACEPARENT)
    for status in (Status.PENDING, Status.HOLD, Status.CANCELLED):
        under_way = replace(in_state(status), saga=saga)
        item = items.reservation_to_item(under_way)
        assert items.reservation_from_item(item) == under_way
        assert item["expiryShard"] == {"S": "saga#0007"}
    assert items.reservation_to_item(HOLD)["expiryShard"] == {"S": "0007"}


@patient
@given(st.builds(Event, ids, texts, limits, limits, limits, st.booleans(), st.none() | times, st.none() | times))
def test_an_event_is_read_as_it_was_written(event: Event) -> None:
    assert items.event_from_item(items.event_to_item(event)) == event


@patient
@given(ids, seats)
def test_a_new_seat_is_read_as_it_was_written_and_is_free(event_id: str, seat: Seat) -> None:
    item = items.new_seat_to_item(event_id, seat)
    assert items.seat_from_item(item) == seat
    assert items.seat_state_from_item(item) == SeatState(SeatStatus.AVAILABLE, seat.price)
    assert item.items() >= items.seat_key(event_id, seat.id).items()


def test_a_held_seats_item_tells_its_holder() -> None:
    item = items.new_seat_to_item("evt_1", HOLD.seats[0]) | {
        "status": {"S": "HELD"},
        "holder": {"S": "rsv_0194"},
        "holderKey": {"S": "key_1"},
        "holdExpiresAt": {"N": str(NEW_YEAR)},
    }
    state = items.seat_state_from_item(item)
    assert state == SeatState(SeatStatus.HELD, HOLD.seats[0].price, "rsv_0194", "key_1", NEW_YEAR)


@pytest.mark.parametrize(
    ("status", "now", "takeable"),
    [
        (SeatStatus.AVAILABLE, 0, True),
        (SeatStatus.HELD, NEW_YEAR - 1, False),
        (SeatStatus.HELD, NEW_YEAR, True),
        (SeatStatus.SOLD, NEW_YEAR + 1, False),
        (SeatStatus.BLOCKED, NEW_YEAR + 1, False),
    ],
)
def test_a_seat_can_be_taken_if_free_or_past_its_hold(status: SeatStatus, now: int, takeable: bool) -> None:
    state = SeatState(status, HOLD.seats[0].price, "rsv_0194", hold_expires_at=NEW_YEAR)
    assert state.takeable(now) is takeable


@patient
@given(*[st.tuples(ids, texts, st.integers(0, 19))] * 2)
def test_no_two_slots_share_a_key_and_none_is_a_seats_or_an_events(
    one: tuple[str, str, int], other: tuple[str, str, int]
) -> None:
    """Users' ids may contain anything."""
    keys = [items.slot_key(*each)["pk"]["S"] for each in (one, other)]
    assert (keys[0] == keys[1]) == (one == other)
    assert all(map(items.is_slot_key, keys))
    assert not items.is_slot_key(items.event_key(one[0])["pk"]["S"])


@pytest.mark.parametrize(("user", "number"), [("a#1", 0), ("a", 10), ("a#", 1), ("", 0), ("#slot#a#1", 0)])
def test_a_users_id_cannot_make_another_users_slot(user: str, number: int) -> None:
    assert items.slot_key("evt", user, number) == {"pk": {"S": f"evt##slot#{user}#{number}"}}
    assert items.slot_key("evt", user, number) != items.slot_key("evt", "a", 1)


@patient
@given(ids, ids)
def test_a_seats_key_is_no_slots(event_id: str, seat_id: str) -> None:
    assert not items.is_slot_key(items.seat_key(event_id, seat_id)["pk"]["S"])


@pytest.mark.parametrize("status", Status)
def test_only_a_hold_is_in_the_due_index(status: Status) -> None:
    item = items.reservation_to_item(in_state(status))
    assert item.get("expiryShard") == ({"S": "0007"} if status is Status.HOLD else None)
    assert item["shard"] == {"S": "0007"}


@pytest.mark.parametrize("status", Status)
def test_no_attribute_is_stored_empty_to_say_that_it_is_absent(status: Status) -> None:
    bare = replace(in_state(status), reservation_token="", reason="", metadata=None)
    stored = items.reservation_to_item(bare)
    assert {"reservationToken", "reason", "metadata"}.isdisjoint(stored)
    assert ("orderId" in stored) == bool(bare.order_id)


@pytest.mark.parametrize(
    ("item", "key"),
    [
        (items.reservation_to_item(HOLD), {"reservationId": "rsv_0194", "eventId": "evt_2025_1001"}),
        (items.reservation_key(HOLD), {"reservationId": "rsv_0194", "eventId": "evt_2025_1001"}),
        (items.order_to_item(in_state(Status.CONFIRMED)), {"orderId": "ord_0194", "reservationId": "rsv_0194"}),
        (items.record_to_item(Key("key_1", "print"), HOLD, 0), {"idempotencyKey": "key_1", "fingerprint": "print"}),
        (items.outbox_to_item(HOLD, ""), {"shard": "0007", "seq": "1735689600000#rsv_0194#000001"}),
        (
            items.outbox_to_item(in_state(Status.CONFIRMED), ""),
            {"shard": "0007", "seq": "1735689630000#rsv_0194#000002"},
        ),
        (items.new_seat_to_item("evt_1", HOLD.seats[0]), {"pk": "evt_1#A-12"}),
        (items.event_to_item(Event("evt_1")), {"pk": "evt_1#"}),
    ],
    ids=["reservation", "reservation key", "order", "record", "outbox", "next version", "seat", "event"],
)
def test_an_item_lies_under_its_tables_key(item: Item, key: dict[str, str]) -> None:
    assert item.items() >= {name: {"S": value} for name, value in key.items()}.items()


def test_an_order_says_what_was_sold_to_whom_for_how_much_and_when() -> None:
    sold = in_state(Status.CONFIRMED)
    order = items.order_to_item(sold)
    assert order["userId"] == {"S": "user_1"}
    assert order["eventId"] == {"S": "evt_2025_1001"}
    assert order["paymentIntentId"] == {"S": "pay_1"}
    assert [seat["M"]["id"]["S"] for seat in order["seats"]["L"]] == ["A-12", "A-13"]
    assert (order["amount"], order["currency"]) == ({"N": "230000"}, {"S": "KRW"})
    assert order["createdAt"] == {"N": str(sold.updated_at)}


@patient
@given(times)
def test_a_record_is_kept_to_the_end_of_its_time_and_less_than_a_second_longer(expires_at: int) -> None:
    """TTL attributes are whole seconds; rounding down would end the window early."""
    stored = items.record_to_item(Key("key_1", "print"), HOLD, expires_at)["expiresAt"]["N"]
    assert 0 <= int(stored) * 1000 - expires_at < 1000


@pytest.mark.parametrize(("milliseconds", "seconds"), [(1000, "1"), (1001, "2"), (1999, "2"), (2000, "2"), (0, "0")])
def test_the_ttl_is_rounded_up_to_a_second(milliseconds: int, seconds: str) -> None:
    assert items.record_to_item(Key("key_1", "print"), HOLD, milliseconds)["expiresAt"] == {"N": seconds}


@patient
@given(reservations(TOLD), texts, st.lists(ids, max_size=2))
def test_an_outbox_row_carries_the_event_ready_to_send(
    reservation: Reservation, traceparent: str, released: list[str]
) -> None:
    row = items.outbox_to_item(reservation, traceparent, released)
    detail = events.detail(reservation, traceparent=traceparent, released=released)
    assert orjson.loads(items.outbox_row_from_item(row).detail) == detail
    assert row["type"]["S"] == events.type_of(reservation).value
    assert row["reservationId"]["S"] == reservation.id


@pytest.mark.parametrize("number", [1, 2, 10])
def test_an_event_takes_one_write_unit(number: int) -> None:
    """Of a KB: https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/CapacityUnitCalculations.html"""
    price = Money(120_000, "KRW")
    agent = (
        "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148"
    )
    held = replace(
        HOLD,
        id="rsv_0193f0b2c4d8" + hashlib.sha256(b"1").hexdigest()[:20],
        seats=tuple(Seat(f"Floor-{n * 7}-{n * 31}", "Floor", str(n * 7), str(n * 31), price) for n in range(number)),
        metadata=Metadata("web", agent, "203.0.113.7", hashlib.sha256(b"2").hexdigest(), {"campaign": "spring"}),
    )
    row = items.outbox_to_item(held, f"00-{hashlib.sha256(b'3').hexdigest()[:49]}-01")
    assert sum(len(name) + sum(len(value) for value in told.values()) for name, told in row.items()) <= 1024


@patient
@given(reservations([Status.HOLD]), times)
def test_rows_of_a_reservation_sort_by_version_whatever_the_clocks_say(held: Reservation, now: int) -> None:
    """The second writer's clock may be hours behind the first one's."""
    live, over = replace(held, hold_expires_at=now + 1), replace(held, hold_expires_at=now)
    for after in (
        model.confirm(live, payment_intent_id="pay_1", now=now, op_id="op_2"),
        model.cancel(live, reason="", now=now, op_id="op_2"),
        model.expire(over, now=now, op_id="op_2"),
    ):
        assert after is not None
        assert _seq(held) < _seq(after)


@patient
@given(st.lists(st.integers(1, 10**6), min_size=2, max_size=12), st.integers(0, 10**12))
def test_a_long_history_sorts_by_version(steps: list[int], created_at: int) -> None:
    """Each version is later than the one before, by any amount: text order is version order, past version 9 too."""
    history, at = [], created_at
    for version, step in enumerate(steps, start=1):
        at += step
        history.append(replace(HOLD, version=version, updated_at=at))
    assert [_seq(each) for each in history] == sorted(_seq(each) for each in history)


@patient
@given(*[st.tuples(ids, st.integers(1, 99))] * 2)
def test_no_two_rows_of_one_instant_share_a_sequence(one: tuple[str, int], other: tuple[str, int]) -> None:
    rows = [_seq(replace(HOLD, id=name, version=version)) for name, version in (one, other)]
    assert (rows[0] == rows[1]) == (one == other)


def _seq(reservation: Reservation) -> str:
    return str(items.outbox_to_item(reservation, TRACEPARENT)["seq"]["S"])


short_ids = st.text("ab-_1", min_size=1, max_size=3)


@patient
@given(*[st.tuples(short_ids, short_ids)] * 2)
def test_seats_of_two_events_never_share_a_key(one: tuple[str, str], other: tuple[str, str]) -> None:
    assert (items.seat_key(*one) == items.seat_key(*other)) == (one == other)


@patient
@given(short_ids, short_ids, short_ids)
def test_a_seats_key_is_never_an_events_key(event_id: str, seat_id: str, other_event: str) -> None:
    assert items.seat_key(event_id, seat_id) != items.event_key(other_event)


hostile_ids = st.text("ab#", min_size=1, max_size=4)


@patient
@given(short_ids, short_ids, hostile_ids, hostile_ids)
def test_an_id_with_a_separator_reads_no_item_of_an_id_without(
    event_id: str, seat_id: str, asked_event: str, asked_seat: str
) -> None:
    """Items are imported under ids without "#", so what validation lets through could do no harm either."""
    stored = [items.seat_key(event_id, seat_id), items.event_key(event_id)]
    if "#" in asked_event:
        assert items.event_key(asked_event) not in stored
    if "#" in asked_event + asked_seat:
        assert items.seat_key(asked_event, asked_seat) not in stored


@patient
@given(prices)
def test_a_price_of_any_size_keeps_every_digit(price: model.Money) -> None:
    seat = replace(HOLD.seats[0], price=price)
    assert items.seat_from_item(items.new_seat_to_item("evt_1", seat)).price == price
