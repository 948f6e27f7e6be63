"""A sale while its processes are killed: three `reservation serve`, one of which dies by `kill -9` every 10 seconds and
is started again.

Customers take a seat or two, some of them what another wants too, and a third of them pay. They try again on any
process with the same key. When 64 of them wait already, the next is turned away: the emulators bear only so much, and
what was reached stands beside the figures. A queue behind a rule of the bus receives the events. In the end everything
is counted: what customers were told, what the tables hold, what the queue received, and what the audit finds.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import betterproto2
import grpc
import uvloop

from reservation import app, ministack
from reservation.audit.promises import Finding, Graces, Snapshot
from reservation.audit.reading import Audit
from reservation.domain.model import Reservation, Status
from reservation.gen.com.traffic_tacos.reservation import v1 as messages
from tests.bench import promises
from tests.bench.box_office import BoxOffice, offer, opened
from tests.bench.figures import Figure, failed
from tests.bench.processes import KillableService
from tests.bench.promises import Held, Told
from tests.support.event_queue import Received, receiving, subscribe
from tests.support.system import Answer, call, create_request, own_settings, refusal_of

_PROCESSES = 3
_SECONDS, _CREATES_A_SECOND, _KILL_EVERY_SECONDS = 65, 200, 10.0
_SEATS = 13_000
_HOLD_SECONDS = 5
_CONTESTED, _PAYING = 0.2, 1 / 3
_CONTESTED_AMONG = 400
_THINK_SECONDS = 2.0
_AT_ONCE = 64
_TRY_SECONDS, _PATIENCE_SECONDS = 3.0, 15.0
_GRACES = Graces(expiry=5_000, outbox=5_000)
_QUIET_SECONDS = _HOLD_SECONDS + 6.0  # then every hold has ended for longer than its grace

# What callers see of a process that dies or is about to serve.
_TRY_AGAIN = {
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.UNKNOWN,
}


def measure(rounds: int = 5) -> dict[str, Figure]:
    """One run gives all three; `rounds` does not change it."""
    return uvloop.run(_measure())


@dataclass(slots=True)
class _Kills:
    made: int = 0
    ended_by_themselves: int = 0
    back_after: list[float] = field(default_factory=list)
    """Seconds from a kill until the process served again."""


@dataclass(frozen=True, slots=True)
class _Sale:
    """A run that is over. `seconds`: until the last customer had an answer."""

    told: Told
    kills: _Kills
    received: Received
    seconds: float
    snapshot: Snapshot
    findings: list[Finding]


async def _measure() -> dict[str, Figure]:
    told, kills, received, door = Told(), _Kills(), Received(), asyncio.Semaphore(_AT_ONCE)
    async with ministack.running() as store, ministack.running() as bus:
        settings = own_settings(store.url, aws_eventbridge_endpoint=bus.url)
        queue_url = await subscribe(settings, "sale")
        async with (
            opened(settings, services=_PROCESSES, seats=_SEATS, hold_seconds=_HOLD_SECONDS) as office,
            receiving(settings, queue_url, received),
        ):
            began = time.monotonic()
            async with _killing(office.services, kills):
                await offer(_CREATES_A_SECOND, _SECONDS, lambda number: _customer(office, told, door, number))
            seconds = time.monotonic() - began
            await asyncio.sleep(_QUIET_SECONDS)
            audit = Audit(office.dynamodb, app.tables_of(settings), now=_now, graces=_GRACES, receiver=received)
            snapshot, findings = await audit.run()
    return _figures(_Sale(told, kills, received, seconds, snapshot, findings))


# The customers


async def _customer(office: BoxOffice, told: Told, door: asyncio.Semaphore, number: int) -> None:
    seats, user = _wanted(number), f"user-{number}"
    create = create_request(seats, user_id=user, idempotency_key=f"create-{number}")
    if door.locked():
        told.answers["turned away"] += 1
        return
    async with door:
        held = await _insist(office, told, "create", create)
    if held is None:
        return
    reservation_id, until = held.message.reservation_id, held.message.hold_expires_at.timestamp()
    told.held[reservation_id] = Held(tuple(seats), time.time(), until)
    if random.random() >= _PAYING:
        return
    await asyncio.sleep(random.uniform(0, _THINK_SECONDS))
    confirm = messages.ConfirmReservationRequest(
        reservation_id=reservation_id, payment_intent_id="pay", user_id=user, idempotency_key=f"confirm-{number}"
    )
    if await _insist(office, told, "confirm", confirm) is not None:
        told.sold.add(reservation_id)


def _wanted(number: int) -> list[str]:
    """The next seat or two, or some that another took not long ago."""
    pair = number - random.randrange(_CONTESTED_AMONG) if random.random() < _CONTESTED else number
    return [f"S-{(2 * pair + each) % _SEATS}" for each in range(random.choice((1, 1, 2)))]


async def _insist(office: BoxOffice, told: Told, kind: str, request: betterproto2.Message) -> Answer | None:
    """Tries with the same key on any process until there is an answer, which is counted; None if it is a refusal."""
    until = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < until:
        try:
            answer = await call(random.choice(office.channels), request, timeout=_TRY_SECONDS)
        except grpc.aio.AioRpcError as error:
            if error.code() not in _TRY_AGAIN:
                told.answers[f"{kind}: {refusal_of(error).reason}"] += 1
                return None
            told.answers["tried again"] += 1
            await asyncio.sleep(random.uniform(0.05, 0.25))
        else:
            told.answers[kind] += 1
            return answer
    told.answers[f"{kind} gave up"] += 1
    return None


# The kills


@asynccontextmanager
async def _killing(services: list[KillableService], kills: _Kills) -> AsyncIterator[None]:
    """Inside the block one of them is killed and started again every 10 seconds."""

    async def kill_now_and_then() -> None:
        await asyncio.sleep(_KILL_EVERY_SECONDS)
        while True:
            started = time.monotonic()
            await _kill(random.choice(services), kills)
            await asyncio.sleep(_KILL_EVERY_SECONDS - (time.monotonic() - started))

    killer = asyncio.create_task(kill_now_and_then())
    try:
        yield
    finally:
        killer.cancel()
        with suppress(asyncio.CancelledError):
            await killer


async def _kill(victim: KillableService, kills: _Kills) -> None:
    killed_at = time.monotonic()
    if await victim.kill():
        kills.made += 1
    else:
        kills.ended_by_themselves += 1
    await victim.start()
    kills.back_after.append(time.monotonic() - killed_at)


# The sums


def _figures(sale: _Sale) -> dict[str, Figure]:
    counted = _counted(sale)
    more = counted | {"created_per_s": round(counted["created"] / sale.seconds), "processes": _PROCESSES}
    figures = {"oversold": _oversold(sale), "lost_events": _lost(sale), "stuck_holds": _stuck(sale)}
    problems = _too_little(counted, sale.kills)
    told = {name: found | more for name, found in figures.items()}
    return {name: failed(found, *problems) if problems else found for name, found in told.items()}


def _counted(sale: _Sale) -> dict[str, int]:
    answers = sale.told.answers
    return {
        "offered": _CREATES_A_SECOND * _SECONDS,
        "answered": sum(count for kind, count in answers.items() if kind == "create" or kind.startswith("create:")),
        "created": answers["create"],
        "confirmed": answers["confirm"],
        "expired": sum(each.status is Status.EXPIRED for each in sale.snapshot.reservations.values()),
        "events": sum(map(len, sale.received.versions.values())),
        "kills": sale.kills.made,
    }


def _too_little(counted: dict[str, int], kills: _Kills) -> list[str]:
    """Where little happens little goes wrong."""
    offered = counted["offered"]
    least = {"kills": 5, "answered": 0.6 * offered, "created": 0.4 * offered, "confirmed": 0.05 * offered}
    least |= {"expired": 0.05 * offered, "events": counted["created"]}
    problems = [f"only {counted[name]} {name}" for name, wanted in least.items() if counted[name] < wanted]
    return problems + [f"{kills.ended_by_themselves} processes ended by themselves"] * bool(kills.ended_by_themselves)


def _oversold(sale: _Sale) -> Figure:
    doubly_held = promises.doubly_held(sale.told, sale.snapshot)
    unkept = promises.unkept(sale.told, sale.snapshot)
    findings = [each for each in sale.findings if not each.kind.startswith("event-") and each.kind != "hold-stuck"]
    answers = {kind: count for kind, count in sorted(sale.told.answers.items()) if kind not in ("create", "confirm")}
    return _count(
        len(doubly_held) + len(unkept) + len(findings),
        "broken",
        doubly_held=len(doubly_held),
        answers_not_kept=len(unkept),
        audit=_kinds(findings),
        other_answers=answers,
    )


def _lost(sale: _Sale) -> Figure:
    lost = promises.lost_events(sale.told, sale.snapshot, sale.received.versions)
    findings = [each for each in sale.findings if each.kind.startswith("event-")]
    twice = sale.received.messages - sum(map(len, sale.received.versions.values()))
    return _count(max(len(lost), len(findings)), "events", audit=_kinds(findings), received_twice=twice)


def _stuck(sale: _Sale) -> Figure:
    stuck = promises.stuck(sale.snapshot, _now())
    findings = [each for each in sale.findings if each.kind == "hold-stuck"]
    latest = max((_late(each) for each in sale.snapshot.reservations.values()), default=0)
    back_after = round(max(sale.kills.back_after, default=0.0), 1)
    more = {"latest_settled_s": latest / 1000, "back_after_s": back_after}
    return _count(max(len(stuck), len(findings)), "holds", audit=_kinds(findings), **more)


def _late(reservation: Reservation) -> int:
    """By how many milliseconds its expiry was; 0 if it did not expire."""
    expired = reservation.status is Status.EXPIRED
    return reservation.updated_at - reservation.hold_expires_at if expired else 0


def _count(value: int, unit: str, **more: Any) -> Figure:
    return {"value": value, "unit": unit, "spread": 0.0, **more}


def _kinds(findings: list[Finding]) -> dict[str, int]:
    return dict(Counter(each.kind for each in findings))


def _now() -> int:
    return time.time_ns() // 1_000_000
