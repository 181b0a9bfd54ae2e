"""For each invalid file, ``check`` prints exactly the expected lines.

``bad/CODE/CASE.yaml`` is copied into tools.d together with ``bad/shop.upstream.yaml``. ``bad/CODE/CASE/`` has its own
tools.d and possibly upstreams. The expected lines are in ``bad/CODE/CASE.yaml.txt`` or ``bad/CODE/CASE.txt``. Every
secret in a case contains ``Tr0ub4dor``.
"""

import re
import shutil
from pathlib import Path

import pytest

from bridge.diagnostics import CODES, Diagnostic
from bridge.secrets import Sources
from bridge.toolfiles.loader import load_once
from bridge.toolfiles.place import Directories

BAD = Path(__file__).parent / "bad"
CASES = sorted(path for path in BAD.glob("*/*") if path.suffix != ".txt")
SECRET = "Tr0ub4dor"
TESTED_ELSEWHERE = {
    "foreign-name",
    "unused-credential",
    "unused-view",
    "open-address",
    "outside-folder",
    "lost-secret",
    "not-a-file",
    "too-large",
    "too-many-files",
    "unclear-caller",
    "unreadable",
    "unusable-certificate",
    "unused-owner",
    "unused-setting",
}
"""Codes for pipes, devices, links, large or many files, deleted files and the settings file. Other tests create these."""


def found(case: Path, place: Path) -> tuple[Diagnostic, ...]:
    """The diagnostics of a case, copied to ``place``, the working directory."""
    if case.is_dir():
        shutil.copytree(case, place, dirs_exist_ok=True)
    else:
        tools = place / "tools.d"
        tools.mkdir()
        shutil.copy(case, tools)
    shutil.copy(BAD / "shop.upstream.yaml", place / "tools.d")
    upstreams = "upstreams" if (place / "upstreams").exists() else None
    loaded = load_once(
        Directories(("tools.d",), upstreams), Sources({"SHOP_API_KEY": "correct-horse-battery"})
    )
    return loaded.diagnostics


def expected(case: Path) -> Path:
    return case.parent / f"{case.name}.txt"


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case.relative_to(BAD)))
def test_an_invalid_file_gets_exactly_the_expected_lines(
    case: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    diagnostics = found(case, tmp_path)
    assert [str(diagnostic) for diagnostic in diagnostics] == expected(case).read_text().splitlines()
    assert case.parent.name in {diagnostic.code for diagnostic in diagnostics}
    for diagnostic in diagnostics:
        assert SECRET not in f"{diagnostic} {diagnostic.source}"
        assert diagnostic.source is None or 1 <= diagnostic.mark.column <= len(diagnostic.source) + 1


def test_every_code_has_an_invalid_file() -> None:
    assert {case.parent.name for case in CASES} == CODES.keys() - TESTED_ELSEWHERE


def test_every_line_is_one_sentence_without_a_full_stop() -> None:
    lines = [line for case in CASES for line in expected(case).read_text().splitlines()]
    form = re.compile(r".+:\d+:\d+: (error|warning): .+[^.] \[[a-z0-9-]+\]")
    assert [line for line in lines if not form.fullmatch(line)] == []


def test_every_file_of_expected_lines_has_a_case() -> None:
    assert set(BAD.glob("*/*.txt")) == {expected(case) for case in CASES}
