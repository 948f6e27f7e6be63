"""What memory a process takes after 100,000 requests, and by how much that grows over the next ones.

Each round after the first is 100,000 requests more: the five of the default make the 500,000 that the goal is about,
and take a quarter of an hour. A fifth of the requests each are gets, confirms and cancels of the reservation that the
sink knows, the others creates by many users; every command has a key of its own, and one token serves for 25 of each.
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from itertools import cycle
from pathlib import Path

import grpc
import psutil
import uvloop

from reservation.gen.com.traffic_tacos.reservation import v1 as messages
from reservation.ministack import free_port
from tests.bench import processes
from tests.bench.callers import SERVICE, creates, metadata_of
from tests.bench.figures import Figure, failed, figure
from tests.bench.sink import HELD, USER
from tests.support.key_server import KeyServer, SigningKey, key_server

_REQUESTS = 100_000
_A_TOKEN = 25
_USERS = 2_000
_IN_FLIGHT = 32
_TIMEOUT_SECONDS = 30.0

_Request = tuple[str, bytes, str]
"""The method, the message, and the token."""


def measure(rounds: int = 5) -> dict[str, Figure]:
    with tempfile.TemporaryDirectory() as directory:
        return uvloop.run(_measure(Path(directory), rounds))


async def _measure(directory: Path, rounds: int) -> dict[str, Figure]:
    async with _service(directory) as (pid, channel, issuer):
        begun = _rss_mib(pid)
        requests = _requests(issuer)
        failures = 0
        after = []
        for _ in range(1 + rounds):
            failures += await _make(channel, requests)
            after.append(_rss_mib(pid))
    told = {"begun_mib": begun, "after_each_mib": after, "requests": _REQUESTS * len(after)}
    growth = figure([100 * (max(after[1:]) / after[0] - 1)], "%", **told)
    size = figure([after[0]], "MiB", begun_mib=begun, requests=_REQUESTS)
    problems = [f"{failures} requests failed"] if failures else []
    figures = {"rss_mib": size, "rss_growth": growth}
    return {name: failed(each, *problems) for name, each in figures.items()} if problems else figures


@asynccontextmanager
async def _service(directory: Path) -> AsyncIterator[tuple[int, grpc.aio.Channel, KeyServer]]:
    port = free_port("127.0.0.1")
    async with key_server(directory, SigningKey.new("bench", "RS256")) as issuer:
        with ExitStack() as stack:
            _, sink_port = stack.enter_context(processes.printing_its_port("tests.bench.sink", "0"))
            settings = {
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{sink_port}",
                "GRPC_SERVER_PORT": str(port),
                **issuer.environment(),
            }
            pid = stack.enter_context(processes.service(settings | processes.ONE_USER_WITHOUT_LIMIT))
            await processes.answers(f"127.0.0.1:{port}")
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                yield pid, channel, issuer


def _rss_mib(pid: int) -> float:
    return round(float(psutil.Process(pid).memory_info().rss) / 2**20, 1)


def _requests(issuer: KeyServer) -> Iterator[_Request]:
    creating, users = creates(), cycle(range(_USERS))
    known = (
        ("GetReservation", bytes(messages.GetReservationRequest(reservation_id=HELD.id))),
        (
            "ConfirmReservation",
            bytes(messages.ConfirmReservationRequest(reservation_id=HELD.id, payment_intent_id="pay_1")),
        ),
        ("CancelReservation", bytes(messages.CancelReservationRequest(reservation_id=HELD.id))),
    )
    while True:
        owner, somebody = issuer.token(USER), issuer.token(f"user-{next(users)}")
        for _ in range(_A_TOKEN):
            yield from (("CreateReservation", next(creating), somebody) for _ in range(2))
            yield from ((method, message, owner) for method, message in known)


async def _make(channel: grpc.aio.Channel, requests: Iterator[_Request]) -> int:
    """How many failed."""
    calls = {
        method: channel.unary_unary(f"{SERVICE}/{method}")
        for method in ("CreateReservation", "GetReservation", "ConfirmReservation", "CancelReservation")
    }
    left = iter(range(_REQUESTS))
    failures = 0

    async def client() -> None:
        nonlocal failures
        for _ in left:
            method, message, token = next(requests)
            try:
                await calls[method](message, metadata=metadata_of(token), timeout=_TIMEOUT_SECONDS)
            except grpc.aio.AioRpcError:
                failures += 1

    await asyncio.gather(*(client() for _ in range(_IN_FLIGHT)))
    return failures
