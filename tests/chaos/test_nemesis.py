"""What is done to the processes is as much as a run asks for, and the same for the same seed."""

import random
from collections import Counter

import pytest

from tests.chaos.nemesis import LEAST_IN_TEN_MINUTES, Harm, plan


@pytest.mark.parametrize("seconds", [15.0, 60.0, 600.0])
@pytest.mark.parametrize("seed", range(5))
def test_a_plan_has_enough_of_every_harm(seconds: float, seed: int) -> None:
    planned = Counter(each.harm for one in plan(random.Random(seed), seconds, 3) for each in one)
    assert all(planned[harm] >= least * seconds / 600 for harm, least in LEAST_IN_TEN_MINUTES.items())


def test_a_plan_is_in_the_order_of_time_and_within_the_run() -> None:
    for one in plan(random.Random(1), 600, 3):
        times = [each.at for each in one]
        assert times == sorted(times)
        assert 0 <= times[0] < times[-1] < 600


def test_a_partition_is_the_only_harm_with_a_cut() -> None:
    planned = [each for one in plan(random.Random(1), 600, 3) for each in one]
    assert {each.harm for each in planned if each.cut is not None} == {Harm.PARTITION}
    assert {each.cut is not None for each in planned if each.harm is Harm.PARTITION} == {True}


def test_a_seed_repeats_its_plan_and_another_seed_has_another() -> None:
    first, same, other = (plan(random.Random(seed), 600, 3) for seed in (7, 7, 8))
    assert first == same != other
