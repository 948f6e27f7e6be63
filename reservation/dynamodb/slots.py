"""The limit of live holds per user and event: as many slots as a user may have holds, an item each, and no counter.

A slot is taken, extended and freed in its hold's transaction, by the same condition on holder, status and expiry as a
seat. So the limit is exact however many creates of a user meet, and a hold that is past its time does not count,
whether or not anybody has recorded its end. A free slot has no item.
"""

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from reservation.domain.model import Reservation, SeatStatus, Status
from reservation.dynamodb.conditions import Condition, all_of
from reservation.dynamodb.items import Item, SlotState, slot_key, slot_key_of, slot_state_from_item
from reservation.dynamodb.seats import MINE, MINE_AND_LIVE, TAKE
from reservation.dynamodb.transaction import Action, Role

_TAKE_IF = all_of(Condition.SLOT_IS_FREE_OR_ENDED)


@dataclass(frozen=True, slots=True)
class Slots:
    """The slots of one user, as a read found them; None: nobody has it."""

    states: tuple[SlotState | None, ...]

    def free(self, first: int, now: int) -> int | None:
        """One that may be taken: `first`, else the next one after it."""
        count = len(self.states)
        for number in (turn % count for turn in range(first, first + count)):
            state = self.states[number]
            if state is None or state.takeable(now):
                return number
        return None

    @property
    def holders(self) -> set[str]:
        return {state.holder for state in self.states if state}

    @property
    def holder_keys(self) -> set[str]:
        """The ids of the idempotency keys under which they were taken."""
        return {state.holder_key for state in self.states if state and state.holder_key}


def keys(draft: Reservation, count: int) -> list[Item]:
    """What to read in order to see the first `count` slots of the draft's user."""
    return [slot_key(draft.event_id, draft.user_id, number) for number in range(count)]


def seen(draft: Reservation, count: int, items: Iterable[Item]) -> Slots:
    """From items that were read, which may be of other kinds too."""
    found = {item["pk"]["S"]: item for item in items if "pk" in item}
    read = (found.get(key["pk"]["S"]) for key in keys(draft, count))
    return Slots(tuple(slot_state_from_item(item) if item else None for item in read))


def first_choice(draft: Reservation, count: int) -> int:
    """Differs from draft to draft, so that creates of one user at the same time seldom want the same slot."""
    return zlib.crc32(draft.id.encode()) % count


def take(table: str, draft: Reservation, key_id: str, now: int) -> list[Action]:
    """Takes the draft's slot, if it is limited at all, unless another hold has it that is not past by `now`."""
    if draft.slot is None:
        return []
    values = {
        ":held": {"S": SeatStatus.HELD.value},
        ":me": {"S": draft.id},
        ":key": {"S": key_id},
        ":until": {"N": str(draft.hold_expires_at)},
        ":now": {"N": str(now)},
    }
    return [_action("Update", table, draft, _TAKE_IF, values, UpdateExpression=TAKE)]


def follow(table: str, after: Reservation, now: int) -> list[Action]:
    """Moves a reservation's slot with it: held for longer by an extension, free after everything else. What is sold is
    no hold any more."""
    if after.slot is None:
        return []
    values = {":held": {"S": SeatStatus.HELD.value}, ":me": {"S": after.id}}
    if after.status is not Status.HOLD:
        return [_action("Delete", table, after, MINE, values)]
    values |= {":until": {"N": str(after.hold_expires_at)}, ":now": {"N": str(now)}}
    return [_action("Update", table, after, MINE_AND_LIVE, values, UpdateExpression="SET holdExpiresAt = :until")]


def _action(
    kind: str, table: str, reservation: Reservation, condition: str, values: dict[str, Any], **more: str
) -> Action:
    body = {
        "TableName": table,
        "Key": slot_key_of(reservation),
        "ConditionExpression": condition,
        "ExpressionAttributeNames": {"#status": "status"},
        "ExpressionAttributeValues": values,
        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
        **more,
    }
    return Action(Role.SLOT, {kind: body})
