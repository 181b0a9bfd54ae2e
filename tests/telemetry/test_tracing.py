"""Spans of what goes past the SDK: plain calls, and requests to APIs."""

from collections.abc import AsyncIterator

import anyio
import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from bridge.errors import NotSent
from bridge.telemetry.tracing import Tracing
from bridge.upstream.client import Client
from tests.serving.api import Api
from tests.serving.messages import call, cancel
from tests.serving.served import Served
from tests.serving.session import Session
from tests.upstream.authorization import serving_authorization
from tests.upstream.sending import Caller
from tests.upstream.test_oauth import OWN, ask, upstream

pytestmark = pytest.mark.anyio


@pytest.fixture
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracing(spans: InMemorySpanExporter) -> Tracing:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(spans))
    return Tracing(provider)


@pytest.fixture
async def client(tracing: Tracing) -> AsyncIterator[Client]:
    opened = Client(watch=tracing.sending)
    yield opened
    await opened.aclose()


@pytest.fixture
def served(api: Api, client: Client, tracing: Tracing) -> Served:
    bridge = Served(api.url, client, tracing=tracing)
    bridge.show("echo", "fail", "hang", "large")
    return bridge


def told(spans: InMemorySpanExporter) -> list[tuple[str, bool, object]]:
    """Names, whether they failed, and why."""
    return [_told(span) for span in spans.get_finished_spans()]


def _told(span: ReadableSpan) -> tuple[str, bool, object]:
    assert not span.events
    return (
        span.name,
        not span.status.is_ok and not span.status.is_unset,
        (span.attributes or {}).get("error.type"),
    )


async def test_a_span_shows_why_a_call_failed(
    served: Served, web: httpx.AsyncClient, spans: InMemorySpanExporter
) -> None:
    async with served.http() as url:
        session = Session(web, url)
        for name in ("echo", "fail"):
            await session.ask_modern(call(name))
    assert told(spans) == [
        ("GET /echo", False, None),
        ("tools/call echo", False, None),
        ("GET /fail", True, "500"),
        ("tools/call fail", True, "tool_error"),
    ]


async def test_the_span_of_a_cancelled_call_shows_it(
    served: Served, web: httpx.AsyncClient, api: Api, spans: InMemorySpanExporter
) -> None:
    async with served.http() as url, anyio.create_task_group() as tasks:
        session = Session(web, url)
        await session.open()
        tasks.start_soon(session.post, call("hang", 7))
        await api.entered.wait()
        await session.post(cancel(7))
    hang = [each for each in told(spans) if "hang" in each[0]]
    assert hang == [("GET /hang", False, None), ("tools/call hang", True, "-32800")]


@pytest.mark.slow
async def test_spans_show_timeouts_large_replies_and_refused_connections(
    client: Client, spans: InMemorySpanExporter
) -> None:
    async with serving_authorization() as server:
        caller = Caller(client)
        server.held = anyio.Event()
        with pytest.raises(NotSent, match="No complete answer"):
            await ask(caller, upstream(server, OWN), within=2)
        server.held.set()
        for to in (
            upstream(server, OWN, maxBytes="1B"),
            upstream(server, OWN | {"tokenUrl": "http://[::1]:9/token"}, retries={"max": 0}),
        ):
            with pytest.raises(Exception, match=r"larger than maxBytes|Cannot reach"):
                await ask(caller, to)
    assert told(spans) == [
        ("POST /oauth/token/", True, "timeout"),
        ("POST /oauth/token/", False, None),
        ("GET", True, "reply-too-large"),
        ("POST /token", True, "connect-refused"),
    ]
    last = spans.get_finished_spans()[-1].attributes
    assert last
    assert (last["server.address"], last["server.port"]) == ("::1", 9)
