"""Bearer tokens: signed by the issuer's key, for us, now. What was verified is remembered while it holds."""

import re
from base64 import urlsafe_b64decode
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import jwt
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

_OPTIONS: Any = {
    "require": ["iss", "aud", "exp", "sub"],
    # Times are compared here, by this process's clock.
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
}


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
        key = await self._key(token, until)
        self._forget_withdrawn()
        caller, now = self._read(token, key), self._now()
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

    async def _key(self, token: str, until: float) -> Key:
        key = await self._keyring.find(_key_id(token), until)
        if key is None:
            raise Unauthenticated.invalid()
        return key

    def _read(self, token: str, key: Key) -> Caller:
        try:
            claims = jwt.decode(
                token,
                key.jwk,
                algorithms=[key.algorithm],
                issuer=self._issuer,
                audience=self._audience,
                options=_OPTIONS,
            )
        except (jwt.PyJWTError, ValueError, RecursionError):  # the last: brackets in thousands of brackets
            raise Unauthenticated.invalid() from None
        now = self._now()
        expires_at = min(_milliseconds(claims["exp"]) + LEEWAY_MS, now + _YEAR_MS)
        if now >= expires_at:
            raise Unauthenticated.expired()
        if now < _milliseconds(claims.get("nbf", 0)) - LEEWAY_MS:
            raise Unauthenticated.invalid()
        return bearer(_subject(claims["sub"]), _scopes(claims), int(expires_at))


def _key_id(token: str) -> str | None:
    """Which key is said to have signed it; None: it does not say. A hint and no more, so it is read in the cheapest
    way: PyJWT parses the whole token to tell its header. Raises Unauthenticated."""
    header = token.partition(".")[0]
    try:
        told = orjson.loads(urlsafe_b64decode(header + "=" * (-len(header) % 4)))
    except ValueError:
        raise Unauthenticated.invalid() from None
    key_id = told.get("kid") if isinstance(told, dict) else 0
    if not isinstance(key_id, str | None):
        raise Unauthenticated.invalid()
    return key_id


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
