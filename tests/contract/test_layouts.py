"""A layout is read as it was written, whole and of one version, whoever writes another meanwhile."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from reservation.domain.errors import ServiceUnavailable
from reservation.domain.layout import Block, Place, Section, merged, seats_of
from reservation.domain.model import Event, Money, Seat, SectionKind, Spot
from reservation.dynamodb.events import EventImport
from reservation.dynamodb.items import layout_part_key, seat_from_item
from reservation.dynamodb.layouts import EMPTY, Layout, Layouts
from tests.support.faults import Hold, LoseReply, Request, Throttle
from tests.support.store import PRICE, Venue, soon

HALL = Event("evt_hall", "Hall")
FLOOR = [Seat(f"{row}-{number}", "Floor", row, str(number), PRICE) for row in "ABC" for number in range(1, 401)]
PIT = [Seat(f"Pit-{number}", "Pit", "", "", Money(50_000, "KRW")) for number in range(1, 1_051)]
WHEELCHAIR = Seat("Rollstuhl-Ö", "Balcony", "Ö", "1", Money(0, "KRW"), accessible=True)


def hall(seats: Sequence[Seat], before: Sequence[Section] = ()) -> tuple[Section, ...]:
    return merged(before, seats)


def layouts(venue: Venue) -> Layouts:
    return Layouts(venue.client, venue.tables.inventory)


async def parts(venue: Venue) -> list[str]:
    """The keys of all parts that are there of HALL."""
    return [pk for item in (await venue.rows()).inventory if "evt_hall##layout#" in (pk := item["pk"]["S"])]


def is_a(operation: str) -> Callable[[Request], bool]:
    return lambda request: request.operation == operation


def reads_parts(request: Request) -> bool:
    return request.operation == "BatchGetItem"


def writes_pointer(request: Request) -> bool:
    return request.operation == "PutItem" and request.params["Item"]["pk"]["S"].endswith("##layout")


def spots(layout: Layout) -> dict[str, Spot | None]:
    return {seat.id: seat.spot for seat in seats_of(layout.sections)}


async def agree(venue: Venue) -> None:
    """Every seat's item says the same of it as the layout does, and there is no other."""
    laid_out = {seat.id: seat for seat in seats_of((await layouts(venue).load(HALL.id, soon())).sections)}
    items = [item for item in (await venue.rows()).seats.values() if item["eventId"]["S"] == HALL.id]
    assert {seat.id: seat for seat in map(seat_from_item, items)} == laid_out


async def test_a_layout_of_several_parts_is_read_as_it_was_written(venue: Venue) -> None:
    sections = hall([*FLOOR, WHEELCHAIR, *PIT])
    written = await layouts(venue).replace(HALL.id, EMPTY, sections, soon())
    assert await layouts(venue).load(HALL.id, soon()) == written
    assert written.sections == sections
    assert await layouts(venue).version(HALL.id, soon()) == written.version
    assert len(await parts(venue)) == 3


async def test_an_event_without_layout_has_an_empty_one(venue: Venue) -> None:
    assert await layouts(venue).load(HALL.id, soon()) == EMPTY
    assert await layouts(venue).version(HALL.id, soon()) == ""


async def test_a_new_version_leaves_nothing_of_the_old_one(venue: Venue) -> None:
    first = await layouts(venue).replace(HALL.id, EMPTY, hall([*FLOOR, *PIT]), soon())
    second = await layouts(venue).replace(HALL.id, first, hall(FLOOR[:5]), soon())
    assert await parts(venue) == [layout_part_key(HALL.id, second.version, 0)["pk"]["S"]]
    assert await layouts(venue).load(HALL.id, soon()) == second


async def test_a_reader_whose_version_is_replaced_between_its_reads_sees_the_new_one_whole(venue: Venue) -> None:
    first = await layouts(venue).replace(HALL.id, EMPTY, hall(FLOOR), soon())
    async with venue.behind() as (proxy, client):
        between = Hold()
        proxy.script(reads_parts, between)
        reading = asyncio.create_task(Layouts(client, venue.tables.inventory).load(HALL.id, soon()))
        await between.reached.wait()
        second = await layouts(venue).replace(HALL.id, first, hall([*FLOOR, *PIT], first.sections), soon())
        between.event.set()
        assert await reading == second


async def test_a_reader_sees_the_old_version_whole_until_the_new_one_is(venue: Venue) -> None:
    first = await layouts(venue).replace(HALL.id, EMPTY, hall(FLOOR), soon())
    async with venue.behind() as (proxy, client):
        before_pointer = Hold()
        proxy.script(writes_pointer, before_pointer)
        writer = Layouts(client, venue.tables.inventory)
        writing = asyncio.create_task(writer.replace(HALL.id, first, hall(PIT, first.sections), soon()))
        await before_pointer.reached.wait()
        assert await layouts(venue).load(HALL.id, soon()) == first
        before_pointer.event.set()
        assert await layouts(venue).load(HALL.id, soon()) in (first, await writing)
        assert await layouts(venue).load(HALL.id, soon()) == await writing


async def test_a_reader_that_is_overtaken_again_and_again_gives_up(venue: Venue) -> None:
    now = await layouts(venue).replace(HALL.id, EMPTY, hall(FLOOR[:1]), soon())
    async with venue.behind() as (proxy, client):
        pauses = [Hold() for _ in range(3)]
        for pause in pauses:
            proxy.script(reads_parts, pause)
        reading = asyncio.create_task(Layouts(client, venue.tables.inventory).load(HALL.id, soon()))
        for seats, pause in enumerate(pauses, start=2):
            await pause.reached.wait()
            now = await layouts(venue).replace(HALL.id, now, hall(FLOOR[:seats], now.sections), soon())
            pause.event.set()
        with pytest.raises(ServiceUnavailable):
            await reading
        assert await Layouts(client, venue.tables.inventory).load(HALL.id, soon()) == now


async def test_a_pointer_whose_reply_was_lost_is_not_taken_for_anothers(venue: Venue) -> None:
    async with venue.behind() as (proxy, client):
        proxy.script(writes_pointer, LoseReply())
        mine = await Layouts(client, venue.tables.inventory).replace(HALL.id, EMPTY, hall(FLOOR[:5]), soon())
    assert await layouts(venue).load(HALL.id, soon()) == mine


async def test_of_two_imports_at_once_one_is_refused_and_run_again_it_joins_the_other(venue: Venue) -> None:
    """Both have read the same layout; spots of the one that was first stay what they are."""
    async with venue.behind() as (proxy, client):
        late = Hold()
        proxy.script(writes_pointer, late)
        slower = EventImport(client, venue.tables.inventory)
        losing = asyncio.create_task(slower.run(HALL, FLOOR[200:600], lambda _: None))
        await late.reached.wait()
        await venue.sell(FLOOR[:400], HALL)
        first = spots(await layouts(venue).load(HALL.id, soon()))
        late.event.set()
        with pytest.raises(ServiceUnavailable):
            await losing
        assert (await slower.run(HALL, FLOOR[200:600], lambda _: None)).added == 200
    both = await layouts(venue).load(HALL.id, soon())
    assert len(spots(both)) == 600
    assert spots(both).items() >= first.items()
    await agree(venue)


async def test_an_import_that_breaks_off_keeps_the_spots_that_it_gave(venue: Venue) -> None:
    """Its layout is written, and of its seats only a few; the file that comes next is another one."""
    async with venue.behind() as (proxy, client):
        seats = Hold()
        proxy.script(is_a("TransactWriteItems"), seats)
        importing = asyncio.create_task(
            EventImport(client, venue.tables.inventory).run(HALL, [*FLOOR[:50], *PIT[:150]], lambda _: None)
        )
        await seats.reached.wait()
        given = spots(await layouts(venue).load(HALL.id, soon()))
        importing.cancel()
        await asyncio.wait([importing])
        seats.event.set()
    assert len(given) == 200
    await venue.sell([WHEELCHAIR, *PIT[:200], *reversed(FLOOR[:50])], HALL)
    assert spots(await layouts(venue).load(HALL.id, soon())).items() >= given.items()
    await agree(venue)


async def test_a_file_that_says_the_same_again_writes_no_layout(venue: Venue) -> None:
    await venue.sell(FLOOR[:50], HALL)
    version = await layouts(venue).version(HALL.id, soon())
    await venue.sell(FLOOR[:50], HALL)
    assert await layouts(venue).version(HALL.id, soon()) == version
    await venue.sell([replace(FLOOR[0], price=Money(1, "KRW")), *FLOOR[1:50]], HALL)
    assert await layouts(venue).version(HALL.id, soon()) != version


async def test_an_import_gets_through_throttles(venue: Venue) -> None:
    await venue.sell(FLOOR[:50], HALL)
    async with venue.behind() as (proxy, client):
        for operation in ("PutItem", "PutItem", "TransactWriteItems", "DeleteItem", "GetItem", "BatchGetItem"):
            proxy.script(is_a(operation), Throttle())
        imported = await EventImport(client, venue.tables.inventory).run(HALL, FLOOR[:60], lambda _: None)
    assert (imported.added, imported.unchanged) == (10, 50)
    await agree(venue)


async def test_the_largest_hall_takes_more_than_one_read(venue: Venue) -> None:
    """A hundred parts and one."""
    rows = (
        tuple(Place(f"{row}-{seat}", str(seat), seat, 100) for seat in range(1_000 if row < 100 else 1))
        for row in range(101)
    )
    blocks = tuple(Block(row, "Field", str(row), places) for row, places in enumerate(rows))
    field = Section("Field", SectionKind.NUMBERED, "KRW", blocks)
    await layouts(venue).replace(HALL.id, EMPTY, [field], soon(60))
    assert (await layouts(venue).load(HALL.id, soon(60))).sections == (field,)
