"""CPU of the service process per request, and its ratio to the floor: an echo of the same sizes plus one bare call.

The service is `reservation serve`; the store is a sink that answers at once; the load comes from this process over one
channel with 32 requests in flight. Rounds of the service and of the floors are interleaved.
"""

import asyncio
import gc
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count

import grpc
import uvloop

from reservation.api import convert
from reservation.aws.session import AwsConfig, connect
from reservation.gen.com.traffic_tacos.reservation import v1 as messages
from reservation.ministack import free_port
from tests.bench import aws_calls, processes
from tests.bench.figures import Figure, figure
from tests.bench.sink import HELD, USER

_IN_FLIGHT = 32
_REQUESTS = 3000
_SERVICE = "/com.traffic_tacos.reservation.v1.ReservationService"

# The size of an RS256 access token, which the edge forwards.
_TOKEN = "Bearer " + "t" * 520

Request = Callable[[], bytes]


def measure(rounds: int = 5) -> dict[str, Figure]:
    with ExitStack() as stack:
        _, sink_port = stack.enter_context(processes.printing_its_port("tests.bench.sink", "0"))
        sink = f"http://127.0.0.1:{sink_port}"
        port = free_port("127.0.0.1")
        settings = {"AWS_ENDPOINT_URL": sink, "GRPC_SERVER_PORT": str(port)} | processes.ONE_USER_WITHOUT_LIMIT
        service = stack.enter_context(processes.service(settings))
        echoes = [
            stack.enter_context(processes.printing_its_port("tests.bench.echo", "0", str(size)))
            for size in (len(_create_answer()), len(_get_answer()))
        ]
        return uvloop.run(_measure(sink, service, port, echoes, rounds))


async def _measure(sink: str, service: int, port: int, echoes: list[tuple[int, int]], rounds: int) -> dict[str, Figure]:
    create, get = _creates(), _get_request()
    costs: dict[str, list[float]] = {name: [] for name in ("create", "get", "create_echo", "get_echo", "call")}
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        await asyncio.wait_for(channel.channel_ready(), 15)
        await _load(channel, f"{_SERVICE}/CreateReservation", lambda: next(create), 500)
        await _load(channel, f"{_SERVICE}/GetReservation", lambda: get, 500)
        for _ in range(rounds):
            costs["create"].append(await _cost(service, channel, "CreateReservation", lambda: next(create)))
            costs["get"].append(await _cost(service, channel, "GetReservation", lambda: get))
            costs["create_echo"].append(await _echo_cost(echoes[0], lambda: next(create)))
            costs["get_echo"].append(await _echo_cost(echoes[1], lambda: get))
            costs["call"].append(await _call_cost(sink))
    create_floor = [echo + call for echo, call in zip(costs["create_echo"], costs["call"], strict=True)]
    get_floor = [echo + call for echo, call in zip(costs["get_echo"], costs["call"], strict=True)]
    return {
        "create_cpu_ms": figure(costs["create"], "ms", requests=_REQUESTS),
        "create_over_floor": figure(_ratios(costs["create"], create_floor), "x", floor_ms=_middle(create_floor)),
        "get_cpu_ms": figure(costs["get"], "ms", requests=_REQUESTS),
        "get_over_floor": figure(_ratios(costs["get"], get_floor), "x", floor_ms=_middle(get_floor)),
    }


def _ratios(costs: list[float], floors: list[float]) -> list[float]:
    return [cost / floor for cost, floor in zip(costs, floors, strict=True)]


def _middle(values: list[float]) -> float:
    return round(sorted(values)[len(values) // 2], 4)


async def _cost(pid: int, channel: grpc.aio.Channel, rpc: str, request: Request) -> float:
    return await _cpu_ms(pid, channel, f"{_SERVICE}/{rpc}", request)


async def _echo_cost(echo: tuple[int, int], request: Request) -> float:
    pid, port = echo
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        await _load(channel, "/Echo/Echo", request, 200)
        return await _cpu_ms(pid, channel, "/Echo/Echo", request)


async def _cpu_ms(pid: int, channel: grpc.aio.Channel, method: str, request: Request) -> float:
    before = processes.cpu_seconds(pid)
    await _load(channel, method, request, _REQUESTS)
    return (processes.cpu_seconds(pid) - before) * 1000 / _REQUESTS


async def _load(channel: grpc.aio.Channel, method: str, request: Request, requests: int) -> None:
    call = channel.unary_unary(method)
    remaining = iter(range(requests))

    async def client() -> None:
        for _ in remaining:
            await call(request(), metadata=_metadata(), timeout=10)

    await asyncio.gather(*(client() for _ in range(_IN_FLIGHT)))


def _metadata() -> tuple[tuple[str, str], ...]:
    return (
        ("authorization", _TOKEN),
        ("idempotency-key", str(uuid.uuid4())),
        ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"),
        ("x-request-id", "5d1796a7-5c46-442b-a840-f891dcecc6d3"),
    )


async def _call_cost(sink: str) -> float:
    """CPU of this process for one bare TransactWriteItems of a create: signed, sent, answered."""
    client = await connect(AwsConfig("us-east-1"), "dynamodb", endpoint_url=sink)
    transactions = await aws_calls.transactions(2 * _IN_FLIGHT)

    async def worker(number: int) -> None:
        for _ in range(_REQUESTS // _IN_FLIGHT):
            await client.call("TransactWriteItems", transactions[number])

    try:
        await asyncio.gather(*(worker(number) for number in range(_IN_FLIGHT)))
        gc.collect()
        before = time.process_time()
        await asyncio.gather(*(worker(number) for number in range(_IN_FLIGHT)))
        return (time.process_time() - before) * 1000 / (_REQUESTS // _IN_FLIGHT * _IN_FLIGHT)
    finally:
        await client.close()


def _creates() -> Iterator[bytes]:
    """Two seats each, 2,000 different ones in turn: their facts are in the service's cache after the first round."""
    for number in count():
        row, first = divmod(2 * number % 2000, 50)
        yield bytes(
            messages.CreateReservationRequest(
                event_id=HELD.event_id,
                seat_ids=[f"R{row}-{first}", f"R{row}-{first + 1}"],
                quantity=2,
                user_id=USER,
                reservation_token="rtkn_xyz789",
            )
        )


def _get_request() -> bytes:
    return bytes(messages.GetReservationRequest(reservation_id=HELD.id, user_id=USER))


def _create_answer() -> bytes:
    return bytes(convert.created(HELD))


def _get_answer() -> bytes:
    return bytes(convert.reservation_body(HELD))
