"""The committed OpenAPI document, and whether an answer is one that it documents."""

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
from jsonschema import Draft202012Validator, FormatChecker, ValidationError, validators

from reservation.edge import directory

TEXT = (directory() / "openapi.json").read_bytes()
DOCUMENT: dict[str, Any] = json.loads(TEXT)


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Path, verb and operation of each."""
    for path, verbs in DOCUMENT["paths"].items():
        for verb, operation in verbs.items():
            yield path, verb, operation


def resolved(part: dict[str, Any]) -> dict[str, Any]:
    """The part itself, or what it refers to."""
    if "$ref" not in part:
        return part
    found: Any = DOCUMENT
    for name in part["$ref"].removeprefix("#/").split("/"):
        found = found[name]
    return dict(found)


def _pattern(_validator: Any, pattern: str, value: Any, _schema: Any) -> Iterator[ValidationError]:
    """As JSON Schema means it, which is ECMAScript: there `$` is the end, and not a line break before it."""
    if isinstance(value, str) and not re.search(pattern.replace("$", r"\Z"), value):
        yield ValidationError(f"{value!r} does not match {pattern}")


_Validator = validators.extend(Draft202012Validator, {"pattern": _pattern})  # type: ignore[no-untyped-call]


def faults(schema: dict[str, Any], value: Any) -> list[str]:
    """What the schema has against a value; more members than it names, too."""
    strict = _closed({"components": DOCUMENT["components"], **schema})
    return [error.message for error in _Validator(strict, format_checker=FormatChecker()).iter_errors(value)]


def _closed(part: Any) -> Any:
    if isinstance(part, list):
        return [_closed(each) for each in part]
    if not isinstance(part, dict):
        return part
    closed = {name: _closed(each) for name, each in part.items()}
    if isinstance(part.get("properties"), dict) and part.get("type") == "object":
        closed.setdefault("additionalProperties", False)
    return closed


def check_documented(answer: httpx.Response, path: str) -> Any:
    """The answer is one that the document has for this path, by status, type, body and headers; returns its JSON, else
    its text."""
    operation = DOCUMENT["paths"][path][answer.request.method.lower()]
    assert str(answer.status_code) in operation["responses"], answer.text
    response = resolved(operation["responses"][str(answer.status_code)])
    kind = answer.headers["content-type"].partition(";")[0]
    assert kind in response["content"], kind
    for name in ("idempotent-replayed", "retry-after"):
        if name in answer.headers:
            schema = resolved(response.get("headers", {})[name])["schema"]
            assert faults(schema, answer.headers[name]) == []
    body: Any = answer.json() if kind == "application/json" else answer.text
    assert faults(response["content"][kind]["schema"], body) == []
    if answer.is_error and "error" in body:
        assert body["error"]["code"] in response["content"][kind]["examples"], f"undocumented: {body}"
    return body
