"""What is at this moment, looked at once a second."""

import asyncio
from collections.abc import Awaitable, Callable

from reservation.telemetry.metrics import Metrics

_TICK_SECONDS = 1.0


class Gauges:
    """Each argument tells how things are now: how many shards this process holds, the age in seconds of the oldest
    event that it has to publish, how many watches are open, and the state of the circuit to the remote inventory (None:
    there is none).

    They are asked in the event loop: the thread that answers a scrape must not read what the loop is changing.
    """

    def __init__(
        self,
        metrics: Metrics,
        *,
        shards_held: Callable[[], int],
        oldest_event: Callable[[], float],
        watches: Callable[[], int],
        circuit: Callable[[], str] | None,
    ) -> None:
        self._looks: list[tuple[Callable[[float], None], Callable[[], float]]] = [
            (metrics.gauge("lease_held", "Shards that this process works on.", kind="shard"), shards_held),
            (metrics.gauge("outbox_lag_seconds", "Age of the oldest event that waits to be published."), oldest_event),
            (metrics.gauge("reservation_watches", "Streams that watch a reservation."), watches),
        ]
        self._circuit = circuit
        if circuit is not None:
            states = ("closed", "half_open", "open")
            self._in_state = metrics.states("circuit_state", "1 for the state it is in.", states, circuit="inventory")

    def look(self) -> None:
        for tell, ask in self._looks:
            tell(ask())
        if self._circuit is not None:
            self._in_state(self._circuit())

    async def run(self, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        """Looks until cancelled."""
        while True:
            self.look()
            await sleep(_TICK_SECONDS)
