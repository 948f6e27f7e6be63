"""The load of a sale, over REST: creates, and confirms of the reservation that the sink knows.

`python -m tests.bench.offer HOST PORT` reads one Offer a line from stdin as JSON, makes it, and prints an Offered. It
does little more than to write ready bytes and to look at the status, because it shares the machine with what it loads.
Arrivals do not wait for answers: a latency counts from when the request was due, however late it was sent.
"""

import asyncio
import itertools
import json
import sys
import time
import uuid
from collections import Counter, deque
from dataclasses import asdict, dataclass, field
from typing import cast

import orjson
import uvloop

from tests.bench.figures import percentile
from tests.bench.sink import HELD, USER

_TICK_SECONDS = 0.002
_PATIENCE_SECONDS = 10.0
_HEAD = "POST {path} HTTP/1.1\r\nhost: sale\r\ncontent-type: application/json\r\nidempotency-key: {key}\r\n"
_HEADERS = _HEAD + "authorization: Bearer " + "t" * 520 + "\r\ncontent-length: {length}\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Offer:
    """`rate` requests a second for `seconds`; or with `in_flight`, as many as are answered while so many are always
    under way. One in `confirm_every` is a confirm, the others are creates; 0: none is."""

    seconds: float
    rate: float = 0
    in_flight: int = 0
    confirm_every: int = 10


@dataclass(frozen=True, slots=True)
class Offered:
    """What became of it. `answers`: how many of each kind and status ("create 201"; status 0: a broken connection).
    `p99_ms`: of what was accepted. `cpu_seconds`: of this process."""

    seconds: float
    answers: dict[str, int] = field(default_factory=dict)
    p99_ms: float = 0.0
    median_ms: float = 0.0
    cpu_seconds: float = 0.0

    def count(self, kind: str, *, accepted: bool) -> int:
        """`kind`: "create", "confirm", or "" for all."""
        return sum(
            count
            for answer, count in self.answers.items()
            if answer.startswith(kind) and answer.endswith(("200", "201")) == accepted
        )


class _Client(asyncio.Protocol):
    """One connection, one request at a time on it."""

    def __init__(self, load: "_Load") -> None:
        self._load = load
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._kind = ""
        self._due = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._kind:
            self._end(0)

    def send(self, kind: str, due: float, request: bytes) -> None:
        self._kind, self._due = kind, due
        if self._transport is None:
            self._end(0)
        else:
            self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head_end = self._received.find(b"\r\n\r\n")
        if head_end < 0:
            return
        length = self._received.find(b"content-length: ", 0, head_end) + 16
        if len(self._received) < head_end + 4 + int(self._received[length : self._received.index(b"\r", length)]):
            return
        status, self._received = int(self._received[9:12]), b""
        self._end(status)

    def _end(self, status: int) -> None:
        kind, self._kind = self._kind, ""
        self._load.answered(self, f"{kind} {status}", self._due)

    @property
    def usable(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()


class _Load:
    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self._idle: deque[_Client] = deque()
        self._opening: set[asyncio.Future[None]] = set()
        self._all_answered = asyncio.Event()
        self._numbers = itertools.count()
        self._run = uuid.uuid4().hex[:8]
        self._begin(Offer(0))

    def _begin(self, offer: Offer) -> None:
        self._open = 0
        self._answers: Counter[str] = Counter()
        self._accepted: list[float] = []
        self._refill_until = 0.0
        self._confirm_every = offer.confirm_every

    async def make(self, offer: Offer) -> Offered:
        self._begin(offer)
        cpu, begun = time.process_time(), time.monotonic()
        end = begun + offer.seconds
        if offer.in_flight:
            self._refill_until = end
            for _ in range(offer.in_flight):
                self._send(time.monotonic())
            await asyncio.sleep(end - time.monotonic())
        else:
            await self._arrive(offer.rate, begun, end)
        took, answers = time.monotonic() - begun, dict(self._answers)  # what is answered later is no goodput
        accepted = list(self._accepted)
        await asyncio.wait_for(self._all_answered.wait(), _PATIENCE_SECONDS)
        return Offered(
            took,
            answers,
            round(percentile(accepted, 99), 2) if accepted else 0.0,
            round(percentile(accepted, 50), 2) if accepted else 0.0,
            round(time.process_time() - cpu, 2),
        )

    async def _arrive(self, rate: float, begun: float, end: float) -> None:
        for number in itertools.count():
            due = begun + number / rate
            if due >= end:
                return
            if (now := time.monotonic()) < due:
                await asyncio.sleep(max(_TICK_SECONDS, due - now))
            self._send(due)

    def _send(self, due: float) -> None:
        self._open += 1
        self._all_answered.clear()
        while self._idle:
            if (client := self._idle.pop()).usable:
                client.send(*self._next(due))
                return
        opening = asyncio.ensure_future(self._send_on_new_connection(due))
        self._opening.add(opening)
        opening.add_done_callback(self._opening.remove)

    async def _send_on_new_connection(self, due: float) -> None:
        _, client = await asyncio.get_running_loop().create_connection(lambda: _Client(self), *self._target)
        client.send(*self._next(due))

    def _next(self, due: float) -> tuple[str, float, bytes]:
        number = next(self._numbers)
        if not self._confirm_every or number % self._confirm_every:
            row, first = divmod(2 * number % 2000, 50)
            body = orjson.dumps(
                {
                    "eventId": HELD.event_id,
                    "seatIds": [f"R{row}-{first}", f"R{row}-{first + 1}"],
                    "quantity": 2,
                    "userId": USER,
                    "reservationToken": "rtkn_xyz789",
                }
            )
            kind, path = "create", "/v1/reservations"
        else:
            body = orjson.dumps({"reservationId": HELD.id, "paymentIntentId": "pay_1", "userId": USER})
            kind, path = "confirm", "/v1/reservations/confirm"
        head = _HEADERS.format(path=path, key=f"{self._run}-{number}", length=len(body))
        return kind, due, head.encode() + body

    def answered(self, client: _Client, answer: str, due: float) -> None:
        now = time.monotonic()
        self._open -= 1
        if not self._open:
            self._all_answered.set()
        self._answers[answer] += 1
        if answer.endswith(("200", "201")):
            self._accepted.append((now - due) * 1000)
        if now < self._refill_until and client.usable:
            self._open += 1
            self._all_answered.clear()
            client.send(*self._next(now))
        else:
            self._idle.append(client)


async def main(host: str, port: int) -> None:
    load = _Load(host, port)
    while line := await asyncio.to_thread(sys.stdin.readline):
        offered = await load.make(Offer(**json.loads(line)))
        print(json.dumps(asdict(offered)), flush=True)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2])))
