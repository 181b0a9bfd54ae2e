"""Early answers, the fast path and the SDK answer alike over stdio."""

import json
import os
import random
import threading
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Final

import pytest
from anyio import to_thread
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcp.server.context import CallNext, HandlerResult
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, MODERN_PROTOCOL_VERSIONS

from bridge.protocol.caller_context import Context
from bridge.protocol.capabilities import MODERN_VERSION, SAME_SHAPE_VERSIONS
from bridge.registry import Snapshot
from bridge.stdio.early_answers import EarlyAnswers, Handoff, _Conversation
from bridge.upstream.client import Client
from tests.serving.api import Api
from tests.serving.messages import INITIALIZED, META, Json, call, initialize, request
from tests.serving.pipe import Pipe
from tests.serving.served import Served
from tests.serving.tools import TOOLS

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


class RandomClient:
    """The lines of a random client: an opening that is simple or nearly so, then anything."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._id = 0
        self.is_modern = chance.random() < 0.4
        messages = self._opening()
        messages += [self._next() for _ in range(chance.randrange(7))]
        self.lines = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in messages]

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
        opening = initialize(
            chance.choice(["2025-06-18", "2025-11-25", "2025-11-25", "2024-11-05", "2030-01-01"])
        )
        opening["id"] = self._fresh()
        if chance.random() < 0.4:
            self._mutate(opening["params"])
        return [opening, *([ask("ping")] if chance.random() < 0.3 else []), INITIALIZED]

    def _mutate(self, params: Json) -> None:
        client_info = params["clientInfo"]
        match self._chance.randrange(5):
            case 0:
                params["capabilities"] = self._chance.choice(CAPABILITIES)
            case 1:
                client_info["title"] = "A client"
            case 2:
                client_info["version"] = 1
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
            json.dumps({**request("ping"), "id": f"\ud800{self._fresh()}"}).encode(),
        ]
        return chance.choice(others)


@dataclass
class Seen:
    """What a client sees, and what the SDK knows of it in the end."""

    messages: list[Json]
    states: list[object]


async def conversation(lines: list[bytes], served: Served, *, cut: int = 0, reads: int = 0) -> Seen:
    """All messages to a client that sends its lines and sees one change of the tools.

    The first ``cut`` bytes go to early answers, of which the client reads ``reads`` before the SDK takes over.
    """
    states: list[object] = []

    async def note(ctx: Context, call_next: CallNext) -> HandlerResult:
        if ctx.request_id == "now":
            states.append((ctx.protocol_version, ctx.session.client_params, ctx.session.client_capabilities))
        return await call_next(ctx)

    served.server.middleware.append(note)
    data = b"".join(line + b"\n" for line in lines)
    source, to_server = os.pipe()
    from_server, sink = os.pipe()
    pipe = Pipe(to_server, from_server)
    answering = EarlyAnswers(served.registry.current, source, sink)
    if cut:
        answering.start()
    await pipe.write(data[:cut])
    messages = [await pipe.answer() for _ in range(reads)]
    async with served.stdio_on(source, sink, pipe, before=answering.stop()):
        await pipe.write(data[cut:])
        for id in ("now", "later"):
            await pipe.send(request("ping", id))
            while (message := await pipe.answer()).get("id") != id:
                messages.append(message)
            await served.change("echo")
        pipe.hang_up()
        while line := await pipe.line():
            messages.append(json.loads(line))
    return Seen(messages, states)


def ids_answered_early(data: bytes, served: Served) -> list[int | str]:
    early = _Conversation(served.registry.current)
    answers = takewhile(lambda answer: answer is not None, map(early.answer, data.split(b"\n")[:-1]))
    return [json.loads(answer)["id"] for answer in answers if answer]


def as_text(message: Json) -> str:
    return json.dumps(message, sort_keys=True)


async def check_answers(
    lines: list[bytes], api: Api, client: Client, cut: int | None = None, *, is_patient: bool = True
) -> None:
    """Compare early answers and the fast path with the SDK alone."""
    served, alone = Served(api.url, client), Served(api.url, client, fast_path=False)
    for bridge in (served, alone):
        bridge.show(*TOOLS)
    data = b"".join(line + b"\n" for line in lines)
    cut = len(data) if cut is None else cut
    ids = ids_answered_early(data[:cut], served) if is_patient else []
    early = await conversation(lines, served, cut=cut, reads=len(ids))
    sdk = await conversation(lines, alone)
    assert [message["id"] for message in early.messages[: len(ids)]] == ids
    assert sorted(map(as_text, early.messages)) == sorted(map(as_text, sdk.messages)), lines
    assert early.states == sdk.states, lines


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lines=st.randoms(use_true_random=False).map(lambda chance: RandomClient(chance).lines),
    share=st.floats(0, 1),
    is_patient=st.booleans(),
)
async def test_an_opening_cut_at_any_byte_is_answered_as_by_the_sdk(
    api: Api, client: Client, lines: list[bytes], share: float, *, is_patient: bool
) -> None:
    cut = int(share * sum(len(line) + 1 for line in lines))
    await check_answers(lines, api, client, cut, is_patient=is_patient)


@pytest.mark.parametrize("version", sorted(HANDSHAKE_PROTOCOL_VERSIONS))
async def test_each_version_is_opened_as_by_the_sdk(api: Api, client: Client, version: str) -> None:
    messages = [
        initialize(version),
        request("ping", 1),
        INITIALIZED,
        request("tools/list", 2),
        call("typed", 3),
    ]
    await check_answers([json.dumps(message).encode() for message in messages], api, client)


@pytest.mark.parametrize(
    "messages",
    [
        [b"no json", request("ping", 1)],
        [b"[]", request("ping", 1)],
        [{**initialize(), "more": 1}, request("ping", 2)],
        [INITIALIZED, initialize()],
        [modern("server/discover", 1), modern("tools/list", 2), modern("ping", 3)],
        [
            modern("tools/list", 1),
            modern("server/discover", 2),
            modern("tools/list", 3),
            modern("no/such", 4),
        ],
        [modern("server/discover", 1), {**initialize(), "id": 2}],
        [initialize(), INITIALIZED, modern("tools/list", 2), modern("server/discover", 3)],
        [request("tools/list", 1, _meta={}), modern("tools/list", 2)],
        [request("tools/list", 1, _meta={**META, "more": 1}), modern("tools/list", 2)],
        [request("tools/list", 1, _meta={**META, f"{PREFIX}clientCapabilities": {"roots": None}})],
        [initialize(), request("ping", 1), INITIALIZED, request("ping", 2)],
        [initialize(), INITIALIZED, request("no/such", 1), call("no-such", 2), request("tools/list", 3)],
        [b"", initialize(), INITIALIZED, request("tools/list", "", cursor=None), request("tools/list", 2)],
    ],
)
async def test_unusual_first_messages_are_answered_as_by_the_sdk(
    api: Api, client: Client, monkeypatch: pytest.MonkeyPatch, messages: list[Json | bytes]
) -> None:
    monkeypatch.setattr("bridge.protocol.capabilities.PAGE_SIZE", 2)
    lines = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in messages]
    await check_answers(lines, api, client)


async def test_the_process_ends_when_its_client_leaves_after_early_answers(served: Served) -> None:
    source, to_server = os.pipe()
    from_server, sink = os.pipe()
    left = threading.Event()
    answering = EarlyAnswers(served.registry.current, source, sink, left.set)
    answering.start()
    pipe = Pipe(to_server, from_server)
    await pipe.open()
    pipe.hang_up()
    assert await to_thread.run_sync(left.wait, 30)
    answering.stop()
    pipe.stop_reading()
    for descriptor in (source, sink):
        os.close(descriptor)


def test_early_answers_know_the_versions_of_the_sdk() -> None:
    assert (MODERN_VERSION,) == MODERN_PROTOCOL_VERSIONS
    assert set(HANDSHAKE_PROTOCOL_VERSIONS) >= SAME_SHAPE_VERSIONS


def test_stop_without_start_hands_over_nothing() -> None:
    assert EarlyAnswers(Snapshot(), 0, 1).stop() == Handoff()


def test_stop_works_while_the_thread_waits() -> None:
    source, to_server = os.pipe()
    answering = EarlyAnswers(Snapshot(), source, to_server)
    answering.start()
    assert answering.stop() == Handoff()
    os.close(source)
    os.close(to_server)


async def test_the_process_ends_when_its_reader_has_left(served: Served) -> None:
    source, to_server = os.pipe()
    from_server, sink = os.pipe()
    os.close(from_server)
    left = threading.Event()
    answering = EarlyAnswers(served.registry.current, source, sink, left.set)
    answering.start()
    os.write(to_server, json.dumps(initialize()).encode() + b"\n")
    await to_thread.run_sync(left.wait, 5)
    answering.stop()
    for descriptor in (source, to_server, sink):
        os.close(descriptor)
    assert left.is_set()


async def test_a_partly_written_answer_is_completed_after_the_handoff(served: Served) -> None:
    served.show(*[f"tool_{number}" for number in range(700)])
    messages = (initialize(), INITIALIZED, request("tools/list", 1))
    async with served.stdio_after(*messages, read=1, waiting=60_000) as pipe:
        await pipe.send(request("ping", 2))
        listing, pong = [await pipe.answer() for _ in range(2)]
    assert len(listing["result"]["tools"]) == 700
    assert pong == {"jsonrpc": "2.0", "id": 2, "result": {}}


async def test_calls_take_the_fast_path_after_early_answers_too(served: Served) -> None:
    seen: list[str] = []

    async def note(ctx: Context, call_next: CallNext) -> HandlerResult:
        seen.append(ctx.method)
        return await call_next(ctx)

    served.show("echo", *[f"tool_{number}" for number in range(400)])
    served.server.middleware.append(note)
    async with served.stdio_after(initialize(), INITIALIZED, request("tools/list", 1), read=1) as pipe:
        await pipe.send(request("ping", 2))
        while (await pipe.answer())["id"] != 2:
            pass
        await pipe.send(call("echo", 3))
        assert (await pipe.answer())["result"]["isError"] is False
    assert {"ping"} <= set(seen) <= {"initialize", "notifications/initialized", "tools/list", "ping"}
