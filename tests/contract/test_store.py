"""What each command leaves in the tables, and what it refuses."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import orjson
import pytest

from reservation.domain import events
from reservation.domain.errors import (
    EventNotFound,
    HoldExtensionDenied,
    InvalidRequest,
    ReservationAlreadyCancelled,
    ReservationAlreadyConfirmed,
    ReservationError,
    ReservationExpired,
    ReservationNotFound,
    SeatUnavailable,
)
from reservation.domain.idempotency import Record, scoped_key
from reservation.domain.model import Event, Metadata, Money, Reservation, Seat, Status, order_id_of
from reservation.dynamodb.items import Item, OutboxRow, outbox_row_from_item, reservation_to_item, seat_key
from reservation.dynamodb.layouts import EMPTY, Layouts
from reservation.dynamodb.outbox import Outbox
from reservation.ports import Recorded
from reservation.service import CREATE
from tests.support.faults import Hold
from tests.support.invariants import violations
from tests.support.store import EVENT, HOLD_MS, NOW, PRICE, SEATS, SHARDS, SKEW_MS, WINDOW_MS, Party, Venue, Wire, soon
from tests.support.verdicts import transaction

METADATA = Metadata("web", "Mozilla/5.0", "192.0.2.7", "session_1", {"campaign": "spring"})
METADATA_ITEM = {
    "M": {
        "source": {"S": "web"},
        "userAgent": {"S": "Mozilla/5.0"},
        "ipAddress": {"S": "192.0.2.7"},
        "sessionId": {"S": "session_1"},
        "tags": {"M": {"campaign": {"S": "spring"}}},
    }
}
CONTENT = ("event", "evt_2025_1001", "token", "rtkn_1", "seats", "A-1", "A-2")
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def seat_facts(number: int) -> Item:
    return {
        "id": {"S": f"A-{number}"},
        "section": {"S": "Floor"},
        "row": {"S": "A"},
        "number": {"S": str(number)},
        "spot": {"S": f"0.{number - 1}"},
        "amount": {"N": "120000"},
        "currency": {"S": "KRW"},
    }


def seat_item(number: int, **state: Any) -> Item:
    return {"pk": {"S": f"evt_2025_1001#A-{number}"}, "eventId": {"S": "evt_2025_1001"}} | seat_facts(number) | state


def answer_item(reservation: Reservation, **changed: Any) -> Item:
    """The part of a reservation of A-1 and A-2 that its key record has too, as a hold leaves it."""
    return {
        "reservationId": {"S": reservation.id},
        "eventId": {"S": "evt_2025_1001"},
        "userId": {"S": "user_1"},
        "status": {"S": "HOLD"},
        "seats": {"L": [{"M": seat_facts(1)}, {"M": seat_facts(2)}]},
        "createdAt": {"N": "4000000000000"},
        "updatedAt": {"N": "4000000000000"},
        "holdExpiresAt": {"N": "4000000060000"},
        "version": {"N": "1"},
        "opId": {"S": reservation.op_id},
    } | changed


def outbox_item(reservation: Reservation, kind: str, released: Sequence[str] = ()) -> Item:
    detail = events.detail(reservation, traceparent=TRACEPARENT, released=released)
    return {
        "shard": {"S": reservation.shard},
        "seq": {"S": f"{reservation.updated_at}#{reservation.id}#00000{reservation.version}"},
        "reservationId": {"S": reservation.id},
        "type": {"S": kind},
        "detail": {"S": orjson.dumps(detail).decode()},
    }


def legible(row: Item) -> Item:
    """A row of the outbox, unpacked."""
    return row | {"detail": {"S": outbox_row_from_item(row).detail}}


def record_item(key_id: str, fingerprint: str, answer: Item, expires_at: str) -> Item:
    return {
        "idempotencyKey": {"S": key_id},
        "fingerprint": {"S": fingerprint},
        "opId": answer["opId"],
        "answer": {"M": answer},
        "expiresAt": {"N": expires_at},
    }


async def test_a_hold_writes_its_reservation_seats_record_and_event(venue: Venue) -> None:
    made = await venue.party().create(
        "A-1", "A-2", key="key_1", token="rtkn_1", metadata=METADATA, traceparent=TRACEPARENT
    )
    held = made.reservation
    key = scoped_key(user_id="user_1", rpc=CREATE, key="key_1", content=CONTENT)
    rows = await venue.rows()
    extra = {
        "shard": {"S": held.shard},
        "expiryShard": {"S": held.shard},
        "reservationToken": {"S": "rtkn_1"},
        "metadata": METADATA_ITEM,
    }
    assert rows.reservations == (answer_item(held) | extra,)
    taken = {
        "status": {"S": "HELD"},
        "holder": {"S": held.id},
        "holderKey": {"S": key.id},
        "holdExpiresAt": {"N": "4000000060000"},
    }
    assert rows.seats["evt_2025_1001#A-1"] == seat_item(1, **taken)
    assert rows.seats["evt_2025_1001#A-2"] == seat_item(2, **taken)
    assert rows.seats["evt_2025_1001#A-3"] == seat_item(3, status={"S": "AVAILABLE"})
    assert rows.idempotency == (record_item(key.id, key.fingerprint, answer_item(held), "4000000300"),)
    assert [legible(row) for row in rows.outbox] == [outbox_item(held, "reservation.created")]
    assert rows.orders == ()
    assert held.shard in {f"{number:04d}" for number in range(SHARDS)}
    assert not made.replayed
    assert violations(rows) == []


async def test_a_confirm_writes_the_order_and_sells_the_seats(venue: Venue) -> None:
    party = venue.party()
    held = (await party.create("A-1", "A-2")).reservation
    venue.clock.advance(1_000)
    made = await party.confirm(held.id, "pay_1", key="key_1", traceparent=TRACEPARENT)
    sold = made.reservation
    rows = await venue.rows()
    bought = {"orderId": {"S": order_id_of(held.id)}, "paymentIntentId": {"S": "pay_1"}}
    changed = {"status": {"S": "CONFIRMED"}, "version": {"N": "2"}, "updatedAt": {"N": "4000000001000"}}
    answer = answer_item(sold, **changed, **bought)
    assert rows.reservations == (answer | {"shard": {"S": held.shard}, "reason": {"S": ""}, "extendedBy": {"L": []}},)
    for number in (1, 2):
        expected = seat_item(number, status={"S": "SOLD"}, holder={"S": held.id})
        assert rows.seats[f"evt_2025_1001#A-{number}"] == expected
    assert rows.orders == (
        {
            **bought,
            "reservationId": {"S": held.id},
            "eventId": {"S": "evt_2025_1001"},
            "userId": {"S": "user_1"},
            "seats": {"L": [{"M": seat_facts(1)}, {"M": seat_facts(2)}]},
            "amount": {"N": "240000"},
            "currency": {"S": "KRW"},
            "createdAt": {"N": "4000000001000"},
        },
    )
    (record,) = rows.idempotency
    assert record["answer"] == {"M": answer}
    assert record["expiresAt"] == {"N": "4000000301"}
    assert legible(rows.outbox[-1]) == outbox_item(sold, "reservation.confirmed")
    assert not made.replayed
    assert violations(rows) == []


async def test_a_cancel_frees_the_seats_for_the_next(venue: Venue) -> None:
    party = venue.party()
    held = (await party.create("A-1", "A-2")).reservation
    venue.clock.advance(1_000)
    made = await party.cancel(held.id, "changed my mind", key="key_1", traceparent=TRACEPARENT)
    rows = await venue.rows()
    changed = {"status": {"S": "CANCELLED"}, "version": {"N": "2"}, "updatedAt": {"N": "4000000001000"}}
    answer = answer_item(made.reservation, **changed)
    assert rows.reservations == (
        answer
        | {"shard": {"S": held.shard}, "reason": {"S": "changed my mind"}}
        | {"orderId": {"S": ""}, "paymentIntentId": {"S": ""}, "extendedBy": {"L": []}},
    )
    for number in (1, 2):
        assert rows.seats[f"evt_2025_1001#A-{number}"] == seat_item(number, status={"S": "AVAILABLE"})
    (record,) = rows.idempotency
    assert record["answer"] == {"M": answer}
    assert legible(rows.outbox[-1]) == outbox_item(made.reservation, "reservation.cancelled", ["A-1", "A-2"])
    assert rows.orders == ()
    assert (await party.create("A-2", "A-1", user="user_2")).reservation.seat_ids == ("A-2", "A-1")
    assert violations(await venue.rows()) == []


async def test_an_extension_moves_the_end_of_the_hold_its_seats_and_its_place_in_the_due_index(venue: Venue) -> None:
    party = venue.party()
    held = (await party.create("A-1", "A-2")).reservation
    venue.clock.advance(1_000)
    made = await party.extend(held.id, "slow bank", seconds=90, key="key_1", traceparent=TRACEPARENT)
    longer, op_id = made.reservation, made.reservation.op_id
    rows = await venue.rows()
    end = {"holdExpiresAt": {"N": "4000000150000"}}
    answer = answer_item(longer, version={"N": "2"}, updatedAt={"N": "4000000001000"}, **end)
    stored = {"shard": {"S": held.shard}, "expiryShard": {"S": held.shard}, "reason": {"S": "slow bank"}}
    unpaid = {"orderId": {"S": ""}, "paymentIntentId": {"S": ""}}
    assert rows.reservations == (answer | stored | unpaid | {"extendedBy": {"L": [{"S": op_id}]}},)
    taken = {"status": {"S": "HELD"}, "holder": {"S": held.id}, "holderKey": {"S": ""}} | end
    assert [rows.seats[f"evt_2025_1001#A-{number}"] for number in (1, 2)] == [seat_item(it, **taken) for it in (1, 2)]
    (record,) = rows.idempotency
    assert record["answer"] == {"M": answer}
    assert legible(rows.outbox[-1]) == outbox_item(longer, "reservation.hold_extended")
    assert rows.orders == ()
    assert not made.replayed
    assert await party.get(held.id) == longer
    assert await _due(venue) == [(held.id, held.shard, "4000000150000")]
    assert violations(rows) == []


async def test_an_extended_hold_is_alive_to_its_new_end_and_not_a_millisecond_longer(venue: Venue) -> None:
    held = [(await venue.party().create(seat_id)).reservation.id for seat_id in ("A-1", "A-2")]
    for reservation_id in held:
        await venue.party().extend(reservation_id, seconds=1)
    venue.clock.advance(HOLD_MS + 500)
    assert (await venue.party().confirm(held[0])).reservation.status is Status.CONFIRMED
    venue.clock.advance(499)
    with pytest.raises(SeatUnavailable):
        await venue.party().create("A-2", user="user_2")
    venue.clock.advance(1)
    with pytest.raises(ReservationExpired):
        await venue.party().confirm(held[1])
    assert (await venue.party().create("A-2", user="user_2")).reservation.status is Status.HOLD
    assert violations(await venue.rows(), now=venue.clock.now()) == []


async def test_an_extension_beyond_a_limit_changes_nothing(venue: Venue) -> None:
    """Of three extensions and 300 seconds in all, which is what the service grants here."""
    party = venue.party()
    often, long = [(await party.create(seat_id)).reservation for seat_id in ("A-1", "A-2")]
    for _ in range(3):
        await party.extend(often.id, seconds=1)
    await party.extend(long.id, seconds=200)
    before = await venue.rows()
    for reservation, seconds, left in ((often, 1, (0, 237)), (long, 41, (2, 40)), (long, 3600, (2, 40))):
        with pytest.raises(HoldExtensionDenied) as denied:
            await party.extend(reservation.id, seconds=seconds, key="key_1")
        assert (denied.value.extensions_left, denied.value.seconds_left) == left
    assert await venue.rows() == before
    assert (await party.extend(long.id, seconds=40)).reservation.hold_expires_at == NOW + 300_000
    assert violations(await venue.rows()) == []


async def test_what_was_held_is_found_as_it_was_answered(venue: Venue) -> None:
    made = await venue.party().create("A-2", "A-1", token="rtkn_1", metadata=METADATA)
    found = await venue.party().get(made.reservation.id)
    assert found == made.reservation
    assert found.total == Money(240_000, "KRW")
    assert found.seat_ids == ("A-2", "A-1")


async def test_what_nobody_made_is_not_found(venue: Venue) -> None:
    party = venue.party()
    unknown = scoped_key(user_id="user_1", rpc=CREATE, key="key_1", content=("x",))
    assert await party.store.find("rsv_unknown", soon()) is None
    assert await party.store.recall(unknown, soon()) is None
    for command in (party.get, party.confirm, party.cancel, party.extend):
        with pytest.raises(ReservationNotFound):
            await command("rsv_unknown")


async def test_the_record_of_a_key_is_recalled_until_its_window_ends(venue: Venue) -> None:
    party = venue.party()
    made = await party.create("A-2", "A-1", key="key_1", token="rtkn_1")
    key = scoped_key(user_id="user_1", rpc=CREATE, key="key_1", content=CONTENT)
    venue.clock.advance(WINDOW_MS - 1)
    record = await party.store.recall(key, soon())
    assert isinstance(record, Record)
    assert (record.key, record.op_id, record.expires_at) == (key, made.reservation.op_id, NOW + WINDOW_MS)
    assert events.body(record.answer) == events.body(made.reservation)
    venue.clock.advance(1)
    assert await party.store.recall(key, soon()) is None


async def test_another_users_reservation_is_not_there(venue: Venue) -> None:
    party = venue.party()
    held = (await party.create("A-1", user="user_1")).reservation
    with pytest.raises(ReservationNotFound):
        await party.get(held.id, owner="user_2")
    for command in (party.confirm, party.cancel, party.extend):
        with pytest.raises(ReservationNotFound):
            await command(held.id, owner="user_2")
    assert (await party.get(held.id, owner="user_1")).status is Status.HOLD
    assert (await party.confirm(held.id, owner="user_1")).reservation.status is Status.CONFIRMED


async def test_a_refusal_names_exactly_the_taken_seats_and_takes_none(venue: Venue) -> None:
    """All or nothing: A-1 and A-4 are free and stay so; A-2 is sold, A-3 held."""
    sold = (await venue.party().create("A-2")).reservation
    await venue.party().confirm(sold.id)
    await venue.party().create("A-3")
    before = await venue.rows()
    for key in ("", "key_1"):
        with pytest.raises(SeatUnavailable) as refused:
            await venue.party().create("A-4", "A-3", "A-1", "A-2", user="user_2", key=key)
        assert refused.value.seat_ids == ("A-3", "A-2")
    assert await venue.rows() == before
    assert violations(before) == []


async def test_unknown_seats_are_all_named_by_their_place(venue: Venue) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await venue.party().create("Z-1", "A-1", "Z-2")
    assert [violation.field for violation in refused.value.violations] == ["seat_ids[0]", "seat_ids[2]"]
    assert (await venue.rows()).reservations == ()


async def test_an_event_that_is_not_there_is_told_from_unknown_seats(venue: Venue) -> None:
    with pytest.raises(EventNotFound):
        await venue.party().create("A-1", event="evt_unknown")
    with pytest.raises(EventNotFound):
        await venue.party().create("A-1", event="evt_2025")


async def test_a_seat_that_has_gone_since_it_was_cached_is_unknown(venue: Venue) -> None:
    party = venue.party()
    await party.cancel((await party.create("A-1", "A-2")).reservation.id)
    await venue.client.call("DeleteItem", {"TableName": venue.tables.inventory, "Key": seat_key(EVENT.id, "A-2")})
    for _ in range(2):
        with pytest.raises(InvalidRequest) as refused:
            await party.create("A-1", "A-2")
        assert [violation.field for violation in refused.value.violations] == ["seat_ids[1]"]
    assert violations(await venue.rows()) == []


async def test_a_blocked_seat_is_not_for_sale(venue: Venue) -> None:
    await venue.put(venue.tables.inventory, seat_item(1, status={"S": "BLOCKED"}))
    with pytest.raises(SeatUnavailable) as refused:
        await venue.party().create("A-1", "A-2")
    assert refused.value.seat_ids == ("A-1",)


async def test_an_events_own_hold_time_wins(venue: Venue) -> None:
    await venue.sell(SEATS, Event("evt_short", "Short", hold_seconds=5))
    held = (await venue.party().create("A-1", event="evt_short")).reservation
    assert held.hold_expires_at == NOW + 5_000
    assert (await venue.seat("A-1", "evt_short"))["holdExpiresAt"] == {"N": str(NOW + 5_000)}


async def test_a_price_that_changed_under_the_cache_is_the_one_that_counts(venue: Venue) -> None:
    party = venue.party()
    await party.cancel((await party.create("A-1", "A-2")).reservation.id)
    await venue.sell([replace(SEATS[0], price=Money(99_000, "KRW")), SEATS[1]])
    held = (await party.create("A-1", "A-2", key="key_1")).reservation
    assert [seat.price.amount for seat in held.seats] == [99_000, 120_000]
    assert held.total == Money(219_000, "KRW")
    assert (await party.get(held.id)).seats == held.seats
    rows = await venue.rows()
    (created,) = rows.details(held.id)
    assert created["reservation"]["totalAmount"] == {"amount": "219000", "currency": "KRW"}
    assert violations(rows) == []


async def test_the_price_is_fixed_when_the_seat_is_held(venue: Venue) -> None:
    """Whatever happens to the seat's price afterwards, the customer pays what was agreed."""
    held = (await venue.party().create("A-1", "A-2")).reservation
    item = await venue.seat("A-1")
    await venue.put(venue.tables.inventory, item | {"amount": {"N": "999999"}})
    sold = (await venue.party().confirm(held.id)).reservation
    assert sold.total == Money(240_000, "KRW")
    rows = await venue.rows()
    assert rows.orders[0]["amount"] == {"N": "240000"}
    assert rows.details(held.id)[-1]["reservation"]["totalAmount"]["amount"] == "240000"
    assert rows.seats["evt_2025_1001#A-1"]["amount"] == {"N": "999999"}


async def test_a_second_confirm_by_the_same_payment_answers_as_the_first(venue: Venue) -> None:
    held = (await venue.party().create("A-1")).reservation
    first = await venue.party().confirm(held.id, "pay_1")
    before = await venue.rows()
    venue.clock.advance(HOLD_MS)
    assert (await venue.party().confirm(held.id, "pay_1")).reservation == first.reservation
    with pytest.raises(ReservationAlreadyConfirmed):
        await venue.party().confirm(held.id, "pay_2")
    assert await venue.rows() == before
    assert violations(before) == []


async def test_a_second_cancel_answers_as_the_first(venue: Venue) -> None:
    held = (await venue.party().create("A-1")).reservation
    first = await venue.party().cancel(held.id, "changed my mind")
    await venue.party().create("A-1", user="user_2")
    before = await venue.rows()
    venue.clock.advance(HOLD_MS)
    again = await venue.party().cancel(held.id, "another reason")
    assert replace(again.reservation, order_id="", payment_intent_id="") == first.reservation
    assert await venue.rows() == before
    assert violations(before) == []


async def test_of_a_confirm_and_a_cancel_at_once_exactly_one_wins(venue: Venue) -> None:
    one, other = venue.party(), venue.party()
    for number in range(1, 9):
        held = (await one.create(f"A-{number}")).reservation
        race = [one.confirm(held.id), other.cancel(held.id)]
        confirmed, cancelled = await asyncio.gather(*(race[:: (-1) ** number]), return_exceptions=True)
        if number % 2:
            confirmed, cancelled = cancelled, confirmed
        state = (await one.get(held.id)).status
        if state is Status.CONFIRMED:
            assert isinstance(cancelled, ReservationAlreadyConfirmed)
        else:
            assert state is Status.CANCELLED
            assert isinstance(confirmed, ReservationAlreadyCancelled)
    assert violations(await venue.rows()) == []


async def test_rows_of_the_outbox_are_in_the_order_of_the_versions_whatever_the_clocks_say(venue: Venue) -> None:
    held = (await venue.party().create("A-1", traceparent=TRACEPARENT)).reservation
    venue.clock.advance(-3_600_000)
    sold = (await venue.party().confirm(held.id, traceparent=TRACEPARENT)).reservation
    assert sold.updated_at == held.updated_at + 1
    rows = await venue.rows()
    told = [outbox_item(held, "reservation.created"), outbox_item(sold, "reservation.confirmed")]
    assert [legible(row) for row in rows.outbox] == told
    assert violations(rows) == []


async def test_the_event_tells_what_a_read_tells(venue: Venue) -> None:
    """The whole detail, and in it the body of a read, for each of the events."""
    party = venue.party()
    told = []
    for number, change in enumerate([None, party.confirm, party.cancel, party.extend], start=1):
        made = (await party.create(f"A-{number}", metadata=METADATA, traceparent=TRACEPARENT)).reservation
        if change is not None:
            venue.clock.advance(1)
            await change(made.id, traceparent=TRACEPARENT)
        told.append(await party.get(made.id))
    rows = await venue.rows()
    last = [rows.details(reservation.id)[-1] for reservation in told]
    released = [[], [], ["A-3"], []]
    assert last == [
        events.detail(reservation, traceparent=TRACEPARENT, released=seats)
        for reservation, seats in zip(told, released, strict=True)
    ]
    assert [detail["reservation"] for detail in last] == [events.body(reservation) for reservation in told]
    assert [detail.get("releasedSeats", []) for detail in last] == released
    types = ("created", "confirmed", "cancelled", "hold_extended")
    assert [detail["type"] for detail in last] == [f"reservation.{it}" for it in types]


async def test_of_many_in_one_process_who_want_a_seat_one_writes(venue: Venue) -> None:
    """Unless the machine stands still for longer than they wait for each other: then again, for another seat."""
    async with venue.behind(unhurried=True) as (proxy, client):
        party = venue.party(client)
        for seat in SEATS:
            before = proxy.stats["TransactWriteItems"]
            calls = (party.create(seat.id, user=f"user_{number}", key=seat.id) for number in range(16))
            told = Counter(type(each) for each in await asyncio.gather(*calls, return_exceptions=True))
            assert told == {Recorded: 1, SeatUnavailable: 15}
            if proxy.stats["TransactWriteItems"] == before + 1:
                return
    raise AssertionError("each time more than one")


async def test_when_the_first_one_wants_too_much_the_next_one_writes_and_no_other(venue: Venue) -> None:
    """As above: the first one is refused for another seat, of which the others know nothing."""
    await venue.party().create("A-8")
    async with venue.behind(unhurried=True) as (proxy, client):
        party = venue.party(client)
        for seat in SEATS[:-1]:
            before = proxy.stats["TransactWriteItems"]
            greedy = party.create(seat.id, "A-8", user="user_2")
            calls = (party.create(seat.id, user=f"user_{number}", key=seat.id) for number in range(16))
            told = Counter(type(each) for each in await asyncio.gather(greedy, *calls, return_exceptions=True))
            assert told == {Recorded: 1, SeatUnavailable: 16}
            party.clock.advance(250)  # whoever wants A-8 is refused at once until then
            if proxy.stats["TransactWriteItems"] == before + 2:
                return
    raise AssertionError("each time more than two")


async def test_one_who_is_stuck_holds_nobody_up(venue: Venue) -> None:
    async with venue.behind(unhurried=True) as (proxy, client):
        party, stuck = venue.party(client), Hold()
        proxy.script(transaction, stuck)
        first = asyncio.ensure_future(party.create("A-1", "A-2", user="user_1"))
        await stuck.reached.wait()
        await party.create("A-2", "A-3", user="user_2")
        stuck.event.set()
        with pytest.raises(SeatUnavailable) as refused:
            await first
    assert refused.value.seat_ids == ("A-2",)


async def test_what_one_wire_wrote_the_other_one_reads(venue: Venue, wire: Wire) -> None:
    """They tell packed attributes in different ways."""
    held = (await venue.party().create("A-1")).reservation
    other = await venue.connect(venue.url, "lean" if wire == "aiobotocore" else "aiobotocore")
    (row,) = (await Outbox(other, venue.tables.outbox).page(held.shard)).rows
    assert isinstance(row, OutboxRow)
    assert orjson.loads(row.detail) == events.detail(held, traceparent="")
    layouts = [await Layouts(client, venue.tables.inventory).load(EVENT.id, soon()) for client in (venue.client, other)]
    assert layouts[0] == layouts[1] != EMPTY


async def test_the_due_index_has_the_live_holds_and_only_those(venue: Venue) -> None:
    party = venue.party()
    reservations = [(await party.create(f"A-{number}")).reservation for number in (1, 2, 3)]
    await party.confirm(reservations[0].id)
    await party.cancel(reservations[1].id)
    assert await _due(venue) == [(reservations[2].id, reservations[2].shard, str(NOW + HOLD_MS))]


async def _due(venue: Venue) -> list[tuple[str, str, str]]:
    """Id, shard and end of everything in the due index."""
    index = {"TableName": venue.tables.reservations, "IndexName": "expiry"}
    items = (await venue.client.call("Scan", index))["Items"]
    return [(item["reservationId"]["S"], item["expiryShard"]["S"], item["holdExpiresAt"]["N"]) for item in items]


async def test_ten_seats_with_the_longest_ids_go_all_the_way(venue: Venue) -> None:
    """Ids of 128 characters that take three bytes each; event, user, key, token and metadata as long."""
    seats = [Seat(f"{number:>02}" + "席" * 126, "區" * 128, "列" * 128, "號" * 128, PRICE) for number in range(10)]
    event = Event("演" * 128)
    await venue.sell(seats, event)
    ids = tuple(seat.id for seat in seats)
    tags = {f"{number:02}" + "t" * 62: "v" * 512 for number in range(10)}
    metadata = Metadata("m" * 512, "m" * 512, "m" * 512, "m" * 512, tags)

    def create() -> Awaitable[Recorded]:
        return venue.party().create(
            *ids, event=event.id, user="u" * 128, key="k" * 255, token="r" * 128, metadata=metadata
        )

    made = await create()
    assert made.reservation.seat_ids == ids
    assert await venue.party().get(made.reservation.id) == made.reservation
    assert (await create()).replayed
    sold = await venue.party().confirm(made.reservation.id, "p" * 255, key="k" * 255)
    assert sold.reservation.total == Money(1_200_000, "KRW")
    assert violations(await venue.rows()) == []


async def test_every_state_meets_every_command(venue: Venue) -> None:
    """What a caller hears. Each pair of a state and a command has a reservation of its own."""
    party = venue.party()
    commands: list[Callable[[str], Awaitable[Any]]] = [
        party.get,
        lambda reservation_id: party.confirm(reservation_id, "pay_1"),
        lambda reservation_id: party.confirm(reservation_id, "pay_2"),
        party.extend,
        party.cancel,
    ]
    holds = {
        "live": (0, ["HOLD", "CONFIRMED", "CONFIRMED", "HOLD", "CANCELLED"]),
        "at the deadline": (HOLD_MS, ["HOLD", *["ReservationExpired"] * 4]),
        "at the end of the skew": (SKEW_MS, ["HOLD", *["ReservationExpired"] * 4]),
        "later": (1, ["EXPIRED", *["ReservationExpired"] * 4]),
    }
    lasting = {
        "PENDING": ["PENDING", *["ReservationNotFound"] * 4],
        "CONFIRMED": ["CONFIRMED", "CONFIRMED", *["ReservationAlreadyConfirmed"] * 3],
        "CANCELLED": ["CANCELLED", *["ReservationAlreadyCancelled"] * 3, "CANCELLED"],
        "EXPIRED": ["EXPIRED", *["ReservationExpired"] * 4],
        "FAILED": ["FAILED", *["ReservationExpired"] * 4],
        "REFUNDED": ["REFUNDED", *["ReservationAlreadyConfirmed"] * 4],
        "nothing": ["ReservationNotFound"] * 5,
    }
    count = len(commands) * (len(holds) + len(lasting))
    seats = [Seat(f"S-{number}", "Floor", "S", str(number), PRICE) for number in range(count)]
    await venue.sell(seats)
    free = iter(seats)
    held = {moment: [await _in_state(venue, party, "HOLD", next(free)) for _ in commands] for moment in holds}
    made = {state: [await _in_state(venue, party, state, next(free)) for _ in commands] for state in lasting}
    before = await venue.rows()
    for moment, (wait, expected) in holds.items():
        venue.clock.advance(wait)
        assert {state: await _heard(commands, made[state]) for state in lasting} == lasting, moment
        if moment == "live":
            assert await venue.rows() == before
        assert await _heard(commands, held[moment]) == expected, moment


async def _in_state(venue: Venue, party: Party, state: str, seat: Seat) -> str:
    """The id of a reservation in that state, paid (if it is) by pay_1."""
    if state == "nothing":
        return "rsv_nothing"
    held = (await party.create(seat.id)).reservation
    match state:
        case "HOLD":
            pass
        case "CONFIRMED":
            await party.confirm(held.id, "pay_1")
        case "CANCELLED":
            await party.cancel(held.id)
        case _:
            stored = replace(held, status=Status(state), version=2, op_id="op_next")
            await venue.put(venue.tables.reservations, reservation_to_item(stored))
    return held.id


async def _heard(commands: Sequence[Callable[[str], Awaitable[Any]]], reservation_ids: Sequence[str]) -> list[str]:
    """What each command on its own reservation is answered: the status or the name of the refusal."""
    heard = []
    for command, reservation_id in zip(commands, reservation_ids, strict=True):
        try:
            answer = await command(reservation_id)
        except ReservationError as refused:
            heard.append(type(refused).__name__)
        else:
            reservation = answer if isinstance(answer, Reservation) else answer.reservation
            assert reservation.id == reservation_id
            heard.append(str(reservation.status))
    return heard
