"""A method table becomes grpc.aio handlers: decode, one call, encode, and every failure told in one way.

betterproto2 generates no grpc.aio server. Handlers take raw bytes because grpc.aio itself would answer undecodable ones
with UNKNOWN and the exception's text.
"""

import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

import betterproto2
import grpc
import structlog

from reservation.api.call import Call
from reservation.api.descriptors import PACKAGE, decoder
from reservation.api.errors import refusal_of

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Answer:
    """`message` may be encoded already. `headers` go out as initial metadata: after it, success is decided."""

    message: betterproto2.Message | bytes
    headers: tuple[tuple[str, str], ...] = ()


Handler = Callable[[Any, Call], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Method:
    """One rpc. `handler` takes a decoded message of type `request`. `streams`: answers a stream of messages."""

    name: str
    request: type[betterproto2.Message]
    handler: Handler
    streams: bool = False


def service(name: str, methods: Iterable[Method]) -> grpc.GenericRpcHandler:
    handlers = {method.name: _rpc_handler(method) for method in methods}
    return grpc.method_handlers_generic_handler(f"{PACKAGE}.{name}", handlers)


def _rpc_handler(method: Method) -> grpc.RpcMethodHandler:
    unary = _unary(method)
    if not method.streams:
        return grpc.unary_unary_rpc_method_handler(unary)

    async def stream(raw: bytes, context: Any) -> None:
        await context.write(await unary(raw, context))

    return grpc.unary_stream_rpc_method_handler(stream)


def _unary(method: Method) -> Callable[[bytes, Any], Awaitable[bytes]]:
    decode = decoder(method.request)

    async def handle(raw: bytes, context: Any) -> bytes:
        started = time.monotonic()
        call = Call.of(context)
        try:
            answer = await method.handler(decode(raw), call)
            encoded = bytes(answer.message)
        except Exception as error:
            await _refuse(method, call, error, context, started)
            raise AssertionError("abort raises") from None
        if answer.headers:
            await context.send_initial_metadata(answer.headers)
        _log(method, call, "OK", started)
        return encoded

    return handle


async def _refuse(method: Method, call: Call, error: Exception, context: Any, started: float) -> None:
    refusal = refusal_of(error)
    if refusal.rule.status is grpc.StatusCode.INTERNAL:
        log.error("rpc.failed", rpc=method.name, trace_id=call.trace_id, exc_info=error)
    _log(method, call, refusal.error.code, started)
    await context.abort(refusal.rule.status, refusal.error.text, refusal.trailing_metadata(call))


def _log(method: Method, call: Call, code: str, started: float) -> None:
    log.info(
        "rpc",
        rpc=method.name,
        code=code,
        ms=round((time.monotonic() - started) * 1000, 1),
        trace_id=call.trace_id,
        rest=call.path is not None,
    )
