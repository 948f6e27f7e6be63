"""Many customers want the same seats, through a proxy that refuses overlapping transactions as DynamoDB does.

The emulators serve one transaction after the other and never raise a conflict; the proxy holds each for 8 ms.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from dataclasses import replace

import uvloop

from reservation.cli import collect_rarely
from reservation.domain.errors import ReservationError, SeatUnavailable, ServiceUnavailable, UpstreamTimeout
from reservation.domain.model import Seat
from reservation.ministack import Ministack
from tests.bench import processes
from tests.bench.figures import Figure, figure, percentile
from tests.support.store import EVENT, PRICE, Party, open_venue, soon

_CUSTOMERS, _HERDS, _PROCESSES = 64, 10, 4
_STORMS, _EQUAL = 40, 50


def measure_contention(rounds: int = 5) -> dict[str, Figure]:
    """64 customers want the same 2 seats, over 4 processes: latency at the store until each has an answer."""
    with Ministack() as emulator, _proxy(emulator.url, throttle=0.0, lose_reply=0.0) as (_, port):
        latencies = uvloop.run(_contention(emulator.url, f"http://127.0.0.1:{port}", rounds))
    p99s = [percentile(each, 99) * 1000 for each in latencies]
    middle = percentile([each for latency in latencies for each in latency], 50) * 1000
    return {"contention_p99_ms": figure(p99s, "ms", p50_ms=round(middle, 1), answers=_CUSTOMERS * _HERDS * rounds)}


def measure_replay_storm(rounds: int = 5) -> dict[str, Figure]:
    """40 rounds of 50 equal creates over 4 processes, with 5 % throttles and 5 % lost replies: answers that are neither
    the original nor its replay. `rounds` does not change it."""
    with Ministack() as emulator, _proxy(emulator.url, throttle=0.05, lose_reply=0.05) as (_, port):
        answers = uvloop.run(_storms(emulator.url, f"http://127.0.0.1:{port}"))
    wrong = sum(count for kind, count in answers.items() if kind not in ("original", "replay"))
    return {"replay_storm": {"value": wrong, "unit": "wrong answers", "spread": 0.0, "storms": _STORMS, **answers}}


def _proxy(upstream: str, *, throttle: float, lose_reply: float) -> AbstractContextManager[tuple[int, int]]:
    return processes.printing_its_port(
        "tests.support.conflict_proxy", upstream, "0", "8", str(throttle), str(lose_reply)
    )


@asynccontextmanager
async def _parties(upstream: str, proxy: str, seats: list[Seat]) -> AsyncIterator[list[Party]]:
    async with open_venue(upstream) as venue:
        await venue.sell(seats)
        parties = [venue.party(await venue.connect(proxy)) for _ in range(_PROCESSES)]
        collect_rarely()  # as the service does, or one herd in four waits for the collector of this process
        yield parties


async def _contention(upstream: str, proxy: str, rounds: int) -> list[list[float]]:
    herds = [f"{each}-{seat}" for each in range(rounds * _HERDS) for seat in (1, 2)]
    async with _parties(upstream, proxy, _seats(herds)) as parties:
        latencies: list[list[float]] = []
        for each in range(rounds * _HERDS):
            wanted = (f"{each}-1", f"{each}-2")
            for party in parties:  # seats that so many want are in every cache
                await party.inventory.facts(EVENT.id, wanted, soon())
            answers = (_timed(parties[number % _PROCESSES], wanted, str(number)) for number in range(_CUSTOMERS))
            if each % _HERDS == 0:
                latencies.append([])
            latencies[-1] += await asyncio.gather(*answers)
        return latencies


async def _timed(party: Party, wanted: tuple[str, ...], user: str) -> float:
    started = time.perf_counter()
    with suppress(SeatUnavailable):
        await party.create(*wanted, user=user, key=wanted[0])
    return time.perf_counter() - started


async def _storms(upstream: str, proxy: str) -> Counter[str]:
    storms = [f"{each}-{seat}" for each in range(_STORMS) for seat in (1, 2)]
    answers: Counter[str] = Counter()
    async with _parties(upstream, proxy, _seats(storms)) as parties:
        for each in range(_STORMS):
            wanted = (f"{each}-1", f"{each}-2")
            told = await asyncio.gather(
                *(_equal(parties[number % _PROCESSES], wanted, f"key-{each}") for number in range(_EQUAL))
            )
            one_id = len({reservation_id for _, reservation_id in told if reservation_id}) == 1
            answers.update(kind if one_id else f"{kind} of several" for kind, _ in told)
            answers["several originals"] += max(0, sum(kind == "original" for kind, _ in told) - 1)
    return Counter({kind: count for kind, count in answers.items() if count})


async def _equal(party: Party, wanted: tuple[str, ...], key: str) -> tuple[str, str]:
    """What one customer is told, who retries as real ones do: after a time-out or an outage, with the same key."""
    until = soon(30)
    while True:
        try:
            recorded = await party.create(*wanted, key=key, patience=2.5)
        except (UpstreamTimeout, ServiceUnavailable):
            if time.monotonic() < until:
                continue
            return "gave up", ""
        except ReservationError as error:
            return error.code, ""
        return ("replay" if recorded.replayed else "original"), recorded.reservation.id


def _seats(ids: list[str]) -> list[Seat]:
    model = Seat("", "Floor", "", "", PRICE)
    return [replace(model, id=each, row=each.split("-")[0], number=each.split("-")[1]) for each in ids]
