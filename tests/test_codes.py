"""The tables of codes say what the source says."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from bridge import diagnostics, errors

SOURCE = Path(diagnostics.__file__).parent
FINDING = {"Finding", "invalid", "error", "warn", "_problem", "_Problem", "_error", "_check", "_wrong_name"}
ERROR = {"InvalidCall", "NotSent", "NotAnswered", "StatusError", "TooMany", "UnusableReply"}


def written(makers: set[str]) -> Iterator[str]:
    """The texts of the form of a code that stand first where one of ``makers`` is called."""
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and ast.unparse(node.func).rpartition(".")[2] in makers
                and node.args
            ):
                first = node.args[0]
                if isinstance(first, ast.Constant) and re.fullmatch(
                    r"[a-z][a-z0-9]*(-[a-z0-9]+)*", str(first.value)
                ):
                    yield str(first.value)


def test_every_finding_has_a_code_from_the_table() -> None:
    assert set(written(FINDING)) <= diagnostics.CODES.keys()


def test_every_error_has_a_code_from_the_table() -> None:
    assert set(written(ERROR)) <= errors.CODES.keys()


def test_every_code_of_the_tables_is_in_use() -> None:
    source = "".join(
        path.read_text()
        for path in SOURCE.rglob("*.py")
        if path.stem not in ("errors", "diagnostics", "explain_code")
    )
    unused = [code for code in (*errors.CODES, *diagnostics.CODES) if f'"{code}"' not in source]
    assert unused == ["http-STATUS"]


def test_the_tables_are_in_order() -> None:
    for table in (diagnostics.CODES, errors.CODES):
        assert list(table) == sorted(table)
