import asyncio
import gc
import tracemalloc
from contextlib import suppress
from functools import partial
from types import FrameType

import anyio
import pytest
from anyio.lowlevel import checkpoint

from bridge import __version__
from bridge.errors import BridgeError, NotAnswered, NotSent, UnusableReply
from bridge.events import RequestRetried
from bridge.exchange import Reply
from bridge.spec import Limits
from bridge.upstream.client import Client
from tests.upstream.faulty import JSON, Faulty, serve
from tests.upstream.sending import Caller, upstream

pytestmark = pytest.mark.anyio


async def failure(caller: Caller, faulty: Faulty, path: str, method: str = "GET") -> BridgeError:
    with anyio.fail_after(30), pytest.raises(BridgeError) as caught:
        await caller.send(upstream(faulty.url, retries={"max": 0}), path, method)
    return caught.value


async def test_a_reply_is_complete_with_its_headers_in_lower_case(caller: Caller, faulty: Faulty) -> None:
    reply = await caller.send(upstream(faulty.url))
    headers = {"content-type": "application/json", "content-length": "14"}
    assert reply == Reply(200, headers, JSON, complete=True)


async def test_a_request_is_sent_byte_for_byte(caller: Caller, faulty: Faulty) -> None:
    to = upstream(f"{faulty.url}/v1", headers={"X-Mine": "a", "x-tool": "upstream"})
    path = "/a/%2e%2e/%2F//b%41/echo?q=%20+&&r[]={}~'"
    reply = await caller.send(
        to, path, "PUT", headers=(("X-Tool", "tool \xfc"), ("Accept", "*/*")), content=b"\x00body"
    )
    assert reply.content.split(b"\r\n") == [
        f"PUT /v1{path} HTTP/1.1".encode(),
        b"Host: " + faulty.place.encode(),
        b"Content-Length: 5",
        b"X-Tool: tool \xfc",
        b"Accept: */*",
        b"X-Mine: a",
        f"User-Agent: restbridge/{__version__}".encode(),
        b"Accept-Encoding: gzip",
        b"",
        b"\x00body",
    ]


@pytest.mark.parametrize(
    ("method", "content", "length"),
    [
        ("GET", None, None),
        ("DELETE", None, None),
        ("POST", None, "0"),
        ("GET", b"{}", "2"),
        ("DELETE", b"", "0"),
    ],
)
async def test_content_length_is_sent_only_with_a_body(
    caller: Caller, faulty: Faulty, method: str, content: bytes | None, length: str | None
) -> None:
    await caller.send(upstream(faulty.url), "/ok", method, content=content)
    assert dict(faulty.exchanges[0].headers).get("Content-Length") == length
    assert "Transfer-Encoding" not in dict(faulty.exchanges[0].headers)


async def test_an_empty_path_is_sent_as_a_slash(caller: Caller, faulty: Faulty) -> None:
    for path in ("", "?x=1", "/"):
        await caller.send(upstream(faulty.url), path)
    assert [exchange.target for exchange in faulty.exchanges] == ["/", "/?x=1", "/"]


async def test_a_user_agent_of_the_upstream_replaces_ours(caller: Caller, faulty: Faulty) -> None:
    await caller.send(upstream(faulty.url, headers={"user-agent": "mine"}))
    assert [value for name, value in faulty.exchanges[0].headers if name.lower() == "user-agent"] == ["mine"]


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        (".evil.example/ok", ()),
        ("@evil.example/ok", ()),
        ("/ok HTTP/1.1\r\nX-Injected: 1", ()),
        ("/ok", (("X-Note", "a\r\nX-Injected: 1"),)),
        ("/ok", (("X-Note", "a\rb"),)),
        ("/ok", (("X-Note", "a\0b"),)),
    ],
)
async def test_a_request_outside_of_the_base_url_or_with_a_line_break_is_not_sent(
    caller: Caller, faulty: Faulty, path: str, headers: tuple[tuple[str, str], ...]
) -> None:
    with pytest.raises(NotSent) as caught:
        await caller.send(upstream(faulty.url), path, headers=headers)
    assert caught.value.code == "unsafe-request"
    assert faulty.connections == 0


@pytest.mark.parametrize("path", ["/redirect", "/status?code=404", "/status?code=500"])
async def test_every_status_is_a_reply(caller: Caller, faulty: Faulty, path: str) -> None:
    reply = await caller.send(upstream(faulty.url), path)
    assert reply.status in (307, 404, 500)
    assert len(faulty.exchanges) == 1


async def test_no_cookie_is_kept(caller: Caller, faulty: Faulty) -> None:
    reply = await caller.send(upstream(faulty.url), "/set_cookie")
    assert reply.headers["set-cookie"] == "session=alice; Path=/, theme=dark"
    await caller.send(upstream(faulty.url))
    assert "Cookie" not in dict(faulty.exchanges[1].headers)


async def test_headers_may_be_utf8_or_latin1(caller: Caller, faulty: Faulty) -> None:
    reply = await caller.send(upstream(faulty.url), "/latin1_header")
    assert (reply.headers["x-place"], reply.headers["x-utf8"]) == ("Zürich", "Zürich")


@pytest.mark.parametrize(
    ("path", "method", "status", "content", "complete"),
    [
        ("/chunked", "GET", 200, JSON, True),
        ("/tiny_chunks", "GET", 200, JSON, True),
        ("/early_hints", "GET", 200, JSON, True),
        ("/no_content", "DELETE", 204, b"", True),
        ("/head", "HEAD", 200, b"", True),
        ("/gzip", "GET", 200, JSON, True),
        ("/gzip_members", "GET", 200, JSON, True),
        ("/gzip_empty", "GET", 200, b"", True),
        ("/gzip_transfer", "GET", 200, JSON, True),
        ("/identity", "GET", 200, JSON, True),
        ("/close_delimited", "GET", 200, JSON, False),
        ("/http10_close", "GET", 200, JSON, False),
    ],
)
async def test_a_valid_reply_is_read_to_its_end(
    caller: Caller, faulty: Faulty, *, path: str, method: str, status: int, content: bytes, complete: bool
) -> None:
    reply = await caller.send(upstream(faulty.url), path, method)
    assert (reply.status, reply.content, reply.complete) == (status, content, complete)


@pytest.mark.parametrize(
    ("fault", "kind", "code"),
    [
        ("close_before_head", NotAnswered, "reply-cut"),
        ("rst_before_head", NotAnswered, "reply-cut"),
        ("cut_head", NotAnswered, "reply-cut"),
        ("short_content_length", NotAnswered, "reply-cut"),
        ("truncated_chunked", NotAnswered, "reply-cut"),
        ("rst_mid_body", NotAnswered, "reply-cut"),
        ("not_http", NotAnswered, "protocol-error"),
        ("tls_alert", NotAnswered, "protocol-error"),
        ("bad_chunk_size", NotAnswered, "protocol-error"),
        ("two_lengths", NotAnswered, "protocol-error"),
        ("length_and_chunks", NotAnswered, "protocol-error"),
        ("negative_length", NotAnswered, "protocol-error"),
        ("switching_protocols", NotAnswered, "protocol-error"),
        ("header_bomb", NotAnswered, "protocol-error"),
        ("one_huge_header", NotAnswered, "protocol-error"),
        ("one_huge_trailer", NotAnswered, "protocol-error"),
        ("huge_chunk_extension", NotAnswered, "protocol-error"),
        ("informational_flood", NotAnswered, "protocol-error"),
        ("endless_tiny_chunks", NotAnswered, "protocol-error"),
        ("endless_chunk_extensions", NotAnswered, "protocol-error"),
        ("endless_headers", NotAnswered, "protocol-error"),
        ("endless_trailers", NotAnswered, "protocol-error"),
        ("endless_body", UnusableReply, "reply-too-large"),
        ("gzip_bomb", UnusableReply, "reply-too-large"),
        ("gzip_double", UnusableReply, "bad-encoding"),
        ("gzip_cut", UnusableReply, "bad-encoding"),
        ("gzip_trailing_garbage", UnusableReply, "bad-encoding"),
        ("gzip_nonsense", UnusableReply, "bad-encoding"),
        ("gzip_bad_checksum", UnusableReply, "bad-encoding"),
        ("gzip_many_members", UnusableReply, "bad-encoding"),
        ("deflate", UnusableReply, "bad-encoding"),
        ("unknown_encoding", UnusableReply, "bad-encoding"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_fault_has_its_code_and_the_next_call_succeeds(
    caller: Caller, faulty: Faulty, *, fault: str, method: str, kind: type[BridgeError], code: str
) -> None:
    error = await failure(caller, faulty, f"/{fault}?key=s3cret", method)
    assert (type(error), error.code) == (kind, code)
    assert "s3cret" not in str(error)
    assert str(error).endswith(".")
    assert len(faulty.exchanges) == 1
    if isinstance(error, UnusableReply):
        assert error.status == 200
    reply = await caller.send(upstream(faulty.url), "/echo?next")
    assert b"/echo?next" in reply.content


async def test_a_reset_during_a_body_without_length_is_an_error(caller: Caller, faulty: Faulty) -> None:
    async with anyio.create_task_group() as calls:

        async def call() -> None:
            error = await failure(caller, faulty, "/close_delimited_rst")
            assert error.code == "reply-cut"

        calls.start_soon(call)
        await faulty.arrived.wait()
        faulty.go.set()


async def test_a_reply_that_is_too_large_is_neither_kept_nor_read_further(
    caller: Caller, faulty: Faulty
) -> None:
    tracemalloc.start()
    for path in ("/endless_body", "/gzip_bomb"):
        error = await failure(caller, faulty, path)
        assert error.code == "reply-too-large"
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 30_000_000
    with anyio.fail_after(30):
        await faulty.left.wait()


@pytest.mark.parametrize(
    ("path", "phase"),
    [
        ("/never_answers", "waiting for an answer"),
        ("/slow_headers", "waiting for an answer"),
        ("/slow_body", "reading the answer"),
    ],
)
async def test_one_deadline_covers_the_whole_call(
    caller: Caller, faulty: Faulty, path: str, phase: str
) -> None:
    message, within = "", 0.05
    with anyio.fail_after(30):
        while phase not in message:  # a busy machine may not reach that phase in time
            with pytest.raises((NotSent, NotAnswered)) as caught:
                await caller.send(upstream(faulty.url), path, within=within)
            message, within = str(caught.value), 2 * within
        await faulty.left.wait()
    assert f"{faulty.place} within 30 s" in message
    assert (type(caught.value), caught.value.code) == (NotAnswered, "timeout")


@pytest.mark.parametrize("path", ["/never_answers", "/slow_headers", "/slow_body"])
async def test_a_cancelled_call_closes_its_connection(caller: Caller, faulty: Faulty, path: str) -> None:
    with anyio.fail_after(30):
        async with anyio.create_task_group() as calls:
            calls.start_soon(caller.send, upstream(faulty.url), path)
            await faulty.arrived.wait()
            calls.cancel_scope.cancel()
        await faulty.left.wait()


@pytest.mark.slow
async def test_a_cancelled_upload_closes_its_connection(caller: Caller) -> None:
    """The upstream reads nothing, so a close that flushes the write buffer would never end."""
    cut = anyio.Event()

    async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        arrived.set()
        await release.wait()
        with pytest.raises(asyncio.IncompleteReadError):
            await reader.readexactly(64_000_000)
        writer.close()
        cut.set()

    arrived, release = anyio.Event(), anyio.Event()
    async with await asyncio.start_server(stall, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with anyio.fail_after(30):
            async with anyio.create_task_group() as calls:

                async def call() -> None:
                    await caller.send(
                        upstream(f"http://127.0.0.1:{port}"), "/up", "POST", content=bytes(64_000_000)
                    )

                calls.start_soon(call)
                await arrived.wait()
                calls.cancel_scope.cancel()
            release.set()
            await cut.wait()


async def test_a_connection_is_used_again(caller: Caller, faulty: Faulty) -> None:
    for _ in range(5):
        await caller.send(upstream(faulty.url))
    assert faulty.connections == 1


async def test_a_connection_that_has_not_settled_is_not_used_again(faulty: Faulty) -> None:
    """An unexpected second reply may still be on its way."""
    client = Client(settle=60.0)
    for _ in range(3):
        await Caller(client).send(upstream(faulty.url))
    assert faulty.connections == 3
    await client.aclose()


async def test_an_unsafe_call_never_uses_an_idle_connection(caller: Caller, faulty: Faulty) -> None:
    await caller.send(upstream(faulty.url))
    await caller.send(upstream(faulty.url), method="POST")
    await caller.send(upstream(faulty.url))
    assert [exchange.connection for exchange in faulty.exchanges] == [1, 2, 1]


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("path", ["/closes_after_reply", "/closes_on_reuse", "/crossing_408"])
async def test_an_idle_connection_that_is_closed_loses_no_call_and_repeats_none(
    caller: Caller, faulty: Faulty, path: str, method: str
) -> None:
    to = upstream(faulty.url, retries={"max": 0})
    for number in range(50):
        reply = await caller.send(to, f"{path}?{number}", method)
        assert reply.content == JSON
    answered = [exchange for exchange in faulty.exchanges if exchange.number == 1]
    assert [exchange.target for exchange in answered] == [f"{path}?{number}" for number in range(50)]
    assert method == "GET" or len(faulty.exchanges) == 50
    assert caller.events == []


@pytest.mark.parametrize("path", ["/keepalive_then_408", "/long_content_length_extra", "/body_on_204"])
async def test_bytes_after_a_reply_never_answer_the_next_call(
    caller: Caller, faulty: Faulty, path: str
) -> None:
    to = upstream(faulty.url, retries={"max": 0})
    for number in range(50):
        assert await outcome_of(caller, faulty, path, "GET") in ("200", "204")
        await checkpoint()
        reply = await caller.send(to, f"/echo?{number}")
        assert f"/echo?{number} ".encode() in reply.content


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
@pytest.mark.parametrize(
    ("path", "status", "content"),
    [
        ("/extra_bytes", 200, JSON),
        ("/extra_bytes_later", 200, JSON),
        ("/extra_blank", 200, JSON),
        ("/extra_line", 200, JSON),
        ("/extra_after_close", 200, JSON),
        ("/extra_after_chunks", 200, b"  "),
        ("/extra_after_hints", 200, JSON),
        ("/long_content_length_extra", 200, JSON),
        ("/body_on_204", 204, b""),
        ("/body_on_204_at_once", 204, b""),
        ("/chunk_end_on_204", 204, b""),
        ("/reply_on_204", 204, b""),
        ("/body_on_304", 304, b""),
        ("/body_on_304_later", 304, b""),
    ],
)
async def test_bytes_after_a_complete_reply_do_not_change_it(
    caller: Caller, faulty: Faulty, *, path: str, status: int, content: bytes, method: str
) -> None:
    to = upstream(faulty.url, retries={"max": 0})
    for number in range(10):
        reply = await caller.send(to, path, method)
        assert (reply.status, reply.content) == (status, b"" if method == "HEAD" else content)
        reply = await caller.send(to, f"/echo?{number}")
        assert f"/echo?{number} ".encode() in reply.content
    last = {exchange.connection: exchange for exchange in faulty.exchanges}
    ended = [
        exchange is last[exchange.connection] for exchange in faulty.exchanges if exchange.target == path
    ]
    assert all(ended) or path in (
        "/extra_line",
        "/extra_bytes_later",
    )  # ignored by the parser; not arrived yet


async def test_a_reply_that_is_cut_on_a_reused_connection_is_not_requested_again(
    caller: Caller, faulty: Faulty
) -> None:
    to = upstream(faulty.url, retries={"max": 0})
    await caller.send(to)
    with anyio.fail_after(30), pytest.raises(NotAnswered) as caught:
        await caller.send(to, "/short_content_length")
    assert caught.value.code == "reply-cut"
    assert [(exchange.connection, exchange.number) for exchange in faulty.exchanges] == [(1, 1), (1, 2)]


async def test_bytes_on_an_idle_connection_close_it(caller: Caller, faulty: Faulty) -> None:
    to = upstream(faulty.url)
    await caller.send(to, "/late_408")
    faulty.go.set()
    with anyio.fail_after(30):
        await faulty.left.wait()
    assert (await caller.send(to, "/echo")).status == 200
    assert [exchange.connection for exchange in faulty.exchanges] == [1, 2]


async def test_unread_bytes_on_an_idle_connection_never_answer_the_next_call(
    caller: Caller, faulty: Faulty
) -> None:
    to = upstream(faulty.url)
    await caller.send(to)
    faulty.exchanges[0].writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong")
    reply = await caller.send(to, "/echo?mine")
    assert b"/echo?mine" in reply.content
    assert [exchange.connection for exchange in faulty.exchanges] == [1, 2]


async def test_a_repeatable_call_is_repeated_if_its_reply_was_cut(caller: Caller, faulty: Faulty) -> None:
    reply = await caller.send(upstream(faulty.url), "/fails_once")
    assert reply.content == JSON
    assert caller.events == [RequestRetried("shop", 1, "reply-cut", 0.05)]


async def test_an_unsafe_call_is_never_sent_twice(caller: Caller, faulty: Faulty) -> None:
    for path in ("/fails_once", "/status?code=503&times=99"):
        with anyio.fail_after(30):
            outcome = await outcome_of(caller, faulty, path, "POST")
        assert outcome in ("reply-cut", "503")
    assert len(faulty.exchanges) == 2
    assert caller.events == []


async def outcome_of(caller: Caller, faulty: Faulty, path: str, method: str) -> str:
    try:
        return str((await caller.send(upstream(faulty.url), path, method)).status)
    except BridgeError as error:
        return error.code


@pytest.mark.parametrize("code", [429, 502, 503, 504])
async def test_a_call_to_a_busy_upstream_is_repeated(caller: Caller, faulty: Faulty, code: int) -> None:
    reply = await caller.send(upstream(faulty.url), f"/status?code={code}&times=2")
    assert reply.status == 200
    assert caller.events == [
        RequestRetried("shop", 1, f"status-{code}", 0.05),
        RequestRetried("shop", 2, f"status-{code}", 0.1),
    ]


async def test_the_last_busy_reply_is_returned(caller: Caller, faulty: Faulty) -> None:
    reply = await caller.send(upstream(faulty.url, retries={"max": 1}), "/status?code=503")
    assert reply.status == 503
    assert len(faulty.exchanges) == 2


async def test_each_request_adds_a_fifth_of_a_retry(caller: Caller, faulty: Faulty) -> None:
    to = upstream(faulty.url, retries={"max": 1})
    for _ in range(14):
        assert (await caller.send(to, "/status?code=503")).status == 503
    assert len(faulty.exchanges) == 14 + 12  # the first ten retries are free


async def test_no_retry_waits_beyond_the_deadline(caller: Caller, faulty: Faulty) -> None:
    reply = await caller.send(upstream(faulty.url), "/status?code=429&retry-after=60")
    assert (reply.status, reply.headers["retry-after"]) == (429, "60")
    assert len(faulty.exchanges) == 1


async def test_a_request_that_was_not_sent_is_repeated_for_any_method(caller: Caller) -> None:
    to = upstream("http://127.0.0.1:1")
    with pytest.raises(NotSent, match=r"127\.0\.0\.1:1 \(connection refused\)") as caught:
        await caller.send(to, method="POST")
    assert caught.value.code == "connect-refused"
    assert [event for event in caller.events if isinstance(event, RequestRetried)] == caller.events
    assert len(caller.events) == 2


async def test_a_call_counts_as_sent_if_only_its_last_attempt_was_not(caller: Caller, faulty: Faulty) -> None:
    with pytest.raises(NotAnswered) as caught:
        await caller.send(upstream(faulty.url), "/last_words")
    assert caught.value.code == "connect-refused"


async def test_calls_of_an_upstream_are_limited(caller: Caller, faulty: Faulty) -> None:
    to = upstream(faulty.url, limits={"concurrency": 2, "queue": "5s"})
    async with anyio.create_task_group() as calls:
        for _ in range(6):
            calls.start_soon(caller.send, to, "/waits")
        with anyio.fail_after(30):
            while len(faulty.exchanges) < 2:
                await checkpoint()
        for _ in range(20):
            await checkpoint()
        assert len(faulty.exchanges) == 2
        faulty.go.set()
    assert len(faulty.exchanges) == 6


async def test_a_call_that_gets_no_slot_is_not_sent(caller: Caller, faulty: Faulty) -> None:
    to = upstream(faulty.url, limits={"concurrency": 1, "queue": "10ms"})
    async with anyio.create_task_group() as calls:
        calls.start_soon(caller.send, to, "/waits")
        await faulty.arrived.wait()
        with pytest.raises(NotSent, match=r"within 0\.01 s") as caught:
            await caller.send(to)
        assert caught.value.code == "busy"
        faulty.go.set()


async def test_the_deadline_covers_waiting_for_a_slot(caller: Caller, faulty: Faulty) -> None:
    to = upstream(faulty.url, limits={"concurrency": 1})
    async with anyio.create_task_group() as calls:
        calls.start_soon(caller.send, to, "/waits")
        await faulty.arrived.wait()
        with pytest.raises(NotSent, match="waiting for its turn") as caught:
            await caller.send(to, within=0.01)
        assert caught.value.code == "timeout"
        faulty.go.set()


async def test_the_limits_of_a_tool_apply_in_addition(caller: Caller, faulty: Faulty) -> None:
    to, tight = upstream(faulty.url), ("slow_tool", Limits(concurrency=1))
    async with anyio.create_task_group() as calls:
        calls.start_soon(partial(caller.send, to, "/waits", tool=tight))
        await faulty.arrived.wait()
        with pytest.raises(NotSent):
            await caller.send(to, tool=tight, within=0.01)
        assert (await caller.send(to)).status == 200
        faulty.go.set()


async def test_an_upstream_that_hangs_delays_no_other(caller: Caller, faulty: Faulty) -> None:
    hanging = upstream(faulty.url, name="hanging", limits={"concurrency": 1000})
    async with serve() as other, anyio.create_task_group() as calls:
        for _ in range(100):
            calls.start_soon(caller.send, hanging, "/never_answers")
        with anyio.fail_after(30):
            while len(faulty.exchanges) < 100:
                await checkpoint()
            assert (await caller.send(upstream(other.url, name="other"))).status == 200
        calls.cancel_scope.cancel()


async def test_a_running_call_outlives_the_reload_that_removes_its_upstream(
    caller: Caller, faulty: Faulty
) -> None:
    replies: list[Reply] = []
    to = upstream(faulty.url)
    async with serve() as other, anyio.create_task_group() as calls:

        async def call() -> None:
            replies.append(await caller.send(to, "/waits"))

        calls.start_soon(call)
        await faulty.arrived.wait()
        kept = upstream(other.url, name="other")
        caller.client.retire([kept])
        await caller.send(kept)
        faulty.go.set()
    assert replies[0].content == JSON
    async with serve() as other:
        await caller.send(upstream(other.url, name="third"))
    with anyio.fail_after(30):
        while faulty.open:
            await checkpoint()


async def test_a_reload_that_keeps_an_upstream_keeps_its_connections_and_running_calls(
    caller: Caller, faulty: Faulty
) -> None:
    before = upstream(faulty.url, limits={"concurrency": 1})
    after = upstream(faulty.url, limits={"concurrency": 2}, timeout="10s")
    async with anyio.create_task_group() as calls:
        calls.start_soon(caller.send, before, "/waits")
        await faulty.arrived.wait()
        caller.client.retire([after])
        assert (await caller.send(after)).status == 200
        with pytest.raises(NotSent):
            await caller.send(before, within=0.01)
        faulty.go.set()
    caller.client.retire([after])
    await caller.send(after)
    assert faulty.connections == 2


async def test_unused_routes_do_not_accumulate(
    caller: Caller, faulty: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.upstream.routes._MAX_ROUTES", 2)
    for _ in range(5):
        await caller.send(upstream(faulty.url))
    (state,) = caller.client._upstreams.values()
    assert len(state.routes._routes) == 1
    assert faulty.connections == 1


async def test_a_client_that_was_never_used_can_be_closed() -> None:
    await Client().aclose()


async def test_closing_the_client_fails_running_calls(caller: Caller, faulty: Faulty) -> None:
    async with anyio.create_task_group() as calls:

        async def call() -> None:
            error = await failure(caller, faulty, "/never_answers")
            assert error.code == "reply-cut"

        calls.start_soon(call)
        await faulty.arrived.wait()
        await caller.client.aclose()


@pytest.mark.parametrize("path", ["rst_before_head", "short_content_length", "not_http", "header_bomb"])
async def test_a_failed_reply_is_freed_without_the_garbage_collector(
    caller: Caller, faulty: Faulty, path: str
) -> None:
    """An error in a cycle with its traceback would keep all received data until a collection."""
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        with suppress(BridgeError):  # pytest.raises would create a cycle
            await caller.send(upstream(faulty.url), f"/{path}", "POST")
        while faulty.open:
            await checkpoint()
        await caller.client.aclose()
        await checkpoint()
        gc.collect()
        assert not [left for left in gc.garbage if isinstance(left, FrameType | Reply | BridgeError)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
