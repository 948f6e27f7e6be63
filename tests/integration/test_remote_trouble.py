"""Sales from an inventory that is slow, down, talks garbage or lies."""

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio

from reservation.audit.promises import Graces
from reservation.audit.reading import Audit
from reservation.domain.errors import (
    IdempotencyConflict,
    IdempotencyInProgress,
    InventoryServiceError,
    ReservationExpired,
    SeatUnavailable,
    ServiceUnavailable,
    UpstreamTimeout,
)
from reservation.domain.idempotency import scoped_key
from reservation.domain.model import Reservation, Status, order_id_of
from reservation.dynamodb.items import reservation_from_item, running_to_item, seat_state_from_item
from reservation.gen.com.traffic_tacos.reservation import v1 as messages
from reservation.inventory.breaker import CircuitOpen
from reservation.service import CONFIRM
from tests.support.faults import FOR_EVER, Hold
from tests.support.inventory_proxy import (
    Delay,
    InventoryProxy,
    Late,
    Trouble,
    answer,
    inventory_proxy,
    lose_reply,
    lose_request,
    never_answer,
    time_out,
)
from tests.support.remote import Sale, Seller, open_sale, settled
from tests.support.store import HOLD_MS, SKEW_MS, soon
from tests.support.verdicts import CONFLICT, EVERYTHING_CONFLICTS, failed, script_verdict, transaction

pytestmark = pytest.mark.asyncio(loop_scope="module")

RESERVE, COMMIT, RELEASE = "ReserveSeat", "CommitReservation", "ReleaseHold"
HOLD, CONFIRMED = messages.ReservationStatus.HOLD, messages.ReservationStatus.CONFIRMED


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sale(ministack_url: str) -> AsyncIterator[Sale]:
    async with open_sale(ministack_url) as sale:
        yield sale


@pytest_asyncio.fixture(loop_scope="module")
async def proxy(sale: Sale) -> AsyncIterator[InventoryProxy]:
    """In the end nothing is wrong on either side, whatever the test has done to the calls between them."""
    async with inventory_proxy(sale.channel) as proxy:
        yield proxy
        await sale.recover()
        assert await sale.wrong() == []


async def test_a_hold_that_is_not_answered_in_time_is_undone_on_both_sides(sale: Sale, proxy: InventoryProxy) -> None:
    (seat_id,) = sale.fresh()
    proxy.script(RESERVE, never_answer)
    seller = sale.seller(channel=proxy.channel, timeout=1.5)
    began = time.monotonic()
    with pytest.raises(InventoryServiceError):
        await seller.create(seat_id, key="key_timeout")
    assert time.monotonic() - began >= 1.5
    (failed,) = await _made_of(sale, seat_id)
    assert (failed.status, failed.version) == (Status.FAILED, 0)
    rows = await sale.own.rows()
    assert rows.details(failed.id) == []
    assert await sale.seat(seat_id) == "AVAILABLE"
    again = (await sale.seller().create(seat_id, key="key_timeout")).reservation
    assert (again.status, again.id != failed.id) == (Status.HOLD, True)


@pytest.mark.parametrize("trouble", [lose_request, lose_reply, time_out])
async def test_whatever_became_of_the_call_nothing_stays_held(
    sale: Sale, proxy: InventoryProxy, trouble: Trouble
) -> None:
    (seat_id,) = sale.fresh()
    proxy.script(RESERVE, trouble)
    with pytest.raises(InventoryServiceError):
        await sale.seller(channel=proxy.channel).create(seat_id)
    assert await sale.seat(seat_id) == "AVAILABLE"
    assert [made.status for made in await _made_of(sale, seat_id)] == [Status.FAILED]


async def test_a_call_that_arrives_after_it_was_given_up_holds_nothing(sale: Sale, proxy: InventoryProxy) -> None:
    (seat_id,) = sale.fresh()
    late = Late()
    proxy.script(RESERVE, late)
    with pytest.raises(InventoryServiceError):
        await sale.seller(channel=proxy.channel).create(seat_id)
    late.event.set()
    await late.arrived.wait()
    assert await sale.seat(seat_id) == "AVAILABLE"


class TestUndecidedHolds:
    """The other side answered neither the hold nor its release."""

    async def _pending(self, sale: Sale, proxy: InventoryProxy, seat_id: str, key: str) -> Reservation:
        proxy.script(RESERVE, lose_reply)
        proxy.script(RELEASE, lose_request)
        with pytest.raises(InventoryServiceError):
            await sale.seller(channel=proxy.channel).create(seat_id, key=key)
        (pending,) = await _made_of(sale, seat_id)
        assert pending.status is Status.PENDING
        return pending

    async def test_an_equal_request_waits_a_second_while_the_first_may_go_on(
        self, sale: Sale, proxy: InventoryProxy
    ) -> None:
        (seat_id,) = sale.fresh()
        await self._pending(sale, proxy, seat_id, "key_wait")
        began = time.monotonic()
        with pytest.raises(IdempotencyInProgress):
            await sale.seller().create(seat_id, key="key_wait")
        assert time.monotonic() - began >= 1.0

    async def test_after_the_lease_an_equal_request_goes_on_with_the_same_reservation(
        self, sale: Sale, proxy: InventoryProxy
    ) -> None:
        (seat_id,) = sale.fresh()
        pending = await self._pending(sale, proxy, seat_id, "key_resume")
        sale.own.clock.advance(2_000)
        resumed = (await sale.seller().create(seat_id, key="key_resume")).reservation
        assert (resumed.id, resumed.status) == (pending.id, Status.HOLD)
        assert (await sale.seller().create(seat_id, key="key_resume")).replayed

    async def test_if_nobody_comes_back_recovery_undoes_it(self, sale: Sale, proxy: InventoryProxy) -> None:
        (seat_id,) = sale.fresh()
        pending = await self._pending(sale, proxy, seat_id, "key_recover")
        assert await sale.seat(seat_id) == "HELD"
        await sale.recover()
        assert (await sale.seller().get(pending.id)).status is Status.FAILED
        assert await sale.seat(seat_id) == "AVAILABLE"
        assert (await sale.seller().create(seat_id, key="key_recover")).reservation.id != pending.id


async def test_a_sale_whose_answer_is_lost_is_asked_for_again(sale: Sale, proxy: InventoryProxy) -> None:
    held = (await sale.seller().create(*sale.fresh())).reservation
    proxy.script(COMMIT, lose_reply, lose_request)
    sold = (await sale.seller(channel=proxy.channel).confirm(held.id)).reservation
    assert (sold.status, proxy.calls[COMMIT]) == (Status.CONFIRMED, 3)


class TestIntents:
    """A sale that was asked for and never answered. Nothing takes it back."""

    async def _intent(self, sale: Sale, proxy: InventoryProxy, key: str = "", trouble: Trouble = lose_request) -> str:
        held = (await sale.seller().create(*sale.fresh())).reservation
        proxy.always(COMMIT, trouble)
        await _confirm_in_vain(sale, proxy, held, key=key)
        proxy.always(COMMIT, None)
        return held.id

    async def test_it_reads_as_a_hold_and_never_runs_out(self, sale: Sale, proxy: InventoryProxy) -> None:
        reservation_id = await self._intent(sale, proxy)
        sale.own.clock.advance(HOLD_MS + SKEW_MS + 1)
        intent = await sale.seller().get(reservation_id)
        assert intent.status is Status.HOLD
        due = await sale.seller().service.due(intent.shard, sale.own.clock.now(), None, soon())
        assert reservation_id not in {held.id for held in due.holds}
        assert (await sale.seller().service.expire(intent, soon())).status is Status.HOLD

    async def test_another_payment_and_a_cancel_wait_for_it(self, sale: Sale, proxy: InventoryProxy) -> None:
        reservation_id = await self._intent(sale, proxy)
        for command in (sale.seller().confirm(reservation_id, "pay_2"), sale.seller().cancel(reservation_id)):
            with pytest.raises(IdempotencyInProgress):
                await command

    @pytest.mark.parametrize("trouble", [lose_request, lose_reply])
    async def test_recovery_sells_it(self, sale: Sale, proxy: InventoryProxy, trouble: Trouble) -> None:
        reservation_id = await self._intent(sale, proxy, "key_intent" + trouble.__name__, trouble)
        await sale.recover()
        sold = await sale.seller().confirm(reservation_id, key="key_intent" + trouble.__name__)
        assert (sold.reservation.status, sold.replayed) == (Status.CONFIRMED, True)

    async def test_its_event_tells_the_trace_of_whoever_began_it(self, sale: Sale, proxy: InventoryProxy) -> None:
        held = (await sale.seller().create(*sale.fresh(), traceparent="trace-create")).reservation
        proxy.always(COMMIT, lose_request)
        await _confirm_in_vain(sale, proxy, held, traceparent="trace-confirm")
        await sale.recover()
        told = [detail["traceparent"] for detail in (await sale.own.rows()).details(held.id)]
        assert told == ["trace-create", "trace-confirm"]

    async def test_the_same_payment_after_the_lease_brings_it_to_its_end(
        self, sale: Sale, proxy: InventoryProxy
    ) -> None:
        reservation_id = await self._intent(sale, proxy, "key_again")
        sale.own.clock.advance(2_000)
        assert (await sale.seller().confirm(reservation_id, key="key_again")).reservation.status is Status.CONFIRMED

    async def test_what_was_sold_before_its_hold_ended_is_sold_however_late_that_is_heard(
        self, sale: Sale, proxy: InventoryProxy
    ) -> None:
        reservation_id = await self._intent(sale, proxy, trouble=lose_reply)
        sale.own.clock.advance(2 * HOLD_MS)
        await sale.recover()
        assert (await sale.seller().get(reservation_id)).status is Status.CONFIRMED

    async def test_a_refusal_for_good_ends_it(self, sale: Sale, proxy: InventoryProxy) -> None:
        """The hold is over on the other side: the refusal is what refunds the payment."""
        reservation_id = await self._intent(sale, proxy)
        sale.own.clock.advance(HOLD_MS)
        await sale.recover()
        with pytest.raises(ReservationExpired):
            await sale.seller().confirm(reservation_id)
        assert (await sale.seller().get(reservation_id)).status is Status.EXPIRED

    async def test_its_key_is_taken_though_there_is_no_answer_yet(self, sale: Sale, proxy: InventoryProxy) -> None:
        await self._intent(sale, proxy, "key_taken")
        other = (await sale.seller().create(*sale.fresh())).reservation
        with pytest.raises(IdempotencyConflict):
            await sale.seller().confirm(other.id, key="key_taken")

    async def test_one_that_may_yet_be_recorded_is_not_told_as_none(self, sale: Sale) -> None:
        """Its first try is late, and from then on the store is busy until the caller's time is up."""
        held = (await sale.seller().create(*sale.fresh())).reservation
        async with sale.own.behind() as (dynamodb, client):
            late = Hold()
            dynamodb.script(transaction, late)
            script_verdict(dynamodb, EVERYTHING_CONFLICTS, times=FOR_EVER)
            with pytest.raises(UpstreamTimeout):
                await sale.seller(client=client).confirm(held.id, patience=1.7)
            late.event.set()
            while (await sale.seller().get(held.id)).saga is None:
                pass
        await sale.recover()
        assert (await sale.seller().get(held.id)).status is Status.CONFIRMED

    async def test_a_half_visible_try_of_ones_own_is_no_other_request(self, sale: Sale) -> None:
        held = (await sale.seller().create(*sale.fresh())).reservation
        content = ("reservation", held.id, "payment", "pay_1")
        key = scoped_key(user_id=held.user_id, rpc=CONFIRM, key="key_half", content=content)
        record = running_to_item(key, held, sale.own.clock.now() + 60_000)
        async with sale.own.behind() as (dynamodb, client):
            script_verdict(dynamodb, {"idempotency": failed(record), "reservations": CONFLICT})
            sold = await sale.seller(client=client).confirm(held.id, key="key_half")
        assert (sold.reservation.status, sold.replayed) == (Status.CONFIRMED, False)


class TestComingBack:
    """A process that was taken for dead, because it was slow, goes on."""

    async def test_what_was_given_up_meanwhile_is_no_hold(self, sale: Sale, proxy: InventoryProxy) -> None:
        (seat_id,) = sale.fresh()
        slow = Delay()
        proxy.script(RESERVE, slow)
        creating = asyncio.create_task(sale.seller(channel=proxy.channel).create(seat_id, key="key_slow"))
        await slow.reached.wait()
        await sale.recover()
        other = (await sale.seller().create(seat_id, user="bob")).reservation
        slow.event.set()
        with pytest.raises(InventoryServiceError):
            await creating
        assert other.id == (await sale.other.seat(seat_id))["holder"]["S"].removeprefix("hld_")

    async def test_what_was_resumed_meanwhile_is_one_hold(self, sale: Sale, proxy: InventoryProxy) -> None:
        (seat_id,) = sale.fresh()
        slow = Delay()
        proxy.script(RESERVE, slow)
        creating = asyncio.create_task(sale.seller(channel=proxy.channel).create(seat_id, key="key_two"))
        await slow.reached.wait()
        sale.own.clock.advance(2_000)
        resumed = (await sale.seller().create(seat_id, key="key_two")).reservation
        slow.event.set()
        assert (await creating).reservation == resumed

    async def test_what_was_sold_meanwhile_is_one_sale(self, sale: Sale, proxy: InventoryProxy) -> None:
        held = (await sale.seller().create(*sale.fresh())).reservation
        slow = Delay()
        proxy.script(COMMIT, slow)
        confirming = asyncio.create_task(sale.seller(channel=proxy.channel).confirm(held.id, key="key_sale"))
        await slow.reached.wait()
        await sale.recover()
        slow.event.set()
        assert (await confirming).reservation.status is Status.CONFIRMED


async def test_of_sales_and_cancels_at_once_one_wins_on_both_sides(sale: Sale) -> None:
    for _ in range(5):
        held = (await sale.seller().create(*sale.fresh())).reservation
        sellers = [sale.seller() for _ in range(4)]
        await settled(
            sellers[0].confirm(held.id, key=f"key_{held.id}"),
            sellers[1].confirm(held.id, "pay_2"),
            sellers[2].cancel(held.id),
            sellers[3].confirm(held.id, key=f"key_{held.id}"),
        )
        assert (await sale.seller().get(held.id)).status in (Status.CONFIRMED, Status.CANCELLED)
    assert await sale.wrong() == []


async def test_a_cancel_counts_though_its_release_has_to_wait(sale: Sale, proxy: InventoryProxy) -> None:
    (seat_id,) = sale.fresh()
    held = (await sale.seller().create(seat_id)).reservation
    proxy.script(RELEASE, lose_request)
    assert (await sale.seller(channel=proxy.channel).cancel(held.id)).reservation.status is Status.CANCELLED
    assert await sale.seat(seat_id) == "HELD"
    await sale.recover()
    assert await sale.seat(seat_id) == "AVAILABLE"


async def test_a_hold_ends_on_time_though_its_release_has_to_wait(sale: Sale, proxy: InventoryProxy) -> None:
    held = (await sale.seller().create(*sale.fresh())).reservation
    sale.own.clock.advance(HOLD_MS)
    proxy.script(RELEASE, lose_request)
    expired = await sale.seller(channel=proxy.channel).service.expire(held, soon())
    assert expired.status is Status.EXPIRED
    assert [detail["type"] for detail in (await sale.own.rows()).details(held.id)][-1] == "reservation.expired"
    assert held.id in {stuck.id for stuck in await sale.seller().unfinished()}


@pytest.mark.parametrize("reason", [{"may_work_on": lambda shard: False}, {"trusted": False}], ids=["lease", "clock"])
async def test_recovery_without_its_shard_or_a_clock_to_trust_touches_nothing(
    sale: Sale, proxy: InventoryProxy, reason: dict[str, Any]
) -> None:
    held = (await sale.seller().create(*sale.fresh())).reservation
    proxy.script(RELEASE, lose_request)
    await sale.seller(channel=proxy.channel).cancel(held.id)
    before = await sale.own.rows()
    await sale.recover(**reason)
    assert await sale.own.rows() == before


async def test_recovery_leaves_alone_what_is_still_worked_on(sale: Sale, proxy: InventoryProxy) -> None:
    held = (await sale.seller().create(*sale.fresh())).reservation
    proxy.script(RELEASE, lose_request)
    await sale.seller(channel=proxy.channel).cancel(held.id)
    before = await sale.own.rows()
    sale.own.clock.advance(1_999)
    await sale.recovery(sale.seller()).recover(held.shard)
    assert await sale.own.rows() == before
    sale.own.clock.advance(1)
    await sale.recovery(sale.seller()).recover(held.shard)
    assert await sale.seat(held.seat_ids[0]) == "AVAILABLE"


async def test_what_recovery_cannot_finish_keeps_nothing_else_waiting(sale: Sale, proxy: InventoryProxy) -> None:
    held = [(await sale.seller().create(*sale.fresh())).reservation for _ in range(2)]
    proxy.always(RELEASE, lose_request)
    seller = sale.seller(channel=proxy.channel)
    for each in held:
        await seller.cancel(each.id)
    proxy.always(RELEASE, None)
    proxy.script(RELEASE, lose_request)
    sale.own.clock.advance(2_000)
    for shard in {each.shard for each in held}:
        await sale.recovery(seller).recover(shard)
    assert sorted([await sale.seat(each.seat_ids[0]) for each in held]) == ["AVAILABLE", "HELD"]


async def test_an_inventory_that_is_down_is_not_asked_and_nothing_is_written(sale: Sale, proxy: InventoryProxy) -> None:
    known = await sale.seller().create(*sale.fresh(), key="key_known")
    seller = sale.seller(channel=proxy.channel)
    proxy.always(RESERVE, lose_request)
    proxy.always(RELEASE, lose_request)
    for _ in range(10):
        with pytest.raises(InventoryServiceError):
            await seller.create(*sale.fresh())
    before, calls = await sale.own.rows(), dict(proxy.calls)
    with pytest.raises(CircuitOpen):
        await seller.create(*sale.fresh(), key="key_down")
    with pytest.raises(CircuitOpen):
        await seller.confirm(known.reservation.id)
    replayed = await seller.create(*known.reservation.seat_ids, key="key_known")
    assert (replayed.replayed, replayed.reservation.id) == (True, known.reservation.id)
    assert (await sale.own.rows(), dict(proxy.calls)) == (before, calls)


async def test_a_refused_seat_is_no_failure_of_the_inventory(sale: Sale) -> None:
    (seat_id,) = sale.fresh()
    seller = sale.seller()
    await seller.create(seat_id)
    for _ in range(20):
        with pytest.raises(SeatUnavailable):
            await seller.create(seat_id)
    await seller.create(*sale.fresh())


async def test_sides_that_disagree_about_a_holds_length_make_no_hold(sale: Sale, proxy: InventoryProxy) -> None:
    seller = sale.seller(channel=proxy.channel, hold=400_000)
    for _ in range(20):
        with pytest.raises(InventoryServiceError) as refused:
            await seller.create(*sale.fresh())
        assert not isinstance(refused.value, CircuitOpen)


# Garbage

PRICE = messages.Money(amount=120_000, currency="KRW")


def _seat(seat_id: str, **changes: Any) -> messages.Seat:
    good: dict[str, Any] = {"id": seat_id, "section": "Floor", "row": "B", "number": seat_id[2:], "price": PRICE}
    return messages.Seat(**good | changes)


def _held(seat_id: str, sale: Sale, **changes: Any) -> bytes:
    """The answer of an inventory that holds the seat, or says so."""
    ends_at = datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=sale.own.clock.now() + HOLD_MS)
    good: dict[str, Any] = {
        "hold_id": "hld",
        "reserved_seats": [_seat(seat_id)],
        "hold_expires_at": ends_at,
        "status": HOLD,
    }
    return bytes(messages.ReserveSeatResponse(**good | changes))


def _sold(held: Reservation, **changes: Any) -> bytes:
    good: dict[str, Any] = {
        "order_id": order_id_of(held.id),
        "sold_seats": [_seat(seat_id) for seat_id in held.seat_ids],
        "status": CONFIRMED,
    }
    return bytes(messages.CommitReservationResponse(**good | changes))


@pytest.mark.parametrize(
    "garbage",
    [
        "no message",
        "nothing",
        {"status": messages.ReservationStatus.EXPIRED},
        {"reserved_seats": []},
        {"reserved_seats": [_seat("B-999")]},
        {"reserved_seats": [_seat("B-999"), _seat("B-998")]},
        {"hold_expires_at": None},
        {"hold_expires_at": datetime(2001, 1, 1, tzinfo=UTC)},
        "without price",
        "without currency",
    ],
    ids=str,
)
async def test_a_hold_that_makes_no_sense_is_none(sale: Sale, proxy: InventoryProxy, garbage: Any) -> None:
    (seat_id,) = sale.fresh()
    match garbage:
        case "no message":
            raw = b"\xff\xff\xff"
        case "nothing":
            raw = b""
        case "without price":
            raw = _held(seat_id, sale, reserved_seats=[_seat(seat_id, price=None)])
        case "without currency":
            raw = _held(seat_id, sale, reserved_seats=[_seat(seat_id, price=messages.Money(amount=1))])
        case _:
            raw = _held(seat_id, sale, **garbage)
    proxy.script(RESERVE, answer(raw))
    with pytest.raises(InventoryServiceError):
        await sale.seller(channel=proxy.channel).create(seat_id)
    assert [made.status for made in await _made_of(sale, seat_id)] == [Status.FAILED]


@pytest.mark.parametrize(
    "garbage",
    ["no message", "nothing", {"status": HOLD}, {"order_id": "ord_other"}, {"sold_seats": []}],
    ids=str,
)
async def test_a_sale_that_makes_no_sense_is_not_believed(sale: Sale, proxy: InventoryProxy, garbage: Any) -> None:
    held = (await sale.seller().create(*sale.fresh())).reservation
    raw = {"no message": b"\xff\xff\xff", "nothing": b""}.get(str(garbage))
    proxy.always(COMMIT, answer(raw if raw is not None else _sold(held, **garbage)))
    await _confirm_in_vain(sale, proxy, held)
    assert (await sale.seller().get(held.id)).status is Status.HOLD
    assert await sale.seat(held.seat_ids[0]) == "HELD"


@pytest.mark.parametrize("trouble", ["lost", "refused", "ends before"])
async def test_an_extension_that_fails_moves_no_deadline(sale: Sale, proxy: InventoryProxy, trouble: str) -> None:
    held = (await sale.seller().create(*sale.fresh())).reservation
    match trouble:
        case "lost":
            proxy.script(RESERVE, lose_request)
        case "refused":
            await sale.keeper.release(held.id)
        case _:
            proxy.script(RESERVE, answer(_held(held.seat_ids[0], sale)))
    with pytest.raises(ReservationExpired if trouble == "refused" else InventoryServiceError):
        await sale.seller(channel=proxy.channel).extend(held.id, 10_000)
    assert (await sale.seller().get(held.id)).hold_expires_at == held.hold_expires_at
    await sale.seller().cancel(held.id)


async def test_a_token_is_forgotten_with_the_hold_that_it_made(sale: Sale, proxy: InventoryProxy) -> None:
    (seat_id,) = sale.fresh()
    held = await sale.seller(channel=proxy.channel).create(seat_id, token="rtkn_1")
    assert (await sale.seller().create(seat_id, token="rtkn_1")).replayed
    sale.own.clock.advance(HOLD_MS + 1_000)  # records end with a whole second
    again = await sale.seller().create(seat_id, token="rtkn_1")
    assert again.reservation.id != held.reservation.id


# Lies


async def test_a_hold_that_was_a_lie_is_found_out_when_it_is_paid(sale: Sale, proxy: InventoryProxy) -> None:
    (seat_id,) = sale.fresh()
    proxy.script(RESERVE, answer(_held(seat_id, sale)))
    held = (await sale.seller(channel=proxy.channel).create(seat_id)).reservation
    assert (held.status, await sale.seat(seat_id)) == (Status.HOLD, "AVAILABLE")
    other = (await sale.seller().create(seat_id, user="bob")).reservation
    with pytest.raises(ReservationExpired):
        await sale.seller(channel=proxy.channel).confirm(held.id)
    assert (await sale.seller().get(held.id)).status is Status.EXPIRED
    assert (await sale.seller().confirm(other.id)).reservation.status is Status.CONFIRMED


async def test_a_sale_that_was_a_lie_is_found_by_the_audit(ministack_url: str) -> None:
    """Nothing in the answer tells it from a true one. The hold was true, so it shows as soon as that is over."""
    async with open_sale(ministack_url) as sale, inventory_proxy(sale.channel) as proxy:
        proxy.always("CheckAvailability", _truthfully(sale))
        seller = sale.seller(channel=proxy.channel)
        sold = (await seller.create(*sale.fresh())).reservation
        await seller.confirm(sold.id)
        lied = (await seller.create(*sale.fresh())).reservation
        proxy.script(COMMIT, answer(_sold(lied)))
        assert (await seller.confirm(lied.id)).reservation.status is Status.CONFIRMED
        assert await _audit(sale, seller) == []
        sale.own.clock.advance(HOLD_MS)
        assert await _audit(sale, seller) == [("inventory-differs", lied.id)]


async def test_a_hold_that_was_a_lie_is_found_by_the_audit(sale: Sale, proxy: InventoryProxy) -> None:
    proxy.always("CheckAvailability", _truthfully(sale))
    (seat_id,) = sale.fresh()
    proxy.script(RESERVE, answer(_held(seat_id, sale)))
    seller = sale.seller(channel=proxy.channel)
    held = (await seller.create(seat_id)).reservation
    assert await _audit(sale, seller) == [("inventory-differs", held.id)]
    await seller.cancel(held.id)
    assert await _audit(sale, seller) == []


async def test_the_audit_finds_what_nobody_brings_to_its_end(sale: Sale, proxy: InventoryProxy) -> None:
    held = (await sale.seller().create(*sale.fresh())).reservation
    proxy.script(RELEASE, lose_request)
    await sale.seller(channel=proxy.channel).cancel(held.id)
    sale.own.clock.advance(32_000)
    assert await _audit(sale, None) == []
    sale.own.clock.advance(1)
    assert await _audit(sale, None) == [("saga-stuck", held.id)]


async def _audit(sale: Sale, seller: Seller | None) -> list[tuple[str, str]]:
    async def at_once(_seconds: float) -> None:
        pass

    audit = Audit(
        sale.own.client,
        sale.own.tables,
        now=sale.own.clock.now,
        graces=Graces(outbox=10**12),
        seats_elsewhere=True,
        for_sale=seller.inventory.for_sale if seller is not None else None,
        sleep=at_once,
    )
    _, broken = await audit.run()
    return [(finding.kind, finding.subject) for finding in broken if finding.kind != "hold-stuck"]


def _truthfully(sale: Sale) -> Trouble:
    """CheckAvailability, from the tables of the service that keeps the seats."""

    async def told(raw: bytes, _: Any, __: Any) -> bytes:
        request = messages.CheckAvailabilityRequest.parse(raw)
        states = {seat_id: seat_state_from_item(await sale.other.seat(seat_id)) for seat_id in request.seat_ids}
        free = [seat_id for seat_id, state in states.items() if state.takeable(sale.own.clock.now())]
        taken = [seat_id for seat_id in states if seat_id not in free]
        return bytes(
            messages.CheckAvailabilityResponse(
                available=not taken,
                available_seats=[_seat(seat_id) for seat_id in free],
                unavailable_seat_ids=taken,
            )
        )

    return told


async def _confirm_in_vain(sale: Sale, proxy: InventoryProxy, held: Reservation, **named: str) -> None:
    """It is told as an unknown outcome. On a busy machine its time may be up before it has begun: then once more."""
    seller = sale.seller(channel=proxy.channel)
    while (await seller.get(held.id)).saga is None:
        with pytest.raises((UpstreamTimeout, ServiceUnavailable)) as told:
            await seller.confirm(held.id, patience=0.4, **named)
        await seller.service.drain()
    assert told.type is UpstreamTimeout


async def _made_of(sale: Sale, seat_id: str) -> list[Reservation]:
    """The own reservations that name the seat."""
    made = [reservation_from_item(item) for item in (await sale.own.rows()).reservations]
    return [each for each in made if seat_id in each.seat_ids]
