"""Which bytes become which requests. Ambiguous bytes become none."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import httptools
import pytest
from starlette.types import Receive, Scope, Send

from bridge.access import incoming_bytes
from bridge.access.quotas import Quotas
from bridge.access.throttle import AddressThrottle
from bridge.http.connection import Timeouts
from tests.http.test_connection import serving

pytestmark = pytest.mark.anyio

HOST = b"Host: localhost\r\n"
POST = b"POST /one HTTP/1.1\r\n" + HOST
CHUNKED = b"Transfer-Encoding: chunked\r\n"
CLOSE = b"GET /last HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
MARKER = b"POST /marker HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
JDK = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB\r\n"
WEBSOCKET = b"Connection: upgrade\r\nUpgrade: websocket\r\n"


class Recorder:
    """Responds with 200 after it has read the body; to ``/early`` with 401 before that."""

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
    """Parses the responses of one connection; counts only complete ones."""

    def __init__(self, data: bytes) -> None:
        self.statuses: list[int] = []
        self._parser = httptools.HttpResponseParser(self)
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        self.statuses.append(self._parser.get_status_code())


@asynccontextmanager
async def recording_app(
    quotas: Quotas | None = None, throttle: AddressThrottle | None = None
) -> AsyncIterator[tuple[Recorder, int]]:
    recorder = Recorder()
    async with serving(Timeouts(), quotas, recorder, throttle) as port:
        yield recorder, port


async def exchange(port: int, *segments: bytes) -> bytes:
    """Send segments one by one; return all bytes received until the connection closes.

    The server may close the connection before all segments are sent.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with anyio.fail_after(5):
        for number, segment in enumerate(segments):
            if number:
                await server_has_read(writer)
            writer.write(segment)
        answer = await reader.read()
    writer.close()
    return answer


async def server_has_read(writer: asyncio.StreamWriter) -> None:
    """Let the server run in the event loop that it shares with this test, so that it reads segments separately."""
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


@pytest.mark.parametrize("way", ["whole", "apart", "bytes"])
@pytest.mark.parametrize("upgrade", [JDK, WEBSOCKET, b""], ids=["h2c", "websocket", "none"])
@pytest.mark.parametrize("is_chunked", [True, False], ids=["chunked", "length"])
async def test_the_body_of_a_request_with_an_upgrade_belongs_to_it(
    way: str, upgrade: bytes, *, is_chunked: bool
) -> None:
    framing = CHUNKED + b"\r\n" + chunked(b"he", b"llo") if is_chunked else b"Content-Length: 5\r\n\r\nhello"
    once = POST + upgrade + framing
    async with recording_app() as (recorder, port):
        answer = await exchange(port, *split(once, way), *split(once, way), CLOSE)
        assert Replies(answer).statuses == [200, 200, 200]
        assert recorder.requests == [("/one", b"hello"), ("/one", b"hello"), ("/last", b"")]
        answer = await exchange(port, once + once + CLOSE)
        assert recorder.paths[3:] == ["/one", "/one", "/last"]
        answer = await exchange(port, b"GET /none HTTP/1.1\r\n" + HOST + upgrade + b"\r\n", CLOSE)
        assert Replies(answer).statuses == [200, 200]


@pytest.mark.parametrize("way", ["whole", "apart", "bytes"])
@pytest.mark.parametrize("upgrade", [JDK, WEBSOCKET], ids=["h2c", "websocket"])
async def test_a_request_in_the_body_of_an_upgrade_is_not_served(way: str, upgrade: bytes) -> None:
    head = POST + upgrade + b"Content-Length: %d\r\n\r\n" % len(MARKER)
    async with recording_app() as (recorder, port):
        answer = await exchange(port, *split(head + MARKER, way), CLOSE)
        assert Replies(answer).statuses == [200, 200]
        assert recorder.requests == [("/one", MARKER), ("/last", b"")]


@pytest.mark.parametrize("target", [b"localhost:80", b"/one"])
async def test_connect_is_refused(target: bytes) -> None:
    async with recording_app() as (recorder, port):
        answer = await exchange(port, b"CONNECT %s HTTP/1.1\r\n%s\r\n%s" % (target, HOST, MARKER))
        assert Replies(answer).statuses == [501]
        assert recorder.paths == []


AMBIGUOUS = {
    "both lengths": b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
    "both lengths, the other way": b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
    "two lengths": b"Content-Length: 4\r\nContent-Length: 6\r\n",
    "a length twice": b"Content-Length: 4\r\nContent-Length: 4\r\n",
    "a list of lengths": b"Content-Length: 4, 4\r\n",
    "a signed length": b"Content-Length: +4\r\n",
    "a negative length": b"Content-Length: -4\r\n",
    "a hexadecimal length": b"Content-Length: 0x4\r\n",
    "a length with a space": b"Content-Length: 4 4\r\n",
    "an empty length": b"Content-Length: \r\n",
    "a length above 64 bits": b"Content-Length: 99999999999999999999\r\n",
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
    "a space before the colon": b"Content-Length : 4\r\n",
    "a space before the name": b" Content-Length: 4\r\n",
    "no name": b": x\r\nContent-Length: 4\r\n",
    "NUL in a value": b"X: a\0b\r\nContent-Length: 4\r\n",
    "NUL in a name": b"X\0: a\r\nContent-Length: 4\r\n",
    "two hosts": b"Host: localhost\r\n",
    "two keys": b"Authorization: Bearer a\r\nAuthorization: Bearer a\r\n",
}
BAD_CHUNKS = {
    "a bare LF after the size": b"4\nbody\r\n0\r\n\r\n",
    "a bare LF after the data": b"4\r\nbody\n0\r\n\r\n",
    "a signed size": b"+4\r\nbody\r\n0\r\n\r\n",
    "a prefixed size": b"0x4\r\nbody\r\n0\r\n\r\n",
    "a space after the size": b"4 \r\nbody\r\n0\r\n\r\n",
    "no size": b"\r\nbody\r\n0\r\n\r\n",
    "a size above 64 bits": b"fffffffffffffffff4\r\nbody\r\n0\r\n\r\n",
    "data longer than its size": b"4\r\nbodyGET\r\n0\r\n\r\n",
    "a bare LF in an extension": b"4;a\nb\r\nbody\r\n0\r\n\r\n",
    "a line end in a quoted extension": b'4;a="\r\n"\r\nbody\r\n0\r\n\r\n',
    "a length among the trailers": b"4\r\nbody\r\n0\r\nContent-Length: 5\r\n\r\n",
}


@pytest.mark.parametrize("headers", AMBIGUOUS.values(), ids=AMBIGUOUS.keys())
async def test_an_ambiguous_head_is_refused_and_nothing_after_it_is_read(headers: bytes) -> None:
    async with recording_app() as (recorder, port):
        for segments in ([POST + headers + b"\r\n" + MARKER], [POST + headers + b"\r\n", MARKER]):
            statuses = Replies(await exchange(port, *segments)).statuses
            assert statuses in ([400], [501])
        assert recorder.requests == []


@pytest.mark.parametrize("body", BAD_CHUNKS.values(), ids=BAD_CHUNKS.keys())
async def test_ambiguous_chunks_are_refused_and_nothing_after_them_is_read(body: bytes) -> None:
    async with recording_app() as (recorder, port):
        for segments in (
            [POST + CHUNKED + b"\r\n" + body + MARKER],
            [POST + CHUNKED + b"\r\n", body, MARKER],
        ):
            assert Replies(await exchange(port, *segments)).statuses == [400]
        assert recorder.requests == []


@pytest.mark.parametrize(
    ("data", "status"),
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
async def test_an_ambiguous_request_line_is_refused(data: bytes, status: int) -> None:
    async with recording_app() as (recorder, port):
        for way in ([data + MARKER], [*split(data, "bytes"), MARKER]):
            assert Replies(await exchange(port, *way)).statuses == [status]
        assert recorder.requests == []


LINE = b"POST /one HTTP/1.1\r\n"
REQUESTS = {
    "a body with a length": POST + b"Content-Length: %d\r\n\r\n" % len(LINE) + LINE,
    "a body in chunks": POST + CHUNKED + b"\r\n" + chunked(LINE, b"a\r\n\r\n" + LINE),
    "trailers": POST + CHUNKED + b"\r\n" + chunked(b"a", trailers=b"X: " + LINE),
    "a body after an upgrade": POST + JDK + b"Content-Length: %d\r\n\r\n" % len(LINE) + LINE,
    "no body": b"GET /one HTTP/1.1\r\n" + HOST + b"X: " + LINE + b"\r\n",
    "empty lines": b"\r\n\r\n\r\n",
    "nothing": b"",
}


@pytest.mark.parametrize("before", REQUESTS.values(), ids=REQUESTS.keys())
@pytest.mark.parametrize(
    "line", [b"POST  /one HTTP/1.1\r\n", b"POST /one   HTTP/1.1\r\n", b"POST /one RTSP/1.1\r\n"]
)
async def test_a_valid_line_elsewhere_does_not_replace_a_bad_request_line(before: bytes, line: bytes) -> None:
    data = before + line + HOST + b"X: " + LINE + b"Content-Length: %d\r\n\r\n" % len(LINE) + LINE
    async with recording_app() as (recorder, port):
        for cut in (0, len(before) - 1, len(before) + 1):
            answer = await exchange(port, data[: max(cut, 0)], data[max(cut, 0) :] + MARKER)
            assert set(Replies(answer).statuses) <= {200, 400}
            assert Replies(answer).statuses.count(200) == before.count(HOST)
        assert set(recorder.paths) <= {"/one"}
        assert len(recorder.paths) == before.count(HOST) * 3


async def test_a_request_may_begin_anywhere_in_a_segment() -> None:
    data = b"".join(REQUESTS.values()) + CLOSE
    async with recording_app() as (recorder, port):
        for cut in range(1, len(data), 7):
            answer = await exchange(port, data[:cut], data[cut:])
            assert Replies(answer).statuses == [200] * 6
        assert recorder.requests[2] == ("/one", b"a")


async def test_an_absolute_url_that_matches_the_host_is_served() -> None:
    async with recording_app() as (recorder, port):
        await exchange(port, b"GET http://localhost/one?x HTTP/1.1\r\n" + HOST + b"\r\n", CLOSE)
        assert recorder.paths == ["/one", "/last"]


BAD_REQUESTS = {
    "in its head": [POST + b"Content-Length: x\r\n\r\n"],
    "in its body": [POST + CHUNKED + b"\r\nx"],
    "in a later segment of its body": [POST + CHUNKED + b"\r\n4\r\nbo", b"dyx"],
}


@pytest.mark.parametrize("bad", BAD_REQUESTS.values(), ids=BAD_REQUESTS.keys())
async def test_requests_before_a_bad_one_are_answered_and_then_the_connection_closes(
    bad: list[bytes],
) -> None:
    async with recording_app() as (recorder, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for segment in [
            MARKER.replace(b"marker", b"first") + MARKER.replace(b"marker", b"later") + bad[0],
            *bad[1:],
            MARKER,
        ]:
            writer.write(segment)
            await server_has_read(writer)
        recorder.release.set()
        with anyio.fail_after(5):
            answer = await reader.read()
        writer.close()
        assert Replies(answer).statuses == [200, 200, 400]
        assert answer.lower().count(b"connection: close") == 1
        assert recorder.paths == ["/first", "/later"]


async def test_many_pipelined_requests_are_answered_in_order() -> None:
    async with recording_app() as (recorder, port):
        assert Replies(await exchange(port, MARKER * 500 + CLOSE)).statuses == [200] * 501
        assert recorder.paths == ["/marker"] * 500 + ["/last"]


async def test_a_request_in_flight_is_answered_when_the_next_one_is_refused(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(incoming_bytes, "MAX_BYTES", 100_000)
    async with recording_app() as (recorder, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(MARKER.replace(b"marker", b"later") + MARKER * 5000)
        with anyio.fail_after(5):
            while "with 503" not in caplog.text:
                await anyio.lowlevel.checkpoint()
            recorder.release.set()
            answer = await reader.read()
        writer.close()
        assert Replies(answer).statuses == [200]
        assert b"connection: close" in answer.lower()


async def test_many_pipelined_requests_with_bodies_are_answered() -> None:
    one = POST + b"Content-Length: 1000\r\n\r\n" + bytes(1000)
    async with recording_app() as (recorder, port):
        answer = await exchange(port, one * 300 + CLOSE)
        assert Replies(answer).statuses == [200] * 301
        assert set(recorder.requests[:-1]) == {("/one", bytes(1000))}


async def test_bytes_after_connection_close_are_not_read() -> None:
    async with recording_app() as (recorder, port):
        assert Replies(await exchange(port, CLOSE + MARKER)).statuses == [200]
        assert recorder.paths == ["/last"]


OLD = b"POST /one HTTP/1.0\r\n" + HOST


@pytest.mark.parametrize("headers", [[], [(b"content-length", b"6")]], ids=["open", "length"])
async def test_an_http_1_0_client_gets_no_chunks_and_the_connection_closes(
    headers: list[tuple[bytes, bytes]],
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for part in (b"abc", b"def"):
            await send({"type": "http.response.body", "body": part, "more_body": part == b"abc"})

    async with serving(Timeouts(), app=app) as port:
        for fields in (b"", b"Connection: keep-alive\r\n", b"Expect: 100-continue\r\n"):
            answer = await exchange(port, OLD + fields + b"Content-Length: 2\r\n\r\n{}")
            head, _, body = answer.partition(b"\r\n\r\n")
            assert (head[:13], body) == (b"HTTP/1.1 200 ", b"abcdef")
            assert b"transfer-encoding" not in head
            assert b"\r\nconnection: close" in head


@pytest.mark.parametrize("size", [1, 4096, 100_000, 1_000_000])
async def test_a_body_is_complete_with_either_framing(size: int) -> None:
    body = b"".join(number.to_bytes(4, "big") for number in range(size // 4 + 1))[:size]
    parts = [body[start : start + 1000] for start in range(0, size, 1000)]
    async with recording_app() as (recorder, port):
        for framed in (b"Content-Length: %d\r\n\r\n%s" % (size, body), CHUNKED + b"\r\n" + chunked(*parts)):
            await exchange(port, POST + framed + CLOSE)
            await exchange(port, POST + framed[:30], framed[30:] + CLOSE)
        assert recorder.requests == [("/one", body), ("/last", b"")] * 4


async def test_trailers_do_not_become_headers() -> None:
    body = chunked(b"hello", trailers=b"Authorization: Bearer x\r\nX-Trailer: y\r\n")
    async with recording_app() as (recorder, port):
        for way in ("whole", "apart", "bytes"):
            received = await exchange(port, *split(POST + CHUNKED + b"Connection: close\r\n\r\n" + body, way))
            assert Replies(received).statuses == [200]
            assert [name for name, _ in recorder.headers] == [b"host", b"transfer-encoding", b"connection"]


ENDLESS = {
    "trailers": (POST + CHUNKED + b"\r\n1\r\nx\r\n0\r\n", b"X-Trailer: aaaaaaaaaa\r\n", 431),
    "a trailer": (POST + CHUNKED + b"\r\n1\r\nx\r\n0\r\nX: ", b"aaaaaaaaaaaa", 431),
    "a trailer's name": (POST + CHUNKED + b"\r\n1\r\nx\r\n0\r\n", b"aaaaaaaaaaaa", 431),
    "a chunk extension": (POST + CHUNKED + b"\r\n1;a=", b"aaaaaaaaaaaa", 431),
    "a chunk size": (POST + CHUNKED + b"\r\n", b"000000000000", 431),
    "empty lines in chunks": (POST + CHUNKED + b"\r\nfffffff\r\n", b"\r\n\r\n", 400),
    "tiny chunks": (POST + CHUNKED + b"\r\n", b"1\r\nx\r\n", 400),
    "small chunks": (POST + CHUNKED + b"\r\n", b"8\r\n12345678\r\n", 400),
    "a request line": (b"GET /", b"aaaaaaaaaaaa", 414),
    "a path of escapes": (b"GET /", b"%21", 414),
    "empty lines": (b"", b"\r\n", 400),
    "a method": (b"", b"AAAAAAAAAA", 400),
    "a header's name": (POST, b"aaaaaaaaaa", 431),
    "a header's value": (POST + b"X: ", b"aaaaaaaaaaaa", 431),
    "header fields": (POST, b"a:\r\n", 431),
    "large header fields": (POST, b"a: " + b"x" * 1000 + b"\r\n", 431),
}


@pytest.mark.parametrize(("start", "more", "status"), ENDLESS.values(), ids=ENDLESS.keys())
async def test_endless_input_is_refused(start: bytes, more: bytes, status: int) -> None:
    quotas = Quotas()
    async with recording_app(quotas) as (recorder, port):
        answer = await exchange(port, start, more * (200_000 // len(more)))
        assert Replies(answer).statuses == [status]
        answer = await exchange(port, start, *itertools.repeat(more * (4000 // len(more)), 30))
        assert Replies(answer).statuses == [status]
        assert recorder.requests == []
    assert quotas.incoming_bytes.total == 0


async def test_the_number_of_header_fields_is_limited() -> None:
    async with recording_app() as (recorder, port):
        assert Replies(await exchange(port, POST + b"a:\r\n" * 300 + b"\r\n", MARKER)).statuses == [431]
        await exchange(port, CLOSE.removesuffix(b"\r\n") + b"a:\r\n" * 254 + b"\r\n")
        assert recorder.paths == ["/last"]


async def test_a_body_of_chunks_that_are_not_too_small_is_accepted() -> None:
    async with recording_app() as (recorder, port):
        await exchange(port, POST + CHUNKED + b"\r\n" + chunked(*[bytes(64)] * 10_000) + CLOSE)
        assert recorder.requests == [("/one", bytes(640_000)), ("/last", b"")]


async def test_a_client_can_read_an_early_response_while_its_body_is_dropped() -> None:
    head = b"POST /early HTTP/1.1\r\n" + HOST
    async with recording_app() as (recorder, port):
        for framing in (b"Content-Length: 3000000\r\n\r\n", CHUNKED + b"\r\n" + b"1\r\nx\r\n" * 10):
            for pieces in (1, 30):
                answer = await exchange(
                    port, head + framing, *[MARKER * (2_000_000 // len(MARKER) // pieces)] * pieces
                )
                assert Replies(answer).statuses == [401]
                assert b"connection: close" in answer
        assert set(recorder.paths) == {"/early"}


async def test_the_bytes_dropped_after_an_early_response_are_limited() -> None:
    async with recording_app() as (_, port):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /early HTTP/1.1\r\n" + HOST + b"Content-Length: 1000000000\r\n\r\n")

        async def send() -> None:
            while True:
                writer.write(bytes(1_000_000))
                await writer.drain()

        with anyio.fail_after(5), pytest.raises(ConnectionError):
            await send()
        writer.close()


@pytest.mark.slow
@pytest.mark.parametrize("data", [POST, POST + b"Content-Length: 2\r\n\r\n", b"GET\r\n\r\n"])
async def test_an_incomplete_request_does_not_delay_shutdown(data: bytes) -> None:
    async with recording_app() as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(data)
        await server_has_read(writer)
    with anyio.fail_after(5):  # the server waits longer than this for a response
        await reader.read()
    writer.close()


async def test_the_refusal_of_a_bad_request_is_delayed_and_nothing_is_read_meanwhile() -> None:
    async with recording_app(throttle=AddressThrottle(burst=0)) as (recorder, port):
        answer = await exchange(port, b"nonsense\r\n\r\n", MARKER * 10_000)
        assert Replies(answer).statuses == [400]
        assert recorder.requests == []
