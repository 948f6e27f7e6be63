"""The process that makes the load: tests.bench.offer, as other benchmarks ask it."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from subprocess import PIPE

from tests.bench import processes
from tests.bench.offer import Offer, Offered


class Generator:
    """One offer at a time."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._stdin, self._stdout = process.stdin, process.stdout

    async def make(self, offer: Offer) -> Offered:
        self._stdin.write(json.dumps(asdict(offer)).encode() + b"\n")
        return Offered(**json.loads(await self._stdout.readline()))


@asynccontextmanager
async def offering(url: str) -> AsyncIterator[Generator]:
    """It loads the REST door at `url`."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.bench.offer", host, port, cwd=processes.ROOT, stdin=PIPE, stdout=PIPE
    )
    try:
        yield Generator(process)
    finally:
        process.terminate()
        await process.wait()
