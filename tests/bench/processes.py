"""The programs that a benchmark measures or measures against, each in a process of its own."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]

_CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "y" * 40,
    "AWS_EC2_METADATA_DISABLED": "true",
}


@contextmanager
def printing_its_port(*arguments: str) -> Iterator[tuple[int, int]]:
    """`python -m ARGUMENTS`, which prints its port first; yields (pid, port)."""
    command = [sys.executable, "-m", *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.pid, int(process.stdout.readline())
        finally:
            process.terminate()
            process.communicate()


@contextmanager
def service(settings: dict[str, str]) -> Iterator[int]:
    """`reservation serve` as users run it, its log dropped; yields its pid. It may not answer yet."""
    command = [sys.executable, "-m", "reservation", "serve"]
    with subprocess.Popen(command, cwd=ROOT, env=os.environ | settings, stderr=subprocess.DEVNULL) as process:
        try:
            yield process.pid
        finally:
            process.terminate()


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def forget_real_credentials() -> None:
    """For this process and its children: sinks and emulators check no signature, and nothing here may reach AWS."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ.update(_CREDENTIALS)
