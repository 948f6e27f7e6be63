"""Commands under way: equal ones share a flight, and every flight lands whoever still waits for it."""

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from reservation.domain.errors import (
    IdempotencyInProgress,
    RateLimitExceeded,
    SeatUnavailable,
    ServiceUnavailable,
    UpstreamTimeout,
)
from reservation.flights import MOST, Flights, Landed

PATIENT, IMPATIENT, OUT_OF_TIME = float("inf"), 1e12, 0.0
"""As `until`: as long as it takes, less than that (though longer than any test), and up on arrival."""

GIVEN_UP = [UpstreamTimeout(), ServiceUnavailable(), IdempotencyInProgress()]
"""How a command ends that ran out of time; everything else is a verdict."""


class Command:
    """Counts how often it is begun and waits for its release; `outcomes` are told in turn, exceptions raised."""

    def __init__(self, *outcomes: str | Exception) -> None:
        self.begun = 0
        self.ended = 0
        self.under_way = asyncio.Event()
        self.release = asyncio.Event()
        self._outcomes = outcomes

    async def __call__(self) -> str:
        outcome = self._outcomes[min(self.begun, len(self._outcomes) - 1)]
        self.begun += 1
        self.under_way.set()
        await self.release.wait()
        self.ended += 1
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


async def together(calls: int, command: Command, call: Callable[[], Awaitable[Any]]) -> list[Any]:
    """The results (or exceptions) of that many callers, of which the last arrives before the command is released."""
    arrived = 0

    async def arrive() -> Any:
        nonlocal arrived
        arrived += 1
        if arrived == calls:
            command.release.set()  # nobody else runs before this caller waits, too
        return await call()

    return await asyncio.gather(*(arrive() for _ in range(calls)), return_exceptions=True)


async def test_equal_commands_share_one_flight() -> None:
    flights, command = Flights(), Command("sold")
    landed = await together(3, command, lambda: flights.run("key", command, PATIENT))
    assert command.begun == 1
    assert landed == [Landed("sold", joined=False), Landed("sold", joined=True), Landed("sold", joined=True)]


async def test_a_failure_is_shared_as_well() -> None:
    flights, command = Flights(), Command(SeatUnavailable(["A-12"]))
    landed = await together(3, command, lambda: flights.run("key", command, PATIENT))
    assert command.begun == 1
    assert [type(each) for each in landed] == [SeatUnavailable] * 3


async def test_commands_without_a_key_are_like_no_other() -> None:
    flights, command = Flights(), Command("sold")
    landed = await together(3, command, lambda: flights.run(None, command, PATIENT))
    assert command.begun == 3
    assert landed == [Landed("sold", joined=False)] * 3


async def test_other_keys_fly_apart() -> None:
    flights, command, keys = Flights(), Command("sold"), iter("abc")
    landed = await together(3, command, lambda: flights.run(next(keys), command, PATIENT))
    assert command.begun == 3
    assert landed == [Landed("sold", joined=False)] * 3


@pytest.mark.parametrize("first", ["sold", SeatUnavailable(["A-12"])], ids=["landed", "failed"])
async def test_a_flight_that_is_over_is_joined_by_nobody(first: str | Exception) -> None:
    flights, command = Flights(), Command(first, "sold again")
    command.release.set()
    await asyncio.gather(flights.run("key", command, PATIENT), return_exceptions=True)
    assert await flights.run("key", command, PATIENT) == Landed("sold again", joined=False)


async def test_a_caller_leaves_and_the_flight_ends() -> None:
    flights, command = Flights(), Command("sold")
    caller = asyncio.create_task(flights.run("key", command, PATIENT))
    await command.under_way.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert command.ended == 0
    command.release.set()
    await flights.drain()
    assert command.ended == 1


async def test_one_caller_leaves_and_the_others_hear_the_outcome() -> None:
    flights, command = Flights(), Command("sold")
    leader = asyncio.create_task(flights.run("key", command, PATIENT))
    await command.under_way.wait()
    followers = together(2, command, lambda: flights.run("key", command, PATIENT))
    leader.cancel()
    assert await followers == [Landed("sold", joined=True)] * 2
    assert command.begun == 1
    assert leader.cancelled()


async def test_a_caller_whose_time_is_up_is_told_so_and_the_flight_goes_on() -> None:
    flights, command = Flights(), Command("sold")
    with pytest.raises(UpstreamTimeout):
        await flights.run("key", command, OUT_OF_TIME)
    await command.under_way.wait()
    command.release.set()
    assert await flights.run("key", command, PATIENT) == Landed("sold", joined=True)
    assert command.begun == 1


@pytest.mark.parametrize("given_up", GIVEN_UP, ids=lambda error: type(error).__name__)
async def test_a_follower_with_more_patience_leads_a_new_flight(given_up: Exception) -> None:
    """A flight gives up when its first caller's time is up; those who have more time ask again, together."""
    flights, command, untils = Flights(), Command(given_up, "sold"), iter([IMPATIENT, PATIENT, PATIENT])
    landed = await together(3, command, lambda: flights.run("key", command, next(untils)))
    assert landed == [given_up, Landed("sold", joined=False), Landed("sold", joined=True)]
    assert command.begun == 2


@pytest.mark.parametrize("given_up", GIVEN_UP, ids=lambda error: type(error).__name__)
async def test_a_follower_with_no_more_patience_gives_up_with_the_flight(given_up: Exception) -> None:
    flights, command, untils = Flights(), Command(given_up, "sold"), iter([PATIENT, PATIENT, IMPATIENT])
    landed = await together(3, command, lambda: flights.run("key", command, next(untils)))
    assert landed == [given_up] * 3
    assert command.begun == 1


async def test_a_verdict_is_final_however_patient_a_follower_is() -> None:
    taken = SeatUnavailable(["A-12"])
    flights, command, untils = Flights(), Command(taken, "sold"), iter([IMPATIENT, PATIENT])
    landed = await together(2, command, lambda: flights.run("key", command, next(untils)))
    assert landed == [taken, taken]
    assert command.begun == 1


async def test_a_follower_whose_time_is_up_leaves_without_beginning_another_flight() -> None:
    flights, command = Flights(), Command("sold")
    leader = asyncio.create_task(flights.run("key", command, PATIENT))
    await command.under_way.wait()
    with pytest.raises(UpstreamTimeout):
        await flights.run("key", command, OUT_OF_TIME)
    command.release.set()
    assert await leader == Landed("sold", joined=False)
    assert command.begun == 1


async def test_drain_waits_for_flights_begun_while_it_waits() -> None:
    flights, first, second = Flights(), Command("sold"), Command("sold")
    callers: list[asyncio.Task[Landed[str]]] = []

    async def land_after_beginning_the_second() -> str:
        await first()
        callers.append(asyncio.create_task(flights.run(None, second, PATIENT)))
        await second.under_way.wait()
        return "sold"

    async def drain() -> int:
        await flights.drain()
        return second.ended

    callers.append(asyncio.create_task(flights.run(None, land_after_beginning_the_second, PATIENT)))
    await first.under_way.wait()
    draining = asyncio.create_task(drain())
    first.release.set()
    await callers[0]
    second.release.set()
    assert await draining == 1
    assert await callers[1] == Landed("sold", joined=False)


async def test_drain_of_nothing_is_over_at_once() -> None:
    await Flights().drain()


async def test_a_failure_that_no_caller_is_left_to_hear_makes_no_noise() -> None:
    """asyncio complains of a task whose exception nobody took, when it is collected."""
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context))
    flights, command = Flights(), Command(SeatUnavailable(["A-12"]))
    with pytest.raises(UpstreamTimeout):
        await flights.run("key", command, OUT_OF_TIME)
    await command.under_way.wait()
    command.release.set()
    await flights.drain()
    del command
    gc.collect()
    await asyncio.sleep(0)
    assert complaints == []


async def test_flights_that_nobody_waits_for_are_limited_and_equal_ones_still_join() -> None:
    flights, command = Flights(), Command("sold")
    for number in range(MOST):
        with pytest.raises(UpstreamTimeout):
            await flights.run(number, command, OUT_OF_TIME)
    with pytest.raises(RateLimitExceeded):
        await flights.run("another", command, PATIENT)
    joining = asyncio.create_task(flights.run(0, command, PATIENT))
    await asyncio.sleep(0)
    command.release.set()
    assert await joining == Landed("sold", joined=True)
    await flights.drain()
    assert (await flights.run("another", command, PATIENT)).result == "sold"
