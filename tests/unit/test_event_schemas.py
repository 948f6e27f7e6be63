"""The schemas that consumers of our events read, held against the events themselves."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from reservation.domain import events
from reservation.domain.events import EventType
from reservation.domain.model import Reservation, Status
from tests.unit.examples import in_state, patient, reservations

DIRECTORY = Path(__file__).parents[2] / "proto" / "events"
COMMON = "event.schema.json"
SCHEMAS = {path.name: json.loads(path.read_text()) for path in sorted(DIRECTORY.iterdir())}

STATUS_TOLD = {
    "reservation.created": Status.HOLD,
    "reservation.confirmed": Status.CONFIRMED,
    "reservation.cancelled": Status.CANCELLED,
    "reservation.expired": Status.EXPIRED,
    "reservation.hold_extended": Status.HOLD,
}


def detail(event_type: str, reservation: Reservation | None = None) -> dict[str, Any]:
    reservation = reservation or in_state(STATUS_TOLD[event_type])
    released = reservation.seat_ids[:1]
    return events.detail(reservation, traceparent="", released=released) | {"type": event_type}


def closed(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    """The schema, with members that it does not name forbidden."""
    schema = copy.deepcopy(schema)
    if name != COMMON:
        return schema | {"unevaluatedProperties": False}
    for part, definition in schema["$defs"].items():
        if definition["type"] == "object" and part != "envelope":  # event types may add to the envelope
            definition["unevaluatedProperties"] = False
    return schema


def violations(event_type: str, told: dict[str, Any]) -> list[str]:
    documents = {name: closed(name, schema) for name, schema in SCHEMAS.items()}
    resources = [(name, Resource.from_contents(document)) for name, document in documents.items()]
    registry: Registry[Any] = Registry().with_resources(resources)
    validator = Draft202012Validator(documents[f"{event_type}.schema.json"], registry=registry)
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(told)]


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_is_one_and_bears_its_files_name(name: str) -> None:
    Draft202012Validator.check_schema(SCHEMAS[name])
    assert SCHEMAS[name]["$id"] == name


def test_every_type_of_event_has_a_schema_and_every_schema_a_type() -> None:
    assert {f"{event_type}.schema.json" for event_type in STATUS_TOLD} | {COMMON} == SCHEMAS.keys()
    assert set(EventType) <= STATUS_TOLD.keys()


@pytest.mark.parametrize("event_type", STATUS_TOLD)
def test_an_event_is_as_its_schema_says(event_type: str) -> None:
    assert violations(event_type, json.loads(json.dumps(detail(event_type)))) == []


@patient
@given(st.data(), st.sampled_from(sorted(STATUS_TOLD)))
def test_so_is_the_event_of_any_reservation(data: st.DataObject, event_type: str) -> None:
    reservation = data.draw(reservations([STATUS_TOLD[event_type]]))
    assert violations(event_type, detail(event_type, reservation)) == []


@pytest.mark.parametrize("event_type", STATUS_TOLD)
@pytest.mark.parametrize("other", STATUS_TOLD)
def test_an_event_does_not_pass_for_one_of_another_type(event_type: str, other: str) -> None:
    assert (violations(other, detail(event_type)) == []) == (event_type == other)


OPTIONAL = {"$.reservation.totalAmount", "$.reservation.metadata"}


def members(value: Any, path: str = "$") -> Iterator[tuple[str, dict[str, Any], str]]:
    """Every member of every object within, with the object that has it; of a list only what is first."""
    if isinstance(value, list):
        yield from members(value[0], f"{path}[0]") if value else ()
    elif isinstance(value, dict):
        for name in list(value):
            yield f"{path}.{name}", value, name
            yield from members(value[name], f"{path}.{name}")


def broken(event_type: str, how: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The event, each time with one member removed or made null or one more beside it."""
    for path, _, _ in members(detail(event_type)):
        if path.startswith("$.reservation.metadata.tags."):
            continue
        told = detail(event_type)
        parent, name = next((parent, name) for each, parent, name in members(told) if each == path)
        match how:
            case "removed":
                del parent[name]
            case "null":
                parent[name] = None
            case "unknown":
                parent[f"{name}Too"] = parent[name]
        yield path, told


@pytest.mark.parametrize("how", ["removed", "null", "unknown"])
@pytest.mark.parametrize("event_type", STATUS_TOLD)
def test_a_member_that_is_missing_null_or_unknown_is_found(event_type: str, how: str) -> None:
    passed = {path for path, told in broken(event_type, how) if violations(event_type, told) == []}
    assert passed == (OPTIONAL if how == "removed" else set())


@pytest.mark.parametrize("amount", [120_000, "12.5", "", "-1"])
def test_an_amount_is_whole_and_text(amount: Any) -> None:
    told = detail("reservation.created")
    told["reservation"]["totalAmount"]["amount"] = amount
    assert violations("reservation.created", told) != []


@pytest.mark.parametrize("time", ["2025-01-01T00:00:00+00:00", "2025-01-01T00:00:00.5Z", "2025-01-01", 1735689600])
def test_a_time_is_utc_with_three_digits_or_none(time: Any) -> None:
    told = detail("reservation.created") | {"occurredAt": time}
    assert violations("reservation.created", told) != []


def test_a_confirmed_reservation_has_an_order_and_a_payment() -> None:
    for name in ("orderId", "paymentIntentId"):
        told = detail("reservation.confirmed")
        told["reservation"][name] = ""
        assert violations("reservation.confirmed", told) != []
