"""Page tokens: where a page of a list begins, in a form that nobody needs to understand."""

import hashlib
from base64 import urlsafe_b64decode, urlsafe_b64encode

from reservation.api.rules import TOKEN_LENGTH

_DIGEST_BYTES = 12


class Pages:
    """The pages of one list, which is what its `parts` say: whose it is, and every filter.

    A token of one list is none of any other. It is no secret: who makes one up sees pages of the same list.
    """

    def __init__(self, *parts: str) -> None:
        self._list = hashlib.sha256(b"".join(b"%d:%b" % (len(part), part) for part in map(str.encode, parts)))

    def token(self, begin: str) -> str:
        """The token of the page that begins there. `begin` has at most 256 bytes and is not empty."""
        digest = self._list.copy()
        digest.update(begin.encode())
        return urlsafe_b64encode(digest.digest()[:_DIGEST_BYTES] + begin.encode()).decode().rstrip("=")

    def begin(self, token: str) -> str | None:
        """Where the page begins; None: this is no token of this list."""
        if len(token) > TOKEN_LENGTH:
            return None
        try:
            begin = urlsafe_b64decode(token + "=" * (-len(token) % 4))[_DIGEST_BYTES:].decode()
        except ValueError:  # of bytes that are no base64, or not UTF-8
            return None
        # Whole, because decoding forgives: many texts would mean the same bytes.
        return begin if begin and token == self.token(begin) else None
