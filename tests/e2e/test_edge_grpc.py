"""Native gRPC and gRPC-Web pass the edge as they are, marked as having come through it."""

import base64
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
import httpx
import pytest
import pytest_asyncio
from google.rpc import status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from reservation.gen.com.traffic_tacos.reservation import v1
from tests.support.edge import EdgeOverStub, edge_over_stub, stats
from tests.support.stub_service import PACKAGE, status_details

pytestmark = pytest.mark.asyncio(loop_scope="module")
CREATE = f"/{PACKAGE}.ReservationService/CreateReservation"
CONFIRM = f"/{PACKAGE}.ReservationService/ConfirmReservation"
WATCH = f"/{PACKAGE}.ReservationService/WatchReservation"
FORGED_EDGE = (("x-edge", "0"), ("x-edge", "2"), ("x-forwarded-client-cert", 'Subject="CN=somebody"'))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world() -> AsyncIterator[EdgeOverStub]:
    async with edge_over_stub() as world:
        yield world


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def channel(world: EdgeOverStub) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(world.target) as channel:
        yield channel


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def http(world: EdgeOverStub) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=world.edge.url) as client:
        yield client


async def test_a_native_call_succeeds_and_keeps_its_initial_metadata(channel: grpc.aio.Channel) -> None:
    call = _create(channel, user_id="replayed", seat_ids=["A-12"])
    response = await call
    metadata = dict(await call.initial_metadata())
    assert (response.reservation_id, response.seat_ids) == ("rsv_1", ["A-12"])
    assert metadata["idempotent-replayed"] == "true"
    assert "x-http-status" not in metadata


@pytest.mark.parametrize("forged", [(), (("x-envoy-original-path", "/v1/reservations"),)])
async def test_a_native_error_keeps_status_and_details_and_a_forged_path_buys_no_envelope(
    channel: grpc.aio.Channel, forged: tuple[tuple[str, str], ...]
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await _create(channel, user_id="refused", metadata=forged)
    trailing = dict(refused.value.trailing_metadata())
    assert (refused.value.code(), refused.value.details()) == (grpc.StatusCode.FAILED_PRECONDITION, "SEAT_UNAVAILABLE")
    expected = status_details(grpc.StatusCode.FAILED_PRECONDITION, "SEAT_UNAVAILABLE")
    assert status_pb2.Status.FromString(trailing["grpc-status-details-bin"]).SerializeToString() == expected
    assert not {"x-error-body", "x-http-status"} & trailing.keys()


async def test_an_unhandled_exception_and_an_unknown_method_answer_as_the_service_does(
    channel: grpc.aio.Channel,
) -> None:
    for method, user, status in (
        (CREATE, "raises", grpc.StatusCode.UNKNOWN),
        (f"/{PACKAGE}.ReservationService/Nothing", "", grpc.StatusCode.UNIMPLEMENTED),
        ("/other.Service/Nothing", "", grpc.StatusCode.UNIMPLEMENTED),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await channel.unary_unary(method)(bytes(v1.CreateReservationRequest(user_id=user)))
        assert refused.value.code() is status


@pytest.mark.parametrize("path", [f"{CREATE}?".encode() + b"\xff", b"/grpc.health.v1.Health/Check?\xc3\xa9"])
async def test_a_path_that_is_not_ascii_never_reaches_the_service(
    world: EdgeOverStub, channel: grpc.aio.Channel, path: bytes
) -> None:
    """grpc.aio, as the stub has it, ends when it cannot read one."""
    world.stub.received.clear()
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await channel.unary_unary(path)(b"")
    assert (refused.value.code(), refused.value.details()) == (grpc.StatusCode.INVALID_ARGUMENT, "Malformed request")
    assert world.stub.received == []


async def test_callers_that_never_send_their_message_take_no_place_from_others(
    world: EdgeOverStub, channel: grpc.aio.Channel
) -> None:
    """More of them than may be under way at a time."""
    silent = [channel.stream_stream(path)() for path in (CREATE, CONFIRM, WATCH) for _ in range(80)]
    try:
        while (await stats(world.edge, r"^http\.edge\.downstream_rq_active$")).popitem()[1] < len(silent):
            pass
        active = await stats(world.edge, r"^cluster\.grpc_(upstream|watch)\.upstream_rq_active$")
        assert set(active.values()) == {0}
        await _create(channel)
    finally:
        for call in silent:
            call.cancel()


async def test_a_message_that_is_too_long_for_the_edge_is_refused_as_the_service_would(
    channel: grpc.aio.Channel,
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await channel.unary_unary(CREATE)(b"x" * 200_000)
    assert (refused.value.code(), refused.value.details()) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "Message too large")


@pytest.mark.parametrize(("deadline", "at_most"), [(5, 5), (60, 10), (None, 60)])
async def test_the_deadline_of_a_native_caller_counts_up_to_ten_seconds_and_none_means_sixty(
    world: EdgeOverStub, channel: grpc.aio.Channel, deadline: float | None, at_most: float
) -> None:
    await _create(channel, timeout=deadline)
    seconds = world.stub.decoded[-1].seconds_left
    assert seconds is not None
    assert seconds <= at_most + 0.1, "gRPC rounds the time that is left up on its way"


async def test_a_native_watch_streams_beside_the_sale(world: EdgeOverStub, channel: grpc.aio.Channel) -> None:
    world.stub.may_go_on.clear()
    call = channel.unary_stream(WATCH)(bytes(v1.WatchReservationRequest(reservation_id="rsv_1")))
    messages = aiter(call)
    first = v1.GetReservationResponse.parse(await anext(messages))
    active = await stats(world.edge, r"^cluster\.grpc_(upstream|watch)\.upstream_rq_active$")
    assert active == {"cluster.grpc_upstream.upstream_rq_active": 0, "cluster.grpc_watch.upstream_rq_active": 1}
    world.stub.may_go_on.set()
    rest = [v1.GetReservationResponse.parse(raw) async for raw in messages]
    assert [first.status, *(each.status for each in rest)] == [v1.ReservationStatus.HOLD, v1.ReservationStatus.EXPIRED]


async def test_a_grpc_web_call_succeeds(http: httpx.AsyncClient) -> None:
    answer = await _grpc_web(http, "application/grpc-web+proto", _frame(user_id="replayed"))
    assert answer.headers["content-type"] == "application/grpc-web+proto"
    assert answer.headers["idempotent-replayed"] == "true"
    (_, message), (_, trailers) = _frames(answer.content)
    assert v1.CreateReservationResponse.parse(message).reservation_id == "rsv_1"
    assert b"grpc-status:0" in trailers


async def test_a_grpc_web_call_in_text_form_succeeds(http: httpx.AsyncClient) -> None:
    answer = await _grpc_web(http, "application/grpc-web-text", base64.b64encode(_frame(user_id="anybody")))
    raw = b"".join(base64.b64decode(part) for part in _base64_parts(answer.content))
    (flag, message), (trailer_flag, _) = _frames(raw)
    assert (flag, trailer_flag) == (0, 0x80)
    assert v1.CreateReservationResponse.parse(message).reservation_id == "rsv_1"


@pytest.mark.parametrize("user", ["refused", "refused-late"])
async def test_a_grpc_web_error_keeps_its_status_and_gets_no_envelope(http: httpx.AsyncClient, user: str) -> None:
    answer = await _grpc_web(http, "application/grpc-web+proto", _frame(user_id=user))
    assert answer.status_code == 200
    trailers = b"".join(content for flag, content in _frames(answer.content) if flag == 0x80)
    told = trailers.decode() + str(answer.headers)
    assert "x-error-body" not in told
    assert answer.headers.get("grpc-status") == "9" or b"grpc-status:9" in trailers


async def test_no_browser_origin_is_allowed_unless_configured(http: httpx.AsyncClient) -> None:
    origin = {"Origin": "https://anywhere.example", "Access-Control-Request-Method": "POST"}
    preflight = await http.options(CREATE, headers=origin)
    call = await _grpc_web(http, "application/grpc-web+proto", _frame(), headers=origin)
    for answer in (preflight, call):
        assert "access-control-allow-origin" not in answer.headers


async def test_native_health_and_reflection_are_served(channel: grpc.aio.Channel) -> None:
    health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="readiness"))
    assert health.status == health_pb2.HealthCheckResponse.SERVING
    assert f"{PACKAGE}.ReservationService" in await _reflected_services(channel)


async def test_every_door_marks_the_call_as_edge_whatever_the_client_claims(
    world: EdgeOverStub, channel: grpc.aio.Channel, http: httpx.AsyncClient
) -> None:
    world.stub.may_go_on.set()
    world.stub.received.clear()
    headers = httpx.Headers(FORGED_EDGE)
    await _create(channel, metadata=FORGED_EDGE)
    await _reads(channel.unary_stream(WATCH)(b"", metadata=FORGED_EDGE))
    await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), metadata=FORGED_EDGE)
    await health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), metadata=FORGED_EDGE).read()
    await _reflected_services(channel, metadata=FORGED_EDGE)
    await _grpc_web(http, "application/grpc-web+proto", _frame(), headers=headers)
    await http.post("/v1/reservations", json={}, headers=headers)
    await http.get("/v1/reservations/rsv_1/watch", headers=headers)
    await http.get("/v1/events/evt_1/seats", headers=headers)
    await http.get("/health", headers=headers)
    assert len(world.stub.received) == 10
    assert {tuple(call.values("x-edge")) for call in world.stub.received} == {("1",)}
    assert {tuple(call.values("x-forwarded-client-cert")) for call in world.stub.received} == {()}


def _create(
    channel: grpc.aio.Channel, *, metadata: Iterable[tuple[str, str]] = (), timeout: float | None = None, **fields: Any
) -> Any:
    method = channel.unary_unary(CREATE, bytes, v1.CreateReservationResponse.parse)
    return method(v1.CreateReservationRequest(**fields), metadata=tuple(metadata), timeout=timeout)


async def _reads(call: Any) -> list[bytes]:
    return [raw async for raw in call]


async def _reflected_services(channel: grpc.aio.Channel, metadata: tuple[tuple[str, str], ...] = ()) -> list[str]:
    requests = [reflection_pb2.ServerReflectionRequest(list_services="")]
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    answers = [answer async for answer in stub.ServerReflectionInfo(iter(requests), metadata=metadata)]
    return [service.name for answer in answers for service in answer.list_services_response.service]


async def _grpc_web(http: httpx.AsyncClient, content_type: str, body: bytes, headers: Any = None) -> httpx.Response:
    sent = httpx.Headers(headers)
    sent["content-type"] = sent["accept"] = content_type
    sent["x-grpc-web"] = "1"
    answer = await http.post(CREATE, content=body, headers=sent)
    assert answer.status_code == 200, answer.text
    return answer


def _frame(**fields: Any) -> bytes:
    """One gRPC-Web data frame: a flag byte, the length, a CreateReservationRequest."""
    message = bytes(v1.CreateReservationRequest(**fields))
    return b"\0" + len(message).to_bytes(4, "big") + message


def _frames(content: bytes) -> list[tuple[int, bytes]]:
    """(flag, payload) of each frame; flag 0x80 marks the trailers."""
    frames = []
    while content:
        length = int.from_bytes(content[1:5], "big")
        frames.append((content[0], content[5 : 5 + length]))
        content = content[5 + length :]
    return frames


def _base64_parts(content: bytes) -> list[bytes]:
    """Frames may be encoded one by one, so padding may stand in the middle; every quantum is 4 characters."""
    return [content[start : start + 4] for start in range(0, len(content), 4)]
