"""Who is admitted when there is more to do than can be done, and how much one user may ask for."""

from dataclasses import dataclass

import pytest

from reservation.api.limits import ID_LENGTH, LEAST_SECONDS, Bucket, Limits, Places, Priority, require_time
from reservation.auth.caller import ANONYMOUS
from reservation.domain.errors import RateLimitExceeded, UpstreamTimeout


@dataclass
class Time:
    seconds: float = 1000.0

    def __call__(self) -> int:
        """In nanoseconds."""
        return round(self.seconds * 1e9)


def admitted(places: Places, priority: Priority) -> int:
    """How many calls of this kind come in before one is refused."""
    count = 0
    try:
        while True:
            places.gate(priority).__enter__()
            count += 1
    except RateLimitExceeded:
        return count


def limits(time: Time, *, burst: int = 3, per_second: float = 10) -> Limits:
    return Limits(max_concurrent=100, user_per_second=per_second, user_burst=burst, monotonic_ns=time)


def test_the_last_places_are_kept_for_who_holds_seats_and_the_very_last_for_who_has_paid() -> None:
    places = Places(80)
    assert admitted(places, Priority.NEW) == 30
    assert admitted(places, Priority.HOLDER) == 30
    assert admitted(places, Priority.PAYING) == 20
    assert places.taken == 80


def test_places_are_one_pool_so_whoever_pays_displaces_new_calls() -> None:
    places = Places(80)
    assert admitted(places, Priority.PAYING) == 80
    assert admitted(places, Priority.NEW) == 0


@pytest.mark.parametrize("failure", [None, ValueError])
def test_a_place_is_free_again_however_the_call_has_ended(failure: type[Exception] | None) -> None:
    places = Places(8)
    for _ in range(100):
        try:
            with places.gate(Priority.NEW):
                assert places.taken == 1
                if failure is not None:
                    raise failure
        except ValueError:
            pass
    assert places.taken == 0


def test_a_refused_call_takes_no_place() -> None:
    places = Places(8)
    taken = admitted(places, Priority.PAYING)
    with pytest.raises(RateLimitExceeded), places.gate(Priority.PAYING):
        pass
    assert places.taken == taken


def test_what_only_asks_takes_no_place_and_is_refused_where_entering_is() -> None:
    places = Places(8)
    for _ in range(100):
        places.gate(Priority.NEW).check()
    admitted(places, Priority.NEW)
    with pytest.raises(RateLimitExceeded):
        places.gate(Priority.NEW).check()
    places.gate(Priority.PAYING).check()


def test_a_bucket_gives_its_burst_at_once_and_then_says_when_the_next_token_comes() -> None:
    time = Time()
    bucket = Bucket(10, 3, monotonic_ns=time)
    for _ in range(3):
        bucket.take("ann")
    with pytest.raises(RateLimitExceeded) as refused:
        bucket.take("ann")
    assert refused.value.retry_after == pytest.approx(0.1)
    time.seconds += refused.value.retry_after
    bucket.take("ann")
    with pytest.raises(RateLimitExceeded):
        bucket.take("ann")


def test_who_is_refused_does_not_wait_longer_for_having_asked() -> None:
    time = Time()
    bucket = Bucket(10, 1, monotonic_ns=time)
    bucket.take("ann")
    for _ in range(1000):
        with pytest.raises(RateLimitExceeded):
            bucket.take("ann")
    time.seconds += 0.1
    bucket.take("ann")


def test_in_the_long_run_a_user_gets_the_rate_and_never_more_than_the_burst_at_once() -> None:
    time = Time()
    bucket = Bucket(10, 5, monotonic_ns=time)
    taken = 0
    for _ in range(1000):
        time.seconds += 0.01
        try:
            bucket.take("ann")
            taken += 1
        except RateLimitExceeded:
            pass
    assert taken == pytest.approx(10 * 10 + 5, abs=1)
    time.seconds += 1e6
    for _ in range(5):
        bucket.take("ann")
    with pytest.raises(RateLimitExceeded):
        bucket.take("ann")


def test_users_do_not_share_a_bucket() -> None:
    bucket = Bucket(10, 1, monotonic_ns=Time())
    bucket.take("ann")
    bucket.take("bob")


def test_it_remembers_so_many_users_and_forgets_who_has_not_asked_for_longest() -> None:
    bucket = Bucket(10, 1, monotonic_ns=Time(), remembered=100)
    for number in range(10_000):
        bucket.take(f"user-{number}")
        assert len(bucket) <= 100
    with pytest.raises(RateLimitExceeded):
        bucket.take("user-9999")
    bucket.take("user-0")


def test_no_more_of_a_users_name_is_remembered_than_a_name_may_have() -> None:
    bucket = Bucket(10, 1, monotonic_ns=Time())
    bucket.take("a" * ID_LENGTH + "b")
    with pytest.raises(RateLimitExceeded):
        bucket.take("a" * ID_LENGTH + "c")


def test_a_burst_of_creates_leaves_what_a_user_does_with_his_seats() -> None:
    all_limits = limits(Time())
    new, holder, paying = (all_limits.charge(each) for each in (Priority.NEW, Priority.HOLDER, Priority.PAYING))
    for _ in range(3):
        new("ann")
    with pytest.raises(RateLimitExceeded):
        new("ann")
    paying("ann")
    holder("ann")


def test_paying_is_limited_too() -> None:
    """Each confirm of a reservation that does not exist is a read of the store."""
    paying = limits(Time()).charge(Priority.PAYING)
    for _ in range(3):
        paying("ann")
    with pytest.raises(RateLimitExceeded):
        paying("ann")


@pytest.mark.parametrize("user", [None, ANONYMOUS])
def test_who_names_nobody_has_no_bucket(user: str | None) -> None:
    charge = limits(Time()).charge(Priority.NEW)
    for _ in range(1000):
        charge(user)


def test_without_a_rate_a_user_may_ask_for_anything() -> None:
    charge = limits(Time(), per_second=0).charge(Priority.NEW)
    for _ in range(1000):
        charge("ann")


def test_work_that_cannot_end_in_time_is_not_begun() -> None:
    require_time(LEAST_SECONDS)
    for seconds in (LEAST_SECONDS / 2, 0.0, -1.0):
        with pytest.raises(UpstreamTimeout):
            require_time(seconds)
