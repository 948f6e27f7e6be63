"""What a client may send that no honest one does: messages made from the descriptors, and metadata.

A message begins with fields as the service knows them, so that it comes past validation, and goes on with pieces that
override and extend them: on the wire the last of a repeated scalar counts.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from hypothesis import strategies as st

from tests.unit.wire import BYTES, FIXED32, FIXED64, GROUP, GROUP_END, VARINT, counted, message_like, tagged, varint

Known = Mapping[str, Sequence[Any]]
"""Good values by the names of fields."""

TEXTS = (
    *(
        "",
        " ",
        "0",
        "-1",
        "null",
        "NaN",
        "\0",
        "\x01",
        "\x7f",
        "\x85",
        "\t",
        "\r\nx: y",
        "#",
        "a#b",
        ":",
        "|",
        '"',
        '""',
        "\\",
    ),
    *("é", "e\u0301", "\u00df", "\u2028", "\u202e", "\ufeff", "\uffff", "\U0010ffff", "\U0001f3ab" * 128, "좌" * 128),
    *("x" * length for length in (127, 128, 129, 255, 256, 512, 513, 1025, 5000)),
    *("../../etc/passwd", "%00", "%s%n", "{}", "${jndi:ldap://x}", "' OR 1=1 --", "<script>", "__class__"),
    *("rsv_", "evt_", "error:7b7d", "9" * 40, "1e400", "2026-01-31T10:00:00Z", "anonymous"),
)
_NO_TEXTS = (b"\xff", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80", b"ok\xfe")
_NUMBERS = (
    0,
    1,
    2,
    3,
    10,
    11,
    99,
    100,
    101,
    500,
    501,
    3600,
    3601,
    2**31 - 1,
    2**31,
    2**32,
    2**63 - 1,
    2**63,
    2**64 - 1,
)
_SECONDS = (1, 1_790_000_000, 253_402_300_799, 253_402_300_800, 2**64 - 62_135_596_800, 2**64 - 62_135_596_801)

texts = st.sampled_from(TEXTS) | st.text(max_size=40)
_numbers = st.sampled_from(_NUMBERS + _SECONDS) | st.integers(0, 2**64 - 1)


def requests(descriptor: Descriptor, known: Known) -> st.SearchStrategy[bytes]:
    """Encoded requests, some of which are none."""
    begin = st.just(b"") | _message(descriptor, _good(known))
    pieces = st.lists(_piece(descriptor), max_size=3).map(b"".join)
    return st.builds(lambda first, more: first + more, begin, pieces) | st.binary(max_size=100)


def _piece(descriptor: Descriptor) -> st.SearchStrategy[bytes]:
    unknown = message_like(1) | st.just(tagged(2**29 - 1, BYTES, counted(b"later")))
    any_kind = [
        unknown,
        st.integers(1, 300).map(_nested_groups),
        st.sampled_from((b"\x0a", b"\x0a\xff\xff\xff\xff\x0f", b"\x0f")),
    ]
    if not descriptor.fields:
        return st.one_of(any_kind)
    fields = st.sampled_from(list(descriptor.fields))
    hostile = fields.flatmap(lambda field: _field(field, _hostile_value))
    wrong_type = st.builds(
        lambda field, of_type: tagged(field.number, *of_type),
        fields,
        st.sampled_from(
            (
                (VARINT, varint(7)),
                (FIXED64, b"\xff" * 8),
                (FIXED32, b"\xff" * 4),
                (GROUP, b""),
                (BYTES, counted(b"\x08\x01")),
            )
        ),
    )
    many = st.builds(
        lambda piece, times: piece * min(times, 60_000 // (len(piece) or 1)), hostile, st.sampled_from((2, 11, 3000))
    )
    return st.one_of(hostile, hostile, many, wrong_type, *any_kind)


def _nested_groups(depth: int) -> bytes:
    return tagged(15, GROUP, b"") * depth + tagged(15, GROUP_END, b"") * depth


def _message(descriptor: Descriptor, value: Any) -> st.SearchStrategy[bytes]:
    fields = [_field(field, value) | st.just(b"") for field in descriptor.fields]
    return st.tuples(*fields).map(b"".join)


def _field(field: FieldDescriptor, value: Any) -> st.SearchStrategy[bytes]:
    wire_type = BYTES if field.cpp_type in (FieldDescriptor.CPPTYPE_STRING, FieldDescriptor.CPPTYPE_MESSAGE) else VARINT
    values: st.SearchStrategy[bytes] = value(field)
    return values.map(lambda encoded: tagged(field.number, wire_type, encoded))


def _good(known: Known) -> Any:
    """A function from a field to its good values, encoded."""

    def value(field: FieldDescriptor) -> st.SearchStrategy[bytes]:
        if field.message_type is not None:
            return _message(field.message_type, value).map(counted)
        if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
            return st.sampled_from(known.get(field.name, ("",))).map(lambda text: counted(text.encode()))
        return st.sampled_from(known.get(field.name, (0, 1))).map(varint)

    return value


def _hostile_value(field: FieldDescriptor) -> st.SearchStrategy[bytes]:
    if field.message_type is not None:
        pieces = st.lists(_piece(field.message_type), max_size=3).map(b"".join)
        return (pieces | st.binary(max_size=8)).map(counted)
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return (texts.map(str.encode) | st.sampled_from(_NO_TEXTS)).map(counted)
    return _numbers.map(varint)


_PRINTABLE = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=60)
_HEADERS = (
    *("idempotency-key", "traceparent", "authorization", "x-edge", "x-envoy-original-path", "x-request-id"),
    *("x-http-status", "x-error-body", "x-forwarded-for", "tracestate", "baggage", "user"),
)
_HEADER_VALUES = (
    *(
        "",
        '"',
        '""',
        '"a',
        '"a"',
        '"' * 257,
        "k" * 255,
        "k" * 256,
        "k" * 4000,
        "1",
        "0",
        "true",
        "/v1/reservations?x=y",
        "?",
        "/",
    ),
    *(
        "Bearer",
        "Bearer ",
        "Bearer a.b.c",
        "Bearer " + "A" * 3000,
        "bearer x, Bearer y",
        "Basic dTpw",
        "x" * 55,
        "-" * 55,
    ),
    *(
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-" + "0" * 32 + "-" + "0" * 16 + "-ff",
        '{"error":{}}',
    ),
)
_BINARY_HEADERS = ("grpc-trace-bin", "idempotency-key-bin", "authorization-bin", "x-error-body-bin", "grpc-tags-bin")

metadata: st.SearchStrategy[list[tuple[str, str | bytes]]] = st.lists(
    st.tuples(st.sampled_from(_HEADERS), st.sampled_from(_HEADER_VALUES) | _PRINTABLE)
    | st.tuples(st.sampled_from(_BINARY_HEADERS), st.binary(max_size=60)),
    max_size=4,
)
"""What a gRPC client library lets through. The same key may come twice."""

timeouts = st.sampled_from((None, None, None, None, 1.0, 0.05, 0.003, 0.0001))
"""Seconds; None: no deadline."""
