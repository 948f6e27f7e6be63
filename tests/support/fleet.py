"""A fleet of service processes over the same tables, each with its own clock, to be killed, frozen and stopped.

All run on this machine, so a test knows every clock: the time plus the process's offset.
"""

import asyncio
import json
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from grpc_health.v1 import health_pb2

from reservation import app, catalog
from reservation.aws.client import AwsClient
from reservation.dynamodb.events import EventImport
from reservation.dynamodb.leases import LeaseTable, Shard
from reservation.settings import Settings
from tests.support.command import Command, Ended, started_module
from tests.support.system import becomes, dynamodb_of, make_tables, watch_health

_PATIENCE = 60.0


@dataclass(slots=True)
class Service:
    """A process of the fleet. `name` is its access key id, by which endpoints know who calls; one that is started in
    its place has another. `clock_offset` in milliseconds. `worker_id`: its name in the leases table."""

    name: str
    clock_offset: int
    command: Command
    worker_id: str
    address: str
    channel: grpc.aio.Channel
    frozen: bool = False

    @property
    def pid(self) -> int:
        return self.command.process.pid

    @property
    def lives(self) -> bool:
        return self.command.process.returncode is None

    def now(self) -> int:
        """What its clock shows, in milliseconds since the epoch."""
        return time.time_ns() // 1_000_000 + self.clock_offset

    def log(self, *events: str) -> list[dict[str, Any]]:
        """The entries of these events so far, in their order."""
        entries = (json.loads(line) for line in self.command.err if line.startswith("{"))
        return [entry for entry in entries if entry["event"] in events]

    def freeze(self) -> None:
        """Stops it where it stands, until `thaw`."""
        self.command.process.send_signal(signal.SIGSTOP)
        self.frozen = True

    def thaw(self) -> None:
        self.frozen = False
        self.command.process.send_signal(signal.SIGCONT)

    async def kill(self) -> None:
        self.command.process.kill()
        await self.command.end()

    def terminate(self) -> None:
        """Asks it to stop as an orchestrator does."""
        self.command.process.terminate()

    async def ended(self) -> Ended:
        """Waits for its end."""
        return await self.command.end()


@dataclass(slots=True)
class Fleet:
    """Processes with the same settings. `dynamodb` and `leases` reach their tables directly."""

    settings: Settings
    dynamodb: AwsClient
    leases: LeaseTable
    _stack: AsyncExitStack
    services: list[Service] = field(default_factory=list)
    """Every one there ever was, in the order of their starts."""
    _starts: Counter[str] = field(default_factory=Counter)

    @property
    def living(self) -> list[Service]:
        return [service for service in self.services if service.lives]

    def channels(self) -> list[grpc.aio.Channel]:
        """Of those that a client would find: they live and are not frozen."""
        return [service.channel for service in self.living if not service.frozen]

    async def start(self, name: str, clock_offset: int = 0, *, ready: bool = True) -> Service:
        """Starts a process, or one in the place of another that has ended. Waits until it is ready, or only until it
        serves."""
        self._starts[name] += 1
        own_name = f"{name}-{self._starts[name]}"
        changed = self.settings.model_dump(exclude_defaults=True)
        environment = {key.upper(): str(value) for key, value in changed.items()} | {"AWS_ACCESS_KEY_ID": own_name}
        process = started_module("tests.support.service_process", str(clock_offset), **environment)
        command = await self._stack.enter_async_context(process)
        serving = json.loads((await command.says(r'.*"event":"serving".*'))[0])
        address = f"127.0.0.1:{serving['grpc_port']}"
        channel = await self._stack.enter_async_context(grpc.aio.insecure_channel(address))
        service = Service(own_name, clock_offset, command, serving["worker_id"], address, channel)
        if ready:
            readiness = watch_health(channel, "readiness")
            async with asyncio.timeout(_PATIENCE):
                await becomes(readiness, health_pb2.HealthCheckResponse.SERVING)
            readiness.cancel()
        self.services.append(service)
        return service

    async def shards(self) -> list[Shard]:
        return list((await self.leases.scan()).shards)

    async def shards_of(self, service: Service) -> set[str]:
        """What the table says that it owns."""
        return {shard.name for shard in await self.shards() if shard.owner == service.worker_id}

    async def shared_out(self) -> bool:
        """Whether every shard has an owner that lives and is not frozen, and nobody has two more than another."""
        sizes = Counter({service.worker_id: 0 for service in self.living if not service.frozen})
        owners = [shard.owner for shard in await self.shards()]
        parts = sizes + Counter(owners)
        return parts.keys() == sizes.keys() and max(parts.values()) - min(parts.values()) <= 1


@asynccontextmanager
async def fleet(settings: Settings) -> AsyncIterator[Fleet]:
    """Over new tables, with the demo event on sale and no process yet. Those that live at the end are stopped, and must
    end well."""
    await make_tables(settings)
    async with AsyncExitStack() as stack:
        dynamodb = await stack.enter_async_context(dynamodb_of(settings))
        sale = catalog.demo()
        importing = EventImport(dynamodb, settings.dynamodb_table_inventory)
        await importing.run(sale.event, sale.seats, lambda _: None)
        leases = LeaseTable(dynamodb, app.tables_of(settings).leases, lease_seconds=_PATIENCE)
        this = Fleet(settings, dynamodb, leases, stack)
        yield this
        left = this.living
        for service in left:
            service.terminate()
        for service in left:
            told = await service.ended()
            assert told.code == 0, told.err


async def until(reached: Callable[[], Awaitable[bool]], what: str) -> None:
    """Looks every now and then until it is so; fails after a minute."""
    give_up = time.monotonic() + _PATIENCE
    while not await reached():
        assert time.monotonic() < give_up, f"after {_PATIENCE:g} s still not: {what}"
        await asyncio.sleep(0.05)
