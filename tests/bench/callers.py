"""The load of customers over gRPC, from a process of its own: creates of two seats, each under a key of its own.

`python -m tests.bench.callers PORT` reads one Load a line from stdin as JSON, makes it, and prints a Made. Arrivals do
not wait for answers: a latency counts from when the request was due, however late it was sent.
"""

import asyncio
import json
import random
import sys
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from itertools import count
from subprocess import PIPE

import grpc
import uvloop

from reservation.gen.com.traffic_tacos.reservation import v1 as messages
from tests.bench import processes
from tests.bench.sink import HELD

SERVICE = "/com.traffic_tacos.reservation.v1.ReservationService"
_LONGEST_LINE = 64 * 1024 * 1024
_TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Load:
    """One request for each of `tokens`. `rate`: they arrive by chance, so many a second; 0: `in_flight` of them are
    always under way."""

    tokens: list[str]
    rate: float = 0
    in_flight: int = 32


@dataclass(frozen=True, slots=True)
class Made:
    """`latencies_ms`: of the answers. `seconds`: from the first request until the last answer. `cpu_seconds`: of this
    process."""

    latencies_ms: list[float]
    failed: int
    seconds: float
    cpu_seconds: float


class Callers:
    """The process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._stdin, self._stdout = process.stdin, process.stdout

    async def make(self, load: Load) -> Made:
        self._stdin.write(json.dumps(asdict(load)).encode() + b"\n")
        return Made(**json.loads(await self._stdout.readline()))


@asynccontextmanager
async def callers(port: int) -> AsyncIterator[Callers]:
    command = (sys.executable, "-m", "tests.bench.callers", str(port))
    process = await asyncio.create_subprocess_exec(
        *command, cwd=processes.ROOT, stdin=PIPE, stdout=PIPE, limit=_LONGEST_LINE
    )
    try:
        yield Callers(process)
    finally:
        process.terminate()
        await process.wait()


def creates() -> Iterator[bytes]:
    """Of 2,000 different seats in turn: their facts are in the service's cache after the first round."""
    for number in count():
        row, first = divmod(2 * number % 2000, 50)
        yield bytes(
            messages.CreateReservationRequest(
                event_id=HELD.event_id, seat_ids=[f"R{row}-{first}", f"R{row}-{first + 1}"], quantity=2
            )
        )


def metadata_of(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"), ("idempotency-key", str(uuid.uuid4())))


class _Customers:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._create = channel.unary_unary(f"{SERVICE}/CreateReservation")
        self._requests = creates()
        self._latencies: list[float] = []
        self._failed = 0

    async def make(self, load: Load) -> Made:
        self._latencies, self._failed = [], 0
        cpu, begun = time.process_time(), time.monotonic()
        await (self._arrive(load) if load.rate else self._keep_under_way(load))
        return Made(self._latencies, self._failed, time.monotonic() - begun, time.process_time() - cpu)

    async def _arrive(self, load: Load) -> None:
        due = time.monotonic()
        async with asyncio.TaskGroup() as under_way:
            for token in load.tokens:
                due += random.expovariate(load.rate)
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                under_way.create_task(self._call(token, due))

    async def _keep_under_way(self, load: Load) -> None:
        tokens = iter(load.tokens)

        async def customer() -> None:
            for token in tokens:
                await self._call(token, time.monotonic())

        await asyncio.gather(*(customer() for _ in range(load.in_flight)))

    async def _call(self, token: str, due: float) -> None:
        try:
            await self._create(next(self._requests), metadata=metadata_of(token), timeout=_TIMEOUT_SECONDS)
            self._latencies.append((time.monotonic() - due) * 1000)
        except grpc.aio.AioRpcError:
            self._failed += 1


async def main(port: int) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        customers = _Customers(channel)
        while line := await asyncio.to_thread(sys.stdin.readline):
            print(json.dumps(asdict(await customers.make(Load(**json.loads(line))))), flush=True)


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
