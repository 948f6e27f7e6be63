"""What no log line may show: with it somebody could act as somebody else, or learn how they pay."""

import re
from collections.abc import Iterable, MutableMapping
from typing import Any

HIDDEN = "[hidden]"

_SECRET_KEYS = frozenset(
    {"authorization", "idempotency_key", "page_token", "payment_intent_id", "reservation_token", "token"}
)
_TEXT_KEYS = ("exception", "error", "message", "problem", "reason")
"""Where the words of exceptions end up, which may quote anything."""
_WATCHED = _SECRET_KEYS.union(_TEXT_KEYS, {"secrets"})

# A secret field by its name in Python, JSON, metadata or an item of DynamoDB ({"S": ...}), then its value in quotes.
_NAMED = re.compile(
    r"""(?P<before>(?:payment_?intent_?id|reservation_?token|idempotency[_-]?key|authorization)
        \\?['"]?\s*[:=,]\s*(?:\{\s*\\?['"]S\\?['"]\s*:\s*)?b?(?P<quote>\\?['"]))(?:(?!(?P=quote)).)+""",
    re.IGNORECASE | re.VERBOSE,
)
_BEARER = re.compile(r"\bbearer\s+[^\s'\"\\]+|\beyJ[\w-]+\.[\w-]+(?:\.[\w-]+)?", re.IGNORECASE)


def redact(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A structlog processor, to run when exceptions have become text. Most lines are only looked at for their keys.

    `secrets` is taken out of the line: values that its other texts must not show.
    """
    if _WATCHED.isdisjoint(event):
        return event
    for key in _SECRET_KEYS.intersection(event):
        event[key] = HIDDEN
    for key in _TEXT_KEYS:
        if isinstance(text := event.get(key), str):
            event[key] = _BEARER.sub(HIDDEN, _NAMED.sub(rf"\g<before>{HIDDEN}", text))
    if secrets := event.pop("secrets", ()):
        for key, value in event.items():
            if isinstance(value, str):
                event[key] = _without(value, secrets)
    return event


def _without(text: str, secrets: Iterable[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    return text
