"""Spans of the requests that are sampled, sent to a collector by OTLP. For all others no span is made at all.

A request that comes with a traceparent is sampled if that says so; of those without one a part is. The decision is made
before gRPC's instrumentation is entered, which costs as much as half a request even if its span goes nowhere.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from random import random as uniform
from threading import Thread
from typing import Any, TypeVar, cast

import grpc
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation import grpc as instrumentation
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased
from opentelemetry.trace import Link, Span, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import Attributes, AttributeValue

from reservation import tracecontext
from reservation.telemetry.untraced import Published, Put

_instrumentation: Any = instrumentation  # it comes with types for a part of it

SERVICE = "reservation-api"

_EXPORT_SECONDS = 2
_FLUSH_SECONDS = 3.0

# DynamoDB's answers to a condition: what the store asked for.
_VERDICTS = frozenset({"TransactionCanceledException", "ConditionalCheckFailedException"})
_TRACEPARENT_OF_EVENT = re.compile(r'"traceparent":"([0-9a-f-]{55})"')

_propagator = TraceContextTextMapPropagator()
_recording: ContextVar[bool] = ContextVar("recording", default=False)
"""Whether what runs belongs to a span. Cheaper to ask than OpenTelemetry's own context."""

P = TypeVar("P")
T = TypeVar("T")


class Traces:
    """Makes spans, and whatever makes them, for one service. `ratio`: the part of the requests without a traceparent
    that is sampled. `endpoint`: of an OTLP collector that speaks gRPC, http:// without TLS. Its owner calls close()."""

    def __init__(
        self, endpoint: str, ratio: float, *, version: str, instance: str, random: Callable[[], float] = uniform
    ) -> None:
        self._ratio = ratio
        self._random = random
        ours = {"service.name": SERVICE, "service.version": version, "service.instance.id": instance}
        # What the environment says goes before: OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES.
        resource = Resource.create(cast(Attributes, ours)).merge(OTELResourceDetector().detect())
        self._provider = TracerProvider(
            resource=resource,
            sampler=ParentBased(ALWAYS_ON),  # who gets as far as a span was sampled
            shutdown_on_exit=False,
        )
        exporter = OTLPSpanExporter(endpoint=endpoint, timeout=_EXPORT_SECONDS)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("reservation")
        self._server = _instrumentation.aio_server_interceptor(tracer_provider=self._provider)

    async def close(self) -> None:
        """Sends what is left, for 3 seconds at most."""
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def flush() -> None:
            self._provider.shutdown()
            loop.call_soon_threadsafe(done.set)

        # A thread that does not hold up the end of the process if the collector does not answer.
        Thread(target=flush, name="traces", daemon=True).start()
        try:
            await asyncio.wait_for(done.wait(), _FLUSH_SECONDS)
        except TimeoutError:
            return

    # gRPC

    def serving(self, service: grpc.GenericRpcHandler) -> grpc.GenericRpcHandler:
        """The same service, whose sampled calls are spans. Streams are not: one lasts as long as its caller likes."""
        return _TracedService(service, self._is_sampled, self._server)

    def client_interceptors(self) -> Sequence[grpc.aio.ClientInterceptor]:
        """For a channel to another service: a span a call, and the trace goes on there."""
        interceptors: Sequence[grpc.aio.ClientInterceptor] = _instrumentation.aio_client_interceptors(
            tracer_provider=self._provider, filter_=lambda details: _recording.get()
        )
        return interceptors

    def _is_sampled(self, metadata: Sequence[tuple[str, Any]]) -> bool:
        for name, value in metadata:
            if name == "traceparent" and tracecontext.is_well_formed(value):
                return tracecontext.is_sampled(value)
        return self._random() < self._ratio

    @property
    def aws(self) -> "Traces":
        """Draws the calls of AWS clients."""
        return self

    # Steps

    def steps(self, part: P, names: Mapping[str, str]) -> P:
        """The same part, with a span under these names around each of these methods that it has; coroutines, all of
        them."""
        mine = {method: name for method, name in names.items() if hasattr(part, method)}
        return cast(P, _Steps(part, {method: self._step(part, method, name) for method, name in mine.items()}))

    def _step(self, part: Any, method: str, name: str) -> Callable[..., Awaitable[Any]]:
        function = getattr(part, method)

        def step(*args: Any, **options: Any) -> Awaitable[Any]:
            running = function(*args, **options)
            return self._within(name, running) if _recording.get() else running

        return step

    async def _within(self, name: str, running: Awaitable[T]) -> T:
        with self._span(name) as span:
            try:
                return await running
            except Exception as error:
                span.set_attribute("error.type", type(error).__name__)
                raise

    # AWS

    def call(
        self, operation: str, params: Mapping[str, Any], calling: Coroutine[Any, Any, dict[str, Any]]
    ) -> Coroutine[Any, Any, dict[str, Any]]:
        """See aws.client.Trace."""
        return self._called(operation, params, calling) if _recording.get() else calling

    async def _called(
        self, operation: str, params: Mapping[str, Any], calling: Coroutine[Any, Any, dict[str, Any]]
    ) -> dict[str, Any]:
        service = "EventBridge" if operation == "PutEvents" else "DynamoDB"
        attributes = {"rpc.system": "aws-api", "rpc.service": service, "rpc.method": operation}
        with self._span(f"{service}.{operation}", SpanKind.CLIENT, attributes) as span:
            if tables := _tables(params):
                span.set_attribute("aws.dynamodb.table_names", tables)
            try:
                return await calling
            except Exception as error:
                code = getattr(error, "code", type(error).__name__)
                span.set_attribute("error.type", code)
                if code not in _VERDICTS:
                    span.set_status(StatusCode.ERROR, str(error))
                raise

    def failed_try(self, error: Exception, number: int) -> None:
        """See aws.client.Trace."""
        if _recording.get():
            span = trace.get_current_span()
            span.add_event("try failed", {"error.type": getattr(error, "code", ""), "aws.try": number})
            span.set_attribute("aws.failed_tries", number)

    def publishing(self, events: Sequence[Published], put: Put[T]) -> Coroutine[Any, Any, T]:
        """What is awaited in the place of `put()`: that, in a span of its own, which tells of the requests that the
        events come from; if none of these is sampled there is none."""
        links = [link for event in events if (link := _link(event)) is not None]
        return self._published(links, len(events), put) if links else put()

    async def _published(self, links: Sequence[Link], events: int, put: Put[T]) -> T:
        attributes: dict[str, AttributeValue] = {"messaging.system": "aws_eventbridge"}
        attributes["messaging.batch.message_count"] = events
        token = _recording.set(True)
        try:
            with self._span("outbox.publish", SpanKind.PRODUCER, attributes, links):
                return await put()
        finally:
            _recording.reset(token)

    @contextmanager
    def _span(
        self,
        name: str,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Mapping[str, AttributeValue] | None = None,
        links: Sequence[Link] = (),
    ) -> Iterator[Span]:
        with self._tracer.start_as_current_span(
            name, kind=kind, attributes=attributes, links=links, record_exception=False, set_status_on_exception=False
        ) as span:
            yield span


class _Steps:
    """A part of which some methods are replaced."""

    def __init__(self, part: Any, replaced: Mapping[str, Callable[..., Awaitable[Any]]]) -> None:
        self._part = part
        vars(self).update(replaced)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._part, name)


class _TracedService(grpc.GenericRpcHandler):  # type: ignore[misc]  # it comes without types
    """Leads the sampled calls, and only these, through gRPC's instrumentation."""

    def __init__(
        self,
        service: grpc.GenericRpcHandler,
        is_sampled: Callable[[Sequence[tuple[str, Any]]], bool],
        instrumentation: grpc.aio.ServerInterceptor,
    ) -> None:
        self._service = service
        self._is_sampled = is_sampled
        self._instrumentation = instrumentation

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        handler = self._service.service(details)
        if handler is None or handler.response_streaming or not self._is_sampled(details.invocation_metadata):
            return handler

        async def within(requests: Any, context: Any) -> bytes:
            _recording.set(True)  # for this call's own task, and what it starts
            answer: bytes = await handler.stream_unary(requests, _InSpan(context))
            return answer

        async def continuation(_: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
            return grpc.stream_unary_rpc_method_handler(within)

        async def traced(requests: Any, context: Any) -> bytes:
            instrumented = await self._instrumentation.intercept_service(continuation, details)
            answer: bytes = await instrumented.stream_unary(requests, context)
            return answer

        return grpc.stream_unary_rpc_method_handler(traced)


class _InSpan:
    """A ServicerContext whose call comes from the current span: what the call goes on with belongs to that."""

    def __init__(self, context: Any) -> None:
        carrier: dict[str, str] = {}
        _propagator.inject(carrier)
        received = context.invocation_metadata() or ()
        self._context = context
        self._metadata = (*((name, value) for name, value in received if name not in carrier), *carrier.items())

    def invocation_metadata(self) -> Sequence[tuple[str, Any]]:
        return self._metadata

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


def _tables(params: Mapping[str, Any]) -> list[str]:
    if "TableName" in params:
        return [params["TableName"]]
    actions = (body for action in params.get("TransactItems", ()) for body in action.values())
    return sorted({*params.get("RequestItems", ()), *(body["TableName"] for body in actions)})


def _link(event: Published) -> Link | None:
    found = _TRACEPARENT_OF_EVENT.search(event.detail)
    if found is None or not tracecontext.is_well_formed(found[1]) or not tracecontext.is_sampled(found[1]):
        return None
    return Link(trace.get_current_span(_propagator.extract({"traceparent": found[1]})).get_span_context())
