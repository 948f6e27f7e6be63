"""What is free, over a real channel: counts, seat maps page by page, and whether something could be had now."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from reservation.api.pages import Pages
from reservation.catalog import Catalog
from reservation.domain.model import Event, Money, Seat
from reservation.dynamodb.events import SeatBlocks
from reservation.gen.com.traffic_tacos.reservation import v1 as messages
from tests.support.system import (
    EVENT_ID,
    Refusal,
    System,
    call,
    hold,
    own_settings,
    refusal,
    refusal_of,
    selling,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

Status = messages.GetInventoryStatusRequest
List = messages.ListSeatsRequest
Check = messages.CheckAvailabilityRequest
Kind = messages.GetInventoryStatusResponseSectionKind
HELD, SOLD, AVAILABLE = messages.SeatStatus.HELD, messages.SeatStatus.SOLD, messages.SeatStatus.AVAILABLE
BLOCKED = messages.SeatStatus.BLOCKED

BIG = Event("evt_big", "Big")
BIG_SEATS = (
    *(Seat(f"P-{n}", "Parkett Ö", "1", str(n), Money(9_000, "EUR")) for n in range(1, 5)),
    *(Seat(f"Pit-{n}", "Pit", "", "", Money(100, "EUR")) for n in range(1, 601)),
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(ministack_url: str) -> AsyncIterator[System]:
    async with selling(own_settings(ministack_url)) as system:
        await system.put_on_sale(Catalog(BIG, BIG_SEATS))
        yield system


def inventory(system: System) -> Any:
    return messages.InventoryServiceStub(system.channel)


async def becomes(look: Callable[[], Awaitable[Any]], wanted: Callable[[Any], bool]) -> Any:
    """What the look shows as soon as it is as wanted: what is told may be two seconds old."""
    while not wanted(seen := await look()):  # noqa: ASYNC110  # nobody would set an event for it
        await asyncio.sleep(0.05)
    return seen


def section(name: str, kind: Kind, total: int, **counts: int) -> messages.GetInventoryStatusResponseSection:
    others = {"held": 0, "sold": 0, "blocked": 0} | counts
    free = total - sum(others.values())
    return messages.GetInventoryStatusResponseSection(section=name, kind=kind, total=total, available=free, **others)


def is_fresh(as_of: datetime | None, asked_at: datetime) -> bool:
    """What was told to one who asked then is of that time, or up to two seconds older."""
    assert as_of is not None
    return asked_at - timedelta(seconds=3) <= as_of <= datetime.now(UTC)


# Counts


async def test_counts_follow_what_is_held_sold_and_blocked(system: System) -> None:
    asked_at = datetime.now(UTC)
    fresh = await inventory(system).get_inventory_status(Status(event_id=BIG.id))
    assert fresh == messages.GetInventoryStatusResponse(
        event_id=BIG.id,
        sections=[section("Parkett Ö", Kind.NUMBERED, 4), section("Pit", Kind.GENERAL_ADMISSION, 600)],
        as_of=fresh.as_of,
    )
    assert is_fresh(fresh.as_of, asked_at)
    await hold(system.channel, ["Pit-1", "Pit-2"], event_id=BIG.id)
    sold = await hold(system.channel, ["P-2"], event_id=BIG.id)
    await call(system.channel, messages.ConfirmReservationRequest(reservation_id=sold, payment_intent_id="pay_1"))
    blocks = SeatBlocks(system.dynamodb, system.settings.dynamodb_table_inventory, now=lambda: 0)
    assert await blocks.block(BIG.id, "P-3")
    seen = await becomes(
        lambda: inventory(system).get_inventory_status(Status(event_id=BIG.id)),
        lambda answer: [each.available for each in answer.sections] == [2, 598],
    )
    assert seen.sections == [
        section("Parkett Ö", Kind.NUMBERED, 4, sold=1, blocked=1),
        section("Pit", Kind.GENERAL_ADMISSION, 600, held=2),
    ]
    one = await inventory(system).get_inventory_status(Status(event_id=BIG.id, section="Parkett Ö"))
    assert one.sections == seen.sections[:1]
    map_ = await inventory(system).list_seats(List(event_id=BIG.id, section="Parkett Ö"))
    assert [seat.status for seat in map_.seats] == [AVAILABLE, SOLD, BLOCKED, AVAILABLE]


# The seat map


async def pages(system: System, request: List) -> list[messages.ListSeatsResponse]:
    found = [await inventory(system).list_seats(request)]
    while found[-1].next_page_token:
        found.append(await inventory(system).list_seats(replace(request, page_token=found[-1].next_page_token)))
    return found


@pytest.mark.parametrize(("size", "sizes"), [(0, [500, 104]), (500, [500, 104]), (302, [302, 302]), (151, 4 * [151])])
async def test_the_pages_of_a_seat_map_have_every_seat_once_in_the_order_of_the_hall(
    system: System, size: int, sizes: list[int]
) -> None:
    asked_at = datetime.now(UTC)
    found = await pages(system, List(event_id=BIG.id, page_size=size))
    assert [len(page.seats) for page in found] == sizes
    assert [seat.id for page in found for seat in page.seats] == [seat.id for seat in BIG_SEATS]
    assert all(is_fresh(page.as_of, asked_at) for page in found)


async def test_a_seat_of_the_map_is_told_with_all_its_facts(system: System) -> None:
    (first, *_), *_ = [page.seats for page in await pages(system, List(event_id=BIG.id, page_size=1, section="Pit"))]
    assert replace(first, status=AVAILABLE) == messages.Seat(
        id="Pit-1", section="Pit", price=messages.Money(amount=100, currency="EUR"), status=AVAILABLE
    )
    numbered = await inventory(system).list_seats(List(event_id=BIG.id, section="Parkett Ö", page_size=4))
    assert numbered.seats[3] == messages.Seat(
        id="P-4",
        section="Parkett Ö",
        row="1",
        number="4",
        price=messages.Money(amount=9_000, currency="EUR"),
        status=AVAILABLE,
    )
    assert numbered.next_page_token == ""


async def test_the_status_of_a_seat_follows_its_reservation(system: System) -> None:
    (seat_id,) = system.fresh_seats()

    async def status() -> Any:
        seats = (await inventory(system).list_seats(List(event_id=EVENT_ID))).seats
        return {seat.id: seat.status for seat in seats}[seat_id]

    assert await status() is AVAILABLE
    held = await hold(system.channel, [seat_id])
    assert await status() is HELD  # this process knows of its own
    await call(system.channel, messages.CancelReservationRequest(reservation_id=held))
    assert await status() is AVAILABLE


# Whether seats could be had


async def test_named_seats_are_looked_at_themselves(system: System) -> None:
    one, two, three = system.fresh_seats(3)
    answer = await inventory(system).check_availability(Check(event_id=EVENT_ID, seat_ids=[three, one]))
    assert (answer.available, answer.unavailable_seat_ids) == (True, [])
    assert [(seat.id, seat.status) for seat in answer.available_seats] == [(three, AVAILABLE), (one, AVAILABLE)]
    held = await hold(system.channel, [two])
    answer = await inventory(system).check_availability(Check(event_id=EVENT_ID, seat_ids=[three, two, one]))
    assert (answer.available, answer.unavailable_seat_ids) == (False, [two])
    assert [seat.id for seat in answer.available_seats] == [three, one]
    await call(system.channel, messages.CancelReservationRequest(reservation_id=held))
    assert (await inventory(system).check_availability(Check(event_id=EVENT_ID, seat_ids=[two]))).available
    await hold(system.channel, [one, two, three])  # nothing was reserved by looking


async def test_without_seats_it_tells_which_would_be_chosen(system: System) -> None:
    wish = Check(event_id=BIG.id, quantity=3, section="Pit")
    answer = await inventory(system).check_availability(wish)
    assert answer.available
    assert len({seat.id for seat in answer.available_seats}) == 3
    assert {(seat.section, seat.price.amount, seat.status) for seat in answer.available_seats} == {
        ("Pit", 100, AVAILABLE)
    }
    assert answer.remaining_in_section <= 600


async def test_what_does_not_fit_is_not_available(system: System) -> None:
    answer = await inventory(system).check_availability(Check(event_id=BIG.id, quantity=5, section="Parkett Ö"))
    assert (answer.available, answer.available_seats) == (False, [])
    assert answer.remaining_in_section <= 4


# Refusals


@pytest.mark.parametrize(
    ("method", "request_", "fields"),
    [
        ("get_inventory_status", Status(), {"event_id"}),
        ("get_inventory_status", Status(event_id="a#b", section="x" * 129), {"event_id", "section"}),
        ("get_inventory_status", Status(event_id=EVENT_ID, section="Nowhere"), {"section"}),
        ("list_seats", List(), {"event_id"}),
        ("list_seats", List(event_id=EVENT_ID, page_size=501), {"page_size"}),
        ("list_seats", List(event_id=EVENT_ID, page_size=-1, page_token="x"), {"page_size", "page_token"}),
        ("list_seats", List(event_id=EVENT_ID, section="Nowhere"), {"section"}),
        ("check_availability", Check(), {"event_id", "quantity"}),
        ("check_availability", Check(event_id=EVENT_ID, quantity=11), {"quantity"}),
        ("check_availability", Check(event_id=EVENT_ID, quantity=1, section="Nowhere"), {"section"}),
        ("check_availability", Check(event_id=EVENT_ID, seat_ids=["A-1", "A-1"]), {"seat_ids"}),
        ("check_availability", Check(event_id=EVENT_ID, seat_ids=["A-1"], quantity=2), {"quantity"}),
        (
            "check_availability",
            Check(event_id=EVENT_ID, seat_ids=["A-1", "Z-1", "Z-2"]),
            {"seat_ids[1]", "seat_ids[2]"},
        ),
    ],
)
async def test_a_bad_question_names_its_fields(system: System, method: str, request_: Any, fields: set[str]) -> None:
    refused = await refusal(getattr(inventory(system), method)(request_))
    assert (refused.status, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert set(refused.violations) == fields


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("get_inventory_status", Status(event_id="evt_nowhere")),
        ("list_seats", List(event_id="evt_nowhere")),
        ("check_availability", Check(event_id="evt_nowhere", seat_ids=["A-1"])),
        ("check_availability", Check(event_id="evt_nowhere", quantity=1)),
    ],
)
async def test_an_unknown_event_is_not_found(system: System, method: str, request_: Any) -> None:
    refused = await refusal(getattr(inventory(system), method)(request_))
    assert (refused.status, refused.reason) == (grpc.StatusCode.NOT_FOUND, "EVENT_NOT_FOUND")


# Page tokens


async def _page_refused(system: System, token: str, **changes: Any) -> Refusal:
    request = List(event_id=BIG.id, section="Pit", page_size=10, page_token=token)
    return await refusal(inventory(system).list_seats(replace(request, **changes)))


async def test_a_token_is_good_for_its_own_list_only(system: System) -> None:
    request = List(event_id=BIG.id, section="Pit", page_size=10)
    token = (await inventory(system).list_seats(request)).next_page_token
    assert (await inventory(system).list_seats(replace(request, page_token=token, page_size=2))).seats[0].id == "Pit-11"
    for changes in ({"section": ""}, {"section": "Parkett Ö"}, {"event_id": EVENT_ID, "section": "Floor"}):
        refused = await _page_refused(system, token, **changes)
        assert (refused.reason, refused.violations) == ("INVALID_REQUEST", ("page_token",))


_MADE_UP = st.text(max_size=80).map(Pages("seats", BIG.id, "Pit").token) | st.integers(-2, 10**40).map(
    lambda begin: Pages("seats", BIG.id, "Pit").token(str(begin))
)


@given(token=st.text(st.characters(codec="utf-8"), min_size=1, max_size=600) | _MADE_UP)
@settings(max_examples=100, deadline=None)
async def test_whatever_comes_as_a_token_is_a_page_or_a_refusal_that_names_it(system: System, token: str) -> None:
    """Also one that somebody made up with the list's own digest."""
    answer = await _page_or_error(system, token)
    if isinstance(answer, grpc.aio.AioRpcError):
        assert answer.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert refusal_of(answer).violations == ("page_token",)
    else:
        assert {seat.section for seat in answer.seats} <= {"Pit"}


async def _page_or_error(system: System, token: str) -> messages.ListSeatsResponse | grpc.aio.AioRpcError:
    try:
        return await inventory(system).list_seats(List(event_id=BIG.id, section="Pit", page_token=token))
    except grpc.aio.AioRpcError as error:
        return error


async def test_beyond_the_last_seat_there_is_an_empty_page(system: System) -> None:
    token = Pages("seats", BIG.id, "Pit").token("600")
    page = await inventory(system).list_seats(List(event_id=BIG.id, section="Pit", page_token=token))
    assert (page.seats, page.next_page_token) == ([], "")


async def test_looking_writes_nothing(system: System) -> None:
    await hold(system.channel, system.fresh_seats())
    before = await system.everything()
    await pages(system, List(event_id=BIG.id))
    await inventory(system).get_inventory_status(Status(event_id=BIG.id))
    await inventory(system).check_availability(Check(event_id=BIG.id, quantity=2))
    after = await system.everything()
    assert after["reservations"] == before["reservations"]
    assert after["orders"] == before["orders"]
