"""What a caller is told when time is up or it leaves, and that it was the truth. The endpoint is scripted."""

import asyncio
import gc
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from reservation.domain import events, model
from reservation.domain.errors import (
    IdempotencyInProgress,
    ReservationError,
    ServiceUnavailable,
    UpstreamTimeout,
)
from reservation.domain.idempotency import Key
from reservation.domain.model import Reservation, Status
from reservation.ports import Recorded
from tests.support.conflict_proxy import ConflictProxy
from tests.support.faults import (
    FOR_EVER,
    Hold,
    HoldOngoing,
    HoldReply,
    LoseReply,
    LoseRequest,
    RejectBefore,
    Request,
    Swallow,
    Throttle,
)
from tests.support.invariants import violations
from tests.support.store import EVENT, HOLD_MS, NOW, SEATS, Party, Venue, open_venue, soon
from tests.support.verdicts import EVERYTHING_CONFLICTS, script_verdict, transaction, until

KEY = Key("key_1", "fingerprint_1")


@pytest.fixture
async def venue(backend_url: str) -> AsyncIterator[Venue]:
    async with open_venue(backend_url) as venue:
        yield venue
        assert violations(await venue.rows(), now=venue.clock.now()) == []


async def knowing(party: Party) -> Party:
    """With the facts of all seats in its cache."""
    await party.inventory.facts(EVENT.id, [seat.id for seat in SEATS], soon())
    return party


def draft_of(seat_id: str, reservation_id: str = "rsv_draft") -> Reservation:
    seats = tuple(seat for seat in SEATS if seat.id == seat_id)
    return Reservation(
        reservation_id,
        EVENT.id,
        "user_1",
        Status.HOLD,
        seats,
        NOW,
        NOW,
        NOW + HOLD_MS,
        1,
        f"op_{reservation_id}",
        "0000",
    )


def confirmed(held: Reservation) -> Reservation:
    sold = model.confirm(held, payment_intent_id="pay_1", now=NOW, op_id="op_1")
    assert sold is not None
    return sold


async def heard(call: Awaitable[Any]) -> type[ReservationError]:
    with pytest.raises(ReservationError) as refused:
        await call
    return type(refused.value)


async def heard_after(pause: Hold | HoldReply, party: Party, call: Callable[[], Awaitable[Recorded]]) -> type[Any]:
    """What is heard from a call whose transaction has come to `pause`: on a busy machine its time may be up before, and
    nothing happens."""
    while True:
        told = await heard(call())
        if not pause.reached.is_set():
            await party.service.drain()
        if pause.reached.is_set():
            return told


async def at_the_deadline(proxy: ConflictProxy, call: Callable[[float], Awaitable[Recorded]]) -> Recorded:
    """`call`, of its deadline, whose transaction reaches DynamoDB only when its time is up."""
    stop = Hold()
    proxy.script(transaction, stop)
    while True:
        deadline = soon(0.2)
        task = asyncio.ensure_future(call(deadline))
        await until(lambda: task.done() or stop.reached.is_set())  # noqa: B023  # of this turn
        if stop.reached.is_set():
            await until(lambda: time.monotonic() >= deadline)  # noqa: B023
            stop.event.set()
            return await task
        assert await heard(task) is ServiceUnavailable  # on a busy machine its time is up before anything is sent


class TestACallerThatLeaves:
    @pytest.mark.parametrize("command", ["create", "confirm", "cancel", "extend"])
    @pytest.mark.parametrize("pause", [Hold, HoldOngoing, HoldReply])
    async def test_its_command_goes_on_and_somebody_waits_for_it(
        self, venue: Venue, command: str, pause: type[Hold | HoldOngoing | HoldReply]
    ) -> None:
        """On its way, begun, or applied with the reply under way: the effect is there when the process is drained.
        https://github.com/aws-powertools/powertools-lambda-python/issues/1038
        https://github.com/aws-powertools/powertools-lambda-python/issues/4759"""
        async with venue.behind() as (proxy, client):
            party = await knowing(venue.party(client))
            subject = "A-1" if command == "create" else (await party.create("A-1")).reservation.id
            stop = pause()
            proxy.script(transaction, stop)
            caller = asyncio.ensure_future(getattr(party, command)(subject))
            await stop.reached.wait()
            caller.cancel()
            with pytest.raises(asyncio.CancelledError):
                await caller
            draining = asyncio.ensure_future(party.service.drain())
            await asyncio.sleep(0)
            assert not draining.done()
            stop.event.set()
            await draining
        (stored,) = (await venue.rows()).reservations
        status = {"create": "HOLD", "confirm": "CONFIRMED", "cancel": "CANCELLED", "extend": "HOLD"}[command]
        assert stored["status"] == {"S": status}

    async def test_another_caller_with_the_same_key_hears_what_became_of_it(self, venue: Venue) -> None:
        async with venue.behind(unhurried=True) as (proxy, client):
            party = await knowing(venue.party(client))
            stop = HoldReply()
            proxy.script(transaction, stop)
            first = asyncio.ensure_future(party.create("A-1", key="key_1"))
            await stop.reached.wait()
            second = asyncio.ensure_future(party.create("A-1", key="key_1"))
            await asyncio.sleep(0)
            first.cancel()
            stop.event.set()
            assert (await second).replayed
            assert proxy.stats["TransactWriteItems"] == 1

    async def test_a_command_that_fails_after_its_caller_left_fails_in_silence(self, venue: Venue) -> None:
        """Nothing is reported as an exception that nobody retrieved."""
        reported: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: reported.append(context))
        await venue.party().create("A-1")
        async with venue.behind() as (proxy, client):
            party = await knowing(venue.party(client))
            stop = HoldReply()
            proxy.script(transaction, stop)
            caller = asyncio.ensure_future(party.create("A-1", user="user_2"))
            await stop.reached.wait()
            caller.cancel()
            stop.event.set()
            await party.service.drain()
        del caller
        gc.collect()
        assert reported == []


class TestAnUnknownOutcome:
    @pytest.mark.parametrize("same_process", [True, False], ids=["same-process", "another-process"])
    @pytest.mark.parametrize("command", ["create", "confirm", "cancel", "extend"])
    async def test_is_told_as_such_and_the_same_key_finds_out(
        self, venue: Venue, command: str, same_process: bool
    ) -> None:
        """The transaction is applied, and at the caller's deadline its reply is still on the way.
        https://github.com/aws-powertools/powertools-lambda-python/issues/8049"""
        async with venue.behind() as (proxy, client):
            party = await knowing(venue.party(client))
            subject = "A-1" if command == "create" else (await party.create("A-1")).reservation.id
            lost = HoldReply()
            proxy.script(transaction, lost)
            told = await heard_after(lost, party, lambda: getattr(party, command)(subject, key="key_1", patience=0.7))
            assert told is UpstreamTimeout
            retrying = party if same_process else venue.party()
            again = await getattr(retrying, command)(subject, key="key_1")
            assert again.replayed
            assert events.body(again.reservation)["status"] == again.reservation.status
            lost.event.set()
        rows = await venue.rows()
        assert len(rows.reservations) == 1
        assert len(rows.idempotency) == 1

    async def test_may_be_no_effect_and_then_the_same_key_has_one(self, venue: Venue) -> None:
        """The request never reached DynamoDB; nobody can know."""
        async with venue.behind() as (proxy, client):
            party = await knowing(venue.party(client))
            lost = Hold()
            proxy.script(transaction, lost)
            told = await heard_after(lost, party, lambda: party.create("A-1", key="key_1", patience=0.7))
            assert told is UpstreamTimeout
            first = await venue.party().create("A-1", key="key_1")
            assert not first.replayed
            lost.event.set()
        assert (await venue.party().create("A-1", key="key_1")).reservation.id == first.reservation.id

    @pytest.mark.parametrize(
        "last", [Throttle(), RejectBefore("InternalServerError", 500)], ids=["throttled", "failed"]
    )
    async def test_stays_unknown_when_the_last_try_was_refused(self, venue: Venue, last: RejectBefore) -> None:
        """A throttle says nothing of the try before it, whose reply was lost."""
        held = (await venue.party().create("A-1")).reservation
        sold = confirmed(held)
        async with venue.behind(befalls=lambda _: last) as (proxy, client):
            store = venue.party(client).store
            proxy.script(transaction, LoseReply())
            while not proxy.stats["reply lost"]:  # on a busy machine the time may be up before anything is sent
                told = await heard(store.advance(held, sold, None, "", soon(0.7)))
            assert told is UpstreamTimeout
        assert (await venue.party().get(held.id)).status is Status.CONFIRMED

    async def test_a_late_first_try_does_not_take_effect_after_the_second(self, venue: Venue) -> None:
        """It is overtaken by its own repetition, and the seat given back, when it arrives: the same request token,
        so DynamoDB knows it as done."""
        async with venue.behind() as (proxy, client):
            party = await knowing(venue.party(client))
            late = Hold()
            proxy.script(transaction, late)
            held = (await party.create("A-1")).reservation
            await venue.party().cancel(held.id)
            before = await venue.rows()
            late.event.set()
            for _ in range(20):  # by then it has arrived
                assert (await party.get(held.id)).status is Status.CANCELLED
        assert await venue.rows() == before

    @pytest.mark.parametrize("key", ["", "key_1"])
    async def test_stays_unknown_when_a_late_first_try_may_yet_take_the_seat(self, venue: Venue, key: str) -> None:
        """Its repetition was refused, but a refusal would be a lie once the seat is free and the first try arrives."""
        other = (await venue.party().create("A-1")).reservation
        async with venue.behind() as (proxy, client):
            party = await knowing(venue.party(client))
            late = Hold()
            proxy.script(transaction, late)
            assert await heard(party.create("A-1", key=key)) is UpstreamTimeout
            await venue.party().cancel(other.id)
            late.event.set()
            while "holder" not in await venue.seat("A-1"):
                pass
            if key:
                assert (await party.create("A-1", key=key)).replayed

    @pytest.mark.parametrize(("command", "busy"), [("create", "throttled"), ("confirm", "in-conflict")])
    async def test_stays_unknown_when_the_store_is_busy_after_a_late_first_try(
        self, venue: Venue, command: str, busy: str
    ) -> None:
        """Of what was sent last it is certain that nothing happened, and not of what was sent first."""
        held = (await venue.party().create("A-1")).reservation
        async with venue.behind() as (proxy, client):
            store, deadline = venue.party(client).store, soon(1.7)
            late, more = Hold(), itertools.count()
            proxy.script(transaction, late)
            if busy == "throttled":

                def once(request: Request) -> bool:
                    return transaction(request) and next(more) == 0

                script_verdict(proxy, EVERYTHING_CONFLICTS, once, times=FOR_EVER)
                proxy.script(transaction, Throttle(), times=FOR_EVER)
            else:
                script_verdict(proxy, EVERYTHING_CONFLICTS, times=FOR_EVER)
            if command == "create":
                call, seat_id, becomes = store.hold(draft_of("A-2"), None, "", deadline), "A-2", "HELD"
            else:
                call, seat_id, becomes = store.advance(held, confirmed(held), None, "", deadline), "A-1", "SOLD"
            assert await heard(call) is UpstreamTimeout
            late.event.set()
            while (await venue.seat(seat_id))["status"] != {"S": becomes}:
                pass

    async def test_stays_unknown_when_a_late_first_try_waits_for_a_seat_that_is_not_there_yet(
        self, venue: Venue
    ) -> None:
        """Which is known from the layout, and about to be put on sale."""
        seat = replace(SEATS[0], id="B-1")
        async with venue.behind() as (proxy, client):
            late = Hold()
            proxy.script(transaction, late)
            draft = replace(draft_of("A-1"), seats=(seat,))
            assert await heard(venue.party(client).store.hold(draft, None, "", soon())) is UpstreamTimeout
            await venue.sell([seat])
            late.event.set()
            while "holder" not in await venue.seat(seat.id):
                pass

    async def test_stays_unknown_when_a_late_first_try_was_in_time_and_the_second_was_not(self, venue: Venue) -> None:
        """Each try asserts the time at which its transaction was made. Until the end of the hold is recorded, the late
        one may still find it as it was."""
        held = (await venue.party().create("A-1")).reservation
        async with venue.behind() as (proxy, client):
            party, late = venue.party(client), Hold()
            proxy.script(transaction, late)

            def in_time(request: Request) -> bool:
                if meant := transaction(request):
                    venue.clock.advance(HOLD_MS)
                return meant

            script_verdict(proxy, EVERYTHING_CONFLICTS, in_time)
            assert await heard(party.confirm(held.id)) is UpstreamTimeout
            late.event.set()
            while (await venue.seat("A-1"))["status"] != {"S": "SOLD"}:
                pass


class TestNoEffect:
    async def test_a_store_that_only_throttles_until_the_deadline_is_unavailable(self, venue: Venue) -> None:
        held = (await venue.party().create("A-1")).reservation
        sold = confirmed(held)
        before = await venue.rows()
        async with venue.behind(throttle=1.0, unhurried=True) as (_, client):
            store = venue.party(client).store
            assert await heard(store.hold(draft_of("A-2"), KEY, "", soon(0.3))) is ServiceUnavailable
            assert await heard(store.advance(held, sold, KEY, "", soon(0.3))) is ServiceUnavailable
            assert await heard(store.find(held.id, soon(0.3))) is ServiceUnavailable
        assert await venue.rows() == before

    async def test_a_deadline_that_has_passed_sends_nothing(self, venue: Venue) -> None:
        async with venue.behind() as (proxy, client):
            store = venue.party(client).store
            assert await heard(store.hold(draft_of("A-1"), KEY, "", time.monotonic())) is ServiceUnavailable
            assert not proxy.stats

    async def test_seats_in_conflict_at_the_deadline_are_no_refusal(self, venue: Venue) -> None:
        """Nobody knows yet whether the other will get them."""
        async with venue.behind(unhurried=True) as (proxy, client):
            party = await knowing(venue.party(client))
            other = HoldOngoing()
            proxy.script(transaction, other)
            winner = asyncio.ensure_future(party.create("A-1", user="user_2"))
            await other.reached.wait()
            call = at_the_deadline(proxy, lambda until: party.store.hold(draft_of("A-1"), None, "", until))
            assert await heard(call) is ServiceUnavailable
            other.event.set()
            await winner

    @pytest.mark.parametrize("fault", [LoseRequest, Swallow])
    async def test_a_read_that_is_not_answered_changes_nothing_and_says_so(
        self, venue: Venue, fault: type[LoseRequest | Swallow]
    ) -> None:
        held, silence = (await venue.party().create("A-1")).reservation, fault()
        async with venue.behind(befalls=lambda _: silence) as (proxy, client):
            store = venue.party(client).store
            while not proxy.stats["Query"]:  # on a busy machine the time may be up before anything is sent
                assert await heard(store.find(held.id, soon(0.3))) is ServiceUnavailable


class TestAKeyInUse:
    @pytest.mark.parametrize("command", ["create", "confirm"])
    async def test_a_record_in_conflict_at_the_deadline_is_in_progress(self, venue: Venue, command: str) -> None:
        """The other one, with the same key, has been begun and neither applied nor refused."""
        held = (await venue.party().create("A-1")).reservation
        sold = confirmed(held)
        async with venue.behind(unhurried=True) as (proxy, client):
            store = venue.party(client).store
            other = HoldOngoing()
            proxy.script(transaction, other)
            if command == "create":
                first = store.hold(draft_of("A-2", "rsv_other"), KEY, "", soon())
            else:
                first = store.advance(held, replace(sold, op_id="op_other"), KEY, "", soon())

            def second(until: float) -> Awaitable[Recorded]:
                if command == "create":
                    return store.hold(draft_of("A-2"), KEY, "", until)
                return store.advance(held, sold, KEY, "", until)

            winner = asyncio.ensure_future(first)
            await other.reached.wait()
            assert await heard(at_the_deadline(proxy, second)) is IdempotencyInProgress
            other.event.set()
            assert not (await winner).replayed

    async def test_who_joins_an_equal_request_keeps_the_own_patience(self, venue: Venue) -> None:
        """The first caller's time is up while a third, on another process, has the record. The second has time left,
        in which it becomes known."""
        async with venue.behind() as (proxy, client):
            one, two = await knowing(venue.party(client)), await knowing(venue.party(client))
            other = HoldOngoing()
            proxy.script(transaction, other)
            winner = asyncio.ensure_future(one.create("A-1", key="key_1"))
            await other.reached.wait()
            hasty = asyncio.ensure_future(two.create("A-1", key="key_1", patience=0.3))
            patient = asyncio.ensure_future(two.create("A-1", key="key_1"))
            # The third of these, if on a busy machine the time is up before anything is sent.
            assert await heard(hasty) in (IdempotencyInProgress, UpstreamTimeout, ServiceUnavailable)
            other.event.set()
            assert (await patient).replayed
            assert not (await winner).replayed
