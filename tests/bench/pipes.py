"""tools/call over stdio, servers interleaved, with several calls in flight; and the time from start to the first list."""

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
from tests.bench.rounds import Run, Schedule, column_titles, cost, figures, rate, ratio
from tests.bench.subjects import BRIDGE, OPENAPI, PEER, SHARED, TUTORIAL, Subject, is_correct_result
from tests.bench.table import row, title

SUBJECTS: Final = (BRIDGE, PEER, SHARED, OPENAPI, TUTORIAL)
IN_FLIGHT: Final = (1, 16, 64)
_CALL: Final = {"name": "list_products", "arguments": ARGUMENTS}


@dataclass
class StdioServer:
    """A running server and its client; ``id`` is the last JSON-RPC id that was used."""

    subject: Subject
    process: subprocess.Popen[bytes]
    id: int = 0

    def request(self, request: Message) -> Any:
        """The result of one request; skips notifications. Raises ``RuntimeError`` for an error."""
        self.id += 1
        self.send(request.with_id(self.id))
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

    def under_load(self, request: Message, in_flight: int, seconds: float) -> Load:
        """Keeps ``in_flight`` calls running for this many seconds: each completed call is followed by the next."""
        sent: dict[int, float] = {}
        latencies: list[float] = []

        def call() -> None:
            self.id += 1
            sent[self.id] = time.perf_counter()
            self.send(request.with_id(self.id))

        started = time.perf_counter()
        for _ in range(in_flight):
            call()
        while sent:
            answer = json.loads(self.line())
            now = time.perf_counter()
            if answer.get("id") in sent:
                result(self.subject.name, json.dumps(answer), answer["id"])
                latencies.append(now - sent.pop(answer["id"]))
                if now - started < seconds:
                    call()
        elapsed = time.perf_counter() - started
        ordered = sorted(latencies)
        return Load(
            len(latencies), elapsed, *(ordered[int(len(latencies) * part)] * 1000 for part in (0.5, 0.99))
        )


@contextmanager
def _running(subject: Subject, url: str, folder: Path) -> Iterator[StdioServer]:
    folder.mkdir()
    command = subject.command(folder, None, url, 1)
    with (
        (folder.parent / f"{folder.name}.log").open("wb") as log,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log) as process,
    ):
        try:
            yield StdioServer(subject, process)
        finally:
            process.terminate()


def _initialized(server: StdioServer) -> StdioServer:
    server.request(initialize())
    server.send(READY)
    return server


def main(url: str, folder: Path, *, quick: bool) -> None:
    schedule = Schedule.of(quick=quick)
    _starts(url, folder, schedule)
    _calls(url, folder, schedule)


def _starts(url: str, folder: Path, schedule: Schedule) -> None:
    """The time from the start of the process to its first list."""
    samples: dict[Subject, list[tuple[float, float]]] = defaultdict(list)
    for number in range(schedule.rounds):
        for subject in SUBJECTS:
            started = time.perf_counter()
            with _running(subject, url, folder / f"start {subject.name} {number}") as server:
                _initialized(server).request(message("tools/list", {}, {}))
                samples[subject].append((time.perf_counter() - started, cpu(server.process.pid)))
    title(f"from start to the first list over stdio, medians of {schedule.rounds}")
    row("", "s", "s of CPU")
    for subject, each in samples.items():
        row(subject.name, *(f"{statistics.median(part):.2f}" for part in zip(*each, strict=True)))


def _calls(url: str, folder: Path, schedule: Schedule) -> None:
    runs: dict[tuple[Subject, Era, int], list[Run]] = defaultdict(list)
    idle_memory: dict[Subject, float] = {}
    with ExitStack() as stack:
        variants: list[tuple[StdioServer, Era, Message]] = []
        for subject in SUBJECTS:
            for era in subject.eras:
                server = stack.enter_context(_running(subject, url, folder / f"{subject.name} {era}"))
                request = modern("tools/call", _CALL) if era == "modern" else message("tools/call", _CALL, {})
                if era == "handshake":
                    _initialized(server)
                if not is_correct_result(answer := server.request(request)):
                    raise RuntimeError(f"{subject.name} returns a wrong result: {json.dumps(answer)[:300]}")
                idle_memory[subject] = memory(server.process.pid)
                variants.append((server, era, request))
        for _ in range(schedule.rounds):
            for number in IN_FLIGHT:
                for server, era, request in variants:
                    before = cpu(server.process.pid)
                    load = server.under_load(request, number, schedule.seconds)
                    runs[server.subject, era, number].append(Run(load, cpu(server.process.pid) - before))
    title(f"tools/call over stdio, {schedule}")
    row("", *column_titles(IN_FLIGHT), "MB")
    for server, era, _ in variants:
        each = [runs[server.subject, era, number] for number in IN_FLIGHT]
        row(f"{server.subject.name}, {era}", *figures(each), f"{idle_memory[server.subject]:.0f}")
    for server, era, _ in variants[len(BRIDGE.eras) :]:
        pair = runs[BRIDGE, "handshake", 16], runs[server.subject, era, 16]
        cells = f"{ratio(rate, *pair):.2f} x", f"{ratio(cost, *pair):.3f} x"
        row(f"restbridge, handshake compared with {server.subject.name}, {era}, at 16", *cells)
