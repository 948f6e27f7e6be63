"""REST answers of the whole system: the one shape of success, the one shape of failure, and what tests send."""

import re
import uuid
from typing import Any

import httpx

from tests.support.edge import TRACE_ID, check_nothing_internal
from tests.support.system import EVENT_ID

CREATE, CONFIRM, CANCEL = "/v1/reservations", "/v1/reservations/confirm", "/v1/reservations/cancel"
EXTEND = "/v1/reservations/extend"


def new_key() -> dict[str, str]:
    return {"idempotency-key": str(uuid.uuid4())}


def wanted(seat_ids: list[str], **fields: Any) -> dict[str, Any]:
    """The body of a create for seats of the demo event."""
    return {"eventId": EVENT_ID, "quantity": len(seat_ids), "seatIds": seat_ids} | fields


async def hold(rest: httpx.AsyncClient, seat_ids: list[str]) -> str:
    """The id of a new reservation."""
    return str(body_of(await rest.post(CREATE, json=wanted(seat_ids), headers=new_key()), 201)["reservationId"])


def body_of(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The JSON object that came under this status, with nothing of the inside in its headers."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].startswith("application/json")
    check_nothing_internal(answer)
    body: dict[str, Any] = answer.json()
    return body


def error_of(answer: httpx.Response, status: int, code: str, path: str, trace_id: str = TRACE_ID) -> dict[str, Any]:
    """What is in the error envelope, which has exactly the public members. `trace_id` is a regular expression."""
    body = body_of(answer, status)
    assert list(body) == ["error"]
    error: dict[str, Any] = body["error"]
    assert set(error) - {"details"} == {"code", "message", "timestamp", "path", "traceId"}
    assert (error["code"], error["path"]) == (code, path)
    assert error["message"]
    like(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", error["timestamp"])
    like(trace_id, error["traceId"])
    return error


def like(pattern: str, value: str) -> str:
    assert re.fullmatch(pattern, value), value
    return value
