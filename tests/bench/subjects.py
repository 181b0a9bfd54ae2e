"""The measured servers. Each serves the same tool: list_products of a shop."""

import json
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from tests import npm
from tests.bench.messages import (
    ARGUMENTS,
    READY,
    Era,
    Message,
    initialize,
    message,
    modern,
    result,
    session_headers,
)
from tests.bench.processes import free_port, running

HERE: Final = Path(__file__).parent
_SERVERS: Final = HERE / "servers"
_VENV: Final = HERE / ".venv"
_MODULES: Final = HERE / "node_modules"
TOOLBOX: Final = _MODULES / "@toolbox-sdk" / "server-linux-x64" / "bin" / "toolbox"

_UPSTREAM: Final = "baseUrl: {url}\nauth: {{type: none}}\n"
_TOOL: Final = """\
description: List products.
upstream: shop
inputSchema:
  type: object
  required: [category]
  properties:
    category: {{type: string, description: Category}}
    limit: {{type: integer, minimum: 1, maximum: 100000, default: 10, description: How many}}
request:
  method: GET
  url: {path}
  query: {{category: "{{category}}", limit: "{{limit}}"}}
response:
  jmespath: "{{products: {products}.{{id: id, name: name, price: price.amount, stock: stock}}, total: total}}"
  maxBytes: 2MB
maxBytes: 4MiB
"""
_SOURCE: Final = """\
sources:
  shop:
    kind: http
    baseUrl: {url}
    allowPrivateNetworks: true
    allowedIpRanges: [127.0.0.0/8]
"""
_TOOLBOX_TOOL: Final = """\
  {name}:
    kind: http
    source: shop
    method: GET
    path: {path}
    description: List products.
    queryParams:
      - {{name: category, type: string, description: Category}}
      - {{name: limit, type: integer, description: How many}}
"""
_TOOLBOX_QUIET: Final = ("--disable-version-check", "--log-level", "ERROR")


def tool_names(count: int) -> list[str]:
    """The first tool gets the small reply, the second the large one. Further tools are copies that are not called."""
    return ["list_products", "list_many", *(f"tool_{number:05}" for number in range(2, count))][:count]


def bridge_files(folder: Path, url: str, count: int = 1) -> None:
    (folder / "shop.upstream.yaml").write_text(_UPSTREAM.format(url=url))
    for name in tool_names(count):
        (folder / f"{name}.yaml").write_text(_TOOL.format(path=_path(name), products=_projected(name)))


def _path(name: str) -> str:
    return {"list_products": "/api/products", "list_many": "/api/large"}.get(name, f"/api/{name}")


def _projected(name: str) -> str:
    """The projected part: of the large reply a few kB, the products with the highest stock."""
    return "products[?stock >= `20850`]" if name == "list_many" else "products[]"


def _bridge(folder: Path, port: int | None, url: str, count: int) -> list[str]:
    bridge_files(folder, url, count)
    transport = [] if port is None else ["--http", str(port)]
    return [sys.executable, "-m", "bridge", "serve", str(folder), *transport]


def _toolbox(folder: Path, port: int | None, url: str, count: int) -> list[str]:
    file = folder / "tools.yaml"
    file.write_text(_SOURCE.format(url=url) + _toolbox_tools(*tool_names(count)))
    transport = ["--stdio"] if port is None else ["--port", str(port)]
    return [str(TOOLBOX), "--config", str(file), *transport, *_TOOLBOX_QUIET]


def _toolbox_folder(folder: Path, port: int | None, url: str, count: int) -> list[str]:
    (folder / "shop.yaml").write_text(_SOURCE.format(url=url))
    for name in tool_names(count):
        (folder / f"{name}.yaml").write_text(_toolbox_tools(name))
    return [str(TOOLBOX), "--config-folder", str(folder), "--port", str(port), *_TOOLBOX_QUIET]


def _toolbox_tools(*names: str) -> str:
    return "tools:\n" + "".join(_TOOLBOX_TOOL.format(name=name, path=_path(name)) for name in names)


def _server(interpreter: str, *arguments: str) -> Callable[[Path, int | None, str, int], list[str]]:
    def command(_folder: Path, port: int | None, url: str, count: int) -> list[str]:
        transport = "stdio" if port is None else str(port)
        return [
            interpreter,
            str(_SERVERS / arguments[0]),
            *arguments[1:],
            transport,
            url,
            *tool_names(count)[1:],
        ]

    return command


@dataclass(frozen=True, slots=True)
class Subject:
    """A server; ``command`` takes a folder for its files, a port (None: stdio), the upstream's URL and the number of tools."""

    name: str
    command: Callable[[Path, int | None, str, int], list[str]]
    eras: tuple[Era, ...] = ("handshake",)
    sessions: bool = False


BRIDGE: Final = Subject("restbridge", _bridge, ("modern", "handshake"), sessions=True)
PEER: Final = Subject("Toolbox (Go)", _toolbox)
FOLDER: Final = Subject("Toolbox (Go), a file for each tool", _toolbox_folder)
FLOOR: Final = Subject("floor", _server(sys.executable, "floor.py"))
SHARED: Final = Subject(
    "SDK, shared httpx", _server(sys.executable, "sdk.py", "shared"), ("modern", "handshake")
)
TUTORIAL: Final = Subject("tutorial server", _server(sys.executable, "sdk.py", "new"))
OPENAPI: Final = Subject("FastMCP", _server(str(_VENV / "bin" / "python"), "openapi.py"))
SUBJECTS: Final = (BRIDGE, PEER, FLOOR, SHARED, OPENAPI, TUTORIAL)


@dataclass(frozen=True, slots=True)
class Served:
    """A running server."""

    subject: Subject
    pid: int
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/mcp"

    def call(self, era: Era, tool: str = "list_products") -> Message:
        return self.request(era, "tools/call", {"name": tool, "arguments": ARGUMENTS})

    def list(self, era: Era) -> Message:
        return self.request(era, "tools/list", {})

    def request(self, era: Era, method: str, params: Mapping[str, Any]) -> Message:
        """A request; if the server has sessions, a new one is opened for it."""
        if era == "modern":
            return modern(method, params)
        return message(method, params, self._session() if self.subject.sessions else {})

    def ask(self, request: Message) -> Any:
        """The result of one request; raises ``RuntimeError`` for an error."""
        reply = self._post(request.headers, request.with_id(7))
        return result(self.subject.name, reply.text, 7)

    def _session(self) -> dict[str, str]:
        initialize_request = initialize()
        reply = self._post(initialize_request.headers, initialize_request.with_id(0))
        headers = session_headers(reply.headers["mcp-session-id"])
        self._post({**initialize_request.headers, **headers}, READY)
        return headers

    def _post(self, headers: Mapping[str, str], content: bytes) -> httpx.Response:
        reply = httpx.post(self.url, headers=dict(headers), content=content, timeout=30)
        return reply.raise_for_status()


@contextmanager
def served(subject: Subject, url: str, folder: Path, count: int = 1) -> Iterator[Served]:
    """Runs a server in front of the upstream ``url``, and checks its result."""
    folder.mkdir()
    port = free_port()
    command = subject.command(folder, port, url, count)
    log = folder.parent / f"{folder.name}.log"  # not in the folder, which some servers watch
    with running(command, port, {"PYTHONUNBUFFERED": "1"}, log) as process:
        server = Served(subject, process.pid, port)
        for era in subject.eras:
            answer = server.ask(server.call(era))
            if not is_correct_result(answer):
                raise RuntimeError(f"{subject.name} returns a wrong result: {json.dumps(answer)[:300]}")
        yield server


def is_correct_result(result: Any) -> bool:
    """Whether this is the correct result of list_products."""
    text = json.dumps(result)
    return not result.get("isError") and all(f"Product number {n}" in text for n in range(1, 11))


def install() -> None:
    """Installs Toolbox from npm and FastMCP from PyPI, unless they are installed."""
    npm.once(HERE / "package-lock.json", _MODULES, lambda: npm.ci(HERE))
    npm.once(HERE / "requirements.txt", _VENV, _install_python)


def _install_python() -> None:
    venv.create(_VENV, with_pip=True, clear=True)
    pip: list[str | Path] = [
        _VENV / "bin" / "python",
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
    ]
    subprocess.run([*pip, "--require-hashes", "--requirement", HERE / "requirements.txt"], check=True)
