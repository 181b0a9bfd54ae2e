"""One of a thousand tool files is edited under a running server: the delay until a client sees it, and the server's CPU.

A client of restbridge gets a notification. Toolbox sends none, so its client polls tools/list; the CPU of those lists
is subtracted. On a change Toolbox reads all its files again, whether the tools are in one file or in one file each.
"""

import re
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Final, NamedTuple

import httpx

from tests.bench.messages import modern
from tests.bench.processes import cpu
from tests.bench.subjects import BRIDGE, FOLDER, Served, served
from tests.bench.table import row, title

COUNT: Final = 1000
_TOOL: Final = "tool_00500"
_POLL: Final = 0.05
_PACE: Final = 0.3
"""Seconds between edits: at most four notifications a second are sent."""


class Edit(NamedTuple):
    """The cost of one edit, in seconds."""

    delay: float
    cpu: float


def main(url: str, folder: Path, *, quick: bool) -> None:
    rounds, times = (1, 3) if quick else (5, 10)
    with (
        served(BRIDGE, url, folder / "restbridge", COUNT) as ours,
        served(FOLDER, url, folder / "toolbox", COUNT) as peer,
        _listening(ours) as wait_for,
    ):
        edits = [
            (
                _edit_with_notification(
                    ours, wait_for, folder / "restbridge", range(number * times, (number + 1) * times)
                ),
                _edit_with_polling(peer, folder / "toolbox", number),
            )
            for number in range(rounds)
        ]
    title(f"one file edited among {COUNT}, over HTTP, medians of {rounds} rounds")
    row("", "until known, ms", "CPU ms")
    notified, polled = (list(each) for each in zip(*edits, strict=True))
    for server, each_edit in ((ours, notified), (peer, polled)):
        figures = _median(edit.delay for edit in each_edit), _median(edit.cpu for edit in each_edit)
        row(server.subject.name, *(f"{figure * 1000:.0f}" for figure in figures))
    ratios = _median(a.delay / b.delay for a, b in edits), _median(a.cpu / b.cpu for a, b in edits)
    row(f"restbridge compared with {peer.subject.name}", *(f"{ratio:.3f} x" for ratio in ratios))


def _edit_with_notification(
    server: Served, wait_for: Callable[[str], None], folder: Path, versions: range
) -> Edit:
    """The median delay of several edits, and the mean of their CPU, because /proc counts it in hundredths of a second."""
    delays, pace, before = [], Event(), cpu(server.pid)
    for version in versions:
        started = _write(folder, version)
        wait_for("notifications/tools/list_changed")
        delays.append(time.perf_counter() - started)
        pace.wait(_PACE)
    cpu_used = (cpu(server.pid) - before) / len(versions)
    if not _lists_version(server, versions[-1]):
        raise RuntimeError("restbridge announced a change that it does not list")
    return Edit(statistics.median(delays), cpu_used)


def _edit_with_polling(server: Served, folder: Path, version: int) -> Edit:
    pace, before, lists = Event(), cpu(server.pid), 1
    started = _write(folder, version)
    while not _lists_version(server, version):
        lists += 1
        if pace.wait(_POLL) or time.perf_counter() - started > 30:
            raise RuntimeError(f"{server.subject.name} does not show the change")
    delay, cpu_used = time.perf_counter() - started, cpu(server.pid) - before
    before = cpu(server.pid)
    for _ in range(lists):
        _lists_version(server, version)
    return Edit(delay, cpu_used - (cpu(server.pid) - before))


def _write(folder: Path, version: int) -> float:
    """Edits the file; returns the time of the rename."""
    path, draft = folder / f"{_TOOL}.yaml", folder / ".draft"
    text = re.sub("List products.*", f"List products, version {version}.", path.read_text())
    draft.write_text(text)
    started = time.perf_counter()
    draft.rename(path)
    return started


def _lists_version(server: Served, version: int) -> bool:
    listed = server.ask(server.list("handshake"))["tools"]
    return any(tool["description"] == f"List products, version {version}." for tool in listed)


def _median(values: Iterable[float]) -> float:
    return statistics.median(values)


@contextmanager
def _listening(server: Served) -> Iterator[Callable[[str], None]]:
    """Opens a subscriptions/listen stream; the yielded function waits for the next message with a method."""
    subscription = modern("subscriptions/listen", {"notifications": {"toolsListChanged": True}})
    with httpx.stream(
        "POST", server.url, headers=dict(subscription.headers), content=subscription.with_id(1), timeout=30
    ) as reply:
        lines = reply.raise_for_status().iter_lines()

        def wait_for(method: str) -> None:
            if not any(f'"{method}"' in line for line in lines):
                raise EOFError(f"the stream ended before {method}")

        wait_for("notifications/subscriptions/acknowledged")
        yield wait_for
