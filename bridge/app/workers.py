"""``restbridge serve --workers``: a supervisor that runs several server processes on one port.

The supervisor binds the listening socket, and all workers inherit it. It stays open while workers are restarted: connections
wait until a worker accepts them. How workers share them is described in ``http/acceptor``. Each worker loads and watches
the files itself.

| From | To | How | Meaning |
|---|---|---|---|
| worker | supervisor | a line with its URL on stdout | it serves |
| supervisor | worker | a line of JSON on stdin | its place among the workers, and its settings |
| supervisor | worker | end of stdin, also when the supervisor is killed | stop |
| supervisor | worker | SIGHUP | reload |
| worker | supervisor | exit code 1 or 2 before it served | it cannot start; all stop |
| worker | supervisor | any other exit | it is restarted after a pause |

Each worker has its own session, so that ^C in a terminal reaches only the supervisor. The supervisor and its workers have a
private folder, for their metrics and what else they share.

SIGUSR2 is an upgrade to the installed version, with the settings as they are now:

| Step | If it fails |
|---|---|
| the supervisor runs its own command once, to find out whether it can start | the log says so; nothing changes |
| it replaces itself (execve(2)): same process id, same socket. Its workers go on. | as above |
| the new version starts new workers | these stop; the old ones go on. If one of the old ones ends, new ones are tried again. |
| once all new ones serve, the old ones stop like all workers: they answer their calls | |
"""

import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from secrets import token_hex
from shutil import rmtree
from subprocess import DEVNULL, PIPE
from tempfile import mkdtemp
from typing import Final

import anyio
from anyio.abc import TaskStatus

from bridge import __version__
from bridge.address import Address
from bridge.app.handover import Handover, OldWorker
from bridge.app.siblings import remove_socket, require_short_path
from bridge.app.signals import reload_on_signal
from bridge.app.worker import Worker, connection_table
from bridge.app.worker_process import Lifeline, WorkerProcess
from bridge.http.connection_table import ConnectionTable
from bridge.settings import Http, Settings
from bridge.telemetry.metrics import SHARED, forget

_log: Final = logging.getLogger(__name__)

_DIVIDED: Final = "limits.total and the limits of APIs are divided among them"
_PERMANENT_EXIT_CODES: Final = frozenset({1, 2})
"""The worker has logged why it cannot start. A restart would fail in the same way."""
_STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_HELD_SIGNALS: Final = (*_STOP_SIGNALS, signal.SIGHUP, signal.SIGUSR2)
_CHECK_SECONDS: Final = 60.0
"""For the new version to find out whether it can start."""
_MIN_PAUSE_SECONDS: Final = 0.1
_MAX_PAUSE_SECONDS: Final = 5.0
"""Before a restart. The pause doubles after each short run."""
_SHORT_RUN_SECONDS: Final = 30.0
_STOP_SECONDS: Final = 10.0
"""For a worker to stop, in addition to the grace period of calls: it may still be starting."""


def supervise(
    settings: Settings, http: Http, count: int, listener: socket.socket, handover: Handover | None = None
) -> int:
    """Serve ``http`` on ``listener`` by ``count`` workers until a signal; answers the exit code.

    It is that of the worker if a worker cannot start. ``handover`` is what the old version left, at an upgrade. Raises
    ``StartError`` if the path of the folder for temporary files is too long.
    """
    address = Address(http.listen.host, listener.getsockname()[1])  # the port that was asked for may be 0
    http = http.model_copy(update={"listen": address})
    settings = settings.model_copy(update={"http": http, "limits": settings.limits.divided(count)})
    with listener, _private_folder(handover) as folder:
        require_short_path(folder)
        old = handover.workers if handover else ()
        return anyio.run(Workers(_program(), settings, count, listener, folder, old=old).run)


@contextmanager
def _private_folder(handover: Handover | None) -> Iterator[Path]:
    """That of the old version, or a new one, which only this user may enter (mkdtemp(3)). It is removed at the end."""
    folder = handover.folder if handover else Path(mkdtemp(prefix="restbridge-"))
    try:
        yield folder
    finally:
        rmtree(folder, ignore_errors=True)


def _program() -> list[str]:
    """The command line of this process, up to ``serve``."""
    # python -X dev -m bridge --verbose serve tools.d: argv lacks -X dev -m bridge, but ends with the same
    # arguments. So ``first`` is the index of --verbose. A "serve" before it is no command.
    command = sys.orig_argv
    first = len(command) - len(sys.argv) + 1
    return [sys.executable, *command[1 : command.index("serve", first) + 1]]


def next_pause(last: float, ran: float) -> float:
    """Seconds before a worker is restarted that ran for ``ran`` seconds after a pause of ``last`` seconds."""
    # ``last`` is 0 before the first restart, and doubled it would stay 0.
    return min(2 * last, _MAX_PAUSE_SECONDS) if last and ran < _SHORT_RUN_SECONDS else _MIN_PAUSE_SECONDS


class Workers:
    """Runs ``count`` processes of ``program`` until a signal. The second signal kills them.

    They have these ``settings``, and share ``listener`` and the files in ``folder``. ``old`` are the workers that they
    replace. ``execute`` is execve(2).
    """

    def __init__(
        self,
        program: Sequence[str],
        settings: Settings,
        count: int,
        listener: socket.socket,
        folder: Path,
        *,
        old: Sequence[OldWorker] = (),
        execute: Callable[[str, list[str], dict[str, str]], object] = os.execve,
    ) -> None:
        self._program = program
        self._settings = settings
        self._count = count
        self._stop_seconds = settings.grace + _STOP_SECONDS
        self._listener = listener
        self._folder = folder
        self._execute = execute
        limiter = anyio.CapacityLimiter(max(len(old), 1))
        self._old = {each.pid: WorkerProcess.adopt(each, limiter) for each in old}
        self._new: dict[int, WorkerProcess] = {}
        self._serving: dict[int, WorkerProcess] = {}
        """Those of the new ones that serve, by number."""
        self._served: set[int] = set()
        self._connections = ConnectionTable.create(connection_table(folder), keep=bool(old))
        self._code = 0
        self._is_upgrading = False
        self._stop = anyio.Event()
        self._kill = anyio.Event()
        self._over = anyio.Event()
        """The new workers stop: at a stop, or because one of them cannot start and the old ones go on."""
        self._replaced = anyio.Event()
        """The old workers stop."""
        self._old_ended = anyio.Event()
        """One of them, while new ones cannot start."""

    async def run(self) -> int:
        """Run until all workers have ended; answers the exit code."""
        listening = anyio.CancelScope()
        async with anyio.create_task_group() as tasks:
            await tasks.start(self._handle_signals, listening)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD_SIGNALS)
            async with anyio.create_task_group() as old:
                for process in list(self._old.values()):
                    old.start_soon(self._run_old, process)
                await self._run_new()
            listening.cancel()
        _log.info("stopped")
        return self._code

    async def _run_new(self) -> None:
        while not self._stop.is_set():
            self._over = anyio.Event()
            self._served.clear()
            async with anyio.create_task_group() as workers:
                for number in range(1, self._count + 1):
                    workers.start_soon(self._keep_running, number)
            await self._old_ended.wait()
            self._old_ended = anyio.Event()

    def _begin_stop(self) -> None:
        for event in (self._stop, self._over, self._replaced, self._old_ended):
            event.set()
        self._listener.close()  # the last worker that accepts refuses what still waits

    async def _handle_signals(self, listening: anyio.CancelScope, *, task_status: TaskStatus[None]) -> None:
        with listening, anyio.open_signal_receiver(*_STOP_SIGNALS, signal.SIGUSR2) as signals:
            async with anyio.create_task_group() as tasks:
                await tasks.start(reload_on_signal, self._forward_reload)
                task_status.started()
                async for number in signals:
                    if number == signal.SIGUSR2:
                        tasks.start_soon(self._upgrade)
                    elif self._stop.is_set():
                        self._code = 128 + number  # like a shell
                        self._kill.set()
                    else:
                        _log.info("stopping")
                        self._begin_stop()

    def _forward_reload(self) -> None:
        """Send SIGHUP to workers that serve. Others load the files anyway, and have no handler yet."""
        for process in (*self._serving.values(), *self._old.values()):
            process.send_signal(signal.SIGHUP)

    async def _upgrade(self) -> None:
        is_replacing = self._old and not self._over.is_set()
        if self._is_upgrading or is_replacing or self._stop.is_set():
            _log.warning("upgrade: another one or a stop is under way; the signal is ignored")
            return
        self._is_upgrading = True
        _log.info("upgrade: checking whether the installed version can start")
        workers = [process.as_old for process in (*self._new.values(), *self._old.values())]
        if await self._can_start(Handover(self._listener, self._folder, workers, is_check=True)):
            # Without an await from here on: what runs now is what is handed over.
            workers = [process.as_old for process in (*self._new.values(), *self._old.values())]
            self._replace_program(Handover(self._listener, self._folder, workers))
        self._is_upgrading = False

    async def _can_start(self, handover: Handover) -> bool:
        code = os.EX_OSERR
        with anyio.move_on_after(_CHECK_SECONDS) as scope, suppress(OSError):
            done = await anyio.run_process(
                self._own_command(),
                stdin=DEVNULL,
                stderr=None,
                check=False,
                env=handover.environment(os.environ),
                pass_fds=[self._listener.fileno()],
            )
            code = done.returncode
        how = f"it did not end within {_CHECK_SECONDS:g} s" if scope.cancelled_caught else f"exit code {code}"
        if code != 0:
            _log.error("upgrade: the installed version cannot start (%s); the workers go on as before", how)
        return code == 0

    def _own_command(self) -> list[str]:
        return [sys.executable, *sys.orig_argv[1:]]

    def _replace_program(self, handover: Handover) -> None:
        command = self._own_command()
        handover.set_inheritable(inheritable=True)
        # Until the new version has its handlers, signals wait. They would end it.
        signal.pthread_sigmask(signal.SIG_BLOCK, _HELD_SIGNALS)
        try:
            self._execute(command[0], command, handover.environment(os.environ))
        except OSError as error:
            _log.error("upgrade: cannot run %s: %s; the workers go on as before", command[0], error.strerror)
        handover.set_inheritable(inheritable=False)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD_SIGNALS)

    async def _keep_running(self, number: int) -> None:
        pause, restarts = 0.0, 0
        while not self._over.is_set():
            started = anyio.current_time()
            code = await self._serve(number, restarts)
            restarts += 1
            # A worker that has served before could start then: the reason may pass, so it is restarted.
            if code in _PERMANENT_EXIT_CODES and number not in self._served:
                self._give_up(code)
            elif not self._over.is_set():
                pause = next_pause(pause, anyio.current_time() - started)
                key, how = ("code", "with code") if code >= 0 else ("signal", "by signal")
                fields = {"event": "worker", "number": number, "state": "ended", key: abs(code)}
                text = "worker %d ended %s %d; restarting in %.1f s"
                _log.error(text, number, how, abs(code), pause, extra={"fields": fields})
                with anyio.move_on_after(pause):  # a stop ends the pause
                    await self._over.wait()

    def _give_up(self, code: int) -> None:
        """A worker cannot start: the old ones go on, or all stop."""
        if not self._old:
            self._code = self._code or code
            self._begin_stop()
        elif not self._over.is_set():
            text = "upgrade: a new worker cannot start (exit code %d); the old workers go on; fix that, then send SIGUSR2 again"
            _log.error(text, code)
            self._over.set()

    async def _run_old(self, process: WorkerProcess) -> None:
        """Wait for the end of a worker of the old version."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._end, process, self._replaced)
            await process.wait()
            del self._old[process.pid]
            self._forget(process)
            if self._over.is_set():
                self._old_ended.set()
            tasks.cancel_scope.cancel()

    async def _serve(self, number: int, restarts: int) -> int:
        """Run one worker process; answers its exit code. ``restarts`` is how many have run with this number before."""
        listener, slot, name = self._listener.fileno(), self._free_slot(), f"{number}-{token_hex(3)}"
        worker = Worker(number, name, self._count, listener, str(self._folder), slot, restarts)
        stdin, writing = os.pipe()
        lifeline = Lifeline(writing)
        try:
            process = await anyio.open_process(
                [*self._program, f"--worker={number}"],
                stdin=stdin,
                stdout=PIPE,
                stderr=None,
                start_new_session=True,
                env={**os.environ, SHARED: str(self._folder)},
                pass_fds=[listener],
            )
        except OSError as error:
            _log.error("cannot start a process: %s", error.strerror)
            lifeline.close()
            return os.EX_OSERR
        finally:
            os.close(stdin)
        started = WorkerProcess(number, name, slot, process.pid, lifeline, process.wait)
        self._new[process.pid] = started
        async with process, anyio.create_task_group() as tasks:
            tasks.start_soon(self._end, started, self._over)
            tasks.start_soon(lifeline.send, worker.to_json(self._settings).encode() + b"\n")
            assert process.stdout
            with suppress(anyio.EndOfStream):  # it ended before it served
                # One read: a write of at most PIPE_BUF bytes to a pipe is atomic (POSIX, write).
                url = await process.stdout.receive()
                self._serving[number] = started
                self._on_serving(number, url.decode().strip())
            code = await process.wait()
            tasks.cancel_scope.cancel()
        self._serving.pop(number, None)  # it is not in there if it never served
        del self._new[process.pid]
        self._forget(started)
        return code

    def _free_slot(self) -> int:
        used = {process.slot for process in (*self._new.values(), *self._old.values())}
        return next(slot for slot in count() if slot not in used)

    def _forget(self, process: WorkerProcess) -> None:
        """Remove what a worker that has ended shared with the others."""
        process.lifeline.close()
        self._connections.clear(process.slot)
        forget(process.pid, self._folder)
        remove_socket(self._folder, process.name)

    async def _end(self, process: WorkerProcess, when: anyio.Event) -> None:
        await when.wait()
        process.lifeline.close()  # tells the worker to stop
        with anyio.move_on_after(self._stop_seconds):
            await self._kill.wait()
        process.send_signal(signal.SIGKILL)

    def _on_serving(self, number: int, url: str) -> None:
        """Log that a worker serves again, or at the start that all do."""
        if number in self._served:
            fields = {"event": "worker", "number": number, "state": "serving"}
            _log.info("worker %d serves again", number, extra={"fields": fields})
            return
        self._served.add(number)
        if len(self._served) == self._count and not self._over.is_set():
            _log.info("serving %s with %d workers; %s", url, self._count, _DIVIDED)
            if self._old:
                _log.info("upgraded to version %s; the old workers end after their calls", __version__)
            self._replaced.set()
