"""What Envoy refuses by itself: a client that asks too often, and what a full service would have to refuse."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import httpx
import pytest

from tests.support.edge import TRACE_ID, TRACEPARENT, EdgeOverStub, check_error, edge_over, stats
from tests.support.stub_service import stub_service

SERVICE = "/com.traffic_tacos.reservation.v1.ReservationService"
CREATE, CONFIRM, READ = "/v1/reservations", "/v1/reservations/confirm", "/v1/reservations/rsv_1"


@asynccontextmanager
async def limited(**config: Any) -> AsyncIterator[tuple[EdgeOverStub, httpx.AsyncClient, grpc.aio.Channel]]:
    async with (
        stub_service() as stub,
        edge_over(stub.port, **config) as edge,
        httpx.AsyncClient(base_url=edge.url, headers=TRACEPARENT, timeout=10) as rest,
        grpc.aio.insecure_channel(edge.url.removeprefix("http://")) as channel,
    ):
        yield EdgeOverStub(edge, stub), rest, channel


async def test_a_client_that_asks_too_often_is_refused_by_address_and_by_route() -> None:
    async with limited(rate_per_second=1, rate_burst=3, trusted_hops=1) as (world, rest, _):
        ann = _from("192.0.2.1")
        answers = await _until_refused(rest, itertools.repeat(ann))
        assert {answer.status_code for answer in answers[:-1]} == {201}
        check_error(answers[-1], 429, "RATE_LIMIT_EXCEEDED", CREATE, TRACE_ID)
        assert int(answers[-1].headers["retry-after"]) >= 1
        assert "connection" not in answers[-1].headers, "or the client would come again by a new connection"
        assert 3 <= len(world.stub.calls("CreateReservation")) == len(answers) - 1

        assert (await rest.post(CREATE, json={}, headers=_from("192.0.2.2"))).status_code == 201
        assert (await rest.post(CONFIRM, json={}, headers=ann)).status_code == 200
        assert (await rest.get(READ, headers=ann)).status_code == 200
        for _ in range(30):
            assert (await rest.get("/health", headers=ann)).status_code == 200


async def test_a_client_cannot_choose_its_address() -> None:
    """The load balancer before Envoy has written the last one; what stands before that is the client's own word."""
    async with limited(rate_per_second=1, rate_burst=1, trusted_hops=1) as (_, rest, _):
        await _until_refused(rest, (_from(f"198.51.100.{number}, 192.0.2.1") for number in itertools.count()))
    async with limited(rate_per_second=1, rate_burst=1) as (_, rest, _):
        await _until_refused(rest, (_from(f"198.51.100.{number}") for number in itertools.count()))


async def test_addresses_of_one_ipv6_network_are_one_client() -> None:
    async with limited(rate_per_second=1, rate_burst=1, trusted_hops=1) as (_, rest, _):
        await _until_refused(rest, (_from(f"2001:db8::{number}") for number in itertools.count(1)))
        assert (await rest.post(CREATE, json={}, headers=_from("2001:db8:0:1::1"))).status_code == 201


async def test_a_native_client_that_asks_too_often_gets_resource_exhausted() -> None:
    async with limited(rate_per_second=1, rate_burst=1) as (_, _, channel):
        refused = await _refused(channel, "CreateReservation")
        assert int(dict(refused.trailing_metadata())["retry-after"]) >= 1
        await _native(channel, "ConfirmReservation")


async def test_without_a_rate_a_client_may_ask_for_anything() -> None:
    async with limited(rate_per_second=0, rate_burst=1) as (_, rest, _):
        for _ in range(20):
            assert (await rest.post(CREATE, json={})).status_code == 201


async def test_what_a_full_service_has_no_place_for_is_refused_and_holders_of_seats_and_health_still_pass() -> None:
    async with limited(max_concurrent_rpcs=8) as (world, rest, channel):
        under_way = [asyncio.create_task(rest.post(CREATE, json={"userId": "held"})) for _ in range(2)]
        await _arrived(world, "CreateReservation", 2)
        answer = await rest.post(CREATE, json={})
        check_error(answer, 429, "RATE_LIMIT_EXCEEDED", CREATE, TRACE_ID)
        assert answer.headers["retry-after"] == "1"
        refused = await _refused(channel, "CreateReservation")
        assert dict(refused.trailing_metadata())["retry-after"] == "1"
        assert "{" not in (refused.details() or ""), "a gRPC client was shown JSON"
        for path in ("confirm", "cancel", "extend"):
            assert (await rest.post(f"/v1/reservations/{path}", json={})).status_code == 200
        for method in ("ConfirmReservation", "CancelReservation", "ExtendHold"):
            await _native(channel, method)

        under_way += [asyncio.create_task(rest.post(CONFIRM, json={"userId": "held"})) for _ in range(8)]
        await _arrived(world, "ConfirmReservation", 2 + 8)
        check_error(await rest.post(CONFIRM, json={}), 429, "RATE_LIMIT_EXCEEDED", CONFIRM, TRACE_ID)
        health = await rest.get("/actuator/health/readiness")
        assert (health.status_code, health.json()) == (200, {"status": "UP"}), "full is not down"
        world.stub.may_go_on.set()
        assert all(answer.is_success for answer in await asyncio.gather(*under_way))


async def test_a_service_that_is_down_is_not_full_however_many_ask(deaf_port: int) -> None:
    """Most of them are not tried again, because too many would be."""
    async with edge_over(deaf_port) as edge, httpx.AsyncClient(base_url=edge.url, timeout=10) as rest:
        answers = await asyncio.gather(*(rest.post(CREATE, json={}) for _ in range(40)))
        retries = await stats(edge, "cluster.grpc_upstream.upstream_rq_retry_overflow")
    assert sum(retries.values()) > 0, "nothing has overflowed"
    assert {answer.status_code for answer in answers} == {503}


def _from(address: str) -> dict[str, str]:
    """As a load balancer would write it."""
    return {"x-forwarded-for": address}


async def _until_refused(rest: httpx.AsyncClient, headers: Iterable[dict[str, str]]) -> list[httpx.Response]:
    """The answers to creates with these headers in turn, the last one 429. A token comes back in a second, and not one
    for each request."""
    answers = []
    for each in itertools.islice(headers, 50):
        answers.append(await rest.post(CREATE, json={}, headers=each))
        if answers[-1].status_code == 429:
            return answers
    raise AssertionError("nobody was refused")


async def _arrived(world: EdgeOverStub, method: str, calls: int) -> None:
    async with asyncio.timeout(10):
        while len(world.stub.calls(method)) < calls:  # noqa: ASYNC110 - what the stub keeps is a list
            await asyncio.sleep(0.01)


async def _native(channel: grpc.aio.Channel, method: str) -> Any:
    return await channel.unary_unary(f"{SERVICE}/{method}")(b"", timeout=10)


async def _refused(channel: grpc.aio.Channel, method: str) -> grpc.aio.AioRpcError:
    """How one of many calls, one after the other, is refused."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await _again_and_again(channel, method)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    return refused.value


async def _again_and_again(channel: grpc.aio.Channel, method: str) -> None:
    for _ in range(50):
        await _native(channel, method)
