"""What SECURITY.md and the security model promise, held to the tests that they name."""

import re
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[1]
TEXTS: Final = ("SECURITY.md", "docs/concepts/security-model.md")
_TABLE: Final = re.compile(r"^\| [^|]+ \| Held by \|\n\|[-|]+\|\n((?:\|.*\|\n)+)", re.MULTILINE)
_TEST: Final = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
_KIT: Final = re.compile(r"kit `(\w+)`")
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
