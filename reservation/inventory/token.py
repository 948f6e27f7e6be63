"""The token that this service shows to another one."""

from pathlib import Path

import structlog

log = structlog.get_logger()


class TokenFile:
    """A bearer token that somebody else renews, as Kubernetes does with a projected service account token: the file is
    read again when it has changed. One that cannot be used leaves the token that was read before, and is told once."""

    def __init__(self, path: Path) -> None:
        """Raises OSError, and ValueError if there is no token in it."""
        self._path = path
        self._seen = self._stamp()
        self._token = self._read()

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes with a call."""
        stamp = self._stamp()
        if stamp != self._seen:
            self._seen = stamp
            try:
                self._token = self._read()
            except (OSError, ValueError) as error:
                log.warning("inventory.token_unusable", error=str(error))
        return (("authorization", f"Bearer {self._token}"),)

    def _stamp(self) -> object:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size

    def _read(self) -> str:
        token = self._path.read_text(encoding="ascii").strip()
        if not token.isprintable() or " " in token or not token:
            raise ValueError("there is no token in the file")
        return token
