"""Secrets are hidden wherever a log line may carry them, and nothing else is."""

import io
import json
from typing import Any

import pytest
import structlog

from reservation.telemetry import logs
from reservation.telemetry.redaction import HIDDEN, redact

SECRET = "s3cr3t-0815"
JWT = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2lnbmF0dXJl"


def _redacted(**event: Any) -> dict[str, Any]:
    return dict(redact(None, "info", event))


@pytest.mark.parametrize(
    "key", ["authorization", "idempotency_key", "page_token", "payment_intent_id", "reservation_token", "token"]
)
def test_the_value_of_a_secret_key_is_hidden(key: str) -> None:
    assert _redacted(event="rpc", rpc="Get", **{key: SECRET}) == {"event": "rpc", "rpc": "Get", key: HIDDEN}


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        (f"Reservation(id='rsv_1', payment_intent_id='{SECRET}', order_id='')", "id='rsv_1', payment_intent_id='['"),
        (f'{{"reservationToken":"{SECRET}","quantity":2}}', '"reservationToken":"["'),
        (f"{{'paymentIntentId': {{'S': '{SECRET}'}}}}", "'paymentIntentId': {'S': '['}"),
        (f'"{{\\"idempotencyKey\\": \\"{SECRET}\\"}}"', '\\"idempotencyKey\\": \\"[\\"'),
        (f"('idempotency-key', '{SECRET}')", "('idempotency-key', '['"),
        (f"authorization: Bearer {SECRET}", "authorization: ["),
        (f"('authorization', b'Bearer {SECRET}')", "('authorization', b'['"),
        (f"ValueError: bad token {JWT}", "ValueError: bad token ["),
    ],
)
@pytest.mark.parametrize("key", ["exception", "error", "message", "problem", "reason"])
def test_a_secret_that_an_exception_quotes_is_hidden_and_the_rest_stays(key: str, text: str, hidden: str) -> None:
    told = _redacted(event="failed", **{key: text})[key]
    assert SECRET not in told
    assert JWT not in told
    assert hidden.replace("[", HIDDEN) in told


def test_values_that_a_line_names_are_hidden_in_all_its_texts_and_not_printed() -> None:
    told = _redacted(event="failed", exception=f"KeyError: '{SECRET}'", rpc="Get", said=SECRET, secrets=[SECRET])
    assert told == {"event": "failed", "exception": f"KeyError: '{HIDDEN}'", "rpc": "Get", "said": HIDDEN}


@pytest.mark.parametrize(
    "line",
    [
        "    payment_intent_id=request.payment_intent_id,",
        '    raise MissingIdempotencyKey("idempotency_key")',
        "the authorization is not needed",
    ],
)
def test_the_code_in_a_stack_stays(line: str) -> None:
    assert _redacted(exception=line) == {"exception": line}


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_neither_format_prints_a_secret_of_a_stack(log_format: str) -> None:
    """Not even as a local variable."""
    told = io.TextIOWrapper(io.BytesIO(), write_through=True)
    before = structlog.get_config()
    try:
        logs.configure(level="DEBUG", log_format=log_format, stream=told)
        _fail_with(SECRET)
    finally:
        structlog.configure(**before)
    text = told.buffer.getvalue().decode()
    assert SECRET not in text
    assert "_fail_with" in text
    if log_format == "json":
        assert json.loads(text)["exception"].endswith(f"KeyError: '{HIDDEN}'")


def _fail_with(payment_intent_id: str) -> None:
    try:
        raise KeyError(payment_intent_id)
    except KeyError as error:
        structlog.get_logger().error("rpc.failed", exc_info=error, secrets=[payment_intent_id])
