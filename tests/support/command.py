"""The command line as processes of their own."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field

import psutil

from reservation.settings import Settings
from tests.support.edge import REPOSITORY
from tests.support.system import TABLES, table_name

_PATIENCE = 60.0
_OURS = {name.upper() for name in Settings.model_fields} | {"COLUMNS"}


@dataclass(frozen=True, slots=True)
class Ended:
    code: int
    out: str
    err: str

    @property
    def out_words(self) -> str:
        """The output without its line breaks."""
        return " ".join(self.out.split())

    @property
    def err_words(self) -> str:
        return " ".join(self.err.split())


@dataclass(slots=True)
class Command:
    """A command under way. `out` and `err` are the lines so far."""

    process: asyncio.subprocess.Process
    out: list[str] = field(default_factory=list)
    err: list[str] = field(default_factory=list)
    _news: asyncio.Event = field(default_factory=asyncio.Event)
    _readers: list[asyncio.Task[None]] = field(default_factory=list)

    def listen(self) -> None:
        for stream, lines in ((self.process.stdout, self.out), (self.process.stderr, self.err)):
            assert stream is not None
            self._readers.append(asyncio.create_task(self._read(stream, lines)))

    async def _read(self, stream: asyncio.StreamReader, lines: list[str]) -> None:
        async for line in stream:
            lines.append(line.decode())
            self._news.set()
        self._news.set()

    async def says(self, pattern: str) -> re.Match[str]:
        """Waits until one of its lines matches; fails if it ends before."""
        async with asyncio.timeout(_PATIENCE):
            while True:
                ended = all(reader.done() for reader in self._readers)
                for line in self.out + self.err:
                    if match := re.search(pattern, line):
                        return match
                assert not ended, "".join(self.out + self.err)
                self._news.clear()
                await self._news.wait()

    async def starts_a_child(self) -> None:
        async with asyncio.timeout(_PATIENCE):
            while not self.descendants():  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    def descendants(self) -> list[psutil.Process]:
        found: list[psutil.Process] = psutil.Process(self.process.pid).children(recursive=True)
        return found

    async def end(self, by: signal.Signals | None = None) -> Ended:
        """Waits for its end, after a signal to its whole process group, as Ctrl-C in a terminal sends it."""
        if by is not None:
            os.killpg(self.process.pid, by)
        async with asyncio.timeout(_PATIENCE):
            code = await self.process.wait()
            await asyncio.gather(*self._readers)
        return Ended(code, "".join(self.out), "".join(self.err))


def environment_of(settings: Settings) -> dict[str, str]:
    """What makes a command use the same store."""
    tables = {f"DYNAMODB_TABLE_{name.upper()}": table_name(settings, name) for name in TABLES}
    endpoints = {
        "AWS_ENDPOINT_URL": settings.dynamodb_endpoint or "",
        "AWS_EVENTBRIDGE_ENDPOINT": settings.eventbridge_endpoint or "",
        "LINGER_SECONDS": str(settings.linger_seconds),
    }
    return tables | endpoints


def started(*arguments: str, **environment: str) -> AbstractAsyncContextManager[Command]:
    """`reservation` with these arguments, and no setting but these; killed at the end if it still runs."""
    return started_module("reservation", *arguments, **environment)


@asynccontextmanager
async def started_module(*module_and_arguments: str, **environment: str) -> AsyncIterator[Command]:
    """The same with another module than `reservation`."""
    inherited = {name: value for name, value in os.environ.items() if name not in _OURS}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", *module_and_arguments),
        cwd=REPOSITORY,
        env=inherited | {"METRICS_PORT": "0"} | environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    command = Command(process)
    command.listen()
    try:
        yield command
    finally:
        if process.returncode is None:
            process.kill()
            await command.end()


async def ended(*arguments: str, **environment: str) -> Ended:
    """The same, waited for."""
    async with started(*arguments, **environment) as command:
        return await command.end()
