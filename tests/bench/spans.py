"""A collector that takes spans and says nothing: `python -m tests.bench.spans` prints its port."""

import asyncio

import uvloop

from tests.support.collector import collecting


async def serve() -> None:
    async with collecting() as collector:
        print(collector.endpoint.rpartition(":")[2], flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve())
