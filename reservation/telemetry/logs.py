"""Structured logs: events with keys, as JSON lines or, on a terminal, in colour."""

import hashlib
import logging
import sys
from collections.abc import Callable
from typing import Any, TextIO

import orjson
import structlog

from reservation.telemetry.lines import LineWriter
from reservation.telemetry.redaction import redact


def configure(*, level: str, log_format: str, stream: TextIO = sys.stderr) -> None:
    """`log_format`: "json", "console", or "auto" (console on a terminal)."""
    console = log_format == "console" or (log_format == "auto" and stream.isatty())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            # Before any secret is looked for. The traceback is plain: others print local variables, secrets among them.
            structlog.processors.format_exc_info,
            redact,
            _console(stream) if console else structlog.processors.JSONRenderer(serializer=_dumps),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level)),
        logger_factory=structlog.WriteLoggerFactory(file=stream) if console else _bytes_factory(stream),
        cache_logger_on_first_use=True,
    )


def _console(stream: TextIO) -> Any:
    return structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback)


def _bytes_factory(stream: TextIO) -> Any:
    try:
        descriptor = stream.fileno()
    except OSError:  # it is in memory
        return structlog.BytesLoggerFactory(file=stream.buffer)
    # A pipe that nobody empties would hold up the event loop.
    lines: Any = LineWriter(descriptor, lambda lost: _dumps({"event": "log.lost", "lines": lost}) + b"\n")
    return structlog.BytesLoggerFactory(file=lines)


def _dumps(event: dict[str, Any], **_: Any) -> bytes:
    return orjson.dumps(event, default=str)


def pseudonyms(key: str) -> Callable[[str], str]:
    """What lines say in the place of a user: the same for one user in all processes with the same key. Without a key
    whoever can guess a user's id can find it again."""
    secret = key.encode()

    def pseudonym(user: str) -> str:
        return hashlib.sha256(secret + b"\0" + user.encode()).hexdigest()[:16]

    return pseudonym
