import json
import logging
import os
from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest

from bridge.settings import LogFormat
from bridge.telemetry.log_output import FramesOnly, StderrHandler, configure, event


@pytest.fixture(autouse=True)
def _root() -> Iterator[None]:
    """Leaves the root logger as it was."""
    logger = logging.getLogger()
    level, handlers = logger.level, logger.handlers[:]
    yield
    logger.setLevel(level)
    logger.handlers[:] = handlers


def record(text: str, problem: BaseException | None = None) -> logging.LogRecord:
    about = (type(problem), problem, problem.__traceback__) if problem else None
    return logging.LogRecord("bridge", logging.ERROR, "", 0, text, (), about)


def raised(problem: Exception) -> Exception:
    try:
        raise problem
    except type(problem) as caught:
        return caught


def test_an_exception_is_shown_by_its_frames_and_not_by_its_message() -> None:
    group = ExceptionGroup("canary", [raised(KeyError("canary"))])
    group.__cause__ = raised(ValueError("canary"))
    text = FramesOnly("%(message)s").format(record("it failed", raised(group)))
    assert text.startswith("it failed\n")
    assert "canary" not in text
    assert text.count("in raised") == 3
    kinds = [line for line in text.splitlines() if line.startswith("builtins.")]
    assert kinds == ["builtins.ValueError", "builtins.ExceptionGroup", "builtins.KeyError"]


def test_a_record_without_an_exception_shows_none() -> None:
    assert FramesOnly().formatException((None, None, None)) == ""


def test_lines_go_to_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    configure()
    logging.getLogger("bridge.any").info("told: é\ud800")
    logging.getLogger("bridge.any").debug("not told")
    logging.getLogger("httpx").info("https://user:password@example")
    logging.getLogger("mcp.server").warning("a session's id")
    logging.getLogger("uvicorn.access").error("a path")
    logging.getLogger().handlers[0].flush()
    out, err = capfd.readouterr()
    assert out == ""
    assert err.endswith(" INFO told: é?\n")
    assert err.count("\n") == 1


@pytest.mark.parametrize("form", ["text", "json"])
def test_each_line_of_a_worker_names_it(capfd: pytest.CaptureFixture[str], form: LogFormat) -> None:
    configure(form=form, worker="2-1a2b3c")
    logging.getLogger("bridge.any").info("reloaded")
    event("call", {"tool": "x"})
    logging.getLogger().handlers[0].flush()
    lines = capfd.readouterr().err.splitlines()
    if form == "text":
        assert [line.partition(" INFO ")[2] for line in lines] == [
            "reloaded worker=2-1a2b3c",
            "call tool=x worker=2-1a2b3c",
        ]
    else:
        assert [json.loads(line)["worker"] for line in lines] == ["2-1a2b3c"] * 2


def test_json_is_an_object_on_each_line(capfd: pytest.CaptureFixture[str]) -> None:
    configure(form="json")
    logger = logging.getLogger("bridge.any")
    logger.warning("told: %s", "é\ud800\n", extra={"fields": {"line": 4}})
    logger.error("failed", exc_info=raised(ValueError("canary")))
    event("call", {"tool": "x", "ms": 3})
    logging.getLogger().setLevel(logging.ERROR)
    event("call", {"tool": "not told"})
    logging.getLogger().handlers[0].flush()
    _, err = capfd.readouterr()
    told, failed, called = map(json.loads, err.splitlines())
    times = [line.pop("time") for line in (told, failed, called)]
    assert all(datetime.fromisoformat(each).utcoffset() == timedelta(0) for each in times)
    assert told == {"level": "warning", "message": "told: é\ufffd\n", "line": 4}
    assert failed.pop("frames").endswith("builtins.ValueError\n")
    assert failed == {"level": "error", "message": "failed"}
    assert called == {"level": "info", "event": "call", "tool": "x", "ms": 3}
    assert "canary" not in err


def test_an_unread_stderr_blocks_nothing() -> None:
    reading, writing = os.pipe()
    handler = StderrHandler(writing)
    for _ in range(2000):
        handler.handle(record("x" * 1000))
    os.close(reading)
    handler.flush()
    os.close(writing)


def test_lines_of_several_processes_do_not_mix_in_one_pipe() -> None:
    """Such a pipe gives back what was written at once, and tears what is longer than it takes."""
    reading, writing = os.pipe2(os.O_DIRECT | os.O_NONBLOCK)
    handler = StderrHandler(writing)
    for _ in range(400):
        handler.put("x" * 100 + "\n")
    handler.flush()
    pieces = [os.read(reading, 1 << 20)]
    while sum(map(len, pieces)) < 400 * 101:
        pieces.append(os.read(reading, 1 << 20))
    assert all(piece.endswith(b"\n") for piece in pieces)
    os.close(reading)
    os.close(writing)
