import json
import logging
import os
import signal
import stat
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import httpx
import pytest
from mcp import Client

from bridge.address import Address
from bridge.app.handover import OldWorker
from bridge.app.worker import connection_table
from bridge.app.workers import Workers, _private_folder, next_pause, supervise
from bridge.http.connection_table import ConnectionTable
from bridge.http.listeners import bind
from bridge.settings import Http, Settings
from tests import proc
from tests.commands.conftest import Line
from tests.commands.in_process import sigterm_when_logged
from tests.commands.processes import ROOT, Running, restbridge
from tests.serving.api import Api, serving_api
from tests.serving.messages import Json, call, cancel
from tests.serving.session import Session
from tests.serving.tools import Files, tool_file

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

SERVE = ("serve", "--http", "0", "--workers", "2")
ANY_PORT = Http(listen=Address("127.0.0.1", 0))
CALLS = 8
STREAMS = 24
"""Of which one worker gets all once in eight million times."""


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with serving_api() as serving:
        yield serving


@pytest.fixture
def files(tmp_path: Path, api: Api) -> Path:
    """A directory of tools that call the API."""
    directory = tmp_path / "tools.d"
    directory.mkdir()
    Files(directory, api.url)
    return directory


@pytest.fixture
async def web() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=30, trust_env=False) as opened:
        yield opened


async def url_of(bridge: Running) -> str:
    return (
        await bridge.wait_for_log(
            r"INFO serving (http://127\.0\.0\.1:\d+/mcp) with 2 workers; limits\.total and the limits of APIs are divided among them$"
        )
    )[1]


def workers_of(bridge: Running) -> dict[str, int]:
    """Their process ids by what they are started as."""
    return {proc.command(pid)[4]: pid for pid in proc.children(bridge.pid)}


async def ended(*pids: int) -> None:
    """Wait until these processes are gone."""
    for pid in pids:
        try:
            process = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        with anyio.fail_after(30):
            await anyio.wait_readable(process)
        os.close(process)


async def use(url: str, mode: str) -> None:
    async with Client(url, mode=mode) as client:
        assert client.protocol_version == ("2026-07-28" if mode == "auto" else "2025-11-25")
        assert len((await client.list_tools()).tools) == 8
        for _ in range(3):
            assert not (await client.call_tool("echo", {})).is_error


async def test_all_workers_serve_and_reload_and_a_dead_one_is_restarted(
    files: Path, api: Api, web: httpx.AsyncClient
) -> None:
    def edit(text: str) -> None:
        (files / "echo.yaml").write_text(json.dumps(tool_file(api.url, "echo") | {"description": text}))

    async def hear(stream: AsyncIterator[Json]) -> str:
        try:
            method: str = (await anext(stream))["method"]
        except httpx.HTTPError:
            return "lost"
        return method

    async with restbridge(*SERVE, cwd=files.parent) as bridge, AsyncExitStack() as stack:
        url = await url_of(bridge)
        listening = Session(web, url)
        streams = [
            await stack.enter_async_context(listening.listen(toolsListChanged=True)) for _ in range(STREAMS)
        ]
        heard = Counter([await hear(stream) for stream in streams])
        assert heard == {"notifications/subscriptions/acknowledged": STREAMS}
        edit("Edited.")
        assert Counter([await hear(stream) for stream in streams]) == {
            "notifications/tools/list_changed": STREAMS
        }
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(use, url, "auto")
                tasks.start_soon(use, url, "legacy")
        os.kill(workers_of(bridge)["--worker=2"], signal.SIGKILL)
        await bridge.wait_for_log(r"reload: \+0 ~1 -0 !0 in \d+ ms \(~echo\) worker=1-\w{6}$")
        await bridge.wait_for_log(r"ERROR worker 2 ended by signal 9; restarting in 0\.1 s$")
        edit("Edited again.")
        heard = Counter([await hear(stream) for stream in streams])
        assert heard.keys() == {"notifications/tools/list_changed", "lost"}
        await bridge.wait_for_log(r"INFO worker 2 serves again$")
        await use(url, "auto")
        await use(url, "legacy")
        assert await bridge.wait_for_exit(signal.SIGINT) == 0
        assert "reload" not in await bridge.remaining_log()


async def test_workers_answer_their_calls_after_a_signal_and_reload_after_a_sighup(
    files: Path, api: Api, web: httpx.AsyncClient
) -> None:
    answers: list[Json] = []
    async with restbridge(*SERVE, cwd=files.parent) as bridge:
        url = await url_of(bridge)
        bridge.send_signal(signal.SIGHUP)
        await bridge.wait_for_log(r"INFO reload: \+0 ~0 -0 !0 in \d+ ms worker=1-\w{6}$")

        async def hang(number: int) -> None:
            session = Session(web, url)
            asks = session.ask if number % 2 else session.ask_modern
            answers.append(await asks(call("hang", number)))

        session = Session(web, url)
        async with session.listen(toolsListChanged=True) as events, anyio.create_task_group() as tasks:
            await anext(events)
            for number in range(CALLS):
                tasks.start_soon(hang, number)
            while api.hanging < CALLS:
                await anyio.lowlevel.checkpoint()
            bridge.send_signal(signal.SIGTERM)
            (end,) = [event async for event in events]
            assert "result" in end
            api.release.set()
        assert await bridge.wait_for_exit() == 0
        assert "reload" not in await bridge.remaining_log()
    assert [answer["result"]["isError"] for answer in answers] == [False] * CALLS


async def test_a_session_goes_on_in_any_worker_and_after_all_are_killed(
    files: Path, api: Api, web: httpx.AsyncClient
) -> None:
    async def ask_each(session: Session) -> None:
        """Each request has its own connection, so that all workers get some."""
        for number in range(CALLS):
            async with httpx.AsyncClient(timeout=30, trust_env=False) as own:
                session.web = own
                assert not (await session.ask(call("echo", number)))["result"]["isError"]
        session.web = web

    def add(name: str) -> None:
        (files / f"{name}.yaml").write_text(json.dumps(tool_file(api.url, "echo")))

    async with restbridge(*SERVE, cwd=files.parent) as bridge:
        session = Session(web, await url_of(bridge))
        await session.open()
        async with session.stream() as events:
            add("one")
            assert (await anext(events))["method"] == "notifications/tools/list_changed"
            await ask_each(session)
            workers = workers_of(bridge).values()
            for worker in workers:
                os.kill(worker, signal.SIGKILL)
            await ended(*workers)
            with pytest.raises(httpx.RemoteProtocolError):
                await anext(events)
        await ask_each(session)
        async with session.stream() as events:
            add("two")
            assert (await anext(events))["method"] == "notifications/tools/list_changed"
        assert await bridge.wait_for_exit(signal.SIGINT) == 0


async def test_a_cancellation_reaches_the_call_in_any_worker(
    files: Path, api: Api, web: httpx.AsyncClient
) -> None:
    replies: list[str] = []
    async with restbridge(*SERVE, cwd=files.parent) as bridge:
        session = Session(web, await url_of(bridge))
        await session.open()

        async def hang(number: int) -> None:
            replies.append((await session.post(call("hang", number))).text)

        async with anyio.create_task_group() as tasks:
            for number in range(CALLS):
                tasks.start_soon(hang, number)
            while api.hanging < CALLS:
                await anyio.lowlevel.checkpoint()
            # The connections of the calls are in use, so each of these may reach the other worker.
            for number in range(CALLS):
                assert (await session.post(cancel(number), connection="close")).status_code == 202
        assert await bridge.wait_for_exit(signal.SIGINT) == 0
    assert not any("result" in reply for reply in replies)


async def test_workers_do_not_outlive_their_supervisor(tools: Path) -> None:
    async with restbridge(*SERVE, cwd=tools.parent) as bridge:
        await url_of(bridge)
        pids = workers_of(bridge).values()
        assert len(pids) == 2
        await bridge.wait_for_exit(signal.SIGKILL)
        await ended(*pids)


async def test_a_reason_why_workers_cannot_start_is_logged_once(tools: Path) -> None:
    (tools / "get_order.yaml").write_text("description: Broken.\n")
    async with restbridge(*SERVE, "--strict", cwd=tools.parent) as bridge:
        assert await bridge.wait_for_exit() == 1
        said = await bridge.remaining_log()
    assert said.count("not started: a file has errors, and --strict is set") == 1
    assert said.count("ERROR tools.d/get_order.yaml:") == said.count("get_order.yaml:1:1: error")


PROGRAM = """\
import json, sys
settings = json.loads(json.loads(sys.stdin.readline())["settings"])
print(settings["http"]["listen"], flush=True)
sys.stdin.read()
"""


def test_workers_use_the_command_of_this_process_and_end_with_their_input(
    tmp_path: Path, tools: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    monkeypatch.setattr(sys, "argv", [str(program), "serve", "--workers", "2"])
    monkeypatch.setattr(sys, "orig_argv", [sys.executable, *sys.argv])
    with sigterm_when_logged("serving 127.0.0.1:"), bind(ANY_PORT.listen) as listener:
        assert supervise(Settings(tools=(tools,)), ANY_PORT, 2, listener) == 0
    assert caplog.messages[-2:] == ["stopping", "stopped"]


def test_other_users_cannot_enter_the_folder_of_the_workers() -> None:
    with _private_folder(None) as folder:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not folder.exists()


def test_the_supervisor_does_not_import_the_sdk() -> None:
    """Whose import costs more than all the rest."""
    program = "import sys, bridge.cli, bridge.commands.serve, bridge.app.workers; print('mcp' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=True)
    assert said.stdout == b"False\n"


@pytest.mark.parametrize(
    "words", ["--workers 2", "--host-name x", "--stateless", "--insecure", "--tls-cert x"]
)
def test_http_options_are_refused_over_stdio(line: Line, tools: Path, words: str) -> None:
    option, *value = words.split()
    code, _, err = line("serve", option, *value, str(tools))
    assert code == 2
    assert err.endswith(f"Error: {option} needs HTTP; add --http [HOST:]PORT\n")


def test_a_key_without_a_certificate_is_refused(line: Line, tools: Path) -> None:
    code, _, err = line("serve", "--http", "0", "--tls-key", "x", str(tools))
    assert code == 2
    assert err.endswith("Error: --tls-key needs a certificate; add --tls-cert FILE\n")


@pytest.mark.parametrize(
    ("last", "ran", "pause"),
    [(0, 1, 0.1), (0.1, 1, 0.2), (4, 1, 5), (5, 29, 5), (5, 31, 0.1)],
)
def test_the_restart_pause_grows_after_short_runs(last: float, ran: float, pause: float) -> None:
    assert next_pause(last, ran) == pause


class Said(logging.Handler):
    """What is logged, line by line."""

    def __init__(self) -> None:
        super().__init__()
        self._sending, self._lines = anyio.create_memory_object_stream[str](100)

    def emit(self, record: logging.LogRecord) -> None:
        self._sending.send_nowait(record.getMessage())

    async def next(self, beginning: str) -> str:
        """The rest of the next line that begins so."""
        with anyio.fail_after(30):
            async for line in self._lines:
                if line.startswith(beginning):
                    return line.removeprefix(beginning)
        raise AssertionError(beginning)

    def close(self) -> None:
        self._sending.close()
        self._lines.close()
        super().close()


@pytest.fixture
async def said() -> AsyncIterator[Said]:
    handler = Said()
    logger = logging.getLogger("bridge")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.setLevel(logging.NOTSET)
    logger.removeHandler(handler)
    handler.close()


class Script:
    """A program in place of a worker."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "program"
        self.code: int | None = None
        self.settings = Settings()
        self.execute: Callable[[str, list[str], dict[str, str]], object] | None = None

    def write(self, text: str) -> None:
        draft = self.path.with_suffix(".draft")
        draft.write_text(f"#!/bin/sh\n{text}\n")
        draft.chmod(0o700)
        draft.rename(self.path)

    async def run(self, old: Sequence[OldWorker] = (), count: int = 1) -> None:
        folder, execute = self.path.parent, self.execute or os.execve
        with bind(Address("127.0.0.1", 0)) as listener:
            if old:
                ConnectionTable.create(connection_table(folder))
            workers = Workers(
                [str(self.path)], self.settings, count, listener, folder, old=old, execute=execute
            )
            self.code = await workers.run()


@pytest.fixture
def script(tmp_path: Path) -> Script:
    return Script(tmp_path)


async def test_starting_a_worker_is_retried(script: Script, said: Said) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(script.run)
        assert await said.next("cannot start a process: ") == "No such file or directory"
        assert await said.next("worker 1 ended with code 71; ") == "restarting in 0.1 s"
        assert await said.next("worker 1 ended with code 71; ") == "restarting in 0.2 s"
        script.write("exit 3")
        await said.next("worker 1 ended with code 3; ")
        script.write('echo "$@"; cat >/dev/null')
        assert (await said.next("serving --worker=1 with ")).startswith("1 workers; ")
        os.kill(os.getpid(), signal.SIGTERM)
    assert script.code == 0


async def test_settings_that_no_worker_reads_hinder_nothing(script: Script, said: Said) -> None:
    script.settings = Settings(owners={"x" * 2**20: "folder"})  # more than a pipe holds
    script.write("exit 3")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(script.run)
        await said.next("worker 1 ended with code 3; ")
        script.write("echo; exec sleep 1000")
        await said.next("serving ")
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
    assert script.code == 128 + signal.SIGTERM


async def test_a_sighup_is_forwarded_to_workers_that_serve(script: Script, said: Said) -> None:
    script.write("echo; cat >/dev/null")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(script.run)
        await said.next("serving ")
        os.kill(os.getpid(), signal.SIGHUP)
        assert (await said.next("worker 1 ended ")).startswith("by signal 1; ")
        await said.next("worker 1 serves again")
        os.kill(os.getpid(), signal.SIGTERM)
    assert script.code == 0


@pytest.mark.parametrize("code", [1, 2])
async def test_a_worker_that_cannot_start_is_not_restarted(script: Script, code: int) -> None:
    script.write(f"exit {code}")
    with anyio.fail_after(30):
        await script.run()
    assert script.code == code


async def test_the_second_signal_kills_workers_that_do_not_stop(script: Script, said: Said) -> None:
    script.write("echo; cat >/dev/null; kill -INT $PPID; exec sleep 1000")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(script.run)
        await said.next("serving ")
        os.kill(os.getpid(), signal.SIGTERM)
    assert script.code == 128 + signal.SIGINT
