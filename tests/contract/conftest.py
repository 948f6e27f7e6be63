"""Every test here runs on each emulator, and on one of them with each way to call it."""

from collections.abc import AsyncIterator

import pytest

from tests.support.store import Venue, Wire, open_venue


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """How a request is sent and what an engine makes of it do not meet, so the second way is tried on one engine."""
    left_out = [item for item in items if _is_left_out(item)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in set(left_out)]


def _is_left_out(item: pytest.Item) -> bool:
    params = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    return (params.get("backend_url"), params.get("wire")) == ("dynamodb-local", "aiobotocore")


@pytest.fixture(params=["lean", "aiobotocore"])
def wire(request: pytest.FixtureRequest) -> Wire:
    name: Wire = request.param
    return name


@pytest.fixture
async def venue(backend_url: str, wire: Wire) -> AsyncIterator[Venue]:
    async with open_venue(backend_url, wire) as venue:
        yield venue
