"""Every setting: read once from the environment, typed, frozen. The README's table is made of the same names."""

import os
import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AliasChoices,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from reservation.auth.urls import require_safe

Port = Annotated[int, Field(ge=0, le=65535)]
_UNITS = {"ms": 0.001, "s": 1.0, "": 0.001}


def _seconds(value: object) -> object:
    """From "250ms", "1s", or a bare number of milliseconds. What it cannot read it leaves to pydantic to refuse."""
    parts = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(ms|s|)", value.strip()) if isinstance(value, str) else None
    return float(parts[1]) * _UNITS[parts[2]] if parts else value


Seconds = Annotated[float, BeforeValidator(_seconds)]
# https://www.rfc-editor.org/rfc/rfc6454#section-7.1, as browsers write it; "*" is any.
Origin = Annotated[str, Field(pattern=r"^(\*|[a-z][a-z0-9+.-]*://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?)$")]


def _listed(value: object) -> object:
    """From "one, another"."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


Upper = BeforeValidator(lambda value: value.upper() if isinstance(value, str) else value)


_NEEDS = [
    ("tls_cert_file", "tls_key_file"),
    ("tls_key_file", "tls_cert_file"),
    ("tls_client_ca_file", "tls_cert_file"),
    ("edge_tls_cert_file", "edge_tls_key_file"),
    ("edge_tls_key_file", "edge_tls_cert_file"),
    ("edge_tls_client_ca_file", "edge_tls_cert_file"),
    ("edge_upstream_cert_file", "edge_upstream_key_file"),
    ("edge_upstream_key_file", "edge_upstream_cert_file"),
    ("edge_upstream_cert_file", "edge_upstream_ca_file"),
    ("grpc_client_inventory_service_cert_file", "grpc_client_inventory_service_key_file"),
    ("grpc_client_inventory_service_key_file", "grpc_client_inventory_service_cert_file"),
    ("grpc_client_inventory_service_cert_file", "grpc_client_inventory_service_ca_file"),
]
"""Settings of TLS that mean nothing without another one. Half of a set would leave open what its operator believes
closed."""


class SettingsError(Exception):
    """The environment cannot be used; the text names each bad key and its value."""


class Settings(BaseSettings):
    """One attribute a variable, named as the variable in lower case."""

    model_config = SettingsConfigDict(frozen=True, env_ignore_empty=True, populate_by_name=True, extra="ignore")

    aws_region: str = "ap-northeast-2"
    aws_profile: str | None = None
    aws_endpoint_url: str | None = None
    aws_dynamodb_endpoint: str | None = None
    aws_eventbridge_endpoint: str | None = None
    aws_client: Literal["auto", "lean", "aiobotocore"] = "auto"

    dynamodb_table_reservations: str = "traffic-tacos-reservations"
    dynamodb_table_orders: str = "traffic-tacos-orders"
    dynamodb_table_idempotency: str = "traffic-tacos-idempotency"
    dynamodb_table_outbox: str = "traffic-tacos-outbox"
    dynamodb_table_inventory: str = "traffic-tacos-inventory"
    dynamodb_table_leases: str = "traffic-tacos-leases"

    # A malformed name would have every event refused.
    eventbridge_bus_name: str = Field(default="traffic-tacos-events", pattern=r"^[/.\-_A-Za-z0-9]+$", max_length=256)

    bind_host: str = "127.0.0.1"
    server_port: Port = 8010
    grpc_server_port: Port = 8011
    metrics_port: Port = 8012

    # PEM files. The gRPC port speaks TLS if it has a certificate, and asks for one if it has a CA.
    tls_cert_file: Path | None = None
    tls_key_file: Path | None = None
    tls_client_ca_file: Path | None = None
    # The same for Envoy's listener.
    edge_tls_cert_file: Path | None = None
    edge_tls_key_file: Path | None = None
    edge_tls_client_ca_file: Path | None = None
    # What Envoy believes of the service, and shows to it.
    edge_upstream_ca_file: Path | None = None
    edge_upstream_cert_file: Path | None = None
    edge_upstream_key_file: Path | None = None
    edge_upstream_server_name: str = Field(default="localhost", pattern=r"^[A-Za-z0-9.:_-]+$")
    edge_upstream_host: str = Field(default="127.0.0.1", pattern=r"^[A-Za-z0-9.:_-]+$")
    edge_upstream_addresses: int = Field(default=1, ge=1, le=1000)
    cors_allowed_origins: Annotated[tuple[Origin, ...], NoDecode, BeforeValidator(_listed)] = ()

    # Set: seats are another service's, which is asked by gRPC.
    grpc_client_inventory_service_address: str | None = Field(default=None, pattern=r"^(dns:///)?[^\s/:,]+:[0-9]{1,5}$")
    # Shorter than a saga's lease, so that nobody takes over what is still being asked.
    grpc_client_inventory_service_timeout: Seconds = Field(
        default=0.25,
        ge=0.01,
        le=1,
        validation_alias=AliasChoices(
            "grpc_client_inventory_service_timeout",
            "resilience4j_timelimiter_instances_inventory_grpc_timeout_duration",
        ),
    )
    grpc_client_inventory_service_failure_rate_threshold: float = Field(
        default=50,
        gt=0,
        le=100,
        validation_alias=AliasChoices(
            "grpc_client_inventory_service_failure_rate_threshold",
            "resilience4j_circuitbreaker_instances_inventory_grpc_failure_rate_threshold",
        ),
    )
    grpc_client_inventory_service_token_file: Path | None = None

    grpc_client_inventory_service_ca_file: Path | None = None
    grpc_client_inventory_service_cert_file: Path | None = None
    grpc_client_inventory_service_key_file: Path | None = None

    jwt_issuer_uri: str | None = Field(
        default=None,
        validation_alias=AliasChoices("jwt_issuer_uri", "spring_security_oauth2_resourceserver_jwt_issuer_uri"),
    )
    jwt_audience: str | None = Field(default=None, validate_default=True)
    jwt_ca_file: Path | None = None
    grpc_auth: Literal["required", "trusted"] = "required"
    allow_unauthenticated: bool = False

    hold_seconds: int = Field(default=60, ge=5)
    idempotency_ttl_seconds: int = Field(default=300, ge=1)
    max_seats_per_reservation: int = Field(default=10, ge=1, le=10)
    max_holds_per_user: int | None = Field(default=None, ge=1, le=20)
    hold_extensions_max: int = Field(default=3, ge=0, le=100)
    hold_total_seconds_max: int = Field(default=300, ge=5)
    lease_seconds: float = Field(default=5.0, ge=1, le=60)
    shards: int = Field(default=16, ge=1, le=4096)
    linger_seconds: float = Field(default=3.0, ge=0, le=60)
    max_clock_skew_seconds: float = Field(default=1.0, ge=0, le=60)

    max_concurrent_rpcs: int = Field(default=200, ge=8, le=10_000)
    user_rate_per_second: float = Field(default=20, ge=0, le=1_000_000)
    user_rate_burst: int = Field(default=100, ge=1, le=1_000_000)
    edge_rate_per_second: int = Field(default=100, ge=0, le=1_000_000)
    edge_rate_burst: int = Field(default=300, ge=1, le=1_000_000)
    edge_trusted_hops: int = Field(default=0, ge=0, le=10)

    otel_exporter_otlp_endpoint: str | None = Field(default=None, pattern=r"^https?://[^\s/]+/?$")
    otel_traces_sampler_arg: float = Field(
        default=0.01,
        ge=0,
        le=1,
        validation_alias=AliasChoices("otel_traces_sampler_arg", "management_tracing_sampling_probability"),
    )
    git_commit: str = "unknown"

    log_access_per_second: int = Field(default=100, ge=0)
    log_user_key: SecretStr = SecretStr("")
    log_level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], Upper] = "INFO"
    log_format: Literal["auto", "json", "console"] = "auto"

    @field_validator("grpc_client_inventory_service_address", mode="before")
    @classmethod
    def _strip_static(cls, value: object) -> object:
        return value.removeprefix("static://") if isinstance(value, str) else value

    @field_validator("jwt_issuer_uri")
    @classmethod
    def _require_safe_issuer(cls, value: str | None) -> str | None:
        if value is not None:
            require_safe(value)
        return value

    @field_validator("jwt_audience")
    @classmethod
    def _require_both(cls, value: str | None, read: ValidationInfo) -> str | None:
        """One without the other would accept tokens that are for somebody else, or check none while it seems so."""
        if "jwt_issuer_uri" not in read.data:
            return value  # it is bad itself
        if value is None and read.data["jwt_issuer_uri"] is not None:
            raise ValueError("is needed with JWT_ISSUER_URI: the audience that tokens for this service name")
        if value is not None and read.data["jwt_issuer_uri"] is None:
            raise ValueError("checks nothing without JWT_ISSUER_URI")
        return value

    @model_validator(mode="after")
    def _require_whole_sets(self) -> Self:
        problems = [
            f"{name.upper()} is set, so {needed.upper()} must be"
            for name, needed in _NEEDS
            if getattr(self, name) is not None and getattr(self, needed) is None
        ]
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @property
    def dynamodb_endpoint(self) -> str | None:
        """Where DynamoDB is; None for the region's own endpoint."""
        return self.aws_dynamodb_endpoint or self.aws_endpoint_url

    @property
    def eventbridge_endpoint(self) -> str | None:
        """Where EventBridge is; None for the region's own endpoint."""
        return self.aws_eventbridge_endpoint or self.aws_endpoint_url

    @classmethod
    def from_environment(cls) -> Self:
        """Raises SettingsError."""
        try:
            return cls()
        except ValidationError as error:
            lines = (
                _told(str(each["loc"][0]), each["input"], each["msg"]) if each["loc"] else str(each["ctx"]["error"])
                for each in error.errors()
            )
            raise SettingsError("\n".join(lines)) from None


def _told(field: str, read: object, problem: str) -> str:
    """With the value as its operator has written it, whatever it was read as."""
    name = _name_in_use(field)
    return f"{name}={os.environ.get(name, read)!r}: {problem}"


def _name_in_use(field: str) -> str:
    """The variable that a value came from, which may be an alias."""
    alias = Settings.model_fields[field].validation_alias if field in Settings.model_fields else None
    names = [str(choice).upper() for choice in alias.choices] if isinstance(alias, AliasChoices) else []
    return next((name for name in names if os.environ.get(name)), field.upper())
