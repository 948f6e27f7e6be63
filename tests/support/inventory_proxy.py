"""Between a service and the inventory that it sells from: passes calls on, or does to one of them what a test asks."""

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import grpc

_SERVICE = "com.traffic_tacos.reservation.v1.InventoryService"
METHODS = ("CheckAvailability", "ReserveSeat", "CommitReservation", "ReleaseHold")

Pass = Callable[[], Awaitable[bytes]]
Trouble = Callable[[bytes, Pass, Any], Awaitable[bytes]]
"""What happens to one call: its request may be passed on, and is answered with bytes, unless it aborts the context."""


async def lose_request(_: bytes, __: Pass, context: Any) -> bytes:
    """It never arrives."""
    await context.abort(grpc.StatusCode.UNAVAILABLE, "lost")
    raise AssertionError


async def lose_reply(_: bytes, pass_on: Pass, context: Any) -> bytes:
    """It takes effect, and its answer never arrives."""
    await pass_on()
    await context.abort(grpc.StatusCode.UNAVAILABLE, "lost")
    raise AssertionError


async def never_answer(_: bytes, __: Pass, ___: Any) -> bytes:
    await asyncio.Event().wait()
    raise AssertionError


async def time_out(_: bytes, __: Pass, context: Any) -> bytes:
    """It never arrives, and its caller need not wait to learn that it has waited too long."""
    await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
    raise AssertionError


def answer(raw: bytes) -> Trouble:
    """So, whatever was asked; it never arrives."""

    async def answered(_: bytes, __: Pass, ___: Any) -> bytes:
        return raw

    return answered


@dataclass(slots=True)
class Late:
    """Arrives only when `event` is set, and its caller has given up by then; `arrived`: it has been dealt with."""

    event: asyncio.Event = field(default_factory=asyncio.Event)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def __call__(self, raw: bytes, pass_on: Pass, context: Any) -> bytes:
        self._tasks.add(asyncio.create_task(self._deliver(pass_on)))
        return await time_out(raw, pass_on, context)

    async def _deliver(self, pass_on: Pass) -> None:
        await self.event.wait()
        with suppress(grpc.aio.AioRpcError):  # nobody hears of a refusal either
            await pass_on()
        self.arrived.set()


@dataclass(slots=True)
class Delay:
    """Takes effect, which sets `reached`, and is answered when a test sets `event`."""

    event: asyncio.Event = field(default_factory=asyncio.Event)
    reached: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, _: bytes, pass_on: Pass, __: Any) -> bytes:
        answered = await pass_on()
        self.reached.set()
        await self.event.wait()
        return answered


@dataclass(slots=True)
class InventoryProxy:
    """`calls` counts what came in, by method."""

    target: grpc.aio.Channel
    channel: grpc.aio.Channel
    calls: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    _script: dict[str, deque[Trouble]] = field(default_factory=lambda: defaultdict(deque))
    _always: dict[str, Trouble] = field(default_factory=dict)

    def script(self, method: str, *troubles: Trouble) -> None:
        """For the next calls of this method, one each."""
        self._script[method].extend(troubles)

    def always(self, method: str, trouble: Trouble | None) -> None:
        """For every call of this method from now on; None: no trouble."""
        if trouble is None:
            self._always.pop(method, None)
        else:
            self._always[method] = trouble

    def handler(self, method: str) -> grpc.RpcMethodHandler:
        async def handle(raw: bytes, context: Any) -> bytes:
            self.calls[method] += 1
            trouble = self._script[method].popleft() if self._script[method] else self._always.get(method)
            if trouble is None:
                return await self._relay(method, raw, context)
            return await trouble(raw, lambda: self._pass(method, raw), context)

        return grpc.unary_unary_rpc_method_handler(handle)

    async def _pass(self, method: str, raw: bytes) -> bytes:
        answered: bytes = await self.target.unary_unary(f"/{_SERVICE}/{method}")(raw, timeout=10)
        return answered

    async def _relay(self, method: str, raw: bytes, context: Any) -> bytes:
        try:
            return await self._pass(method, raw)
        except grpc.aio.AioRpcError as error:
            await context.abort(error.code(), error.details() or "", tuple(error.trailing_metadata() or ()))
            raise AssertionError from error


@asynccontextmanager
async def inventory_proxy(target: grpc.aio.Channel) -> AsyncIterator[InventoryProxy]:
    """Before the inventory at `target`."""
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        proxy = InventoryProxy(target, channel)
        handlers = {method: proxy.handler(method) for method in METHODS}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, handlers),))
        await server.start()
        try:
            yield proxy
        finally:
            await server.stop(None)
