"""What operators scrape through the real Envoy is what has happened."""

import asyncio
import time
from collections import Counter
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from reservation.app import tables_of
from reservation.audit.reading import Audit
from reservation.domain.model import Reservation
from reservation.gen.com.traffic_tacos.reservation import v1 as messages
from tests.support.rest import CANCEL, CONFIRM, CREATE, EXTEND, body_of, hold, new_key, wanted
from tests.support.system import PACKAGE, Edge, System, call, create_request, refusal
from tests.support.system import hold as hold_natively

pytestmark = pytest.mark.asyncio(loop_scope="module")

Samples = dict[tuple[str, tuple[str, ...]], float]

PROMISED = {
    "http_server_requests_seconds",
    "grpc_server_handling_seconds",
    "grpc_client_duration_seconds",
    "reservation_created",
    "reservation_status",
    "reservation_errors",
    "reservation_expiry_lateness_seconds",
    "reservation_watches",
    "outbox_lag_seconds",
    "outbox_delivery_seconds",
    "outbox_dead_letters",
    "lease_held",
    "dynamodb_calls",
    "dynamodb_retries",
    "dynamodb_throttles",
    "eventbridge_calls",
    "event_loop_lag_seconds",
    "process_resident_memory_bytes",
    "python_gc_collections",
}


async def scraped(rest: httpx.AsyncClient) -> Samples:
    """By name and the values of the labels in the order of their names."""
    answer = await rest.get("/actuator/prometheus")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, tuple(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


async def counted(rest: httpx.AsyncClient, name: str) -> dict[str, int]:
    """Of a counter with one label."""
    return {labels[0]: int(value) for (sample, labels), value in (await scraped(rest)).items() if sample == name}


async def test_after_a_sale_the_transitions_are_those_that_the_audit_counts(system: System, edge: Edge) -> None:
    rest, seats = edge.rest, system.fresh_seats(6)
    key = new_key()
    for _ in range(2):  # the second one is a replay, and changes nothing
        body_of(await rest.post(CREATE, json=wanted(seats[:1]), headers=key), 201)
    body_of(await rest.post(CREATE, json=wanted(seats[:2]), headers=new_key()), 409)
    await hold_natively(system.channel, seats[5:6])
    sold, returned = await hold(rest, seats[1:2]), await hold(rest, seats[2:4])
    for _ in range(2):
        body_of(await rest.post(CONFIRM, json={"reservationId": sold, "paymentIntentId": "pay_1"}), 200)
        body_of(await rest.post(CANCEL, json={"reservationId": returned}), 200)
    prolonged = await hold(rest, seats[3:4])
    body_of(await rest.post(EXTEND, json={"reservationId": prolonged, "extensionSeconds": 30}), 200)
    await _ends(system, rest, seats[4])
    reservations = (await _audited(system)).values()
    now, ever = Counter(each.status.value for each in reservations), len(reservations)
    assert await counted(rest, "reservation_status_total") == {**now, "HOLD": ever}
    assert await counted(rest, "reservation_created_total") == {"HOLD": ever}
    assert await counted(rest, "reservation_errors_total") == {"SEAT_UNAVAILABLE": 1}


async def _ends(system: System, rest: httpx.AsyncClient, seat_id: str) -> None:
    """A hold that lasts for a moment, in which a busy machine can make it, is made, and recorded as expired."""
    soon = datetime.now(UTC) + timedelta(seconds=2)
    reserve = messages.ReserveSeatRequest("res_1", "evt_2025_1001", [seat_id], 1, hold_expires_at=soon)
    await call(system.channel, reserve)
    async with asyncio.timeout(30):
        while "EXPIRED" not in await counted(rest, "reservation_status_total"):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    lateness = (await scraped(rest))["reservation_expiry_lateness_seconds_count", ()]
    assert lateness == 1


async def _audited(system: System) -> dict[str, Reservation]:
    audit = Audit(system.dynamodb, tables_of(system.settings), now=lambda: int(time.time() * 1000))
    snapshot, broken = await audit.run()
    assert broken == []
    return snapshot.reservations


async def test_a_call_is_measured_by_its_rpc_and_a_rest_call_by_its_template_too(system: System, edge: Edge) -> None:
    service, uri = f"{PACKAGE}.ReservationService", "/v1/reservations/{reservation_id}"
    held = await hold(edge.rest, system.fresh_seats())
    for _ in range(2):
        body_of(await edge.rest.get(f"{CREATE}/{held}"), 200)
    body_of(await edge.rest.get(f"{CREATE}/rsv_none"), 404)
    await call(system.channel, messages.GetReservationRequest(reservation_id=held))
    await refusal(call(system.channel, create_request([])))
    samples = await scraped(edge.rest)
    rest, grpc = "http_server_requests_seconds_count", "grpc_server_handling_seconds_count"
    assert samples[rest, ("GET", "SUCCESS", "200", uri)] == 2
    assert samples[rest, ("GET", "CLIENT_ERROR", "404", uri)] == 1
    assert samples[rest, ("POST", "SUCCESS", "201", CREATE)] > 0
    assert samples[grpc, ("OK", "GetReservation", service)] == 3
    assert samples[grpc, ("INVALID_ARGUMENT", "CreateReservation", service)] == 1
    assert not [labels for (_, labels), _ in samples.items() if held in labels], "an id is no label"


async def test_everything_that_is_promised_is_told(system: System, edge: Edge) -> None:
    answer = await edge.rest.get("/actuator/prometheus")
    assert {family.name for family in text_string_to_metric_families(answer.text)} >= PROMISED
    samples = await scraped(edge.rest)
    async with asyncio.timeout(30):
        # Its bus is down, so that the events of the other tests wait.
        while samples["lease_held", ("shard",)] < system.settings.shards or samples["outbox_lag_seconds", ()] == 0:
            samples = await scraped(edge.rest)
    assert samples["dynamodb_calls_total", ("requests", "TransactWriteItems")] > 0
    assert samples["outbox_dead_letters", ()] == 0


async def test_the_listener_for_operators_tells_what_runs_and_has_no_api(system: System, edge: Edge) -> None:
    info = await edge.rest.get("/actuator/info")
    assert info.json().keys() == {"version", "commit"}
    assert (await edge.rest.get("/actuator/nothing")).status_code == 404
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{system.metrics_port}") as direct:
        assert (await direct.get("/metrics")).status_code == 200
        assert (await direct.get("/v1/reservations")).status_code == 404
