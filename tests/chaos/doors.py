"""The ways in which customers reach the service, and what its answers say."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any, Protocol

import aiohttp
import grpc
import orjson

from reservation.api.descriptors import wire_class
from tests.chaos.history import OK, UNKNOWN, Answer, Attempt, Door, Kind
from tests.support.system import PACKAGE, refusal_of

_COMMAND_SECONDS, _LOOK_SECONDS = 3.5, 1.5
"""How long a customer waits for one answer: where it matters what became of it, a little longer than Envoy does."""


@dataclass(frozen=True, slots=True)
class Command:
    """What a customer wants. See history.Attempt."""

    kind: Kind
    user: str
    key: str = ""
    event_id: str = ""
    seat_ids: tuple[str, ...] = ()
    reservation_id: str = ""
    payment_id: str = ""
    seconds: int = 0
    quantity: int = 0
    section: str = ""


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of one try, in the words of history.Attempt. A refusal's `answer` says which seats are unavailable."""

    status: str
    replayed: bool = False
    answer: Answer | None = None


def attempt_of(
    command: Command, reply: Reply, number: int, door: Door, called: int, answered: int | None, process: str = ""
) -> Attempt:
    """What is noted of one try. `called` and `answered` in milliseconds, see history.Attempt."""
    return Attempt(
        number=number,
        door=door,
        process=process,
        called=called,
        answered=answered,
        status=reply.status,
        replayed=reply.replayed,
        answer=reply.answer,
        kind=command.kind,
        user=command.user,
        key=command.key,
        event_id=command.event_id,
        seat_ids=command.seat_ids,
        reservation_id=command.reservation_id,
        payment_id=command.payment_id,
        seconds=command.seconds,
        quantity=command.quantity,
        section=command.section,
    )


class Entrance(Protocol):
    """`door` and `process` as in history.Attempt."""

    door: Door
    process: str

    def takes(self, kind: Kind) -> bool: ...

    async def send(self, command: Command) -> Reply:
        """One request. Never raises, whatever the network does."""
        ...


_METHODS = {
    Kind.CREATE: "ReservationService/CreateReservation",
    Kind.CONFIRM: "ReservationService/ConfirmReservation",
    Kind.CANCEL: "ReservationService/CancelReservation",
    Kind.EXTEND: "ReservationService/ExtendHold",
    Kind.GET: "ReservationService/GetReservation",
    Kind.CHECK: "InventoryService/CheckAvailability",
}
_PATHS = {
    Kind.CREATE: "/v1/reservations",
    Kind.CONFIRM: "/v1/reservations/confirm",
    Kind.CANCEL: "/v1/reservations/cancel",
    Kind.EXTEND: "/v1/reservations/extend",
}

_BOUGHT = {"reservation_id": "reservation_id", "status": "status", "amount": "total_amount"}
_FIELDS: Mapping[Kind, Mapping[str, str]] = {
    Kind.CREATE: {**_BOUGHT, "seat_ids": "seat_ids", "hold_expires_at": "hold_expires_at"},
    Kind.CONFIRM: {**_BOUGHT, "seat_ids": "confirmed_seats", "order_id": "order_id", "at": "confirmed_at"},
    Kind.CANCEL: {
        "reservation_id": "reservation_id",
        "status": "status",
        "seat_ids": "released_seats",
        "at": "cancelled_at",
    },
    Kind.EXTEND: {"reservation_id": "reservation_id", "status": "status", "hold_expires_at": "new_expires_at"},
    Kind.GET: {
        **_BOUGHT,
        "seat_ids": "seat_ids",
        "hold_expires_at": "hold_expires_at",
        "order_id": "order_id",
        "payment_id": "payment_intent_id",
    },
    Kind.CHECK: {"seat_ids": "available_seats", "unavailable": "unavailable_seat_ids"},
}
"""Where an Answer's attributes are in the protocol's answers."""


def _asked(command: Command) -> dict[str, Any]:
    """The fields of the request, by their names in the protocol."""
    mine = {"reservation_id": command.reservation_id, "user_id": command.user}
    keyed = mine | {"idempotency_key": command.key}
    match command.kind:
        case Kind.CREATE:
            return {
                "event_id": command.event_id,
                "seat_ids": command.seat_ids,
                "quantity": command.quantity or len(command.seat_ids),
                "section": command.section,
                "user_id": command.user,
                "reservation_token": command.key,
                "idempotency_key": command.key,
            }
        case Kind.CONFIRM:
            return keyed | {"payment_intent_id": command.payment_id}
        case Kind.CANCEL:
            return keyed
        case Kind.EXTEND:
            return keyed | {"extension_seconds": command.seconds}
        case Kind.GET:
            return mine
        case Kind.CHECK:
            return {"event_id": command.event_id, "seat_ids": command.seat_ids}


class GrpcEntrance:
    """gRPC over a channel: to Envoy, or to the process that is named."""

    def __init__(self, channel: grpc.aio.Channel, process: str = "") -> None:
        self.door = Door.PROCESS if process else Door.GRPC
        self.process = process
        self._calls = {kind: _call(channel, method) for kind, method in _METHODS.items()}

    def takes(self, kind: Kind) -> bool:
        return True

    async def send(self, command: Command) -> Reply:
        request, call = self._calls[command.kind]
        under_way = call(request(**_asked(command)), timeout=_patience(command.kind))
        try:
            message = await under_way
        except grpc.aio.AioRpcError as error:
            refused = refusal_of(error)
            seats = refused.facts.get("seat_ids", "")
            return _refused(refused.reason, tuple(seats.split(",")) if seats else ())
        replayed = dict(await under_way.initial_metadata()).get("idempotent-replayed") == "true"
        told = {name: _from_message(message, field) for name, field in _FIELDS[command.kind].items()}
        return Reply(OK, replayed, Answer(**told))


def _patience(kind: Kind) -> float:
    return _LOOK_SECONDS if kind in (Kind.GET, Kind.CHECK) else _COMMAND_SECONDS


def _call(channel: grpc.aio.Channel, method: str) -> tuple[Any, Callable[..., Any]]:
    request, response = _messages(method.partition("/")[2])
    return request, channel.unary_unary(f"/{PACKAGE}.{method}", request.SerializeToString, response.FromString)


@cache
def _messages(method: str) -> tuple[Any, Any]:
    return wire_class(f"{method}Request"), wire_class(f"{method}Response")


def _from_message(message: Any, name: str) -> Any:
    field, value = message.DESCRIPTOR.fields_by_name[name], getattr(message, name)
    if name.endswith("_at"):
        return value.seconds * 1000 + value.nanos // 1_000_000 if message.HasField(name) else None
    if name == "total_amount":
        return value.amount if message.HasField(name) else None
    if field.enum_type is not None:
        return field.enum_type.values_by_number[value].name
    return tuple(each if isinstance(each, str) else each.id for each in value) if field.is_repeated else value


class RestEntrance:
    """JSON through Envoy at `url`."""

    door = Door.REST
    process = ""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    def takes(self, kind: Kind) -> bool:
        """Availability has no REST route."""
        return kind is not Kind.CHECK

    async def send(self, command: Command) -> Reply:
        try:
            async with self._request(command) as response:
                body, replayed = await response.read(), response.headers.get("idempotent-replayed") == "true"
        except (aiohttp.ClientError, TimeoutError):
            return Reply(UNKNOWN)
        return _reply(command.kind, response.status, body, replayed)

    def _request(self, command: Command) -> Any:
        asked, timeout = _asked(command), aiohttp.ClientTimeout(_patience(command.kind))
        if command.kind is Kind.GET:
            path, user = f"{_PATHS[Kind.CREATE]}/{command.reservation_id}", command.user
            return self._session.get(self._url + path, params={"userId": user}, timeout=timeout)
        headers = {"content-type": "application/json", "idempotency-key": asked.pop("idempotency_key")}
        body = orjson.dumps({_camel(name): value for name, value in asked.items()})
        return self._session.post(self._url + _PATHS[command.kind], data=body, headers=headers, timeout=timeout)


def _reply(kind: Kind, status: int, body: bytes, replayed: bool) -> Reply:
    try:
        told = orjson.loads(body)
        if status >= 300:
            seats = (each.get("seatId") for each in told["error"].get("details", ()))
            return _refused(told["error"]["code"], tuple(filter(None, seats)))
    except (KeyError, TypeError, ValueError):
        return Reply(UNKNOWN)
    found = {name: _from_json(told.get(_camel(field)), field) for name, field in _FIELDS[kind].items()}
    return Reply(OK, replayed, Answer(**{name: value for name, value in found.items() if value is not None}))


def _refused(reason: str, seat_ids: tuple[str, ...]) -> Reply:
    return Reply(reason or UNKNOWN, answer=Answer(unavailable=seat_ids) if seat_ids else None)


def _from_json(value: Any, name: str) -> Any:
    """None where the body has no such field."""
    if value is None:
        return None
    if name.endswith("_at"):
        return round(datetime.fromisoformat(value).timestamp() * 1000)
    if name == "total_amount":
        return int(value["amount"])
    return tuple(each if isinstance(each, str) else each["id"] for each in value) if isinstance(value, list) else value


@cache
def _camel(name: str) -> str:
    head, *tail = name.split("_")
    return head + "".join(map(str.capitalize, tail))
