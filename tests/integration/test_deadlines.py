"""Commands that meet around the end of a hold, on processes whose clocks differ. Clocks decide who has to wait; they
never decide who owns a seat. Each interleaving is built from the faults of a scripted endpoint. Nothing sleeps."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from reservation.domain import model
from reservation.domain.errors import (
    ReservationAlreadyCancelled,
    ReservationAlreadyConfirmed,
    ReservationExpired,
    SeatUnavailable,
    ServiceUnavailable,
)
from reservation.domain.model import Reservation, Status
from tests.support.faults import Hold, LoseReply, Throttle
from tests.support.stage import Stage, answer, open_stage
from tests.support.store import HOLD_MS, NOW, SKEW_MS, SettableClock, in_the_last_moment, soon
from tests.support.verdicts import EVERYTHING_CONFLICTS, script_verdict, transaction

A1, A2 = "evt_2025_1001#A-1", "evt_2025_1001#A-2"


@pytest.fixture
async def stage(backend_url: str) -> AsyncIterator[Stage]:
    async with open_stage(backend_url) as stage:
        yield stage


async def test_expired_is_said_only_when_no_clock_within_the_skew_can_confirm_any_more(stage: Stage) -> None:
    """One process is half a second fast and reads just after the deadline; another is half a second slow and then
    confirms, by its clock in time. Had the first said EXPIRED, it would have been wrong."""
    held = (await stage.direct.create("A-1")).reservation
    fast = stage.venue.party(clock=SettableClock(NOW + HOLD_MS - 200 + SKEW_MS // 2))
    slow = stage.venue.party(clock=SettableClock(NOW + HOLD_MS + 200 - SKEW_MS // 2))
    assert (await fast.get(held.id)).status is Status.HOLD
    assert (await in_the_last_moment(lambda: slow.confirm(held.id))).reservation.status is Status.CONFIRMED
    fast.clock.advance(SKEW_MS)
    assert (await fast.get(held.id)).status is Status.CONFIRMED


async def test_once_expired_was_said_nobody_within_the_skew_confirms(stage: Stage) -> None:
    """Its reader is half a second fast, the confirming process half a second slow."""
    held = (await stage.direct.create("A-1")).reservation
    fast = stage.venue.party(clock=SettableClock(NOW + HOLD_MS + SKEW_MS + 1))
    slow = stage.venue.party(clock=SettableClock(NOW + HOLD_MS + 1))
    assert (await fast.get(held.id)).status is Status.EXPIRED
    with pytest.raises(ReservationExpired):
        await slow.confirm(held.id)
    stage.venue.clock.advance(HOLD_MS)


@pytest.mark.parametrize("command", ["confirm", "cancel", "extend"])
async def test_a_take_over_writes_nothing_to_the_victim(stage: Stage, command: str) -> None:
    """Not even an event. A process that still believes in the hold is refused by the seat and writes nothing
    either; one that knows the time settles it, and frees only what the taker has not got."""
    victim = (await stage.one.create("A-1", "A-2", user="user_1", key="key_1")).reservation
    before = await stage.venue.rows()
    stage.venue.clock.advance(HOLD_MS)
    taker = (await stage.two.create("A-2", "A-3", user="user_2", key="key_2")).reservation
    slow = stage.venue.party(clock=SettableClock(NOW))
    with pytest.raises(ReservationExpired):
        await getattr(slow, command)(victim.id, "pay_1", key="key_3")
    after = await stage.venue.rows()
    assert [it for it in after.reservations if it["reservationId"]["S"] != taker.id] == list(before.reservations)
    assert after.details(victim.id) == before.details(victim.id)
    assert after.seats[A1] == before.seats[A1]
    with pytest.raises(ReservationExpired):
        await getattr(stage.one, command)(victim.id, "pay_1", key="key_3")
    settled = await stage.venue.rows()
    assert settled.details(victim.id)[-1]["releasedSeats"] == ["A-1"]
    assert settled.seats[A2] == after.seats[A2]
    assert len(settled.idempotency) == 2
    assert (await stage.two.confirm(taker.id)).reservation.status is Status.CONFIRMED


async def test_with_nobody_at_work_in_the_background_a_past_hold_is_as_good_as_free(stage: Stage) -> None:
    """Nothing settles it: the next customer gets its seats, with and without a key, also from a process that
    remembers them as taken; its owner reads EXPIRED and is refused."""
    for key, seat_ids in (("", ("A-1", "A-2")), ("key_1", ("A-3", "A-4"))):
        start = stage.venue.clock.now()
        old = (await stage.one.create(*seat_ids)).reservation
        stage.venue.clock.advance(HOLD_MS - 1)
        with pytest.raises(SeatUnavailable):
            await stage.two.create(*seat_ids, user="user_2", key=key)
        stage.venue.clock.advance(1)
        new = (await stage.two.create(*seat_ids, user="user_2", key=key)).reservation
        assert new.hold_expires_at == start + 2 * HOLD_MS
        stage.venue.clock.advance(SKEW_MS + 1)
        assert (await stage.one.get(old.id)).status is Status.EXPIRED
        for command in (stage.one.confirm, stage.one.cancel, stage.one.extend):
            with pytest.raises(ReservationExpired):
                await command(old.id)
        assert (await stage.one.confirm(new.id)).reservation.status is Status.CONFIRMED


async def test_a_refusal_for_time_waits_for_an_equal_confirm_that_was_in_time(stage: Stage) -> None:
    """The customer's first confirm is under way since before the deadline, the repeated one comes after it. It
    cannot settle the hold while the first has it, and then finds it paid by the same payment."""
    held = (await stage.direct.create("A-1", "A-2")).reservation
    async with stage.ongoing(stage.one.confirm(held.id, "pay_1")) as first:
        stage.venue.clock.advance(HOLD_MS)
        second = await stage.contend(stage.two.confirm(held.id, "pay_1"))
        other = await stage.contend(stage.two.confirm(held.id, "pay_2"))
        assert not second.done()
    assert answer(await second) == answer(first.result())
    with pytest.raises(ReservationAlreadyConfirmed):
        await other


async def test_a_confirm_that_arrives_after_its_hold_was_settled_is_refused(stage: Stage) -> None:
    """It set out in time, by a clock in the right, and was overtaken by the refusal that another process told."""
    held = (await stage.direct.create("A-1")).reservation
    pause = Hold()
    stage.proxy.script(transaction, pause)
    late = asyncio.ensure_future(stage.one.confirm(held.id, "pay_1"))
    await pause.reached.wait()
    stage.venue.clock.advance(HOLD_MS)
    with pytest.raises(ReservationExpired):
        await stage.two.confirm(held.id, "pay_1")
    pause.event.set()
    with pytest.raises(ReservationExpired):
        await late


async def test_a_refusal_for_time_that_cannot_be_recorded_is_not_told(stage: Stage) -> None:
    """It would not be final: the caller is told to come again."""
    held = (await stage.direct.create("A-1")).reservation
    stage.venue.clock.advance(HOLD_MS)
    async with stage.venue.behind(throttle=1.0, unhurried=True) as (_, client):
        store = stage.venue.party(client).store
        after = model.expire(held, now=NOW + HOLD_MS, op_id="op_settle")
        assert after is not None
        with pytest.raises(ServiceUnavailable):
            await store.settle(held, after, soon(0.3))


async def test_settling_goes_on_after_a_lost_reply_a_throttle_and_a_verdict(stage: Stage) -> None:
    """And recognises itself: one end, one event."""
    held = (await stage.direct.create("A-1", "A-2")).reservation
    stage.venue.clock.advance(HOLD_MS)
    stage.proxy.script(transaction, LoseReply())
    stage.proxy.script(transaction, Throttle())
    script_verdict(stage.proxy, EVERYTHING_CONFLICTS)
    with pytest.raises(ReservationExpired):
        await stage.one.confirm(held.id)
    assert [detail["version"] for detail in (await stage.venue.rows()).details(held.id)] == [1, 2]


async def test_settling_and_taking_over_at_once(stage: Stage) -> None:
    """The seat is in the taker's hands while the hold is settled: it is either freed first or left to the taker."""
    held = (await stage.direct.create("A-1", "A-2")).reservation
    stage.venue.clock.advance(HOLD_MS)
    async with stage.ongoing(stage.one.create("A-1", user="user_2")) as taker:
        settling = await stage.contend(stage.two.service.expire(held, soon()))
        assert not settling.done()
    assert (await settling).status is Status.EXPIRED
    rows = await stage.venue.rows()
    assert rows.details(held.id)[-1]["releasedSeats"] == ["A-2"]
    assert rows.seats[A1]["holder"] == {"S": taker.result().reservation.id}


async def test_two_that_settle_the_same_hold_at_once_record_it_once(stage: Stage) -> None:
    held = (await stage.direct.create("A-1")).reservation
    stage.venue.clock.advance(HOLD_MS)
    async with stage.ongoing(stage.one.service.expire(held, soon())) as first:
        second = await stage.contend(stage.two.service.expire(held, soon()))
    assert (await second).op_id == first.result().op_id


async def test_a_confirm_under_way_at_the_deadline_wins_over_the_next_customer(stage: Stage) -> None:
    """It was in time. The taker, by its clock in the right as well, is told that the seat is taken."""
    held = (await stage.direct.create("A-1")).reservation
    async with stage.ongoing(stage.one.confirm(held.id)) as confirm:
        stage.venue.clock.advance(HOLD_MS)
        taker = await stage.contend(stage.two.create("A-1", user="user_2"))
        assert not taker.done()
    assert confirm.result().reservation.status is Status.CONFIRMED
    with pytest.raises(SeatUnavailable):
        await taker


@pytest.mark.parametrize("command", ["confirm", "cancel", "extend"])
async def test_a_conflict_with_a_take_over_is_retried_until_it_is_known_who_has_the_seat(
    stage: Stage, command: str
) -> None:
    """The victim's process is slow and believes in its hold. The conflict alone refuses nothing."""
    held = (await stage.direct.create("A-1", "A-2")).reservation
    slow = stage.venue.party(stage.two.client, clock=SettableClock(NOW))
    stage.venue.clock.advance(HOLD_MS)
    async with stage.ongoing(stage.one.create("A-2", user="user_2")) as taker:
        victim = await stage.contend(getattr(slow, command)(held.id, "pay_1"))
        assert not victim.done()
    with pytest.raises(ReservationExpired):
        await victim
    assert taker.result().reservation.status is Status.HOLD


async def test_two_that_take_over_the_same_hold_at_once_get_it_once(stage: Stage) -> None:
    await stage.direct.create("A-1")
    stage.venue.clock.advance(HOLD_MS)
    async with stage.ongoing(stage.one.create("A-1", user="user_2")) as first:
        second = await stage.contend(stage.two.create("A-1", user="user_3"))
    with pytest.raises(SeatUnavailable):
        await second
    assert first.result().reservation.user_id == "user_2"


async def test_of_a_confirm_and_a_cancel_in_flight_the_second_is_told_what_the_first_did(stage: Stage) -> None:
    held = [(await stage.direct.create(seat_id)).reservation.id for seat_id in ("A-1", "A-2")]
    async with stage.ongoing(stage.one.confirm(held[0])):
        cancel = await stage.contend(stage.two.cancel(held[0]))
    with pytest.raises(ReservationAlreadyConfirmed):
        await cancel
    async with stage.ongoing(stage.one.cancel(held[1])):
        confirm = await stage.contend(stage.two.confirm(held[1]))
    with pytest.raises(ReservationAlreadyCancelled):
        await confirm


@pytest.mark.parametrize("command", ["confirm", "cancel", "extend"])
async def test_a_command_that_is_retried_beyond_the_deadline_asserts_the_time_anew(stage: Stage, command: str) -> None:
    """It set out in time and was kept waiting by somebody who wants the same seat. When its turn comes it is late."""
    held = (await stage.direct.create("A-1", "A-2")).reservation
    async with stage.ongoing(stage.one.create("A-1", user="user_2")) as early:
        late = await stage.contend(getattr(stage.two, command)(held.id, "pay_1"))
        stage.venue.clock.advance(HOLD_MS)
    with pytest.raises(SeatUnavailable):
        early.result()
    with pytest.raises(ReservationExpired):
        await late
    assert (await stage.direct.get(held.id)).status is Status.EXPIRED


@pytest.mark.timeout(30)
async def test_no_try_of_a_confirm_begins_after_the_end_of_its_hold(stage: Stage) -> None:
    """A try repeats the time that the one before it asserted. The caller would wait for an hour."""
    held = (await stage.direct.create("A-1")).reservation
    stage.venue.clock.advance(HOLD_MS - 100)
    sold = model.confirm(held, payment_intent_id="pay_1", now=NOW, op_id="op_1")
    assert sold is not None
    async with stage.venue.behind(throttle=1.0, unhurried=True) as (_, client):
        with pytest.raises(ServiceUnavailable):
            await stage.venue.party(client).store.advance(held, sold, None, "", soon(3600))


async def extended(stage: Stage, held: Reservation) -> Reservation:
    """The hold with a later end, by another process, whose clock is slow."""
    slow = stage.venue.party(clock=SettableClock(NOW))
    return (await slow.extend(held.id, seconds=HOLD_MS // 1000)).reservation


@pytest.mark.parametrize("command", ["confirm", "cancel", "extend"])
async def test_a_command_never_overwrites_a_version_that_it_did_not_read(stage: Stage, command: str) -> None:
    """The hold is extended between its read and its write: it reads again and acts on what is there now."""
    held = (await stage.direct.create("A-1")).reservation
    pause = Hold()
    stage.proxy.script(transaction, pause)
    overtaken = asyncio.ensure_future(getattr(stage.one, command)(held.id, "pay_1"))
    await pause.reached.wait()
    longer = await extended(stage, held)
    pause.event.set()
    made = (await overtaken).reservation
    further = 30_000 if command == "extend" else 0
    assert (made.version, made.hold_expires_at) == (3, longer.hold_expires_at + further)


async def test_a_hold_that_was_extended_meanwhile_is_not_settled(stage: Stage) -> None:
    """Neither by one that knows its old end, nor by one that sets out after that."""
    held = (await stage.direct.create("A-1")).reservation
    pause = Hold()
    stage.proxy.script(transaction, pause)
    stage.venue.clock.advance(HOLD_MS)
    overtaken = asyncio.ensure_future(stage.one.service.expire(held, soon()))
    await pause.reached.wait()
    longer = await extended(stage, held)
    pause.event.set()
    assert (await overtaken).version == longer.version
    assert (await stage.two.service.expire(held, soon())).hold_expires_at == longer.hold_expires_at
    assert (await stage.direct.get(held.id)).status is Status.HOLD


async def test_of_a_confirm_and_an_extension_in_flight_both_take_effect_only_if_the_extension_is_first(
    stage: Stage,
) -> None:
    held = [(await stage.direct.create(seat_id)).reservation for seat_id in ("A-1", "A-2")]
    async with stage.ongoing(stage.one.confirm(held[0].id)) as confirm:
        extension = await stage.contend(stage.two.extend(held[0].id))
        assert not extension.done()
    with pytest.raises(ReservationAlreadyConfirmed):
        await extension
    assert confirm.result().reservation.hold_expires_at == held[0].hold_expires_at
    async with stage.ongoing(stage.one.extend(held[1].id)) as extension:
        confirm = await stage.contend(stage.two.confirm(held[1].id))
        assert not confirm.done()
    sold = (await confirm).reservation
    assert (sold.status, sold.version) == (Status.CONFIRMED, 3)
    assert sold.hold_expires_at == extension.result().reservation.hold_expires_at


async def test_an_extension_under_way_at_the_deadline_wins_over_the_next_customer(stage: Stage) -> None:
    """It was in time. The taker, by its clock in the right as well, is told that the seat is taken."""
    held = (await stage.direct.create("A-1")).reservation
    async with stage.ongoing(stage.one.extend(held.id)) as extension:
        stage.venue.clock.advance(HOLD_MS)
        taker = await stage.contend(stage.two.create("A-1", user="user_2"))
        assert not taker.done()
    assert extension.result().reservation.hold_expires_at == NOW + HOLD_MS + 30_000
    with pytest.raises(SeatUnavailable):
        await taker


async def test_an_extension_under_way_at_the_deadline_wins_over_who_settles_the_hold(stage: Stage) -> None:
    held = (await stage.direct.create("A-1")).reservation
    async with stage.ongoing(stage.one.extend(held.id)) as extension:
        stage.venue.clock.advance(HOLD_MS)
        settling = await stage.contend(stage.two.service.expire(held, soon()))
        assert not settling.done()
    assert await settling == extension.result().reservation


async def test_an_extension_that_arrives_after_its_hold_was_settled_is_refused(stage: Stage) -> None:
    """It set out in time and was overtaken; the seat is another's by now."""
    held = (await stage.direct.create("A-1")).reservation
    pause = Hold()
    stage.proxy.script(transaction, pause)
    late = asyncio.ensure_future(stage.one.extend(held.id))
    await pause.reached.wait()
    stage.venue.clock.advance(HOLD_MS)
    settled = await stage.two.service.expire(held, soon())
    new = (await stage.two.create("A-1", user="user_2")).reservation
    pause.event.set()
    with pytest.raises(ReservationExpired):
        await late
    assert await stage.direct.get(held.id) == settled
    assert (await stage.direct.confirm(new.id)).reservation.status is Status.CONFIRMED


async def test_an_extension_that_arrives_after_its_seat_was_taken_over_is_refused(stage: Stage) -> None:
    """And leaves the other seat to be freed at the end that was told."""
    held = (await stage.direct.create("A-1", "A-2")).reservation
    pause = Hold()
    stage.proxy.script(transaction, pause)
    late = asyncio.ensure_future(stage.one.extend(held.id))
    await pause.reached.wait()
    stage.venue.clock.advance(HOLD_MS)
    new = (await stage.two.create("A-2", user="user_2")).reservation
    pause.event.set()
    with pytest.raises(ReservationExpired):
        await late
    assert (await stage.direct.create("A-1", user="user_3")).reservation.status is Status.HOLD
    assert (await stage.direct.confirm(new.id)).reservation.status is Status.CONFIRMED
