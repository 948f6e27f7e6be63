"""Which alerts fire when, played by Prometheus's own promtool."""

import subprocess
from pathlib import Path

from tests.support.prometheus import FOLDER, RULES, require

STORIES = Path(__file__).with_name("alerts.yaml")


def test_the_alerts_of_a_story_fire_and_no_others() -> None:
    _passes("test", "rules", str(STORIES))


def test_promtool_finds_nothing_to_say_about_configuration_and_rules() -> None:
    _passes("check", "config", "--lint-fatal", str(FOLDER / "prometheus.yml"))
    _passes("check", "rules", "--lint-fatal", *map(str, RULES))


def _passes(*arguments: str) -> None:
    done = subprocess.run([require("promtool"), *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
