"""The embedded AWS emulator: DynamoDB, EventBridge and SQS served by ministack in a child process.

For development and tests only: one event loop (about 1,000 transactions a second), no throttling, no transaction
conflicts, and a `kill -9` loses everything written since the last clean stop.
"""

import asyncio
import http.client
import importlib.util
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO, Self, cast

# Python's default collection thresholds cost the emulator stalls of up to half a second once its heap has grown.
_PROGRAM = "import gc; gc.set_threshold(20000, 50, 100); from ministack.app import main; main()"

WATCHDOG = 'read -r _; kill "$0"'
"""A shell's program that ends the process named after it when whoever holds the other end of its stdin has ended."""


class ServerStartError(RuntimeError):
    """A child server ended, or did not answer in time; the message holds the end of its output."""


class MinistackMissingError(RuntimeError):
    """The emulator's package is missing; the message says how to install it."""

    def __init__(self) -> None:
        super().__init__("ministack is not installed: pip install traffic-tacos-reservation[local]")


class ServerProcess:
    """An HTTP server in a child process that never outlives this one.

    It runs in a process group of its own, so that Ctrl-C in a terminal reaches only us and we can stop it last, after
    everything that still needs it. A second child, a shell of one line, waits for the end of a pipe whose only writer
    is this process: however we end, `kill -9` included, the pipe closes and the server gets SIGTERM.

    As a context manager: started and answering inside, stopped after.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        host: str,
        port: int,
        ready_path: str,
        log: Path | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.url = f"http://{host}:{port}"
        self._command = command
        self._address = (host, port)
        self._ready_path = ready_path
        self._log_path = log
        self._env = env
        self._cwd = cwd
        self._children: list[subprocess.Popen[bytes]] = []
        self._log: BinaryIO | None = None

    def start(self) -> None:
        """Start the process; returns at once, before it answers."""
        self._log = _open_log(self._log_path)
        server = subprocess.Popen(  # noqa: S603
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env=self._env,
            cwd=self._cwd,
            process_group=0,
        )
        self._children = [server]
        watchdog = ["/bin/sh", "-c", WATCHDOG, str(server.pid)]
        self._children += [subprocess.Popen(watchdog, stdin=subprocess.PIPE, process_group=0)]  # noqa: S603

    def wait_ready(self, timeout: float = 60.0) -> None:
        """Block until the server answers its ready path; raises ServerStartError when it ends or `timeout` s pass."""
        server = self._children[0]
        deadline = time.monotonic() + timeout
        while not self._answers():
            if server.poll() is not None:
                raise ServerStartError(f"{self._command[0]} ended before it answered:\n{self._last_output()}")
            if time.monotonic() > deadline:
                raise ServerStartError(f"{self.url} did not answer within {timeout:g} s:\n{self._last_output()}")
            time.sleep(0.02)

    def stop(self, timeout: float = 10.0) -> None:
        """SIGTERM, and SIGKILL after `timeout` s. Does nothing when it is not running."""
        while self._children:
            child = self._children.pop(0)
            child.terminate()
            try:
                child.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                child.kill()
                child.communicate()
        if self._log is not None:
            self._log.close()

    def __enter__(self) -> Self:
        try:
            self.start()
            self.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection(*self._address, timeout=1.0)
        try:
            connection.request("GET", self._ready_path)
            return connection.getresponse().status < 500
        except OSError:
            return False
        finally:
            connection.close()

    def _last_output(self) -> str:
        """Read without moving the file's position, which the child shares."""
        if self._log is None or self._log.closed:
            return "(its output is gone)"
        size = os.fstat(self._log.fileno()).st_size
        output = os.pread(self._log.fileno(), 2000, max(0, size - 2000))
        return output.decode(errors="replace").strip() or "(it wrote nothing)"


class Ministack(ServerProcess):
    """The emulator on `url`, as a context manager for code without an event loop.

    With `state_dir` a clean stop keeps tables, rules and queues there, the next start brings them back, and the output
    goes to `ministack.log` in it; without, everything is gone at the end. `port` 0 takes a free one. Raises
    MinistackMissingError, and ServerStartError for a port that is taken.
    """

    def __init__(self, *, port: int = 0, state_dir: Path | None = None, host: str = "127.0.0.1") -> None:
        if importlib.util.find_spec("ministack") is None:
            raise MinistackMissingError
        port = free_port(host, port)
        settings = {
            "BIND_HOST": host,
            "MINISTACK_HOST": host,
            "GATEWAY_PORT": str(port),
            "PERSIST_STATE": "0",
            "SERVICES": "dynamodb,events,sqs",
            "LOG_LEVEL": "WARNING",
            # Listeners of services that we do not use, on fixed ports.
            "IOT_MTLS_ENABLED": "0",
            "SFTP_ENABLED": "0",
            # It removes containers of earlier runs at its start; it has none from us, and others' are not ours.
            "DOCKER_HOST": "unix:///nonexistent",
        }
        if state_dir is not None:
            state_dir = state_dir.absolute()
            state_dir.mkdir(parents=True, exist_ok=True)
            settings |= {"PERSIST_STATE": "1", "STATE_DIR": str(state_dir)}
        super().__init__(
            [sys.executable, "-P", "-c", _PROGRAM],
            host=host,
            port=port,
            ready_path="/_ministack/ready",
            log=state_dir / "ministack.log" if state_dir else None,
            env=os.environ | settings,
        )


@asynccontextmanager
async def running(*, port: int = 0, state_dir: Path | None = None, host: str = "127.0.0.1") -> AsyncIterator[Ministack]:
    """The emulator for the length of an `async with`; the event loop is never blocked while it starts or stops."""
    emulator = Ministack(port=port, state_dir=state_dir, host=host)
    try:
        emulator.start()
        await asyncio.to_thread(emulator.wait_ready)
        yield emulator
    finally:
        await asyncio.to_thread(emulator.stop)


def _open_log(path: Path | None) -> BinaryIO:
    return cast(BinaryIO, tempfile.TemporaryFile()) if path is None else path.open("w+b")


def free_port(host: str, port: int = 0) -> int:
    """`port`, or one that is free now if it is 0; raises ServerStartError when somebody listens on it."""
    if not port:
        (port,) = free_ports(host, 1)
    elif taken := _taken(host, port):
        raise ServerStartError(f"{host}:{port} cannot be used: {taken}")
    return port


_GIVEN_TO_NOBODY = range(20_000, 32_000)
"""Linux gives ports from 32768 on to outgoing connections and to those who listen on any port
(https://www.kernel.org/doc/html/latest/networking/ip-sysctl.html, ip_local_port_range): one of those might be taken
before the server listens that is told to."""


def free_ports(host: str, number: int) -> list[int]:
    """So many different ones that are free now. Raises ServerStartError when there are not as many."""
    first = random.SystemRandom().randrange(len(_GIVEN_TO_NOBODY))
    ports = chain(_GIVEN_TO_NOBODY[first:], _GIVEN_TO_NOBODY[:first])
    found = list(islice((port for port in ports if not _taken(host, port)), number))
    if len(found) < number:
        raise ServerStartError(f"{host} has no {number} free ports")
    return found


def _taken(host: str, port: int) -> str:
    """Why it cannot be used now, in a few words; "": it can."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.strerror or str(error)
    return ""
