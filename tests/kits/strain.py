"""How one load slows down other calls: a hanging upstream, a failing one, many files, a large reply, a slow projection.

The latency of the event loop is that of pings over stdio during the load.
"""

import random
import re
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import anyio
import anyio.lowlevel
import httpx

from bridge.errors import InvalidCall
from bridge.secrets import Sources
from bridge.spec import RequestSpec
from bridge.tool.request.builder import RequestTemplate
from bridge.tool.schema.arguments import Arguments
from bridge.toolfiles.loader import load_once
from bridge.toolfiles.place import Directories
from tests.kits.figures import Figure, at_most, none_of
from tests.kits.serving import ROOT, over_http, over_pipes
from tests.serving.messages import call, request
from tests.serving.pipe import Pipe
from tests.serving.session import Session
from tests.upstream.conversation import Exchange, serve_faults

_BAD: Final = ROOT / "tests/toolfiles/bad"
_LARGE: Final = b'{"items": [%s]}' % b",".join(
    [b'{"id": %d, "name": "%s"}' % (n, b"x" * 80) for n in range(9000)]
)
_SLOW: Final = "[].[@, @, @, @, @, @, @, @][] | [?@ > `1`] | [?@ > `2`] | [?@ > `3`] | length(@)"
_WRITE: Final = "import sys\nfor n in range(2000): open(f'{sys.argv[1]}/t{n}.yaml', 'w').write(sys.argv[2])"
_UPSTREAM: Final = "baseUrl: {url}\nauth: {{type: none}}\ntimeout: 30s\n"
_TOOL: Final = (
    "description: Calls {path}.\nupstream: {upstream}\nrequest: {{method: GET, url: /{path}}}\n{more}"
)


async def run(*, long: bool) -> list[Figure]:
    return [
        *await _hanging(2000 if long else 200),
        *await _failing(1000 if long else 100),
        *await _stalls(30 if long else 5),
        _urls(100_000 if long else 10_000),
        _sockets(),
    ]


async def _ok(exchange: Exchange) -> None:
    await exchange.reply()


async def _hang(exchange: Exchange) -> None:
    await exchange.server.go.wait()
    await exchange.reply()


async def _fail(exchange: Exchange) -> None:
    await exchange.reply(b"{}", "503 Service Unavailable")


async def _large(exchange: Exchange) -> None:
    await exchange.reply(_LARGE)


async def _numbers(exchange: Exchange) -> None:
    await exchange.reply(str(list(range(20_000))).encode())


_PATHS: Final = {"ok": _ok, "hang": _hang, "fail": _fail, "large": _large, "numbers": _numbers}


# --- upstreams ---


async def _hanging(count: int) -> list[Figure]:
    """The latency of calls to one upstream while 200 calls to another hang."""
    with TemporaryDirectory() as name:
        tools = Path(name)
        async with serve_faults(_PATHS) as hanging, serve_faults(_PATHS) as free:
            for upstream, server, path in (("hanging", hanging, "hang"), ("free", free, "ok")):
                (tools / f"{upstream}.upstream.yaml").write_text(
                    _UPSTREAM.format(url=server.url) + "limits: {concurrency: 200}\n"
                )
                (tools / f"{path}.yaml").write_text(_TOOL.format(path=path, upstream=upstream, more=""))
            async with over_http(tools) as bridge, _web() as web:
                session = Session(web, bridge.url)
                idle = await _measure_latencies(lambda: session.ask_modern(call("ok")), count)
                async with anyio.create_task_group() as tasks:
                    for id in range(200):
                        tasks.start_soon(Session(web, bridge.url).ask_modern, call("hang", id))
                    await hanging.until(lambda: len(hanging.exchanges) == 200)
                    under_load = await _measure_latencies(lambda: session.ask_modern(call("ok")), count)
                    hanging.go.set()
    ratio = _percentile(under_load, 99) / _percentile(idle, 99)
    return [
        at_most("p99 during 200 hanging calls to another upstream, compared with none", ratio, 2, "times")
    ]


async def _failing(count: int) -> list[Figure]:
    """An upstream that always answers 503 to calls that may be retried."""
    with TemporaryDirectory() as name:
        tools = Path(name)
        async with serve_faults(_PATHS) as api:
            (tools / "api.upstream.yaml").write_text(_UPSTREAM.format(url=api.url))
            (tools / "fail.yaml").write_text(_TOOL.format(path="fail", upstream="api", more=""))
            async with over_http(tools) as bridge, _web() as web:
                session = Session(web, bridge.url)
                for id in range(count):
                    await session.ask_modern(call("fail", id))
            sent = sum(api.counts.values())
    budget = 10  # retries that an upstream may use first
    return [
        at_most(
            f"requests of {count} calls that all fail, beyond the first {budget}",
            (sent - budget) / count,
            1.2,
            "requests a call",
        )
    ]


# --- the event loop ---


async def _stalls(seconds: float) -> list[Figure]:
    figures = []
    with TemporaryDirectory() as name:
        tools = Path(name)
        async with serve_faults(_PATHS) as api:
            (tools / "api.upstream.yaml").write_text(_UPSTREAM.format(url=api.url))
            large = "response: {jmespath: 'items[].{id: id, name: name}', maxBytes: 2MB}\nmaxBytes: 4MiB\n"
            (tools / "large.yaml").write_text(_TOOL.format(path="large", upstream="api", more=large))
            slow = f"response: {{jmespath: '{_SLOW}'}}\n"
            (tools / "numbers.yaml").write_text(_TOOL.format(path="numbers", upstream="api", more=slow))
            async with _stdio(tools) as pipe:

                async def calls(tool: str) -> None:
                    number = 0
                    while True:
                        number += 1
                        await pipe.send(call(tool, f"{tool}-{number}"))
                        await pipe.wait_for_answer(f"{tool}-{number}")

                async def files() -> None:
                    text = _TOOL.format(path="x", upstream="api", more="")
                    await anyio.run_process([sys.executable, "-c", _WRITE, str(tools), text])

                for load, work in (
                    ("no load", anyio.sleep_forever),
                    ("answers of 1 MB, projected", lambda: calls("large")),
                    ("the longest allowed projection", lambda: calls("numbers")),
                    ("loading 2 000 files", files),
                ):
                    figures.append(await _pings(pipe, load, work, max(seconds, 5)))
    return figures


async def _pings(
    pipe: "_Answers", load: str, work: Callable[[], Coroutine[Any, Any, None]], seconds: float
) -> Figure:
    """The p99.9 latency of pings during the work."""
    latencies: list[float] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work)
        until = anyio.current_time() + seconds
        while anyio.current_time() < until:
            started = anyio.current_time()
            await pipe.send(request("ping", f"ping-{load}-{started}"))
            await pipe.wait_for_answer(f"ping-{load}-{started}")
            latencies.append(anyio.current_time() - started)
            await anyio.sleep(0.002)
        tasks.cancel_scope.cancel()
    return at_most(
        f"p99.9 of a ping during {load} ({len(latencies)} pings)",
        _percentile(latencies, 99.9) * 1000,
        50,
        "ms",
    )


class _Answers:
    """A stdio client that matches answers by id."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self._waiting: dict[str, anyio.Event] = {}
        self._writing = anyio.Lock()

    async def send(self, message: dict[str, Any]) -> None:
        self._waiting[str(message["id"])] = anyio.Event()
        async with self._writing:
            await self._pipe.send(message)

    async def wait_for_answer(self, id: str) -> None:
        await self._waiting[id].wait()

    async def read(self) -> None:
        while True:
            answer = await self._pipe.answer()
            if event := self._waiting.pop(str(answer.get("id")), None):
                event.set()


@asynccontextmanager
async def _stdio(tools: Path) -> AsyncIterator[_Answers]:
    async with over_pipes(tools) as (_, pipe), anyio.create_task_group() as tasks:
        answers = _Answers(pipe)
        tasks.start_soon(answers.read)
        yield answers
        tasks.cancel_scope.cancel()


# --- without a bridge ---


def _urls(count: int) -> Figure:
    """Values of a path argument: each is one segment that decodes to the value, or is refused."""
    arguments, _ = Arguments.compile({"properties": {"s": {"type": "string"}}, "required": ["s"]})
    spec = RequestSpec.model_validate({"method": "GET", "url": "/things/{s}/end{?s}"})
    template, _ = RequestTemplate.compile(
        spec, base_url="http://api.test/v1", arguments=arguments, reserved=frozenset(), accept="*/*"
    )
    rng = random.Random(7)  # noqa: S311 - not security-relevant
    alphabets = [
        "./\\%2eEfF5cC;ab?#&=@: ",
        "./%",
        "".join(map(chr, range(0x250))),
        "aé\u202e\U0001f600\ud800/.",
    ]
    wrong = []
    for _ in range(count):
        value = "".join(rng.choices(rng.choice(alphabets), k=rng.randint(0, 12)))
        with suppress(InvalidCall):
            url = urlsplit(template.build(arguments.check({"s": value})).url)
            segments = [unquote(segment) for segment in url.path.split("/")]
            path = ["", "v1", "things", value, "end"]
            if (url.scheme, url.netloc, segments) != ("http", "api.test", path) or _changes_path(value):
                wrong.append(repr(value))
    return none_of("values of a path argument that did not stay one segment", wrong, count)


def _changes_path(value: str) -> bool:
    """Whether a server that decodes twice, or removes path parameters, would see other segments."""
    again = unquote(value)
    pieces = [piece.partition(";")[0] for text in (value, again) for piece in re.split(r"[/\\]", text)]
    return not {".", ".."}.isdisjoint(pieces) or again.count("/") > value.count("/")


def _sockets() -> Figure:
    """All tool files of the repository, and schemas that refer to a listening socket."""
    opened: list[str] = []
    loading = True

    def on_audit_event(event: str, _arguments: tuple[object, ...]) -> None:
        if loading and event.startswith(("socket.", "urllib.", "http.")):
            opened.append(event)

    sys.addaudithook(on_audit_event)
    with socket.create_server(("127.0.0.1", 0)) as listener, TemporaryDirectory() as name:
        port = listener.getsockname()[1]
        listener.settimeout(0)
        opened.clear()
        for number, schema in enumerate(
            (
                f"$ref: http://127.0.0.1:{port}/a",
                f"$schema: http://127.0.0.1:{port}/b",
                f"$id: http://127.0.0.1:{port}/c",
            )
        ):
            text = f"description: x\ninputSchema: {{{schema}}}\nrequest: {{method: GET, url: http://localhost:{port}/x}}\n"
            Path(name, f"a{number}.yaml").write_text(text)
        folders = [str(path) for path in _BAD.iterdir() if path.is_dir()]
        loaded = load_once(Directories((name, str(ROOT / "tools.d"), *folders)), Sources({}))
        loading = False
        with suppress(BlockingIOError):
            listener.accept()
            opened.append("connection accepted")
    return none_of("sockets opened by loading tool files", opened, len(loaded.files))


def _web() -> httpx.AsyncClient:
    return httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=None))


async def _measure_latencies(send: Callable[[], Awaitable[Any]], count: int) -> list[float]:
    latencies = []
    for _ in range(count):
        started = anyio.current_time()
        await send()
        latencies.append(anyio.current_time() - started)
    return latencies


def _percentile(latencies: list[float], percent: float) -> float:
    return sorted(latencies)[min(len(latencies) - 1, int(len(latencies) * percent / 100))]
