"""What one thing costs another: a stuck upstream, a failing one, a large load, a large reply, a slow projection.

Latencies are ratios or bounds in one run, over a stdio bridge that answers nothing but pings meanwhile.
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
from bridge.toolfiles.watch.scan import Directories
from tests.kits.figures import Figure, at_most, none_of
from tests.kits.serving import ROOT, over_http, over_pipes
from tests.serving.served import Pipe, Session, call, request
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
        *await _stuck(2000 if long else 200),
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


async def _stuck(count: int) -> list[Figure]:
    """200 calls that hang in one upstream, and calls to another."""
    with TemporaryDirectory() as name:
        tools = Path(name)
        async with serve_faults(_PATHS) as stuck, serve_faults(_PATHS) as free:
            for upstream, server, path in (("stuck", stuck, "hang"), ("free", free, "ok")):
                (tools / f"{upstream}.upstream.yaml").write_text(
                    _UPSTREAM.format(url=server.url) + "limits: {concurrency: 200}\n"
                )
                (tools / f"{path}.yaml").write_text(_TOOL.format(path=path, upstream=upstream, more=""))
            async with over_http(tools) as bridge, _web() as web:
                session = Session(web, bridge.url)
                idle = await _latencies(lambda: session.ask_modern(call("ok")), count)
                async with anyio.create_task_group() as tasks:
                    for id in range(200):
                        tasks.start_soon(Session(web, bridge.url).ask_modern, call("hang", id))
                    await stuck.until(lambda: len(stuck.heard) == 200)
                    beside = await _latencies(lambda: session.ask_modern(call("ok")), count)
                    stuck.go.set()
    ratio = _percentile(beside, 99) / _percentile(idle, 99)
    return [at_most("p99 beside 200 calls stuck in another upstream, to that at rest", ratio, 2, "times")]


async def _failing(count: int) -> list[Figure]:
    """An upstream that always answers 503, to calls that may be repeated."""
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
    saved = 10  # retries that an upstream has to begin with
    return [
        at_most(
            f"requests of {count} calls that all fail, beyond the first {saved}",
            (sent - saved) / count,
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
                        await pipe.answered(f"{tool}-{number}")

                async def files() -> None:
                    text = _TOOL.format(path="x", upstream="api", more="")
                    await anyio.run_process([sys.executable, "-c", _WRITE, str(tools), text])

                for what, work in (
                    ("nothing", anyio.sleep_forever),
                    ("answers of 1 MB, projected", lambda: calls("large")),
                    ("the longest allowed projection", lambda: calls("numbers")),
                    ("a load of 2 000 files", files),
                ):
                    figures.append(await _pings(pipe, what, work, max(seconds, 5)))
    return figures


async def _pings(
    pipe: "_Answers", what: str, work: Callable[[], Coroutine[Any, Any, None]], seconds: float
) -> Figure:
    """How long a ping takes at most meanwhile; the worst of a thousand is left out."""
    taken: list[float] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work)
        until = anyio.current_time() + seconds
        while anyio.current_time() < until:
            began = anyio.current_time()
            await pipe.send(request("ping", f"ping-{what}-{began}"))
            await pipe.answered(f"ping-{what}-{began}")
            taken.append(anyio.current_time() - began)
            await anyio.sleep(0.002)
        tasks.cancel_scope.cancel()
    return at_most(
        f"p99.9 of a ping during {what} ({len(taken)} pings)", _percentile(taken, 99.9) * 1000, 50, "ms"
    )


class _Answers:
    """A stdio client that hands out answers by id."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self._waiting: dict[str, anyio.Event] = {}
        self._writing = anyio.Lock()

    async def send(self, message: dict[str, Any]) -> None:
        self._waiting[str(message["id"])] = anyio.Event()
        async with self._writing:
            await self._pipe.send(message)

    async def answered(self, id: str) -> None:
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


# --- what is pure ---


def _urls(count: int) -> Figure:
    """Values of a path argument: one segment that decodes to the value, or a refusal."""
    arguments, _ = Arguments.compile({"properties": {"s": {"type": "string"}}, "required": ["s"]})
    spec = RequestSpec.model_validate({"method": "GET", "url": "/things/{s}/end{?s}"})
    template, _ = RequestTemplate.compile(
        spec, base_url="http://api.test/v1", arguments=arguments, reserved=frozenset(), accept="*/*"
    )
    dice = random.Random(7)  # noqa: S311 - it only throws dice
    alphabets = [
        "./\\%2eEfF5cC;ab?#&=@: ",
        "./%",
        "".join(map(chr, range(0x250))),
        "aé\u202e\U0001f600\ud800/.",
    ]
    wrong = []
    for _ in range(count):
        value = "".join(dice.choices(dice.choice(alphabets), k=dice.randint(0, 12)))
        with suppress(InvalidCall):
            url = urlsplit(template.build(arguments.check({"s": value})).url)
            segments = [unquote(segment) for segment in url.path.split("/")]
            path = ["", "v1", "things", value, "end"]
            if (url.scheme, url.netloc, segments) != ("http", "api.test", path) or _leads_away(value):
                wrong.append(repr(value))
    return none_of("values of a path argument that were more or less than one segment", wrong, count)


def _leads_away(value: str) -> bool:
    """Whether a server that decodes once too often, or cuts parameters, would see other segments."""
    again = unquote(value)
    pieces = [piece.partition(";")[0] for text in (value, again) for piece in re.split(r"[/\\]", text)]
    return not {".", ".."}.isdisjoint(pieces) or again.count("/") > value.count("/")


def _sockets() -> Figure:
    """Every tool file that we have, and schemas that refer to a listening socket."""
    opened: list[str] = []
    loading = True

    def hear(event: str, _arguments: tuple[object, ...]) -> None:
        if loading and event.startswith(("socket.", "urllib.", "http.")):
            opened.append(event)

    sys.addaudithook(hear)
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
            opened.append("somebody came")
    return none_of("sockets opened by loading tool files", opened, len(loaded.files))


def _web() -> httpx.AsyncClient:
    return httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=None))


async def _latencies(ask: Callable[[], Awaitable[Any]], count: int) -> list[float]:
    taken = []
    for _ in range(count):
        began = anyio.current_time()
        await ask()
        taken.append(anyio.current_time() - began)
    return taken


def _percentile(taken: list[float], percent: float) -> float:
    return sorted(taken)[min(len(taken) - 1, int(len(taken) * percent / 100))]
