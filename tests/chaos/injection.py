"""What befalls the calls of the service on their way to DynamoDB and EventBridge, and back."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum

from tests.support import faults
from tests.support.faults import Fault

Make = Callable[[random.Random], Fault]

_ANY_ENDPOINT: Mapping[str, Make] = {
    "latency": lambda rng: faults.Delay(rng.uniform(0.02, 0.4)),
    # Longer than a try takes: the caller has given up, and the request arrives all the same.
    "late request": lambda rng: faults.Delay(rng.uniform(1.1, 4.0)),
    "throttled": lambda rng: faults.Throttle(),
    "5xx": lambda rng: faults.RejectBefore(
        *rng.choice([("InternalServerError", 500), ("ServiceUnavailable", 503), ("InternalFailure", 500)])
    ),
    "reset": lambda rng: faults.Reset(),
    "lost request": lambda rng: faults.LoseRequest(),
    "lost reply": lambda rng: faults.LoseReply(),
    "half reply": lambda rng: faults.CutReply(),
}
STORE_FAULTS: Mapping[str, Make] = {**_ANY_ENDPOINT, "wrong checksum": lambda rng: faults.SpoilChecksum()}
BUS_FAULTS: Mapping[str, Make] = {
    **_ANY_ENDPOINT,
    "failed entries": lambda rng: faults.FailEntries(rng.choice(["InternalFailure", "ThrottlingException"])),
}


class Cut(StrEnum):
    """What a partition does to the calls of its process."""

    BOTH_WAYS = "nothing arrives"
    QUEUED = "requests arrive when it ends, though their callers have gone"
    REPLIES = "requests arrive, replies do not before it ends"


@dataclass(slots=True)
class _Partition:
    cut: Cut
    healed: asyncio.Event = field(default_factory=asyncio.Event)

    def fault(self) -> Fault:
        match self.cut:
            case Cut.BOTH_WAYS:
                return faults.Swallow(self.healed)
            case Cut.QUEUED:
                return faults.Hold(self.healed)
            case Cut.REPLIES:
                return faults.HoldReply(self.healed)


class Injector:
    """The faults of one endpoint: `share` of the calls meet one, of all `kinds` equally many. `counts` of each kind so
    far, and of the calls that met a partition."""

    def __init__(self, rng: random.Random, share: float, kinds: Mapping[str, Make]) -> None:
        self.active = False
        self.counts: Counter[str] = Counter()
        self.partitioned_calls = 0
        self.partition_seconds = 0.0
        self._rng = rng
        self._share = share
        self._kinds = kinds
        self._deck: list[str] = []
        self._partitions: dict[str, _Partition] = {}

    def befalls(self, caller: str) -> Fault | None:
        """What becomes of the next call of this process."""
        if (partition := self._partitions.get(caller)) is not None:
            self.partitioned_calls += 1
            return partition.fault()
        if not self.active or self._rng.random() >= self._share:
            return None
        kind = self._draw()
        self.counts[kind] += 1
        return self._kinds[kind](self._rng)

    @asynccontextmanager
    async def partition(self, process: str, cut: Cut) -> AsyncIterator[None]:
        """Inside the block the process and the endpoint are apart."""
        partition = self._partitions[process] = _Partition(cut)
        began = time.monotonic()
        try:
            yield
        finally:
            del self._partitions[process]
            partition.healed.set()
            self.partition_seconds += time.monotonic() - began

    def _draw(self) -> str:
        """Dealt from a shuffled deck, so that even a short run has every kind."""
        if not self._deck:
            self._deck = self._rng.sample(list(self._kinds), len(self._kinds))
        return self._deck.pop()
