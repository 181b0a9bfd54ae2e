"""``restbridge serve`` over HTTP in the process of the test, which reads its log like that of a process."""

import gc
import json
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import partial
from tempfile import TemporaryFile

import anyio
from anyio.abc import ByteReceiveStream
from anyio.streams.buffered import BufferedByteReceiveStream

from bridge import cli
from bridge.app import runtime, transports
from bridge.app.startup import StartupState, directories
from bridge.commands.serve import _traces
from bridge.secrets import Sources
from bridge.settings import Settings
from bridge.telemetry import log_output
from tests.commands.processes import Log


class InProcess(Log):
    """A running bridge, with the methods of ``processes.Running``."""

    def __init__(self, log: ByteReceiveStream, close_log: Callable[[], None]) -> None:
        super().__init__(BufferedByteReceiveStream(log))
        self.stop: anyio.Event | None = None
        self._close_log = close_log
        self._ended = anyio.Event()
        self._code = -1

    async def run(
        self, startup: StartupState, end_traces: Callable[[], None] | None, transport: runtime.Transport
    ) -> None:
        async def over(bridge: runtime.Runtime, stop: anyio.Event) -> None:
            self.stop = stop
            await transport(bridge, stop)

        try:
            self._code = await runtime.serve(startup, over, end_traces)
        finally:
            self._close_log()
            self._ended.set()

    def send_signal(self, number: signal.Signals) -> None:
        assert self.stop  # without the handler of the bridge, the signal would end the tests
        os.kill(os.getpid(), number)

    async def wait_for_exit(self, number: signal.Signals | None = None) -> int:
        """Waits until the bridge has stopped, after a signal if one is given; returns the exit code."""
        if number:
            self.send_signal(number)
        with anyio.fail_after(60):
            await self._ended.wait()
        return self._code


class _Pipe(ByteReceiveStream):
    """The reading end of a pipe."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    async def receive(self, max_bytes: int = 65536) -> bytes:
        await anyio.wait_readable(self._descriptor)
        data = os.read(self._descriptor, max_bytes)
        if not data:
            raise anyio.EndOfStream
        return data

    async def aclose(self) -> None:
        os.close(self._descriptor)


def parse_settings(*arguments: str) -> Settings:
    """The settings from these arguments of ``restbridge serve``."""
    options = cli.restbridge.commands["serve"].make_context("serve", list(arguments)).params
    del options["worker"]
    return cli._settings(**options)


@asynccontextmanager
async def serving_in_process(
    *arguments: str,
    env: Mapping[str, str] | None = None,
    hangups: Sequence[int] = (),
) -> AsyncIterator[InProcess]:
    """Serves with these arguments; stops at the end of the block, unless the test has stopped it."""
    settings = parse_settings(*arguments)
    assert settings.http
    reading, writing = os.pipe()
    log = _Pipe(reading)
    with root_logger_restored(), gc_settings_restored():
        log_output.configure(form=settings.log.format)
        handler = logging.getLogger().handlers[0]
        assert isinstance(handler, log_output.StderrHandler)
        handler._descriptor = writing

        def close_log() -> None:
            handler.flush()
            os.close(writing)

        sources = Sources({**os.environ, **(env or {})})
        startup = StartupState.load(settings, directories(settings), sources, hangups=hangups)
        assert startup
        say = partial(transports._log_url, settings)
        transport = partial(transports.over_http, settings.http.listen, say)
        bridge = InProcess(log, close_log)
        async with log, anyio.create_task_group() as tasks:
            tasks.start_soon(bridge.run, startup, _traces(startup), transport)
            yield bridge
            if bridge.stop:
                bridge.stop.set()
            await bridge.wait_for_exit()


@contextmanager
def over_stdio(*messages: Mapping[str, object]) -> Iterator[list[str]]:
    """Puts these messages on stdin, then EOF. After the block, the list contains the lines of stdout."""
    lines: list[str] = []
    reading, writing = os.pipe()
    os.write(writing, b"".join(json.dumps(message).encode() + b"\n" for message in messages))
    os.close(writing)
    with TemporaryFile() as stdout, ExitStack() as stack:
        stack.callback(os.close, reading)
        for descriptor, other in ((0, reading), (1, stdout.fileno())):
            kept = os.dup(descriptor)
            stack.callback(os.close, kept)
            stack.callback(os.dup2, kept, descriptor)
            os.dup2(other, descriptor)
        with gc_settings_restored():
            yield lines
        stdout.seek(0)
        lines += stdout.read().decode().splitlines()


@contextmanager
def sigterm_when_logged(text: str) -> Iterator[None]:
    """Sends SIGTERM to this process when a log line begins with the text. The code in the block must handle it by then."""

    class Ending(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage().startswith(text):
                os.kill(os.getpid(), signal.SIGTERM)

    ending, logger = Ending(), logging.getLogger("bridge")
    logger.addHandler(ending)
    try:
        with gc_settings_restored():
            yield
    finally:
        logger.removeHandler(ending)


@contextmanager
def root_logger_restored() -> Iterator[None]:
    """Restores the root logger after the block: pytest needs its level and handlers."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    root.handlers.clear()
    try:
        yield
    finally:
        root.setLevel(level)
        root.handlers[:] = handlers


@contextmanager
def gc_settings_restored() -> Iterator[None]:
    """Restores the settings of the garbage collector and the switch interval of threads after the block."""
    thresholds, interval = gc.get_threshold(), sys.getswitchinterval()
    try:
        yield
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)
        sys.setswitchinterval(interval)
