"""What is counted, and what is not."""

from collections import Counter

from reservation.telemetry.gauges import Gauges
from reservation.telemetry.metrics import Metrics


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_a_transition_is_counted_and_a_longer_hold_is_none() -> None:
    metrics = Metrics()
    for before, after in (
        (None, "HOLD"),
        ("HOLD", "HOLD"),
        ("HOLD", "CONFIRMED"),
        (None, "PENDING"),
        ("PENDING", "HOLD"),
    ):
        metrics.moved(before, after)
    counts = {status: value(metrics, "reservation_status_total", status=status) for status in ("HOLD", "CONFIRMED")}
    assert counts == {"HOLD": 2, "CONFIRMED": 1}
    assert value(metrics, "reservation_created_total", status="HOLD") == 1
    assert value(metrics, "reservation_created_total", status="PENDING") == 1


def test_a_stream_is_no_latency_and_a_caller_that_leaves_no_error() -> None:
    metrics = Metrics()
    stream, call = metrics.streams(), metrics.calls("s", "Get", "GET", "/v1/x")
    stream("SERVICE_UNAVAILABLE", "UNAVAILABLE", 503, False, 3600.0)
    for ended in (stream, call):
        ended("CANCELLED", "CANCELLED", 499, False, 0.1)
    assert value(metrics, "reservation_errors_total", code="SERVICE_UNAVAILABLE") == 1
    assert value(metrics, "reservation_errors_total", code="CANCELLED") is None
    labels = {"grpc_service": "s", "grpc_method": "Get", "grpc_code": "CANCELLED"}
    assert value(metrics, "grpc_server_handling_seconds_count", **labels) == 1


class Client:
    def __init__(self) -> None:
        self.stats = Counter({"calls": 3, "GetItem": 2, "Query": 1, "retries": 2, "throttle": 2})
        self.failures = Counter({("GetItem", "throttle"): 2, ("GetItem", "retries"): 2, ("Query", "conflict"): 1})


def test_calls_retries_and_throttles_are_told_by_operation() -> None:
    metrics = Metrics()
    metrics.aws_clients("dynamodb", {"loops": Client()})
    told = {
        what: value(metrics, f"dynamodb_{what}_total", client="loops", operation="GetItem")
        for what in ("calls", "retries", "throttles")
    }
    assert told == {"calls": 2, "retries": 2, "throttles": 2}
    assert value(metrics, "dynamodb_calls_total", client="loops", operation="calls") is None


def test_a_circuit_is_in_one_state() -> None:
    metrics = Metrics()
    gauges = Gauges(
        metrics,
        ready=lambda: True,
        clock_skew=lambda: -0.5,
        shards=lambda: 16,
        shards_held=lambda: 4,
        oldest_event=lambda: 1.5,
        watches=lambda: 2,
        circuit=lambda: "open",
        keys_age=lambda: 30.0,
    )
    gauges.look()
    states = {
        state: value(metrics, "circuit_state", circuit="inventory", state=state)
        for state in ("closed", "half_open", "open")
    }
    assert states == {"closed": 0, "half_open": 0, "open": 1}
    assert (value(metrics, "lease_held", kind="shard"), value(metrics, "outbox_lag_seconds")) == (4, 1.5)
    assert (value(metrics, "reservation_ready"), value(metrics, "lease_shards")) == (1, 16)
    assert (value(metrics, "clock_skew_seconds"), value(metrics, "issuer_keys_age_seconds")) == (-0.5, 30)
