"""Creates of one user that meet at the limit of its live holds, each interleaving built from the faults of a scripted
endpoint. The limit refuses under the rules by which a taken seat does. Nothing sleeps."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest

from reservation.domain.errors import HoldLimitReached, SeatUnavailable
from reservation.domain.model import Event, Status
from reservation.ports import Recorded
from tests.support.faults import Answer, Hold, LoseReply, Request, Throttle
from tests.support.stage import Stage, answer, open_stage
from tests.support.store import HOLD_MS, SEATS, Party, soon
from tests.support.verdicts import CONFLICT, EVERYTHING_CONFLICTS, failed, script_read, script_verdict, transaction

ONE, TWO = Event("evt_one", max_holds_per_user=1), Event("evt_two", max_holds_per_user=2)
SLOT = "evt_one##slot#user_1#0"
KEYS = pytest.mark.parametrize("key", ["", "key_1"], ids=["keyless", "keyed"])


@pytest.fixture
async def stage(backend_url: str) -> AsyncIterator[Stage]:
    """With two more events on sale, where a user may have one hold, and two."""
    async with open_stage(backend_url) as stage:
        for event in (ONE, TWO):
            await stage.venue.sell(SEATS, event)
            for party in (stage.one, stage.two, stage.direct):
                await party.inventory.facts(event.id, [seat.id for seat in SEATS], soon())
        stage.proxy.stats.clear()
        yield stage


async def create(party: Party, seat_id: str, event: Event = ONE, key: str = "") -> Recorded:
    return await party.create(seat_id, event=event.id, key=key)


def noting_slot(noted: list[str]) -> Callable[[Request], bool]:
    """Matches the next transaction and appends the key of the slot that it takes."""

    def matches(request: Request) -> bool:
        actions = [action for each in request.params.get("TransactItems", ()) for action in each.values()]
        noted.extend(pk for each in actions if "#slot#" in (pk := each.get("Key", {}).get("pk", {}).get("S", "")))
        return transaction(request)

    return matches


def key_record(request: Request) -> bool:
    return request.operation == "GetItem"


@KEYS
async def test_a_slot_in_anothers_hands_refuses_nothing_until_it_is_known_who_has_it(stage: Stage, key: str) -> None:
    async with stage.ongoing(create(stage.one, "A-1")) as first:
        second = await stage.contend(create(stage.two, "A-2", key=key))
        assert not second.done()
    assert first.result().reservation.status is Status.HOLD
    with pytest.raises(HoldLimitReached):
        await second


@KEYS
async def test_a_slot_whose_taker_comes_to_nothing_is_the_next_ones(stage: Stage, key: str) -> None:
    """The first wants a seat that is taken as well."""
    await stage.direct.create("A-1", event=ONE.id, user="user_2")
    async with stage.ongoing(create(stage.one, "A-1")) as first:
        second = await stage.contend(create(stage.two, "A-2", key=key))
        assert not second.done()
    with pytest.raises(SeatUnavailable):
        first.result()
    assert (await second).reservation.status is Status.HOLD


@KEYS
async def test_who_loses_a_slot_takes_another(stage: Stage, key: str) -> None:
    """Both were free when it looked. Before its transaction another create takes the one that it chose."""
    chosen: list[str] = []
    pause = Hold()
    stage.proxy.script(noting_slot(chosen), pause)
    late = asyncio.ensure_future(create(stage.one, "A-1", TWO, key))
    await pause.reached.wait()
    rivals = [(await create(stage.direct, seat_id, TWO)).reservation for seat_id in ("A-2", "A-3")]
    (spared,) = (rival for rival in rivals if f"evt_two##slot#user_1#{rival.slot}" not in chosen)
    await stage.direct.cancel(spared.id)
    pause.event.set()
    assert (await late).reservation.slot == spared.slot
    assert stage.proxy.stats["TransactWriteItems"] == 2


@KEYS
async def test_who_loses_the_last_slot_is_refused_by_a_look_and_not_by_one_try_after_another(
    stage: Stage, key: str
) -> None:
    pause = Hold()
    stage.proxy.script(transaction, pause)
    late = asyncio.ensure_future(create(stage.one, "A-1", key=key))
    await pause.reached.wait()
    await create(stage.direct, "A-2")
    pause.event.set()
    with pytest.raises(HoldLimitReached):
        await late
    assert stage.proxy.stats["TransactWriteItems"] == 1


@KEYS
async def test_who_is_refused_at_once_costs_no_transaction(stage: Stage, key: str) -> None:
    await create(stage.direct, "A-1")
    with pytest.raises(HoldLimitReached):
        await create(stage.one, "A-2", key=key)
    assert stage.proxy.stats == {"BatchGetItem": 1} | ({"GetItem": 1} if key else {})


class TestEqualRequests:
    """The loser of two equal requests is told what the winner was told, though the winner has filled the limit."""

    async def test_while_the_first_is_in_flight_the_second_waits_for_it(self, stage: Stage) -> None:
        async with stage.ongoing(create(stage.one, "A-1", key="key_1")) as first:
            second = await stage.contend(create(stage.two, "A-1", key="key_1"))
            assert not second.done()
        assert ((await second).replayed, answer(await second)) == (True, answer(first.result()))

    async def test_a_slot_that_shows_the_winner_before_the_key_record_does(self, stage: Stage) -> None:
        """At the first look: the slot says by itself that the key's own request has it, and no record is there yet."""
        first = await create(stage.direct, "A-1", key="key_1")
        stage.proxy.script(key_record, Answer(200, b"{}"))
        second = await create(stage.two, "A-1", key="key_1")
        assert (second.replayed, answer(second)) == (True, answer(first))
        assert stage.proxy.stats["GetItem"] == 1

    @pytest.mark.parametrize("sold", [False, True], ids=["held", "sold"])
    async def test_a_verdict_about_the_slot_while_the_key_record_is_in_conflict(self, stage: Stage, sold: bool) -> None:
        """Nothing is decided, nor by the look that follows. The slot may even be another's by now, whose hold came
        after the winner's was sold."""
        free = (await stage.venue.rows()).seats["evt_one#A-1"]
        first = await create(stage.direct, "A-1", key="key_1")
        if sold:
            await stage.direct.confirm(first.reservation.id)
            await create(stage.direct, "A-2")
        slot = (await stage.venue.rows()).slots[SLOT]
        script_read(stage.proxy, {})
        script_verdict(stage.proxy, {"idempotency": CONFLICT, SLOT: failed(slot)})
        script_read(stage.proxy, {stage.venue.tables.inventory: [slot, free]})
        second = await create(stage.two, "A-1", key="key_1")
        assert (second.replayed, answer(second)) == (True, answer(first))

    async def test_a_slot_under_a_key_that_is_forgotten_is_just_taken(self, stage: Stage) -> None:
        """The hold outlives its key: there is no record to wait for."""
        long = stage.venue.party(hold=2 * HOLD_MS, window=HOLD_MS)
        await create(long, "A-1", key="key_1")
        stage.venue.clock.advance(HOLD_MS)
        with pytest.raises(HoldLimitReached):
            await create(stage.two, "A-2", key="key_1")


class TestOwnSuccess:
    """A create that was applied while its reply was lost is answered as the success it is, not by its own slot."""

    @KEYS
    @pytest.mark.parametrize("seen", [True, False], ids=["by-the-look", "by-the-next-try"])
    async def test_after_a_lost_reply_a_throttle_and_a_verdict(self, stage: Stage, key: str, seen: bool) -> None:
        free = (await stage.venue.rows()).seats["evt_one#A-1"]
        stage.proxy.script(transaction, LoseReply())
        stage.proxy.script(transaction, Throttle())
        script_verdict(stage.proxy, EVERYTHING_CONFLICTS)
        if not seen:
            script_read(stage.proxy, {})
            script_read(stage.proxy, {stage.venue.tables.inventory: [free]})
        made = await create(stage.one, "A-1", key=key)
        assert not made.replayed
        rows = await stage.venue.rows()
        (stored,) = rows.reservations
        assert stored["opId"] == {"S": made.reservation.op_id}
        assert [slot["holder"] for slot in rows.slots.values()] == [stored["reservationId"]]

    @pytest.mark.parametrize("verdict", [True, False], ids=["in-the-verdict", "by-the-look"])
    async def test_when_of_its_own_items_only_the_slot_is_seen(self, stage: Stage, verdict: bool) -> None:
        """All else is in conflict still, so neither its reservation nor its seat can be seen."""
        free = (await stage.venue.rows()).seats["evt_one#A-1"]
        made = await create(stage.direct, "A-1")
        slot = (await stage.venue.rows()).slots[SLOT]
        script_verdict(stage.proxy, EVERYTHING_CONFLICTS | ({SLOT: failed(slot)} if verdict else {}))
        script_read(stage.proxy, {})
        if not verdict:
            script_read(stage.proxy, {stage.venue.tables.inventory: [slot, free]})
        again = await stage.one.store.hold(replace(made.reservation, slot=None), None, "", soon(), max_holds=1)
        assert again == made
        assert stage.proxy.stats["TransactWriteItems"] == 1

    async def test_when_it_is_tried_again_at_the_limit_that_it_fills_itself(self, stage: Stage) -> None:
        made = await create(stage.direct, "A-1")
        again = await stage.one.store.hold(replace(made.reservation, slot=None), None, "", soon(), max_holds=1)
        assert again == made
