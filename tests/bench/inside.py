"""The CPU of a tools/call in process, from the ASGI request to the reply, without the HTTP client and server.

``python -m tests.bench.inside FOLDER ROUNDS CALLS`` prints µs of CPU per call for each path and era, a list of its rounds,
as JSON. It is a separate process with the same objects as ``restbridge serve``, and logs to stderr.
"""

import json
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Hashable, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import anyio
from mcp.server.streamable_http_manager import StreamableHTTPASGIApp, StreamableHTTPSessionManager
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.types import Message as Event

from bridge.app.runtime import Runtime, serve
from bridge.app.startup import StartupState
from bridge.events import ignore
from bridge.exchange import Reply, Request
from bridge.http.fast_path_middleware import FastPathMiddleware
from bridge.http.rejection_log import RejectionLog
from bridge.http.request_guard import LOCAL_HOSTS, RequestGuard
from bridge.http.server import PATH
from bridge.protocol.handlers import ToolServer
from bridge.resolved_upstream import Upstream
from bridge.secrets import Sources
from bridge.settings import Settings
from bridge.spec import Limits
from bridge.telemetry import log_output
from bridge.telemetry.log_events import log_event
from bridge.toolfiles.place import Directories
from bridge.upstream.client import Client
from tests.bench.messages import (
    ARGUMENTS,
    Message,
    initialize,
    message,
    modern,
    result,
    session_headers,
)
from tests.bench.subjects import bridge_files, is_correct_result
from tests.bench.table import row, title
from tests.bench.upstream import products

_CALL: Final = {"name": "list_products", "arguments": ARGUMENTS}


def main(url: str, folder: Path, *, quick: bool) -> None:
    tools = folder / "tools"
    tools.mkdir()
    bridge_files(tools, url)
    rounds, calls = (1, 200) if quick else (5, 2000)
    command = [sys.executable, "-m", "tests.bench.inside", str(tools), str(rounds), str(calls)]
    with (folder / "log").open("wb") as log:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=log, check=False)
    if done.returncode:
        raise RuntimeError((folder / "log").read_text()[-4000:])
    paths: dict[str, list[float]] = json.loads(done.stdout)
    title(f"tools/call in process, medians of {rounds} rounds of {calls} calls")
    row("", "CPU µs each", "compared with the SDK")
    for era in ("modern", "handshake"):
        fast, slow = paths[f"fast path, {era}"], paths[f"SDK, {era}"]
        ratio = statistics.median(a / b for a, b in zip(fast, slow, strict=True))
        row(f"fast path, {era}", f"{statistics.median(fast):.0f}", f"{ratio:.3f} x")
        row(f"SDK (--no-fast-path), {era}", f"{statistics.median(slow):.0f}", "")


class _StubClient(Client):
    """An upstream client that returns the reply of the upstream without a request."""

    def __init__(self) -> None:
        super().__init__()
        self._reply = Reply(200, {"content-type": "application/json"}, products(10))

    async def send(
        self,
        request: Request,  # noqa: ARG002 - Client's signature, here and below
        upstream: Upstream,  # noqa: ARG002
        *,
        repeatable: bool = False,  # noqa: ARG002
        tool: tuple[str, Limits] | None = None,  # noqa: ARG002
        subject: str | None = None,  # noqa: ARG002
        caller: Hashable = None,  # noqa: ARG002
        deadline: float,  # noqa: ARG002
    ) -> Reply:
        return self._reply


async def _fail(_scope: Scope, _receive: Receive, _send: Send) -> None:
    raise RuntimeError("a call did not take the fast path")


def _scope(headers: Mapping[str, str]) -> Scope:
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    return {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": PATH,
        "raw_path": PATH.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1:8000"), *raw],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8000),
    }


async def _post(app: ASGIApp, scope: Scope, body: bytes) -> list[Event]:
    """Sends a request to the app; returns the ASGI events of its reply."""
    events: list[Event] = [{"type": "http.request", "body": body, "more_body": False}]
    sent: list[Event] = []

    async def receive() -> Event:
        if not events:
            await anyio.sleep_forever()  # the client stays connected
        return events.pop()

    async def send(event: Event) -> None:
        sent.append(event)

    await app(dict(scope), receive, send)
    return sent


async def _session(app: ASGIApp) -> dict[str, str]:
    initialize_request = initialize()
    sent = await _post(app, _scope(initialize_request.headers), initialize_request.with_id(0))
    session_id = dict(sent[0]["headers"])[b"mcp-session-id"].decode()
    return session_headers(session_id)


async def _round(app: ASGIApp, call: Message, calls: int) -> float:
    """Makes the calls; returns µs of CPU per call."""
    scope = _scope(call.headers)
    bodies = [call.with_id(id) for id in range(calls)]
    started = time.process_time()
    for body in bodies:
        sent = await _post(app, scope, body)
    cpu_used = time.process_time() - started
    reply = b"".join(event.get("body", b"") for event in sent).decode()
    if not is_correct_result(result("the bridge", reply, calls - 1)):
        raise RuntimeError(f"the bridge returns a wrong result: {reply[:300]}")
    return cpu_used / calls * 1e6


async def _measure(rounds: int, calls: int, bridge: Runtime, _stop: anyio.Event) -> None:
    """A transport without a socket, with the same middleware as ``serve_http``. Each round has new sessions."""
    server = ToolServer(bridge.registry, _StubClient(), log_event)
    manager = StreamableHTTPSessionManager(server, stateless=True)
    guard = RequestGuard(StreamableHTTPASGIApp(manager), server, RejectionLog(ignore), LOCAL_HOSTS)
    sdk = Starlette(routes=[Route(PATH, guard)])
    cpu_per_call: dict[str, list[float]] = defaultdict(list)
    async with manager.run(), guard.handshake.run():
        for _ in range(rounds):
            for name, app in (("fast path", FastPathMiddleware(_fail, guard, server, PATH)), ("SDK", sdk)):
                cpu_per_call[f"{name}, modern"].append(await _round(app, modern("tools/call", _CALL), calls))
                call = message("tools/call", _CALL, await _session(sdk))
                cpu_per_call[f"{name}, handshake"].append(await _round(app, call, calls))
    json.dump(cpu_per_call, sys.stdout)


def _run(folder: str, rounds: str, calls: str) -> int:
    log_output.configure()
    transport = partial(_measure, int(rounds), int(calls))
    startup = StartupState.load(Settings(tools=(Path(folder),)), Directories((folder,)), Sources({}))
    assert startup  # not strict: loading cannot fail
    return anyio.run(
        serve, startup, transport, backend_options={"use_uvloop": find_spec("uvloop") is not None}
    )


if __name__ == "__main__":
    sys.exit(_run(*sys.argv[1:]))
