"""Failures that other ticket systems had in the field, each tried here. The links tell what happened there."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from reservation.domain.errors import (
    HoldExtensionDenied,
    ReservationExpired,
    SeatUnavailable,
    ServiceUnavailable,
    UpstreamTimeout,
)
from reservation.domain.model import Event, Seat, SeatStatus, Status, Wish
from reservation.dynamodb.items import seat_state_from_item
from reservation.ports import Recorded
from tests.support.faults import Hold
from tests.support.invariants import violations
from tests.support.store import HOLD_MS, PRICE, SKEW_MS, Party, Venue, open_venue, soon
from tests.support.verdicts import transaction

LAST = Event("evt_last", "The last one")
SEAT, PLACE = Seat("A-1", "Floor", "A", "1", PRICE), Seat("Pit-1", "Pit", "", "", PRICE)
PATHS: dict[str, tuple[Seat, dict[str, Any]]] = {
    "seat": (SEAT, {}),
    "best available": (SEAT, {"wish": Wish(1, "Floor")}),
    "general admission": (PLACE, {"wish": Wish(1, "Pit")}),
}
AT_ONCE, PROCESSES = 200, 4


@pytest.fixture
async def venue(ministack_url: str) -> AsyncIterator[Venue]:
    async with open_venue(ministack_url) as venue:
        yield venue
        assert violations(await venue.rows(), now=venue.clock.now()) == []


@pytest.mark.parametrize("path", PATHS)
async def test_the_last_seat_is_sold_once_on_every_path(venue: Venue, path: str) -> None:
    """https://github.com/fossasia/eventyay/issues/1359 https://github.com/Attendize/Attendize/issues/473
    https://github.com/eventespresso/event-espresso-core/issues/109

    Within one process a choice is claimed, so that only processes race for it: as many first writes as there are
    processes are on their way before one is carried out, and the others arrive after it."""
    seat, more = PATHS[path]
    await venue.sell([seat], LAST)
    async with venue.behind(hold=0.004) as (proxy, client):
        race = [Hold() for _ in range(PROCESSES)]
        for each in race:
            proxy.script(transaction, each)
        parties = [venue.party(client, stripe=(rank, PROCESSES)) for rank in range(PROCESSES)]
        named = () if more else (seat.id,)

        def customer(number: int) -> Awaitable[Recorded]:
            wanted: dict[str, Any] = {"user": f"user_{number}", "key": f"key_{number}", "event": LAST.id, **more}
            return _asked_until_answered(lambda: parties[number % PROCESSES].create(*named, **wanted))

        calls = [asyncio.ensure_future(customer(number)) for number in range(AT_ONCE)]
        await asyncio.gather(*(each.reached.wait() for each in race))
        race[0].event.set()
        await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        for each in race[1:]:
            each.event.set()
        told = Counter(type(each) for each in await asyncio.gather(*calls, return_exceptions=True))
    assert told == {Recorded: 1, SeatUnavailable: AT_ONCE - 1}
    assert len((await venue.rows()).reservations) == 1


async def test_the_last_seat_is_one_customers_however_often_it_asks(venue: Venue) -> None:
    """As above, by one key: https://github.com/fossasia/eventyay/issues/1359"""
    async with venue.behind(hold=0.004) as (_, client):
        parties = [venue.party(client) for _ in range(PROCESSES)]

        def asking(party: Party) -> Awaitable[Recorded]:
            return _asked_until_answered(lambda: party.create("A-1", key="key_1"))

        told = await asyncio.gather(*(asking(parties[number % PROCESSES]) for number in range(AT_ONCE)))
    assert sum(not each.replayed for each in told) <= 1  # none if the reply to the first one was lost
    assert len({each.reservation.id for each in told}) == 1
    assert len((await venue.rows()).reservations) == 1


async def test_with_nobody_to_clean_up_an_ended_hold_is_free_for_reads_and_buyers_alike(venue: Venue) -> None:
    """https://github.com/Attendize/Attendize/issues/1000 https://github.com/microsoftarchive/cqrs-journey/issues/274"""
    held = (await venue.party().create("A-1")).reservation
    venue.clock.advance(HOLD_MS + SKEW_MS + 1)
    party = venue.party()
    assert (await party.get(held.id)).status is Status.EXPIRED
    ((_, status),) = await party.inventory.look(held.event_id, ["A-1"], soon())
    assert status is SeatStatus.AVAILABLE
    hall, _ = await party.inventory.hall(held.event_id, soon())
    assert [(count.held, count.available) for count in hall.counts(venue.clock.now())] == [(0, 8)]
    assert (await party.create("A-1", user="user_2")).reservation.status is Status.HOLD


async def test_no_call_that_fails_moves_the_end_of_a_hold(venue: Venue) -> None:
    """https://github.com/pretix/pretix/issues/1575 https://github.com/pretix/pretix/pull/5109"""
    party = venue.party()
    held = (await party.create("A-1")).reservation
    await party.create("A-2", user="user_2")
    with pytest.raises(SeatUnavailable):
        await party.create("A-1", "A-2")
    with pytest.raises(HoldExtensionDenied):
        await party.extend(held.id, seconds=3_600)
    assert (await party.get(held.id)).hold_expires_at == held.hold_expires_at
    venue.clock.advance(HOLD_MS)
    with pytest.raises(ReservationExpired):
        await party.extend(held.id)


async def test_a_payment_that_comes_too_late_sells_nothing_and_the_history_stays(venue: Venue) -> None:
    """https://github.com/big-neon/bn-api/issues/1189 https://github.com/fossunited/fossunited/pull/1698
    https://github.com/alfio-event/alf.io/issues/531"""
    party = venue.party()
    late = (await party.create("A-1", "A-2")).reservation
    venue.clock.advance(HOLD_MS)
    winner = (await party.create("A-2", user="user_2")).reservation
    await party.confirm(winner.id)
    with pytest.raises(ReservationExpired):
        await party.confirm(late.id, "pay_late")
    await party.service.expire(late, soon())
    rows = await venue.rows()
    assert [order["reservationId"]["S"] for order in rows.orders] == [winner.id]
    assert seat_state_from_item(rows.seats[f"{late.event_id}#A-2"]).holder == winner.id
    assert (await party.get(late.id)).status is Status.EXPIRED
    assert [detail["type"] for detail in rows.details(late.id)] == ["reservation.created", "reservation.expired"]


async def _asked_until_answered(ask: Callable[[], Awaitable[Recorded]]) -> Recorded:
    """With the same key, as customers do: so many at once are more than a busy machine answers within a second."""
    while True:
        try:
            return await ask()
        except (ServiceUnavailable, UpstreamTimeout):
            await asyncio.sleep(0)
