import json
from pathlib import Path

import pytest

from tests.commands.conftest import Line


def test_a_table_shows_each_tool_on_a_line(tools: Path, line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    code, out, err = line("list", str(tools))
    rows = out.splitlines()
    assert (code, err, len(rows)) == (0, "", 6)
    assert rows[3] == "get_order          Get the status, lines, total and trackin…"


@pytest.mark.usefixtures("tools")
def test_json_is_what_clients_get(line: Line) -> None:
    listed = json.loads(line("list", "--format", "json")[1])
    assert [tool["name"] for tool in listed["tools"]] == [
        "add_customer_note", "create_order", "get_customer", "get_order", "get_product", "list_products",
    ]  # fmt: skip
    assert listed["tools"][3]["annotations"]["readOnlyHint"] is True
    assert listed["tools"][3]["inputSchema"]["additionalProperties"] is False


def test_files_that_are_not_served_are_reported(tools: Path, line: Line) -> None:
    (tools / "get_order.yaml").write_text("description: Broken.\n")
    with (tools / "get_customer.yaml").open("a") as file:
        file.write("enabled: false\n")
    code, out, err = line("list")
    assert code == 1
    assert "get_order" not in out
    assert "tools.d/get_order.yaml:1:1: error: " in err
    assert "tools.d/get_customer.yaml is not served: it has enabled: false\n" in err
    assert "tools.d/get_order.yaml is not served: it has errors\n" in err


def test_an_empty_directory_holds_no_tools(tmp_path: Path, line: Line) -> None:
    assert line("list", str(tmp_path)) == (0, "no tools\n", "")
