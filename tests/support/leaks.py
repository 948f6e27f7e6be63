"""What no answer may show, whatever was asked."""

import re

_INSIDE = re.compile(
    r"Traceback|\.py\b|line \d+|\b[A-Z]\w*(?:Error|Exception|Warning)\b|\bgrpc\._|boto|dynamodb|pydantic|orjson"
    r"|protobuf|parse|coroutine|asyncio|object at 0x|\bNone\b|\bself\b|/(?:usr|home|work|tmp|root|opt)/|t[0-9a-f]{12}-",
    re.IGNORECASE,
)


def leaks(told: str, asked: str = "") -> list[str]:
    """Words of the inside: classes, files, tables. Those that were in the request itself are no leak."""
    return [word for word in _INSIDE.findall(told) if word.lower() not in asked.lower()]
