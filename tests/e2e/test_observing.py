"""Dashboards, alerts and the autoscaler's rule, asked of a real Prometheus that has watched two services sell."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import httpx
import pytest
import pytest_asyncio
import yaml

from reservation.gen.com.traffic_tacos.reservation import v1 as messages
from tests.support.conflict_proxy import ConflictProxy
from tests.support.edge import REPOSITORY
from tests.support.faults import Throttle
from tests.support.prometheus import Prometheus, prometheus, require, rules
from tests.support.rest import CANCEL, CONFIRM, CREATE, body_of, hold, new_key, wanted
from tests.support.system import (
    EVENT_ID,
    Edge,
    System,
    call,
    create_request,
    edge_of,
    make_tables,
    own_settings,
    refusal,
    refusal_of,
    selling,
    serving,
    table_name,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

DASHBOARDS: dict[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))
    for path in sorted((REPOSITORY / "deploy" / "grafana" / "dashboards").glob("*.json"))
}
ADAPTER = yaml.safe_load((REPOSITORY / "deploy" / "k8s" / "prometheus-adapter-rule.yaml").read_text(encoding="utf-8"))
RUNBOOK = (REPOSITORY / "deploy" / "README.md").read_text(encoding="utf-8")
KEEPER, SELLER = "reservation", "reservation-seller"
TIMES = {"$__rate_interval": "1m", "$__range": "1m", "$namespace": ".*", "$instance": ".*"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def watching(ministack_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Prometheus]:
    """It has seen a service with Envoy before it that keeps seats, another one that sells them, and whatever either may
    have to tell: refusals, failures, a throttle, an end of a hold."""
    require("prometheus")
    async with AsyncExitStack() as closing:
        bus = {"aws_eventbridge_endpoint": ministack_url, "eventbridge_bus_name": "default"}
        keeper = await closing.enter_async_context(selling(own_settings(ministack_url, **bus)))
        edge = await closing.enter_async_context(edge_of(keeper))
        proxy = await closing.enter_async_context(ConflictProxy(ministack_url, hold=0))
        seller = await closing.enter_async_context(_selling_from(keeper, proxy.url))
        jobs = {
            KEEPER: _reads(edge.rest.base_url.netloc.decode(), "keeper"),
            SELLER: _reads(f"127.0.0.1:{seller.metrics_port}", "seller") | {"metrics_path": "/metrics"},
        }
        url = closing.enter_context(prometheus(jobs, tmp_path_factory.mktemp("prometheus")))
        http = await closing.enter_async_context(httpx.AsyncClient(base_url=url, timeout=10))
        proxy.script(lambda request: request.operation == "TransactWriteItems", Throttle())
        await call(seller.channel, create_request(seller.fresh_seats(100)[-1:]))
        await _sale(keeper, edge)
        seen = Prometheus(http)
        # A rate takes two samples, and its counter is there only from the first failure on.
        await _comes(seen, 'reservation_errors_total{code="INTERNAL_ERROR"}')
        await _fails(keeper)
        await _comes(seen, "job:reservation_calls_failed:ratio_rate3d > 0")
        yield seen


def _reads(address: str, pod: str) -> dict[str, Any]:
    return {"static_configs": [{"targets": [address], "labels": {"namespace": "tacos-app", "pod": pod}}]}


@asynccontextmanager
async def _selling_from(keeper: System, dynamodb_url: str) -> AsyncIterator[System]:
    """A service whose seats are the keeper's, and whose issuer of tokens cannot be reached."""
    settings = own_settings(
        dynamodb_url,
        grpc_client_inventory_service_address=keeper.address,
        grpc_client_inventory_service_timeout="1s",
        jwt_issuer_uri="http://127.0.0.1:9",
        jwt_audience="reservation-api",
        grpc_auth="trusted",
    )
    await make_tables(settings)
    async with serving(settings) as system:
        yield system


async def _sale(system: System, edge: Edge) -> None:
    """Seats are sold, returned, refused and kept for too long, somebody watches too much, and an item is broken."""
    rest, channel, seats = edge.rest, system.channel, system.fresh_seats(4)
    sold, returned = await hold(rest, seats[:1]), await hold(rest, seats[1:2])
    body_of(await rest.post(CREATE, json=wanted(seats[:1]), headers=new_key()), 409)
    body_of(await rest.post(CONFIRM, json={"reservationId": sold, "paymentIntentId": "pay_1"}), 200)
    body_of(await rest.post(CANCEL, json={"reservationId": returned}), 200)
    while not await _holds_for_a_moment(channel, seats[2]):
        pass
    watched = await hold(rest, seats[3:4])
    async with AsyncExitStack() as watches:
        for _ in range(5):
            await watches.enter_async_context(rest.stream("GET", f"{CREATE}/{watched}/watch"))
        assert (await rest.get(f"{CREATE}/{watched}/watch")).status_code == 429
    broken = {"reservationId": {"S": "rsv_broken"}, "eventId": {"S": EVENT_ID}}
    await system.dynamodb.call("PutItem", {"TableName": table_name(system.settings, "reservations"), "Item": broken})
    await _fails(system)


async def _holds_for_a_moment(channel: grpc.aio.Channel, seat_id: str) -> bool:
    """False if it is over before the service has heard of it."""
    soon = datetime.now(UTC) + timedelta(milliseconds=200)
    try:
        await call(channel, messages.ReserveSeatRequest("res_1", EVENT_ID, [seat_id], 1, hold_expires_at=soon))
    except grpc.aio.AioRpcError as error:
        if refusal_of(error).reason != "RESERVATION_EXPIRED":
            raise
        return False
    return True


async def _fails(system: System) -> None:
    read = messages.GetReservationRequest(reservation_id="rsv_broken")
    assert (await refusal(call(system.channel, read))).reason == "INTERNAL_ERROR"


async def _comes(seen: Prometheus, expression: str) -> None:
    async with asyncio.timeout(60):
        while not await seen.query(expression):  # noqa: ASYNC110
            await asyncio.sleep(0.1)


# Dashboards


@pytest.mark.parametrize("name", DASHBOARDS)
async def test_every_query_of_a_dashboard_shows_something_once_there_was_a_sale(
    watching: Prometheus, name: str
) -> None:
    for panel in DASHBOARDS[name]["panels"]:
        for target in panel["targets"]:
            queries = [_for(job, target["expr"]) for job in (KEEPER, SELLER)]
            missing = [await watching.missing(query) for query in queries]
            assert [] in missing, f"{panel['title']}: {missing}"
            assert any([await watching.query(query) for query in queries]), f"{panel['title']}: {queries}"


@pytest.mark.parametrize("name", DASHBOARDS)
async def test_the_variables_of_a_dashboard_find_the_service(watching: Prometheus, name: str) -> None:
    for variable in DASHBOARDS[name]["templating"]["list"]:
        if variable["type"] == "query":
            selector, label = variable["query"].removeprefix("label_values(").removesuffix(")").rsplit(", ", 1)
            series = await watching.query(_for(KEEPER, selector))
            assert [each for each in series if each["metric"][label]]


def _for(job: str, expression: str) -> str:
    """As Grafana fills it in."""
    for variable, value in {**TIMES, "$job": job}.items():
        expression = expression.replace(variable, value)
    return expression


# Rules


@pytest.mark.parametrize(
    "rule", [*rules("alert"), *rules("record")], ids=lambda rule: rule.get("alert", rule.get("record"))
)
async def test_a_rule_reads_series_that_are_there(watching: Prometheus, rule: dict[str, Any]) -> None:
    await watching.query(rule["expr"])
    assert await watching.missing(rule["expr"]) == []


async def test_prometheus_has_looked_at_every_rule_without_an_error(watching: Prometheus) -> None:
    async with asyncio.timeout(60):
        while [rule for rule in await _rules_told(watching) if rule["health"] == "unknown"]:  # noqa: ASYNC110
            await asyncio.sleep(0.1)  # it has not come to them yet
    told = await _rules_told(watching)
    assert len(told) == len(rules("alert")) + len(rules("record"))
    assert [rule for rule in told if rule["health"] != "ok"] == []


async def _rules_told(watching: Prometheus) -> list[dict[str, Any]]:
    return [rule for group in (await watching.ask("rules"))["groups"] for rule in group["rules"]]


async def test_a_name_that_nobody_tells_is_found_out(watching: Prometheus) -> None:
    wrong = 'sum by (joob) (rate(reservation_createt_total[1m])) + on () lease_held{kind="sharts"} + up'
    assert await watching.missing(wrong) == ['lease_held{kind="sharts"}', "reservation_createt_total{}", "joob"]


async def test_what_is_wrong_with_these_services_is_what_the_alerts_say(watching: Prometheus) -> None:
    """None fires at once: they wait for a minute at least, but for these two."""
    for alert in ("IssuerUnreachable", "InternalErrors"):
        await _comes(watching, f'ALERTS{{alertname="{alert}",alertstate="firing"}}')


# What people ask by hand, and the autoscaler


async def test_every_query_of_the_runbook_is_answered(watching: Prometheus) -> None:
    queries = re.findall(r"^```promql\n(.+)\n```$", RUNBOOK, re.MULTILINE)
    assert len(queries) == RUNBOOK.count("```promql") > 0
    for query in queries:
        assert await watching.missing(query) == []
        assert await watching.query(query)


async def test_the_autoscalers_rule_counts_the_requests_of_a_pod(watching: Prometheus) -> None:
    (rule,) = ADAPTER["rules"]["custom"]
    assert await watching.query(rule["seriesQuery"])
    filled = {
        "<<.Series>>": rule["seriesQuery"].partition("{")[0],
        "<<.LabelMatchers>>": 'namespace="tacos-app",pod=~"keeper|seller"',
        "<<.GroupBy>>": "pod",
    }
    expression = rule["metricsQuery"]
    for template, value in filled.items():
        expression = expression.replace(template, value)
    assert [series["metric"] for series in await watching.query(expression)] == [{"pod": "keeper"}]
