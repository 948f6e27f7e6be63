"""CPU of the service process per request, and its ratio to the floor: an echo of the same sizes plus one bare call.

The service is `reservation serve`; the store is a sink that answers at once; the load comes from this process over one
channel with 32 requests in flight. Rounds of the service and of the floors are interleaved. Every request has a key of
its own and a signed token, which comes twice: once to be verified and once to be remembered. One request in a hundred
is traced; what that costs is the ratio to a second service that traces nothing. What a process does without requests
(leases, relay, expirer, gauges) is in the figures, and told apart as CPU per second.
"""

import asyncio
import gc
import tempfile
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import count, islice
from pathlib import Path

import grpc
import uvloop

from reservation.api import convert
from reservation.aws.session import AwsConfig, connect
from reservation.gen.com.traffic_tacos.reservation import v1 as messages
from reservation.ministack import free_port
from tests.bench import aws_calls, processes
from tests.bench.figures import Figure, figure, middle
from tests.bench.sink import HELD, USER
from tests.support.key_server import KeyServer, SigningKey, key_server

_IN_FLIGHT = 32
_REQUESTS = 3000
_SERVICE = "/com.traffic_tacos.reservation.v1.ReservationService"

_IDLE_SECONDS = 2.0

Request = Callable[[], bytes]


def measure(rounds: int = 5) -> dict[str, Figure]:
    with tempfile.TemporaryDirectory() as directory:
        return uvloop.run(_with_issuer(Path(directory), rounds))


async def _with_issuer(directory: Path, rounds: int) -> dict[str, Figure]:
    async with key_server(directory, SigningKey.new("bench", "RS256")) as issuer:
        with ExitStack() as stack:
            _, sink_port = stack.enter_context(processes.printing_its_port("tests.bench.sink", "0"))
            _, collector_port = stack.enter_context(processes.printing_its_port("tests.bench.spans"))
            sink = f"http://127.0.0.1:{sink_port}"
            traced = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector_port}"}
            services = [_service(stack, issuer, {"AWS_ENDPOINT_URL": sink} | settings) for settings in (traced, {})]
            echoes = [
                stack.enter_context(processes.printing_its_port("tests.bench.echo", "0", answer.hex()))
                for answer in (_create_answer(), _get_answer())
            ]
            return await _measure(sink, services, echoes, _tokens(issuer), rounds)


def _service(stack: ExitStack, issuer: KeyServer, settings: dict[str, str]) -> tuple[int, int]:
    port = free_port("127.0.0.1")
    address = {"GRPC_SERVER_PORT": str(port)}
    return stack.enter_context(
        processes.service(settings | address | issuer.environment() | processes.ONE_USER_WITHOUT_LIMIT)
    ), port


def _tokens(issuer: KeyServer) -> Iterator[str]:
    for number in count():
        yield from (issuer.token(USER, jti=str(number)),) * 2


async def _measure(
    sink: str, services: list[tuple[int, int]], echoes: list[tuple[int, int]], tokens: Iterator[str], rounds: int
) -> dict[str, Figure]:
    creates = _creates()
    rpcs: dict[str, Request] = {
        "Create": lambda: next(creates),
        "Get": _get_request,
        "Confirm": _confirm_request,
        "Cancel": _cancel_request,
    }
    costs: defaultdict[str, list[float]] = defaultdict(list)
    (service, port), (untraced, untraced_port) = services
    async with (
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
        grpc.aio.insecure_channel(f"127.0.0.1:{untraced_port}") as without,
    ):
        for each in (channel, without):
            await asyncio.wait_for(each.channel_ready(), 60)
            for rpc, request in rpcs.items():
                await _load(each, f"{_SERVICE}/{rpc}Reservation", request, tokens, 500)
        idle = await _idle_ms_per_second(service)
        for _ in range(rounds):
            for rpc, request in rpcs.items():
                costs[rpc].append(await _cost(service, channel, rpc, request, tokens))
            costs["untraced"].append(await _cost(untraced, without, "Create", rpcs["Create"], tokens))
            costs["create_echo"].append(await _echo_cost(echoes[0], rpcs["Create"], tokens))
            costs["get_echo"].append(await _echo_cost(echoes[1], rpcs["Get"], tokens))
            costs["call"].append(await _call_cost(sink))
    return _figures(costs, idle)


def _figures(costs: Mapping[str, Sequence[float]], idle: float) -> dict[str, Figure]:
    create_floor = [echo + call for echo, call in zip(costs["create_echo"], costs["call"], strict=True)]
    get_floor = [echo + call for echo, call in zip(costs["get_echo"], costs["call"], strict=True)]
    return {
        "create_cpu_ms": figure(costs["Create"], "ms", requests=_REQUESTS, idle_ms_per_s=round(idle, 2)),
        "create_over_floor": figure(_ratios(costs["Create"], create_floor), "x", floor_ms=middle(create_floor, 4)),
        "tracing_cost": figure(
            _ratios(costs["Create"], costs["untraced"]), "x", untraced_ms=middle(costs["untraced"], 4)
        ),
        "get_cpu_ms": figure(costs["Get"], "ms", requests=_REQUESTS),
        "get_over_floor": figure(_ratios(costs["Get"], get_floor), "x", floor_ms=middle(get_floor, 4)),
        "confirm_cpu_ms": figure(costs["Confirm"], "ms", requests=_REQUESTS),
        "cancel_cpu_ms": figure(costs["Cancel"], "ms", requests=_REQUESTS),
        "echo_cpu_ms": figure(costs["create_echo"], "ms", requests=_REQUESTS),
    }


def _ratios(costs: Sequence[float], floors: Sequence[float]) -> list[float]:
    return [cost / floor for cost, floor in zip(costs, floors, strict=True)]


async def _idle_ms_per_second(pid: int) -> float:
    before = processes.cpu_seconds(pid)
    await asyncio.sleep(_IDLE_SECONDS)
    return (processes.cpu_seconds(pid) - before) * 1000 / _IDLE_SECONDS


async def _cost(pid: int, channel: grpc.aio.Channel, rpc: str, request: Request, tokens: Iterator[str]) -> float:
    return await _cpu_ms(pid, channel, f"{_SERVICE}/{rpc}Reservation", request, tokens)


async def _echo_cost(echo: tuple[int, int], request: Request, tokens: Iterator[str]) -> float:
    pid, port = echo
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        await _load(channel, "/Echo/Echo", request, tokens, 200)
        return await _cpu_ms(pid, channel, "/Echo/Echo", request, tokens)


async def _cpu_ms(pid: int, channel: grpc.aio.Channel, method: str, request: Request, tokens: Iterator[str]) -> float:
    before = processes.cpu_seconds(pid)
    await _load(channel, method, request, tokens, _REQUESTS)
    return (processes.cpu_seconds(pid) - before) * 1000 / _REQUESTS


async def _load(channel: grpc.aio.Channel, method: str, request: Request, tokens: Iterator[str], requests: int) -> None:
    call = channel.unary_unary(method)
    signed = list(islice(tokens, requests))  # before the load, which signing would slow down
    remaining = iter(enumerate(signed))

    async def client() -> None:
        for number, token in remaining:
            await call(request(), metadata=_metadata(token, sampled=number % 100 == 0), timeout=10)

    await asyncio.gather(*(client() for _ in range(_IN_FLIGHT)))


def _metadata(token: str, *, sampled: bool) -> tuple[tuple[str, str], ...]:
    trace_id, flags = uuid.uuid4().hex, "01" if sampled else "00"
    return (
        ("authorization", f"Bearer {token}"),
        ("idempotency-key", str(uuid.uuid4())),
        ("traceparent", f"00-{trace_id}-00f067aa0ba902b7-{flags}"),
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


def _confirm_request() -> bytes:
    """The sink has forgotten the sale when the next one comes."""
    return bytes(messages.ConfirmReservationRequest(reservation_id=HELD.id, payment_intent_id="pay_1", user_id=USER))


def _cancel_request() -> bytes:
    return bytes(messages.CancelReservationRequest(reservation_id=HELD.id, user_id=USER))


def _create_answer() -> bytes:
    return convert.created(HELD)


def _get_answer() -> bytes:
    return convert.reservation_body(HELD)
