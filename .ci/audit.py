"""Fails on a known vulnerability in what the container image ships (deploy/image/requirements.txt).

It passes when no advisory database answers, and says so: then nothing is known, good or bad. Arguments go to pip-audit.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

PINS = Path(__file__).parents[1] / "deploy" / "image" / "requirements.txt"
DATABASES = ("pypi", "osv")


def pip_audit(*arguments: str) -> subprocess.CompletedProcess[str]:
    pinned = ["--requirement", str(PINS), "--require-hashes", "--disable-pip"]
    command = [sys.executable, "-m", "pip_audit", *pinned, "--progress-spinner", "off", *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603


def advice(database: str) -> tuple[list[dict[str, Any]], str]:
    """The packages that this database knows, each with its `vulns`; and what it did not answer, if anything."""
    done = pip_audit("--format", "json", "--vulnerability-service", database, *sys.argv[1:])
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except ValueError:
        return [], (done.stderr.strip().splitlines() or ["no output"])[-1]
    known = [package for package in packages if "vulns" in package]
    unknown = [package["name"] for package in packages if "vulns" not in package]
    return known, f"knows nothing of {', '.join(unknown) if known else 'any package'}" if unknown else ""


def say(text: str) -> None:
    sys.stdout.write(f"audit: {text}\n")


def main() -> None:
    # Asks nobody, so what fails here is ours: bad pins, or no pip-audit.
    if (pins := pip_audit("--dry-run")).returncode:
        sys.exit(pins.stderr)
    for database in DATABASES:
        known, unanswered = advice(database)
        if unanswered:
            say(f"{database}: {unanswered}")
        if known:
            found = [f"{each['name']} {each['version']}: {vuln['id']}" for each in known for vuln in each["vulns"]]
            say(f"{database}: {len(found)} known vulnerabilities in {len(known)} packages")
            sys.exit("\n".join(found) or 0)
    say("NOT DONE, because no advisory database answers here")


if __name__ == "__main__":
    main()
