"""TLS of the edge, as Envoy's configuration says it: towards callers, and towards the service.

Certificates reach Envoy by file SDS: one small file each, which names the PEM files and the folder to watch. Envoy
reads the PEM files again when something is renamed into that folder
(https://www.envoyproxy.io/docs/envoy/latest/configuration/security/secret#key-rotation).
"""

import ipaddress
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reservation.tls import KeyPair, read_authorities, read_pair

_TYPES = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3"
# Forward secrecy and AEAD only; what TLS 1.3 has is all of that kind. https://wiki.mozilla.org/Security/Server_Side_TLS
_CIPHERS = [
    "[ECDHE-ECDSA-AES128-GCM-SHA256|ECDHE-ECDSA-CHACHA20-POLY1305]",
    "[ECDHE-RSA-AES128-GCM-SHA256|ECDHE-RSA-CHACHA20-POLY1305]",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
]
_LISTENER, _CLIENT_CA = "edge_certificate", "edge_client_ca"
_UPSTREAM, _UPSTREAM_CA = "upstream_certificate", "upstream_ca"


@dataclass(frozen=True, slots=True)
class ListenerTls:
    """With `client_ca`, callers must show a certificate that this authority signed."""

    identity: KeyPair
    client_ca: Path | None = None


@dataclass(frozen=True, slots=True)
class UpstreamTls:
    """The service must show a certificate by `name` (a host name or an address) that `ca` signed. `identity` is what
    Envoy shows to it."""

    ca: Path
    name: str = "localhost"
    identity: KeyPair | None = None


def listener_socket(tls: ListenerTls, secrets: Path) -> str:
    """The listener's transport_socket. `secrets`: the folder of the files that `secret_files` is written to."""
    common = _common(["h2", "http/1.1"]) | {"tls_certificate_sds_secret_configs": [_by_file(_LISTENER, secrets)]}
    context: dict[str, Any] = {"common_tls_context": common}
    if tls.client_ca is not None:
        common["validation_context_sds_secret_config"] = _by_file(_CLIENT_CA, secrets)
        context["require_client_certificate"] = True
    return _socket("DownstreamTlsContext", context)


def upstream_socket(tls: UpstreamTls, secrets: Path) -> str:
    """The transport_socket of the service's clusters."""
    common = _common(["h2"]) | {"validation_context_sds_secret_config": _by_file(_UPSTREAM_CA, secrets)}
    if tls.identity is not None:
        common["tls_certificate_sds_secret_configs"] = [_by_file(_UPSTREAM, secrets)]
    context: dict[str, Any] = {"common_tls_context": common}
    if not _is_address(tls.name):
        context["sni"] = tls.name
    return _socket("UpstreamTlsContext", context)


def secret_files(listener: ListenerTls | None, upstream: UpstreamTls | None) -> Iterator[tuple[str, str]]:
    """(name, content) of the files that tell Envoy where certificates and keys are; none holds a key itself."""
    if listener is not None:
        yield _certificate(_LISTENER, listener.identity)
        if listener.client_ca is not None:
            yield _authority(_CLIENT_CA, listener.client_ca)
    if upstream is not None:
        kind = "IP_ADDRESS" if _is_address(upstream.name) else "DNS"
        only = {"match_typed_subject_alt_names": [{"san_type": kind, "matcher": {"exact": upstream.name}}]}
        yield _authority(_UPSTREAM_CA, upstream.ca, **only)
        if upstream.identity is not None:
            yield _certificate(_UPSTREAM, upstream.identity)


def require_usable(listener: ListenerTls | None, upstream: UpstreamTls | None) -> None:
    """Raises BadCertificate. Envoy itself would start with files that are no good, and hang up on every caller."""
    if listener is not None:
        read_pair(listener.identity)
        if listener.client_ca is not None:
            read_authorities(listener.client_ca)
    if upstream is not None:
        read_authorities(upstream.ca)
        if upstream.identity is not None:
            read_pair(upstream.identity)


def _common(protocols: list[str]) -> dict[str, Any]:
    return {
        "alpn_protocols": protocols,
        "tls_params": {
            "tls_minimum_protocol_version": "TLSv1_2",
            "tls_maximum_protocol_version": "TLSv1_3",  # Envoy's own default towards a service is 1.2
            "cipher_suites": _CIPHERS,
        },
    }


def _by_file(name: str, secrets: Path) -> dict[str, Any]:
    path = f"{secrets}/{_file(name)}"  # "./name" in the folder itself: Envoy takes a bare name for no path
    return {"name": name, "sds_config": {"path_config_source": {"path": path}}}


def _socket(kind: str, context: dict[str, Any]) -> str:
    return json.dumps({"name": "envoy.transport_sockets.tls", "typed_config": {"@type": f"{_TYPES}.{kind}"} | context})


def _certificate(name: str, files: KeyPair) -> tuple[str, str]:
    content = {
        "certificate_chain": {"filename": str(files.certificate)},
        "private_key": {"filename": str(files.key)},
        "watched_directory": {"path": str(files.certificate.parent)},
    }
    return _secret(name, {"tls_certificate": content})


def _authority(name: str, file: Path, **more: Any) -> tuple[str, str]:
    content = {"trusted_ca": {"filename": str(file)}, "watched_directory": {"path": str(file.parent)}} | more
    return _secret(name, {"validation_context": content})


def _secret(name: str, content: dict[str, Any]) -> tuple[str, str]:
    resource = {"@type": f"{_TYPES}.Secret", "name": name} | content
    return _file(name), json.dumps({"resources": [resource]}, indent=2) + "\n"


def _file(name: str) -> str:
    return f"{name}.json"


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
