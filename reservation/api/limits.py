"""What is refused before any work is done for it: more than this process can do at a time, more than one user may ask
for, and what cannot end in time. Arithmetic on a few numbers; nothing here waits, and nothing grows with the load.
"""

from collections import OrderedDict
from collections.abc import Callable
from enum import Enum

from reservation.auth.caller import ANONYMOUS
from reservation.domain.errors import RateLimitExceeded, UpstreamTimeout

LEAST_SECONDS = 0.005
"""One round trip to the store takes about as long, and nothing is answered without one."""

ID_LENGTH = 128
USERS_REMEMBERED = 20_000
"""Who is forgotten begins with a full bucket: that takes so many others who asked since."""


class Priority(Enum):
    """Who goes first when there is more to do than can be done. The value: the share of the places that may be taken
    before a call of this kind is refused. Most are kept for those who hold seats, the last ones for those who pay: so
    many may come while the process stands still for a moment and nobody leaves."""

    NEW = 0.375
    """Who wants seats, or only looks."""
    HOLDER = 0.75
    """Who gives seats back, or asks for more time."""
    PAYING = 1.0
    """Who has paid: a refusal leaves money without seats."""


class Gate:
    """The way in for calls of one priority: `with gate:` around the work. Raises RateLimitExceeded."""

    __slots__ = ("_most", "_places")

    def __init__(self, places: "Places", most: int) -> None:
        self._places = places
        self._most = most

    def check(self) -> None:
        """For work that takes no place because its number is limited elsewhere. Raises like entering."""
        if self._places.taken >= self._most:
            raise RateLimitExceeded

    def __enter__(self) -> None:
        if self._places.taken >= self._most:
            raise RateLimitExceeded
        self._places.taken += 1

    def __exit__(self, *_: object) -> None:
        self._places.taken -= 1


class Places:
    """How many calls may be under way at a time, and how many are."""

    def __init__(self, most: int) -> None:
        self.taken = 0
        self._gates = {each: Gate(self, max(1, int(most * each.value))) for each in Priority}

    def gate(self, priority: Priority) -> Gate:
        return self._gates[priority]


class Bucket:
    """A bucket of tokens for each user, the `remembered` last heard of: `burst` at once, and `per_second` in the long
    run. It keeps one number a user, when his bucket will be full again: the generic cell rate algorithm,
    https://en.wikipedia.org/wiki/Generic_cell_rate_algorithm. In whole nanoseconds, so that a burst is exact."""

    def __init__(
        self,
        per_second: float,
        burst: int,
        *,
        monotonic_ns: Callable[[], int],
        remembered: int = USERS_REMEMBERED,
    ) -> None:
        self._token = int(1e9 / per_second)
        self._depth = self._token * burst
        self._monotonic_ns = monotonic_ns
        self._remembered = remembered
        self._full_at: OrderedDict[str, int] = OrderedDict()  # who asked last stands last

    def __len__(self) -> int:
        """How many users it remembers."""
        return len(self._full_at)

    def take(self, user: str) -> None:
        """Raises RateLimitExceeded with the time until there is a token; that takes none."""
        user = user[:ID_LENGTH]  # a longer one is refused as invalid, and must not be remembered until then
        now = self._monotonic_ns()
        full_at = max(self._full_at.get(user, now), now) + self._token
        if full_at - now > self._depth:
            raise RateLimitExceeded((full_at - now - self._depth) / 1e9)
        self._full_at[user] = full_at
        self._full_at.move_to_end(user)
        if len(self._full_at) > self._remembered:
            self._full_at.popitem(last=False)


class Limits:
    """All of them, as the handlers ask for them.

    A user has two buckets. What he does with seats that he holds (PAYING, HOLDER) never waits for what he asked for
    besides: who has reloaded a page too often can still pay.
    """

    def __init__(
        self, *, max_concurrent: int, user_per_second: float, user_burst: int, monotonic_ns: Callable[[], int]
    ) -> None:
        """`user_per_second` 0: as much as a user likes."""
        self._places = Places(max_concurrent)
        self._buckets: dict[Priority, Bucket] = {}
        if user_per_second:
            held = Bucket(user_per_second, user_burst, monotonic_ns=monotonic_ns)
            wanted = Bucket(user_per_second, user_burst, monotonic_ns=monotonic_ns)
            self._buckets = {Priority.NEW: wanted, Priority.HOLDER: held, Priority.PAYING: held}

    def gate(self, priority: Priority) -> Gate:
        return self._places.gate(priority)

    def charge(self, priority: Priority) -> Callable[[str | None], None]:
        """What each call pays, from the bucket of the user that it acts for. Raises RateLimitExceeded.

        A call for anybody's reservations (None) pays nothing, nor does one for ANONYMOUS: the one is a service of our
        own, the other everybody who says no name where nobody asks for tokens. One bucket for all of them would let
        each shut out the others; the edge and the places limit these.
        """
        bucket = self._buckets.get(priority)

        def charge(user: str | None) -> None:
            if bucket is not None and user is not None and user != ANONYMOUS:
                bucket.take(user)

        return charge


def require_time(seconds: float) -> None:
    """`seconds` that the caller still waits. Raises UpstreamTimeout if no answer would reach him: work for him would
    only keep others waiting."""
    if seconds < LEAST_SECONDS:
        raise UpstreamTimeout
