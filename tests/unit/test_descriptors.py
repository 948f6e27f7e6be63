"""Requests from the wire: what is no message is refused in one way, and what is one has the types it claims."""

from collections.abc import Callable
from datetime import UTC, datetime

import betterproto2
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from reservation.api import validation
from reservation.api.descriptors import PACKAGE, Undecodable, decoder, pool
from reservation.api.pages import Pages
from reservation.domain.errors import InvalidRequest
from reservation.gen.com.traffic_tacos.reservation import v1 as messages
from tests.unit.examples import patient
from tests.unit.wire import (
    BYTES,
    FIXED32,
    FIXED64,
    GROUP,
    GROUP_END,
    VARINT,
    counted,
    ill_typed,
    message_like,
    populated,
    tagged,
    varint,
)

SERVICES = ("ReservationService", "InventoryService")
METHODS = [method for name in SERVICES for method in pool().FindServiceByName(f"{PACKAGE}.{name}").methods]
REQUESTS = sorted({method.input_type.name for method in METHODS})
RESPONSES = sorted({method.output_type.name for method in METHODS})
DECODERS = {name: decoder(getattr(messages, name)) for name in REQUESTS + RESPONSES}

create = DECODERS["CreateReservationRequest"]


def test_both_services_are_covered() -> None:
    assert len(METHODS) == 13
    assert "WatchReservationRequest" in REQUESTS
    assert "GetInventoryStatusResponse" in RESPONSES


# What betterproto2 encodes, the decoder reads.


@pytest.mark.parametrize("name", REQUESTS + RESPONSES)
@patient
@given(data=st.data())
def test_what_a_stub_encodes_is_decoded_as_it_was(name: str, data: st.DataObject) -> None:
    descriptor = pool().FindMessageTypeByName(f"{PACKAGE}.{name}")
    message = data.draw(populated(descriptor))
    decoded = DECODERS[name](bytes(message))
    assert decoded == message
    assert ill_typed(decoded, descriptor) == []


@pytest.mark.parametrize("name", REQUESTS + RESPONSES)
def test_no_bytes_are_a_message_without_fields(name: str) -> None:
    assert DECODERS[name](b"") == getattr(messages, name)()


# What the wire format allows: unknown fields, unknown enum numbers, scalars repeated.


EVENT_ID = tagged(1, BYTES, counted(b"evt_1"))


def test_fields_of_a_later_version_are_passed_over() -> None:
    raw = EVENT_ID + tagged(1000, BYTES, counted(b"new")) + tagged(1001, VARINT, varint(1))
    assert create(raw) == messages.CreateReservationRequest(event_id="evt_1")


def test_the_last_of_a_repeated_scalar_counts() -> None:
    raw = EVENT_ID + tagged(1, BYTES, counted(b"evt_2"))
    assert create(raw) == messages.CreateReservationRequest(event_id="evt_2")


unknown_numbers = pytest.mark.parametrize("number", [99, -1, 2**31 - 1])


def _list_by_status(number: int) -> messages.ListReservationsRequest:
    request = DECODERS["ListReservationsRequest"](tagged(2, VARINT, varint(number % 2**64)))
    assert isinstance(request, messages.ListReservationsRequest)
    return request


@unknown_numbers
def test_an_unknown_enum_number_survives_as_a_value_of_the_enum(number: int) -> None:
    status = _list_by_status(number).status
    assert type(status) is messages.ReservationStatus
    assert status == number


@unknown_numbers
def test_an_unknown_enum_number_is_refused_by_validation(number: int) -> None:
    with pytest.raises(InvalidRequest):
        validation.list_(_list_by_status(number), Pages())


def test_maps_and_nested_messages_are_messages_of_their_own_types() -> None:
    request = create(
        bytes(
            messages.CreateReservationRequest(
                metadata=messages.ReservationMetadata(source="web", tags={"a": "1", "b": ""})
            )
        )
    )
    assert isinstance(request, messages.CreateReservationRequest)
    assert type(request.metadata) is messages.ReservationMetadata
    assert type(request.metadata.tags) is dict
    assert request.metadata.tags == {"a": "1", "b": ""}


def test_a_message_that_is_there_but_empty_is_not_absent() -> None:
    assert create(tagged(7, BYTES, counted(b""))) == messages.CreateReservationRequest(
        metadata=messages.ReservationMetadata()
    )
    assert create(b"") == messages.CreateReservationRequest(metadata=None)


def _reserve_until(timestamp: Timestamp) -> bytes:
    return tagged(6, BYTES, counted(timestamp.SerializeToString()))


@pytest.mark.parametrize(
    ("seconds", "nanos", "read"),
    [
        (0, 0, datetime(1970, 1, 1, tzinfo=UTC)),
        (1_735_689_660, 250_000_000, datetime(2025, 1, 1, 0, 1, 0, 250_000, tzinfo=UTC)),
        (-1, 999_999_000, datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)),
        (0, 1_999, datetime(1970, 1, 1, 0, 0, 0, 1, tzinfo=UTC)),  # nanoseconds are cut to microseconds
        (-62_135_596_800, 0, datetime(1, 1, 1, tzinfo=UTC)),
        (253_402_300_799, 999_999_999, datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)),
    ],
)
def test_timestamps_are_datetimes_in_utc(seconds: int, nanos: int, read: datetime) -> None:
    raw = _reserve_until(Timestamp(seconds=seconds, nanos=nanos))
    assert DECODERS["ReserveSeatRequest"](raw) == messages.ReserveSeatRequest(hold_expires_at=read)


# What it does not.


@pytest.mark.parametrize(
    ("seconds", "nanos"),
    [(253_402_300_800, 0), (-62_135_596_801, 0), (2**63 - 1, 0), (-(2**63), 0), (0, -1), (0, 10**9), (0, 2**31 - 1)],
)
def test_a_timestamp_that_is_no_time_is_undecodable(seconds: int, nanos: int) -> None:
    """The well-known type allows the years 1 to 9999 and nanos below one second."""
    with pytest.raises(Undecodable):
        DECODERS["ReserveSeatRequest"](_reserve_until(Timestamp(seconds=seconds, nanos=nanos)))


UNDECODABLE = {
    "a tag without a value": b"\x0a",
    "a text shorter than it says": EVENT_ID[:-1],
    "a varint without an end": b"\x18\x80",
    "a varint of more than ten bytes": b"\x18" + b"\xff" * 10 + b"\x01",
    "half a fixed32": tagged(1000, FIXED32, b"\x00\x00"),
    "half a fixed64": tagged(1000, FIXED64, b"\x00\x00"),
    "field number 0": b"\x02\x00",
    "wire type 6": b"\x0e",
    "wire type 7": b"\x0f",
    "a group without an end": b"\x0b",
    "the end of no group": b"\x0c",
    "a text that is not UTF-8": tagged(1, BYTES, counted(b"\xff")),
    "a text with half a surrogate pair": tagged(1, BYTES, counted(b"\xed\xa0\x80")),
    "a text encoded longer than need be": tagged(1, BYTES, counted(b"\xc0\x80")),
    "one text of several that is not UTF-8": tagged(2, BYTES, counted(b"A-1")) + tagged(2, BYTES, counted(b"\xfe")),
    "a nested text that is not UTF-8": tagged(7, BYTES, counted(tagged(1, BYTES, counted(b"\xff")))),
    "a map key that is not UTF-8": tagged(
        7, BYTES, counted(tagged(5, BYTES, counted(tagged(1, BYTES, counted(b"\xff")))))
    ),
    "a nested message shorter than it says": tagged(7, BYTES, counted(b"\x0a\x05a")),
    "text instead of a message": b"GET / HTTP/1.1",
    "JSON instead of a message": b'{"event_id":"evt_1"}',
}


@pytest.mark.parametrize("raw", UNDECODABLE.values(), ids=UNDECODABLE)
def test_what_is_no_message_is_an_invalid_request(raw: bytes) -> None:
    with pytest.raises(Undecodable) as refused:
        create(raw)
    assert isinstance(refused.value, InvalidRequest)
    assert refused.value.text == "bad request: the message cannot be decoded"


@pytest.mark.parametrize(
    "raw",
    [
        tagged(1, VARINT, varint(7)),  # event_id as a number
        tagged(1, FIXED32, b"\x00" * 4),
        tagged(1, FIXED64, b"\x00" * 8),
        tagged(1, GROUP, tagged(1, GROUP_END, b"")),
        tagged(2, VARINT, varint(7)),  # one of the seat_ids
        tagged(3, BYTES, counted(b"2")),  # quantity as text
        tagged(3, FIXED32, b"\x02\x00\x00\x00"),
        tagged(7, VARINT, varint(1)),  # metadata as a number
        tagged(9, BYTES, counted(b"\x01")),  # allow_split as bytes
    ],
)
def test_a_value_of_another_wire_type_never_arrives(raw: bytes) -> None:
    """It is an unknown field then, as protobuf's own parsers have it, so a field that is required is missing."""
    assert create(raw) == messages.CreateReservationRequest()


@pytest.mark.parametrize("name", REQUESTS)
@patient
@given(raw=st.binary(max_size=64) | message_like())
def test_any_bytes_are_a_well_typed_message_or_undecodable(name: str, raw: bytes) -> None:
    decode: Callable[[bytes], betterproto2.Message] = DECODERS[name]
    try:
        message = decode(raw)
    except Undecodable:
        return
    assert ill_typed(message, pool().FindMessageTypeByName(f"{PACKAGE}.{name}")) == []
    assert decode(bytes(message)) == message
