"""The gRPC server: our services, health and reflection on one port."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import grpc
from google.protobuf import descriptor_pb2
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from reservation.api.core import Server
from reservation.api.descriptors import PACKAGE, pool

MAX_MESSAGE_BYTES = 64 * 1024
MAX_METADATA_BYTES = 32 * 1024
"""Names, values and 32 bytes an entry (https://www.rfc-editor.org/rfc/rfc9113#section-6.5.2). Twice what Envoy takes,
so that it is Envoy that refuses REST callers: they would read RESOURCE_EXHAUSTED as a rate limit."""
STREAMS_A_CONNECTION = 1000
OPEN_STREAMS = 500
"""Of health and reflection together. They ask for no token, so they must not take what `max_rpcs` leaves for others."""
CONNECTION_AGE_SECONDS = 60

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


_NAMES = ("", "readiness", "liveness")

_LAST_NEWS_SECONDS = 0.1
"""How long it may take to tell a watcher that this process leaves."""


class Health:
    """grpc.health.v1. "liveness": this process runs its event loop. "readiness", and "" for clients that ask for no
    name: it can serve. Readiness is down until the first `ready(True)`."""

    def __init__(self) -> None:
        self._leaving = asyncio.Event()
        self.servicer: Any = _Servicer(self._leaving)

    async def start(self) -> None:
        await self.servicer.set("liveness", SERVING)
        await self.ready(False)

    async def ready(self, ready: bool) -> None:
        for name in ("", "readiness"):
            await self.servicer.set(name, SERVING if ready and not self._leaving.is_set() else NOT_SERVING)

    async def leave(self) -> None:
        """Not ready for good; alive while it drains, so that nobody kills it for it. Watches hear of it and end."""
        self._leaving.set()
        await self.ready(False)


class _Servicer(HealthServicer):  # type: ignore[misc]  # it comes without types
    """As grpcio has it, but for its watches: one that did not end would hold up the stop for as long as requests may
    take to finish."""

    def __init__(self, leaving: asyncio.Event) -> None:
        super().__init__()
        self._leaving = leaving

    async def List(self, request: Any, context: Any) -> Any:  # noqa: N802
        """grpcio leaves it out, and a method that is left out there fails as a crash does."""
        states = {name: await self.Check(health_pb2.HealthCheckRequest(service=name), context) for name in _NAMES}
        return health_pb2.HealthListResponse(statuses=states)

    async def Watch(self, request: Any, context: Any) -> None:  # noqa: N802
        watch = asyncio.create_task(super().Watch(request, context))
        leaving = asyncio.create_task(self._leaving.wait())
        try:
            await asyncio.wait((watch, leaving), return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait((watch,), timeout=_LAST_NEWS_SECONDS)
        finally:
            watch.cancel()
            leaving.cancel()
            await asyncio.gather(watch, leaving, return_exceptions=True)


class Strict:
    """Registers services that grpcio brings along. By itself it would answer bytes that are no message with UNKNOWN and
    its parser's words, and where no message comes at all nothing."""

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server
        self._open = _Open()

    def add_generic_rpc_handlers(self, _handlers: object) -> None:
        """The same handlers come by name."""

    def add_registered_method_handlers(self, name: str, handlers: Mapping[str, grpc.RpcMethodHandler]) -> None:
        strict = {method: _strict(handler, self._open) for method, handler in handlers.items()}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, strict),))


_NO_MESSAGE = b"\xff"
"""Nor is this one."""


class _Open:
    """The streams that are open."""

    def __init__(self) -> None:
        self._streams = 0

    @asynccontextmanager
    async def one_more(self, context: Any) -> AsyncIterator[None]:
        if self._streams >= OPEN_STREAMS:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many streams of health and reflection")
        self._streams += 1
        try:
            yield
        finally:
            self._streams -= 1


def _strict(handler: grpc.RpcMethodHandler, streams: _Open) -> grpc.RpcMethodHandler:
    parse = handler.request_deserializer

    async def parsed(raw: Any, context: Any) -> Any:
        try:
            return parse(raw if raw is not grpc.aio.EOF else _NO_MESSAGE)
        except DecodeError:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "bad request: the message cannot be decoded")

    if handler.request_streaming:

        async def stream(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[Any]:
            async with streams.one_more(context):
                async for answer in handler.stream_stream(_each(requests, parsed, context), context):
                    yield answer

        return grpc.stream_stream_rpc_method_handler(stream, None, handler.response_serializer)

    async def one(_requests: Any, context: Any) -> Any:
        return await handler.unary_unary(await parsed(await context.read(), context), context)

    async def written(_requests: Any, context: Any) -> None:
        async with streams.one_more(context):
            await handler.unary_stream(await parsed(await context.read(), context), context)

    if handler.response_streaming:
        return grpc.stream_stream_rpc_method_handler(written, None, handler.response_serializer)
    return grpc.stream_unary_rpc_method_handler(one, None, handler.response_serializer)


async def _each(requests: AsyncIterator[bytes], parsed: Any, context: Any) -> AsyncIterator[Any]:
    async for raw in requests:
        yield await parsed(raw, context)


def build(
    services: Iterable[grpc.GenericRpcHandler],
    health: Health,
    *,
    max_rpcs: int | None = None,
    connection_age: float = CONNECTION_AGE_SECONDS,
) -> grpc.aio.Server:
    """`max_rpcs`: how many calls of any kind may be open, watches and health among them. It is there for what nothing
    else counts (gRPC answers RESOURCE_EXHAUSTED by itself), so it should be more than all other limits together."""
    server = Server(
        [
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            # Both the same, or gRPC would refuse by chance what is between them.
            ("grpc.max_metadata_size", MAX_METADATA_BYTES),
            ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
            # Two processes on one port would share its connections unevenly and unseen; let the second one fail.
            ("grpc.so_reuseport", 0),
            ("grpc.max_concurrent_streams", STREAMS_A_CONNECTION),
            # Who keeps a connection for ever never finds a process that came later. Calls under way end on the old one,
            # and no time is set for it: a watch ends with its hold.
            ("grpc.max_connection_age_ms", round(connection_age * 1000)),
            # Services that sell from this inventory look every 30 s whether an idle connection still works.
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ],
        max_rpcs,
    )
    server.add_generic_rpc_handlers(tuple(services))
    strict = Strict(server)
    health_pb2_grpc.add_HealthServicer_to_server(health.servicer, strict)
    names = (
        f"{PACKAGE}.ReservationService",
        f"{PACKAGE}.InventoryService",
        "grpc.health.v1.Health",
        reflection.SERVICE_NAME,
    )
    reflected = pool()
    reflected.Add(descriptor_pb2.FileDescriptorProto.FromString(reflection_pb2.DESCRIPTOR.serialized_pb))
    reflecting = reflection.aio.ReflectionServicer(names, pool=reflected)
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflecting, strict)
    for name in names:
        server.register(f"/{name}/{method.name}" for method in reflected.FindServiceByName(name).methods)
    return server
