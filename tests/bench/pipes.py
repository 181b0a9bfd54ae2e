"""tools/call over stdio, subjects in turns: each a process of its own, spoken to in lines, so many calls in flight."""

import json
import statistics
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.bench.load import Load
from tests.bench.messages import ARGUMENTS, READY, Era, Message, initialize, message, modern, result
from tests.bench.processes import cpu, memory
from tests.bench.rounds import Pace, Run, cost, figures, heads, rate, ratio
from tests.bench.subjects import BRIDGE, OPENAPI, PEER, SHARED, TUTORIAL, Subject, is_right
from tests.bench.table import row, title

SUBJECTS: Final = (BRIDGE, PEER, SHARED, OPENAPI, TUTORIAL)
IN_FLIGHT: Final = (1, 16, 64)
_CALL: Final = {"name": "list_products", "arguments": ARGUMENTS}


@dataclass
class Spoken:
    """A subject at the other end of two pipes; ``id`` is the last one that was used."""

    subject: Subject
    process: subprocess.Popen[bytes]
    id: int = 0

    def ask(self, what: Message) -> Any:
        """The result of one request, past notifications; raises ``RuntimeError`` for an error."""
        self.id += 1
        self.send(what.with_id(self.id))
        while (answer := json.loads(self.line())).get("id") != self.id:
            pass
        return result(self.subject.name, json.dumps(answer), self.id)

    def send(self, line: bytes) -> None:
        assert self.process.stdin
        self.process.stdin.write(line + b"\n")
        self.process.stdin.flush()

    def line(self) -> bytes:
        assert self.process.stdout
        return self.process.stdout.readline()

    def under_load(self, what: Message, in_flight: int, seconds: float) -> Load:
        """As many calls as come to their end, each followed by the next."""
        sent: dict[int, float] = {}
        took: list[float] = []

        def call() -> None:
            self.id += 1
            sent[self.id] = time.perf_counter()
            self.send(what.with_id(self.id))

        began = time.perf_counter()
        for _ in range(in_flight):
            call()
        while sent:
            answer = json.loads(self.line())
            now = time.perf_counter()
            if answer.get("id") in sent:
                result(self.subject.name, json.dumps(answer), answer["id"])
                took.append(now - sent.pop(answer["id"]))
                if now - began < seconds:
                    call()
        spent = time.perf_counter() - began
        ordered = sorted(took)
        return Load(len(took), spent, *(ordered[int(len(took) * part)] * 1000 for part in (0.5, 0.99)))


@contextmanager
def _spoken(subject: Subject, url: str, folder: Path) -> Iterator[Spoken]:
    folder.mkdir()
    command = subject.command(folder, None, url, 1)
    with (
        (folder.parent / f"{folder.name}.log").open("wb") as log,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log) as process,
    ):
        try:
            yield Spoken(subject, process)
        finally:
            process.terminate()


def _opened(spoken: Spoken) -> Spoken:
    spoken.ask(initialize())
    spoken.send(READY)
    return spoken


def main(url: str, folder: Path, *, quick: bool) -> None:
    pace = Pace.of(quick=quick)
    _starts(url, folder, pace)
    _calls(url, folder, pace)


def _starts(url: str, folder: Path, pace: Pace) -> None:
    """Until the first list is there, as of a client that starts a process for it."""
    took: dict[Subject, list[tuple[float, float]]] = defaultdict(list)
    for number in range(pace.rounds):
        for subject in SUBJECTS:
            began = time.perf_counter()
            with _spoken(subject, url, folder / f"start {subject.name} {number}") as spoken:
                _opened(spoken).ask(message("tools/list", {}, {}))
                took[subject].append((time.perf_counter() - began, cpu(spoken.process.pid)))
    title(f"from start to the first list over stdio, medians of {pace.rounds}")
    row("", "s", "s of CPU")
    for subject, each in took.items():
        row(subject.name, *(f"{statistics.median(part):.2f}" for part in zip(*each, strict=True)))


def _calls(url: str, folder: Path, pace: Pace) -> None:
    runs: dict[tuple[Subject, Era, int], list[Run]] = defaultdict(list)
    resting: dict[Subject, float] = {}
    with ExitStack() as stack:
        lanes: list[tuple[Spoken, Era, Message]] = []
        for subject in SUBJECTS:
            for era in subject.eras:
                spoken = stack.enter_context(_spoken(subject, url, folder / f"{subject.name} {era}"))
                what = modern("tools/call", _CALL) if era == "modern" else message("tools/call", _CALL, {})
                if era == "handshake":
                    _opened(spoken)
                if not is_right(said := spoken.ask(what)):
                    raise RuntimeError(f"{subject.name} answers wrongly: {json.dumps(said)[:300]}")
                resting[subject] = memory(spoken.process.pid)
                lanes.append((spoken, era, what))
        for _ in range(pace.rounds):
            for number in IN_FLIGHT:
                for spoken, era, what in lanes:
                    before = cpu(spoken.process.pid)
                    load = spoken.under_load(what, number, pace.seconds)
                    runs[spoken.subject, era, number].append(Run(load, cpu(spoken.process.pid) - before))
    title(f"tools/call over stdio, {pace}")
    row("", *heads(IN_FLIGHT), "MB")
    for spoken, era, _ in lanes:
        each = [runs[spoken.subject, era, number] for number in IN_FLIGHT]
        row(f"{spoken.subject.name}, {era}", *figures(each), f"{resting[spoken.subject]:.0f}")
    for spoken, era, _ in lanes[len(BRIDGE.eras) :]:
        pair = runs[BRIDGE, "handshake", 16], runs[spoken.subject, era, 16]
        told = f"{ratio(rate, *pair):.2f} x", f"{ratio(cost, *pair):.3f} x"
        row(f"restbridge, handshake beside {spoken.subject.name}, {era}, at 16", *told)
