"""The own side of sales from a remote inventory: one TransactWriteItems a step, see ports.SagaRecords."""

from dataclasses import replace
from itertools import count

from reservation.domain.errors import ReservationNotFound
from reservation.domain.idempotency import Key, Record, Running
from reservation.domain.model import Reservation
from reservation.dynamodb.items import (
    record_from_item,
    record_to_item,
    reservation_from_item,
    running_to_item,
    saga_partition,
)
from reservation.dynamodb.records import NEW_KEY_IF, DynamoRecords, key_of_record, require_no_other_order, time_is_up
from reservation.dynamodb.transaction import Action, Cancellation, Role, back_off, transact
from reservation.ports import DuePage, Known, Mark, Step, Superseded

_MINE = "attribute_not_exists(answer) AND reservationId = :id"
_ALL_TIMES = 10**15
_MUST_BE_NEW = (Mark.OPEN, Mark.ANSWER)


class DynamoSagas(DynamoRecords):
    """A reservation is replaced as a whole, on the condition that its last writer is the one that was read: every write
    has an op id of its own."""

    async def unfinished(self, shard: str, page: object | None, until: float) -> DuePage:
        return await self.due(saga_partition(shard), _ALL_TIMES, page, until)

    async def write(self, step: Step, until: float) -> None:
        verdict = None
        for attempt in count():
            verdict = await transact(self._client, self._actions(step), until, verdict)
            if verdict is None or self._is_written(step, verdict):
                if _is_told(step):
                    self._event_written(step.after.shard)
                return
            if step.mark not in _MUST_BE_NEW and verdict.failed(Role.KEY):
                step = replace(step, key=None)
                continue
            await back_off(attempt, until, verdict, time_is_up(verdict))

    def _is_written(self, step: Step, verdict: Cancellation) -> bool:
        """False: nothing is decided yet."""
        there = [failed.item for failed in verdict.failed(Role.RESERVATION)]
        if any(item is not None and item["opId"]["S"] == step.after.op_id for item in there):
            return True
        if step.mark in _MUST_BE_NEW and (known := _known(step, verdict)) is not None:
            raise Known(known)
        if there and not verdict.undecided(Role.KEY):
            if there[0] is None:
                raise ReservationNotFound  # only an operator deletes reservations
            raise Superseded(reservation_from_item(there[0]))
        require_no_other_order(verdict)
        return False

    def _actions(self, step: Step) -> list[Action]:
        after = step.after
        return [
            *(self._mark_action(step.key, step) if step.key is not None else ()),
            self._replace_action(step.before, after),
            *self._order_action(after),
            *(self._outbox_action(after, step.traceparent, step.released) if _is_told(step) else ()),
        ]

    def _replace_action(self, before: Reservation | None, after: Reservation) -> Action:
        put = self._new_reservation(after)
        if before is not None:
            put["ConditionExpression"] = "opId = :before"
            put["ExpressionAttributeValues"] = {":before": {"S": before.op_id}}
        return Action(Role.RESERVATION, {"Put": put})

    def _mark_action(self, key: Key, step: Step) -> list[Action]:
        if step.mark is Mark.ANSWER:
            return self._key_action(key, step.after)
        now, mine = {":now": {"N": str(self._now() // 1000)}}, {":id": {"S": step.after.id}}
        on_table = {"TableName": self._tables.idempotency, "ReturnValuesOnConditionCheckFailure": "ALL_OLD"}
        forgotten_at = self._forgotten_at(key, step.after)
        match step.mark:
            case Mark.OPEN:
                item, condition, values = running_to_item(key, step.after, forgotten_at), NEW_KEY_IF, now
            case Mark.CLOSE:
                item = record_to_item(key, step.after, forgotten_at)
                condition, values = f"{NEW_KEY_IF} OR ({_MINE})", now | mine
            case Mark.FORGET:
                delete = {"Key": key_of_record(key), "ConditionExpression": _MINE, "ExpressionAttributeValues": mine}
                return [Action(Role.KEY, {"Delete": on_table | delete})]
        put = {"Item": item, "ConditionExpression": condition, "ExpressionAttributeValues": values}
        return [Action(Role.KEY, {"Put": on_table | put})]


def _known(step: Step, verdict: Cancellation) -> Record | Running | None:
    """The record that stands in the way. One of a saga of this very reservation may be an earlier try of this step,
    half of it visible: then the reservation must tell."""
    for failed in verdict.failed(Role.KEY):
        record = record_from_item(failed.item or {})
        if not isinstance(record, Running) or record.reservation_id != step.after.id:
            return record
    return None


def _is_told(step: Step) -> bool:
    return step.after.version > (step.before.version if step.before is not None else 0)
