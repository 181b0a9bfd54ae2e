import json
import os
import pwd
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from bridge.commands.call import _user
from tests.commands.conftest import Line

LINES = 'lines:=[{"product_id": "p-107", "quantity": 2}]'


@pytest.fixture(autouse=True)
def _shop(shop: str, tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tools.is_dir()
    monkeypatch.setenv("SHOP_API_URL", shop)


def test_the_text_is_what_the_model_reads(line: Line) -> None:
    code, out, err = line("call", "get_product", "product_id=p-103")
    assert (code, err) == (0, "")
    assert json.loads(out)["price"] == "89.00 EUR"


def test_an_error_of_the_api_is_printed_and_exits_with_1(line: Line) -> None:
    code, out, _ = line("call", "get_order", "order_id=o-9999")
    assert code == 1
    assert "No order has that number. Ask for the number on the receipt." in out
    assert "There is no order 'o-9999'." in out


def test_json_is_the_whole_result(line: Line) -> None:
    code, out, _ = line("call", "get_product", "product_id=p-103", "--format", "json")
    result = json.loads(out)
    assert (code, result["isError"]) == (0, False)
    assert result["structuredContent"]["name"] == "Copper Kettle"
    assert json.loads(result["content"][0]["text"]) == result["structuredContent"]


class _Spoofing(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = '{"id": "a\x9b31m\u202eb\u200bc\u2028d"}'.encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  as in the base class
        """Nothing is logged."""


def test_json_for_a_terminal_is_the_same_json_of_visible_characters(line: Line, tools: Path) -> None:
    with HTTPServer(("127.0.0.1", 0), _Spoofing) as api:
        Thread(target=api.handle_request, daemon=True).start()
        (tools / "spoof.upstream.yaml").write_text(
            f"baseUrl: http://127.0.0.1:{api.server_port}\nauth: {{type: none}}\n"
        )
        (tools / "spoof.yaml").write_text(
            "description: d\nupstream: spoof\nrequest: {method: GET, url: /x}\noutputSchema: {type: object}\n"
        )
        code, out, err = line("call", "spoof", "--format", "json")
    assert (code, err) == (0, "")
    assert json.loads(out)["structuredContent"] == {"id": "a\x9b31m\u202eb\u200bc\u2028d"}
    assert out.replace("\n", "").isascii()


def test_an_error_carries_its_code(line: Line) -> None:
    code, out, _ = line("call", "get_order", "order_id=o-9999", "--format", "json")
    result = json.loads(out)
    assert (code, result["isError"]) == (1, True)
    assert result["_meta"]["restbridge/error"]


def test_raw_is_the_unchanged_reply(line: Line) -> None:
    code, out, _ = line("call", "get_order", "order_id=o-1001", "--format", "raw")
    head, _, body = out.partition("\n\n")
    assert (code, head.splitlines()[0]) == (0, "200")
    assert "content-type: application/json" in head.splitlines()
    assert "lines" in json.loads(body)
    code, out, _ = line("call", "get_order", "order_id=o-9999", "--format", "raw")
    assert (code, out.splitlines()[0]) == (0, "404")
    code, out, _ = line("call", "get_order", "order_id=../x", "--format", "raw")
    assert (code, out.startswith("The arguments do not fit this tool")) == (1, True)


def test_an_unsafe_call_is_sent(line: Line) -> None:
    placed = json.loads(line("call", "create_order", "customer_id=c-110", LINES)[1])
    assert placed["total"] == "30.70 EUR"
    assert json.loads(line("call", "get_order", f"order_id={placed['order_id']}")[1])["status"] == "pending"


@pytest.mark.parametrize(
    ("block", "shown"),
    [
        ("type: 'image', data: 'iVBORw0KGgo=', mimeType: 'image/png'", "[image image/png]"),
        ("type: 'resource', resource: {uri: 'x:y', blob: 'AAAA', mimeType: 'a/b'}", "[resource a/b]"),
        ("type: 'resource', resource: {uri: 'x:y', text: 'a, b'}", "a, b"),
        ("type: 'resource_link', uri: 'x:y', name: 'z'", "[resource_link x:y]"),
    ],
)
def test_a_block_is_printed_as_its_text_or_its_type(tools: Path, line: Line, block: str, shown: str) -> None:
    (tools / "blocks.yaml").write_text(
        "description: Blocks.\nupstream: shop\nrequest: {method: GET, url: /api/products}\n"
        f"""response: {{content: blocks, jmespath: "[{{{block}}}]"}}\n"""
    )
    assert line("call", "blocks") == (0, f"{shown}\n", "")


def test_a_directory_instead_of_an_argument_gets_a_hint(line: Line) -> None:
    code, _, err = line("call", "get_order", "order_id=o-1001", "tools.d")
    assert code == 2
    assert err.endswith(
        "'tools.d' is not an argument; to take the tools of that directory, write --tools tools.d\n"
    )


NOTE = ("call", "add_customer_note", "customer_id=c-101", "text=Secret.", "--config", "restbridge.yaml")


def audited(*words: str) -> list[tuple[object, ...]]:
    lines = [json.loads(line) for line in Path("audit.jsonl").read_text().splitlines()]
    return [tuple(line.get(word) for word in words) for line in lines]


def test_a_call_that_may_change_something_is_recorded(line: Line) -> None:
    Path("restbridge.yaml").write_text("audit: audit.jsonl\n")
    assert line("call", "get_product", "product_id=p-103", "--config", "restbridge.yaml")[0] == 0
    assert not Path("audit.jsonl").exists()
    assert line(*NOTE, "--caller", "ann")[0] == 0
    assert line(*NOTE, "--format", "raw")[0] == 0
    assert line(*NOTE[:2], "customer_id=c-999", *NOTE[3:], "--format", "raw")[0] == 0
    assert audited("event", "outcome", "by", "caller") == [
        ("call-started", None, "command-line", "ann"),
        ("call", "ok", "command-line", "ann"),
        ("call-started", None, "command-line", None),
        ("call", "ok", "command-line", None),
        ("call-started", None, "command-line", None),
        ("call", "http-404", "command-line", None),
    ]
    assert len(set(audited("call"))) == 3
    assert "Secret" not in Path("audit.jsonl").read_text()


def test_with_required_audit_a_call_that_cannot_be_recorded_is_not_made(line: Line) -> None:
    Path("audit.jsonl").mkdir()
    Path("restbridge.yaml").write_text("audit: {file: audit.jsonl, required: true}\n")
    code, out, err = line(*NOTE)
    assert (code, out) == (2, "")
    assert err.endswith(
        "the call was not made: the audit file audit.jsonl cannot be written: Is a directory\n"
    )
    Path("restbridge.yaml").write_text("audit: audit.jsonl\n")
    code, out, err = line(*NOTE)
    assert (code, "note_id" in out) == (0, True)
    assert err == "the call is not recorded: the audit file audit.jsonl cannot be written: Is a directory\n"


def test_the_user_is_recorded_by_name_or_by_id() -> None:
    assert _user(os.getuid())["user"] == pwd.getpwuid(os.getuid()).pw_name
    assert _user(2**31 - 5)["user"] == "2147483643"
