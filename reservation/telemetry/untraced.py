"""What of a service can be traced, and a service of which nothing is.

It imports nothing of OpenTelemetry, which takes a tenth of the time that a process needs to start.
"""

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import grpc

INVENTORY_STEPS = {"facts": "inventory.facts"}
STORE_STEPS = {
    "recall": "idempotency.recall",
    **{method: f"store.{method}" for method in ("hold", "advance", "settle", "write", "find", "page")},
}
"""What a person would draw of a request, by the methods of an inventory and of a store."""

P = TypeVar("P")
T = TypeVar("T")
Put = Callable[[], Coroutine[Any, Any, T]]


class Published(Protocol):
    """`detail`: the JSON of an event's detail, with its traceparent."""

    @property
    def detail(self) -> str: ...


class NoTraces:
    """Of a service whose requests are not traced: everything stays as it is."""

    aws = None

    async def close(self) -> None:
        """There is nothing to send."""

    def serving(self, service: grpc.GenericRpcHandler) -> grpc.GenericRpcHandler:
        return service

    def client_interceptors(self) -> Sequence[grpc.aio.ClientInterceptor]:
        return ()

    def steps(self, part: P, names: Mapping[str, str]) -> P:
        return part

    def publishing(self, events: Sequence[Published], put: Put[T]) -> Coroutine[Any, Any, T]:
        return put()
