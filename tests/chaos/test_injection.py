"""What befalls the calls of a run."""

import random
from collections import Counter

import pytest

from tests.chaos.injection import STORE_FAULTS, Cut, Injector
from tests.support import faults


def injector(share: float) -> Injector:
    return Injector(random.Random(1), share, STORE_FAULTS)


def test_nothing_befalls_anybody_before_the_run() -> None:
    assert injector(1.0).befalls("early") is None


def test_every_kind_comes_before_any_comes_twice() -> None:
    this = injector(1.0)
    this.active = True
    for _ in STORE_FAULTS:
        assert this.befalls("early") is not None
    assert this.counts == Counter(dict.fromkeys(STORE_FAULTS, 1))


@pytest.mark.parametrize(
    ("cut", "fault"),
    [(Cut.BOTH_WAYS, faults.Swallow), (Cut.QUEUED, faults.Hold), (Cut.REPLIES, faults.HoldReply)],
)
async def test_a_partition_is_of_one_process_and_lets_go_of_its_calls_when_it_ends(cut: Cut, fault: type) -> None:
    this = injector(0.0)
    async with this.partition("early", cut):
        met = this.befalls("early")
        assert isinstance(met, faults.Swallow | faults.Hold | faults.HoldReply)
        assert isinstance(met, fault)
        assert not met.event.is_set()
        assert this.befalls("late") is None
    await met.wait()
    assert this.befalls("early") is None
    assert this.partitioned_calls == 1
