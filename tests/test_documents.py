"""README and CHANGELOG, held to what the code does."""

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from bridge import diagnostics, errors, settingsfile, spec
from bridge.cli import main
from bridge.secrets import Sources
from bridge.toolfiles.settings_file import read_configuration
from tests.commands.shop import serving_shop
from tests.kits.faults import EXPECTED

ROOT: Final = Path(__file__).parents[1]
README: Final = (ROOT / "README.md").read_text("utf-8")
NOT_RUN: Final = {
    "pip install": "asks an index; what it installs is tested in test_wheel.py and by .ci/run",
    "claude mcp add": "needs that agent",
    "serve --http 8000": "does not end; serving is tested in test_serve.py",
    "key new": "prints another key each time; keys are tested in test_key.py",
    "ruff check": ".ci/run runs these",
    "jq -": "test_audit.py runs it",
    "bridge schema": "would write into the checkout; test_schema.py compares",
}
"""Shell blocks that are read by bash, and not run: a part of the block → why."""


@dataclass(frozen=True)
class Block:
    language: str
    text: str
    line: int


BLOCKS: Final = [
    Block(match[1], match[2], README.count("\n", 0, match.start()) + 1)
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
]


def blocks(language: str) -> list[object]:
    return [pytest.param(block, id=f"line {block.line}") for block in BLOCKS if block.language == language]


@pytest.fixture(scope="module")
def shop() -> Iterator[str]:
    with serving_shop() as url:
        yield url


def write_files(folder: Path, before: int = sys.maxsize) -> None:
    """The YAML blocks above a line, under the names that their first lines give."""
    for block in BLOCKS:
        if block.language == "yaml" and block.line < before:
            path = folder / block.text.splitlines()[0].removeprefix("# ")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, "utf-8")


def tables() -> list[dict[str, str]]:
    """Every table: first cell → last cell."""
    found = re.findall(r"^\|.*\|\n\|[-|]+\|\n((?:\|.*\|\n)+)", README, re.MULTILINE)
    rows = [[re.split(r"(?<!\\) \| ", row[2:-2]) for row in table.splitlines()] for table in found]
    return [{row[0].strip("`"): row[-1] for row in table} for table in rows]


def test_every_block_is_of_a_kind_that_is_tested() -> None:
    assert {block.language for block in BLOCKS} == {"yaml", "console", "sh", "json", "python", ""}


def test_every_tool_and_upstream_file_is_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHOP_API_KEY", "demo-key")
    assert main(["check", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["tools"], found["upstreams"]) == (3, 3)
    assert {diagnostic["code"] for diagnostic in found["diagnostics"]} == {"unset-secret"}


@pytest.mark.parametrize("block", blocks("console"))
def test_a_transcript_is_what_happens(block: Block, tmp_path: Path, shop: str) -> None:
    write_files(tmp_path, before=block.line)
    shim = tmp_path / "bin/restbridge"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m bridge "$@"\n')
    shim.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{shim.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "SHOP_API_URL": shop,
    }
    commands = re.findall(r"^\$ (.*)$", block.text, re.MULTILINE)
    script = "\n".join(f"echo {shlex.quote(f'$ {command}')}\n{command}" for command in commands)
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.replace(shop.removeprefix("http://"), "127.0.0.1:8100") == block.text


@pytest.mark.parametrize("block", blocks("sh"))
def test_a_shell_block_is_read_by_bash(block: Block) -> None:
    assert any(part in block.text for part in NOT_RUN)
    subprocess.run(["bash", "-n", "-c", block.text], check=True)
    for words in re.findall(r"restbridge (.*)$", block.text, re.MULTILINE):
        assert main([words.split()[0], "--help"]) == 0


@pytest.mark.parametrize("block", blocks("json"))
def test_a_client_is_told_a_command_that_there_is(block: Block) -> None:
    (servers,) = json.loads(block.text).values()
    for server in servers.values():
        assert Path(server["command"]).name == "restbridge"
        assert main([server["args"][0], "--help"]) == 0


SETTINGS = [block for block in BLOCKS if block.text.startswith("# restbridge.yaml")]


@pytest.mark.parametrize("block", SETTINGS)
def test_a_settings_file_that_is_shown_is_one(tmp_path: Path, block: Block) -> None:
    path = tmp_path / "restbridge.yaml"
    path.write_text(block.text)
    configuration = read_configuration(path, Sources({}))
    missing = ["unset-secret"] * block.text.count("${file:")
    assert [each.code for each in configuration.diagnostics] == missing
    assert configuration.words


@pytest.mark.parametrize("block", blocks("python"))
def test_a_python_block_is_python(block: Block) -> None:
    compile(block.text, "README.md", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def test_every_key_of_the_files_is_in_the_reference() -> None:
    words = {word for cell in re.findall(r"`([^`\n]*)`", README) for word in re.findall(r"[\w$]+", cell)}
    words_of = {**vars(spec), **vars(settingsfile)}
    models = [m for m in words_of.values() if isinstance(m, type) and issubclass(m, spec.Words)]
    keys = {field.alias or name for model in models for name, field in model.model_fields.items()}
    later = {word for model in models for word in model.later}
    assert keys | later <= words


def test_every_code_is_listed_with_what_it_means() -> None:
    assert diagnostics.CODES in tables()
    assert errors.CODES in tables()


def test_every_verb_is_listed() -> None:
    verbs = {path.stem for path in (ROOT / "bridge/commands").glob("*.py")}
    listed = next(table for table in tables() if "restbridge serve" in table)
    assert {verb.removeprefix("restbridge ").split()[0] for verb in listed} == verbs - {
        "__init__", "arguments", "loading", "settings_from_options",
    }  # fmt: skip


def test_the_map_shows_every_room() -> None:
    rooms = {path.stem for path in (ROOT / "bridge").iterdir() if path.suffix == ".py" or path.is_dir()}
    rows = README.partition("## The map")[2].partition("## ")[0].splitlines()
    cells = [row.split("|")[2] for row in rows if row.startswith("|")]
    assert rooms - {"__init__", "__pycache__"} == set(re.findall(r"`(\w+)/?`", "".join(cells)))


@pytest.mark.parametrize(
    "path",
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")],
    ids=lambda path: path.relative_to(ROOT).as_posix(),
)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", path.read_text("utf-8")):
        if not target.startswith("https://"):
            there, _, heading = target.partition("#")
            text = (path.parent / there).resolve().read_text("utf-8") if heading else ""
            assert (path.parent / there).exists()
            assert (
                heading in [line[3:].lower().replace(" ", "-") for line in text.splitlines()] or not heading
            )


def test_the_changelog_has_a_place_for_what_comes_next() -> None:
    assert "\n## Unreleased\n" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_the_faults_of_their_kit_are_counted() -> None:
    assert f"| `faults` | meets {len(EXPECTED)} faults " in README


def test_every_kit_is_listed() -> None:
    kits = {path.stem for path in (ROOT / "tests/kits").glob("*.py")}
    listed = next(table for table in tables() if "storm" in table)
    assert set(listed) == kits - {"__main__", "figures", "measured", "serving", "targets"}
