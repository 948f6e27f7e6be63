"""Every test here runs on each emulator and with each way to call it."""

from collections.abc import AsyncIterator

import pytest

from tests.support.store import Venue, Wire, open_venue


@pytest.fixture(params=["lean", "aiobotocore"])
def wire(request: pytest.FixtureRequest) -> Wire:
    name: Wire = request.param
    return name


@pytest.fixture
async def venue(backend_url: str, wire: Wire) -> AsyncIterator[Venue]:
    async with open_venue(backend_url, wire) as venue:
        yield venue
