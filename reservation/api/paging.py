"""Page tokens: where the next page begins, and what it is a page of. A token is opaque to callers and opens nothing:
what it may be used for is decided by the request that it comes with."""

import base64
import binascii
import hashlib
from collections.abc import Iterable

from reservation.domain.errors import FieldViolation, InvalidRequest

TOKEN_LENGTH = 512
_DIGEST_BYTES = 6


def page_token(position: str, scope: Iterable[str]) -> str:
    """A token for a page that begins at `position` of what `scope` names (method, filters, owner)."""
    return base64.urlsafe_b64encode(_digest(scope) + position.encode()).decode().rstrip("=")


def page_position(token: str, scope: Iterable[str]) -> str:
    """Raises InvalidRequest for a token that is none, or one of another scope."""
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars="-_", validate=True)
        digest, position = raw[:_DIGEST_BYTES], raw[_DIGEST_BYTES:].decode()
    except (ValueError, binascii.Error):
        raise _invalid() from None
    if len(token) > TOKEN_LENGTH or digest != _digest(scope):
        raise _invalid()
    return position


def _digest(scope: Iterable[str]) -> bytes:
    return hashlib.sha256("\0".join(scope).encode()).digest()[:_DIGEST_BYTES]


def _invalid() -> InvalidRequest:
    return InvalidRequest([FieldViolation("page_token", "is not a token of this list")])
