"""A user's reservations through both doors: the same pages, by tokens that are good for one list only."""

import asyncio
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from reservation.api.pages import Pages
from reservation.domain import events
from reservation.domain.model import Reservation, Status
from reservation.gen.com.traffic_tacos.reservation import v1 as messages
from tests.support.edge import TRACEPARENT
from tests.support.rest import CREATE, body_of, error_of
from tests.support.system import Edge, System, call, refusal
from tests.unit.examples import in_state

pytestmark = pytest.mark.asyncio(loop_scope="module")

COUNT = 5
OTHERS = [{"userId": "bob"}, {"eventId": "evt_other"}, {"status": "HOLD"}]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def anns(system: System) -> list[Reservation]:
    """Ann's reservations, newest first; among them are two that are confirmed, and one of another event.

    All are in a final state: the service ends a hold of the past at any moment, between two reads too."""
    sold, over = in_state(Status.CONFIRMED), in_state(Status.EXPIRED)
    kinds = [sold, over, replace(over, event_id="evt_other"), sold, over]
    stored = [await system.store(replace(each, user_id="ann")) for each in kinds]
    await system.store(replace(over, user_id="bob"))
    return sorted(stored, key=lambda each: each.id, reverse=True)


async def test_rest_pages_hold_the_bodies_of_get_and_lead_from_one_to_the_next(
    edge: Edge, anns: list[Reservation]
) -> None:
    query: dict[str, Any] = {"userId": "ann", "pageSize": 2}
    told: list[list[Any]] = []
    while True:
        page = body_of(await edge.rest.get(CREATE, params=query), 200)
        assert list(page) == ["reservations", "nextPageToken"]
        told.append(page["reservations"])
        if not page["nextPageToken"]:
            break
        query["pageToken"] = page["nextPageToken"]
    assert [len(page) for page in told] == [2, 2, 1]
    gets = [await edge.rest.get(f"{CREATE}/{each.id}?userId=ann") for each in anns]
    assert [each for page in told for each in page] == [get.json() for get in gets]


async def test_filters_are_query_parameters_and_an_ended_hold_is_expired(edge: Edge, anns: list[Reservation]) -> None:
    for query, expected in (
        ({}, [True] * COUNT),
        ({"status": "CONFIRMED"}, [each.status is Status.CONFIRMED for each in anns]),
        ({"status": "HOLD"}, [False] * COUNT),
        ({"status": "EXPIRED", "eventId": "evt_other"}, [each.event_id == "evt_other" for each in anns]),
        ({"status": "RESERVATION_STATUS_UNSPECIFIED", "event_id": ""}, [True] * COUNT),
    ):
        page = body_of(await edge.rest.get(CREATE, params={"userId": "ann"} | query), 200)
        expected_ids = [each.id for each, wanted in zip(anns, expected, strict=True) if wanted]
        assert [each["reservationId"] for each in page["reservations"]] == expected_ids
        assert page["nextPageToken"] == ""


async def test_both_doors_give_the_same_pages_and_tokens(system: System, edge: Edge, anns: list[Reservation]) -> None:
    request = messages.ListReservationsRequest(user_id="ann", page_size=3)
    for channel in (system.channel, edge.channel):
        first = (await call(channel, request)).message
        over_rest = body_of(await edge.rest.get(CREATE, params={"userId": "ann", "pageSize": 3}), 200)
        assert first.next_page_token == over_rest["nextPageToken"]
        second = (await call(channel, replace(request, page_token=first.next_page_token))).message
        told = [each.reservation_id for page in (first, second) for each in page.reservations]
        assert told == [each.id for each in anns]


async def test_whoever_names_nobody_sees_what_is_anonymous(system: System, edge: Edge, anns: list[Reservation]) -> None:
    """A direct caller too: to act for everybody is no reason to be told everybody's reservations."""
    anonymous = await system.store(replace(in_state(Status.CANCELLED), user_id="anonymous"))
    assert body_of(await edge.rest.get(CREATE), 200)["reservations"] == [events.body(anonymous)]
    for channel in (system.channel, edge.channel):
        page = (await call(channel, messages.ListReservationsRequest())).message
        assert [each.reservation_id for each in page.reservations] == [anonymous.id]


async def test_twenty_are_looked_at_unless_another_number_is_asked_for(system: System, edge: Edge) -> None:
    await asyncio.gather(*(system.store(replace(in_state(Status.EXPIRED), user_id="carol")) for _ in range(21)))
    for size, told in (("", 20), ("&pageSize=0", 20), ("&pageSize=100", 21)):
        page = body_of(await edge.rest.get(f"{CREATE}?userId=carol{size}"), 200)
        assert len(page["reservations"]) == told
        assert bool(page["nextPageToken"]) is (told == 20)


@pytest.mark.parametrize("other", OTHERS, ids=str)
async def test_a_token_of_another_list_is_refused(edge: Edge, anns: list[Reservation], other: dict[str, str]) -> None:
    first = body_of(await edge.rest.get(CREATE, params={"userId": "ann", "pageSize": 2}), 200)
    query = {"userId": "ann", "pageToken": first["nextPageToken"]} | other
    error = error_of(await edge.rest.get(CREATE, params=query, headers=TRACEPARENT), 400, "INVALID_REQUEST", CREATE)
    assert [each["field"] for each in error["details"]] == ["page_token"]


@given(token=st.text(max_size=80), begin=st.text(st.characters(codec="utf-8"), min_size=1, max_size=60))
@settings(max_examples=60, deadline=None)
async def test_whatever_comes_as_a_token_is_refused_and_one_that_is_made_up_well_leads_into_the_own_list(
    system: System, edge: Edge, anns: list[Reservation], token: str, begin: str
) -> None:
    if token:
        refused = await refusal(call(system.channel, messages.ListReservationsRequest("ann", page_token=token)))
        assert (refused.reason, refused.violations) == ("INVALID_REQUEST", ("page_token",))
        answer = await edge.rest.get(f"{CREATE}?userId=ann&pageToken={quote(token, safe='')}", headers=TRACEPARENT)
        error_of(answer, 400, "INVALID_REQUEST", CREATE)
    made_up = messages.ListReservationsRequest("ann", page_token=Pages("reservations", "ann", "", "0").token(begin))
    page = (await call(system.channel, made_up)).message
    assert {each.reservation_id for each in page.reservations} <= {each.id for each in anns}
