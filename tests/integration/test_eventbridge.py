"""Publishing to EventBridge: what becomes of each event of a call, on a real bus and on one that fails."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import orjson
import pytest

from reservation.aws.errors import AwsError, TransportError
from reservation.aws.session import AwsConfig, connect
from reservation.eventbridge import (
    SOURCE,
    Accepted,
    EventBridge,
    Refused,
    Retry,
    create_bus,
    refused_for_content,
    subscribe_queue,
)
from tests.support.aws import REGION, admin_client, quick_client, received
from tests.support.event_bus_proxy import Entry, EventBusProxy
from tests.support.faults import FOR_EVER, Answer, Hold, HoldReply, LoseReply, RejectBefore, Throttle

pytestmark = pytest.mark.timeout(60)


@dataclass(frozen=True)
class Event:
    type: str
    detail: str


def events(*names: str) -> list[Event]:
    return [Event("reservation.created", json.dumps({"name": name})) for name in names]


def named(name: str) -> Callable[[Entry], bool]:
    return lambda entry: json.loads(entry["Detail"])["name"] == name


@pytest.fixture(params=["lean", "aiobotocore"])
def wire(request: pytest.FixtureRequest) -> Any:
    return request.param


@asynccontextmanager
async def bus_at(url: str, name: str = "bus", wire: Any = "", **options: Any) -> AsyncIterator[EventBridge]:
    if not wire:
        async with quick_client("events", url) as client:
            yield EventBridge(client, name, **options)
        return
    client = await connect(AwsConfig(REGION, client=wire), "events", endpoint_url=url)
    try:
        yield EventBridge(client, name, **options)
    finally:
        await client.close()


async def test_a_subscribed_queue_gets_every_event_of_ours_and_nothing_else(ministack_url: str, wire: Any) -> None:
    name = f"bus-{uuid.uuid4().hex[:8]}"
    async with admin_client("events", ministack_url) as admin, admin_client("sqs", ministack_url) as sqs:
        assert await create_bus(admin, name)
        queue = await subscribe_queue(admin, sqs, name, f"{name}-queue")
        await admin.put_events(Entries=[entry_of_others(name)])
        async with bus_at(ministack_url, name, wire) as bus:
            outcomes = await bus.put([Event("reservation.created", '{"n":1}'), Event("reservation.expired", '{"n":2}')])
        assert outcomes == [Accepted(), Accepted()]
        got = await received(sqs, queue, 2)
        assert await received(sqs, queue, 0) == []
    assert sorted((message["detail-type"], message["detail"]["n"]) for message in got) == [
        ("reservation.created", 1),
        ("reservation.expired", 2),
    ]
    assert {message["source"] for message in got} == {SOURCE}


def entry_of_others(bus: str) -> dict[str, str]:
    return {"EventBusName": bus, "Source": "payment-api", "DetailType": "payment.approved", "Detail": "{}"}


async def test_setting_up_twice_is_no_error(ministack_url: str) -> None:
    name = f"bus-{uuid.uuid4().hex[:8]}"
    async with admin_client("events", ministack_url) as admin, admin_client("sqs", ministack_url) as sqs:
        assert [await create_bus(admin, name) for _ in range(2)] == [True, False]
        urls = [await subscribe_queue(admin, sqs, name, f"{name}-queue") for _ in range(2)]
        assert urls[0] == urls[1]
        async with bus_at(ministack_url, name) as bus:
            await bus.put(events("once"))
        assert len(await received(sqs, urls[0], 1)) == 1


async def test_the_queue_lets_the_rule_and_nobody_else_send(ministack_url: str) -> None:
    """The emulator delivers without a policy; AWS does not."""
    name = f"bus-{uuid.uuid4().hex[:8]}"
    async with admin_client("events", ministack_url) as admin, admin_client("sqs", ministack_url) as sqs:
        await create_bus(admin, name)
        queue = await subscribe_queue(admin, sqs, name, f"{name}-queue")
        attributes = (await sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["All"]))["Attributes"]
        rule = await admin.describe_rule(Name=f"{name}-queue", EventBusName=name)
    (statement,) = json.loads(attributes["Policy"])["Statement"]
    assert statement == {
        "Effect": "Allow",
        "Principal": {"Service": "events.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Resource": attributes["QueueArn"],
        "Condition": {"ArnEquals": {"aws:SourceArn": rule["Arn"]}},
    }


async def test_only_a_bus_that_is_said_not_to_exist_is_missing(ministack_url: str, wire: Any) -> None:
    """Alike on the emulator and on the stand-in."""
    name = f"bus-{uuid.uuid4().hex[:8]}"
    async with admin_client("events", ministack_url) as admin, EventBusProxy() as stand_in:
        for url in (ministack_url, stand_in.url):
            async with bus_at(url, name, wire) as bus:
                assert not await bus.bus_exists()
        await create_bus(admin, name)
        stand_in.buses.add(name)
        for url in (ministack_url, stand_in.url):
            async with bus_at(url, name, wire) as bus:
                assert await bus.bus_exists()


async def test_a_bus_that_cannot_be_asked_about_is_not_missing(wire: Any) -> None:
    async with EventBusProxy() as proxy, bus_at(proxy.url, wire=wire) as bus:
        proxy.down = True
        with pytest.raises(TransportError):
            await bus.bus_exists()


async def test_all_tries_to_ask_about_a_bus_share_one_time(wire: Any) -> None:
    """A start waits for the answer."""
    async with EventBusProxy() as proxy, bus_at(proxy.url, wire=wire, timeout=2.0) as bus:
        silence = Hold()
        proxy.fail_checks(silence)
        with pytest.raises(TransportError):
            await bus.bus_exists()
        assert proxy.checks == 1
        silence.event.set()


async def test_each_event_has_its_own_outcome_in_the_order_of_the_call(wire: Any) -> None:
    """https://github.com/fredericbarthelet/typebridge/issues/22 https://github.com/swarmion/swarmion/issues/1890"""
    async with EventBusProxy() as proxy, bus_at(proxy.url, wire=wire) as bus:
        proxy.fail_entries("ThrottlingException", having=named("b"))
        proxy.fail_entries("MalformedDetail", "Detail is malformed.", having=named("d"))
        assert await bus.put(events("a", "b", "c", "d")) == [
            Accepted(),
            Retry("ThrottlingException"),
            Accepted(),
            Refused("MalformedDetail", "Detail is malformed."),
        ]
        assert [entry["Detail"] for entry in proxy.accepted] == ['{"name": "a"}', '{"name": "c"}']
        assert proxy.calls[0][0] == {
            "EventBusName": "bus",
            "Source": "reservation-api",
            "DetailType": "reservation.created",
            "Detail": '{"name": "a"}',
        }


@pytest.mark.parametrize(
    "code",
    [
        *("InternalFailure", "InternalException", "ServiceUnavailable", "ThrottlingException", "Throttling"),
        *("AccessDeniedException", "NotAuthorizedForSourceException", "NotAuthorizedForDetailTypeException"),
        *("InvalidAccountIdException", "ResourceNotFoundException", "ExpiredTokenException"),
    ],
)
async def test_what_is_not_the_events_own_fault_is_tried_again(code: str) -> None:
    async with EventBusProxy() as proxy, bus_at(proxy.url) as bus:
        proxy.fail_entries(code)
        assert await bus.put(events("a")) == [Retry(code)]


@pytest.mark.parametrize("code", ["MalformedDetail", "InvalidArgument", "RedactionFailure", "SomethingNew"])
async def test_what_is_refused_for_itself_is_refused(code: str) -> None:
    async with EventBusProxy() as proxy, bus_at(proxy.url) as bus:
        proxy.fail_entries(code, "why")
        assert await bus.put(events("a")) == [Refused(code, "why")]


async def test_a_result_that_says_nothing_is_no_acceptance() -> None:
    async with EventBusProxy() as proxy, bus_at(proxy.url) as bus:
        proxy.fail_calls(Answer(200, orjson.dumps({"FailedEntryCount": 0, "Entries": [{}]})))
        assert await bus.put(events("a")) == [Retry("NoEventId")]


@pytest.mark.parametrize("entries", [[], [{"EventId": "1"}], [{"EventId": "1"}] * 3, None])
async def test_an_answer_with_another_number_of_results_says_nothing_about_any_event(entries: Any) -> None:
    async with EventBusProxy() as proxy, bus_at(proxy.url) as bus:
        proxy.fail_calls(Answer(200, orjson.dumps({"Entries": entries})))
        with pytest.raises(TransportError, match="BadResponse"):
            await bus.put(events("a", "b"))


@pytest.mark.parametrize(
    ("fault", "code", "for_content"),
    [
        (Throttle(), "ThrottlingException", False),
        (RejectBefore("InternalFailure", 500), "InternalFailure", False),
        (RejectBefore("AccessDeniedException"), "AccessDeniedException", False),
        (RejectBefore("ResourceNotFoundException"), "ResourceNotFoundException", False),
        (RejectBefore("ValidationException", 400, "Total size is over the limit."), "ValidationException", True),
        (RejectBefore("SerializationException"), "SerializationException", True),
        (Answer(413, b"<html>too large</html>"), "HTTP413", True),
        (Answer(400, b"<html>?</html>"), "HTTP400", False),
        (LoseReply(), "ConnectionLost", False),
    ],
    ids=lambda value: str(getattr(value, "code", value)),
)
async def test_a_call_that_fails_raises_and_is_not_repeated(fault: Any, code: str, for_content: bool) -> None:
    """Who repeats it must first ask whether it still may."""
    async with EventBusProxy() as proxy, bus_at(proxy.url) as bus:
        proxy.fail_calls(fault)
        with pytest.raises(AwsError) as failure:
            await bus.put(events("a"))
        assert (failure.value.code, refused_for_content(failure.value)) == (code, for_content)
        assert len(proxy.calls) == 1


async def test_a_call_without_an_answer_ends_after_its_time() -> None:
    async with EventBusProxy() as proxy, bus_at(proxy.url, timeout=0.05) as bus:
        silence = HoldReply()
        proxy.fail_calls(silence, times=FOR_EVER)
        told = ""
        while told != "ReadTimeout":  # a busy machine may not even connect within the time
            with pytest.raises(TransportError) as failure:
                await bus.put(events("a"))
            told = failure.value.code
        silence.event.set()


async def test_the_stand_in_passes_on_what_it_accepts(ministack_url: str) -> None:
    name = f"bus-{uuid.uuid4().hex[:8]}"
    async with admin_client("events", ministack_url) as admin, admin_client("sqs", ministack_url) as sqs:
        await create_bus(admin, name)
        queue = await subscribe_queue(admin, sqs, name, f"{name}-queue")
        async with EventBusProxy(ministack_url) as proxy, bus_at(proxy.url, name) as bus:
            proxy.fail_entries("InternalFailure", having=named("b"))
            assert await bus.put(events("a", "b", "c")) == [Accepted(), Retry("InternalFailure"), Accepted()]
            assert await bus.bus_exists()
        got = await received(sqs, queue, 2)
    assert sorted(message["detail"]["name"] for message in got) == ["a", "c"]


async def test_four_calls_at_once_do_not_mix_their_outcomes() -> None:
    async with EventBusProxy() as proxy, bus_at(proxy.url) as bus:
        for number in range(4):
            proxy.fail_entries(f"Code{number}", having=named(str(number)))
        outcomes = await asyncio.gather(*(bus.put(events(str(number), "good")) for number in range(4)))
        assert outcomes == [[Refused(f"Code{number}", ""), Accepted()] for number in range(4)]
