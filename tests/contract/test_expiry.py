"""Holds end on time, once, and free exactly what they still hold."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from reservation.background.expiry import Expiry, quiet_seconds
from reservation.domain.errors import ReservationExpired, SeatUnavailable, ServiceUnavailable
from reservation.domain.model import Reservation, Status
from reservation.dynamodb.items import reservation_to_item
from reservation.ports import Recorded
from tests.support.conflict_proxy import ConflictProxy
from tests.support.faults import Fault, HoldReply, LoseReply, RejectBefore, Request, Throttle
from tests.support.invariants import violations
from tests.support.store import HOLD_MS, NOW, Party, SettableClock, Venue, soon

SHARD = "0003"


def always(_shard: str) -> bool:
    return True


def expiry_of(
    party: Party, *, may_work_on: Callable[[str], bool] = always, wake: asyncio.Event | None = None
) -> Expiry:
    """Its timers move the party's clock: whoever sleeps wakes at its time, though not before `wake` is set."""

    async def sleep(seconds: float) -> None:
        if wake is not None:
            await wake.wait()
        party.clock.advance(int(seconds * 1000))

    return Expiry(
        party.service,
        held_shards=lambda: [SHARD],
        may_work_on=may_work_on,
        now=party.clock.now,
        clock_trusted=party.clock.trusted,
        sleep=sleep,
        monotonic=lambda: party.clock.now() / 1000,
    )


async def look_and_settle(party: Party, *, may_work_on: Callable[[str], bool] = always) -> Expiry:
    expiry = expiry_of(party, may_work_on=may_work_on)
    await expiry.look_ahead(SHARD)
    await expiry.settle_all()
    return expiry


async def test_a_hold_that_ends_soon_is_settled_at_its_time_and_not_before(venue: Venue) -> None:
    party = venue.party(shard=SHARD)
    held = (await party.create("A-1", "A-2")).reservation
    party.clock.advance(HOLD_MS - 1_500)
    await look_and_settle(party)
    assert party.clock.now() == held.hold_expires_at
    stored = await party.get(held.id)
    assert (stored.status, stored.version, stored.updated_at) == (Status.EXPIRED, 2, held.hold_expires_at)
    rows = await venue.rows()
    assert violations(rows, now=party.clock.now()) == []
    assert rows.details(held.id)[-1]["type"] == "reservation.expired"
    assert rows.details(held.id)[-1]["releasedSeats"] == ["A-1", "A-2"]
    await party.create("A-1", "A-2")


async def test_a_hold_beyond_the_horizon_is_left_for_a_later_look(venue: Venue) -> None:
    party = venue.party(shard=SHARD)
    held = (await party.create("A-1")).reservation
    party.clock.advance(HOLD_MS - 2_001)
    await look_and_settle(party)
    assert (await party.get(held.id)).status is Status.HOLD


async def test_a_seat_taken_over_since_stays_its_new_holders_and_the_event_says_so(venue: Venue) -> None:
    party = venue.party(shard=SHARD)
    first = (await party.create("A-1", "A-2")).reservation
    party.clock.advance(HOLD_MS)
    second = (await party.create("A-2", user="user_2")).reservation
    await look_and_settle(party)
    rows = await venue.rows()
    assert rows.details(first.id)[-1]["releasedSeats"] == ["A-1"]
    assert rows.details(first.id)[-1]["reservation"]["seatIds"] == ["A-1", "A-2"]
    assert rows.seats["evt_2025_1001#A-2"]["holder"]["S"] == second.id
    assert violations(rows, now=party.clock.now()) == []


@pytest.mark.parametrize("command", ["confirm", "cancel", "extend"])
async def test_a_race_that_is_lost_changes_nothing(venue: Venue, command: str) -> None:
    """Another process, whose clock is behind, changes the reservation after this one has read the hold as due."""
    party, other = venue.party(shard=SHARD), venue.party(clock=SettableClock(NOW), shard=SHARD)
    held = (await party.create("A-1")).reservation
    party.clock.advance(HOLD_MS)
    made: Recorded = await getattr(other, command)(held.id)
    became = await party.service.expire(held, soon())
    assert (became.status, became.hold_expires_at) == (made.reservation.status, made.reservation.hold_expires_at)
    assert violations(await venue.rows(), now=party.clock.now()) == []


async def test_a_hold_that_is_extended_while_its_end_is_awaited_is_settled_at_its_new_end(venue: Venue) -> None:
    """Once, and not before, by one that has looked at it before it was extended."""
    party, other = venue.party(shard=SHARD), venue.party(clock=SettableClock(NOW))
    held = (await party.create("A-1")).reservation
    party.clock.advance(HOLD_MS - 1_500)
    extended = asyncio.Event()
    expiry = expiry_of(party, wake=extended)
    await expiry.look_ahead(SHARD)
    longer = (await other.extend(held.id, seconds=1)).reservation
    extended.set()
    await expiry.settle_all()
    assert party.clock.now() == held.hold_expires_at
    assert await _stored(venue, held) == longer
    await expiry.look_ahead(SHARD)
    await expiry.settle_all()
    assert party.clock.now() == longer.hold_expires_at
    assert (await _stored(venue, held)).status is Status.EXPIRED
    rows = await venue.rows()
    assert [detail["type"] for detail in rows.details(held.id)] == [
        *("reservation.created", "reservation.hold_extended", "reservation.expired")
    ]
    assert expiry.failed == 0
    assert violations(rows) == []


async def test_two_that_settle_the_same_hold_make_one_event(venue: Venue) -> None:
    one, two = venue.party(shard=SHARD), venue.party(shard=SHARD)
    held = (await one.create("A-1")).reservation
    one.clock.advance(HOLD_MS)
    async with asyncio.TaskGroup() as both:
        both.create_task(look_and_settle(one))
        both.create_task(look_and_settle(two))
    assert [detail["type"] for detail in (await venue.rows()).details(held.id)] == [
        "reservation.created",
        "reservation.expired",
    ]


async def test_a_lost_reply_and_a_throttle_settle_once(venue: Venue) -> None:
    async with venue.behind() as (proxy, client):
        party = venue.party(client, shard=SHARD)
        held = (await party.create("A-1")).reservation
        party.clock.advance(HOLD_MS)
        _script(proxy, Throttle(), LoseReply())
        assert (await party.service.expire(held, soon())).status is Status.EXPIRED
    assert len((await venue.rows()).details(held.id)) == 2


async def test_a_hold_whose_end_is_awaited_is_not_read_again(venue: Venue) -> None:
    async with venue.behind() as (proxy, client):
        party = venue.party(client, shard=SHARD)
        await party.create("A-1")
        party.clock.advance(HOLD_MS - 1_500)
        expiry = expiry_of(party, wake=(wake := asyncio.Event()))
        await expiry.look_ahead(SHARD)
        reads = proxy.stats["BatchGetItem"]
        await expiry.look_ahead(SHARD)
        assert proxy.stats["BatchGetItem"] == reads
        wake.set()
        await expiry.settle_all()


async def test_shards_are_looked_at_in_turn(venue: Venue) -> None:
    """Not all at the same moment of a second."""
    party, turns, never = venue.party(), list[float](), asyncio.Event()

    async def sleep(seconds: float) -> None:
        turns.append(seconds)
        await never.wait()

    expiry = Expiry(
        party.service,
        held_shards=lambda: ["0000", "0001", "0002", "0003"],
        may_work_on=always,
        now=party.clock.now,
        clock_trusted=party.clock.trusted,
        sleep=sleep,
    )
    running = asyncio.create_task(expiry.run())
    for _ in range(20):
        await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait([running])
    assert turns == [0.25, 0.5, 0.75]


async def test_a_stop_waits_for_the_end_that_is_being_written(venue: Venue) -> None:
    """Its connections close after it."""
    async with venue.behind() as (proxy, client):
        party = venue.party(client, shard=SHARD)
        held = (await party.create("A-1")).reservation
        party.clock.advance(HOLD_MS)
        reply = HoldReply()
        _script(proxy, reply)
        running = asyncio.create_task(expiry_of(party).run())
        await reply.reached.wait()
        running.cancel()
        for _ in range(20):
            await asyncio.sleep(0)
        assert not running.done()
        reply.event.set()
        await asyncio.wait([running])
        assert (await _stored(venue, held)).status is Status.EXPIRED


def _script(proxy: ConflictProxy, *faults: Fault) -> None:
    def transaction(request: Request) -> bool:
        return request.operation == "TransactWriteItems"

    for fault in faults:
        proxy.script(transaction, fault)


async def test_a_poison_record_never_stops_the_rest(venue: Venue) -> None:
    """It is isolated, counted, and tried again later, each time after a longer while.
    https://github.com/alfio-event/alf.io/issues/848"""
    party = venue.party(shard=SHARD)
    poison = (await party.create("A-1")).reservation
    good = (await party.create("A-2")).reservation
    broken = reservation_to_item(poison) | {"seats": {"S": "not a list"}}
    await venue.put(venue.tables.reservations, broken)
    party.clock.advance(HOLD_MS)
    expiry = await look_and_settle(party)
    assert (await party.get(good.id)).status is Status.EXPIRED
    assert expiry.failed == 1
    for look, failed in enumerate((1, 2, 2, 3)):
        party.clock.advance(0 if look == 0 else 1_000)
        await expiry.look_ahead(SHARD)
        assert expiry.failed == failed


async def test_a_store_in_trouble_says_nothing_about_its_holds(venue: Venue) -> None:
    """They are settled by the first look after the trouble, however long it has lasted, and the log is told of it once
    a look and not once a hold."""
    async with venue.behind() as (proxy, client):
        party = venue.party(client, shard=SHARD)
        held = [(await party.create(seat)).reservation.id for seat in ("A-1", "A-2")]
        party.clock.advance(HOLD_MS)
        expiry = expiry_of(party)
        with capture_logs() as logged:
            for _ in range(5):
                _script(proxy, *(_nobody_is_known() for _ in range(4)))
                await expiry.look_ahead(SHARD)
                await expiry.settle_all()
                party.clock.advance(1_000)
        assert [entry["event"] for entry in logged] == 5 * ["expiry.store_failed"]
        await expiry.look_ahead(SHARD)
        await expiry.settle_all()
        assert [(await party.get(each)).status for each in held] == 2 * [Status.EXPIRED]
        assert expiry.failed == 0


async def test_a_store_in_trouble_is_left_alone_for_a_second(venue: Venue) -> None:
    async with venue.behind() as (proxy, client):
        party = venue.party(client, shard=SHARD)
        held = (await party.create("A-1")).reservation
        party.clock.advance(HOLD_MS)
        _script(proxy, _nobody_is_known(), _nobody_is_known())
        with capture_logs():
            expiry = await look_and_settle(party)
        for waited, status in ((999, Status.HOLD), (1, Status.EXPIRED)):
            party.clock.advance(waited)
            await expiry.look_ahead(SHARD)
            await expiry.settle_all()
            assert (await _stored(venue, held)).status is status


def _nobody_is_known() -> Fault:
    """Credentials are renewed after the first; after the second the store cannot be used."""
    return RejectBefore("UnrecognizedClientException")


async def test_a_thousand_poison_records_at_its_head_never_stop_a_shard(venue: Venue) -> None:
    party = venue.party(shard=SHARD)
    good = (await party.create("A-1")).reservation
    broken = reservation_to_item(replace(good, hold_expires_at=good.hold_expires_at - 1)) | {"seats": {"S": "no list"}}
    poison = [broken | {"reservationId": {"S": f"rsv_{number:032x}"}} for number in range(1_001)]
    await venue.put(venue.tables.reservations, *poison)
    party.clock.advance(HOLD_MS)
    with capture_logs():
        await look_and_settle(party)
    assert (await party.get(good.id)).status is Status.EXPIRED


@pytest.mark.parametrize(("tries", "seconds"), [(1, 1.0), (2, 2.0), (6, 32.0), (7, 60.0), (100_000, 60.0)])
def test_what_fails_is_left_alone_for_a_minute_at_most_also_after_days(tries: int, seconds: float) -> None:
    """A failing look would stop its whole shard."""
    assert quiet_seconds(tries) == seconds


async def test_nothing_is_settled_on_a_shard_that_was_lost_meanwhile(venue: Venue) -> None:
    party = venue.party(shard=SHARD)
    held = (await party.create("A-1")).reservation
    party.clock.advance(HOLD_MS)
    await look_and_settle(party, may_work_on=lambda shard: False)
    assert (await _stored(venue, held)).status is Status.HOLD


async def test_a_clock_that_is_not_trusted_settles_nothing(venue: Venue) -> None:
    clock = SettableClock(NOW)
    party = venue.party(clock=clock, shard=SHARD)
    held = (await party.create("A-1")).reservation
    wrong = venue.party(clock=SettableClock(NOW + 3_600_000, trusted=False), shard=SHARD)
    await look_and_settle(wrong)
    with pytest.raises(ServiceUnavailable):
        await wrong.service.expire(held, soon())
    assert (await _stored(venue, held)).status is Status.HOLD
    assert (await party.confirm(held.id)).reservation.status is Status.CONFIRMED


async def test_with_the_expirer_dead_past_holds_are_refused_and_their_seats_sold(venue: Venue) -> None:
    party = venue.party(shard=SHARD)
    held = (await party.create("A-1")).reservation
    party.clock.advance(HOLD_MS)
    with pytest.raises(ReservationExpired):
        await party.confirm(held.id)
    await party.create("A-1", user="user_2")
    assert (await party.get(held.id)).status is Status.EXPIRED
    with pytest.raises(SeatUnavailable):
        await party.create("A-1", user="user_3")


async def test_more_holds_than_a_page_are_all_seen_in_one_look(venue: Venue) -> None:
    party = venue.party(shard=SHARD)
    held = (await party.create("A-1")).reservation
    for number in range(120):
        copy = replace(held, id=f"rsv_{number:032x}", hold_expires_at=held.hold_expires_at + number)
        await venue.put(venue.tables.reservations, reservation_to_item(copy))
    seen: list[Reservation] = []
    page: object | None = None
    while True:
        found = await party.service.due(SHARD, held.hold_expires_at + 1_000, page, soon())
        seen += found.holds
        if (page := found.next) is None:
            break
    assert len({each.id for each in seen}) == 121


async def _stored(venue: Venue, held: Reservation) -> Reservation:
    found = await venue.party().store.find(held.id, soon())
    assert found is not None
    return found
