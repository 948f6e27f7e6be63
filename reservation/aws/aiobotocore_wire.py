"""The wire over aiobotocore: for HTTP proxies, and as the reference that the lean wire is compared with."""

import asyncio
from collections.abc import Mapping
from typing import Any

import aiohttp
from botocore import xform_name
from botocore.exceptions import (
    BotoCoreError,
    ChecksumError,
    ClientError,
    ConnectionClosedError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    NoCredentialsError,
    PartialCredentialsError,
    ProxyConnectionError,
    ReadTimeoutError,
    SSLError,
)

from reservation.aws.client import ServerDate, later_server_date
from reservation.aws.errors import READ_TIMEOUT, AwsError, ConnectFailed, TransportError, service_error

_TRANSPORT_CODES: dict[type[BotoCoreError], str] = {
    ChecksumError: "ChecksumMismatch",
    ConnectionClosedError: "ConnectionLost",
    EndpointConnectionError: "ConnectionLost",
    ReadTimeoutError: READ_TIMEOUT,
}
_NEVER_SENT_CODES: dict[type[BotoCoreError], str] = {
    ConnectTimeoutError: "ConnectTimeout",
    CredentialRetrievalError: "CredentialsUnavailable",
    NoCredentialsError: "CredentialsUnavailable",
    PartialCredentialsError: "CredentialsUnavailable",
    ProxyConnectionError: "ConnectFailed",
    SSLError: "ConnectFailed",
}


class AiobotocoreWire:
    """One service through an entered aiobotocore client whose own retries and parameter validation are off.

    Its retry mode must be "legacy" with max_attempts 0: in the other modes the last try's checksum goes unchecked.
    Answers are shaped by the service's model: unknown members are missing, timestamps are datetimes.
    """

    def __init__(self, client: Any) -> None:
        """Owns `client` from here on."""
        self.server_date: ServerDate | None = None
        self._client = client

    async def send(self, operation: str, params: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        """See Wire; `timeout` covers connection and reply together."""
        method = getattr(self._client, xform_name(operation))
        try:
            async with asyncio.timeout(timeout):
                answer: dict[str, Any] = await method(**params)
        except ClientError as error:
            self._note_date(_headers(error.response))
            raise _service_error(error) from error
        except BotoCoreError as error:
            raise _transport_error(error) from error
        except TimeoutError as error:
            raise TransportError(READ_TIMEOUT, f"no reply within {timeout} s") from error
        except UnicodeDecodeError as error:
            raise TransportError("BadResponse", str(error)) from error
        headers = _headers(answer)
        self._note_date(headers)
        # To botocore a body that is not JSON is an answer without members: a write that never reached AWS would pass
        # for done.
        if "json" not in headers.get("content-type", "json"):
            raise TransportError("BadResponse", f"a reply of type {headers['content-type']}", 200)
        del answer["ResponseMetadata"]
        return answer

    async def renew_credentials(self, timeout: float | None) -> None:
        """See Wire. Nothing to do: aiobotocore asks its provider for every signature."""

    async def close(self) -> None:
        """See Wire."""
        await self._client.close()

    def _note_date(self, headers: Mapping[str, str]) -> None:
        self.server_date = later_server_date(self.server_date, headers.get("date", ""))


def _headers(answer: Mapping[str, Any]) -> Mapping[str, str]:
    headers: Mapping[str, str] = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return headers


def _service_error(error: ClientError) -> AwsError:
    details = error.response
    metadata = details.get("ResponseMetadata", {})
    status = metadata.get("HTTPStatusCode", 0)
    # SQS's model renames errors to what its older protocol called them; QueryErrorCode is then what was sent.
    code = details["Error"].get("QueryErrorCode") or details["Error"].get("Code", "")
    if code == str(status):  # botocore's name for an answer without a code
        code = ""
    return service_error(code, details["Error"].get("Message", ""), status, metadata.get("RequestId", ""), details)


def _transport_error(error: BotoCoreError) -> TransportError:
    # aiobotocore raises EndpointConnectionError for connections that broke under a request, too.
    if isinstance(error, EndpointConnectionError) and isinstance(error.__context__, aiohttp.ClientConnectorError):
        return ConnectFailed("ConnectFailed", str(error))
    if type(error) in _NEVER_SENT_CODES:
        return ConnectFailed(_NEVER_SENT_CODES[type(error)], str(error))
    return TransportError(_TRANSPORT_CODES.get(type(error), type(error).__name__), str(error))
