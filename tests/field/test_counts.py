"""Failures of other ticket systems that were failures to count. The links tell what happened there."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator

import grpc
import pytest

from reservation.domain.errors import ReservationError, SeatUnavailable
from reservation.domain.model import Reservation, SeatStatus, Status, Wish
from reservation.dynamodb.items import reservation_from_item
from tests.support.faults import LoseReply
from tests.support.invariants import violations
from tests.support.store import EVENT, HOLD_MS, SEATS, Party, Venue, open_venue, soon
from tests.support.system import call, create_request, own_settings, refusal, selling
from tests.support.verdicts import transaction

PROCESSES = 3
FREED = {"confirm": 0, "cancel": 2, "expire": 2}


@pytest.fixture
async def venue(ministack_url: str) -> AsyncIterator[Venue]:
    async with open_venue(ministack_url) as venue:
        yield venue
        assert violations(await venue.rows(), now=venue.clock.now()) == []


async def counted(venue: Venue) -> Counter[SeatStatus]:
    """The seats themselves, by what they are to a buyer."""
    seats = await venue.party().inventory.look(EVENT.id, [seat.id for seat in SEATS], soon())
    return Counter(status for _, status in seats)


async def test_one_call_never_counts_a_seat_twice(ministack_url: str) -> None:
    """Two lines of one call were each checked against what was there before it:
    https://github.com/medusajs/medusa/issues/16502"""
    async with selling(own_settings(ministack_url)) as system:
        for seat_ids, quantity, blamed in (
            (["A-1", "A-1"], 2, "seat_ids"),
            (["A-1", "A-2"], 1, "quantity"),
            (["A-1"], 2, "quantity"),
        ):
            refused = await refusal(call(system.channel, create_request(seat_ids, quantity=quantity)))
            assert (refused.status, refused.violations) == (grpc.StatusCode.INVALID_ARGUMENT, (blamed,))
        assert await system.items("reservations") == []


async def test_wishes_at_once_never_add_up_to_more_than_the_house(venue: Venue) -> None:
    """https://github.com/medusajs/medusa/issues/16502"""
    parties = [venue.party(stripe=(rank, PROCESSES)) for rank in range(PROCESSES)]
    calls = (
        parties[number % PROCESSES].create(user=f"user_{number}", wish=Wish(1 + number % 3, "Floor"))
        for number in range(12)
    )
    refused = [each for each in await asyncio.gather(*calls, return_exceptions=True) if isinstance(each, Exception)]
    assert refused
    assert {type(each) for each in refused} == {SeatUnavailable}
    rows = await venue.rows()
    sold = [seat_id for item in rows.reservations for seat_id in reservation_from_item(item).seat_ids]
    assert len(sold) == len(set(sold)) <= len(SEATS)
    assert (await counted(venue))[SeatStatus.HELD] == len(sold)


@pytest.mark.parametrize("number", range(3))
async def test_after_any_history_the_seats_count_as_the_reservations_do(venue: Venue, number: int) -> None:
    """Whoever writes: every process checks and takes in one and the same write, and there is no counter beside it.
    https://github.com/medusajs/medusa/issues/16569 https://github.com/vendurehq/vendure/issues/3508
    https://github.com/vendurehq/vendure/pull/4930"""
    rng, parties = random.Random(number), [venue.party() for _ in range(PROCESSES)]
    await parties[0].confirm((await parties[0].create("A-1")).reservation.id)
    for _ in range(8):
        known = [reservation_from_item(item) for item in (await venue.rows()).reservations]
        steps = [_any_step(rng, rng.choice(parties), known) for _ in range(6)]
        told = await asyncio.gather(*steps, return_exceptions=True)
        assert [each for each in told if isinstance(each, Exception) and not isinstance(each, ReservationError)] == []
        venue.clock.advance(rng.choice([0, HOLD_MS // 3]))
    now = venue.clock.now()
    count: Counter[SeatStatus] = Counter()
    for each in (reservation_from_item(item) for item in (await venue.rows()).reservations):
        if each.status is Status.CONFIRMED:
            count[SeatStatus.SOLD] += len(each.seat_ids)
        elif each.status is Status.HOLD and each.hold_expires_at > now:
            count[SeatStatus.HELD] += len(each.seat_ids)
    count[SeatStatus.AVAILABLE] = len(SEATS) - count.total()
    assert +count == await counted(venue)
    assert count[SeatStatus.SOLD] > 0


async def _any_step(rng: random.Random, party: Party, known: list[Reservation]) -> None:
    command = rng.choice(["create", "confirm", "cancel", "extend", "expire"]) if known else "create"
    if command == "create":
        await party.create(*(seat.id for seat in rng.sample(SEATS, 2)), user=f"user_{rng.random()}")
    elif command == "expire":
        await party.service.expire(rng.choice(known), soon())
    else:
        await getattr(party, command)(rng.choice(known).id)


@pytest.mark.parametrize("command", FREED)
async def test_each_end_of_a_hold_counts_once_however_often_it_is_told(venue: Venue, command: str) -> None:
    """https://github.com/HiEventsDev/Hi.Events/issues/466 https://github.com/HiEventsDev/Hi.Events/issues/790
    https://github.com/HiEventsDev/Hi.Events/pull/1072"""
    held = (await venue.party().create("A-1", "A-2")).reservation
    before = len(SEATS) - 2
    async with venue.behind(hold=0.004, unhurried=True) as (proxy, client):
        parties = [venue.party(client) for _ in range(PROCESSES)]
        if command == "expire":
            venue.clock.advance(HOLD_MS)
        proxy.script(transaction, LoseReply())
        for _ in range(2):
            calls = (_end(party, command, held, key) for party in parties for key in ("", "key_1"))
            await asyncio.gather(*calls)
    assert (await counted(venue))[SeatStatus.AVAILABLE] == before + FREED[command]
    rows = await venue.rows()
    assert [detail["version"] for detail in rows.details(held.id)] == [1, 2]
    assert len(rows.details(held.id)[-1].get("releasedSeats", ())) == FREED[command]
    assert len(rows.orders) == (command == "confirm")


async def _end(party: Party, command: str, held: Reservation, key: str) -> None:
    if command == "expire":
        await party.service.expire(held, soon())
    else:
        await getattr(party, command)(held.id, "pay_1", key=key)
