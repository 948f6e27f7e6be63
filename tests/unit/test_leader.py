"""Leaders over a real leases table, in a time that the tests move and with ticks that the tests call."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable

import pytest

from reservation.aws.errors import AwsError, Throttled, TransportError
from reservation.dynamodb.leases import Shard
from reservation.dynamodb.retirement import LASTING_SHARD
from tests.support.conflict_proxy import ConflictProxy
from tests.support.faults import HoldReply, LoseReply, LoseRequest, RejectBefore, Request, Throttle
from tests.support.lease_workers import LEASE, Member, Workers, lease_workers, sizes

TICK = LEASE / 3
BELIEF = 0.8 * LEASE
EIGHT = [f"{number:04d}" for number in range(8)]


@pytest.fixture
async def workers(ministack_url: str) -> AsyncIterator[Workers]:
    async with lease_workers(ministack_url) as workers:
        yield workers


@pytest.fixture
async def proxy(ministack_url: str) -> AsyncIterator[ConflictProxy]:
    async with ConflictProxy(ministack_url, hold=0.0) as proxy:
        yield proxy


def a_take(request: Request) -> bool:
    return ":owner" in _values(request) and _values(request)[":owner"]["S"] != ""


def a_give_back(request: Request) -> bool:
    return ":owner" in _values(request) and _values(request)[":owner"]["S"] == ""


def a_beat(request: Request) -> bool:
    return ":one" in _values(request)


def _values(request: Request) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = request.params.get("ExpressionAttributeValues", {})
    return found


def any_(operation: str) -> Callable[[Request], bool]:
    return lambda request: request.operation == operation


async def assert_shared_out(workers: Workers, *members: Member) -> None:
    """Each shard is worked on by exactly one of them, who is its owner by the table and was told so; parts are fair."""
    owners = await workers.owners()
    assert {shard: [owner] for shard, owner in owners.items()} == workers.workers_of()
    assert set(owners.values()) <= {member.name for member in members}
    fair, more = divmod(len(owners), len(members))
    assert sizes(members) == [fair + 1] * more + [fair] * (len(members) - more)
    assert all(member.told == member.held for member in members)


class TestStart:
    async def test_a_worker_knows_the_shards_before_it_holds_any(self, workers: Workers) -> None:
        member = workers.add("a")
        assert member.leader.shards == ()
        await member.leader.enroll()
        assert member.leader.shards == tuple(EIGHT)
        assert member.held == []
        assert await workers.owners() == dict.fromkeys(EIGHT, "")

    async def test_a_lone_worker_takes_everything_in_its_first_tick(self, workers: Workers) -> None:
        (member,) = await workers.enrolled("a")
        assert member.held == EIGHT
        assert member.leader.position == (0, 1)
        await assert_shared_out(workers, member)

    async def test_three_that_start_together_have_fair_shares_after_one_tick_each(self, workers: Workers) -> None:
        members = await workers.enrolled("b", "c", "a", shard_count=16)
        await assert_shared_out(workers, *members)
        assert [member.leader.position for member in members] == [(1, 3), (2, 3), (0, 3)]

    async def test_three_that_tick_at_one_time_have_fair_shares_after_one_tick_each(self, workers: Workers) -> None:
        """They reach for the same shards; who loses one goes on to the next."""
        members = [workers.add(name, shard_count=16) for name in "abc"]
        await asyncio.gather(*(member.leader.enroll() for member in members))
        await asyncio.gather(*(member.leader.tick() for member in members))
        await assert_shared_out(workers, *members)

    async def test_the_setting_adds_shards_and_removes_none(self, workers: Workers) -> None:
        for count, expected in ((3, 3), (5, 5), (2, 5)):
            member = workers.add(f"w{count}", shard_count=count)
            await member.leader.enroll()
            assert list(member.leader.shards) == EIGHT[:expected]

    async def test_adding_shards_leaves_the_others_with_their_owners(self, workers: Workers) -> None:
        (member,) = await workers.enrolled("a", shard_count=4)
        tokens = await workers.tokens()
        await workers.add("b", shard_count=8).leader.enroll()
        assert member.held == EIGHT[:4]
        assert {shard: token for shard, token in (await workers.tokens()).items() if shard in tokens} == tokens


class TestFairShares:
    async def test_a_newcomer_has_its_share_after_one_tick_of_each(self, workers: Workers) -> None:
        """All surplus is handed back at once, not one shard a tick."""
        members = await workers.enrolled("a", "b", shard_count=16)
        newcomer = workers.add("c", shard_count=16)
        await newcomer.leader.enroll()
        await workers.tick(*members, newcomer)
        await assert_shared_out(workers, *members, newcomer)

    async def test_newcomers_one_after_the_other_end_in_fair_shares(self, workers: Workers) -> None:
        members: list[Member] = []
        for name in "dacb":
            members.append(workers.add(name))
            await members[-1].leader.enroll()
            await workers.tick(*members)
        await assert_shared_out(workers, *members)

    async def test_fair_shares_stay_as_they_are(self, workers: Workers) -> None:
        members = await workers.enrolled("a", "b", "c")
        owners, tokens = await workers.owners(), await workers.tokens()
        await workers.live(30, *members)
        assert (await workers.owners(), await workers.tokens()) == (owners, tokens)

    async def test_of_more_workers_than_shards_the_rest_hold_nothing(self, workers: Workers) -> None:
        members = await workers.enrolled(*"abcd", shard_count=2)
        assert [len(member.held) for member in members] == [1, 1, 0, 0]
        await workers.live(10, *members)
        assert [len(member.held) for member in members] == [1, 1, 0, 0]


class TestDeath:
    async def test_the_dead_workers_shards_are_taken_over_after_a_lease_and_never_before(
        self, workers: Workers
    ) -> None:
        members = await workers.enrolled("a", "b", "c", shard_count=16)
        await workers.tick(*members)
        victim, *others = members
        its_own, tokens, died_at = set(victim.held), await workers.tokens(), workers.time
        await workers.live(LEASE - 0.1, *others, step=0.1)
        assert {shard for shard, owner in (await workers.owners()).items() if owner == "a"} == its_own
        await workers.live(0.2, *others, step=0.1)
        await assert_shared_out(workers, *others)
        assert workers.time - died_at == pytest.approx(LEASE + 0.1)
        after = await workers.tokens()
        assert {shard: after[shard] - tokens[shard] for shard in its_own} == dict.fromkeys(its_own, 1)

    async def test_with_beats_and_scans_at_their_pace_it_takes_a_lease_and_two_ticks_at_most(
        self, workers: Workers
    ) -> None:
        victim, *others = await workers.enrolled("a", "b", "c")
        died_at = workers.time
        while victim.name in (await workers.owners()).values():
            await workers.live(TICK, *others)
        assert LEASE <= workers.time - died_at <= LEASE + 2 * TICK

    @pytest.mark.parametrize("rate", [0.9, 1.1])
    async def test_the_belief_ends_before_the_take_over_though_clocks_run_at_other_rates(
        self, workers: Workers, rate: float
    ) -> None:
        (victim,) = await workers.enrolled("a", rate=rate)
        (other,) = await workers.enrolled("b", rate=1 / rate, offset=-500)
        await workers.live(2 * LEASE, victim, other)
        assert victim.held
        for _ in range(60):
            workers.time += 0.1
            assert all(len(names) <= 1 for names in workers.workers_of().values())
            await other.leader.tick()
            assert all(len(names) <= 1 for names in workers.workers_of().values())
        assert other.held == EIGHT

    async def test_the_dead_are_buried_after_three_leases_once_they_own_nothing(self, workers: Workers) -> None:
        _, *others = await workers.enrolled("a", "b", "c")
        ids = ["a", "b", "c"]
        while ids == ["a", "b", "c"]:
            assert workers.time < 1000 + 4 * LEASE
            await workers.live(TICK, *others)
            ids = [worker.id for worker in (await workers.roll()).workers]
        assert ids == ["b", "c"]
        assert workers.time >= 1000 + 3 * LEASE

    async def test_who_comes_after_everybody_died_takes_over_after_a_lease(self, workers: Workers) -> None:
        await workers.enrolled("a", "b", "c")
        workers.time += 3600
        newcomer = workers.add("d")
        await newcomer.leader.enroll()
        await workers.live(LEASE - TICK, newcomer)
        assert newcomer.held == []
        await workers.live(TICK, newcomer)
        assert newcomer.held == EIGHT


class TestTheBelief:
    async def test_it_ends_with_the_time_since_the_last_good_beat_was_sent(self, workers: Workers) -> None:
        (member,) = await workers.enrolled("a")
        workers.time += BELIEF - 0.001
        assert member.held == EIGHT
        assert member.leader.may_work_on("0003")
        workers.time += 0.001
        assert member.held == []
        assert not any(member.leader.may_work_on(shard) for shard in EIGHT)

    async def test_nobody_may_work_on_what_it_does_not_hold(self, workers: Workers) -> None:
        one, other = await workers.enrolled("a", "b")
        assert [shard for shard in EIGHT if one.leader.may_work_on(shard)] == one.held
        assert not one.leader.may_work_on(other.held[0])
        assert not one.leader.may_work_on("9999")

    async def test_a_process_that_was_stopped_drops_everything_before_it_acts_again(self, workers: Workers) -> None:
        """It asks first and finds nothing; its next tick tells of the loss before it takes anything."""
        sleeper, other = await workers.enrolled("a", "b")
        had = frozenset(sleeper.held)
        await workers.live(3 * LEASE, other)
        assert other.held == EIGHT
        assert sleeper.held == []
        await sleeper.leader.tick()
        assert sleeper.changes[-1] == (frozenset(), had)
        assert workers.workers_of() == {shard: ["b"] for shard in EIGHT}
        await workers.tick(other, sleeper)
        await assert_shared_out(workers, sleeper, other)

    async def test_what_nobody_took_meanwhile_is_taken_anew_under_new_tokens(self, workers: Workers) -> None:
        (member,) = await workers.enrolled("a")
        before = await workers.tokens()
        workers.time += 3600
        await member.leader.tick()
        assert member.held == EIGHT
        assert frozenset(EIGHT) in [lost for _, lost in member.changes]
        assert await workers.tokens() == {shard: token + 1 for shard, token in before.items()}

    async def test_an_answer_that_comes_after_the_belief_ended_does_not_bring_it_back(
        self, workers: Workers, proxy: ConflictProxy
    ) -> None:
        """The others may have seen the counter stand still for a lease while the beat was on its way."""
        (member,) = await workers.enrolled("a", url=proxy.url)
        assert member.held == EIGHT
        workers.time += TICK
        slow = HoldReply()
        proxy.script(a_beat, slow)
        stuck = HoldReply()
        proxy.script(any_("Scan"), stuck)
        tick = asyncio.create_task(member.leader.tick())
        await slow.reached.wait()
        workers.time += BELIEF - TICK
        slow.event.set()
        await stuck.reached.wait()
        assert member.changes[-1] == (frozenset(), frozenset(EIGHT))
        assert member.held == []
        stuck.event.set()
        await tick
        assert member.held == EIGHT

    async def test_a_shard_taken_by_an_answer_after_the_belief_ended_is_not_held(
        self, workers: Workers, proxy: ConflictProxy
    ) -> None:
        member = workers.add("a", shard_count=1, url=proxy.url)
        await member.leader.enroll()
        slow = HoldReply()
        proxy.script(a_take, slow)
        tick = asyncio.create_task(member.leader.tick())
        await slow.reached.wait()
        workers.time += BELIEF
        slow.event.set()
        await tick
        assert (await workers.owners(), member.changes) == ({"0000": "a"}, [])
        await member.leader.tick()
        assert member.held == ["0000"]
        assert await workers.tokens() == {"0000": 2}

    async def test_a_worker_whose_item_was_removed_drops_everything_first(self, workers: Workers) -> None:
        member, other = await workers.enrolled("a", "b")
        had = frozenset(member.held)
        await workers.leases.leave("a")
        workers.time += TICK
        await workers.tick(other, member)
        assert (frozenset(), had) in member.changes
        assert (await workers.tokens())[min(had)] == 2
        await workers.tick(other, member)
        await assert_shared_out(workers, member, other)

    async def test_a_shard_whose_item_names_another_is_dropped(self, workers: Workers) -> None:
        (member,) = await workers.enrolled("a")
        (stolen,) = [shard for shard in (await workers.roll()).shards if shard.name == "0003"]
        await workers.leases.take(stolen, "thief", 1)
        await member.leader.tick()
        assert "0003" not in member.held
        assert member.changes[-1] == (frozenset(), frozenset({"0003"}))
        await workers.live(2 * LEASE, member)
        assert member.held == EIGHT


class TestHandOver:
    async def test_after_a_stop_the_shards_are_free_at_once_and_the_worker_gone(self, workers: Workers) -> None:
        leaving, *others = await workers.enrolled("a", "b", "c")
        its_own = set(leaving.held)
        await leaving.leader.stop()
        assert (leaving.held, leaving.told) == ([], [])
        roll = await workers.roll()
        assert {shard.name for shard in roll.shards if not shard.owner} == its_own
        assert [worker.id for worker in roll.workers] == ["b", "c"]
        await workers.tick(*others)
        await assert_shared_out(workers, *others)

    async def test_it_also_hands_back_what_it_has_without_knowing(self, workers: Workers) -> None:
        (member,) = await workers.enrolled("a", shard_count=1)
        await workers.leases.add_shard("0001", 1)
        await workers.leases.take(Shard("0001"), "a", 1)
        await member.leader.stop()
        assert await workers.owners() == {"0000": "", "0001": ""}

    async def test_without_the_table_it_still_ends(self, workers: Workers, proxy: ConflictProxy) -> None:
        (member,) = await workers.enrolled("a", url=proxy.url)
        for _ in range(2):
            proxy.script(any_("Scan"), Throttle())
        await member.leader.stop()
        assert (member.held, member.told) == ([], [])


class TestFitness:
    """A process whose clock is wrong settles nothing: what it held would never end."""

    async def test_who_is_not_fit_leaves_its_shards_to_the_others_at_once(self, workers: Workers) -> None:
        fit = True
        (unfit,) = await workers.enrolled("a", fit=lambda: fit)
        others = await workers.enrolled("b", "c")
        fit = False
        await unfit.leader.tick()
        assert (unfit.held, unfit.told) == ([], [])
        assert [worker.id for worker in (await workers.roll()).workers] == ["b", "c"]
        await workers.tick(*others)
        await assert_shared_out(workers, *others)

    async def test_who_has_been_fit_for_a_lease_has_its_share_again(self, workers: Workers) -> None:
        fit = False
        other, unfit = await workers.enrolled("a", fit=lambda: True) + await workers.enrolled("b", fit=lambda: fit)
        await workers.live(LEASE, other, unfit)
        assert (len(other.held), unfit.held) == (8, [])
        fit = True
        await workers.live(LEASE - TICK, other, unfit)
        assert unfit.held == [], "a clock at the edge of what is believed would have it come and go"
        await workers.live(2 * TICK, unfit, other)
        await workers.tick(unfit)
        await assert_shared_out(workers, other, unfit)

    async def test_as_long_as_it_is_not_fit_it_makes_no_calls(self, workers: Workers) -> None:
        (unfit,) = await workers.enrolled("a", fit=lambda: False)
        calls = unfit.calls
        await workers.live(3 * LEASE, unfit)
        assert unfit.calls == calls

    async def test_a_hand_over_that_fails_is_made_up_for(self, workers: Workers, proxy: ConflictProxy) -> None:
        fit = True
        unfit = workers.add("a", url=proxy.url, fit=lambda: fit)
        await unfit.leader.enroll()
        await workers.tick(unfit)
        fit = False
        proxy.script(a_give_back, RejectBefore("AccessDeniedException"))
        with pytest.raises(AwsError):
            await unfit.leader.tick()
        assert unfit.held == []
        await workers.tick(unfit)
        assert set((await workers.owners()).values()) == {""}
        assert (await workers.roll()).workers == ()


class TestLostRepliesAndThrottles:
    @pytest.fixture
    async def member(self, workers: Workers, proxy: ConflictProxy) -> Member:
        """Holds everything."""
        (member,) = await workers.enrolled("a", url=proxy.url)
        return member

    async def test_takes_whose_replies_are_lost_once_are_held(self, workers: Workers, proxy: ConflictProxy) -> None:
        member = workers.add("a", url=proxy.url)
        await member.leader.enroll()
        for _ in range(3):
            proxy.script(a_take, LoseReply())
        await member.leader.tick()
        await assert_shared_out(workers, member)
        assert await workers.tokens() == dict.fromkeys(EIGHT, 1)

    async def test_a_take_whose_outcome_stays_unknown_is_taken_anew(
        self, workers: Workers, proxy: ConflictProxy
    ) -> None:
        member = workers.add("a", shard_count=1, url=proxy.url)
        await member.leader.enroll()
        proxy.script(a_take, LoseReply())
        proxy.script(a_take, LoseRequest())
        with pytest.raises(TransportError):
            await member.leader.tick()
        assert (member.held, await workers.owners()) == ([], {"0000": "a"})
        await member.leader.tick()
        assert member.held == ["0000"]
        assert await workers.tokens() == {"0000": 2}

    async def test_one_failing_take_does_not_keep_the_others_from_being_held(
        self, workers: Workers, proxy: ConflictProxy
    ) -> None:
        member = workers.add("a", url=proxy.url)
        await member.leader.enroll()
        for _ in range(2):
            proxy.script(lambda request: a_take(request) and "shard#0005" in str(request.params), Throttle())
        with pytest.raises(Throttled):
            await member.leader.tick()
        assert member.held == [shard for shard in EIGHT if shard != "0005"]
        await member.leader.tick()
        assert member.held == EIGHT

    @pytest.mark.parametrize("fault", [LoseReply, LoseRequest])
    async def test_a_shard_handed_back_in_vain_is_not_held_and_handed_back_later(
        self, workers: Workers, proxy: ConflictProxy, member: Member, fault: Callable[[], LoseReply | LoseRequest]
    ) -> None:
        newcomer = workers.add("b")
        await newcomer.leader.enroll()
        for _ in range(2):
            proxy.script(a_give_back, fault())
        with contextlib.suppress(AwsError):
            await member.leader.tick()
        assert len(member.held) == 4
        await workers.tick(member, newcomer)
        await assert_shared_out(workers, member, newcomer)

    async def test_lost_replies_of_beats_are_no_removal(self, proxy: ConflictProxy, member: Member) -> None:
        for _ in range(3):
            proxy.script(a_beat, LoseReply())
            await member.leader.tick()
        assert (member.held, len(member.changes)) == (EIGHT, 8)

    async def test_a_refused_beat_leaves_the_belief_as_it_was(
        self, workers: Workers, proxy: ConflictProxy, member: Member
    ) -> None:
        workers.time += TICK
        for _ in range(2):
            proxy.script(a_beat, Throttle())
        with pytest.raises(Throttled):
            await member.leader.tick()
        workers.time += BELIEF - TICK - 0.001
        assert member.held == EIGHT
        workers.time += 0.002
        assert member.held == []

    async def test_a_refused_scan_leaves_the_shards_as_they_were(
        self, workers: Workers, proxy: ConflictProxy, member: Member
    ) -> None:
        for _ in range(3):
            workers.time += TICK
            for _ in range(2):
                proxy.script(any_("Scan"), Throttle())
            with pytest.raises(Throttled):
                await member.leader.tick()
        assert member.held == EIGHT


class TestChoosingAShard:
    async def test_it_is_one_of_those_held_here_and_always_the_same_for_a_key(self, workers: Workers) -> None:
        member, _ = await workers.enrolled("a", "b")
        keys = [f"rsv_{number}" for number in range(200)]
        chosen = [member.leader.shard_for(key) for key in keys]
        assert set(chosen) == set(member.held)
        assert chosen == [member.leader.shard_for(key) for key in keys]
        assert max(Counter(chosen).values()) < 100

    async def test_who_holds_nothing_chooses_among_all(self, workers: Workers) -> None:
        *_, idle = await workers.enrolled(*(f"w{number}" for number in range(9)))
        assert idle.held == []
        assert {idle.leader.shard_for(str(number)) for number in range(200)} == set(EIGHT)

    async def test_who_believes_no_more_chooses_among_all(self, workers: Workers) -> None:
        member, _ = await workers.enrolled("a", "b")
        workers.time += BELIEF
        assert {member.leader.shard_for(str(number)) for number in range(200)} == set(EIGHT)

    async def test_who_has_not_looked_for_two_leases_takes_the_one_that_lasts(self, workers: Workers) -> None:
        (member,) = await workers.enrolled("a")
        workers.time += 2 * LEASE - 0.001
        assert len({member.leader.shard_for(str(number)) for number in range(200)}) == 8
        workers.time += 0.001
        assert {member.leader.shard_for(str(number)) for number in range(200)} == {LASTING_SHARD}

    async def test_who_has_not_enrolled_takes_the_one_that_lasts(self, workers: Workers) -> None:
        assert workers.add("a").leader.shard_for("rsv_1") == LASTING_SHARD

    async def test_a_retiring_shard_is_worked_on_and_not_chosen(self, workers: Workers) -> None:
        members = await workers.enrolled("a", "b")
        await workers.leases.mark_retiring("0003")
        await workers.live(TICK, *members)
        (owner,) = [member for member in members if member.leader.may_work_on("0003")]
        for member in members:
            assert member.leader.shards == tuple(shard for shard in EIGHT if shard != "0003")
            assert "0003" not in {member.leader.shard_for(str(number)) for number in range(200)}
        await owner.leader.stop()
        members.remove(owner)
        await workers.tick(*members)
        assert members[0].leader.may_work_on("0003")

    async def test_who_holds_only_retiring_shards_chooses_among_the_others(self, workers: Workers) -> None:
        members = await workers.enrolled("a", "b", shard_count=2)
        await workers.leases.mark_retiring("0001")
        await workers.tick(*members)
        assert [member.leader.shard_for("rsv_1") for member in members] == ["0000", "0000"]

    async def test_a_removed_shard_is_dropped(self, workers: Workers) -> None:
        (member,) = await workers.enrolled("a")
        await workers.leases.mark_retiring("0003")
        await workers.leases.remove_shard("0003")
        await member.leader.tick()
        assert member.changes[-1] == (frozenset(), frozenset({"0003"}))
        assert member.held == list(member.leader.shards) == [shard for shard in EIGHT if shard != "0003"]


class TestIdleCost:
    async def test_three_workers_make_at_most_25_calls_a_lease(self, workers: Workers) -> None:
        members = await workers.enrolled("a", "b", "c", shard_count=16)
        before = sum(member.calls for member in members)
        fastest = 0.85 * TICK
        await workers.live(4 * LEASE, *members, step=fastest)
        assert (sum(member.calls for member in members) - before) / 4 <= 25

    async def test_who_holds_nothing_and_wants_nothing_looks_once_a_lease(self, workers: Workers) -> None:
        *holders, idle = await workers.enrolled("a", "b", "c", shard_count=2)
        before = [member.calls for member in (*holders, idle)]
        await workers.live(3 * LEASE, *holders, idle, step=LEASE / 4)
        calls = [member.calls - had for member, had in zip((*holders, idle), before, strict=True)]
        assert calls == [24, 24, 15]

    async def test_it_looks_at_every_tick_when_it_should_hold_something(self, workers: Workers) -> None:
        member, other = await workers.enrolled("a", "b", shard_count=1)
        assert other.held == []
        await member.leader.stop()
        await workers.live(LEASE + TICK, other)
        assert other.held == ["0000"]


class TestRunning:
    """With real time and short leases; what they wait for is an event, never a time."""

    async def test_it_enrolls_ticks_and_survives_refusals(self, workers: Workers, proxy: ConflictProxy) -> None:
        for fault in (a_beat, any_("Scan"), a_take):
            for _ in range(2):
                proxy.script(fault, Throttle())
        everything = asyncio.Event()

        def changed(_gained: frozenset[str], _lost: frozenset[str]) -> None:
            if member.told == EIGHT:
                everything.set()

        member = workers.add("a", url=proxy.url, lease=0.3, patience=180, monotonic=time.monotonic, changed=changed)
        running = asyncio.create_task(member.leader.run())
        await everything.wait()
        await cancelled(running)
        assert member.leader.shards == tuple(EIGHT)

    async def test_when_the_belief_ends_everything_is_dropped_though_a_tick_hangs(
        self, workers: Workers, proxy: ConflictProxy
    ) -> None:
        hangs, gained_all, has_none = HoldReply(), asyncio.Event(), asyncio.Event()

        def changed(_gained: frozenset[str], _lost: frozenset[str]) -> None:
            if member.told == EIGHT:
                gained_all.set()
            if member.told:
                has_none.clear()
            else:
                has_none.set()

        member = workers.add("a", url=proxy.url, lease=1.0, patience=600, monotonic=time.monotonic, changed=changed)
        running = asyncio.create_task(member.leader.run())
        await gained_all.wait()
        proxy.script(a_beat, hangs)
        await hangs.reached.wait()
        await has_none.wait()
        assert member.told == member.held == []
        await cancelled(running)
        hangs.event.set()


async def cancelled(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
