"""The programs that a benchmark measures or measures against, each in a process of its own."""

import asyncio
import os
import signal
import subprocess
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import grpc
import psutil

from reservation.api.server import SERVING
from reservation.ministack import free_port
from tests.support.system import becomes, watch_health

ROOT = Path(__file__).resolve().parents[2]

REDIAL = (("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 500))
"""Options of a channel to a process that starts, or that comes back: grpc itself waits ever longer."""

ONE_USER_WITHOUT_LIMIT = {"USER_RATE_PER_SECOND": "1000000", "USER_RATE_BURST": "1000000"}
"""Settings for a load that one user makes: his bucket is asked, and never empty."""

_START_SECONDS = 60.0

_CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "y" * 40,
    "AWS_EC2_METADATA_DISABLED": "true",
}


@contextmanager
def printing_its_port(*arguments: str) -> Iterator[tuple[int, int]]:
    """`python -m ARGUMENTS`, which prints its port first; yields (pid, port)."""
    command = [sys.executable, "-m", *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.pid, int(process.stdout.readline())
        finally:
            process.terminate()
            process.communicate()


@contextmanager
def service(settings: dict[str, str]) -> Iterator[int]:
    """`reservation serve` as users run it, its log dropped; yields its pid. It may not answer yet."""
    command = [sys.executable, "-m", "reservation", "serve"]
    with subprocess.Popen(
        command, cwd=ROOT, env=os.environ | {"METRICS_PORT": "0"} | settings, stderr=subprocess.DEVNULL
    ) as process:
        try:
            yield process.pid
        finally:
            process.terminate()


async def answers(address: str) -> None:
    """Returns when the service there says that it serves."""
    async with grpc.aio.insecure_channel(address, options=REDIAL) as channel:
        await channel.channel_ready()
        await becomes(watch_health(channel, ""), SERVING)


class KillableService:
    """`reservation serve` on a port of its own, which it keeps over its starts. Its log goes to the end of the file
    `log`, or is dropped. `module`: what is run in its place, with arguments."""

    def __init__(
        self,
        settings: dict[str, str],
        *,
        module: Sequence[str] = ("reservation", "serve"),
        log: Path = Path(os.devnull),
    ) -> None:
        port = free_port("127.0.0.1")
        self.address = f"127.0.0.1:{port}"
        self._command = (sys.executable, "-m", *module)
        self._log = log
        self._environment = os.environ | settings | {"GRPC_SERVER_PORT": str(port), "METRICS_PORT": "0"}
        self._process: Process | None = None

    @property
    def pid(self) -> int:
        """Of the process that runs, or ran last."""
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Returns when its health says that it serves. Raises RuntimeError if it ends before, or takes a minute."""
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command, cwd=ROOT, env=self._environment, stdout=DEVNULL, stderr=log
            )
        ready = asyncio.create_task(answers(self.address))
        ended = asyncio.create_task(self._process.wait())
        await asyncio.wait({ready, ended}, timeout=_START_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        for waiting in (ready, ended):
            waiting.cancel()
        if not ready.done():
            raise RuntimeError(f"reservation serve does not serve (exit code {self._process.returncode})")

    @property
    def lives(self) -> bool:
        return self._process is not None and self._process.returncode is None

    def signal(self, number: signal.Signals) -> None:
        """To one that lives."""
        assert self._process is not None
        self._process.send_signal(number)

    async def kill(self) -> bool:
        """`kill -9`. False: it had ended by itself."""
        assert self._process is not None
        if self._process.returncode is not None:
            return False
        self._process.kill()
        await self._process.wait()
        return True

    async def stop(self) -> int:
        """SIGTERM, and waits for its end; the exit code, 0 also where none runs."""
        if self._process is None:
            return 0
        if self._process.returncode is None:
            self._process.terminate()
        return await self._process.wait()


@asynccontextmanager
async def killable(settings: dict[str, str], number: int) -> AsyncIterator[list[KillableService]]:
    """So many services that serve; stopped at the end."""
    services = [KillableService(settings) for _ in range(number)]
    try:
        await asyncio.gather(*(each.start() for each in services))
        yield services
    finally:
        await asyncio.gather(*(each.stop() for each in services))


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def forget_real_credentials() -> None:
    """For this process and its children: sinks and emulators check no signature, and nothing here may reach AWS."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ.update(_CREDENTIALS)
