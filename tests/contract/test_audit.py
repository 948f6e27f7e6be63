"""The audit finds every broken promise and accuses nobody who keeps his."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from reservation.audit.promises import Finding, Told
from reservation.audit.reading import Audit
from reservation.domain.model import Reservation
from reservation.domain.seating import BLOCKED, FREE, SOLD
from reservation.dynamodb.events import SeatBlocks
from reservation.dynamodb.hints import HintTable
from reservation.dynamodb.items import Item, hints_key, reservation_to_item, seat_from_item, slot_key
from tests.support.store import EVENT, HOLD_MS, NOW, Party, Venue

Break = Callable[[Venue, Reservation], Awaitable[None]]


class Queue:
    """Brings what it was filled with, one event at a time, and then nothing. Each look takes a second."""

    def __init__(self, *told: Told) -> None:
        self.waiting = list(told)
        self.looks = 0

    async def receive(self) -> set[Told]:
        self.looks += 1
        return {self.waiting.pop(0)} if self.waiting else set()

    def monotonic(self) -> float:
        return float(self.looks)


def audit_of(
    venue: Venue, on_recheck: Callable[[], Awaitable[None]] | None = None, *, queue: Queue | None = None
) -> Audit:
    async def sleep(_seconds: float) -> None:
        if on_recheck is not None:
            await on_recheck()

    listening: dict[str, Any] = {"receiver": queue, "monotonic": queue.monotonic} if queue else {}
    return Audit(venue.client, venue.tables, now=venue.clock.now, sleep=sleep, **listening)


async def a_sale(party: Party) -> list[Reservation]:
    """One held, in the only slot that its user has, one confirmed, one cancelled."""
    held, sold, given_back = [
        (await party.create(f"A-{number}", user=f"user_{number}")).reservation for number in (1, 2, 3)
    ]
    confirmed = (await party.confirm(sold.id)).reservation
    await party.cancel(given_back.id)
    return [held, confirmed]


async def test_a_sale_is_clean(venue: Venue) -> None:
    await a_sale(venue.party(max_holds=1))
    snapshot, broken = await audit_of(venue).run()
    assert broken == []
    assert list(snapshot.slots) == ["evt_2025_1001##slot#user_1#0"]
    assert (len(snapshot.reservations), len(snapshot.orders), len(snapshot.outbox)) == (3, 1, 5)


async def _change_seat(venue: Venue, seat_id: str, **changes: Item) -> None:
    await venue.put(venue.tables.inventory, await venue.seat(seat_id) | changes)


async def _seat_of_nobody(venue: Venue, held: Reservation) -> None:
    await _change_seat(venue, "A-4", status={"S": "HELD"}, holder={"S": "rsv_nobody"})


async def _seat_of_somebody_else(venue: Venue, held: Reservation) -> None:
    await _change_seat(venue, "A-4", status={"S": "HELD"}, holder={"S": held.id})


async def _sold_to_a_hold(venue: Venue, held: Reservation) -> None:
    await _change_seat(venue, "A-1", status={"S": "SOLD"})


async def _free_seat_of_a_hold(venue: Venue, held: Reservation) -> None:
    await _change_seat(venue, "A-1", status={"S": "AVAILABLE"})


async def _slot_of_nobody(venue: Venue, held: Reservation) -> None:
    (slot,) = (await venue.rows()).slots.values()
    await venue.put(venue.tables.inventory, slot | {"holder": {"S": "rsv_nobody"}})


async def _slot_that_the_hold_does_not_name(venue: Venue, held: Reservation) -> None:
    (slot,) = (await venue.rows()).slots.values()
    await venue.put(venue.tables.inventory, slot | slot_key(held.event_id, held.user_id, 7))


async def _slot_of_a_sold_reservation(venue: Venue, held: Reservation) -> None:
    (slot,) = (await venue.rows()).slots.values()
    await venue.party().confirm(held.id)
    await venue.put(venue.tables.inventory, slot)


async def _hold_without_slot(venue: Venue, held: Reservation) -> None:
    delete = {"TableName": venue.tables.inventory, "Key": slot_key(held.event_id, held.user_id, 0)}
    await venue.client.call("DeleteItem", delete)


async def _order_of_a_hold(venue: Venue, held: Reservation) -> None:
    order = {"orderId": {"S": "ord_1"}, "reservationId": {"S": held.id}}
    await venue.put(venue.tables.orders, order)


async def _order_of_nobody(venue: Venue, held: Reservation) -> None:
    await venue.put(venue.tables.orders, {"orderId": {"S": "ord_1"}, "reservationId": {"S": "rsv_nobody"}})


async def _second_order_of_a_sale(venue: Venue, held: Reservation) -> None:
    (order,) = (await venue.rows()).orders
    await venue.put(venue.tables.orders, order | {"orderId": {"S": "ord_1"}})


async def _order_id_of_a_sale_for_a_hold(venue: Venue, held: Reservation) -> None:
    (order,) = (await venue.rows()).orders
    await venue.put(venue.tables.orders, order | {"reservationId": {"S": held.id}})


async def _reservation_that_cannot_be_read(venue: Venue, held: Reservation) -> None:
    broken = reservation_to_item(held) | {"seats": {"S": "no list"}}
    await venue.put(venue.tables.reservations, broken)


async def _seat_that_cannot_be_read(venue: Venue, held: Reservation) -> None:
    await _change_seat(venue, "A-5", status={"S": "NEVER HEARD OF"})


async def _event_that_cannot_be_read(venue: Venue, held: Reservation) -> None:
    row = (await venue.rows()).outbox[0]
    await venue.put(venue.tables.outbox, row | {"detail": {"N": "7"}})


async def _event_without_a_time(venue: Venue, held: Reservation) -> None:
    await venue.put(venue.tables.outbox, {"shard": {"S": "0001"}, "seq": {"S": "nonsense"}})


async def _hints_that_cannot_be_read(venue: Venue, held: Reservation) -> None:
    await venue.put(venue.tables.inventory, hints_key(EVENT.id, 7) | {"p1": {"S": "soon"}})


async def _sale_without_order(venue: Venue, held: Reservation) -> None:
    (order,) = (await venue.rows()).orders
    key = {name: order[name] for name in ("orderId", "reservationId")}
    await venue.client.call("DeleteItem", {"TableName": venue.tables.orders, "Key": key})


@pytest.mark.parametrize(
    ("break_it", "kinds"),
    [
        (_seat_of_nobody, {"seat-without-reservation"}),
        (_seat_of_somebody_else, {"seat-without-reservation"}),
        (_sold_to_a_hold, {"seat-state", "reservation-without-seats"}),
        (_free_seat_of_a_hold, {"reservation-without-seats"}),
        (_slot_of_nobody, {"slot-without-hold", "hold-without-slot"}),
        (_slot_that_the_hold_does_not_name, {"slot-without-hold"}),
        (_slot_of_a_sold_reservation, {"slot-without-hold"}),
        (_hold_without_slot, {"hold-without-slot"}),
        (_order_of_a_hold, {"order-without-sale"}),
        (_order_of_nobody, {"order-without-sale"}),
        (_second_order_of_a_sale, {"order-without-sale"}),
        (_order_id_of_a_sale_for_a_hold, {"order-without-sale"}),
        (_sale_without_order, {"sale-without-order"}),
        (_reservation_that_cannot_be_read, {"unreadable"}),
        (_seat_that_cannot_be_read, {"unreadable"}),
        (_hints_that_cannot_be_read, {"unreadable"}),
        (_event_that_cannot_be_read, {"unreadable"}),
        (_event_without_a_time, {"unreadable"}),
    ],
)
async def test_each_broken_promise_is_found(venue: Venue, break_it: Break, kinds: set[str]) -> None:
    held, _ = await a_sale(venue.party(max_holds=1))
    await break_it(venue, held)
    assert {finding.kind for finding in await broken_of(venue)} == kinds


async def test_a_hold_past_its_grace_is_found_and_one_within_it_is_not(venue: Venue) -> None:
    """https://github.com/alfio-event/alf.io/issues/1421"""
    (held, _) = await a_sale(venue.party())
    await _empty_outbox(venue)
    venue.clock.advance(HOLD_MS + 5_000)
    assert await broken_of(venue) == []
    venue.clock.advance(1)
    assert [(finding.kind, finding.subject) for finding in await broken_of(venue)] == [("hold-stuck", held.id)]


async def test_an_event_that_waits_too_long_is_found_and_a_dead_letter_is_not(venue: Venue) -> None:
    party = venue.party()
    await party.confirm((await party.create("A-1")).reservation.id)
    created, confirmed = (await venue.rows()).outbox
    await venue.put(venue.tables.outbox, created | {"shard": {"S": "dead#0001"}})
    await venue.client.call("DeleteItem", {"TableName": venue.tables.outbox, "Key": _outbox_key(created)})
    venue.clock.advance(30_002)  # the confirm is a millisecond later than the clock
    assert {(finding.kind, finding.subject) for finding in await broken_of(venue)} == {
        ("event-stuck", f"{confirmed['shard']['S']}/{confirmed['seq']['S']}")
    }


# Hints

LONGEST_HOLD = 300_000


async def hint(venue: Venue, seat_id: str, taken_until: int) -> Item:
    """Writes one, and returns the seat."""
    item = await venue.seat(seat_id)
    spot = seat_from_item(item).spot
    assert spot is not None
    await HintTable(venue.client, venue.tables.inventory).write(EVENT.id, spot.block, {spot.position: taken_until})
    return item


async def test_a_hint_that_hides_a_free_seat_for_longer_than_any_hold_is_found(venue: Venue) -> None:
    await a_sale(venue.party())
    await hint(venue, "A-4", SOLD)
    await hint(venue, "A-5", BLOCKED)
    await hint(venue, "A-6", NOW + LONGEST_HOLD + 1)
    await hint(venue, "A-7", NOW + LONGEST_HOLD)
    hidden = [("free-seat-hidden", f"{EVENT.id}#{seat_id}") for seat_id in ("A-4", "A-5", "A-6")]
    assert [(finding.kind, finding.subject) for finding in await broken_of(venue)] == hidden
    venue.clock.advance(1)
    assert [(finding.kind, finding.subject) for finding in await broken_of(venue)] == hidden[:2]


async def test_a_hint_of_a_seat_that_somebody_has_hides_nothing(venue: Venue) -> None:
    await a_sale(venue.party())
    for seat_id in ("A-1", "A-2"):
        await hint(venue, seat_id, SOLD)
    assert await SeatBlocks(venue.client, venue.tables.inventory, now=venue.clock.now).block(EVENT.id, "A-4")
    assert await broken_of(venue) == []


async def test_a_past_hold_that_looks_sold_is_hidden_too(venue: Venue) -> None:
    await a_sale(venue.party())
    await _empty_outbox(venue)
    await hint(venue, "A-1", SOLD)
    venue.clock.advance(HOLD_MS)
    assert [finding.kind for finding in await broken_of(venue)] == ["free-seat-hidden"]


async def test_a_hint_that_heals_while_the_audit_looks_on_is_not_reported(venue: Venue) -> None:
    await a_sale(venue.party())
    await hint(venue, "A-4", SOLD)

    async def heal() -> None:
        await hint(venue, "A-4", FREE)

    assert (await audit_of(venue, heal).run())[1] == []


async def test_a_suspect_that_is_put_right_meanwhile_is_not_reported(venue: Venue) -> None:
    held, _ = await a_sale(venue.party())
    right = await venue.seat("A-1")
    await _free_seat_of_a_hold(venue, held)
    _, broken = await audit_of(venue, lambda: venue.put(venue.tables.inventory, right)).run()
    assert broken == []


async def a_published_sale(venue: Venue) -> Reservation:
    party = venue.party()
    sold = (await party.confirm((await party.create("A-1")).reservation.id)).reservation
    await _empty_outbox(venue)
    return sold


async def test_events_that_nobody_received_are_found(venue: Venue) -> None:
    sold = await a_published_sale(venue)
    assert await broken_of(venue, Queue((sold.id, 2), (sold.id, 1))) == []
    assert [finding.kind for finding in await broken_of(venue, Queue((sold.id, 2)))] == ["event-lost"]
    copy = replace(sold, id="rsv_unheard", seats=())
    await venue.put(venue.tables.reservations, reservation_to_item(copy))
    found = await broken_of(venue, Queue((sold.id, 2), (sold.id, 1)))
    assert "rsv_unheard" in {finding.subject for finding in found}


async def test_what_waits_or_is_a_dead_letter_is_not_lost(venue: Venue) -> None:
    party = venue.party()
    await party.confirm((await party.create("A-1")).reservation.id)
    created, _ = (await venue.rows()).outbox
    await venue.put(venue.tables.outbox, created | {"shard": {"S": f"dead#{created['shard']['S']}"}})
    await venue.client.call("DeleteItem", {"TableName": venue.tables.outbox, "Key": _outbox_key(created)})
    snapshot, broken = await audit_of(venue, queue=Queue()).run()
    assert broken == []
    assert (len(snapshot.outbox), len(snapshot.dead)) == (1, 1)


async def test_an_event_that_the_queue_brings_later_is_not_lost(venue: Venue) -> None:
    """EventBridge delivers when it finds the time."""
    sold = await a_published_sale(venue)
    queue = Queue((sold.id, 1))

    async def deliver() -> None:
        queue.waiting.append((sold.id, 2))

    assert (await audit_of(venue, deliver, queue=queue).run())[1] == []


async def test_events_of_a_sale_that_goes_on_do_not_keep_it_listening(venue: Venue) -> None:
    sold = await a_published_sale(venue)
    queue = Queue(*((f"rsv_{number}", 1) for number in range(1_000)), (sold.id, 1), (sold.id, 2))
    assert [finding.kind for finding in await broken_of(venue, queue)] == ["event-lost"]
    heard = Queue((sold.id, 1), (sold.id, 2), ("rsv_later", 1))
    assert await broken_of(venue, heard) == []
    assert heard.looks == 2


async def broken_of(venue: Venue, queue: Queue | None = None) -> list[Finding]:
    return (await audit_of(venue, queue=queue).run())[1]


async def _empty_outbox(venue: Venue) -> None:
    for row in (await venue.rows()).outbox:
        await venue.client.call("DeleteItem", {"TableName": venue.tables.outbox, "Key": _outbox_key(row)})


def _outbox_key(row: Item) -> Item:
    return {name: row[name] for name in ("shard", "seq")}
