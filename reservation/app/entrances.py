"""How this process is reached: ports and certificates, tokens, limits, and Envoy before it all."""

import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc

from reservation.api.limits import Limits
from reservation.app.connections import key_pair
from reservation.app.errors import StartError
from reservation.audience import PER_PROCESS
from reservation.auth import issuer
from reservation.auth.access import Access
from reservation.auth.issuer import Issuer
from reservation.auth.keyring import Keyring
from reservation.auth.tokens import Tokens
from reservation.auth.urls import is_loopback
from reservation.clock import Clock
from reservation.edge import EdgeConfig
from reservation.edge_tls import ListenerTls, UpstreamTls
from reservation.settings import Settings
from reservation.tls import BadCertificate, ServerCertificate


def edge_config_of(settings: Settings) -> EdgeConfig:
    """Envoy for this service. Raises StartError if only one of the two would speak TLS with the other."""
    if (settings.tls_cert_file is None) != (settings.edge_upstream_ca_file is None):
        raise StartError(
            "Envoy and the service speak TLS with each other, or neither does: set both or none of TLS_CERT_FILE"
            " and EDGE_UPSTREAM_CA_FILE"
        )
    listener = key_pair(settings.edge_tls_cert_file, settings.edge_tls_key_file)
    upstream = key_pair(settings.edge_upstream_cert_file, settings.edge_upstream_key_file)
    ca, client_ca = _absolute(settings.edge_upstream_ca_file), _absolute(settings.edge_tls_client_ca_file)
    return EdgeConfig(
        bind_host=settings.bind_host,
        port=settings.server_port,
        grpc_host=settings.edge_upstream_host,
        grpc_addresses=settings.edge_upstream_addresses,
        grpc_ports=(settings.grpc_server_port,),
        listener_tls=ListenerTls(listener, client_ca) if listener is not None else None,
        upstream_tls=UpstreamTls(ca, settings.edge_upstream_server_name, upstream) if ca is not None else None,
        cors_origins=settings.cors_allowed_origins,
        rate_per_second=settings.edge_rate_per_second,
        rate_burst=settings.edge_rate_burst,
        trusted_hops=settings.edge_trusted_hops,
        max_concurrent_rpcs=settings.max_concurrent_rpcs,
        metrics_port=settings.metrics_port,
        sampling=settings.otel_traces_sampler_arg,
    )


def _absolute(file: Path | None) -> Path | None:
    """Envoy runs in another folder."""
    return file.absolute() if file is not None else None


def require_authentication(settings: Settings) -> None:
    """Raises StartError where others than this machine's own could call and nobody would ask who they are."""
    if settings.jwt_issuer_uri is None and not is_loopback(settings.bind_host) and not settings.allow_unauthenticated:
        raise StartError(
            f"BIND_HOST={settings.bind_host} would let in everybody who reaches it: set JWT_ISSUER_URI and JWT_AUDIENCE"
            ", or ALLOW_UNAUTHENTICATED=true where nobody else can"
        )


def keyring_of(settings: Settings, closing: AsyncExitStack) -> Keyring | None:
    """None: authentication is off. Closed with `closing`."""
    if settings.jwt_issuer_uri is None:
        return None
    try:
        session = issuer.connect(settings.jwt_issuer_uri, settings.jwt_ca_file)
    except OSError as error:
        raise StartError(f"JWT_CA_FILE={settings.jwt_ca_file}: {error}") from error
    closing.push_async_callback(session.close)
    keyring = Keyring(Issuer(session, settings.jwt_issuer_uri).keys)
    closing.push_async_callback(keyring.close)
    return keyring


def access_of(settings: Settings, keyring: Keyring | None, clock: Clock) -> Access:
    """`keyring`: none if authentication is off."""
    tokens = None
    if keyring is not None and settings.jwt_issuer_uri is not None and settings.jwt_audience is not None:
        tokens = Tokens(keyring, issuer=settings.jwt_issuer_uri, audience=settings.jwt_audience, now=clock.now)
    return Access(tokens, trust_direct=settings.grpc_auth == "trusted")


def limits_of(settings: Settings) -> Limits:
    return Limits(
        max_concurrent=settings.max_concurrent_rpcs,
        user_per_second=settings.user_rate_per_second,
        user_burst=settings.user_rate_burst,
        monotonic_ns=time.monotonic_ns,
    )


def most_open(settings: Settings) -> int:
    """Watches, as many calls again that are only being refused, and what health and reflection are asked."""
    return PER_PROCESS + 2 * settings.max_concurrent_rpcs + 1000


def bind(server: grpc.aio.Server, settings: Settings, credentials: Any) -> int:
    """The port that the server will listen on. Raises StartError."""
    address = f"{settings.bind_host}:{settings.grpc_server_port}"
    try:
        port: int = (
            server.add_insecure_port(address) if credentials is None else server.add_secure_port(address, credentials)
        )
    except RuntimeError as error:
        raise StartError(f"cannot listen on {address} (BIND_HOST:GRPC_SERVER_PORT): is it in use?") from error
    return port


def server_credentials(settings: Settings) -> Any:
    """None: the port speaks plain text."""
    pair = key_pair(settings.tls_cert_file, settings.tls_key_file)
    if pair is None:
        return None
    try:
        return ServerCertificate(pair, settings.tls_client_ca_file).credentials()
    except BadCertificate as error:
        raise StartError(f"{error} (TLS_CERT_FILE, TLS_KEY_FILE, TLS_CLIENT_CA_FILE)") from error
