"""The issuer's keys as this process knows them, and when it asks for them again."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

from reservation.auth.issuer import IssuerError
from reservation.auth.keys import Key, Keys
from reservation.domain.errors import ServiceUnavailable

log = structlog.get_logger()

REFRESH_SECONDS = 300.0
"""How long a key that the issuer has withdrawn may still be believed."""

RETRY_SECONDS = 10.0
"""After how long at the earliest a token with an unknown key, or a failure, makes us ask again."""

MOST_WAITING = 32
"""Calls with unknown keys that may wait for an answer at a time. Anybody can make one up, and while the issuer is slow
to answer they would take the places of those whose keys are known."""


class Keyring:
    """Keys outlive an issuer that cannot be reached. `keys` is another object only when they have changed; None: they
    were never known.

    `fetch` raises IssuerError. `pause` is how it waits, in seconds.
    """

    def __init__(
        self,
        fetch: Callable[[], Awaitable[Keys]],
        *,
        monotonic: Callable[[], float] = time.monotonic,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.keys: Keys | None = None
        self._fetch = fetch
        self._monotonic = monotonic
        self._pause = pause
        self._fetching: asyncio.Task[None] | None = None
        self._asked_at = float("-inf")
        self._told_at = float("-inf")
        self._current = False
        self._waiting = 0

    @property
    def age(self) -> float:
        """Seconds since the issuer has told its keys; infinite if it never has."""
        return self._monotonic() - self._told_at

    async def find(self, key_id: str | None, until: float) -> Key | None:
        """None: the issuer has no such key. Asks for an unknown one, which all who wait share.

        Raises ServiceUnavailable if that cannot be known by `until`, in time.monotonic() seconds, or too many wait.
        """
        if self.keys is not None and (key := self.keys.find(key_id)) is not None:
            return key
        if self._fetching is not None or self._monotonic() >= self._asked_at + RETRY_SECONDS:
            await self._wait(max(0.0, until - self._monotonic()))
        if self._fetching is not None or self.keys is None or not self._current:
            raise ServiceUnavailable
        return self.keys.find(key_id)

    async def _wait(self, seconds: float) -> None:
        if self._waiting >= MOST_WAITING and self.keys is not None:
            raise ServiceUnavailable
        self._waiting += 1
        try:
            await asyncio.wait((self._asked(),), timeout=seconds)
        finally:
            self._waiting -= 1

    async def refresh(self) -> None:
        """Asks the issuer, together with whoever else is asking. Failures are told in the log."""
        await asyncio.shield(self._asked())

    async def run(self) -> None:
        """Refreshes until cancelled."""
        while True:
            await self._pause(REFRESH_SECONDS if self._current else RETRY_SECONDS)
            await self.refresh()

    async def close(self) -> None:
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.wait((self._fetching,))

    def _asked(self) -> asyncio.Task[None]:
        if self._fetching is None:
            self._asked_at = self._monotonic()
            self._fetching = asyncio.create_task(self._ask(), name="issuer keys")
        return self._fetching

    async def _ask(self) -> None:
        try:
            keys = await self._fetch()
        except IssuerError as error:
            self._current = False
            log.warning("issuer.unreachable", error=str(error), keys_known=self.keys is not None)
        else:
            self._current = True
            self._told_at = self._monotonic()
            if keys != self.keys:
                self.keys = keys
                log.info("issuer.keys", key_ids=sorted(keys.by_id))
        finally:
            self._fetching = None
