"""Reservations in DynamoDB: one TransactWriteItems a command."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import count

from reservation.aws.client import AwsClient
from reservation.domain.errors import (
    HoldExtensionDenied,
    HoldLimitReached,
    InvalidRequest,
    ReservationExpired,
    SeatUnavailable,
    ServiceUnavailable,
    UpstreamTimeout,
)
from reservation.domain.idempotency import Key, Record, Running
from reservation.domain.model import Reservation, Seat, Status
from reservation.dynamodb import slots
from reservation.dynamodb.conditions import Condition, all_of
from reservation.dynamodb.items import (
    Item,
    op_ids_to_attribute,
    record_from_item,
    reservation_from_item,
    reservation_key,
)
from reservation.dynamodb.records import DynamoRecords, key_of_record, require_no_other_order, time_is_up
from reservation.dynamodb.seats import EmbeddedInventory, SeatsVerdict, unknown_seats
from reservation.dynamodb.tables import Tables
from reservation.dynamodb.takers import Takers
from reservation.dynamodb.transaction import (
    Action,
    Cancellation,
    Failed,
    Role,
    back_off,
    batch_get,
    transact,
)
from reservation.ports import Recorded, StaleFacts, Superseded

_ADVANCE = (
    "SET #status = :status, version = :next, opId = :op, updatedAt = :at,"
    " holdExpiresAt = :until, extendedBy = :extended, paymentIntentId = :payment, orderId = :order, reason = :reason"
)
_NOT_DUE = " REMOVE expiryShard"
_AS_READ = (Condition.RESERVATION_IS_HOLD, Condition.RESERVATION_VERSION)
_ADVANCE_IF = all_of(*_AS_READ, Condition.HOLD_IS_UNEXPIRED)
_SETTLE_IF = all_of(*_AS_READ, Condition.HOLD_IS_ENDED)
_FOR_NOW = (SeatUnavailable, HoldLimitReached, InvalidRequest, StaleFacts, ServiceUnavailable)
"""Refusals of a create for what may be gone when an earlier try of it arrives, which then succeeds."""


class DynamoReservations(DynamoRecords):
    """See ports.ReservationStore, and DynamoRecords. `changed` is told of each reservation that this store has moved to
    a new version; `moved` of each that it has brought into a status, once, with what it was before (None: nothing)."""

    def __init__(
        self,
        client: AwsClient,
        tables: Tables,
        inventory: EmbeddedInventory,
        *,
        now: Callable[[], int],
        key_window: int,
        event_written: Callable[[str], None] = lambda shard: None,
        changed: Callable[[Reservation], None] = lambda reservation: None,
        moved: Callable[[Reservation | None, Reservation], None] = lambda before, after: None,
    ) -> None:
        super().__init__(client, tables, now=now, key_window=key_window, event_written=event_written)
        self._inventory = inventory
        self._takers = Takers()
        self._changed = changed
        self._moved = moved

    # Hold

    async def hold(
        self, draft: Reservation, key: Key | None, traceparent: str, until: float, *, max_holds: int | None = None
    ) -> Recorded:
        if (known := await self._answer_without_writing(draft, key, until)) is not None:
            return known
        with self._takers.taking(draft) as took:
            recorded = await self._take(draft, key, traceparent, until, max_holds)
            if not recorded.replayed and recorded.reservation.hold_expires_at > self._now():
                took(_id_of(key))
            return recorded

    async def _take(
        self, draft: Reservation, key: Key | None, traceparent: str, until: float, max_holds: int | None
    ) -> Recorded:
        if max_holds is not None:
            chosen = await self._choose_slot(draft, key, max_holds, until)
            if isinstance(chosen, Recorded):
                return chosen
            draft = chosen
        verdict = None
        for attempt in count():
            asked_at = self._now()
            actions = self._hold_actions(draft, key, asked_at, traceparent)
            verdict = await transact(self._client, actions, until, verdict)
            if verdict is None:
                return self._held(Recorded(draft))
            try:
                if (outcome := self._read_hold(verdict, draft, key, asked_at, attempt)) is not None:
                    return self._held(outcome)
                await back_off(attempt, until, verdict, time_is_up(verdict))
                if verdict.only_throttled:
                    continue
                looked = await self._probe(verdict, draft, key, max_holds, until, attempt)
            except _FOR_NOW as refusal:
                if verdict.overtaken:
                    raise UpstreamTimeout from refusal
                raise
            if isinstance(looked, Recorded):
                return self._held(looked)
            draft = looked
        raise AssertionError("back_off ends it")

    def _held(self, recorded: Recorded) -> Recorded:
        if not recorded.replayed:
            self._moved(None, recorded.reservation)
            self._event_written(recorded.reservation.shard)
            self._inventory.followed(recorded.reservation, recorded.reservation.seats)
        return recorded

    async def _answer_without_writing(self, draft: Reservation, key: Key | None, until: float) -> Recorded | None:
        """A seat seen taken within the last 250 ms, or just now by another request of this process, is refused without
        a transaction. It never decides alone about a request with a key: the seat may be taken by that very request,
        which came before."""
        taken, end = self._inventory.taken_lately(draft), self._takers.patience(until)
        while not taken and (taken_meanwhile := await self._takers.ahead(draft, end)) is not None:
            taken = taken_meanwhile or self._inventory.taken_lately(draft)
        if not taken:
            return None
        if key is not None:
            if key.id in taken.values():
                return None
            if (record := await self.recall(key, until)) is not None:
                return _replay(record, key, draft)
        raise SeatUnavailable(tuple(taken))

    async def _choose_slot(
        self, draft: Reservation, key: Key | None, max_holds: int, until: float
    ) -> Recorded | Reservation:
        """The draft with a slot that looks free. If none does, it is refused without a transaction, under the rules of
        _answer_without_writing()."""
        asked_at = self._now()
        keys = {self._tables.inventory: slots.keys(draft, max_holds)}
        seen = slots.seen(draft, max_holds, await batch_get(self._client, keys, until))
        first = slots.first_choice(draft, max_holds)
        if (free := seen.free(first, asked_at)) is not None:
            return replace(draft, slot=free)
        if key is not None and (record := await self.recall(key, until)) is not None:
            return _replay(record, key, draft)
        if draft.id in seen.holders or (key is not None and key.id in seen.holder_keys):
            return replace(draft, slot=first)  # this very request has one, or an equal one: the transaction will tell
        raise HoldLimitReached

    def _hold_actions(self, draft: Reservation, key: Key | None, now: int, traceparent: str) -> list[Action]:
        return [
            *self._key_action(key, draft),
            *self._inventory.take(draft, _id_of(key), now),
            *slots.take(self._tables.inventory, draft, _id_of(key), now),
            Action(Role.RESERVATION, {"Put": self._new_reservation(draft)}),
            *self._outbox_action(draft, traceparent),
        ]

    def _read_hold(
        self, verdict: Cancellation, draft: Reservation, key: Key | None, asked_at: int, attempt: int
    ) -> Recorded | None:
        """What a cancelled hold means; None: nothing yet, try again. The key record is heard first: what it says is the
        answer to this request, while a seat may be taken by an equal request that won."""
        if key is not None and (failed := verdict.failed(Role.KEY)):
            return _replay(_record_of(failed), key, draft)
        for there in verdict.failed(Role.RESERVATION):
            # Nobody else has its id, unless another service chose it. So it is its own, whatever has become of it.
            if not draft.foreign or _op_id(there.item) == draft.op_id:
                return Recorded(draft)
            if there.item is not None:
                raise Superseded(reservation_from_item(there.item))
        seats = self._inventory.judge(draft, verdict.failed(Role.SEAT), asked_at)
        if seats.mine:
            return _mine(draft)
        if not verdict.undecided(Role.KEY) and not _equal_won(_keys_of(seats), key, attempt):
            self._refuse(draft, seats, asked_at)
        return None

    async def _probe(
        self,
        verdict: Cancellation,
        draft: Reservation,
        key: Key | None,
        max_holds: int | None,
        until: float,
        attempt: int,
    ) -> Recorded | Reservation:
        """Looks who has the contended items, with one consistent read instead of queueing up for another transaction:
        of 64 that want one seat, 63 are answered by it. Returns the draft to try again if nothing is decided, with
        another slot if its own has gone."""
        asked_at = self._now()
        max_slots = max_holds if max_holds is not None and verdict.blames(Role.SLOT) else 0
        keys = self._inventory.probe_keys(draft)
        keys[self._tables.inventory] += slots.keys(draft, max_slots)
        if key is not None:
            keys[self._tables.idempotency] = [key_of_record(key)]
        items = {item["pk"]["S"] if "pk" in item else "": item for item in await batch_get(self._client, keys, until)}
        if key is not None and (record := self._live(items.get(""))) is not None:
            return _replay(record, key, draft)
        found = [Failed(seat_id, items.get(f"{draft.event_id}#{seat_id}")) for seat_id in draft.seat_ids]
        seats = self._inventory.judge(draft, found, asked_at)
        seen = slots.seen(draft, max_slots, items.values())
        if seats.mine or draft.id in seen.holders:
            return _mine(draft) or draft
        slot = seen.free(draft.slot or 0, asked_at) if max_slots else draft.slot
        # The items of one transaction may become readable one after the other. So the key record's absence from this
        # read says nothing if that item was in another's hands, or if the seat went to a request with the same key.
        if not verdict.undecided(Role.KEY) and not _equal_won([*_keys_of(seats), *seen.holder_keys], key, attempt):
            self._refuse(draft, seats, asked_at)
            if max_slots and slot is None:
                raise HoldLimitReached
        return replace(draft, slot=draft.slot if slot is None else slot)

    def _refuse(self, draft: Reservation, seats: SeatsVerdict, asked_at: int) -> None:
        """Raises if the seats decide."""
        if seats.unknown:
            self._inventory.forget_unknown(draft, seats.unknown)
            raise unknown_seats(draft.seat_ids, [draft.seat_ids.index(seat_id) for seat_id in seats.unknown])
        if seats.taken:
            self._inventory.remember_taken(draft, seats.taken, asked_at)
            raise SeatUnavailable([seat_id for seat_id, _ in seats.taken])
        if seats.repriced:
            self._inventory.forget_facts(draft.event_id, seats.repriced)
            raise StaleFacts

    # Confirm, cancel and extend

    async def advance(
        self, before: Reservation, after: Reservation, key: Key | None, traceparent: str, until: float
    ) -> Recorded:
        # A try repeats the body of the one before it, and with it the time that it asserts. So none may begin after the
        # hold has run out.
        until = min(until, time.monotonic() + (before.hold_expires_at - self._now()) / 1000)
        verdict = None
        for attempt in count():
            actions = self._advance_actions(before, after, key, traceparent)
            verdict = await transact(self._client, actions, until, verdict)
            if verdict is None:
                self._event_written(after.shard)
                return self._advanced(before, after, Recorded(after))
            if (outcome := self._read_advance(verdict, before, after, key)) is not None:
                return self._advanced(before, after, outcome)
            if _slot_is_lost(verdict, after):
                after = _without_slot(after)
            else:
                await back_off(attempt, until, verdict, time_is_up(verdict))
        raise AssertionError("back_off ends it")

    def _advanced(self, before: Reservation, after: Reservation, recorded: Recorded) -> Recorded:
        if recorded.reservation.op_id == after.op_id:  # this very command's, even if it is a record that says so
            self._changed(after)
            self._moved(before, after)
            self._inventory.followed(after, after.seats)
        return recorded

    def _advance_actions(
        self, before: Reservation, after: Reservation, key: Key | None, traceparent: str
    ) -> list[Action]:
        now = self._now()
        return [
            *self._key_action(key, after),
            self._advance_action(before, after, _ADVANCE_IF, now),
            *self._inventory.follow(after, after.seats, now),
            *slots.follow(self._tables.inventory, after, now),
            *self._order_action(after),
            *self._outbox_action(after, traceparent, after.seat_ids),
        ]

    def _advance_action(self, before: Reservation, after: Reservation, condition: str, now: int) -> Action:
        update = {
            "TableName": self._tables.reservations,
            "Key": reservation_key(before),
            "UpdateExpression": _ADVANCE if after.status is Status.HOLD else _ADVANCE + _NOT_DUE,
            "ConditionExpression": condition,
            "ExpressionAttributeNames": {"#status": "status"},
            "ExpressionAttributeValues": {
                ":status": {"S": after.status.value},
                ":next": {"N": str(after.version)},
                ":op": {"S": after.op_id},
                ":at": {"N": str(after.updated_at)},
                ":until": {"N": str(after.hold_expires_at)},
                ":extended": op_ids_to_attribute(after.extended_by),
                ":payment": {"S": after.payment_intent_id},
                ":order": {"S": after.order_id},
                ":reason": {"S": after.reason},
                ":held": {"S": Status.HOLD.value},
                ":version": {"N": str(before.version)},
                ":now": {"N": str(now)},
            },
            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
        }
        return Action(Role.RESERVATION, {"Update": update})

    def _read_advance(
        self, verdict: Cancellation, before: Reservation, after: Reservation, key: Key | None
    ) -> Recorded | None:
        if key is not None and (failed := verdict.failed(Role.KEY)):
            return _replay(_record_of(failed), key, after)
        for failed_reservation in verdict.failed(Role.RESERVATION):
            if failed_reservation.item is None:
                raise ReservationExpired  # only an operator deletes reservations
            current = reservation_from_item(failed_reservation.item)
            if current.op_id == after.op_id:
                return Recorded(current)
            if after.op_id in current.extended_by:
                return Recorded(after)
            if verdict.undecided(Role.KEY):
                return None  # what is seen may be an equal command's doing, whose record is about to show
            if current.version == before.version and verdict.undecided(Role.SEAT):
                return None  # what failed is the time, but an equal command that was in time may be about to land
            if current.version == before.version and verdict.overtaken:
                raise UpstreamTimeout  # likewise an earlier try of this one
            raise Superseded(current)
        # A seat counts as lost only if all else was free to judge: otherwise it may be an earlier try of this very
        # command, half of it visible, that has moved the seat.
        lost = [seat for seat in verdict.failed(Role.SEAT) if _holder(seat.item) != after.id]
        if lost and not verdict.undecided(Role.KEY, Role.RESERVATION):
            raise ReservationExpired
        require_no_other_order(verdict)
        return None

    # Expiry

    async def settle(self, before: Reservation, after: Reservation, until: float) -> None:
        seats = list(after.seats)
        verdict = None
        for attempt in count():
            verdict = await transact(self._client, self._settle_actions(before, after, seats), until, verdict)
            if verdict is None:
                self._inventory.followed(after, seats)
                self._event_written(after.shard)
                self._changed(after)
                self._moved(before, after)
                return
            for failed in verdict.failed(Role.RESERVATION):
                if _op_id(failed.item) == after.op_id:
                    self._changed(after)
                    self._moved(before, after)
                    return
                raise Superseded(reservation_from_item(failed.item) if failed.item else before)
            lost = {failed.subject for failed in verdict.failed(Role.SEAT)}
            slot_is_lost = _slot_is_lost(verdict, after)
            if (lost or slot_is_lost) and not verdict.undecided(Role.RESERVATION):
                seats = [seat for seat in seats if seat.id not in lost]
                after = _without_slot(after) if slot_is_lost else after
            else:
                await back_off(attempt, until, verdict)

    def _settle_actions(self, before: Reservation, after: Reservation, seats: Sequence[Seat]) -> list[Action]:
        now = self._now()
        return [
            self._advance_action(before, after, _SETTLE_IF, now),
            *self._inventory.follow(after, seats, now),
            *slots.follow(self._tables.inventory, after, now),
            *self._outbox_action(after, "", [seat.id for seat in seats]),
        ]


def _id_of(key: Key | None) -> str:
    return key.id if key is not None else ""


def _record_of(failed: list[Failed]) -> Record | Running:
    item = failed[0].item
    if item is None:
        raise AssertionError("a key record's condition can only fail on a record")
    return record_from_item(item)


def _replay(record: Record | Running, key: Key, mine: Reservation) -> Recorded:
    """The record's answer. If this very command wrote it, an earlier try was applied and its reply was lost: that is no
    replay. Raises IdempotencyConflict."""
    return Recorded(record.replay(key), replayed=record.op_id != mine.op_id)


def _equal_won(holder_keys: Iterable[str], key: Key | None, attempt: int) -> bool:
    """Whether a seat or slot went to a request with this very key, whose record must then be about to show. After two
    looks it is not: a hold may outlive its key."""
    return key is not None and attempt < 2 and key.id in holder_keys


def _keys_of(seats: SeatsVerdict) -> list[str]:
    return [state.holder_key for _, state in seats.taken]


def _mine(draft: Reservation) -> Recorded | None:
    """What it means that a seat is the draft's: nobody else has its id, unless another service chose it. Then its own
    item must tell by which request."""
    return None if draft.foreign else Recorded(draft)


def _holder(item: Item | None) -> str:
    return item["holder"]["S"] if item and "holder" in item else ""


def _slot_is_lost(verdict: Cancellation, after: Reservation) -> bool:
    """Whether another hold has its slot, by a clock to which its own was past. What may be an earlier try of this very
    command, half of it visible, does not count."""
    lost = any(_holder(slot.item) != after.id for slot in verdict.failed(Role.SLOT))
    return lost and not verdict.undecided(Role.KEY, Role.RESERVATION)


def _without_slot(after: Reservation) -> Reservation:
    """The same command, which then leaves the slot to its new holder. Only a hold needs one: a payment is not refused
    for the want of it. Raises HoldExtensionDenied."""
    if after.status is Status.HOLD:
        raise HoldExtensionDenied(extensions_left=0, seconds_left=0)
    return replace(after, slot=None)


def _op_id(item: Item | None) -> str:
    return item["opId"]["S"] if item else ""
