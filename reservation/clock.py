"""This process's wall clock, and whether it may be believed."""

import time
from collections.abc import Callable

from reservation.aws.client import ServerDate

TOLERANCE_SECONDS = 2.0
"""By how much the clock may differ from DynamoDB's before this process stops ending other people's holds."""


class Clock:
    """Milliseconds since the epoch, checked against the Date header of DynamoDB's answers.

    `offset` (milliseconds) moves the clock, `tolerance` (seconds) is how far off it may be; tests and drills use them.
    """

    def __init__(
        self,
        server_date: Callable[[], ServerDate | None],
        *,
        offset: int = 0,
        tolerance: float = TOLERANCE_SECONDS,
    ) -> None:
        self._server_date = server_date
        self._offset = offset
        self._tolerance = tolerance

    def now(self) -> int:
        return time.time_ns() // 1_000_000 + self._offset

    @property
    def skew_seconds(self) -> float | None:
        """How far this clock is ahead of DynamoDB's; None before its first answer. Good to half a second, because Date
        has whole seconds (https://www.rfc-editor.org/rfc/rfc9110#section-6.6.1)."""
        date = self._server_date()
        if date is None:
            return None
        return self.now() / 1000 - (date.epoch_seconds + 0.5 + time.monotonic() - date.received_at)

    def trusted(self) -> bool:
        """Not before DynamoDB's first answer."""
        skew = self.skew_seconds
        return skew is not None and abs(skew) <= self._tolerance
