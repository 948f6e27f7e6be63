"""Log lines on their way out: whoever writes one never waits for whoever reads it."""

import atexit
import os
import threading
from collections import deque
from collections.abc import Callable

_PAUSE_SECONDS = 0.02
_CLOSE_SECONDS = 2.0
LIMIT_BYTES = 4 * 1024 * 1024
"""What may wait at a time: some seconds of the most lines there can be."""


class LineWriter:
    """Looks like a binary file to structlog. A thread writes what has gathered to the file descriptor, fifty times a
    second at most; lines beyond `limit` bytes are lost and counted, and a line of `lost(number)` says so. close() waits
    for what is left, 2 seconds at most; it is called at the exit of the process at the latest."""

    def __init__(self, descriptor: int, lost: Callable[[int], bytes], *, limit: int = LIMIT_BYTES) -> None:
        self._descriptor = descriptor
        self._lost_line = lost
        self._limit = limit
        self._lines: deque[bytes] = deque()
        self._waiting = 0
        self._lost = 0
        self._lock = threading.Lock()
        self._news = threading.Event()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def write(self, line: bytes) -> None:
        with self._lock:
            if self._waiting + len(line) > self._limit:
                self._lost += 1
                return
            self._lines.append(line)
            self._waiting += len(line)
        if not self._news.is_set():
            self._news.set()

    def flush(self) -> None:
        """The thread does it."""

    def close(self) -> None:
        atexit.unregister(self.close)
        self._closed.set()
        self._news.set()
        self._thread.join(_CLOSE_SECONDS)

    def _run(self) -> None:
        while not self._closed.is_set():
            self._news.wait()
            self._closed.wait(_PAUSE_SECONDS)  # more lines come; one call writes them all
            self._news.clear()
            self._write_all(self._taken())
        self._write_all(self._taken())

    def _taken(self) -> bytes:
        with self._lock:
            lines, lost = b"".join(self._lines), self._lost
            self._lines.clear()
            self._waiting = self._lost = 0
        return lines + (self._lost_line(lost) if lost else b"")

    def _write_all(self, text: bytes) -> None:
        view = memoryview(text)
        while view:
            try:
                view = view[os.write(self._descriptor, view) :]
            except OSError:  # nobody reads any more
                return
