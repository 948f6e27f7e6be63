"""What a call to AWS can end in, and which endings deserve another try."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

READ_TIMEOUT = "ReadTimeout"
"""The code of a try that was not answered in its time. It may still be on its way."""


class RetryClass(enum.Enum):
    """Why another try may help; each class has its own back-off."""

    THROTTLE = "throttle"
    TRANSIENT = "transient"
    CONFLICT = "conflict"
    REAUTH = "reauth"


@dataclass(frozen=True, slots=True)
class Reason:
    """Why one action of a cancelled transaction failed.

    `code` is "None" where the action itself was fine. `item` is the stored item in DynamoDB's attribute-value form when
    the action asked for it with ReturnValuesOnConditionCheckFailure.
    """

    code: str
    message: str
    item: dict[str, Any] | None


class AwsError(Exception):
    """An answer other than success, or no answer at all.

    code: the service's error code without its namespace, "HTTP502" for an answer that names none.
    status: the HTTP status, 0 where there was no answer.
    request_id: the id AWS asks for in support cases, "" where there was no answer.
    maybe_applied: True if an earlier or this try may have taken effect although the call failed.
    """

    def __init__(
        self, code: str, message: str = "", status: int = 0, request_id: str = "", *, maybe_applied: bool = False
    ) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.status = status
        self.request_id = request_id
        self.maybe_applied = maybe_applied

    def __str__(self) -> str:
        return f"{self.code}: {self.message}" if self.message else self.code


class ConditionFailed(AwsError):
    """The condition of a single write did not hold.

    `item` is the stored item if the write asked for it, else None. A single write carries no token: after a try whose
    outcome was unknown, the item that stands in the way may be this very call's own.
    """

    def __init__(
        self,
        code: str = "ConditionalCheckFailedException",
        message: str = "",
        status: int = 400,
        request_id: str = "",
        *,
        item: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(code, message, status, request_id)
        self.item = item


class TransactionCanceled(AwsError):
    """The transaction was refused and left nothing behind; `reasons` are in the order of its actions. `overtaken`: an
    earlier try of the same call was not answered in time. If it is still on its way, it is judged anew on arrival."""

    def __init__(
        self,
        code: str = "TransactionCanceledException",
        message: str = "",
        status: int = 400,
        request_id: str = "",
        *,
        reasons: tuple[Reason, ...] = (),
    ) -> None:
        super().__init__(code, message, status, request_id)
        self.reasons = reasons
        self.overtaken = False


class Throttled(AwsError):
    """AWS asks for fewer calls."""


class TransportError(AwsError):
    """No trustworthy answer: connection lost, time-out, checksum mismatch, malformed HTTP. The outcome is unknown."""


class ConnectFailed(TransportError):
    """The request was never sent, so it certainly was not applied."""


# https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Programming.Errors.html and the common errors of
# EventBridge and SQS.
_RETRY_CLASSES: dict[str, RetryClass] = {
    **dict.fromkeys(
        (
            "LimitExceededException",
            "ProvisionedThroughputExceededException",
            "RequestLimitExceeded",
            "RequestThrottled",
            "RequestThrottledException",
            "ThrottledException",
            "Throttling",
            "ThrottlingException",
            "TooManyRequestsException",
        ),
        RetryClass.THROTTLE,
    ),
    **dict.fromkeys(
        (
            "InternalException",
            "InternalFailure",
            "InternalServerError",
            "InternalServiceError",
            "RequestTimeout",
            "RequestTimeoutException",
            "ServiceUnavailable",
            "ServiceUnavailableException",
            "TransactionInProgressException",
        ),
        RetryClass.TRANSIENT,
    ),
    "TransactionConflictException": RetryClass.CONFLICT,
    **dict.fromkeys(
        (
            "ExpiredTokenException",
            "IncompleteSignature",
            "InvalidSignatureException",
            "RequestExpired",
            "UnrecognizedClientException",
        ),
        RetryClass.REAUTH,
    ),
}


def retry_class(error: AwsError) -> RetryClass | None:
    """The back-off class of `error`, None if another try of the same request cannot help.

    A cancelled transaction is final here whatever its reasons: only the store knows whether to try again, and must then
    do so under a new client request token.
    """
    if isinstance(error, TransactionCanceled | ConditionFailed):
        return None
    if isinstance(error, TransportError):
        return RetryClass.TRANSIENT
    known = _RETRY_CLASSES.get(error.code)
    if known is None and error.status >= 500:
        return RetryClass.TRANSIENT
    return known


def outcome_unknown(error: AwsError) -> bool:
    """True if the try that ended in `error` may have been applied."""
    if isinstance(error, TransportError):
        return not isinstance(error, ConnectFailed)
    return error.status >= 500 or error.code == "TransactionInProgressException"


def error_from_response(status: int, body: bytes, request_id: str) -> AwsError:
    """The error that an HTTP answer of the JSON protocols stands for.

    https://smithy.io/2.0/aws/protocols/aws-json-1_0-protocol.html#operation-error-serialization
    """
    try:
        details = orjson.loads(body)
    except orjson.JSONDecodeError:
        details = None
    if not isinstance(details, dict):
        return service_error("", body[:200].decode("utf-8", "replace"), status, request_id, {})
    message = details.get("message") or details.get("Message") or ""
    return service_error(str(details.get("__type") or ""), str(message), status, request_id, details)


def service_error(code: str, message: str, status: int, request_id: str, details: Mapping[str, Any]) -> AwsError:
    """The error for a service's `code`, which may carry a namespace ("com.amazonaws.x#Code", "Code:http://...").

    `details` are the members of the error's body: CancellationReasons, Item.
    """
    code = code.partition(":")[0].rpartition("#")[2] or f"HTTP{status}"
    if code == "TransactionCanceledException":
        reasons = tuple(_reason(reason) for reason in details.get("CancellationReasons") or ())
        return TransactionCanceled(code, message, status, request_id, reasons=reasons)
    if code == "ConditionalCheckFailedException":
        return ConditionFailed(code, message, status, request_id, item=details.get("Item"))
    if _RETRY_CLASSES.get(code) is RetryClass.THROTTLE:
        return Throttled(code, message, status, request_id)
    return AwsError(code, message, status, request_id)


def _reason(reason: Mapping[str, Any]) -> Reason:
    return Reason(reason.get("Code") or "None", reason.get("Message") or "", reason.get("Item"))
