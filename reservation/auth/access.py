"""Which door asks for a token, and whom it lets in."""

from reservation.auth.caller import TRUSTED, UNVERIFIED, Caller
from reservation.auth.tokens import Tokens
from reservation.domain.errors import Unauthenticated

_SCHEME = "bearer "


class Access:
    """`tokens`: None if nobody verifies them. `trust_direct`: whoever comes past the edge needs none."""

    def __init__(self, tokens: Tokens | None, *, trust_direct: bool) -> None:
        self._tokens = tokens
        self._trust_direct = trust_direct

    async def caller(self, authorization: str, *, via_edge: bool, until: float) -> Caller:
        """Who calls with this Authorization header, "" if there is none. One that is there must be good, even where
        none is needed. Raises Unauthenticated and ServiceUnavailable, as Tokens.caller does."""
        if self._tokens is None:
            return UNVERIFIED if via_edge else TRUSTED
        if authorization:
            return await self._tokens.caller(_token(authorization), until)
        if self._trust_direct and not via_edge:
            return TRUSTED
        raise Unauthenticated.missing()

    def seconds_left(self, caller: Caller) -> float | None:
        """How long this caller may stay; None: as long as it likes."""
        return self._tokens.seconds_left(caller) if self._tokens is not None else None


def _token(authorization: str) -> str:
    """https://www.rfc-editor.org/rfc/rfc9110#section-11.4: schemes have no case. Raises Unauthenticated."""
    if authorization[: len(_SCHEME)].lower() != _SCHEME:
        raise Unauthenticated.missing()
    return authorization[len(_SCHEME) :].strip(" ")
