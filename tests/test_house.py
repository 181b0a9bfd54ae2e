"""The map of the house, held: imports run down, and each library has its doors."""

import ast
import inspect
import re
import sys
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from textwrap import dedent

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = (ROOT / ".ci/requirements.txt").read_text()
FILES = sorted(ROOT.glob("bridge/**/*.py"))
FLOORS = [
    {"pieces", "clock", "escapes"},
    {
        "address",
        "characters",
        "codec",
        "diagnostics",
        "egress",
        "errors",
        "events",
        "exchange",
        "redaction",
        "spec",
        "wording",
    },
    {"view", "resolved_upstream"},
    {"caller", "settings", "secrets"},
    {"tool", "upstream"},
    {"registry", "invoke", "access", "telemetry"},
    {"protocol", "toolfiles"},
    {"http", "stdio", "demo"},
    {"app"},
    {"commands"},
    {"cli"},
    {"__main__"},
]
WINGS = {
    "tool": [
        {"quoting"},
        {"schema", "projection"},
        {"request"},
        {"result"},
        {"compiler"},
        {"prepare", "evaluate"},
    ],
    "toolfiles": [
        {"text", "place"},
        {"check"},
        {"watch"},
        {"names", "settings_file"},
        {"loaded"},
        {"resolution"},
        {"loader"},
        {"directory"},
        {"reloader"},
    ],
    "upstream": [
        {"http", "auth"},
        {"request_head"},
        {"call"},
        {"circuit", "deadline", "oauth", "slots", "routes", "retry", "watch"},
        {"client"},
    ],
}
DOORS = {
    "ruamel": ["toolfiles/text/document"],
    "yaml": ["toolfiles/text/"],
    "watchfiles": ["toolfiles/reloader"],
    "jsonschema_rs": ["tool/schema/arguments"],
    "jmespath": ["tool/projection/"],
    "orjson": ["codec"],
    "httpx": ["upstream/"],
    "aiohappyeyeballs": ["upstream/http/connecting"],
    "httptools": ["upstream/http/reply_reader", "http/connection"],
    "mcp": ["protocol/", "http/", "stdio/transport", "telemetry/tracing"],
    "mcp_types": ["protocol/", "http/", "stdio/transport", "telemetry/tracing"],
    "starlette": ["http/", "demo/", "protocol/"],
    "uvicorn": ["http/server", "http/connection", "demo/"],
    "click": ["cli", "commands/"],
    "jwt": ["access/jwt"],
    "cryptography": ["http/tls"],
    "prometheus_client": ["telemetry/metrics"],
    "opentelemetry": ["telemetry/tracing", "telemetry/exporter"],
}


DOCUMENTED = {
    "anyio": {"abc", "lowlevel", "streams.memory", "to_thread"},
    "cryptography": {"exceptions", "x509"},
    "jmespath": {"exceptions", "functions"},
    "mcp": {
        "server.caching",
        "server.connection",
        "server.context",
        "server.lowlevel",
        "server.models",
        "server.session",
        "server.streamable_http_manager",
        "server.subscriptions",
        "server.transport_security",
        "shared.exceptions",
        "shared.inbound",
        "shared.message",
    },
    "mcp_types": {"methods", "version"},
    "opentelemetry": {
        "exporter.otlp.proto.http.trace_exporter",
        "sdk.environment_variables",
        "sdk.resources",
        "sdk.trace",
        "sdk.trace.export",
        "trace",
        "trace.propagation.tracecontext",
    },
    "prometheus_client": {"exposition", "multiprocess"},
    "pydantic": {"alias_generators", "fields"},
    "ruamel": {"yaml"},
    "starlette": {
        "applications",
        "datastructures",
        "exceptions",
        "middleware",
        "requests",
        "responses",
        "routing",
        "types",
    },
}
"""The submodules in use that the documentation of their library names."""
INTERNALS = {
    "http/connection": (
        "uvicorn",
        {"uvicorn.protocols.http.flow_control", "uvicorn.protocols.http.httptools_impl"},
    ),
    "http/handshake": (
        "mcp",
        {
            "mcp.server.runner",
            "mcp.server.streamable_http",
            "mcp.shared.dispatcher",
            "mcp.shared.jsonrpc_dispatcher",
            "mcp.shared.transport_context",
        },
    ),
    "tool/projection/projection": ("jmespath", {"jmespath.lexer"}),
    "toolfiles/text/document": ("ruamel.yaml", {"ruamel.yaml.error"}),
}
"""Private names of a library and modules that its documentation does not name, by the file that says why it uses them."""
_PUBLIC = {"_abc_impl", "_asdict", "_Decompress", "_exit", "_replace", "_srcfile"}
"""Of the standard library: what ``abc`` adds, what is documented, and a type that has a name only in its stubs."""

_MODULES = {
    "pyjwt": "jwt",
    "pyyaml": "yaml",
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
            for name in node.names:
                module = f"{node.module}.{name.name}"
                is_file = (ROOT / module.replace(".", "/")).with_suffix(".py").exists()
                yield module if is_file else str(node.module), node in tree.body


def room(path: Path) -> str:
    return path.relative_to(ROOT / "bridge").with_suffix("").as_posix()


def floor(name: str, floors: list[set[str]]) -> int:
    found = next((number for number, rooms in enumerate(floors, 1) if name in rooms), None)
    assert found, f"{name} has no floor: add it to FLOORS, or to WINGS for a part of a room"
    return found


def imported(path: Path) -> Iterator[str]:
    """The files of the package that a file imports, as ``room`` names them."""
    for module, _ in modules(path):
        there = module.removeprefix("bridge.").replace(".", "/")
        if module.startswith("bridge.") and there != "__version__":
            yield there if there in ROOMS else f"{there}/__init__"


ROOMS = {room(path) for path in FILES}
IMPORTS = {room(path): set(imported(path)) for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=room)
def test_imports_run_down_and_stand_at_the_top_of_the_file(path: Path) -> None:
    here, *inner = room(path).split("/")
    for module, at_top in modules(path):
        late = room(path) in ("cli", "commands/serve", "toolfiles/text/document")  # needed rarely, or not yet
        assert at_top or late, f"{module} is imported inside a function"
    for name in IMPORTS[room(path)]:
        there, *below = name.split("/")
        if there != here:
            assert floor(there, FLOORS) < floor(here, FLOORS), f"{name} is no room below {here}"
        elif here in WINGS and below[0] != inner[0]:
            wings = WINGS[here]
            assert floor(below[0], wings) < floor(inner[0], wings), f"{name} is no wing below {room(path)}"


def test_the_map_for_contributors_has_every_room_on_its_floor() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    rows = re.findall(r"^\| (\d+) \| ([^|]+) \|", text, re.MULTILINE)
    drawn = {name.strip("`/"): int(number) for number, names in rows for name in names.split(", ")}
    assert drawn == {name: number for number, names in enumerate(FLOORS, 1) for name in names}


def test_no_imports_form_a_circle() -> None:
    left = dict(IMPORTS)
    while ends := {name for name, names in left.items() if not names & left.keys()}:
        left = {name: names for name, names in left.items() if name not in ends}
    assert left == {}


@pytest.mark.parametrize("path", FILES, ids=room)
def test_a_library_is_imported_only_through_its_door(path: Path) -> None:
    for module, _ in modules(path):
        doors = DOORS.get(module.split(".")[0])
        assert doors is None or room(path).startswith(tuple(doors)), f"{module} has its door in {doors}"


def undocumented_modules(path: Path) -> Iterator[str]:
    for module, _ in modules(path):
        library, _, submodule = module.partition(".")
        known = library == "bridge" or library in sys.stdlib_module_names
        if not (known or not submodule or submodule in DOCUMENTED.get(library, ())):
            yield module


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


def foreign_private_names(path: Path) -> Iterator[str]:
    """Private attributes that the file uses and nothing in it defines."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    used = {node.attr for node in nodes if isinstance(node, ast.Attribute) and is_private(node.attr)}
    for node in nodes:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                used.discard(name)
            case ast.Name(id=name, ctx=ast.Store()):
                used.discard(name)
            case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name, ctx=ast.Store()):
                used.discard(name)
    return iter(used - _PUBLIC)


def overridden_private_names(path: Path) -> Iterator[str]:
    """Private names that a class of the file shares with a class of a library that it extends."""
    module = import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    for extended in vars(module).values():
        if isinstance(extended, type) and extended.__module__ == module.__name__:
            for base in extended.__mro__:
                library = base.__module__.partition(".")[0]
                if library != "bridge" and library not in sys.stdlib_module_names:
                    yield from private_names(extended) & private_names(base)


@cache
def private_names(of: type) -> set[str]:
    """The private methods and attributes of instances; jmespath documents ``_func_*``."""
    tree = ast.parse("")
    with suppress(OSError, TypeError):  # there is no source in Python
        tree = ast.parse(dedent(inspect.getsource(of)))
    attributes = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
    }
    names = {name for name in attributes | set(vars(of)) if is_private(name)} - _PUBLIC
    return {name for name in names if not name.startswith("_func_")}


@pytest.mark.parametrize("path", FILES, ids=room)
def test_internals_of_a_library_are_used_only_where_there_is_a_reason(path: Path) -> None:
    found = {*undocumented_modules(path), *foreign_private_names(path)}
    if path.name != "__main__.py":
        found.update(overridden_private_names(path))
    _, expected = INTERNALS.get(room(path), ("", set()))
    assert found == expected


@pytest.mark.parametrize("library", sorted({library for library, _ in INTERNALS.values()}))
def test_the_next_minor_version_of_a_library_whose_internals_are_used_is_excluded(library: str) -> None:
    locked = re.search(rf"^{library}==(\d+)\.(\d+)\.", LOCK, re.MULTILINE)
    assert locked
    ceiling = f"<{locked[1]}.{int(locked[2]) + 1}"
    assert [line for line in PROJECT["dependencies"] if re.match(rf"{library}>=[\d.]+,{ceiling}$", line)]


def test_what_is_imported_is_declared() -> None:
    extras = [line for group in PROJECT["optional-dependencies"].values() for line in group]
    written = {re.split(r"[^A-Za-z0-9._-]", line)[0] for line in [*PROJECT["dependencies"], *extras]}
    declared = {_MODULES.get(name, name.split(".")[0].replace("-", "_")) for name in written}
    imported = {module.split(".")[0] for path in FILES for module, _ in modules(path)}
    assert imported - set(sys.stdlib_module_names) - {"bridge"} <= declared
