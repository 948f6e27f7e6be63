"""What a watch lives on: each change by this process is told, and those of others are found by one cheap read."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from reservation.domain.model import Reservation, Status
from reservation.dynamodb.items import reservation_to_item
from tests.support.faults import Answer, Hold, LoseReply, Request, cancellation_body
from tests.support.store import HOLD_MS, NOW, Party, Venue, soon
from tests.unit.examples import HOLD

Change = Callable[[Party, Reservation], Awaitable[object]]


async def _expire(party: Party, held: Reservation) -> None:
    party.clock.advance(HOLD_MS)
    await party.service.expire(held, soon())


CHANGES: dict[Status, Change] = {
    Status.CONFIRMED: lambda party, held: party.confirm(held.id, key="k"),
    Status.CANCELLED: lambda party, held: party.cancel(held.id),
    Status.EXPIRED: _expire,
}


@pytest.mark.parametrize("lost", [False, True], ids=["answered", "found out later"])
async def test_each_change_by_this_process_is_told_as_it_is_stored(venue: Venue, lost: bool) -> None:
    told: list[Reservation] = []
    async with venue.behind() as (proxy, client):
        for seat_id, (status, change) in zip(("A-1", "A-2", "A-3"), CHANGES.items(), strict=True):
            party = venue.party(client, changed=told.append)
            held = (await party.create(seat_id, metadata=HOLD.metadata, token="t")).reservation
            if lost:
                proxy.script(_is_transaction, LoseReply())
                proxy.script(_is_transaction, _conflict(items=5 if status is Status.CONFIRMED else 3))
            await change(party, held)
            stored = await venue.party().get(held.id)
            assert (stored.status, stored.version) == (status, 2)
            assert told == [stored]
            told.clear()


async def test_what_only_the_record_of_an_equal_command_tells_is_told_to_nobody(venue: Venue) -> None:
    """It is an answer, and less than the reservation: who watches is told the whole of it by the next look."""
    told: list[Reservation] = []
    async with venue.behind() as (proxy, client):
        party = venue.party(client, changed=told.append)
        held = (await party.create("A-1", metadata=HOLD.metadata)).reservation
        write = Hold()
        proxy.script(_is_transaction, write)
        late = asyncio.create_task(party.confirm(held.id, key="k"))
        await write.reached.wait()
        await venue.party().confirm(held.id, key="k")
        write.event.set()
        assert (await late).replayed
    assert told == []


@pytest.mark.parametrize("lost", [False, True], ids=["answered", "found out later"])
async def test_each_transition_by_this_process_is_told_once(venue: Venue, lost: bool) -> None:
    """A replay and a longer hold are none."""
    told: list[tuple[Status | None, Status]] = []
    async with venue.behind() as (proxy, client):
        for seat_id, (status, change) in zip(("A-1", "A-2", "A-3"), CHANGES.items(), strict=True):
            party = venue.party(client, moved=lambda was, now: told.append((was.status if was else None, now.status)))
            if lost:
                proxy.script(_is_transaction, LoseReply())
                proxy.script(_is_transaction, _conflict(items=4))
            held = (await party.create(seat_id, key=seat_id)).reservation
            await party.create(seat_id, key=seat_id)
            await party.extend(held.id, seconds=10)
            party.clock.advance(10_000 if status is Status.EXPIRED else 0)
            await change(party, await party.get(held.id))
            assert told == [(None, Status.HOLD), (Status.HOLD, Status.HOLD), (Status.HOLD, status)]
            told.clear()


async def test_one_read_finds_those_of_a_hundred_that_have_changed(venue: Venue) -> None:
    known = [replace(HOLD, id=f"rsv_{n:03d}", hold_expires_at=NOW + HOLD_MS) for n in range(100)]
    now = [
        replace(each, version=2 + n % 2, status=Status.CONFIRMED) if n % 3 == 0 else each
        for n, each in enumerate(known)
    ]
    gone = now.pop(3)
    await asyncio.gather(*(venue.put(venue.tables.reservations, reservation_to_item(each)) for each in now))
    party = venue.party()
    before = venue.client.stats["calls"]
    newer = await party.service.newer(known, soon())
    assert venue.client.stats["calls"] == before + 1
    assert sorted(newer, key=lambda each: each.id) == [each for each in now if each.version > 1]
    assert gone not in newer
    assert list(await party.service.newer(now, soon())) == []


def _conflict(items: int) -> Answer:
    """A verdict that gives the next try a token of its own, so that it meets what the try before it has done."""
    return Answer(400, cancellation_body([{"Code": "TransactionConflict"}] * items))


def _is_transaction(request: Request) -> bool:
    return request.operation == "TransactWriteItems"
