import json
import os
import re
import shutil
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from io import StringIO
from pathlib import Path

import pytest

from tests.commands.conftest import ROOT, Line
from tests.commands.in_process import gc_settings_restored, over_stdio
from tests.commands.processes import HELLO, request

SAMPLES = sorted(path.name for path in (ROOT / "tools.d").iterdir())


@contextmanager
def taken(port: int) -> Iterator[None]:
    """Something listens on the port: this test, or another process."""
    with ExitStack() as stack, suppress(OSError):
        stack.enter_context(socket.create_server(("127.0.0.1", port)))
        yield
        return
    yield


class Welcome(StringIO):
    """What the demo prints; when it has printed everything, it is stopped."""

    def flush(self) -> None:
        if self.getvalue().endswith("Stop it with ^C.\n\n"):
            os.kill(os.getpid(), signal.SIGINT)


def welcome(monkeypatch: pytest.MonkeyPatch, line: Line, *words: str) -> str:
    said = Welcome()
    monkeypatch.setattr(sys, "stdout", said)
    with gc_settings_restored():
        assert line("demo", *words)[0] == 0
    return said.getvalue()


def test_the_demo_brings_shop_bridge_and_files_to_edit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: Line
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")
    said = welcome(monkeypatch, line, "--http", "0")
    shop = re.search(r"^The shop +(http://127\.0\.0\.1:\d+), with the key demo-key$", said, re.MULTILINE)
    bridge = re.search(r"^The bridge +(http://127\.0\.0\.1:\d+/mcp)$", said, re.MULTILINE)
    assert shop
    assert bridge
    assert shop[1] not in bridge[1]
    for expected in (
        r"^Its files +tools.d$",
        r"^  get_order +Get the status",
        f"claude mcp add --transport http shop {bridge[1]}$",
        r'Cursor +\{"mcpServers": \{"shop": \{"url": "' + bridge[1],
        r"python\S* -m bridge call list_products category=garden$",
    ):
        assert re.search(expected, said, re.MULTILINE)
    assert sorted(path.name for path in (tmp_path / "tools.d").iterdir()) == [".schemas", *SAMPLES]
    modeline = (tmp_path / "tools.d/get_order.yaml").read_text().splitlines()[0]
    assert modeline == "# yaml-language-server: $schema=.schemas/tool.schema.json"
    schema = json.loads((tmp_path / "tools.d/.schemas/tool.schema.json").read_text())
    assert schema["title"] == "restbridge tool file"


def test_over_stdio_stdout_holds_only_the_protocol(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: Line
) -> None:
    monkeypatch.chdir(tmp_path)
    product = {"product_id": "p-103"}
    messages = [HELLO, request(2, "tools/call", name="get_product", arguments=product)]
    with over_stdio(*messages) as lines:
        assert line("demo", "--stdio")[0] == 0
    answers = [json.loads(each) for each in lines]
    assert [answer["id"] for answer in answers] == [1, 2]
    assert answers[1]["result"]["structuredContent"]["name"] == "Copper Kettle"


def test_other_ports_are_used_if_those_are_taken_and_files_are_kept(
    tools: Path, monkeypatch: pytest.MonkeyPatch, line: Line
) -> None:
    order = tools / "get_order.yaml"
    order.write_text(order.read_text().replace("Get the", "My own"))
    shutil.move(tools, tools.parent / "my shop")
    on_path = tools.parent / "bin/restbridge"
    on_path.parent.mkdir()
    on_path.touch(0o755)
    monkeypatch.setenv("PATH", str(on_path.parent))
    with taken(8100), taken(8101):
        said = welcome(monkeypatch, line, "my shop")
    shop = re.search(r"^The shop +(http://127\.0\.0\.1:\d+)", said, re.MULTILINE)
    assert shop
    assert not shop[1].endswith(":8100")
    assert re.search("^  get_order +My own", said, re.MULTILINE)
    assert f"  SHOP_API_URL={shop[1]} restbridge call --tools 'my shop' list_products" in said


def test_a_directory_with_other_files_is_not_changed(tmp_path: Path, line: Line) -> None:
    (tmp_path / "mine.yaml").write_text("description: Mine.\n")
    code, _, err = line("demo", str(tmp_path))
    assert (code, err) == (
        2,
        f"Error: {tmp_path} holds other files; name a new folder: restbridge demo my-shop\n",
    )
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


def test_an_address_that_others_can_reach_is_refused(tmp_path: Path, line: Line) -> None:
    code, _, err = line("demo", "--http", "0.0.0.0:8000", str(tmp_path))
    assert code == 2
    assert "on 0.0.0.0:8000 others could call the tools" in err
    assert not list(tmp_path.iterdir())


def test_a_directory_that_cannot_be_written_is_reported(tmp_path: Path, line: Line) -> None:
    (tmp_path / "file").touch()
    code, _, err = line("demo", str(tmp_path / "file/tools.d"))
    assert code == 2
    assert err.startswith(f"Error: cannot write the samples to {tmp_path / 'file/tools.d'}: ")
