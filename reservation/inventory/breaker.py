"""A circuit breaker over the failure rate of the latest calls.

The well-kept breakers on PyPI open after so many failures in a row: one success in twenty keeps them shut over a
service that answers nobody else.
"""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from reservation.domain.errors import InventoryServiceError, ReservationError

State = Literal["closed", "open", "half_open"]

_WINDOW, _FEWEST = 50, 10
_OPEN_SECONDS = 2.0
_PROBES = 3


class CircuitOpen(InventoryServiceError):
    """Too many of the latest calls have failed. This one was not made."""


class Rejected(InventoryServiceError):
    """The other service works, and finds fault with the request itself: the two do not agree on what may be asked."""


@dataclass(slots=True)
class _Period:
    """From one change of state to the next. `size` is the number of results it keeps. What a call of an earlier period
    comes to says nothing about this one."""

    size: int
    begun: int = 0
    failures: deque[bool] = field(default_factory=deque)

    def count(self, failed: bool) -> None:
        self.failures.append(failed)
        if len(self.failures) > self.size:
            self.failures.popleft()

    @property
    def rate(self) -> float:
        """In percent."""
        return 100 * sum(self.failures) / len(self.failures)


class Breaker:
    """Closed: every call is made. When at least `failure_rate` percent of the latest 50 calls (of 10 or more) have
    failed it opens: none is made. After 2 seconds it lets 3 probes through, and closes or opens by the same rate.

    InventoryServiceError is a failure, unless it is Rejected. Any other ReservationError is an answer.
    """

    def __init__(self, failure_rate: float, *, monotonic: Callable[[], float]) -> None:
        self._failure_rate = failure_rate
        self._monotonic = monotonic
        self._opened_at: float | None = None
        self._period = _Period(_WINDOW)

    @property
    def state(self) -> State:
        """Half-open: the probes are under way, or the next call is one."""
        if self._opened_at is None:
            return "closed"
        probing = self._period.size == _PROBES or self._monotonic() >= self._opened_at + _OPEN_SECONDS
        return "half_open" if probing else "open"

    def require_closed(self) -> None:
        """Raises CircuitOpen if a call would not be made now."""
        if self._opened_at is None:
            return
        probing = self._period.size == _PROBES
        if self._period.begun >= _PROBES if probing else self._monotonic() < self._opened_at + _OPEN_SECONDS:
            raise CircuitOpen

    @contextmanager
    def call(self) -> Iterator[None]:
        """Around one call. Raises CircuitOpen instead of entering."""
        self.require_closed()
        if self._opened_at is not None and self._period.size != _PROBES:
            self._period = _Period(_PROBES)
        period = self._period
        period.begun += 1
        try:
            yield
        except InventoryServiceError as error:
            self._count(period, failed=not isinstance(error, Rejected))
            raise
        except ReservationError:
            self._count(period, failed=False)
            raise
        except BaseException:
            period.begun -= 1  # nobody knows: the caller has left
            raise
        self._count(period, failed=False)

    def _count(self, period: _Period, *, failed: bool) -> None:
        if period is not self._period:
            return
        period.count(failed)
        if len(period.failures) < min(_FEWEST, period.size):
            return
        if period.rate >= self._failure_rate:
            self._opened_at, self._period = self._monotonic(), _Period(_WINDOW)
        elif self._opened_at is not None:
            self._opened_at, self._period = None, _Period(_WINDOW)
