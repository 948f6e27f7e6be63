"""REST through the real Envoy: answers of the service become the public HTTP contract, on HTTP/1.1 and HTTP/2."""

import asyncio
import json
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from reservation import tracecontext
from tests.support.edge import (
    TRACE_ID,
    TRACEPARENT,
    EdgeOverStub,
    check_error,
    check_nothing_internal,
    edge_over,
    edge_over_stub,
    stats,
)
from tests.support.stub_service import LONG_MESSAGE, stub_service

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world() -> AsyncIterator[EdgeOverStub]:
    async with edge_over_stub() as world:
        yield world


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["HTTP/1.1", "HTTP/2"])
async def rest(world: EdgeOverStub, request: pytest.FixtureRequest) -> AsyncIterator[httpx.AsyncClient]:
    http2 = request.param == "HTTP/2"
    async with httpx.AsyncClient(
        base_url=world.edge.url, headers=TRACEPARENT, http1=not http2, http2=http2, timeout=10
    ) as client:
        yield client


async def test_a_created_reservation_is_201_with_every_field_printed_as_rest_clients_know_it(
    rest: httpx.AsyncClient,
) -> None:
    """Names in lowerCamelCase, enums by name, 64-bit integers as text, defaults printed, times in RFC 3339."""
    answer = await rest.post("/v1/reservations", json={"eventId": "evt_1", "seatIds": ["A-12"], "quantity": 1})
    assert answer.status_code == 201
    assert answer.headers["content-type"].startswith("application/json")
    check_nothing_internal(answer)
    assert answer.json() == {
        "reservationId": "rsv_1",
        "status": "HOLD",
        "holdExpiresAt": "2026-01-01T12:01:00Z",
        "reservedSeats": [
            {
                "id": "A-12",
                "section": "",
                "row": "",
                "number": "",
                "price": {"amount": "9007199254740993", "currency": "KRW"},
                "status": "HELD",
            }
        ],
        "message": "",
        "seatIds": ["A-12"],
    }


async def test_a_replay_says_so_in_a_header(rest: httpx.AsyncClient) -> None:
    first = await rest.post("/v1/reservations", json={"userId": "anybody"})
    replay = await rest.post("/v1/reservations", json={"userId": "replayed"})
    assert (first.status_code, replay.status_code) == (201, 201)
    assert "idempotent-replayed" not in first.headers
    assert replay.headers["idempotent-replayed"] == "true"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/reservations/rsv_1"),
        ("GET", "/v1/reservations?eventId=evt_1&status=HOLD&pageSize=5&pageToken=t"),
        ("POST", "/v1/reservations/confirm"),
        ("POST", "/v1/reservations/cancel"),
        ("POST", "/v1/reservations/extend"),
        ("GET", "/v1/events/evt_1/inventory?section=A"),
        ("GET", "/v1/events/evt_1/seats?section=A&pageSize=500"),
    ],
)
async def test_every_other_rest_route_answers_200(rest: httpx.AsyncClient, method: str, path: str) -> None:
    answer = await rest.request(method, path, json={} if method == "POST" else None)
    assert answer.status_code == 200, answer.text
    assert isinstance(answer.json(), dict)
    check_nothing_internal(answer)


async def test_a_refusal_is_the_envelope_of_the_service_under_its_status(rest: httpx.AsyncClient) -> None:
    answer = await rest.post("/v1/reservations?allowSplit=true", json={"userId": "refused"})
    error = check_error(answer, 409, "SEAT_UNAVAILABLE", "/v1/reservations", TRACE_ID)
    assert error["message"] == 'Seat conflict: "A-12" is taken'


async def test_a_refusal_after_initial_metadata_is_the_same_envelope(rest: httpx.AsyncClient) -> None:
    """Its metadata is then in trailers, which Envoy shows to a script only after the body."""
    answer = await rest.post("/v1/reservations", json={"userId": "refused-late"})
    error = check_error(answer, 410, "RESERVATION_EXPIRED", "/v1/reservations", TRACE_ID)
    assert error["message"] == "The hold has expired"


async def test_a_long_message_beyond_ascii_arrives_whole(rest: httpx.AsyncClient) -> None:
    answer = await rest.post("/v1/reservations", json={"userId": "refused-at-length"})
    assert len(LONG_MESSAGE.encode()) > 8192
    assert check_error(answer, 409, "SEAT_UNAVAILABLE", "/v1/reservations")["message"] == LONG_MESSAGE


@pytest.mark.parametrize(
    ("grpc_status", "http_status", "code", "message"),
    [
        ("INVALID_ARGUMENT", 400, "INVALID_REQUEST", "Invalid request"),
        ("DEADLINE_EXCEEDED", 504, "UPSTREAM_TIMEOUT", "Request timed out"),
        ("NOT_FOUND", 404, "NOT_FOUND", "Resource not found"),
        ("PERMISSION_DENIED", 403, "FORBIDDEN", "Access denied"),
        ("RESOURCE_EXHAUSTED", 429, "RATE_LIMIT_EXCEEDED", "Too many requests"),
        ("UNIMPLEMENTED", 501, "NOT_IMPLEMENTED", "Not implemented"),
        ("UNAVAILABLE", 503, "SERVICE_UNAVAILABLE", "Service temporarily unavailable"),
        ("UNAUTHENTICATED", 401, "UNAUTHENTICATED", "Authentication required"),
        ("INTERNAL", 500, "INTERNAL_ERROR", "Internal server error"),
        ("UNKNOWN", 500, "INTERNAL_ERROR", "Internal server error"),
        ("FAILED_PRECONDITION", 500, "INTERNAL_ERROR", "Internal server error"),
        ("CANCELLED", 503, "SERVICE_UNAVAILABLE", "Service temporarily unavailable"),  # by a service that stops
    ],
)
async def test_an_error_without_envelope_gets_a_neutral_one(
    rest: httpx.AsyncClient, grpc_status: str, http_status: int, code: str, message: str
) -> None:
    answer = await rest.get("/v1/reservations/rsv_1", params={"userId": f"plain:{grpc_status}"})
    error = check_error(answer, http_status, code, "/v1/reservations/rsv_1", TRACE_ID)
    assert error["message"] == message
    assert answer.headers.get("retry-after") == ("1" if http_status == 429 else None)


async def test_an_error_without_envelope_after_initial_metadata_gets_one_too(rest: httpx.AsyncClient) -> None:
    answer = await rest.post("/v1/reservations", json={"userId": "plain-late"})
    check_error(answer, 503, "SERVICE_UNAVAILABLE", "/v1/reservations", TRACE_ID)


async def test_the_text_of_an_unhandled_exception_stays_inside(rest: httpx.AsyncClient) -> None:
    answer = await rest.post("/v1/reservations", json={"userId": "raises"})
    check_error(answer, 500, "INTERNAL_ERROR", "/v1/reservations", TRACE_ID)
    assert "secret" not in answer.text


@pytest.mark.parametrize(
    "unusable",
    [
        None,
        TRACEPARENT["traceparent"].upper(),
        TRACEPARENT["traceparent"][:-1],
        f"00-{TRACE_ID}-{'0' * 16}-01",
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"ff-{TRACE_ID}-00f067aa0ba902b7-01",
        'x"-' + TRACEPARENT["traceparent"][3:],
    ],
)
async def test_without_a_traceparent_that_can_be_used_the_edge_makes_one(
    world: EdgeOverStub, unusable: str | None
) -> None:
    """The service sees it, and the answer tells it."""
    headers = {"traceparent": unusable} if unusable is not None else {}
    async with httpx.AsyncClient(base_url=world.edge.url, headers=headers) as client:
        answer = await client.get("/v1/reservations/rsv_1", params={"userId": "plain:INTERNAL"})
    made = _last(world, "traceparent")
    assert tracecontext.is_well_formed(made)
    assert not tracecontext.is_sampled(made)
    assert made != unusable
    check_error(answer, 500, "INTERNAL_ERROR", "/v1/reservations/rsv_1", tracecontext.trace_id(made))


async def test_a_part_of_the_traces_that_the_edge_makes_is_recorded() -> None:
    async with stub_service() as stub, edge_over(stub.port, sampling=1.0) as edge:
        async with httpx.AsyncClient(base_url=edge.url) as client:
            await client.get("/v1/reservations/rsv_1")
        (made,) = stub.received[-1].values("traceparent")
    assert tracecontext.is_sampled(str(made))


async def test_a_traceparent_goes_on_as_it_came(world: EdgeOverStub, rest: httpx.AsyncClient) -> None:
    await rest.get("/v1/reservations/rsv_1")
    assert _last(world, "traceparent") == TRACEPARENT["traceparent"]


@pytest.mark.parametrize("path", ["/v1/reservations/rsv_1?userId=plain:INTERNAL", "/v1/nothing"])
async def test_a_hostile_traceparent_cannot_break_out_of_the_envelope(rest: httpx.AsyncClient, path: str) -> None:
    """Of the service's answer it is Lua that writes the text, of an unknown route Envoy."""
    traceparent = '00-"}},{"evil":"\\u0000' + "0" * 33
    assert len(traceparent) == 55
    error = (await rest.get(path, headers={"traceparent": traceparent})).json()
    assert list(error) == ["error"]
    assert set(error["error"]) == {"code", "message", "timestamp", "path", "traceId"}


async def test_the_token_and_the_idempotency_key_reach_the_service_untouched(
    world: EdgeOverStub, rest: httpx.AsyncClient
) -> None:
    headers = {"Authorization": "Bearer a.b-c_D", "Idempotency-Key": "Mixed-Case_42"}
    await rest.post("/v1/reservations", json={}, headers=headers)
    assert _last(world, "authorization") == "Bearer a.b-c_D"
    assert _last(world, "idempotency-key") == "Mixed-Case_42"


async def test_a_rest_call_names_its_path_and_brings_a_deadline_of_its_own(
    world: EdgeOverStub, rest: httpx.AsyncClient
) -> None:
    """A forged path is replaced by the real one; a forged deadline cannot outlast the edge's."""
    forged = {"x-envoy-original-path": "/forged", "x-envoy-original-method": "DELETE", "grpc-timeout": "10H"}
    await rest.get("/v1/reservations/rsv_1?userId=u", headers=forged)
    call = world.stub.calls("GetReservation")[-1]
    assert call.values("x-envoy-original-path") == ["/v1/reservations/rsv_1?userId=u"]
    assert call.values("x-envoy-original-method") == ["GET"]
    seconds = world.stub.decoded[-1].seconds_left
    assert seconds is not None
    assert seconds <= 2.9


async def test_a_percent_encoded_path_reaches_the_service_decoded(world: EdgeOverStub, rest: httpx.AsyncClient) -> None:
    answer = await rest.get("/v1/reservations/rsv%20%EC%A2%8C%3A1")
    assert answer.json()["reservationId"] == "rsv 좌:1"
    assert world.stub.decoded[-1].request.reservation_id == "rsv 좌:1"


async def test_a_query_parameter_beats_the_path_so_the_url_authorises_nothing(rest: httpx.AsyncClient) -> None:
    """How Envoy's transcoder binds: whoever authorises must look at the message."""
    answer = await rest.get("/v1/reservations/x?reservation_id=y")
    assert answer.json()["reservationId"] == "y"


async def test_body_fields_may_be_spelled_either_way_and_enums_and_numbers_leniently(
    world: EdgeOverStub, rest: httpx.AsyncClient
) -> None:
    body = {"event_id": "evt_1", "seatIds": ["A-1"], "quantity": "2", "unheardOf": {"is": "dropped"}}
    assert (await rest.post("/v1/reservations", json=body)).status_code == 201
    request = world.stub.decoded[-1].request
    assert (request.event_id, request.seat_ids, request.quantity) == ("evt_1", ["A-1"], 2)


async def test_only_what_the_service_marks_as_safe_is_tried_again(world: EdgeOverStub, rest: httpx.AsyncClient) -> None:
    key = f"key-{rest.base_url.port}-{len(world.stub.received)}"
    before = len(world.stub.received)
    marked = await rest.post("/v1/reservations", json={"userId": "unavailable-once"}, headers={"Idempotency-Key": key})
    assert (marked.status_code, len(world.stub.received) - before) == (201, 2)
    unmarked = await rest.post("/v1/reservations", json={"userId": "unavailable"})
    check_error(unmarked, 503, "SERVICE_UNAVAILABLE", "/v1/reservations", TRACE_ID)
    assert len(world.stub.received) - before == 3


@pytest.mark.parametrize(
    "headers",
    [
        {"x-envoy-retry-on": "5xx,gateway-error,reset", "x-envoy-max-retries": "5"},
        {"x-envoy-retry-grpc-on": "unavailable", "x-envoy-max-retries": "5"},
        {"x-envoy-retriable-status-codes": "503", "x-envoy-retry-on": "retriable-status-codes"},
    ],
)
async def test_a_client_cannot_make_the_edge_repeat_a_command(
    world: EdgeOverStub, rest: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    before = len(world.stub.received)
    await rest.post("/v1/reservations", json={"userId": "unavailable"}, headers=headers)
    assert len(world.stub.received) - before == 1


async def test_a_service_that_does_not_answer_in_time_is_504(rest: httpx.AsyncClient) -> None:
    answer = await rest.post("/v1/reservations", json={"userId": "slow"})
    check_error(answer, 504, "UPSTREAM_TIMEOUT", "/v1/reservations", TRACE_ID)


async def test_a_watch_streams_events_outlives_the_route_timeout_and_takes_nothing_from_the_sale(
    world: EdgeOverStub, rest: httpx.AsyncClient
) -> None:
    world.stub.may_go_on.clear()
    async with rest.stream("GET", "/v1/reservations/rsv_1/watch") as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        check_nothing_internal(answer)
        events = _events(answer)
        assert (await anext(events))["status"] == "HOLD"
        active = await stats(world.edge, r"^cluster\.grpc_(upstream|watch)\.upstream_rq_active$")
        assert active == {"cluster.grpc_upstream.upstream_rq_active": 0, "cluster.grpc_watch.upstream_rq_active": 1}
        await asyncio.sleep(3.2)  # past the 3 s that end any other REST call
        world.stub.may_go_on.set()
        last = await anext(events)
        assert (last["status"], last["reservationId"], last["seatIds"]) == ("EXPIRED", "rsv_1", [])
        assert [event async for event in events] == []
    assert world.stub.decoded[-1].seconds_left is None


async def test_a_slash_at_the_end_puts_no_watch_among_the_sale(world: EdgeOverStub, rest: httpx.AsyncClient) -> None:
    world.stub.may_go_on.clear()
    async with rest.stream("GET", "/v1/reservations/rsv_1/watch/") as answer:
        assert (await anext(_events(answer)))["status"] == "HOLD"
        active = await stats(world.edge, r"^cluster\.grpc_(upstream|watch)\.upstream_rq_active$")
        assert active == {"cluster.grpc_upstream.upstream_rq_active": 0, "cluster.grpc_watch.upstream_rq_active": 1}
        world.stub.may_go_on.set()


@pytest.mark.parametrize(
    ("user", "status", "code"),
    [("refused", 409, "SEAT_UNAVAILABLE"), ("plain:NOT_FOUND", 404, "NOT_FOUND"), ("raises", 500, "INTERNAL_ERROR")],
)
async def test_a_watch_refused_at_its_start_is_an_ordinary_error(
    rest: httpx.AsyncClient, user: str, status: int, code: str
) -> None:
    answer = await rest.get("/v1/reservations/rsv_1/watch", params={"userId": user})
    check_error(answer, status, code, "/v1/reservations/rsv_1/watch", TRACE_ID)


def _last(world: EdgeOverStub, header: str) -> str:
    (value,) = world.stub.received[-1].values(header)
    assert isinstance(value, str)
    return value


async def _events(answer: httpx.Response) -> AsyncIterator[dict[str, object]]:
    async for line in answer.aiter_lines():
        if line:
            assert line.startswith("data: ")
            yield json.loads(line.removeprefix("data: "))


@pytest.mark.parametrize(
    "headers",
    [{"a!b": "1"}, {"$": "1"}, {"x-bin": "no base64"}, {"grpc-encoding": "x"}, {"grpc-timeout": "x"}],
    ids=str,
)
@pytest.mark.parametrize("path", ["/v1/reservations/rsv_1", "/v1/reservations/rsv_1/watch", "/health"])
async def test_a_header_that_grpc_knows_no_name_for_or_another_use_is_not_passed_on(
    rest: httpx.AsyncClient, path: str, headers: dict[str, str]
) -> None:
    async with rest.stream("GET", path, headers=headers) as answer:
        assert answer.status_code == 200


@pytest.mark.parametrize("content_type", ["application/grpc", "application/grpc-web+proto"])
@pytest.mark.parametrize("path", ["/v1/reservations/rsv_1", "/health", "/v1/reservations/rsv_1/watch"])
async def test_what_calls_itself_grpc_and_is_no_post_is_unimplemented(
    rest: httpx.AsyncClient, path: str, content_type: str
) -> None:
    """Clients of gRPC-Web read 404 so: https://grpc.github.io/grpc/core/md_doc_http-grpc-status-mapping.html."""
    answer = await rest.get(path, headers={"content-type": content_type})
    assert (answer.status_code, answer.headers.get("grpc-status")) in ((200, "12"), (404, None))
