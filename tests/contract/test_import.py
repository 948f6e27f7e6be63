"""An event is brought in whole, may be brought in again, and never touches what a customer has."""

import asyncio
from dataclasses import replace

import pytest

from reservation.domain.errors import EventNotFound, InvalidRequest
from reservation.domain.layout import seats_of
from reservation.domain.model import Event, Money, Seat, Spot
from reservation.dynamodb.events import EventImport, Imported, SeatBlocks, find_event
from reservation.dynamodb.items import Item, seat_from_item, seat_state_from_item
from reservation.dynamodb.layouts import Layouts
from tests.support.faults import Hold, LoseReply, Request, Throttle
from tests.support.invariants import violations
from tests.support.store import PRICE, SettableClock, Venue, soon

HALL = Event("evt_hall", "Hall", hold_seconds=30)
SEATS = [Seat(f"{row}-{number}", "Hall", row, str(number), PRICE) for row in "ABCDEFGHIJ" for number in range(1, 101)]
PIT = [Seat(f"Pit-{number}", "Pit", "", "", PRICE) for number in range(1, 251)]
DEARER, EUR = Money(150_000, "KRW"), Money(100, "EUR")


def transaction(request: Request) -> bool:
    return request.operation == "TransactWriteItems"


def the_event(request: Request) -> bool:
    return request.operation == "PutItem"


async def brought_in(venue: Venue) -> dict[str, Item]:
    """The seats of the hall that are there."""
    seats = (await venue.rows()).seats.values()
    return {item["id"]["S"]: item for item in seats if item["eventId"]["S"] == HALL.id}


async def run(venue: Venue, seats: list[Seat], url: str = "", event: Event = HALL) -> Imported:
    client = await venue.connect(url) if url else venue.client
    return await EventImport(client, venue.tables.inventory).run(event, seats, lambda _: None)


async def test_a_fresh_import_puts_every_seat_on_sale(venue: Venue) -> None:
    progress: list[int] = []
    imported = await EventImport(venue.client, venue.tables.inventory).run(HALL, SEATS[:250], progress.append)
    assert imported == Imported(added=250)
    assert sorted(progress) == [50, 100, 100]
    seats = await brought_in(venue)
    assert set(seats) == {seat.id for seat in SEATS[:250]}
    assert seats["A-12"] == {
        "pk": {"S": "evt_hall#A-12"},
        "eventId": {"S": "evt_hall"},
        "status": {"S": "AVAILABLE"},
        "id": {"S": "A-12"},
        "section": {"S": "Hall"},
        "row": {"S": "A"},
        "number": {"S": "12"},
        "spot": {"S": "0.11"},
        "amount": {"N": "120000"},
        "currency": {"S": "KRW"},
    }
    (event,) = [item for item in (await venue.rows()).inventory if item["pk"] == {"S": "evt_hall#"}]
    assert event == {
        "pk": {"S": "evt_hall#"},
        "eventId": {"S": "evt_hall"},
        "name": {"S": "Hall"},
        "holdSeconds": {"N": "30"},
        "preventOrphans": {"BOOL": True},
    }
    made = await venue.party().create("A-1", "C-50", event=HALL.id)
    assert made.reservation.seat_ids == ("A-1", "C-50")


async def test_the_same_file_again_changes_nothing(venue: Venue) -> None:
    await run(venue, SEATS[:250])
    before = await venue.rows()
    assert await run(venue, SEATS[:250]) == Imported(unchanged=250)
    assert await venue.rows() == before


async def test_a_longer_file_adds_what_is_new(venue: Venue) -> None:
    await run(venue, SEATS[:120:2])
    assert await run(venue, SEATS[:120]) == Imported(added=60, unchanged=60)
    assert set(await brought_in(venue)) == {seat.id for seat in SEATS[:120]}


async def test_nothing_can_be_reserved_before_everything_is_there(venue: Venue) -> None:
    """The event is written last: while its last seats, or itself, are on their way, it is not found."""
    async with venue.behind() as (proxy, _):
        last_seats, event = Hold(), Hold()
        proxy.script(transaction, last_seats)
        proxy.script(the_event, event)
        importing = asyncio.create_task(run(venue, SEATS[:250], proxy.url))
        for pause in (last_seats, event):
            await pause.reached.wait()
            with pytest.raises(EventNotFound):
                await venue.party().create("A-1", event=HALL.id)
            pause.event.set()
        assert await importing == Imported(added=250)
    assert (await venue.party().create("A-1", event=HALL.id)).reservation.event_id == HALL.id


async def test_an_import_that_was_cut_off_goes_on_where_it_was(venue: Venue) -> None:
    """Of its two transactions one arrives after the cut, and the other only after the next run has done its work."""
    async with venue.behind() as (proxy, _):
        first, second = Hold(), Hold()
        proxy.script(transaction, first)
        proxy.script(transaction, second)
        importing = asyncio.create_task(run(venue, SEATS[:200], proxy.url))
        await first.reached.wait()
        await second.reached.wait()
        importing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await importing
        first.event.set()
        while len(await brought_in(venue)) < 100:
            pass
        with pytest.raises(EventNotFound):
            await venue.party().create("A-1", event=HALL.id)
        assert await run(venue, SEATS[:200]) == Imported(added=100, unchanged=100)
        second.event.set()
        assert await run(venue, SEATS[:200], proxy.url) == Imported(unchanged=200)
    assert len(await brought_in(venue)) == 200
    assert (await venue.party().create("B-100", event=HALL.id)).reservation.seat_ids == ("B-100",)


async def test_a_new_price_reaches_free_seats_and_no_others(venue: Venue) -> None:
    await run(venue, SEATS[:4])
    party = venue.party()
    held = (await party.create("A-1", event=HALL.id)).reservation
    sold = (await party.create("A-2", event=HALL.id)).reservation
    await party.confirm(sold.id)
    before = await brought_in(venue)
    cheaper_and_dearer = [replace(seat, price=DEARER) for seat in SEATS[:3]] + SEATS[3:5]
    assert await run(venue, cheaper_and_dearer) == Imported(added=1, changed=1, unchanged=1, kept=2)
    after = await brought_in(venue)
    assert after["A-3"] == before["A-3"] | {"amount": {"N": "150000"}}
    assert {id_: after[id_] for id_ in ("A-1", "A-2", "A-4")} == {id_: before[id_] for id_ in ("A-1", "A-2", "A-4")}
    assert seat_state_from_item(after["A-1"]).holder == held.id
    assert (await party.confirm(held.id)).reservation.total == PRICE
    assert violations(await venue.rows()) == []


async def test_a_new_price_and_accessibility_reach_blocked_seats_too(venue: Venue) -> None:
    await run(venue, SEATS[:2])
    assert await SeatBlocks(venue.client, venue.tables.inventory, now=venue.clock.now).block(HALL.id, "A-1")
    file = [replace(seat, price=DEARER, accessible=True) for seat in SEATS[:2]]
    assert await run(venue, file) == Imported(changed=2)
    seats = await brought_in(venue)
    assert [seats[id_]["status"]["S"] for id_ in ("A-1", "A-2")] == ["BLOCKED", "AVAILABLE"]
    assert {(seat["amount"]["N"], seat["accessible"]["BOOL"]) for seat in seats.values()} == {("150000", True)}
    assert await run(venue, SEATS[:2]) == Imported(changed=2)
    assert all("accessible" not in seat for seat in (await brought_in(venue)).values())
    await agree(venue)


async def test_more_places_of_general_admission_join_those_that_are_there(venue: Venue) -> None:
    await run(venue, PIT[:130])
    sold = (await venue.party().create("Pit-130", event=HALL.id)).reservation
    assert await run(venue, PIT) == Imported(added=120, unchanged=130)
    assert len(await brought_in(venue)) == 250
    made = (await venue.party().create("Pit-131", "Pit-250", event=HALL.id)).reservation
    assert [seat.spot for seat in (*sold.seats, *made.seats)] == [Spot(1, 29), Spot(1, 30), Spot(2, 49)]
    await agree(venue)


async def test_a_seat_is_found_in_the_layout_where_its_item_says_it_is(venue: Venue) -> None:
    await run(venue, [*SEATS[:150], *PIT[:120]])
    await run(venue, [*PIT[60:180], *SEATS[300:320], *reversed(SEATS[:120]), replace(SEATS[120], accessible=True)])
    await agree(venue)


@pytest.mark.parametrize(
    "second", [[replace(PIT[0], id="x", row="A", number="1")], [replace(PIT[0], id="x", price=EUR)]]
)
async def test_what_does_not_go_with_the_seats_that_are_there_is_refused_before_anything_is_written(
    venue: Venue, second: list[Seat]
) -> None:
    await run(venue, PIT[:2])
    before = await venue.rows()
    with pytest.raises(InvalidRequest):
        await run(venue, second)
    assert await venue.rows() == before


async def test_an_import_that_does_not_speak_of_settings_leaves_them_as_they_are(venue: Venue) -> None:
    importing = EventImport(venue.client, venue.tables.inventory)
    everything = Event("evt_set", "Set", 90, 4, 2, False, 1_000, 2_000)
    await importing.run(everything, SEATS[:1], lambda _: None)
    found = []
    for name in ("", "New name"):
        await importing.run(Event("evt_set", name), SEATS[:2], lambda _: None, keep_settings=True)
        found.append(await find_event(venue.client, venue.tables.inventory, "evt_set"))
    assert found == [everything, replace(everything, name="New name")]
    await importing.run(Event("evt_set", "Bare"), SEATS[:1], lambda _: None)
    assert await find_event(venue.client, venue.tables.inventory, "evt_set") == Event("evt_set", "Bare")
    await importing.run(Event("evt_new", "New"), SEATS[:1], lambda _: None, keep_settings=True)
    assert await find_event(venue.client, venue.tables.inventory, "evt_new") == Event("evt_new", "New")


async def test_a_seat_that_is_laid_out_and_not_there_yet_is_unknown_and_not_a_fault(venue: Venue) -> None:
    """A second import has written its layout and none of its seats when the process loads the hall."""
    await run(venue, SEATS[:2])
    async with venue.behind() as (proxy, _):
        seats = Hold()
        proxy.script(transaction, seats)
        importing = asyncio.create_task(run(venue, SEATS[:4], proxy.url))
        await seats.reached.wait()
        party = venue.party()
        await party.halls.hall(HALL.id, soon())
        for ask in (party.inventory.look(HALL.id, ["A-1", "A-3"], soon()), party.create("A-1", "A-3", event=HALL.id)):
            with pytest.raises(InvalidRequest, match=r"seat_ids\[1\] is not a seat of this event"):
                await ask
        seats.event.set()
        await importing
    assert [seat.id for seat, _ in await party.inventory.look(HALL.id, ["A-1", "A-3"], soon())] == ["A-1", "A-3"]
    assert (await party.create("A-1", "A-3", event=HALL.id)).reservation.seat_ids == ("A-1", "A-3")


async def agree(venue: Venue) -> None:
    """Every seat's item says the same of it as the layout does, and there is no other."""
    layout = await Layouts(venue.client, venue.tables.inventory).load(HALL.id, soon())
    items = (await brought_in(venue)).values()
    assert {seat.id: seat for seat in map(seat_from_item, items)} == {
        seat.id: seat for seat in seats_of(layout.sections)
    }


async def test_a_past_hold_is_as_good_as_free(venue: Venue) -> None:
    """Nobody has settled it. By the real clock, which the import goes by, it ended years ago."""
    await run(venue, SEATS[:1])
    party = venue.party(clock=SettableClock(1_500_000_000_000))
    held = (await party.create("A-1", event=HALL.id)).reservation
    assert await run(venue, [replace(SEATS[0], price=DEARER)]) == Imported(changed=1)
    assert (await party.confirm(held.id)).reservation.total == PRICE


async def test_a_seat_that_stands_elsewhere_is_left_alone(venue: Venue) -> None:
    await run(venue, SEATS[:2])
    before = await brought_in(venue)
    moved = [replace(SEATS[0], row="Z", price=DEARER), replace(SEATS[1], section="Balcony")]
    assert await run(venue, moved) == Imported(kept=2)
    assert await brought_in(venue) == before


async def test_the_events_own_facts_follow_the_file(venue: Venue) -> None:
    await run(venue, SEATS[:1])
    await run(venue, SEATS[:1], event=replace(HALL, hold_seconds=45))
    made = (await venue.party().create("A-1", event=HALL.id)).reservation
    assert made.hold_expires_at - made.created_at == 45_000


async def test_a_thousand_seats_come_in_once_through_throttles_and_lost_replies(venue: Venue) -> None:
    async with venue.behind() as (proxy, _):
        for _ in range(5):
            proxy.script(transaction, Throttle())
            proxy.script(transaction, LoseReply())
        proxy.script(the_event, Throttle())
        proxy.script(the_event, LoseReply())
        assert await run(venue, SEATS, proxy.url) == Imported(added=1000)
        seats = await brought_in(venue)
        assert await run(venue, SEATS, proxy.url) == Imported(unchanged=1000)
    assert set(seats) == {seat.id for seat in SEATS}
    assert await brought_in(venue) == seats
    assert (await venue.party().create("J-100", event=HALL.id)).reservation.seat_ids == ("J-100",)
