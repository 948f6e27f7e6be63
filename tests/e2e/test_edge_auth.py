"""Tokens through the real Envoy: what REST callers are told, and that the edge opens no other way in."""

import uuid
from collections.abc import AsyncIterator

import grpc
import pytest
import pytest_asyncio

from reservation.gen.com.traffic_tacos.reservation import v1 as messages
from tests.support.edge import TRACEPARENT
from tests.support.key_server import KeyServer, SigningKey, bearing, key_server
from tests.support.rest import CREATE, body_of, error_of, new_key, wanted
from tests.support.system import EVENT_ID, Edge, System, call, edge_of, own_settings, refusal, selling

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def issuer(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[KeyServer]:
    async with key_server(tmp_path_factory.mktemp("issuer"), SigningKey.new("key", "RS256")) as issuer:
        yield issuer


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(ministack_url: str, issuer: KeyServer) -> AsyncIterator[System]:
    """It trusts who reaches it directly."""
    async with selling(own_settings(ministack_url, grpc_auth="trusted", **issuer.settings())) as system:
        yield system


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def edge(system: System) -> AsyncIterator[Edge]:
    async with edge_of(system) as edge:
        yield edge


def user(issuer: KeyServer, name: str, *scopes: str) -> dict[str, str]:
    return dict(bearing(issuer.token(name, *scopes))) | TRACEPARENT


async def _held(system: System, edge: Edge, headers: dict[str, str]) -> str:
    answer = await edge.rest.post(CREATE, json=wanted(system.fresh_seats()), headers=headers | new_key())
    return str(body_of(answer, 201)["reservationId"])


async def test_a_token_tells_whose_the_reservation_is(system: System, edge: Edge, issuer: KeyServer) -> None:
    ann, bob = user(issuer, "ann"), user(issuer, "bob")
    held = f"{CREATE}/{await _held(system, edge, ann)}"
    assert body_of(await edge.rest.get(held, headers=ann), 200)["userId"] == "ann"
    error_of(await edge.rest.get(held, headers=bob), 404, "RESERVATION_NOT_FOUND", held)


@pytest.mark.parametrize(
    ("token", "challenge"),
    [
        ({}, "Bearer"),
        ({"authorization": "Basic YW5uOnNlY3JldA=="}, "Bearer"),
        ({"authorization": "Bearer x.y.z"}, 'Bearer error="invalid_token"'),
    ],
)
async def test_without_a_good_token_every_route_answers_401_and_what_it_wants(
    edge: Edge, token: dict[str, str], challenge: str
) -> None:
    headers = token | TRACEPARENT
    for path in (f"{CREATE}/rsv_1", CREATE, f"{CREATE}/rsv_1/watch", f"/v1/events/{EVENT_ID}/seats"):
        answer = await edge.rest.get(path, headers=headers)
        error_of(answer, 401, "UNAUTHENTICATED", path)
        assert answer.headers["www-authenticate"] == challenge
    for path in (CREATE, f"{CREATE}/confirm", f"{CREATE}/cancel", f"{CREATE}/extend"):
        error_of(await edge.rest.post(path, json={}, headers=headers | new_key()), 401, "UNAUTHENTICATED", path)


async def test_what_a_token_does_not_allow_is_403(edge: Edge, issuer: KeyServer) -> None:
    path = f"/v1/events/{EVENT_ID}/inventory"
    headers = user(issuer, "checkout", "reservations:act-as")
    error_of(await edge.rest.get(path, headers=headers), 403, "FORBIDDEN", path)
    path = f"{CREATE}/rsv_1"
    answer = await edge.rest.get(path, params={"userId": "bob"}, headers=user(issuer, "ann"))
    error_of(answer, 403, "FORBIDDEN", path)


async def test_the_message_is_authorised_and_never_the_url(system: System, edge: Edge, issuer: KeyServer) -> None:
    """Envoy fills the message from path and query; whichever wins, it is checked as the one that is read."""
    ann, bob = user(issuer, "ann"), user(issuer, "bob")
    hers, his = await _held(system, edge, ann), await _held(system, edge, bob)
    for asked, also in ((hers, his), (his, hers)):
        for name in ("reservationId", "reservation_id"):
            answer = await edge.rest.get(f"{CREATE}/{asked}", params={name: also}, headers=bob)
            if answer.status_code == 200:
                assert (answer.json()["userId"], answer.json()["reservationId"]) == ("bob", his)
            else:
                assert answer.status_code in (400, 404)


@pytest.mark.parametrize("forged", ["", "0", "1"])
async def test_a_forged_mark_of_the_edge_opens_nothing(edge: Edge, forged: str) -> None:
    """Native gRPC through the edge, to a service that trusts whoever comes past it."""
    listing = messages.ListReservationsRequest(user_id="ann")
    refused = await refusal(call(edge.channel, listing, metadata=(("x-edge", forged),)))
    assert (refused.status, refused.reason) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")


async def test_past_the_edge_the_mark_makes_it_stricter(system: System) -> None:
    await call(system.channel, messages.ListReservationsRequest(user_id="ann"))
    under_way = call(system.channel, messages.ListReservationsRequest(user_id="ann"), metadata=(("x-edge", "0"),))
    assert (await refusal(under_way)).reason == "UNAUTHENTICATED"


async def test_a_services_token_commands_the_inventory_through_the_edge_and_a_customers_does_not(
    system: System, edge: Edge, issuer: KeyServer
) -> None:
    def reserve() -> messages.ReserveSeatRequest:
        reservation_id = f"rsv_{uuid.uuid4().hex}"
        return messages.ReserveSeatRequest(
            reservation_id=reservation_id, event_id=EVENT_ID, seat_ids=system.fresh_seats(), quantity=1
        )

    await call(edge.channel, reserve(), metadata=bearing(issuer.token("shop", "inventory:write")))
    customer = call(edge.channel, reserve(), metadata=bearing(issuer.token("ann")))
    assert (await refusal(customer)).reason == "FORBIDDEN"
