import json
from pathlib import Path

import pytest

from bridge import __version__
from tests.commands.conftest import Line

SECRETS = {"ONE": "s3cret-one", "TWO": "s3cret two/&"}


@pytest.mark.usefixtures("tools")
def test_the_whole_request_is_shown_without_its_secret(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_API_URL", "https://shop.example/v2")
    monkeypatch.setenv("SHOP_API_KEY", "a-real-key")
    assert line("explain", "add_customer_note", "customer_id=c-101", "text=Zoë") == (
        0,
        f"""\
POST https://shop.example/v2/api/customers/c-101/notes
Host: shop.example
Content-Length: 15
Accept: application/json, */*;q=0.5
Content-Type: application/json
User-Agent: restbridge/{__version__}
Accept-Encoding: gzip
Authorization: Bearer [hidden]

{{"text":"Zoë"}}

customer_id → path
text → body /text
""",
        "",
    )


@pytest.mark.usefixtures("tools")
def test_an_omitted_argument_is_not_sent(line: Line) -> None:
    _, out, _ = line("explain", "list_products")
    assert "/api/products?limit=20\n" in out
    assert out.endswith("category → not sent\nlimit → query (by default)\n")


@pytest.mark.usefixtures("tools")
def test_json_describes_the_request(line: Line) -> None:
    words = ("create_order", "customer_id=c-101", 'lines:=[{"product_id": "p-107", "quantity": 2}]')
    request = json.loads(line("explain", *words, "--format", "json")[1])
    assert (request["method"], request["headers"]["Authorization"]) == ("POST", "Bearer [hidden]")
    assert json.loads(request["body"])["lines"] == [{"product_id": "p-107", "quantity": 2}]
    assert request["arguments"]["lines"] == ["body (by default)"]


@pytest.mark.usefixtures("tools")
def test_invalid_arguments_exit_with_1(line: Line) -> None:
    code, out, _ = line("explain", "get_order", "order_id=1001")
    assert code == 1
    assert "order_id" in out


@pytest.mark.parametrize(
    ("auth", "shown"),
    [
        ('{type: http, scheme: basic, username: "${env:ONE}", password: "${env:TWO}"}', "Basic [hidden]"),
        ('{type: apiKey, in: header, name: X-Key, value: "${env:TWO}"}', "X-Key: [hidden]"),
        ('{type: apiKey, in: query, name: key, value: "${env:TWO}"}', "?limit=20&key=[hidden]"),
        ('{type: apiKey, in: cookie, name: key, value: "${env:ONE}"}', "Cookie: key=[hidden]"),
        ("{type: none}", "GET http://shop.example/api/products?limit=20\n"),
    ],
)
def test_no_authentication_scheme_shows_its_secret(
    tools: Path, line: Line, monkeypatch: pytest.MonkeyPatch, auth: str, shown: str
) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    (tools / "shop.upstream.yaml").write_text(
        f'baseUrl: http://shop.example\nauth: {auth}\nheaders: {{X-Tenant: "a ${{env:ONE}}"}}\n'
    )
    code, out, err = line("explain", "list_products")
    assert (code, err) == (0, "")
    assert shown in out
    assert "X-Tenant: a [hidden]" in out
    assert "s3cret" not in out


def test_a_body_that_is_not_text_is_shown_by_its_length(tmp_path: Path, line: Line) -> None:
    (tmp_path / "upload.yaml").write_text(
        "description: Upload.\n"
        "inputSchema: {properties: {data: {type: string}}, required: [data]}\n"
        "request: {method: PUT, url: http://files.example/f, contentType: application/octet-stream,"
        ' body: {value: "{data}", encoding: base64}}\n'
    )
    _, out, _ = line("explain", "upload", "data=//8=", "--tools", str(tmp_path))
    assert "\n[2 bytes]\n" in out


@pytest.mark.usefixtures("tools")
def test_an_unknown_tool_is_a_usage_error_that_names_the_nearest_tool(line: Line) -> None:
    assert line("explain", "get_ordr") == (
        2,
        "",
        "Error: no tool is named get_ordr; did you mean get_order?\n",
    )
    assert line("explain", "x")[2] == "Error: no tool is named x; see restbridge list\n"


def test_a_tool_whose_file_has_errors_is_reported_with_them(tools: Path, line: Line) -> None:
    (tools / "get_order.yaml").write_text("description: Broken.\n")
    code, _, err = line("explain", "get_order")
    assert code == 2
    assert err.startswith("tools.d/get_order.yaml:1:1: error: ")
    assert err.endswith("\nError: get_order is not served: tools.d/get_order.yaml has errors\n")


def test_a_tool_that_waits_for_a_secret_is_reported_with_its_name(tools: Path, line: Line) -> None:
    upstream = tools / "shop.upstream.yaml"
    upstream.write_text(upstream.read_text().replace("SHOP_API_KEY:-demo-key", "NO_SUCH_VARIABLE"))
    (tools / "other.yaml").write_text("description: Broken.\n")
    code, _, err = line("explain", "get_order")
    told, error = err.splitlines()
    assert code == 2
    assert "the variable NO_SUCH_VARIABLE is not set" in told
    assert error.endswith("tools.d/get_order.yaml waits for a secret that is not set")


def test_the_caller_can_be_given_on_the_command_line(
    tools: Path, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_API_KEY", "x")
    (tools / "mine.yaml").write_text(
        "description: x\nupstream: shop\n"
        'request: {method: GET, url: "/of/{$caller}", headers: {X-Mail: "{$caller.email}"}}\n'
    )
    told = ("--caller", "ann b", "--claim", "email=a@b=c")
    code, out, _ = line("explain", "mine", *told)
    assert (code, out.splitlines()[0]) == (0, "GET http://127.0.0.1:8100/of/ann%20b")
    assert "X-Mail: a@b=c" in out
    for command in ("explain", "call"):
        code, out, _ = line(command, "mine")
        assert (code, out) == (
            1,
            "This tool needs the caller's identity, which is unknown. Tell the user, who may have to log in.\n",
        )
    code, _, err = line("explain", "mine", "--claim", "email")
    assert (code, "write NAME=TEXT" in err) == (2, True)
