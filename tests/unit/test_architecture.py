"""Which part may import which, and that importing any of them does nothing."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import reservation

PACKAGE = Path(reservation.__file__).parent

ARROWS = {
    # part: what it may import of ours, besides itself ("dynamodb.tables": that module and no other of dynamodb)
    "__main__": "cli",
    "cli": (
        "app background.loops local processes demo operators catalog settings edge ministack probe dynamodb eventbridge"
        " aws domain telemetry"
    ),
    "operators": "app audit clock dynamodb aws domain settings",
    "demo": "doors local app catalog dynamodb aws domain gen",
    "doors": "local app aws",
    "local": "app ministack processes edge catalog settings dynamodb eventbridge aws domain",
    "processes": "ministack probe",  # each is the command line again, not the app
    "catalog": "domain",
    "audit": "dynamodb aws domain",
    # The composition root knows everybody; nobody knows it but those who start a service.
    "app": (
        "api auth background service watches availability holds audience inventory dynamodb eventbridge aws telemetry"
        " ports domain clock settings edge edge_tls tls"
    ),
    # Inward: edges and loops -> use cases -> ports -> domain.
    "api": "auth tracecontext service watches availability holds ports domain gen edge",
    "background": (
        "service ports domain aws eventbridge clock dynamodb.tables dynamodb.leases dynamodb.outbox dynamodb.retirement"
    ),
    # Makes a document at build time, from what the api enforces and answers.
    "openapi": "api availability ports domain",
    "watches": "service audience ports domain",
    "service": "ports domain flights",
    "availability": "ports domain",
    "holds": "service ports domain flights",
    "ports": "domain",
    "auth": "domain",
    "domain": "",
    # Adapters: each knows its own wire and the domain, none knows another or the api.
    "dynamodb": "aws ports domain",
    "inventory": "aws ports domain gen",
    "eventbridge": "aws ports domain",
    "aws": "",
    "telemetry": "tracecontext",
    # Leaves.
    "flights": "domain",
    "audience": "domain",
    "clock": "aws.client",
    "tracecontext": "",
    "settings": "auth.urls",  # what an issuer may be called
    "edge": "edge_tls tls",
    "edge_tls": "tls",
    "tls": "",
    "ministack": "",
    "probe": "",  # a container's health check starts it every few seconds
    "gen": "",
    "__init__": "",
}

IMPURE = frozenset(
    {"asyncio", "io", "os", "pathlib", "random", "secrets", "socket", "ssl", "subprocess", "time", "uuid"}
)
"""What the domain may not import even of the standard library: time, chance and the outside come in as arguments."""


def modules(package: Path) -> dict[str, Path]:
    """Every module under `package`, by its dotted name from there ("api.call", "api.__init__")."""
    return {".".join(path.relative_to(package).with_suffix("").parts): path for path in sorted(package.rglob("*.py"))}


def imports(module: str, source: str) -> Iterator[str]:
    """What the module imports, as absolute dotted names: at its top, within functions and for type checkers alike."""
    here = ["reservation", *module.split(".")]
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import():
                yield from (each.name for each in node.names)
            case ast.ImportFrom():
                base = here[: -node.level] if node.level else []
                base = [*base, *(node.module.split(".") if node.module else [])]
                yield from (".".join([*base, each.name]) for each in node.names)


def own_imports(module: str, source: str) -> Iterator[str]:
    """Those within this package, from there; "" for the bare package, through which everything can be reached."""
    for name in imports(module, source):
        top, _, rest = name.partition(".")
        if top == "reservation":
            yield rest


def part_of(module: str) -> str:
    return module.partition(".")[0]


def may_import(part: str, imported: str) -> bool:
    allowed = [part, *ARROWS[part].split()]
    return any(imported == each or imported.startswith(f"{each}.") for each in allowed)


def wrong_arrows(part: str, sources: dict[str, str]) -> list[str]:
    """The forbidden imports of one part's modules (dotted name -> source text)."""
    found = ((module, imported) for module, text in sources.items() for imported in own_imports(module, text))
    return [f"{module} -> {imported}" for module, imported in found if not may_import(part, imported)]


MODULES = modules(PACKAGE)
SOURCES = {module: path.read_text() for module, path in MODULES.items()}


def test_every_part_has_its_row() -> None:
    assert sorted({part_of(module) for module in MODULES} - ARROWS.keys()) == []


@pytest.mark.parametrize("part", ARROWS)
def test_a_part_imports_only_what_its_row_allows(part: str) -> None:
    assert wrong_arrows(part, {name: text for name, text in SOURCES.items() if part_of(name) == part}) == []


def test_no_two_modules_import_each_other_even_through_others() -> None:
    graph = {
        module: {
            target for imported in own_imports(module, text) if (target := _module_of(imported)) not in ("", module)
        }
        for module, text in SOURCES.items()
    }
    TopologicalSorter(graph).prepare()


def _module_of(imported: str) -> str:
    """The module that a dotted name is in: "api.call.Call" is in "api.call"."""
    while imported and imported not in MODULES:
        imported = imported.rpartition(".")[0]
    return imported


def test_the_arrows_never_lead_from_the_api_to_the_store_or_back() -> None:
    assert reachable("api").isdisjoint({"dynamodb", "inventory", "eventbridge", "aws", "background", "app"})
    assert reachable("dynamodb").isdisjoint({"api", "service", "background", "inventory", "gen", "app"})


def reachable(part: str) -> set[str]:
    """Every part that `part` may import, directly or through others."""
    found: set[str] = set()
    ahead = [part]
    while ahead:
        found.add(here := ahead.pop())
        ahead += {part_of(each) for each in ARROWS[here].split()} - found
    return found


def test_only_who_speaks_the_protocol_knows_its_messages() -> None:
    assert {part for part, allowed in ARROWS.items() if "gen" in allowed.split()} == {"api", "inventory", "demo"}


def test_the_domain_is_made_of_the_pure_standard_library() -> None:
    tops = {
        name.partition(".")[0]
        for module, text in SOURCES.items()
        if part_of(module) == "domain"
        for name in imports(module, text)
    }
    assert tops <= {"reservation", *sys.stdlib_module_names}
    assert tops.isdisjoint(IMPURE)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("api.errors", "from reservation.dynamodb.items import Item"),
        ("api.errors", "import reservation.dynamodb"),
        ("api.errors", "import reservation"),
        ("api.errors", "from reservation import dynamodb"),
        ("api.errors", "from .. import dynamodb"),
        ("api.errors", "from ..dynamodb.items import Item"),
        ("api.errors", "def late():\n    from reservation.dynamodb import items"),
        (
            "api.errors",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from reservation.aws.client import Wire",
        ),
        ("dynamodb.items", "from reservation.api import convert"),
        ("dynamodb.items", "from reservation.gen import message_pool"),
        ("dynamodb.seats", "from reservation.service import Policy"),
        ("domain.model", "from reservation.ports import Recorded"),
        ("ports", "from reservation.service import Reservations"),
        ("service", "from reservation.dynamodb.reservations import DynamoReservations"),
        ("background.readiness", "from reservation.dynamodb.items import Item"),
        ("background.readiness", "from reservation.dynamodb import Tables, items"),
        ("clock", "from reservation.aws.lean import LeanWire"),
        ("settings", "from reservation.app import running"),
        ("__main__", "from reservation.app import running"),
    ],
)
def test_a_wrong_arrow_is_found_however_it_is_written(module: str, source: str) -> None:
    assert wrong_arrows(part_of(module), {module: source}) != []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (
            "api.errors",
            "from reservation.api.call import Call\nfrom . import call\nfrom reservation.service import Policy",
        ),
        (
            "background.readiness",
            "from reservation.dynamodb.tables import Tables\nfrom reservation.dynamodb import tables",
        ),
        ("clock", "from reservation.aws.client import ServerDate"),
        ("domain.model", "from dataclasses import replace\nimport reservationist"),
    ],
)
def test_a_right_arrow_is_no_offence(module: str, source: str) -> None:
    assert wrong_arrows(part_of(module), {module: source}) == []


IMPORT_EVERYTHING = """
import importlib, json, os, sys

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC
FORBIDDEN = ("socket.connect", "socket.sendto", "socket.getaddrinfo", "subprocess.Popen", "os.posix_spawn", "os.fork",
             "os.mkdir", "os.remove", "os.rename", "os.putenv", "os.unsetenv")
offences, importing = [], None

def watch(event, arguments):
    if importing is None:
        return
    if event in FORBIDDEN:
        offences.append(f"{importing}: {event} {arguments[-1]}")
    elif event == "open" and (set(arguments[1] or "r") & set("wax+") or (arguments[2] or 0) & WRITING):
        offences.append(f"{importing}: open for writing {arguments[0]}")
    else:
        return
    raise PermissionError(event)

sys.addaudithook(watch)
for importing in sys.argv[1:]:
    importlib.import_module(importing)
importing = None
print(json.dumps(offences))
"""


def _import_all(names: list[str], directory: Path) -> list[str]:
    """The names' offences in a process without an environment. Python itself writes no bytecode there."""
    command = [sys.executable, "-B", "-c", IMPORT_EVERYTHING, *names]
    done = subprocess.run(command, cwd=directory, env={}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout.splitlines()[-1]))


def test_importing_any_module_connects_to_nothing_and_writes_nothing_in_an_empty_environment() -> None:
    names = [f"reservation.{module}".removesuffix(".__init__") for module in MODULES]
    assert _import_all(names, PACKAGE.parent) == []


@pytest.mark.parametrize(
    "source",
    [
        "import socket\nsocket.create_connection(('127.0.0.1', 9))",
        "open('left_behind', 'w')",
        "import pathlib\npathlib.Path('left_behind').touch()",
        "import os\nos.mkdir('left_behind')",
        "import os\nos.environ['LEFT'] = 'behind'",
    ],
)
def test_a_module_that_does_something_when_imported_is_found(source: str, tmp_path: Path) -> None:
    """Even if it shrugs the failure off."""
    shrugged = "\n    ".join(["try:", *source.splitlines()])
    (tmp_path / "busy.py").write_text(f"{shrugged}\nexcept OSError:\n    pass\n")
    (offence,) = _import_all(["busy"], tmp_path)[:1]
    assert offence.startswith("busy: ")
    assert not (tmp_path / "left_behind").exists()
