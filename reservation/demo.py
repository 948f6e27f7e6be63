"""A scripted sale through every door. Every step states what must be true and is checked."""

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
from rich.console import Console

from reservation import app
from reservation.aws.session import connect
from reservation.catalog import DEMO_EVENT
from reservation.domain.model import Event, Money, Seat
from reservation.doors import Receive, Reply, Rest, queue
from reservation.dynamodb.events import EventImport
from reservation.gen.com.traffic_tacos.reservation import v1 as messages
from reservation.local import Stack

_SHORT_HOLD = Event("evt_short_hold", "Holds of five seconds", hold_seconds=5)
_USER = "ann"
_MOMENTS = 50
"""Tenths of a second: longer than anything that comes a moment late may take."""


class WrongAnswer(Exception):
    """A step's answer is not what it must be."""


async def play(stack: Stack, out: Console) -> bool:
    """Plays every step and prints it; False if one failed (the rest is then left out)."""
    await _import_short_hold(stack)
    async with grpc.aio.insecure_channel(stack.grpc_address) as channel, queue(stack) as receive:
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
    out.print("[bold green]Chosen, held, refused, replayed, extended, sold, cancelled and expired as it must be.[/]")
    return True


class Sale:
    """The steps, in order. Each returns what it saw, for people to read, or raises WrongAnswer."""

    def __init__(self, rest: Rest, stub: messages.ReservationServiceStub, receive: Receive) -> None:
        self._rest = rest
        self._receive = receive
        # The generated stub is written for blocking channels; over an aio channel its calls are awaitable.
        self._grpc: Any = stub
        self._key = str(uuid.uuid4())
        self._history: dict[str, list[str]] = {}  # what has become of each reservation, in the order of their making
        self._first: Reply
        self._best: Reply
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
            self.best_seats,
            self.places_over_grpc,
            self.extend,
            self.list_own,
            self.watch,
            self.counts,
            self.seat_map,
            self.hold_that_expires,
            self.expired_hold_is_refused,
            self.expired_seats_are_sold_again,
            self.events_were_received,
        ]

    async def health(self) -> str:
        """The system reports that it is up"""
        seen = await self._becomes("/actuator/health", lambda reply: reply.status == 200)
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
        seen = await self._rest.get(_path(self._first))
        _check(seen, 200, status="HOLD", quantity=2)
        request = messages.GetReservationRequest(reservation_id=_id(self._first), user_id=_USER)
        over_grpc = await self._grpc.get_reservation(request)
        _equal("seat ids over gRPC", over_grpc.seat_ids, seen.body["seatIds"])
        return _text(seen)

    async def confirm(self) -> str:
        """POST /v1/reservations/confirm sells the held seats"""
        answer = await self._confirm(self._first)
        return _text(_check(answer, 200, status="CONFIRMED", reservationId=_id(self._first)))

    async def confirm_again(self) -> str:
        """A second confirm with the same payment gets the same order"""
        first, second = await self._confirm(self._first), await self._confirm(self._first)
        _equal("order", second.body["orderId"], first.body["orderId"])
        return _text(second)

    async def cancel_over_grpc(self) -> str:
        """CancelReservation over gRPC returns held seats"""
        held = _check(await self._create(["B-1", "B-2"]), 201, status="HOLD")
        request = messages.CancelReservationRequest(_id(held), _USER, reason="changed my mind")
        answer = await self._grpc.cancel_reservation(request)
        _equal("status", answer.status, messages.ReservationStatus.CANCELLED)
        self._history[_id(held)].append("cancelled")
        return f"{answer.status.name} {', '.join(seat.id for seat in answer.released_seats)}"

    async def sell_cancelled_seats(self) -> str:
        """The returned seats can be held again at once"""
        return _text(_check(await self._create(["B-1", "B-2"]), 201, status="HOLD"))

    async def best_seats(self) -> str:
        """A quantity without seats gets the best ones: side by side, in the middle of the best row"""
        self._best = await self._create(quantity=3)
        return _text(_check(self._best, 201, status="HOLD", seatIds=["A-24", "A-25", "A-26"]))

    async def places_over_grpc(self) -> str:
        """A quantity and a section get places of general admission, which have neither row nor number, over gRPC"""
        request = messages.CreateReservationRequest(DEMO_EVENT.id, quantity=4, user_id=_USER, section="Standing")
        held = await self._grpc.create_reservation(request)
        self._history[held.reservation_id] = ["created"]
        places = {(seat.section, seat.row, seat.number) for seat in held.reserved_seats}
        _equal("places", (len(set(held.seat_ids)), places), (4, {("Standing", "", "")}))
        return f"{held.status.name} {', '.join(held.seat_ids)}"

    async def extend(self) -> str:
        """POST /v1/reservations/extend lets a hold end 30 seconds later, to the millisecond"""
        wish = {"reservationId": _id(self._best), "userId": _USER, "extensionSeconds": 30}
        answer = _check(await self._rest.post("/v1/reservations/extend", wish), 200, status="HOLD", extendedSeconds=30)
        self._history[_id(self._best)].append("hold_extended")
        ends = _time(self._best.body["holdExpiresAt"]) + timedelta(seconds=30)
        _equal("new end", _time(answer.body["newExpiresAt"]), ends)
        return _text(answer)

    async def list_own(self) -> str:
        """GET /v1/reservations lists one's own reservations, newest first"""

        def ids(reply: Reply) -> list[str]:
            return [each["reservationId"] for each in reply.body.get("reservations", ())]

        newest_first = list(reversed(self._history))
        path = f"/v1/reservations?userId={_USER}&eventId={DEMO_EVENT.id}"
        seen = _check(await self._becomes(path, lambda reply: ids(reply) == newest_first), 200, nextPageToken="")
        _equal("reservations", ids(seen), newest_first)
        return "; ".join(f"{each['status']} {', '.join(each['seatIds'])}" for each in seen.body["reservations"])

    async def watch(self) -> str:
        """GET /v1/reservations/{reservationId}/watch tells the state, the sale when it comes, and ends with it"""
        async with aclosing(self._rest.stream(_path(self._best, "/watch"))) as told:
            seen: list[dict[str, Any]] = [await anext(told, {})]
            _check(await self._confirm(self._best), 200, status="CONFIRMED")
            seen += [each async for each in told]
        _equal("statuses", [each.get("status") for each in seen], ["HOLD", "CONFIRMED"])
        return " → ".join(f"{each['status']} {each['orderId']}".strip() for each in seen)

    async def counts(self) -> str:
        """GET /v1/events/{eventId}/inventory counts each section two seconds late at most, and the parts add up"""

        def parts(reply: Reply) -> dict[str, tuple[int, ...]]:
            names = ("total", "available", "held", "sold", "blocked")
            return {each["section"]: tuple(each[name] for name in names) for each in reply.body.get("sections", ())}

        sold = {"Floor": (500, 493, 2, 5, 0), "Standing": (200, 196, 4, 0, 0)}
        path = f"/v1/events/{DEMO_EVENT.id}/inventory"
        seen = _check(await self._becomes(path, lambda reply: parts(reply) == sold), 200, eventId=DEMO_EVENT.id)
        _equal("total, available, held, sold, blocked", parts(seen), sold)
        return _text(seen)

    async def seat_map(self) -> str:
        """GET /v1/events/{eventId}/seats is the seat map, page by page"""
        seen = await self._rest.get(f"/v1/events/{DEMO_EVENT.id}/seats?section=Floor&pageSize=50")
        row = {seat["id"]: seat["status"] for seat in _check(seen, 200).body["seats"]}
        _equal("seats of the page", list(row), [f"A-{number}" for number in range(1, 51)])
        sold = ["A-12", "A-13", "A-24", "A-25", "A-26"]
        _equal("sold", [seat_id for seat_id, status in row.items() if status == "SOLD"], sold)
        _equal("another page", bool(seen.body["nextPageToken"]), True)
        return "".join("x" if status == "SOLD" else "·" for status in row.values())

    async def hold_that_expires(self) -> str:
        """An event may shorten its holds: this one lasts 5 seconds"""
        self._expiring = await self._create(["S-1"], event=_SHORT_HOLD.id)
        return _text(_check(self._expiring, 201, status="HOLD"))

    async def expired_hold_is_refused(self) -> str:
        """At its time the hold ends, within a second, and a payment for it is refused: 409 RESERVATION_EXPIRED"""
        ends = _time(self._expiring.body["holdExpiresAt"])
        await asyncio.sleep((ends - datetime.now(UTC)).total_seconds() + 1)
        seen = _check(await self._rest.get(_path(self._expiring)), 200, status="EXPIRED")
        self._history[_id(self._expiring)].append("expired")
        late = (_time(seen.body["updatedAt"]) - ends).total_seconds() * 1000
        _equal("settled within a second", 0 <= late <= 1000, True)
        _refusal(await self._confirm(self._expiring), 409, "RESERVATION_EXPIRED")
        return f"{seen.body['status']}, settled {late:.0f} ms after {self._expiring.body['holdExpiresAt']}"

    async def expired_seats_are_sold_again(self) -> str:
        """Its seat goes to the next customer, who pays in time"""
        held = _check(await self._create(["S-1"], event=_SHORT_HOLD.id), 201, status="HOLD")
        return _text(_check(await self._confirm(held), 200, status="CONFIRMED"))

    async def events_were_received(self) -> str:
        """An SQS queue behind an EventBridge rule received every event of every reservation, each one's in order"""
        told: dict[str, list[str]] = {reservation_id: [] for reservation_id in self._history}
        known: set[str] = set()
        for _ in range(20):
            for detail in await self._receive():
                if detail["messageId"] not in known:  # events come at least once
                    known.add(detail["messageId"])
                    types = told.setdefault(detail["reservation"]["reservationId"], [])
                    types.append(detail["type"].removeprefix("reservation."))
            if told == self._history:
                break
        _equal("events", told, self._history)
        return "; ".join(" → ".join(types) for types in told.values())

    async def _create(
        self, seat_ids: list[str] | None = None, *, quantity: int = 0, key: str = "", event: str = DEMO_EVENT.id
    ) -> Reply:
        wanted = {"seatIds": seat_ids, "quantity": len(seat_ids)} if seat_ids else {"quantity": quantity}
        body = {"eventId": event, "userId": _USER, **wanted}
        answer = await self._rest.post("/v1/reservations", body, key=key or str(uuid.uuid4()))
        if answer.status == 201:
            self._history.setdefault(_id(answer), ["created"])
        return answer

    async def _confirm(self, held: Reply) -> Reply:
        body = {"reservationId": _id(held), "paymentIntentId": "pay_demo", "userId": _USER}
        answer = await self._rest.post("/v1/reservations/confirm", body)
        if answer.status == 200 and self._history[_id(held)][-1] != "confirmed":
            self._history[_id(held)].append("confirmed")
        return answer

    async def _refused(self, call: Awaitable[Any], status: grpc.StatusCode) -> str:
        try:
            answer = await call
        except grpc.aio.AioRpcError as error:
            _equal("status", error.code(), status)
            return f"{error.code().name}: {error.details()}"
        raise WrongAnswer(f"expected {status.name}, got {answer}")

    async def _becomes(self, path: str, right: Callable[[Reply], bool]) -> Reply:
        """The first answer that is right, or the last one of five seconds."""
        for _ in range(_MOMENTS):
            if right(seen := await self._rest.get(path)):
                break
            await asyncio.sleep(0.1)
        return seen


def _id(reply: Reply) -> str:
    return str(reply.body["reservationId"])


def _path(reply: Reply, below: str = "") -> str:
    return f"/v1/reservations/{_id(reply)}{below}?userId={_USER}"


def _time(told: str) -> datetime:
    return datetime.fromisoformat(told)


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


async def _import_short_hold(stack: Stack) -> None:
    settings = stack.settings
    client = await connect(app.aws_config_of(settings), "dynamodb", endpoint_url=settings.dynamodb_endpoint)
    seats = [Seat(f"S-{number}", "Floor", "S", str(number), Money(50_000, "KRW")) for number in (1, 2)]
    try:
        await EventImport(client, settings.dynamodb_table_inventory).run(_SHORT_HOLD, seats, lambda _: None)
    finally:
        await client.close()
