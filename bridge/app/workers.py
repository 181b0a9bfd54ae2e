"""``restbridge serve --workers``: processes that serve on one port, kept running from one that does not.

Each worker has a listening socket of its own on the port, over which the system spreads connections (one
that they shared would give a burst to whoever wakes first), and loads and watches the files itself. Its URL on
its stdout says that it serves; the end of its stdin tells it to stop, also when this process is killed. It has
a session of its own, so that ^C in a terminal comes here alone.
"""

import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from subprocess import PIPE
from tempfile import TemporaryDirectory
from typing import Final

import anyio
import click
from anyio.abc import Process, TaskStatus

from bridge.address import Address
from bridge.app.signals import ask_on_signal
from bridge.http.listeners import bind
from bridge.settings import Settings
from bridge.telemetry.log_events import NO_SESSIONS
from bridge.telemetry.metrics import SHARED, forget

_log: Final = logging.getLogger("bridge")

_TOLD_OF: Final = frozenset({1, 2})
"""Exit codes of a worker that has said what is wrong, and would say it again."""
_LEAST: Final = 0.1
_MOST: Final = 5.0
"""Seconds before a worker that ended is started again, at first and in the end."""
_WHILE: Final = 30.0
"""Seconds after which a worker that ended counts as one that had worked."""
_PATIENCE: Final = 10.0
"""Seconds that a worker may take to stop, beside those that calls in flight have: it may just be starting."""


def supervise(settings: Settings, address: Address) -> int:
    """Serves with several workers until a signal.

    Answers 2 if the port is taken, and what a worker answers whose start shows that none can serve; raises
    ``click.UsageError`` where the system has no ports to share.
    """
    if not hasattr(socket, "SO_REUSEPORT"):
        raise click.UsageError(
            "--workers needs ports that processes can share, as Linux has them; leave it out"
        )
    try:
        keeper = _keep(address)
    except OSError as error:
        _log.error("%s", error.strerror)
        return 2
    with keeper:
        there = Address(address.host, keeper.getsockname()[1])
        words = replace(settings, http=there).words()
        with TemporaryDirectory(prefix="restbridge-") as figures:
            return anyio.run(Workers(_program(), words, settings, Path(figures)).run)


def _keep(address: Address) -> socket.socket:
    """A socket that keeps the port for the workers; raises ``OSError`` if somebody serves there, also on a shared one."""
    bind(address, listens=False).close()
    return bind(address, shared=True, listens=False)


def _program() -> list[str]:
    """How this process was started, up to the verb."""
    typed = sys.orig_argv
    first = len(typed) - len(sys.argv) + 1
    return [sys.executable, *typed[1 : typed.index("serve", first) + 1]]


def next_pause(last: float, ran: float) -> float:
    """How long to wait, in seconds, before a worker is started again that ran for so long after its ``last`` pause."""
    return min(2 * last, _MOST) if last and ran < _WHILE else _LEAST


class Workers:
    """Runs processes of ``program``, as many as ``settings`` say, until a signal; the second one ends them at once.

    Their metrics meet in the folder ``figures``.
    """

    def __init__(
        self, program: Sequence[str], words: Sequence[str], settings: Settings, figures: Path
    ) -> None:
        self._program = program
        self._words = words
        self._count = settings.workers
        self._patience = settings.grace + _PATIENCE
        self._figures = figures
        self._code = 0
        self._stop = anyio.Event()
        self._at_once = anyio.Event()
        self._serving: dict[int, Process] = {}
        self._served: set[int] = set()

    async def run(self) -> int:
        """Answers the exit code."""
        heeding = anyio.CancelScope()
        async with anyio.create_task_group() as tasks:
            await tasks.start(self._heed_signals, heeding)
            async with anyio.create_task_group() as workers:
                for number in range(1, self._count + 1):
                    workers.start_soon(self._keep_running, number)
            heeding.cancel()
        _log.info("stopped")
        return self._code

    async def _heed_signals(self, heeding: anyio.CancelScope, *, task_status: TaskStatus[None]) -> None:
        with heeding, anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async with anyio.create_task_group() as tasks:
                await tasks.start(ask_on_signal, self._pass_on)
                task_status.started()
                async for number in signals:
                    if self._stop.is_set():
                        self._code = 128 + number  # as a shell tells of it
                        self._at_once.set()
                    else:
                        _log.info("stopping")
                    self._stop.set()

    def _pass_on(self) -> None:
        """A wish to reload; who does not serve yet reads the files anyway, and would die of the signal."""
        for process in self._serving.values():
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGHUP)

    async def _keep_running(self, number: int) -> None:
        pause = 0.0
        while not self._stop.is_set():
            started = anyio.current_time()
            code = await self._serve(number)
            if code in _TOLD_OF and number not in self._served:
                self._code = self._code or code
                self._stop.set()
            elif not self._stop.is_set():
                pause = next_pause(pause, anyio.current_time() - started)
                how = f"with code {code}" if code >= 0 else f"by signal {-code}"
                _log.error("worker %d ended %s; it is started again in %.1f s", number, how, pause)
                with anyio.move_on_after(pause):
                    await self._stop.wait()

    async def _serve(self, number: int) -> int:
        """Run a worker to its end; answers its exit code."""
        command = [*self._program, f"--worker={number}", *self._words]
        try:
            process = await anyio.open_process(
                command,
                stdin=PIPE,
                stdout=PIPE,
                stderr=None,
                start_new_session=True,
                env={**os.environ, SHARED: str(self._figures)},
            )
        except OSError as error:
            _log.error("cannot start a process: %s", error.strerror)
            return os.EX_OSERR
        async with process, anyio.create_task_group() as tasks:
            tasks.start_soon(self._end, process)
            assert process.stdout
            with suppress(anyio.EndOfStream):
                url = await process.stdout.receive()
                self._serving[number] = process
                self._tell(number, url.decode().strip())
            code = await process.wait()
            tasks.cancel_scope.cancel()
        self._serving.pop(number, None)
        forget(process.pid, self._figures)
        return code

    async def _end(self, process: Process) -> None:
        await self._stop.wait()
        assert process.stdin
        await process.stdin.aclose()
        with anyio.move_on_after(self._patience):
            await self._at_once.wait()
        with suppress(ProcessLookupError):
            process.kill()

    def _tell(self, number: int, url: str) -> None:
        """That a worker serves; at the start, when all do."""
        if number in self._served:
            _log.info("worker %d serves again", number)
            return
        self._served.add(number)
        if len(self._served) == self._count and not self._stop.is_set():
            _log.info("serving %s with %d workers; %s", url, self._count, NO_SESSIONS)
