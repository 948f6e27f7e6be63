"""Every way in which a REST request can fail, with the body that is told then."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from reservation.api.errors import Refusal, refusal_of
from reservation.domain.errors import (
    FieldViolation,
    Forbidden,
    InvalidRequest,
    RateLimitExceeded,
    ReservationError,
    ServiceUnavailable,
    Unauthenticated,
    UpstreamTimeout,
)

PATH = "/v1/reservations"
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
TIMESTAMP = "2025-01-01T12:00:00Z"

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Failure:
    http: int
    code: str
    message: str
    details: tuple[Json, ...] = ()
    retries: bool = False

    @property
    def body(self) -> Json:
        error: Json = {
            "code": self.code,
            "message": self.message,
            "timestamp": TIMESTAMP,
            "path": PATH,
            "traceId": TRACE_ID,
        }
        return {"error": error | ({"details": list(self.details)} if self.details else {})}


def of(error: ReservationError) -> Failure:
    """As the service itself tells it."""
    refusal: Refusal = refusal_of(error)
    retries = refusal.rule.retry_after is not None or refusal.rule.http == 429  # edge.lua gives one to every 429
    return Failure(refusal.rule.http, error.code, error.text, tuple(refusal.details()), retries)


def invalid(field: str, description: str) -> Failure:
    return of(InvalidRequest([FieldViolation(field, description)]))


# Envoy's own answers, as envoy.yaml and edge.lua word them.
NO_SUCH_PATH = Failure(404, "NOT_FOUND", "Resource not found")
TOO_SLOW = Failure(408, "REQUEST_TIMEOUT", "Request was not received in time")
TOO_LARGE = Failure(413, "PAYLOAD_TOO_LARGE", "Request body too large")
TOO_MANY_HEADERS = Failure(431, "INVALID_REQUEST", "Request rejected")

ANYWHERE = (
    of(Unauthenticated.missing()),
    of(Forbidden()),
    TOO_MANY_HEADERS,
    of(RateLimitExceeded()),
    of(ReservationError()),
    of(ServiceUnavailable()),
    of(UpstreamTimeout()),
)
"""What any request under /v1 can be told."""

WITH_BODY = (TOO_SLOW, TOO_LARGE)

_MEANINGS = {
    400: "The request can never succeed as it is. Every violation is listed",
    401: "No token, or none that is valid",
    403: "The token does not allow this",
    404: "There is no such thing, or it is not the caller's",
    408: "The request did not arrive within 15 seconds",
    409: "The state of things does not allow it",
    413: "The body is larger than 64 KiB",
    429: "Too many requests: retry after the time that is named",
    431: "The headers are larger than 16 KiB, or more than 100",
    500: "A fault of the service; its log has more under the traceId",
    501: "Not by this deployment: its seats are another service's",
    503: "Nothing happened: retry",
    504: "The outcome is unknown: retry with the same idempotency key to learn it",
}


def responses(failures: Iterable[Failure]) -> Mapping[str, Json]:
    """OpenAPI responses by status, with one example a code. What is the same everywhere is referred to."""
    return {
        str(status): {"$ref": f"#/components/responses/{status}"}
        if alike == _SHARED.get(status)
        else _response(status, alike)
        for status, alike in _by_status(failures).items()
    }


def shared_responses() -> Mapping[str, Json]:
    return {str(status): _response(status, alike) for status, alike in _SHARED.items()}


def _by_status(failures: Iterable[Failure]) -> Mapping[int, list[Failure]]:
    by_status: dict[int, list[Failure]] = {}
    for failure in sorted(failures, key=lambda failure: failure.http):
        by_status.setdefault(failure.http, []).append(failure)
    return by_status


_SHARED = _by_status((*ANYWHERE, *WITH_BODY))


def _response(status: int, failures: list[Failure]) -> Json:
    codes = dict.fromkeys(failure.code for failure in failures)
    content = {
        "schema": {"$ref": "#/components/schemas/Error"},
        "examples": {failure.code: {"value": failure.body} for failure in failures},
    }
    response: Json = {
        "description": f"{_MEANINGS[status]}. Codes: {', '.join(codes)}.",
        "content": {"application/json": content},
    }
    if any(failure.retries for failure in failures):
        response["headers"] = {"retry-after": {"$ref": "#/components/headers/RetryAfter"}}
    if status == HTTPStatus.UNAUTHORIZED:
        response["headers"] = {"www-authenticate": {"$ref": "#/components/headers/Challenge"}}
    return response


def schema(codes: Iterable[str]) -> Json:
    """Of the one body that every failure has."""
    text = {"type": "string"}
    details = [
        _object({"field": text, "description": text}, "One violation; `field` is named as in the proto file."),
        _object({"seatId": text}, "A seat that is not available."),
        _object({"extensionsLeft": {"type": "integer"}, "secondsLeft": {"type": "integer"}}, "What may be asked for."),
    ]
    error = _object(
        {
            "code": {"type": "string", "enum": sorted(codes)},
            "message": {"type": "string", "description": "For people. It carries no ids."},
            "timestamp": {"type": "string", "format": "date-time"},
            "path": text,
            "traceId": {"type": "string", "description": "Finds the request in logs and traces."},
        },
        "What went wrong.",
    )
    error["properties"]["details"] = {"type": "array", "minItems": 1, "items": {"anyOf": details}}
    return _object({"error": error}, "The body of every failure.")


def _object(properties: Json, description: str) -> Json:
    return {"type": "object", "description": description, "properties": properties, "required": list(properties)}
