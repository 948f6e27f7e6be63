"""Whether the bus is there: asked until it is known, and nothing is published before."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from structlog.testing import capture_logs

from reservation.background.bus import Bus, BusCheck
from reservation.eventbridge import EventBridge
from tests.support.aws import quick_client
from tests.support.event_bus_proxy import EventBusProxy
from tests.support.faults import RejectBefore

DENIED = RejectBefore("AccessDeniedException")

Step = Callable[[], None]


@asynccontextmanager
async def check_of(proxy: EventBusProxy, *steps: Step) -> AsyncIterator[BusCheck]:
    """A check of the bus "bus" that takes a step each time that it would wait."""
    ahead = iter(steps)

    async def pause(_seconds: float) -> None:
        next(ahead)()

    async with quick_client("events", proxy.url) as client:
        yield BusCheck(EventBridge(client, "bus", timeout=60), "bus", pause=pause)


def nothing() -> None:
    pass


async def test_a_bus_that_is_there_is_not_asked_for_again() -> None:
    async with EventBusProxy() as proxy, check_of(proxy) as check:
        assert not check.may_publish
        assert await check.check() is Bus.THERE
        assert check.may_publish
        await check.run()
        assert proxy.checks == 1


async def test_it_asks_until_eventbridge_answers() -> None:
    async with EventBusProxy() as proxy:
        proxy.down = True

        def still_down() -> None:
            assert not check.may_publish
            assert check.problem is None, "somebody else has to mend that"

        def up() -> None:
            proxy.down = False

        async with check_of(proxy, still_down, up) as check:
            with capture_logs() as logged:
                assert await check.check() is Bus.UNCHECKED
                await check.run()
            assert check.may_publish
        assert [entry["event"] for entry in logged] == ["bus.unchecked", "bus.unchecked", "bus.known"]


async def test_a_bus_that_turns_out_to_be_missing_is_told_once_and_waited_for() -> None:
    """https://github.com/aws/aws-sdk/issues/186 https://github.com/aws/aws-cli/issues/9186"""
    async with EventBusProxy() as proxy:
        proxy.buses.clear()
        proxy.fail_checks(*[RejectBefore("InternalException", 500) for _ in range(5)])

        def still_missing() -> None:
            assert not check.may_publish
            assert check.problem == "there is no event bus bus"

        def made() -> None:
            proxy.buses.add("bus")

        async with check_of(proxy, nothing, still_missing, still_missing, made) as check:
            with capture_logs() as logged:
                assert await check.check() is Bus.UNCHECKED
                await check.run()
            assert check.may_publish
            assert check.problem is None
        told = [(entry["event"], entry["log_level"]) for entry in logged]
        assert told == [("bus.unchecked", "warning"), ("bus.missing", "error"), ("bus.known", "info")]


async def test_who_may_not_ask_publishes_and_does_not_ask_again() -> None:
    async with EventBusProxy() as proxy, check_of(proxy) as check:
        proxy.fail_checks(DENIED)
        with capture_logs() as logged:
            assert await check.check() is Bus.UNTOLD
            await check.run()
        assert check.may_publish
        assert proxy.checks == 1
        assert [entry["event"] for entry in logged] == ["bus.unchecked"]


@pytest.mark.parametrize("refusal", [DENIED, RejectBefore("ServiceUnavailable", 400)])
async def test_a_missing_bus_is_missing_until_it_is_seen(refusal: RejectBefore) -> None:
    async with EventBusProxy() as proxy, check_of(proxy) as check:
        proxy.buses.clear()
        assert await check.check() is Bus.MISSING
        proxy.fail_checks(*[refusal for _ in range(1 if refusal is DENIED else 5)])
        with capture_logs():
            assert await check.check() is Bus.MISSING
        assert not check.may_publish
