"""README, the pages of docs/ and CHANGELOG, held to what the code does."""

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import FunctionType
from typing import Final

import pytest
from ruamel.yaml import YAML

from bridge import settings, spec
from bridge.cli import main, restbridge
from bridge.events import CallFinished, SnapshotReplaced
from bridge.secrets import Sources
from bridge.telemetry.log_events import log_event
from bridge.toolfiles.settings_file import read_settings_file
from tests.commands import processes
from tests.commands.shop import serving_shop
from tests.kits.faults import EXPECTED
from tests.real_upstreams.processes import program
from tests.reference import MADE
from tests.upstream.certificates import Authority

ROOT: Final = Path(__file__).parents[1]
PAGES: Final = {
    path.relative_to(ROOT).as_posix(): path.read_text("utf-8")
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md")))
    if path.parent.name != "reference" or MADE not in path.read_text("utf-8")
}
"""What people write: test_reference.py holds the pages that are made."""
README: Final = PAGES["README.md"]
ALL_TEXT: Final = "\n".join(
    path.read_text("utf-8") for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"))
)
NOT_RUN: Final = {
    "pip install": "asks an index; what it installs is tested in test_wheel.py and by .ci/run",
    "claude mcp add": "needs that agent",
    "serve --http 8000": "does not end; serving is tested in test_serve.py",
    "key new": "prints another key each time; keys are tested in test_key.py",
    "ruff check": ".ci/run runs these",
    "jq -cRn": "test_audit.py runs it",
    "jq -": "below, on lines of a log",
    "docker ": "needs a container engine; .ci/image builds what the image holds",
    "kubectl ": "needs a cluster; .ci/deploy judges the files",
    "sudo ": "would change this machine; test_deploy.py has the unit read by systemd",
    "curl ": "needs a bridge that serves; tests/http asks the same",
    "$RENEWED_LINEAGE": "certbot runs it as root",
    "/releases/": "test_scan.py exchanges links",
    "bridge schema": "would write into the checkout; test_schema.py compares",
}
"""Shell blocks that are read by bash, and not run: a part of the block → why."""


@dataclass(frozen=True)
class Block:
    page: str
    language: str
    text: str
    line: int


BLOCKS: Final = [
    Block(page, match[1], match[2], text.count("\n", 0, match.start()) + 1)
    for page, text in PAGES.items()
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
]


def blocks(language: str) -> list[object]:
    return [
        pytest.param(block, id=f"{block.page} line {block.line}")
        for block in BLOCKS
        if block.language == language
    ]


@pytest.fixture(scope="module")
def shop() -> Iterator[str]:
    with serving_shop() as url:
        yield url


def write_files(folder: Path, page: str, before: int = sys.maxsize) -> None:
    """The YAML blocks of a page above a line, under the names that their first lines give."""
    for block in BLOCKS:
        if block.page == page and block.language == "yaml" and block.line < before:
            path = folder / block.text.splitlines()[0].removeprefix("# ")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, "utf-8")


def tables() -> list[dict[str, str]]:
    """Every table: first cell → last cell."""
    found = re.findall(r"^\|.*\|\n\|[-| ]+\|\n((?:\|.*\|\n)+)", ALL_TEXT, re.MULTILINE)
    rows = [[re.split(r"(?<!\\) \| ", row[2:-2]) for row in table.splitlines()] for table in found]
    return [{row[0].strip("`"): row[-1] for row in table} for table in rows]


def test_every_block_is_of_a_kind_that_is_tested() -> None:
    # That of Mermaid is drawn by tests/reference.py, whose test holds it.
    assert {block.language for block in BLOCKS} <= {
        "yaml",
        "console",
        "sh",
        "json",
        "python",
        "nginx",
        "text",
        "mermaid",
        "",
    }


@pytest.mark.parametrize(
    "page", sorted({block.page for block in BLOCKS if block.text.startswith("# tools.d/")})
)
def test_every_tool_and_upstream_file_is_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], page: str
) -> None:
    write_files(tmp_path, page)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHOP_API_KEY", "demo-key")
    assert main(["check", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    files = {block.text.splitlines()[0] for block in BLOCKS if block.page == page}
    assert found["tools"] + found["upstreams"] == sum(name.startswith("# tools.d/") for name in files)
    assert {diagnostic["code"] for diagnostic in found["diagnostics"]} <= {"unset-secret"}


@pytest.mark.slow
@pytest.mark.parametrize("block", blocks("console"))
def test_a_transcript_is_what_happens(block: Block, tmp_path: Path, shop: str) -> None:
    write_files(tmp_path, block.page, before=block.line)
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


@pytest.mark.slow
@pytest.mark.parametrize("block", blocks("sh"))
def test_a_shell_block_is_read_by_bash(block: Block) -> None:
    assert any(part in block.text for part in NOT_RUN)
    subprocess.run(["bash", "-n", "-c", block.text], check=True)
    for command in re.findall(r"restbridge ([a-z]\S*)", block.text):
        assert main([command, "--help"]) == 0


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
    configuration = read_settings_file(path, Sources({}))
    missing = ["unset-secret"] * block.text.count("${file:")
    assert [each.code for each in configuration.diagnostics] == missing
    assert configuration.settings


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.text.startswith("# .")])
def test_a_file_of_another_program_names_commands_that_there_are(block: Block) -> None:
    assert YAML(typ="safe", pure=True).load(block.text)
    for words in re.findall(r"run: restbridge (.*)$", block.text, re.MULTILINE):
        assert set(words.split()) & set(restbridge.commands)
    for hook in re.findall(r"id: ([\w-]+)", block.text):
        assert f"- id: {hook}\n" in (ROOT / ".pre-commit-hooks.yaml").read_text("utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("block", blocks("nginx"))
def test_nginx_reads_a_block(block: Block, tmp_path: Path) -> None:
    nginx = program("nginx")
    certificate, key = Authority(tmp_path).issue("tools.example.com")
    text = block.text.replace("/etc/nginx/tls/tools.pem", str(certificate))
    text = text.replace("/etc/nginx/tls/tools.key", str(key)).replace("443", "8443")
    places = "".join(
        f"{kind}_temp_path {tmp_path};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    file = tmp_path / "nginx.conf"
    file.write_text(
        f"pid {tmp_path}/pid;\nevents {{}}\nhttp {{\naccess_log off;\n{places}{text}}}\n", "utf-8"
    )
    subprocess.run([nginx, "-t", "-e", "stderr", "-c", str(file)], check=True)


LOG: Final = """\
{"time":"2026-03-14T03:00:01.000Z","event":"call","tool":"get_order","caller":"agents","outcome":"ok"}
{"time":"2026-03-14T04:00:01.000Z","event":"call","tool":"get_order","caller":"agents","outcome":"not-permitted"}
{"time":"2026-03-14T03:00:02.000Z","event":"call","tool":"get_order","caller":"ci","outcome":"ok"}
{"time":"2026-03-14T03:00:03.000Z","event":"refused","requests":1,"status":401,"client":"192.0.2.1","why":"…"}
a line that is cut
"""
AUDIT: Final = """\
{"time":"2026-03-14T03:00:01.000Z","event":"call-started","call":"a1","tool":"add","method":"POST","caller":"agents"}
{"time":"2026-03-14T03:00:02.000Z","event":"call","call":"a1","tool":"add","method":"POST","caller":"agents","outcome":"ok","status":201}
{"time":"2026-03-14T03:00:03.000Z","event":"call","call":"a2","tool":"add","method":"POST","caller":"ci","outcome":"ok","status":201}
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "found"),
    [
        ('.time >= "', [LOG.splitlines()[0]]),
        (".method, .tool", ["2026-03-14T03:00:02.000Z\tPOST\tadd\tok\t201"]),
        ('.event == "refused"', [LOG.splitlines()[1], LOG.splitlines()[3]]),
    ],
)
def test_a_query_of_the_records_finds_its_lines(tmp_path: Path, words: str, found: list[str]) -> None:
    program("jq")
    (tmp_path / "log.jsonl").write_text(LOG, "utf-8")
    (tmp_path / "audit.jsonl").write_text(AUDIT, "utf-8")
    (block,) = (block for block in BLOCKS if block.text.startswith("jq ") and words in block.text)
    done = subprocess.run(
        ["bash", "-c", block.text], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert done.stdout.splitlines() == found


def test_a_line_of_the_log_is_written_as_it_is_shown(caplog: pytest.LogCaptureFixture) -> None:
    text, as_json = (
        block.text for block in BLOCKS if block.page == "docs/guides/monitor.md" and not block.language
    )
    caplog.set_level("INFO")
    log_event(
        SnapshotReplaced(
            ("get_order",), ("list_orders",), (), (), seconds=0.009, visible=True, rerouted=False
        )
    )
    log_event(CallFinished("get_order", "ok", 0.004, "shop", status=200, request="7"))
    assert re.findall(r"^[-\d]+ [\d:,]+ INFO (.*)$", text, re.MULTILINE) == caplog.messages
    moment, level, event, *fields = json.loads(as_json).items()
    assert (moment[0], level, event) == ("time", ("level", "info"), ("event", "call"))
    assert " ".join(["call", *(f"{name}={value}" for name, value in fields)]) == caplog.messages[1]


@pytest.mark.parametrize("block", blocks("python"))
def test_a_python_block_is_python(block: Block) -> None:
    compile(block.text, block.page, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


async def run_block(block: Block, replaced: Mapping[str, str]) -> None:
    text = block.text
    for old, new in replaced.items():
        assert old in text
        text = text.replace(old, new)
    await FunctionType(compile(text, block.page, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), {})()


@pytest.mark.slow
@pytest.mark.anyio
async def test_a_client_of_the_sdk_calls_a_tool(
    shop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    over_stdio, over_http = (block for block in BLOCKS if "from mcp import Client" in block.text)
    environment = {"SHOP_API_KEY": "demo-key", "SHOP_API_URL": shop, "PYTHONPATH": str(ROOT)}
    bridge = f'command="{sys.executable}", args=["-m", "bridge", "serve", "{ROOT}/tools.d"]'
    await run_block(
        over_stdio,
        {
            'command="restbridge", args=["serve", "/opt/shop/tools.d"]': bridge,
            '{"SHOP_API_KEY": "demo-key"}': str(environment),
        },
    )
    entry = {"name": "ann", "sha256": sha256(b"a key").hexdigest()}
    settings = {"tools": [f"{ROOT}/tools.d"], "http": {"listen": 0}, "access": {"apiKeys": [entry]}}
    (tmp_path / "restbridge.yaml").write_text(json.dumps(settings), "utf-8")
    monkeypatch.setenv("RESTBRIDGE_KEY", "a key")
    async with processes.restbridge(
        "serve", "--config", "restbridge.yaml", cwd=tmp_path, env=environment
    ) as served:
        url = (await served.wait_for_log(r"serving (http\S+)"))[1]
        await run_block(over_http, {"http://127.0.0.1:8000/mcp": url})
    printed = capsys.readouterr().out.splitlines()
    assert [line.startswith('False {"id":"o-1001"') for line in printed] == [True, True]


def test_every_key_of_the_files_is_in_the_reference() -> None:
    words = {word for cell in re.findall(r"`([^`\n]*)`", ALL_TEXT) for word in re.findall(r"[\w$]+", cell)}
    access_config = {**vars(spec), **vars(settings)}
    models = [m for m in access_config.values() if isinstance(m, type) and issubclass(m, spec.SpecModel)]
    keys = {field.alias or name for model in models for name, field in model.model_fields.items()}
    later = {word for model in models for word in model.later}
    assert keys | later <= words


def sentences(text: str) -> Iterator[str]:
    """The sentences of a page, without blocks. A cell of a table and an item of a list are texts of their own."""
    text = re.sub(r"^```.*?^```$|<!--.*?-->", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"(?:`[^`]*`,? ?)+", "x ", text)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    for part in re.split(r"\n\s*\n|\n(?=\s*(?:[-|#]|\d+\. ))", text):
        for cell in re.split(r"(?<!\\)\|", part):
            yield from re.split(r"(?<=[.!?])[)\"]?\s+", " ".join(cell.split()))


def test_no_sentence_is_longer_than_thirty_words() -> None:
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    assert [
        f"{path.relative_to(ROOT)}: {sentence}"
        for path in pages
        for sentence in sentences(path.read_text("utf-8"))
        if len(re.findall(r"\S*\w\S*", sentence)) > 30
    ] == []


HOLE: Final = "\0"
"""Where a value stands in a text of the code."""


def printed_texts() -> list[str]:
    found = []
    for path in ROOT.glob("bridge/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else HOLE for part in node.values]
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return [re.sub(r"%[.\d]*[a-z]|\{\w+\}", HOLE, text) for text in found]


def is_printed(message: str, texts: list[str]) -> bool:
    """Whether a text of the code gives the message: with the real values, or with words in capitals for them."""
    parts = re.split(r"\b(?:API server at HOST|[A-Z]{4,})\b|…", message)
    pattern = f"{HOLE}?.{{0,40}}?".join(re.escape(part.strip()) for part in parts)
    return any(re.search(pattern, text) for text in texts) or any(
        re.fullmatch(re.escape(text.rstrip(f"{HOLE} ")).replace(HOLE, ".+"), message)
        for text in texts
        if len(text) > 30
    )


def test_a_message_is_quoted_as_it_is_printed() -> None:
    """Of a cell under "Message". A word in capitals stands for a value, … for the rest of a part."""
    texts = printed_texts()
    head = re.compile(r"^\|(.*\| Message \|.*|\s*Message \|.*)\|\n\|[-| ]+\|\n((?:\|.*\|\n)+)", re.MULTILINE)
    quoted = []
    for names, rows in head.findall("\n".join(f"{page}\n" for page in PAGES.values())):
        column = [name.strip() for name in f"{names}|".split("|")].index("Message")
        cells = [re.split(r"(?<!\\)\|", row)[column + 1] for row in rows.splitlines()]
        quoted += [cell.strip().strip("`") for cell in cells if cell.strip()]
    assert len(quoted) > 30
    assert [message for message in quoted if not is_printed(message, texts)] == []


def test_every_environment_variable_is_listed() -> None:
    page = PAGES["docs/reference/environment.md"]
    listed = {
        name
        for cell in re.findall(r"^\| (`[^|]*) \|", page, re.MULTILINE)
        for name in re.findall(r"\w+", cell)
    }
    used = set()
    for path in ROOT.glob("bridge/**/*.py"):
        code = path.read_text("utf-8")
        if "environ" in code or "envvar" in code:
            used |= set(re.findall(r'"((?:[A-Z]+_)+[A-Z]+)"', code))
    assert listed == used | {"HTTP_PROXY", "HTTPS_PROXY"}


def test_every_kind_of_log_line_is_listed() -> None:
    page = PAGES["docs/reference/log.md"]
    listed = re.findall(r"^\| `([\w-]+)` \| (?:info|warning|error)", page, re.MULTILINE)
    code = "\n".join(path.read_text("utf-8") for path in ROOT.glob("bridge/**/*.py"))
    used = set(re.findall(r'log_output\.event\(\s*"(\w+)"|"event": "(\w+)"', code))
    assert set(listed) == {first or second for first, second in used}


def test_every_verb_is_listed() -> None:
    verbs = {path.stem for path in (ROOT / "bridge/commands").glob("*.py")}
    listed = next(table for table in tables() if "restbridge serve" in table)
    assert {verb.removeprefix("restbridge ").split()[0].replace("-", "_") for verb in listed} == verbs - {
        "__init__",
        "arguments",
        "diagnostics_report",
        "loading",
        "settings_file",
        "settings_from_options",
    }


def test_the_map_shows_every_room() -> None:
    rooms = {path.stem for path in (ROOT / "bridge").iterdir() if path.suffix == ".py" or path.is_dir()}
    rows = PAGES["CONTRIBUTING.md"].partition("## The map")[2].partition("## ")[0].splitlines()
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
            page = path.parent / there if there else path
            assert page.exists()
            if heading:
                lines = page.read_text("utf-8").splitlines()
                assert heading in [line[3:].lower().replace(" ", "-") for line in lines]


def test_the_changelog_has_a_place_for_what_comes_next() -> None:
    assert "\n## Unreleased\n" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_the_faults_of_their_kit_are_counted() -> None:
    assert f"| `faults` | calls an upstream with {len(EXPECTED)} faults " in PAGES["CONTRIBUTING.md"]


def test_every_kit_is_listed() -> None:
    kits = {path.stem for path in (ROOT / "tests/kits").glob("*.py")}
    listed = next(table for table in tables() if "storm" in table)
    assert set(listed) == kits - {"__main__", "figures", "measured", "serving", "targets"}
