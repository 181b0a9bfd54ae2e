import anyio
import pytest
from starlette.types import Scope

from bridge.caller import Caller
from bridge.events import Event, HandshakeRefused, RequestRefused, ignore
from bridge.http.rejection_log import RejectionLog
from bridge.protocol.caller_context import set_caller

pytestmark = pytest.mark.anyio


def sent(client: str, caller: str | None = None) -> Scope:
    scope = {"client": (client, 1234)}
    if caller:
        set_caller(Caller(caller), scope)
    return scope


async def test_the_first_rejection_is_logged_at_once_and_others_after_a_pause(
    caplog: pytest.LogCaptureFixture,
) -> None:
    events: list[Event] = []
    rejections = RejectionLog(events.append, pause=0.05)
    rejections.report(sent("10.0.0.1"), 401, "no key")
    rejections.report(sent("10.0.0.2"), 401, "a wrong key")
    rejections.report(sent("10.0.0.3"), 401, "an old key", "ann")
    rejections.report(sent("10.0.0.4", "bob"), 429, "too many streams")
    first = [
        "refused a request from 10.0.0.1 with 401: no key",
        "refused a request of bob from 10.0.0.4 with 429: too many streams",
    ]
    assert caplog.messages == first
    with anyio.fail_after(30):
        while len(caplog.messages) < 3:
            await anyio.lowlevel.checkpoint()
    last = "refused 2 requests, the last one of ann from 10.0.0.3 with 401: an old key"
    assert caplog.messages == [*first, last]
    assert events == [*[RequestRefused(401)] * 3, RequestRefused(429)]


async def test_refused_handshakes_are_summed_up(caplog: pytest.LogCaptureFixture) -> None:
    events: list[Event] = []
    rejections = RejectionLog(events.append, pause=60)
    for number in range(1, 4):
        rejections.report_handshake(f"10.0.0.{number}", "the client does not speak TLS")
    rejections.flush()
    assert caplog.messages == [
        "refused a TLS handshake from 10.0.0.1: the client does not speak TLS",
        "refused 2 TLS handshakes, the last one from 10.0.0.3: the client does not speak TLS",
    ]
    assert events == [HandshakeRefused(f"10.0.0.{number}") for number in range(1, 4)]


async def test_flush_logs_the_rejections_that_wait(caplog: pytest.LogCaptureFixture) -> None:
    rejections = RejectionLog(ignore, pause=0.05)
    for _ in range(3):
        rejections.report(sent("10.0.0.1"), 421, "another server")
    rejections.flush()
    line = "from 10.0.0.1 with 421: another server"
    assert caplog.messages == [f"refused a request {line}", f"refused 2 requests, the last one {line}"]
    rejections.flush()
    assert len(caplog.messages) == 2
