import pytest

from bridge import diagnostics, errors
from bridge.cli import main


@pytest.mark.parametrize("code", diagnostics.CODES)
def test_each_diagnostic_is_explained(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain-code", code]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{code} (diagnostic of check)\n\n{diagnostics.CODES[code]}\n")
    assert "```" not in said
    assert "##" not in said


@pytest.mark.parametrize("code", errors.CODES)
def test_each_error_code_of_a_call_is_explained(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain-code", code.replace("STATUS", "404")]) == 0
    said = capsys.readouterr().out
    assert said.endswith(f"(error code of a call)\n\n{errors.CODES[code]}\n")


def test_a_diagnostic_is_explained_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain-code", "duplicate-header"]) == 0
    said = capsys.readouterr().out
    assert "headers:" in said
    assert "error: " in said
    assert said.rstrip().endswith("[duplicate-header]")


def test_an_unknown_code_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain-code", "bad-projektion"]) == 2
    assert (
        capsys.readouterr().err
        == "Error: There is no code 'bad-projektion'; did you mean bad-projection or bad-proxy?\n"
    )
    assert main(["explain-code", "x"]) == 2
    assert "see docs/reference/diagnostics.md" in capsys.readouterr().err


def test_an_old_name_of_a_code_leads_to_the_new_one(capsys: pytest.CaptureFixture[str]) -> None:
    for old, new in diagnostics.RENAMED.items():
        assert main(["explain-code", old]) == 0
        out = capsys.readouterr().out
        assert out.startswith(f"{old} is now called {new}.\n\n{new} (diagnostic of check)")
