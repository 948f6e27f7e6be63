"""Every field of every request has a rule, and whatever a rule forbids is refused."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor
from pydantic import ValidationError

from reservation.api import validation
from reservation.api.descriptors import PACKAGE, pool
from reservation.api.pages import Pages
from reservation.api.rules import (
    RULES,
    SEATS,
    Choice,
    Flag,
    Number,
    Part,
    Quantity,
    Rule,
    Seats,
    Tags,
    Text,
    Time,
    Token,
)
from reservation.domain.errors import InvalidRequest
from reservation.gen.com.traffic_tacos.reservation import v1 as messages
from reservation.settings import Settings

SERVICES = ("ReservationService", "InventoryService")
REQUESTS = [method.input_type for name in SERVICES for method in pool().FindServiceByName(f"{PACKAGE}.{name}").methods]
PAGES = Pages("any")

CHECKS: dict[str, Callable[[Any], None]] = {
    "CreateReservationRequest": lambda request: validation.create(request, max_seats=SEATS),
    "GetReservationRequest": validation.get,
    "WatchReservationRequest": validation.watch,
    "ConfirmReservationRequest": validation.confirm,
    "CancelReservationRequest": validation.cancel,
    "ExtendHoldRequest": validation.extend,
    "ListReservationsRequest": lambda request: validation.list_(request, PAGES),
    "CheckAvailabilityRequest": lambda request: validation.check_availability(request, max_seats=SEATS),
    "GetInventoryStatusRequest": validation.inventory_status,
    "ListSeatsRequest": lambda request: validation.list_seats(request, PAGES),
    "ReserveSeatRequest": lambda request: validation.reserve(request, max_seats=SEATS),
    "CommitReservationRequest": lambda request: validation.commit(request, max_seats=SEATS),
    "ReleaseHoldRequest": lambda request: validation.release(request, max_seats=SEATS),
}


def with_parts(request: Descriptor) -> Iterator[Descriptor]:
    """The message and those of this package that it is made of."""
    yield request
    for field in request.fields:
        part = field.message_type
        if part is not None and part.full_name.startswith(PACKAGE) and not part.GetOptions().map_entry:
            yield from with_parts(part)


MESSAGES = {each.name: each for request in REQUESTS for each in with_parts(request)}


def test_every_field_of_every_request_has_a_rule() -> None:
    assert {name: sorted(rules) for name, rules in RULES.items()} == {
        name: sorted(field.name for field in message.fields) for name, message in MESSAGES.items()
    }
    assert CHECKS.keys() == {request.name for request in REQUESTS}


def good(rule: Rule) -> Any:
    match rule:
        case Text(required=True):
            return "x"
        case Number(low=low):
            return low
        case Seats():
            return ["A-1"]
        case Part(message=message):
            return getattr(messages, message)()
        case Time():
            return datetime(9999, 12, 31, tzinfo=UTC)
        case Tags():
            return {"x": ""}
        case Choice():
            return messages.ReservationStatus.HOLD
        case Flag():
            return True
        case Quantity():
            return 0
    return ""


def bad(rule: Rule) -> Iterator[Any]:
    """Values just beyond what the rule allows, one for each thing that it says."""
    match rule:
        case Text(limit=limit, required=required, without=without):
            yield "x" * (limit + 1)
            yield from ("x\n", "\x00", "x\x9f", *without)
            if required:
                yield ""
        case Number(low=low, high=high):
            yield from (low - 1, high + 1)
        case Seats(each=each, most=most):
            yield [f"A-{number}" for number in range(most + 1)]
            yield ["A-1", "A-1"]
            yield from ([value] for value in bad(each))
        case Quantity(most=most):
            yield from (-1, most + 1)
        case Tags(most=most, name=name, value=value):
            yield {str(number): "" for number in range(most + 1)}
            yield from ({each: ""} for each in bad(name))
            yield from ({"x": each} for each in bad(value))
        case Token(limit=limit):
            yield "x" * (limit + 1)
        case Choice():
            yield messages.ReservationStatus(99)
        case Part(message=message, size=size):
            yield getattr(messages, message)(tags={str(number): "x" * (size // 8) for number in range(8)})


def request_with(name: str, **fields: Any) -> Any:
    values = {field: good(rule) for field, rule in RULES[name].items()}
    return getattr(messages, name)(**values | fields)


def told(name: str, request: Any) -> set[str]:
    """The fields that are told to be wrong, without their indexes."""
    try:
        CHECKS[name](request)
    except InvalidRequest as refused:
        return {violation.field.partition("[")[0] for violation in refused.violations}
    return set()


@pytest.mark.parametrize("name", CHECKS)
def test_what_keeps_to_the_rules_is_a_good_request(name: str) -> None:
    assert told(name, request_with(name)) == set()


@pytest.mark.parametrize("name", CHECKS)
def test_what_a_rule_forbids_is_refused_and_nothing_else_of_the_request(name: str) -> None:
    for field, rule in RULES[name].items():
        for value in bad(rule):
            assert told(name, request_with(name, **{field: value})) == {field}, (field, value)


def test_what_a_rule_of_the_metadata_forbids_is_refused() -> None:
    for field, rule in RULES["ReservationMetadata"].items():
        for value in bad(rule):
            metadata = messages.ReservationMetadata(**{field: value})
            request = request_with("CreateReservationRequest", metadata=metadata)
            assert told("CreateReservationRequest", request) == {f"metadata.{field}"}, (field, value)


def test_a_deployment_may_allow_fewer_seats_than_the_rules_and_never_more() -> None:
    assert Settings(max_seats_per_reservation=SEATS).max_seats_per_reservation == SEATS
    with pytest.raises(ValidationError):
        Settings(max_seats_per_reservation=SEATS + 1)
