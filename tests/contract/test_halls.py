"""What a process knows of a hall: what it did itself at once, what others did soon, what is past not for long."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from reservation.domain.model import Event, Reservation, Seat, SeatStatus
from reservation.domain.seating import BLOCKED, FREE, SOLD
from reservation.dynamodb.hints import Hints, HintTable
from tests.support.faults import Hold, RejectBefore, Request
from tests.support.store import EVENT, HOLD_MS, NOW, PRICE, SEATS, Party, Venue, Wire, soon
from tests.support.verdicts import until

AVAILABLE, HELD = SeatStatus.AVAILABLE, SeatStatus.HELD
HALL = Event("evt_hall", "Hall")
ROWS = [Seat(f"{row}-{number}", "Floor", row, str(number), PRICE) for row in "AB" for number in range(1, 151)]


@pytest.fixture
def wire() -> Wire:
    """What is learnt has nothing to do with how DynamoDB is called."""
    return "lean"


async def shown(party: Party, seat_id: str, event: str = EVENT.id) -> SeatStatus:
    hall = await party.halls.hall(event, soon())
    return {seat.id: status for seat, status in hall.seats(now=party.clock.now())[0]}[seat_id]


def shown_at_once(party: Party, seat_id: str) -> SeatStatus:
    """Without a look at the store."""
    hall = party.halls.known(EVENT.id)
    assert hall is not None
    return {seat.id: status for seat, status in hall.seats(now=party.clock.now())[0]}[seat_id]


async def told(venue: Venue, event: str = EVENT.id, blocks: int = 1) -> dict[int, Hints]:
    """The hints in the table, by block."""
    table = HintTable(venue.client, venue.tables.inventory)
    found: dict[int, Hints] = {}
    async for some in table.read(event, range(blocks), soon(), consistent=True):
        found |= some
    return found


def hint_write(request: Request) -> bool:
    return request.operation == "UpdateItem"


def hint_read(request: Request) -> bool:
    keys = next(iter(request.params["RequestItems"].values()))["Keys"] if request.operation == "BatchGetItem" else []
    return any("##hints#" in key["pk"]["S"] for key in keys)


# What is sold, given back and over


async def _nothing(party: Party, held: Reservation) -> None: ...


async def _confirmed(party: Party, held: Reservation) -> None:
    await party.confirm(held.id)


async def _cancelled(party: Party, held: Reservation) -> None:
    await party.halls.flush()
    await party.cancel(held.id)


async def _extended(party: Party, held: Reservation) -> None:
    """As an extension tells of it."""
    await party.halls.flush()
    party.halls.learn(EVENT.id, held.seats, held.hold_expires_at + HOLD_MS)


async def _expired(party: Party, held: Reservation) -> None:
    await party.halls.flush()
    party.clock.advance(HOLD_MS)
    await party.service.expire(held, soon())


@pytest.mark.parametrize(
    ("change", "status", "after_the_hold"),
    [
        (_nothing, HELD, AVAILABLE),
        (_confirmed, SeatStatus.SOLD, SeatStatus.SOLD),
        (_cancelled, AVAILABLE, AVAILABLE),
        (_extended, HELD, HELD),
        (_expired, AVAILABLE, AVAILABLE),
    ],
)
async def test_what_a_process_does_shows_there_at_once_and_elsewhere_when_it_was_told(
    venue: Venue,
    change: Callable[[Party, Reservation], Awaitable[None]],
    status: SeatStatus,
    after_the_hold: SeatStatus,
) -> None:
    one, two = venue.party(), venue.party()
    assert [await shown(party, "A-1") for party in (one, two)] == [AVAILABLE, AVAILABLE]
    await change(one, (await one.create("A-1")).reservation)
    assert await shown(one, "A-1") is status
    await one.halls.flush()
    venue.clock.advance(2_001)
    assert await shown(two, "A-1") is status
    assert await shown(two, "A-2") is AVAILABLE
    venue.clock.advance(HOLD_MS)
    assert [await shown(party, "A-1") for party in (one, two)] == [after_the_hold, after_the_hold]


async def test_a_hall_that_is_loaded_while_its_process_sells_and_tells_knows_of_it(venue: Venue) -> None:
    """One seat's hint is on its way when the hall is read, and another's comes only then."""
    async with venue.behind() as (proxy, client):
        party = venue.party(client)
        await party.create("A-1")
        telling, reading = Hold(), Hold()
        proxy.script(hint_write, telling)
        proxy.script(hint_read, reading)
        flushing = asyncio.create_task(party.halls.flush())
        await telling.reached.wait()
        loading = asyncio.create_task(party.halls.hall(EVENT.id, soon()))
        await reading.reached.wait()
        await party.create("A-2")
        for pause in (reading, telling):
            pause.event.set()
        await asyncio.gather(loading, flushing)
    assert [await shown(party, seat_id) for seat_id in ("A-1", "A-2", "A-3")] == [HELD, HELD, AVAILABLE]


async def test_a_hall_that_is_loaded_later_knows_what_its_process_did_before(venue: Venue) -> None:
    """That was not told yet."""
    party = venue.party()
    await party.create("A-1")
    assert [await shown(party, seat_id) for seat_id in ("A-1", "A-2")] == [HELD, AVAILABLE]


async def test_a_hold_that_has_passed_shows_its_seat_free_though_nobody_writes_that(venue: Venue) -> None:
    one, two = venue.party(), venue.party()
    held = (await one.create("A-1")).reservation
    await one.halls.flush()
    assert await shown(two, "A-1") is HELD
    venue.clock.advance(HOLD_MS - 1)
    assert shown_at_once(two, "A-1") is HELD
    venue.clock.advance(1)
    assert shown_at_once(two, "A-1") is AVAILABLE
    (count,) = (await two.halls.hall(EVENT.id, soon())).counts(venue.clock.now())
    assert (count.available, count.held) == (8, 0)
    assert await told(venue) == {0: {0: held.hold_expires_at}}


async def test_hints_serve_for_two_seconds_and_are_read_anew_after_one(venue: Venue) -> None:
    one, two = venue.party(), venue.party()
    assert await two.halls.hall_and_time(EVENT.id, soon()) == (two.halls.known(EVENT.id), NOW)
    await one.create("A-1")
    await one.halls.flush()
    venue.clock.advance(1_000)
    assert await shown(two, "A-1") is AVAILABLE
    venue.clock.advance(1)
    assert await shown(two, "A-1") is AVAILABLE  # and meanwhile
    await until(lambda: shown_at_once(two, "A-1") is HELD)
    await one.create("A-2")
    await one.halls.flush()
    venue.clock.advance(2_001)
    hall, as_of = await two.halls.hall_and_time(EVENT.id, soon())
    assert (hall.counts(venue.clock.now())[0].held, as_of) == (2, venue.clock.now())


async def test_an_answer_asked_for_long_ago_is_not_new_enough(venue: Venue) -> None:
    """The read is under way for two seconds when somebody wants hints that are younger."""
    one = venue.party()
    async with venue.behind() as (proxy, client):
        two = venue.party(client)
        slow = Hold()
        proxy.script(hint_read, slow)
        first = asyncio.create_task(two.halls.hall(EVENT.id, soon()))
        await slow.reached.wait()
        await one.create("A-1")
        await one.halls.flush()
        venue.clock.advance(2_001)
        second = asyncio.create_task(two.halls.hall_and_time(EVENT.id, soon()))
        await asyncio.sleep(0)
        slow.event.set()
        await first
        assert (await second)[1] == venue.clock.now()


async def test_many_callers_share_one_load(venue: Venue) -> None:
    client = await venue.connect(venue.url)
    party = venue.party(client)
    halls = await asyncio.gather(*(party.halls.hall(EVENT.id, soon()) for _ in range(50)))
    assert len({id(hall) for hall in halls}) == 1
    # The layout's pointer and its part, and the hints.
    assert (client.stats["GetItem"], client.stats["BatchGetItem"]) == (1, 2)


async def test_a_caller_that_leaves_does_not_end_the_load_for_the_others(venue: Venue) -> None:
    party = venue.party()
    leaving, staying = (asyncio.create_task(party.halls.hall(EVENT.id, soon())) for _ in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    assert (await staying).section_names == ("Floor",)


async def test_an_event_that_was_never_laid_out_has_an_empty_hall(venue: Venue) -> None:
    hall = await venue.party().halls.hall("evt_unknown", soon())
    assert (hall.section_names, hall.counts(NOW)) == ((), [])


# A new layout


async def test_claims_begin_and_end_while_a_new_layout_is_read(venue: Venue) -> None:
    async with venue.behind() as (proxy, client):
        party = venue.party(client)
        before = await party.halls.hall(EVENT.id, soon())
        before.claim(["A-1", "A-2"])
        await venue.sell([*SEATS, Seat("B-1", "Floor", "B", "1", PRICE)])
        venue.clock.advance(300_001)
        hints = Hold()
        proxy.script(hint_read, hints)
        loading = asyncio.create_task(party.halls.hall(EVENT.id, soon()))
        await hints.reached.wait()
        coming = party.halls.known(EVENT.id)
        assert coming is not None
        coming.claim(["A-3"])
        party.halls.release(EVENT.id, ["A-1"])
        hints.event.set()
        after = await loading
    assert after.seat("B-1") is not None
    assert after.claimed == ("A-2", "A-3")
    party.halls.release(EVENT.id, ["A-2", "A-3"])
    assert not after.claimed


async def test_a_layout_that_has_not_changed_is_not_read_again(venue: Venue) -> None:
    client = await venue.connect(venue.url)
    party = venue.party(client)
    before = await party.halls.hall(EVENT.id, soon())
    client.stats.clear()
    venue.clock.advance(300_001)
    assert await party.halls.hall(EVENT.id, soon()) is before
    assert (client.stats["GetItem"], client.stats["BatchGetItem"]) == (1, 1)


# Telling


async def _a_hall(venue: Venue) -> tuple[Party, list[Seat]]:
    """A party with a client of its own that has loaded HALL, and its seats: two rows of 150."""
    await venue.sell(ROWS, HALL)
    party = venue.party(await venue.connect(venue.url))
    hall = await party.halls.hall(HALL.id, soon())
    party.client.stats.clear()
    return party, [seat for seat, _ in hall.seats(now=NOW)[0]]


async def test_what_is_learnt_is_written_block_by_block(venue: Venue) -> None:
    party, seats = await _a_hall(venue)
    for end in (NOW + 1, NOW + 2):
        for seat in seats[:200]:
            party.halls.learn(HALL.id, [seat], end)
    await party.halls.flush()
    assert party.client.stats["UpdateItem"] == 3  # at most 100 positions each
    assert await told(venue, HALL.id, 2) == {
        0: dict.fromkeys(range(150), NOW + 2),
        1: dict.fromkeys(range(50), NOW + 2),
    }
    await party.halls.flush()
    assert party.client.stats["UpdateItem"] == 3


async def test_what_is_not_to_be_told_is_not_written(venue: Venue) -> None:
    """A block is its author's to tell: told late by another, it would hide a free seat for ever."""
    party, seats = await _a_hall(venue)
    party.halls.learn(HALL.id, seats[:1], NOW + 1, tell=False)
    party.halls.learn(HALL.id, seats[1:2], BLOCKED)
    await party.halls.flush()
    assert party.client.stats["UpdateItem"] == 0
    assert await shown(party, "A-1", HALL.id) is HELD
    assert await shown(party, "A-2", HALL.id) is SeatStatus.BLOCKED


@pytest.mark.parametrize(("failures", "written"), [(4, {0: {0: NOW + 9, 1: SOLD}}), (5, {0: {}})])
async def test_a_write_that_fails_is_tried_five_times_with_what_was_learnt_last(
    venue: Venue, failures: int, written: dict[int, Hints]
) -> None:
    async with venue.behind() as (proxy, client):
        party = venue.party(client)
        seats = [seat for seat, _ in (await party.halls.hall(EVENT.id, soon())).seats(now=NOW)[0]]
        for _ in range(failures):
            proxy.script(hint_write, RejectBefore("ValidationException"))
        party.halls.learn(EVENT.id, seats[:2], SOLD)
        await party.halls.flush()
        party.halls.learn(EVENT.id, seats[:1], NOW + 9)
        for _ in range(6):
            await party.halls.flush()
        assert proxy.stats["UpdateItem"] == 5
    assert await told(venue) == written


async def test_a_stop_in_the_middle_of_a_pass_loses_nothing(venue: Venue) -> None:
    """The task is cancelled while one block is being written; the last flush then writes what is left."""
    await venue.sell([replace(seat, id=f"{seat.id}-x", row=str(n)) for n, seat in enumerate(ROWS[:40])], HALL)
    async with venue.behind() as (proxy, client):
        party = venue.party(client)
        seats = [seat for seat, _ in (await party.halls.hall(HALL.id, soon())).seats(now=NOW)[0]]
        under_way = Hold()
        proxy.script(hint_write, under_way)
        running = asyncio.create_task(party.halls.run())
        party.halls.learn(HALL.id, seats, NOW + 9)
        await under_way.reached.wait()
        running.cancel()
        await asyncio.wait([running])
        await party.halls.flush()
        under_way.event.set()
    assert await told(venue, HALL.id, 40) == {key: {0: NOW + 9} for key in range(40)}


async def test_a_seat_that_was_freed_again_is_told_as_free(venue: Venue) -> None:
    one = venue.party()
    await one.halls.hall(EVENT.id, soon())
    await one.cancel((await one.create("A-1")).reservation.id)
    await one.halls.flush()
    assert await told(venue) == {0: {0: FREE}}
