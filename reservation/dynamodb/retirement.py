"""Taking a shard out of use."""

from collections.abc import Awaitable, Callable

from reservation.dynamodb.leases import LeaseTable

LASTING_SHARD = "0000"
"""The shard that is never retired: whoever does not know which are in use chooses this one."""

WRITERS_LOOK_WITHIN_LEASES = 2
"""Nobody chooses a shard from a scan that is older."""

_COMMAND_SECONDS = 4.5
"""A command begins no try after 2.5 s; that try may wait a second for a connection and another for its reply."""


class NotRetirable(Exception):
    """The shard is the one that lasts, or there is none of that name. Nothing was changed."""


async def retire(
    leases: LeaseTable,
    shard: str,
    is_empty: Callable[[str], Awaitable[bool]],
    *,
    lease_seconds: float,
    sleep: Callable[[float], Awaitable[None]],
    monotonic: Callable[[], float],
) -> bool:
    """Marks the shard as retiring, waits until nobody can choose it any more, and removes it if it is empty.

    False: it was not empty. It stays as it is, is worked on and takes nothing new; do the same again later.

    `is_empty` must not answer True while a reservation of this shard can still have another event: it looks for live
    holds first and for outbox rows, with a consistent read, after that. A confirm moves from the one to the other.

    Raises NotRetirable and AwsError. A setting that asks for the shard brings it back at the next start of a worker.
    """
    if shard == LASTING_SHARD or not await leases.mark_retiring(shard):
        raise NotRetirable(shard)
    safe_at = monotonic() + WRITERS_LOOK_WITHIN_LEASES * lease_seconds + _COMMAND_SECONDS
    while (left := safe_at - monotonic()) > 0:
        await sleep(left)
    if not await is_empty(shard):
        return False
    await leases.remove_shard(shard)
    return True
