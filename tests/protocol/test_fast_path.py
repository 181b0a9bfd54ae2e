"""The tables at the head of the fast path, held row by row: what it takes, and that its answer equals the SDK's."""

import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import anyio
import httpx
import pytest

from bridge.caller import Caller
from bridge.events import CallFinished
from bridge.protocol import fast_path
from bridge.protocol.handlers import ToolServer
from bridge.registry import Snapshot
from bridge.secrets import Sources
from bridge.spec import ToolSpec
from bridge.tool.compiler import compile_tool
from bridge.upstream.client import Client
from tests.serving.api import Api
from tests.serving.messages import INITIALIZED, META, Json, call, initialize, request
from tests.serving.pipe import Pipe
from tests.serving.served import Served
from tests.serving.session import Session, events_in
from tests.serving.tools import TOOLS, tool_file

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_early_headers")]

_HEAD: Final = fast_path.__doc__ or ""
ROWS: Final = dict(re.findall(r"^\| (.+?) \| (yes|no) \|", _HEAD, re.MULTILINE))
"""Each request of the first table, and whether it is taken."""
SESSION: Final = "handshake, HTTP with a session"
SESSIONLESS: Final = "handshake, HTTP without a session"
MODERN: Final = ("modern, HTTP", "modern, stdio")
HANDSHAKE: Final = (SESSION, SESSIONLESS, "handshake, stdio")
CLIENTS: Final = (*MODERN, *HANDSHAKE)
PREFIX: Final = "io.modelcontextprotocol/"


@dataclass(frozen=True, slots=True)
class Case:
    """A request of some clients. ``edit`` changes its bytes. ``state`` is that of the client or the server before it."""

    message: Json
    clients: tuple[str, ...] = CLIENTS
    edit: Callable[[bytes], bytes] = bytes
    version: str = "2025-11-25"
    state: str = "usual"


def replaced(old: str, new: str) -> Callable[[bytes], bytes]:
    def edit(body: bytes) -> bytes:
        assert old.encode() in body
        return body.replace(old.encode(), new.encode(), 1)

    return edit


def of_echo(**params: Any) -> Json:
    """A call whose params hold more than name and arguments."""
    return call("echo", **params)


CASES: Final[dict[str, list[Case]]] = {
    "tools/call": [
        *(Case(call(name, id)) for name, id in (("echo", 1), ("typed", "ü"), ("change", 0), ("any", -1))),
        Case(request("tools/call", name="any", arguments={"n": 3, "o": {"é": None}})),
        Case(request("tools/call", name="echo")),
    ],
    "tools/call that fails": [
        Case(call("fail")),
        Case(call("strict")),
        Case(call("hang"), state="stopping"),
    ],
    "tools/call of an alias": [Case(call("old-name"))],
    "tools/list": [
        Case(request("tools/list")),
        Case({"jsonrpc": "2.0", "id": "x", "method": "tools/list"}, HANDSHAKE),
    ],
    "tools/call of a tool that is unknown or not plain": [
        *(Case(call(name)) for name in ("no-such", "blocks", "mirrored")),
    ],
    "tools/call with other params, a progress token or trace context": [
        Case(of_echo(task={})),
        Case(of_echo(_meta={"progressToken": 7})),
        Case(of_echo(_meta={"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"})),
        Case(request("tools/call", name="echo", arguments=None)),
        Case(request("tools/call", name="echo", arguments=[])),
    ],
    "tools/list with a cursor": [Case(request("tools/list", cursor="echo"))],
    "any other method": [
        *(Case(request(method)) for method in ("ping", "no/such", "tools/other", "prompts/list")),
        Case(request("server/discover"), MODERN),
    ],
    "an id in flight, or no valid id": [
        *(Case(call("echo", id)) for id in (None, True, 1.5, 2**64, "x" * 257)),
        *(
            Case(call("echo", id), (SESSION, "modern, stdio", "handshake, stdio"), state="busy")
            for id in (7, "7")
        ),
    ],
    "not one JSON object with the keys of JSON-RPC, or with a lone surrogate": [
        Case(call("echo"), edit=replaced("{", '{"id": 1, ')),
        Case(call("echo"), edit=replaced("{", '{"more": 1, ')),
        Case(call("echo"), edit=replaced('"2.0"', '"1.0"')),
        Case(call("echo"), edit=replaced("}", "")),
        Case(call("echo"), edit=lambda body: b"[%s]" % body),
        Case(request("tools/call", name="any", arguments={"q": "\ud800"})),
    ],
    "``_meta`` of a modern request is missing, invalid or for another version": [
        Case(call("echo"), MODERN, replaced(PREFIX, "x/")),
        Case(call("echo"), MODERN, replaced('"_meta"', '"meta"')),
        Case(call("echo"), MODERN, replaced('Capabilities": {}', 'Capabilities": 5')),
        Case(request("tools/list"), MODERN, replaced('"2026-07-28"', '"2025-11-25"')),
    ],
    "``_meta`` in a request of the handshake era": [
        Case(request("tools/list", _meta={}), HANDSHAKE),
        Case(of_echo(_meta={}), HANDSHAKE),
        Case(of_echo(_meta=META), HANDSHAKE),
    ],
    "a handshake version before 2025-06-18": [
        Case(message, HANDSHAKE, version=version)
        for message in (request("tools/list"), call("typed"))
        for version in ("2024-11-05", "2025-03-26")
    ],
    "over stdio, before the handshake or the first modern answer": [
        Case(request("tools/list"), ("modern, stdio", "handshake, stdio"), state="new"),
    ],
}


class Watched(ToolServer):
    """Counts the requests that take the fast path."""

    taken = 0

    def listing(self, version: str, caller: Caller, id: object) -> bytes:
        self.taken += 1
        return super().listing(version, caller, id)

    async def call_encoded(self, *arguments: Any) -> bytes:
        self.taken += 1
        return await super().call_encoded(*arguments)


def served_by(api: Api, client: Client, *, fast: bool) -> Served:
    served = Served(api.url, client, fast_path=fast)
    plain = tool_file(api.url, "echo")
    properties = {"h": {"type": "string", "x-mcp-header": "H"}}
    others = {
        "renamed": plain | {"aliases": ["old-name"]},
        "blocks": plain | {"response": {"content": "blocks"}},
        "mirrored": plain | {"inputSchema": {"type": "object", "properties": properties}},
    }
    files = {**{name: tool_file(api.url, name) for name in TOOLS}, **others}
    compiled = (
        compile_tool(name, ToolSpec.model_validate(file), None, Sources({})) for name, file in files.items()
    )
    served.registry.replace(Snapshot([tool for tool, _ in compiled]))
    served.server = Watched(served.registry, client, served.events.append)
    return served


async def answer_over_http(session: Session, case: Case, kind: str, api: Api) -> Any:
    if kind == SESSION:
        opened = await session.post(initialize(case.version))
        session.headers["mcp-session-id"] = opened.headers["mcp-session-id"]
    elif kind == SESSIONLESS:
        session.headers["mcp-protocol-version"] = case.version
    usual: Json = {"content": json.dumps(case.message).encode(), "headers": session.headers}
    sending = session.modern(case.message) if kind in MODERN else usual
    sending["content"] = case.edit(sending["content"])
    async with busy(case, api, lambda: session.post(call("hang", 7))):
        reply = await session.web.post(session.url, **sending)
    media_type = reply.headers["content-type"].partition(";")[0]
    return reply.status_code, media_type, events_in(reply.text) or reply.json()


async def answer_over_stdio(pipe: Pipe, case: Case, kind: str, api: Api) -> Any:
    meta = {"_meta": META} if kind in MODERN else {}
    if case.state != "new":
        await pipe.send(request("tools/list", 0, **meta) if meta else initialize(case.version))
        await pipe.answer()
        await pipe.send(*([] if meta else [INITIALIZED]))
    params = case.message.get("params", {})
    if meta:
        params = params | {"_meta": META | params.get("_meta", {})}
    message = case.message | ({"params": params} if "params" in case.message else {})
    async with busy(case, api, lambda: pipe.send(call("hang", 7, **meta))):
        await pipe.write(case.edit(json.dumps(message).encode()) + b"\n")
        return await pipe.answer()


@asynccontextmanager
async def busy(case: Case, api: Api, hang: Callable[[], Any]) -> AsyncIterator[None]:
    """If the case says so, the client has a call in flight meanwhile."""
    if case.state != "busy":
        yield
        return
    api.entered, api.release = anyio.Event(), anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(hang)
        await api.entered.wait()
        yield
        api.release.set()


async def outcomes(
    row: str, kind: str, api: Api, client: Client, web: httpx.AsyncClient, *, fast: bool
) -> list[tuple[Json, int]]:
    """For each case: what the client and the log see, and the number of requests that took the fast path."""
    found = []
    is_stdio, cases = kind.endswith("stdio"), [case for case in CASES[row] if kind in case.clients]
    for group in [[case] for case in cases] if is_stdio else [cases]:
        served = served_by(api, client, fast=fast)
        server = served.server
        assert isinstance(server, Watched)
        async with served.stdio() if is_stdio else served.http() as at:
            for case in group:
                server.taken = 0
                served.events.clear()
                if case.state == "stopping":
                    server.stop(grace=0)
                if isinstance(at, str):
                    answer = await answer_over_http(Session(web, at), case, kind, api)
                else:
                    answer = await answer_over_stdio(at, case, kind, api)
                events = [
                    event._replace(seconds=0, call=None)
                    for event in served.events
                    if isinstance(event, CallFinished)
                ]
                found.append(({"answer": answer, "events": events}, server.taken))
    return found


def test_each_row_has_a_case_for_some_client_and_each_client_a_row() -> None:
    assert ROWS.keys() == CASES.keys()
    assert all(CASES.values())
    table = re.findall(r"^\| ((?:modern|handshake|either), .+?) \|", _HEAD, re.MULTILINE)
    assert table == ["modern, HTTP", SESSION, SESSIONLESS, "either, stdio"]


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        (row, kind)
        for row, cases in CASES.items()
        for kind in CLIENTS
        if any(kind in case.clients for case in cases)
    ],
)
async def test_the_fast_path_answers_as_the_sdk_does(
    row: str, kind: str, api: Api, client: Client, web: httpx.AsyncClient
) -> None:
    fast = await outcomes(row, kind, api, client, web, fast=True)
    slow = await outcomes(row, kind, api, client, web, fast=False)
    assert [outcome for outcome, _ in fast] == [outcome for outcome, _ in slow]
    hanging = [case.state == "busy" for case in CASES[row] if kind in case.clients]
    assert [taken for _, taken in fast] == [is_busy + (ROWS[row] == "yes") for is_busy in hanging]
    assert {taken for _, taken in slow} <= {0}
