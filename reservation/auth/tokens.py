"""Bearer tokens: signed by the issuer's key, for us, now. What was verified is remembered while it holds."""

import re
from base64 import urlsafe_b64decode
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import orjson
from cachetools import LRUCache

from reservation.auth.caller import ANONYMOUS, Caller, bearer
from reservation.auth.keyring import Keyring
from reservation.auth.keys import Key, Keys
from reservation.domain.errors import Unauthenticated

TOKEN_BYTES = 8 * 1024
LEEWAY_MS = 30_000
"""By how much our clock and the issuer's may differ."""

_REMEMBERED_MS = 300_000
_REMEMBERED = 50_000
_YEAR_MS = 365 * 86_400_000  # so that a time in a far future is one that timers can wait for
_SUBJECT_LENGTH = 128  # what a user id may have
_UNFIT = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # the last: halves of characters, which JSON can spell


@dataclass(frozen=True, slots=True)
class _Signed:
    """A token taken apart; nothing of it is verified. `text` is what was signed, `payload` its second part."""

    header: dict[str, Any]
    text: bytes
    payload: str
    signature: bytes

    @property
    def key_id(self) -> str | None:
        """Which key is said to have signed it; None: it does not say. Raises Unauthenticated."""
        told = self.header.get("kid")
        if not isinstance(told, str | None):
            raise Unauthenticated.invalid()
        return told


@dataclass(frozen=True, slots=True)
class _Verified:
    caller: Caller
    until: int


class Tokens:
    """`issuer` and `audience` are what a token must name. `now` in milliseconds since the epoch."""

    def __init__(self, keyring: Keyring, *, issuer: str, audience: str, now: Callable[[], int]) -> None:
        self._keyring = keyring
        self._issuer = issuer
        self._audience = audience
        self._now = now
        self._verified: LRUCache[bytes, _Verified] = LRUCache(_REMEMBERED)
        self._verified_by: Keys | None = None

    async def caller(self, token: str, until: float) -> Caller:
        """Whom the token tells of. Raises Unauthenticated, and ServiceUnavailable if `until` (in time.monotonic()
        seconds) comes before the issuer has told its keys."""
        if not token.isascii() or len(token) > TOKEN_BYTES:
            raise Unauthenticated.invalid()
        self._forget_withdrawn()
        digest = sha256(token.encode()).digest()  # of one size, and no secret
        known = self._verified.get(digest)
        if known is not None and self._now() < known.until:
            return known.caller
        signed = _taken_apart(token)
        key = await self._keyring.find(signed.key_id, until)
        if key is None:
            raise Unauthenticated.invalid()
        self._forget_withdrawn()
        caller, now = self._read(signed, key), self._now()
        self._verified[digest] = _Verified(caller, min(caller.expires_at or now, now + _REMEMBERED_MS))
        return caller

    def seconds_left(self, caller: Caller) -> float | None:
        """How long its token will be accepted; None: without end."""
        return None if caller.expires_at is None else (caller.expires_at - self._now()) / 1000

    def _forget_withdrawn(self) -> None:
        """What was verified by keys that are others now."""
        if self._verified_by is not self._keyring.keys:
            self._verified.clear()
            self._verified_by = self._keyring.keys

    def _read(self, token: _Signed, key: Key) -> Caller:
        claims = _verified_claims(token, key)
        if claims.get("iss") != self._issuer or not _names(claims.get("aud"), self._audience):
            raise Unauthenticated.invalid()
        now = self._now()
        expires_at = min(_milliseconds(claims.get("exp")) + LEEWAY_MS, now + _YEAR_MS)
        if now >= expires_at:
            raise Unauthenticated.expired()
        if now < _milliseconds(claims.get("nbf", 0)) - LEEWAY_MS:
            raise Unauthenticated.invalid()
        return bearer(_subject(claims.get("sub")), _scopes(claims), int(expires_at))


def _taken_apart(token: str) -> _Signed:
    """From the compact form, https://www.rfc-editor.org/rfc/rfc7515#section-7.1. Raises Unauthenticated."""
    try:
        header, payload, signature = token.split(".")
        return _Signed(_object(header), token[: len(header) + 1 + len(payload)].encode(), payload, _decoded(signature))
    except ValueError:
        raise Unauthenticated.invalid() from None


def _verified_claims(token: _Signed, key: Key) -> dict[str, Any]:
    """What the token says, in the words of whoever has the key; nothing of it is judged yet. Raises Unauthenticated.

    PyJWT knows the keys and verifies with them. Its own way to here takes as long again as the signature, and judges
    times by a clock of its own."""
    if token.header.get("alg") != key.algorithm or "crit" in token.header:  # no extension is understood here
        raise Unauthenticated.invalid()
    if not key.jwk.Algorithm.verify(token.text, key.jwk.key, token.signature):
        raise Unauthenticated.invalid()
    try:
        return _object(token.payload)
    except ValueError:
        raise Unauthenticated.invalid() from None


def _object(part: str) -> dict[str, Any]:
    """Raises ValueError if the part is no JSON object."""
    told = orjson.loads(_decoded(part))
    if not isinstance(told, dict):
        raise ValueError("no object")
    return told


def _decoded(part: str) -> bytes:
    """Raises ValueError."""
    return urlsafe_b64decode(part + "=" * (-len(part) % 4))


def _names(audiences: object, audience: str) -> bool:
    """https://www.rfc-editor.org/rfc/rfc7519#section-4.1.3: one text, or a list of them."""
    return audiences == audience or (isinstance(audiences, list) and audience in audiences)


def _milliseconds(claim: object) -> float:
    """From a NumericDate. Raises Unauthenticated if it is none, such as Infinity, which Python's JSON has."""
    if isinstance(claim, int | float) and not isinstance(claim, bool) and abs(claim) < 2**53:
        return claim * 1000
    raise Unauthenticated.invalid()


def _subject(claim: object) -> str:
    """Raises Unauthenticated for what could be no user's id, or is nobody's."""
    if not isinstance(claim, str) or not 0 < len(claim) <= _SUBJECT_LENGTH or claim == ANONYMOUS:
        raise Unauthenticated.invalid()
    if _UNFIT.search(claim):
        raise Unauthenticated.invalid()
    return claim


def _scopes(claims: dict[str, Any]) -> list[str]:
    """`scope` as https://www.rfc-editor.org/rfc/rfc9068 has it, and `scp` as some issuers do."""
    found: list[str] = []
    for claim in (claims.get("scope"), claims.get("scp")):
        if isinstance(claim, str):
            found += claim.split()
        elif isinstance(claim, list):
            found += [each for each in claim if isinstance(each, str)]
    return found
