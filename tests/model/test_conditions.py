"""The model is one of the code: their transactions write the same kinds of items under the same conditions."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from reservation.aws.client import AwsClient, ServerDate
from reservation.domain import model
from reservation.domain.idempotency import Key
from reservation.domain.model import Reservation, Status
from reservation.dynamodb.conditions import Condition, all_of
from reservation.dynamodb.halls import Halls
from reservation.dynamodb.items import is_slot_key
from reservation.dynamodb.reservations import DynamoReservations
from reservation.dynamodb.seats import EmbeddedInventory
from reservation.dynamodb.tables import Tables
from tests.model.state import CANCEL, CONFIRM, CREATE, EXTEND, SETTLE
from tests.model.transactions import TRANSACTIONS
from tests.support.store import EVENT, HOLD_MS, NOW, SEATS, WINDOW_MS, soon

TABLES = Tables("reservations", "orders", "idempotency", "outbox", "inventory", "leases")
ITEM_OF = {"reservations": "reservation", "orders": "order", "idempotency": "key", "outbox": "outbox"}
KEY = Key("key", "fingerprint")
DRAFT = Reservation(
    id="rsv_1",
    event_id=EVENT.id,
    user_id="user_1",
    status=Status.HOLD,
    seats=SEATS[:2],
    created_at=NOW,
    updated_at=NOW,
    hold_expires_at=NOW + HOLD_MS,
    version=1,
    op_id="op_1",
    shard="0000",
)
HELD = replace(DRAFT, slot=0)
"""With everything that a command may have to do with: two seats and a slot."""

Conditions = dict[str, set[str]]
"""By the kind of item."""


class ApplyingWire:
    """Says of every transaction that it was applied, and keeps it. There is nothing to read."""

    server_date: ServerDate | None = None

    def __init__(self) -> None:
        self.applied: list[Mapping[str, Any]] = []

    async def send(self, operation: str, params: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        if operation == "TransactWriteItems":
            self.applied += params["TransactItems"]
            return {}
        assert operation == "BatchGetItem"
        return {"Responses": {}}

    async def renew_credentials(self, timeout: float | None) -> None:
        pass

    async def close(self) -> None:
        pass


async def written(command: str) -> list[Mapping[str, Any]]:
    """The actions of the command's transaction as the store sends them."""
    wire = ApplyingWire()
    client = AwsClient(wire, attempts=1)
    halls = Halls(client, TABLES.inventory, now=lambda: NOW)
    inventory = EmbeddedInventory(client, TABLES.inventory, halls=halls, now=lambda: NOW)
    store = DynamoReservations(client, TABLES, inventory, now=lambda: NOW, key_window=WINDOW_MS)
    if command == CREATE:
        await store.hold(DRAFT, KEY, "", soon(), max_holds=1)
    elif command == SETTLE:
        await store.settle(HELD, after(command), soon())
    else:
        await store.advance(HELD, after(command), KEY, "", soon())
    return wire.applied


def after(command: str) -> Reservation:
    """What the command makes of HELD."""
    made = {
        CONFIRM: lambda: model.confirm(HELD, payment_intent_id="pay_1", now=NOW, op_id="op_2"),
        CANCEL: lambda: model.cancel(HELD, reason="", now=NOW, op_id="op_2"),
        EXTEND: lambda: model.extend(
            HELD, extension_ms=1, reason="", now=NOW, op_id="op_2", max_extensions=1, max_total=2 * HOLD_MS
        ),
        SETTLE: lambda: model.expire(HELD, now=NOW + HOLD_MS, op_id="op_2"),
    }[command]()
    assert made is not None
    return made


def kind_of(body: Mapping[str, Any]) -> str:
    if body["TableName"] != TABLES.inventory:
        return ITEM_OF[body["TableName"]]
    return "slot" if is_slot_key(body["Key"]["pk"]["S"]) else "seat"


def names_in(expression: str) -> set[str]:
    """Of the conditions that it is made of. Raises AssertionError if it is not made of named ones."""
    names, rest = set(), expression
    while rest:
        fitting = [each for each in Condition if rest == each.value or rest.startswith(f"{each.value} AND ")]
        assert fitting, f"not a named condition: {rest}"
        condition = max(fitting, key=lambda each: len(each.value))
        names.add(condition.name.lower())
        rest = rest.removeprefix(condition.value).removeprefix(" AND ")
    return names


async def conditions(command: str) -> Conditions:
    """Those of the code. Raises AssertionError if two items of one kind have different ones."""
    found: Conditions = {}
    for action in await written(command):
        (body,) = action.values()
        names = names_in(body.get("ConditionExpression", ""))
        assert found.setdefault(kind_of(body), names) == names
    return found


@pytest.mark.parametrize("command", TRANSACTIONS)
async def test_the_model_has_the_codes_conditions(command: str) -> None:
    in_model = {item: {each.__name__ for each in those} for item, those in TRANSACTIONS[command].items()}
    assert await conditions(command) == in_model


async def test_each_named_condition_is_some_commands() -> None:
    used = {name for command in TRANSACTIONS for names in (await conditions(command)).values() for name in names}
    assert used == {condition.name.lower() for condition in Condition}


def test_the_names_in_an_expression_are_those_that_it_was_made_of() -> None:
    assert names_in(all_of(Condition.IS_MINE, Condition.HOLD_IS_UNEXPIRED)) == {"is_mine", "hold_is_unexpired"}
    assert names_in(all_of(Condition.RESERVATION_IS_HOLD)) == {"reservation_is_hold"}


def test_a_condition_without_a_name_is_noticed() -> None:
    with pytest.raises(AssertionError, match="amount > :limit"):
        names_in(f"{all_of(Condition.IS_MINE)} AND amount > :limit")
