"""One call as it came in: who calls, through which door, until when."""

import time
from dataclasses import dataclass
from typing import Any

from reservation.domain.errors import MissingIdempotencyKey

MAX_SECONDS = 2.5
"""What a command may take if its caller gives it longer, or no deadline at all."""

ANONYMOUS = "anonymous"


@dataclass(frozen=True, slots=True)
class Call:
    """`until` in time.monotonic() seconds. `path` is the REST path, None for native gRPC.

    `via_edge` makes rules stricter and never laxer: whoever forges it gains nothing.
    """

    until: float
    via_edge: bool
    path: str | None
    traceparent: str
    trace_id: str
    idempotency_key: str

    @classmethod
    def of(cls, context: Any) -> "Call":
        """From a grpc.aio ServicerContext."""
        metadata = dict(context.invocation_metadata())
        remaining = context.time_remaining()
        original_path = metadata.get("x-envoy-original-path")
        traceparent = metadata.get("traceparent", "")
        return cls(
            until=time.monotonic() + (MAX_SECONDS if remaining is None else min(remaining, MAX_SECONDS)),
            via_edge="x-edge" in metadata,
            path=original_path.split("?", 1)[0] if original_path is not None else None,
            traceparent=traceparent,
            # https://www.w3.org/TR/trace-context/#traceparent-header: version-traceid-parentid-flags
            trace_id=traceparent[3:35] if len(traceparent) == 55 else metadata.get("x-request-id", "")[:64],
            idempotency_key=metadata.get("idempotency-key", ""),
        )

    @property
    def created_headers(self) -> tuple[tuple[str, str], ...]:
        """What makes Envoy answer 201; native callers have no HTTP status to see."""
        return (("x-http-status", "201"),) if self.path is not None else ()

    def key(self, from_message: str, *, required_at_edge: bool = False) -> str:
        """The idempotency key: the message's, else the header's (bare, or quoted as a structured field string,
        https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/). Raises MissingIdempotencyKey."""
        key = from_message or self.idempotency_key
        if len(key) >= 2 and key[0] == key[-1] == '"':
            key = key[1:-1]
        if not key and required_at_edge and self.via_edge:
            raise MissingIdempotencyKey
        return key

    def user(self, named: str) -> str:
        """Whom a new reservation belongs to."""
        return named or ANONYMOUS

    def owner(self, named: str) -> str | None:
        """Whose reservation this call may touch; None: anybody's, for a direct caller that names nobody."""
        if named:
            return named
        return ANONYMOUS if self.via_edge else None
