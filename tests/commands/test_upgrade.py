"""The port stays open while the bridge is upgraded or restarted."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import httpx
import pytest
from mcp import Client

from bridge.address import Address
from bridge.app.handover import UPGRADE, Handover, OldWorker
from bridge.app.worker_process import Lifeline, WorkerProcess
from bridge.http.listeners import bind
from tests import proc
from tests.commands.conftest import Line
from tests.commands.in_process import sigterm_when_logged
from tests.commands.processes import ROOT, Running, restbridge
from tests.commands.test_workers import PROGRAM, Said, Script, said, url_of, workers_of
from tests.serving.api import Api, serving_api
from tests.serving.tools import Files

__all__ = ["said"]
pytestmark = [pytest.mark.anyio, pytest.mark.slow]

SERVES = 'echo "$@"; cat >/dev/null'


@pytest.fixture
def script(tmp_path: Path) -> Script:
    return Script(tmp_path)


@contextmanager
def old_worker(folder: Path, command: str = "cat >/dev/null") -> Iterator[OldWorker]:
    """A process that the old version of this process has started."""
    stdin, lifeline = os.pipe()
    (folder / "1-old.sock").touch()
    process = subprocess.Popen(["sh", "-c", command], stdin=stdin)
    os.close(stdin)
    yield OldWorker(1, "1-old", 7, process.pid, lifeline)
    process.returncode = 0  # another place has waited for it


async def test_old_workers_stop_once_the_new_ones_serve(script: Script, said: Said) -> None:
    script.write(SERVES)
    with old_worker(script.path.parent) as old:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(script.run, [old])
            await said.next("serving --worker=1 with 1 workers; ")
            await said.next("upgraded to version ")
            with anyio.fail_after(30):
                while (
                    script.path.parent / "1-old.sock"
                ).exists():  # it is removed when the old one has ended
                    await anyio.lowlevel.checkpoint()
            os.kill(os.getpid(), signal.SIGTERM)
    assert script.code == 0


async def test_old_workers_go_on_if_the_new_ones_cannot_start(script: Script, said: Said) -> None:
    script.write("exit 1")
    with old_worker(script.path.parent) as old:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(script.run, [old], 2)
            assert (await said.next("upgrade: a new worker cannot start ")).startswith("(exit code 1); ")
            script.write(SERVES)
            os.kill(os.getpid(), signal.SIGHUP)  # it is forwarded to the old one, which ends
            await said.next("serving --worker=")
            os.kill(os.getpid(), signal.SIGTERM)
    assert script.code == 0


async def test_a_stop_ends_old_workers_that_went_on(script: Script, said: Said) -> None:
    script.write("exit 2")
    with old_worker(script.path.parent) as old:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(script.run, [old])
            await said.next("upgrade: a new worker cannot start (exit code 2); ")
            os.kill(os.getpid(), signal.SIGTERM)
    assert script.code == 0


def own_command(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    """This process has been started by this program."""
    monkeypatch.setattr(sys, "orig_argv", [sys.executable, "-c", program])


async def test_the_program_is_replaced_with_all_that_stays_open(
    script: Script, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_command(monkeypatch, "import os; assert 'RESTBRIDGE_UPGRADE' in os.environ")
    script.write(SERVES)
    replaced = anyio.Event()

    def execute(path: str, command: list[str], environment: dict[str, str]) -> None:
        assert [path, *command[1:]] == [sys.executable, *sys.orig_argv[1:]]
        told = json.loads(environment[UPGRADE])
        (worker,) = told["workers"]
        assert os.get_inheritable(told["listener"])
        assert os.get_inheritable(worker["lifeline"])
        assert (worker["number"], told["folder"], told["is_check"]) == (1, str(script.path.parent), False)
        assert signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, [])
        replaced.set()
        raise PermissionError(1, "Operation not permitted")

    script.execute = execute
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(script.run)
        await said.next("serving ")
        os.kill(os.getpid(), signal.SIGUSR2)
        await said.next(f"upgrade: cannot run {sys.executable}: Operation not permitted; ")
        assert replaced.is_set()
        assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
        script.execute = None
        os.kill(os.getpid(), signal.SIGTERM)
    assert script.code == 0


async def test_a_version_that_cannot_start_replaces_nothing(
    script: Script, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_command(monkeypatch, "raise SystemExit(3)")
    script.write(SERVES)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(script.run)
        await said.next("serving ")
        os.kill(os.getpid(), signal.SIGUSR2)
        await said.next("upgrade: the installed version cannot start (exit code 3); ")
        monkeypatch.setattr(sys, "executable", "/nowhere/python")
        os.kill(os.getpid(), signal.SIGUSR2)
        await said.next("upgrade: the installed version cannot start (exit code 71); ")
        os.kill(os.getpid(), signal.SIGTERM)
    assert script.code == 0


async def test_only_one_upgrade_runs_at_a_time(
    script: Script, said: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    own_command(monkeypatch, f"open({str(gate)!r}).read(); raise SystemExit(3)")
    script.write(SERVES)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(script.run)
        await said.next("serving ")
        os.kill(os.getpid(), signal.SIGUSR2)
        await said.next("upgrade: checking ")
        os.kill(os.getpid(), signal.SIGUSR2)
        await said.next("upgrade: another one or a stop is under way; ")
        gate.write_text("")  # it waits for the reader
        await said.next("upgrade: the installed version cannot start (exit code 3); ")
        os.kill(os.getpid(), signal.SIGTERM)
    assert script.code == 0


async def test_a_process_that_is_no_child_counts_as_ended() -> None:
    reading, writing = os.pipe()
    parent = WorkerProcess.adopt(OldWorker(1, "1-x", 0, os.getppid(), writing), anyio.CapacityLimiter(1))
    assert await parent.wait() == 0
    parent.lifeline.close()
    os.close(reading)


async def test_a_lifeline_that_is_closed_ends_what_is_written_to_it() -> None:
    reading, writing = os.pipe()
    lifeline = Lifeline(writing)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lifeline.send, b"x" * 2**20)  # more than a pipe holds
        await anyio.wait_all_tasks_blocked()
        lifeline.close()
        lifeline.close()
    with os.fdopen(reading, "rb") as read:
        assert len(read.read()) < 2**20


def test_the_check_ends_before_anything_is_served(
    tools: Path, tmp_path: Path, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    with bind(Address("127.0.0.1", 0)) as listener:
        for arguments, expected in ((("--http", "0"), 0), ((), 2)):
            handover = Handover(listener.dup(), tmp_path, [], is_check=True)
            monkeypatch.setenv(UPGRADE, handover.environment({})[UPGRADE])
            handover.listener.detach()
            code, _, err = line("serve", *arguments, str(tools))
            assert code == expected
            assert ("the settings no longer serve HTTP; stop and start the bridge instead" in err) is bool(
                code
            )


def test_serve_supervises_several_workers(
    tools: Path, tmp_path: Path, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    monkeypatch.setattr(sys, "argv", [str(program), "serve"])
    monkeypatch.setattr(sys, "orig_argv", [sys.executable, *sys.argv])
    with sigterm_when_logged("serving 127.0.0.1:"):
        assert line("serve", "--http", "0", "--workers", "2", str(tools))[0] == 0


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with serving_api() as serving:
        yield serving


async def upgraded(bridge: Running) -> None:
    bridge.send_signal(signal.SIGUSR2)
    await bridge.wait_for_log(r"INFO upgraded to version \S+; the old workers end after their calls$")


async def test_an_upgrade_loses_no_request_and_answers_calls_in_flight(tmp_path: Path, api: Api) -> None:
    directory, answers, statuses = tmp_path / "tools.d", list[bool](), list[int]()
    directory.mkdir()
    Files(directory, api.url)
    words = ("serve", "--http", "0", "--workers", "2", "--grace", "30")
    async with restbridge(*words, cwd=tmp_path) as bridge:
        url = await url_of(bridge)
        before = set(workers_of(bridge).values())

        async def hang() -> None:
            async with Client(url) as client:
                answers.append((await client.call_tool("hang", {})).is_error)

        async def ask(client: httpx.AsyncClient) -> None:
            while True:
                statuses.append((await client.get(f"{url.removesuffix('/mcp')}/-/healthy")).status_code)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hang)
            with anyio.fail_after(30):
                await api.entered.wait()
            async with (
                httpx.AsyncClient(timeout=60, trust_env=False) as other,
                anyio.create_task_group() as load,
            ):
                load.start_soon(ask, other)
                await upgraded(bridge)
                load.cancel_scope.cancel()
            after = set(proc.children(bridge.pid)) - before
            assert len(after) == 2
            api.release.set()
        assert answers == [False]
        assert set(statuses) == {200}
        with anyio.fail_after(60):
            while before & set(proc.children(bridge.pid)):
                await anyio.lowlevel.checkpoint()
        await upgraded(bridge)
        assert await bridge.wait_for_exit(signal.SIGTERM) == 0
        assert not before & set(proc.children(os.getpid()))


async def test_settings_with_errors_upgrade_nothing(tools: Path) -> None:
    settings = tools.parent / "restbridge.yaml"
    settings.write_text("http: {listen: 0, workers: 2}\n")
    async with (
        restbridge("serve", "--config", "restbridge.yaml", cwd=tools.parent) as bridge,
        httpx.AsyncClient(timeout=60, trust_env=False) as web,
    ):
        url = await url_of(bridge)
        settings.write_text("http: nonsense\n")
        bridge.send_signal(signal.SIGUSR2)
        await bridge.wait_for_log(r"upgrade: the installed version cannot start \(exit code 2\); ")
        assert (await web.get(f"{url.removesuffix('/mcp')}/-/ready")).text == "ready\n"
        assert await bridge.wait_for_exit(signal.SIGTERM) == 0


ACTIVATED = """\
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.executable, [sys.executable, "-m", "bridge", "serve", "--http", "localhost:1", *sys.argv[2:]])
"""


async def test_connections_wait_while_an_activated_process_is_restarted(tools: Path) -> None:
    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", ACTIVATED, str(listener.fileno()), str(tools)],
            cwd=ROOT, pass_fds=[listener.fileno()], stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    async with httpx.AsyncClient(timeout=60, trust_env=False) as web:
        with bind(Address("127.0.0.1", 0)) as listener:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            answers: list[str] = []

            async def ask() -> None:
                answers.append((await web.get(f"{url}/-/ready", headers={"connection": "close"})).text)

            for number in (1, 2):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(ask)  # before the process is there
                    process = start()
                assert answers == ["ready\n"] * number
                process.terminate()
                _, log = await anyio.to_thread.run_sync(process.communicate)
                assert process.returncode == 0
                assert f"serving {url}/mcp" in log
                with socket.create_connection(listener.getsockname()):
                    pass
