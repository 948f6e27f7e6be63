"""Signature Version 4 for the one shape of request that AWS's JSON protocols have: POST / with a target header.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

import hashlib
import hmac
import time
from typing import Protocol


class FrozenCredentials(Protocol):
    """One consistent set of keys, as botocore's ReadOnlyCredentials. Never changes; a refresh makes a new one."""

    @property
    def access_key(self) -> str: ...
    @property
    def secret_key(self) -> str: ...
    @property
    def token(self) -> str | None: ...


class Signer:
    """Signs requests to one host of one service in one region.

    What does not depend on the request is kept: the signing key for a day and a set of keys, the canonical header block
    of each target for a second. So a signature costs two SHA-256 and one HMAC.
    """

    def __init__(self, *, region: str, service: str, host: str, content_type: str) -> None:
        """`host` and `content_type` are the values of the Host and Content-Type headers that will be sent."""
        self._region = region
        self._service = service
        self._host = host
        self._content_type = content_type
        self._second = -1
        self._credentials: FrozenCredentials | None = None
        self._key_identity: tuple[str, str] | None = None
        self._key = b""
        self._amz_date = ""
        self._signed_headers = ""
        self._string_to_sign_head = b""
        self._authorization_head = ""
        self._canonical_heads: dict[str, bytes] = {}

    def sign(self, target: str, body: bytes, credentials: FrozenCredentials, now: int) -> tuple[str, str]:
        """The values of the X-Amz-Date and Authorization headers.

        target: the X-Amz-Target header; `now`: seconds since the epoch. The request must also carry the Host and
        Content-Type headers of this signer and, if the credentials have a token, X-Amz-Security-Token.
        """
        if now != self._second or credentials is not self._credentials:
            self._turn_to(now, credentials)
        head = self._canonical_heads.get(target)
        if head is None:
            head = self._canonical_heads[target] = self._canonical_head(target, credentials.token)
        canonical_request = head + hashlib.sha256(body).hexdigest().encode()
        to_sign = self._string_to_sign_head + hashlib.sha256(canonical_request).hexdigest().encode()
        return self._amz_date, self._authorization_head + _hmac(self._key, to_sign).hex()

    def _turn_to(self, now: int, credentials: FrozenCredentials) -> None:
        """Recompute everything that holds for this second and these credentials."""
        self._amz_date = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
        day = self._amz_date[:8]
        if self._key_identity != (day, credentials.secret_key):
            self._key = self._signing_key(day, credentials.secret_key)
            self._key_identity = (day, credentials.secret_key)
        scope = f"{day}/{self._region}/{self._service}/aws4_request"
        token_header = "x-amz-security-token;" if credentials.token else ""
        self._signed_headers = f"content-type;host;x-amz-date;{token_header}x-amz-target"
        self._string_to_sign_head = f"AWS4-HMAC-SHA256\n{self._amz_date}\n{scope}\n".encode()
        self._authorization_head = (
            f"AWS4-HMAC-SHA256 Credential={credentials.access_key}/{scope}, "
            f"SignedHeaders={self._signed_headers}, Signature="
        )
        self._canonical_heads.clear()
        self._second = now
        self._credentials = credentials

    def _signing_key(self, day: str, secret_key: str) -> bytes:
        key = f"AWS4{secret_key}".encode()
        for part in (day, self._region, self._service, "aws4_request"):
            key = _hmac(key, part.encode())
        return key

    def _canonical_head(self, target: str, token: str | None) -> bytes:
        """The canonical request up to the hash of the body."""
        token_line = f"x-amz-security-token:{token}\n" if token else ""
        return (
            f"POST\n/\n\n"
            f"content-type:{self._content_type}\n"
            f"host:{self._host}\n"
            f"x-amz-date:{self._amz_date}\n"
            f"{token_line}"
            f"x-amz-target:{target}\n\n"
            f"{self._signed_headers}\n"
        ).encode()


def _hmac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")
