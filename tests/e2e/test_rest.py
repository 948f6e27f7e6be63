"""The public contract through the real Envoy, service and store: REST bodies and statuses, events, gRPC doors."""

import asyncio
import uuid
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import grpc
import httpx
import pytest
from hypothesis import given, settings

from reservation import catalog, ministack
from reservation.catalog import Catalog
from reservation.domain import events
from reservation.domain.model import Event, Reservation, Status
from reservation.gen.com.traffic_tacos.reservation import v1 as messages
from tests.support.edge import TRACEPARENT
from tests.support.rest import CANCEL, CONFIRM, CREATE, EXTEND, body_of, error_of, hold, like, new_key, wanted
from tests.support.system import (
    EVENT_ID,
    PACKAGE,
    Edge,
    System,
    call,
    create_request,
    edge_of,
    frozen,
    own_settings,
    refusal,
    selling,
    serving,
)
from tests.unit.examples import HOLD, in_state, reservations

pytestmark = pytest.mark.asyncio(loop_scope="module")

LATE = 9_999_999_999_000
"""Milliseconds since the epoch, in the year 2286."""


# What succeeds


async def test_a_reservation_lives_its_life_in_bodies_as_rest_clients_know_them(system: System, edge: Edge) -> None:
    seat_ids = system.fresh_seats(2)
    order = wanted(seat_ids, reservationToken="rtkn_xyz789")
    created = await edge.rest.post(CREATE, json=order, headers=new_key())
    body = body_of(created, 201)
    held = {
        "reservationId": like(r"rsv_[0-9a-f]{32}", body["reservationId"]),
        "seatIds": seat_ids,
        "status": "HOLD",
        "holdExpiresAt": body["holdExpiresAt"],
        "totalAmount": {"amount": "240000", "currency": "KRW"},
    }
    assert body == held | {"message": "Reservation created successfully", "reservedSeats": _seats(seat_ids, "HELD")}
    seen = body_of(await edge.rest.get(f"{CREATE}/{body['reservationId']}"), 200)
    assert seen == held | {
        "eventId": EVENT_ID,
        "userId": "anonymous",
        "seats": _seats(seat_ids, "HELD"),
        "quantity": 2,
        "createdAt": seen["createdAt"],
        "updatedAt": seen["createdAt"],
        "paymentIntentId": "",
        "orderId": "",
    }
    assert _time(seen["holdExpiresAt"]) == _time(seen["createdAt"]) + timedelta(seconds=60)
    payment = {"reservationId": body["reservationId"], "paymentIntentId": "pay_1"}
    confirmed = body_of(await edge.rest.post(CONFIRM, json=payment), 200)
    assert confirmed == {
        "orderId": "ord_" + body["reservationId"].removeprefix("rsv_"),
        "reservationId": body["reservationId"],
        "status": "CONFIRMED",
        "confirmedAt": confirmed["confirmedAt"],
        "confirmedSeats": _seats(seat_ids, "SOLD"),
        "totalAmount": {"amount": "240000", "currency": "KRW"},
        "message": "Reservation confirmed successfully",
    }
    assert body_of(await edge.rest.get(f"{CREATE}/{body['reservationId']}"), 200) == seen | {
        "status": "CONFIRMED",
        "seats": _seats(seat_ids, "SOLD"),
        "updatedAt": confirmed["confirmedAt"],
        "paymentIntentId": "pay_1",
        "orderId": confirmed["orderId"],
    }


async def test_a_cancel_tells_what_it_released(system: System, edge: Edge) -> None:
    seat_ids = system.fresh_seats()
    held = await hold(edge.rest, seat_ids)
    cancelled = body_of(await edge.rest.post(CANCEL, json={"reservationId": held}), 200)
    assert cancelled == {
        "reservationId": held,
        "status": "CANCELLED",
        "cancelledAt": like(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3})?Z", cancelled["cancelledAt"]),
        "releasedSeats": _seats(seat_ids, "AVAILABLE"),
        "message": "Reservation cancelled successfully",
    }
    seen = body_of(await edge.rest.get(f"{CREATE}/{held}"), 200)
    assert (seen["status"], seen["seats"][0]["status"]) == ("CANCELLED", "STATUS_UNSPECIFIED")


async def test_an_extension_tells_the_new_end(system: System, edge: Edge) -> None:
    held = await hold(edge.rest, system.fresh_seats())
    before = body_of(await edge.rest.get(f"{CREATE}/{held}"), 200)
    wish = {"reservationId": held, "extensionSeconds": 90, "reason": "slow bank"}
    extended = body_of(await edge.rest.post(EXTEND, json=wish), 200)
    assert extended == {
        "newExpiresAt": extended["newExpiresAt"],
        "extendedSeconds": 90,
        "reservationId": held,
        "status": "HOLD",
    }
    assert _time(extended["newExpiresAt"]) == _time(before["holdExpiresAt"]) + timedelta(seconds=90)
    seen = body_of(await edge.rest.get(f"{CREATE}/{held}"), 200)
    assert seen == before | {"holdExpiresAt": extended["newExpiresAt"], "updatedAt": seen["updatedAt"]}


async def test_a_replay_is_the_same_201_marked(system: System, edge: Edge) -> None:
    request: dict[str, Any] = {"json": wanted(system.fresh_seats()), "headers": new_key()}
    first, second = await edge.rest.post(CREATE, **request), await edge.rest.post(CREATE, **request)
    assert (first.status_code, second.status_code) == (201, 201)
    assert "idempotent-replayed" not in first.headers
    assert second.headers["idempotent-replayed"] == "true"
    assert second.content == first.content


@pytest.mark.parametrize(
    ("path", "more"),
    [(CONFIRM, {"paymentIntentId": "pay_1"}), (CANCEL, {"reason": "no"}), (EXTEND, {"extensionSeconds": 30})],
)
async def test_any_other_replayed_command_is_the_same_200_marked(
    system: System, edge: Edge, path: str, more: dict[str, Any]
) -> None:
    request: dict[str, Any] = {"json": {"reservationId": await hold(edge.rest, system.fresh_seats()), **more}}
    request["headers"] = new_key()
    first, second = await edge.rest.post(path, **request), await edge.rest.post(path, **request)
    assert (first.status_code, second.status_code) == (200, 200)
    assert "idempotent-replayed" not in first.headers
    assert second.headers["idempotent-replayed"] == "true"
    assert second.content == first.content


async def test_a_key_is_one_key_through_every_door(system: System, edge: Edge) -> None:
    seat_ids, key = system.fresh_seats(), new_key()
    first = body_of(await edge.rest.post(CREATE, json=wanted(seat_ids), headers=key), 201)
    for channel in (edge.channel, system.channel):
        again = await call(channel, create_request(seat_ids, idempotency_key=key["idempotency-key"]))
        assert again.replayed
        assert again.message.reservation_id == first["reservationId"]


# What is refused


async def test_a_taken_seat_is_409_and_named(system: System, edge: Edge) -> None:
    taken, free = system.fresh_seats(2)
    await hold(edge.rest, [taken])
    answer = await edge.rest.post(CREATE, json=wanted([free, taken]), headers=new_key() | TRACEPARENT)
    assert error_of(answer, 409, "SEAT_UNAVAILABLE", CREATE)["details"] == [{"seatId": taken}]


async def test_a_hold_more_than_a_user_may_have_is_409(system: System, edge: Edge) -> None:
    await system.put_on_sale(Catalog(Event("evt_limited", max_holds_per_user=1), catalog.demo().seats[:2]))
    bodies = [{"eventId": "evt_limited", "quantity": 1, "seatIds": [seat_id]} for seat_id in ("A-1", "A-2")]
    body_of(await edge.rest.post(CREATE, json=bodies[0], headers=new_key()), 201)
    answer = await edge.rest.post(CREATE, json=bodies[1], headers=new_key() | TRACEPARENT)
    error_of(answer, 409, "HOLD_LIMIT_REACHED", CREATE)


async def test_a_key_with_other_content_is_409(system: System, edge: Edge) -> None:
    key = new_key()
    await edge.rest.post(CREATE, json=wanted(system.fresh_seats()), headers=key)
    answer = await edge.rest.post(CREATE, json=wanted(system.fresh_seats()), headers=key | TRACEPARENT)
    error_of(answer, 409, "IDEMPOTENCY_CONFLICT", CREATE)


async def test_an_extension_that_is_denied_is_409_and_tells_what_is_left(system: System, edge: Edge) -> None:
    wish = {"reservationId": await hold(edge.rest, system.fresh_seats()), "extensionSeconds": 3600}
    error = error_of(await edge.rest.post(EXTEND, json=wish, headers=TRACEPARENT), 409, "HOLD_EXTENSION_DENIED", EXTEND)
    assert error["details"] == [{"extensionsLeft": 3, "secondsLeft": 240}]


@pytest.mark.parametrize(
    ("status", "path", "code"),
    [
        (Status.HOLD, CONFIRM, "RESERVATION_EXPIRED"),
        (Status.HOLD, CANCEL, "RESERVATION_EXPIRED"),
        (Status.HOLD, EXTEND, "RESERVATION_EXPIRED"),
        (Status.CONFIRMED, CONFIRM, "RESERVATION_ALREADY_CONFIRMED"),
        (Status.CONFIRMED, CANCEL, "RESERVATION_ALREADY_CONFIRMED"),
        (Status.CONFIRMED, EXTEND, "RESERVATION_ALREADY_CONFIRMED"),
        (Status.CANCELLED, CONFIRM, "RESERVATION_ALREADY_CANCELLED"),
    ],
)
async def test_what_a_reservation_of_last_year_refuses_is_409(
    system: System, edge: Edge, status: Status, path: str, code: str
) -> None:
    stored = await system.store(replace(in_state(status), user_id="anonymous"))
    more: dict[str, Any] = {CONFIRM: {"paymentIntentId": "pay_other"}, EXTEND: {"extensionSeconds": 30}}
    body = {"reservationId": stored.id} | more.get(path, {})
    error_of(await edge.rest.post(path, json=body, headers=TRACEPARENT), 409, code, path)


async def test_a_plus_in_a_query_is_the_blank_that_forms_and_most_clients_mean(system: System, edge: Edge) -> None:
    stored = await system.store(replace(HOLD, user_id="ann lee"))
    assert body_of(await edge.rest.get(f"{CREATE}/{stored.id}?userId=ann+lee"), 200)["userId"] == "ann lee"


async def test_without_a_traceparent_an_error_tells_the_trace_id_that_the_edge_made(edge: Edge) -> None:
    answer = await edge.rest.get(f"{CREATE}/rsv_nobody")
    error_of(answer, 404, "RESERVATION_NOT_FOUND", f"{CREATE}/rsv_nobody", trace_id=r"[0-9a-f]{32}")


async def test_headers_that_the_edge_lets_through_the_service_takes_and_more_is_431(edge: Edge) -> None:
    """Many small ones weigh the most: gRPC counts 32 bytes beside each."""
    many = {f"x-{number}": "x" * 150 for number in range(80)}
    for headers in ({"x-large": "x" * 15_000}, many):
        answer = await edge.rest.get(f"{CREATE}/rsv_none", headers=TRACEPARENT | headers)
        error_of(answer, 404, "RESERVATION_NOT_FOUND", f"{CREATE}/rsv_none")
    assert (await edge.rest.get(f"{CREATE}/rsv_none", headers={"x-large": "x" * 17_000})).status_code == 431


async def test_a_read_from_a_frozen_store_is_503_with_a_time_to_retry() -> None:
    async with ministack.running() as store, selling(own_settings(store.url)) as system, edge_of(system) as edge:
        held = await hold(edge.rest, system.fresh_seats())
        with frozen(store.url):
            answer = await edge.rest.get(f"{CREATE}/{held}", headers=TRACEPARENT)
    error_of(answer, 503, "SERVICE_UNAVAILABLE", f"{CREATE}/{held}")
    assert answer.headers["retry-after"] == "1"


async def test_a_stop_of_the_service_under_load_is_never_an_internal_error(system: System) -> None:
    """gRPC cancels what arrives at the very moment of the stop, before a handler has seen it."""
    for _ in range(6):  # it takes an unlucky moment
        async with AsyncExitStack() as stack:
            stopping = await stack.enter_async_context(serving(system.settings))
            async with edge_of(stopping) as edge:
                callers = [asyncio.create_task(_gets_until_unavailable(edge.rest)) for _ in range(16)]
                await edge.rest.get(f"{CREATE}/rsv_nobody")
                await stack.aclose()
                assert set().union(*await asyncio.gather(*callers)) <= {"RESERVATION_NOT_FOUND", "SERVICE_UNAVAILABLE"}


# Events


async def test_the_event_of_each_change_carries_the_body_of_get_at_that_moment(system: System, edge: Edge) -> None:
    metadata = {
        "source": "웹",
        "userAgent": 'Mozilla/5.0 "q"',
        "ipAddress": "192.0.2.7",
        "tags": {"캠페인": "봄 🌮", "a": ""},
    }
    for path, more, kind in (
        (CONFIRM, {"paymentIntentId": "결제-1"}, "reservation.confirmed"),
        (CANCEL, {"reason": "마음이 바뀜"}, "reservation.cancelled"),
        (EXTEND, {"reason": "느린 은행", "extensionSeconds": 30}, "reservation.hold_extended"),
    ):
        body = wanted(system.fresh_seats(2), metadata=metadata, userId="손님")
        created = await edge.rest.post(CREATE, json=body, headers=new_key() | TRACEPARENT)
        reservation_id = body_of(created, 201)["reservationId"]
        get = f"{CREATE}/{reservation_id}?userId=손님"
        told = [body_of(await edge.rest.get(get), 200)]
        body = {"reservationId": reservation_id, "userId": "손님", **more}
        body_of(await edge.rest.post(path, json=body, headers=TRACEPARENT), 200)
        told.append(body_of(await edge.rest.get(get), 200))
        details = await system.events_of(reservation_id)
        assert [detail["reservation"] for detail in details] == told
        assert [detail["type"] for detail in details] == ["reservation.created", kind]
        assert {detail["traceparent"] for detail in details} == {TRACEPARENT["traceparent"]}


async def test_the_event_of_an_expiry_carries_the_body_of_get(system: System, edge: Edge) -> None:
    stored = await system.store(replace(HOLD, user_id="anonymous"))
    payment = {"reservationId": stored.id, "paymentIntentId": "pay_late"}
    error_of(await edge.rest.post(CONFIRM, json=payment, headers=TRACEPARENT), 409, "RESERVATION_EXPIRED", CONFIRM)
    seen = body_of(await edge.rest.get(f"{CREATE}/{stored.id}"), 200)
    (detail,) = await system.events_of(stored.id)
    assert (detail["type"], detail["reservation"], seen["status"]) == ("reservation.expired", seen, "EXPIRED")


@pytest.mark.parametrize("milliseconds", [0, 1, 10, 100, 999])
async def test_get_and_the_event_write_a_time_alike(system: System, edge: Edge, milliseconds: int) -> None:
    """Proto JSON has no fraction for whole seconds, and three digits for any number of milliseconds."""
    at = HOLD.created_at + milliseconds
    held = replace(HOLD, created_at=at, updated_at=at, hold_expires_at=LATE + milliseconds)
    await _check_event_of(system, edge, held)


@given(reservation=reservations())
@settings(max_examples=60, deadline=None)
async def test_get_and_the_event_tell_any_reservation_alike(
    system: System, edge: Edge, reservation: Reservation
) -> None:
    if reservation.status is Status.HOLD:
        reservation = replace(reservation, hold_expires_at=LATE + reservation.hold_expires_at % 1000)
    await _check_event_of(system, edge, reservation)


# The other doors


async def test_a_grpc_web_create_holds_seats_and_tells_a_refusal(system: System, edge: Edge) -> None:
    seat_ids = system.fresh_seats()
    message, trailers = await _grpc_web(edge, create_request(seat_ids, idempotency_key=str(uuid.uuid4())))
    created = messages.CreateReservationResponse.parse(message)
    assert (created.status, created.seat_ids) == (messages.ReservationStatus.HOLD, seat_ids)
    assert "grpc-status:0" in trailers
    message, trailers = await _grpc_web(edge, create_request(seat_ids, idempotency_key=str(uuid.uuid4())))
    assert message == b""
    assert "grpc-status:9" in trailers


async def test_a_native_create_through_the_edge_needs_a_key(system: System, edge: Edge) -> None:
    request = create_request(system.fresh_seats())
    refused = await refusal(call(edge.channel, request))
    assert (refused.status, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "MISSING_IDEMPOTENCY_KEY")
    answer = await call(edge.channel, request, metadata=(("idempotency-key", "native"),))
    assert answer.message.status is messages.ReservationStatus.HOLD


async def test_a_native_caller_through_the_edge_that_names_nobody_is_anonymous(system: System, edge: Edge) -> None:
    of_ann = await call(system.channel, create_request(system.fresh_seats(), user_id="ann"))
    read = messages.GetReservationRequest(reservation_id=of_ann.message.reservation_id)
    forged = (("x-edge", "0"), ("x-envoy-original-path", "/v1/reservations"))
    for metadata in ((), forged):
        refused = await refusal(call(edge.channel, read, metadata=metadata))
        assert (refused.status, refused.reason) == (grpc.StatusCode.NOT_FOUND, "RESERVATION_NOT_FOUND")
        assert "x-error-body" not in refused.trailing
    assert (await call(system.channel, read)).message.user_id == "ann"


async def test_a_native_answer_carries_nothing_that_is_meant_for_the_edge(system: System, edge: Edge) -> None:
    for channel in (system.channel, edge.channel):
        answer = await call(channel, create_request(system.fresh_seats(), idempotency_key=str(uuid.uuid4())))
        assert "x-http-status" not in answer.metadata


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def _seats(seat_ids: list[str], status: str) -> list[dict[str, Any]]:
    """Seats of the demo event's dearer rows."""
    price = {"amount": "120000", "currency": "KRW"}
    return [
        {"id": each, "section": "Floor", "row": each[0], "number": each[2:], "price": price, "status": status}
        for each in seat_ids
    ]


async def _gets_until_unavailable(rest: httpx.AsyncClient) -> set[str]:
    """All the error codes that were answered."""
    told: set[str] = set()
    while "SERVICE_UNAVAILABLE" not in told:
        told.add((await rest.get(f"{CREATE}/rsv_nobody")).json()["error"]["code"])
    return told


async def _check_event_of(system: System, edge: Edge, reservation: Reservation) -> None:
    stored = await system.store(reservation)
    seen = await edge.rest.get(f"{CREATE}/{stored.id}?userId={quote(stored.user_id, safe='')}")
    assert body_of(seen, 200) == events.body(stored)


async def _grpc_web(edge: Edge, request: messages.CreateReservationRequest) -> tuple[bytes, str]:
    """The message and the trailers of a gRPC-Web answer; each frame is a flag (0x80: trailers), a length, a payload."""
    message = bytes(request)
    headers = {"content-type": "application/grpc-web+proto", "x-grpc-web": "1"}
    answer = await edge.rest.post(
        f"/{PACKAGE}.ReservationService/CreateReservation",
        content=b"\0" + len(message).to_bytes(4, "big") + message,
        headers=headers,
    )
    assert answer.status_code == 200
    payloads = {0x00: b"", 0x80: b"".join(f"{name}:{value}\r\n".encode() for name, value in answer.headers.items())}
    content = answer.content
    while content:
        end = 5 + int.from_bytes(content[1:5], "big")
        payloads[content[0]] += content[5:end]
        content = content[end:]
    return payloads[0x00], payloads[0x80].decode()
