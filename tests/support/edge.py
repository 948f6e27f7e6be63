"""A real Envoy before the stub service, as the edge tests share it."""

import asyncio
import json
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx

from reservation.edge import EdgeConfig, RunningEdge, running
from tests.support.stub_service import StubService, stub_service

REPOSITORY = Path(__file__).resolve().parents[2]
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = {"traceparent": f"00-{TRACE_ID}-00f067aa0ba902b7-01"}
INTERNAL_HEADERS = ("x-error-body", "x-http-status", "x-retry-safe", "server")
SECURITY_HEADERS = {
    "x-content-type-options": ["nosniff"],
    "referrer-policy": ["no-referrer"],
    "cache-control": ["no-store"],
    "content-security-policy": ["default-src 'none'; frame-ancestors 'none'"],
}


@dataclass(frozen=True)
class EdgeOverStub:
    edge: RunningEdge
    stub: StubService

    @property
    def target(self) -> str:
        """host:port, as a gRPC channel takes it."""
        return self.edge.url.partition("://")[2]


@asynccontextmanager
async def edge_over_stub() -> AsyncIterator[EdgeOverStub]:
    """Left without an error only if no Lua script failed: Envoy counts such failures and goes on without the script."""
    async with stub_service() as stub, edge_over(stub.port) as edge:
        yield EdgeOverStub(edge, stub)


@asynccontextmanager
async def edge_over(*grpc_ports: int, log_path: Path | None = None, **config: Any) -> AsyncIterator[RunningEdge]:
    """The edge on free ports, with the same check of the Lua scripts."""
    # All tests come from one address.
    free = EdgeConfig(port=0, admin_port=0, grpc_ports=grpc_ports, metrics_port=9, sampling=0.0)
    free = replace(free, rate_per_second=100_000, rate_burst=100_000)
    async with running(replace(free, **config), log_path=log_path) as edge:
        yield edge
        errors = await stats(edge, r"lua.*\.errors$")
        assert errors, "Envoy no longer counts Lua errors by this name"
        assert set(errors.values()) == {0}, errors


@asynccontextmanager
async def stub_process() -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    """The stub service as a process of its own, and its port."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.support.stub_service", cwd=REPOSITORY, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        yield process, int(await process.stdout.readline())
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGKILL)
        await process.wait()


async def stats(edge: RunningEdge, pattern: str) -> dict[str, int]:
    """Envoy's counters and gauges whose name matches."""
    async with httpx.AsyncClient(base_url=edge.admin_url) as admin:
        answer = await admin.get("/stats", params={"format": "json", "filter": pattern})
    return {stat["name"]: stat["value"] for stat in answer.json()["stats"] if "name" in stat}


def check_error(
    answer: httpx.Response, status: int, code: str, path: str, trace_id: str | None = None
) -> dict[str, Any]:
    """The answer is one error envelope and shows nothing of the inside; returns the error object.

    `trace_id` None: some id must be there, whichever.
    """
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].startswith("application/json")
    check_nothing_internal(answer)
    body = json.loads(answer.content)
    assert list(body) == ["error"]
    error: dict[str, Any] = body["error"]
    assert set(error) == {"code", "message", "timestamp", "path", "traceId"}
    assert error["code"] == code
    assert error["path"] == path
    assert error["message"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", error["timestamp"])
    assert error["traceId"] == (trace_id or error["traceId"]) != ""
    return error


def check_nothing_internal(answer: httpx.Response) -> None:
    """Nor anything that a browser should not do with it."""
    inside = [name for name in answer.headers if name in INTERNAL_HEADERS or name.startswith(("grpc-", "x-envoy-"))]
    assert inside == []
    assert {name: answer.headers.get_list(name) for name in SECURITY_HEADERS} == SECURITY_HEADERS
    over_tls = answer.url.scheme == "https"
    assert answer.headers.get_list("strict-transport-security") == ["max-age=31536000"] * over_tls
