"""The wire of the hot path: own signature, own connections, orjson; about a thirtieth of the CPU of aiobotocore.

aiobotocore still says who we are and where the service is; see session.py.
"""

import asyncio
import base64
import contextlib
import ssl
import time
import zlib
from collections.abc import Mapping
from typing import Any, Protocol
from urllib.parse import urlsplit

import orjson
import structlog

from reservation.aws.client import ServerDate, later_server_date
from reservation.aws.connection import ConnectionPool, Reply
from reservation.aws.errors import ConnectFailed, TransportError, error_from_response
from reservation.aws.signing import FrozenCredentials, Signer

_log = structlog.get_logger(__name__)


class CredentialSource(Protocol):
    """What aiobotocore's session.get_credentials() returns; it refreshes itself before its keys expire."""

    async def get_frozen_credentials(self) -> FrozenCredentials: ...


class LeanWire:
    """One service at one endpoint."""

    def __init__(
        self,
        credentials: CredentialSource,
        *,
        endpoint_url: str,
        region: str,
        signing_name: str,
        target_prefix: str,
        json_version: str,
        pool_size: int = 64,
        connect_timeout: float = 3.0,
        idle_seconds: float = 50.0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """region, signing_name, target_prefix, json_version: as in the service's model, e.g. "DynamoDB_20120810".

        The endpoint must be the root of its host: ValueError otherwise. For the rest see ConnectionPool.
        """
        host = _host_header(endpoint_url)
        content_type = f"application/x-amz-json-{json_version}"
        self.server_date: ServerDate | None = None
        self._credentials = _RollingCredentials(credentials)
        self._signer = Signer(region=region, service=signing_name, host=host, content_type=content_type)
        self._pool = ConnectionPool(
            endpoint_url, size=pool_size, tls=tls, connect_timeout=connect_timeout, idle_seconds=idle_seconds
        )
        self._target_prefix = target_prefix
        self._head = (
            f"POST / HTTP/1.1\r\nHost: {host}\r\nContent-Type: {content_type}\r\n"
            "User-Agent: traffic-tacos-reservation\r\n"
        )

    async def send(self, operation: str, params: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        """See Wire. `params` is a dict of JSON values; bytes become base64."""
        body = orjson.dumps(params, default=_base64)
        credentials = self._credentials.latest() or await self._credentials.first(timeout)
        reply = await self._pool.post(self._request(operation, body, credentials), timeout)
        checksum = reply.headers.get(b"x-amz-crc32")
        if checksum is not None and checksum != b"%d" % zlib.crc32(reply.body):
            raise TransportError("ChecksumMismatch", "the reply does not match its x-amz-crc32", reply.status)
        self._note_date(reply)
        return _answer(reply)

    async def renew_credentials(self, timeout: float | None) -> None:
        """See Wire."""
        await self._credentials.renew(timeout)

    async def close(self) -> None:
        """See Wire."""
        await self._credentials.close()
        await self._pool.close()

    def _request(self, operation: str, body: bytes, credentials: FrozenCredentials) -> bytes:
        target = f"{self._target_prefix}.{operation}"
        amz_date, authorization = self._signer.sign(target, body, credentials, int(time.time()))
        token = f"X-Amz-Security-Token: {credentials.token}\r\n" if credentials.token else ""
        head = (
            f"{self._head}X-Amz-Target: {target}\r\nX-Amz-Date: {amz_date}\r\n{token}"
            f"Authorization: {authorization}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode("latin-1") + body

    def _note_date(self, reply: Reply) -> None:
        date = reply.headers.get(b"date", b"").decode("latin-1")
        self.server_date = later_server_date(self.server_date, date)


class _RollingCredentials:
    """The newest credentials at hand. The provider is asked at most once a second, while calls go on with the old."""

    def __init__(self, source: CredentialSource) -> None:
        self._source = source
        self._frozen: FrozenCredentials | None = None
        self._asked_at = 0.0
        self._refresh: asyncio.Task[None] | None = None

    def latest(self) -> FrozenCredentials | None:
        """The credentials to sign with, None before the first were provided. Never waits."""
        if time.monotonic() - self._asked_at > 1.0:
            self._start_refresh()
        return self._frozen

    async def first(self, timeout: float) -> FrozenCredentials:
        """Await the first credentials. Raises ConnectFailed if the provider has none by then: nothing was sent."""
        await self.renew(timeout)
        if self._frozen is None:
            raise ConnectFailed("CredentialsUnavailable", "the credential provider failed")
        return self._frozen

    async def renew(self, timeout: float | None) -> None:
        """Await an answer of the provider, or its failure, for so many seconds."""
        await asyncio.wait((self._start_refresh(),), timeout=timeout)

    async def close(self) -> None:
        """Stop a refresh under way."""
        if self._refresh is not None:
            self._refresh.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._refresh

    def _start_refresh(self) -> asyncio.Task[None]:
        if self._refresh is None or self._refresh.done():
            self._asked_at = time.monotonic()
            self._refresh = asyncio.get_running_loop().create_task(self._ask())
        return self._refresh

    async def _ask(self) -> None:
        try:
            self._frozen = await self._source.get_frozen_credentials()
        except Exception:
            _log.warning("aws.credentials_refresh_failed", exc_info=True)


def _answer(reply: Reply) -> dict[str, Any]:
    """The parsed body of a success. Raises what any other answer stands for."""
    if reply.status != 200:
        request_id = reply.headers.get(b"x-amzn-requestid", b"").decode("latin-1")
        raise error_from_response(reply.status, reply.body, request_id)
    if not reply.body:
        return {}
    try:
        answer = orjson.loads(reply.body)
    except orjson.JSONDecodeError as error:
        raise TransportError("BadResponse", f"not JSON: {error}", reply.status) from error
    if not isinstance(answer, dict):
        raise TransportError("BadResponse", "not a JSON object", reply.status)
    return answer


def _host_header(endpoint_url: str) -> str:
    """The Host header for the endpoint, as botocore writes it: lower case, without a scheme's own port."""
    parts = urlsplit(endpoint_url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/") or parts.query:
        raise ValueError(f"endpoint_url={endpoint_url!r} is not the root of an http(s) host")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    own_port = 443 if parts.scheme == "https" else 80
    return host if parts.port in (None, own_port) else f"{host}:{parts.port}"


def _base64(value: object) -> str:
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode()
    raise TypeError(f"{type(value).__name__} has no place in a request")
