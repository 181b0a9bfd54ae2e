"""Logging to stderr: never in the protocol's way, never with a value that could be a secret."""

import logging
import os
import re
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from select import PIPE_BUF
from threading import Event, Thread
from traceback import format_tb
from types import TracebackType
from typing import Final, TypeAlias

from bridge.codec import encode, quote
from bridge.settingsfile import LogFormat
from bridge.spec import Json

_ExcInfo: TypeAlias = (
    tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
)

_log: Final = logging.getLogger("bridge")
_MOST: Final = 1000
"""Lines that may wait to be written; more are lost."""
_PLAIN: Final = re.compile("[A-Za-z0-9_.:/@|-]{1,128}")
_GATHERING: Final = 0.05
_QUIET: Final = {
    "aiohttp": logging.ERROR,
    "httpx": logging.WARNING,  # its INFO lines are whole URLs
    "opentelemetry": logging.ERROR,
    "mcp": logging.ERROR,  # its WARNING lines hold session ids
    "uvicorn": logging.ERROR,
    "uvicorn.access": logging.CRITICAL,
    "watchfiles": logging.WARNING,
}


def configure(level: int = logging.INFO, form: LogFormat = "text") -> None:
    """Log to stderr from now on; libraries only what is an error."""
    handler = StderrHandler()
    handler.setFormatter(
        JsonLines() if form == "json" else FramesOnly("%(asctime)s %(levelname)s %(message)s")
    )
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # What no line of ours shows (the logging howto, optimization).
    logging._srcfile = None  # noqa: SLF001
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    for name, least in _QUIET.items():
        logging.getLogger(name).setLevel(max(level, least))


def fit(value: object) -> str:
    """What others have chosen, such as an id, as it can stand in a line: nothing in it ends the line, or a word."""
    text = str(value)
    return text if type(value) is int or _PLAIN.fullmatch(text) else quote(text)


def event(name: str, fields: Mapping[str, str | int], level: int = logging.INFO) -> None:
    """Log what happened as ``logging`` would, for a third of the work: there is one for each call."""
    root = logging.getLogger()
    match root.handlers:
        case [StderrHandler(formatter=JsonLines()) as stderr] if root.level <= level:
            shown = logging.getLevelName(level).lower()
            stderr.put(json_line(time.time(), shown, {"event": name, **fields}))
        case [StderrHandler() as stderr] if root.level <= level:
            stderr.put(f"{_stamp(time.time())} {logging.getLevelName(level)} {_text(name, fields)}\n")
        case _:
            _log.log(level, _text(name, fields))


def _text(name: str, fields: Mapping[str, str | int]) -> str:
    return " ".join([name, *[f"{key}={value}" for key, value in fields.items()]])


def json_line(seconds: float, level: str, fields: Mapping[str, Json]) -> str:
    """A line of JSON, with its end; ``seconds`` since 1970."""
    moment = f"{_to_the_second(int(seconds), utc=True)}.{int(seconds % 1 * 1000):03}Z"  # RFC 3339
    return encode({"time": moment, "level": level, **fields}).decode() + "\n"


def _stamp(seconds: float) -> str:
    return f"{_to_the_second(int(seconds))},{int(seconds % 1 * 1000):03}"


@lru_cache(maxsize=2)
def _to_the_second(seconds: int, *, utc: bool = False) -> str:
    if utc:
        return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


class FramesOnly(logging.Formatter):
    """Shows an exception's frames and type, not its message: that may hold arguments and secrets."""

    def formatException(self, ei: _ExcInfo) -> str:  # noqa: N802 - logging's name
        return "".join(_frames(ei[1])).rstrip() if ei[1] else ""


class JsonLines(logging.Formatter):
    """One JSON object for each record: ``time``, ``level``, ``message``, and what the record has as ``fields``."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {"message": record.getMessage(), **getattr(record, "fields", {})}
        if record.exc_info and (problem := record.exc_info[1]):
            fields["frames"] = "".join(_frames(problem))
        return json_line(record.created, record.levelname.lower(), fields).rstrip()


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
    """Writes from a thread of its own; a stderr that nobody reads costs lines, not answers.

    Lines are gathered for a moment, up to the first that is more than information: to wake the thread for
    each would cost more than the line.
    """

    def __init__(self, descriptor: int = 2) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._lines: deque[str] = deque()
        self._flushes: deque[Event] = deque()
        self._some = Event()
        self._hurry = Event()
        Thread(target=self._run, name="stderr", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        self.put(self.format(record) + "\n")
        if record.levelno > logging.INFO:
            self._hurry.set()

    def put(self, line: str) -> None:
        """Write a line soon."""
        if len(self._lines) < _MOST:
            self._lines.append(line)
        if not self._some.is_set():
            self._some.set()

    def flush(self) -> None:
        """Wait until all is written, at most a second."""
        written = Event()
        self._flushes.append(written)
        self._hurry.set()
        self._some.set()
        written.wait(1)

    def _run(self) -> None:
        while True:
            self._some.wait()
            self._hurry.wait(_GATHERING)
            self._some.clear()
            self._hurry.clear()
            flushed = [self._flushes.popleft() for _ in range(len(self._flushes))]
            lines = [self._lines.popleft() for _ in range(len(self._lines))]
            for piece in _pieces(lines):
                with suppress(OSError):
                    os.write(self._descriptor, piece)
            for written in flushed:
                written.set()


def _pieces(lines: Iterable[str]) -> Iterator[bytes]:
    """Whole lines together, as many as a pipe takes at once: others may write to it, too (POSIX, write)."""
    piece = b""
    for line in lines:
        more = line.encode(errors="replace")
        if len(piece) + len(more) > PIPE_BUF:
            yield piece
            piece = b""
        piece += more
    yield piece
