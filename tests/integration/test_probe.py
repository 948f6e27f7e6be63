"""What a health check learns about a real server."""

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from reservation import probe
from reservation.api.server import Health, build
from reservation.tls import KeyPair, ServerCertificate
from tests.support.certificates import Authority
from tests.support.command import ended, started_module


@pytest.fixture
async def health() -> Health:
    health = Health()
    await health.start()
    return health


@pytest.fixture
async def address(health: Health) -> AsyncIterator[str]:
    server = build([], health)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


async def test_ready_and_alive_are_asked_apart(address: str, health: Health) -> None:
    assert await asyncio.to_thread(probe.state, address) == "NOT_SERVING"
    assert await asyncio.to_thread(probe.state, address, "liveness") == probe.SERVING
    await health.ready(True)
    assert await asyncio.to_thread(probe.state, address) == probe.SERVING


async def test_the_health_check_ends_well_only_if_the_service_is_ready(address: str, health: Health) -> None:
    async def code() -> int:
        async with started_module("reservation.probe", address) as command:
            return (await command.end()).code

    assert await code() == 1
    await health.ready(True)
    assert await code() == 0


async def test_the_command_asks_the_service_of_its_settings_or_of_the_port_it_is_given(address: str) -> None:
    port = address.rpartition(":")[2]
    ready = await ended("health", BIND_HOST="0.0.0.0", GRPC_SERVER_PORT=port)  # noqa: S104
    alive = await ended("health", "--liveness", "--port", port)
    assert (ready.code, ready.out) == (1, "NOT_SERVING\n")
    assert (alive.code, alive.out) == (0, "SERVING\n")


def test_where_nobody_listens_or_answers_the_probe_says_why() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        address = f"127.0.0.1:{deaf.getsockname()[1]}"
        assert probe.state(address).startswith("DEADLINE_EXCEEDED")
    assert probe.state(address).startswith("UNAVAILABLE")


async def test_a_port_that_demands_certificates_is_asked_with_those_that_envoy_shows(
    health: Health, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority()
    ca = authority.write(tmp_path)
    pair = KeyPair(*authority.issue("service", ["service.internal"]).write(tmp_path, "service"))
    certificate, key = authority.issue("envoy").write(tmp_path, "envoy")
    server = build([], health)
    port = server.add_secure_port("127.0.0.1:0", ServerCertificate(pair, ca).credentials())
    await server.start()
    assert (await asyncio.to_thread(probe.state, f"127.0.0.1:{port}")).startswith("UNAVAILABLE")
    for kind, value in (("CA_FILE", ca), ("CERT_FILE", certificate), ("KEY_FILE", key)):
        monkeypatch.setenv(f"EDGE_UPSTREAM_{kind}", str(value))
    monkeypatch.setenv("EDGE_UPSTREAM_SERVER_NAME", "service.internal")
    assert await asyncio.to_thread(probe.state, f"127.0.0.1:{port}", "liveness") == probe.SERVING
    await server.stop(None)
