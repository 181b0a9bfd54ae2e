import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from bridge import __version__, cli

ROOT = Path(__file__).parents[1]
VERBS = ("call", "check", "demo", "explain", "explain-code", "key", "list", "schema", "serve")


@pytest.fixture
def failing() -> Iterator[None]:
    """Two more verbs: one with a fault, one that is interrupted."""

    @cli.restbridge.command()
    def fault() -> None:
        raise ZeroDivisionError("sensitive")

    @cli.restbridge.command()
    def interrupt() -> None:
        raise KeyboardInterrupt

    yield
    del cli.restbridge.commands["fault"], cli.restbridge.commands["interrupt"]


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"restbridge, version {__version__}\n"


@pytest.mark.parametrize("verb", ["key new" if verb == "key" else verb for verb in VERBS])
def test_help_shows_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*verb.split(), "--help"]) == 0
    assert f"Examples:\n  restbridge {verb}" in capsys.readouterr().out


def test_all_commands_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["-h"]) == 0
    commands = capsys.readouterr().out.partition("Commands:\n")[2].splitlines()
    assert tuple(line.split()[0] for line in commands) == VERBS


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nosuch"], "No such command 'nosuch'"),
        (["serve", "--http", "here"], "'here' is no address; write a port such as 8000, or host:port"),
        (["demo", "--http", "here"], "'here' is no address; write a port such as 8000, or host:port"),
        (["serve", "--poll", "0"], "0.0 is not in the range"),
        (["check", __file__], "is a file"),
        (["schema"], "Missing argument"),
    ],
)
def test_a_usage_error_is_printed_and_exits_with_2(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.usefixtures("failing")
def test_an_internal_error_is_one_sentence_and_exits_with_3(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["fault"]) == 3
    assert capsys.readouterr().err == (
        "restbridge: internal error (ZeroDivisionError); for a stack trace run: restbridge --verbose …\n"
    )


@pytest.mark.usefixtures("failing")
def test_verbose_shows_the_stack_trace(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli.main(["--verbose", "fault"]) == 3
    assert "in fault" in capsys.readouterr().err
    monkeypatch.setenv("RESTBRIDGE_VERBOSE", "1")
    assert cli.main(["fault"]) == 3
    assert "in fault" in capsys.readouterr().err


@pytest.mark.usefixtures("failing")
def test_an_interrupt_exits_with_130() -> None:
    assert cli.main(["interrupt"]) == 130


@pytest.mark.slow
def test_a_closed_output_ends_it_quietly() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "bridge", "schema", "tool"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        _, err = process.communicate()
    assert (process.returncode, err) == (1, b"")


@pytest.mark.slow
def test_a_command_imports_only_the_packages_that_it_needs() -> None:
    code = "import sys, bridge.cli; print(*[m for m in sys.modules if m.startswith('bridge.')])"
    out = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True)
    assert set(out.split()) == {"bridge.cli", "bridge.address", "bridge.errors"}


def test_click_shows_errors_without_a_context(capsys: pytest.CaptureFixture[str]) -> None:
    @cli.restbridge.command()
    def refuse() -> None:
        raise click.ClickException("the shop is closed")

    try:
        assert cli.main(["refuse"]) == 2
    finally:
        del cli.restbridge.commands["refuse"]
    assert capsys.readouterr().err == "Error: the shop is closed\n"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["serve", "--port", "8000"], "No such option '--port'; to serve HTTP, write --http [HOST:]PORT."),
        (
            ["call", "get_order", "--id", "7"],
            "No such option '--id'; a tool's arguments are written NAME=TEXT.",
        ),
        (["check", "--strict"], "No such option '--strict'."),
    ],
)
def test_a_common_option_of_other_programs_gets_a_hint(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words) == cli.USAGE_ERROR
    assert f"Error: {told}" in capsys.readouterr().err
