"""A client over HTTP that writes JSON-RPC by hand."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from tests.serving.messages import INITIALIZED, META, Json, call, initialize, request


class Session:
    """An HTTP client without an SDK; after ``open`` it has a session of the handshake era."""

    def __init__(self, web: httpx.AsyncClient, url: str) -> None:
        self.web = web
        self.url = url
        self.headers = {"accept": "application/json, text/event-stream", "content-type": "application/json"}

    async def open(self) -> None:
        await self.shake_hands()
        await self.post(INITIALIZED)

    async def shake_hands(self, version: str = "2025-11-25") -> None:
        reply = await self.post(initialize(version))
        self.headers["mcp-session-id"] = reply.headers["mcp-session-id"]

    async def post(self, message: Json | bytes, **headers: str) -> httpx.Response:
        content = message if isinstance(message, bytes) else json.dumps(message).encode()
        return await self.web.post(self.url, content=content, headers=self.headers | headers)

    async def ask(self, message: Json) -> Json:
        """The answer to a request of the handshake era."""
        return _answer(await self.post(message))

    async def ask_modern(self, message: Json) -> Json:
        """The answer to a request of 2026-07-28."""
        return _answer(await self.web.post(self.url, **self.modern(message)))

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[AsyncIterator[Json]]:
        """The GET stream of the session, for messages from the server."""
        async with self.web.stream("GET", self.url, headers=self.headers) as reply:
            assert reply.status_code == 200
            yield _events(reply)

    @asynccontextmanager
    async def listen(self, **kinds: bool) -> AsyncIterator[AsyncIterator[Json]]:
        """A ``subscriptions/listen`` stream of 2026-07-28."""
        message = request("subscriptions/listen", 5, notifications=kinds)
        async with self.web.stream("POST", self.url, **self.modern(message)) as reply:
            yield _events(reply)

    @asynccontextmanager
    async def subscribed(self, *, modern: bool) -> AsyncIterator[AsyncIterator[Json]]:
        """The stream of the era, once the server has registered it."""
        async with self.listen(toolsListChanged=True) if modern else self.stream() as events:
            if modern:
                await anext(events)  # the acknowledgement
            yield events

    async def sees(self, seen: set[str], *names: str) -> None:
        """Asserts for both eras that exactly ``seen`` are listed, and that only these of ``names`` can be called."""
        for send in (self.ask, self.ask_modern):
            listed = await send(request("tools/list", 1))
            assert {tool["name"] for tool in listed["result"]["tools"]} == seen
            for number, tool in enumerate(names, 2):
                answer = await send(call(tool, number))
                assert ("result" in answer) is (tool in seen)
                if tool not in seen:
                    assert answer["error"] == {"code": -32602, "message": f"Unknown tool: {tool}"}

    def modern(self, message: Json) -> Json:
        params = message["params"]
        headers = {"mcp-protocol-version": "2026-07-28", "mcp-method": message["method"]}
        if "name" in params:
            headers["mcp-name"] = str(params["name"])
        message = message | {"params": params | {"_meta": META | params.get("_meta", {})}}
        return {"content": json.dumps(message).encode(), "headers": self.headers | headers}


def events_in(text: str) -> list[Json]:
    """The messages of an event stream. An event without data, which opens it, is none."""
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]


def _answer(reply: httpx.Response) -> Json:
    """The JSON of a reply, or of the last event if it is a stream."""
    if reply.headers.get("content-type") == "text/event-stream":
        return events_in(reply.text)[-1]
    answer: Json = reply.json()
    return answer


async def _events(reply: httpx.Response) -> AsyncIterator[Json]:
    async for line in reply.aiter_lines():
        for message in events_in(line):
            yield message
