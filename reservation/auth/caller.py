"""Kinds of callers, what each may call, and for whom."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto

from reservation.domain.errors import Forbidden

ANONYMOUS = "anonymous"
"""The user of those who name nobody and need not say who they are."""


class Right(Enum):
    """What a caller must have to call an rpc."""

    RESERVATIONS = auto()
    INVENTORY_READ = auto()
    INVENTORY_WRITE = auto()


_EVERYTHING = frozenset(Right)
_CUSTOMERS = frozenset({Right.RESERVATIONS, Right.INVENTORY_READ})
_SCOPES = {
    "reservations:act-as": frozenset({Right.RESERVATIONS}),
    "inventory:read": frozenset({Right.INVENTORY_READ}),
    "inventory:write": frozenset({Right.INVENTORY_READ, Right.INVENTORY_WRITE}),
}


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody who calls. `name`: the user, if the message names none. `names_others`: may name another user than that.
    `owns_all`: may touch anybody's reservation by naming no user. `expires_at`: the end of its token, in milliseconds
    since the epoch; None: it has no token."""

    name: str
    rights: frozenset[Right]
    names_others: bool = False
    owns_all: bool = False
    expires_at: int | None = None

    def require(self, right: Right) -> None:
        """Raises Forbidden."""
        if right not in self.rights:
            raise Forbidden

    def user(self, named: str) -> str:
        """Whom a new reservation or a list belongs to, if the message names `named`. Raises Forbidden."""
        if named and named != self.name and not self.names_others:
            raise Forbidden
        return named or self.name

    def owner(self, named: str) -> str | None:
        """Whose reservation the call may touch, with `named` as user() allows it; None: anybody's."""
        return named or (None if self.owns_all else self.name)


TRUSTED = Caller(ANONYMOUS, _EVERYTHING, names_others=True, owns_all=True)
"""A service that reaches the port directly, where that is proof enough."""

UNVERIFIED = Caller(ANONYMOUS, _CUSTOMERS, names_others=True)
"""Whoever comes through the edge while nobody verifies tokens."""


def bearer(subject: str, scopes: Iterable[str], expires_at: int) -> Caller:
    """Whom a token tells of: a service, if it has any of our scopes, which may do what they say and acts for whom it
    names; else a customer, who acts for nobody but itself."""
    granted = [_SCOPES[scope] for scope in scopes if scope in _SCOPES]
    if not granted:
        return Caller(subject, _CUSTOMERS, expires_at=expires_at)
    rights = frozenset[Right]().union(*granted)
    return Caller(subject, rights, names_others=True, owns_all=True, expires_at=expires_at)
