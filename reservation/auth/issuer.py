"""The issuer of tokens: where its keys are, and what they are."""

import asyncio
import json
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from reservation.auth.keys import Keys, keys_of
from reservation.auth.urls import is_loopback, require_safe

FETCH_SECONDS = 3.0
_DOCUMENT_BYTES = 256 * 1024


class IssuerError(Exception):
    """The issuer cannot be reached, or says what cannot be used."""


def connect(uri: str, ca_file: Path | None) -> aiohttp.ClientSession:
    """A session for this issuer; whoever opens it closes it. `ca_file` (PEM) replaces the system's authorities.

    Raises OSError (also as ssl.SSLError) if that file cannot be used.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=ca_file)),
        timeout=aiohttp.ClientTimeout(total=FETCH_SECONDS),
        trust_env=not is_loopback(urlsplit(uri).hostname or ""),  # a proxy leads out of this machine
    )


class Issuer:
    """Known by its `uri`, exactly as it stands in the tokens."""

    def __init__(self, session: aiohttp.ClientSession, uri: str) -> None:
        self._session = session
        self._uri = uri

    async def keys(self) -> Keys:
        """Asked anew each time. Raises IssuerError, after a few times FETCH_SECONDS at most."""
        try:
            discovered = await self._discover()
            if discovered.get("issuer") != self._uri:
                # https://openid.net/specs/openid-connect-discovery-1_0.html#ProviderConfigurationValidation
                raise IssuerError(f"it calls itself {discovered.get('issuer')!r}")
            return keys_of(await self._document(str(discovered.get("jwks_uri"))))
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, RecursionError) as error:
            raise IssuerError(f"{type(error).__name__}: {error}") from error

    async def _discover(self) -> dict[str, Any]:
        for url in _discovery_urls(self._uri):
            document = await self._document(url, or_none=True)
            if document is not None:
                break
        if not isinstance(document, dict):
            raise IssuerError("it has no discovery document")
        return document

    async def _document(self, url: str, *, or_none: bool = False) -> Any:
        """A JSON document. `or_none`: None if there is no such page."""
        require_safe(url)
        async with self._session.get(url, allow_redirects=False) as answer:
            if or_none and answer.status == 404:
                return None
            if answer.status != 200:
                raise IssuerError(f"{url} answers {answer.status}")
            try:
                await answer.content.readexactly(_DOCUMENT_BYTES)
            except asyncio.IncompleteReadError as whole:
                return json.loads(whole.partial)
        raise IssuerError(f"{url} has more than {_DOCUMENT_BYTES} bytes")


def _discovery_urls(uri: str) -> tuple[str, ...]:
    """OpenID Connect's, then that of https://www.rfc-editor.org/rfc/rfc8414#section-3.1."""
    parts = urlsplit(uri)
    path = parts.path.rstrip("/")
    metadata = parts._replace(path=f"/.well-known/oauth-authorization-server{path}").geturl()
    return f"{uri.rstrip('/')}/.well-known/openid-configuration", metadata
