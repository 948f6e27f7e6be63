"""One call as it came in: who calls, through which door, until when."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from reservation import tracecontext
from reservation.auth.caller import Caller
from reservation.domain.errors import MissingIdempotencyKey

MAX_SECONDS = 2.5
"""What a command may take if its caller gives it longer, or no deadline at all."""


@dataclass(slots=True)
class Call:
    """`until` in time.monotonic() seconds. `path` is the REST path, None for native gRPC. `authorization`: the header,
    "" if there is none.

    `via_edge` makes rules stricter and never laxer: whoever forges it gains nothing.

    `caller`, `user` (whom a new reservation or a list belongs to) and `owner` (whose reservation the call may touch;
    None: anybody's) are there only after act_for(): nothing can be done for a caller that was not checked.
    """

    until: float
    via_edge: bool
    path: str | None
    traceparent: str
    trace_id: str
    idempotency_key: str
    authorization: str = field(default="", repr=False)
    caller: Caller = field(init=False, repr=False, compare=False)
    user: str = field(init=False, repr=False, compare=False)
    owner: str | None = field(init=False, repr=False, compare=False)

    @classmethod
    def of(cls, context: Any) -> "Call":
        """From a grpc.aio ServicerContext."""
        received = context.invocation_metadata()
        metadata = dict(received)
        remaining = context.time_remaining()
        original_path = metadata.get("x-envoy-original-path")
        traceparent = metadata.get("traceparent", "")
        if not tracecontext.is_well_formed(traceparent):
            traceparent = tracecontext.new()
        return cls(
            until=time.monotonic() + (MAX_SECONDS if remaining is None else min(remaining, MAX_SECONDS)),
            via_edge="x-edge" in metadata,
            path=original_path.split("?", 1)[0] if original_path is not None else None,
            traceparent=traceparent,
            trace_id=tracecontext.trace_id(traceparent),
            idempotency_key=metadata.get("idempotency-key", ""),
            authorization=metadata.get("authorization", "") if len(metadata) == len(received) else _joined(received),
        )

    def act_for(self, caller: Caller, named: str) -> None:
        """`named`: the user that the message names, or "". Raises Forbidden."""
        self.user = caller.user(named)
        self.owner = caller.owner(named)
        self.caller = caller

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


def _joined(received: Sequence[tuple[str, Any]]) -> str:
    """https://www.rfc-editor.org/rfc/rfc9110#section-5.3: a header that came twice is one with a comma, which no token
    has. To take either would leave it to chance whom the caller is taken for."""
    return ", ".join(value for name, value in received if name == "authorization")
