"""A scripted sale through both doors. Every step states what must be true and is checked."""

import asyncio
import json
import urllib.error
import urllib.request
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import grpc
from rich.console import Console

from reservation import app
from reservation.aws.session import connect, session
from reservation.catalog import DEMO_EVENT
from reservation.domain.model import Event, Money, Seat
from reservation.dynamodb.events import EventImport
from reservation.gen.com.traffic_tacos.reservation import v1 as messages
from reservation.local import Stack

_SHORT_HOLD = Event("evt_short_hold", "Holds of five seconds", hold_seconds=5)


Receive = Callable[[], Awaitable[list[dict[str, Any]]]]


class WrongAnswer(Exception):
    """A step's answer is not what it must be."""


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: dict[str, Any]


async def play(stack: Stack, out: Console) -> bool:
    """Plays every step and prints it; False if one failed (the rest is then left out)."""
    await _import_short_hold(stack)
    async with grpc.aio.insecure_channel(stack.grpc_address) as channel, _queue(stack) as receive:
        sale = Sale(Rest(stack.rest_url), messages.ReservationServiceStub(channel), receive)
        for step in sale.steps():
            title = (step.__doc__ or "").strip()
            try:
                told = await step()
            except (WrongAnswer, grpc.aio.AioRpcError, OSError) as error:
                out.print(f"[red]✗[/red] {title}")
                out.print(f"  {type(error).__name__}: {error}", markup=False, highlight=False, soft_wrap=True)
                return False
            out.print(f"[green]✓[/green] {title}")
            out.print(f"  {told}", markup=False, highlight=False, style="dim", soft_wrap=True)
    out.print("[bold green]Sold, held, refused, replayed, confirmed, cancelled and expired as they must be.[/]")
    return True


class Rest:
    """The REST door, as any HTTP client uses it."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def get(self, path: str) -> Reply:
        return await asyncio.to_thread(self._send, urllib.request.Request(self._url + path))  # noqa: S310

    async def post(self, path: str, body: dict[str, Any], *, key: str | None = None) -> Reply:
        headers = {"Content-Type": "application/json"}
        if key is not None:
            headers["Idempotency-Key"] = key
        request = urllib.request.Request(self._url + path, json.dumps(body).encode(), headers)  # noqa: S310
        return await asyncio.to_thread(self._send, request)

    def _send(self, request: urllib.request.Request) -> Reply:
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
                return Reply(answer.status, dict(answer.headers), json.load(answer))
        except urllib.error.HTTPError as answer:
            with answer:
                return Reply(answer.code, dict(answer.headers), json.load(answer))


class Sale:
    """The steps, in order. Each returns what it saw, for people to read, or raises WrongAnswer."""

    def __init__(self, rest: Rest, stub: messages.ReservationServiceStub, receive: Receive) -> None:
        self._rest = rest
        self._receive = receive
        # The generated stub is written for blocking channels; over an aio channel its calls are awaitable.
        self._grpc: Any = stub
        self._key = str(uuid.uuid4())
        self._first: Reply
        self._expiring: Reply

    def steps(self) -> list[Callable[[], Awaitable[str]]]:
        return [
            self.health,
            self.hold_over_rest,
            self.replay,
            self.conflict_over_grpc,
            self.key_with_other_content,
            self.read_over_both,
            self.confirm,
            self.confirm_again,
            self.cancel_over_grpc,
            self.sell_cancelled_seats,
            self.hold_that_expires,
            self.expired_hold_is_refused,
            self.expired_seats_are_sold_again,
            self.events_were_received,
        ]

    async def health(self) -> str:
        """The system reports that it is up"""
        for _ in range(50):
            if (seen := await self._rest.get("/actuator/health")).status == 200:
                break
            await asyncio.sleep(0.1)
        return _text(_check(seen, 200, status="UP"))

    async def hold_over_rest(self) -> str:
        """POST /v1/reservations holds two seats: 201, HOLD for 60 seconds"""
        self._first = await self._create(["A-12", "A-13"], key=self._key)
        return _text(_check(self._first, 201, status="HOLD", seatIds=["A-12", "A-13"]))

    async def replay(self) -> str:
        """The same request with the same Idempotency-Key gets the original answer, marked as a replay"""
        again = await self._create(["A-12", "A-13"], key=self._key)
        _equal("idempotent-replayed", again.headers.get("idempotent-replayed"), "true")
        _equal("body", again.body, self._first.body)
        return _text(again)

    async def conflict_over_grpc(self) -> str:
        """CreateReservation over gRPC for one of those seats is refused: FAILED_PRECONDITION"""
        request = messages.CreateReservationRequest(event_id=DEMO_EVENT.id, seat_ids=["A-13", "A-14"], user_id="rival")
        return await self._refused(self._grpc.create_reservation(request), grpc.StatusCode.FAILED_PRECONDITION)

    async def key_with_other_content(self) -> str:
        """The same Idempotency-Key with other seats is refused: 409 IDEMPOTENCY_CONFLICT"""
        return _text(_refusal(await self._create(["A-20"], key=self._key), 409, "IDEMPOTENCY_CONFLICT"))

    async def read_over_both(self) -> str:
        """GET and GetReservation tell the same reservation"""
        seen = await self._rest.get(f"/v1/reservations/{self._id(self._first)}")
        _check(seen, 200, status="HOLD", quantity=2)
        request = messages.GetReservationRequest(reservation_id=self._id(self._first))
        over_grpc = await self._grpc.get_reservation(request)
        _equal("seat ids over gRPC", over_grpc.seat_ids, seen.body["seatIds"])
        return _text(seen)

    async def confirm(self) -> str:
        """POST /v1/reservations/confirm sells the held seats"""
        answer = await self._confirm(self._first)
        return _text(_check(answer, 200, status="CONFIRMED", reservationId=self._id(self._first)))

    async def confirm_again(self) -> str:
        """A second confirm with the same payment gets the same order"""
        first, second = await self._confirm(self._first), await self._confirm(self._first)
        _equal("order", second.body["orderId"], first.body["orderId"])
        return _text(second)

    async def cancel_over_grpc(self) -> str:
        """CancelReservation over gRPC returns held seats"""
        held = _check(await self._create(["B-1", "B-2"]), 201, status="HOLD")
        request = messages.CancelReservationRequest(reservation_id=self._id(held), reason="changed my mind")
        answer = await self._grpc.cancel_reservation(request)
        _equal("status", answer.status, messages.ReservationStatus.CANCELLED)
        return f"{answer.status.name} {', '.join(seat.id for seat in answer.released_seats)}"

    async def sell_cancelled_seats(self) -> str:
        """The returned seats can be held again at once"""
        return _text(_check(await self._create(["B-1", "B-2"]), 201, status="HOLD"))

    async def hold_that_expires(self) -> str:
        """An event may shorten its holds: this one lasts 5 seconds"""
        self._expiring = await self._create(["S-1"], event=_SHORT_HOLD.id)
        return _text(_check(self._expiring, 201, status="HOLD"))

    async def expired_hold_is_refused(self) -> str:
        """At its time the hold ends, within a second, and a payment for it is refused: 409 RESERVATION_EXPIRED"""
        ends = datetime.fromisoformat(self._expiring.body["holdExpiresAt"])
        await asyncio.sleep((ends - datetime.now(UTC)).total_seconds() + 1)
        seen = await self._rest.get(f"/v1/reservations/{self._id(self._expiring)}")
        _check(seen, 200, status="EXPIRED")
        ended = datetime.fromisoformat(seen.body["updatedAt"])
        late = (ended - ends).total_seconds() * 1000
        _equal("settled within a second", 0 <= late <= 1000, True)
        _refusal(await self._confirm(self._expiring), 409, "RESERVATION_EXPIRED")
        return f"{seen.body['status']}, settled {late:.0f} ms after {self._expiring.body['holdExpiresAt']}"

    async def expired_seats_are_sold_again(self) -> str:
        """Its seat goes to the next customer"""
        return _text(_check(await self._create(["S-1"], event=_SHORT_HOLD.id), 201, status="HOLD"))

    async def events_were_received(self) -> str:
        """An SQS queue behind an EventBridge rule received every event, each reservation's in order"""
        told: dict[str, list[str]] = defaultdict(list)
        for _ in range(10):
            for detail in await self._receive():
                told[detail["reservation"]["reservationId"]].append(detail["type"].removeprefix("reservation."))
            if sum(map(len, told.values())) >= 9:
                break
        _equal("the sold one", told[self._id(self._first)], ["created", "confirmed"])
        _equal("the one that ran out", told[self._id(self._expiring)], ["created", "expired"])
        return "; ".join(" → ".join(types) for types in told.values())

    async def _create(self, seat_ids: list[str], *, key: str | None = None, event: str = DEMO_EVENT.id) -> Reply:
        body = {"eventId": event, "quantity": len(seat_ids), "seatIds": seat_ids}
        return await self._rest.post("/v1/reservations", body, key=key or str(uuid.uuid4()))

    async def _confirm(self, held: Reply) -> Reply:
        body = {"reservationId": self._id(held), "paymentIntentId": "pay_demo"}
        return await self._rest.post("/v1/reservations/confirm", body)

    async def _refused(self, call: Awaitable[Any], status: grpc.StatusCode) -> str:
        try:
            answer = await call
        except grpc.aio.AioRpcError as error:
            _equal("status", error.code(), status)
            return f"{error.code().name}: {error.details()}"
        raise WrongAnswer(f"expected {status.name}, got {answer}")

    def _id(self, reply: Reply) -> str:
        return str(reply.body["reservationId"])


def _check(reply: Reply, http_status: int, /, **body: Any) -> Reply:
    _equal("HTTP status", (reply.status, reply.body), (http_status, reply.body))
    for name, value in body.items():
        _equal(name, reply.body.get(name), value)
    return reply


def _refusal(reply: Reply, status: int, code: str) -> Reply:
    _equal("error code", (reply.status, reply.body.get("error", {}).get("code")), (status, code))
    return reply


def _equal(what: str, found: object, wanted: object) -> None:
    if found != wanted:
        raise WrongAnswer(f"{what}: expected {wanted}, got {found}")


def _text(reply: Reply) -> str:
    return f"{reply.status} {json.dumps(reply.body, ensure_ascii=False)}"


@asynccontextmanager
async def _queue(stack: Stack) -> AsyncIterator[Receive]:
    """A function that waits for events and returns their details, in the order of arrival."""
    config = app.aws_config_of(stack.settings)
    async with session(config).create_client("sqs", endpoint_url=stack.aws_url) as sqs:

        async def receive() -> list[dict[str, Any]]:
            reply = await sqs.receive_message(QueueUrl=stack.queue_url, MaxNumberOfMessages=10, WaitTimeSeconds=1)
            found = reply.get("Messages", [])
            for message in found:
                await sqs.delete_message(QueueUrl=stack.queue_url, ReceiptHandle=message["ReceiptHandle"])
            return [json.loads(message["Body"])["detail"] for message in found]

        yield receive


async def _import_short_hold(stack: Stack) -> None:
    settings = stack.settings
    client = await connect(app.aws_config_of(settings), "dynamodb", endpoint_url=settings.dynamodb_endpoint)
    seats = [Seat(f"S-{number}", "Floor", "S", str(number), Money(50_000, "KRW")) for number in (1, 2)]
    try:
        await EventImport(client, settings.dynamodb_table_inventory).run(_SHORT_HOLD, seats, lambda _: None)
    finally:
        await client.close()
