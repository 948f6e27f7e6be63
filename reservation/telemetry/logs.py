"""Structured logs: events with keys, as JSON lines or, on a terminal, in colour."""

import logging
import sys
from typing import Any, TextIO

import orjson
import structlog

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
    return structlog.BytesLoggerFactory(file=stream.buffer)


def _dumps(event: dict[str, Any], **_: Any) -> bytes:
    return orjson.dumps(event, default=str)
