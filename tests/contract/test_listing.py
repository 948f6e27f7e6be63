"""A user's reservations, page by page: newest first, each once, and no one else's."""

import asyncio
from dataclasses import replace

import orjson

from reservation.domain.commands import Listing
from reservation.domain.model import Reservation, Status
from reservation.dynamodb.items import reservation_to_item
from tests.support.faults import Answer
from tests.support.store import NOW, SKEW_MS, Party, SettableClock, Venue, soon
from tests.unit.examples import HOLD, in_state

MINE = Listing("user_1")


def reservation(number: int, base: Reservation = HOLD, **changes: object) -> Reservation:
    """Its id sorts by its number."""
    live: dict[str, object] = {"id": f"rsv_{number:04d}", "hold_expires_at": NOW + 60_000}
    return replace(base, **live | changes)  # type: ignore[arg-type]


async def stored(venue: Venue, *reservations: Reservation) -> list[str]:
    """Their ids."""
    await asyncio.gather(*(venue.put(venue.tables.reservations, reservation_to_item(each)) for each in reservations))
    return [each.id for each in reservations]


async def ids_of(party: Party, wanted: Listing) -> list[list[str]]:
    """Page by page."""
    pages = []
    while True:
        page = await party.service.page(wanted, soon())
        pages.append([each.id for each in page.reservations])
        if not page.next:
            return pages
        wanted = replace(wanted, begin=page.next)


async def test_newest_come_first_as_they_are_stored_and_the_last_page_says_that_it_is_the_last(venue: Venue) -> None:
    for count, pages in ((0, [0]), (1, [1]), (4, [4]), (5, [4, 1]), (8, [4, 4])):
        user = f"user_with_{count}"
        ids = await stored(venue, *(reservation(count * 10 + number, user_id=user) for number in range(count)))
        told = await ids_of(venue.party(), Listing(user, size=4))
        assert [each for page in told for each in page] == ids[::-1]
        assert [len(page) for page in told] == pages
    party = venue.party()
    held = [(await party.create(seat)).reservation for seat in ("A-1", "A-2")]
    paid = (await party.confirm(held[1].id)).reservation
    page = await party.service.page(MINE, soon())
    assert sorted(page.reservations, key=lambda each: each.seat_ids) == [held[0], paid]


async def test_the_order_is_that_of_the_ids_in_whatever_order_dynamodb_answers_a_batch(venue: Venue) -> None:
    both = [reservation(1), reservation(2)]
    ids = await stored(venue, *both)
    batch = {
        "Responses": {venue.tables.reservations: [reservation_to_item(each) for each in both]},
        "UnprocessedKeys": {},
    }
    async with venue.behind() as (proxy, client):
        proxy.script(lambda asked: asked.operation == "BatchGetItem", Answer(200, orjson.dumps(batch)))
        assert await ids_of(venue.party(client), MINE) == [ids[::-1]]


async def test_all_of_a_hundred_are_told_once_while_others_are_created(venue: Venue) -> None:
    before = await stored(venue, *(reservation(number) for number in range(0, 200, 2)))
    party, wanted, told = venue.party(), replace(MINE, size=7), list[str]()
    for newer in range(201, 231, 2):
        page = await party.service.page(wanted, soon())
        told += [each.id for each in page.reservations]
        wanted = replace(wanted, begin=page.next)
        await stored(venue, reservation(newer), reservation(newer - 200 + 1))
        if not page.next:
            break
    assert [each for each in told if each in before] == before[::-1]
    assert len(told) == len(set(told))


async def test_others_reservations_and_other_kinds_of_items_are_not_told(venue: Venue) -> None:
    (mine,) = await stored(venue, reservation(5))
    others = [reservation(4, user_id="user_10"), reservation(6, user_id="user_")]
    kinds = [reservation(0, id=each) for each in ("hold_9", "rsv", "rsv0", "zzz_1")]
    await stored(venue, *others, *kinds)
    assert await ids_of(venue.party(), replace(MINE, size=1)) == [[mine]]


async def test_a_filter_shortens_pages_and_hides_nothing(venue: Venue) -> None:
    base = [HOLD, in_state(Status.CONFIRMED), replace(HOLD, event_id="evt_other"), in_state(Status.CANCELLED)]
    ids = await stored(venue, *(reservation(number, base[number % 4]) for number in range(12)))
    party, small = venue.party(), replace(MINE, size=3)

    async def told(wanted: Listing) -> list[str]:
        return [each for page in await ids_of(party, wanted) for each in page]

    assert await told(replace(small, status=Status.CONFIRMED)) == ids[1::4][::-1]
    assert await told(replace(small, event_id="evt_other")) == ids[2::4][::-1]
    assert await told(replace(small, event_id="evt_other", status=Status.HOLD)) == ids[2::4][::-1]
    assert await told(replace(small, event_id="evt_other", status=Status.EXPIRED)) == []
    assert await told(replace(small, event_id="evt_nowhere")) == []
    assert [len(page) for page in await ids_of(party, replace(small, status=Status.CANCELLED))] == [1, 1, 1, 0]


async def test_a_hold_past_its_time_is_listed_as_what_get_says_it_is(venue: Venue) -> None:
    (ended,) = await stored(venue, reservation(1, hold_expires_at=NOW))
    for late, status in ((SKEW_MS, Status.HOLD), (SKEW_MS + 1, Status.EXPIRED)):
        party = venue.party(clock=SettableClock(NOW + late))
        assert (await party.get(ended)).status is status
        for asked in (Status.HOLD, Status.EXPIRED):
            assert await ids_of(party, replace(MINE, status=asked)) == [[ended] if asked is status else []]
    lost = venue.party(clock=SettableClock(NOW + 3_600_000, trusted=False))
    assert await ids_of(lost, replace(MINE, status=Status.HOLD)) == [[ended]], "its clock ends nobody's hold"


async def test_any_text_is_somewhere_to_begin_and_a_reservation_that_is_gone_too(venue: Venue) -> None:
    ids = await stored(venue, *(reservation(number) for number in range(4)))
    party = venue.party()
    first = await party.service.page(replace(MINE, size=2), soon())
    gone = {"reservationId": {"S": ids[1]}, "eventId": {"S": HOLD.event_id}}
    await venue.client.call("DeleteItem", {"TableName": venue.tables.reservations, "Key": gone})
    rest = await party.service.page(replace(MINE, size=2, begin=first.next), soon())
    assert [each.id for each in rest.reservations] == [ids[0]]
    for begin, left in (
        ("\0", []),
        ("~", [3, 2, 0]),
        ("\U0010ffff" * 90, [3, 2, 0]),
        ("0002" * 60, [2, 0]),
        ("rsv_", [3, 2, 0]),
    ):
        assert await ids_of(party, replace(MINE, begin=begin)) == [[ids[number] for number in left]]
