"""The emulators start, stop and die with us, and a test run cannot hide that one of them did not run."""

import http.client
import json
import os
import socket
import subprocess
import sys
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from reservation.ministack import Ministack, ServerProcess, ServerStartError, free_port, free_ports, running

pytest_plugins = "pytester"

_ROOT = Path(__file__).parents[2]
_AUTHORIZATION = "AWS4-HMAC-SHA256 Credential=local/20250101/us-east-1/dynamodb/aws4_request, Signature=0"


def call(url: str, operation: str, **params: Any) -> dict[str, Any]:
    """One DynamoDB request; raises ConnectionRefusedError when nobody listens."""
    address = urlsplit(url)
    headers = {
        "X-Amz-Target": f"DynamoDB_20120810.{operation}",
        "Content-Type": "application/x-amz-json-1.0",
        "Authorization": f"{_AUTHORIZATION}, SignedHeaders=host",
    }
    with closing(http.client.HTTPConnection(str(address.hostname), address.port, timeout=10)) as connection:
        connection.request("POST", "/", json.dumps(params), headers)
        reply = connection.getresponse()
        assert reply.status == 200
        return dict(json.loads(reply.read()))


def answers(url: str) -> bool:
    try:
        call(url, "ListTables")
    except (OSError, http.client.HTTPException):
        return False
    return True


def create_table(url: str, name: str) -> None:
    call(
        url,
        "CreateTable",
        TableName=name,
        BillingMode="PAY_PER_REQUEST",
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "pk", "AttributeType": "S"}],
    )


def test_every_backend_answers(backend_url: str) -> None:
    assert "TableNames" in call(backend_url, "ListTables")


async def test_a_state_directory_brings_the_tables_back(tmp_path: Path) -> None:
    async with running(state_dir=tmp_path) as emulator:
        create_table(emulator.url, "kept")
    async with running(state_dir=tmp_path) as emulator:
        assert call(emulator.url, "ListTables") == {"TableNames": ["kept"]}
    assert (tmp_path / "ministack.log").exists()


def test_without_a_state_directory_every_start_is_empty_and_stop_ends_it() -> None:
    with Ministack() as emulator:
        create_table(emulator.url, "gone")
    with pytest.raises(ConnectionRefusedError):
        call(emulator.url, "ListTables")
    with Ministack(port=int(urlsplit(emulator.url).port or 0)) as emulator:
        assert call(emulator.url, "ListTables") == {"TableNames": []}


def test_a_taken_port_is_an_error_that_names_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(ServerStartError, match=rf"127\.0\.0\.1:{port} cannot be used"):
            Ministack(port=port)


def test_free_ports_are_different_ones_that_nobody_is_given_meanwhile() -> None:
    ports = free_ports("127.0.0.1", 20)
    with ExitStack() as listeners, socket.create_server(("127.0.0.1", 0)) as given:
        for port in ports:
            listeners.enter_context(socket.create_server(("127.0.0.1", port)))
        assert max(ports) < given.getsockname()[1]


def test_a_server_that_ends_at_its_start_shows_the_end_of_its_output() -> None:
    command = ["/bin/sh", "-c", "echo no such module; exit 3"]
    server = ServerProcess(command, host="127.0.0.1", port=free_port("127.0.0.1"), ready_path="/")
    with pytest.raises(ServerStartError, match="no such module"), server:
        pass


def test_without_its_package_the_emulator_says_how_to_install_it() -> None:
    """`-S` hides the installed packages from a Python process."""
    program = "from reservation.ministack import Ministack; Ministack()"
    ended = subprocess.run(
        [sys.executable, "-S", "-c", program], cwd=_ROOT, env={"PYTHONPATH": str(_ROOT)}, capture_output=True, text=True
    )
    assert ended.stderr.strip().endswith("pip install traffic-tacos-reservation[local]")


def test_the_emulator_ends_when_its_parent_is_killed() -> None:
    program = "from reservation.ministack import *; e = Ministack(); e.start(); e.wait_ready(); print(e.url); input()"
    with subprocess.Popen(
        [sys.executable, "-uc", program], cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        url = parent.stdout.readline().strip()
        call(url, "ListTables")
        parent.kill()
        while answers(url):
            pass


class TestTheLastLineOfARun:
    """Runs pytest on small test files with this project's own conftest."""

    @pytest.fixture(autouse=True)
    def project(self, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
        pytester.makeini("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
        monkeypatch.setenv("PYTHONPATH", f"{_ROOT}:{os.environ.get('PYTHONPATH', '')}")
        monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent")

    @pytest.fixture
    def tools(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A PATH with a Java and an npm that both fail."""
        for name in ("java", "npm"):
            (tmp_path / name).write_text("#!/bin/sh\nexit 3\n")
            (tmp_path / name).chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        return tmp_path

    def run(self, pytester: pytest.Pytester, *options: str) -> tuple[int, str, str]:
        """Exit status, pytest's own closing line, and the line after it, which is the last."""
        result = pytester.runpytest_subprocess("-p", "tests.conftest", *options)
        closing_line, last_line = result.outlines[-2:]
        return int(result.ret), closing_line, last_line

    def test_names_what_ran_and_what_nobody_asked_for(self, pytester: pytest.Pytester) -> None:
        pytester.makepyfile("def test_it(ministack_url): assert ministack_url")
        status, closing_line, last_line = self.run(pytester)
        assert last_line == "backends: ministack ran, dynamodb-local not requested"
        assert "1 passed" in closing_line
        assert status == 0

    def test_names_a_backend_that_this_machine_cannot_run(self, pytester: pytest.Pytester, tools: Path) -> None:
        (tools / "java").unlink()
        pytester.makepyfile("def test_it(backend_url): assert backend_url")
        status, closing_line, last_line = self.run(pytester)
        assert last_line == "backends: ministack ran, DID NOT RUN: dynamodb-local (no Docker engine and no Java)"
        assert "1 passed, 1 skipped" in closing_line
        assert status == 0

    @pytest.mark.usefixtures("tools")
    def test_a_skipped_backend_fails_the_run_where_java_and_npm_are_present(self, pytester: pytest.Pytester) -> None:
        pytester.makepyfile(
            """
            import pytest
            @pytest.mark.skip
            def test_skipped(dynamodb_local_url): ...
            def test_passed(): ...
            """
        )
        status, closing_line, last_line = self.run(pytester)
        assert last_line.endswith("DID NOT RUN: dynamodb-local (none of its tests ran)")
        assert "1 passed, 1 skipped" in closing_line
        assert status == pytest.ExitCode.TESTS_FAILED

    @pytest.mark.usefixtures("tools")
    def test_a_broken_java_is_an_error_and_not_a_skip(self, pytester: pytest.Pytester) -> None:
        pytester.makepyfile("def test_it(dynamodb_local_url): ...")
        status, closing_line, last_line = self.run(pytester)
        assert "DID NOT RUN: dynamodb-local (failed to start: " in last_line
        assert "1 error" in closing_line
        assert status == pytest.ExitCode.TESTS_FAILED

    @pytest.mark.usefixtures("tools")
    def test_deselected_tests_request_nothing(self, pytester: pytest.Pytester) -> None:
        pytester.makepyfile("def test_one(dynamodb_local_url): ...\ndef test_two(): ...")
        status, _, last_line = self.run(pytester, "-k", "two")
        assert last_line == "backends: ministack not requested, dynamodb-local not requested"
        assert status == 0
