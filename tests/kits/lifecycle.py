"""How the bridge ends, and what clients that misbehave cost those who do not."""

import asyncio
import json
import os
import re
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import DEVNULL
from tempfile import TemporaryDirectory
from typing import Any, Final
from urllib.parse import urlsplit

import anyio
import httpx
from anyio.lowlevel import checkpoint

from bridge.registry import Snapshot
from bridge.upstream.client import Client
from tests.kits.figures import Figure, at_most, none_of
from tests.kits.serving import Bridge, over_http, over_pipes
from tests.serving.served import TOOLS, Served, Session, call, cancel, initialize, request, serving_api
from tests.upstream.conversation import Exchange, Faulty, serve_faults

_GRACE: Final = 5
_BOUND: Final = 30
_CALLS: Final = 8
_BACKLOG: Final = 1024
"""Events that the SDK keeps for a listen stream before it gives up on it."""
_HELD: Final = re.compile(rb"call tool=hold \S+ outcome=([\w-]+)")
_ANSWERED: Final = re.compile(rb"call tool=large \S+ outcome=ok")
_LARGE: Final = b'"' + b"x" * 1_900_000 + b'"'
_TOOL: Final = """\
description: Answers {name}.
request: {{method: POST, url: "{url}/{name}"}}
response: {{maxBytes: 2MB}}
timeout: 20s
"""


async def _ok(exchange: Exchange) -> None:
    await exchange.reply()


async def _hold(exchange: Exchange) -> None:
    await exchange.server.go.wait()
    await exchange.reply()


async def _large(exchange: Exchange) -> None:
    await exchange.reply(_LARGE)


_PATHS: Final = {"ok": _ok, "hold": _hold, "large": _large}


@asynccontextmanager
async def _tools() -> AsyncIterator[tuple[Faulty, Path]]:
    with TemporaryDirectory() as name:
        tools = Path(name)
        async with serve_faults(_PATHS) as upstream:
            for path in _PATHS:
                (tools / f"{path}.yaml").write_text(_TOOL.format(name=path, url=upstream.url))
            yield upstream, tools


async def run(*, long: bool) -> list[Figure]:
    rounds = 20 if long else 2
    ends = _Ends()
    for _ in range(rounds):
        for how in ("SIGTERM", "SIGINT", "end of input", "broken pipe", "nobody reads", "full stderr"):
            await _end_of_stdio(how, ends)
        for number in (signal.SIGTERM, signal.SIGINT):
            await _end_of_http(number, ends)
    return [
        none_of("calls in flight that the end left unanswered", ends.unanswered, ends.calls),
        none_of("ends that were no clean exit", ends.unclean, ends.count),
        at_most("longest end, where calls are answered at once", ends.quick, _GRACE + 1, "s"),
        at_most("longest end, where nobody reads the answers", ends.slow, _GRACE + 1, "s"),
        *await _long_line(),
        *await _sessions(1000),
        *await _crowd(500 if long else 100, long=long),
        *await _cancelled(2000 if long else 200),
        *await _unread_stream(modern=False),
        *await _unread_stream(modern=True),
        *await _past_the_grace(),
    ]


# --- ends ---


@dataclass
class _Ends:
    count: int = 0
    calls: int = 0
    quick: float = 0
    slow: float = 0
    unanswered: list[str] = field(default_factory=list)
    unclean: list[str] = field(default_factory=list)

    def ended(self, how: str, code: int) -> None:
        self.count += 1
        if code != 0:
            self.unclean.append(f"{how}: exit code {code}")


@contextmanager
def _full_pipe() -> Iterator[int]:
    """The writing end of a pipe that nobody reads, and that takes nothing more."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writing, bytes(4096))
    os.set_blocking(writing, True)
    yield writing
    os.close(reading)
    os.close(writing)


async def _end_of_stdio(how: str, ends: _Ends) -> None:
    """Calls in flight, and then the end."""
    with _full_pipe() as full:
        stderr = full if how == "full stderr" else DEVNULL
        async with _tools() as (upstream, tools), over_pipes(tools, stderr) as (process, pipe):
            await pipe.send(*(call("hold", f"c{n}") for n in range(_CALLS)))
            await upstream.until(lambda: len(upstream.heard) == _CALLS)
            if how == "nobody reads":
                await pipe.send(*(call("large", f"l{n}") for n in range(4)))
                await upstream.until(lambda: len(upstream.heard) == _CALLS + 4)
            began = anyio.current_time()
            match how:
                case "end of input":
                    pipe.hang_up()
                case "broken pipe":
                    pipe.stop_reading()
                case _:
                    process.send_signal(signal.SIGINT if how == "SIGINT" else signal.SIGTERM)
            upstream.go.set()
            if how not in ("broken pipe", "nobody reads"):
                ends.calls += _CALLS
                done = set()
                while line := await pipe.line(_BOUND):
                    answer = json.loads(line)
                    done |= {answer["id"]} if "result" in answer else set()
                ends.unanswered += [f"stdio, {how}: c{n}" for n in range(_CALLS) if f"c{n}" not in done]
            with anyio.fail_after(_BOUND):
                ends.ended(f"stdio, {how}", await process.wait())
            took = anyio.current_time() - began
            if how == "nobody reads":
                ends.slow = max(ends.slow, took)
            else:
                ends.quick = max(ends.quick, took)


async def _end_of_http(number: signal.Signals, ends: _Ends) -> None:
    """Calls in flight in both eras, a stream of each open, and then a signal."""
    async with _tools() as (upstream, tools), _web() as web, AsyncExitStack() as stack:
        bridge = await stack.enter_async_context(over_http(tools, None))
        session = Session(web, bridge.url)
        await session.open()
        answered: list[dict[str, Any]] = []

        async def ask(id: int) -> None:
            modern = Session(web, bridge.url)
            message = call("hold", id)
            answered.append(await (session.ask(message) if id % 2 else modern.ask_modern(message)))

        async with anyio.create_task_group() as tasks:
            await stack.enter_async_context(session.stream())
            await stack.enter_async_context(Session(web, bridge.url).listen(toolsListChanged=True))
            for id in range(_CALLS):
                tasks.start_soon(ask, id)
            await upstream.until(lambda: len(upstream.heard) == _CALLS)
            began = anyio.current_time()
            os.kill(bridge.pid, number)
            upstream.go.set()
        ends.calls += _CALLS
        ends.unanswered += [f"HTTP, {number.name}: {answer}" for answer in answered if "result" not in answer]
        ends.ended(f"HTTP, {number.name}", await bridge.ended())
        ends.quick = max(ends.quick, anyio.current_time() - began)


def _web() -> httpx.AsyncClient:
    return httpx.AsyncClient(timeout=_BOUND, limits=httpx.Limits(max_connections=None))


# --- what misbehaves ---


async def _long_line() -> list[Figure]:
    """100 MB on one line."""
    async with _tools() as (_, tools), over_pipes(tools) as (process, pipe):
        bridge = Bridge(process.pid, process)
        await pipe.send(call("ok", 6))
        await pipe.answer()  # the SDK, too, is there
        bridge.forget_peak()
        before = bridge.rss
        for _ in range(100):
            await pipe.write(b"x" * 1_000_000)
        await pipe.write(b"\n")
        refused = await pipe.answer()
        extra = bridge.peak - before
        await pipe.send(call("ok", 7))
        answer = await pipe.answer()
        wrong = [] if "error" in refused and answer.get("id") == 7 else [str((refused, answer))]
        return [
            none_of("a line of 100 MB: not refused, or the next not served", wrong, 1),
            at_most("  extra memory", extra, 20, "MB"),
        ]


async def _sessions(count: int) -> list[Figure]:
    """Idle sessions of the handshake era."""
    async with _tools() as (_, tools), over_http(tools) as bridge, _web() as web:
        await Session(web, bridge.url).open()
        before = bridge.rss
        limit = anyio.CapacityLimiter(16)

        async def open_one() -> None:
            async with limit:
                await Session(web, bridge.url).open()

        async with anyio.create_task_group() as tasks:
            for _ in range(count - 1):
                tasks.start_soon(open_one)
        extra = bridge.rss - before
        one_more = await Session(web, bridge.url).post(initialize())
        modern = await Session(web, bridge.url).ask_modern(call("ok"))
        wrong = [] if one_more.status_code == 503 and "result" in modern else [str((one_more, modern))]
        return [
            at_most(f"extra memory, {count} idle sessions", extra, 40, "MB"),
            none_of("  one more is not refused, or a modern call is", wrong, 1),
        ]


async def _crowd(count: int, *, long: bool) -> list[Figure]:
    """Sockets that never end their request, readers that never read, and one who calls all the while."""
    async with _tools() as (_, tools), over_http(tools) as bridge, _web() as web, AsyncExitStack() as stack:
        where = urlsplit(bridge.url)
        assert where.hostname
        assert where.port
        alone = await _cost(bridge, Session(web, bridge.url), 200)
        before = bridge.rss
        for _ in range(count):
            _, writer = await asyncio.open_connection(where.hostname, where.port)
            stack.callback(writer.close)
            writer.write(b"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ")
        readers = []
        for _ in range(30):
            slow = stack.enter_context(_slow_socket(where.hostname, where.port))
            slow.sendall(_raw_call(f"{where.hostname}:{where.port}"))
            readers.append(slow)
        await bridge.heard(_ANSWERED, times=len(readers))
        crowded = await _cost(bridge, Session(web, bridge.url), 200)
        held = bridge.rss - before
        figures = [
            at_most(
                f"CPU of a call among {count} slow sockets, beside one alone", crowded / alone, 2, "times"
            ),
            at_most("  extra memory, with 30 unread answers of 1.9 MB", held, 200, "MB"),
        ]
        if long:
            await anyio.sleep(60)
            kept = [slow for slow in readers if _has_all(slow)]
            figures.append(
                at_most("  clients that read nothing for a minute, and still got all", len(kept), 0, "")
            )
        return figures


def _has_all(slow: socket.socket) -> bool:
    """Whether a whole answer comes, or the connection has ended before."""
    size = 0
    with suppress(ConnectionError):
        while chunk := slow.recv(1 << 20):
            size += len(chunk)
            if size >= len(_LARGE):
                return True
    return False


@contextmanager
def _slow_socket(host: str, port: int) -> Iterator[socket.socket]:
    """One that takes next to nothing while nobody reads."""
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        slow.settimeout(_BOUND)
        slow.connect((host, port))
        yield slow


def _raw_call(host: str) -> bytes:
    modern = Session(_web(), "").modern(call("large"))
    content: bytes = modern["content"]
    headers = {"host": host, "content-length": str(len(content)), **modern["headers"]}
    lines = [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(["POST /mcp HTTP/1.1", *lines, "", ""]).encode() + content


async def _cancelled(count: int) -> list[Figure]:
    """Calls that are taken back, in both eras, while the upstream holds them."""
    async with _tools() as (upstream, tools), over_http(tools) as bridge, _web() as web:
        session = Session(web, bridge.url)
        await session.open()
        tasks_before = bridge.descriptors

        async def take_back(id: int) -> None:
            heard = len(upstream.heard)
            async with anyio.create_task_group() as tasks:
                if id % 2:
                    tasks.start_soon(Session(web, bridge.url).ask_modern, call("hold", id))
                else:
                    tasks.start_soon(session.post, call("hold", id))
                await upstream.until(lambda: len(upstream.heard) > heard)
                if id % 2:
                    tasks.cancel_scope.cancel()
                else:
                    await session.post(cancel(id))

        for id in range(count):
            await take_back(id)
        await bridge.heard(_HELD, times=count)
        others = [each.decode() for each in _HELD.findall(bridge.log) if each != b"cancelled"]
        answer = await session.ask_modern(call("ok", count))
        left = bridge.descriptors - tasks_before
        return [
            none_of("calls taken back that were not cancelled", others, count),
            none_of("  the next call is not answered", [] if "result" in answer else [str(answer)], 1),
            at_most("  descriptors that they left", left, 4, ""),
        ]


async def _unread_stream(*, modern: bool) -> list[Figure]:
    """Changes until the socket of a client that reads nothing is full, and then more; another one hears each."""
    era = "modern" if modern else "handshake"
    async with serving_api() as api, _web() as web:
        client = Client()
        served = Served(api.url, client)
        served.show(*TOOLS)
        tools, limits = served.registry.current.tools, served.server.limits
        versions = [Snapshot(tools), Snapshot(tools[1:])]
        heard = changes = 0

        async def change(events: AsyncIterator[Any]) -> None:
            nonlocal heard, changes
            changes += 1
            served.registry.replace(versions[changes % 2])
            await served.server.announcer.announce()
            with anyio.move_on_after(_GRACE):
                heard += (await anext(events))["method"] == "notifications/tools/list_changed"

        async with served.http() as url:
            slow, other = Session(web, url), Session(web, url)
            await slow.open()
            await other.open()
            listen = slow.modern(request("subscriptions/listen", 5, notifications={"toolsListChanged": True}))
            asked = listen if modern else {"headers": slow.headers}
            with _unread(url, "POST" if modern else "GET", **asked):
                async with other.stream() as events:
                    while limits.now["streams"] < 2:
                        await checkpoint()
                    while limits.now["results"] == 0:
                        await change(events)
                    for _ in range(_BACKLOG + 100):
                        await change(events)
            after = await other.ask_modern(call("echo"))
        await client.aclose()
        missed = [f"{changes - heard} of them"] if heard < changes else []
        return [
            none_of(f"changes not heard beside a {era} stream that nobody reads", missed, changes),
            none_of("  the next call is not answered", [] if "result" in after else [str(after)], 1),
        ]


@contextmanager
def _unread(url: str, method: str, headers: dict[str, str], content: bytes = b"") -> Iterator[None]:
    """A request of which as little of the answer is taken as can be."""
    where = urlsplit(url)
    lines = [f"{name}: {value}" for name, value in {"host": where.netloc, **headers}.items()]
    head = "\r\n".join([f"{method} {where.path} HTTP/1.1", *lines, f"content-length: {len(content)}", "", ""])
    with _slow_socket(where.hostname or "", where.port or 0) as slow:
        slow.sendall(head.encode() + content)
        yield


async def _past_the_grace() -> list[Figure]:
    """Calls that outlast the grace, over both transports at once: told so, and the process ends in time."""
    told: list[str] = []
    took: list[float] = []

    async def over_stdio() -> None:
        async with _tools() as (upstream, tools), over_pipes(tools, DEVNULL) as (process, pipe):
            await pipe.send(call("hold"))
            await upstream.until(lambda: len(upstream.heard) == 1)
            began = anyio.current_time()
            process.send_signal(signal.SIGTERM)
            told.append(str(json.loads(await pipe.line(_BOUND))))
            with anyio.fail_after(_BOUND):
                await process.wait()
            took.append(anyio.current_time() - began)

    async def over_web(*workers: str) -> None:
        async with (
            _tools() as (upstream, tools),
            _web() as web,
            over_http(tools, None, "bridge", *workers) as bridge,
        ):
            async with anyio.create_task_group() as tasks:

                async def ask(id: int) -> None:
                    modern = Session(web, bridge.url)
                    told.append(str(await modern.ask_modern(call("hold", id))))

                for id in range(4):
                    tasks.start_soon(ask, id)
                await upstream.until(lambda: len(upstream.heard) == 4)
                began = anyio.current_time()
                os.kill(bridge.pid, signal.SIGTERM)
            await bridge.ended()
            took.append(anyio.current_time() - began)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(over_stdio)
        tasks.start_soon(over_web)
        tasks.start_soon(over_web, "--workers", "2")
    text = "The server stopped before this call was done; it may have been carried out"
    return [
        none_of("calls past the grace that were not told so", [each for each in told if text not in each], 9),
        at_most("  longest end, also with workers", max(took), _GRACE + 2, "s"),
    ]


async def _cost(bridge: Bridge, session: Session, count: int) -> float:
    """CPU seconds of the bridge for one call."""
    before = bridge.cpu
    for id in range(count):
        assert "result" in await session.ask_modern(call("ok", id))
    return (bridge.cpu - before) / count
