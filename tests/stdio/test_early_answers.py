"""Whoever answers over stdio, the first answers, the express lane or the SDK: a client cannot tell."""

import json
import os
import random
import threading
from collections.abc import Callable
from copy import deepcopy
from typing import Any, Final

import anyio
import pytest
from anyio import to_thread
from mcp.server.context import CallNext, HandlerResult
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, LATEST_MODERN_VERSION

from bridge.protocol.capabilities import ALIKE
from bridge.protocol.notifications import Context
from bridge.registry import Snapshot
from bridge.stdio import early_answers as first_answers
from bridge.stdio.early_answers import Before, FirstAnswers
from bridge.stdio.transport import serve_stdio
from tests.serving.served import INITIALIZED, META, TOOLS, Json, Served, call, initialize, request

pytestmark = pytest.mark.anyio

PREFIX: Final = "io.modelcontextprotocol/"
CAPABILITIES: Final[list[Any]] = [
    {"roots": {"listChanged": True}, "sampling": {}, "elicitation": {}},
    {"roots": {}},
    {"roots": {"listChanged": "yes"}},
    {"sampling": None},
    {"experimental": {"x": {}}},
    {"other": 1},
    [],
]


def modern(method: str, id: Any, **params: Any) -> Json:
    return request(method, id, **params, _meta=deepcopy(META))


class Talk:
    """What a client says, one line each: an opening that is plain or nearly so, and then anything."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._id = 0
        self.is_modern = chance.random() < 0.4
        self.is_patient = chance.random() < 0.8
        said = self._opening()
        said += [self._next() for _ in range(chance.randrange(7))]
        self.lines = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in said]

    def _fresh(self) -> int | str:
        self._id += 1
        return self._id if self._chance.random() < 0.5 else f"ü{self._id}"

    def _opening(self) -> list[Json | bytes]:
        ask, chance = self._asking(), self._chance
        if self.is_modern:
            return [
                chance.choice([ask("server/discover"), ask("tools/list")])
                for _ in range(chance.choice([1, 1, 2]))
            ]
        hello = initialize(
            chance.choice(["2025-06-18", "2025-11-25", "2025-11-25", "2024-11-05", "2030-01-01"])
        )
        hello["id"] = self._fresh()
        if chance.random() < 0.4:
            self._spoil(hello["params"])
        return [hello, *([ask("ping")] if chance.random() < 0.3 else []), INITIALIZED]

    def _spoil(self, params: Json) -> None:
        who = params["clientInfo"]
        match self._chance.randrange(5):
            case 0:
                params["capabilities"] = self._chance.choice(CAPABILITIES)
            case 1:
                who["title"] = "A client"
            case 2:
                who["version"] = 1
            case 3:
                params["more"] = {}
            case 4:
                del params[self._chance.choice(list(params))]

    def _asking(self) -> Callable[..., Json]:
        return lambda method, **params: (modern if self.is_modern else request)(
            method, self._fresh(), **params
        )

    def _next(self) -> Json | bytes:
        ask, chance = self._asking(), self._chance
        name = chance.choice([*TOOLS[:4], "strict", "typed", "no-such"]).replace("hang", "echo")
        arguments = chance.choice([{}, {"n": 3}, {"n": "x"}, None, "no object"])
        others: list[Json | bytes] = [
            *[ask("tools/list"), ask("ping"), ask("server/discover"), ask("tools/list", cursor="x")],
            *[ask("tools/call", name=name, arguments=arguments) for _ in range(6)],
            *[request("tools/list", self._fresh()), modern("tools/list", self._fresh())],
            {"jsonrpc": "2.0", "id": self._fresh(), "method": "tools/list"},
            ask("tools/call", name=name, more=1),
            ask("no/such"),
            {"jsonrpc": "2.0", "method": "notifications/other"},
            {"jsonrpc": "2.0", "id": self._fresh(), "method": "ping", "more": 1},
            {**INITIALIZED, "params": {}},
            {**INITIALIZED, "params": {"x": 1}},
            {**initialize(), "id": self._fresh()},
            {**ask("ping"), "jsonrpc": "1.0"},
            {**ask("ping"), "id": True},
            b"no json",
            b"  ",
            b'{"jsonrpc":"2.0","id":"\\ud800","method":"ping"}',
        ]
        return chance.choice(others)


async def ended(name: str) -> None:
    """Wait for a thread, which has all that it needs to come to its end."""
    for thread in threading.enumerate():
        if thread.name == name:
            await to_thread.run_sync(thread.join)


async def whole(lines: list[bytes], served: Served, *, first: bool, is_patient: bool = True) -> list[Json]:
    """All that a client is answered that says everything and hangs up; by the SDK alone, if not ``first``."""
    source, to_server = os.pipe()
    from_server, sink = os.pipe()
    os.write(to_server, b"".join(line + b"\n" for line in lines))
    os.close(to_server)
    left = threading.Event()
    before = Before()
    if first:
        answering = FirstAnswers(served.registry.current, source, sink, left.set)
        answering.start()
        if is_patient:
            await ended("first answers")
        before = answering.stop()
    if not left.is_set():
        await serve_stdio(served.server, source, sink, anyio.Event(), before=before, express=first)
    os.close(sink)
    with os.fdopen(from_server, "rb") as answers:
        told = [json.loads(line) for line in answers]
    os.close(source)
    return sorted(told, key=lambda answer: json.dumps(answer, sort_keys=True))


@pytest.mark.parametrize("seed", range(40))
async def test_a_client_cannot_tell_who_answers(served: Served, seed: int) -> None:
    talk = Talk(random.Random(seed))  # noqa: S311 - no secret
    first = await whole(talk.lines, served, first=True, is_patient=talk.is_patient)
    assert first == await whole(talk.lines, served, first=False), talk.lines


@pytest.mark.parametrize(
    "said",
    [
        [b"no json", request("ping", 1)],
        [INITIALIZED, initialize()],
        [modern("server/discover", 1), modern("tools/list", 2), modern("ping", 3)],
        [modern("server/discover", 1), {**initialize(), "id": 2}],
        [request("tools/list", 1, _meta={}), modern("tools/list", 2)],
        [request("tools/list", 1, _meta={**META, "more": 1}), modern("tools/list", 2)],
        [request("tools/list", 1, _meta={**META, f"{PREFIX}clientCapabilities": {"roots": None}})],
        [initialize(), request("ping", 1), INITIALIZED, request("ping", 2)],
        [b"", initialize(), INITIALIZED, request("tools/list", "", cursor=None), request("tools/list", 2)],
    ],
)
async def test_nor_where_it_begins_oddly(
    served: Served, monkeypatch: pytest.MonkeyPatch, said: list[Json | bytes]
) -> None:
    monkeypatch.setattr("bridge.protocol.capabilities.PAGE", 2)
    lines = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in said]
    assert await whole(lines, served, first=True) == await whole(lines, served, first=False)


def test_the_versions_that_are_answered_first_are_the_sdks() -> None:
    assert first_answers.MODERN == LATEST_MODERN_VERSION
    assert set(HANDSHAKE_PROTOCOL_VERSIONS) >= ALIKE


def test_what_was_never_begun_has_heard_nothing() -> None:
    assert FirstAnswers(Snapshot(), 0, 1).stop() == Before()


def test_it_can_be_stopped_while_it_waits() -> None:
    source, to_server = os.pipe()
    answering = FirstAnswers(Snapshot(), source, to_server)
    answering.start()
    assert answering.stop() == Before()
    os.close(source)
    os.close(to_server)


async def test_it_leaves_when_nobody_reads(served: Served) -> None:
    source, to_server = os.pipe()
    from_server, sink = os.pipe()
    os.close(from_server)
    left = threading.Event()
    answering = FirstAnswers(served.registry.current, source, sink, left.set)
    answering.start()
    os.write(to_server, json.dumps(initialize()).encode() + b"\n")
    await to_thread.run_sync(left.wait, 5)
    answering.stop()
    for descriptor in (source, to_server, sink):
        os.close(descriptor)
    assert left.is_set()


async def test_an_answer_that_waits_for_its_reader_is_finished_by_the_sdk(served: Served) -> None:
    served.show(*[f"tool_{number}" for number in range(700)])
    said = (initialize(), INITIALIZED, request("tools/list", 1))
    async with served.stdio_after(*said, read=1, waiting=60_000) as pipe:
        await pipe.send(request("ping", 2))
        listing, pong = [await pipe.answer() for _ in range(2)]
    assert len(listing["result"]["tools"]) == 700
    assert pong == {"jsonrpc": "2.0", "id": 2, "result": {}}


async def test_plain_calls_pass_the_sdk_by_after_first_answers_too(served: Served) -> None:
    seen: list[str] = []

    async def note(ctx: Context, call_next: CallNext) -> HandlerResult:
        seen.append(ctx.method)
        return await call_next(ctx)

    served.server.middleware.append(note)
    served.show("echo", *[f"tool_{number}" for number in range(400)])
    async with served.stdio_after(initialize(), INITIALIZED, request("tools/list", 1), read=1) as pipe:
        await pipe.send(request("ping", 2))
        while (await pipe.answer())["id"] != 2:
            pass
        await pipe.send(call("echo", 3))
        assert (await pipe.answer())["result"]["isError"] is False
    assert {"ping"} <= set(seen) <= {"initialize", "notifications/initialized", "tools/list", "ping"}
