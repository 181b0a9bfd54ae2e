import json
import logging
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from opentelemetry.trace import get_tracer
from opentelemetry.util._once import Once

from bridge.app.startup import StartupState
from bridge.app.worker import Worker
from bridge.commands.serve import _traces
from bridge.secrets import Sources
from bridge.settings import Settings
from bridge.toolfiles.place import Directories
from tests.commands.collector import Collector, serving_collector
from tests.commands.in_process import serving_in_process
from tests.commands.processes import HELLO, request, restbridge
from tests.serving.messages import META, call
from tests.serving.messages import request as asked
from tests.serving.session import Session

pytestmark = pytest.mark.anyio

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
_UPSTREAM = "baseUrl: {url}/api\nauth: {{type: none}}\nforwardHeaders: [traceparent]\n"
_TOOL = """\
description: Calls {name}.
upstream: api
inputSchema: {{type: object, properties: {{id: {{type: integer, default: 1}}, q: {{type: string}}}}}}
request: {{method: GET, url: "/{name}/{{id}}{{?q}}"}}
"""


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    async with serving_collector() as running:
        yield running


@pytest.fixture
async def web() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=30, trust_env=False) as opened:
        yield opened


@pytest.fixture
def tools(tmp_path: Path, collector: Collector) -> Path:
    (tmp_path / "tools.d").mkdir()
    (tmp_path / "tools.d/api.upstream.yaml").write_text(_UPSTREAM.format(url=collector.url))
    for name in ("fine", "flaky", "missing"):
        (tmp_path / f"tools.d/{name}.yaml").write_text(_TOOL.format(name=name))
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("fast_path", ["1", "0"])
async def test_calls_over_http_are_traced_to_the_api(
    tools: Path, collector: Collector, web: httpx.AsyncClient, fast_path: str
) -> None:
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "RESTBRIDGE_FAST_PATH": fast_path}
    async with restbridge("serve", "--http", "127.0.0.1:0", cwd=tools, env=env) as bridge:
        session = Session(web, (await bridge.wait_for_log(r"serving (\S+)"))[1])
        await session.open()
        await session.ask(asked("tools/list", 1))
        await session.ask(call("fine", 2))
        session.headers["traceparent"] = f"00-{TRACE}-{PARENT}-01"
        await session.ask_modern(call("flaky", 3))
        await session.ask_modern(call("missing", 4))
        await session.ask_modern(call("nowhere", 5))
        message = call("fine", 6, _meta=META | {"traceparent": f"00-{TRACE}-{PARENT}-01"})
        message["params"]["arguments"] = {"q": "s3cret"}
        headers = session.modern(message)["headers"]
        assert "result" in (await session.post(message, **headers)).json()
        told = await bridge.wait_for_log(r"call tool=missing .* id=4 trace=([0-9a-f]{32})")
        await bridge.wait_for_log(rf"call tool=fine .* id=6 trace={TRACE}")
        assert await bridge.wait_for_exit(signal.SIGTERM) == 0
    assert {span.service for span in collector.spans} == {"restbridge"}
    (listed,) = collector.named("tools/list")
    assert (listed.kind, listed.failed) == ("server", False)
    assert listed.attributes["mcp.protocol.version"] == "2025-11-25"
    spans = collector.named("tools/call fine")
    first, last = sorted(spans, key=lambda span: span.attributes["jsonrpc.request.id"])
    assert first.attributes == {
        "mcp.method.name": "tools/call",
        "mcp.protocol.version": "2025-11-25",
        "jsonrpc.request.id": "2",
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "fine",
        "restbridge.outcome": "ok",
    }
    assert (first.parent, last.parent, last.trace) == ("", PARENT, TRACE)
    (flaky,) = collector.named("tools/call flaky")
    tries = collector.named("GET /api/flaky/{id}")
    assert {(span.kind, span.trace, span.parent) for span in tries} == {("client", flaky.trace, flaky.id)}
    port = int(collector.url.rpartition(":")[2])
    common = {
        "http.request.method": "GET",
        "server.address": "127.0.0.1",
        "server.port": port,
        "url.template": "/api/flaky/{id}",
    }
    assert [span.attributes for span in tries] == [
        common | {"http.response.status_code": 503, "error.type": "503"},
        common | {"http.request.resend_count": 1, "http.response.status_code": 200},
    ]
    assert [span.failed for span in tries] == [True, False]
    assert not flaky.failed
    (missing,) = collector.named("tools/call missing")
    assert (missing.failed, missing.attributes["error.type"]) == (True, "tool_error")
    assert (missing.trace, missing.attributes["restbridge.outcome"]) == (told[1], "http-404")
    (unknown,) = collector.named("tools/call nowhere")
    assert (unknown.failed, unknown.attributes["error.type"]) == (True, "-32602")
    assert unknown.attributes["restbridge.outcome"] == "unknown-tool"
    sent = {(span.trace, span.id) for span in collector.spans if span.kind == "client"}
    heard = [each.headers.getlist("traceparent") for each in collector.calls]
    assert {tuple(value.split("-")[1:3]) for (value,) in heard} == sent
    assert len(sent) == len(heard) == 5
    assert "s3cret" not in str(collector.spans)


@pytest.mark.slow
@pytest.mark.parametrize("fast_path", ["1", "0"])
async def test_calls_over_stdio_are_traced(tools: Path, collector: Collector, fast_path: str) -> None:
    env = {
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{collector.url}/v1/traces",
        "OTEL_SERVICE_NAME": "mine",
        "RESTBRIDGE_FAST_PATH": fast_path,
    }
    async with restbridge("serve", cwd=tools, env=env) as bridge:
        await bridge.send(HELLO, {"jsonrpc": "2.0", "method": "notifications/initialized"})
        for number in range(2, 5):
            await bridge.send(request(number, "tools/call", name="fine", arguments={}))
            while (
                "id" not in (answer := json.loads((await bridge.wait_for_stdout("")).string))
                or answer["id"] == 1
            ):
                pass
            assert answer["id"] == number
        assert await bridge.close_stdin() == 0
    spans = collector.named("tools/call fine")
    assert [span.attributes["jsonrpc.request.id"] for span in spans] == ["2", "3", "4"]
    assert {span.service for span in spans} == {"mine"}
    assert [span.parent for span in collector.named("GET /api/fine/{id}")] == [span.id for span in spans]


def startup(worker: int | None = None) -> StartupState:
    place = Worker(worker, f"{worker}-0", 2, 0, "", 0) if worker else None
    begun = StartupState.load(Settings(), Directories(()), Sources({}), place)
    assert begun
    return begun


@pytest.fixture
def tracer_provider_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is set for the whole process ends with the test."""
    monkeypatch.setattr("opentelemetry.trace._TRACER_PROVIDER", None)
    monkeypatch.setattr("opentelemetry.trace._TRACER_PROVIDER_SET_ONCE", Once())


@pytest.mark.usefixtures("tracer_provider_restored")
async def test_the_spans_of_a_process_are_sent_before_it_ends(
    tools: Path,
    collector: Collector,
    web: httpx.AsyncClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    words = ("--http", "127.0.0.1:0", str(tools / "tools.d"))
    async with serving_in_process(*words) as bridge:
        session = Session(web, (await bridge.wait_for_log(r"serving (\S+)"))[1])
        await session.ask_modern(asked("tools/list", 1))
        await session.ask_modern(call("flaky", 2))
        (trace,) = (await bridge.wait_for_log(r"call tool=flaky .* id=2 trace=([0-9a-f]{32})")).groups()
        assert await bridge.wait_for_exit(signal.SIGTERM) == 0
    assert [span.service for span in collector.named("tools/list")] == ["restbridge"]
    (flaky,) = collector.named("tools/call flaky")
    assert (flaky.trace, flaky.attributes["restbridge.outcome"]) == (trace, "ok")
    tries = collector.named("GET /api/flaky/{id}")
    assert [span.attributes.get("http.request.resend_count", 0) for span in tries] == [0, 1]
    assert {(span.trace, span.parent) for span in tries} == {(trace, flaky.id)}


@pytest.mark.slow
@pytest.mark.usefixtures("tracer_provider_restored")
def test_a_missing_collector_delays_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://user:s3cret@127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    end = _traces(startup())
    assert caplog.messages[-2:] == [
        "traces go to 127.0.0.1:9",
        "OTEL_EXPORTER_OTLP_PROTOCOL is set, but traces are always sent as http/protobuf",
    ]
    with get_tracer("test").start_as_current_span("lost"):
        pass
    assert end
    end()


@pytest.mark.parametrize(
    "env",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_SDK_DISABLED": "TRUE"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_TRACES_EXPORTER": "none"},
    ],
)
async def test_without_a_configured_collector_nothing_is_sent(
    tools: Path,
    collector: Collector,
    web: httpx.AsyncClient,
    monkeypatch: pytest.MonkeyPatch,
    env: dict[str, str],
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    async with serving_in_process("--http", "0", str(tools / "tools.d")) as bridge:
        session = Session(web, (await bridge.wait_for_log(r"serving (\S+)"))[1])
        await session.ask_modern(call("fine"))
    assert collector.spans == []
    assert "traceparent" not in collector.calls[0].headers


@pytest.mark.parametrize("worker", [1, 2])
def test_without_the_extra_one_warning_says_that_tracing_is_off(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, worker: int
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "bridge.telemetry.exporter", None)
    assert _traces(startup(worker)) is None
    text = "OTEL_EXPORTER_OTLP_ENDPOINT is set, but tracing is off: restbridge[otel] is not installed"
    assert caplog.messages == [text] * (worker == 1)
