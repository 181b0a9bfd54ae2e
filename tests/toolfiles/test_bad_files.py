"""Each wrong file stands beside the exact lines that ``check`` prints for it.

``bad/CODE/CASE.yaml`` is put into tools.d beside ``bad/shop.upstream.yaml``; ``bad/CODE/CASE/`` holds a
tools.d of its own, and perhaps upstreams. What they earn is in ``bad/CODE/CASE.txt``.
"""

import shutil
from pathlib import Path

import pytest

from bridge.secrets import Sources
from bridge.toolfiles.files import Directories
from bridge.toolfiles.loader import load_once

BAD = Path(__file__).parent / "bad"
CASES = sorted(path for path in BAD.glob("*/*") if path.suffix != ".txt")


def lines(case: Path, place: Path) -> list[str]:
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
    return [str(diagnostic) for diagnostic in loaded.diagnostics]


def expected(case: Path) -> Path:
    return case.parent / f"{case.name}.txt"


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case.relative_to(BAD)))
def test_a_wrong_file_earns_exactly_these_lines(
    case: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told = lines(case, tmp_path)
    assert told == expected(case).read_text().splitlines()
    assert any(line.endswith(f"[{case.parent.name}]") for line in told)


def test_no_lines_are_left_of_a_case_that_is_gone() -> None:
    assert set(BAD.glob("*/*.txt")) == {expected(case) for case in CASES}
