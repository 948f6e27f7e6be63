"""The embedded inventory: one item a seat. It supplies facts from a cache, adds its actions to a command's transaction
and reads what a cancellation says about seats.

A seat is taken, sold and freed by conditions on (holder, status, expiry) of its own item, never by a count. A hold that
is past its time is as good as free: whoever comes next takes the seat over, so no job has to run for it.
"""

import random as chance
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from cachetools import TLRUCache, TTLCache

from reservation.aws.client import AwsClient
from reservation.domain.errors import EventNotFound, FieldViolation, InvalidRequest, SeatUnavailable
from reservation.domain.model import Event, Reservation, Seat, SeatStatus, Status, Wish
from reservation.domain.seating import FREE, SOLD, Hall
from reservation.dynamodb.conditions import Condition, all_of
from reservation.dynamodb.halls import Halls
from reservation.dynamodb.items import (
    Item,
    SeatState,
    event_from_item,
    seat_from_item,
    seat_key,
    seat_state_from_item,
)
from reservation.dynamodb.transaction import Action, Failed, Role, batch_get

_FACTS_KEPT, _FACTS_SECONDS = 10_000, 300.0
_REFUSALS_KEPT = 10_000
REFUSAL_MS = 250
"""A refusal says that the seat was not free at some instant of the call or up to so long before it."""

_UNKNOWN_MS = 5_000
_CHOICE_SECONDS = 10.0  # they are read anew after one; older ones still choose, should the store not answer
_VERIFIED = 100  # as many as one BatchGetItem reads
_FREED_SECONDS = 5.0  # longer than any answer to a question of before may take

_STATUS = {"#status": "status"}

TAKE = "SET #status = :held, holder = :me, holderKey = :key, holdExpiresAt = :until"
MINE = all_of(Condition.IS_MINE)
MINE_AND_LIVE = all_of(Condition.IS_MINE, Condition.HOLD_IS_UNEXPIRED)
_TAKE_IF = all_of(Condition.PRICE_IS_AS_READ, Condition.SEAT_IS_FREE_OR_ENDED)


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
    would prolong them. `stripe` is this process's (rank, number) among those that sell, which share out what they
    choose from.
    """

    def __init__(
        self,
        client: AwsClient,
        table: str,
        *,
        halls: Halls,
        stripe: Callable[[], tuple[int, int]] = lambda: (0, 1),
        now: Callable[[], int],
        monotonic: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = chance.random,
    ) -> None:
        self._client = client
        self._table = table
        self._halls = halls
        self._stripe = stripe
        self._random = random
        self._now = now
        self._monotonic = monotonic
        self._facts: TTLCache[str, Event | Seat] = TTLCache(_FACTS_KEPT, _FACTS_SECONDS, timer=monotonic)
        self._changed: TTLCache[str, None] = TTLCache(_FACTS_KEPT, _FACTS_SECONDS, timer=monotonic)
        self._verified: TTLCache[tuple[str, str], None] = TTLCache(1_000, REFUSAL_MS / 1000, timer=monotonic)
        self._freed: TTLCache[tuple[str, str], int] = TTLCache(_REFUSALS_KEPT, _FREED_SECONDS, timer=monotonic)
        self._refusals: TLRUCache[tuple[str, str], Refusal] = TLRUCache(
            _REFUSALS_KEPT, lambda _key, refusal, _now: refusal.until, timer=monotonic
        )

    async def facts(self, event_id: str, seat_ids: Sequence[str], until: float) -> tuple[Event, tuple[Seat, ...]]:
        """See ports.Inventory. A miss costs one BatchGetItem for the event and all missing seats."""
        wanted = [f"{event_id}#", *(f"{event_id}#{seat_id}" for seat_id in seat_ids)]
        found = {pk: fact for pk in wanted if (fact := self._known(event_id, pk)) is not None}
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

    def _known(self, event_id: str, pk: str) -> Event | Seat | None:
        try:
            return self._facts[pk]  # get() of this cache looks twice and costs three times as much
        except KeyError:
            return self._laid_out(event_id, pk)

    def _laid_out(self, event_id: str, pk: str) -> Seat | None:
        """From the layout, which may be behind an import: then the seat's own item is asked from there on."""
        hall = self._halls.known(event_id)
        return hall.seat(pk.partition("#")[2]) if hall is not None and pk not in self._changed else None

    async def _load(self, pks: Sequence[str], until: float) -> dict[str, Event | Seat]:
        facts: dict[str, Event | Seat] = {}
        for item in await batch_get(self._client, {self._table: [{"pk": {"S": pk}} for pk in pks]}, until):
            facts[item["pk"]["S"]] = event_from_item(item) if item["pk"]["S"].endswith("#") else seat_from_item(item)
        self._facts.update(facts)
        return facts

    def forget_facts(self, event_id: str, seat_ids: Iterable[str]) -> None:
        for seat_id in seat_ids:
            self._facts.pop(f"{event_id}#{seat_id}", None)
            self._changed[f"{event_id}#{seat_id}"] = None

    def forget_unknown(self, draft: Reservation, seat_ids: Sequence[str]) -> None:
        """There are no such seats, though the layout may have them already: an import is under way."""
        self.forget_facts(draft.event_id, seat_ids)
        unknown = [seat for seat in draft.seats if seat.id in seat_ids]
        self._halls.learn(draft.event_id, unknown, self._now() + _UNKNOWN_MS, tell=False)

    async def look(self, event_id: str, seat_ids: Sequence[str], until: float) -> list[tuple[Seat, SeatStatus]]:
        """See ports.Inventory."""
        _, seats = await self.facts(event_id, seat_ids, until)
        keys = [seat_key(event_id, seat_id) for seat_id in seat_ids]
        items = await batch_get(self._client, {self._table: keys}, until)
        states = {item["id"]["S"]: seat_state_from_item(item) for item in items}
        if missing := [i for i, seat_id in enumerate(seat_ids) if seat_id not in states]:
            raise unknown_seats(seat_ids, missing)  # the layout has them already: an import is under way
        now = self._now()
        return [
            (seat, SeatStatus.AVAILABLE if states[seat.id].takeable(now) else states[seat.id].status) for seat in seats
        ]

    async def hall(self, event_id: str, until: float) -> tuple[Hall, int]:
        """See ports.Inventory."""
        await self.facts(event_id, (), until)
        return await self._halls.hall_and_time(event_id, until)

    # The choice

    @asynccontextmanager
    async def choice(self, event: Event, wish: Wish, until: float) -> AsyncIterator[tuple[str, ...]]:
        """See ports.Inventory. Hints choose and never decide: before a refusal they are read anew, and those of holds,
        which may be out of date, are compared with the seats themselves."""
        chosen = await self._chosen(event, wish, until)
        for seat_id in chosen:  # it looks free by what was learnt since: refused from memory it would be chosen again
            self._refusals.pop((event.id, seat_id), None)
        try:
            yield chosen
        finally:
            self._halls.release(event.id, chosen)

    async def _chosen(self, event: Event, wish: Wish, until: float) -> tuple[str, ...]:
        hall = await self._halls.hall(event.id, until, max_age=_CHOICE_SECONDS)
        if wish.section and wish.section not in hall.section_names:
            raise InvalidRequest([FieldViolation("section", "is not a section of this event")])
        while not (seat_ids := self._claim(hall, event, wish)):
            hall = await self._halls.hall(event.id, until, max_age=REFUSAL_MS / 1000)
            if seat_ids := self._claim(hall, event, wish):
                break
            await self._verify(hall, event.id, wish.section, until)
            hall = self._halls.known(event.id) or hall  # it may have been laid out anew meanwhile
            if seat_ids := self._claim(hall, event, wish):
                break
            if not hall.claimed:
                raise SeatUnavailable(())
            await self._halls.until_released(until)  # what is claimed here may yet become free
        return seat_ids

    def _claim(self, hall: Hall, event: Event, wish: Wish) -> tuple[str, ...]:
        chosen = hall.choose(
            wish,
            now=self._now(),
            stripe=self._stripe(),
            prevent_orphans=event.prevent_orphans,
            random=self._random,
        )
        hall.claim(chosen)
        return chosen

    async def _verify(self, hall: Hall, event_id: str, section: str, until: float) -> None:
        """Asks the items of some seats that look held, at most once in the time that a refusal may be repeated."""
        if (event_id, section) in self._verified:
            return
        self._verified[event_id, section] = None
        held = list(hall.held(section))
        sample = held if len(held) <= _VERIFIED else chance.sample(held, _VERIFIED)
        keys = [seat_key(event_id, seat_id) for seat_id in sample]
        for item in await batch_get(self._client, {self._table: keys}, until) if keys else []:
            state = seat_state_from_item(item)
            self._halls.learn(event_id, [seat_from_item(item)], state.taken_until)

    # Actions

    def take(self, draft: Reservation, key_id: str, now: int) -> list[Action]:
        """Takes each seat that is free, or whose hold has ended by `now`."""
        return [
            self._update(
                draft,
                seat,
                TAKE,
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
                change, condition = "SET #status = :sold REMOVE holderKey, holdExpiresAt", MINE_AND_LIVE
                values |= {":sold": {"S": SeatStatus.SOLD.value}, ":now": {"N": str(now)}}
            case Status.HOLD:
                change, condition = "SET holdExpiresAt = :until", MINE_AND_LIVE
                values |= {":until": {"N": str(after.hold_expires_at)}, ":now": {"N": str(now)}}
            case _:
                change, condition = "SET #status = :available REMOVE holder, holderKey, holdExpiresAt", MINE
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

    def remember_taken(self, draft: Reservation, taken: Iterable[tuple[str, SeatState]], seen_at: int) -> None:
        """`seen_at`: when the question was sent, so that no refusal is older than it may be."""
        event_id = draft.event_id
        seats = {seat.id: seat for seat in draft.seats}
        for seat_id, state in taken:
            self._halls.learn(event_id, [seats[seat_id]], state.taken_until)
            if self._freed.get((event_id, seat_id), -1) >= seen_at:
                continue  # this process has freed it since the question was sent
            until = seen_at + REFUSAL_MS
            if state.status is SeatStatus.HELD:
                until = min(until, state.hold_expires_at)
            seconds_left = (until - self._now()) / 1000
            self._refusals[event_id, seat_id] = Refusal(state.holder_key, self._monotonic() + seconds_left)

    def taken_lately(self, draft: Reservation) -> dict[str, str]:
        """Seats of the draft, and their holders' key ids."""
        refusals = ((seat_id, self._refusals.get((draft.event_id, seat_id))) for seat_id in draft.seat_ids)
        return {seat_id: refusal.holder_key for seat_id, refusal in refusals if refusal is not None}

    def followed(self, after: Reservation, seats: Sequence[Seat]) -> None:
        """These of its seats have followed it. What this process has freed it refuses to nobody because of what it knew
        before."""
        # A hold that ran out needs no telling: its hints ran out with it.
        tell = after.status is not Status.EXPIRED
        self._halls.learn(after.event_id, seats, _taken_until(after), tell=tell)
        if after.seat_status is None:
            now = self._now()
            for seat in seats:
                self._refusals.pop((after.event_id, seat.id), None)
                self._freed[after.event_id, seat.id] = now


def _taken_until(reservation: Reservation) -> int:
    """The hint of its seats."""
    match reservation.seat_status:
        case SeatStatus.HELD:
            return reservation.hold_expires_at
        case SeatStatus.SOLD:
            return SOLD
    return FREE


def unknown_seats(seat_ids: Sequence[str], positions: Iterable[int]) -> InvalidRequest:
    return InvalidRequest([FieldViolation(f"seat_ids[{i}]", "is not a seat of this event") for i in positions])
