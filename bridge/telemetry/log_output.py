"""Logging to stderr. It never blocks the event loop, and never shows the message of an exception, which may hold a secret."""

import logging
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from select import PIPE_BUF
from threading import Event, Thread
from traceback import format_tb
from types import MappingProxyType, TracebackType
from typing import Final, TypeAlias

from bridge.codec import encode
from bridge.settings import LogFormat
from bridge.spec import Json

_ExcInfo: TypeAlias = (
    tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
)

_log: Final = logging.getLogger(__name__)
_MAX_QUEUED_LINES: Final = 1000
"""Further lines are lost."""
_BATCH_SECONDS: Final = 0.05
_LIBRARY_LEVELS: Final = {
    "httpx": logging.WARNING,  # its INFO lines are whole URLs
    "opentelemetry": logging.ERROR,
    "mcp": logging.ERROR,  # its WARNING lines hold session ids
    "uvicorn": logging.ERROR,
    "uvicorn.access": logging.CRITICAL,  # its lines hold paths
    "watchfiles": logging.WARNING,  # its INFO lines are one for each batch of events
}


def configure(level: int = logging.INFO, form: LogFormat = "text", worker: str | None = None) -> None:
    """Log to stderr from now on. Of most libraries only errors are logged. ``worker`` is named in each line."""
    fields = {"worker": worker} if worker else {}
    handler = StderrHandler(fields=fields)
    text = _text("%(asctime)s %(levelname)s %(message)s", fields)
    handler.setFormatter(JsonLines(fields) if form == "json" else FramesOnly(text))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # No format uses these fields, so collecting them would only cost time (Logging HOWTO, Optimization).
    logging._srcfile = None  # noqa: SLF001
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    for name, minimum in _LIBRARY_LEVELS.items():
        logging.getLogger(name).setLevel(max(level, minimum))


def event(name: str, fields: Mapping[str, str | int], level: int = logging.INFO) -> None:
    """Log an event like ``logging`` does, at a third of the cost, as each call logs one."""
    root = logging.getLogger()
    match root.handlers:  # straight to our handler: no LogRecord, no search for the caller's frame
        case [StderrHandler(formatter=JsonLines()) as stderr] if root.level <= level:
            shown = logging.getLevelName(level).lower()
            stderr.put(json_line(time.time(), shown, {"event": name, **fields, **stderr.fields}))
        case [StderrHandler() as stderr] if root.level <= level:
            text = _text(name, {**fields, **stderr.fields})
            stderr.put(f"{_stamp(time.time())} {logging.getLevelName(level)} {text}\n")
        case _:  # another handler, such as that of a test, or a level that shows no such line
            _log.log(level, _text(name, fields))


def _text(name: str, fields: Mapping[str, str | int]) -> str:
    return " ".join([name, *[f"{key}={value}" for key, value in fields.items()]])


def json_line(seconds: float, level: str, fields: Mapping[str, Json]) -> str:
    """A line of JSON, with its newline. ``seconds`` are since 1970."""
    moment = f"{_to_the_second(int(seconds), utc=True)}.{int(seconds % 1 * 1000):03}Z"  # RFC 3339
    return encode({"time": moment, "level": level, **fields}).decode() + "\n"


def _stamp(seconds: float) -> str:
    return f"{_to_the_second(int(seconds))},{int(seconds % 1 * 1000):03}"


@lru_cache(maxsize=2)  # the current second, in local time for text and in UTC for JSON
def _to_the_second(seconds: int, *, utc: bool = False) -> str:
    if utc:
        return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


class FramesOnly(logging.Formatter):
    """Shows the frames and the type of an exception, not its message, which may hold arguments and secrets."""

    def formatException(self, ei: _ExcInfo) -> str:  # noqa: N802 - logging's name
        return "".join(_frames(ei[1])).rstrip() if ei[1] else ""


class JsonLines(logging.Formatter):
    """One JSON object for each record: ``time``, ``level``, ``message``, the ``fields`` of the record, and these ``fields``."""

    def __init__(self, fields: Mapping[str, str]) -> None:
        super().__init__()
        self._fields = fields

    def format(self, record: logging.LogRecord) -> str:
        fields = {"message": record.getMessage(), **getattr(record, "fields", {}), **self._fields}
        if record.exc_info and (problem := record.exc_info[1]):
            fields["frames"] = "".join(_frames(problem))
        return json_line(record.created, record.levelname.lower(), fields).rstrip()


def _frames(problem: BaseException) -> Iterator[str]:
    # What it was raised from comes first, as in Python's own tracebacks.
    before = problem.__cause__ or problem.__context__
    if before is not None:
        yield from _frames(before)
    yield from format_tb(problem.__traceback__)
    yield f"{type(problem).__module__}.{type(problem).__qualname__}\n"
    if isinstance(problem, BaseExceptionGroup):
        for inner in problem.exceptions:
            yield from _frames(inner)


class StderrHandler(logging.Handler):
    """Writes in a thread of its own. If stderr is not read, lines are lost and nothing blocks.

    Lines are written in batches, as waking the thread costs more than a line. A warning or an error of ``logging`` is
    written at once. ``fields`` are in each line.
    """

    def __init__(self, descriptor: int = 2, fields: Mapping[str, str] = MappingProxyType({})) -> None:
        super().__init__()
        self.fields: Final = fields
        self._descriptor = descriptor
        self._lines: deque[str] = deque()
        self._flushes: deque[Event] = deque()
        self._has_work = Event()
        self._is_urgent = Event()
        Thread(target=self._run, name="stderr", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        self.put(self.format(record) + "\n")
        if record.levelno > logging.INFO:
            self._is_urgent.set()

    def put(self, line: str) -> None:
        """Queue a line."""
        if len(self._lines) < _MAX_QUEUED_LINES:
            self._lines.append(line)
        if not self._has_work.is_set():  # Event.set takes a lock, is_set does not
            self._has_work.set()

    def flush(self) -> None:
        """Wait until all lines are written, for at most a second."""
        written = Event()
        self._flushes.append(written)
        self._is_urgent.set()
        self._has_work.set()
        written.wait(1)

    def _run(self) -> None:
        while True:
            self._has_work.wait()
            self._is_urgent.wait(_BATCH_SECONDS)
            # Cleared before the queues are emptied: a line put in between then starts the next round.
            self._has_work.clear()
            self._is_urgent.clear()
            # The flushes before the lines: each line put before a flush is then written before it returns.
            # By their number: iterating over a deque raises RuntimeError if another thread appends.
            flushed = [self._flushes.popleft() for _ in range(len(self._flushes))]
            lines = [self._lines.popleft() for _ in range(len(self._lines))]
            for piece in _pieces(lines):
                with suppress(OSError):  # stderr is closed, or nobody reads it any longer (EPIPE)
                    os.write(self._descriptor, piece)
            for written in flushed:
                written.set()


def _pieces(lines: Iterable[str]) -> Iterator[bytes]:
    """Whole lines, joined up to PIPE_BUF bytes. Such a write is atomic, also if other processes share the pipe (POSIX, write)."""
    piece = b""
    for line in lines:
        more = line.encode(errors="replace")  # a lone surrogate, as in an undecodable path, becomes "?"
        if len(piece) + len(more) > PIPE_BUF:
            yield piece
            piece = b""
        piece += more
    yield piece
