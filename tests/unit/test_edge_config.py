"""Envoy's file for given settings: the committed one is the rendering of the defaults."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from reservation.app import StartError, edge_config_of
from reservation.audience import REPEAT_SECONDS
from reservation.edge import EdgeConfig, binary, directory, fill, local_url, render
from reservation.settings import Settings
from tests.support.edge import REPOSITORY

ELSEWHERE = EdgeConfig(
    bind_host="0.0.0.0",  # noqa: S104
    port=9010,
    grpc_host="service.internal",
    grpc_addresses=2,
    grpc_ports=(9011, 9012, 9013),
    admin_port=0,
    rate_per_second=7,
    rate_burst=9,
    trusted_hops=2,
    max_concurrent_rpcs=40,
    metrics_port=9014,
    sampling=0.25,
)


def test_the_defaults_render_the_committed_file_byte_for_byte() -> None:
    assert render(EdgeConfig()).encode() == (directory() / "envoy.yaml").read_bytes()


def test_settings_land_where_they_belong_and_nowhere_else() -> None:
    config = yaml.safe_load(render(ELSEWHERE))
    assert _address(config["static_resources"]["listeners"][0]) == ("0.0.0.0", 9010)  # noqa: S104
    assert _address(config["admin"]) == ("127.0.0.1", 0)
    clusters = {cluster["name"]: cluster for cluster in config["static_resources"]["clusters"]}
    assert sorted(clusters) == ["grpc_upstream", "grpc_watch", "metrics"]
    ((metrics,),) = (each["lb_endpoints"] for each in clusters.pop("metrics")["load_assignment"]["endpoints"])
    assert _address(metrics["endpoint"]) == ("127.0.0.1", 9014)
    for cluster in clusters.values():
        (locality,) = cluster["load_assignment"]["endpoints"]
        endpoints = [_address(each["endpoint"]) for each in locality["lb_endpoints"]]
        assert endpoints == [("service.internal", port) for port in (9011, 9012, 9013)]
    assert _manager(config)["xff_num_trusted_hops"] == 2
    assert _thresholds(clusters["grpc_upstream"], "DEFAULT")["max_requests"] == 3 * 2 * 10
    assert _thresholds(clusters["grpc_upstream"], "HIGH")["max_requests"] == 3 * 2 * 40
    assert {_bucket(limit)["tokens_per_fill"] for limit in _rate_limits(config)} == {7}
    assert {_bucket(limit)["max_tokens"] for limit in _rate_limits(config)} == {9}
    changed = set(render(ELSEWHERE).splitlines()) - set(render(EdgeConfig()).splitlines())
    assert len(changed) == 11


def test_a_host_is_quoted_so_it_cannot_become_more_than_a_value() -> None:
    strange = 'a": b} # c'
    config = yaml.safe_load(render(EdgeConfig(bind_host=strange, grpc_host=strange)))
    assert _address(config["static_resources"]["listeners"][0]) == (strange, 8010)
    (locality,) = config["static_resources"]["clusters"][0]["load_assignment"]["endpoints"]
    assert [_address(each["endpoint"]) for each in locality["lb_endpoints"]] == [(strange, 8011)]


def test_a_marked_line_keeps_its_indent_anchor_and_marker() -> None:
    template = "a:\n  - list: &it [1]  # ONE_THING\n  other: x  # a remark, not a marker\n"
    assert fill(template, {"ONE_THING": "[2, 3]"}) == template.replace("[1]", "[2, 3]")


def test_an_unknown_marker_is_an_error() -> None:
    with pytest.raises(ValueError, match="SERVER_PROT, which is no setting"):
        fill("port_value: 8010  # SERVER_PROT\n", {"SERVER_PORT": "8010"})


def test_a_setting_that_marks_no_line_is_an_error() -> None:
    with pytest.raises(ValueError, match="marks no line with BIND_HOST"):
        fill("port_value: 8010  # SERVER_PORT\n", {"SERVER_PORT": "8010", "BIND_HOST": '"::"'})


@pytest.mark.parametrize("config", [EdgeConfig(), ELSEWHERE], ids=["defaults", "three ports"])
def test_envoy_accepts_the_rendering(config: EdgeConfig, tmp_path: Path) -> None:
    file = tmp_path / "envoy.yaml"
    file.write_text(render(config))
    checked = _validate(file)
    assert checked.returncode == 0, checked.stderr[:500]


@pytest.mark.parametrize(
    "changes",
    [
        {"tls_cert_file": Path("/cert.pem"), "tls_key_file": Path("/cert.key")},
        {"edge_upstream_ca_file": Path("/ca.pem")},
    ],
)
def test_tls_at_one_end_alone_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(StartError, match=r"TLS_CERT_FILE.* EDGE_UPSTREAM_CA_FILE"):
        edge_config_of(Settings(**changes))


def test_envoy_refuses_a_field_that_does_not_exist(tmp_path: Path) -> None:
    file = tmp_path / "envoy.yaml"
    file.write_text(render(EdgeConfig()).replace("request_timeout:", "request_time_out:"))
    assert _validate(file).returncode != 0


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8010"),
        ("0.0.0.0", "http://127.0.0.1:8010"),  # noqa: S104
        ("::", "http://[::1]:8010"),
        ("::1", "http://[::1]:8010"),
    ],
)
def test_a_listener_on_every_address_is_reached_by_loopback(address: str, url: str) -> None:
    assert local_url(address, 8010) == url


def test_an_installed_package_uses_the_files_that_it_carries(tmp_path: Path) -> None:
    """A wheel has envoy/ inside the package, a checkout beside it."""
    package = tmp_path / "reservation"
    shutil.copytree(directory(), package / "envoy")
    for name in ("__init__.py", "edge.py", "edge_tls.py", "tls.py"):
        shutil.copy(REPOSITORY / "reservation" / name, package)
    program = "from reservation.edge import *; print(directory(), len(render(EdgeConfig())))"
    environment = {"PYTHONPATH": str(tmp_path)}
    told = subprocess.run(
        [sys.executable, "-P", "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert told.stdout.split() == [str(package / "envoy"), str(len(render(EdgeConfig())))]
    assert directory() == REPOSITORY / "envoy"


def test_no_stream_shares_a_cluster_with_the_sale() -> None:
    """A watch or an open reflection call may fill its own circuit breaker, never the one that sales pass."""
    config = yaml.safe_load(render(EdgeConfig()))
    streams = {
        "/v1/reservations/[^/]+/watch/?",
        "/com.traffic_tacos.reservation.v1.ReservationService/WatchReservation",
        "/grpc.health.v1.Health/Watch",
        "/grpc.reflection.",
    }
    routes = {_path(each["match"]): each["route"] for each in _routes(config) if "route" in each}
    on_watch = {
        path: route for path, route in routes.items() if route["cluster"] == "grpc_watch" and "priority" not in route
    }
    assert on_watch.keys() == streams
    assert {route["timeout"] for route in on_watch.values()} == {"0s"}
    silences = {float(route["idle_timeout"].removesuffix("s")) for route in on_watch.values()}
    assert min(silences) >= 2 * REPEAT_SECONDS, "or a watch that has nothing new to tell would be cut off"


def test_every_route_of_the_api_limits_its_body_and_rest_drops_what_the_transcoder_cannot_read() -> None:
    """Both are properties of a route, so a new one can miss them."""
    for route in _routes(yaml.safe_load(render(EdgeConfig()))):
        filters = route.get("typed_per_filter_config", {})
        transcoded = route.get("route", {}).get("cluster") != "metrics"
        rest = transcoded and _path(route["match"]).startswith(("/v1/", "/health", "/actuator/"))
        native = _path(route["match"]).startswith("/com.traffic_tacos.")  # read whole before it counts as under way
        assert ("envoy.filters.http.buffer" in filters) == (rest or native)
        assert ("envoy.filters.http.header_mutation" in filters) == rest


def test_every_route_but_health_limits_its_clients() -> None:
    """It is a property of a route, so a new one can miss it; and a probe must never be told that it asks too often."""
    for route in _routes(yaml.safe_load(render(EdgeConfig()))):
        limited = "envoy.filters.http.local_ratelimit" in route.get("typed_per_filter_config", {})
        assert limited == ("health" not in _path(route["match"]).lower()), route["match"]


def test_holders_of_seats_and_health_have_circuit_breakers_of_their_own() -> None:
    config = yaml.safe_load(render(EdgeConfig()))
    first = {_path(each["match"]) for each in _routes(config) if each.get("route", {}).get("priority") == "HIGH"}
    native = "/com.traffic_tacos.reservation.v1.ReservationService/"
    health = {"/health", "/actuator/health", "/actuator/health/liveness", "/actuator/health/readiness"}
    held = {"/v1/reservations/(confirm|cancel|extend)/?"} | {
        f"{native}{each}" for each in ("ConfirmReservation", "CancelReservation", "ExtendHold")
    }
    assert first == held | health | {"/grpc.health.v1.Health/"}


def test_what_a_client_holds_it_can_confirm() -> None:
    """In the same time it may confirm more than it may create."""
    config = yaml.safe_load(render(EdgeConfig()))
    creates, held = (
        _bucket(next(_rate_limits(config, ending)))["fill_interval"] for ending in ("/CreateReservation", "ExtendHold")
    )
    assert float(held.removesuffix("s")) < float(creates.removesuffix("s"))


def test_without_a_rate_nothing_is_limited() -> None:
    for limit in _rate_limits(yaml.safe_load(render(EdgeConfig(rate_per_second=0)))):
        assert limit["filter_enabled"]["default_value"]["numerator"] == 0


def _validate(file: Path) -> subprocess.CompletedProcess[str]:
    command = [binary(), "--mode", "validate", "--log-level", "warning", "--config-path", str(file)]
    return subprocess.run(command, cwd=directory(), capture_output=True, text=True, timeout=30)


def _address(holder: Any) -> tuple[str, int]:
    socket_address = holder["address"]["socket_address"]
    return socket_address["address"], socket_address["port_value"]


def _manager(config: Any) -> Any:
    (chain,) = config["static_resources"]["listeners"][0]["filter_chains"]
    (manager,) = chain["filters"]
    return manager["typed_config"]


def _routes(config: Any) -> Iterator[Any]:
    (host,) = _manager(config)["route_config"]["virtual_hosts"]
    yield from host["routes"]


def _rate_limits(config: Any, ending: str = "") -> Iterator[Any]:
    """Of the routes whose path ends so."""
    for route in _routes(config):
        limit = route.get("typed_per_filter_config", {}).get("envoy.filters.http.local_ratelimit")
        if limit is not None and _path(route["match"]).endswith(ending):
            yield limit


def _bucket(limit: Any) -> Any:
    (descriptor,) = limit["descriptors"]
    return descriptor["token_bucket"]


def _thresholds(cluster: Any, priority: str) -> Any:
    return next(each for each in cluster["circuit_breakers"]["thresholds"] if each["priority"] == priority)


def _path(match: Any) -> str:
    path = match.get("path") or match.get("prefix") or match["safe_regex"]["regex"]
    assert isinstance(path, str)
    return path
