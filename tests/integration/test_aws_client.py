"""Both wires against a server that misbehaves: same answers, same errors, never another call's reply."""

import asyncio
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import pytest
from botocore.credentials import ReadOnlyCredentials

from reservation.aws.client import UNTIL_DEADLINE, AwsClient
from reservation.aws.errors import (
    AwsError,
    ConditionFailed,
    ConnectFailed,
    Reason,
    Throttled,
    TransactionCanceled,
    TransportError,
)
from reservation.aws.lean import CredentialSource, LeanWire
from reservation.aws.session import AwsConfig, connect, session
from tests.support.hostile import DATE_EPOCH_SECONDS, STORED_ITEM, HostileServer

WireName = Literal["lean", "aiobotocore"]
ENVIRONMENT_OF_DEVELOPERS = [
    *("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_DYNAMODB", "AWS_CA_BUNDLE"),
    *("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"),
]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ENVIRONMENT_OF_DEVELOPERS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "y" * 40)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))


@pytest.fixture(params=["lean", "aiobotocore"])
def wire(request: pytest.FixtureRequest) -> WireName:
    name: WireName = request.param
    return name


@pytest.fixture
async def server() -> AsyncIterator[HostileServer]:
    async with HostileServer() as server:
        yield server


@asynccontextmanager
async def connected(server: HostileServer, wire: WireName, pool_size: int = 64) -> AsyncIterator[AwsClient]:
    config = AwsConfig("us-east-1", client=wire)
    client = await connect(config, "dynamodb", endpoint_url=server.url, pool_size=pool_size)
    try:
        yield client
    finally:
        await client.close()


class FixedCredentials:
    async def get_frozen_credentials(self) -> ReadOnlyCredentials:
        return ReadOnlyCredentials("AKIDEXAMPLE", "y" * 40, None)


class SilentProvider:
    async def get_frozen_credentials(self) -> ReadOnlyCredentials:
        await asyncio.Event().wait()
        raise AssertionError("waits for ever")


@asynccontextmanager
async def lean(
    url: str, jitter: float = 0.0, credentials: CredentialSource | None = None, **options: Any
) -> AsyncIterator[AwsClient]:
    """A lean client whose every back-off is `jitter` times its greatest."""
    wire = LeanWire(
        credentials or FixedCredentials(),
        endpoint_url=url,
        region="us-east-1",
        signing_name="dynamodb",
        target_prefix="DynamoDB_20120810",
        json_version="1.0",
        **options,
    )
    client = AwsClient(wire, random=lambda: jitter)
    try:
        yield client
    finally:
        await client.close()


@pytest.fixture
async def client(server: HostileServer, wire: WireName) -> AsyncIterator[AwsClient]:
    async with lean(server.url, jitter=0.5) if wire == "lean" else connected(server, wire) as client:
        yield client


async def get(client: AwsClient, key: str = "wanted", **options: Any) -> dict[str, Any]:
    """GetItem of `key`; the server echoes the key. Returns the item, without its filling."""
    answer = await client.call("GetItem", {"TableName": "t", "Key": {"pk": {"S": key}}}, **options)
    return {"pk": answer["Item"]["pk"]}


def patience(plan: list[str]) -> float:
    """Seconds for each try: short only where the server keeps a reply back, for a loaded machine may be slow."""
    return 1.0 if "hold" in plan else 30.0


def item(key: str = "wanted") -> dict[str, Any]:
    return {"pk": {"S": key}}


# The plan, how the call ends ("answered" or the code of its error), and how many requests the server saw; None where a
# client may just as well take the reply as refuse it.
FAULTS: dict[str, tuple[list[str], str, int | None]] = {
    "nothing wrong": (["ok"], "answered", 1),
    "announced close": (["close"], "answered", 1),
    "silent close": (["close_silently", "ok"], "answered", 1),
    "reset": (["reset", "ok"], "answered", 2),
    "hang-up": (["hang_up", "ok"], "answered", 2),
    "half a reply": (["half", "ok"], "answered", 2),
    "late reply": (["hold", "ok"], "answered", None),
    "wrong checksum": (["corrupt", "ok"], "answered", 2),
    "chunked": (["chunked"], "answered", 1),
    "byte by byte": (["dribble"], "answered", 1),
    "HTML from a proxy": (["html", "ok"], "answered", 2),
    "a success of somebody else": (["portal", "ok"], "answered", 2),
    "not UTF-8": (["latin", "ok"], "answered", 2),
    "unavailable": (["unavailable", "ok"], "answered", 2),
    "throttled twice": (["throttle", "throttle", "ok"], "answered", 3),
    "invalid": (["invalid"], "ValidationException", 1),
    "expired token": (["expired", "ok"], "answered", 2),
    "bytes after the reply": (["surplus", "ok", "ok"], "answered", None),
    "900 kB": (["big"], "answered", 1),
    "nothing but resets": (["reset"] * 5, "ConnectionLost", 5),
    "a second reply": (["twice", "ok", "ok"], "answered", None),
    "token expired for good": (["expired", "expired"], "ExpiredTokenException", 2),
    "conflict": (["conflict", "ok"], "answered", 2),
    "cancelled transaction": (["canceled"], "TransactionCanceledException", 1),
    "nothing but HTML": (["html"] * 5, "HTTP502", 5),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_ends_as_it_should_and_the_next_call_gets_its_own_reply(
    fault: str, server: HostileServer, client: AwsClient
) -> None:
    plan, expected, requests = FAULTS[fault]
    server.plan[:] = plan
    try:
        answer = await get(client, timeout=patience(plan))
        ending = "answered"
        assert answer == item()
    except AwsError as error:
        ending = error.code
    assert ending == expected
    assert requests in (server.requests, None)
    server.plan.clear()
    server.release()
    for key in ("next", "and the next"):
        assert await get(client, key) == item(key)


@pytest.mark.parametrize(
    ("plan", "code"), [("unframed", "ConnectionLost"), ("not_http", "BadResponse"), ("interim", "BadResponse")]
)
async def test_a_reply_of_unknown_length_or_kind_is_no_reply(plan: str, code: str, server: HostileServer) -> None:
    async with lean(server.url) as client:
        server.plan[:] = [plan]
        with pytest.raises(TransportError) as caught:
            await get(client, attempts=1)
        assert (caught.value.code, caught.value.maybe_applied) == (code, True)
        assert await get(client) == item()


async def test_a_connection_with_surplus_bytes_is_not_used_again(server: HostileServer) -> None:
    async with lean(server.url) as client:
        for number, plan in enumerate(["surplus", "twice", "ok", "ok"], start=1):
            server.plan[:] = [plan]
            assert await get(client) == item()
            assert (server.requests, server.connections) == (number, min(number, 3))


async def test_an_announced_close_is_honoured(server: HostileServer, client: AwsClient) -> None:
    server.plan[:] = ["close"]
    assert await get(client) == item()
    assert await get(client, "next", attempts=1) == item("next")
    assert server.connections == 2


async def test_bytes_that_nobody_asked_for_end_their_connection(server: HostileServer) -> None:
    async with lean(server.url) as client:
        server.plan[:] = ["chatter"]
        assert await get(client) == item()
        server.release()
        async with asyncio.timeout(30):
            await server.saw(closed=1)
        assert await get(client, "next") == item("next")


async def test_every_try_sends_the_same_body(server: HostileServer, client: AwsClient) -> None:
    server.plan[:] = ["reset", "throttle", "unavailable", "ok"]
    await client.call("TransactWriteItems", {"TransactItems": [], "ClientRequestToken": "t1"})
    assert len(server.bodies) == 4
    assert len(set(server.bodies)) == 1


async def test_a_refusal_carries_its_reasons_and_its_item(server: HostileServer, client: AwsClient) -> None:
    server.plan[:] = ["canceled", "condition"]
    with pytest.raises(TransactionCanceled) as canceled:
        await client.call("TransactWriteItems", {"TransactItems": []})
    assert canceled.value.reasons == (
        Reason("None", "", None),
        Reason("ConditionalCheckFailed", "The conditional request failed", STORED_ITEM),
        Reason("TransactionConflict", "Transaction is ongoing for the item", None),
    )
    with pytest.raises(ConditionFailed) as failed:
        await client.call("PutItem", {"TableName": "t", "Item": item()})
    assert (failed.value.item, failed.value.status, failed.value.request_id) == (STORED_ITEM, 400, "REQUEST1")


async def test_a_cancelled_call_never_leaves_its_reply_to_another(server: HostileServer, client: AwsClient) -> None:
    for number in range(50):
        server.plan[:] = ["hold"]
        seen = server.requests
        call = asyncio.create_task(get(client, "cancelled"))
        await server.saw(seen + 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        server.release()
        assert await get(client, f"next {number}") == item(f"next {number}")


async def test_a_timed_out_call_never_leaves_its_reply_to_another(server: HostileServer, client: AwsClient) -> None:
    for number in range(5):
        server.plan[:] = ["hold"]
        seen, code = server.requests, ""
        while code != "ReadTimeout":  # a busy machine may not even connect within the time
            with pytest.raises(TransportError) as caught:
                await get(client, "too late", timeout=0.05, attempts=1)
            code = caught.value.code
        await server.saw(seen + 1)
        server.release()
        assert await get(client, f"next {number}") == item(f"next {number}")


async def test_a_call_that_is_cut_off_ends_with_its_deadline(server: HostileServer, client: AwsClient) -> None:
    server.plan[:] = ["hold"]
    with pytest.raises(TransportError):
        await get(client, timeout=600, deadline=time.monotonic() + 0.2, cut_off=True)
    server.release()


async def test_a_call_waits_for_no_credentials_longer_than_for_an_answer(server: HostileServer) -> None:
    async with lean(server.url, credentials=SilentProvider()) as client:
        with pytest.raises(ConnectFailed) as caught:
            await get(client, timeout=0.01, attempts=1)
    assert (caught.value.code, server.requests) == ("CredentialsUnavailable", 0)


async def test_the_pool_opens_no_more_connections_than_it_may(server: HostileServer, wire: WireName) -> None:
    async with connected(server, wire, pool_size=5) as client:
        answers = await asyncio.gather(*[get(client, str(number), timeout=30) for number in range(500)])
    assert answers == [item(str(number)) for number in range(500)]
    assert server.connections == 5


async def test_a_call_that_finds_no_free_connection_in_time_was_not_sent(server: HostileServer) -> None:
    async with lean(server.url, pool_size=1) as client:
        server.plan[:] = ["hold"]
        first = asyncio.create_task(get(client, "first"))
        await server.saw(1)
        with pytest.raises(ConnectFailed) as caught:
            await get(client, "second", timeout=0.05, attempts=1)
        assert (caught.value.code, caught.value.maybe_applied, server.requests) == ("PoolTimeout", False, 1)
        server.release()
        assert await first == item("first")


async def test_at_most_eight_connections_are_being_made_at_once() -> None:
    """The listener accepts but never answers a TLS hello, so that every connection stays half made."""
    accepted: list[asyncio.StreamWriter] = []
    changed = asyncio.Condition()

    async def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with changed:
            accepted.append(writer)
            changed.notify_all()

    listener = await asyncio.start_server(accept, "127.0.0.1", 0, backlog=512)
    port = listener.sockets[0].getsockname()[1]
    async with lean(f"https://127.0.0.1:{port}", connect_timeout=60) as client:
        calls = [asyncio.create_task(get(client, attempts=1, timeout=60)) for _ in range(64)]
        async with changed:
            await changed.wait_for(lambda: len(accepted) >= 8)
        # Connections are accepted in their order: with this one, all that were made before it have been.
        _, mine = await asyncio.open_connection("127.0.0.1", port)
        async with changed:
            await changed.wait_for(
                lambda: any(writer.get_extra_info("peername") == mine.get_extra_info("sockname") for writer in accepted)
            )
        assert len(accepted) == 8 + 1
        listener.close()
        for writer in [*accepted, mine]:
            writer.transport.abort()
        endings = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(ending) for ending in endings] == [ConnectFailed] * 64


async def test_an_idle_connection_is_retired(server: HostileServer) -> None:
    async with lean(server.url, idle_seconds=0.0) as client:
        for _ in range(3):
            assert await get(client) == item()
    assert server.connections == 3


async def test_the_connection_used_last_is_used_first(server: HostileServer) -> None:
    async with lean(server.url) as client:
        server.plan[:] = ["hold"] * 8
        calls = [asyncio.create_task(get(client)) for _ in range(8)]
        await server.saw(8)
        server.release()
        await asyncio.gather(*calls)
        for _ in range(20):
            await get(client)
    assert server.connections == 8
    assert len(set(server.peers[8:])) == 1


async def test_a_closed_client_sends_nothing(server: HostileServer) -> None:
    async with lean(server.url) as client:
        await get(client)
        await client.close()
        with pytest.raises(ConnectFailed) as caught:
            await get(client)
    assert (caught.value.maybe_applied, server.requests, server.connections) == (False, 1, 1)


MAYBE_APPLIED: dict[str, tuple[list[str], type[AwsError], bool]] = {
    "reset, then refused": (["reset", "invalid"], AwsError, True),
    "late, then refused": (["hold", "invalid"], AwsError, True),
    "corrupt, then refused": (["corrupt", "invalid"], AwsError, True),
    "5xx, then throttled": (["unavailable", "throttle"], Throttled, True),
    "bad gateway": (["html", "html"], AwsError, True),
    "a success of somebody else": (["portal"], TransportError, True),
    "in progress, then throttled": (["in_progress", "throttle"], Throttled, True),
    "reset": (["reset"], TransportError, True),
    "hang-up": (["hang_up"], TransportError, True),
    "throttled": (["throttle", "throttle"], Throttled, False),
    "conflicts": (["conflict", "conflict"], AwsError, False),
    "expired token": (["expired", "expired"], AwsError, False),
    "refused": (["invalid"], AwsError, False),
    "reset, then a cancelled transaction": (["reset", "canceled"], TransactionCanceled, False),
    "5xx, then a failed condition": (["unavailable", "condition"], ConditionFailed, False),
}


@pytest.mark.parametrize("tries", MAYBE_APPLIED)
async def test_an_error_tells_whether_any_try_may_have_been_applied(
    tries: str, server: HostileServer, client: AwsClient
) -> None:
    plan, kind, maybe_applied = MAYBE_APPLIED[tries]
    server.plan[:] = plan
    with pytest.raises(AwsError) as caught:
        await get(client, attempts=len(plan), timeout=patience(plan))
    assert (type(caught.value), caught.value.maybe_applied) == (kind, maybe_applied)
    assert server.requests == len(plan)
    server.release()


async def test_what_could_not_be_sent_was_not_applied(server: HostileServer, client: AwsClient) -> None:
    await server.stop()
    with pytest.raises(ConnectFailed) as caught:
        await get(client, attempts=2)
    assert caught.value.maybe_applied is False


async def test_a_lost_try_stays_in_doubt_when_the_next_cannot_be_sent(server: HostileServer, client: AwsClient) -> None:
    server.plan[:] = ["hold"]
    call = asyncio.create_task(get(client, attempts=2))
    await server.saw(1)
    await server.stop()
    with pytest.raises(ConnectFailed) as caught:
        await call
    assert caught.value.maybe_applied is True


async def test_no_try_starts_after_the_deadline(server: HostileServer) -> None:
    async with lean(server.url, jitter=1.0) as client:
        with pytest.raises(ConnectFailed) as caught:
            await get(client, deadline=time.monotonic())
        assert (caught.value.code, caught.value.maybe_applied, server.requests) == ("DeadlineExceeded", False, 0)
        server.plan[:] = ["throttle", "ok"]  # the back-off would be 50 ms
        with pytest.raises(Throttled):
            await get(client, deadline=time.monotonic() + 0.045)
        assert server.requests == 1


async def test_a_try_under_way_outlives_the_deadline(server: HostileServer, client: AwsClient) -> None:
    server.plan[:] = ["hold"]
    deadline = time.monotonic() + 0.2
    call = asyncio.create_task(get(client, deadline=deadline))
    await server.saw(1)
    await asyncio.sleep(max(0.0, deadline - time.monotonic()) + 0.01)
    server.release()
    assert await call == item()


async def test_until_deadline_outlasts_the_default_number_of_tries(server: HostileServer) -> None:
    async with lean(server.url) as client:
        server.plan[:] = ["throttle"] * 20
        assert await get(client, attempts=UNTIL_DEADLINE, deadline=time.monotonic() + 60) == item()
        assert server.requests == 21
        for impossible in (UNTIL_DEADLINE, 0, -1):
            with pytest.raises(ValueError, match="attempts"):
                await get(client, attempts=impossible)


async def exhaust(client: AwsClient, server: HostileServer) -> int:
    """Fail until the bucket allows no more retries; returns the retries made."""
    before = client.stats["retries"]
    while True:
        server.plan[:] = ["throttle"] * 5
        seen = client.stats["retries"]
        with pytest.raises(Throttled):
            await get(client)
        if client.stats["retries"] == seen:
            server.plan.clear()
            return client.stats["retries"] - before


async def test_the_retry_bucket_allows_a_hundred_retries_without_an_answer(server: HostileServer) -> None:
    async with lean(server.url) as client:
        assert await exhaust(client, server) == 100
        # Each answer that took nothing gives one token back, and a retry takes five.
        for expected in ([0] * 4) + [1]:
            await get(client)
            assert await exhaust(client, server) == expected


@pytest.mark.parametrize("ending", ["ok", "invalid"])
async def test_an_answer_or_a_verdict_gives_back_all_that_its_call_took(ending: str, server: HostileServer) -> None:
    async with lean(server.url) as client:
        for _ in range(60):
            server.plan[:] = ["throttle", "unavailable", ending]
            with pytest.raises(AwsError, match="ValidationException") if ending == "invalid" else nullcontext():
                await get(client)
        assert client.stats == {"calls": 60, "GetItem": 60, "retries": 120, "throttle": 60, "transient": 60}
        assert await exhaust(client, server) == 100


async def test_the_clock_of_the_service_is_known_from_answers_and_errors(server: HostileServer, wire: WireName) -> None:
    for plan in ("ok", "invalid"):
        async with connected(server, wire) as client:
            assert client.server_date is None
            server.plan[:] = [plan]
            before = time.monotonic()
            await asyncio.gather(get(client), return_exceptions=True)
            assert client.server_date is not None
            assert client.server_date.epoch_seconds == DATE_EPOCH_SECONDS
            assert before <= client.server_date.received_at <= time.monotonic()


# Prints keys numbered by its runs, always about to expire. A run waits until `allowed` holds its number, and fails if
# `failing` holds it.
CREDENTIAL_PROCESS = """
import json, pathlib, sys, time
here = pathlib.Path(sys.argv[1])
run = len(list(here.glob("run-*"))) + 1
(here / f"run-{run}").touch()
while int((here / "allowed").read_text() or 0) < run: time.sleep(0.01)
if str(run) == (here / "failing").read_text(): sys.exit("no credentials today")
until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 300))
print(json.dumps({"Version": 1, "AccessKeyId": f"KEY{run}", "SecretAccessKey": "s" * 40, "SessionToken": f"token{run}",
                  "Expiration": until}))
"""


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The directory of the default profile's credential_process."""
    script = tmp_path / "process.py"
    script.write_text(CREDENTIAL_PROCESS)
    (tmp_path / "config").write_text(f"[default]\ncredential_process = {sys.executable} -SE {script} {tmp_path}\n")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    return tmp_path


async def test_calls_flow_while_credentials_rotate(server: HostileServer, provider: Path) -> None:
    """The provider is slow, then fails, then gives new keys: calls go on with the old ones and then with the new."""
    (provider / "failing").write_text("3")
    (provider / "allowed").write_text("2")
    async with asyncio.timeout(60), connected(server, "lean") as client:
        await get(client)
        while not (provider / "run-3").exists():
            await get(client)
        server.access_keys.clear()
        for _ in range(100):
            await get(client)
        assert server.access_keys == {"KEY2": 100}
        (provider / "allowed").write_text("4")
        while "KEY4" not in server.access_keys:
            await get(client)
        assert set(server.access_keys) == {"KEY2", "KEY4"}
        assert client.stats.keys() == {"calls", "GetItem"}
        (provider / "allowed").write_text("999")


async def test_a_call_waits_for_the_first_credentials(server: HostileServer, provider: Path) -> None:
    (provider / "failing").write_text("2")
    (provider / "allowed").write_text("999")
    async with connected(server, "lean") as client:
        assert await get(client) == item()
        assert (server.access_keys, client.stats["transient"]) == ({"KEY3": 1}, 1)


@pytest.mark.parametrize("failing", ["", "3"])
async def test_a_refused_token_makes_the_call_ask_for_new_credentials(
    failing: str, server: HostileServer, provider: Path
) -> None:
    """With the new ones it tries again; with the old ones, too, if there are no new ones."""
    (provider / "failing").write_text(failing)
    (provider / "allowed").write_text("999")
    async with connected(server, "lean") as client:
        server.plan[:] = ["expired"]
        assert await get(client) == item()
    assert server.access_keys == ({"KEY2": 2} if failing else {"KEY2": 1, "KEY3": 1})


async def test_without_credentials_there_is_no_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(AwsError, match="NoCredentials: no AWS credentials found for profile default"):
        await connect(AwsConfig("us-east-1"), "dynamodb", endpoint_url=None)


async def test_auto_is_lean_unless_a_proxy_stands_before_the_endpoint(
    monkeypatch: pytest.MonkeyPatch, server: HostileServer
) -> None:
    async def user_agent(endpoint_url: str) -> str:
        server.user_agents.clear()
        client = await connect(AwsConfig("us-east-1"), "dynamodb", endpoint_url=endpoint_url)
        assert await get(client) == item()
        await client.close()
        return next(iter(server.user_agents)).split("/")[0]

    assert await user_agent(server.url) == "traffic-tacos-reservation"
    monkeypatch.setenv("http_proxy", server.url)
    assert await user_agent("http://dynamodb.invalid") == "aiobotocore"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert await user_agent(server.url) == "traffic-tacos-reservation"


@pytest.mark.parametrize("service", ["dynamodb", "events", "sqs"])
async def test_endpoint_region_and_protocol_come_from_the_services_model(
    service: Literal["dynamodb", "events", "sqs"], server: HostileServer
) -> None:
    client = await connect(AwsConfig("eu-west-3", client="lean"), service, endpoint_url=server.url)
    assert await client.call("AnyOperation", {}) == {}
    await client.close()
    head = server.heads[0].decode()
    target, version = {
        "dynamodb": ("DynamoDB_20120810", "1.0"),
        "events": ("AWSEvents", "1.1"),
        "sqs": ("AmazonSQS", "1.0"),
    }[service]
    assert f"X-Amz-Target: {target}.AnyOperation\r\n" in head
    assert f"Content-Type: application/x-amz-json-{version}\r\n" in head
    assert f"/eu-west-3/{service}/aws4_request" in head


async def test_a_session_creates_clients_for_rare_work(server: HostileServer) -> None:
    async with session(AwsConfig("eu-west-3")).create_client("dynamodb", endpoint_url=server.url) as client:
        assert client.meta.region_name == "eu-west-3"
        assert (await client.get_item(TableName="ttt", Key=item()))["Item"] == item()


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A self-signed certificate for 127.0.0.1 and its key, in one file."""
    path = tmp_path / "server.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(path)]
    made = subprocess.run(command, capture_output=True, check=True)
    with path.open("ab") as file:
        file.write(made.stdout)
    return path


async def test_tls_trusts_the_configured_bundle_and_nothing_less(
    monkeypatch: pytest.MonkeyPatch, certificate: Path, wire: WireName
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    async with HostileServer(context) as server:
        async with connected(server, wire) as stranger:
            with pytest.raises(ConnectFailed):
                await get(stranger, attempts=1)
        monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
        async with connected(server, wire) as friend:
            server.plan[:] = ["ok", "reset", "chunked", "big"]
            for _ in range(3):
                assert await get(friend) == item()
        assert server.requests == 4


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://h", "http://h/path", "http://h/?q", "http://"])
async def test_an_endpoint_that_is_not_the_root_of_a_host_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="endpoint_url="):
        async with lean(url):
            pass
