"""Outbox rows and dead letters as items."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reservation.domain.model import Reservation, Status
from reservation.dynamodb import items
from reservation.dynamodb.items import DeadLetter, OutboxRow, UnreadableRow
from tests.unit.examples import NEW_YEAR, ids, patient, reservations, texts, times

outbox_rows = st.builds(OutboxRow, st.sampled_from(["0000", "0007", "4095"]), ids, ids, texts, texts)


@patient
@given(outbox_rows)
def test_a_row_is_read_as_it_was_written(row: OutboxRow) -> None:
    item = items.outbox_row_to_item(row)
    assert items.outbox_row_from_item(item) == row
    assert item.items() >= items.outbox_key(row).items()


@patient
@given(outbox_rows, texts, texts, times)
def test_a_dead_letter_is_read_as_it_was_written(row: OutboxRow, code: str, message: str, died_at: int) -> None:
    letter = DeadLetter(row, code, message, died_at)
    item = items.dead_letter_to_item(letter)
    assert items.dead_letter_from_item(item) == letter
    assert item.items() >= items.dead_letter_key(row).items()


def test_a_dead_letter_lies_beside_its_shard_under_its_rows_seq() -> None:
    row = OutboxRow("0007", "1735689600000#rsv_0194#000001", "rsv_0194", "reservation.created", "{}")
    assert items.dead_letter_to_item(DeadLetter(row, "InvalidArgument", "no", 7)) == {
        "shard": {"S": "dead#0007"},
        "seq": {"S": "1735689600000#rsv_0194#000001"},
        "reservationId": {"S": "rsv_0194"},
        "type": {"S": "reservation.created"},
        "detail": items.packed(b"{}"),
        "errorCode": {"S": "InvalidArgument"},
        "errorMessage": {"S": "no"},
        "diedAt": {"N": "7"},
    }


@patient
@given(reservations([Status.HOLD, Status.CONFIRMED, Status.CANCELLED, Status.EXPIRED]), texts)
def test_a_row_and_its_key_alone_tell_the_reservation_and_the_time_of_the_change(
    reservation: Reservation, traceparent: str
) -> None:
    row = items.outbox_row_from_item(items.outbox_to_item(reservation, traceparent))
    key_alone = UnreadableRow(row.shard, row.seq)
    assert (row.reservation_id, row.written_at) == (reservation.id, reservation.updated_at)
    assert (key_alone.reservation_id, key_alone.written_at) == (reservation.id, reservation.updated_at)


@pytest.mark.parametrize("seq", ["", "rsv_1", "#rsv_1#1", "today#rsv_1#1", "-5#rsv_1#1"])
def test_a_key_without_a_time_has_none(seq: str) -> None:
    assert UnreadableRow("0007", seq).written_at is None
    assert OutboxRow("0007", seq, "rsv_1", "", "").written_at is None


def test_a_time_is_milliseconds() -> None:
    assert UnreadableRow("0007", "1735689600000#rsv_1#000001").written_at == NEW_YEAR
