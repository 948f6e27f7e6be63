"""Restarts under load: the processes of a service stop and start one by one, while customers come through Envoy and by
native gRPC, and no request may fail.

A native client here is what a service behind several addresses has: one channel that takes turns among them and watches
each one's health ("readiness"), as gRPC clients do if their service config says so. It does not try again either.
"""

import asyncio
import json
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import betterproto2
import grpc

from reservation.catalog import DEMO_EVENT
from reservation.gen.com.traffic_tacos.reservation import v1 as messages
from tests.bench.processes import REDIAL, KillableService
from tests.support.system import call, refusal_of

_SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "healthCheckConfig": {"serviceName": "readiness"},
}
LATE = grpc.StatusCode.DEADLINE_EXCEEDED.name
"""How the failures of calls begin whose time was up."""

_NATIVE_CLIENTS = 4
_CALL_SECONDS = 5.0


@dataclass(slots=True)
class Restarts:
    """`unclean`: exit codes that are not 0."""

    made: int = 0
    rounds: int = 0
    unclean: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Native:
    """What native clients were told: how many calls, and how many of which failure."""

    requests: int = 0
    failures: Counter[str] = field(default_factory=Counter)

    @property
    def failed(self) -> int:
        return self.failures.total()

    async def ask(self, channel: grpc.aio.Channel, request: betterproto2.Message) -> Any:
        """The message, or None if it failed, which is counted."""
        self.requests += 1
        try:
            return (await call(channel, request, timeout=_CALL_SECONDS)).message
        except grpc.aio.AioRpcError as error:
            self.failures[f"{error.code().name} {refusal_of(error).reason} {error.details()}"] += 1
            return None


class StopSign:
    """An HTTP server that says 204 until it is raised, then 410. Each user of the script looks at it now and then, by
    GET /USER/REQUESTS, and so tells how many requests it has made."""

    def __init__(self) -> None:
        self.url = ""
        self.raised = False
        self._requests: dict[bytes, int] = {}

    @property
    def requests(self) -> int:
        """Of all users, so far."""
        return sum(self._requests.values())

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request and one connection."""
        asked = await reader.readuntil(b"\r\n\r\n")
        _, user, requests = asked.split(maxsplit=2)[1].split(b"/")
        self._requests[user] = int(requests)
        status = b"410 Gone" if self.raised else b"204 No Content"
        writer.write(b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        await writer.drain()
        writer.close()


@asynccontextmanager
async def stop_sign() -> AsyncIterator[StopSign]:
    sign = StopSign()
    async with await asyncio.start_server(sign.answer, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        sign.url = f"http://{host}:{port}"
        yield sign


async def restart(services: list[KillableService], enough: Callable[[int], bool]) -> Restarts:
    """One after the other, the next when the one before is ready, and all of them again until `enough(rounds)`."""
    restarts = Restarts()
    while not enough(restarts.rounds):
        for service in services:
            if code := await service.stop():
                restarts.unclean.append(code)
            await service.start()
            restarts.made += 1
        restarts.rounds += 1
    return restarts


@asynccontextmanager
async def native_clients(addresses: list[str], rate: float) -> AsyncIterator[Native]:
    """Inside the block they make and cancel `rate` reservations a second."""
    told = Native()
    options = (("grpc.service_config", json.dumps(_SERVICE_CONFIG)), *REDIAL)
    async with grpc.aio.insecure_channel(f"ipv4:{','.join(addresses)}", options=options) as channel:
        leave = asyncio.Event()
        async with asyncio.TaskGroup() as clients:
            for _ in range(_NATIVE_CLIENTS):
                clients.create_task(_visit(channel, told, _NATIVE_CLIENTS / rate, leave))
            try:
                yield told
            finally:
                leave.set()


async def _visit(channel: grpc.aio.Channel, told: Native, pause: float, leave: asyncio.Event) -> None:
    while not leave.is_set():
        await _customer(channel, told)
        await asyncio.sleep(pause)


async def _customer(channel: grpc.aio.Channel, told: Native) -> None:
    user = f"native-{uuid.uuid4().hex}"
    wish = messages.CreateReservationRequest(event_id=DEMO_EVENT.id, quantity=1, user_id=user, idempotency_key=user)
    held = await told.ask(channel, wish)
    if held is not None:
        mine = {"reservation_id": held.reservation_id, "user_id": user}
        await told.ask(channel, messages.GetReservationRequest(**mine))
        await told.ask(channel, messages.CancelReservationRequest(**mine))
