"""Who is dead: judged by one clock, from scans that are not one instant."""

import pytest

from reservation.background.observer import Observer
from reservation.dynamodb.leases import Roll, Shard, Worker

LEASE = 5.0
DEAD = Worker("dead", counter=7, started_at=1)
ITS_SHARD = Shard("0001", "dead", 3)
FREE = Shard("0002")


def after(*scans: tuple[float, Roll], takes: float = 0.0) -> Observer:
    """What is known after scans sent at these times, each of which took so many seconds."""
    observer = Observer(LEASE)
    for asked_at, roll in scans:
        observer.note(roll, asked_at=asked_at, answered_at=asked_at + takes)
    return observer


def test_a_worker_seen_for_the_first_time_is_alive() -> None:
    observer = after((100, Roll((DEAD,), (ITS_SHARD,))))
    assert observer.live == {"dead"}
    assert observer.abandoned == []


@pytest.mark.parametrize(("seconds", "dead"), [(4.9, False), (5.0, True), (60.0, True)])
def test_a_worker_is_dead_when_its_item_has_stood_still_for_a_lease(seconds: float, dead: bool) -> None:
    roll = Roll((DEAD,), (FREE, ITS_SHARD))
    observer = after((100, roll), (100 + seconds, roll))
    assert observer.live == (set() if dead else {"dead"})
    assert observer.abandoned == ([ITS_SHARD] if dead else [])


@pytest.mark.parametrize("sign", [Worker("dead", counter=8, started_at=1), Worker("dead", counter=7, started_at=2)])
def test_any_change_of_its_item_is_a_sign_of_life(sign: Worker) -> None:
    observer = after((100, Roll((DEAD,), (ITS_SHARD,))), (200, Roll((sign,), (ITS_SHARD,))))
    assert observer.live == {"dead"}
    assert observer.abandoned == []


def test_the_time_that_scans_take_is_never_counted_as_silence() -> None:
    """The item may have been read at any time of a scan: late in the first, early in the last."""
    roll = Roll((DEAD,), (ITS_SHARD,))
    assert after((100, roll), (105.9, roll), takes=1.0).live == {"dead"}
    assert after((100, roll), (106.0, roll), takes=1.0).live == set()


def test_the_shards_of_an_owner_without_an_item_are_its_own_for_a_lease() -> None:
    """It may have come while the scan was past its place."""
    roll = Roll((), (ITS_SHARD,))
    assert after((100, roll), (104, roll)).abandoned == []
    assert after((100, roll), (105, roll)).abandoned == [ITS_SHARD]
    assert after((100, roll), (104, Roll((DEAD,), (ITS_SHARD,))), (106, roll)).abandoned == []


def test_a_shard_that_a_dead_worker_has_had_since_the_last_scan_only_is_left_alone() -> None:
    """The scan may have read the worker's item just before it came back to life and took the shard anew."""
    before, now = Roll((DEAD,), (ITS_SHARD, FREE)), Roll((DEAD,), (Shard("0001", "dead", 4), Shard("0002", "dead", 1)))
    assert after((100, before), (106, now)).abandoned == []
    assert after((100, before), (106, now), (107, now)).abandoned == list(now.shards)


def test_free_shards_have_not_been_abandoned() -> None:
    roll = Roll((), (FREE,))
    assert after((100, roll), (200, roll)).abandoned == []


@pytest.mark.parametrize(("seconds", "owns"), [(15, True), (14.9, False)])
def test_nobody_is_buried_before_three_leases_or_while_it_owns_something(seconds: float, owns: bool) -> None:
    roll = Roll((DEAD,), (ITS_SHARD,) if owns else (FREE,))
    assert after((100, roll), (100 + seconds, roll)).buriable == []


def test_after_three_leases_who_owns_nothing_is_buried() -> None:
    alive = [Worker("alive", counter, 1) for counter in (1, 2)]
    first, last = (Roll((DEAD, each), (FREE,)) for each in alive)
    assert after((100, first), (115, last)).buriable == [DEAD]


def test_who_is_gone_is_forgotten() -> None:
    roll = Roll((DEAD,), (FREE,))
    assert after((100, roll), (104, Roll((), ())), (106, roll)).live == {"dead"}
