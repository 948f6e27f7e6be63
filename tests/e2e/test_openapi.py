"""What the OpenAPI document says is what the service answers through the real Envoy."""

import json
from typing import Any

import pytest

from tests.support.edge import TRACEPARENT
from tests.support.openapi import DOCUMENT, TEXT, check_documented, faults, operations, resolved
from tests.support.rest import CANCEL, CONFIRM, CREATE, EXTEND, new_key, wanted
from tests.support.system import EVENT_ID, Edge, System

pytestmark = pytest.mark.asyncio(loop_scope="module")

ONE = "/v1/reservations/{reservationId}"
WATCH = f"{ONE}/watch"
PLACES = ("path", "query", "header")
INVENTORY, SEATS = "/v1/events/{eventId}/inventory", "/v1/events/{eventId}/seats"


async def test_envoy_serves_the_document_as_it_is_committed(edge: Edge) -> None:
    answer = await edge.rest.get("/v3/api-docs")
    assert (answer.status_code, answer.content) == (200, TEXT)
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "max-age=60"
    check_documented(answer, "/v3/api-docs")


async def test_nothing_else_answers_under_its_path(edge: Edge) -> None:
    for verb, path in (("POST", "/v3/api-docs"), ("GET", "/v3/api-docs/"), ("GET", "/v3/api")):
        answer = await edge.rest.request(verb, path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "NOT_FOUND")


async def test_a_sale_from_hold_to_end_is_as_documented(system: System, edge: Edge) -> None:
    key, body = new_key(), wanted(system.fresh_seats(2), metadata={"source": "web", "tags": {"a": "b"}})
    sold = check_documented(await edge.rest.post(CREATE, json=body, headers=key | TRACEPARENT), CREATE)
    replay = await edge.rest.post(CREATE, json=body, headers=key)
    assert replay.headers["idempotent-replayed"] == "true"
    assert check_documented(replay, CREATE) == sold
    named = {"reservationId": sold["reservationId"]}
    check_documented(await edge.rest.post(EXTEND, json=named | {"extensionSeconds": 5}), EXTEND)
    await _read(edge, sold["reservationId"])
    paid = named | {"paymentIntentId": "pay_1"}
    check_documented(await edge.rest.post(CONFIRM, json=paid), CONFIRM)
    await _read(edge, sold["reservationId"])
    for path, late in ((CANCEL, named), (EXTEND, named | {"extensionSeconds": 5})):
        refused = await edge.rest.post(path, json=late)
        assert check_documented(refused, path)["error"]["code"] == "RESERVATION_ALREADY_CONFIRMED"
    other = await edge.rest.post(CREATE, json=wanted(sold["seatIds"]), headers=new_key())
    assert check_documented(other, CREATE)["error"]["code"] == "SEAT_UNAVAILABLE"


async def _read(edge: Edge, reservation_id: str) -> None:
    check_documented(await edge.rest.get(f"{CREATE}/{reservation_id}"), ONE)
    listed = check_documented(await edge.rest.get(CREATE, params={"eventId": EVENT_ID, "pageSize": 3}), CREATE)
    assert listed["reservations"]


async def test_a_hold_given_back_is_as_documented(system: System, edge: Edge) -> None:
    held = check_documented(await edge.rest.post(CREATE, json=wanted(system.fresh_seats()), headers=new_key()), CREATE)
    named = {"reservationId": held["reservationId"]}
    cancelled = check_documented(await edge.rest.post(CANCEL, json=named | {"reason": "test"}), CANCEL)
    assert cancelled["status"] == "CANCELLED"
    refused = await edge.rest.post(CONFIRM, json=named | {"paymentIntentId": "pay_1"})
    assert check_documented(refused, CONFIRM)["error"]["code"] == "RESERVATION_ALREADY_CANCELLED"
    await _read(edge, held["reservationId"])


async def test_a_watch_is_a_stream_of_events_as_documented(system: System, edge: Edge) -> None:
    held = (await edge.rest.post(CREATE, json=wanted(system.fresh_seats()), headers=new_key())).json()
    await edge.rest.post(CANCEL, json={"reservationId": held["reservationId"]})
    answer = await edge.rest.get(f"{CREATE}/{held['reservationId']}/watch")
    (kind,) = DOCUMENT["paths"][WATCH]["get"]["responses"]["200"]["content"]
    assert answer.headers["content-type"] == kind
    (told,) = [json.loads(line.removeprefix("data: ")) for line in answer.text.splitlines() if line]
    assert faults({"$ref": "#/components/schemas/GetReservationResponse"}, told) == []


async def test_what_is_left_and_the_seat_map_are_as_documented(edge: Edge) -> None:
    counts = check_documented(await edge.rest.get(INVENTORY.format(eventId=EVENT_ID)), INVENTORY)
    assert counts["sections"]
    page = await edge.rest.get(SEATS.format(eventId=EVENT_ID), params={"pageSize": 2})
    assert len(check_documented(page, SEATS)["seats"]) == 2


@pytest.mark.parametrize("path", [path for path in DOCUMENT["paths"] if "health" in path])
async def test_health_is_as_documented(edge: Edge, path: str) -> None:
    assert check_documented(await edge.rest.get(path), path) == {"status": "UP"}


REFUSED: list[tuple[str, str, dict[str, Any], int]] = [
    (CREATE, CREATE, {"json": {}}, 400),
    (CREATE, CREATE, {"json": {}, "headers": {"idempotency-key": "k"}}, 400),
    (CREATE, CREATE, {"json": wanted(["A-1"], eventId="evt_none"), "headers": {"idempotency-key": "none"}}, 404),
    (CREATE, CREATE, {"content": b"{"}, 400),
    (CREATE, CREATE, {"content": b" " * 70_000}, 413),
    (CONFIRM, CONFIRM, {"json": {"reservationId": "rsv_none", "paymentIntentId": "pay_1"}}, 404),
    (CANCEL, CANCEL, {"json": {"reservationId": "x" * 129, "reason": "\x00"}}, 400),
    (EXTEND, EXTEND, {"json": {"reservationId": "rsv_none", "extensionSeconds": 3601}}, 400),
    (CREATE, f"{CREATE}?pageSize=101&status=HOLD", {}, 400),
    (CREATE, f"{CREATE}?unknown=1", {}, 400),
    (CREATE, f"{CREATE}?status=NOPE", {}, 400),
    (CREATE, f"{CREATE}?pageToken=none", {}, 400),
    (CREATE, CREATE, {"headers": {"x-large": "x" * 40_000}}, 431),
    (ONE, f"{CREATE}/rsv_none", {}, 404),
    (ONE, f"{CREATE}/a%2Fb", {}, 400),
    (WATCH, f"{CREATE}/rsv_none/watch", {}, 404),
    (INVENTORY, INVENTORY.format(eventId="evt_none"), {}, 404),
    (SEATS, f"{SEATS.format(eventId=EVENT_ID)}?section=none", {}, 400),
    (SEATS, SEATS.format(eventId="%23"), {}, 400),
]


@pytest.mark.parametrize(("path", "url", "sent", "status"), REFUSED)
async def test_a_refusal_is_one_that_is_documented(
    edge: Edge, path: str, url: str, sent: dict[str, Any], status: int
) -> None:
    verb = "POST" if {"json", "content"} & sent.keys() else "GET"
    answer = await edge.rest.request(verb, url, **sent)
    assert answer.status_code == status
    check_documented(answer, path)


async def test_what_the_document_gives_as_an_example_gets_a_documented_answer(edge: Edge) -> None:
    for path, verb, operation in operations():
        parameters = [each for each in map(resolved, operation.get("parameters", [])) if "example" in each]
        sent = {
            where: {each["name"]: each["example"] for each in parameters if each["in"] == where} for where in PLACES
        }
        body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("example")
        answer = await edge.rest.request(
            verb, path.format(**sent["path"]), params=sent["query"], headers=sent["header"], json=body
        )
        check_documented(answer, path)
