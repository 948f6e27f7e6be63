"""Creates that leave the seats to the service, through the real Envoy: what they get, and how they are refused."""

import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from reservation.catalog import Catalog
from reservation.domain.model import Event, Money, Seat
from tests.support.edge import TRACEPARENT
from tests.support.rest import CREATE, body_of, error_of, new_key
from tests.support.system import Edge, System, edge_of, own_settings, selling

pytestmark = pytest.mark.asyncio(loop_scope="module")

PRICE = Money(120_000, "KRW")
AN_HOUR = 3_600_000
NOW = time.time_ns() // 1_000_000


def row(name: str, count: int, *, accessible: int = 0) -> list[Seat]:
    numbers = range(1, count + 1)
    return [Seat(f"{name}-{n}", "Floor", name, str(n), PRICE, accessible=n == accessible) for n in numbers]


PIT = [Seat(f"Pit-{number}", "Pit", "", "", Money(50_000, "KRW")) for number in range(1, 6)]
ON_SALE = (
    Catalog(Event("evt_hall"), (*row("A", 9), *row("W", 3, accessible=2), *PIT)),
    Catalog(Event("evt_gap"), tuple(row("A", 5))),
    Catalog(Event("evt_pit"), tuple(PIT)),
    Catalog(Event("evt_two_each", max_seats=2), tuple(PIT)),
    Catalog(Event("evt_once", max_holds_per_user=1), tuple(PIT)),
    Catalog(Event("evt_early", sale_starts_at=NOW + AN_HOUR), tuple(PIT)),
    Catalog(Event("evt_over", sale_ends_at=NOW - AN_HOUR), tuple(PIT)),
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(ministack_url: str) -> AsyncIterator[System]:
    async with selling(own_settings(ministack_url)) as system:
        await system.put_on_sale(*ON_SALE)
        yield system


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def edge(system: System) -> AsyncIterator[Edge]:
    async with edge_of(system) as edge:
        yield edge


async def held(edge: Edge, event: str, quantity: int, **wish: Any) -> dict[str, Any]:
    """The body of a create that succeeds."""
    body = {"eventId": event, "quantity": quantity, **wish}
    return body_of(await edge.rest.post(CREATE, json=body, headers=new_key()), 201)


async def refused(edge: Edge, code: str, event: str, quantity: int, **wish: Any) -> list[dict[str, Any]]:
    """The details of a create that is refused with this code."""
    body = {"eventId": event, "quantity": quantity, **wish}
    answer = await edge.rest.post(CREATE, json=body, headers=new_key() | TRACEPARENT)
    error = error_of(answer, 400 if code == "INVALID_REQUEST" else 409, code, CREATE)
    details: list[dict[str, Any]] = error.get("details", [])
    return details


async def test_a_quantity_gets_the_best_seats_in_the_body_that_chosen_ones_have(edge: Edge) -> None:
    body = await held(edge, "evt_hall", 3)
    price = {"amount": "120000", "currency": "KRW"}
    assert body == {
        "reservationId": body["reservationId"],
        "seatIds": ["A-4", "A-5", "A-6"],
        "status": "HOLD",
        "holdExpiresAt": body["holdExpiresAt"],
        "totalAmount": {"amount": "360000", "currency": "KRW"},
        "message": "Reservation created successfully",
        "reservedSeats": [
            {"id": f"A-{n}", "section": "Floor", "row": "A", "number": str(n), "price": price, "status": "HELD"}
            for n in (4, 5, 6)
        ],
    }
    seen = body_of(await edge.rest.get(f"{CREATE}/{body['reservationId']}"), 200)
    assert (seen["quantity"], seen["seatIds"]) == (3, body["seatIds"])


async def test_places_of_a_general_admission_section_have_neither_row_nor_number(edge: Edge) -> None:
    body = await held(edge, "evt_hall", 2, section="Pit")
    assert [(seat["section"], seat["row"], seat["number"]) for seat in body["reservedSeats"]] == [("Pit", "", "")] * 2
    assert body["totalAmount"] == {"amount": "100000", "currency": "KRW"}
    assert len(set(body["seatIds"])) == 2


async def test_whoever_needs_an_accessible_seat_gets_one_and_nobody_else_does(edge: Edge) -> None:
    body = await held(edge, "evt_hall", 2, accessible=True)
    assert set(body["seatIds"]) in ({"W-1", "W-2"}, {"W-2", "W-3"})
    assert await refused(edge, "SEAT_UNAVAILABLE", "evt_hall", 1, accessible=True) == []


async def test_only_whoever_allows_it_gets_seats_that_are_apart(edge: Edge) -> None:
    await held(edge, "evt_gap", 1, seatIds=["A-3"])
    assert await refused(edge, "SEAT_UNAVAILABLE", "evt_gap", 4) == []
    body = await held(edge, "evt_gap", 4, allowSplit=True)
    assert sorted(body["seatIds"]) == ["A-1", "A-2", "A-4", "A-5"]


async def test_the_same_key_gets_the_same_choice_marked_as_a_replay(edge: Edge) -> None:
    request: dict[str, Any] = {"json": {"eventId": "evt_hall", "quantity": 1, "section": "Pit"}, "headers": new_key()}
    first, second = await edge.rest.post(CREATE, **request), await edge.rest.post(CREATE, **request)
    assert (first.status_code, second.headers["idempotent-replayed"]) == (201, "true")
    assert second.content == first.content


async def test_when_nothing_is_left_the_refusal_names_no_seats(edge: Edge) -> None:
    await held(edge, "evt_pit", 5)
    assert await refused(edge, "SEAT_UNAVAILABLE", "evt_pit", 1) == []


@pytest.mark.parametrize(
    ("field", "event", "quantity", "wish"),
    [
        ("section", "evt_hall", 1, {"section": "Balcony"}),
        ("quantity", "evt_two_each", 3, {}),
        ("quantity", "evt_hall", 11, {}),
    ],
)
async def test_what_cannot_be_wished_is_400_and_named(
    edge: Edge, field: str, event: str, quantity: int, wish: dict[str, Any]
) -> None:
    assert [each["field"] for each in await refused(edge, "INVALID_REQUEST", event, quantity, **wish)] == [field]


@pytest.mark.parametrize("event", ["evt_early", "evt_over"])
async def test_before_and_after_its_sale_an_event_sells_nothing(edge: Edge, event: str) -> None:
    assert await refused(edge, "SALE_NOT_OPEN", event, 1) == []


async def test_a_hold_more_than_a_user_may_have_is_409_whatever_seats_are_chosen(edge: Edge) -> None:
    await held(edge, "evt_once", 1)
    assert await refused(edge, "HOLD_LIMIT_REACHED", "evt_once", 1) == []
    await held(edge, "evt_once", 1, userId="bob")
