"""What is measured, under the names that dashboards and alerts know.

Counters and histograms are written where things happen, by children that were bound before; gauges are set once a
second by their loop; what AWS clients count themselves is read when somebody asks. Every service has a registry of its
own, so that several can run in one process.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, GCCollector, Histogram, ProcessCollector
from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

# Around the goal of 120 ms: fine enough below it to tell a p95 of 60 ms from one of 100 ms.
_CALL_BUCKETS = (0.0025, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.12, 0.16, 0.25, 0.5, 1.0, 2.5, 5.0)
# Around the goals of 1 s for the end of a hold, and of 2 s for an event.
_LATENESS_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 30.0)
_DELIVERY_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0)
_LAG_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

_NO_ERRORS = ("OK", "CANCELLED")  # a caller that leaves has got no error
_LAG_SECONDS = 0.25

Ended = Callable[[str, str, int, bool, float], None]
"""Told of the end of a call: its code ("OK", or the error's), the gRPC status by name, the HTTP status that goes with
it, whether it came as REST, and its seconds."""


class Counted(Protocol):
    """An AWS client. `stats` has the calls of each operation by its name; `failures` the failed tries and the retries
    as (operation, what)."""

    @property
    def stats(self) -> Mapping[str, int]: ...
    @property
    def failures(self) -> Mapping[tuple[str, str], int]: ...


class Metrics:
    """`registry` holds everything that is measured by the methods and by whatever is registered there."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        GCCollector(registry=registry)
        self._http = Histogram(
            "http_server_requests_seconds",
            "Calls that came as REST, by the template of their path.",
            ("method", "uri", "status", "outcome"),
            buckets=_CALL_BUCKETS,
            registry=registry,
        )
        self._grpc = Histogram(
            "grpc_server_handling_seconds",
            "Calls, those that came as REST among them; streams are not measured.",
            ("grpc_service", "grpc_method", "grpc_code"),
            buckets=_CALL_BUCKETS,
            registry=registry,
        )
        self._remote = Histogram(
            "grpc_client_duration_seconds",
            "Calls to the remote inventory that were made, whatever they came to.",
            ("service", "method"),
            buckets=_CALL_BUCKETS,
            registry=registry,
        )
        self._errors = Counter("reservation_errors", "Calls that were refused or failed.", ("code",), registry=registry)
        self._created = Counter(
            "reservation_created", "New reservations, by the status they began with.", ("status",), registry=registry
        )
        self._statuses = Counter(
            "reservation_status", "Reservations that came into a status.", ("status",), registry=registry
        )
        self._counts: dict[tuple[str | None, str], tuple[Callable[[], None], ...]] = {}
        self._lateness = Histogram(
            "reservation_expiry_lateness_seconds",
            "How long after its time each hold was recorded as expired.",
            buckets=_LATENESS_BUCKETS,
            registry=registry,
        )
        self._delivery = Histogram(
            "outbox_delivery_seconds",
            "From the writing of an event until the bus accepted it.",
            buckets=_DELIVERY_BUCKETS,
            registry=registry,
        )
        self._loop_lag = Histogram(
            "event_loop_lag_seconds",
            "How much later than asked for the event loop woke up.",
            buckets=_LAG_BUCKETS,
            registry=registry,
        )

    # Calls

    def calls(self, service: str, method: str, http_method: str, uri: str) -> Ended:
        """For one rpc. `http_method` and `uri`: of its REST route, both empty if it has none."""
        handled: dict[str, Callable[[float], None]] = {}
        requests: dict[int, Callable[[float], None]] = {}
        errors: dict[str, Callable[[], None]] = {}

        def ended(code: str, status: str, http: int, rest: bool, seconds: float) -> None:
            if (observe := handled.get(status)) is None:
                observe = handled[status] = self._grpc.labels(service, method, status).observe
            observe(seconds)
            if rest and uri:
                if (request := requests.get(http)) is None:
                    labels = (http_method, uri, str(http), _outcome(http))
                    request = requests[http] = self._http.labels(*labels).observe
                request(seconds)
            if code not in _NO_ERRORS:
                if (failed := errors.get(code)) is None:
                    failed = errors[code] = self._errors.labels(code).inc
                failed()

        return ended

    def streams(self) -> Ended:
        """For one rpc that answers a stream. How long one lasts says nothing about us, so only its failure counts."""

        def ended(code: str, status: str, http: int, rest: bool, seconds: float) -> None:
            if code not in _NO_ERRORS:
                self._errors.labels(code).inc()

        return ended

    def asked_elsewhere(self, service: str, method: str, seconds: float) -> None:
        """A call to another service has ended."""
        self._remote.labels(service, method).observe(seconds)

    # What becomes of reservations

    def moved(self, before: str | None, after: str) -> None:
        """A reservation came from one status into another; from None: it is new."""
        if before == after:
            return
        if (count := self._counts.get((before, after))) is None:
            count = self._counts[before, after] = self._bound(before, after)
        for increment in count:
            increment()

    def _bound(self, before: str | None, after: str) -> tuple[Callable[[], None], ...]:
        into = self._statuses.labels(after).inc
        return (into, self._created.labels(after).inc) if before is None else (into,)

    def expired(self, late_ms: int) -> None:
        self._lateness.observe(late_ms / 1000)

    def delivered(self, seconds: float) -> None:
        self._delivery.observe(seconds)

    # What is at this moment

    def gauge(self, name: str, text: str, **labels: str) -> Callable[[float], None]:
        """Sets it. Called once for each name."""
        gauge = Gauge(name, text, tuple(labels), registry=self.registry)
        return gauge.labels(**labels).set if labels else gauge.set

    def states(self, name: str, text: str, states: Iterable[str], **labels: str) -> Callable[[str], None]:
        """Sets the one of the states that is: 1 for it, 0 for the others."""
        gauge = Gauge(name, text, (*labels, "state"), registry=self.registry)
        children = {state: gauge.labels(**labels, state=state) for state in states}

        def be(now: str) -> None:
            for state, child in children.items():
                child.set(state == now)

        return be

    def aws_clients(self, prefix: str, clients: Mapping[str, Counted]) -> None:
        """Tells what these clients of one service, by their names, have counted."""
        self.registry.register(_AwsCollector(prefix, clients))

    async def watch_loop(self, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        """Measures by how much the event loop is late, until cancelled."""
        while True:
            due = time.monotonic() + _LAG_SECONDS
            await sleep(_LAG_SECONDS)
            self._loop_lag.observe(max(0.0, time.monotonic() - due))


class _AwsCollector(Collector):
    """`<prefix>_calls_total`, `_retries_total` and `_throttles_total` by client and operation."""

    def __init__(self, prefix: str, clients: Mapping[str, Counted]) -> None:
        self._prefix = prefix
        self._clients = clients

    def describe(self) -> Iterable[Metric]:
        return (self._family("calls", ""), self._family("retries", ""), self._family("throttles", ""))

    def collect(self) -> Iterable[Metric]:
        calls = self._family("calls", "Calls that were begun.")
        retries = self._family("retries", "Tries after the first one.")
        throttles = self._family("throttles", "Tries that were answered with a throttle.")
        for name, client in self._clients.items():
            # dict() of a dict is one step, whatever the event loop does meanwhile.
            for operation, count in dict(client.stats).items():
                if operation[0].isupper():
                    calls.add_metric((name, operation), count)
            for (operation, what), count in dict(client.failures).items():
                if what in ("retries", "throttle"):
                    (retries if what == "retries" else throttles).add_metric((name, operation), count)
        return (calls, retries, throttles)

    def _family(self, what: str, text: str) -> CounterMetricFamily:
        return CounterMetricFamily(f"{self._prefix}_{what}", text, labels=("client", "operation"))


def _outcome(http: int) -> str:
    return "SUCCESS" if http < 400 else "CLIENT_ERROR" if http < 500 else "SERVER_ERROR"
