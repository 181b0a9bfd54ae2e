"""SECURITY.md and the security model: each promise names what holds it, each limit has the value that the code has."""

import re
from pathlib import Path
from typing import Final

import pytest

from bridge import codec, exchange, settings, spec
from bridge.access import incoming_bytes
from bridge.http import connection, handshakes, large_bodies, request_head
from bridge.protocol import jsonrpc, request_id
from bridge.redaction import MIN_SECRET_CHARACTERS
from bridge.telemetry import audit
from bridge.tool.projection import projection
from bridge.tool.result import blocks
from bridge.tool.schema import arguments
from bridge.toolfiles import place
from bridge.toolfiles.text import document
from bridge.toolfiles.watch import scan
from bridge.upstream import retry
from bridge.upstream import slots as upstream_limits
from bridge.upstream.http import reply_reader

ROOT: Final = Path(__file__).parents[1]
TEXTS: Final = ("SECURITY.md", "docs/concepts/security-model.md")
_TABLE: Final = re.compile(r"^\| [^|]+ \| Held by \|\n\|[-|]+\|\n((?:\|.*\|\n)+)", re.MULTILINE)
_TEST: Final = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
_KIT: Final = re.compile(r"kit `(\w+)`")
_KIB: Final = 1024
_MIB: Final = 1024**2
_CELL: Final = re.compile(rf"(?:{_TEST.pattern}|{_KIT.pattern})(?:, (?:{_TEST.pattern}|{_KIT.pattern}))*")


def promises(name: str) -> list[tuple[str, str]]:
    """Each promise of a text, and the cell that names what holds it."""
    tables = _TABLE.findall((ROOT / name).read_text("utf-8"))
    rows = [line for table in tables for line in table.splitlines()]
    cells = [re.split(r"(?<!\\) \| ", row[2:-2]) for row in rows]
    return [(promise, held_by) for promise, held_by in cells]


ALL: Final = [(name, *each) for name in TEXTS for each in promises(name)]


@pytest.mark.parametrize("name", TEXTS)
def test_each_text_makes_promises(name: str) -> None:
    assert len(promises(name)) >= 10


@pytest.mark.parametrize(("name", "promise", "held_by"), ALL)
def test_each_promise_names_a_test_or_a_kit_that_is_there(name: str, promise: str, held_by: str) -> None:
    assert _CELL.fullmatch(held_by), f"{name}: found {held_by!r} next to {promise!r}"
    for path, test in _TEST.findall(held_by):
        assert re.search(rf"^(?:async )?def {test}\(", (ROOT / path).read_text("utf-8"), re.MULTILINE), test
    for kit in _KIT.findall(held_by):
        assert (ROOT / f"tests/kits/{kit}.py").exists(), kit


def limits() -> dict[str, str]:
    """The limits as the code has them; the words are those of the security model."""
    each, in_all = settings.PerCallerLimits(), settings.TotalLimits()
    most, retries, calls = spec.Maximum(), spec.Retries(), spec.Limits()
    timeouts = connection.Timeouts()
    reply, result = spec.UpstreamSpec.model_fields["max_bytes"].default, spec.ResponseSpec().max_bytes
    lifetime = settings.Issuer.model_fields["max_lifetime"].default
    assert each.rate is in_all.rate is None
    assert each.results
    assert in_all.results
    return {
        "Head of a request": f"{connection._MAX_HEAD_BYTES // _KIB} KiB; {timeouts.head:g} s",
        "Target of a request": f"{request_head.MAX_TARGET_BYTES // _KIB} KiB",
        "Whole request": f"{timeouts.body:g} s",
        "TLS handshake": f"{handshakes.HANDSHAKE_SECONDS:g} s",
        "A connection without a request": f"{timeouts.first_request:g} s",
        "Reading a response, from the first byte that has to wait": f"{timeouts.response:g} s",
        "Body of a request": f"{settings.Limits().body // _MIB} MiB; "
        f"more than {jsonrpc.MAX_OTHER_BYTES // _KIB} KiB for `tools/call` only",
        "A message apart from the arguments of a call": f"{jsonrpc._MAX_OTHER_VALUES} values, "
        f"{jsonrpc.MAX_OTHER_BYTES:_} characters, integers of {request_id.MAX_BITS} bits".replace("_", " "),
        "Id of a request": f"{request_id.MAX_LENGTH} characters, {request_id.MAX_BITS} bits",
        "Bodies on their way of a caller with a name; of all clients": f"{incoming_bytes.MAX_BYTES_PER_CALLER // _MIB} MiB; "
        f"{incoming_bytes.MAX_BYTES // _MIB} MiB",
        "Bodies of large calls of a caller with a name, until they end; of all callers": f"{large_bodies.MAX_BYTES_PER_CALLER // _MIB} MiB; {large_bodies.MAX_BYTES // _MIB} MiB",
        "Arguments of a call": f"{arguments.MAX_BYTES // _MIB} MiB, {arguments.MAX_DEPTH} levels",
        "Calls, streams, unread results of a caller with a name": f"{each.calls}, {each.streams}, "
        f"{each.results // _MIB} MiB",
        "The same of all callers": f"{in_all.calls}, {in_all.streams}, {in_all.results // _MIB} MiB",
        "Requests in a minute": "No limit",
        "Calls of one API at a time; waiting": f"{calls.concurrency}; {calls.queue:g} s, "
        f"at most {upstream_limits.MAX_WAITING_CALLS} calls",
        "Deadline of a call": f"{spec.Timeout().total:g} s; for tools at most {most.timeout / 60:g} min",
        "Reply as it is read": f"{reply // _MIB} MiB; for tools at most {most.max_bytes // _MIB} MiB",
        "Arrays and objects in the JSON of a reply": f"{codec.FREE_CONTAINERS:_}; "
        f"in more than {codec.FREE_CONTAINERS * codec.BYTES_PER_CONTAINER // _MIB} MiB "
        f"one for {codec.BYTES_PER_CONTAINER} bytes".replace("_", " "),
        "Result for a model": f"{result // 1000} kB; for tools at most {most.result_bytes // _MIB} MiB",
        "Media type of a reply": f"{exchange.MAX_MEDIA_TYPE_LENGTH} characters",
        "MCP content blocks that an API writes": f"{blocks.MAX_BLOCKS}; "
        "all but the `data` of pictures and sound counts as result",
        "What is no content of a reply (headers, chunk sizes, trailers)": f"{reply_reader._MAX_FRAMING_BYTES // _KIB} KiB "
        "and a quarter of the content",
        "Retries": f"{retries.max}; for tools at most {most.retries}; "
        f"one retry for every {['', 'one', 'two', 'three', 'four', 'five'][round(1 / retry._BUDGET_PER_REQUEST)]} requests on average",
        "Expression of a projection": f"{projection.MAX_CHARACTERS // _KIB} KiB, {projection.MAX_STEPS:_} steps".replace(
            "_", " "
        ),
        "Tool and upstream files": f"{document.MAX_BYTES // _KIB} KiB each; {place.Directories(()).max_entries:_} in a directory; "
        f"{scan.MAX_FOLDER_DEPTH} folders deep".replace("_", " "),
        "Secrets that are redacted": f"From {MIN_SECRET_CHARACTERS} characters on",
        "Lifetime of a token": f"{lifetime / 3600:g} h",
        "Wait for a line of the audit": f"{audit.MAX_WAIT_SECONDS:g} s",
    }


def test_each_limit_is_the_one_of_the_code() -> None:
    section = (ROOT / TEXTS[1]).read_text("utf-8").partition("\n## Limits\n")[2].partition("\n## ")[0]
    rows = [
        re.split(r" \|(?: |$)", line[2:-1].rstrip())
        for line in section.partition("|---|---|---|\n")[2].strip().splitlines()
    ]
    assert {row[0]: row[1] for row in rows} == limits()
