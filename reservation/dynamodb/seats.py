"""The embedded inventory: one item a seat. It supplies facts from a cache, adds its actions to a command's transaction
and reads what a cancellation says about seats.

A seat is taken, sold and freed by conditions on (holder, status, expiry) of its own item, never by a count. A hold that
is past its time is as good as free: whoever comes next takes the seat over, so no job has to run for it.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from cachetools import TLRUCache, TTLCache

from reservation.aws.client import AwsClient
from reservation.domain.errors import EventNotFound, FieldViolation, InvalidRequest
from reservation.domain.model import Event, Reservation, Seat, SeatStatus, Status
from reservation.dynamodb.items import (
    Item,
    SeatState,
    event_from_item,
    seat_from_item,
    seat_key,
    seat_state_from_item,
)
from reservation.dynamodb.transaction import Action, Failed, Role, back_off, read

_FACTS_KEPT, _FACTS_SECONDS = 10_000, 300.0
_REFUSALS_KEPT, _REFUSAL_MS = 10_000, 250
_FREED_SECONDS = 5.0  # longer than any answer to a question of before may take

_STATUS = {"#status": "status"}

# The price is part of the condition because the answer, the order and the event are made of the cached one.
_TAKE_IF = (
    "amount = :amount AND currency = :currency"
    " AND (#status = :available OR (#status = :held AND holdExpiresAt <= :now))"
)
_MINE = "#status = :held AND holder = :me"
_MINE_AND_LIVE = f"{_MINE} AND holdExpiresAt > :now"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A seat that was seen taken. `until` in monotonic seconds: never later than the end of the hold that was seen."""

    holder_key: str
    until: float


@dataclass(frozen=True, slots=True)
class SeatsVerdict:
    """What the failed or probed seats of one hold say. At most one of the lists decides, in this order."""

    mine: bool = False
    unknown: tuple[str, ...] = ()
    taken: tuple[tuple[str, SeatState], ...] = ()
    repriced: tuple[str, ...] = ()


class EmbeddedInventory:
    """The seats of all events in the inventory table.

    `now` gives milliseconds since the epoch. The caches live by `monotonic` (seconds): a wall clock that is set back
    would prolong them.
    """

    def __init__(
        self,
        client: AwsClient,
        table: str,
        *,
        now: Callable[[], int],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._table = table
        self._now = now
        self._monotonic = monotonic
        self._facts: TTLCache[str, Event | Seat] = TTLCache(_FACTS_KEPT, _FACTS_SECONDS, timer=monotonic)
        self._freed: TTLCache[tuple[str, str], int] = TTLCache(_REFUSALS_KEPT, _FREED_SECONDS, timer=monotonic)
        self._refusals: TLRUCache[tuple[str, str], Refusal] = TLRUCache(
            _REFUSALS_KEPT, lambda _key, refusal, _now: refusal.until, timer=monotonic
        )

    async def facts(self, event_id: str, seat_ids: Sequence[str], until: float) -> tuple[Event, tuple[Seat, ...]]:
        """See ports.Inventory. A miss costs one BatchGetItem for the event and all missing seats."""
        wanted = [f"{event_id}#", *(f"{event_id}#{seat_id}" for seat_id in seat_ids)]
        found = {pk: fact for pk in wanted if (fact := self._facts.get(pk)) is not None}
        if len(found) < len(wanted):
            found |= await self._load([pk for pk in wanted if pk not in found], until)
        event = found.get(wanted[0])
        if not isinstance(event, Event):
            raise EventNotFound
        seats = [found.get(pk) for pk in wanted[1:]]
        known = tuple(seat for seat in seats if isinstance(seat, Seat))
        if len(known) < len(seats):
            raise unknown_seats(seat_ids, [i for i, seat in enumerate(seats) if seat is None])
        return event, known

    async def _load(self, pks: Sequence[str], until: float) -> dict[str, Event | Seat]:
        facts: dict[str, Event | Seat] = {}
        for item in await batch_get(self._client, {self._table: [{"pk": {"S": pk}} for pk in pks]}, until):
            facts[item["pk"]["S"]] = event_from_item(item) if item["pk"]["S"].endswith("#") else seat_from_item(item)
        self._facts.update(facts)
        return facts

    def forget_facts(self, event_id: str, seat_ids: Iterable[str]) -> None:
        for seat_id in seat_ids:
            self._facts.pop(f"{event_id}#{seat_id}", None)

    # Actions

    def take(self, draft: Reservation, key_id: str, now: int) -> list[Action]:
        """Takes each seat that is free, or whose hold has ended by `now`."""
        return [
            self._update(
                draft,
                seat,
                "SET #status = :held, holder = :me, holderKey = :key, holdExpiresAt = :until",
                _TAKE_IF,
                {
                    ":held": {"S": SeatStatus.HELD.value},
                    ":available": {"S": SeatStatus.AVAILABLE.value},
                    ":me": {"S": draft.id},
                    ":key": {"S": key_id},
                    ":until": {"N": str(draft.hold_expires_at)},
                    ":now": {"N": str(now)},
                    ":amount": {"N": str(seat.price.amount)},
                    ":currency": {"S": seat.price.currency},
                },
            )
            for seat in draft.seats
        ]

    def follow(self, after: Reservation, seats: Iterable[Seat], now: int) -> list[Action]:
        """Moves these of its seats with their reservation: sold by a confirm, held for longer by an extension, free
        after a cancel or an expiry."""
        values = {":held": {"S": SeatStatus.HELD.value}, ":me": {"S": after.id}}
        match after.status:
            case Status.CONFIRMED:
                change, condition = "SET #status = :sold REMOVE holderKey, holdExpiresAt", _MINE_AND_LIVE
                values |= {":sold": {"S": SeatStatus.SOLD.value}, ":now": {"N": str(now)}}
            case Status.HOLD:
                change, condition = "SET holdExpiresAt = :until", _MINE_AND_LIVE
                values |= {":until": {"N": str(after.hold_expires_at)}, ":now": {"N": str(now)}}
            case _:
                change, condition = "SET #status = :available REMOVE holder, holderKey, holdExpiresAt", _MINE
                values |= {":available": {"S": SeatStatus.AVAILABLE.value}}
        return [self._update(after, seat, change, condition, values) for seat in seats]

    def _update(
        self, reservation: Reservation, seat: Seat, change: str, condition: str, values: dict[str, Any]
    ) -> Action:
        update = {
            "TableName": self._table,
            "Key": seat_key(reservation.event_id, seat.id),
            "UpdateExpression": change,
            "ConditionExpression": condition,
            "ExpressionAttributeNames": _STATUS,
            "ExpressionAttributeValues": values,
            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
        }
        return Action(Role.SEAT, {"Update": update}, seat.id)

    # Verdicts

    def probe_keys(self, draft: Reservation) -> dict[str, list[Item]]:
        """What to read in order to see who has the draft's seats, as BatchGetItem takes it."""
        return {self._table: [seat_key(draft.event_id, seat_id) for seat_id in draft.seat_ids]}

    def judge(self, draft: Reservation, seats: Iterable[Failed], now: int) -> SeatsVerdict:
        """Reads failed or probed seat items. A seat that is this draft's own is its success, not its refusal."""
        unknown, taken, repriced = [], [], []
        prices = {seat.id: seat.price for seat in draft.seats}
        for seat in seats:
            if seat.item is None:
                unknown.append(seat.subject)
                continue
            state = seat_state_from_item(seat.item)
            if state.holder == draft.id:
                return SeatsVerdict(mine=True)
            if not state.takeable(now):
                taken.append((seat.subject, state))
            elif state.price != prices[seat.subject]:
                repriced.append(seat.subject)
        return SeatsVerdict(unknown=tuple(unknown), taken=tuple(taken), repriced=tuple(repriced))

    # Refusals that may be repeated for 250 ms without asking

    def remember_taken(self, event_id: str, taken: Iterable[tuple[str, SeatState]], seen_at: int) -> None:
        """`seen_at`: when the question was sent, so that no refusal is older than it may be."""
        for seat_id, state in taken:
            if self._freed.get((event_id, seat_id), -1) >= seen_at:
                continue  # this process has freed it since the question was sent
            until = seen_at + _REFUSAL_MS
            if state.status is SeatStatus.HELD:
                until = min(until, state.hold_expires_at)
            seconds_left = (until - self._now()) / 1000
            self._refusals[event_id, seat_id] = Refusal(state.holder_key, self._monotonic() + seconds_left)

    def taken_lately(self, draft: Reservation) -> dict[str, Refusal]:
        refusals = ((seat_id, self._refusals.get((draft.event_id, seat_id))) for seat_id in draft.seat_ids)
        return {seat_id: refusal for seat_id, refusal in refusals if refusal is not None}

    def freed(self, event_id: str, seat_ids: Iterable[str]) -> None:
        """Seats that this process has freed: it refuses them to nobody because of what it knew before."""
        now = self._now()
        for seat_id in seat_ids:
            self._refusals.pop((event_id, seat_id), None)
            self._freed[event_id, seat_id] = now


def unknown_seats(seat_ids: Sequence[str], positions: Iterable[int]) -> InvalidRequest:
    return InvalidRequest([FieldViolation(f"seat_ids[{i}]", "is not a seat of this event") for i in positions])


async def batch_get(client: AwsClient, keys: dict[str, list[Item]], until: float) -> list[Item]:
    """One strongly consistent BatchGetItem of at most 100 keys (more only if DynamoDB leaves some unprocessed).

    Raises ServiceUnavailable."""
    requests = {table: {"Keys": wanted, "ConsistentRead": True} for table, wanted in keys.items()}
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
