import json
import logging
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event as ThreadEvent
from typing import Any

import pytest

from bridge.errors import NotSent
from bridge.events import (
    AuditWritten,
    CallFinished,
    CallStarted,
    Event,
    KeysChanged,
    RequestRetried,
    SnapshotReplaced,
)
from bridge.telemetry.audit import Audit

ROOT = Path(__file__).parents[2]
STARTED = CallStarted("pay", "POST", "shop", "c1", caller="ann", request="7", issuer="https://x/", trace="t")
PAID = CallFinished("pay", "ok", 0, "shop", 200, method="PUT")


def lines(path: Path) -> list[dict[str, Any]]:
    said = [json.loads(line) for line in path.read_text().splitlines()]
    for line in said:
        assert line.pop("time").endswith("Z")
        assert line.pop("level") == "info"
        assert line.pop("message") == line["event"]
    return said


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


@pytest.fixture
def auditing(path: Path) -> Iterator[Callable[..., Audit]]:
    opened: list[Audit] = []

    def open_(**options: Any) -> Audit:
        opened.append(Audit(path, **options))
        return opened[-1]

    yield open_
    for audit in opened:
        audit.close()


def test_a_call_that_may_change_something_has_a_line_before_and_after(
    path: Path, auditing: Callable[..., Audit]
) -> None:
    audit = auditing()
    audit.on_event(STARTED)
    started = {
        "event": "call-started", "call": "c1", "tool": "pay", "method": "POST", "caller": "ann",
        "issuer": "https://x/", "upstream": "shop", "id": "7", "trace": "t",
    }  # fmt: skip
    assert lines(path) == [started]
    audit.on_event(
        CallFinished(
            "pay", "ok", 0.1234, "shop", 201, caller="ann", request="7", issuer="https://x/", method="POST",
            trace="t", call="c1",
        )
    )  # fmt: skip
    assert lines(path)[1:] == [started | {"event": "call", "outcome": "ok", "status": 201, "ms": 123}]


def test_safe_calls_have_no_line_and_a_refused_call_has_one(
    path: Path, auditing: Callable[..., Audit]
) -> None:
    audit = auditing()
    audit.on_event(CallFinished("get", "ok", 0.1, "shop", 200, method="GET"))
    audit.on_event(CallFinished("nosuch", "unknown-tool", 0, None))
    audit.on_event(RequestRetried("shop", 1, "timeout", 0.1))
    audit.on_event(CallFinished("drop", "invalid-arguments", 0, "shop", method="DELETE"))
    assert lines(path) == [
        {"event": "call", "tool": "drop", "method": "DELETE", "upstream": "shop", "outcome": "invalid-arguments", "ms": 0}
    ]  # fmt: skip


def test_without_a_digest_starts_and_reloads_have_no_line(path: Path, auditing: Callable[..., Audit]) -> None:
    audit = auditing()
    audit.record_start()
    audit.on_event(SnapshotReplaced(("a",), (), (), (), visible=True, rerouted=False, seconds=0.1))
    assert lines(path) == []


def test_starts_reloads_and_key_changes_are_written(path: Path, auditing: Callable[..., Audit]) -> None:
    digests = ["new", "new", "old"]
    audit = auditing(fields={"by": "a test"}, digest=digests.pop)
    audit.record_start()
    event = SnapshotReplaced(("a",), (), ("b",), ("c.yaml:1:1",), visible=True, rerouted=False, seconds=0.1)
    audit.on_event(event)
    audit.on_event(event)
    audit.on_event(KeysChanged(("bob",), (), (), ("ann",), 1, 0))
    start, reload, keys = lines(path)
    assert start == {"event": "start", "by": "a test", "digest": "old"}
    assert reload == {
        "event": "reload", "by": "a test", "before": "old", "after": "new", "added": ["a"], "changed": [],
        "removed": ["b"], "broken": ["c.yaml:1:1"],
    }  # fmt: skip
    assert {key: keys[key] for key in ("event", "added", "removed", "expired", "valid_keys")} == {
        "event": "keys", "added": ["bob"], "removed": [], "expired": ["ann"], "valid_keys": 1,
    }  # fmt: skip


def test_a_new_file_is_private_and_an_existing_one_keeps_its_mode(
    path: Path, auditing: Callable[..., Audit]
) -> None:
    assert auditing().mode == 0o600
    path.chmod(0o640)
    assert auditing().mode == 0o640
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_rotated_file_is_created_again(path: Path, auditing: Callable[..., Audit]) -> None:
    audit = auditing()
    audit.on_event(PAID)
    path.rename(path.with_suffix(".1"))
    audit.on_event(PAID._replace(tool="two"))
    path.rename(path.with_suffix(".2"))
    path.touch()
    audit.on_event(PAID._replace(tool="three"))
    assert [line["tool"] for line in lines(path.with_suffix(".2")) + lines(path)] == ["two", "three"]


def _link(path: Path) -> None:
    path.symlink_to("elsewhere")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_link, "it is a symbolic link"),
        (os.mkfifo, "it is not a regular file"),
        (Path.mkdir, "Is a directory"),
    ],
)
def test_only_a_regular_file_is_opened(
    path: Path, auditing: Callable[..., Audit], make: Callable[[Path], None], reason: str
) -> None:
    make(path)
    with pytest.raises(OSError) as refused:  # noqa: PT011 - the reason is in strerror
        auditing()
    assert refused.value.strerror == reason


def test_a_fifo_with_a_reader_is_refused_too(path: Path, auditing: Callable[..., Audit]) -> None:
    os.mkfifo(path)
    reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(OSError) as refused:  # noqa: PT011 - the reason is in strerror
        auditing()
    os.close(reading)
    assert refused.value.strerror == "it is not a regular file"


def test_lost_lines_are_counted_and_logged_at_a_bounded_rate(
    path: Path, auditing: Callable[..., Audit], caplog: pytest.LogCaptureFixture
) -> None:
    events: list[Event] = []
    now = [0.0]
    audit = auditing(emit=events.append, clock=lambda: now[0])
    path.rename(path.with_suffix(".1"))
    path.mkdir()
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            audit.on_event(STARTED)
        now[0] = 10.0
        audit.on_event(STARTED)
    assert caplog.messages == [
        f"audit: a line was not written to {path}: Is a directory",
        f"audit: 3 lines were not written to {path}: Is a directory",
    ]
    path.rmdir()
    audit.on_event(PAID)
    audit.on_event(PAID)
    assert events == [AuditWritten("Is a directory")] * 4 + [AuditWritten(None)]
    assert len(lines(path)) == 2


def test_a_call_that_must_be_recorded_is_refused_if_its_first_line_is_lost(
    path: Path, auditing: Callable[..., Audit]
) -> None:
    audit = auditing(required=True)
    audit.on_event(STARTED)
    path.rename(path.with_suffix(".1"))
    path.mkdir()
    with pytest.raises(NotSent, match="audit file cannot be written") as refused:
        audit.on_event(STARTED)
    assert refused.value.code == "audit-failed"
    audit.on_event(PAID)  # this call was made: it can no longer be refused
    path.rmdir()
    audit.on_event(STARTED)
    assert [line["event"] for line in lines(path.with_suffix(".1")) + lines(path)] == ["call-started"] * 2


def test_a_hanging_write_delays_only_one_call(path: Path, auditing: Callable[..., Audit]) -> None:
    answers, events = ThreadEvent(), list[Event]()

    def write(descriptor: int, line: bytes) -> int:
        answers.wait()
        return os.write(descriptor, line)

    audit = auditing(emit=events.append, write=write, max_wait=0.05)
    for _ in range(3):
        audit.on_event(STARTED)
    assert [event.failure for event in events if isinstance(event, AuditWritten)] == (
        ["a write took more than 0.05 s"] * 3
    )
    answers.set()
    while events[-1] != AuditWritten(None):
        audit.on_event(PAID)
    events_written = [line["event"] for line in lines(path)]
    assert events_written[0] == "call-started"  # the one that hung
    assert set(events_written[1:]) == {"call"}


def test_a_full_disk_breaks_no_other_line(path: Path, auditing: Callable[..., Audit]) -> None:
    audit = auditing()
    audit.on_event(STARTED)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, before[1]))
    try:
        audit.on_event(STARTED)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    audit.on_event(PAID)
    first, torn, last = path.read_text().splitlines()
    assert json.loads(first)["event"] == "call-started"
    assert len(torn) == 10
    assert json.loads(last)["event"] == "call"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("jq") is None, reason="needs jq")
def test_the_readme_finds_calls_without_an_end(path: Path, auditing: Callable[..., Audit]) -> None:
    readme = (ROOT / "docs/guides/audit.md").read_text()
    command = next(line for line in readme.splitlines() if line.startswith("jq ") and "call-started" in line)
    audit = auditing(digest=lambda: "x")
    audit.record_start()
    audit.on_event(STARTED)
    with path.open("a") as file:
        file.write("torn {\n")
    audit.on_event(STARTED._replace(call="c2"))
    audit.on_event(PAID._replace(call="c1"))
    audit.on_event(PAID)
    found = subprocess.run(
        ["bash", "-c", command], cwd=path.parent, check=True, capture_output=True, text=True
    ).stdout
    assert [json.loads(line)["call"] for line in found.splitlines()] == ["c2"]
