"""The project is written in plain English: words of a private dialect stay out."""

import re
import subprocess

import pytest

from tests.test_house import ROOT

BANNED = """
    counts? no more, in vain, (made|make) anew, whoever, of nobody, told of, tells? of, hears? of, as those do who, mend(s|ed|ing)?,
    beside, no more(?! than\\b)(?! (calls?|problems|files|tools)\\b), any more(?! than\\b), comes? to be, bethink, heeds?,
    anew, for ever, unasked, untold, unsaid, astray, at the (least|most)
"""
PATTERN = re.compile(rf"\b({'|'.join(word.strip() for word in BANNED.split(','))})\b", re.IGNORECASE)
FILES = [
    ROOT / name
    for name in subprocess.run(
        ["git", "ls-files", "-z", "bridge", "tests", "docs", "deploy", "tools.d", "*.md", "pyproject.toml"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    ).stdout.split("\0")
    if name and name not in ("tests/test_words.py", "CHANGELOG.md")
]  # fmt: skip


@pytest.mark.skipif(not FILES, reason="needs a git checkout")
def test_no_text_uses_a_banned_word() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {match[0]}"
        for path in FILES
        if path.suffix in (".py", ".md", ".yaml", ".toml", ".txt")
        for number, line in enumerate(path.read_text("utf-8", "replace").splitlines(), 1)
        for match in PATTERN.finditer(line)
    ]
    assert found == []
