"""The service as `reservation serve` runs it, with a clock that is off by so many milliseconds, and may be by so many
seconds if they are named: `python -m tests.support.service_process OFFSET [TOLERANCE]`."""

import asyncio
import signal
import sys

import uvloop

from reservation import app
from reservation.clock import TOLERANCE_SECONDS
from reservation.settings import Settings
from reservation.telemetry import logs


async def main(clock_offset: int, clock_tolerance: float) -> None:
    """Serves until SIGTERM."""
    settings = Settings.from_environment()
    logs.configure(level=settings.log_level, log_format="json")
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with app.running(settings, clock_offset=clock_offset, clock_tolerance=clock_tolerance):
        await stop.wait()


if __name__ == "__main__":
    offset, *tolerance = sys.argv[1:]
    uvloop.run(main(int(offset), float(tolerance[0]) if tolerance else TOLERANCE_SECONDS))
