import json
from pathlib import Path

import pytest

from tests.commands.conftest import Line


def break_(tools: Path) -> None:
    file = tools / "get_order.yaml"
    file.write_text(file.read_text().replace("{order_id}", "{order}"))


def test_files_without_errors_are_counted(tools: Path, line: Line) -> None:
    assert tools.is_dir()
    assert line("check") == (0, "6 tools, 1 upstream, no problems\n", "")


def test_an_error_is_printed_with_its_place_and_exits_with_1(tools: Path, line: Line) -> None:
    break_(tools)
    code, out, _ = line("check")
    assert code == 1
    assert out.startswith("tools.d/get_order.yaml:9:42: error: {order} names no argument")
    assert out.endswith("\n5 tools, 1 upstream, 1 error\n")


def test_an_unset_secret_is_an_error_only_with_the_option_secrets(tools: Path, line: Line) -> None:
    upstream = tools / "shop.upstream.yaml"
    upstream.write_text(upstream.read_text().replace("SHOP_API_KEY:-demo-key", "NO_SUCH_VARIABLE"))
    code, out, _ = line("check", "tools.d")
    assert code == 0
    assert ": warning: " in out
    assert out.endswith("\n6 tools (6 not served until a secret is set), 1 upstream, 1 warning\n")
    code, out, _ = line("check", "--secrets")
    assert code == 1
    assert ": error: " in out


def test_a_program_reads_counts_and_diagnostics(tools: Path, line: Line) -> None:
    break_(tools)
    code, out, _ = line("check", "--format", "json")
    found = json.loads(out)
    diagnostic = found.pop("diagnostics")[0]
    counts = {
        "tools": 5,
        "blocked": 0,
        "waiting": 0,
        "disabled": 0,
        "upstreams": 1,
        "errors": 1,
        "warnings": 0,
    }
    assert (code, found) == (1, counts)
    assert (diagnostic["path"], diagnostic["line"]) == ("tools.d/get_order.yaml", 9)


def test_github_gets_annotations(tools: Path, line: Line) -> None:
    break_(tools)
    _, out, _ = line("check", "--format", "github")
    assert out.startswith("::error file=tools.d/get_order.yaml,line=9,")


def test_a_missing_directory_is_a_usage_error(tools: Path, line: Line) -> None:
    code, _, err = line("check", "tools.d", "more.d")
    assert (code, err) == (
        2,
        f"Error: {tools.parent / 'more.d'} does not exist; create it, or name another directory\n",
    )


@pytest.mark.parametrize(
    ("word", "told"),
    [
        (
            "tools.d/get_order.yaml",
            "tools.d/get_order.yaml is a file, expected a directory; name its directory",
        ),
        ("8000", "/8000 does not exist; to serve HTTP on that port, write --http 8000"),
    ],
)
def test_a_file_instead_of_a_directory_gets_a_hint(tools: Path, line: Line, word: str, told: str) -> None:
    assert tools.is_dir()
    code, _, err = line("check", word)
    assert (code, err.endswith(f"{told}\n")) == (2, True)


def test_upstream_files_can_have_their_own_directory(tools: Path, line: Line) -> None:
    upstreams = tools.parent / "upstreams"
    upstreams.mkdir()
    assert line("check", "--upstreams", "upstreams")[0] == 1
    (tools / "shop.upstream.yaml").rename(upstreams / "shop.upstream.yaml")
    assert line("check", "--upstreams", "upstreams") == (0, "6 tools, 1 upstream, no problems\n", "")


def test_a_directory_without_tool_files_is_a_usage_error(tmp_path: Path, line: Line) -> None:
    (tmp_path / "empty").mkdir()
    code, _, err = line("check", str(tmp_path / "empty"))
    assert (code, err.startswith("Error: no tool files in ")) == (2, True)


def test_tools_blocked_by_an_upstream_file_with_errors_are_counted(tools: Path, line: Line) -> None:
    (tools / "shop.upstream.yaml").write_text("baseurl: http://x.example\n")
    (tools / "get_order.yaml").write_text("enabled: false\n" + (tools / "get_order.yaml").read_text())
    _, out, _ = line("check")
    assert "\n6 tools" not in out
    assert "5 tools (5 not served while the upstream file has errors, 1 disabled), no upstreams, " in out


def test_a_folder_or_a_tools_directory_can_own_tool_names(tools: Path, line: Line) -> None:
    settings = tools.parent / "restbridge.yaml"
    (tools / "orders").mkdir()
    (tools / "get_order.yaml").rename(tools / "orders" / "get_order.yaml")
    settings.write_text("owners: {get_order: orders/, '*': tools.d, 'x*': ../elsewhere}\n")
    code, out, _ = line("check", "--config", "restbridge.yaml")
    assert (code, out.splitlines()) == (
        0,
        [
            'restbridge.yaml:1:44: warning: no tool has the name "x*"; correct the pattern [unused-owner]',
            "restbridge.yaml:1:50: warning: there are no tool files in tools.d/../elsewhere; name the folder that has them [unused-owner]",
            "6 tools, 1 upstream, 2 warnings",
        ],
    )
    (tools / "orders" / "get_order.yaml").rename(tools / "get_order.yaml")
    code, out, _ = line("check", "--config", "restbridge.yaml")
    assert code == 1
    assert "error: the name get_order is reserved for files in tools.d/orders; " in out
    settings.write_text("owners: {'*': upstreams}\n")
    (tools.parent / "upstreams").mkdir()
    (tools / "shop.upstream.yaml").rename(tools.parent / "upstreams" / "shop.upstream.yaml")
    code, out, _ = line("check", "--config", "restbridge.yaml", "--upstreams", "upstreams")
    assert out.count("[foreign-name]") == 6


def test_with_several_tools_directories_an_owner_needs_a_path(tools: Path, line: Line) -> None:
    settings = tools.parent / "restbridge.yaml"
    (tools.parent / "more" / "tools.d").mkdir(parents=True)
    settings.write_text("tools: [tools.d, more]\nowners: {get_order: orders}\n")
    code, _, err = line("check", "--config", "restbridge.yaml")
    problem = "owners: orders is in no directory of tool files; write its path, for example tools.d/orders"
    assert (code, err) == (2, f"Error: {problem}\n")
    settings.write_text("tools: [tools.d, more]\nowners: {get_order: more/tools.d}\n")
    code, out, _ = line("check", "--config", "restbridge.yaml")
    assert "get_order is reserved for files in more/tools.d; " in out
