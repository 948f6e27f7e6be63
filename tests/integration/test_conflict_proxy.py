"""The conflict proxy does to requests what it says, on both emulators, and nothing else."""

import asyncio
import sys
import uuid
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession, get_session
from botocore.exceptions import ClientError, ConnectionClosedError, HTTPClientError

from reservation.aws.errors import TransportError
from tests.support.aws import quick_client
from tests.support.conflict_proxy import ConflictProxy
from tests.support.faults import (
    Answer,
    CutReply,
    Delay,
    Fault,
    Hold,
    HoldOngoing,
    HoldReply,
    LoseReply,
    LoseRequest,
    RejectBefore,
    Reset,
    SpoilChecksum,
    Swallow,
    Throttle,
)
from tests.support.faults import Request as Seen

pytestmark = pytest.mark.timeout(60)


def is_(operation: str) -> Callable[[Seen], bool]:
    return lambda request: request.operation == operation


TRANSACTION = is_("TransactWriteItems")


@cache
def _session() -> AioSession:
    """One for all clients: it reads the description of the API once."""
    return get_session()


def dynamodb(url: str, caller: str = "local") -> AbstractAsyncContextManager[Any]:
    """A client that sends each request once, with this access key id."""
    config = AioConfig(retries={"total_max_attempts": 1}, read_timeout=30)
    return _session().create_client(  # type: ignore[no-any-return]
        "dynamodb",
        region_name="us-east-1",
        endpoint_url=url,
        config=config,
        aws_access_key_id=caller,
        aws_secret_access_key="local",
    )


@dataclass(frozen=True, slots=True)
class Seats:
    """A table of seats on an emulator; `direct` is a client that does not go through a proxy."""

    url: str
    table: str
    direct: Any

    def key(self, seat: str) -> dict[str, Any]:
        return {"TableName": self.table, "Key": {"pk": {"S": seat}}}

    def hold(self, *seats: str, holder: str = "me", token: str = "") -> dict[str, Any]:
        """A transaction that holds every one of the seats, if all of them are free."""
        writes = [
            {
                "Update": {
                    **self.key(seat),
                    "UpdateExpression": "SET holder = :holder",
                    "ConditionExpression": "attribute_not_exists(holder)",
                    "ExpressionAttributeValues": {":holder": {"S": holder}},
                    "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
                }
            }
            for seat in seats
        ]
        return {"TransactItems": writes, "ClientRequestToken": token or uuid.uuid4().hex}

    def read(self, *seats: str) -> dict[str, Any]:
        return {"TransactItems": [{"Get": self.key(seat)} for seat in seats]}

    async def holder(self, seat: str) -> str | None:
        answer = await self.direct.get_item(**self.key(seat), ConsistentRead=True)
        return answer["Item"]["holder"]["S"] if "Item" in answer else None

    @asynccontextmanager
    async def behind(self, **settings: Any) -> AsyncIterator[tuple[ConflictProxy, Any]]:
        async with ConflictProxy(self.url, **{"hold": 0.0, **settings}) as proxy, dynamodb(proxy.url) as client:
            yield proxy, client


@pytest.fixture
async def seats(backend_url: str) -> AsyncIterator[Seats]:
    async with dynamodb(backend_url) as client:
        table = f"test-{uuid.uuid4().hex}-inventory"
        await client.create_table(
            TableName=table,
            BillingMode="PAY_PER_REQUEST",
            KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "pk", "AttributeType": "S"}],
        )
        yield Seats(backend_url, table, client)
        await client.delete_table(TableName=table)


@asynccontextmanager
async def ongoing(
    proxy: ConflictProxy, call: Any, matcher: Callable[[Seen], bool] = TRANSACTION
) -> AsyncIterator[None]:
    """Inside, DynamoDB has begun `call` and not applied it; at the end it is applied."""
    pause = HoldOngoing()
    proxy.script(matcher, pause)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(call)
        await pause.reached.wait()
        yield
        pause.event.set()


async def refusal(call: Any) -> str:
    with pytest.raises(ClientError) as refused:
        await call
    return str(refused.value.response["Error"]["Code"])


async def reasons(call: Any) -> list[dict[str, Any]]:
    with pytest.raises(ClientError) as cancelled:
        await call
    assert cancelled.value.response["Error"]["Code"] == "TransactionCanceledException"
    return list(cancelled.value.response["CancellationReasons"])


def codes(cancellation: list[dict[str, Any]]) -> list[str]:
    return [reason["Code"] for reason in cancellation]


async def test_an_overlapping_transaction_is_cancelled_on_exactly_the_overlapping_items(seats: Seats) -> None:
    async with seats.behind() as (proxy, client):
        async with ongoing(proxy, client.transact_write_items(**seats.hold("B", "C", holder="first"))):
            refused = await reasons(client.transact_write_items(**seats.hold("A", "C", "D", "B")))
            assert codes(refused) == ["None", "TransactionConflict", "None", "TransactionConflict"]
        assert [await seats.holder(seat) for seat in "ABCD"] == [None, "first", "first", None]
        assert proxy.stats["conflict"] == 1


async def test_a_cancelled_transaction_also_tells_the_failed_conditions_of_its_other_items(seats: Seats) -> None:
    await seats.direct.transact_write_items(**seats.hold("A", holder="earlier"))
    async with (
        seats.behind() as (proxy, client),
        ongoing(proxy, client.transact_write_items(**seats.hold("B", holder="first"))),
    ):
        refused = await reasons(client.transact_write_items(**seats.hold("C", "B", "A")))
        assert codes(refused) == ["None", "TransactionConflict", "ConditionalCheckFailed"]
        assert refused[2]["Item"]["holder"] == {"S": "earlier"}
        assert await seats.holder("C") is None


async def test_without_mixed_reasons_only_conflicts_are_told(seats: Seats) -> None:
    await seats.direct.transact_write_items(**seats.hold("A", holder="earlier"))
    async with (
        seats.behind(mix_reasons=False) as (proxy, client),
        ongoing(proxy, client.transact_write_items(**seats.hold("B"))),
    ):
        refused = await reasons(client.transact_write_items(**seats.hold("A", "B")))
        assert codes(refused) == ["None", "TransactionConflict"]


async def test_transactions_without_a_common_item_do_not_conflict(seats: Seats) -> None:
    async with seats.behind() as (proxy, client):
        async with ongoing(proxy, client.transact_write_items(**seats.hold("A", "B"))):
            await client.transact_write_items(**seats.hold("C", "D"))
        assert [await seats.holder(seat) for seat in "ABCD"] == ["me"] * 4
        assert proxy.stats["conflict"] == 0


async def test_a_put_finds_its_key_among_the_attributes_of_its_item(seats: Seats) -> None:
    item = {"pk": {"S": "A"}, "holder": {"S": "put"}}
    put = {"TransactItems": [{"Put": {"TableName": seats.table, "Item": item}}]}
    async with seats.behind() as (proxy, client):
        async with ongoing(proxy, client.transact_write_items(**seats.hold("A"))):
            assert codes(await reasons(client.transact_write_items(**put))) == ["TransactionConflict"]
            assert await refusal(client.put_item(TableName=seats.table, Item=item)) == "TransactionConflictException"
        await client.put_item(TableName=seats.table, Item=item)
    assert await seats.holder("A") == "put"


async def test_a_single_write_of_an_item_in_a_transaction_is_refused(seats: Seats) -> None:
    update = {"UpdateExpression": "SET holder = :h", "ExpressionAttributeValues": {":h": {"S": "single"}}}
    async with seats.behind() as (proxy, client):
        async with ongoing(proxy, client.transact_write_items(**seats.hold("A"))):
            assert await refusal(client.update_item(**seats.key("A"), **update)) == "TransactionConflictException"
            assert await refusal(client.delete_item(**seats.key("A"))) == "TransactionConflictException"
            await client.update_item(**seats.key("B"), **update)
        assert [await seats.holder("A"), await seats.holder("B")] == ["me", "single"]


async def test_plain_reads_during_a_transaction_see_what_was_committed_before(seats: Seats) -> None:
    query = {"KeyConditionExpression": "pk = :a", "ExpressionAttributeValues": {":a": {"S": "A"}}}
    async with seats.behind() as (proxy, client):
        async with ongoing(proxy, client.transact_write_items(**seats.hold("A"))):
            assert "Item" not in await client.get_item(**seats.key("A"))
            batch = await client.batch_get_item(RequestItems={seats.table: {"Keys": [{"pk": {"S": "A"}}]}})
            assert batch["Responses"][seats.table] == []
            assert (await client.query(TableName=seats.table, **query))["Count"] == 0
        assert (await client.query(TableName=seats.table, **query))["Count"] == 1


async def test_a_transactional_read_is_cancelled_by_an_ongoing_transaction(seats: Seats) -> None:
    async with seats.behind() as (proxy, client):
        async with ongoing(proxy, client.transact_write_items(**seats.hold("B"))):
            cancelled = await reasons(client.transact_get_items(**seats.read("A", "B")))
            assert codes(cancelled) == ["None", "TransactionConflict"]
            await client.transact_get_items(**seats.read("A", "C"))
        read = await client.transact_get_items(**seats.read("A", "B"))
        assert ["Item" in answer for answer in read["Responses"]] == [False, True]


async def test_a_transactional_read_is_cancelled_by_an_ongoing_single_write(seats: Seats) -> None:
    put = {"TableName": seats.table, "Item": {"pk": {"S": "A"}, "holder": {"S": "put"}}}
    async with seats.behind() as (proxy, client):
        async with ongoing(proxy, client.put_item(**put), is_("PutItem")):
            assert codes(await reasons(client.transact_get_items(**seats.read("A")))) == ["TransactionConflict"]
        await client.transact_get_items(**seats.read("A"))


async def test_a_transaction_lasts_for_the_hold(seats: Seats) -> None:
    """Nothing waits for the hour: the item is taken as soon as the request goes on."""
    arrival = Hold()
    async with seats.behind(hold=3600.0) as (proxy, client):
        proxy.script(TRANSACTION, arrival)
        transaction = asyncio.create_task(client.transact_write_items(**seats.hold("A")))
        await arrival.reached.wait()
        arrival.event.set()
        for _ in range(10):
            assert await refusal(client.delete_item(**seats.key("A"))) == "TransactionConflictException"
            assert await seats.holder("A") is None
        transaction.cancel()


async def test_the_token_of_an_ongoing_transaction_is_refused_and_afterwards_repeats_it(seats: Seats) -> None:
    hold = seats.hold("A", token="same")
    async with seats.behind() as (proxy, client):
        async with ongoing(proxy, client.transact_write_items(**hold)):
            assert await refusal(client.transact_write_items(**hold)) == "TransactionInProgressException"
        await client.transact_write_items(**hold)


@pytest.mark.parametrize("scripted", [True, False], ids=["scripted", "by-chance"])
async def test_a_write_whose_reply_is_lost_was_applied(seats: Seats, scripted: bool) -> None:
    async with seats.behind(lose_reply=0.0 if scripted else 1.0) as (proxy, client):
        if scripted:
            proxy.script(TRANSACTION, LoseReply())
        with pytest.raises(ConnectionClosedError):
            await client.transact_write_items(**seats.hold("A"))
        await client.get_item(**seats.key("A"))
        assert await seats.holder("A") == "me"
        assert proxy.stats["reply lost"] == 1


@pytest.mark.parametrize("fault", [LoseRequest(), Reset()], ids=["ended", "reset"])
async def test_a_lost_request_was_not_applied(seats: Seats, fault: Fault) -> None:
    async with seats.behind() as (proxy, client):
        proxy.script(TRANSACTION, fault)
        with pytest.raises(HTTPClientError):
            await client.transact_write_items(**seats.hold("A"))
        assert await seats.holder("A") is None


async def test_a_swallowed_request_is_never_applied_and_its_caller_hears_nothing_until_the_end(seats: Seats) -> None:
    silence = Swallow()
    async with seats.behind() as (proxy, client):
        proxy.script(TRANSACTION, silence)
        swallowed = asyncio.create_task(client.transact_write_items(**seats.hold("A")))
        await silence.reached.wait()
        await client.transact_write_items(**seats.hold("B"))
        assert not swallowed.done()
        silence.event.set()
        with pytest.raises(HTTPClientError):
            await swallowed
        assert await seats.holder("A") is None


@pytest.mark.parametrize("fault", [CutReply(), SpoilChecksum()], ids=["half-a-reply", "wrong-checksum"])
async def test_a_write_whose_reply_is_damaged_was_applied_and_the_service_does_not_believe_the_reply(
    seats: Seats, fault: Fault
) -> None:
    async with seats.behind() as (proxy, _), quick_client("dynamodb", proxy.url) as client:
        proxy.script(TRANSACTION, fault)
        with pytest.raises(TransportError):
            await client.call("TransactWriteItems", seats.hold("A"), attempts=1)
        assert await seats.holder("A") == "me"


async def test_what_befalls_a_caller_leaves_the_others_alone(seats: Seats) -> None:
    def befalls(caller: str) -> Fault | None:
        return Throttle() if caller == "unlucky" else Delay(0)

    async with seats.behind(befalls=befalls) as (proxy, client), dynamodb(proxy.url, "unlucky") as unlucky:
        assert await refusal(unlucky.transact_write_items(**seats.hold("A"))) == "ThrottlingException"
        await client.transact_write_items(**seats.hold("B"))
        assert [await seats.holder("A"), await seats.holder("B")] == [None, "me"]


@pytest.mark.parametrize("scripted", [True, False], ids=["scripted", "by-chance"])
async def test_a_throttled_write_was_not_applied(seats: Seats, scripted: bool) -> None:
    async with seats.behind(throttle=0.0 if scripted else 1.0) as (proxy, client):
        if scripted:
            proxy.script(TRANSACTION, Throttle())
        assert await refusal(client.transact_write_items(**seats.hold("A"))) == "ThrottlingException"
        assert await seats.holder("A") is None
        assert proxy.stats["throttled"] == 1


async def test_a_held_request_reaches_dynamodb_only_when_released_even_if_its_caller_has_gone(seats: Seats) -> None:
    pause = Hold()
    async with seats.behind() as (proxy, client):
        proxy.script(TRANSACTION, pause)
        late = asyncio.create_task(client.transact_write_items(**seats.hold("A", holder="late")))
        await pause.reached.wait()
        late.cancel()
        await client.transact_write_items(**seats.hold("B"))
        assert [await seats.holder("A"), proxy.stats["conflict"]] == [None, 0]
        pause.event.set()
        while await seats.holder("A") != "late":
            pass


async def test_a_held_reply_belongs_to_an_applied_write_that_conflicts_no_more(seats: Seats) -> None:
    pause = HoldReply()
    async with seats.behind() as (proxy, client):
        proxy.script(TRANSACTION, pause)
        async with asyncio.TaskGroup() as tasks:
            first = tasks.create_task(client.transact_write_items(**seats.hold("A", holder="first")))
            await pause.reached.wait()
            assert await seats.holder("A") == "first"
            assert codes(await reasons(client.transact_write_items(**seats.hold("A")))) == ["ConditionalCheckFailed"]
            assert not first.done()
            pause.event.set()


async def test_scripted_faults_fire_once_each_in_their_order(seats: Seats) -> None:
    async with seats.behind(throttle=0.0) as (proxy, client):
        proxy.script(is_("GetItem"), RejectBefore("InternalServerError", 500))
        proxy.script(is_("GetItem"), Answer(200, b'{"Item":{"pk":{"S":"scripted"}}}'))
        assert await refusal(client.get_item(**seats.key("A"))) == "InternalServerError"
        await client.list_tables()
        assert (await client.get_item(**seats.key("A")))["Item"] == {"pk": {"S": "scripted"}}
        assert "Item" not in await client.get_item(**seats.key("A"))


async def test_a_fault_that_never_fired_fails_the_test(seats: Seats) -> None:
    with pytest.raises(AssertionError, match="never fired"):
        async with seats.behind() as (proxy, _):
            proxy.script(TRANSACTION, Throttle())


async def test_a_write_to_a_table_with_an_unknown_key_is_refused_not_guessed(seats: Seats) -> None:
    async with seats.behind() as (_, client):
        put = client.put_item(TableName="test-other", Item={"pk": {"S": "A"}})
        with pytest.raises(ClientError, match="finds no key of table test-other"):
            await put


async def test_every_reply_has_a_right_checksum_length_and_date(seats: Seats) -> None:
    target = {"X-Amz-Target": "DynamoDB_20120810.TransactWriteItems", "Content-Type": "application/x-amz-json-1.0"}
    authorization = "AWS4-HMAC-SHA256 Credential=local/20250101/us-east-1/dynamodb/aws4_request, Signature=0"
    headers = target | {"Authorization": f"{authorization}, SignedHeaders=host"}
    async with seats.behind() as (proxy, _), httpx.AsyncClient(headers=headers) as http:
        proxy.script(TRANSACTION, Throttle())
        for status in (400, 200):
            reply = await http.post(proxy.url, json=seats.hold("A"))
            assert reply.status_code == status
            assert int(reply.headers["x-amz-crc32"]) == zlib.crc32(reply.content)
            assert int(reply.headers["content-length"]) == len(reply.content)
            assert parsedate_to_datetime(reply.headers["date"]).tzinfo is not None


async def test_it_serves_in_a_process_of_its_own_and_tells_its_counts(seats: Seats) -> None:
    command = [sys.executable, "-m", "tests.support.conflict_proxy", seats.url, "0", "0", "0", "0"]
    root = Path(__file__).parents[2]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, cwd=root)
    assert process.stdout is not None
    port = int(await process.stdout.readline())
    async with dynamodb(f"http://127.0.0.1:{port}") as client:
        await client.transact_write_items(**seats.hold("A"))
    process.terminate()
    counts, _ = await process.communicate()
    assert [process.returncode, counts] == [0, b'{"TransactWriteItems":1}\n']
    assert await seats.holder("A") == "me"
