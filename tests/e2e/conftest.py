"""The service with a real Envoy before it, one a module. A module that needs another service makes its own `system`."""

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.support.system import Edge, System, edge_of, own_settings, selling


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(ministack_url: str) -> AsyncIterator[System]:
    async with selling(own_settings(ministack_url)) as system:
        yield system


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def edge(system: System) -> AsyncIterator[Edge]:
    async with edge_of(system) as edge:
        yield edge
