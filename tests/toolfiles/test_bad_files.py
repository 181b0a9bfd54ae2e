"""Each wrong file stands beside the exact lines that ``check`` prints for it.

``bad/CODE/CASE.yaml`` is put into tools.d beside ``bad/shop.upstream.yaml``; ``bad/CODE/CASE/`` holds a
tools.d of its own, and perhaps upstreams. What they earn is in ``bad/CODE/CASE.txt``. Whatever is secret in
a case holds the word ``Tr0ub4dor``.
"""

import re
import shutil
from pathlib import Path

import pytest

from bridge.diagnostics import CODES, Diagnostic
from bridge.secrets import Sources
from bridge.toolfiles.loader import load_once
from bridge.toolfiles.watch.scan import Directories

BAD = Path(__file__).parent / "bad"
CASES = sorted(path for path in BAD.glob("*/*") if path.suffix != ".txt")
SECRET = "Tr0ub4dor"
OF_SPECIAL_FILES = {
    "foreign-name",
    "idle-access",
    "idle-view",
    "open-address",
    "outside-folder",
    "lost-secret",
    "not-a-file",
    "too-large",
    "too-many-files",
    "unclear-caller",
    "unreadable",
    "unused-owner",
}
"""Of pipes, devices, links, 256 KiB, thousands of files, files that vanish, and the settings file, which are made in other tests here."""


def found(case: Path, place: Path) -> tuple[Diagnostic, ...]:
    """What is wrong with a case that lies at ``place``, the working directory."""
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
def test_a_wrong_file_earns_exactly_these_lines(
    case: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    diagnostics = found(case, tmp_path)
    assert [str(diagnostic) for diagnostic in diagnostics] == expected(case).read_text().splitlines()
    assert case.parent.name in {diagnostic.code for diagnostic in diagnostics}
    for diagnostic in diagnostics:
        assert SECRET not in f"{diagnostic} {diagnostic.source}"
        assert diagnostic.source is None or 1 <= diagnostic.mark.column <= len(diagnostic.source) + 1


def test_every_code_has_a_wrong_file() -> None:
    assert {case.parent.name for case in CASES} == CODES.keys() - OF_SPECIAL_FILES


def test_every_line_is_one_sentence_without_a_full_stop() -> None:
    told = [line for case in CASES for line in expected(case).read_text().splitlines()]
    form = re.compile(r".+:\d+:\d+: (error|warning): .+[^.] \[[a-z0-9-]+\]")
    assert [line for line in told if not form.fullmatch(line)] == []


def test_no_lines_are_left_of_a_case_that_is_gone() -> None:
    assert set(BAD.glob("*/*.txt")) == {expected(case) for case in CASES}
