"""An issuer of tokens: a real HTTPS server with a certificate of its own authority, and keys that tests change."""

import json
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from reservation.auth.keys import Keys, keys_of
from tests.support.certificates import Authority

AUDIENCE = "reservations"
ALGORITHMS = ("RS256", "ES256", "EdDSA")

_MAKE: dict[str, Callable[[], Any]] = {
    "RS256": lambda: rsa.generate_private_key(65537, 2048),
    "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate,
}


ODD: dict[str, Callable[[], web.Response]] = {
    "/moved": lambda: web.Response(status=302, headers={"location": "/keys"}),
    "/big": lambda: web.Response(body=b'{"keys": [' + b" " * 300_000 + b"]}"),
    "/text": lambda: web.Response(text="no keys here"),
    "/nested": lambda: web.Response(text="[" * 100_000),
}
"""Documents with which nothing can be done."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key pair with the id that the JWKS document gives it."""

    id: str
    algorithm: str
    private: Any

    @classmethod
    def new(cls, key_id: str, algorithm: str) -> "SigningKey":
        return cls(key_id, algorithm, _MAKE[algorithm]())

    def jwk(self, **members: Any) -> dict[str, Any]:
        """Its public part, as it is published."""
        algorithm = jwt.get_algorithm_by_name(self.algorithm)
        public = json.loads(algorithm.to_jwk(self.private.public_key()))
        return {name: value for name, value in public.items() if name != "key_ops"} | {"kid": self.id} | members

    def sign(self, claims: dict[str, Any], **header: Any) -> str:
        """A token. Header members replace the usual ones; one that is None is left out."""
        headers = {"kid": self.id} | header
        return jwt.encode(claims, self.private, self.algorithm, {k: v for k, v in headers.items() if v is not None})


def published(*keys: SigningKey) -> Keys:
    """What the service makes of a document with these keys."""
    return keys_of({"keys": [key.jwk() for key in keys]})


@dataclass
class KeyServer:
    """The issuer `uri`. Tests set what it publishes: `keys`, the `issuer` that it calls itself, where its `jwks_uri`
    is, whether it is `down`, whether only `oauth` metadata is there. `fetches`: the paths that were asked for."""

    uri: str = ""
    ca_file: Path = Path()
    keys: list[SigningKey] = field(default_factory=list)
    issuer: str | None = None
    jwks_uri: str | None = None
    down: bool = False
    oauth: bool = False
    fetches: list[str] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.Response:
        self.fetches.append(request.path)
        if self.down:
            raise web.HTTPServiceUnavailable
        if request.path == "/keys":
            return web.json_response({"keys": [key.jwk() for key in self.keys]})
        if request.path in ODD:
            return ODD[request.path]()
        wanted = "/.well-known/oauth-authorization-server" if self.oauth else "/.well-known/openid-configuration"
        if request.path != wanted:
            raise web.HTTPNotFound
        return web.json_response({"issuer": self.issuer or self.uri, "jwks_uri": self.jwks_uri or f"{self.uri}/keys"})

    def token(self, subject: str, *scopes: str, **changes: Any) -> str:
        """A good token by its newest key, for an hour from now."""
        claims = {
            "iss": self.uri,
            "aud": AUDIENCE,
            "sub": subject,
            "exp": time.time() + 3600,
            "scope": " ".join(scopes),
        }
        return self.keys[-1].sign(claims | changes)

    def settings(self) -> dict[str, Any]:
        """Those of a service that believes it."""
        return {"jwt_issuer_uri": self.uri, "jwt_audience": AUDIENCE, "jwt_ca_file": self.ca_file}

    def environment(self) -> dict[str, str]:
        """The same, for a service in a process of its own."""
        return {name.upper(): str(value) for name, value in self.settings().items()}


def bearing(token: str) -> tuple[tuple[str, str], ...]:
    """Metadata of a call with this token."""
    return (("authorization", f"Bearer {token}"),)


@asynccontextmanager
async def key_server(directory: Path, *keys: SigningKey) -> AsyncIterator[KeyServer]:
    """Serves these keys on loopback inside the block. Its authority's certificate is written to `directory`."""
    authority = Authority()
    server = KeyServer(keys=list(keys), ca_file=authority.write(directory, "issuer-ca"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*authority.issue().write(directory, "issuer"))
    app = web.Application()
    app.router.add_get("/{path:.*}", server.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        server.uri = f"https://127.0.0.1:{runner.addresses[0][1]}"
        yield server
    finally:
        await runner.cleanup()
