"""Which error an answer becomes, and which errors deserve another try."""

import orjson
import pytest

from reservation.aws.errors import (
    AwsError,
    ConditionFailed,
    ConnectFailed,
    Reason,
    RetryClass,
    Throttled,
    TransactionCanceled,
    TransportError,
    error_from_response,
    outcome_unknown,
    retry_class,
)

ITEM = {"pk": {"S": "A-1"}}


def conflicted(*codes: str) -> TransactionCanceled:
    return TransactionCanceled(reasons=tuple(Reason(code, "", None) for code in codes))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (Throttled("ThrottlingException", status=400), RetryClass.THROTTLE),
        (Throttled("ProvisionedThroughputExceededException", status=400), RetryClass.THROTTLE),
        (AwsError("RequestLimitExceeded", status=400), RetryClass.THROTTLE),
        (AwsError("InternalServerError", status=500), RetryClass.TRANSIENT),
        (AwsError("ServiceUnavailable", status=503), RetryClass.TRANSIENT),
        (AwsError("HTTP502", status=502), RetryClass.TRANSIENT),
        (AwsError("NeverHeardOf", status=504), RetryClass.TRANSIENT),
        (AwsError("TransactionInProgressException", status=400), RetryClass.TRANSIENT),
        (TransportError("ReadTimeout"), RetryClass.TRANSIENT),
        (ConnectFailed("ConnectTimeout"), RetryClass.TRANSIENT),
        (AwsError("TransactionConflictException", status=400), RetryClass.CONFLICT),
        (AwsError("ExpiredTokenException", status=400), RetryClass.REAUTH),
        (AwsError("UnrecognizedClientException", status=400), RetryClass.REAUTH),
        (AwsError("InvalidSignatureException", status=400), RetryClass.REAUTH),
        (AwsError("ValidationException", status=400), None),
        (AwsError("ResourceNotFoundException", status=400), None),
        (AwsError("IdempotentParameterMismatchException", status=400), None),
        (AwsError("AccessDeniedException", status=400), None),
        (AwsError("HTTP403", status=403), None),
        (ConditionFailed(), None),
        (conflicted("None", "ConditionalCheckFailed"), None),
        (conflicted("TransactionConflict", "None"), None),
        (conflicted("ThrottlingError"), None),
    ],
    ids=str,
)
def test_retry_class(error: AwsError, expected: RetryClass | None) -> None:
    assert retry_class(error) is expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (TransportError("ReadTimeout"), True),
        (TransportError("ChecksumMismatch", status=200), True),
        (ConnectFailed("ConnectTimeout"), False),
        (AwsError("InternalServerError", status=500), True),
        (Throttled("ThrottlingException", status=503), True),
        (AwsError("TransactionInProgressException", status=400), True),
        (Throttled("ThrottlingException", status=400), False),
        (AwsError("TransactionConflictException", status=400), False),
        (AwsError("ValidationException", status=400), False),
        (ConditionFailed(), False),
        (conflicted("TransactionConflict"), False),
    ],
    ids=str,
)
def test_only_an_answer_that_settles_the_matter_makes_the_outcome_known(error: AwsError, expected: bool) -> None:
    assert outcome_unknown(error) is expected


@pytest.mark.parametrize(
    ("status", "body", "kind", "code", "message"),
    [
        (400, b'{"__type":"com.amazonaws.x#ValidationException","message":"m"}', AwsError, "ValidationException", "m"),
        (400, b'{"__type":"com.amazon.coral.service#RequestExpired","Message":"M"}', AwsError, "RequestExpired", "M"),
        (400, b'{"__type":"ThrottlingException"}', Throttled, "ThrottlingException", ""),
        (400, b'{"__type":"InternalException:http://internal.amazon.com/coral/"}', AwsError, "InternalException", ""),
        (502, b"<html>bad gateway</html>", AwsError, "HTTP502", "<html>bad gateway</html>"),
        (503, b"", AwsError, "HTTP503", ""),
        (403, b"{}", AwsError, "HTTP403", ""),
        (500, b"[1]", AwsError, "HTTP500", "[1]"),
        (500, b"\xe9" * 900, AwsError, "HTTP500", "\ufffd" * 200),
        (400, b'{"__type":null,"message":null}', AwsError, "HTTP400", ""),
    ],
)  # fmt: skip
def test_error_from_response(status: int, body: bytes, kind: type[AwsError], code: str, message: str) -> None:
    error = error_from_response(status, body, "REQUEST1")
    assert type(error) is kind
    assert (error.code, error.message, error.status, error.request_id) == (code, message, status, "REQUEST1")
    assert error.maybe_applied is False


def test_a_cancelled_transaction_gives_its_reasons_in_the_order_of_its_actions() -> None:
    body = orjson.dumps(
        {
            "__type": "com.amazonaws.dynamodb.v20120810#TransactionCanceledException",
            "Message": "Transaction cancelled",
            "CancellationReasons": [
                {"Code": "None"},
                {"Code": "ConditionalCheckFailed", "Message": "The conditional request failed", "Item": ITEM},
                {"Code": "TransactionConflict", "Message": "ongoing"},
            ],
        }
    )
    error = error_from_response(400, body, "")
    assert isinstance(error, TransactionCanceled)
    assert error.reasons == (
        Reason("None", "", None),
        Reason("ConditionalCheckFailed", "The conditional request failed", ITEM),
        Reason("TransactionConflict", "ongoing", None),
    )


@pytest.mark.parametrize("item", [ITEM, None])
def test_a_failed_condition_brings_the_stored_item(item: dict[str, object] | None) -> None:
    body = {"__type": "x#ConditionalCheckFailedException", "message": "no", **({"Item": item} if item else {})}
    error = error_from_response(400, orjson.dumps(body), "")
    assert isinstance(error, ConditionFailed)
    assert error.item == item
