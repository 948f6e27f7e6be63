"""What a watch lives on: each change by this process is told, and those of others are found by one cheap read."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from reservation.domain.model import Reservation, Status
from reservation.dynamodb.items import reservation_to_item
from tests.support.faults import LoseReply, Request
from tests.support.store import HOLD_MS, NOW, Party, Venue, soon
from tests.unit.examples import HOLD

Change = Callable[[Party, Reservation], Awaitable[object]]


async def _expire(party: Party, held: Reservation) -> None:
    party.clock.advance(HOLD_MS)
    await party.service.expire(held, soon())


CHANGES: dict[Status, Change] = {
    Status.CONFIRMED: lambda party, held: party.confirm(held.id),
    Status.CANCELLED: lambda party, held: party.cancel(held.id),
    Status.EXPIRED: _expire,
}


@pytest.mark.parametrize("lost", [False, True], ids=["answered", "reply lost"])
async def test_each_change_by_this_process_is_told_as_it_is_stored(venue: Venue, lost: bool) -> None:
    told: list[Reservation] = []
    async with venue.behind() as (proxy, client):
        for seat_id, (status, change) in zip(("A-1", "A-2", "A-3"), CHANGES.items(), strict=True):
            party = venue.party(client, changed=told.append)
            held = (await party.create(seat_id)).reservation
            if lost:
                proxy.script(_is_transaction, LoseReply())
            await change(party, held)
            stored = await venue.party().get(held.id)
            assert (stored.status, stored.version) == (status, 2)
            assert told == [stored]
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


def _is_transaction(request: Request) -> bool:
    return request.operation == "TransactWriteItems"
