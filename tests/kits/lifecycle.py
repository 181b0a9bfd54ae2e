"""How the bridge shuts down, and the effect of misbehaving clients on others."""

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
from tests import proc
from tests.kits.figures import Figure, at_most, none_of
from tests.kits.serving import Bridge, over_http, over_pipes
from tests.serving.api import serving_api
from tests.serving.messages import call, cancel, request
from tests.serving.served import Served
from tests.serving.session import Session
from tests.serving.tools import TOOLS
from tests.upstream.conversation import Exchange, Faulty, serve_faults

_GRACE: Final = 5
_TIMEOUT_SECONDS: Final = 30
_CALLS: Final = 8
_BACKLOG: Final = 1024
"""Events that the SDK buffers for a listen stream before it closes it."""
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
    shutdowns = _Shutdowns()
    for _ in range(rounds):
        for how in (
            "SIGTERM",
            "SIGINT",
            "end of input",
            "broken pipe",
            "client does not read",
            "full stderr",
        ):
            await _stop_over_stdio(how, shutdowns)
        for number in (signal.SIGTERM, signal.SIGINT):
            await _stop_over_http(number, shutdowns)
    return [
        none_of("calls in flight that shutdown left unanswered", shutdowns.unanswered, shutdowns.calls),
        none_of("shutdowns without a clean exit", shutdowns.unclean, shutdowns.count),
        at_most("longest shutdown, if upstreams answer immediately", shutdowns.longest, _GRACE + 1, "s"),
        at_most("longest shutdown, if the client does not read", shutdowns.longest_unread, _GRACE + 1, "s"),
        *await _long_line(),
        *await _killed_workers(16),
        *await _slow_clients(500 if long else 100, long=long),
        *await _cancelled(2000 if long else 200),
        *await _unread_stream(modern=False),
        *await _unread_stream(modern=True),
        *await _exceed_grace(),
    ]


# --- shutdown ---


@dataclass
class _Shutdowns:
    count: int = 0
    calls: int = 0
    longest: float = 0
    longest_unread: float = 0
    unanswered: list[str] = field(default_factory=list)
    unclean: list[str] = field(default_factory=list)

    def add(self, how: str, code: int) -> None:
        self.count += 1
        if code != 0:
            self.unclean.append(f"{how}: exit code {code}")


@contextmanager
def _full_pipe() -> Iterator[int]:
    """The write end of a full pipe that is not read."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writing, bytes(4096))
    os.set_blocking(writing, True)
    yield writing
    os.close(reading)
    os.close(writing)


async def _stop_over_stdio(how: str, shutdowns: _Shutdowns) -> None:
    """Stops a bridge over stdio with calls in flight."""
    with _full_pipe() as full:
        stderr = full if how == "full stderr" else DEVNULL
        async with _tools() as (upstream, tools), over_pipes(tools, stderr) as (process, pipe):
            await pipe.send(*(call("hold", f"c{n}") for n in range(_CALLS)))
            await upstream.until(lambda: len(upstream.exchanges) == _CALLS)
            if how == "client does not read":
                await pipe.send(*(call("large", f"l{n}") for n in range(4)))
                await upstream.until(lambda: len(upstream.exchanges) == _CALLS + 4)
            started = anyio.current_time()
            match how:
                case "end of input":
                    pipe.hang_up()
                case "broken pipe":
                    pipe.stop_reading()
                case _:
                    process.send_signal(signal.SIGINT if how == "SIGINT" else signal.SIGTERM)
            upstream.go.set()
            if how not in ("broken pipe", "client does not read"):
                shutdowns.calls += _CALLS
                answered = set()
                while line := await pipe.line(_TIMEOUT_SECONDS):
                    answer = json.loads(line)
                    answered |= {answer["id"]} if "result" in answer else set()
                shutdowns.unanswered += [
                    f"stdio, {how}: c{n}" for n in range(_CALLS) if f"c{n}" not in answered
                ]
            with anyio.fail_after(_TIMEOUT_SECONDS):
                shutdowns.add(f"stdio, {how}", await process.wait())
            seconds = anyio.current_time() - started
            if how == "client does not read":
                shutdowns.longest_unread = max(shutdowns.longest_unread, seconds)
            else:
                shutdowns.longest = max(shutdowns.longest, seconds)


async def _stop_over_http(number: signal.Signals, shutdowns: _Shutdowns) -> None:
    """Stops a bridge over HTTP with calls in flight and open streams of both eras."""
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
            await upstream.until(lambda: len(upstream.exchanges) == _CALLS)
            started = anyio.current_time()
            os.kill(bridge.pid, number)
            upstream.go.set()
        shutdowns.calls += _CALLS
        shutdowns.unanswered += [
            f"HTTP, {number.name}: {answer}" for answer in answered if "result" not in answer
        ]
        shutdowns.add(f"HTTP, {number.name}", await bridge.ended())
        shutdowns.longest = max(shutdowns.longest, anyio.current_time() - started)


def _web() -> httpx.AsyncClient:
    return httpx.AsyncClient(timeout=_TIMEOUT_SECONDS, limits=httpx.Limits(max_connections=None))


# --- misbehaving clients ---


async def _long_line() -> list[Figure]:
    """100 MB on one line."""
    async with _tools() as (_, tools), over_pipes(tools) as (process, pipe):
        bridge = Bridge(process.pid, process)
        await pipe.send(call("ok", 6))
        await pipe.answer()  # the SDK has been imported
        bridge.reset_peak()
        before = bridge.rss
        for _ in range(100):
            await pipe.write(b"x" * 1_000_000)
        await pipe.write(b"\n")
        error = await pipe.answer()
        extra = bridge.peak - before
        await pipe.send(call("ok", 7))
        answer = await pipe.answer()
        wrong = [] if "error" in error and answer.get("id") == 7 else [str((error, answer))]
        return [
            none_of("a line of 100 MB: accepted, or the next line not answered", wrong, 1),
            at_most("  extra memory", extra, 20, "MB"),
        ]


@dataclass
class _Interrupted:
    """A client of the handshake era whose worker is killed while its call runs."""

    session: Session
    has_begun: anyio.Event = field(default_factory=anyio.Event)
    problems: list[str] = field(default_factory=list)

    async def call_and_ask_again(self) -> None:
        """Make a call. When its stream breaks off, ask for the rest with the id of its first event."""
        event_id = ""
        with suppress(httpx.TransportError):
            content = json.dumps(call("hold", 7)).encode()
            headers = self.session.headers
            async with self.session.web.stream(
                "POST", self.session.url, content=content, headers=headers
            ) as reply:
                async for line in reply.aiter_lines():
                    if line.startswith("id: "):
                        event_id = line.removeprefix("id: ")
                        self.has_begun.set()
            self.problems.append("the call ended")
        self.session.headers["last-event-id"] = event_id
        async with self.session.stream() as events:
            answer = await anext(events)
        del self.session.headers["last-event-id"]
        if answer.get("id") != 7 or "may have been carried out" not in str(answer.get("error")):
            self.problems.append(f"no error for the call: {answer}")

    async def go_on(self) -> None:
        """Call again in the same session, and open its stream again."""
        answer = await self.session.ask(call("ok", 8))
        if "result" not in answer:
            self.problems.append(f"the next call: {answer}")
        async with self.session.stream() as events:
            with anyio.move_on_after(_GRACE):
                await anext(events)
                return
        self.problems.append("not notified")


async def _killed_workers(count: int) -> list[Figure]:
    """All workers are killed while calls run, and the files change before the clients come back."""
    async with (
        _tools() as (upstream, tools),
        over_http(tools, None, "bridge", "--workers", "2") as bridge,
        _web() as web,
    ):
        clients = [_Interrupted(Session(web, bridge.url)) for _ in range(count)]
        async with anyio.create_task_group() as tasks:
            for client in clients:
                await client.session.open()
                tasks.start_soon(client.call_and_ask_again)
            for client in clients:
                await client.has_begun.wait()
            await upstream.until(lambda: len(upstream.exchanges) == count)
            (tools / "more.yaml").write_text(_TOOL.format(name="ok", url=upstream.url))
            for worker in proc.children(bridge.pid):
                os.kill(worker, signal.SIGKILL)
        async with anyio.create_task_group() as tasks:
            for client in clients:
                tasks.start_soon(client.go_on)
        wrong = [problem for client in clients for problem in client.problems]
        return [none_of("clients of killed workers that were not told, or did not go on", wrong, count)]


async def _slow_clients(count: int, *, long: bool) -> list[Figure]:
    """Clients that never finish a request, clients that never read, and one that keeps calling."""
    async with _tools() as (_, tools), over_http(tools) as bridge, _web() as web, AsyncExitStack() as stack:
        endpoint = urlsplit(bridge.url)
        assert endpoint.hostname
        assert endpoint.port
        baseline = await _cpu_per_call(bridge, Session(web, bridge.url), 200)
        before = bridge.rss
        for _ in range(count):
            _, writer = await asyncio.open_connection(endpoint.hostname, endpoint.port)
            stack.callback(writer.close)
            writer.write(b"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ")
        readers = []
        for _ in range(30):
            slow = stack.enter_context(_slow_socket(endpoint.hostname, endpoint.port))
            slow.sendall(_raw_call(f"{endpoint.hostname}:{endpoint.port}"))
            readers.append(slow)
        await bridge.wait_for_log(_ANSWERED, times=len(readers))
        under_load = await _cpu_per_call(bridge, Session(web, bridge.url), 200)
        growth = bridge.rss - before
        figures = [
            at_most(
                f"CPU of a call among {count} slow sockets, compared with none",
                under_load / baseline,
                2,
                "times",
            ),
            at_most("  extra memory, with 30 unread answers of 1.9 MB", growth, 200, "MB"),
        ]
        if long:
            await anyio.sleep(60)
            connected = [slow for slow in readers if _has_all(slow)]
            figures.append(
                at_most(
                    "  clients that read nothing for a minute, and were not disconnected",
                    len(connected),
                    0,
                    "",
                )
            )
        return figures


def _has_all(slow: socket.socket) -> bool:
    """Whether a complete answer arrives before the connection is closed."""
    size = 0
    with suppress(ConnectionError):
        while chunk := slow.recv(1 << 20):
            size += len(chunk)
            if size >= len(_LARGE):
                return True
    return False


@contextmanager
def _slow_socket(host: str, port: int) -> Iterator[socket.socket]:
    """A socket with a minimal receive buffer."""
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        slow.settimeout(_TIMEOUT_SECONDS)
        slow.connect((host, port))
        yield slow


def _raw_call(host: str) -> bytes:
    modern = Session(_web(), "").modern(call("large"))
    content: bytes = modern["content"]
    headers = {"host": host, "content-length": str(len(content)), **modern["headers"]}
    lines = [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(["POST /mcp HTTP/1.1", *lines, "", ""]).encode() + content


async def _cancelled(count: int) -> list[Figure]:
    """Calls that are cancelled in both eras while the upstream is busy with them."""
    async with _tools() as (upstream, tools), over_http(tools) as bridge, _web() as web:
        session = Session(web, bridge.url)
        await session.open()
        descriptors_before = bridge.descriptors

        async def cancel_call(id: int) -> None:
            before = len(upstream.exchanges)
            async with anyio.create_task_group() as tasks:
                if id % 2:
                    tasks.start_soon(Session(web, bridge.url).ask_modern, call("hold", id))
                else:
                    tasks.start_soon(session.post, call("hold", id))
                await upstream.until(lambda: len(upstream.exchanges) > before)
                if id % 2:
                    tasks.cancel_scope.cancel()
                else:
                    await session.post(cancel(id))

        for id in range(count):
            await cancel_call(id)
        await bridge.wait_for_log(_HELD, times=count)
        uncancelled = [each.decode() for each in _HELD.findall(bridge.log) if each != b"cancelled"]
        answer = await session.ask_modern(call("ok", count))
        left = bridge.descriptors - descriptors_before
        return [
            none_of("cancelled calls that continued", uncancelled, count),
            none_of("  the next call is not answered", [] if "result" in answer else [str(answer)], 1),
            at_most("  descriptors left open", left, 4, ""),
        ]


async def _unread_stream(*, modern: bool) -> list[Figure]:
    """Changes continue after the socket of a client that does not read is full. Another client gets each notification."""
    era = "modern" if modern else "handshake"
    async with serving_api() as api, _web() as web:
        client = Client()
        served = Served(api.url, client)
        served.show(*TOOLS)
        tools, limits = served.registry.current.tools, served.server.limits
        versions = [Snapshot(tools), Snapshot(tools[1:])]
        notified = changes = 0

        async def change(events: AsyncIterator[Any]) -> None:
            nonlocal notified, changes
            changes += 1
            served.registry.replace(versions[changes % 2])
            await served.server.announcer.announce()
            with anyio.move_on_after(_GRACE):
                notified += (await anext(events))["method"] == "notifications/tools/list_changed"

        async with served.http() as url:
            slow, other = Session(web, url), Session(web, url)
            await slow.open()
            await other.open()
            listen = slow.modern(request("subscriptions/listen", 5, notifications={"toolsListChanged": True}))
            http_request = listen if modern else {"headers": slow.headers}
            with _unread(url, "POST" if modern else "GET", **http_request):
                async with other.stream() as events:
                    while limits.usage["streams"] < 2:
                        await checkpoint()
                    while limits.usage["results"] == 0:
                        await change(events)
                    for _ in range(_BACKLOG + 100):
                        await change(events)
            after = await other.ask_modern(call("echo"))
        await client.aclose()
        missed = [f"{changes - notified} of them"] if notified < changes else []
        return [
            none_of(
                f"changes without a notification, next to a {era} stream that is not read", missed, changes
            ),
            none_of("  the next call is not answered", [] if "result" in after else [str(after)], 1),
        ]


@contextmanager
def _unread(url: str, method: str, headers: dict[str, str], content: bytes = b"") -> Iterator[None]:
    """A request whose answer is read as little as possible."""
    endpoint = urlsplit(url)
    lines = [f"{name}: {value}" for name, value in {"host": endpoint.netloc, **headers}.items()]
    head = "\r\n".join(
        [f"{method} {endpoint.path} HTTP/1.1", *lines, f"content-length: {len(content)}", "", ""]
    )
    with _slow_socket(endpoint.hostname or "", endpoint.port or 0) as slow:
        slow.sendall(head.encode() + content)
        yield


async def _exceed_grace() -> list[Figure]:
    """Calls that exceed the grace period, over both transports: they get an error, and the process exits in time."""
    errors: list[str] = []
    seconds: list[float] = []

    async def over_stdio() -> None:
        async with _tools() as (upstream, tools), over_pipes(tools, DEVNULL) as (process, pipe):
            await pipe.send(call("hold"))
            await upstream.until(lambda: len(upstream.exchanges) == 1)
            started = anyio.current_time()
            process.send_signal(signal.SIGTERM)
            errors.append(str(json.loads(await pipe.line(_TIMEOUT_SECONDS))))
            with anyio.fail_after(_TIMEOUT_SECONDS):
                await process.wait()
            seconds.append(anyio.current_time() - started)

    async def over_web(*workers: str) -> None:
        async with (
            _tools() as (upstream, tools),
            _web() as web,
            over_http(tools, None, "bridge", *workers) as bridge,
        ):
            async with anyio.create_task_group() as tasks:

                async def ask(id: int) -> None:
                    modern = Session(web, bridge.url)
                    errors.append(str(await modern.ask_modern(call("hold", id))))

                for id in range(4):
                    tasks.start_soon(ask, id)
                await upstream.until(lambda: len(upstream.exchanges) == 4)
                started = anyio.current_time()
                os.kill(bridge.pid, signal.SIGTERM)
            await bridge.ended()
            seconds.append(anyio.current_time() - started)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(over_stdio)
        tasks.start_soon(over_web)
        tasks.start_soon(over_web, "--workers", "2")
    text = "The server stopped before this call was done; it may have been carried out"
    return [
        none_of(
            "calls after the grace period without an error", [each for each in errors if text not in each], 9
        ),
        at_most("  longest shutdown, with and without workers", max(seconds), _GRACE + 2, "s"),
    ]


async def _cpu_per_call(bridge: Bridge, session: Session, count: int) -> float:
    """CPU seconds that the bridge uses for one call."""
    before = bridge.cpu
    for id in range(count):
        assert "result" in await session.ask_modern(call("ok", id))
    return (bridge.cpu - before) / count
