"""What is at this moment, looked at once a second."""

import asyncio
from collections.abc import Awaitable, Callable

from reservation.telemetry.metrics import Metrics

_TICK_SECONDS = 1.0


class Gauges:
    """Each argument tells how things are now: whether this process can serve, how far in seconds its clock is ahead of
    DynamoDB's (None: not known yet), how many shards new reservations are spread over and how many shards it holds
    itself, the age in seconds of the oldest event that it has to publish, how many watches are open, the state of the
    circuit to the remote inventory, and how many seconds ago the issuer has told its keys (both None: there is none).

    They are asked in the event loop: the thread that answers a scrape must not read what the loop is changing.
    """

    def __init__(
        self,
        metrics: Metrics,
        *,
        ready: Callable[[], bool],
        clock_skew: Callable[[], float | None],
        shards: Callable[[], int],
        shards_held: Callable[[], int],
        oldest_event: Callable[[], float],
        watches: Callable[[], int],
        circuit: Callable[[], str] | None,
        keys_age: Callable[[], float] | None,
    ) -> None:
        self._looks: list[tuple[Callable[[float], None], Callable[[], float]]] = [
            (metrics.gauge("reservation_ready", "1 if this process can serve."), ready),
            (metrics.gauge("lease_shards", "Shards that new reservations are spread over."), shards),
            (metrics.gauge("lease_held", "Shards that this process works on.", kind="shard"), shards_held),
            (metrics.gauge("outbox_lag_seconds", "Age of the oldest event that waits to be published."), oldest_event),
            (metrics.gauge("reservation_watches", "Streams that watch a reservation."), watches),
        ]
        if keys_age is not None:
            text = "Since the issuer of tokens has told its keys."
            self._looks.append((metrics.gauge("issuer_keys_age_seconds", text), keys_age))
        self._clock_skew = clock_skew
        self._skewed = metrics.gauge("clock_skew_seconds", "How far the clock is ahead of DynamoDB's.")
        self._circuit = circuit
        if circuit is not None:
            states = ("closed", "half_open", "open")
            self._in_state = metrics.states("circuit_state", "1 for the state it is in.", states, circuit="inventory")

    def look(self) -> None:
        for tell, ask in self._looks:
            tell(ask())
        if (skew := self._clock_skew()) is not None:
            self._skewed(skew)
        if self._circuit is not None:
            self._in_state(self._circuit())

    async def run(self, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        """Looks until cancelled."""
        while True:
            self.look()
            await sleep(_TICK_SECONDS)
