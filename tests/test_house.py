"""The map of the house, held: imports run down, and each library has its doors."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted(ROOT.glob("bridge/**/*.py"))
FLOORS = [
    {
        "address",
        "characters",
        "egress",
        "spec",
        "exchange",
        "diagnostics",
        "events",
        "errors",
        "codec",
        "redaction",
    },
    {"settingsfile", "importers", "secrets"},
    {"caller", "settings", "tool", "upstream"},
    {"registry", "invoke"},
    {"toolfiles", "access", "telemetry", "protocol", "stdio", "http", "app", "demo"},
    {"commands"},
    {"cli"},
    {"__main__"},
]
MOVING = {"access", "app", "commands", "http", "protocol", "stdio", "telemetry", "toolfiles"}
"""Folders that still import each other. Their floors follow when the definitions have moved."""
DOORS = {
    "ruamel": ["toolfiles/text/"],
    "watchfiles": ["toolfiles/reloader"],
    "jsonschema_rs": ["tool/schema/arguments"],
    "jmespath": ["tool/projection/"],
    "orjson": ["codec"],
    "httpx": ["upstream/", "access/jwks"],
    "aiohttp": ["upstream/", "access/jwks"],
    "yarl": ["upstream/"],
    "mcp": ["access/", "app/", "http/", "protocol/", "stdio/", "telemetry/"],
    "mcp_types": ["access/", "app/", "http/", "protocol/", "stdio/", "telemetry/"],
    "starlette": ["access/", "http/", "protocol/", "telemetry/", "demo/"],
    "uvicorn": ["access/", "app/", "http/"],
    "click": ["cli", "commands/", "app/", "telemetry/"],
    "jwt": ["access/jwt"],
    "prometheus_client": ["telemetry/metrics"],
    "opentelemetry": ["telemetry/tracing", "telemetry/exporter"],
}


_MODULES = {
    "pyjwt": "jwt",
    "opentelemetry-api": "opentelemetry",
}
"""Of libraries whose module has another name."""


def modules(path: Path) -> Iterator[tuple[str, bool]]:
    """Every module that a file imports, and whether it does so at the top of the file."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield name.name, node in tree.body
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            names = (
                [node.module or ""] if node.module != "bridge" else [f"bridge.{n.name}" for n in node.names]
            )
            for module in names:
                yield module, node in tree.body


def room(path: Path) -> str:
    return path.relative_to(ROOT / "bridge").with_suffix("").as_posix()


def floor(name: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS, 1) if name in rooms)


@pytest.mark.parametrize("path", FILES, ids=room)
def test_imports_run_down_and_stand_at_the_top_of_the_file(path: Path) -> None:
    here = room(path).split("/", maxsplit=1)[0]
    for module, at_top in modules(path):
        late = room(path) in ("cli", "commands/serve")  # what only one command needs, or not yet
        assert at_top or late, f"{module} is imported inside a function"
        there = module.removeprefix("bridge.").split(".")[0]
        if module.startswith("bridge.") and there not in (here, "__version__"):
            assert floor(there) < floor(here) or {here, there} <= MOVING, f"{module} is no room below {here}"


@pytest.mark.parametrize("path", FILES, ids=room)
def test_a_library_is_imported_only_through_its_door(path: Path) -> None:
    for module, _ in modules(path):
        doors = DOORS.get(module.split(".")[0])
        assert doors is None or room(path).startswith(tuple(doors)), f"{module} has its door in {doors}"


def test_what_is_imported_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for group in project["optional-dependencies"].values() for line in group]
    written = {re.split(r"[^A-Za-z0-9._-]", line)[0] for line in [*project["dependencies"], *extras]}
    declared = {_MODULES.get(name, name.split(".")[0].replace("-", "_")) for name in written}
    imported = {module.split(".")[0] for path in FILES for module, _ in modules(path)}
    assert imported - set(sys.stdlib_module_names) - {"bridge"} <= declared
