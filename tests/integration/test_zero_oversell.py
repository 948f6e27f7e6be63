"""A crowd at the same seats, on several processes, through conflicts, throttles and lost replies.

REPLAY_ROUNDS in the environment sets how many storms of equal requests are made; 8 unless set.
"""

import asyncio
import os
import random
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any

import pytest

from reservation.domain import events
from reservation.domain.errors import (
    HoldExtensionDenied,
    HoldLimitReached,
    IdempotencyInProgress,
    ReservationExpired,
    SeatUnavailable,
    ServiceUnavailable,
    UpstreamTimeout,
)
from reservation.domain.model import Event, Seat, SeatStatus
from reservation.dynamodb.items import seat_state_from_item
from reservation.ports import Recorded
from tests.support.conflict_proxy import ConflictProxy
from tests.support.invariants import Rows, violations
from tests.support.store import NOW, PRICE, Party, SettableClock, Venue, open_venue

CLIENTS, PROCESSES = 64, 4
SALE = Event("evt_sale")
ON_SALE = [Seat(f"{row}-{number}", "Floor", row, str(number), PRICE) for row in "ABCDE" for number in range(1, 21)]
PAIRS = [(left.id, right.id) for left, right in pairwise(ON_SALE)]
KEYS = pytest.mark.parametrize("keyed", [True, False], ids=["keyed", "keyless"])


@dataclass(frozen=True, slots=True)
class Market:
    """Four processes with 100 seats to sell. Three more are made for what needs more."""

    venue: Venue
    proxy: ConflictProxy
    parties: list[Party]

    async def process(
        self, clock: SettableClock | None = None, hold: int = 60_000, max_holds: int | None = None
    ) -> Party:
        client = await self.venue.connect(self.proxy.url)
        return self.venue.party(client, clock=clock, hold=hold, max_holds=max_holds)


@pytest.fixture
async def market(backend_url: str) -> AsyncIterator[Market]:
    faults: dict[str, Any] = {"hold": 0.008, "throttle": 0.05, "lose_reply": 0.05, "rng": random.Random(1)}
    async with open_venue(backend_url) as venue, venue.behind(**faults) as (proxy, _):
        await venue.sell(ON_SALE, SALE)
        market = Market(venue, proxy, [])
        market.parties.extend([await market.process() for _ in range(PROCESSES)])
        yield market


@dataclass(frozen=True, slots=True)
class Told:
    """What one customer was told about one wish in the end; None: that nobody knows."""

    user: str
    seat_ids: tuple[str, ...]
    answer: Recorded | SeatUnavailable | None


async def wish(market: Market, rng: random.Random, user: str, seat_ids: tuple[str, ...], *, keyed: bool) -> Told:
    """A client that does as it is told: what had no effect it repeats, and with a key also what may have had one, each
    time on any process."""
    key = f"key of {user}" if keyed else ""
    while True:
        party = rng.choice(market.parties)
        try:
            return Told(user, seat_ids, await party.create(*seat_ids, user=user, key=key, event=SALE.id, patience=2.5))
        except SeatUnavailable as refused:
            return Told(user, seat_ids, refused)
        except (ServiceUnavailable, IdempotencyInProgress):
            continue
        except UpstreamTimeout:
            if not keyed:
                return Told(user, seat_ids, None)


def check(rows: Rows, told: list[Told]) -> None:
    """The tables are right, and every answer is the truth. Nobody gave a seat back, so what was taken is taken now."""
    assert violations(rows) == []
    holders = {item["reservationId"]["S"]: item["userId"]["S"] for item in rows.reservations}
    had = Counter(holders.values())
    sellers = {pk.partition("#")[2]: holders[it["holder"]["S"]] for pk, it in rows.seats.items() if "holder" in it}
    for each in told:
        match each.answer:
            case Recorded(reservation):
                assert holders[reservation.id] == each.user
                assert reservation.seat_ids == each.seat_ids
                assert had[each.user] == 1
            case SeatUnavailable(seat_ids=named):
                assert had[each.user] == 0
                assert named
                assert set(named) <= set(each.seat_ids) & set(sellers)
            case None:
                assert had[each.user] <= 1
    assert set(had) <= {each.user for each in told}


@KEYS
async def test_a_crowd_at_random_seats_gets_each_seat_once(market: Market, keyed: bool) -> None:
    async def customer(number: int) -> list[Told]:
        rng = random.Random(number)
        told: list[Told] = []
        while len(told) < 10 and not (told and isinstance(told[-1].answer, Recorded)):
            told.append(await wish(market, rng, f"{number}/{len(told)}", rng.choice(PAIRS), keyed=keyed))
        return told

    told = list(chain.from_iterable(await asyncio.gather(*map(customer, range(CLIENTS)))))
    check(await market.venue.rows(), told)
    assert sum(isinstance(each.answer, Recorded) for each in told) >= 25
    assert min(market.proxy.stats[it] for it in ("conflict", "throttled", "reply lost")) > 0


@KEYS
async def test_when_all_want_the_same_two_seats_one_gets_them(market: Market, keyed: bool) -> None:
    rng = random.Random(2)
    wanted = PAIRS[0]
    told = await asyncio.gather(*(wish(market, rng, str(it), wanted, keyed=keyed) for it in range(CLIENTS)))
    rows = await market.venue.rows()
    check(rows, told)
    assert len(rows.reservations) == 1
    if keyed:
        assert sum(isinstance(each.answer, Recorded) for each in told) == 1
    assert market.proxy.stats["conflict"] > 0


@KEYS
async def test_a_sale_with_payments_cancellations_extensions_and_holds_that_run_out(
    market: Market, keyed: bool
) -> None:
    """Clocks run, up to 40 ms apart from each other, and holds last 300 ms of them. What a customer is told of its
    payment is what the tables say in the end."""
    clocks = [SettableClock(NOW + offset) for offset in (-20, 0, 10, 20)]
    selling = Market(market.venue, market.proxy, [await market.process(clock, hold=300) for clock in clocks])

    def tick() -> None:
        for clock in clocks:
            clock.advance(4)

    async def final(rng: random.Random, command: str, *arguments: str, key: str) -> str:
        """The answer to a command other than create, repeated on any process until there is one."""
        while True:
            tick()
            call = getattr(rng.choice(selling.parties), command)
            try:
                made: Recorded = await call(*arguments, key=key)
            except (ServiceUnavailable, IdempotencyInProgress, UpstreamTimeout):
                continue
            except ReservationExpired:
                return "EXPIRED"
            except HoldExtensionDenied:
                return "HOLD"
            return str(made.reservation.status)

    async def customer(number: int) -> dict[str, str]:
        rng, told = random.Random(number), {}
        for turn in range(8):
            tick()
            name = f"{number}/{turn}"
            wished = await wish(selling, rng, name, rng.choice(PAIRS[:40]), keyed=keyed)
            if not isinstance(wished.answer, Recorded):
                continue
            reservation_id, key = wished.answer.reservation.id, name if keyed else ""
            if rng.random() < 0.3:
                extensions.append(await final(rng, "extend", reservation_id, name, key=key))
            command = rng.choice(["confirm", "cancel", "leave"])
            if command != "leave":
                told[reservation_id] = await final(rng, command, reservation_id, name, key=key)
        return told

    told: dict[str, str] = {}
    extensions: list[str] = []
    for each in await asyncio.gather(*map(customer, range(CLIENTS // 2))):
        told |= each
    rows = await market.venue.rows()
    assert violations(rows, now=max(clock.now() for clock in clocks)) == []
    for item in rows.reservations:
        # Who lost a seat to another is refused without being settled.
        told_of = told.get(item["reservationId"]["S"])
        assert told_of in (None, item["status"]["S"]) or (told_of, item["status"]["S"]) == ("EXPIRED", "HOLD")
    assert set(told.values()) >= {"CONFIRMED", "CANCELLED"}
    assert "HOLD" in extensions


@KEYS
async def test_of_64_creates_of_one_user_at_once_as_many_succeed_as_are_allowed(market: Market, keyed: bool) -> None:
    """Whatever is lost on the way: a client that does not know repeats itself, and none is told a limit in vain."""
    limited = [await market.process(max_holds=4) for _ in range(PROCESSES)]

    async def create(number: int) -> Recorded | HoldLimitReached | None:
        rng, key = random.Random(number), f"key_{number}" if keyed else ""
        while True:
            try:
                return await rng.choice(limited).create(ON_SALE[number].id, key=key, event=SALE.id, patience=2.5)
            except HoldLimitReached as refused:
                return refused
            except (ServiceUnavailable, IdempotencyInProgress):
                continue
            except UpstreamTimeout:
                if not keyed:
                    return None

    told = await asyncio.gather(*map(create, range(CLIENTS)))
    rows = await market.venue.rows()
    assert violations(rows) == []
    assert len(rows.reservations) == len(rows.slots) == 4
    made = {item["reservationId"]["S"] for item in rows.reservations}
    assert {each.reservation.id for each in told if isinstance(each, Recorded)} <= made
    if keyed:
        assert sum(isinstance(each, Recorded) for each in told) == 4
    assert market.proxy.stats["conflict"] > 0


async def test_storms_of_equal_requests_get_one_answer_each(market: Market) -> None:
    """50 equal requests over ten processes, and once the first is answered, others that want the same seats."""
    market.parties.extend([await market.process() for _ in range(6)])
    for number in range(int(os.environ.get("REPLAY_ROUNDS", "8"))):
        await storm(market, number)
    assert violations(await market.venue.rows()) == []


async def storm(market: Market, number: int) -> None:
    seat_ids, first = PAIRS[2 * number], asyncio.Event()
    before = await market.venue.rows()

    async def equal(position: int) -> Recorded:
        if position >= 25:
            await first.wait()
        party = market.parties[position % len(market.parties)]
        recorded = await party.create(*seat_ids, user="user_1", key=f"key_{number}", event=SALE.id)
        first.set()
        return recorded

    async def rival(position: int) -> None:
        await first.wait()
        with pytest.raises(SeatUnavailable):
            await market.parties[position % len(market.parties)].create(*seat_ids, user="rival", event=SALE.id)

    rivals = [asyncio.ensure_future(rival(position)) for position in range(5)]
    answers = await asyncio.gather(*map(equal, range(50)))
    await asyncio.gather(*rivals)
    assert sum(not each.replayed for each in answers) == 1
    bodies: list[dict[str, Any]] = [events.body(each.reservation) for each in answers]
    assert all(body == bodies[0] for body in bodies)
    after = await market.venue.rows()
    made = [len(getattr(after, it)) - len(getattr(before, it)) for it in ("reservations", "idempotency", "outbox")]
    assert made == [1, 1, 1]
    seats = [seat_state_from_item(after.seats[f"{SALE.id}#{seat_id}"]) for seat_id in seat_ids]
    assert {(seat.status, seat.holder) for seat in seats} == {(SeatStatus.HELD, answers[0].reservation.id)}
