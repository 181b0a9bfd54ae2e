"""One file of a thousand edited under a running server: until a client knows, and what that costs the server.

A client of restbridge is told. Toolbox tells nobody, so its client lists the tools again and again; what those
lists cost is taken off. It reads all of its files anew, for one folder as for one file with all the tools in it.
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
    """What one came to, in seconds."""

    delay: float
    cpu: float


def main(url: str, folder: Path, *, quick: bool) -> None:
    rounds, times = (1, 3) if quick else (5, 10)
    with (
        served(BRIDGE, url, folder / "restbridge", COUNT) as ours,
        served(FOLDER, url, folder / "toolbox", COUNT) as peer,
        _listening(ours) as hear,
    ):
        both = [
            (
                _told(ours, hear, folder / "restbridge", range(number * times, (number + 1) * times)),
                _seen(peer, folder / "toolbox", number),
            )
            for number in range(rounds)
        ]
    title(f"one file edited among {COUNT}, over HTTP, medians of {rounds} rounds")
    row("", "until known, ms", "CPU ms")
    told, seen = (list(each) for each in zip(*both, strict=True))
    for server, edits in ((ours, told), (peer, seen)):
        figures = _median(edit.delay for edit in edits), _median(edit.cpu for edit in edits)
        row(server.subject.name, *(f"{figure * 1000:.0f}" for figure in figures))
    ratios = _median(a.delay / b.delay for a, b in both), _median(a.cpu / b.cpu for a, b in both)
    row(f"restbridge beside {peer.subject.name}", *(f"{ratio:.3f} x" for ratio in ratios))


def _told(server: Served, hear: Callable[[str], None], folder: Path, editions: range) -> Edit:
    """The median delay of several edits; of CPU their mean, for it is counted in hundredths of a second."""
    delays, pace, before = [], Event(), cpu(server.pid)
    for edition in editions:
        began = _write(folder, edition)
        hear("notifications/tools/list_changed")
        delays.append(time.perf_counter() - began)
        pace.wait(_PACE)
    used = (cpu(server.pid) - before) / len(editions)
    if not _shows(server, editions[-1]):
        raise RuntimeError("restbridge told of a change that it does not show")
    return Edit(statistics.median(delays), used)


def _seen(server: Served, folder: Path, edition: int) -> Edit:
    pace, before, lists = Event(), cpu(server.pid), 1
    began = _write(folder, edition)
    while not _shows(server, edition):
        lists += 1
        if pace.wait(_POLL) or time.perf_counter() - began > 30:
            raise RuntimeError(f"{server.subject.name} does not show the change")
    delay, used = time.perf_counter() - began, cpu(server.pid) - before
    before = cpu(server.pid)
    for _ in range(lists):
        _shows(server, edition)
    return Edit(delay, used - (cpu(server.pid) - before))


def _write(folder: Path, edition: int) -> float:
    """Answers when."""
    path, draft = folder / f"{_TOOL}.yaml", folder / ".draft"
    text = re.sub("List products.*", f"List products, edition {edition}.", path.read_text())
    draft.write_text(text)
    began = time.perf_counter()
    draft.rename(path)
    return began


def _shows(server: Served, edition: int) -> bool:
    listed = server.ask(server.list("handshake"))["tools"]
    return any(tool["description"] == f"List products, edition {edition}." for tool in listed)


def _median(values: Iterable[float]) -> float:
    return statistics.median(values)


@contextmanager
def _listening(server: Served) -> Iterator[Callable[[str], None]]:
    """A client's stream; what it yields waits for the next message of a method."""
    what = modern("subscriptions/listen", {"notifications": {"toolsListChanged": True}})
    with httpx.stream(
        "POST", server.url, headers=dict(what.headers), content=what.with_id(1), timeout=30
    ) as reply:
        lines = reply.raise_for_status().iter_lines()

        def hear(method: str) -> None:
            if not any(f'"{method}"' in line for line in lines):
                raise EOFError(f"the stream ended before {method}")

        hear("notifications/subscriptions/acknowledged")
        yield hear
