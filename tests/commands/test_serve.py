import json
import logging
import os
import re
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

import anyio
import httpx
import pytest
from mcp import Client

from bridge.address import Address
from bridge.app.runtime import Runtime, serve
from bridge.app.startup import StartupState, directories, held_reload_signals, held_signals
from bridge.app.transports import over_http, run_stdio
from bridge.app.worker import Worker, connection_table
from bridge.caller import NO_CALLER
from bridge.http.connection_table import ConnectionTable
from bridge.http.listeners import bind
from bridge.secrets import Sources
from bridge.settings import Audit as AuditConfig
from bridge.settings import Settings
from bridge.stdio.early_answers import Handoff
from tests.commands.conftest import ROOT, Line
from tests.commands.in_process import (
    gc_settings_restored,
    over_stdio,
    serving_in_process,
    sigterm_when_logged,
)
from tests.commands.processes import HELLO, request, restbridge
from tests.serving.messages import Json, call
from tests.serving.session import Session
from tests.upstream.conversation import serve_faults
from tests.upstream.faulty import never_answers

pytestmark = pytest.mark.anyio


@pytest.mark.slow
@pytest.mark.parametrize("fast_path", ["1", "0"])
async def test_stdio_carries_the_protocol_and_nothing_else(tools: Path, fast_path: str) -> None:
    async with restbridge("serve", cwd=tools.parent, env={"RESTBRIDGE_FAST_PATH": fast_path}) as bridge:
        await bridge.send(HELLO, request(2, "tools/list"))
        hello, listing = [json.loads((await bridge.wait_for_stdout("")).string)["result"] for _ in range(2)]
        assert hello["serverInfo"]["name"] == "restbridge"
        assert len(listing["tools"]) == 6
        assert await bridge.close_stdin() == 0
        with pytest.raises(anyio.EndOfStream):
            await bridge.out.receive()


INITIALIZED: dict[str, object] = {"jsonrpc": "2.0", "method": "notifications/initialized"}


@pytest.mark.slow
async def test_the_tool_list_is_answered_before_the_sdk_is_imported(tools: Path) -> None:
    async with restbridge("serve", cwd=tools.parent) as bridge:
        await bridge.send(HELLO, INITIALIZED, request(2, "tools/list"))
        _, listing = [json.loads((await bridge.wait_for_stdout("")).string)["result"] for _ in range(2)]
        assert len(listing["tools"]) == 6
        assert await bridge.close_stdin() == 0
        assert "serving over stdio" not in await bridge.remaining_log()


@pytest.mark.slow
async def test_a_signal_during_the_sdk_import_is_handled_after_it(tools: Path) -> None:
    async with restbridge("serve", cwd=tools.parent) as bridge:
        await bridge.send(HELLO)
        await bridge.wait_for_stdout("serverInfo")
        await bridge.send(INITIALIZED, request(2, "tools/list", cursor="get_order"))
        bridge.send_signal(signal.SIGTERM)
        listing = json.loads((await bridge.wait_for_stdout("")).string)
        assert [tool["name"] for tool in listing["result"]["tools"]] == ["get_product", "list_products"]
        assert await bridge.wait_for_exit() == 0


def test_an_early_signal_is_held_and_the_next_one_ends_the_process() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with held_signals() as held:
        assert signal.getsignal(signal.SIGTERM) is not before
        signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is before
    assert held == [signal.SIGTERM]


def test_a_signal_while_handlers_are_installed_is_held_too() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    sent: list[int] = []

    def send_after_the_first(_frame: FrameType, event: str, function: Any) -> None:
        if event == "c_return" and function.__name__ == "signal" and not sent:
            sent.append(signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)

    sys.setprofile(send_after_the_first)
    with held_signals() as held:
        sys.setprofile(None)
    assert held == sent == [signal.SIGTERM]
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_an_early_sighup_is_held() -> None:
    before = signal.getsignal(signal.SIGHUP)
    with held_reload_signals() as held:
        signal.raise_signal(signal.SIGHUP)
    assert held == [signal.SIGHUP]
    assert signal.getsignal(signal.SIGHUP) is before


@pytest.mark.usefixtures("tools")
async def test_a_held_sighup_reloads() -> None:
    async with serving_in_process("--http", "0", hangups=[signal.SIGHUP]) as bridge:
        await bridge.wait_for_log(r"INFO reload: \+6 ")
        await bridge.wait_for_log(r"INFO reload: \+0 ~0 -0 !0 in \d+ ms$")


def test_over_http_it_serves_until_a_signal(tools: Path, line: Line) -> None:
    words = ("--http", "0.0.0.0:0", "--insecure", "--stateless", str(tools))
    with sigterm_when_logged("serving http"):
        code, out, err = line("serve", *words)
    assert (code, out) == (0, "")
    assert "WARNING stateless has no effect: the server no longer keeps sessions; remove it\n" in err
    assert re.search(r"INFO serving http://0\.0\.0\.0:\d+/mcp$", err, re.MULTILINE)
    assert err.endswith("INFO stopped\n")


@pytest.mark.parametrize("option", ["--fast-path", "--no-fast-path"])
def test_over_stdio_it_serves_until_the_end_of_input(tools: Path, line: Line, option: str) -> None:
    with over_stdio(HELLO, INITIALIZED, request(2, "tools/call", name="nosuch")) as lines:
        code, _, err = line("serve", option, str(tools))
    answers = [json.loads(each) for each in lines]
    assert code == 0
    assert [answer["id"] for answer in answers] == [1, 2]
    assert answers[1]["error"]["message"] == "Unknown tool: nosuch"
    assert "INFO serving over stdio\n" in err


def test_over_stdio_an_early_signal_ends_serving_after_waiting_requests(tools: Path) -> None:
    settings = Settings(tools=(tools,))
    startup = StartupState.load(settings, directories(settings), Sources({}))
    assert startup
    waiting = Handoff(unread=json.dumps(HELLO).encode() + b"\n")
    source, to_bridge = os.pipe()
    from_bridge, sink = os.pipe()
    with gc_settings_restored():
        assert run_stdio(startup, source, sink, waiting, [signal.SIGTERM]) == 0
    for descriptor in (source, to_bridge, sink):
        os.close(descriptor)
    with os.fdopen(from_bridge, "rb") as answers:
        assert [json.loads(each)["id"] for each in answers] == [1]


WORKER = ("serve", "--worker=2")
ANY_PORT = {"http": {"listen": 0}}


@contextmanager
def as_worker(number: int = 2, **settings: object) -> Iterator[list[str]]:
    """Gives this process the input of a worker. After the block, the list contains the lines of its output."""
    # tmp_path may be too long for the path of a socket.
    with bind(Address("127.0.0.1", 0)) as listener, TemporaryDirectory() as folder:
        ConnectionTable.create(connection_table(Path(folder)))
        # The worker closes what it inherited.
        worker = Worker(number, f"{number}-1a2b3c", 2, listener.dup().detach(), folder, number - 1)
        told = worker.to_json(Settings.from_json(json.dumps({**ANY_PORT, **settings})))
        with over_stdio(json.loads(told)) as lines:
            yield lines


def test_a_worker_prints_its_url_and_serves_until_the_end_of_its_input(tools: Path, line: Line) -> None:
    with as_worker(tools=[str(tools)]) as lines:
        code, _, err = line(*WORKER)
    assert (code, err) == (0, "")  # the first worker tells what is to be told
    (url,) = lines
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/mcp", url)


def test_a_worker_that_waits_for_its_keys_ends_with_its_input(tools: Path, line: Line) -> None:
    (tools.parent / "restbridge.yaml").write_text("nonsense\n")
    with as_worker(tools=[str(tools)], access={}, config="restbridge.yaml") as lines:
        code, _, err = line(*WORKER)
    assert (code, lines) == (0, [])
    assert (
        "restbridge.yaml:1:1: it has errors, so no key is known; waiting until they are fixed worker=2-1a2b3c\n"
        in err
    )


def test_a_worker_whose_supervisor_ends_before_it_sends_the_settings_ends_too(line: Line) -> None:
    with over_stdio() as lines:
        code, _, err = line(*WORKER)
    assert (code, lines, err) == (0, [], "")


@pytest.mark.parametrize("words", ["--strict --http=0", "--worker=1", "--worker=2"])
def test_strict_exits_with_1_if_a_file_has_errors_and_logs_it_once(
    tools: Path, line: Line, words: str
) -> None:
    (tools / "get_order.yaml").write_text("description: Broken.\n")
    with as_worker(int(words[-1]), strict=True):
        code, _, err = line("serve", *words.split())
    assert code == 1
    assert ("not started: a file has errors" in err) is (words != "--worker=2")


def test_workers_are_not_started_if_their_port_is_taken(tools: Path, line: Line) -> None:
    with bind(Address("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, _, err = line("serve", "--http", port, "--workers", "2", str(tools))
    assert (code, "Address already in use; choose another port\n" in err) == (2, True)


async def test_an_upstream_whose_address_changes_is_called_at_the_new_one(tools: Path, shop: str) -> None:
    file = tools / "shop.upstream.yaml"
    there = file.read_text()
    file.write_text(re.sub("baseUrl: .*", "baseUrl: http://127.0.0.1:9", there))
    env = {"SHOP_API_URL": shop, "SHOP_API_KEY": "demo-key"}
    async with (
        serving_in_process("--http", "0", env=env) as bridge,
        Client((await bridge.wait_for_log(r"http://\S+/mcp"))[0]) as client,
    ):
        assert (await client.call_tool("get_order", {"order_id": "o-1001"})).is_error
        file.write_text(there)
        await bridge.wait_for_log(r"INFO reload: \+0 ~6 ")
        assert not (await client.call_tool("get_order", {"order_id": "o-1001"})).is_error


def test_an_audit_file_that_cannot_be_written_is_reported(tools: Path, line: Line) -> None:
    code, _, err = line("serve", "--http", "0", "--audit", "nowhere/audit.jsonl", str(tools))
    assert code == 2
    assert (
        "Error: the audit file nowhere/audit.jsonl cannot be written: No such file or directory; name another\n"
    ) in err


@pytest.mark.parametrize("required", [True, False])
async def test_with_required_audit_a_call_that_cannot_be_recorded_is_not_made(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, *, required: bool
) -> None:
    path = tmp_path / "audit.jsonl"
    path.touch(0o640)
    caplog.set_level(logging.WARNING)
    async with serve_faults({"pay": lambda exchange: exchange.reply(b"{}")}) as upstream:
        tools = tmp_path / "tools.d"
        tools.mkdir()
        (tools / "pay.yaml").write_text(
            f"description: Pays.\nrequest: {{method: POST, url: '{upstream.url}/pay'}}\n"
        )
        settings = Settings(tools=(tools,), audit=AuditConfig(file=path, required=required))
        startup = StartupState.load(settings, directories(settings), Sources({}))
        assert startup
        answers: list[bool] = []

        async def calls(bridge: Runtime, _stop: anyio.Event) -> None:
            tool = bridge.registry.current.tools[0]
            for broken in (False, True):
                if broken:
                    path.rename(tmp_path / "audit.1")
                    path.mkdir()
                answers.append((await bridge.server.call(tool, {}, NO_CALLER))["isError"])

        assert await serve(startup, calls, lambda: None) == 0
    assert answers == [False, required]
    assert len(upstream.exchanges) == (1 if required else 2)
    lines = [json.loads(line) for line in (tmp_path / "audit.1").read_text().splitlines()]
    assert [(line["event"], line["trace"]) for line in lines] == [
        ("call-started", "0" * 32),
        ("call", "0" * 32),
    ]
    assert caplog.messages == [
        f"audit: others may read or write {path} (mode 640); restrict it: chmod 600",
        f"audit: a line was not written to {path}: Is a directory",
    ]


def test_a_required_audit_needs_a_file(line: Line) -> None:
    code, _, err = line("serve", "--audit-required")
    assert (code, "--audit-required needs a file; add --audit FILE" in err) == (2, True)


def test_an_invalid_host_name_is_refused(line: Line) -> None:
    code, _, err = line("serve", "--http", "0", "--host-name", "http://x")
    assert (code, "expected the name of a host, without port and scheme" in err) == (2, True)


@pytest.mark.usefixtures("tools")
async def test_a_bridge_accepts_the_host_names_that_it_is_given() -> None:
    words = ("--http", "0", "--host-name", "Tools.example.com")
    async with serving_in_process(*words) as bridge:
        said = await bridge.wait_for_log(r"serving (http\S+/mcp)$")
        headers = {"accept": "application/json, text/event-stream"}
        async with httpx.AsyncClient(timeout=30, trust_env=False) as web:
            for host, expected in (("tools.example.com:80", 200), ("other.example.com", 421)):
                reply = await web.post(said[1], json=HELLO, headers=headers | {"host": host})
                assert (reply.status_code, "mcp-session-id" in reply.headers) == (expected, expected == 200)
        assert await bridge.wait_for_exit(signal.SIGTERM) == 0


@pytest.mark.slow
async def test_a_tool_added_before_the_sdk_is_imported_is_announced(tools: Path) -> None:
    async with restbridge("serve", cwd=tools.parent) as bridge:
        await bridge.send(HELLO, INITIALIZED, request(2, "tools/list"))
        for _ in range(2):
            await bridge.wait_for_stdout("result")
        (tools / "more.yaml").write_text((tools / "get_order.yaml").read_text())
        await bridge.wait_for_stdout("notifications/tools/list_changed")
        await bridge.send(request(3, "tools/list"))
        assert len(json.loads((await bridge.wait_for_stdout("")).string)["result"]["tools"]) == 7


@pytest.mark.slow
async def test_over_http_each_call_is_logged(tools: Path, shop: str) -> None:
    environment = {"SHOP_API_URL": shop}
    async with restbridge("serve", "--http", "0", cwd=tools.parent, env=environment) as bridge:
        url = (await bridge.wait_for_log(r"http://127\.0\.0\.1:\d+/mcp"))[0]
        async with Client(url) as client:
            result = await client.call_tool("get_order", {"order_id": "o-1001"})
        assert not result.is_error
        await bridge.wait_for_log(
            r"INFO call tool=get_order upstream=shop outcome=ok status=200 ms=\d+ id=\d+$"
        )
        assert await bridge.wait_for_exit(signal.SIGTERM) == 0


async def test_a_broken_edit_is_logged_once_and_the_last_good_tool_is_served(tools: Path, shop: str) -> None:
    environment = {"SHOP_API_URL": shop}
    order = tools / "get_order.yaml"
    async with serving_in_process("--http", "0", env=environment) as bridge:
        await bridge.wait_for_log(
            r"INFO reload: \+6 ~0 -0 !0 in \d+ ms \(\+add_customer_note, create_order, get_customer, 3 more\)$"
        )
        url = (await bridge.wait_for_log(r"http://\S+"))[0]
        order.write_text(order.read_text().replace("method: GET", "method: FETCH"))
        await bridge.wait_for_log(r"INFO reload: \+0 ~0 -0 !1 in \d+ ms \(!tools\.d/get_order\.yaml:9:\d+\)$")
        await bridge.wait_for_log(r"ERROR tools\.d/get_order\.yaml:9:\d+: error: .*\[[a-z-]+\]$")
        await bridge.wait_for_log(r"INFO tools\.d/get_order\.yaml: its last good version is still served$")
        async with Client(url) as client:
            assert not (await client.call_tool("get_order", {"order_id": "o-1001"})).is_error
        await bridge.wait_for_log(r"INFO call tool=get_order upstream=shop outcome=ok")
        (tools / "get_product.yaml").unlink()
        await bridge.wait_for_log(r"INFO reload: \+0 ~0 -1 !1 ")
        assert await bridge.wait_for_exit(signal.SIGINT) == 0
        assert "ERROR" not in await bridge.remaining_log()


@pytest.mark.usefixtures("tools")
async def test_a_sighup_reloads_and_logs_it() -> None:
    async with serving_in_process("--http", "0") as bridge:
        await bridge.wait_for_log(r"serving http://")
        bridge.send_signal(signal.SIGHUP)
        await bridge.wait_for_log(r"INFO reload: \+0 ~0 -0 !0 in \d+ ms$")
        assert await bridge.wait_for_exit(signal.SIGTERM) == 0


@pytest.mark.slow
async def test_a_sighup_before_the_server_listens_reloads_too(tools: Path) -> None:
    async with restbridge("serve", cwd=tools.parent) as bridge:
        await bridge.send(HELLO, INITIALIZED, request(2, "tools/list"))
        await bridge.wait_for_stdout(r'"id":2')
        bridge.send_signal(signal.SIGHUP)
        await bridge.wait_for_log(r"INFO reload: \+0 ~0 -0 !0 in \d+ ms$")
        assert await bridge.close_stdin() == 0


async def test_with_withdraw_a_broken_tool_is_not_served(tools: Path) -> None:
    order = tools / "get_order.yaml"
    words = ("--http", "0", "--on-invalid", "withdraw", "--poll", "0.2")
    async with serving_in_process(*words) as bridge:
        await bridge.wait_for_log(r"reload: \+6 ")
        order.write_text("description: Broken.\n")
        await bridge.wait_for_log(r"reload: \+0 ~0 -1 !1 ")
        assert await bridge.wait_for_exit(signal.SIGTERM) == 0


def test_strict_does_not_start_if_a_file_has_errors(tools: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tools / "get_order.yaml").write_text("description: Broken.\n")
    settings = Settings(tools=(tools,), strict=True)
    assert StartupState.load(settings, directories(settings), Sources({})) is None
    assert caplog.messages[-1] == "not started: a file has errors, and --strict is set"


async def test_a_port_that_is_taken_is_wrong_use(tools: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = Settings(tools=(tools,))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = Address(*taken.getsockname())
        transport = partial(over_http, address, lambda _url, _registry: None)
        startup = StartupState.load(settings, directories(settings), Sources({}))
        assert startup
        code = await serve(startup, transport)
    assert (code, caplog.messages[-1]) == (
        2,
        f"cannot listen on {address}: Address already in use; choose another port",
    )


def test_an_address_that_others_can_reach_is_refused(line: Line) -> None:
    code, _, err = line("serve", "--http", "0.0.0.0:8000")
    assert code == 2
    assert "on 0.0.0.0:8000 others could call the tools" in err


@pytest.mark.usefixtures("tools")
async def test_insecure_listens_on_a_public_address() -> None:
    words = ("--http", "0.0.0.0:0", "--insecure")
    async with serving_in_process(*words) as bridge:
        await bridge.wait_for_log(r"serving http://0\.0\.0\.0:\d+/mcp")
        assert await bridge.wait_for_exit(signal.SIGTERM) == 0


@pytest.mark.parametrize("words", [("serve",), ("serve", "--http", "0"), ("serve", "--strict")])
def test_a_missing_directory_is_a_usage_error(tmp_path: Path, line: Line, words: tuple[str, ...]) -> None:
    code, _, err = line(*words, str(tmp_path / "more.d"))
    assert code == 2
    assert err.startswith(f"Error: {tmp_path / 'more.d'} does not exist")


async def test_read_only_serves_only_safe_tools_and_logs_it(tools: Path) -> None:
    (tools / "get_order.yaml").write_text("description: Broken.\n")
    product = tools / "get_product.yaml"
    product.write_text(product.read_text() + 'scopes: ["products:read"]\n')
    words = ("--http", "0", "--poll", "60", "--read-only")
    async with (
        serving_in_process(*words) as bridge,
        httpx.AsyncClient(timeout=30, trust_env=False) as web,
    ):
        await bridge.wait_for_log(r"INFO read-only: of 5 tools 2 are not served$")
        await bridge.wait_for_log(
            r"WARNING scopes of tools have no effect without access control; set access in "
        )
        base = (await bridge.wait_for_log(r"(http://\S+)/mcp"))[1]
        async with Client(f"{base}/mcp") as client:
            named = {tool.name for tool in (await client.list_tools()).tools}
        assert named == {"get_customer", "get_product", "list_products"}
        assert (await web.get(f"{base}/-/ready")).text == "ready\n"
        before = (await web.get(f"{base}/-/status")).json()
        assert (before["tools"], before["watching"]) == (3, "events")
        page = (ROOT / "docs/reference/http-endpoints.md").read_text().partition("| Key of the status |")[2]
        of_all, _, of_worker = page.partition("| Key of a worker |")
        assert re.findall(r"^\| `(\w+)` \|", of_all, re.MULTILINE) == list(before)
        rows = " ".join(re.findall(r"^\| (`.*?) \|", of_worker, re.MULTILINE))
        assert re.findall(r"`(\w+)`", rows) == list(before["workers"][0])
        states = {file["path"]: file["state"] for file in before["files"]}
        assert len(states) == 7
        assert [path for path, state in states.items() if state != "good"] == ["tools.d/get_order.yaml"]
        assert "tools.d/get_order.yaml" in {problem["path"] for problem in before["problems"]}
        (tools / "get_order.yaml").write_bytes((ROOT / "tools.d" / "get_order.yaml").read_bytes())
        report = (await web.post(f"{base}/-/reload")).json()
        assert report["broken"] == []
        after = (await web.get(f"{base}/-/status")).json()
        assert (after["tools"], after["digest"]) == (4, report["digest"])
        assert report["digest"] != before["digest"]
        assert await bridge.wait_for_exit(signal.SIGTERM) == 0


HANGING = """\
description: Hangs.
request: {{method: POST, url: "{url}/never_answers"}}
"""


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
async def test_calls_in_flight_have_the_grace_period_and_cancelled_ones_are_logged(
    tmp_path: Path, workers: str
) -> None:
    answers: list[Json] = []
    async with serve_faults({"never_answers": never_answers}) as faulty, httpx.AsyncClient(timeout=30) as web:
        (tmp_path / "hang.yaml").write_text(HANGING.format(url=faulty.url))
        words = ("--http", "0", "--grace", "0.2", "--workers", workers, str(tmp_path))
        serving = serving_in_process(*words) if workers == "1" else restbridge("serve", *words, cwd=tmp_path)
        async with serving as bridge, anyio.create_task_group() as tasks:
            session = Session(web, (await bridge.wait_for_log(r"serving (http://\S+)"))[1])

            async def ask() -> None:
                answers.append(await session.ask_modern(call("hang")))

            tasks.start_soon(ask)
            with anyio.fail_after(30):
                while not faulty.exchanges:
                    await anyio.lowlevel.checkpoint()
            bridge.send_signal(signal.SIGTERM)
            await bridge.wait_for_log(
                r"INFO stopping: calls in flight: 1; grace period: 0\.2 s( worker=[12]-\w+)?$"
            )
            await bridge.wait_for_log(r"INFO call tool=hang .* outcome=stopped ms=")
            await bridge.wait_for_log("INFO stopped$")
            assert await bridge.wait_for_exit() == 0
    assert answers[0]["error"]["message"].startswith("The server stopped before this call was done")


VIEWS = """\
tools: [tools.d]
poll: 200ms
views:
  orders: {tools: ["*_order"], tags: [customers], without: [create_order]}
  nothing: {tags: [no-such-tag]}
"""


@pytest.mark.slow
async def test_a_bridge_started_with_a_view_serves_only_its_tools(tools: Path) -> None:
    customer = tools / "get_customer.yaml"
    customer.write_text(customer.read_text() + "tags: [people, customers]\n")
    (tools.parent / "restbridge.yaml").write_text(VIEWS)
    words = ("serve", "--config", "restbridge.yaml", "--view", "orders")
    async with restbridge(*words, cwd=tools.parent) as bridge:
        await bridge.send(HELLO, INITIALIZED, request(2, "tools/list"))
        await bridge.wait_for_log(r"INFO view orders: of 6 tools 4 are not served$")
        await bridge.wait_for_stdout(r'"id":1')
        listed = json.loads((await bridge.wait_for_stdout(r'"id":2')).string)["result"]["tools"]
        assert [tool["name"] for tool in listed] == ["get_customer", "get_order"]
        (tools / "get_product.yaml").unlink()
        customer.unlink()
        await bridge.wait_for_stdout("notifications/tools/list_changed")
        assert await bridge.close_stdin() == 0


async def test_each_view_has_its_own_path(tools: Path) -> None:
    (tools.parent / "restbridge.yaml").write_text(VIEWS)
    async with serving_in_process("--config", "restbridge.yaml", "--http", "0") as bridge:
        await bridge.wait_for_log(r"WARNING view nothing: it has no tools$")
        url = (await bridge.wait_for_log(r"http://\S+/mcp"))[0]
        await bridge.wait_for_log(rf"INFO view orders: 1 tool at {url}/orders$")
        await bridge.wait_for_log(rf"INFO view nothing: no tools at {url}/nothing$")
        for path, seen in (("", 6), ("/orders", 1), ("/nothing", 0)):
            async with Client(url + path) as client:
                assert len((await client.list_tools()).tools) == seen
        async with httpx.AsyncClient(timeout=30, trust_env=False) as web:
            status = (await web.get(url.removesuffix("/mcp") + "/-/status")).json()
        assert status["views"] == {"orders": 1, "nothing": 0}
        settings = tools.parent / "restbridge.yaml"
        settings.write_text("tools: [tools.d]\n")
        await bridge.wait_for_log(r"WARNING restbridge.yaml: settings have changed; restart to apply them$")
        settings.write_text("tols: [tools.d]\n")
        await bridge.wait_for_log(r"ERROR restbridge.yaml:1:1: error: unknown key")
        await bridge.wait_for_log(r"WARNING restbridge.yaml: its last good version stays in effect$")
        (tools / "get_order.yaml").unlink()
        await bridge.wait_for_log(r"WARNING view orders: it has no tools$")
        assert await bridge.wait_for_exit(signal.SIGTERM) == 0


@pytest.mark.parametrize(
    ("config", "advice"),
    [
        (["--config", "restbridge.yaml", "--view", "order"], '"order"; did you mean orders?'),
        (["--config", "restbridge.yaml", "--view", "xyz"], '"xyz"; the settings file has orders, nothing'),
        (["--config", "no-views.yaml", "--view", "order"], '"order"; no-views.yaml has no views'),
        (["--view", "order"], '"order"; views are named in the settings file: --config FILE'),
    ],
)
def test_an_unknown_view_is_reported(
    tools: Path, line: Line, monkeypatch: pytest.MonkeyPatch, config: list[str], advice: str
) -> None:
    monkeypatch.chdir(tools.parent)
    Path("restbridge.yaml").write_text(VIEWS)
    Path("no-views.yaml").write_text("tools: [tools.d]\n")
    for command in ("serve", "list"):
        code, _, err = line(command, *config)
        assert code == 2
        assert f"there is no view {advice}" in err


def test_a_view_is_listed_as_agents_see_it(tools: Path, line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tools.parent)
    monkeypatch.setenv("SHOP_API_KEY", "x")
    Path("restbridge.yaml").write_text(VIEWS)
    code, out, _ = line("list", "--config", "restbridge.yaml", "--view", "orders")
    assert (code, [row.split()[0] for row in out.splitlines()]) == (0, ["get_order"])


async def test_calls_and_reloads_are_counted_and_unsafe_calls_are_audited(tools: Path, shop: str) -> None:
    (tools.parent / "restbridge.yaml").write_text("audit: audit.jsonl\n")
    words = ("--config", "restbridge.yaml", "--http", "0")
    async with serving_in_process(*words, env={"SHOP_API_URL": shop}) as bridge:
        url = (await bridge.wait_for_log(r"http://\S+/mcp"))[0]
        for _ in range(4):
            async with Client(url) as client:
                await client.call_tool("get_order", {"order_id": "o-1001"})
                await client.call_tool("add_customer_note", {"customer_id": "c-101", "text": "Secret."})
        (tools / "get_order.yaml").unlink()
        await bridge.wait_for_log(r"reload: \+0 ~0 -1 ")
        async with httpx.AsyncClient(timeout=30, trust_env=False) as web:
            reply = await web.get(url.removesuffix("/mcp") + "/metrics")
        assert reply.headers["content-type"].startswith("text/plain; version=")
        assert 'restbridge_calls_total{outcome="ok",tool="get_order"} 4.0' in reply.text
        assert 'restbridge_tool_files{state="good"} 5.0' in reply.text
        assert await bridge.wait_for_exit(signal.SIGTERM) == 0
    audit = (tools.parent / "audit.jsonl").read_text()
    lines = [json.loads(line) for line in audit.splitlines()]
    assert [line["event"] for line in lines] == ["start"] + ["call-started", "call"] * 4 + ["reload"]
    assert {(line["tool"], line["method"], line.get("status")) for line in lines[1:9]} == {
        ("add_customer_note", "POST", None), ("add_customer_note", "POST", 201)
    }  # fmt: skip
    assert [line["call"] for line in lines[1:9:2]] == [line["call"] for line in lines[2:10:2]]
    assert (lines[9]["removed"], lines[9]["added"]) == (["get_order"], [])
    assert lines[0]["digest"] == lines[9]["before"] != lines[9]["after"]
    assert "Secret" not in audit


async def test_every_line_of_a_json_log_is_json(tools: Path, shop: str) -> None:
    (tools / "broken.yaml").write_text("description: Broken.\n")
    (tools.parent / "restbridge.yaml").write_text("log: {format: json}\n")
    words = ("--config", "restbridge.yaml", "--http", "0")
    async with serving_in_process(*words, env={"SHOP_API_URL": shop}) as bridge:
        reload = json.loads((await bridge.wait_for_log('"event":"reload"')).string)
        assert {"added": 6, "changed": 0, "removed": 0, "broken": 1}.items() <= reload.items()
        wrong = json.loads((await bridge.wait_for_log('"event":"diagnostic"')).string)
        assert (wrong["path"], wrong["line"], wrong["code"]) == ("tools.d/broken.yaml", 1, "missing-key")
        url = (await bridge.wait_for_log(r"(http://[^\s\"]+)"))[1]
        async with Client(url) as client:
            await client.call_tool("get_order", {"order_id": "o-1001"})
        called = json.loads((await bridge.wait_for_log('"event":"call"')).string)
        assert {
            "tool": "get_order",
            "upstream": "shop",
            "outcome": "ok",
            "status": 200,
        }.items() <= called.items()
        assert called.keys() == {
            "time",
            "level",
            "event",
            "tool",
            "upstream",
            "outcome",
            "status",
            "ms",
            "id",
        }
        assert await bridge.wait_for_exit(signal.SIGTERM) == 0
        rest = (await bridge.remaining_log()).splitlines()
    assert all(json.loads(line)["level"] for line in rest)


@pytest.mark.slow
async def test_workers_share_views_metrics_audit_file_and_log(tools: Path, shop: str) -> None:
    (tools.parent / "restbridge.yaml").write_text(f"{VIEWS}audit: audit.jsonl\nlog: {{format: json}}\n")
    words = ("serve", "--config", "restbridge.yaml", "--http", "0", "--workers", "2")
    async with restbridge(*words, cwd=tools.parent, env={"SHOP_API_URL": shop}) as bridge:
        await bridge.wait_for_log('"event":"reload","added":6')
        await bridge.wait_for_log("view nothing: it has no tools")
        url = (await bridge.wait_for_log(r"serving (http://\S+) with 2 workers"))[1]
        for path, seen in (("", 6), ("/orders", 1), ("/nothing", 0)):
            async with Client(url + path) as client:
                assert len((await client.list_tools()).tools) == seen
        for _ in range(4):
            async with Client(url) as client:
                await client.call_tool("get_order", {"order_id": "o-1001"})
                await client.call_tool("add_customer_note", {"customer_id": "c-101", "text": "Secret."})
        (tools / "get_order.yaml").unlink()
        metrics, base = "", url.removesuffix("/mcp")
        async with httpx.AsyncClient(timeout=30, trust_env=False) as web:
            for reply in (await web.post(f"{base}/-/reload"), await web.get(f"{base}/-/status")):
                digests = [worker["digest"] for worker in reply.json()["workers"]]
                assert digests == [reply.json()["digest"]] * 2
            with anyio.fail_after(30):
                # A worker that does not answer a scrape refreshes its gauges only every few seconds.
                while 'restbridge_tool_files{state="good"} 5.0' not in metrics:
                    metrics = (await web.get(f"{base}/metrics")).text
        assert 'restbridge_calls_total{outcome="ok",tool="get_order"} 4.0' in metrics
        assert await bridge.wait_for_exit(signal.SIGTERM) == 0
        rest = (await bridge.remaining_log()).splitlines()
    assert all(json.loads(line)["level"] for line in rest)
    audit = (tools.parent / "audit.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in audit] == [
        "start", *["call-started", "call"] * 4, "reload"
    ]  # fmt: skip
