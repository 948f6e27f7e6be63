"""A method table becomes grpc.aio handlers: admit, decode, one call, and every failure told in one way.

betterproto2 generates no grpc.aio server. Handlers take raw bytes because grpc.aio itself would answer undecodable ones
with UNKNOWN and the exception's text. They read their message themselves, as if there could be many, because it would
never answer a caller that ends its request without one.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import betterproto2
import grpc
import structlog
from structlog.contextvars import bind_contextvars

from reservation.api.call import Call
from reservation.api.descriptors import PACKAGE, Undecodable, decoder
from reservation.api.errors import Refusal, refusal_of
from reservation.api.limits import ID_LENGTH, Limits, Priority, require_time
from reservation.api.outcomes import Outcomes, Report
from reservation.auth.access import Access
from reservation.auth.caller import Right
from reservation.domain.errors import Unauthenticated
from reservation.tracecontext import span_id

log = structlog.get_logger()

T = TypeVar("T")

_LEFT = ("CANCELLED", grpc.StatusCode.CANCELLED, 499)
"""How a call ends whose caller has left; no one reads the HTTP status."""

_SECRET_FIELDS = ("reservation_token", "payment_intent_id", "idempotency_key")
_SECRET_LENGTH = 4
"""What is shorter anybody can guess, and it would be hidden wherever it stands by chance."""


@dataclass(frozen=True, slots=True)
class Answer:
    """`message` is encoded. `headers` go out as initial metadata: after it, success is decided. `about`: the id of a
    reservation that the request could not name yet."""

    message: bytes
    headers: tuple[tuple[str, str], ...] = ()
    about: str = ""


Handler = Callable[[Any, Call], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Method:
    """One rpc, for callers that have `right`. `handler` takes a decoded message of type `request`. `success`: the HTTP
    status of its answers."""

    name: str
    request: type[betterproto2.Message]
    handler: Handler
    right: Right
    priority: Priority = Priority.NEW
    success: int = 200


StreamHandler = Callable[[Any, Call], AsyncGenerator[bytes]]


@dataclass(frozen=True, slots=True)
class Stream:
    """One rpc that answers any number of messages, all of them encoded. `handler` is closed when the caller leaves or
    its token expires, and nothing else limits its time. `in_band` makes a message of an error's body: to REST callers a
    stream that has begun cannot fail otherwise."""

    name: str
    request: type[betterproto2.Message]
    handler: StreamHandler
    right: Right
    in_band: Callable[[str], bytes]
    priority: Priority = Priority.NEW


def service(
    name: str,
    methods: Iterable[Method | Stream],
    access: Access,
    limits: Limits,
    outcomes: Outcomes | None = None,
) -> grpc.GenericRpcHandler:
    """`access` says who may call them, `limits` how much; `outcomes` hears how each call ended."""
    heard, full_name = outcomes or Outcomes(), f"{PACKAGE}.{name}"

    def rpc_handler(method: Method | Stream) -> grpc.RpcMethodHandler:
        report = heard.reports(full_name, method.name, stream=isinstance(method, Stream))
        if isinstance(method, Stream):
            return grpc.stream_stream_rpc_method_handler(_stream(method, access, limits, report))
        return grpc.stream_unary_rpc_method_handler(_unary(method, access, limits, report))

    return grpc.method_handlers_generic_handler(full_name, {method.name: rpc_handler(method) for method in methods})


def _admission(method: Method | Stream, access: Access, limits: Limits) -> Callable[[Any, Call], Awaitable[Any]]:
    """The one way in, for every rpc: who calls, may they, what do they want, and for whom."""
    decode = decoder(method.request)
    charge = limits.charge(method.priority)

    async def admit(raw: Any, call: Call) -> Any:
        """The decoded message of a call that knows for whom it acts. `raw`: bytes, or EOF. Raises ReservationError."""
        require_time(call.until - time.monotonic())
        caller = await access.caller(call.authorization, via_edge=call.via_edge, until=call.until)
        caller.require(method.right)
        if raw is grpc.aio.EOF:
            raise Undecodable
        request = decode(raw)
        call.act_for(caller, getattr(request, "user_id", ""))
        charge(call.owner)
        return request

    return admit


def _unary(method: Method, access: Access, limits: Limits, report: Report) -> Callable[[Any, Any], Awaitable[bytes]]:
    admit, gate = _admission(method, access, limits), limits.gate(method.priority)

    async def handle(_requests: Any, context: Any) -> bytes:
        raw = await context.read()
        started = time.monotonic()
        call = _begun(method.name, context)
        request = None
        try:
            with gate:
                request = await admit(raw, call)
                answer = await method.handler(request, call)
            if answer.headers:
                await context.send_initial_metadata(answer.headers)
        except asyncio.CancelledError:
            report(call, *_LEFT, _about(request), started)
            raise
        except Exception as error:
            refusal = _refused(method, error, raw, context)
            report(call, refusal.error.code, refusal.rule.status, refusal.rule.http, _about(request), started)
            await context.abort(refusal.rule.status, refusal.error.text, refusal.trailing_metadata(call))
            raise AssertionError("abort raises") from None
        report(call, "OK", grpc.StatusCode.OK, method.success, _about(request) or answer.about, started)
        return answer.message

    return handle


def _stream(stream: Stream, access: Access, limits: Limits, report: Report) -> Callable[[Any, Any], Awaitable[None]]:
    admit, gate = _admission(stream, access, limits), limits.gate(stream.priority)

    async def answers_of(raw: Any, call: Call, about: list[str]) -> AsyncGenerator[bytes]:
        gate.check()
        request = await admit(raw, call)
        about.append(_about(request))
        async with aclosing(stream.handler(request, call)) as answers:
            while (answer := await _in_time(anext(answers, None), access.seconds_left(call.caller))) is not None:
                yield answer

    async def handle(_requests: Any, context: Any) -> None:
        raw = await context.read()
        started = time.monotonic()
        call = _begun(stream.name, context)
        begun, about = False, list[str]()
        try:
            async with aclosing(answers_of(raw, call, about)) as answers:
                while (answer := await _next(answers)) is not None:
                    await context.write(answer)
                    begun = True
        except _Failed as failed:
            refusal = _refused(stream, failed.error, raw, context)
            if begun and call.path is not None:
                await context.write(stream.in_band(refusal.rest_body(call)))
            report(call, refusal.error.code, refusal.rule.status, refusal.rule.http, "".join(about), started)
            await context.abort(refusal.rule.status, refusal.error.text, refusal.trailing_metadata(call))
        except asyncio.CancelledError:
            report(call, *_LEFT, "".join(about), started)
            raise
        report(call, "OK", grpc.StatusCode.OK, 200, "".join(about), started)

    return handle


async def _in_time(answer: Awaitable[T], seconds: float | None) -> T:
    """Raises Unauthenticated when the time is over: the caller's token has expired."""
    try:
        async with asyncio.timeout(seconds) as timeout:
            return await answer
    except TimeoutError:
        if timeout.expired():
            raise Unauthenticated.expired() from None
        raise


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


def _begun(rpc: str, context: Any) -> Call:
    """The call, which every log line tells of from now on."""
    call = Call.of(context)
    bind_contextvars(rpc=rpc, traceId=call.trace_id, spanId=span_id(call.traceparent))
    return call


def _about(message: Any) -> str:
    """The id of the reservation that a message is about, "" if it names none. No longer than a good one: lines tell it,
    of refused messages too, and 64 KiB would push others out of the log."""
    about: str = getattr(message, "reservation_id", "")
    return about[:ID_LENGTH]


def _refused(method: Method | Stream, error: Exception, raw: Any, context: Any) -> Refusal:
    refusal = refusal_of(error)
    if refusal.rule.status is grpc.StatusCode.INTERNAL:
        log.error("rpc.failed", exc_info=error, secrets=_secrets(method, raw, context))
    return refusal


def _secrets(method: Method | Stream, raw: Any, context: Any) -> list[str]:
    """What of the call must not be in the log, even where the words of an exception quote it."""
    metadata = dict(context.invocation_metadata())
    found = [metadata.get("authorization", "").rpartition(" ")[2], metadata.get("idempotency-key", "").strip('"')]
    with suppress(Exception):  # it is told already that something is wrong
        message = decoder(method.request)(raw)
        found += [getattr(message, name, "") for name in _SECRET_FIELDS]
    return [value for value in found if len(value) >= _SECRET_LENGTH]
