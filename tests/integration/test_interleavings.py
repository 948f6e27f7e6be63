"""Exact interleavings of several processes, each built from the faults of a scripted endpoint. Nothing sleeps."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import pytest

from reservation.domain import model
from reservation.domain.errors import IdempotencyConflict, ReservationAlreadyConfirmed, SeatUnavailable
from reservation.domain.idempotency import Key
from reservation.domain.model import Money, Reservation, Status
from reservation.ports import Recorded, Superseded
from tests.support.faults import Hold, HoldReply, LoseReply, Throttle
from tests.support.invariants import violations
from tests.support.stage import Stage, answer, open_stage
from tests.support.store import EVENT, HOLD_MS, NOW, SEATS, soon
from tests.support.verdicts import (
    CONFLICT,
    EVERYTHING_CONFLICTS,
    failed,
    nothing,
    noting_token,
    script_read,
    script_verdict,
    transaction,
)

A1, A2 = "evt_2025_1001#A-1", "evt_2025_1001#A-2"


@pytest.fixture
async def stage(backend_url: str) -> AsyncIterator[Stage]:
    async with open_stage(backend_url) as stage:
        yield stage


def draft_of(*seat_ids: str) -> Reservation:
    """A hold of SEATS as the service would hand it to the store: held twice, it is one that was tried twice."""
    return Reservation(
        id="rsv_draft",
        event_id=EVENT.id,
        user_id="user_1",
        status=Status.HOLD,
        seats=tuple(seat for seat in SEATS if seat.id in seat_ids),
        created_at=NOW,
        updated_at=NOW,
        hold_expires_at=NOW + HOLD_MS,
        version=1,
        op_id="op_draft",
        shard="0000",
    )


def extended(held: Reservation, op_id: str) -> Reservation:
    """A hold that ends 30 seconds later, as the service would hand it to the store."""
    after = model.extend(
        held, extension_ms=30_000, reason="", now=NOW, op_id=op_id, max_extensions=3, max_total=300_000
    )
    assert after is not None
    return after


class TestEqualRequests:
    """The loser of two equal requests is told what the winner was told, never that its own seats are taken."""

    async def test_while_the_first_is_in_flight_the_second_waits_for_it(self, stage: Stage) -> None:
        """Conflict on the key record and on the seats, again and again, until the first is applied."""
        async with stage.ongoing(stage.one.create("A-1", "A-2", key="key_1")) as first:
            second = await stage.contend(stage.two.create("A-1", "A-2", key="key_1"))
            assert not second.done()
        assert (first.result().replayed, (await second).replayed) == (False, True)
        assert answer(await second) == answer(first.result())

    @pytest.mark.parametrize("sold", [False, True], ids=["held", "sold"])
    async def test_a_seat_that_shows_the_winner_before_the_key_record_does(self, stage: Stage, sold: bool) -> None:
        """The first has committed. The second still finds the key record in conflict, and the seat taken; a sold one
        does not even tell any more by which key."""
        first = await stage.direct.create("A-1", "A-2", key="key_1")
        if sold:
            await stage.direct.confirm(first.reservation.id)
        taken = failed(await stage.venue.seat("A-1"))
        script_verdict(stage.proxy, {"idempotency": CONFLICT, A1: taken, A2: CONFLICT})
        script_read(stage.proxy, {})
        second = await stage.two.create("A-1", "A-2", key="key_1")
        assert (second.replayed, answer(second)) == (True, answer(first))

    @pytest.mark.parametrize("key_record", [True, False], ids=["record-in-conflict", "record-free"])
    async def test_a_probe_that_shows_the_winners_seat_but_not_its_record(self, stage: Stage, key_record: bool) -> None:
        """The seat says by itself that the key's own request has it, so the record must be on its way."""
        first = await stage.direct.create("A-1", key="key_1")
        script_verdict(stage.proxy, {A1: CONFLICT} | ({"idempotency": CONFLICT} if key_record else {}))
        script_read(stage.proxy, {stage.venue.tables.inventory: [await stage.venue.seat("A-1")]})
        second = await stage.two.create("A-1", key="key_1")
        assert (second.replayed, answer(second)) == (True, answer(first))

    async def test_a_probe_that_shows_the_winners_seat_sold_but_not_its_record(self, stage: Stage) -> None:
        """A sold seat does not tell the key any more; the key record was in conflict, so nothing is decided yet."""
        first = await stage.direct.create("A-1", key="key_1")
        await stage.direct.confirm(first.reservation.id)
        script_verdict(stage.proxy, {A1: CONFLICT, "idempotency": CONFLICT})
        script_read(stage.proxy, {stage.venue.tables.inventory: [await stage.venue.seat("A-1")]})
        second = await stage.two.create("A-1", key="key_1")
        assert (second.replayed, answer(second)) == (True, answer(first))

    async def test_a_probe_that_shows_record_and_seat_replays(self, stage: Stage) -> None:
        """The record wins over the seat in one and the same read: no third transaction is needed."""
        first = await stage.direct.create("A-1", key="key_1")
        script_verdict(stage.proxy, {A1: CONFLICT, "idempotency": CONFLICT})
        second = await stage.two.create("A-1", key="key_1")
        assert (second.replayed, answer(second)) == (True, answer(first))
        assert stage.proxy.stats["TransactWriteItems"] == 1

    async def test_the_one_that_set_out_first_may_be_the_replay(self, stage: Stage) -> None:
        """It is still on its way to DynamoDB when the equal request is applied."""
        pause = Hold()
        stage.proxy.script(transaction, pause)
        late = asyncio.ensure_future(stage.one.create("A-1", key="key_1"))
        await pause.reached.wait()
        winner = await stage.two.create("A-1", key="key_1")
        pause.event.set()
        assert ((await late).replayed, winner.replayed) == (True, False)
        assert answer(await late) == answer(winner)

    async def test_other_content_while_the_first_is_in_flight_is_a_conflict_of_keys(self, stage: Stage) -> None:
        """Also where the seats would have been refused, or would have been free."""
        async with stage.ongoing(stage.one.create("A-1", key="key_1")):
            overlapping = await stage.contend(stage.two.create("A-1", "A-2", key="key_1"))
            apart = await stage.contend(stage.two.create("A-3", key="key_1"))
        for other in (overlapping, apart):
            with pytest.raises(IdempotencyConflict):
                await other

    async def test_another_users_equal_key_in_flight_is_just_another_customer(self, stage: Stage) -> None:
        """https://github.com/janavipandole/Cara/issues/4929"""
        async with stage.ongoing(stage.one.create("A-1", key="key_1", user="user_1")) as first:
            second = await stage.contend(stage.two.create("A-1", "A-2", key="key_1", user="user_2"))
        with pytest.raises(SeatUnavailable) as refused:
            await second
        assert refused.value.seat_ids == ("A-1",)
        assert not first.result().replayed

    @pytest.mark.parametrize("command", ["confirm", "cancel"])
    @pytest.mark.parametrize("key", ["", "key_1"], ids=["keyless", "keyed"])
    async def test_equal_confirms_or_cancels_in_flight(self, stage: Stage, command: str, key: str) -> None:
        held = (await stage.direct.create("A-1", "A-2")).reservation
        async with stage.ongoing(getattr(stage.one, command)(held.id, "pay_1", key=key)) as first:
            second = await stage.contend(getattr(stage.two, command)(held.id, "pay_1", key=key))
            assert not second.done()
        assert answer(await second) == answer(first.result())
        assert (first.result().replayed, (await second).replayed) == (False, bool(key))

    async def test_equal_extensions_in_flight_extend_once(self, stage: Stage) -> None:
        held = (await stage.direct.create("A-1", "A-2")).reservation
        async with stage.ongoing(stage.one.extend(held.id, key="key_1")) as first:
            second = await stage.contend(stage.two.extend(held.id, key="key_1"))
            assert not second.done()
        assert (first.result().replayed, (await second).replayed) == (False, True)
        assert answer(await second) == answer(first.result())
        assert first.result().reservation.hold_expires_at == held.hold_expires_at + 30_000

    async def test_an_extension_that_shows_before_its_key_record_does_is_waited_for(self, stage: Stage) -> None:
        """To decide about the reservation as it shows might deny to a request what its equal was granted just now."""
        held, key = (await stage.direct.create("A-1")).reservation, Key("key_1", "fingerprint_1")
        first = await stage.direct.store.advance(held, extended(held, "op_1"), key, "", soon())
        (stored,) = (await stage.venue.rows()).reservations
        script_verdict(stage.proxy, {"idempotency": CONFLICT, "reservations": failed(stored)})
        second = await stage.two.store.advance(held, extended(held, "op_2"), key, "", soon())
        assert (second.replayed, answer(second)) == (True, answer(first))

    async def test_a_confirm_by_another_payment_waits_for_the_one_in_flight(self, stage: Stage) -> None:
        held = (await stage.direct.create("A-1")).reservation
        async with stage.ongoing(stage.one.confirm(held.id, "pay_1")):
            second = await stage.contend(stage.two.confirm(held.id, "pay_2"))
        with pytest.raises(ReservationAlreadyConfirmed):
            await second


class TestThrottledItems:
    """A partition without capacity refuses a transaction by the reason of one item. That is no verdict on the item."""

    @pytest.mark.parametrize("code", ["ThrottlingError", "ProvisionedThroughputExceeded"])
    @pytest.mark.parametrize("table", ["inventory", "reservations", "outbox", "idempotency"])
    async def test_a_hold_is_tried_again_and_adds_no_reads_to_the_load(
        self, stage: Stage, table: str, code: str
    ) -> None:
        script_verdict(stage.proxy, {table: {"Code": code}})
        made = await stage.one.create("A-1", "A-2", key="key_1")
        assert not made.replayed
        assert stage.proxy.stats == {"TransactWriteItems": 2}

    @pytest.mark.parametrize("command", ["confirm", "cancel", "extend"])
    async def test_any_other_command_is_tried_again(self, stage: Stage, command: str) -> None:
        held = (await stage.direct.create("A-1")).reservation
        for table in ("inventory", "reservations", "outbox"):
            script_verdict(stage.proxy, {table: {"Code": "ThrottlingError"}})
        made = await getattr(stage.one, command)(held.id, "pay_1")
        assert made.reservation.version == 2

    async def test_a_throttled_key_record_leaves_the_seats_undecided(self, stage: Stage) -> None:
        """The seat shows another holder, who may have been an equal request."""
        first = await stage.direct.create("A-1", key="key_1")
        await stage.direct.confirm(first.reservation.id)
        sold = failed(await stage.venue.seat("A-1"))
        script_verdict(stage.proxy, {"idempotency": {"Code": "ThrottlingError"}, A1: sold})
        script_read(stage.proxy, {stage.venue.tables.inventory: [await stage.venue.seat("A-1")]})
        second = await stage.two.create("A-1", key="key_1")
        assert (second.replayed, answer(second)) == (True, answer(first))


class TestMemoryOfRefusals:
    """What a process remembers of taken seats never contradicts the winner, or what the process did itself."""

    async def test_the_winner_of_a_lost_reply_retries_on_a_process_that_remembers_its_seats_as_taken(
        self, stage: Stage
    ) -> None:
        """The reply never came; meanwhile somebody else was refused those seats on the other process."""
        lost = HoldReply()
        stage.proxy.script(transaction, lost)
        caller = asyncio.ensure_future(stage.one.create("A-1", "A-2", key="key_1"))
        await lost.reached.wait()
        caller.cancel()
        with pytest.raises(SeatUnavailable):
            await stage.two.create("A-1", "A-2", user="user_2")
        again = await stage.two.create("A-1", "A-2", key="key_1")
        assert again.replayed
        assert (await stage.two.get(again.reservation.id)).seat_ids == ("A-1", "A-2")
        lost.event.set()

    async def test_a_refusal_heard_after_this_process_freed_the_seat_is_not_remembered(self, stage: Stage) -> None:
        """It was asked before the cancel and its reply comes after it."""
        held = (await stage.two.create("A-1")).reservation
        late = HoldReply()
        stage.proxy.script(transaction, late)
        loser = asyncio.ensure_future(stage.two.create("A-1", user="user_2"))
        await late.reached.wait()
        await stage.two.cancel(held.id)
        late.event.set()
        with pytest.raises(SeatUnavailable):
            await loser
        assert (await stage.two.create("A-1", user="user_3")).reservation.status is Status.HOLD

    @pytest.mark.parametrize("key", ["", "key_1"], ids=["keyless", "keyed"])
    async def test_a_cancel_that_finds_its_own_success_drops_the_refusal_too(self, stage: Stage, key: str) -> None:
        """Applied, reply lost, then a verdict; the next try recognises itself."""
        held = (await stage.direct.create("A-1")).reservation
        with pytest.raises(SeatUnavailable):
            await stage.two.create("A-1", user="user_2")
        stage.proxy.script(transaction, LoseReply())
        script_verdict(stage.proxy, EVERYTHING_CONFLICTS)
        await stage.two.cancel(held.id, key=key)
        assert (await stage.two.create("A-1", user="user_2")).reservation.status is Status.HOLD


class TestOwnSuccess:
    """A command that was applied while its reply was lost is answered as the success it is, and applied once."""

    @pytest.mark.parametrize("key", ["", "key_1"], ids=["keyless", "keyed"])
    @pytest.mark.parametrize("command", ["create", "confirm", "cancel", "extend"])
    async def test_after_a_lost_reply_and_a_throttle_the_same_transaction_is_repeated(
        self, stage: Stage, command: str, key: str
    ) -> None:
        """Neither is a verdict, so the request token stays, and DynamoDB itself knows the transaction again."""
        call = await self.prepared(stage, command, key)
        tokens: list[str] = []
        for fault in (LoseReply(), Throttle(), nothing()):
            stage.proxy.script(noting_token(tokens), fault)
        made = await call()
        assert not made.replayed
        assert len(tokens) == 3
        assert len(set(tokens)) == 1
        await self.applied_once(stage, made)

    @pytest.mark.parametrize("key", ["", "key_1"], ids=["keyless", "keyed"])
    @pytest.mark.parametrize("command", ["create", "confirm", "cancel", "extend"])
    async def test_after_a_lost_reply_a_throttle_and_a_verdict_the_next_try_fails_on_its_own_items(
        self, stage: Stage, command: str, key: str
    ) -> None:
        """After a verdict the token is a new one, so the next try meets what the first has written."""
        call = await self.prepared(stage, command, key)
        tokens: list[str] = []
        for fault in (LoseReply(), Throttle()):
            stage.proxy.script(noting_token(tokens), fault)
        script_verdict(stage.proxy, EVERYTHING_CONFLICTS)
        if command == "create":  # the probe does not see it yet
            free = [await stage.venue.seat(seat_id) for seat_id in ("A-1", "A-2")]
            script_read(stage.proxy, {stage.venue.tables.inventory: free})
        stage.proxy.script(noting_token(tokens), nothing())
        made = await call()
        assert not made.replayed
        assert tokens[0] == tokens[1] != tokens[2]
        await self.applied_once(stage, made)

    @pytest.mark.parametrize("key", ["", "key_1"], ids=["keyless", "keyed"])
    async def test_a_hold_that_finds_its_own_seats_by_the_probe(self, stage: Stage, key: str) -> None:
        stage.proxy.script(transaction, LoseReply())
        script_verdict(stage.proxy, EVERYTHING_CONFLICTS)
        made = await stage.one.create("A-1", "A-2", key=key)
        assert not made.replayed
        assert stage.proxy.stats["TransactWriteItems"] == 2
        await self.applied_once(stage, made)

    async def test_a_hold_that_finds_only_one_of_its_own_seats(self, stage: Stage) -> None:
        """All else is in conflict still, so its reservation cannot be seen: one seat is enough to know."""
        draft = draft_of("A-1", "A-2")
        await stage.direct.store.hold(draft, None, "", soon())
        script_verdict(stage.proxy, EVERYTHING_CONFLICTS | {A2: failed(await stage.venue.seat("A-2"))})
        assert await stage.one.store.hold(draft, None, "", soon()) == Recorded(draft)
        assert stage.proxy.stats["BatchGetItem"] == 0

    async def test_a_hold_that_took_effect_is_a_success_even_if_its_seats_have_gone_to_another_since(
        self, stage: Stage
    ) -> None:
        """Its reservation says so. To be told "taken" would hide from the customer a reservation that exists."""
        draft = draft_of("A-1", "A-2")
        await stage.direct.store.hold(draft, None, "", soon())
        stage.venue.clock.advance(HOLD_MS)
        await stage.direct.create("A-1", "A-2", user="user_2")
        assert await stage.one.store.hold(draft, None, "", soon()) == Recorded(draft)

    @pytest.mark.parametrize("taken", [False, True], ids=["free", "taken"])
    async def test_a_hold_that_took_effect_is_a_success_even_if_it_was_cancelled_since(
        self, stage: Stage, taken: bool
    ) -> None:
        """Its user found it in the list. To be told that nothing happened would not be true."""
        draft = draft_of("A-1", "A-2")
        await stage.direct.store.hold(draft, None, "", soon())
        await stage.direct.cancel(draft.id)
        if taken:
            await stage.direct.create("A-1", "A-2", user="user_2")
        assert await stage.one.store.hold(draft, None, "", soon()) == Recorded(draft)

    @pytest.mark.parametrize("command", ["confirm", "cancel", "extend"])
    async def test_a_reservation_that_shows_the_own_operation_is_the_own_success(
        self, stage: Stage, command: str
    ) -> None:
        held = (await stage.direct.create("A-1", "A-2")).reservation
        after = {
            "confirm": model.confirm(held, payment_intent_id="pay_1", now=NOW, op_id="op_mine"),
            "cancel": model.cancel(held, reason="", now=NOW, op_id="op_mine"),
            "extend": extended(held, "op_mine"),
        }[command]
        assert after is not None
        await stage.direct.store.advance(held, after, None, "", soon())
        again = await stage.one.store.advance(held, after, None, "", soon())
        assert answer(again) == answer(Recorded(after))
        with pytest.raises(Superseded) as superseded:
            await stage.one.store.advance(held, replace(after, op_id="op_other"), None, "", soon())
        assert superseded.value.current.op_id == "op_mine"

    @pytest.mark.parametrize("other", ["extend", "confirm", "cancel"])
    async def test_an_extension_is_recognised_beneath_what_another_command_made_of_the_hold_since(
        self, stage: Stage, other: str
    ) -> None:
        """Applied, reply lost, then a verdict, and before the next try the other one. Nothing is extended twice."""
        held = (await stage.direct.create("A-1", "A-2")).reservation
        stage.proxy.script(transaction, LoseReply())
        stage.proxy.script(transaction, Throttle())
        script_verdict(stage.proxy, EVERYTHING_CONFLICTS)
        pause = Hold()
        stage.proxy.script(transaction, pause)
        first = asyncio.ensure_future(stage.one.extend(held.id))
        await pause.reached.wait()
        second = (await getattr(stage.direct, other)(held.id, "pay_1")).reservation
        pause.event.set()
        made = (await first).reservation
        assert (made.version, made.status, made.hold_expires_at) == (2, Status.HOLD, held.hold_expires_at + 30_000)
        stored = await stage.direct.get(held.id)
        assert (stored.version, stored.status, stored.hold_expires_at) == (3, second.status, second.hold_expires_at)

    async def test_a_confirm_is_not_refused_because_of_its_own_sold_seat(self, stage: Stage) -> None:
        """Half of its own first try is visible: the seats are sold to it, and the reservation in conflict."""
        held = (await stage.direct.create("A-1")).reservation
        sold = (await stage.venue.seat("A-1")) | {"status": {"S": "SOLD"}}
        stage.proxy.script(transaction, LoseReply())
        script_verdict(stage.proxy, {"reservations": CONFLICT, A1: failed(sold)})
        made = await stage.one.confirm(held.id)
        assert made.reservation.status is Status.CONFIRMED
        await self.applied_once(stage, made)

    @pytest.mark.parametrize("undecided", ["reservations", "idempotency"])
    async def test_a_cancel_is_not_refused_because_of_its_own_freed_seat(self, stage: Stage, undecided: str) -> None:
        """Half of its own first try is visible: the seat is free, which shows nobody, and the rest in conflict."""
        held = (await stage.direct.create("A-1")).reservation
        stage.proxy.script(transaction, LoseReply())
        script_verdict(stage.proxy, {undecided: CONFLICT, A1: failed(await stage.venue.seat("A-2"))})
        made = await stage.one.cancel(held.id, key="key_1")
        assert made.reservation.status is Status.CANCELLED
        assert not made.replayed
        await self.applied_once(stage, made)

    async def test_a_seat_that_shows_the_own_reservation_is_never_a_lost_one(self, stage: Stage) -> None:
        """As before, with a reservation that does not show the first try yet either."""
        held = (await stage.direct.create("A-1")).reservation
        sold = (await stage.venue.seat("A-1")) | {"status": {"S": "SOLD"}}
        stage.proxy.script(transaction, LoseReply())
        script_verdict(stage.proxy, {A1: failed(sold)})
        made = await stage.one.confirm(held.id)
        assert made.reservation.status is Status.CONFIRMED
        await self.applied_once(stage, made)

    async def prepared(self, stage: Stage, command: str, key: str) -> Callable[[], Awaitable[Recorded]]:
        """The command on A-1 and A-2, ready to be sent by process one."""
        if command == "create":
            return lambda: stage.one.create("A-1", "A-2", key=key)
        held = (await stage.direct.create("A-1", "A-2")).reservation
        return lambda: getattr(stage.one, command)(held.id, "pay_1", key=key)

    async def applied_once(self, stage: Stage, made: Recorded) -> None:
        rows = await stage.venue.rows()
        (stored,) = rows.reservations
        assert stored["opId"] == {"S": made.reservation.op_id}
        assert stored["version"] == {"N": str(made.reservation.version)}
        assert violations(rows) == []


class TestStoredAnswers:
    """A record carries its whole answer, so nothing that happens to the seats or the reservation can change it."""

    async def test_an_answer_costs_no_read_beside_its_transaction(self, stage: Stage) -> None:
        """Neither the first time nor as a replay on another process."""
        first = await stage.one.create("A-1", "A-2", key="key_1")
        assert stage.proxy.stats == {"TransactWriteItems": 1}
        again = await stage.two.create("A-1", "A-2", key="key_1")
        assert stage.proxy.stats == {"TransactWriteItems": 2}
        assert answer(again) == answer(first)
        await stage.one.confirm(first.reservation.id, key="key_1")
        assert stage.proxy.stats == {"TransactWriteItems": 3, "Query": 1}

    async def test_an_answer_keeps_the_price_and_place_that_were_told(self, stage: Stage) -> None:
        """The seats are given back and come in again at another price; the key still gets what it was told."""
        first = await stage.one.create("A-1", "A-2", key="key_1")
        await stage.one.cancel(first.reservation.id)
        await stage.venue.sell([replace(seat, price=Money(1, "KRW")) for seat in SEATS])
        again = await stage.venue.party().create("A-1", "A-2", key="key_1")
        assert again.replayed
        assert answer(again) == answer(first)
        assert again.reservation.total == Money(240_000, "KRW")


async def test_a_hold_for_another_service_is_not_refused_because_of_its_own_equal(stage: Stage) -> None:
    """It looked for its equal before that had landed; then another customer was told here that the seat is taken."""
    lookup = HoldReply()
    stage.proxy.script(lambda request: request.operation == "Query", lookup)
    second = asyncio.ensure_future(stage.two.reserve("rsv_9", "A-1"))
    await lookup.reached.wait()
    first = await stage.direct.reserve("rsv_9", "A-1")
    with pytest.raises(SeatUnavailable):
        await stage.two.create("A-1")
    lookup.event.set()
    assert await second == first
