"""Of many who want a seat at the same time one writes, and the others hear what has become of it."""

import asyncio
from contextlib import suppress
from dataclasses import replace

import pytest

from reservation.domain.model import Money, Reservation, Seat
from reservation.dynamodb.takers import Takers
from tests.unit.examples import HOLD

FOR_EVER = 1e9


def draft_of(*seat_ids: str) -> Reservation:
    return replace(HOLD, seats=tuple(Seat(each, "Floor", "A", each, Money(1, "KRW")) for each in seat_ids))


async def ahead(takers: Takers, *seat_ids: str) -> "asyncio.Task[dict[str, str] | None]":
    """What somebody who wants these seats hears; has begun to wait if there is somebody to wait for."""
    waiting = asyncio.create_task(takers.ahead(draft_of(*seat_ids), FOR_EVER))
    await asyncio.sleep(0)
    return waiting


@pytest.fixture
def takers() -> Takers:
    return Takers()


async def test_nobody_waits_for_those_who_want_other_seats(takers: Takers) -> None:
    with takers.taking(draft_of("A-1", "A-2")):
        other_event = replace(draft_of("A-1"), event_id="evt_other")
        assert await takers.ahead(draft_of("A-3"), FOR_EVER) is None
        assert await takers.ahead(other_event, FOR_EVER) is None
    assert await takers.ahead(draft_of("A-1"), FOR_EVER) is None


async def test_who_waits_hears_which_of_the_seats_were_taken_and_by_which_request(takers: Takers) -> None:
    with takers.taking(draft_of("A-1", "A-2")) as one, takers.taking(draft_of("A-3")) as other:
        waiting = await ahead(takers, "A-2", "A-3", "A-4")
        one("key_1")
        other("")
    assert await waiting == {"A-2": "key_1", "A-3": ""}


async def test_one_seat_that_was_taken_is_enough(takers: Takers) -> None:
    with takers.taking(draft_of("A-1")) as one, takers.taking(draft_of("A-2")):
        waiting = await ahead(takers, "A-1", "A-2")
        one("key_1")
        assert await waiting == {"A-1": "key_1"}


@pytest.mark.parametrize("error", [ValueError, asyncio.CancelledError])
async def test_who_takes_nothing_lets_the_others_go_on(takers: Takers, error: type[BaseException]) -> None:
    with suppress(error), takers.taking(draft_of("A-1")):
        waiting = await ahead(takers, "A-1")
        raise error
    assert await waiting == {}


async def test_nobody_waits_when_his_patience_has_ended(takers: Takers) -> None:
    with takers.taking(draft_of("A-1")):
        assert await takers.ahead(draft_of("A-1"), 0.0) is None


@pytest.mark.parametrize(("until", "end"), [(102.5, 100.1), (100.1, 100.05), (100.0, 100.0), (99.0, 99.5)])
def test_patience_leaves_time_to_write(until: float, end: float) -> None:
    takers = Takers(patience_seconds=0.1, monotonic=lambda: 100.0)
    assert takers.patience(until) == pytest.approx(end)


async def test_who_goes_on_without_those_ahead_is_the_one_who_is_waited_for(takers: Takers) -> None:
    with takers.taking(draft_of("A-1")) as stuck:
        with takers.taking(draft_of("A-1")) as other:
            waiting = await ahead(takers, "A-1")
            other("key_2")
        assert await waiting == {"A-1": "key_2"}
        stuck("key_1")
        assert await takers.ahead(draft_of("A-1"), FOR_EVER) is None


async def test_who_is_stuck_and_ends_leaves_the_next_one_in_its_place(takers: Takers) -> None:
    stuck, other = takers.taking(draft_of("A-1")), takers.taking(draft_of("A-1"))
    with stuck:
        took = other.__enter__()
    waiting = await ahead(takers, "A-1")
    took("key_2")
    assert await waiting == {"A-1": "key_2"}
    other.__exit__(None, None, None)
    assert await takers.ahead(draft_of("A-1"), FOR_EVER) is None


async def test_a_caller_that_leaves_takes_nothing_from_the_others(takers: Takers) -> None:
    with takers.taking(draft_of("A-1")) as first:
        leaving, staying = await ahead(takers, "A-1"), await ahead(takers, "A-1")
        leaving.cancel()
        await asyncio.wait([leaving])
        first("key_1")
    assert await staying == {"A-1": "key_1"}


async def test_seats_that_may_have_been_taken_long_ago_are_no_news() -> None:
    """They may have been given back since."""
    now = [0.0]
    takers = Takers(monotonic=lambda: now[0])
    with takers.taking(draft_of("A-1")) as took:
        waiting = await ahead(takers, "A-1")
        now[0] = 0.25
        took("key_1")
    assert await waiting == {}
