"""Every rpc against every kind of caller, over real gRPC, real tokens and a real store."""

import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import betterproto2
import grpc
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from reservation import app
from reservation.api.descriptors import pool
from reservation.app import StartError
from reservation.auth.tokens import LEEWAY_MS
from reservation.gen.com.traffic_tacos.reservation import v1 as messages
from tests.support.key_server import KeyServer, SigningKey, bearing, key_server
from tests.support.system import (
    EVENT_ID,
    PACKAGE,
    System,
    call,
    create_request,
    hold,
    make_tables,
    own_settings,
    refusal,
    selling,
    serving,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

EDGE = (("x-edge", "1"),)
ACT_AS, READ, WRITE = "reservations:act-as", "inventory:read", "inventory:write"


@dataclass(frozen=True, slots=True)
class World:
    """Three services over the same tables: `required` asks everybody for a token, `trusted` all but direct callers,
    `off` nobody. `held` is a reservation of ann's that nobody ends."""

    issuer: KeyServer
    required: System
    trusted: System
    off: System
    held: str

    async def ready_to_commit(self) -> messages.ReserveSeatRequest:
        reserve = self.reserve("")
        await call(self.off.channel, reserve)
        return reserve

    def reserve(self, user: str) -> messages.ReserveSeatRequest:
        return messages.ReserveSeatRequest(
            reservation_id=f"rsv_{uuid.uuid4().hex}",
            event_id=EVENT_ID,
            seat_ids=self.off.fresh_seats(),
            quantity=1,
            user_id=user,
        )

    async def another(self) -> str:
        """A new hold of ann's."""
        return await hold(self.off.channel, self.off.fresh_seats(), user_id="ann")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(ministack_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        directory = tmp_path_factory.mktemp("issuer")
        issuer = await stack.enter_async_context(key_server(directory, SigningKey.new("key", "EdDSA")))
        off = await stack.enter_async_context(selling(own_settings(ministack_url)))
        required = off.settings.model_copy(update=issuer.settings())
        trusted = required.model_copy(update={"grpc_auth": "trusted"})
        asking, trusting = [await stack.enter_async_context(serving(settings)) for settings in (required, trusted)]
        held = await hold(off.channel, off.fresh_seats(), user_id="ann")
        for user in ("bob", "checkout", "anonymous"):
            await hold(off.channel, off.fresh_seats(), user_id=user)
        yield World(issuer, asking, trusting, off, held)


# The table


@dataclass(frozen=True, slots=True)
class Kind:
    """A caller: of which of the services, with which token, naming which user, through the edge or not."""

    service: str
    subject: str = ""
    scopes: tuple[str, ...] = ()
    names: str = ""
    edge: bool = False
    expired: bool = False

    def metadata(self, issuer: KeyServer) -> tuple[tuple[str, str], ...]:
        ended = {"exp": time.time() - LEEWAY_MS / 1000 - 1} if self.expired else {}
        token = bearing(issuer.token(self.subject, *self.scopes, **ended)) if self.subject else ()
        return (*token, *(EDGE if self.edge else ()), ("idempotency-key", uuid.uuid4().hex))


CALLERS = {
    "nobody": Kind("required"),
    "nobody by the edge": Kind("required", edge=True),
    "nobody who names ann": Kind("required", names="ann"),
    "ann": Kind("required", "ann"),
    "ann by the edge": Kind("required", "ann", names="ann", edge=True),
    "ann who names bob": Kind("required", "ann", names="bob"),
    "ann of yesterday": Kind("required", "ann", expired=True),
    "bob": Kind("required", "bob"),
    "bob who names ann": Kind("required", "bob", names="ann"),
    "act-as": Kind("required", "checkout", (ACT_AS,)),
    "act-as for ann": Kind("required", "checkout", (ACT_AS,), names="ann"),
    "act-as for bob": Kind("required", "checkout", (ACT_AS,), names="bob", edge=True),
    "inventory:read": Kind("required", "checkout", (READ,)),
    "inventory:write": Kind("required", "checkout", (WRITE,), names="ann"),
    "trusted": Kind("trusted"),
    "trusted for ann": Kind("trusted", names="ann"),
    "trusted for bob": Kind("trusted", names="bob"),
    "trusted, by the edge": Kind("trusted", names="ann", edge=True),
    "trusted, but bob": Kind("trusted", "bob"),
    "trusted, yesterday": Kind("trusted", "ann", expired=True),
    "off": Kind("off"),
    "off for bob": Kind("off", names="bob"),
    "off by the edge": Kind("off", edge=True),
    "off by the edge, ann": Kind("off", names="ann", edge=True),
}

# yes: it is done. 401, 403, 404: as which HTTP status it is refused. A name: whose reservation is made, or whose are
# listed. All others are about a reservation of ann's.
TABLE = """
                      Create    Get Confirm Cancel Extend List      Watch Check Status Seats Reserve Commit Release
nobody                401       401 401     401    401    401       401   401   401    401   401     401    401
nobody by the edge    401       401 401     401    401    401       401   401   401    401   401     401    401
nobody who names ann  401       401 401     401    401    401       401   401   401    401   401     401    401
ann                   ann       yes yes     yes    yes    ann       yes   yes   yes    yes   403     403    403
ann by the edge       ann       yes yes     yes    yes    ann       yes   yes   yes    yes   403     403    403
ann who names bob     403       403 403     403    403    403       403   yes   yes    yes   403     403    403
ann of yesterday      401       401 401     401    401    401       401   401   401    401   401     401    401
bob                   bob       404 404     404    404    bob       404   yes   yes    yes   403     403    403
bob who names ann     403       403 403     403    403    403       403   yes   yes    yes   403     403    403
act-as                checkout  yes yes     yes    yes    checkout  yes   403   403    403   403     403    403
act-as for ann        ann       yes yes     yes    yes    ann       yes   403   403    403   403     403    403
act-as for bob        bob       404 404     404    404    bob       404   403   403    403   403     403    403
inventory:read        403       403 403     403    403    403       403   yes   yes    yes   403     403    403
inventory:write       403       403 403     403    403    403       403   yes   yes    yes   yes     yes    yes
trusted               anonymous yes yes     yes    yes    anonymous yes   yes   yes    yes   yes     yes    yes
trusted for ann       ann       yes yes     yes    yes    ann       yes   yes   yes    yes   yes     yes    yes
trusted for bob       bob       404 404     404    404    bob       404   yes   yes    yes   yes     yes    yes
trusted, by the edge  401       401 401     401    401    401       401   401   401    401   401     401    401
trusted, but bob      bob       404 404     404    404    bob       404   yes   yes    yes   403     403    403
trusted, yesterday    401       401 401     401    401    401       401   401   401    401   401     401    401
off                   anonymous yes yes     yes    yes    anonymous yes   yes   yes    yes   yes     yes    yes
off for bob           bob       404 404     404    404    bob       404   yes   yes    yes   yes     yes    yes
off by the edge       anonymous 404 404     404    404    anonymous 404   yes   yes    yes   403     403    403
off by the edge, ann  ann       yes yes     yes    yes    ann       yes   yes   yes    yes   403     403    403
"""

RPCS: dict[str, Callable[[World, str], Any]] = {
    "Create": lambda world, user: create_request(world.off.fresh_seats(), user_id=user),
    "Get": lambda world, user: messages.GetReservationRequest(reservation_id=world.held, user_id=user),
    "Confirm": lambda world, user: messages.ConfirmReservationRequest(payment_intent_id="pay_1", user_id=user),
    "Cancel": lambda world, user: messages.CancelReservationRequest(user_id=user),
    "Extend": lambda world, user: messages.ExtendHoldRequest(extension_seconds=1, user_id=user),
    "List": lambda world, user: messages.ListReservationsRequest(user_id=user),
    "Watch": lambda world, user: messages.WatchReservationRequest(reservation_id=world.held, user_id=user),
    "Check": lambda world, user: messages.CheckAvailabilityRequest(event_id=EVENT_ID, quantity=1),
    "Status": lambda world, user: messages.GetInventoryStatusRequest(event_id=EVENT_ID),
    "Seats": lambda world, user: messages.ListSeatsRequest(event_id=EVENT_ID, page_size=1),
    "Reserve": lambda world, user: world.reserve(user),
    "Commit": lambda world, user: messages.CommitReservationRequest(payment_intent_id="pay_1", user_id=user),
    "Release": lambda world, user: messages.ReleaseHoldRequest(),
}
CODES = {
    "401": (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED"),
    "403": (grpc.StatusCode.PERMISSION_DENIED, "FORBIDDEN"),
    "404": (grpc.StatusCode.NOT_FOUND, "RESERVATION_NOT_FOUND"),
}


def rows() -> dict[str, dict[str, str]]:
    """caller -> rpc -> what comes of it."""
    heads, *lines = TABLE.strip("\n").splitlines()
    width = max(map(len, CALLERS)) + 1
    rpcs = heads.split()
    return {line[:width].strip(): dict(zip(rpcs, line[width:].split(), strict=True)) for line in lines}


CELLS = [(caller, rpc, outcome) for caller, row in rows().items() for rpc, outcome in row.items()]


async def test_the_table_has_every_rpc_and_every_caller(world: World) -> None:
    services = [pool().FindServiceByName(f"{PACKAGE}.{name}") for name in ("ReservationService", "InventoryService")]
    asked = {type(request(world, "")).__name__ for request in RPCS.values()}
    assert asked == {method.input_type.name for service in services for method in service.methods}
    assert {(caller, rpc) for caller, rpc, _ in CELLS} == {(caller, rpc) for caller in CALLERS for rpc in RPCS}


@pytest.mark.parametrize(("caller", "rpc", "outcome"), CELLS, ids=[f"{caller}-{rpc}" for caller, rpc, _ in CELLS])
async def test_what_a_caller_may_do(world: World, caller: str, rpc: str, outcome: str) -> None:
    kind = CALLERS[caller]
    service: System = getattr(world, kind.service)
    request = RPCS[rpc](world, kind.names)
    if outcome == "yes":
        await _prepare(world, rpc, request)
    elif hasattr(request, "reservation_id") and not request.reservation_id:
        request.reservation_id, request.event_id = world.held, EVENT_ID
    under_way = _first(service, request, kind.metadata(world.issuer))
    if outcome in CODES:
        refused = await refusal(under_way)
        assert (refused.status, refused.reason) == CODES[outcome]
        return
    answer = await under_way
    if outcome != "yes":
        assert await _users(world, answer) == {outcome}


async def _prepare(world: World, rpc: str, request: Any) -> None:
    """What the command can be done to once."""
    if rpc in ("Confirm", "Cancel", "Extend"):
        request.reservation_id = await world.another()
    elif rpc in ("Commit", "Release"):
        reserved = await world.ready_to_commit()
        request.reservation_id, request.event_id = reserved.reservation_id, EVENT_ID


async def _first(service: System, request: betterproto2.Message, metadata: Any) -> Any:
    """The answer, of a stream the first one."""
    if not isinstance(request, messages.WatchReservationRequest):
        return (await call(service.channel, request, metadata=metadata)).message
    watch = _watch(service, request.reservation_id, metadata, request.user_id)
    first = await watch.read()
    watch.cancel()
    return first


def _watch(service: System, reservation_id: str, metadata: Any, user: str = "") -> Any:
    rpc = service.channel.unary_stream(
        f"/{PACKAGE}.ReservationService/WatchReservation",
        messages.WatchReservationRequest.SerializeToString,
        messages.GetReservationResponse.FromString,
    )
    return rpc(messages.WatchReservationRequest(reservation_id=reservation_id, user_id=user), metadata=metadata)


async def _users(world: World, answer: Any) -> set[str]:
    """Whose a new reservation is, or those of a list."""
    if isinstance(answer, messages.ListReservationsResponse):
        return {each.user_id for each in answer.reservations}
    get = messages.GetReservationRequest(reservation_id=answer.reservation_id)
    return {(await call(world.off.channel, get)).message.user_id}


# What no table says


@pytest.mark.parametrize("service", ["required", "trusted"])
async def test_two_tokens_are_no_token_even_if_both_are_good(world: World, service: str) -> None:
    both = bearing(world.issuer.token("ann")) + bearing(world.issuer.token("bob"))
    under_way = call(getattr(world, service).channel, messages.ListReservationsRequest(), metadata=both)
    assert (await refusal(under_way)).status is grpc.StatusCode.UNAUTHENTICATED


async def test_who_calls_is_asked_before_what_they_want(world: World) -> None:
    """Bytes that are no message tell a stranger nothing but that."""
    rpc = world.required.channel.unary_unary(f"/{PACKAGE}.ReservationService/GetReservation")
    assert (await refusal(rpc(b"\xff\xff"))).status is grpc.StatusCode.UNAUTHENTICATED


async def test_an_idempotency_key_belongs_to_the_user_of_the_token(world: World) -> None:
    key = ("idempotency-key", "the-same")
    made = [
        await call(
            world.required.channel,
            create_request(world.off.fresh_seats()),
            metadata=(*bearing(world.issuer.token(user)), key),
        )
        for user in ("ann", "bob")
    ]
    assert [each.replayed for each in made] == [False, False]


async def test_a_page_token_of_another_user_is_no_token(world: World) -> None:
    for _ in range(2):
        await world.another()
    ann, bob = (bearing(world.issuer.token(user)) for user in ("ann", "bob"))
    page = await call(world.required.channel, messages.ListReservationsRequest(page_size=1), metadata=ann)
    next_page = messages.ListReservationsRequest(page_size=1, page_token=page.message.next_page_token)
    assert (await call(world.required.channel, next_page, metadata=ann)).message.reservations
    assert (await refusal(call(world.required.channel, next_page, metadata=bob))).reason == "INVALID_REQUEST"


async def test_a_service_that_sells_from_this_inventory_shows_the_token_in_its_file(
    world: World, ministack_url: str, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text(world.issuer.token("shop", READ))
    seller = {"address": world.required.address, "token_file": file, "timeout": 1.0}
    settings = own_settings(
        ministack_url, **{f"grpc_client_inventory_service_{name}": value for name, value in seller.items()}
    )
    await make_tables(settings)
    async with serving(settings) as system:
        refused = await refusal(call(system.channel, create_request(world.off.fresh_seats())))
        assert refused.reason == "INVENTORY_SERVICE_ERROR"
        for token in (world.issuer.token("shop", WRITE) + "\n", "", None):
            if token is None:
                file.unlink()
            else:
                file.write_text(token)
            await hold(system.channel, world.off.fresh_seats())


async def test_health_and_reflection_are_for_everybody(world: World) -> None:
    channel = world.required.channel
    health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    assert health.status == health_pb2.HealthCheckResponse.SERVING
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    stream = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([request]))
    assert (await stream.read()).list_services_response.service


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"bind_host": "192.0.2.1"}, "ALLOW_UNAUTHENTICATED"),
        ({"bind_host": "192.0.2.1", "allow_unauthenticated": True}, "cannot listen"),
        (
            {"jwt_ca_file": Path("/nowhere"), "jwt_issuer_uri": "https://127.0.0.1:9", "jwt_audience": "a"},
            "JWT_CA_FILE",
        ),
        (
            {
                "grpc_client_inventory_service_address": "127.0.0.1:9",
                "grpc_client_inventory_service_token_file": Path("/nowhere"),
            },
            "GRPC_CLIENT_INVENTORY_SERVICE_TOKEN_FILE",
        ),
    ],
)
async def test_what_cannot_be_right_stops_the_start(ministack_url: str, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(StartError, match=told):
        async with app.running(own_settings(ministack_url, **changes)):
            pass


async def test_the_service_starts_without_its_issuer_and_believes_it_when_it_is_there(
    ministack_url: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    async with key_server(tmp_path_factory.mktemp("issuer"), SigningKey.new("key", "ES256")) as issuer:
        issuer.down = True
        settings = own_settings(ministack_url, **issuer.settings())
        token = bearing(issuer.token("ann"))
        await make_tables(settings)
        async with serving(settings) as system:
            listing = messages.ListReservationsRequest()
            assert (await refusal(call(system.channel, listing, metadata=token))).reason == "SERVICE_UNAVAILABLE"
            assert (await refusal(call(system.channel, listing))).reason == "UNAUTHENTICATED"
        issuer.down = False
        async with serving(settings) as system:
            await call(system.channel, listing, metadata=token)
