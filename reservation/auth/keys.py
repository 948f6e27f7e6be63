"""An issuer's public keys, as its JWKS document tells them (https://www.rfc-editor.org/rfc/rfc7517)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

_ALGORITHMS = {("RSA", ""): "RS256", ("EC", "P-256"): "ES256", ("OKP", "Ed25519"): "EdDSA"}
"""By key type and curve: what a key is for is never left to the token."""

_RSA_BITS = 2048  # https://www.rfc-editor.org/rfc/rfc7518#section-3.3


@dataclass(frozen=True, slots=True)
class Key:
    """Equal if the document says the same of it."""

    algorithm: str
    told: Mapping[str, Any]
    jwk: jwt.PyJWK = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Keys:
    """Those that can be used, by their ids."""

    by_id: Mapping[str, Key]

    def find(self, key_id: str | None) -> Key | None:
        """A token that names no key (None) means the only one there is."""
        if key_id is None:
            return next(iter(self.by_id.values())) if len(self.by_id) == 1 else None
        return self.by_id.get(key_id)


def keys_of(document: Any) -> Keys:
    """Keys that are no use to us are passed over. Raises ValueError if `document` is no JWKS, or nothing remains."""
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        raise ValueError("it is no JWKS document")
    keys = {_id(each): key for each in listed if (key := _key(each)) is not None}
    if not keys:
        raise ValueError("its JWKS document has no key for RS256, ES256 or EdDSA")
    return Keys(keys)


def _id(told: Mapping[str, Any]) -> str:
    return str(told.get("kid", ""))


def _key(told: Any) -> Key | None:
    if not isinstance(told, dict) or told.get("use", "sig") != "sig" or "d" in told:  # d: its private part is public
        return None
    algorithm = _ALGORITHMS.get((str(told.get("kty")), str(told.get("crv", ""))))
    if algorithm is None or told.get("alg", algorithm) != algorithm:
        return None
    try:
        jwk = jwt.PyJWK(told, algorithm)
    except (jwt.PyJWTError, ValueError, TypeError):
        return None
    if isinstance(jwk.key, RSAPublicKey) and jwk.key.key_size < _RSA_BITS:
        return None
    return Key(algorithm, told, jwk)
