"""A collector of spans that speaks OTLP over gRPC, and the trees that they make."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

_PATIENCE = 30.0
Tree = tuple[str, list[Any]]
"""A span's name, and the trees below it in the order in which they began."""


@dataclass
class Collector:
    """Where spans are sent: `endpoint`. `resources`: what has sent any, by the attributes of the resource."""

    endpoint: str = ""
    spans: list[Any] = field(default_factory=list)
    resources: list[dict[str, str]] = field(default_factory=list)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    async def Export(self, request: Any, context: Any) -> Any:  # noqa: N802
        for resource in request.resource_spans:
            named = {each.key: each.value.string_value for each in resource.resource.attributes}
            self.resources.append(named)
            self.spans += [span for scope in resource.scope_spans for span in scope.spans]
        self._news.set()
        return trace_service_pb2.ExportTraceServiceResponse()

    def of(self, trace_id: str) -> list[Any]:
        return [span for span in self.spans if span.trace_id.hex() == trace_id]

    async def receives(self, trace_id: str, root: str) -> list[Any]:
        """The spans of a trace, once one of this name is among them: it ends last."""
        async with asyncio.timeout(_PATIENCE):
            while root not in {span.name for span in self.of(trace_id)}:
                self._news.clear()
                await self._news.wait()
        return self.of(trace_id)


def tree(spans: list[Any], parent_id: str) -> list[Tree]:
    """What is below a span, by its id in hex."""
    below = sorted(
        (span for span in spans if span.parent_span_id.hex() == parent_id), key=lambda s: s.start_time_unix_nano
    )
    return [(span.name, tree(spans, span.span_id.hex())) for span in below]


def attributes(span: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes}


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    collector = Collector()
    server = grpc.aio.server()
    add: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server
    add(collector, server)
    collector.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield collector
    finally:
        await server.stop(None)
