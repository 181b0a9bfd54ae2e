import gzip
import ssl
from os import urandom

import httpx
import pytest

from bridge.errors import UnusableReply
from bridge.exchange import Reply
from bridge.upstream.http.reply_reader import Progress, ReplyReader
from tests.upstream.faulty import CHUNKED, OK

pytestmark = pytest.mark.anyio


async def complete(reader: ReplyReader) -> Reply:
    return await (await reader.received).reply()


def reply_reader(limit: int = 1_000_000) -> ReplyReader:
    return ReplyReader(limit, Progress(), has_content=True)


async def test_a_lost_connection_does_not_change_a_complete_reply() -> None:
    reader = reply_reader()
    reader.feed(OK + b"Content-Length: 2\r\n\r\n{}")
    reader.connection_lost(None)
    assert (await complete(reader)).content == b"{}"
    assert not reader.is_last


async def test_bytes_after_a_complete_reply_close_the_connection() -> None:
    reader = reply_reader()
    reader.feed(OK + b"Content-Length: 2\r\n\r\n{}")
    reader.feed(b"HTTP/1.1 200 OK\r\n")
    assert (await complete(reader)).content == b"{}"
    assert reader.is_last


@pytest.mark.parametrize(("size", "is_accepted"), [(4, False), (24, True)])
async def test_small_chunks_are_accepted_if_their_framing_is_at_most_a_quarter_of_the_content(
    *, size: int, is_accepted: bool
) -> None:
    chunk = b"%x\r\n%s\r\n" % (size, b"x" * size)
    reader = reply_reader()
    reader.feed(CHUNKED + chunk * 40_000 + b"0\r\n\r\n")
    if is_accepted:
        assert (await complete(reader)).content == b"x" * size * 40_000
    else:
        with pytest.raises(httpx.RemoteProtocolError, match="protocol-error"):
            await complete(reader)


@pytest.mark.parametrize("size", [100, 2_000_000])
@pytest.mark.parametrize("coding", ["gzip", "identity"])
async def test_a_large_reply_is_decoded_like_a_small_one(*, size: int, coding: str) -> None:
    body = urandom(size)
    content = gzip.compress(body) if coding == "gzip" else body
    for _ in range(2):
        reader = reply_reader(limit=3_000_000)
        reader.feed(
            OK + b"Content-Encoding: %s\r\nContent-Length: %d\r\n\r\n" % (coding.encode(), len(content))
        )
        reader.feed(content)
        assert await complete(reader) == Reply(200, reader.received.result().headers, body)


async def test_a_large_reply_that_is_damaged_at_its_end_is_refused() -> None:
    content = gzip.compress(bytes(1_000_000))[:-1]
    reader = reply_reader()
    reader.feed(OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s" % (len(content), content))
    with pytest.raises(UnusableReply, match="its gzip data ends too early"):
        await complete(reader)


async def test_the_first_ten_thousand_chunks_may_have_any_size() -> None:
    reader = reply_reader()
    reader.feed(CHUNKED + b"1\r\nx\r\n" * 10_000 + b"0\r\n\r\n")
    assert (await complete(reader)).content == b"x" * 10_000


@pytest.mark.parametrize(
    ("head", "code"), [(b"", "tls-failed certificate unknown_ca"), (OK + b"\r\n", "tls-failed")]
)
async def test_an_alert_is_about_our_certificate_only_before_the_reply(*, head: bytes, code: str) -> None:
    """A server that has begun its reply has read the request."""
    alert = ssl.SSLError(1, "alert")
    alert.reason = "TLSV1_ALERT_UNKNOWN_CA"
    reader = reply_reader()
    reader.feed(head)
    reader.connection_lost(alert)
    with pytest.raises(httpx.ReadError) as caught:
        await complete(reader)
    assert str(caught.value) == code
