"""``restbridge serve`` over HTTP in the process of the test, which reads its log as that of a process."""

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
from bridge.app import runtime as serving
from bridge.commands.loading import directories
from bridge.commands.serve import Beginning, _traces
from bridge.secrets import Sources
from bridge.settings import Settings
from bridge.telemetry import log_output as logs
from tests.commands.processes import Log


class InProcess(Log):
    """A bridge that serves; the methods are those of ``processes.Running``."""

    def __init__(self, log: ByteReceiveStream, close_log: Callable[[], None]) -> None:
        super().__init__(BufferedByteReceiveStream(log))
        self.stop: anyio.Event | None = None
        self._close_log = close_log
        self._ended = anyio.Event()
        self._code = -1

    async def run(
        self, beginning: Beginning, end_traces: Callable[[], None] | None, transport: serving.Transport
    ) -> None:
        async def over(bridge: serving.Bridge, stop: anyio.Event) -> None:
            self.stop = stop
            await transport(bridge, stop)

        try:
            self._code = await serving.serve(beginning, over, end_traces)
        finally:
            self._close_log()
            self._ended.set()

    def hears(self, number: signal.Signals) -> None:
        assert self.stop  # before that, the signal would end the tests
        os.kill(os.getpid(), number)

    async def ends(self, how: signal.Signals | None = None) -> int:
        """The exit code, after a signal if one is given."""
        if how:
            self.hears(how)
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


def parsed(*words: str) -> Settings:
    """What the words after ``restbridge serve`` come to."""
    options = cli.restbridge.commands["serve"].make_context("serve", list(words)).params
    for hidden in ("worker", "structured"):
        del options[hidden]
    return cli._settings(**options)


@asynccontextmanager
async def serving_in_process(
    *words: str,
    env: Mapping[str, str] | None = None,
    hangups: Sequence[int] = (),
) -> AsyncIterator[InProcess]:
    """Serve what ``words`` say; it ends with the block, if the test has not ended it."""
    settings = parsed(*words)
    assert settings.http
    reading, writing = os.pipe()
    log = _Pipe(reading)
    with root_logger_kept(), collector_kept():
        logs.configure(form=settings.log_format)
        handler = logging.getLogger().handlers[0]
        assert isinstance(handler, logs.StderrHandler)
        handler._descriptor = writing

        def close_log() -> None:
            handler.flush()
            os.close(writing)

        sources = Sources({**os.environ, **(env or {})})
        beginning = Beginning.load(settings, directories(settings), sources, hangups=hangups)
        assert beginning
        say = partial(serving._say_url, settings)
        transport = partial(serving.over_http, settings.http, say)
        bridge = InProcess(log, close_log)
        async with log, anyio.create_task_group() as tasks:
            tasks.start_soon(bridge.run, beginning, _traces(beginning), transport)
            yield bridge
            if bridge.stop:
                bridge.stop.set()
            await bridge.ends()


@contextmanager
def over_stdio(*messages: Mapping[str, object]) -> Iterator[list[str]]:
    """Have these on stdin, and then its end; the lines are what came on stdout when the block has ended."""
    lines: list[str] = []
    asked, asking = os.pipe()
    os.write(asking, b"".join(json.dumps(message).encode() + b"\n" for message in messages))
    os.close(asking)
    with TemporaryFile() as said, ExitStack() as stack:
        stack.callback(os.close, asked)
        for descriptor, other in ((0, asked), (1, said.fileno())):
            kept = os.dup(descriptor)
            stack.callback(os.close, kept)
            stack.callback(os.dup2, kept, descriptor)
            os.dup2(other, descriptor)
        with collector_kept():
            yield lines
        said.seek(0)
        lines += said.read().decode().splitlines()


@contextmanager
def ended_when_it_logs(text: str) -> Iterator[None]:
    """Send SIGTERM to this process when a line begins with the text: what the block runs listens for it then."""

    class Ending(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage().startswith(text):
                os.kill(os.getpid(), signal.SIGTERM)

    ending, logger = Ending(), logging.getLogger("bridge")
    logger.addHandler(ending)
    try:
        with collector_kept():
            yield
    finally:
        logger.removeHandler(ending)


@contextmanager
def root_logger_kept() -> Iterator[None]:
    """Leave the root logger as it was: what it is told to forget, pytest still needs."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    root.handlers.clear()
    try:
        yield
    finally:
        root.setLevel(level)
        root.handlers[:] = handlers


@contextmanager
def collector_kept() -> Iterator[None]:
    """Leave the garbage collector and the threads as they were before something served."""
    thresholds, interval = gc.get_threshold(), sys.getswitchinterval()
    try:
        yield
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)
        sys.setswitchinterval(interval)
