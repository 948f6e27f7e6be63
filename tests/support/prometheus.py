"""A real Prometheus that reads services by what deploy/prometheus says, and what queries want to find in it."""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import promql_parser
import pytest
import yaml

from reservation.ministack import ServerProcess, free_port
from tests.support.edge import REPOSITORY

FOLDER = REPOSITORY / "deploy" / "prometheus"
RULES = sorted((FOLDER / "rules").glob("*.yaml"))


def require(command: str) -> str:
    """The path of a program of Prometheus. A machine without it skips the test, but for one that says CI."""
    found = shutil.which(command)
    if found is None:
        reason = f"{command} is not installed (Debian: apt-get install prometheus)"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def rules(kind: str) -> list[dict[str, Any]]:
    """Every rule that is an "alert", or every "record"."""
    groups = [group for path in RULES for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]]
    return [rule for group in groups for rule in group["rules"] if kind in rule]


class Prometheus:
    """Its HTTP API (https://prometheus.io/docs/prometheus/latest/querying/api/)."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def ask(self, path: str, **parameters: str) -> Any:
        """What the answer's `data` is; fails the test with Prometheus's own words."""
        answer = (await self._http.get(f"/api/v1/{path}", params=parameters)).json()
        assert answer["status"] == "success", f"{parameters}: {answer['error']}"
        return answer["data"]

    async def query(self, expression: str) -> list[dict[str, Any]]:
        """The series that it comes to, each with its labels (`metric`) and `value`."""
        series: list[dict[str, Any]] = (await self.ask("query", query=expression))["result"]
        return series

    async def missing(self, expression: str) -> list[str]:
        """The selectors of a query that find no series, and the labels it groups by that no series has."""
        selectors, labels = _parts(expression)
        known = set(await self.ask("labels"))
        unseen = [selector for selector in sorted(selectors) if not await self.query(selector)]
        return unseen + sorted(labels - known)


def _parts(expression: str) -> tuple[set[str], set[str]]:
    selectors: set[str] = set()
    labels: set[str] = set()

    def look(part: Any) -> None:
        if isinstance(part, promql_parser.VectorSelector):
            part.offset = None  # the service has not run for so long
            selectors.add(str(part))
        elif isinstance(part, promql_parser.AggregateExpr) and part.modifier is not None:
            labels.update(part.modifier.labels)

    promql_parser.walk(promql_parser.parse(expression), look)
    return selectors, labels


@contextmanager
def prometheus(jobs: Mapping[str, Mapping[str, Any]], folder: Path) -> Iterator[str]:
    """The URL of one that reads every second. `jobs`: what is different of each from the job in prometheus.yml."""
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text(encoding="utf-8"))
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(FOLDER / path) for path in config["rule_files"]]
    own = config["scrape_configs"][0]
    config["scrape_configs"] = [own | job | {"job_name": name} for name, job in jobs.items()]
    file, port = folder / "prometheus.yml", free_port("127.0.0.1")
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    command = [require("prometheus"), f"--config.file={file}", f"--storage.tsdb.path={folder / 'data'}"]
    command += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]
    with ServerProcess(command, host="127.0.0.1", port=port, ready_path="/-/ready") as server:
        yield server.url
