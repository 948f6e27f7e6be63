"""From a customer's answer to its event on the bus: PutEvents accepted, at an endpoint of this process.

The customers are in this process too, so one monotonic clock times both ends. The services are `reservation serve`, the
store is the emulator in a process of its own.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count

import grpc
import orjson
import uvloop

from reservation.gen.com.traffic_tacos.reservation import v1 as messages
from reservation.ministack import Ministack
from tests.bench.box_office import BoxOffice, offer, opened
from tests.bench.figures import Figure, failed, figure, percentile
from tests.support.event_bus_proxy import EventBusProxy
from tests.support.system import call, create_request, own_settings

_EVENTS_A_SECOND = 200
_ROUND_SECONDS = 10
_PROCESSES = 3
_THINK_SECONDS = 0.5
_HOLD_SECONDS = 3600  # nothing expires meanwhile
_PATIENCE_SECONDS = 20.0
_WARM_UP_SECONDS = 2
_ENOUGH = 0.95


def measure_one_process(rounds: int = 5) -> dict[str, Figure]:
    """Creates alone, all on one process, which owns every shard."""
    return {"outbox_lag_p99_ms": uvloop.run(_measure(1, rounds, confirming=False))}


def measure_spread(rounds: int = 5) -> dict[str, Figure]:
    """Half creates, half confirms, on three processes: a confirm mostly lands on one that does not own its shard."""
    return {"outbox_lag_spread_p99_ms": uvloop.run(_measure(_PROCESSES, rounds, confirming=True))}


@dataclass(slots=True)
class _Round:
    """When the customers' answers arrived, in time.monotonic() seconds, by the messageId of their events."""

    created: dict[str, float] = field(default_factory=dict)
    confirmed: dict[str, float] = field(default_factory=dict)
    failed: Counter[str] = field(default_factory=Counter)


async def _measure(processes: int, rounds: int, *, confirming: bool) -> Figure:
    customers_a_second = _EVENTS_A_SECOND // (1 + confirming)
    seats = int(customers_a_second * (_WARM_UP_SECONDS + rounds * _ROUND_SECONDS))
    with Ministack() as emulator:
        async with EventBusProxy() as bus:
            settings = own_settings(emulator.url, aws_eventbridge_endpoint=bus.url)
            bus.buses = {settings.eventbridge_bus_name}
            async with opened(settings, services=processes, seats=seats, hold_seconds=_HOLD_SECONDS) as office:
                customers = _Customers(office, confirming=confirming)
                await customers.come(customers_a_second, _WARM_UP_SECONDS)
                done = [await customers.come(customers_a_second, _ROUND_SECONDS) for _ in range(rounds)]
                with suppress(TimeoutError):
                    async with asyncio.timeout(_PATIENCE_SECONDS):
                        while _missing(done, _accepted(bus)):
                            await bus.until_accepted(len(bus.accepted) + 1)
            return _figure(done, _accepted(bus), processes)


class _Customers:
    """Each holds a seat that nobody else wants, on any process, and perhaps confirms it soon after, on any."""

    def __init__(self, office: BoxOffice, *, confirming: bool) -> None:
        self._office = office
        self._confirming = confirming
        self._numbers = count()

    async def come(self, rate: float, seconds: float) -> _Round:
        this = _Round()
        await offer(rate, seconds, lambda _: self._customer(this, next(self._numbers)))
        return this

    async def _customer(self, this: _Round, number: int) -> None:
        try:
            held = await call(self._anybody(), create_request([f"S-{number}"]))
            reservation_id = held.message.reservation_id
            this.created[f"{reservation_id}#1"] = time.monotonic()
            if self._confirming:
                await asyncio.sleep(_THINK_SECONDS)
                request = messages.ConfirmReservationRequest(reservation_id=reservation_id, payment_intent_id="pay")
                await call(self._anybody(), request)
                this.confirmed[f"{reservation_id}#2"] = time.monotonic()
        except grpc.aio.AioRpcError as error:
            this.failed[error.code().name] += 1

    def _anybody(self) -> grpc.aio.Channel:
        return random.choice(self._office.channels)


def _accepted(bus: EventBusProxy) -> dict[str, float]:
    """When the bus accepted each event first."""
    at: dict[str, float] = {}
    for entry, accepted_at in zip(bus.accepted, bus.accepted_at, strict=True):
        at.setdefault(orjson.loads(entry["Detail"])["messageId"], accepted_at)
    return at


def _missing(rounds: list[_Round], accepted: dict[str, float]) -> int:
    return sum(message_id not in accepted for each in rounds for message_id in each.created | each.confirmed)


def _figure(rounds: list[_Round], accepted: dict[str, float], processes: int) -> Figure:
    lags = [list(_lags(each.created | each.confirmed, accepted)) for each in rounds]
    every = [lag for each in lags for lag in each]
    told = figure(
        [percentile(each, 99) for each in lags],
        "ms",
        p50_ms=round(percentile(every, 50), 1),
        max_ms=round(max(every), 1),
        events=len(every),
        events_per_s=round(len(every) / (len(rounds) * _ROUND_SECONDS)),
        processes=processes,
    )
    for name, kind in (("creates", "created"), ("confirms", "confirmed")):
        of_kind = [lag for each in rounds for lag in _lags(getattr(each, kind), accepted)]
        if of_kind:
            told |= {name: len(of_kind), f"{name}_p99_ms": round(percentile(of_kind, 99), 1)}
    refused = sum((each.failed for each in rounds), Counter[str]())
    told |= {"failed_calls": dict(refused)} if refused else {}
    problems = [f"{missing} events never came"] if (missing := _missing(rounds, accepted)) else []
    if len(every) < _ENOUGH * _EVENTS_A_SECOND * _ROUND_SECONDS * len(rounds):
        problems.append(f"{told['events_per_s']} events/s were too few")
    return failed(told, *problems) if problems else told


def _lags(answered: dict[str, float], accepted: dict[str, float]) -> Iterator[float]:
    """In milliseconds."""
    return ((accepted[key] - at) * 1000 for key, at in answered.items() if key in accepted)
