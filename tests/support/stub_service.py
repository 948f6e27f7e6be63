"""A gRPC server with the service's method names and none of its logic: the request says how it must answer.

The request's user_id, or where that is empty its event_id, names one of BEHAVIOURS or is `plain:<gRPC status name>`;
anything else succeeds. Run as `python -m tests.support.stub_service` it prints its port and serves until it is killed:
a process that a test can freeze.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NoReturn

import grpc
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as aio_health
from grpc_reflection.v1alpha import reflection

from reservation.gen.com.traffic_tacos.reservation import v1

PACKAGE = "com.traffic_tacos.reservation.v1"
EXPIRES_AT = datetime(2026, 1, 1, 12, 1, tzinfo=UTC)
PRICE = v1.Money(amount=9_007_199_254_740_993, currency="KRW")  # one more than a JSON number holds exactly
LONG_MESSAGE = '좌석이 "이미" 팔렸습니다 🎫\n' * 220  # over 8 KB of UTF-8
UNARY: dict[str, dict[str, tuple[Any, Any]]] = {
    "ReservationService": {
        "CreateReservation": (v1.CreateReservationRequest, v1.CreateReservationResponse),
        "GetReservation": (v1.GetReservationRequest, v1.GetReservationResponse),
        "ConfirmReservation": (v1.ConfirmReservationRequest, v1.ConfirmReservationResponse),
        "CancelReservation": (v1.CancelReservationRequest, v1.CancelReservationResponse),
        "ExtendHold": (v1.ExtendHoldRequest, v1.ExtendHoldResponse),
        "ListReservations": (v1.ListReservationsRequest, v1.ListReservationsResponse),
    },
    "InventoryService": {
        "CheckAvailability": (v1.CheckAvailabilityRequest, v1.CheckAvailabilityResponse),
        "GetInventoryStatus": (v1.GetInventoryStatusRequest, v1.GetInventoryStatusResponse),
        "ListSeats": (v1.ListSeatsRequest, v1.ListSeatsResponse),
    },
}


@dataclass(frozen=True)
class Received:
    """One call as it came in, to any service: /package.Service/Method and its metadata, in order."""

    method: str
    metadata: tuple[tuple[str, str | bytes], ...]

    def values(self, key: str) -> list[str | bytes]:
        return [value for name, value in self.metadata if name == key]


@dataclass(frozen=True)
class Decoded:
    """One request of the two API services, and the seconds that its deadline left, if it had one."""

    request: Any
    seconds_left: float | None


_ENVOYS_OWN_CHECK = "Envoy/HC"


class _Recorder(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    def __init__(self, received: list[Received]) -> None:
        self._received = received

    async def intercept_service(self, continuation: Any, call: Any) -> Any:
        metadata = tuple((each[0], each[1]) for each in call.invocation_metadata)
        if ("user-agent", _ENVOYS_OWN_CHECK) not in metadata:
            self._received.append(Received(call.method, metadata))
        return await continuation(call)


@dataclass
class StubService:
    """What the server has seen, and the levers that a test may pull.

    A watch, and a call by the user `held`, sets `waiting` and then waits for `may_go_on`.
    """

    port: int = 0
    received: list[Received] = field(default_factory=list)
    decoded: list[Decoded] = field(default_factory=list)
    health: aio_health.HealthServicer = field(default_factory=aio_health.HealthServicer)
    waiting: asyncio.Event = field(default_factory=asyncio.Event)
    may_go_on: asyncio.Event = field(default_factory=asyncio.Event)

    def calls(self, method: str) -> list[Received]:
        return [call for call in self.received if call.method.endswith(f"/{method}")]

    async def set_health(self, service: str, *, serving: bool) -> None:
        states = health_pb2.HealthCheckResponse
        await self.health.set(service, states.SERVING if serving else states.NOT_SERVING)

    async def behave(self, request: Any, context: grpc.aio.ServicerContext) -> None:
        """Raises, aborts, waits or sends initial metadata as the request asks."""
        self.decoded.append(Decoded(request, context.time_remaining()))
        name = getattr(request, "user_id", "") or getattr(request, "event_id", "")
        if name.startswith("plain:"):
            await context.abort(grpc.StatusCode[name.removeprefix("plain:")], "internal detail")
        elif name in BEHAVIOURS:
            await BEHAVIOURS[name](self, context)
        elif isinstance(request, v1.CreateReservationRequest):
            await _created(self, context)

    async def hold(self) -> None:
        self.waiting.set()
        await self.may_go_on.wait()

    async def watch(self, raw: bytes, context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        request = v1.WatchReservationRequest.parse(raw)
        await self.behave(request, context)
        yield bytes(v1.GetReservationResponse(reservation_id=request.reservation_id, status=v1.ReservationStatus.HOLD))
        await self.hold()
        yield bytes(
            v1.GetReservationResponse(reservation_id=request.reservation_id, status=v1.ReservationStatus.EXPIRED)
        )

    def unary(self, request_type: Any, response_type: Any) -> Any:
        async def handle(raw: bytes, context: grpc.aio.ServicerContext) -> bytes:
            request = request_type.parse(raw)
            await self.behave(request, context)
            return bytes(_response(request, response_type))

        return grpc.unary_unary_rpc_method_handler(handle)


def _response(request: Any, response_type: Any) -> Any:
    if response_type is v1.GetReservationResponse:
        return response_type(reservation_id=request.reservation_id, status=v1.ReservationStatus.HOLD)
    if response_type is v1.CreateReservationResponse:
        return response_type(
            reservation_id="rsv_1",
            status=v1.ReservationStatus.HOLD,
            hold_expires_at=EXPIRES_AT,
            reserved_seats=[v1.Seat(id=each, price=PRICE, status=v1.SeatStatus.HELD) for each in request.seat_ids],
            seat_ids=request.seat_ids,
        )
    return response_type()


def status_details(status: grpc.StatusCode, code: str) -> bytes:
    """A serialized google.rpc.Status with one ErrorInfo."""
    details = status_pb2.Status(code=status.value[0], message=code)
    details.details.add().Pack(error_details_pb2.ErrorInfo(reason=code, domain="reservation.traffic-tacos"))
    return bytes(details.SerializeToString())


def _metadata(context: grpc.aio.ServicerContext) -> dict[str, Any]:
    return dict(context.invocation_metadata() or ())


async def _refuse(
    context: grpc.aio.ServicerContext,
    status: grpc.StatusCode,
    http: int,
    code: str,
    message: str,
    *more: tuple[str, str],
) -> NoReturn:
    """Ends the call with the status and its details, for a REST caller also with the envelope, as the service does."""
    metadata = _metadata(context)
    trailing: list[tuple[str, str | bytes]] = [*more, ("grpc-status-details-bin", status_details(status, code))]
    if "x-envoy-original-path" in metadata:
        error = {
            "code": code,
            "message": message,
            "timestamp": "2026-01-01T12:00:00Z",
            "path": metadata["x-envoy-original-path"].partition("?")[0],
            "traceId": metadata.get("traceparent", metadata.get("x-request-id", ""))[3:35],
        }
        trailing += [("x-http-status", str(http)), ("x-error-body", json.dumps({"error": error}))]
    context.set_trailing_metadata(tuple(trailing))
    await context.abort(status, code)
    raise AssertionError("abort returned")


async def _created(_: StubService, context: grpc.aio.ServicerContext, *more: tuple[str, str]) -> None:
    rest = "x-envoy-original-path" in _metadata(context)
    await context.send_initial_metadata(((("x-http-status", "201"),) if rest else ()) + more)


async def _replayed(stub: StubService, context: grpc.aio.ServicerContext) -> None:
    await _created(stub, context, ("idempotent-replayed", "true"))


async def _refused(_: StubService, context: grpc.aio.ServicerContext) -> None:
    message = 'Seat conflict: "A-12" is taken'
    await _refuse(context, grpc.StatusCode.FAILED_PRECONDITION, 409, "SEAT_UNAVAILABLE", message)


async def _refused_late(_: StubService, context: grpc.aio.ServicerContext) -> None:
    await context.send_initial_metadata((("idempotent-replayed", "true"),))
    await _refuse(context, grpc.StatusCode.FAILED_PRECONDITION, 410, "RESERVATION_EXPIRED", "The hold has expired")


async def _refused_at_length(_: StubService, context: grpc.aio.ServicerContext) -> None:
    await _refuse(context, grpc.StatusCode.FAILED_PRECONDITION, 409, "SEAT_UNAVAILABLE", LONG_MESSAGE)


async def _plain_late(_: StubService, context: grpc.aio.ServicerContext) -> None:
    await context.send_initial_metadata(())
    await context.abort(grpc.StatusCode.UNAVAILABLE, "internal detail")


async def _raises(_: StubService, __: grpc.aio.ServicerContext) -> None:
    raise RuntimeError("boom secret")


async def _slow(_: StubService, __: grpc.aio.ServicerContext) -> None:
    await asyncio.Event().wait()


async def _held(stub: StubService, context: grpc.aio.ServicerContext) -> None:
    await stub.hold()
    await _created(stub, context)


async def _unavailable(_: StubService, context: grpc.aio.ServicerContext) -> None:
    await _refuse(context, grpc.StatusCode.UNAVAILABLE, 503, "SERVICE_UNAVAILABLE", "Retry")


async def _unavailable_once(stub: StubService, context: grpc.aio.ServicerContext) -> None:
    """Fails the first call of each idempotency key in a way that the edge may repeat."""
    key = _metadata(context).get("idempotency-key")
    if sum(key in call.values("idempotency-key") for call in stub.received) == 1:
        status = grpc.StatusCode.UNAVAILABLE
        await _refuse(context, status, 503, "SERVICE_UNAVAILABLE", "Retry", ("x-retry-safe", "1"))
    await _created(stub, context)


BEHAVIOURS: dict[str, Callable[[StubService, grpc.aio.ServicerContext], Awaitable[None]]] = {
    "replayed": _replayed,
    "refused": _refused,
    "refused-late": _refused_late,
    "refused-at-length": _refused_at_length,
    "plain-late": _plain_late,
    "raises": _raises,
    "slow": _slow,
    "held": _held,
    "unavailable": _unavailable,
    "unavailable-once": _unavailable_once,
}


@asynccontextmanager
async def stub_service(credentials: Any = None) -> AsyncIterator[StubService]:
    """Serves on a free port of loopback, healthy, until left; by TLS if it gets grpc.ServerCredentials."""
    stub = StubService()
    server = grpc.aio.server(interceptors=[_Recorder(stub.received)])
    for service, methods in UNARY.items():
        handlers = {name: stub.unary(*types) for name, types in methods.items()}
        if service == "ReservationService":
            handlers["WatchReservation"] = grpc.unary_stream_rpc_method_handler(stub.watch)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(f"{PACKAGE}.{service}", handlers),))
    health_pb2_grpc.add_HealthServicer_to_server(stub.health, server)
    for service in ("", "liveness", "readiness"):
        await stub.set_health(service, serving=True)
    reflection.enable_server_reflection([f"{PACKAGE}.ReservationService", reflection.SERVICE_NAME], server)
    address = "127.0.0.1:0"
    stub.port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    await server.start()
    try:
        yield stub
    finally:
        await server.stop(None)


async def _serve() -> None:
    async with stub_service() as stub:
        print(stub.port, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve())
