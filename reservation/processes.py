"""More processes of the service on this machine, each `reservation serve` on ports of its own."""

import asyncio
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass

from reservation import probe
from reservation.ministack import WATCHDOG, free_ports

START_SECONDS = 60.0
# Longer than a drain and the hand-over of the leases take.
STOP_SECONDS = 15.0

_HOST = "127.0.0.1"


class ProcessEnded(RuntimeError):
    """A process of the service ended unasked, or did not serve in time."""


@dataclass(frozen=True, slots=True)
class Doors:
    """The ports on which one process takes requests, and tells of itself."""

    grpc_port: int
    metrics_port: int

    @property
    def grpc_address(self) -> str:
        return f"{_HOST}:{self.grpc_port}"

    @property
    def metrics_address(self) -> str:
        return f"{_HOST}:{self.metrics_port}"


@asynccontextmanager
async def running(number: int, environment: Mapping[str, str]) -> AsyncIterator[tuple[Doors, ...]]:
    """So many processes on free ports, with `environment` and those as their settings. They serve inside the block, and
    are told to stop after it, all at once. None outlives this process, however it ends. Their logs go to stderr.

    Raises ProcessEnded when one ends before: it interrupts the block.
    """
    ports = iter(free_ports(_HOST, 2 * number))
    doors = tuple(Doors(grpc_port, metrics_port) for grpc_port, metrics_port in zip(ports, ports, strict=True))
    async with AsyncExitStack() as stack:
        processes = [await stack.enter_async_context(_started(each, environment)) for each in doors]
        try:
            async with _watched(dict(zip(doors, processes, strict=True))):
                await _serving(doors)
                yield doors
        finally:
            for process in processes:
                _terminate(process)


@asynccontextmanager
async def _started(doors: Doors, environment: Mapping[str, str]) -> AsyncIterator[Process]:
    ports = {"GRPC_SERVER_PORT": str(doors.grpc_port), "METRICS_PORT": str(doors.metrics_port)}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "reservation", "serve"),
        env={**environment, **ports},
        stdin=DEVNULL,
        # A Ctrl-C in the terminal is for us: the services go on until Envoy has sent its clients away.
        start_new_session=True,
    )
    watchdog = await asyncio.create_subprocess_exec(
        "/bin/sh", "-c", WATCHDOG, str(process.pid), stdin=PIPE, start_new_session=True
    )
    try:
        yield process
    finally:
        await _stop(process)
        await _stop(watchdog)


@asynccontextmanager
async def _watched(processes: Mapping[Doors, Process]) -> AsyncIterator[None]:
    """Interrupts the block when one of them ends, by a cancellation as asyncio.timeout does it."""
    ends = {asyncio.create_task(process.wait()): doors for doors, process in processes.items()}
    try:
        async with asyncio.timeout(None) as block:

            def interrupt(_: asyncio.Task[int]) -> None:
                block.reschedule(0.0)  # long ago

            for end in ends:
                end.add_done_callback(interrupt)
            try:
                yield
            finally:
                for end in ends:
                    end.remove_done_callback(interrupt)
    except TimeoutError:
        if (ended := next((end for end in ends if end.done()), None)) is None:
            raise
        told = f"the process of the service on {ends[ended].grpc_address} has ended with code {ended.result()}"
        raise ProcessEnded(told) from None
    finally:
        for end in ends:
            end.cancel()


async def _serving(doors: Sequence[Doors]) -> None:
    """Raises ProcessEnded for the time that it took."""
    try:
        async with asyncio.timeout(START_SECONDS):
            for each in doors:
                await _serves(each)
    except TimeoutError:
        raise ProcessEnded(f"{each.grpc_address} did not serve within {START_SECONDS:g} s") from None


async def _serves(doors: Doors) -> None:
    while True:
        if await asyncio.to_thread(probe.state, doors.grpc_address, "liveness") == probe.SERVING:
            return
        await asyncio.sleep(0.05)


async def _stop(process: Process) -> None:
    _terminate(process)
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def _terminate(process: Process) -> None:
    with suppress(ProcessLookupError):
        process.terminate()
