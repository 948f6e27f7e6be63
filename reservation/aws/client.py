"""The one way to call AWS: a wire that makes single tries, and the loop that repeats them."""

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from random import random as uniform
from typing import Any, Protocol

from reservation.aws.errors import (
    READ_TIMEOUT,
    AwsError,
    ConditionFailed,
    ConnectFailed,
    RetryClass,
    TransactionCanceled,
    outcome_unknown,
    retry_class,
)

Calling = Coroutine[Any, Any, dict[str, Any]]
"""A call under way, which comes to its parsed answer."""

UNTIL_DEADLINE = sys.maxsize
"""As `attempts`: try again until the deadline, which must then be given."""

_BACKOFF_SECONDS = {
    RetryClass.THROTTLE: 0.050,
    RetryClass.TRANSIENT: 0.025,
    RetryClass.CONFLICT: 0.010,
    RetryClass.REAUTH: 0.0,
}
_BACKOFF_CAP_SECONDS = 1.0
_BUCKET_TOKENS = 500
_RETRY_COST = 5


@dataclass(frozen=True, slots=True)
class ServerDate:
    """The Date header of an answer (whole seconds) and the time.monotonic() at which it arrived."""

    epoch_seconds: float
    received_at: float


class Wire(Protocol):
    """Makes one try of one call. A wire never repeats anything by itself."""

    server_date: ServerDate | None
    """From the last answer, error or not; refreshed at most once a second. None before the first."""

    async def send(self, operation: str, params: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        """The parsed answer, in `timeout` seconds. Raises AwsError; equal `params` make an equal body."""
        ...

    async def renew_credentials(self, timeout: float | None) -> None:
        """Ask the provider for credentials now, and await them for `timeout` seconds (None: for as long as it takes);
        keeps the old ones if that fails, and does not raise."""
        ...

    async def close(self) -> None:
        """Close every connection."""
        ...


class Trace(Protocol):
    """Where it is drawn what a request spent its time on."""

    def call(self, operation: str, params: Mapping[str, Any], calling: Calling) -> Calling:
        """What is awaited in the place of `calling`; it comes to the same."""
        ...

    def failed_try(self, error: AwsError, number: int) -> None:
        """A try of the call under way has failed, the first one is 1."""
        ...


class AwsClient:
    """Calls one AWS service, with retries.

    stats counts: "calls", those of each operation by its name, "retries", and the failed tries of each class:
    "throttle", "transient", "conflict", "reauth". failures counts the last two by (operation, what).
    """

    def __init__(
        self,
        wire: Wire,
        *,
        attempts: int = 5,
        random: Callable[[], float] = uniform,
        trace: Trace | None = None,
    ) -> None:
        """attempts: tries a call by default. random: uniform in [0, 1), for the jitter."""
        self.stats: Counter[str] = Counter()
        self.failures: Counter[tuple[str, str]] = Counter()
        self._wire = wire
        self._attempts = attempts
        self._random = random
        self._trace = trace
        self._tokens = _BUCKET_TOKENS

    @property
    def server_date(self) -> ServerDate | None:
        """The clock of the service, see ServerDate."""
        return self._wire.server_date

    def call(
        self,
        operation: str,
        params: Mapping[str, Any],
        *,
        timeout: float = 3.0,
        attempts: int | None = None,
        deadline: float | None = None,
        cut_off: bool = False,
    ) -> Calling:
        """Call `operation`, e.g. "TransactWriteItems", and return its parsed answer.

        timeout: seconds for each try. attempts: at most so many tries, or UNTIL_DEADLINE. deadline: in time.monotonic()
        seconds; no try starts after it, and one under way keeps its own timeout, or ends with it if it is to be
        `cut_off`. Every try sends the same body, so also the same ClientRequestToken.

        Raises the AwsError of the last try. Its `maybe_applied` is True if any try of this call had an unknown outcome;
        always False for the verdicts TransactionCanceled and ConditionFailed. A deadline that has already passed raises
        ConnectFailed.
        """
        calling = self._call(operation, params, timeout, attempts, deadline, cut_off)
        return calling if self._trace is None else self._trace.call(operation, params, calling)

    async def _call(
        self,
        operation: str,
        params: Mapping[str, Any],
        timeout: float,
        attempts: int | None,
        deadline: float | None,
        cut_off: bool,
    ) -> dict[str, Any]:
        allowed = self._attempts if attempts is None else attempts
        if allowed < 1 or (allowed == UNTIL_DEADLINE and deadline is None):
            raise ValueError(f"attempts={allowed} deadline={deadline}")
        if deadline is not None and time.monotonic() >= deadline:
            raise ConnectFailed("DeadlineExceeded", f"{operation} was not sent")
        self.stats["calls"] += 1
        self.stats[operation] += 1
        retries: _Retries | None = None
        while True:
            if cut_off and deadline is not None:
                timeout = min(timeout, deadline - time.monotonic())
            try:
                answer = await self._wire.send(operation, params, timeout)
            except AwsError as error:
                if retries is None:
                    retries = _Retries(allowed - 1, deadline)
                if not await self._may_retry(operation, error, retries):
                    error.maybe_applied = retries.maybe_applied and not isinstance(error, _VERDICTS)
                    if isinstance(error, TransactionCanceled):
                        error.overtaken = retries.timed_out
                    raise
            else:
                self._refill(retries)
                return answer

    async def close(self) -> None:
        """Close the wire; calls under way fail."""
        await self._wire.close()

    async def _may_retry(self, operation: str, error: AwsError, retries: "_Retries") -> bool:
        """Account for a failed try; True after the back-off, if there is to be another."""
        retries.maybe_applied |= outcome_unknown(error)
        retries.timed_out |= error.code == READ_TIMEOUT
        kind = retry_class(error)
        if kind is None:
            self._refill(retries)
            return False
        self.stats[kind.value] += 1
        self.failures[operation, kind.value] += 1
        if self._trace is not None:
            self._trace.failed_try(error, retries.made + 1)
        pause = self._random() * min(_BACKOFF_CAP_SECONDS, _BACKOFF_SECONDS[kind] * 2 ** min(retries.made, 10))
        if retries.made >= retries.allowed or self._tokens < _RETRY_COST or retries.past_deadline(pause):
            return False
        if kind is RetryClass.REAUTH:
            if retries.renewed:
                return False
            retries.renewed = True
            await self._wire.renew_credentials(retries.seconds_left())
            if retries.past_deadline(pause):
                return False
        self._tokens -= _RETRY_COST
        retries.made += 1
        self.stats["retries"] += 1
        self.failures[operation, "retries"] += 1
        await asyncio.sleep(pause)
        return True

    def _refill(self, retries: "_Retries | None") -> None:
        """A call that ends in an answer or a verdict returns all it took, and a little when it took nothing.

        Without the little, what unanswered calls took would be gone for good.
        """
        returned = retries.made * _RETRY_COST if retries is not None and retries.made else 1
        self._tokens = min(_BUCKET_TOKENS, self._tokens + returned)


_VERDICTS = (TransactionCanceled, ConditionFailed)


class _Retries:
    """What one call has spent on retries."""

    __slots__ = ("_deadline", "allowed", "made", "maybe_applied", "renewed", "timed_out")

    def __init__(self, allowed: int, deadline: float | None) -> None:
        self._deadline = deadline
        self.allowed = allowed
        self.made = 0
        self.maybe_applied = False
        self.timed_out = False
        self.renewed = False

    def seconds_left(self) -> float | None:
        return None if self._deadline is None else self._deadline - time.monotonic()

    def past_deadline(self, pause: float) -> bool:
        return self._deadline is not None and time.monotonic() + pause >= self._deadline


def later_server_date(known: ServerDate | None, header: str) -> ServerDate | None:
    """The date in `header`, that of an answer just arrived; `known` if that is fresh or `header` no date."""
    now = time.monotonic()
    if known is not None and now - known.received_at < 1.0:
        return known
    try:
        return ServerDate(parsedate_to_datetime(header).timestamp(), now)
    except ValueError:
        return known
