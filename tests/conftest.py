"""Backends for every test: each starts once a run, and only if a test asks for it."""

import signal
import socket
from collections.abc import Iterator

import pytest
from hypothesis import settings

from reservation.ministack import Ministack
from tests.support.backends import BACKENDS, BackendReport
from tests.support.dynamodb_local import dynamodb_local

# A time limit for each example would fail on a busy machine, and say nothing of the code.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

_REPORT = pytest.StashKey[BackendReport]()

_LONGEST = (
    "tests/integration/test_processes.py",
    "tests/load/test_smoke.py",
    "tests/e2e/test_commands.py",
    "tests/e2e/test_operators.py",
    "tests/contract/test_state_machine.py",
)


def pytest_configure(config: pytest.Config) -> None:
    # A shell that starts the tests in its background has Ctrl-C ignored by every process below it. Some test Ctrl-C.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.stash[_REPORT] = BackendReport()
    config.pluginmanager.register(config.stash[_REPORT])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest come first: begun last, one would keep a worker when the others have nothing left."""
    items.sort(key=lambda item: item.nodeid.partition("::")[0] not in _LONGEST)


@pytest.fixture(scope="session", autouse=True)
def aws_credentials() -> Iterator[None]:
    """Credentials that no account accepts, so that a test which misses its emulator cannot reach AWS."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ACCESS_KEY_ID", "local")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "local")
        environment.setenv("AWS_EC2_METADATA_DISABLED", "true")
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
            environment.delenv(name, raising=False)
        yield


@pytest.fixture
def deaf_port() -> Iterator[int]:
    """A port of this machine on which nobody listens: it is kept, so that nobody else is given it meanwhile."""
    with socket.socket() as kept:
        kept.bind(("127.0.0.1", 0))
        yield kept.getsockname()[1]


@pytest.fixture(scope="session")
def ministack_url(request: pytest.FixtureRequest) -> Iterator[str]:
    with request.config.stash[_REPORT].run("ministack", Ministack) as url:
        yield url


@pytest.fixture(scope="session")
def dynamodb_local_url(request: pytest.FixtureRequest) -> Iterator[str]:
    with request.config.stash[_REPORT].run("dynamodb-local", dynamodb_local) as url:
        yield url


@pytest.fixture(scope="session", params=BACKENDS)
def backend_url(request: pytest.FixtureRequest) -> str:
    """The URL of each backend in turn; the test must hold on both."""
    return str(request.getfixturevalue(f"{request.param.replace('-', '_')}_url"))
