"""One effect per idempotency key: what a key is, what makes two requests equal, what is remembered."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from reservation.domain.errors import IdempotencyConflict, IdempotencyInProgress
from reservation.domain.model import Reservation


@dataclass(frozen=True, slots=True)
class Key:
    """An idempotency key in its scope, and the fingerprint of the content it came with.

    `ends_with_hold`: it stands for a customer rather than for a request, so it is forgotten no later than the hold it
    made: the same customer may want the same seats again.
    """

    id: str
    fingerprint: str
    ends_with_hold: bool = False


@dataclass(frozen=True, slots=True)
class Record:
    """What the store remembers of a key: the reservation as that command left it. `expires_at` is in milliseconds."""

    key: Key
    op_id: str
    answer: Reservation
    expires_at: int

    def replay(self, key: Key) -> Reservation:
        """The original answer. Raises IdempotencyConflict if the key came with other content this time."""
        _require_same(key, self.key)
        return self.answer


@dataclass(frozen=True, slots=True)
class Running:
    """What the store remembers of a key whose command is a saga that has not ended: of which reservation."""

    key: Key
    reservation_id: str
    expires_at: int
    op_id: str = ""

    def replay(self, key: Key) -> Reservation:
        """Raises IdempotencyConflict like Record.replay, else IdempotencyInProgress."""
        _require_same(key, self.key)
        raise IdempotencyInProgress


def _require_same(key: Key, known: Key) -> None:
    if key.fingerprint != known.fingerprint:
        raise IdempotencyConflict


def scoped_key(*, user_id: str, rpc: str, key: str, content: Iterable[str]) -> Key:
    """The key of one user for one rpc. `content` is every field of the request that means something, in a fixed order
    and a canonical form (lists sorted, numbers as text): what is not in it may differ between equal requests."""
    return Key(id=_digest(("key", user_id, rpc, key)), fingerprint=_digest(content))


def token_key(*, user_id: str, rpc: str, token: str, content: Iterable[str]) -> Key:
    """The key of a request that has none but carries a reservation token: equal content with one token is one request,
    other content another one (so the fingerprint is part of the key and can never conflict)."""
    fingerprint = _digest(content)
    return Key(_digest(("token", user_id, rpc, token, fingerprint)), fingerprint, ends_with_hold=True)


def _digest(parts: Iterable[str]) -> str:
    """SHA-256 over length-prefixed parts, so that ("a", "bc") and ("ab", "c") differ."""
    prefixed = [f"{len(part) if part.isascii() else len(part.encode())}:{part}" for part in parts]  # length in bytes
    return hashlib.sha256("".join(prefixed).encode()).hexdigest()
