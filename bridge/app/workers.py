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
"""

import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from subprocess import PIPE
from tempfile import TemporaryDirectory
from typing import Final

import anyio
from anyio.abc import Process, TaskStatus

from bridge.address import Address
from bridge.app.reload_log import NO_SESSIONS
from bridge.app.siblings import remove_socket, require_short_path
from bridge.app.signals import reload_on_signal
from bridge.app.worker import Worker, connection_table
from bridge.http.connection_table import ConnectionTable
from bridge.http.listeners import bind
from bridge.settings import Http, Settings
from bridge.telemetry.metrics import SHARED, forget

_log: Final = logging.getLogger(__name__)

_DIVIDED: Final = "limits.total and the limits of APIs are divided among them"
_PERMANENT_EXIT_CODES: Final = frozenset({1, 2})
"""The worker has logged why it cannot start. A restart would fail in the same way."""
_MIN_PAUSE_SECONDS: Final = 0.1
_MAX_PAUSE_SECONDS: Final = 5.0
"""Before a restart. The pause doubles after each short run."""
_SHORT_RUN_SECONDS: Final = 30.0
_STOP_SECONDS: Final = 10.0
"""For a worker to stop, in addition to the grace period of calls: it may still be starting."""


def supervise(settings: Settings, http: Http, count: int) -> int:
    """Serve ``http`` by ``count`` workers until a signal; answers the exit code.

    It is 2 if the port is taken, and that of the worker if a worker cannot start. Raises ``StartError`` if the path of the
    folder for temporary files is too long.
    """
    try:
        listener = bind(http.listen)
    except OSError as error:
        _log.error("%s", error.strerror)
        return 2
    address = Address(http.listen.host, listener.getsockname()[1])  # the port that was asked for may be 0
    http = http.model_copy(update={"listen": address})
    settings = settings.model_copy(update={"http": http, "limits": settings.limits.divided(count)})
    # mkdtemp(3): only this user may enter the folder.
    with listener, TemporaryDirectory(prefix="restbridge-") as folder:
        require_short_path(Path(folder))
        return anyio.run(Workers(_program(), settings, count, listener, Path(folder)).run)


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

    They have these ``settings``, and share ``listener`` and the files in ``folder``.
    """

    def __init__(
        self,
        program: Sequence[str],
        settings: Settings,
        count: int,
        listener: socket.socket,
        folder: Path,
    ) -> None:
        self._program = program
        self._settings = settings
        self._count = count
        self._stop_seconds = settings.grace + _STOP_SECONDS
        self._listener = listener
        self._folder = folder
        self._connections = ConnectionTable.create(connection_table(folder))
        self._code = 0
        self._stop = anyio.Event()
        self._kill = anyio.Event()
        self._serving: dict[int, Process] = {}
        self._served: set[int] = set()

    async def run(self) -> int:
        """Run until all workers have ended; answers the exit code."""
        listening = anyio.CancelScope()
        async with anyio.create_task_group() as tasks:
            await tasks.start(self._handle_signals, listening)
            async with anyio.create_task_group() as workers:
                for number in range(1, self._count + 1):
                    workers.start_soon(self._keep_running, number)
            listening.cancel()
        _log.info("stopped")
        return self._code

    async def _handle_signals(self, listening: anyio.CancelScope, *, task_status: TaskStatus[None]) -> None:
        with listening, anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async with anyio.create_task_group() as tasks:
                await tasks.start(reload_on_signal, self._forward_reload)
                task_status.started()
                async for number in signals:
                    if self._stop.is_set():
                        self._code = 128 + number  # like a shell
                        self._kill.set()
                    else:
                        _log.info("stopping")
                    self._stop.set()
                    self._listener.close()  # the last worker that accepts refuses what still waits

    def _forward_reload(self) -> None:
        """Send SIGHUP to workers that serve. Others load the files anyway, and have no handler yet."""
        for process in self._serving.values():
            with suppress(ProcessLookupError):  # it has just ended
                process.send_signal(signal.SIGHUP)

    async def _keep_running(self, number: int) -> None:
        pause, restarts = 0.0, 0
        while not self._stop.is_set():
            started = anyio.current_time()
            code = await self._serve(number, restarts)
            restarts += 1
            # A worker that has served before could start then: the reason may pass, so it is restarted.
            if code in _PERMANENT_EXIT_CODES and number not in self._served:
                self._code = self._code or code
                self._stop.set()
            elif not self._stop.is_set():
                pause = next_pause(pause, anyio.current_time() - started)
                key, how = ("code", "with code") if code >= 0 else ("signal", "by signal")
                fields = {"event": "worker", "number": number, "state": "ended", key: abs(code)}
                text = "worker %d ended %s %d; restarting in %.1f s"
                _log.error(text, number, how, abs(code), pause, extra={"fields": fields})
                with anyio.move_on_after(pause):  # a stop ends the pause
                    await self._stop.wait()

    async def _serve(self, number: int, restarts: int) -> int:
        """Run one worker process; answers its exit code. ``restarts`` is how many have run with this number before."""
        listener, slot = self._listener.fileno(), number - 1
        name = f"{number}-{token_hex(3)}"
        worker = Worker(number, name, self._count, listener, str(self._folder), slot, restarts)
        try:
            process = await anyio.open_process(
                [*self._program, f"--worker={number}"],
                stdin=PIPE,
                stdout=PIPE,
                stderr=None,
                start_new_session=True,
                env={**os.environ, SHARED: str(self._folder)},
                pass_fds=[listener],
            )
        except OSError as error:
            _log.error("cannot start a process: %s", error.strerror)
            return os.EX_OSERR
        async with process, anyio.create_task_group() as tasks:
            tasks.start_soon(self._end, process)
            tasks.start_soon(self._send_settings, process, worker)
            assert process.stdout
            with suppress(anyio.EndOfStream):  # it ended before it served
                # One read: a write of at most PIPE_BUF bytes to a pipe is atomic (POSIX, write).
                url = await process.stdout.receive()
                self._serving[number] = process
                self._on_serving(number, url.decode().strip())
            code = await process.wait()
            tasks.cancel_scope.cancel()
        self._serving.pop(number, None)  # it is not in there if it never served
        self._connections.clear(slot)
        forget(process.pid, self._folder)
        remove_socket(self._folder, name)
        return code

    async def _send_settings(self, process: Process, worker: Worker) -> None:
        assert process.stdin
        line = worker.to_json(self._settings).encode() + b"\n"
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):  # the worker has ended, or stops
            await process.stdin.send(line)

    async def _end(self, process: Process) -> None:
        await self._stop.wait()
        assert process.stdin
        await process.stdin.aclose()  # tells the worker to stop
        with anyio.move_on_after(self._stop_seconds):
            await self._kill.wait()
        with suppress(ProcessLookupError):  # it has ended meanwhile
            process.kill()

    def _on_serving(self, number: int, url: str) -> None:
        """Log that a worker serves again, or at the start that all do."""
        if number in self._served:
            fields = {"event": "worker", "number": number, "state": "serving"}
            _log.info("worker %d serves again", number, extra={"fields": fields})
            return
        self._served.add(number)
        if len(self._served) == self._count and not self._stop.is_set():
            _log.info("serving %s with %d workers; %s; %s", url, self._count, _DIVIDED, NO_SESSIONS)
