"""Certificates of the gRPC port and of the channels to other services, from PEM files."""

import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import grpc
import structlog

log = structlog.get_logger()


class BadCertificate(Exception):
    """The files cannot be used; the text says which and why, and nothing of what is in them."""


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate chain (its own certificate first) and the private key that belongs to it, without a password."""

    certificate: Path
    key: Path


class ServerCertificate:
    """What the server shows to its callers, read again when the files change. With `client_ca`, callers must show a
    certificate that this authority signed.

    Raises BadCertificate if the files are no good at the start. Later ones that are no good are logged, once, and the
    last good ones stay in use.
    """

    def __init__(self, pair: KeyPair, client_ca: Path | None = None) -> None:
        self._pair = pair
        self._client_ca = client_ca
        self._seen = self._marks()
        self._initial = self._read()

    def credentials(self) -> Any:
        """The grpc.ServerCredentials."""
        return grpc.dynamic_ssl_server_credentials(
            self._initial, self._changed, require_client_authentication=self._client_ca is not None
        )

    def _changed(self) -> Any:
        """The new certificate, None if it is still the same. gRPC asks before each handshake, in threads of its own."""
        marks = self._marks()
        if marks == self._seen:
            return None
        read, problem = None, ""
        try:
            read = self._read()
        except BadCertificate as error:
            problem = str(error)
        if marks != self._marks():
            return None  # somebody is still at it, and may have been read by halves: the next connection looks again
        self._seen = marks
        if read is None:
            log.error("tls.not_reloaded", problem=problem, consequence="the certificate before stays in use")
        else:
            log.info("tls.reloaded", certificate=str(self._pair.certificate))
        return read

    def _read(self) -> Any:
        pair = read_pair(self._pair)
        authorities = read_authorities(self._client_ca) if self._client_ca is not None else None
        return grpc.ssl_server_certificate_configuration([pair], root_certificates=authorities)

    def _marks(self) -> list[tuple[int, int, int] | None]:
        files = (self._pair.certificate, self._pair.key, self._client_ca)
        return [_mark(file) for file in files if file is not None]


def channel_credentials(ca: Path, pair: KeyPair | None) -> Any:
    """grpc.ChannelCredentials that believe only servers that `ca` has signed, and show `pair` to who asks.

    Read once: gRPC has no way to change them. Raises BadCertificate.
    """
    key, certificate = read_pair(pair) if pair is not None else (None, None)
    return grpc.ssl_channel_credentials(read_authorities(ca), key, certificate)


def read_pair(pair: KeyPair) -> tuple[bytes, bytes]:
    """Key and certificate chain, as gRPC wants them. Raises BadCertificate, also if they do not match: gRPC would write
    of it past our log, and Envoy would start without."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(pair.certificate, pair.key, password=_refuse_password)
        return pair.key.read_bytes(), pair.certificate.read_bytes()
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise BadCertificate(f"{pair.certificate} and {pair.key}: {_words(error)}") from error


def read_authorities(file: Path) -> bytes:
    """The certificates in the file. Raises BadCertificate."""
    try:
        text = file.read_text(encoding="ascii")
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
    except (OSError, ValueError) as error:
        raise BadCertificate(f"{file}: {_words(error)}") from error
    return text.encode()


def _refuse_password() -> NoReturn:
    """Without it OpenSSL would ask for one on the terminal."""
    raise ValueError("the key is encrypted")


def _words(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _mark(file: Path) -> tuple[int, int, int] | None:
    """Changes when the file does, be it written anew, renamed, or reached by another symbolic link."""
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
