"""Sales from another service's inventory: what customers get, and that both sides agree wherever a process dies."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from reservation.domain.errors import (
    IdempotencyConflict,
    InvalidRequest,
    ReservationAlreadyConfirmed,
    ReservationExpired,
    SeatUnavailable,
)
from reservation.domain.model import Status, Wish
from tests.support.remote import PITS, Died, Life, Sale, Seller, open_sale, settled, was_slow
from tests.support.store import HOLD_MS, PRICE, soon

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sale(backend_url: str) -> AsyncIterator[Sale]:
    async with open_sale(backend_url) as sale:
        yield sale


async def test_a_hold_is_made_on_both_sides_and_told_once(sale: Sale) -> None:
    seat_ids = sale.fresh(2)
    seller = sale.seller()
    held = (await seller.create(*seat_ids, key="key_hold")).reservation
    assert (held.status, held.version, held.seat_ids, held.seats[0].price) == (Status.HOLD, 1, seat_ids, PRICE)
    assert held.hold_expires_at == sale.own.clock.now() + HOLD_MS
    assert [await sale.seat(seat_id) for seat_id in seat_ids] == ["HELD", "HELD"]
    assert seller.life.steps == ["write", "reserve", "write"]
    assert [detail["type"] for detail in (await sale.own.rows()).details(held.id)] == ["reservation.created"]
    again = await sale.seller().create(*seat_ids, key="key_hold")
    assert (again.replayed, again.reservation.id) == (True, held.id)
    with pytest.raises(IdempotencyConflict):
        await sale.seller().create(*sale.fresh(), key="key_hold")
    assert await sale.wrong() == []


async def test_a_refusal_is_the_other_sides_own_and_leaves_no_record_of_the_key(sale: Sale) -> None:
    (seat_id,) = sale.fresh()
    await sale.seller().create(seat_id)
    for wanted, error in (((seat_id,), SeatUnavailable), ((*sale.fresh(), "Z-9"), InvalidRequest)):
        with pytest.raises(error) as refused:
            await sale.seller().create(*wanted, key="key_refused")
        if isinstance(refused.value, SeatUnavailable):
            assert refused.value.seat_ids == (seat_id,)
    # Failures are not stored: the same key with other content is another request.
    assert (await sale.seller().create(*sale.fresh(), key="key_refused")).reservation.status is Status.HOLD
    assert await sale.wrong() == []


async def test_a_sale_is_made_on_both_sides_with_its_order(sale: Sale) -> None:
    (seat_id,) = sale.fresh()
    seller = sale.seller()
    held = (await seller.create(seat_id)).reservation
    seller.life.steps.clear()
    sold = (await seller.confirm(held.id, key="key_sold")).reservation
    assert (sold.status, sold.version, sold.payment_intent_id) == (Status.CONFIRMED, 2, "pay_1")
    assert seller.life.steps == ["write", "commit", "write"]
    assert await sale.seat(seat_id) == "SOLD"
    assert (await sale.seller().confirm(held.id, key="key_sold")).replayed
    assert (await sale.seller().confirm(held.id)).reservation.order_id == sold.order_id
    with pytest.raises(ReservationAlreadyConfirmed):
        await sale.seller().confirm(held.id, "pay_2")
    assert await sale.wrong() == []


async def test_a_cancel_frees_the_seats_on_the_other_side(sale: Sale) -> None:
    (seat_id,) = sale.fresh()
    held = (await sale.seller().create(seat_id)).reservation
    cancelled = await sale.seller().cancel(held.id, key="key_cancel")
    assert cancelled.reservation.status is Status.CANCELLED
    assert await sale.seat(seat_id) == "AVAILABLE"
    assert (await sale.seller().cancel(held.id, key="key_cancel")).replayed
    assert await sale.wrong() == []


async def test_a_hold_ends_on_both_sides_and_can_be_sold_no_more(sale: Sale) -> None:
    (seat_id,) = sale.fresh()
    held = (await sale.seller().create(seat_id)).reservation
    sale.own.clock.advance(HOLD_MS)
    assert (await sale.seller().service.expire(held, soon())).status is Status.EXPIRED
    assert await sale.seat(seat_id) == "AVAILABLE"
    with pytest.raises(ReservationExpired):
        await sale.seller().confirm(held.id)
    assert await sale.wrong() == []


async def test_an_extended_hold_lasts_longer_on_both_sides(sale: Sale) -> None:
    (seat_id,) = sale.fresh()
    seller = sale.seller()
    held = (await seller.create(seat_id)).reservation
    extended = await seller.extend(held.id, 10_000)
    assert extended.hold_expires_at == held.hold_expires_at + 10_000
    sale.own.clock.advance(HOLD_MS)
    assert (await seller.confirm(held.id)).reservation.status is Status.CONFIRMED
    assert await sale.wrong() == []


async def test_of_many_equal_creates_one_takes_effect(sale: Sale) -> None:
    seat_ids = sale.fresh(2)
    sellers = [sale.seller() for _ in range(4)]
    answers = await settled(*(sellers[n % 4].create(*seat_ids, key="key_storm") for n in range(12)))
    assert {type(answer) for answer in answers} == {type(answers[0])}, answers
    assert len({answer.reservation.id for answer in answers}) == 1
    assert await sale.wrong() == []


async def test_of_many_customers_one_gets_the_seat(sale: Sale) -> None:
    (seat_id,) = sale.fresh()
    answers = await settled(*(sale.seller().create(seat_id, user=f"user_{n}") for n in range(8)))
    assert sorted(type(answer).__name__ for answer in answers) == ["Recorded"] + ["SeatUnavailable"] * 7
    assert await sale.wrong() == []


COMMANDS = {
    # the steps of each command, in their order
    "create": ["write", "reserve", "write"],
    "create by quantity": ["write", "reserve", "write"],
    "refused create": ["write", "reserve", "write"],
    "confirm": ["write", "commit", "write"],
    "refused confirm": ["write", "commit", "release", "write"],
    "cancel": ["write", "release", "write"],
    "expire": ["release", "write"],
    "extend": ["reserve", "write"],
}
DEATHS = [
    pytest.param(command, number, done, id=f"{command}, {'after' if done else 'before'} {number} {step}")
    for command, steps in COMMANDS.items()
    for number, step in enumerate(steps)
    for done in (False, True)
]


@pytest.mark.parametrize("command", COMMANDS)
async def test_the_steps_of_a_command_are_those_that_it_may_die_at(sale: Sale, command: str) -> None:
    seller = sale.seller()
    await _run(sale, seller, command, key=f"steps_{command}")
    assert seller.life.steps == COMMANDS[command]
    assert await sale.wrong() == []


@pytest.mark.parametrize("key", ["", "key"], ids=["keyless", "keyed"])
@pytest.mark.parametrize(("command", "number", "done"), DEATHS)
async def test_wherever_a_process_dies_both_sides_agree_in_the_end(
    sale: Sale, command: str, number: int, done: bool, key: str
) -> None:
    dying = sale.seller(life=Life(number, done))
    with pytest.raises(Died):
        await _run(sale, dying, command, key=key and f"{command}-{number}-{done}")
    await sale.recover()
    # Before its intent nobody has found out yet that the other side has lost the hold.
    if (command, number, done) != ("refused confirm", 0, False):
        assert await sale.wrong() == []
    await _end_all(sale)
    assert await sale.wrong() == []


async def _run(sale: Sale, seller: Seller, command: str, key: str) -> None:
    """The command by this process, of what another one has prepared."""
    if command == "create by quantity":
        await seller.create(key=key, wish=Wish(2, PITS[0]))  # all of them are free again before the next one
        return
    (seat_id,) = sale.fresh()
    helper = sale.seller()
    if command == "create":
        await seller.create(seat_id, key=key)
        return
    held = (await helper.create(seat_id)).reservation
    match command:
        case "refused create":
            await _refused(seller.create(seat_id, key=key), SeatUnavailable)
        case "confirm":
            await seller.confirm(held.id, key=key)
        case "refused confirm":
            await sale.keeper.release(held.id)
            await _refused(seller.confirm(held.id, key=key), ReservationExpired)
        case "cancel":
            await seller.cancel(held.id, key=key)
        case "extend":
            await seller.extend(held.id, 10_000)
        case "expire":
            sale.own.clock.advance(HOLD_MS)
            await seller.service.expire(held, soon())


async def _refused(call: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        await call


async def _end_all(sale: Sale) -> None:
    """The expirers of both services, at a time when every hold is over."""
    sale.own.clock.advance(HOLD_MS + 20_000)
    with capture_logs() as logged:
        for party in (sale.seller(), sale.keeper):
            for shard in range(16):
                for held in (await party.service.due(f"{shard:04d}", sale.own.clock.now(), None, soon())).holds:
                    await party.service.expire(held, soon())
    if was_slow(logged):
        await sale.recover()
