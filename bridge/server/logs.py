"""Logging to stderr: never in the protocol's way, never with a value that could be a secret."""

import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from queue import Full, Queue
from threading import Event, Thread
from traceback import format_tb
from types import TracebackType
from typing import Final, TypeAlias

_ExcInfo: TypeAlias = (
    tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
)

_QUIET: Final = {
    "aiohttp": logging.ERROR,
    "httpx": logging.WARNING,  # its INFO lines are whole URLs
    "mcp": logging.ERROR,  # its WARNING lines hold session ids
    "uvicorn": logging.ERROR,
    "uvicorn.access": logging.CRITICAL,
    "watchfiles": logging.WARNING,
}


def configure(level: int = logging.INFO) -> None:
    """Log to stderr from now on; libraries only what is an error."""
    handler = StderrHandler()
    handler.setFormatter(FramesOnly("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name, least in _QUIET.items():
        logging.getLogger(name).setLevel(max(level, least))


class FramesOnly(logging.Formatter):
    """Shows an exception's frames and type, not its message: that may hold arguments and secrets."""

    def formatException(self, ei: _ExcInfo) -> str:  # noqa: N802 - logging's name
        return "".join(_frames(ei[1])).rstrip() if ei[1] else ""


def _frames(problem: BaseException) -> Iterator[str]:
    before = problem.__cause__ or problem.__context__
    if before is not None:
        yield from _frames(before)
    yield from format_tb(problem.__traceback__)
    yield f"{type(problem).__module__}.{type(problem).__qualname__}\n"
    if isinstance(problem, BaseExceptionGroup):
        for inner in problem.exceptions:
            yield from _frames(inner)


class StderrHandler(logging.Handler):
    """Writes from a thread of its own; a stderr that nobody reads costs lines, not answers."""

    def __init__(self, descriptor: int = 2) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._lines: Queue[str | Event] = Queue(1000)
        Thread(target=self._write, name="stderr", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(Full):
            self._lines.put_nowait(self.format(record) + "\n")

    def flush(self) -> None:
        """Wait until all is written, at most a second."""
        written = Event()
        with suppress(Full):
            self._lines.put_nowait(written)
            written.wait(1)

    def _write(self) -> None:
        while True:
            match self._lines.get():
                case str(line):
                    with suppress(OSError):
                        os.write(self._descriptor, line.encode(errors="replace"))
                case written:
                    written.set()
