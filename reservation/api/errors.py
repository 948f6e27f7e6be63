"""Every failure as a gRPC status with google.rpc details and, for REST callers, as the body Envoy passes on.

Envoy's transcoder cannot build that body, so it is sent ready-made in trailing metadata (`x-error-body`, with the HTTP
status in `x-http-status`), and only to calls that came as REST.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from reservation.api.call import Call
from reservation.domain import errors
from reservation.domain.errors import ReservationError

ERROR_DOMAIN = "reservation.traffic-tacos"
_BODY_LIMIT = 8 * 1024  # Envoy closes the connection that all requests share when trailers exceed about 60 KiB


@dataclass(frozen=True, slots=True)
class Rule:
    """`retry_after` in seconds: when to try again, where that makes sense and the error does not say it itself."""

    status: grpc.StatusCode
    http: int
    retry_after: float | None = None


_INTERNAL = Rule(grpc.StatusCode.INTERNAL, 500)

_RULES: dict[type[BaseException], Rule] = {
    errors.InvalidRequest: Rule(grpc.StatusCode.INVALID_ARGUMENT, 400),
    errors.MissingIdempotencyKey: Rule(grpc.StatusCode.INVALID_ARGUMENT, 400),
    errors.Unauthenticated: Rule(grpc.StatusCode.UNAUTHENTICATED, 401),
    errors.Forbidden: Rule(grpc.StatusCode.PERMISSION_DENIED, 403),
    errors.EventNotFound: Rule(grpc.StatusCode.NOT_FOUND, 404),
    errors.ReservationNotFound: Rule(grpc.StatusCode.NOT_FOUND, 404),
    errors.SeatUnavailable: Rule(grpc.StatusCode.FAILED_PRECONDITION, 409),
    errors.SaleNotOpen: Rule(grpc.StatusCode.FAILED_PRECONDITION, 409),
    errors.HoldLimitReached: Rule(grpc.StatusCode.FAILED_PRECONDITION, 409),
    errors.HoldExtensionDenied: Rule(grpc.StatusCode.FAILED_PRECONDITION, 409),
    errors.ReservationExpired: Rule(grpc.StatusCode.FAILED_PRECONDITION, 409),
    errors.ReservationAlreadyConfirmed: Rule(grpc.StatusCode.FAILED_PRECONDITION, 409),
    errors.ReservationAlreadyCancelled: Rule(grpc.StatusCode.FAILED_PRECONDITION, 409),
    errors.IdempotencyConflict: Rule(grpc.StatusCode.ALREADY_EXISTS, 409),
    errors.IdempotencyInProgress: Rule(grpc.StatusCode.ABORTED, 409, retry_after=1),
    errors.RateLimitExceeded: Rule(grpc.StatusCode.RESOURCE_EXHAUSTED, 429),
    errors.InventoryServiceError: Rule(grpc.StatusCode.UNAVAILABLE, 503, retry_after=1),
    errors.UpstreamTimeout: Rule(grpc.StatusCode.DEADLINE_EXCEEDED, 504),
    errors.ServiceUnavailable: Rule(grpc.StatusCode.UNAVAILABLE, 503, retry_after=1),
    errors.NotImplementedYet: Rule(grpc.StatusCode.UNIMPLEMENTED, 501),
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """A failure in the caller's terms."""

    error: ReservationError
    rule: Rule

    @property
    def retry_after(self) -> float | None:
        """Seconds until it makes sense to try again; None: it never does."""
        return self.error.retry_after if isinstance(self.error, errors.RateLimitExceeded) else self.rule.retry_after

    def details(self) -> list[dict[str, str | int]]:
        """What the REST body's `details` say."""
        match self.error:
            case errors.InvalidRequest(violations=violations):
                return [{"field": each.field, "description": each.description} for each in violations]
            case errors.SeatUnavailable(seat_ids=seat_ids):
                return [{"seatId": seat_id} for seat_id in seat_ids]
            case errors.HoldExtensionDenied(extensions_left=extensions, seconds_left=seconds):
                return [{"extensionsLeft": extensions, "secondsLeft": seconds}]
        return []

    def trailing_metadata(self, call: Call) -> Sequence[tuple[str, str | bytes]]:
        if call.path is None:
            return (("grpc-status-details-bin", self._rpc_status().SerializeToString()),)
        return (("x-http-status", str(self.rule.http)), ("x-error-body", self.rest_body(call)), *self._advice())

    def _advice(self) -> Iterator[tuple[str, str]]:
        """HTTP headers that say what to do."""
        if self.retry_after is not None:
            yield "retry-after", str(math.ceil(self.retry_after))
        if isinstance(self.error, errors.Unauthenticated):
            yield "www-authenticate", self.error.challenge

    def rest_body(self, call: Call) -> str:
        """The body that REST callers read, in ASCII."""
        error: dict[str, Any] = {
            "code": self.error.code,
            "message": self.error.text,
            "timestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "path": call.path,
            "traceId": call.trace_id,
        }
        if details := self.details():
            error["details"] = details
        body = _ascii({"error": error})
        if len(body) > _BODY_LIMIT:
            error.pop("details", None)
            body = _ascii({"error": error | {"message": self.error.text[:256], "path": (call.path or "")[:256]}})
        return body

    def _rpc_status(self) -> Any:
        info = error_details_pb2.ErrorInfo(reason=self.error.code, domain=ERROR_DOMAIN)
        status = status_pb2.Status(code=self.rule.status.value[0], message=self.error.text)
        match self.error:
            case errors.InvalidRequest(violations=violations):
                fields = [{"field": each.field, "description": each.description} for each in violations]
                status.details.append(_packed(error_details_pb2.BadRequest(field_violations=fields)))
            case errors.SeatUnavailable(seat_ids=seat_ids):
                info.metadata["seat_ids"] = ",".join(seat_ids)
            case errors.HoldExtensionDenied(extensions_left=extensions, seconds_left=seconds):
                info.metadata.update(extensions_left=str(extensions), seconds_left=str(seconds))
        status.details.insert(0, _packed(info))
        if self.retry_after is not None:
            delay = Duration()
            delay.FromNanoseconds(int(self.retry_after * 1_000_000_000))
            status.details.append(_packed(error_details_pb2.RetryInfo(retry_delay=delay)))
        return status


def refusal_of(error: Exception) -> Refusal:
    """An error that is in no table is a fault of ours: neutral words to the caller, its stack to the log."""
    for kind in type(error).__mro__:
        if isinstance(error, ReservationError) and (rule := _RULES.get(kind)) is not None:
            return Refusal(error, rule)
    return Refusal(ReservationError(), _INTERNAL)


def _packed(message: Any) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed


def _ascii(body: dict[str, Any]) -> str:
    """Metadata values are ASCII; JSON escapes say the rest."""
    return json.dumps(body, separators=(",", ":"))
