"""A method table becomes grpc.aio handlers: decode, one call, encode, and every failure told in one way.

betterproto2 generates no grpc.aio server. Handlers take raw bytes because grpc.aio itself would answer undecodable ones
with UNKNOWN and the exception's text.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import aclosing
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
    """One rpc. `handler` takes a decoded message of type `request`."""

    name: str
    request: type[betterproto2.Message]
    handler: Handler


StreamHandler = Callable[[Any, Call], AsyncGenerator[betterproto2.Message]]


@dataclass(frozen=True, slots=True)
class Stream:
    """One rpc that answers any number of messages. Nothing limits the time of `handler`; it is closed when the caller
    leaves. `in_band` makes a message of an error's body: to REST callers a stream that has begun cannot fail otherwise.
    """

    name: str
    request: type[betterproto2.Message]
    handler: StreamHandler
    in_band: Callable[[str], betterproto2.Message]


def service(name: str, methods: Iterable[Method | Stream]) -> grpc.GenericRpcHandler:
    handlers = {method.name: _rpc_handler(method) for method in methods}
    return grpc.method_handlers_generic_handler(f"{PACKAGE}.{name}", handlers)


def _rpc_handler(method: Method | Stream) -> grpc.RpcMethodHandler:
    if isinstance(method, Stream):
        return grpc.unary_stream_rpc_method_handler(_stream(method))
    return grpc.unary_unary_rpc_method_handler(_unary(method))


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


def _stream(stream: Stream) -> Callable[[bytes, Any], Awaitable[None]]:
    decode = decoder(stream.request)

    async def encoded(raw: bytes, call: Call) -> AsyncGenerator[bytes]:
        async with aclosing(stream.handler(decode(raw), call)) as answers:
            async for answer in answers:
                yield bytes(answer)

    async def handle(raw: bytes, context: Any) -> None:
        started = time.monotonic()
        call = Call.of(context)
        begun = False
        try:
            async with aclosing(encoded(raw, call)) as answers:
                while (answer := await _next(answers)) is not None:
                    await context.write(answer)
                    begun = True
        except _Failed as failed:
            if begun and call.path is not None:
                await context.write(bytes(stream.in_band(refusal_of(failed.error).rest_body(call))))
            await _refuse(stream, call, failed.error, context, started)
        except asyncio.CancelledError:
            _log(stream, call, "CANCELLED", started)
            raise
        _log(stream, call, "OK", started)

    return handle


class _Failed(Exception):
    """The handler of a stream failed, and not the connection."""

    def __init__(self, error: Exception) -> None:
        super().__init__(repr(error))
        self.error = error


async def _next(answers: AsyncGenerator[bytes]) -> bytes | None:
    """The next one; None at the end. Raises _Failed."""
    try:
        return await anext(answers, None)
    except Exception as error:
        raise _Failed(error) from error


async def _refuse(method: Method | Stream, call: Call, error: Exception, context: Any, started: float) -> None:
    refusal = refusal_of(error)
    if refusal.rule.status is grpc.StatusCode.INTERNAL:
        log.error("rpc.failed", rpc=method.name, trace_id=call.trace_id, exc_info=error)
    _log(method, call, refusal.error.code, started)
    await context.abort(refusal.rule.status, refusal.error.text, refusal.trailing_metadata(call))


def _log(method: Method | Stream, call: Call, code: str, started: float) -> None:
    log.info(
        "rpc",
        rpc=method.name,
        code=code,
        ms=round((time.monotonic() - started) * 1000, 1),
        trace_id=call.trace_id,
        rest=call.path is not None,
    )
