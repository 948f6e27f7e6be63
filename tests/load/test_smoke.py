"""The load runs in small: everything that they check but how fast it was."""

from typing import Any

import pytest

from tests.load import k6, stack
from tests.load.k6 import Doors
from tests.load.runs import RESTARTED, SCRIPTS, Load, audited, rolling_restart, sale
from tests.support.edge import edge_over_stub

FEW = Load(rate=12, seconds=3, timed=False, quiet=0)


@pytest.mark.timeout(300)
async def test_every_sale_is_without_failures_and_leaves_no_broken_promise() -> None:
    async with stack.up(services=1, seats=FEW.seats) as system:
        reports = {script: await sale(script, system, FEW) for script in SCRIPTS}
        reports["audit"] = await audited(system, FEW, {"problems": []})
    assert [report["problems"] for report in reports.values()] == [[]] * len(reports), reports
    answered: dict[str, Any] = {each: report.get("p95_ms_of", {}) for each, report in reports.items()}
    assert {"create", "confirm", "cancel"} <= answered["flash_sale"].keys()
    assert {"create", "extend", "confirm", "cancel"} <= answered["steady_sale"].keys()
    assert {"get", "list", "inventory", "seats", "create"} <= answered["read_heavy"].keys()
    assert reports["flash_sale"]["refused"].keys() == {"SEAT_UNAVAILABLE"}
    assert reports["audit"]["audit"].startswith("clean: ")


@pytest.mark.timeout(300)
async def test_a_round_of_restarts_fails_no_request_of_either_door() -> None:
    async with stack.up(services=RESTARTED, seats=FEW.seats) as system:
        report = await rolling_restart(system, FEW, rounds=1, requests=300)
        report = await audited(system, FEW, report)
    assert report["problems"] == [], report
    assert report["restarts"] == RESTARTED
    assert min(report["native_requests"], report["requests"] - report["native_requests"]) > 50


async def test_a_body_that_is_not_as_promised_is_a_failed_request() -> None:
    """The stub confirms and cancels without saying what."""
    async with edge_over_stub() as world:
        doors = Doors(world.edge.url, (f"127.0.0.1:{world.stub.port}",))
        measured = await k6.run("flash_sale", doors, **FEW.variables(most_failed="rate<0.01"))
    assert 0 < measured.failed < measured.requests
    assert "wrong count==0" in measured.missed
    assert any("wrong body:  instead of rsv_1" in line for line in measured.told), measured.told
