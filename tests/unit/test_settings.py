"""Settings: what an empty environment means, what a full one means, and what stops the start."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from reservation.settings import Settings, SettingsError

DEFAULTS: dict[str, Any] = {
    "AWS_REGION": "ap-northeast-2",
    "AWS_PROFILE": None,
    "AWS_ENDPOINT_URL": None,
    "AWS_DYNAMODB_ENDPOINT": None,
    "AWS_EVENTBRIDGE_ENDPOINT": None,
    "AWS_CLIENT": "auto",
    "DYNAMODB_TABLE_RESERVATIONS": "traffic-tacos-reservations",
    "DYNAMODB_TABLE_ORDERS": "traffic-tacos-orders",
    "DYNAMODB_TABLE_IDEMPOTENCY": "traffic-tacos-idempotency",
    "DYNAMODB_TABLE_OUTBOX": "traffic-tacos-outbox",
    "DYNAMODB_TABLE_INVENTORY": "traffic-tacos-inventory",
    "DYNAMODB_TABLE_LEASES": "traffic-tacos-leases",
    "EVENTBRIDGE_BUS_NAME": "traffic-tacos-events",
    "BIND_HOST": "127.0.0.1",
    "SERVER_PORT": 8010,
    "CORS_ALLOWED_ORIGINS": (),
    "GRPC_SERVER_PORT": 8011,
    "TLS_CERT_FILE": None,
    "TLS_KEY_FILE": None,
    "TLS_CLIENT_CA_FILE": None,
    "EDGE_TLS_CERT_FILE": None,
    "EDGE_TLS_KEY_FILE": None,
    "EDGE_TLS_CLIENT_CA_FILE": None,
    "EDGE_UPSTREAM_ADDRESSES": 1,
    "EDGE_UPSTREAM_CA_FILE": None,
    "EDGE_UPSTREAM_CERT_FILE": None,
    "EDGE_UPSTREAM_HOST": "127.0.0.1",
    "EDGE_UPSTREAM_KEY_FILE": None,
    "EDGE_UPSTREAM_SERVER_NAME": "localhost",
    "GRPC_CLIENT_INVENTORY_SERVICE_ADDRESS": None,
    "GRPC_CLIENT_INVENTORY_SERVICE_CA_FILE": None,
    "GRPC_CLIENT_INVENTORY_SERVICE_CERT_FILE": None,
    "GRPC_CLIENT_INVENTORY_SERVICE_KEY_FILE": None,
    "GRPC_CLIENT_INVENTORY_SERVICE_TIMEOUT": 0.25,
    "GRPC_CLIENT_INVENTORY_SERVICE_FAILURE_RATE_THRESHOLD": 50,
    "JWT_ISSUER_URI": None,
    "JWT_AUDIENCE": None,
    "JWT_CA_FILE": None,
    "GRPC_AUTH": "required",
    "ALLOW_UNAUTHENTICATED": False,
    "GRPC_CLIENT_INVENTORY_SERVICE_TOKEN_FILE": None,
    "HOLD_SECONDS": 60,
    "IDEMPOTENCY_TTL_SECONDS": 300,
    "MAX_SEATS_PER_RESERVATION": 10,
    "MAX_HOLDS_PER_USER": None,
    "HOLD_EXTENSIONS_MAX": 3,
    "HOLD_TOTAL_SECONDS_MAX": 300,
    "LEASE_SECONDS": 5.0,
    "SHARDS": 16,
    "LINGER_SECONDS": 3.0,
    "MAX_CLOCK_SKEW_SECONDS": 1.0,
    "MAX_CONCURRENT_RPCS": 200,
    "USER_RATE_PER_SECOND": 20.0,
    "USER_RATE_BURST": 100,
    "EDGE_RATE_PER_SECOND": 100,
    "EDGE_RATE_BURST": 300,
    "EDGE_TRUSTED_HOPS": 0,
    "METRICS_PORT": 8012,
    "GIT_COMMIT": "unknown",
    "OTEL_EXPORTER_OTLP_ENDPOINT": None,
    "OTEL_TRACES_SAMPLER_ARG": 0.01,
    "LOG_ACCESS_PER_SECOND": 100,
    "LOG_USER_KEY": SecretStr(""),
    "LOG_LEVEL": "INFO",
    "LOG_FORMAT": "auto",
}

OTHER: dict[str, tuple[str, Any]] = {
    "AWS_REGION": ("eu-west-1", "eu-west-1"),
    "AWS_PROFILE": ("staging", "staging"),
    "AWS_ENDPOINT_URL": ("http://127.0.0.1:4566", "http://127.0.0.1:4566"),
    "AWS_DYNAMODB_ENDPOINT": ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
    "AWS_EVENTBRIDGE_ENDPOINT": ("http://127.0.0.1:8001", "http://127.0.0.1:8001"),
    "AWS_CLIENT": ("lean", "lean"),
    "DYNAMODB_TABLE_RESERVATIONS": ("r", "r"),
    "DYNAMODB_TABLE_ORDERS": ("o", "o"),
    "DYNAMODB_TABLE_IDEMPOTENCY": ("i", "i"),
    "DYNAMODB_TABLE_OUTBOX": ("x", "x"),
    "DYNAMODB_TABLE_INVENTORY": ("s", "s"),
    "DYNAMODB_TABLE_LEASES": ("l", "l"),
    "EVENTBRIDGE_BUS_NAME": ("sales.eu-1", "sales.eu-1"),
    "BIND_HOST": ("::1", "::1"),
    "SERVER_PORT": ("0", 0),
    "CORS_ALLOWED_ORIGINS": (
        "https://tacos.example, http://[::1]:3000",
        ("https://tacos.example", "http://[::1]:3000"),
    ),
    "EDGE_UPSTREAM_ADDRESSES": ("3", 3),
    "EDGE_UPSTREAM_CA_FILE": ("/ca.pem", Path("/ca.pem")),
    "EDGE_UPSTREAM_HOST": ("processes", "processes"),
    "EDGE_UPSTREAM_SERVER_NAME": ("10.0.0.7", "10.0.0.7"),
    "GRPC_CLIENT_INVENTORY_SERVICE_CA_FILE": ("/ca.pem", Path("/ca.pem")),
    "GRPC_SERVER_PORT": ("65535", 65535),
    "GRPC_CLIENT_INVENTORY_SERVICE_ADDRESS": ("inventory:8011", "inventory:8011"),
    "GRPC_CLIENT_INVENTORY_SERVICE_TIMEOUT": ("1s", 1.0),
    "GRPC_CLIENT_INVENTORY_SERVICE_FAILURE_RATE_THRESHOLD": ("12.5", 12.5),
    "GRPC_CLIENT_INVENTORY_SERVICE_TOKEN_FILE": ("/run/token", Path("/run/token")),
    "JWT_CA_FILE": ("/run/ca.crt", Path("/run/ca.crt")),
    "GRPC_AUTH": ("trusted", "trusted"),
    "ALLOW_UNAUTHENTICATED": ("true", True),
    "HOLD_SECONDS": ("5", 5),
    "IDEMPOTENCY_TTL_SECONDS": ("1", 1),
    "MAX_SEATS_PER_RESERVATION": ("1", 1),
    "MAX_HOLDS_PER_USER": ("4", 4),
    "HOLD_EXTENSIONS_MAX": ("0", 0),
    "HOLD_TOTAL_SECONDS_MAX": ("60", 60),
    "LEASE_SECONDS": ("1", 1.0),
    "SHARDS": ("4096", 4096),
    "LINGER_SECONDS": ("0.5", 0.5),
    "MAX_CLOCK_SKEW_SECONDS": ("0.25", 0.25),
    "MAX_CONCURRENT_RPCS": ("8", 8),
    "USER_RATE_PER_SECOND": ("0", 0.0),
    "USER_RATE_BURST": ("1", 1),
    "EDGE_RATE_PER_SECOND": ("0", 0),
    "EDGE_RATE_BURST": ("1", 1),
    "EDGE_TRUSTED_HOPS": ("2", 2),
    "METRICS_PORT": ("0", 0),
    "GIT_COMMIT": ("0af7651", "0af7651"),
    "OTEL_EXPORTER_OTLP_ENDPOINT": ("http://collector:4317", "http://collector:4317"),
    "OTEL_TRACES_SAMPLER_ARG": ("0.5", 0.5),
    "LOG_ACCESS_PER_SECOND": ("0", 0),
    "LOG_USER_KEY": ("secret", SecretStr("secret")),
    "LOG_LEVEL": ("debug", "DEBUG"),
    "LOG_FORMAT": ("json", "json"),
}

TLS_SETS = [
    ("TLS_CERT_FILE", "TLS_KEY_FILE", "TLS_CLIENT_CA_FILE"),
    ("EDGE_TLS_CERT_FILE", "EDGE_TLS_KEY_FILE", "EDGE_TLS_CLIENT_CA_FILE"),
    ("EDGE_UPSTREAM_CERT_FILE", "EDGE_UPSTREAM_KEY_FILE", "EDGE_UPSTREAM_CA_FILE"),
    (
        "GRPC_CLIENT_INVENTORY_SERVICE_CERT_FILE",
        "GRPC_CLIENT_INVENTORY_SERVICE_KEY_FILE",
        "GRPC_CLIENT_INVENTORY_SERVICE_CA_FILE",
    ),
]

BAD = [
    ("CORS_ALLOWED_ORIGINS", "https://tacos.example/"),
    ("CORS_ALLOWED_ORIGINS", "https://*.example"),
    ("CORS_ALLOWED_ORIGINS", "https://Tacos.example"),
    ("CORS_ALLOWED_ORIGINS", "https://tacos.example tacos.example"),
    ("CORS_ALLOWED_ORIGINS", "null"),
    ("EDGE_UPSTREAM_ADDRESSES", "0"),
    ("EDGE_UPSTREAM_HOST", "local host"),
    ("EDGE_UPSTREAM_SERVER_NAME", "local host"),
    ("EVENTBRIDGE_BUS_NAME", "bus with blanks"),
    ("LEASE_SECONDS", "0.5"),
    ("MAX_CONCURRENT_RPCS", "7"),
    ("USER_RATE_PER_SECOND", "-1"),
    ("EDGE_RATE_PER_SECOND", "0.5"),
    ("EDGE_TRUSTED_HOPS", "-1"),
    ("AWS_CLIENT", "boto3"),
    ("SERVER_PORT", "-1"),
    ("SERVER_PORT", "65536"),
    ("GRPC_SERVER_PORT", "grpc"),
    ("GRPC_CLIENT_INVENTORY_SERVICE_ADDRESS", "inventory"),
    ("GRPC_CLIENT_INVENTORY_SERVICE_ADDRESS", "http://inventory:8011"),
    ("GRPC_CLIENT_INVENTORY_SERVICE_ADDRESS", "static://a:1,b:2"),
    ("GRPC_CLIENT_INVENTORY_SERVICE_TIMEOUT", "9ms"),
    ("GRPC_CLIENT_INVENTORY_SERVICE_TIMEOUT", "2s"),
    ("GRPC_CLIENT_INVENTORY_SERVICE_TIMEOUT", "soon"),
    ("GRPC_CLIENT_INVENTORY_SERVICE_FAILURE_RATE_THRESHOLD", "0"),
    ("GRPC_CLIENT_INVENTORY_SERVICE_FAILURE_RATE_THRESHOLD", "101"),
    ("HOLD_SECONDS", "4"),
    ("HOLD_SECONDS", "1 minute"),
    ("IDEMPOTENCY_TTL_SECONDS", "0"),
    ("MAX_SEATS_PER_RESERVATION", "0"),
    ("MAX_SEATS_PER_RESERVATION", "11"),
    ("MAX_HOLDS_PER_USER", "0"),
    ("MAX_HOLDS_PER_USER", "21"),
    ("HOLD_EXTENSIONS_MAX", "-1"),
    ("HOLD_TOTAL_SECONDS_MAX", "4"),
    ("SHARDS", "0"),
    ("SHARDS", "4097"),
    ("LINGER_SECONDS", "-1"),
    ("LINGER_SECONDS", "61"),
    ("MAX_CLOCK_SKEW_SECONDS", "-0.1"),
    ("MAX_CLOCK_SKEW_SECONDS", "60.1"),
    ("MAX_CLOCK_SKEW_SECONDS", "nan"),
    ("MAX_CLOCK_SKEW_SECONDS", "inf"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317"),
    ("OTEL_TRACES_SAMPLER_ARG", "1.1"),
    ("LOG_ACCESS_PER_SECOND", "-1"),
    ("LOG_LEVEL", "LOUD"),
    ("LOG_FORMAT", "xml"),
    ("JWT_ISSUER_URI", "issuer.example"),
    ("JWT_ISSUER_URI", "http://issuer.example"),
    ("JWT_ISSUER_URI", "https://issuer.example/?realm=sales"),
    ("JWT_AUDIENCE", "reservations"),
    ("GRPC_AUTH", "optional"),
    ("ALLOW_UNAUTHENTICATED", "perhaps"),
]

ISSUER_ALIAS = "SPRING_SECURITY_OAUTH2_RESOURCESERVER_JWT_ISSUER_URI"
RATE_ALIAS = "RESILIENCE4J_CIRCUITBREAKER_INSTANCES_INVENTORY_GRPC_FAILURE_RATE_THRESHOLD"
SAMPLING_ALIAS = "MANAGEMENT_TRACING_SAMPLING_PROBABILITY"
TIMEOUT_ALIAS = "RESILIENCE4J_TIMELIMITER_INSTANCES_INVENTORY_GRPC_TIMEOUT_DURATION"


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (*DEFAULTS, ISSUER_ALIAS, RATE_ALIAS, SAMPLING_ALIAS, TIMEOUT_ALIAS):
        monkeypatch.delenv(variable, raising=False)


def _of(settings: Settings) -> dict[str, Any]:
    return {name.upper(): value for name, value in settings.model_dump().items()}


def test_an_empty_environment_means_the_defaults() -> None:
    assert _of(Settings.from_environment()) == DEFAULTS


@pytest.mark.parametrize("variable", OTHER)
def test_a_variable_sets_its_own_setting_and_nothing_else(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, value = OTHER[variable]
    monkeypatch.setenv(variable, text)
    assert _of(Settings.from_environment()) == DEFAULTS | {variable: value}


def test_every_setting_that_can_be_set_is_tried() -> None:
    of_sets = {variable for each in TLS_SETS for variable in each}
    assert OTHER.keys() | of_sets == DEFAULTS.keys() - {"JWT_ISSUER_URI", "JWT_AUDIENCE"}


@pytest.mark.parametrize("variables", TLS_SETS)
def test_a_whole_set_of_certificate_files_is_read(variables: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in variables:
        monkeypatch.setenv(variable, f"/{variable}")
    assert _of(Settings.from_environment()) == DEFAULTS | {variable: Path(f"/{variable}") for variable in variables}


@pytest.mark.parametrize(
    ("variable", "missing"),
    [(each[0], each[1]) for each in TLS_SETS]
    + [(each[1], each[0]) for each in TLS_SETS]
    + [(each[2], each[0]) for each in TLS_SETS[:2]]
    + [(each[0], each[2]) for each in TLS_SETS[2:]],
)
def test_half_a_set_of_certificate_files_stops_the_start_and_names_the_other_half(
    variable: str, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "/file")
    with pytest.raises(SettingsError, match=f"(?m)^{variable} is set, so {missing} must be"):
        Settings.from_environment()


@pytest.mark.parametrize("variable", DEFAULTS)
def test_a_variable_that_is_empty_means_its_default(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "")
    assert _of(Settings.from_environment()) == DEFAULTS


@pytest.mark.parametrize(("variable", "text"), BAD)
def test_a_bad_value_stops_the_start_and_is_named(variable: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, text)
    with pytest.raises(SettingsError) as stopped:
        Settings.from_environment()
    assert str(stopped.value).startswith(f"{variable}={text!r}: ")


def test_all_bad_values_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLD_SECONDS", "soon")
    monkeypatch.setenv("SHARDS", "0")
    with pytest.raises(SettingsError) as stopped:
        Settings.from_environment()
    assert [line.split(":")[0] for line in str(stopped.value).splitlines()] == ["HOLD_SECONDS='soon'", "SHARDS='0'"]


@pytest.mark.parametrize("variable", ["JWT_ISSUER_URI", ISSUER_ALIAS])
@pytest.mark.parametrize(
    "uri", ["https://issuer.example/realms/sales", "http://127.0.0.1:9000", "http://localhost:9000"]
)
def test_an_issuer_is_read_under_either_name(variable: str, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, uri)
    monkeypatch.setenv("JWT_AUDIENCE", "reservations")
    assert _of(Settings.from_environment()) == DEFAULTS | {"JWT_ISSUER_URI": uri, "JWT_AUDIENCE": "reservations"}


def test_an_issuer_without_an_audience_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that it gave for another service must not work here."""
    monkeypatch.setenv("JWT_ISSUER_URI", "https://issuer.example")
    with pytest.raises(SettingsError, match=r"JWT_AUDIENCE=None: .*needed with JWT_ISSUER_URI"):
        Settings.from_environment()


def test_the_inventorys_failure_rate_is_read_under_its_older_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RATE_ALIAS, "30")
    rate = {"GRPC_CLIENT_INVENTORY_SERVICE_FAILURE_RATE_THRESHOLD": 30}
    assert _of(Settings.from_environment()) == DEFAULTS | rate


def test_the_inventorys_time_out_is_read_under_its_older_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TIMEOUT_ALIAS, "400ms")
    assert _of(Settings.from_environment()) == DEFAULTS | {"GRPC_CLIENT_INVENTORY_SERVICE_TIMEOUT": 0.4}


def test_the_sampled_part_is_read_under_its_older_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SAMPLING_ALIAS, "0.1")
    assert _of(Settings.from_environment()) == DEFAULTS | {"OTEL_TRACES_SAMPLER_ARG": 0.1}


@pytest.mark.parametrize(
    ("text", "seconds"), [("250ms", 0.25), ("0.5s", 0.5), ("1s", 1), ("300", 0.3), (" 10ms ", 0.01)]
)
def test_a_time_out_has_a_unit_or_is_in_milliseconds(
    text: str, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRPC_CLIENT_INVENTORY_SERVICE_TIMEOUT", text)
    assert Settings.from_environment().grpc_client_inventory_service_timeout == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("inventory:8011", "inventory:8011"),
        ("static://10.0.0.7:8011", "10.0.0.7:8011"),
        ("dns:///inventory.sales.svc:8011", "dns:///inventory.sales.svc:8011"),
    ],
)
def test_an_inventorys_address_may_say_how_it_is_resolved(
    text: str, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRPC_CLIENT_INVENTORY_SERVICE_ADDRESS", text)
    assert Settings.from_environment().grpc_client_inventory_service_address == target


def test_a_bad_value_under_an_older_name_is_told_under_that_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator looks for the variable that was set."""
    monkeypatch.setenv(ISSUER_ALIAS, "http://issuer.example")
    with pytest.raises(SettingsError, match=f"{ISSUER_ALIAS}='http://issuer.example': "):
        Settings.from_environment()


def test_settings_are_frozen() -> None:
    settings = Settings.from_environment()
    with pytest.raises(ValidationError, match="frozen"):
        settings.hold_seconds = 5


def test_variables_of_others_are_no_concern(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLD_SECOND", "7")
    assert _of(Settings.from_environment()) == DEFAULTS


@pytest.mark.parametrize(
    ("own", "common", "endpoint"),
    [
        ("", "", None),
        ("", "http://127.0.0.1:1", "http://127.0.0.1:1"),
        ("http://127.0.0.1:2", "", "http://127.0.0.1:2"),
        ("http://127.0.0.1:2", "http://127.0.0.1:1", "http://127.0.0.1:2"),
    ],
)
def test_dynamodbs_own_endpoint_goes_before_the_common_one(
    own: str, common: str, endpoint: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_DYNAMODB_ENDPOINT", own)
    monkeypatch.setenv("AWS_ENDPOINT_URL", common)
    assert Settings.from_environment().dynamodb_endpoint == endpoint
