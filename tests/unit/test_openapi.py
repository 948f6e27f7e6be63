"""The committed OpenAPI document: valid, whole, and made of what the code enforces and answers."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from openapi_spec_validator import OpenAPIV31SpecValidator

from reservation.api.descriptors import PACKAGE, pool
from reservation.api.rules import RULES, Part, Time
from reservation.domain.errors import ReservationError
from reservation.edge import EdgeConfig, directory, render
from reservation.openapi.comments import comments_of, json_name
from reservation.openapi.document import SERVICES, document, routes
from reservation.openapi.operator_paths import PATHS
from tests.support.openapi import DOCUMENT, faults, operations, resolved
from tests.unit.test_rules import bad, good

METHODS = [method for name in SERVICES for method in pool().FindServiceByName(f"{PACKAGE}.{name}").methods]
ROUTES = [(method, verb, path) for method in METHODS for verb, path in routes(method)]


def test_it_is_a_valid_openapi_document() -> None:
    OpenAPIV31SpecValidator(DOCUMENT).validate()


def test_it_is_what_the_generator_makes_but_for_the_comments() -> None:
    files = FileDescriptorSet.FromString((directory() / "descriptors.binpb").read_bytes())
    assert _without_comments(document(files)) == _without_comments(DOCUMENT)


def _without_comments(part: Any) -> Any:
    if isinstance(part, list):
        return [_without_comments(each) for each in part]
    if isinstance(part, dict):
        return {name: _without_comments(each) for name, each in part.items() if name != "description"}
    return part


def test_it_has_every_route_of_the_protocol_and_those_of_operators() -> None:
    annotated = {(_camel(path), verb) for _, verb, path in ROUTES}
    assert len(annotated) == 9
    by_hand = {(path, verb) for path, verbs in PATHS.items() for verb in verbs}
    assert {(path, verb) for path, verb, _ in operations()} == annotated | by_hand


def _camel(route: str) -> str:
    return re.sub(r"{(\w+)}", lambda variable: f"{{{json_name(variable[1])}}}", route)


def test_it_has_the_paths_of_operators_that_envoy_has_routes_for() -> None:
    told = yaml.safe_load(render(EdgeConfig()))
    (chain,) = told["static_resources"]["listeners"][0]["filter_chains"]
    (host,) = chain["filters"][0]["typed_config"]["route_config"]["virtual_hosts"]
    paths = {route["match"].get("path", "") for route in host["routes"]}
    assert PATHS.keys() == {path for path in paths if path.startswith(("/health", "/actuator/", "/v3/"))}


def test_every_field_of_a_request_has_exactly_one_place() -> None:
    for method, verb, path in ROUTES:
        operation = DOCUMENT["paths"][_camel(path)][verb]
        places = [each["name"] for each in _own(operation)]
        if "requestBody" in operation:
            schema = operation["requestBody"]["content"]["application/json"]["schema"]
            places += resolved(schema)["properties"]
        assert sorted(places) == sorted(field.json_name for field in method.input_type.fields)


def _own(operation: dict[str, Any]) -> list[dict[str, Any]]:
    """The parameters but headers."""
    return [each for each in map(resolved, operation.get("parameters", [])) if each["in"] != "header"]


def _field_schemas() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Message, field and schema of every field of a request, wherever it stands."""
    for name, schema in DOCUMENT["components"]["schemas"].items():
        for field in RULES.get(name, ()):
            yield name, field, schema["properties"][json_name(field)]
    for method, verb, path in ROUTES:
        by_name = {each["name"]: each["schema"] for each in _own(DOCUMENT["paths"][_camel(path)][verb])}
        for field in RULES[method.input_type.name]:
            if json_name(field) in by_name:
                yield method.input_type.name, field, by_name[json_name(field)]


FIELDS = [each for each in _field_schemas() if not isinstance(RULES[each[0]][each[1]], Part | Time)]


@pytest.mark.parametrize(("message", "field", "schema"), FIELDS, ids=[f"{name}.{field}" for name, field, _ in FIELDS])
def test_it_forbids_what_validation_refuses(message: str, field: str, schema: dict[str, Any]) -> None:
    rule = RULES[message][field]
    assert faults(schema, _in_json(good(rule)) or _least(schema)) == []
    for value in bad(rule):
        assert faults(schema, _in_json(value)) != [], value


def _in_json(value: Any) -> Any:
    return (value.name or 99) if hasattr(value, "name") else value


def _least(schema: dict[str, Any]) -> Any:
    return {"string": "x" * schema.get("minLength", 0), "integer": 0, "boolean": False}[schema["type"]]


def _examples(part: Any) -> Iterator[tuple[dict[str, Any], Any]]:
    """Every schema with an example beside it."""
    if isinstance(part, list):
        for each in part:
            yield from _examples(each)
    if isinstance(part, dict):
        if "schema" in part and "example" in part:
            yield part["schema"], part["example"]
        if "schema" in part and "examples" in part:
            yield from ((part["schema"], example["value"]) for example in part["examples"].values())
        for each in part.values():
            yield from _examples(each)


def test_every_example_is_a_good_one() -> None:
    found = list(_examples(DOCUMENT))
    assert len(found) > 80
    assert [(example, told) for schema, example in found if (told := faults(schema, example))] == []


def test_every_operation_has_examples_of_what_is_sent_and_of_every_answer() -> None:
    for path, verb, operation in operations():
        for status, response in operation["responses"].items():
            for media in resolved(response)["content"].values():
                assert path == "/v3/api-docs" or "example" in media or "examples" in media, (path, verb, status)
        if "requestBody" in operation:
            assert operation["requestBody"]["content"]["application/json"]["example"]


def test_everything_is_described() -> None:
    for name, schema in DOCUMENT["components"]["schemas"].items():
        assert schema["description"], name
        for field, property_ in schema.get("properties", {}).items():
            assert "description" in resolved(property_), (name, field)
    for path, _, operation in operations():
        assert operation["summary"], path
        assert path in PATHS or operation["description"]
        assert all("description" in resolved(each) for each in operation.get("parameters", []))
    assert all("description" in tag for tag in DOCUMENT["tags"])


def test_the_codes_are_those_that_the_service_and_envoy_tell() -> None:
    envoys = (directory() / "envoy.yaml").read_text() + (directory() / "edge.lua").read_text()
    told = set(re.findall(r"\bcode: ([A-Z_]+)|\"([A-Z]+(?:_[A-Z]+)+|UNAUTHENTICATED|FORBIDDEN)\"", envoys))
    codes = {a or b for a, b in told} | {error.code for error in _all_of(ReservationError)}
    assert set(DOCUMENT["components"]["schemas"]["Error"]["properties"]["error"]["properties"]["code"]["enum"]) == codes


def _all_of(kind: type[ReservationError]) -> Iterator[type[ReservationError]]:
    yield kind
    for each in kind.__subclasses__():
        yield from _all_of(each)


def test_a_command_says_whether_it_needs_a_key() -> None:
    keys = {
        operation["operationId"]: [each.get("required", False) for each in headers if each["name"] == "Idempotency-Key"]
        for _, _, operation in operations()
        for headers in [[resolved(each) for each in operation.get("parameters", [])]]
    }
    assert {name: key for name, key in keys.items() if key} == {
        "createReservation": [True],
        "confirmReservation": [False],
        "cancelReservation": [False],
        "extendHold": [False],
    }


def test_a_comment_belongs_to_what_it_stands_before() -> None:
    file = FileDescriptorProto(package="p")
    message = file.message_type.add(name="M")
    message.field.add(name="event_id")
    for path, text in (
        ([4, 0], " A message.\n"),
        ([4, 0, 2, 0], " Like seat_ids,\n in two lines.\n"),
        ([4, 0, 2, 0, 5], " Of the field's type.\n"),
        ([8, 1], " Of an option.\n"),
        ([], " Of the file.\n"),
    ):
        file.source_code_info.location.add(path=path, leading_comments=text)
    told = {"p.M": "A message.", "p.M.event_id": "Like seatIds, in two lines."}
    assert comments_of(FileDescriptorSet(file=[file])) == told
