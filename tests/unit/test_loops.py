"""Loops have an owner: one that dies is heard at once, and what goes on without it is ended."""

import asyncio

import pytest
from structlog.testing import capture_logs

from reservation.background.loops import LoopDied, Loops


class Boom(Exception):
    pass


async def dies() -> None:
    raise Boom


async def lives() -> None:
    await asyncio.Event().wait()


async def serve(loops: Loops, *doomed: str) -> None:
    """Until one of these loops dies."""
    async with loops.watched():
        for name in doomed:
            loops.start(dies(), name=name)
        await lives()


async def test_a_death_interrupts_what_is_served_and_is_told() -> None:
    with capture_logs() as logged, pytest.raises(LoopDied, match=r"expiry .*Boom") as raised:
        await serve(Loops(), "expiry")
    assert isinstance(raised.value.__cause__, Boom)
    assert [(entry["event"], entry["loop"]) for entry in logged] == [("loop.died", "expiry")]
    assert isinstance(logged[0]["exc_info"], Boom)


async def test_a_death_before_anything_is_served_counts() -> None:
    loops = Loops()
    with capture_logs():
        await asyncio.wait([loops.start(dies(), name="early")])
    with pytest.raises(LoopDied, match="early"):
        await serve(loops)


async def test_of_two_deaths_the_first_is_raised_and_both_are_told() -> None:
    with capture_logs() as logged, pytest.raises(LoopDied, match="first"):
        await serve(Loops(), "first", "second")
    assert [entry["loop"] for entry in logged] == ["first", "second"]


async def test_what_is_interrupted_may_take_its_time_to_end() -> None:
    loops = Loops()
    ended = []

    async def serve_and_clear_up() -> None:
        async with loops.watched():
            loops.start(dies(), name="expiry")
            try:
                await lives()
            finally:
                await asyncio.sleep(0)
                loops.start(dies(), name="another")
                await asyncio.sleep(0)
                ended.append("well")

    with capture_logs(), pytest.raises(LoopDied, match="expiry"):
        await serve_and_clear_up()
    assert ended == ["well"]


async def test_a_death_while_all_ends_is_told_and_disturbs_nothing() -> None:
    loops = Loops()
    async with loops.watched():
        pass
    with capture_logs() as logged:
        loops.start(dies(), name="late")
        await asyncio.sleep(0)
        await loops.stop()
        await asyncio.sleep(0)
    assert [entry["loop"] for entry in logged] == ["late"]


async def test_a_loop_that_returns_or_is_stopped_did_not_die() -> None:
    loops = Loops()
    with capture_logs() as logged:
        async with loops.watched():
            await loops.start(asyncio.sleep(0), name="returns")
            loop = loops.start(lives(), name="lives")
            await asyncio.sleep(0)
            await loops.stop()
            assert loop.cancelled()
    assert logged == []


@pytest.mark.parametrize("error", [Boom, TimeoutError, asyncio.CancelledError])
async def test_what_the_block_raises_stays_what_it_is(error: type[BaseException]) -> None:
    with pytest.raises(error):
        async with Loops().watched():
            raise error
