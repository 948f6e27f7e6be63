"""The trace that a call belongs to, as a traceparent: version-traceid-parentid-flags.

https://www.w3.org/TR/trace-context/#traceparent-header
"""

import os
import re

_WELL_FORMED = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}").fullmatch


def is_well_formed(traceparent: str) -> bool:
    """One that is not is as good as none, and says nothing in any log or event."""
    return _WELL_FORMED(traceparent) is not None


def new() -> str:
    """A trace that is not recorded."""
    chance = os.urandom(24).hex()
    return f"00-{chance[:32]}-{chance[32:]}-00"


def trace_id(traceparent: str) -> str:
    return traceparent[3:35]


def span_id(traceparent: str) -> str:
    return traceparent[36:52]


def is_sampled(traceparent: str) -> bool:
    """Whether it is recorded."""
    return int(traceparent[53:], 16) & 1 == 1
