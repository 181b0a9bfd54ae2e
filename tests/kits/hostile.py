"""Hostile bytes over HTTP: no other client is slowed down, and no request is parsed in two ways (request smuggling).

*Framing*: connections with a key send requests whose bodies contain another request, in random segments, some of them
after an ambiguous head or chunk. Each unambiguous request gets one reply, a hidden request gets none.
*Floods*: a separate process holds 50 connections without a key open and sends on each as fast as it is read.
*Floods over TLS*: the same to a bridge with a certificate, with and without handshakes.
A seed is printed with each framing figure; ``HOSTILE_SEED`` sets it.
"""

import asyncio
import itertools
import json
import os
import random
import ssl
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final
from urllib.parse import urlsplit

import anyio
import httptools
from anyio import to_thread
from anyio.abc import Process

from tests.http.test_framing import AMBIGUOUS, BAD_CHUNKS, JDK, WEBSOCKET
from tests.kits.figures import Figure, at_most, none_of
from tests.kits.serving import ROOT, Bridge, over_http
from tests.serving.messages import META, Json, call, request
from tests.upstream.certificates import Authority
from tests.upstream.conversation import Exchange, Faulty, serve_faults

_KEY: Final = "key-of-ann"
_CONNECTIONS: Final = 50
NICE: Final = 10
"""Floods run at a lower priority than the bridge and the measured callers."""
_HEAD: Final = b"POST /mcp HTTP/1.1\r\nHost: localhost\r\n"
_WITH_KEY: Final = (
    _HEAD
    + b"Authorization: Bearer key-of-ann\r\nContent-Type: application/json\r\n"
    + b"Accept: application/json, text/event-stream\r\nMCP-Protocol-Version: 2026-07-28\r\n"
)
_CHUNKED: Final = b"Transfer-Encoding: chunked\r\n"
_TOOL: Final = """\
description: Answers.
request: {{method: GET, url: "{url}/{name}"}}
"""


def _posted(message: Json, extra: bytes = b"") -> bytes:
    """A complete request of 2026-07-28."""
    params = message["params"]
    body = json.dumps(message | {"params": params | {"_meta": META}}).encode()
    names = f"Mcp-Method: {message['method']}\r\n" + (
        f"Mcp-Name: {params['name']}\r\n" if "name" in params else ""
    )
    return b"%s%s%sContent-Length: %d\r\n\r\n%s" % (_WITH_KEY, names.encode(), extra, len(body), body)


_MARKER: Final = _posted(call("marker"))
_CALL: Final = _posted(call("called"))
_HEALTHY: Final = b"GET /-/healthy HTTP/1.1\r\nHost: localhost\r\n\r\n"


# --- framing ---


class _Replies:
    """The statuses of the final replies on one connection."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.parser = httptools.HttpResponseParser(self)

    def on_message_complete(self) -> None:
        if self.parser.get_status_code() >= 200:
            self.statuses.append(self.parser.get_status_code())


def _chunked(body: bytes, rng: random.Random) -> bytes:
    parts = []
    while body:
        size = rng.randint(1, len(body))
        extension = rng.choice([b"", b"", b";a=b", b';a="b"'])
        parts.append(b"%x%s\r\n%s\r\n" % (size, extension, body[:size]))
        body = body[size:]
    trailers = rng.choice([b"", b"X-Trailer: a\r\n", b"Authorization: Bearer x\r\n"])
    return b"".join([*parts, b"0\r\n", trailers, b"\r\n"])


def _unambiguous(rng: random.Random) -> bytes:
    """A request that gets one reply; its body may contain the marker."""
    if rng.random() < 0.2:
        return rng.choice([b"", b"\r\n"]) + rng.choice([_HEALTHY, _posted(request("tools/list"))])
    body = rng.choice([_MARKER, b"x" + _MARKER, b"\r\n\r\n" + _MARKER, b"0\r\n\r\n" + _MARKER])
    extra = rng.choice([b"", JDK, WEBSOCKET, b"Expect: 100-continue\r\n", b"X-Long: %s\r\n" % (b"x" * 5000)])
    if rng.random() < 0.5:
        return b"%s%sContent-Length: %d\r\n\r\n%s" % (_WITH_KEY, extra, len(body), body)
    return b"%s%s%s\r\n%s" % (_WITH_KEY, extra, _CHUNKED, _chunked(body, rng))


def _ambiguous(rng: random.Random) -> bytes:
    """Bytes that are answered with an error, after which the connection is closed."""
    if rng.random() < 0.6:
        return _WITH_KEY + rng.choice(list(AMBIGUOUS.values())) + b"\r\n" + _MARKER
    return _WITH_KEY + _CHUNKED + b"\r\n" + rng.choice(list(BAD_CHUNKS.values())) + _MARKER


def _segments(data: bytes, rng: random.Random) -> list[bytes]:
    kind = rng.random()
    if kind < 0.3:
        return [data]
    if kind < 0.4:
        return [data[number : number + 1] for number in range(len(data))]
    cuts = sorted({0, len(data), *(rng.randrange(len(data)) for _ in range(rng.randint(1, 12)))})
    return [data[start:end] for start, end in itertools.pairwise(cuts)]


async def _stream(host: str, port: int, seed: int) -> str:
    """What is wrong with the replies on one connection; empty if nothing is."""
    rng = random.Random(seed)  # noqa: S311 - reproducible
    requests = [_unambiguous(rng) for _ in range(rng.randint(1, 4))]
    is_ambiguous = rng.random() < 0.6
    data = b"".join(requests) + (_ambiguous(rng) if is_ambiguous else b"")
    replies = _Replies()
    reader, writer = await asyncio.open_connection(host, port)
    try:
        with anyio.fail_after(20), suppress(ConnectionError):
            for segment in _segments(data, rng):
                writer.write(segment)
                await asyncio.sleep(0)
            if not is_ambiguous:
                writer.write_eof()
            while chunk := await reader.read(1 << 16):
                replies.parser.feed_data(chunk)
    except TimeoutError:
        return f"seed {seed}: the connection stays open after {replies.statuses}"
    finally:
        writer.close()
    is_answered = [status in (200, 400) for status in replies.statuses[: len(requests)]]
    error = replies.statuses[len(requests) :]
    # Every unambiguous request is answered. The error for the ambiguous one may be lost when the connection is closed.
    if (
        is_answered != [True] * len(requests)
        or len(error) > is_ambiguous
        or any(each < 400 for each in error)
    ):
        return f"seed {seed}: {replies.statuses} for {len(requests)} requests, ambiguous: {is_ambiguous}"
    return ""


async def _framing(bridge: Bridge, faulty: Faulty, seconds: float) -> list[Figure]:
    host, port = _address(bridge)
    first = seed = int(os.environ.get("HOSTILE_SEED", time.time_ns() % 10**9))
    wrong: list[str] = []
    end = time.monotonic() + seconds

    async def send_streams() -> None:
        nonlocal seed
        while time.monotonic() < end:
            seed += 1
            if problem := await _stream(host, port, seed):
                wrong.append(problem)

    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(send_streams)
    hidden = [target for _, target in faulty.counts.elements() if target.endswith("/marker")]
    return [
        none_of(f"connections with wrong replies, seeds from {first}", wrong, seed - first),
        none_of("  requests hidden in bodies that were executed", hidden, seed - first),
    ]


# --- floods ---

_Chunks = Callable[[], Iterator[bytes]]


def _endless(start: bytes, repeated: bytes) -> _Chunks:
    """One endless request."""

    def chunks() -> Iterator[bytes]:
        yield start
        block = repeated * (60_000 // len(repeated) + 1)
        while True:
            yield block

    return chunks


def _bytewise(data: bytes) -> _Chunks:
    def chunks() -> Iterator[bytes]:
        while True:
            for number in range(len(data)):
                yield data[number : number + 1]

    return chunks


def _any_of(*data: bytes) -> _Chunks:
    def chunks() -> Iterator[bytes]:
        while True:
            yield random.choice(data)  # noqa: S311 - nothing is secret

    return chunks


_LENGTH: Final = b"Content-Length: 100000000000\r\n\r\n"
_FLOODS: Final[dict[str, _Chunks]] = {
    "trailers": _endless(_HEAD + _CHUNKED + b"\r\n1\r\nx\r\n0\r\n", b"X-Trailer: aaaaaaaa\r\n"),
    "a trailer without end": _endless(_HEAD + _CHUNKED + b"\r\n1\r\nx\r\n0\r\nX: ", b"a"),
    "one-byte chunks": _endless(_HEAD + _CHUNKED + b"\r\n", b"1\r\nx\r\n"),
    "a chunk extension without end": _endless(_HEAD + _CHUNKED + b"\r\n1;a=", b"a"),
    "a body without end": _endless(_HEAD + _LENGTH, b"x"),
    "a body after Upgrade": _endless(_HEAD + JDK + _LENGTH, b"x"),
    "a body after Expect": _endless(_HEAD + b"Expect: 100-continue\r\n" + _LENGTH, b"x"),
    "header fields": _endless(_HEAD, b"a:\r\n"),
    "a header without end": _endless(_HEAD + b"X: ", b"a"),
    "a request line without end": _endless(b"GET /", b"a"),
    "long paths of escapes": _any_of(
        *[
            b"GET %s/%s HTTP/1.1\r\nHost: localhost\r\n\r\n" % (path, b"%21" * number)
            for path in (b"", b"/.well-known/oauth-protected-resource")
            for number in (2700, 21_000)
        ]
    ),
    "requests without a key": _any_of(_HEAD + b"Content-Length: 2\r\n\r\n{}"),
    "health checks": _any_of(_HEALTHY),
    "health checks with large heads": _any_of(
        _HEALTHY.removesuffix(b"\r\n") + b"X: %s\r\n" % (b"x" * 235) * 250 + b"\r\n"
    ),
    "large heads without a key": _any_of(_HEAD + b"X: %s\r\n" % (b"x" * 235) * 250 + b"\r\n"),
    "pipelined health checks": _any_of(_HEALTHY * 200),
    "blank lines": _endless(b"", b"\r\n"),
    "heads byte by byte": _bytewise(_HEAD + b"X: a\r\n" * 200),
    "a mix of requests": _any_of(
        _HEAD + _CHUNKED + b"\r\n1\r\nx\r\n" * 100,
        _HEAD + b"Content-Length: 65536\r\n\r\n" + bytes(65_536),
        _HEALTHY * 20,
        *[_HEAD + field + b"\r\n" for field in AMBIGUOUS.values()],
    ),
}


_HELLO: Final = bytes.fromhex("16030102000100")
"""The begin of a ClientHello of 512 bytes."""
_RAW: Final[dict[str, _Chunks]] = {
    "TLS: no ClientHello": _any_of(b""),
    "TLS: a ClientHello without end": _endless(_HELLO, b"\0"),
    "TLS: plain HTTP": _any_of(_HEALTHY),
}
"""Floods of a port with TLS that begin no handshake, or never end it."""
_ENCRYPTED: Final[dict[str, _Chunks]] = {
    "TLS: handshakes": lambda: iter([b""]),
    **{
        f"TLS: {name}": _FLOODS[name]
        for name in ("a body without end", "a header without end", "requests without a key", "health checks")
    },
}
"""Floods after a handshake."""


def _unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def _flood(host: str, port: int, chunks: _Chunks, tls: ssl.SSLContext | None) -> None:
    """Runs forever: a closed connection is reopened. One whose chunks end is closed."""

    async def read(reader: asyncio.StreamReader) -> None:
        with suppress(ConnectionError, ssl.SSLError):
            while await reader.read(1 << 16):
                pass

    async def send(writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, ssl.SSLError):
            for chunk in chunks():
                writer.write(chunk)
                await writer.drain()
                await asyncio.sleep(0)

    async def connect() -> None:
        while True:
            try:
                reader, writer = await asyncio.open_connection(host, port, ssl=tls)
            except (ConnectionError, ssl.SSLError):
                await asyncio.sleep(0.01)
                continue
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(read, reader)
                await send(writer)
                tasks.cancel_scope.cancel()
            writer.close()

    async with anyio.create_task_group() as tasks:
        for _ in range(_CONNECTIONS):
            tasks.start_soon(connect)


async def _run_floods(host: str, port: int) -> None:
    """Each line of stdin names the next flood; an empty line ends it. The line is echoed on stdout when the flood runs."""
    running = anyio.CancelScope()

    async def flood(name: str, chunks: _Chunks) -> None:
        with running:
            await _flood(host, port, chunks, _unverified() if name in _ENCRYPTED else None)

    async with anyio.create_task_group() as tasks:
        while line := await to_thread.run_sync(sys.stdin.readline):
            running.cancel()
            running = anyio.CancelScope()
            if chunks := (_FLOODS | _RAW | _ENCRYPTED).get(line.strip()):
                tasks.start_soon(flood, line.strip(), chunks)
            sys.stdout.write(line)
            sys.stdout.flush()
        tasks.cancel_scope.cancel()


class _Caller:
    """Sends the same request repeatedly on one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, message: bytes) -> None:
        self._reader = reader
        self._writer = writer
        self._message = message

    async def time(self) -> float:
        """Seconds until the reply arrives."""
        started = time.perf_counter()
        self._writer.write(self._message)
        with anyio.fail_after(20):
            head = await self._reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 "), head
            length = head.lower().partition(b"content-length: ")[2].split(b"\r")[0]
            if length:
                await self._reader.readexactly(int(length))
            else:  # a reply that takes long is a stream
                await self._reader.readuntil(b"\r\n0\r\n\r\n")
        return time.perf_counter() - started

    def close(self) -> None:
        self._writer.close()


async def _latencies(bridge: Bridge, message: bytes, seconds: float, pause: float) -> list[float]:
    tls = _unverified() if bridge.url.startswith("https:") else None
    caller = _Caller(*await asyncio.open_connection(*_address(bridge), ssl=tls), message)
    latencies = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        latencies.append(await caller.time())
        await asyncio.sleep(pause)
    caller.close()
    return latencies


def _p99(latencies: list[float]) -> float:
    return statistics.quantiles(latencies, n=100)[98]


class _Flooder:
    """A process that floods a bridge, one flood at a time."""

    def __init__(self, process: Process) -> None:
        assert process.stdin
        assert process.stdout
        self._stdin = process.stdin
        self._stdout = process.stdout

    async def start_flood(self, name: str) -> None:
        await self._stdin.send(name.encode() + b"\n")
        with anyio.fail_after(60):
            assert (await self._stdout.receive()).strip().decode() == name

    async def measure(self, bridge: Bridge, name: str, seconds: float) -> list[Figure]:
        """The effect of one flood on other clients and on the bridge."""
        baseline = _p99(await _latencies(bridge, _CALL, seconds / 2, 0.005))
        bridge.reset_peak()
        before = bridge.rss
        health_checks: list[float] = []
        calls: list[float] = []
        await self.start_flood(name)
        await asyncio.sleep(seconds / 4)
        cpu, started = bridge.cpu, time.monotonic()

        async def check_health() -> None:
            health_checks.extend(await _latencies(bridge, _HEALTHY, seconds, 0.02))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(check_health)
            calls.extend(await _latencies(bridge, _CALL, seconds, 0.005))
        share = (bridge.cpu - cpu) / (time.monotonic() - started)
        await self.start_flood("")
        return [
            at_most(f"{name}: extra memory", bridge.peak - before, 64, "MB"),
            at_most("  p99 of another call, compared with no flood", _p99(calls) / baseline, 3, "times"),
            at_most("  p99 of /-/healthy during it", _p99(health_checks) * 1000, 50, "ms"),
            Figure("  CPU used by the bridge", f"{share:.2f} cores", "none", is_met=True),
        ]


@asynccontextmanager
async def _flooder(bridge: Bridge) -> AsyncIterator[_Flooder]:
    host, port = _address(bridge)
    command = [sys.executable, "-m", "tests.kits.hostile", host, str(port)]
    async with await anyio.open_process(command, cwd=ROOT, stderr=None) as process:
        try:
            flooder = _Flooder(process)
            await flooder.start_flood("")
            yield flooder
        finally:
            process.kill()


def _address(bridge: Bridge) -> tuple[str, int]:
    parts = urlsplit(bridge.url)
    assert parts.hostname
    assert parts.port
    return parts.hostname, parts.port


async def run(*, long: bool) -> list[Figure]:
    async with _setup() as (bridge, faulty):
        figures = await _framing(bridge, faulty, 90 if long else 12)
        async with _flooder(bridge) as flooder:
            for name in _FLOODS:
                figures += await flooder.measure(bridge, name, 20 if long else 1)
    async with _setup(has_tls=True) as (bridge, _), _flooder(bridge) as flooder:
        for name in (*_RAW, *_ENCRYPTED):
            figures += await flooder.measure(bridge, name, 20 if long else 1)
    return figures


async def _ok(exchange: Exchange) -> None:
    await exchange.reply(exchange.json)


@asynccontextmanager
async def _setup(*, has_tls: bool = False) -> AsyncIterator[tuple[Bridge, Faulty]]:
    with TemporaryDirectory() as name:
        tools, settings = Path(name) / "tools.d", Path(name) / "restbridge.yaml"
        tools.mkdir()
        keys = [{"name": "ann", "sha256": sha256(_KEY.encode()).hexdigest()}]
        settings.write_text(json.dumps({"access": {"apiKeys": keys}}))
        async with serve_faults({"called": _ok, "marker": _ok}) as faulty:
            for each in ("called", "marker"):
                (tools / f"{each}.yaml").write_text(_TOOL.format(url=faulty.url, name=each))
            options: list[str] = []
            if has_tls:
                cert, key = Authority(Path(name)).issue("127.0.0.1")
                options = ["--tls-cert", str(cert), "--tls-key", str(key)]
            async with over_http(tools, {"RESTBRIDGE_CONFIG": str(settings)}, "bridge", *options) as bridge:
                yield bridge, faulty


if __name__ == "__main__":
    os.nice(NICE)
    anyio.run(_run_floods, sys.argv[1], int(sys.argv[2]))
