"""One TransactWriteItems and its verdict."""

import asyncio
import os
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from reservation.aws.client import UNTIL_DEADLINE, AwsClient
from reservation.aws.errors import AwsError, Reason, TransactionCanceled, retry_class
from reservation.domain.errors import ReservationError, ServiceUnavailable, UpstreamTimeout
from reservation.dynamodb.items import Item

TRY_SECONDS = 1.0
"""What one try may take. A lost reply costs no more than this, and DynamoDB answers in milliseconds."""

# Base and cap in seconds.
_BACKOFF, _THROTTLED_BACKOFF = (0.010, 0.200), (0.050, 1.0)

# https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_CancellationReason.html
_CONFLICT = "TransactionConflict"
_THROTTLES = frozenset({"ThrottlingError", "ProvisionedThroughputExceeded"})
_UNDECIDED = _THROTTLES | {_CONFLICT}
_VERDICTS = _UNDECIDED | {"None", "ConditionalCheckFailed"}


class Role(Enum):
    """What an action of a command is for."""

    KEY = auto()
    RESERVATION = auto()
    SEAT = auto()
    SLOT = auto()
    ORDER = auto()
    OUTBOX = auto()


@dataclass(frozen=True, slots=True)
class Action:
    """One item of a transaction. `body` is what TransactWriteItems takes: {"Put": {...}} and so on."""

    role: Role
    body: dict[str, Any]
    subject: str = ""


@dataclass(frozen=True, slots=True)
class Failed:
    """An action whose condition did not hold, with the item as it was then (None: there is none)."""

    subject: str
    item: Item | None


class Cancellation:
    """DynamoDB's verdict on one transaction: nothing of it was applied, and why. `overtaken`: as in
    TransactionCanceled, of this transaction or of one before it of the same command."""

    def __init__(self, actions: Sequence[Action], reasons: Sequence[Reason], *, overtaken: bool = False) -> None:
        self._judged = list(zip(actions, reasons, strict=True))
        self.overtaken = overtaken

    def failed(self, role: Role) -> list[Failed]:
        return [
            Failed(action.subject, reason.item)
            for action, reason in self._judged
            if action.role is role and reason.code == "ConditionalCheckFailed"
        ]

    def undecided(self, *roles: Role) -> bool:
        """Whether any of these items was not judged: in another transaction's hands, or throttled."""
        return any(action.role in roles and reason.code in _UNDECIDED for action, reason in self._judged)

    def blames(self, role: Role) -> bool:
        """Whether such an item's condition did not hold, or it was not judged."""
        return bool(self.failed(role)) or self.undecided(role)

    def conflicted(self, role: Role) -> bool:
        """Whether another transaction had such an item in its hands."""
        return any(action.role is role and reason.code == _CONFLICT for action, reason in self._judged)

    @property
    def only_throttled(self) -> bool:
        """Nothing stood in the way but the table's capacity: to look who has the items would only add to the load."""
        codes = {reason.code for _, reason in self._judged} - {"None"}
        return bool(codes) and codes <= _THROTTLES

    def __str__(self) -> str:
        return ", ".join(f"{action.role.name}:{reason.code}" for action, reason in self._judged)


async def transact(
    client: AwsClient, actions: Sequence[Action], until: float, earlier: Cancellation | None = None
) -> Cancellation | None:
    """Applies the actions, all or none. None: applied. `earlier`: the verdict on the same command's transaction before
    this one, of which a try may still be on its way.

    The request token stays the same while an outcome is unknown (the client repeats the very same body after a lost
    reply, a time-out, a 5xx or a throttle), so a transaction can never be applied twice. A caller that wants another
    try after a Cancellation calls again and so gets a new token.

    Raises UpstreamTimeout (may have been applied, or may yet be), ServiceUnavailable (certainly not applied).
    """
    request = {"TransactItems": [action.body for action in actions], "ClientRequestToken": os.urandom(16).hex()}
    overtaken = earlier is not None and earlier.overtaken
    with told_in_domain_terms(writing=True):
        try:
            await client.call(
                "TransactWriteItems", request, timeout=TRY_SECONDS, attempts=UNTIL_DEADLINE, deadline=until
            )
        except TransactionCanceled as error:
            if any(reason.code not in _VERDICTS for reason in error.reasons):
                raise  # a malformed action, a missing permission: ours to mend, not the caller's to retry
            return Cancellation(actions, error.reasons, overtaken=overtaken or error.overtaken)
        except AwsError as error:
            error.maybe_applied |= overtaken
            raise
    return None


async def read(client: AwsClient, operation: str, request: dict[str, Any], until: float) -> dict[str, Any]:
    """One read, repeated until it is answered. Raises ServiceUnavailable, at `until` at the latest."""
    with told_in_domain_terms(writing=False):
        return await client.call(operation, request, timeout=TRY_SECONDS, deadline=until, cut_off=True)


async def batch_get(
    client: AwsClient, keys: Mapping[str, Sequence[Item]], until: float, *, consistent: bool = True
) -> list[Item]:
    """One BatchGetItem of at most 100 keys, by table; more only if DynamoDB leaves some unprocessed.

    Raises ServiceUnavailable."""
    requests: dict[str, Any] = {
        table: {"Keys": list(wanted), "ConsistentRead": consistent} for table, wanted in keys.items()
    }
    items: list[Item] = []
    attempt = 0
    while requests:
        reply = await read(client, "BatchGetItem", {"RequestItems": requests}, until)
        for found in reply["Responses"].values():
            items += found
        requests = reply.get("UnprocessedKeys") or {}
        if requests:
            await back_off(attempt, until)
            attempt += 1
    return items


@contextmanager
def told_in_domain_terms(*, writing: bool) -> Iterator[None]:
    """Turns what AWS says into what a caller may do about it. An error that no retry can cure stays what it is: it is a
    fault of ours (a missing table, a malformed expression) and must reach the log."""
    try:
        yield
    except AwsError as error:
        if writing and error.maybe_applied:
            raise UpstreamTimeout from error
        if retry_class(error) is None:
            raise
        raise ServiceUnavailable from error


async def back_off(
    attempt: int,
    until: float,
    verdict: Cancellation | None = None,
    otherwise: type[ReservationError] = ServiceUnavailable,
) -> None:
    """Waits a random time that grows with the attempt (from 0), longer after a throttle than after a conflict. Raises
    `otherwise` if the time is up by then, or UpstreamTimeout if a try may still be on its way."""
    base, cap = _THROTTLED_BACKOFF if verdict is not None and verdict.only_throttled else _BACKOFF
    delay = random.random() * min(cap, base * 2**attempt)
    if time.monotonic() + delay >= until:
        raise UpstreamTimeout if verdict is not None and verdict.overtaken else otherwise
    await asyncio.sleep(delay)
