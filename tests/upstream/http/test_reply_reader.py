import gzip
import ssl
from os import urandom

import httpx
import pytest

from bridge.errors import UnusableReply
from bridge.exchange import Reply
from bridge.upstream.http.reply_reader import Incoming, Progress
from tests.upstream.faulty import CHUNKED, OK

pytestmark = pytest.mark.anyio


async def whole(incoming: Incoming) -> Reply:
    return await (await incoming.arrived).reply()


def incoming(limit: int = 1_000_000) -> Incoming:
    return Incoming(limit, Progress(), has_content=True)


async def test_the_end_of_the_connection_changes_no_reply_that_was_given() -> None:
    reply = incoming()
    reply.feed(OK + b"Content-Length: 2\r\n\r\n{}")
    reply.lost(None)
    assert (await whole(reply)).content == b"{}"
    assert not reply.is_last


async def test_bytes_behind_a_reply_that_was_given_end_the_connection() -> None:
    reply = incoming()
    reply.feed(OK + b"Content-Length: 2\r\n\r\n{}")
    reply.feed(b"HTTP/1.1 200 OK\r\n")
    assert (await whole(reply)).content == b"{}"
    assert reply.is_last


@pytest.mark.parametrize(("size", "is_taken"), [(4, False), (24, True)])
async def test_small_chunks_are_taken_as_long_as_their_framing_is_a_quarter_of_the_content(
    *, size: int, is_taken: bool
) -> None:
    chunk = b"%x\r\n%s\r\n" % (size, b"x" * size)
    reply = incoming()
    reply.feed(CHUNKED + chunk * 40_000 + b"0\r\n\r\n")
    if is_taken:
        assert (await whole(reply)).content == b"x" * size * 40_000
    else:
        with pytest.raises(httpx.RemoteProtocolError, match="protocol-error"):
            await whole(reply)


@pytest.mark.parametrize("size", [100, 2_000_000])
@pytest.mark.parametrize("coding", ["gzip", "identity"])
async def test_a_large_reply_is_put_together_as_a_small_one(*, size: int, coding: str) -> None:
    said = urandom(size)
    content = gzip.compress(said) if coding == "gzip" else said
    for _ in range(2):
        reply = incoming(limit=3_000_000)
        reply.feed(
            OK + b"Content-Encoding: %s\r\nContent-Length: %d\r\n\r\n" % (coding.encode(), len(content))
        )
        reply.feed(content)
        assert await whole(reply) == Reply(200, reply.arrived.result().headers, said)


async def test_a_large_reply_that_is_damaged_at_its_end_is_refused() -> None:
    content = gzip.compress(bytes(1_000_000))[:-1]
    reply = incoming()
    reply.feed(OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s" % (len(content), content))
    with pytest.raises(UnusableReply, match="its gzip data ends too early"):
        await whole(reply)


async def test_the_first_chunks_may_be_as_small_as_they_are() -> None:
    reply = incoming()
    reply.feed(CHUNKED + b"1\r\nx\r\n" * 10_000 + b"0\r\n\r\n")
    assert (await whole(reply)).content == b"x" * 10_000


@pytest.mark.parametrize(
    ("head", "code"), [(b"", "tls-failed certificate unknown_ca"), (OK + b"\r\n", "tls-failed")]
)
async def test_an_alert_about_our_certificate_comes_before_any_reply(*, head: bytes, code: str) -> None:
    """A server that has begun its reply has read the request."""
    alert = ssl.SSLError(1, "alert")
    alert.reason = "TLSV1_ALERT_UNKNOWN_CA"
    reply = incoming()
    reply.feed(head)
    reply.lost(alert)
    with pytest.raises(httpx.ReadError) as caught:
        await whole(reply)
    assert str(caught.value) == code
