"""deploy/smoke-test, as the runbook says to run it."""

import asyncio
import os
import subprocess

import pytest

from tests.support.edge import REPOSITORY
from tests.support.system import EVENT_ID, Edge, System

pytestmark = pytest.mark.asyncio(loop_scope="module")

SMOKE_TEST = REPOSITORY / "deploy" / "smoke-test"


async def smoke_test(system: System, edge: Edge, event: str) -> subprocess.CompletedProcess[str]:
    """The loop goes on meanwhile, for the service is in it."""
    places = {"REST": str(edge.rest.base_url).rstrip("/"), "GRPC": system.address, "EVENT": event}
    return await asyncio.to_thread(
        subprocess.run, [SMOKE_TEST], env=os.environ | places, capture_output=True, text=True, timeout=60
    )


async def test_a_service_that_can_sell_passes_and_nothing_stays_held(system: System, edge: Edge) -> None:
    done = await smoke_test(system, edge, EVENT_ID)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("ok: ") == 9
    assert [item["status"]["S"] for item in await system.items("reservations")] == ["CANCELLED"]


async def test_a_service_that_cannot_fails_with_what_it_said(system: System, edge: Edge) -> None:
    done = await smoke_test(system, edge, "evt_none")
    assert done.returncode == 1
    assert "FAILED: a seat is held" in done.stderr
    assert "EVENT_NOT_FOUND" in done.stderr
