"""What a caller is told of a failure: as a gRPC status with its details, and as the body that REST clients read."""

import importlib
import json
import pkgutil
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode
from hypothesis import given
from hypothesis import strategies as st

import reservation.api
import reservation.domain
import reservation.inventory
from reservation.api.call import Call
from reservation.api.descriptors import Undecodable
from reservation.api.errors import ERROR_DOMAIN, refusal_of
from reservation.domain import errors
from reservation.domain.errors import FieldViolation, ReservationError
from reservation.inventory.breaker import CircuitOpen, Rejected
from tests.unit.examples import patient

ID = "secret-id-4711"
SEATS = ("A-12", "B-1")
VIOLATIONS = (FieldViolation("event_id", "is required"), FieldViolation("seat_ids[1]", "is not a seat of this event"))


class Row(NamedTuple):
    error: ReservationError
    code: str
    status: StatusCode
    http: int
    retry_after: int | None = None
    gateway_word: str = ""
    """An upstream gateway maps failures by which of GATEWAY_WORDS their text contains, case-sensitively."""


GATEWAY_WORDS = ("not found", "conflict", "bad request", "timeout")

TABLE = [
    Row(ReservationError(), "INTERNAL_ERROR", StatusCode.INTERNAL, 500),
    Row(
        errors.InvalidRequest(VIOLATIONS),
        "INVALID_REQUEST",
        StatusCode.INVALID_ARGUMENT,
        400,
        gateway_word="bad request",
    ),
    Row(Undecodable(), "INVALID_REQUEST", StatusCode.INVALID_ARGUMENT, 400, gateway_word="bad request"),
    Row(
        errors.MissingIdempotencyKey(),
        "MISSING_IDEMPOTENCY_KEY",
        StatusCode.INVALID_ARGUMENT,
        400,
        gateway_word="bad request",
    ),
    Row(errors.Forbidden(), "FORBIDDEN", StatusCode.PERMISSION_DENIED, 403),
    Row(errors.EventNotFound(), "EVENT_NOT_FOUND", StatusCode.NOT_FOUND, 404, gateway_word="not found"),
    Row(errors.ReservationNotFound(), "RESERVATION_NOT_FOUND", StatusCode.NOT_FOUND, 404, gateway_word="not found"),
    Row(
        errors.SeatUnavailable(SEATS), "SEAT_UNAVAILABLE", StatusCode.FAILED_PRECONDITION, 409, gateway_word="conflict"
    ),
    Row(errors.SaleNotOpen(), "SALE_NOT_OPEN", StatusCode.FAILED_PRECONDITION, 409, gateway_word="conflict"),
    Row(errors.HoldLimitReached(), "HOLD_LIMIT_REACHED", StatusCode.FAILED_PRECONDITION, 409, gateway_word="conflict"),
    Row(
        errors.HoldExtensionDenied(extensions_left=2, seconds_left=40),
        "HOLD_EXTENSION_DENIED",
        StatusCode.FAILED_PRECONDITION,
        409,
        gateway_word="conflict",
    ),
    Row(
        errors.ReservationExpired(),
        "RESERVATION_EXPIRED",
        StatusCode.FAILED_PRECONDITION,
        409,
        gateway_word="conflict",
    ),
    Row(
        errors.ReservationAlreadyConfirmed(),
        "RESERVATION_ALREADY_CONFIRMED",
        StatusCode.FAILED_PRECONDITION,
        409,
        gateway_word="conflict",
    ),
    Row(
        errors.ReservationAlreadyCancelled(),
        "RESERVATION_ALREADY_CANCELLED",
        StatusCode.FAILED_PRECONDITION,
        409,
        gateway_word="conflict",
    ),
    Row(errors.IdempotencyConflict(), "IDEMPOTENCY_CONFLICT", StatusCode.ALREADY_EXISTS, 409, gateway_word="conflict"),
    Row(errors.IdempotencyInProgress(), "IDEMPOTENCY_IN_PROGRESS", StatusCode.ABORTED, 409, 1, "conflict"),
    Row(errors.RateLimitExceeded(), "RATE_LIMIT_EXCEEDED", StatusCode.RESOURCE_EXHAUSTED, 429, retry_after=1),
    Row(errors.RateLimitExceeded(7), "RATE_LIMIT_EXCEEDED", StatusCode.RESOURCE_EXHAUSTED, 429, retry_after=7),
    Row(errors.Unauthenticated.invalid(), "UNAUTHENTICATED", StatusCode.UNAUTHENTICATED, 401),
    *(
        Row(error, "INVENTORY_SERVICE_ERROR", StatusCode.UNAVAILABLE, 503, retry_after=1)
        for error in (errors.InventoryServiceError(), CircuitOpen(), Rejected())
    ),
    Row(errors.UpstreamTimeout(), "UPSTREAM_TIMEOUT", StatusCode.DEADLINE_EXCEEDED, 504, gateway_word="timeout"),
    Row(errors.ServiceUnavailable(), "SERVICE_UNAVAILABLE", StatusCode.UNAVAILABLE, 503, retry_after=1),
    Row(errors.NotImplementedYet(), "NOT_IMPLEMENTED", StatusCode.UNIMPLEMENTED, 501),
]

every_error = pytest.mark.parametrize("row", TABLE, ids=[type(row.error).__name__ for row in TABLE])

NATIVE = Call(0.0, via_edge=False, path=None, traceparent="", trace_id="", idempotency_key="")
REST = Call(
    0.0,
    via_edge=True,
    path="/v1/reservations",
    traceparent="",
    trace_id="0af7651916cd43dd8448eb211c80319c",
    idempotency_key="",
)


def _metadata(error: Exception, call: Call) -> dict[str, Any]:
    return dict(refusal_of(error).trailing_metadata(call))


def _rest_error(error: Exception, call: Call = REST) -> dict[str, Any]:
    body = json.loads(_metadata(error, call)["x-error-body"])
    assert list(body) == ["error"]
    return dict(body["error"])


def _status(error: Exception) -> status_pb2.Status:
    return status_pb2.Status.FromString(_metadata(error, NATIVE)["grpc-status-details-bin"])


def _unpacked(error: Exception, kind: Any) -> list[Any]:
    found = []
    for packed in _status(error).details:
        message = kind()
        if packed.Unpack(message):
            found.append(message)
    return found


def _subclasses(kind: type[ReservationError]) -> Iterator[type[ReservationError]]:
    yield kind
    for each in kind.__subclasses__():
        yield from _subclasses(each)


def test_every_error_there_is_has_a_row() -> None:
    """A new error has to be decided about, in the table of statuses and in this one."""
    for package in (reservation.domain, reservation.api, reservation.inventory):
        for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
            importlib.import_module(module.name)
    ours = {kind for kind in _subclasses(ReservationError) if kind.__module__.startswith("reservation.")}
    assert {type(row.error) for row in TABLE} == ours


@every_error
def test_an_error_has_its_code_status_and_retry(row: Row) -> None:
    refusal = refusal_of(row.error)
    assert refusal.error.code == row.code
    assert (refusal.rule.status, refusal.rule.http, refusal.retry_after) == (row.status, row.http, row.retry_after)


@every_error
def test_grpc_callers_get_a_status_that_decodes(row: Row) -> None:
    assert list(_metadata(row.error, NATIVE)) == ["grpc-status-details-bin"]
    status = _status(row.error)
    assert (status.code, status.message) == (row.status.value[0], row.error.text)
    (info,) = _unpacked(row.error, error_details_pb2.ErrorInfo)
    assert (info.reason, info.domain) == (row.code, ERROR_DOMAIN) == (row.code, "reservation.traffic-tacos")
    delays = [each.retry_delay.ToSeconds() for each in _unpacked(row.error, error_details_pb2.RetryInfo)]
    assert delays == ([row.retry_after] if row.retry_after is not None else [])


@every_error
def test_rest_callers_get_their_status_and_when_to_retry(row: Row) -> None:
    metadata = _metadata(row.error, REST)
    assert metadata["x-http-status"] == str(row.http)
    assert metadata.get("retry-after") == (str(row.retry_after) if row.retry_after is not None else None)
    assert metadata.get("www-authenticate", "").startswith("Bearer") == (row.http == 401)
    assert metadata.keys() <= {"x-http-status", "x-error-body", "retry-after", "www-authenticate"}


@every_error
def test_rest_callers_get_one_body_with_five_fields(row: Row) -> None:
    error = _rest_error(row.error)
    assert error.keys() - {"details"} == {"code", "message", "timestamp", "path", "traceId"}
    assert (error["code"], error["message"]) == (row.code, row.error.text)
    assert (error["path"], error["traceId"]) == (REST.path, REST.trace_id)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", error["timestamp"])


@every_error
def test_a_text_has_exactly_the_word_by_which_the_gateway_maps_it(row: Row) -> None:
    assert [word for word in GATEWAY_WORDS if word in row.error.text] == [row.gateway_word] * bool(row.gateway_word)
    assert str(row.error) == row.error.text


@pytest.mark.parametrize(
    "error",
    [
        errors.SeatUnavailable([ID]),
        *(row.error for row in TABLE if not isinstance(row.error, errors.SeatUnavailable)),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_text_is_made_for_everybody_and_carries_no_ids(error: ReservationError) -> None:
    assert ID not in error.text
    assert not re.search(r"(rsv|evt|ord|pay)_", error.text.replace("event_id", ""))


def test_an_invalid_request_details_every_violation() -> None:
    error = errors.InvalidRequest(VIOLATIONS)
    assert error.text == "bad request: event_id is required; seat_ids[1] is not a seat of this event"
    (bad_request,) = _unpacked(error, error_details_pb2.BadRequest)
    told = [(each.field, each.description) for each in bad_request.field_violations]
    assert told == [(each.field, each.description) for each in VIOLATIONS]
    assert _rest_error(error)["details"] == [
        {"field": "event_id", "description": "is required"},
        {"field": "seat_ids[1]", "description": "is not a seat of this event"},
    ]


def test_a_taken_seat_is_named_in_the_details() -> None:
    error = errors.SeatUnavailable(SEATS)
    (info,) = _unpacked(error, error_details_pb2.ErrorInfo)
    assert dict(info.metadata) == {"seat_ids": "A-12,B-1"}
    assert _rest_error(error)["details"] == [{"seatId": "A-12"}, {"seatId": "B-1"}]


def test_a_denied_extension_tells_what_is_left() -> None:
    error = errors.HoldExtensionDenied(extensions_left=2, seconds_left=40)
    (info,) = _unpacked(error, error_details_pb2.ErrorInfo)
    assert dict(info.metadata) == {"extensions_left": "2", "seconds_left": "40"}
    assert _rest_error(error)["details"] == [{"extensionsLeft": 2, "secondsLeft": 40}]


def test_where_there_are_no_details_there_is_no_word_of_them() -> None:
    assert "details" not in _rest_error(errors.ReservationExpired())


class Surprise(Exception):
    """Not one of ours, with a text that is nobody's business."""


@pytest.mark.parametrize("call", [NATIVE, REST], ids=["grpc", "rest"])
@pytest.mark.parametrize("error", [Surprise(ID), KeyError(ID), grpc.RpcError(ID), TimeoutError(ID)], ids=repr)
def test_an_unknown_error_is_told_in_neutral_words(error: Exception, call: Call) -> None:
    refusal = refusal_of(error)
    assert (refusal.error.code, refusal.error.text) == ("INTERNAL_ERROR", "Internal server error")
    assert (refusal.rule.status, refusal.rule.http, refusal.retry_after) == (StatusCode.INTERNAL, 500, None)
    told = b"".join(value if isinstance(value, bytes) else value.encode() for value in _metadata(error, call).values())
    assert ID.encode() not in told
    assert type(error).__name__.encode() not in told


paths = st.text(max_size=3_000).map("/v1/".__add__)
trace_ids = st.text(st.characters(codec="ascii"), max_size=64)
refused = st.sampled_from([row.error for row in TABLE]) | st.builds(
    errors.SeatUnavailable, st.lists(st.text(max_size=128), max_size=10)
)


@patient
@given(refused, paths, trace_ids)
def test_a_rest_body_is_always_ascii_json_of_at_most_8_kib(error: ReservationError, path: str, trace_id: str) -> None:
    """It travels as a header, beside others, on a connection that many requests share."""
    call = Call(0.0, via_edge=True, path=path, traceparent="", trace_id=trace_id, idempotency_key="")
    body = _metadata(error, call)["x-error-body"]
    assert re.fullmatch(r"[\x20-\x7e]+", body)
    assert len(body) <= 8 * 1024
    assert json.loads(body)["error"].keys() >= {"code", "message", "timestamp", "path", "traceId"}


def test_a_body_that_fits_keeps_its_details_and_one_that_does_not_loses_only_them() -> None:
    small, large = ["x" * 128] * 10, ["\N{TACO}" * 128] * 10
    assert len(_rest_error(errors.SeatUnavailable(small))["details"]) == 10
    error = _rest_error(errors.SeatUnavailable(large))
    assert "details" not in error
    assert (error["code"], error["path"]) == ("SEAT_UNAVAILABLE", REST.path)


def test_text_that_is_not_ascii_is_escaped_and_read_back() -> None:
    seat_id = "발코니-\N{TACO}\x7f\n"
    body = _metadata(errors.SeatUnavailable([seat_id]), REST)["x-error-body"]
    assert body.isascii()
    assert body.isprintable()
    assert _rest_error(errors.SeatUnavailable([seat_id]))["details"] == [{"seatId": seat_id}]
