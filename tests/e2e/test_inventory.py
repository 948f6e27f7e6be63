"""What is free, as REST clients read it through the real Envoy."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest
import pytest_asyncio

from reservation.catalog import Catalog
from reservation.domain.model import Event, Money, Seat
from tests.support.edge import TRACEPARENT
from tests.support.rest import CREATE, body_of, error_of, hold, like, new_key
from tests.support.system import EVENT_ID, Edge, System, own_settings, selling

pytestmark = pytest.mark.asyncio(loop_scope="module")

BIG = Event("evt große Halle", "Big")
SEATS = (
    Seat("Ö-1", "Parkett Ö", "Ö", "1", Money(2**40, "JPY")),
    *(Seat(f"Pit-{number}", "Pit", "", "", Money(0, "JPY")) for number in range(1, 701)),
)
INVENTORY, SEAT_MAP = (f"/v1/events/{EVENT_ID}/{what}" for what in ("inventory", "seats"))
BIG_INVENTORY, BIG_SEAT_MAP = (f"/v1/events/{quote(BIG.id)}/{what}" for what in ("inventory", "seats"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(ministack_url: str) -> AsyncIterator[System]:
    async with selling(own_settings(ministack_url)) as system:
        await system.put_on_sale(Catalog(BIG, SEATS))
        yield system


def check_as_of(text: str) -> None:
    like(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3})?Z", text)
    age = datetime.now(UTC) - datetime.fromisoformat(text)
    assert timedelta(0) <= age <= timedelta(seconds=3)


async def test_counts_are_numbers_and_zeros_are_printed(edge: Edge) -> None:
    body = body_of(await edge.rest.get(BIG_INVENTORY), 200)
    check_as_of(body["asOf"])
    none = {"held": 0, "sold": 0, "blocked": 0}
    assert body == {
        "eventId": BIG.id,
        "sections": [
            {"section": "Parkett Ö", "kind": "NUMBERED", "total": 1, "available": 1, **none},
            {"section": "Pit", "kind": "GENERAL_ADMISSION", "total": 700, "available": 700, **none},
        ],
        "asOf": body["asOf"],
    }
    assert all(type(count) is int for each in body["sections"] for count in list(each.values())[2:])
    one = body_of(await edge.rest.get(BIG_INVENTORY, params={"section": "Parkett Ö"}), 200)
    assert one["sections"] == body["sections"][:1]


async def test_a_seat_map_comes_in_pages_of_at_most_500(edge: Edge) -> None:
    first = body_of(await edge.rest.get(BIG_SEAT_MAP), 200)
    rest = body_of(await edge.rest.get(BIG_SEAT_MAP, params={"pageToken": first["nextPageToken"]}), 200)
    assert [seat["id"] for page in (first, rest) for seat in page["seats"]] == [seat.id for seat in SEATS]
    assert (len(first["seats"]), rest["nextPageToken"]) == (500, "")
    for page in (first, rest):
        check_as_of(page["asOf"])
    assert first["seats"][:2] == [
        {
            "id": "Ö-1",
            "section": "Parkett Ö",
            "row": "Ö",
            "number": "1",
            "price": {"amount": str(2**40), "currency": "JPY"},
            "status": "AVAILABLE",
        },
        {
            "id": "Pit-1",
            "section": "Pit",
            "row": "",
            "number": "",
            "price": {"amount": "0", "currency": "JPY"},
            "status": "AVAILABLE",
        },
    ]


async def test_small_pages_of_one_section_have_every_seat_once(edge: Edge) -> None:
    found: list[str] = []
    question: dict[str, Any] = {"section": "Pit", "pageSize": 300}
    while True:
        page = body_of(await edge.rest.get(BIG_SEAT_MAP, params=question), 200)
        found += [seat["id"] for seat in page["seats"]]
        if not page["nextPageToken"]:
            break
        question["pageToken"] = page["nextPageToken"]
    assert found == [seat.id for seat in SEATS[1:]]


async def test_what_this_service_has_sold_shows_in_its_map_at_once(system: System, edge: Edge) -> None:
    (seat_id,) = system.fresh_seats()
    held = await hold(edge.rest, [seat_id])
    seen = [await _status(edge, seat_id)]
    await edge.rest.post(f"{CREATE}/confirm", json={"reservationId": held, "paymentIntentId": "pay_1"})
    seen.append(await _status(edge, seat_id))
    assert seen == ["HELD", "SOLD"]


async def _status(edge: Edge, seat_id: str) -> str:
    page = body_of(await edge.rest.get(SEAT_MAP), 200)
    return {seat["id"]: str(seat["status"]) for seat in page["seats"]}[seat_id]


async def test_a_general_admission_place_is_sold_as_any_seat(edge: Edge) -> None:
    order = {"eventId": BIG.id, "seatIds": ["Pit-700"]}
    made = body_of(await edge.rest.post(CREATE, json=order, headers=new_key()), 201)
    assert made["reservedSeats"][0] == {
        "id": "Pit-700",
        "section": "Pit",
        "row": "",
        "number": "",
        "price": {"amount": "0", "currency": "JPY"},
        "status": "HELD",
    }


@pytest.mark.parametrize(
    ("path", "question", "field"),
    [
        (INVENTORY, {"section": "Nowhere"}, "section"),
        (INVENTORY, {"section": "x" * 129}, "section"),
        (SEAT_MAP, {"section": "Nowhere"}, "section"),
        (SEAT_MAP, {"pageSize": "501"}, "page_size"),
        (SEAT_MAP, {"pageSize": "-1"}, "page_size"),
        (SEAT_MAP, {"pageToken": "nonsense"}, "page_token"),
        (SEAT_MAP, {"pageToken": "Ä"}, "page_token"),
        (SEAT_MAP, {"pageToken": "A" * 513}, "page_token"),
        ("/v1/events/a%23b/seats", {}, "event_id"),
        ("/v1/events/a%23b/inventory", {}, "event_id"),
    ],
)
async def test_a_bad_question_is_400_and_names_its_field(
    edge: Edge, path: str, question: dict[str, str], field: str
) -> None:
    answer = await edge.rest.get(path, params=question, headers=TRACEPARENT)
    error = error_of(answer, 400, "INVALID_REQUEST", path)
    assert [each["field"] for each in error["details"]] == [field]


@pytest.mark.parametrize("size", ["many", "1.5", "99999999999"])
async def test_a_page_size_that_is_no_number_is_400(edge: Edge, size: str) -> None:
    """It is Envoy that refuses it."""
    answer = await edge.rest.get(SEAT_MAP, params={"pageSize": size}, headers=TRACEPARENT)
    error_of(answer, 400, "INVALID_REQUEST", SEAT_MAP)


async def test_a_token_is_good_for_its_own_list_only(edge: Edge) -> None:
    token = body_of(await edge.rest.get(BIG_SEAT_MAP, params={"pageSize": 1}), 200)["nextPageToken"]
    assert body_of(await edge.rest.get(BIG_SEAT_MAP, params={"pageToken": token}), 200)["seats"][0]["id"] == "Pit-1"
    for path, question in ((SEAT_MAP, {}), (BIG_SEAT_MAP, {"section": "Pit"})):
        answer = await edge.rest.get(path, params=question | {"pageToken": token}, headers=TRACEPARENT)
        error = error_of(answer, 400, "INVALID_REQUEST", path)
        assert [each["field"] for each in error["details"]] == ["page_token"]
    for damaged in (token[:-1], token + "A", token[1:], token.swapcase()):
        answer = await edge.rest.get(BIG_SEAT_MAP, params={"pageToken": damaged}, headers=TRACEPARENT)
        error_of(answer, 400, "INVALID_REQUEST", BIG_SEAT_MAP)


@pytest.mark.parametrize("what", ["inventory", "seats"])
async def test_an_unknown_event_is_404(edge: Edge, what: str) -> None:
    answer = await edge.rest.get(f"/v1/events/evt_nowhere/{what}", headers=TRACEPARENT)
    error_of(answer, 404, "EVENT_NOT_FOUND", f"/v1/events/evt_nowhere/{what}")
