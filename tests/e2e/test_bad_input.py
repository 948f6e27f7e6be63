"""Bad input, one table for REST and native gRPC through the edge: what is told, and that nothing changes."""

import json
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from google.protobuf import json_format, message_factory

from reservation.api.descriptors import pool
from reservation.gen.com.traffic_tacos.reservation import v1 as messages
from tests.support.edge import TRACEPARENT
from tests.support.rest import CANCEL, CONFIRM, CREATE, EXTEND, error_of
from tests.support.system import (
    ERROR_DOMAIN,
    EVENT_ID,
    PACKAGE,
    Edge,
    System,
    call,
    create_request,
    refusal,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")


_STATUS = {
    "INVALID_REQUEST": (400, grpc.StatusCode.INVALID_ARGUMENT),
    "MISSING_IDEMPOTENCY_KEY": (400, grpc.StatusCode.INVALID_ARGUMENT),
    "EVENT_NOT_FOUND": (404, grpc.StatusCode.NOT_FOUND),
    "RESERVATION_NOT_FOUND": (404, grpc.StatusCode.NOT_FOUND),
    "NOT_FOUND": (404, grpc.StatusCode.UNIMPLEMENTED),
    "PAYLOAD_TOO_LARGE": (413, grpc.StatusCode.RESOURCE_EXHAUSTED),
}


@dataclass(frozen=True)
class Bad:
    """A request that must fail. `native`: the message's bytes if the JSON body cannot be turned into them; None: gRPC
    cannot carry such a request. `fields`: what the details blame, if it is the service that refuses."""

    title: str
    body: dict[str, Any] | bytes | None
    fields: tuple[str, ...] = ()
    code: str = "INVALID_REQUEST"
    rpc: str = "CreateReservation"
    path: str = CREATE
    native: bytes | None = None
    key: dict[str, str] = field(default_factory=lambda: {"idempotency-key": "k"})

    def __str__(self) -> str:
        return self.title

    @property
    def message(self) -> bytes | None:
        if self.native is None and isinstance(self.body, dict):
            descriptor = pool().FindMessageTypeByName(f"{PACKAGE}.{self.rpc}Request")
            parsed = json_format.ParseDict(self.body, message_factory.GetMessageClass(descriptor)())
            return bytes(parsed.SerializeToString())
        return self.native


def _create(**changes: Any) -> dict[str, Any]:
    return {"eventId": EVENT_ID, "quantity": 1, "seatIds": ["J-50"]} | changes


def _but_byte(message: bytes, byte: bytes) -> bytes:
    return message.replace(EVENT_ID.encode(), byte * len(EVENT_ID))


_LONG = "x" * 129
_GOOD = bytes(create_request(["J-50"]))
BAD = [
    Bad("malformed JSON", b'{"eventId": "evt'),
    Bad("not an object", b"[]"),
    Bad("a wrong type", b'{"eventId": 7, "quantity": 1, "seatIds": ["J-50"]}', native=b"\x08\x07" + _GOOD[15:]),
    Bad("text for a number", b'{"eventId": "evt_2025_1001", "quantity": "many"}'),
    Bad("no UTF-8", _but_byte(json.dumps(_create()).encode(), b"\xff"), native=_but_byte(_GOOD, b"\xff")),
    Bad("an empty body", b"", ("event_id", "quantity"), native=b""),
    Bad("an empty object", {}, ("event_id", "quantity")),
    Bad("an unknown event", _create(eventId="evt_nowhere"), code="EVENT_NOT_FOUND"),
    Bad("an unknown seat", _create(seatIds=["J-50", "Z-1"], quantity=2), ("seat_ids[1]",)),
    Bad("quantity 0", _create(seatIds=[], quantity=0), ("quantity",)),
    Bad("quantity 11", _create(seatIds=[], quantity=11), ("quantity",)),
    Bad("quantity -1", _create(seatIds=[], quantity=-1), ("quantity",)),
    Bad("eleven seats", _create(seatIds=[f"J-{n}" for n in range(11)], quantity=11), ("seat_ids",)),
    Bad("a seat twice", _create(seatIds=["J-50", "J-50"], quantity=2), ("seat_ids",)),
    Bad("another quantity than seats", _create(quantity=2), ("quantity",)),
    Bad("an empty seat id", _create(seatIds=[""]), ("seat_ids[0]",)),
    Bad("an event id of 129 characters", _create(eventId=_LONG), ("event_id",)),
    Bad("a seat id of 129 characters", _create(seatIds=[_LONG]), ("seat_ids[0]",)),
    Bad("a user id of 129 characters", _create(userId=_LONG), ("user_id",)),
    Bad("a token of 129 characters", _create(reservationToken=_LONG), ("reservation_token",)),
    Bad("a key of 256 characters", _create(), ("idempotency_key",), key={"idempotency-key": "k" * 256}),
    Bad("a hash in an event id", _create(eventId="evt#1"), ("event_id",)),
    Bad("a hash in a seat id", _create(seatIds=["J#50"]), ("seat_ids[0]",)),
    Bad("a NUL in an id", _create(eventId="evt\0"), ("event_id",)),
    Bad("a newline in a seat id", _create(seatIds=["J-50\n"]), ("seat_ids[0]",)),
    Bad("a DEL in a user id", _create(userId="\x7f"), ("user_id",)),
    Bad("a C1 control in a token", _create(reservationToken="\x85"), ("reservation_token",)),
    Bad("a control character in a key", _create(idempotencyKey="k\x01"), ("idempotency_key",)),
    Bad("21 tags", _create(metadata={"tags": {str(n): "" for n in range(21)}}), ("metadata.tags",)),
    Bad("metadata over 1 KiB", _create(metadata={"userAgent": "u" * 512, "source": "좌" * 128, "ipAddress": "i" * 128,
        "sessionId": "s"}), ("metadata",)),
    Bad("no key", _create(), code="MISSING_IDEMPOTENCY_KEY", key={}),
    Bad("an empty key", _create(), code="MISSING_IDEMPOTENCY_KEY", key={"idempotency-key": ""}),
    Bad("an empty key in quotes", _create(), code="MISSING_IDEMPOTENCY_KEY", key={"idempotency-key": '""'}),
    Bad("a body over 64 KiB", _create(userId="u" * 65_536), code="PAYLOAD_TOO_LARGE"),
    Bad("an unknown route", {}, code="NOT_FOUND", rpc="ReserveEverything", path="/v1/everything", native=b""),
    Bad("an enum number of no value", None, rpc="ListReservations", path=f"{CREATE}?status=99"),
    Bad("an enum name of no value", None, rpc="ListReservations", path=f"{CREATE}?status=hold"),
    Bad("an unknown parameter", None, rpc="GetReservation", path=f"{CREATE}/rsv_1?nope=1"),
    Bad("a page of 101", None, ("page_size",), rpc="ListReservations", path=f"{CREATE}?pageSize=101",
        native=bytes(messages.ListReservationsRequest(page_size=101))),
    Bad("a page token of no list", None, ("page_token",), rpc="ListReservations", path=f"{CREATE}?pageToken=cnN2Xw",
        native=bytes(messages.ListReservationsRequest(page_token="cnN2Xw"))),
    Bad("an unknown reservation", None, code="RESERVATION_NOT_FOUND", rpc="GetReservation", path=f"{CREATE}/rsv_1",
        native=bytes(messages.GetReservationRequest(reservation_id="rsv_1"))),
    Bad("a read of 129 characters", None, ("reservation_id",), rpc="GetReservation", path=f"{CREATE}/{_LONG}",
        native=bytes(messages.GetReservationRequest(reservation_id=_LONG))),
    Bad("a confirm of nothing", {}, ("reservation_id", "payment_intent_id"), rpc="ConfirmReservation", path=CONFIRM),
    Bad("a confirm without payment", {"reservationId": "rsv_1"}, ("payment_intent_id",), rpc="ConfirmReservation",
        path=CONFIRM),
    Bad("a confirm of the unknown", {"reservationId": "rsv_1", "paymentIntentId": "p"}, code="RESERVATION_NOT_FOUND",
        rpc="ConfirmReservation", path=CONFIRM),
    Bad("a cancel of nothing", {}, ("reservation_id",), rpc="CancelReservation", path=CANCEL),
    Bad("a cancel with a long reason", {"reservationId": "rsv_1", "reason": "x" * 513}, ("reason",),
        rpc="CancelReservation", path=CANCEL),
    Bad("a cancel of the unknown", {"reservationId": "rsv_1"}, code="RESERVATION_NOT_FOUND", rpc="CancelReservation",
        path=CANCEL),
    Bad("an extension of nothing", {}, ("reservation_id", "extension_seconds"), rpc="ExtendHold", path=EXTEND),
    Bad("an extension by text", {"reservationId": "rsv_1", "extensionSeconds": "long"}, rpc="ExtendHold", path=EXTEND,
        native=b"\x18"),
    Bad("an extension beyond an hour", {"reservationId": "rsv_1", "extensionSeconds": 3601, "reason": "x" * 513},
        ("extension_seconds", "reason"), rpc="ExtendHold", path=EXTEND),
    Bad("an extension of the unknown", {"reservationId": "rsv_1", "extensionSeconds": 30},
        code="RESERVATION_NOT_FOUND", rpc="ExtendHold", path=EXTEND),
]  # fmt: skip


@pytest.mark.parametrize("bad", BAD, ids=str)
async def test_bad_input_over_rest_is_told_and_changes_nothing(system: System, edge: Edge, bad: Bad) -> None:
    before = await system.everything()
    content = json.dumps(bad.body).encode() if isinstance(bad.body, dict) else bad.body
    method = "GET" if content is None else "POST"
    answer = await edge.rest.request(method, bad.path, content=content, headers=bad.key | TRACEPARENT)
    error = error_of(answer, _STATUS[bad.code][0], bad.code, bad.path.partition("?")[0])
    assert tuple(each["field"] for each in error.get("details", ())) == bad.fields
    assert all(each["description"] for each in error.get("details", ()))
    assert await system.everything() == before


@pytest.mark.parametrize("bad", [each for each in BAD if each.message is not None], ids=str)
async def test_bad_input_over_grpc_is_told_and_changes_nothing(system: System, edge: Edge, bad: Bad) -> None:
    before = await system.everything()
    method = edge.channel.unary_unary(f"/{PACKAGE}.ReservationService/{bad.rpc}")
    refused = await refusal(method(bad.message, metadata=tuple(bad.key.items())))
    assert refused.status is _STATUS[bad.code][1]
    if bad.code not in ("NOT_FOUND", "PAYLOAD_TOO_LARGE"):  # grpc's own refusals
        assert (refused.reason, refused.domain) == (bad.code, ERROR_DOMAIN)
    assert set(bad.fields) <= set(refused.violations)
    assert await system.everything() == before


async def test_an_enum_number_of_no_value_over_grpc_is_invalid(edge: Edge) -> None:
    """Over REST it is Envoy that refuses it."""
    request = messages.ListReservationsRequest(status=messages.ReservationStatus(99))
    refused = await refusal(call(edge.channel, request))
    assert (refused.reason, refused.violations) == ("INVALID_REQUEST", ("status",))
