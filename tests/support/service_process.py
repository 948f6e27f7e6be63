"""The service as `reservation serve` runs it, with a clock that is off by so many milliseconds:
`python -m tests.support.service_process OFFSET`."""

import asyncio
import signal
import sys

import uvloop

from reservation import app
from reservation.settings import Settings
from reservation.telemetry import logs


async def main(clock_offset: int) -> None:
    """Serves until SIGTERM."""
    settings = Settings.from_environment()
    logs.configure(level=settings.log_level, log_format="json")
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with app.running(settings, clock_offset=clock_offset):
        await stop.wait()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
