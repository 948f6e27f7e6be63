"""The OpenAPI document of the REST edge: one operation for every route that the protocol annotates, and what Envoy
answers besides."""

import re
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any

from google.api import annotations_pb2
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet, MethodOptions

from reservation.api.descriptors import PACKAGE, pool
from reservation.api.rules import KEY, RULES, Rule
from reservation.openapi import errors, operator_paths
from reservation.openapi.comments import comments_of, json_name
from reservation.openapi.operations import OPERATIONS, Operation
from reservation.openapi.schemas import Schemas, in_path, is_required

Json = dict[str, Any]

SERVICES = {"ReservationService": "Reservations", "InventoryService": "Inventory"}
"""Their names for readers."""

_ABOUT = """\
Holds seats for a short time, then sells or returns them. Every request needs the header Authorization, unless the \
deployment has no issuer of tokens. Unknown members of a body are passed over, unknown query parameters are refused. \
Every failure has the same body, whoever finds it."""


def document(files: FileDescriptorSet) -> Json:
    """`files`: with source info, or the document has no descriptions of its parts."""
    schemas = Schemas(comments_of(files))
    paths: dict[str, Json] = {}
    for service, tag in SERVICES.items():
        for method in pool().FindServiceByName(f"{PACKAGE}.{service}").methods:
            for verb, path in routes(method):
                paths.setdefault(_path(path), {})[verb] = _operation(method, verb, path, tag, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Traffic Tacos Reservation",
            "version": version("traffic-tacos-reservation"),
            "description": _ABOUT,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": tag} | schemas.described(_service(name)) for name, tag in SERVICES.items()]
        + [operator_paths.TAG],
        "security": [{"bearerAuth": []}],
        "paths": {**paths, **operator_paths.PATHS},
        "components": {
            "securitySchemes": {"bearerAuth": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
            "parameters": _HEADERS_IN,
            "headers": _HEADERS_OUT,
            "responses": errors.shared_responses(),
            "schemas": dict(sorted(schemas.components.items())) | {"Error": errors.schema(_codes())},
        },
    }


def _service(name: str) -> Any:
    return pool().FindServiceByName(f"{PACKAGE}.{name}")


def routes(method: MethodDescriptor) -> Iterator[tuple[str, str]]:
    """Verb and path of each REST route, with fields as in the proto file: ("get", "/v1/events/{event_id}/seats")."""
    options = MethodOptions.FromString(method.GetOptions().SerializeToString())  # the pool's own class lacks the name
    rule = options.Extensions[annotations_pb2.http]
    for binding in (rule, *rule.additional_bindings):
        if verb := binding.WhichOneof("pattern"):
            yield verb, getattr(binding, verb)


_VARIABLE = re.compile(r"{(\w+)}")


def _path(route: str) -> str:
    return _VARIABLE.sub(lambda variable: f"{{{json_name(variable[1])}}}", route)


def _operation(method: MethodDescriptor, verb: str, route: str, tag: str, schemas: Schemas) -> Json:
    known = OPERATIONS[method.name]
    comment = schemas.described(method).get("description", "")
    operation: Json = {
        "tags": [tag],
        "summary": known.summary,
        "description": comment + known.note,
        "operationId": method.name[0].lower() + method.name[1:],
        "parameters": [*_parameters(method, verb, route, known, schemas), *_headers(known)],
    }
    with_body: tuple[errors.Failure, ...] = ()
    if known.body is not None:
        schema = schemas.reference(method.input_type)
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema, "example": known.body}},
        }
        with_body = errors.WITH_BODY
    failures = errors.responses((*known.failures, *with_body, *errors.ANYWHERE))
    return operation | {"responses": {str(known.success): _success(method, known, schemas), **failures}}


def _parameters(method: MethodDescriptor, verb: str, route: str, known: Operation, schemas: Schemas) -> Iterator[Json]:
    """Fields that the path does not bind stand in the query of a GET, and in the body of a POST."""
    bound = _VARIABLE.findall(route)
    rules = RULES[method.input_type.name]
    for field in method.input_type.fields:
        if field.name in bound:
            yield _parameter("path", field, in_path(rules[field.name]), known, schemas)
        elif verb == "get":
            yield _parameter("query", field, rules[field.name], known, schemas)


def _parameter(where: str, field: FieldDescriptor, rule: Rule, known: Operation, schemas: Schemas) -> Json:
    schema = schemas.field(field, rule)
    described = {"description": schema.pop("description")} if "description" in schema else {}
    required = {"required": True} if where == "path" or is_required(rule) else {}
    parameter: Json = {"name": field.json_name, "in": where} | required | described | {"schema": schema}
    example = known.parameters.get(field.name)
    return parameter | ({"example": example} if example is not None else {})


def _headers(known: Operation) -> Iterator[Json]:
    if known.key is not None:
        yield {"$ref": f"#/components/parameters/{'RequiredIdempotencyKey' if known.key else 'IdempotencyKey'}"}
    yield {"$ref": "#/components/parameters/Traceparent"}


def _success(method: MethodDescriptor, known: Operation, schemas: Schemas) -> Json:
    answer = schemas.reference(method.output_type)
    content: Json = {"application/json": {"schema": answer, "example": known.answer}}
    if method.server_streaming:
        content = {"text/event-stream": {"schema": {"type": "string"}, "example": known.answer}}
    described = {"description": "Success"} | schemas.described(method.output_type)
    response: Json = {"description": described["description"], "content": content}
    if known.key is not None:
        response["headers"] = {"idempotent-replayed": {"$ref": "#/components/headers/IdempotentReplayed"}}
    if known.links:
        response["links"] = dict(known.links)
    return response


def _codes() -> set[str]:
    told = {failure.code for known in OPERATIONS.values() for failure in known.failures}
    return told | {failure.code for failure in (*errors.ANYWHERE, *errors.WITH_BODY, errors.NO_SUCH_PATH)}


_KEY: Json = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "Chosen by the client, a new one for each thing that it wants done. The same request with the same"
    " key gets the same answer again; the service remembers keys for 5 minutes unless it is set up otherwise.",
    "schema": {"type": "string", "minLength": 1, "maxLength": KEY.limit, "pattern": "^[!-~]*$"},
    "example": "7d0d1a5c-9f3e-4a4b-8a55-0c7d8c3c1c5e",
}

_HEADERS_IN: Mapping[str, Json] = {
    "RequiredIdempotencyKey": _KEY | {"required": True},
    "IdempotencyKey": _KEY,
    "Traceparent": {
        "name": "traceparent",
        "in": "header",
        "description": "W3C trace context. Its trace id stands in logs and in the bodies of errors.",
        "schema": {"type": "string", "pattern": "^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$"},
        "example": f"00-{errors.TRACE_ID}-00f067aa0ba902b7-01",
    },
}

_HEADERS_OUT: Mapping[str, Json] = {
    "IdempotentReplayed": {
        "description": "There if this answer was given before to the same key.",
        "schema": {"type": "string", "enum": ["true"]},
    },
    "RetryAfter": {
        "description": "In so many seconds a retry makes sense.",
        "schema": {"type": "string", "pattern": "^[0-9]+$"},
        "example": "1",
    },
    "Challenge": {
        "description": "What is asked for, https://www.rfc-editor.org/rfc/rfc6750#section-3.",
        "schema": {"type": "string", "pattern": "^Bearer"},
        "example": "Bearer",
    },
}
