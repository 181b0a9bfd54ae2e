"""Which bytes become which requests: what could be read in two ways becomes none."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import httptools
import pytest
from starlette.types import Receive, Scope, Send

from bridge.access.quotas import Limits
from bridge.access.throttle import Guesses
from bridge.http.connection import Patience
from tests.http.test_connection import serving

LOOPS = [
    pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
    pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
]
pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", LOOPS)]

HOST = b"Host: localhost\r\n"
POST = b"POST /one HTTP/1.1\r\n" + HOST
CHUNKED = b"Transfer-Encoding: chunked\r\n"
CLOSE = b"GET /last HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
MARKER = b"POST /marker HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
JDK = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB\r\n"
WEBSOCKET = b"Connection: upgrade\r\nUpgrade: websocket\r\n"


class Recorder:
    """An app that answers 200 once it has read the body, or at ``/early`` 401 before."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, bytes]] = []
        self.headers: list[tuple[bytes, bytes]] = []
        self.release = anyio.Event()

    @property
    def paths(self) -> list[str]:
        return [path for path, _ in self.requests]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        body, more = b"", True
        if scope["path"] == "/later":
            await self.release.wait()
        while more and scope["path"] != "/early":
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body, more = body + message["body"], message["more_body"]
        self.requests.append((scope["path"], body))
        self.headers = scope["headers"]
        status = 401 if scope["path"] == "/early" else 200
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


class Replies:
    """Reads the replies of one connection, and that they are whole."""

    def __init__(self, data: bytes) -> None:
        self.statuses: list[int] = []
        self._parser = httptools.HttpResponseParser(self)
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        self.statuses.append(self._parser.get_status_code())


@asynccontextmanager
async def recording(
    limits: Limits | None = None, guesses: Guesses | None = None
) -> AsyncIterator[tuple[Recorder, int]]:
    recorder = Recorder()
    async with serving(Patience(), limits, recorder, guesses) as port:
        yield recorder, port


async def told(port: int, *segments: bytes) -> bytes:
    """All that is answered to segments that arrive one by one; the client may be cut off before it sent all."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with anyio.fail_after(5):
        for number, segment in enumerate(segments):
            if number:
                await _has_read(writer)
            writer.write(segment)
        answer = await reader.read()
    writer.close()
    return answer


async def _has_read(writer: asyncio.StreamWriter) -> None:
    """The server had a turn of the event loop that it shares with this test, so that segments come apart."""
    await writer.drain()
    for _ in range(3):
        await anyio.lowlevel.checkpoint()


def chunked(*contents: bytes, trailers: bytes = b"") -> bytes:
    chunks = [b"%x\r\n%s\r\n" % (len(content), content) for content in contents]
    return b"".join([*chunks, b"0\r\n", trailers, b"\r\n"])


def split(data: bytes, way: str) -> list[bytes]:
    head, _, body = data.partition(b"\r\n\r\n")
    match way:
        case "whole":
            return [data]
        case "apart":
            return [head + b"\r\n\r\n", body]
    return [data[number : number + 1] for number in range(len(data))]


# --- an upgrade that is not spoken ---


@pytest.mark.parametrize("way", ["whole", "apart", "bytes"])
@pytest.mark.parametrize("upgrade", [JDK, WEBSOCKET, b""], ids=["h2c", "websocket", "none"])
@pytest.mark.parametrize("is_chunked", [True, False], ids=["chunked", "length"])
async def test_the_body_of_a_request_with_an_upgrade_belongs_to_it(
    way: str, upgrade: bytes, *, is_chunked: bool
) -> None:
    framing = CHUNKED + b"\r\n" + chunked(b"he", b"llo") if is_chunked else b"Content-Length: 5\r\n\r\nhello"
    once = POST + upgrade + framing
    async with recording() as (recorder, port):
        answer = await told(port, *split(once, way), *split(once, way), CLOSE)
        assert Replies(answer).statuses == [200, 200, 200]
        assert recorder.requests == [("/one", b"hello"), ("/one", b"hello"), ("/last", b"")]
        answer = await told(port, once + once + CLOSE)
        assert recorder.paths[3:] == ["/one", "/one", "/last"]
        answer = await told(port, b"GET /none HTTP/1.1\r\n" + HOST + upgrade + b"\r\n", CLOSE)
        assert Replies(answer).statuses == [200, 200]


@pytest.mark.parametrize("way", ["whole", "apart", "bytes"])
@pytest.mark.parametrize("upgrade", [JDK, WEBSOCKET], ids=["h2c", "websocket"])
async def test_a_request_in_the_body_of_an_upgrade_is_not_served(way: str, upgrade: bytes) -> None:
    head = POST + upgrade + b"Content-Length: %d\r\n\r\n" % len(MARKER)
    async with recording() as (recorder, port):
        answer = await told(port, *split(head + MARKER, way), CLOSE)
        assert Replies(answer).statuses == [200, 200]
        assert recorder.requests == [("/one", MARKER), ("/last", b"")]


@pytest.mark.parametrize("target", [b"localhost:80", b"/one"])
async def test_nothing_is_a_tunnel(target: bytes) -> None:
    async with recording() as (recorder, port):
        answer = await told(port, b"CONNECT %s HTTP/1.1\r\n%s\r\n%s" % (target, HOST, MARKER))
        assert Replies(answer).statuses == [501]
        assert recorder.paths == []


# --- what could be read in two ways ---

AMBIGUOUS = {
    "both lengths": b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
    "both lengths, the other way": b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
    "two lengths": b"Content-Length: 4\r\nContent-Length: 6\r\n",
    "a length twice": b"Content-Length: 4\r\nContent-Length: 4\r\n",
    "a list of lengths": b"Content-Length: 4, 4\r\n",
    "a signed length": b"Content-Length: +4\r\n",
    "a negative length": b"Content-Length: -4\r\n",
    "a hexadecimal length": b"Content-Length: 0x4\r\n",
    "a length with a blank": b"Content-Length: 4 4\r\n",
    "an empty length": b"Content-Length: \r\n",
    "a length past 64 bits": b"Content-Length: 99999999999999999999\r\n",
    "an unknown coding": b"Transfer-Encoding: xchunked\r\n",
    "a coding after chunked": b"Transfer-Encoding: chunked, identity\r\n",
    "a coding before chunked": b"Transfer-Encoding: gzip, chunked\r\n",
    "chunked twice": b"Transfer-Encoding: chunked, chunked\r\n",
    "two lines of codings": b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
    "an empty coding": b"Transfer-Encoding: \r\n",
    "a quoted coding": b'Transfer-Encoding: "chunked"\r\n',
    "a folded line": b"X: a\r\n b\r\nContent-Length: 4\r\n",
    "a folded coding": b"Transfer-Encoding:\r\n chunked\r\n",
    "a bare LF": b"X: a\nContent-Length: 4\r\n",
    "a bare CR": b"X: a\rContent-Length: 4\r\n",
    "a blank before the colon": b"Content-Length : 4\r\n",
    "a blank before the name": b" Content-Length: 4\r\n",
    "no name": b": x\r\nContent-Length: 4\r\n",
    "NUL in a value": b"X: a\0b\r\nContent-Length: 4\r\n",
    "NUL in a name": b"X\0: a\r\nContent-Length: 4\r\n",
}
BAD_CHUNKS = {
    "a bare LF after the size": b"4\nbody\r\n0\r\n\r\n",
    "a bare LF after the data": b"4\r\nbody\n0\r\n\r\n",
    "a signed size": b"+4\r\nbody\r\n0\r\n\r\n",
    "a prefixed size": b"0x4\r\nbody\r\n0\r\n\r\n",
    "a blank after the size": b"4 \r\nbody\r\n0\r\n\r\n",
    "no size": b"\r\nbody\r\n0\r\n\r\n",
    "a size past 64 bits": b"fffffffffffffffff4\r\nbody\r\n0\r\n\r\n",
    "data longer than its size": b"4\r\nbodyGET\r\n0\r\n\r\n",
    "a bare LF in an extension": b"4;a\nb\r\nbody\r\n0\r\n\r\n",
    "a line end in a quoted extension": b'4;a="\r\n"\r\nbody\r\n0\r\n\r\n',
    "a length among the trailers": b"4\r\nbody\r\n0\r\nContent-Length: 5\r\n\r\n",
}


@pytest.mark.parametrize("headers", AMBIGUOUS.values(), ids=AMBIGUOUS.keys())
async def test_an_ambiguous_head_is_refused_and_nothing_after_it_is_read(headers: bytes) -> None:
    async with recording() as (recorder, port):
        for said in ([POST + headers + b"\r\n" + MARKER], [POST + headers + b"\r\n", MARKER]):
            statuses = Replies(await told(port, *said)).statuses
            assert statuses in ([400], [501])
        assert recorder.requests == []


@pytest.mark.parametrize("body", BAD_CHUNKS.values(), ids=BAD_CHUNKS.keys())
async def test_ambiguous_chunks_are_refused_and_nothing_after_them_is_read(body: bytes) -> None:
    async with recording() as (recorder, port):
        for said in ([POST + CHUNKED + b"\r\n" + body + MARKER], [POST + CHUNKED + b"\r\n", body, MARKER]):
            assert Replies(await told(port, *said)).statuses == [400]
        assert recorder.requests == []


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (b"GET /one\r\n\r\n", 505),
        (b"GET /one HTTP/2.0\r\n" + HOST + b"\r\n", 505),
        (b"GET /one HTTP/1.2\r\n" + HOST + b"\r\n", 400),
        (b"GET /one RTSP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"GET  /one HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"GET /one HTTP/1.1\n" + HOST + b"\r\n", 400),
        (b"GET * HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"GET http://evil/one HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"GET /one%2ftwo HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    ],
)
async def test_a_request_line_has_one_reading(said: bytes, status: int) -> None:
    async with recording() as (recorder, port):
        for way in ([said + MARKER], [*split(said, "bytes"), MARKER]):
            assert Replies(await told(port, *way)).statuses == [status]
        assert recorder.requests == []


async def test_a_url_that_agrees_with_the_host_is_served() -> None:
    async with recording() as (recorder, port):
        await told(port, b"GET http://localhost/one?x HTTP/1.1\r\n" + HOST + b"\r\n", CLOSE)
        assert recorder.paths == ["/one", "/last"]


# --- requests one after another ---


BAD = {
    "in its head": ([POST + b"Content-Length: x\r\n\r\n"], []),
    "in its body": ([POST + CHUNKED + b"\r\nx"], []),
    "in a later segment of its body": ([POST + CHUNKED + b"\r\n4\r\nbo", b"dyx"], [400]),
}


@pytest.mark.parametrize(("bad", "also"), BAD.values(), ids=BAD.keys())
async def test_requests_before_a_bad_one_are_answered_and_then_the_connection_ends(
    bad: list[bytes], also: list[int]
) -> None:
    async with recording() as (recorder, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for segment in [
            MARKER.replace(b"marker", b"first") + MARKER.replace(b"marker", b"later") + bad[0],
            *bad[1:],
            MARKER,
        ]:
            writer.write(segment)
            await _has_read(writer)
        recorder.release.set()
        with anyio.fail_after(5):
            answer = await reader.read()
        writer.close()
        assert Replies(answer).statuses == [200, 200, *also]
        assert answer.lower().count(b"connection: close") == 1
        assert recorder.paths == ["/first", "/later"]


async def test_few_requests_of_one_segment_wait_for_an_answer() -> None:
    async with recording() as (recorder, port):
        answer = await told(port, b"GET /one HTTP/1.1\r\n\r\n" * 15 + CLOSE)
        assert Replies(answer).statuses == [200] * 16
        answer = await told(port, b"GET /two HTTP/1.1\r\n\r\n" * 500)
        assert Replies(answer).statuses == [200] * 17
        assert recorder.paths.count("/two") == 17


async def test_any_number_of_requests_is_answered_if_they_are_large_enough() -> None:
    one = POST + b"Content-Length: 1000\r\n\r\n" + bytes(1000)
    async with recording() as (recorder, port):
        answer = await told(port, one * 300 + CLOSE)
        assert Replies(answer).statuses == [200] * 301
        assert set(recorder.requests[:-1]) == {("/one", bytes(1000))}


async def test_nothing_after_connection_close_is_read() -> None:
    async with recording() as (recorder, port):
        assert Replies(await told(port, CLOSE + MARKER)).statuses == [200]
        assert recorder.paths == ["/last"]


# --- bodies ---


@pytest.mark.parametrize("size", [1, 4096, 100_000, 1_000_000])
async def test_a_body_comes_whole_whatever_its_framing(size: int) -> None:
    body = b"".join(number.to_bytes(4, "big") for number in range(size // 4 + 1))[:size]
    parts = [body[start : start + 1000] for start in range(0, size, 1000)]
    async with recording() as (recorder, port):
        for framed in (b"Content-Length: %d\r\n\r\n%s" % (size, body), CHUNKED + b"\r\n" + chunked(*parts)):
            await told(port, POST + framed + CLOSE)
            await told(port, POST + framed[:30], framed[30:] + CLOSE)
        assert recorder.requests == [("/one", body), ("/last", b"")] * 4


async def test_trailers_are_no_headers() -> None:
    body = chunked(b"hello", trailers=b"Authorization: Bearer x\r\nX-Trailer: y\r\n")
    async with recording() as (recorder, port):
        for way in ("whole", "apart", "bytes"):
            told_ = await told(port, *split(POST + CHUNKED + b"Connection: close\r\n\r\n" + body, way))
            assert Replies(told_).statuses == [200]
            assert [name for name, _ in recorder.headers] == [b"host", b"transfer-encoding", b"connection"]


WITHOUT_END = {
    "trailers": (POST + CHUNKED + b"\r\n1\r\nx\r\n0\r\n", b"X-Trailer: aaaaaaaaaa\r\n", 431),
    "a trailer": (POST + CHUNKED + b"\r\n1\r\nx\r\n0\r\nX: ", b"aaaaaaaaaaaa", 431),
    "a trailer's name": (POST + CHUNKED + b"\r\n1\r\nx\r\n0\r\n", b"aaaaaaaaaaaa", 431),
    "a chunk extension": (POST + CHUNKED + b"\r\n1;a=", b"aaaaaaaaaaaa", 431),
    "a chunk size": (POST + CHUNKED + b"\r\n", b"000000000000", 431),
    "tiny chunks": (POST + CHUNKED + b"\r\n", b"1\r\nx\r\n", 400),
    "small chunks": (POST + CHUNKED + b"\r\n", b"8\r\n12345678\r\n", 400),
    "a request line": (b"GET /", b"aaaaaaaaaaaa", 431),
    "empty lines": (b"", b"\r\n", 400),
    "a method": (b"", b"AAAAAAAAAA", 400),
    "a header's name": (POST, b"aaaaaaaaaa", 431),
    "a header's value": (POST + b"X: ", b"aaaaaaaaaaaa", 431),
    "header fields": (POST, b"a:\r\n", 431),
    "large header fields": (POST, b"a: " + b"x" * 1000 + b"\r\n", 431),
}


@pytest.mark.parametrize(("begin", "more", "status"), WITHOUT_END.values(), ids=WITHOUT_END.keys())
async def test_what_has_no_end_is_refused(begin: bytes, more: bytes, status: int) -> None:
    limits = Limits()
    async with recording(limits) as (recorder, port):
        answer = await told(port, begin, more * (200_000 // len(more)))
        assert Replies(answer).statuses == [status]
        answer = await told(port, begin, *itertools.repeat(more * (4000 // len(more)), 30))
        assert Replies(answer).statuses == [status]
        assert recorder.requests == []
    assert limits.arriving.total == 0


async def test_the_number_of_header_fields_is_bounded() -> None:
    async with recording() as (recorder, port):
        assert Replies(await told(port, POST + b"a:\r\n" * 300 + b"\r\n", MARKER)).statuses == [431]
        await told(port, CLOSE.removesuffix(b"\r\n") + b"a:\r\n" * 254 + b"\r\n")
        assert recorder.paths == ["/last"]


async def test_a_body_of_fair_chunks_has_no_bound_of_its_own() -> None:
    async with recording() as (recorder, port):
        await told(port, POST + CHUNKED + b"\r\n" + chunked(*[bytes(64)] * 10_000) + CLOSE)
        assert recorder.requests == [("/one", bytes(640_000)), ("/last", b"")]


async def test_an_answer_before_the_body_is_read_and_the_rest_dropped() -> None:
    head = b"POST /early HTTP/1.1\r\n" + HOST
    async with recording() as (recorder, port):
        for framing in (b"Content-Length: 3000000\r\n\r\n", CHUNKED + b"\r\n" + b"1\r\nx\r\n" * 10):
            for pieces in (1, 30):
                answer = await told(
                    port, head + framing, *[MARKER * (2_000_000 // len(MARKER) // pieces)] * pieces
                )
                assert Replies(answer).statuses == [401]
                assert b"connection: close" in answer
        assert set(recorder.paths) == {"/early"}


async def test_what_is_dropped_after_an_answer_is_bounded() -> None:
    async with recording() as (_, port):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /early HTTP/1.1\r\n" + HOST + b"Content-Length: 1000000000\r\n\r\n")

        async def send() -> None:
            while True:
                writer.write(bytes(1_000_000))
                await writer.drain()

        with anyio.fail_after(5), pytest.raises(ConnectionError):
            await send()
        writer.close()


@pytest.mark.parametrize("said", [POST, POST + b"Content-Length: 2\r\n\r\n", b"GET\r\n\r\n"])
async def test_no_request_that_is_there_in_part_holds_up_the_end_of_the_server(said: bytes) -> None:
    async with recording() as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(said)
        await _has_read(writer)
    with anyio.fail_after(5):  # an answer would be awaited for longer
        await reader.read()
    writer.close()


async def test_the_refusal_of_bad_requests_waits_and_nothing_is_read_meanwhile() -> None:
    async with recording(guesses=Guesses(at_once=0)) as (recorder, port):
        answer = await told(port, b"nonsense\r\n\r\n", MARKER * 10_000)
        assert Replies(answer).statuses == [400]
        assert recorder.requests == []
