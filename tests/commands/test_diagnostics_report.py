import logging
from io import StringIO
from typing import Literal

import click
import pytest

from bridge.app.admin import MAX_LISTED_PROBLEMS, listed
from bridge.app.reload_log import MAX_LOGGED, ReloadReporter
from bridge.commands import diagnostics_report
from bridge.diagnostics import Diagnostic, Mark, as_json
from bridge.events import (
    AuditWritten,
    CallFinished,
    CallStarted,
    CircuitChanged,
    Event,
    RequestRetried,
    SnapshotReplaced,
    TokenRequested,
)
from bridge.secrets import Sources
from bridge.telemetry.log_events import EventLog, log_event
from bridge.toolfiles.loaded import Loaded
from bridge.toolfiles.loader import load
from bridge.toolfiles.place import Directories, Place
from bridge.wording import count

WRONG = Diagnostic(
    "tools.d/a.yaml",
    Mark(4, 7),
    "error",
    "{idd} names no argument; did you mean {id}?",
    "unknown-argument",
    '  url: "/x/{idd}"',
)
ODD = Diagnostic("a,b:c%.yaml", Mark(1, 1), "warning", "50 %\nof it", "odd", None)


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def printed(out: StringIO, *found: Diagnostic, format_: Literal["text", "github"] = "text") -> str:
    diagnostics_report.write(found, format_, out)
    return out.getvalue()


def test_without_a_terminal_a_diagnostic_is_one_line() -> None:
    assert printed(StringIO(), WRONG) == f"{WRONG}\n"


def test_a_terminal_shows_the_line_with_a_caret_in_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    out = printed(Terminal(), WRONG)
    assert "\x1b[31m" in out
    assert click.unstyle(out).splitlines() == [str(WRONG), '    url: "/x/{idd}"', "        ^"]


def test_a_source_line_that_may_hold_a_secret_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert click.unstyle(printed(Terminal(), ODD)) == f"{ODD}\n"


def test_no_color_turns_colour_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert printed(Terminal(), WRONG) == f"{WRONG}\n"


def test_github_gets_its_workflow_commands_escaped() -> None:
    out = printed(StringIO(), WRONG, ODD, format_="github")
    assert out == (
        f"::error file=tools.d/a.yaml,line=4,col=7,title=unknown-argument::{WRONG.message}\n"
        "::warning file=a%2Cb%3Ac%25.yaml,line=1,col=1,title=odd::50 %25\\nof it\n"
    )


def test_a_diagnostic_as_json_has_the_same_content() -> None:
    assert as_json(ODD) == {
        "path": "a,b:c%.yaml",
        "line": 1,
        "column": 1,
        "severity": "warning",
        "code": "odd",
        "message": "50 %\\nof it",
    }


def test_the_status_lists_a_limited_number_of_problems() -> None:
    assert listed([ODD]) == {
        "problems": [as_json(ODD)],
        "problemsNotListed": 0,
    }
    many = listed([ODD] * (MAX_LISTED_PROBLEMS + 7))
    assert (len(many["problems"]), many["problemsNotListed"]) == (MAX_LISTED_PROBLEMS, 7)


def test_a_reload_logs_a_limited_number_of_problems(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    places = [Place(0, f"{number}.yaml", "tools.d") for number in range(MAX_LOGGED + 3)]
    event = SnapshotReplaced((), (), (), (), visible=False, rerouted=False, seconds=0)
    last = Loaded()
    reporter = ReloadReporter(lambda: last, {})
    for text in (b"description: A.\nrequest: {method: GET, url: http://localhost:1/x}\n", b"a: !x [.inf]\n"):
        last = load(Directories(("tools.d",)), dict.fromkeys(places, text), Sources({}), last)
        reporter.on_event(event)
        reporter.on_event(event)
    lines = [line for line in caplog.messages if not line.startswith("reload:")]
    assert len(lines) == 2 * MAX_LOGGED + 2
    assert lines[MAX_LOGGED] == "106 more problems are not logged; run restbridge check to see them"
    assert lines[-1] == "3 more files: their last good versions are still served"


@pytest.mark.parametrize(("number", "text"), [(0, "no tools"), (1, "1 tool"), (2, "2 tools")])
def test_a_count_reads_as_english(number: int, text: str) -> None:
    assert count(number, "tool") == text


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (
            CallFinished(tool="get_order", outcome="ok", seconds=0.0123, upstream="shop", status=200),
            "call tool=get_order upstream=shop outcome=ok status=200 ms=12",
        ),
        (
            CallFinished(tool="get_order", outcome="ok", seconds=0, upstream="shop", status=200, empty=True),
            "call tool=get_order upstream=shop outcome=ok status=200 empty=true ms=0",
        ),
        (
            CallFinished("get_order", "unknown-tool", 0, None, caller="ann", request="r-7"),
            "call tool=get_order caller=ann outcome=unknown-tool ms=0 id=r-7",
        ),
        (
            CallFinished("pay", "ok", 0, "shop", 201, caller="x\nINFO call tool=y", issuer="https://x/"),
            'call tool=pay caller="x\\nINFO call tool=y" issuer=https://x/ upstream=shop outcome=ok status=201 ms=0',
        ),
        (
            CallFinished(tool="get_order", outcome="not-reached", seconds=5, upstream="shop"),
            "call tool=get_order upstream=shop outcome=not-reached ms=5000",
        ),
        (
            RequestRetried(upstream="shop", attempt=1, reason="refused", wait=0.2),
            "retry upstream=shop attempt=1 reason=refused wait_ms=200",
        ),
        (
            CircuitChanged("shop", is_open=True, failures=5),
            "circuit upstream=shop state=open failures=5",
        ),
        (TokenRequested("shop", "ok", 0.1), "token upstream=shop outcome=ok ms=100"),
        (
            TokenRequested("shop", "token-refused", 0.1, "invalid_scope", "no\nscope " + "x" * 400),
            f'token upstream=shop outcome=token-refused error=invalid_scope error_description="no\\nscope {"x" * 291}"… ms=100',
        ),
        (
            SnapshotReplaced(
                ("a", "b"), ("c",), (), ("tools.d/d.yaml:14:7",), visible=True, rerouted=False, seconds=0.012
            ),
            "reload: +2 ~1 -0 !1 in 12 ms (+a, b ~c !tools.d/d.yaml:14:7)",
        ),
        (
            SnapshotReplaced((), (), ("a",), (), visible=True, rerouted=False, seconds=0.0004),
            "reload: +0 ~0 -1 !0 in 0 ms (-a)",
        ),
        (
            SnapshotReplaced((), (), (), tuple("abcde"), visible=False, rerouted=False, seconds=0),
            "reload: +0 ~0 -0 !5 in 0 ms (!a, b, c, 2 more)",
        ),
    ],
)
def test_each_event_is_one_log_line(caplog: pytest.LogCaptureFixture, event: Event, line: str) -> None:
    caplog.set_level(logging.INFO)
    log_event(event)
    assert caplog.messages == [line]


def test_the_start_of_a_call_and_a_lost_audit_line_are_not_logged_here(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    log_event(CallStarted("pay", "POST", "shop", "c1"))
    log_event(AuditWritten("No space left on device"))
    assert caplog.messages == []


def test_a_reload_is_logged_only_by_its_reporter(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    event = SnapshotReplaced((), (), (), (), visible=False, rerouted=False, seconds=0)
    for listener in (EventLog().on_event, ReloadReporter(Loaded, {}).on_event):
        listener(event)
    assert caplog.messages == ["reload: +0 ~0 -0 !0 in 0 ms"]


@pytest.mark.anyio
async def test_refused_calls_of_one_caller_share_log_lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log = EventLog()

    def refused(tool: str, caller: str, outcome: str = "unknown-tool") -> CallFinished:
        return CallFinished(tool, outcome, 0, None, caller=caller)

    for number in range(1000):
        log.on_event(refused(f"t{number}", "ann"))
        log.on_event(refused("echo", "ann", "too-many-calls"))
    log.on_event(refused("echo", "bob"))
    for _ in range(2):
        log.on_event(CallFinished("echo", "ok", 0.001, "api", 200, caller="ann"))
    first = [
        "call tool=t0 caller=ann outcome=unknown-tool ms=0",
        "call tool=echo caller=ann outcome=too-many-calls ms=0",
        "call tool=echo caller=bob outcome=unknown-tool ms=0",
        *["call tool=echo caller=ann upstream=api outcome=ok status=200 ms=1"] * 2,
    ]
    assert caplog.messages == first
    log.flush()
    assert sorted(caplog.messages[5:]) == [
        "call tool=echo caller=ann outcome=too-many-calls ms=0 calls=999",
        "call tool=t999 caller=ann outcome=unknown-tool ms=0 calls=999",
    ]
