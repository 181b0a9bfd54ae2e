"""What a tools/call costs in process, from an ASGI request to its reply: HTTP client and server are left out.

``python -m tests.bench.inside FOLDER ROUNDS CALLS`` prints µs of CPU per call for each lane, a list of its rounds,
as JSON: a process of its own, wired as ``restbridge serve`` wires it, that logs to stderr.
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
from anyio.lowlevel import checkpoint
from mcp.server.streamable_http_manager import StreamableHTTPASGIApp, StreamableHTTPSessionManager
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.types import Message as Event

from bridge.app.runtime import Bridge, serve
from bridge.caller import ANYBODY
from bridge.commands.serve import Beginning
from bridge.exchange import Reply, Request
from bridge.http.fast_path_middleware import Express
from bridge.http.request_guard import LOCAL_NAMES, Gate
from bridge.http.server import PATH
from bridge.protocol.handlers import ToolServer
from bridge.protocol.notifications import Announcer
from bridge.secrets import Sources, Upstream
from bridge.settings import Settings
from bridge.spec import Limits
from bridge.telemetry import log_events as report
from bridge.telemetry import log_output as logs
from bridge.toolfiles.watch.scan import Directories
from bridge.upstream.client import Client
from tests.bench.messages import ARGUMENTS, READY, Message, initialize, message, modern, of_session, result
from tests.bench.subjects import bridge_files, is_right
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
    lanes: dict[str, list[float]] = json.loads(done.stdout)
    title(f"tools/call in process, medians of {rounds} rounds of {calls} calls")
    row("", "CPU µs each", "beside the SDK")
    for era in ("modern", "handshake"):
        fast, slow = lanes[f"express, {era}"], lanes[f"SDK, {era}"]
        ratio = statistics.median(a / b for a, b in zip(fast, slow, strict=True))
        row(f"express lane, {era}", f"{statistics.median(fast):.0f}", f"{ratio:.3f} x")
        row(f"SDK (--no-express), {era}", f"{statistics.median(slow):.0f}", "")


class _Ready(Client):
    """Answers at once what the upstream would."""

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


async def _nobody(_scope: Scope, _receive: Receive, _send: Send) -> None:
    raise RuntimeError("a plain call went past the express lane")


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
    """What the app sends."""
    events: list[Event] = [{"type": "http.request", "body": body, "more_body": False}]
    sent: list[Event] = []

    async def receive() -> Event:
        if not events:
            await anyio.sleep_forever()  # the client stays
        return events.pop()

    async def send(event: Event) -> None:
        sent.append(event)

    await app(dict(scope), receive, send)
    return sent


async def _session(app: ASGIApp, announcer: Announcer) -> dict[str, str]:
    opening = initialize()
    sent = await _post(app, _scope(opening.headers), opening.with_id(0))
    session_id = dict(sent[0]["headers"])[b"mcp-session-id"].decode()
    session = of_session(session_id)
    await _post(app, _scope({**opening.headers, **session}), READY)
    with anyio.fail_after(5):
        while announcer.session(session_id, ANYBODY) is None:  # the SDK answers before it has told anyone
            await checkpoint()
    return session


async def _round(app: ASGIApp, what: Message, calls: int) -> float:
    """µs of CPU per call."""
    scope = _scope(what.headers)
    bodies = [what.with_id(id) for id in range(calls)]
    began = time.process_time()
    for body in bodies:
        sent = await _post(app, scope, body)
    used = time.process_time() - began
    said = b"".join(event.get("body", b"") for event in sent).decode()
    if not is_right(result("the bridge", said, calls - 1)):
        raise RuntimeError(f"the bridge answers wrongly: {said[:300]}")
    return used / calls * 1e6


async def _measure(rounds: int, calls: int, bridge: Bridge, _stop: anyio.Event) -> None:
    """A transport to nobody, put together as ``serve_http`` puts its own together; each round has new sessions."""
    server = ToolServer(bridge.registry, _Ready(), report.ear)
    manager = StreamableHTTPSessionManager(server)
    gate = Gate(
        StreamableHTTPASGIApp(manager),
        server.announcer,
        server.refusals,
        LOCAL_NAMES,
        any_address=False,
        refuse_call=server.refuse_call,
        alone_reads_arguments=server.alone_reads_arguments,
    )
    sdk = Starlette(routes=[Route(PATH, gate)])
    took: dict[str, list[float]] = defaultdict(list)
    async with manager.run():
        for _ in range(rounds):
            for name, app in (("express", Express(_nobody, gate, server, PATH)), ("SDK", sdk)):
                took[f"{name}, modern"].append(await _round(app, modern("tools/call", _CALL), calls))
                what = message("tools/call", _CALL, await _session(sdk, server.announcer))
                took[f"{name}, handshake"].append(await _round(app, what, calls))
    json.dump(took, sys.stdout)


def _run(folder: str, rounds: str, calls: str) -> int:
    logs.configure()
    transport = partial(_measure, int(rounds), int(calls))
    beginning = Beginning.load(Settings((Path(folder),)), Directories((folder,)), Sources({}))
    assert beginning  # nothing is strict here
    return anyio.run(
        serve, beginning, transport, backend_options={"use_uvloop": find_spec("uvloop") is not None}
    )


if __name__ == "__main__":
    sys.exit(_run(*sys.argv[1:]))
