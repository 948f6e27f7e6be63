"""Messages to test decoders with: populated ones, bytes that only look like one, and whether a value has its type."""

from datetime import UTC, datetime
from typing import Any

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import strategies as st

from reservation.api.descriptors import PACKAGE
from reservation.gen.com.traffic_tacos.reservation import v1 as messages

VARINT, FIXED64, BYTES, GROUP, GROUP_END, FIXED32 = range(6)
"""Wire types, see https://protobuf.dev/programming-guides/encoding/."""


def tagged(number: int, wire_type: int, payload: bytes) -> bytes:
    return varint(number << 3 | wire_type) + payload


def varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def counted(payload: bytes) -> bytes:
    return varint(len(payload)) + payload


def _class_of(descriptor: Descriptor) -> Any:
    return getattr(messages, descriptor.full_name.removeprefix(f"{PACKAGE}.").replace(".", ""))


def _enum_of(enum: EnumDescriptor) -> Any:
    return getattr(messages, enum.full_name.removeprefix(f"{PACKAGE}.").replace(".", ""))


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def populated(descriptor: Descriptor) -> st.SearchStrategy[Any]:
    """Messages of which every field, at every depth, is set to something that is not its default."""
    if descriptor.full_name == Timestamp.DESCRIPTOR.full_name:
        return st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31, 23), timezones=st.just(UTC))
    return st.builds(_class_of(descriptor), **{field.name: _populated_field(field) for field in descriptor.fields})


def _populated_field(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if _is_map(field):
        return st.dictionaries(st.text(), st.text(), min_size=1, max_size=3)
    if field.is_repeated:
        return st.lists(_populated_value(field), min_size=1, max_size=2)
    return _populated_value(field)


def _populated_value(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if field.message_type is not None:
        return populated(field.message_type)
    if field.enum_type is not None:
        return st.sampled_from(
            [_enum_of(field.enum_type)(each.number) for each in field.enum_type.values if each.number]
        )
    bits = {FieldDescriptor.CPPTYPE_INT32: 31, FieldDescriptor.CPPTYPE_INT64: 63}
    if field.cpp_type in bits:
        limit = 2 ** bits[field.cpp_type]
        return st.integers(-limit, limit - 1).filter(bool)
    kinds = {FieldDescriptor.CPPTYPE_STRING: st.text(min_size=1), FieldDescriptor.CPPTYPE_BOOL: st.just(True)}
    return kinds[field.cpp_type]


TYPES: dict[int, type] = {
    FieldDescriptor.CPPTYPE_STRING: str,
    FieldDescriptor.CPPTYPE_BOOL: bool,
    FieldDescriptor.CPPTYPE_INT32: int,
    FieldDescriptor.CPPTYPE_INT64: int,
}


def ill_typed(message: Any, descriptor: Descriptor) -> list[str]:
    """The fields, at any depth, whose values are not of the types that their message class declares."""
    if descriptor.full_name == Timestamp.DESCRIPTOR.full_name:
        return [] if type(message) is datetime and message.tzinfo is UTC else [descriptor.full_name]
    if type(message) is not _class_of(descriptor):
        return [descriptor.full_name]
    return [name for field in descriptor.fields for name in _ill_typed_field(getattr(message, field.name), field)]


def _ill_typed_field(value: Any, field: FieldDescriptor) -> list[str]:
    if _is_map(field):
        good = type(value) is dict and all(type(each) is str for pair in value.items() for each in pair)
        return [] if good else [field.full_name]
    if field.is_repeated:
        return [name for each in value for name in _ill_typed_value(each, field)]
    return _ill_typed_value(value, field)


def _ill_typed_value(value: Any, field: FieldDescriptor) -> list[str]:
    if field.message_type is not None:
        return ill_typed(value, field.message_type) if value is not None else []
    expected = _enum_of(field.enum_type) if field.enum_type is not None else TYPES[field.cpp_type]
    return [] if type(value) is expected else [field.full_name]


def message_like(depth: int = 2) -> st.SearchStrategy[bytes]:
    """Bytes that look like messages: any fields with any wire types, nested, mostly well formed."""
    numbers = st.integers(1, 16)
    integers = st.integers(0, 2**64 - 1) | st.integers(0, 300)
    contents = st.binary(max_size=8) | st.text(max_size=8).map(str.encode)
    if depth:
        contents |= message_like(depth - 1)
    fields = st.one_of(
        st.builds(lambda number, value: tagged(number, VARINT, varint(value)), numbers, integers),
        st.builds(lambda number, value: tagged(number, BYTES, counted(value)), numbers, contents),
        st.builds(lambda number, value: tagged(number, FIXED64, value), numbers, st.binary(min_size=8, max_size=8)),
        st.builds(lambda number, value: tagged(number, FIXED32, value), numbers, st.binary(min_size=4, max_size=4)),
        st.builds(lambda number, wire_type: tagged(number, wire_type, b""), numbers, st.integers(0, 7)),
    )
    return st.lists(fields, max_size=5).map(b"".join)
