import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bridge.events import CallFinished, KeysChanged, RequestRetried, SnapshotReplaced
from bridge.server.audit import Audit


def lines(path: Path) -> list[dict[str, Any]]:
    said = [json.loads(line) for line in path.read_text().splitlines()]
    for line in said:
        assert line.pop("time").endswith("Z")
        assert line.pop("level") == "info"
    return said


@pytest.fixture
def auditing() -> Iterator[Callable[[Path], Audit]]:
    made: list[Audit] = []

    def open_(path: Path) -> Audit:
        made.append(Audit(path))
        return made[-1]

    yield open_
    for audit in made:
        audit.close()


def test_calls_that_may_have_changed_something_and_reloads_are_written(
    tmp_path: Path, auditing: Callable[[Path], Audit]
) -> None:
    path = tmp_path / "audit.jsonl"
    audit = auditing(path)
    audit.hear(CallFinished("get", "ok", 0.1, "shop", 200, method="GET"))
    audit.hear(CallFinished("nosuch", "unknown-tool", 0, None))
    audit.hear(RequestRetried("shop", 1, "timeout", 0.1))
    audit.hear(
        CallFinished(
            "pay", "ok", 0.1234, "shop", 201, caller="ann", request="7", issuer="https://x/", method="POST"
        )
    )
    audit.hear(CallFinished("drop", "timeout", 30, "shop", method="DELETE"))
    event = SnapshotReplaced(("a",), (), ("b",), ("c.yaml:1:1",), visible=True, rerouted=False, seconds=0.1)
    audit.reloaded(event, "old", "new")
    audit.reloaded(event, "new", "new")
    audit.began("new")
    audit.hear(KeysChanged(("bob",), (), (), ("ann",), 1, 0))
    *before, start, keys = lines(path)
    assert start == {"message": "start", "event": "start", "digest": "new"}
    assert {key: keys[key] for key in ("event", "added", "removed", "expired", "counting")} == {
        "event": "keys", "added": ["bob"], "removed": [], "expired": ["ann"], "counting": 1,
    }  # fmt: skip
    assert before == [
        {
            "message": "call",
            "event": "call",
            "tool": "pay",
            "method": "POST",
            "caller": "ann",
            "issuer": "https://x/",
            "upstream": "shop",
            "outcome": "ok",
            "status": 201,
            "ms": 123,
            "id": "7",
        },
        {
            "message": "call",
            "event": "call",
            "tool": "drop",
            "method": "DELETE",
            "upstream": "shop",
            "outcome": "timeout",
            "ms": 30000,
        },
        {
            "message": "reload",
            "event": "reload",
            "before": "old",
            "after": "new",
            "added": ["a"],
            "changed": [],
            "removed": ["b"],
            "broken": ["c.yaml:1:1"],
        },
    ]


def test_a_file_that_was_moved_away_is_made_anew(tmp_path: Path, auditing: Callable[[Path], Audit]) -> None:
    path = tmp_path / "audit.jsonl"
    audit = auditing(path)
    audit.hear(CallFinished("one", "ok", 0, "shop", 200, method="PUT"))
    path.rename(tmp_path / "audit.jsonl.1")
    audit.hear(CallFinished("two", "ok", 0, "shop", 200, method="PUT"))
    assert [line["tool"] for line in lines(path)] == ["two"]


def test_a_line_that_cannot_be_written_is_told_of(
    caplog: pytest.LogCaptureFixture, auditing: Callable[[Path], Audit]
) -> None:
    with caplog.at_level(logging.ERROR):
        auditing(Path("/dev/full")).hear(CallFinished("pay", "ok", 0, "shop", 200, method="PUT"))
    assert caplog.messages == ["audit: a line could not be written to /dev/full: No space left on device"]


def test_a_file_that_cannot_be_made_anew_is_told_of_and_lines_go_on_once_it_can(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, auditing: Callable[[Path], Audit]
) -> None:
    path, paid = tmp_path / "audit.jsonl", CallFinished("pay", "ok", 0, "shop", 200, method="PUT")
    audit = auditing(path)
    path.rename(tmp_path / "elsewhere")
    path.mkdir()
    with caplog.at_level(logging.ERROR):
        audit.hear(paid)
        audit.hear(paid)
    assert caplog.messages == [f"audit: a line could not be written to {path}: Is a directory"] * 2
    path.rmdir()
    audit.hear(paid)
    assert [line["tool"] for line in lines(path)] == ["pay"]
