"""The ten minutes of chaos in small: all of it but how much there was to check, which is up to the machine."""

from pathlib import Path

import pytest

from tests.chaos.history import read
from tests.chaos.report import OPERATIONS, checked, shortfalls, wrong
from tests.chaos.run import run


@pytest.mark.timeout(300)
async def test_a_system_that_is_being_broken_keeps_its_promises(tmp_path: Path) -> None:
    history = tmp_path / "history.jsonl"
    happened, left = await run(10, 1, history, tmp_path, customers=40)
    assert wrong(happened, left, read(history)) == []
    assert shortfalls(happened).keys() <= {OPERATIONS}
    assert checked(happened) > 200
