"""What is told of each call when it has ended: one line in the log and its figures."""

import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Protocol

import grpc
import structlog

from reservation.api.call import Call
from reservation.api.descriptors import rest_route

log = structlog.get_logger()

ONE_IN = 100
"""Of the calls beyond the limit one in so many has its line."""

Ended = Callable[[str, str, int, bool, float], None]
"""Hears of the end of a call: its code ("OK", or the error's), the gRPC status by name, the HTTP status that goes with
it, whether it came as REST, and its seconds."""

Report = Callable[[Call, str, grpc.StatusCode, int, str, float], None]
"""Tells of the end of a call: its code, statuses, the reservation that it was about ("": none), and when it began in
time.monotonic() seconds."""


class Meter(Protocol):
    """What measures calls."""

    def calls(self, service: str, method: str, http_method: str, uri: str) -> Ended:
        """For one rpc. `http_method` and `uri`, the template of the path: of its REST route, empty if it has none."""
        ...

    def streams(self) -> Ended:
        """For one rpc that answers a stream."""
        ...


class Unmeasured:
    """A Meter for who needs no figures."""

    def calls(self, service: str, method: str, http_method: str, uri: str) -> Ended:
        return self.streams()

    def streams(self) -> Ended:
        return lambda code, status, http, rest, seconds: None


class _Thinned:
    """Which calls of one kind have a line: so many a second, and one in ONE_IN beyond them."""

    def __init__(self, lines_per_second: int) -> None:
        self._limit = lines_per_second
        self._second = -1
        self._calls = 0

    def weight(self, now: float) -> int:
        """How many calls a line for this one stands for; 0: it has none."""
        if int(now) != self._second:
            self._second, self._calls = int(now), 0
        self._calls += 1
        if self._calls <= self._limit:
            return 1
        return ONE_IN if (self._calls - self._limit) % ONE_IN == 0 else 0


class Outcomes:
    """Every fault of ours has its line. Successes have so many a second, and so have refusals, most of what a sale that
    is nearly over answers; beyond them one in 100 has, which says so by `stands_for`. `pseudonym`: what a line may say
    of a user."""

    def __init__(
        self,
        meter: Meter | None = None,
        *,
        pseudonym: Callable[[str], str] = lambda user: "",
        lines_per_second: int = 100,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._meter: Meter = meter or Unmeasured()
        self._pseudonym = pseudonym
        self._monotonic = monotonic
        self._successes = _Thinned(lines_per_second)
        self._refusals = _Thinned(lines_per_second)

    def reports(self, service: str, method: str, *, stream: bool = False) -> Report:
        """For one rpc; `service` is its full name."""
        measure = self._meter.streams() if stream else self._meter.calls(service, method, *rest_route(service, method))

        def report(
            call: Call, code: str, status: grpc.StatusCode, http: int, reservation_id: str, started: float
        ) -> None:
            now = self._monotonic()
            measure(code, status.name, http, call.path is not None, now - started)
            if weight := self._weight(http, now):
                self._log(call, code, reservation_id, now - started, weight)

        return report

    def _weight(self, http: int, now: float) -> int:
        if http >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return 1
        kind = self._successes if http < HTTPStatus.BAD_REQUEST else self._refusals
        return kind.weight(now)

    def _log(self, call: Call, code: str, reservation_id: str, seconds: float, weight: int) -> None:
        told: dict[str, object] = {"code": code, "ms": round(seconds * 1000, 1), "rest": call.path is not None}
        if user := getattr(call, "user", ""):
            told["user"] = self._pseudonym(user)
        if reservation_id:
            told["reservation_id"] = reservation_id
        if weight > 1:
            told["stands_for"] = weight
        log.info("rpc", **told)
