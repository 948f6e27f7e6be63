"""Who is alive, as one process sees it: no two clocks are ever compared."""

from dataclasses import dataclass

from reservation.dynamodb.leases import NOBODY, Roll, Shard, Worker

_BURY_AFTER_LEASES = 3


@dataclass(frozen=True, slots=True)
class _Sign:
    """What a worker's item said (None: it has none), and when this process first saw it say so."""

    worker: Worker | None
    seen_at: float


class Observer:
    """Judges the workers in the leases table by this process's own monotonic clock (seconds).

    A worker is dead when its item has stood still for a lease. Its own belief in its shards has ended by then, however
    the clocks differ, because the belief ends earlier in the lease and was counted from before the beat was sent:

    - a sign of life counts from when a scan has come back, and silence lasts until the next scan is sent;
    - the shards of an owner without an item are its own for a lease too: a scan is not one instant, and may have passed
      the item's place before the worker came;
    - a shard that the dead owner did not have in the scan before is left alone once more: the owner may have come back
      to life between the reading of its item and that of the shard's.
    """

    def __init__(self, lease_seconds: float) -> None:
        self._lease = lease_seconds
        self._signs: dict[str, _Sign] = {}
        self._asked_at = 0.0
        self._roll = Roll((), ())
        self._before: frozenset[Shard] = frozenset()

    def note(self, roll: Roll, *, asked_at: float, answered_at: float) -> None:
        """Takes a scan into account: when it was sent and when its last page had come."""
        current: dict[str, Worker | None] = {shard.owner: None for shard in roll.shards if shard.owner != NOBODY}
        current |= {worker.id: worker for worker in roll.workers}
        self._signs = {
            worker_id: self._unchanged(worker_id, worker) or _Sign(worker, answered_at)
            for worker_id, worker in current.items()
        }
        self._asked_at = asked_at
        self._before = frozenset(self._roll.shards)
        self._roll = roll

    def _unchanged(self, worker_id: str, worker: Worker | None) -> _Sign | None:
        sign = self._signs.get(worker_id)
        return sign if sign is not None and sign.worker == worker else None

    def _silence(self, worker_id: str) -> float:
        return self._asked_at - self._signs[worker_id].seen_at

    @property
    def live(self) -> frozenset[str]:
        """Ids of the workers that have an item and are not dead. One that was first seen counts as alive."""
        return frozenset(worker.id for worker in self._roll.workers if self._silence(worker.id) < self._lease)

    @property
    def abandoned(self) -> list[Shard]:
        """The shards whose owners are dead."""
        return [
            shard
            for shard in self._roll.shards
            if shard.owner != NOBODY and self._silence(shard.owner) >= self._lease and shard in self._before
        ]

    @property
    def buriable(self) -> list[Worker]:
        """The workers that have been dead for long and own nothing."""
        owners = {shard.owner for shard in self._roll.shards}
        return [
            worker
            for worker in self._roll.workers
            if worker.id not in owners and self._silence(worker.id) >= _BURY_AFTER_LEASES * self._lease
        ]
