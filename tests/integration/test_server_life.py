"""The service's life: its start and what stops it, health while the world around it changes, deadlines, and its end."""

import asyncio
import errno
import itertools
import os
import re
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from structlog.testing import capture_logs
from structlog.typing import EventDict

from reservation import ministack
from reservation.api.call import Call
from reservation.api.registration import Answer, Method
from reservation.api.server import Health, build
from reservation.app import StartError
from reservation.auth.caller import Right
from reservation.background.loops import LoopDied
from reservation.dynamodb.leases import NOBODY
from reservation.gen.com.traffic_tacos.reservation import v1 as messages
from tests.support.conflict_proxy import ConflictProxy
from tests.support.event_bus_proxy import EventBusProxy
from tests.support.faults import HoldOngoing, HoldReply, Request
from tests.support.system import (
    System,
    becomes,
    call,
    create_request,
    dynamodb_of,
    frozen,
    hold,
    make_tables,
    own_settings,
    refusal,
    scan,
    selling,
    serving,
    serving_only,
    table_name,
    watch_health,
)

AN_HOUR = 3_600_000
FALLS_WITHIN_SECONDS = 5 + 5
"""Five are promised; the others are for a busy machine."""
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def test_a_client_finds_a_process_that_came_later_and_loses_no_call_to_it() -> None:
    """Its connection has an age, and what balances connections leads the next one elsewhere. A call under way stays."""
    async with AsyncExitStack() as stack:
        later = [False, True]  # what tells the processes apart: the second one is ready
        ports = [await stack.enter_async_context(_ageing(ready)) for ready in later]
        address = await stack.enter_async_context(_taking_turns(ports))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(address))
        under_way = watch_health(channel, "readiness")
        await becomes(under_way, NOT_SERVING)
        check = health_pb2_grpc.HealthStub(channel).Check
        async with asyncio.timeout(20):
            while (await check(health_pb2.HealthCheckRequest(service="readiness"))).status != SERVING:
                pass
        assert not under_way.done()


@asynccontextmanager
async def _ageing(ready: bool) -> AsyncIterator[int]:
    """A server whose connections grow old soon; yields its port."""
    health = Health()
    await health.start()
    await health.ready(ready)
    server = build([], health, connection_age=0.1)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield port
    finally:
        await health.leave()
        await server.stop(None)


@asynccontextmanager
async def _taking_turns(ports: list[int]) -> AsyncIterator[str]:
    """The address of a balancer that leads the first connection to the first port, and each next one to the next."""
    turns = itertools.cycle(ports)

    async def lead(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind_reader, behind_writer = await asyncio.open_connection("127.0.0.1", next(turns))
        await asyncio.gather(_pass_on(reader, behind_writer), _pass_on(behind_reader, writer))

    async with await asyncio.start_server(lead, "127.0.0.1", 0) as balancer:
        yield f"127.0.0.1:{balancer.sockets[0].getsockname()[1]}"


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


async def test_a_port_in_use_stops_the_start_and_is_named(ministack_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(StartError, match=rf"127\.0\.0\.1:{port} .*GRPC_SERVER_PORT"):
            async with serving(own_settings(ministack_url, grpc_server_port=port)):
                pytest.fail("it listens on another's port")


async def test_two_services_never_share_a_port(ministack_url: str) -> None:
    async with serving(own_settings(ministack_url)) as system:
        port = int(system.address.rpartition(":")[2])
        with pytest.raises(StartError):
            async with serving(own_settings(ministack_url, grpc_server_port=port)):
                pytest.fail("two services listen on one port")


async def test_a_worker_is_named_after_its_host_and_process_and_like_no_other_before(ministack_url: str) -> None:
    settings = own_settings(ministack_url)
    await make_tables(settings)
    told = []
    for _ in range(2):
        with capture_logs() as logged:
            async with serving(settings) as system, asyncio.timeout(30):
                while not (owners := await _owners(system) - {NOBODY}):
                    assert await _health_of(system.channel, "liveness") == SERVING
        told += [entry["worker_id"] for entry in logged if entry["event"] == "serving"]
        assert owners == {told[-1]}
    assert all(re.fullmatch(rf"[0-9A-Za-z-]+-{os.getpid()}-[0-9a-f]+", worker) for worker in told), told
    assert told[0] != told[1]


# Health


async def test_readiness_waits_for_the_tables_and_falls_when_the_store_freezes_while_liveness_stays() -> None:
    async with ministack.running() as store:
        settings = own_settings(store.url)
        async with serving(settings) as system:
            readiness = watch_health(system.channel, "readiness")
            assert await _health_of(system.channel, "readiness") == NOT_SERVING
            assert await _health_of(system.channel, "liveness") == SERVING
            await make_tables(settings)
            await becomes(readiness, SERVING)
            assert await _health_of(system.channel, "") == SERVING
            with frozen(store.url):
                async with asyncio.timeout(FALLS_WITHIN_SECONDS):
                    await becomes(readiness, NOT_SERVING)
                assert await _health_of(system.channel, "") == NOT_SERVING
                assert await _health_of(system.channel, "liveness") == SERVING
            await becomes(readiness, SERVING)
            readiness.cancel()


async def test_readiness_falls_when_the_store_ends() -> None:
    async with ministack.running() as store:
        settings = own_settings(store.url)
        await make_tables(settings)
        async with serving(settings) as system:
            readiness = watch_health(system.channel, "readiness")
            await becomes(readiness, SERVING)
            await asyncio.to_thread(store.stop)
            async with asyncio.timeout(FALLS_WITHIN_SECONDS):
                await becomes(readiness, NOT_SERVING)
            readiness.cancel()


@pytest.mark.parametrize("offset", [AN_HOUR, -AN_HOUR])
async def test_a_process_whose_clock_is_an_hour_off_is_not_ready_but_alive(ministack_url: str, offset: int) -> None:
    settings = own_settings(ministack_url)
    await make_tables(settings)
    with capture_logs() as logged:
        async with serving(settings, clock_offset=offset) as system:
            async with asyncio.timeout(30):
                while not (checks := [entry for entry in logged if entry["event"] == "readiness"]):
                    assert await _health_of(system.channel, "readiness") == NOT_SERVING
            assert await _health_of(system.channel, "readiness") == NOT_SERVING
            assert await _health_of(system.channel, "liveness") == SERVING
    assert "the clock is" in checks[0]["problem"]


async def test_a_process_whose_clock_is_an_hour_off_leaves_the_background_work_to_others(ministack_url: str) -> None:
    settings = own_settings(ministack_url, lease_seconds=1.0)
    await make_tables(settings)
    with capture_logs() as logged:
        async with serving(settings, clock_offset=AN_HOUR), serving(settings) as system, asyncio.timeout(30):
            _, right = (entry["worker_id"] for entry in logged if entry["event"] == "serving")
            while await _owners(system) != {right}:
                assert await _health_of(system.channel, "liveness") == SERVING


async def test_a_bus_that_turns_out_to_be_missing_costs_readiness_and_no_event(ministack_url: str) -> None:
    async with EventBusProxy() as bus:
        bus.down, bus.buses = True, set()
        settings = own_settings(ministack_url, aws_eventbridge_endpoint=bus.url)
        async with selling(settings) as system:
            readiness = watch_health(system.channel, "readiness")
            await becomes(readiness, SERVING)
            held = await hold(system.channel, system.fresh_seats())
            bus.down = False
            await becomes(readiness, NOT_SERVING)
            assert bus.calls == []
            bus.buses.add(settings.eventbridge_bus_name)
            await becomes(readiness, SERVING)
            await bus.until_accepted(1)
            readiness.cancel()
    (event,) = bus.accepted
    assert held in event["Detail"]


async def test_a_service_that_leaves_is_not_ready_but_alive_whatever_a_late_check_says() -> None:
    health = Health()
    await health.start()
    await health.ready(True)
    async with serving_only(health=health) as channel:
        await health.leave()
        await health.ready(True)
        assert await _health_of(channel, "readiness") == NOT_SERVING
        assert await _health_of(channel, "") == NOT_SERVING
        assert await _health_of(channel, "liveness") == SERVING


# Deadlines, and callers that leave


@pytest.mark.parametrize(("patience", "at_most"), [(2.0, 2.0), (60.0, 2.5)])
async def test_a_call_has_as_long_as_its_caller_waits_and_two_and_a_half_seconds_at_most(
    patience: float, at_most: float
) -> None:
    left: list[float] = []

    async def handler(_request: Any, call: Call) -> Answer:
        left.append(call.until - time.monotonic())
        return Answer(b"")

    async with serving_only(
        Method("GetReservation", messages.GetReservationRequest, handler, Right.RESERVATIONS)
    ) as channel:
        await call(channel, messages.GetReservationRequest(), timeout=patience)
    assert 0 < left[0] <= at_most + 0.1, "gRPC rounds the time that is left up on its way"


async def test_a_command_whose_caller_left_takes_effect_and_its_key_finds_out(ministack_url: str) -> None:
    async with ConflictProxy(ministack_url) as proxy, selling(own_settings(proxy.url)) as system:
        request = create_request(system.fresh_seats(), idempotency_key="k")
        reply = HoldReply()
        proxy.script(_is_transaction, reply)
        abandoned = asyncio.create_task(call(system.channel, request))
        await reply.reached.wait()
        abandoned.cancel()
        reply.event.set()
        assert (await call(system.channel, request)).replayed


# The end


async def test_a_stop_serves_as_before_but_not_ready_until_who_looks_at_readiness_has_gone_elsewhere(
    ministack_url: str,
) -> None:
    lingers, gone = asyncio.Queue[float](), asyncio.Event()

    async def linger(seconds: float) -> None:
        lingers.put_nowait(seconds)
        await gone.wait()

    settings = own_settings(ministack_url, linger_seconds=7)
    async with AsyncExitStack() as stack:
        system = await stack.enter_async_context(selling(settings, sleep=linger))
        stop = asyncio.create_task(stack.aclose())
        assert await lingers.get() == 7
        async with grpc.aio.insecure_channel(system.address) as channel:
            assert await _health_of(channel, "readiness") == NOT_SERVING
            held = await hold(channel, system.fresh_seats())
            read = await call(channel, messages.GetReservationRequest(reservation_id=held))
            assert read.message.status is messages.ReservationStatus.HOLD
            assert not stop.done()
        gone.set()
        await stop


async def test_a_stop_refuses_what_is_new_and_finishes_what_is_under_way(ministack_url: str) -> None:
    async with ConflictProxy(ministack_url) as proxy, AsyncExitStack() as stack:
        system = await stack.enter_async_context(selling(own_settings(proxy.url)))
        reply = HoldReply()
        proxy.script(_is_transaction, reply)
        async with grpc.aio.insecure_channel(system.address) as channel:
            under_way = asyncio.create_task(call(channel, create_request(system.fresh_seats())))
            await reply.reached.wait()
            stop = asyncio.create_task(stack.aclose())
            await _refuses(system.address)
            reply.event.set()
            assert (await under_way).message.status is messages.ReservationStatus.HOLD
        await stop


async def test_a_stop_tells_those_who_watch_its_health_and_does_not_wait_for_them(ministack_url: str) -> None:
    settings = own_settings(ministack_url)
    await make_tables(settings)
    async with AsyncExitStack() as stack:
        system = await stack.enter_async_context(serving(settings))
        async with grpc.aio.insecure_channel(system.address) as channel:
            watches = [watch_health(channel, name) for name in ("readiness", "liveness")]
            for watch in watches:
                await becomes(watch, SERVING)
            await stack.aclose()
            assert [await _rest(watch) for watch in watches] == [[NOT_SERVING], []]
            assert [await watch.code() for watch in watches] == [grpc.StatusCode.OK] * 2


async def test_a_stop_under_load_answers_every_request_or_says_that_it_was_not_taken(ministack_url: str) -> None:
    """gRPC cancels what arrives at the very moment of the stop, before a handler has seen it."""
    settings = own_settings(ministack_url)
    await make_tables(settings)
    async with AsyncExitStack() as stack:
        system = await stack.enter_async_context(serving(settings))
        async with grpc.aio.insecure_channel(system.address) as channel:
            callers = [asyncio.create_task(_calls_until_unavailable(channel)) for _ in range(16)]
            await refusal(call(channel, messages.GetReservationRequest(reservation_id="rsv_nobody")))
            await stack.aclose()
            told = set().union(*await asyncio.gather(*callers))
    assert told <= {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE}


async def test_a_stop_waits_for_the_command_of_a_caller_that_left(ministack_url: str) -> None:
    async with ConflictProxy(ministack_url) as proxy, AsyncExitStack() as stack:
        system = await stack.enter_async_context(selling(own_settings(proxy.url)))
        write = HoldOngoing()
        proxy.script(_is_transaction, write)
        abandoned = asyncio.create_task(call(system.channel, create_request(system.fresh_seats())))
        await write.reached.wait()
        abandoned.cancel()
        (command,) = [task for task in asyncio.all_tasks() if task.get_name() == "command"]
        stop = asyncio.create_task(stack.aclose())
        # Nothing answers the write. The command ends when its own time is up, however late that is.
        await asyncio.wait({stop, command}, return_when=asyncio.FIRST_COMPLETED)
        assert command.done(), "the stop ended before it"
        await stop


async def test_the_death_of_a_loop_ends_the_service_as_a_stop_does(ministack_url: str) -> None:
    """The check of the tables dies because the log cannot be written."""
    settings = own_settings(ministack_url)
    await make_tables(settings)

    def full(_logger: Any, _level: str, entry: EventDict) -> EventDict:
        if entry["event"] == "readiness" and not entry["ready"]:
            raise OSError(errno.ENOSPC, "no space left on device")
        return entry

    async def lose_a_table() -> None:
        async with serving(settings) as system, asyncio.timeout(30):
            await system.dynamodb.call("DeleteTable", {"TableName": settings.dynamodb_table_inventory})
            await asyncio.Event().wait()

    with capture_logs(processors=[full]) as logged, pytest.raises(LoopDied, match=r"readiness .*no space left"):
        await lose_a_table()
    assert [entry["loop"] for entry in logged if entry["event"] == "loop.died"] == ["readiness"]
    assert logged[-1]["event"] == "stopped"
    async with dynamodb_of(settings) as dynamodb:
        left = await scan(dynamodb, table_name(settings, "leases"))
    assert {item["owner"]["S"] for item in left} == {NOBODY}


def _is_transaction(request: Request) -> bool:
    return request.operation == "TransactWriteItems"


async def _owners(system: System) -> set[str]:
    """Of shards; NOBODY if there is one without."""
    return {item["owner"]["S"] for item in await system.items("leases") if "owner" in item}


async def _health_of(channel: grpc.aio.Channel, name: str) -> int:
    answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=name))
    return int(answer.status)


async def _calls_until_unavailable(channel: grpc.aio.Channel) -> set[grpc.StatusCode]:
    """All that was answered."""
    request = messages.GetReservationRequest(reservation_id="rsv_nobody")
    told: set[grpc.StatusCode] = set()
    while grpc.StatusCode.UNAVAILABLE not in told:
        told.add((await refusal(call(channel, request))).status)
    return told


async def _rest(watch: Any) -> list[int]:
    """What comes until its end."""
    told = []
    while (answer := await watch.read()) is not grpc.aio.EOF:
        told.append(int(answer.status))
    return told


async def _refuses(address: str) -> None:
    """Waits until a new caller is refused because nobody listens any more."""
    async with asyncio.timeout(30), grpc.aio.insecure_channel(address) as channel:
        await _calls_until_unavailable(channel)
