"""Which emulators a test run used: the very last line of the run says so, and a silent gap fails the run."""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import pytest

from tests.support.dynamodb_local import BackendUnavailable, Server, missing_tools

BACKENDS = ("ministack", "dynamodb-local")

_TOLD = "backends"
_FIXTURES = {"ministack_url": "ministack", "dynamodb_local_url": "dynamodb-local"}


class BackendReport:
    """A pytest plugin that keeps account of the backends.

    A backend is requested when a collected test uses its fixture. One that was requested and did not run makes the exit
    status non-zero, unless this machine lacks Java or npm: there a skip is honest. Where several workers share the
    tests each tells the one process that reports what it knows.
    """

    def __init__(self) -> None:
        self._requested: set[str] = set()
        self._ran: set[str] = set()
        self._why_not: dict[str, str] = {}
        self._runs_tests = False

    @contextlib.contextmanager
    def run(self, name: str, backend: Callable[[], AbstractContextManager[Server]]) -> Iterator[str]:
        """The URL of a backend, stopped at the end; skips the test when this machine cannot have it."""
        self._requested.add(name)
        with ExitStack() as stack:
            try:
                url = stack.enter_context(backend()).url
            except BackendUnavailable as unavailable:
                self._why_not[name] = str(unavailable)
                pytest.skip(f"{name}: {unavailable}")
            except Exception as failure:
                self._why_not[name] = f"failed to start: {type(failure).__name__}"
                raise
            self._ran.add(name)
            yield url

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self._runs_tests = not session.config.getoption("collectonly")
        for item in session.items:
            self._requested |= _backends_of(item)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """A worker of pytest-xdist has ended."""
        requested, ran, why_not = getattr(node, "workeroutput", {}).get(_TOLD, ((), (), {}))
        self._runs_tests = True
        self._requested |= set(requested)
        self._ran |= set(ran)
        self._why_not |= why_not

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if (told := getattr(session.config, "workeroutput", None)) is not None:
            told[_TOLD] = (sorted(self._requested), sorted(self._ran), self._why_not)
            return
        absent = self._requested - self._ran
        if exitstatus == pytest.ExitCode.OK and absent and self._runs_tests and not missing_tools():
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_unconfigure(self, config: pytest.Config) -> Iterator[None]:
        """After all others, even if one of them raises; the closing summary came when the session finished."""
        try:
            yield
        finally:
            terminal = config.pluginmanager.get_plugin("terminalreporter")
            if terminal is not None and self._runs_tests:
                terminal.write_line("backends: " + ", ".join(self._state_of(name) for name in BACKENDS))

    def _state_of(self, name: str) -> str:
        if name in self._ran:
            return f"{name} ran"
        if name in self._requested:
            return f"DID NOT RUN: {name} ({self._why_not.get(name, 'none of its tests ran')})"
        return f"{name} not requested"


def _backends_of(item: pytest.Item) -> set[str]:
    fixtures: list[str] = getattr(item, "fixturenames", [])
    requested = {_FIXTURES[fixture] for fixture in fixtures if fixture in _FIXTURES}
    if isinstance(item, pytest.Function) and hasattr(item, "callspec"):
        requested |= {str(value) for name, value in item.callspec.params.items() if name == "backend_url"}
    return requested
