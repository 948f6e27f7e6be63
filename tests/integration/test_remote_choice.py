"""Creates that leave the seats to another service's inventory: it chooses, with the hold, and both sides agree."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio

from reservation.domain.errors import IdempotencyConflict, InvalidRequest, InventoryServiceError, SeatUnavailable
from reservation.domain.model import Reservation, Seat, Status, Wish
from reservation.dynamodb.items import reservation_from_item
from reservation.gen.com.traffic_tacos.reservation import v1 as messages
from tests.support.inventory_proxy import Pass, Trouble, inventory_proxy
from tests.support.remote import PIT_PLACES, Died, Life, Sale, open_sale, settled
from tests.support.store import HOLD_MS, PRICE

pytestmark = pytest.mark.asyncio(loop_scope="module")

RESERVE = "ReserveSeat"
GAP = tuple(Seat(f"G-{number}", "Gap", "G", str(number), PRICE) for number in range(1, 6))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sale(ministack_url: str) -> AsyncIterator[Sale]:
    async with open_sale(ministack_url) as sale:
        await sale.other.sell(GAP)
        yield sale


@pytest.fixture
def pit(sale: Sale) -> str:
    """A section that no test has had yet."""
    return next(sale.pits)


async def test_the_other_service_chooses_with_the_hold_and_the_choice_is_told_once(sale: Sale, pit: str) -> None:
    seller = sale.seller()
    held = (await seller.create(key="key_wish", wish=Wish(2, pit))).reservation
    assert (held.status, held.version, held.wish) == (Status.HOLD, 1, None)
    assert [(seat.section, seat.row, seat.price) for seat in held.seats] == [(pit, "", PRICE)] * 2
    assert await sale.taken(pit) == {"HELD": 2}
    assert seller.life.steps == ["write", "reserve", "write"]
    (created,) = (await sale.own.rows()).details(held.id)
    assert created["reservation"]["seatIds"] == list(held.seat_ids)
    again = await sale.seller().create(key="key_wish", wish=Wish(2, pit))
    assert (again.replayed, again.reservation.id, again.reservation.seats) == (True, held.id, held.seats)
    with pytest.raises(IdempotencyConflict):
        await sale.seller().create(key="key_wish", wish=Wish(3, pit))
    assert await sale.wrong() == []


async def test_a_choice_is_extended_and_sold_like_named_seats(sale: Sale, pit: str) -> None:
    seller = sale.seller()
    held = (await seller.create(wish=Wish(3, pit))).reservation
    await seller.extend(held.id, 10_000)
    sale.own.clock.advance(HOLD_MS)
    assert (await seller.confirm(held.id)).reservation.seat_ids == held.seat_ids
    assert await sale.taken(pit) == {"SOLD": 3}
    assert await sale.wrong() == []


async def test_seats_that_are_apart_are_only_for_whoever_allows_it(sale: Sale) -> None:
    await sale.seller().create("G-3")
    with pytest.raises(SeatUnavailable):
        await sale.seller().create(wish=Wish(4, "Gap"))
    held = (await sale.seller().create(wish=Wish(4, "Gap", allow_split=True))).reservation
    assert sorted(held.seat_ids) == ["G-1", "G-2", "G-4", "G-5"]
    assert await sale.wrong() == []


async def test_of_many_equal_wishes_one_takes_effect(sale: Sale, pit: str) -> None:
    sellers = [sale.seller() for _ in range(3)]
    answers = await settled(*(sellers[n % 3].create(key="key_storm", wish=Wish(2, pit)) for n in range(9)))
    assert len({answer.reservation.id for answer in answers}) == 1
    assert await sale.taken(pit) == {"HELD": 2}
    assert await sale.wrong() == []


async def test_customers_who_want_more_than_there_is_get_all_of_it_between_them(sale: Sale, pit: str) -> None:
    answers = await settled(*(sale.seller().create(user=f"user_{n}", wish=Wish(2, pit)) for n in range(4)))
    assert sorted(type(answer).__name__ for answer in answers) == ["Recorded"] * 2 + ["SeatUnavailable"] * 2
    assert await sale.taken(pit) == {"HELD": 4}
    assert await sale.wrong() == []


async def test_when_nothing_is_left_the_refusal_names_no_seats_and_the_key_is_free(sale: Sale, pit: str) -> None:
    await sale.seller().create(wish=Wish(PIT_PLACES, pit))
    with pytest.raises(SeatUnavailable) as refused:
        await sale.seller().create(key="key_nothing", wish=Wish(1, pit))
    assert refused.value.seat_ids == ()
    assert (await sale.seller().create(key="key_nothing", wish=Wish(1, next(sale.pits)))).replayed is False
    assert await sale.wrong() == []


async def test_a_section_that_is_not_there_is_named_as_the_other_service_does_and_the_key_is_free(
    sale: Sale, pit: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await sale.seller().create(key="key_section", wish=Wish(1, "Balcony"))
    assert [violation.field for violation in refused.value.violations] == ["section"]
    assert (await sale.seller().create(key="key_section", wish=Wish(1, pit))).replayed is False
    assert await sale.wrong() == []


async def test_accessible_seats_cannot_be_asked_for_and_nothing_is_begun(sale: Sale, pit: str) -> None:
    before, seller = await sale.own.rows(), sale.seller()
    with pytest.raises(InvalidRequest) as refused:
        await seller.create(key="key_accessible", wish=Wish(1, pit, accessible=True))
    assert [violation.field for violation in refused.value.violations] == ["accessible"]
    assert (await sale.own.rows(), seller.life.steps) == (before, [])


class TestDeadBetweenPendingAndHold:
    """The process has recorded the wish; whether the other side has chosen by then makes no difference."""

    @pytest_asyncio.fixture(
        loop_scope="module",
        params=[(1, False), (1, True), (2, False)],
        ids=["unasked", "unanswered", "unrecorded"],
    )
    async def pending(self, sale: Sale, pit: str, request: pytest.FixtureRequest) -> Reservation:
        number, done = request.param
        with pytest.raises(Died):
            await sale.seller(life=Life(number, done)).create(key=f"key_{pit}", wish=Wish(2, pit))
        (pending,) = await _wishes(sale, pit)
        assert (pending.status, pending.seats, pending.wish) == (Status.PENDING, (), Wish(2, pit))
        return pending

    async def test_the_same_key_goes_on_with_the_same_reservation(
        self, sale: Sale, pit: str, pending: Reservation
    ) -> None:
        sale.own.clock.advance(2_000)
        resumed = (await sale.seller().create(key=f"key_{pit}", wish=Wish(2, pit))).reservation
        assert (resumed.id, resumed.status, len(resumed.seats)) == (pending.id, Status.HOLD, 2)
        assert await sale.taken(pit) == {"HELD": 2}
        assert (await sale.seller().create(key=f"key_{pit}", wish=Wish(2, pit))).replayed
        assert await sale.wrong() == []

    async def test_if_nobody_comes_back_recovery_gives_it_up(self, sale: Sale, pit: str, pending: Reservation) -> None:
        await sale.recover()
        assert (await sale.seller().get(pending.id)).status is Status.FAILED
        assert await sale.taken(pit) == {}
        another = (await sale.seller().create(key=f"key_{pit}", wish=Wish(2, pit))).reservation
        assert another.id != pending.id
        assert await sale.wrong() == []


def _too_few(seats: list[messages.Seat]) -> list[messages.Seat]:
    return seats[1:]


def _too_many(seats: list[messages.Seat]) -> list[messages.Seat]:
    return [*seats, messages.Seat("Pit-more", section=seats[0].section, price=seats[0].price)]


def _one_twice(seats: list[messages.Seat]) -> list[messages.Seat]:
    return [seats[0], seats[0]]


def _elsewhere(seats: list[messages.Seat]) -> list[messages.Seat]:
    return [seats[0], messages.Seat("B-1", section="Floor", row="B", number="1", price=seats[0].price)]


@pytest.mark.parametrize("lie", [_too_few, _too_many, _one_twice, _elsewhere])
async def test_an_answer_that_does_not_fulfil_the_wish_is_none_and_what_it_holds_is_released(
    sale: Sale, pit: str, lie: Callable[[list[messages.Seat]], list[messages.Seat]]
) -> None:
    async with inventory_proxy(sale.channel) as proxy:
        proxy.script(RESERVE, _telling(lie))
        with pytest.raises(InventoryServiceError):
            await sale.seller(channel=proxy.channel).create(key=f"key_{pit}", wish=Wish(2, pit))
        assert proxy.calls["ReleaseHold"] == 1
    assert [each.status for each in await _wishes(sale, pit)] == [Status.FAILED]
    assert await sale.taken(pit) == {}
    assert (await sale.seller().create(key=f"key_{pit}", wish=Wish(2, pit))).replayed is False
    assert await sale.wrong() == []


def _telling(lie: Callable[[list[messages.Seat]], list[messages.Seat]]) -> Trouble:
    """The hold is made as it was asked for, and its answer tells of other seats."""

    async def told(_: bytes, pass_on: Pass, __: Any) -> bytes:
        answer = messages.ReserveSeatResponse.parse(await pass_on())
        answer.reserved_seats = lie(answer.reserved_seats)
        return bytes(answer)

    return told


async def _wishes(sale: Sale, pit: str) -> list[Reservation]:
    """The own reservations whose seats in this section are not chosen, or never were."""
    made = [reservation_from_item(item) for item in (await sale.own.rows()).reservations]
    return [each for each in made if each.wish is not None and each.wish.section == pit]
