"""Who of this process is about to take which seats."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from reservation.domain.model import Reservation
from reservation.dynamodb.seats import REFUSAL_MS

_PATIENCE_SECONDS = 0.1
"""Several times what a transaction takes. Whoever is ahead may be stuck, and holds nobody up for longer."""


class Takers:
    """Of many who want a seat at the same time only one at a time writes: a transaction that is refused costs as much
    as one that goes through, and keeps others from theirs. The rest wait to hear what has become of it.

    It saves work and decides nothing: whoever hears nothing in time writes as well, as every other process does. Times
    are in time.monotonic() seconds.
    """

    def __init__(
        self, *, patience_seconds: float = _PATIENCE_SECONDS, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._patience_seconds = patience_seconds
        self._monotonic = monotonic
        self._last: dict[tuple[str, str], asyncio.Future[str | None]] = {}

    def patience(self, until: float) -> float:
        """Up to when a caller whose time ends at `until` may wait: there must be time left to write."""
        now = self._monotonic()
        return now + min(self._patience_seconds, (until - now) / 2)

    async def ahead(self, draft: Reservation, end: float) -> dict[str, str] | None:
        """Waits for one who is about to take seats of the draft: which of these were taken, each with its new holder's
        idempotency key id. None: nobody is ahead, or `end` has come."""
        takers = {
            seat_id: taker
            for seat_id in draft.seat_ids
            if (taker := self._last.get((draft.event_id, seat_id))) is not None
        }
        if not takers or (seconds := end - self._monotonic()) <= 0:
            return None
        await asyncio.wait(set(takers.values()), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        outcomes = {seat_id: taker.result() for seat_id, taker in takers.items() if taker.done()}
        return {seat_id: holder_key for seat_id, holder_key in outcomes.items() if holder_key is not None}

    @contextmanager
    def taking(self, draft: Reservation) -> Iterator[Callable[[str], None]]:
        """While the draft's seats are being taken. Whoever has got them calls what this yields, with its key id ("" if
        it has no key). Those who come now wait for this one: whoever is ahead of it is stuck."""
        outcome: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        wanted = [(draft.event_id, seat_id) for seat_id in draft.seat_ids]
        self._last.update(dict.fromkeys(wanted, outcome))
        begun = self._monotonic()

        def took(holder_key: str) -> None:
            # Nobody is refused because of a seat that may have been taken longer ago, and given back since.
            if self._monotonic() - begun < REFUSAL_MS / 1000:
                outcome.set_result(holder_key)

        try:
            yield took
        finally:
            for seat in wanted:
                if self._last.get(seat) is outcome:
                    del self._last[seat]
            if not outcome.done():
                outcome.set_result(None)
