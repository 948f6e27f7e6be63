"""The runbook and the alerts name each other."""

import re
from typing import Any

import pytest
import yaml

from tests.support.edge import REPOSITORY
from tests.support.prometheus import rules

RUNBOOK = (REPOSITORY / "deploy" / "README.md").read_text(encoding="utf-8")
ON_CALL = RUNBOOK.partition("\n## On call\n")[2].partition("\n## ")[0]
DEPLOYMENT = yaml.safe_load((REPOSITORY / "deploy" / "k8s" / "base" / "deployment.yaml").read_text(encoding="utf-8"))

by_name = pytest.mark.parametrize("alert", rules("alert"), ids=lambda alert: alert["alert"])


def test_every_alert_has_its_section_and_every_section_its_alert() -> None:
    sections = re.findall(r"^### (\w+)$", ON_CALL, re.MULTILINE)
    assert sorted(sections) == sorted(alert["alert"] for alert in rules("alert"))


@by_name
def test_an_alert_says_how_urgent_it_is_what_is_wrong_and_where_to_read_on(alert: dict[str, Any]) -> None:
    assert alert["labels"] in ({"severity": "page"}, {"severity": "ticket"})
    assert alert["annotations"].keys() == {"summary", "description", "runbook_url"}
    assert alert["annotations"]["runbook_url"] == f"deploy/README.md#{alert['alert'].lower()}"


def test_the_alert_about_memory_knows_the_limit_of_the_container() -> None:
    (alert,) = (alert for alert in rules("alert") if alert["alert"] == "MemoryNearLimit")
    (container,) = DEPLOYMENT["spec"]["template"]["spec"]["containers"]
    mebibytes = container["resources"]["limits"]["memory"].removesuffix("Mi")
    assert f"> 0.9 * {mebibytes} * 1024 * 1024" in alert["expr"]
