"""Log lines go out whole and in order, and nobody waits for their reader."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from reservation.telemetry.lines import LineWriter


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    try:
        yield reading, writing
    finally:
        os.close(writing)
        os.close(reading)


def lost(number: int) -> bytes:
    return b"lost %d\n" % number


def read_all(descriptor: int) -> bytes:
    """Up to the end, which comes when nobody can write any more."""
    text = b""
    while part := os.read(descriptor, 65536):
        text += part
    return text


def test_close_returns_when_every_line_is_out_in_order(pipe: tuple[int, int]) -> None:
    reading, writing = pipe
    lines = LineWriter(writing, lost)
    written = [b"%d\n" % number for number in range(1000)]
    for line in written:
        lines.write(line)
    lines.close()
    assert os.read(reading, 65536) == b"".join(written)


def test_a_pipe_that_nobody_empties_costs_lines_and_no_time_and_the_loss_is_told() -> None:
    """That write() returns at all is the claim: the pipe is full, and its reader comes later."""
    reading, writing = os.pipe()
    full = fill(writing)
    lines = LineWriter(writing, lost, limit=1000)
    for _ in range(100):
        lines.write(b"y" * 99 + b"\n")
    with ThreadPoolExecutor(1) as reader:
        text = reader.submit(read_all, reading)
        lines.close()
        os.close(writing)
    os.close(reading)
    told = text.result()[full:].splitlines()
    losses = [int(line.split()[1]) for line in told if line.startswith(b"lost")]
    assert sum(losses) > 0
    assert len(told) - len(losses) + sum(losses) == 100


def fill(writing: int) -> int:
    """How many bytes a pipe takes."""
    os.set_blocking(writing, False)
    full = 0
    try:
        while True:
            full += os.write(writing, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(writing, True)
    return full


def test_a_reader_that_has_gone_stops_nobody() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    lines = LineWriter(writing, lost)
    lines.write(b"to nobody\n")
    lines.close()
    os.close(writing)
