"""Who we are and where AWS is, both from aiobotocore's public API, and the client that follows from it."""

import ssl
import urllib.request
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession

from reservation.aws.aiobotocore_wire import AiobotocoreWire
from reservation.aws.client import AwsClient, Trace
from reservation.aws.errors import AwsError
from reservation.aws.lean import LeanWire

Service = Literal["dynamodb", "events", "sqs"]


@dataclass(frozen=True, slots=True)
class AwsConfig:
    """profile: a section of the AWS config files, None for AWS_PROFILE and the default credential chain.

    client: the wire to use; "auto" is "lean" unless an HTTP proxy stands before the endpoint.
    """

    region: str
    profile: str | None = None
    client: Literal["auto", "lean", "aiobotocore"] = "auto"


def session(config: AwsConfig) -> AioSession:
    """A session for rare work, such as creating tables: `async with session(config).create_client("dynamodb") as c`."""
    aio_session = AioSession(profile=config.profile)
    aio_session.set_config_variable("region", config.region)
    return aio_session


async def connect(
    config: AwsConfig,
    service: Service,
    *,
    endpoint_url: str | None,
    pool_size: int = 64,
    trace: Trace | None = None,
    shared: AioSession | None = None,
) -> AwsClient:
    """A client of `service`; the caller closes it. Sends nothing to the service yet.

    endpoint_url: None for the AWS endpoint of the region (or AWS_ENDPOINT_URL). pool_size: most connections at a time.
    shared: a session of this config, for several clients: botocore then reads its files once, and there is one chain of
    credentials.
    Raises AwsError "NoCredentials" if the credential chain has none, botocore's errors if the configuration is wrong.
    """
    aio_session = shared if shared is not None else session(config)
    credentials = await aio_session.get_credentials()
    if credentials is None:
        raise AwsError("NoCredentials", f"no AWS credentials found for profile {aio_session.profile or 'default'}")
    client = await _open(aio_session, service, endpoint_url, pool_size)
    if config.client == "aiobotocore" or (config.client == "auto" and _proxied(client.meta.endpoint_url)):
        return AwsClient(AiobotocoreWire(client), trace=trace)
    try:
        return AwsClient(_lean_wire(client.meta, credentials, pool_size, _trust(aio_session)), trace=trace)
    finally:
        await client.close()


async def _open(aio_session: AioSession, service: Service, endpoint_url: str | None, pool_size: int) -> Any:
    config = AioConfig(
        connect_timeout=3,
        max_pool_connections=pool_size,
        parameter_validation=False,
        retries={"mode": "legacy", "max_attempts": 0},
    )
    return await aio_session.create_client(service, endpoint_url=endpoint_url, config=config).__aenter__()


def _lean_wire(meta: Any, credentials: Any, pool_size: int, tls: ssl.SSLContext | None) -> LeanWire:
    protocol = meta.service_model.metadata
    return LeanWire(
        credentials,
        endpoint_url=meta.endpoint_url,
        region=meta.region_name,
        signing_name=meta.service_model.signing_name,
        target_prefix=protocol["targetPrefix"],
        json_version=protocol["jsonVersion"],
        pool_size=pool_size,
        tls=tls,
    )


def _trust(aio_session: AioSession) -> ssl.SSLContext | None:
    """The CA bundle of AWS_CA_BUNDLE or of the profile's ca_bundle, None for the system's trust store."""
    bundle = aio_session.get_config_variable("ca_bundle")
    return ssl.create_default_context(cafile=bundle) if bundle else None


def _proxied(endpoint_url: str) -> bool:
    parts = urlsplit(endpoint_url)
    return parts.scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(parts.netloc)
