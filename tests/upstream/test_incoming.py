import ssl

import httpx
import pytest

from bridge.upstream.incoming import Incoming, Progress
from tests.upstream.faulty import CHUNKED, OK

pytestmark = pytest.mark.anyio


def incoming(limit: int = 1_000_000) -> Incoming:
    return Incoming(limit, Progress(), has_content=True)


async def test_the_end_of_the_connection_changes_no_reply_that_was_given() -> None:
    reply = incoming()
    reply.feed(OK + b"Content-Length: 2\r\n\r\n{}")
    reply.lost(None)
    assert (await reply.reply).content == b"{}"
    assert not reply.is_last


async def test_bytes_behind_a_reply_that_was_given_end_the_connection() -> None:
    reply = incoming()
    reply.feed(OK + b"Content-Length: 2\r\n\r\n{}")
    reply.feed(b"HTTP/1.1 200 OK\r\n")
    assert (await reply.reply).content == b"{}"
    assert reply.is_last


@pytest.mark.parametrize(("size", "is_taken"), [(4, False), (24, True)])
async def test_small_chunks_are_taken_as_long_as_their_framing_is_a_quarter_of_the_content(
    *, size: int, is_taken: bool
) -> None:
    chunk = b"%x\r\n%s\r\n" % (size, b"x" * size)
    reply = incoming()
    reply.feed(CHUNKED + chunk * 40_000 + b"0\r\n\r\n")
    if is_taken:
        assert (await reply.reply).content == b"x" * size * 40_000
    else:
        with pytest.raises(httpx.RemoteProtocolError, match="protocol-error"):
            await reply.reply


async def test_the_first_chunks_may_be_as_small_as_they_are() -> None:
    reply = incoming()
    reply.feed(CHUNKED + b"1\r\nx\r\n" * 10_000 + b"0\r\n\r\n")
    assert (await reply.reply).content == b"x" * 10_000


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
        await reply.reply
    assert str(caught.value) == code
