"""Messages as JSON schemas: what Envoy's transcoder takes and gives for each type, within the rules."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from reservation.api.descriptors import PACKAGE
from reservation.api.rules import RULES, Number, Part, Quantity, Rule, Seats, Tags, Text, Token

Schema = dict[str, Any]

# https://protobuf.dev/programming-guides/json/: numbers of 64 bits are strings.
_SCALARS: Mapping[int, Schema] = {
    FieldDescriptor.TYPE_STRING: {"type": "string"},
    FieldDescriptor.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.TYPE_INT32: {"type": "integer", "format": "int32"},
    FieldDescriptor.TYPE_INT64: {"type": "string", "format": "int64", "pattern": "^-?[0-9]+$"},
}
_TIME: Schema = {"type": "string", "format": "date-time"}


class Schemas:
    """Collects in `components` the schema of every message and enum that was asked for."""

    def __init__(self, comments: Mapping[str, str]) -> None:
        self._comments = comments
        self.components: dict[str, Schema] = {}

    def reference(self, descriptor: Descriptor | EnumDescriptor) -> Schema:
        name = descriptor.full_name.removeprefix(f"{PACKAGE}.").replace(".", "")
        if name not in self.components:
            self.components[name] = {}  # keeps its place, and ends a circle
            made = self._enum(descriptor) if isinstance(descriptor, EnumDescriptor) else self._message(descriptor)
            self.components[name] = made
        return {"$ref": f"#/components/schemas/{name}"}

    def described(self, described: Any) -> Schema:
        """The comment on a message, field, enum or method, if it has one."""
        comment = self._comments.get(described.full_name)
        return {"description": comment} if comment else {}

    def field(self, field: FieldDescriptor, rule: Rule | None = None) -> Schema:
        """`rule`: for a field of a request."""
        schema = self._shape(field) | _limits(rule) | self.described(field)
        if isinstance(rule, Part):  # JSON Schema has no word for it
            schema["description"] = f"{schema.get('description', '')} At most {rule.size} bytes of text in all.".strip()
        return schema

    def _shape(self, field: FieldDescriptor) -> Schema:
        if field.is_repeated and field.message_type is not None and field.message_type.GetOptions().map_entry:
            return {"type": "object", "additionalProperties": self._value(field.message_type.fields_by_name["value"])}
        if field.is_repeated:
            return {"type": "array", "items": self._value(field)}
        return self._value(field)

    def _value(self, field: FieldDescriptor) -> Schema:
        if field.enum_type is not None:
            return self.reference(field.enum_type)
        if field.message_type is None:
            return dict(_SCALARS[field.type])
        if field.message_type.full_name == "google.protobuf.Timestamp":
            return dict(_TIME)
        return self.reference(field.message_type)

    def _message(self, descriptor: Descriptor) -> Schema:
        rules = RULES.get(descriptor.name)
        properties = {
            field.json_name: self.field(field, rules[field.name] if rules else None) for field in descriptor.fields
        }
        required = _required(descriptor, rules) if rules else _always_printed(descriptor)
        schema = {"type": "object", "properties": properties} | self.described(descriptor)
        return schema | ({"required": required} if required else {})

    def _enum(self, enum: EnumDescriptor) -> Schema:
        lines = [self.described(enum).get("description", "")]
        lines += [f"- {value.name}: {text}" for value, text in self._values(enum)]
        described = {"description": "\n".join(lines).strip()} if any(lines) else {}
        return {"type": "string", "enum": [value.name for value in enum.values]} | described

    def _values(self, enum: EnumDescriptor) -> Iterator[tuple[Any, str]]:
        # A value's full name is its enum's sibling; comments are kept by the path, which leads through the enum.
        for value in enum.values:
            if text := self._comments.get(f"{enum.full_name}.{value.name}"):
                yield value, text


def _required(descriptor: Descriptor, rules: Mapping[str, Rule]) -> list[str]:
    return [field.json_name for field in descriptor.fields if is_required(rules[field.name])]


def is_required(rule: Rule) -> bool:
    match rule:
        case Text(required=required):
            return required
        case Number(low=low, high=high):
            return not low <= 0 <= high  # absent is 0
    return False


def _always_printed(descriptor: Descriptor) -> list[str]:
    """Envoy prints every field of an answer but the messages that are not there."""
    return [field.json_name for field in descriptor.fields if field.message_type is None or field.is_repeated]


def _limits(rule: Rule | None) -> Schema:
    match rule:
        case Text():
            return _text(rule)
        case Number(low=low, high=high):
            return {"minimum": low, "maximum": high}
        case Quantity(most=most):
            return {"minimum": 0, "maximum": most}
        case Seats(each=each, most=most):
            items = {"type": "string"} | _text(each)
            return {"type": "array", "items": items, "maxItems": most, "uniqueItems": True}
        case Tags(most=most, name=name, value=value):
            values = {"type": "string"} | _text(value)
            return {"additionalProperties": values, "propertyNames": _text(name), "maxProperties": most}
        case Token(limit=limit):
            return {"maxLength": limit}
    return {}


def _text(rule: Text) -> Schema:
    shortest = {"minLength": 1} if rule.required else {}
    return shortest | {"maxLength": rule.limit, "pattern": f"^{rule.characters}*$"}


def in_path(rule: Rule) -> Rule:
    """Whatever may be read as a separator cannot be part of a path's segment, however it is written."""
    return replace(rule, required=True, without=rule.without + "/\\") if isinstance(rule, Text) else rule
