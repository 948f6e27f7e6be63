"""One run of a k6 script, and what it measured."""

import asyncio
import json
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reservation.catalog import DEMO_EVENT
from tests.support.edge import REPOSITORY

SCRIPTS = Path(__file__).parent / "scripts"
DESCRIPTORS = REPOSITORY / "envoy" / "descriptors.binpb"

_THRESHOLDS_MISSED = 99


@dataclass(frozen=True, slots=True)
class Doors:
    """Where customers come in: Envoy, and the processes behind it for native calls."""

    rest_url: str
    grpc_addresses: tuple[str, ...]


class RunFailed(Exception):
    """k6 could not run the script; the text is what it said."""


@dataclass(frozen=True, slots=True)
class Measured:
    """`metrics` as k6 hands them to its summary; `told`: what the script wrote about requests that failed."""

    metrics: dict[str, Any]
    told: list[str] = field(default_factory=list)

    def value(self, metric: str, name: str = "count") -> float:
        """0 where nothing was measured."""
        return float(self.metrics.get(metric, {}).get("values", {}).get(name, 0.0))

    @property
    def requests(self) -> int:
        return int(self.value("answered"))

    @property
    def failed(self) -> int:
        return int(self.value("failed", "passes"))

    @property
    def late(self) -> int:
        """Of those that failed: because time was up."""
        return int(self.value("late"))

    @property
    def refused(self) -> dict[str, int]:
        """By code."""
        prefix = "refused_"
        counts = {name.removeprefix(prefix): int(self.value(name)) for name in self.metrics if name.startswith(prefix)}
        return {code: count for code, count in counts.items() if count}

    @property
    def p95_of_operations(self) -> dict[str, float]:
        """In milliseconds."""
        prefix = "answered{operation:"
        found = {name.removeprefix(prefix)[:-1]: name for name in self.metrics if name.startswith(prefix)}
        return {each: round(self.value(name, "p(95)"), 1) for each, name in found.items() if self.value(name)}

    @property
    def missed(self) -> list[str]:
        """Thresholds, with what was reached."""
        return [
            f"{metric} {threshold}"
            for metric, measured in self.metrics.items()
            for threshold, reached in measured.get("thresholds", {}).items()
            if not reached["ok"]
        ]


def _binary() -> str:
    """Of this Python environment first."""
    search_path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return shutil.which("k6", path=search_path) or "k6"


async def run(script: str, doors: Doors, **variables: Any) -> Measured:
    """Raises RunFailed."""
    with tempfile.TemporaryDirectory() as scratch:
        summary = Path(scratch, "summary.json")
        given = {
            "EVENT": DEMO_EVENT.id,
            "REST_URL": doors.rest_url,
            "GRPC_ADDRESSES": ",".join(doors.grpc_addresses),
            "DESCRIPTORS": str(DESCRIPTORS),
            "SUMMARY": str(summary),
        }
        environment = os.environ | given | {name.upper(): str(value) for name, value in variables.items()}
        process = await asyncio.create_subprocess_exec(
            *(_binary(), "run", "--quiet", "--no-color", "--no-usage-report", "--log-format", "raw"),
            # No REST interface of k6: its port is fixed.
            *("--address", "", str(SCRIPTS / f"{script}.js")),
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            _, said = await process.communicate()
        except asyncio.CancelledError:
            process.kill()
            await process.wait()
            raise
        if process.returncode not in (0, _THRESHOLDS_MISSED):
            raise RunFailed(said.decode(errors="replace")[-2000:])
        return Measured(
            json.loads(await asyncio.to_thread(summary.read_text)), said.decode(errors="replace").splitlines()
        )
