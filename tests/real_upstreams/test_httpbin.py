"""httpbin behind gunicorn: every method, status, encoding, body and way to authenticate."""

import base64
import json
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import httpx
import pytest
from mcp import Client
from mcp.types import BlobResourceContents, EmbeddedResource, ImageContent, TextContent

from tests.real_upstreams.processes import HERE, ROOT, Bridge, program, running, text_of, url_in

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

PASSWORD = "correct-horse"
TOKEN = "bearer-of-good-news"
KEY = "the-key-to-it-all"


@pytest.fixture(scope="module")
def httpbin() -> Iterator[str]:
    gunicorn = program("gunicorn", ROOT / ".ci/httpbin/bin")
    command = (gunicorn, "--bind=127.0.0.1:0", "--threads=8", "--no-control-socket", "httpbin:app")
    with running(*command, ready="Listening at: ") as line:
        yield url_in(line)


@pytest.fixture(scope="module")
async def bridge(httpbin: str) -> AsyncIterator[Bridge]:
    """The bridge, over HTTP."""
    command = (sys.executable, "-m", "bridge", "serve", "--http", "0", HERE / "httpbin")
    env = {
        "HTTPBIN_URL": httpbin,
        "HTTPBIN_PASSWORD": PASSWORD,
        "HTTPBIN_TOKEN": TOKEN,
        "HTTPBIN_KEY": KEY,
    }
    with running(*command, ready="/mcp", env=env) as line:
        async with Client(url_in(line)) as client:
            yield Bridge(client)


def direct(url: str) -> bytes:
    """What httpbin answers without the bridge."""
    return httpx.get(url, trust_env=False).content


# --- methods ---


async def test_get_sends_its_arguments_in_the_query(bridge: Bridge) -> None:
    arguments: dict[str, Any] = {"tag": ["a b", "ü&=+"], "page": 2, "trace": "é"}
    result = await bridge.json("echo_get", **arguments)
    assert result == {
        "args": {"fixed": "1", "tag": ["a b", "ü&=+"], "page": "2"},
        "trace": "trace é",
        "team": "platform",
    }


async def test_head_is_answered_with_its_headers(bridge: Bridge) -> None:
    assert await bridge.json("echo_head") == {"status": 200, "type": "application/json", "body": None}


async def test_options_is_answered_with_what_is_allowed(bridge: Bridge) -> None:
    assert sorted((await bridge.json("echo_options")).split(", ")) == ["OPTIONS", "POST"]


async def test_post_sends_its_arguments_as_json(bridge: Bridge) -> None:
    order = {
        "name": "Zoë ☃ \U0001f600",
        "count": 2**60,
        "price": 0.1,
        "note": None,
        "lines": [{"n": 1}, {"n": [None, True]}],
    }
    expected = {"json": order | {"urgent": False}, "type": "application/json"}
    assert await bridge.json("echo_post", **order) == expected


@pytest.mark.parametrize("document", [{"a": [1, 2.5]}, [1], "text", 12345678901234567890, True, [], {}])
async def test_put_sends_a_document_of_any_type(bridge: Bridge, document: object) -> None:
    assert await bridge.json("echo_put", document=document) == document


async def test_put_sends_a_null(bridge: Bridge) -> None:
    found, doubt = (await bridge.call("echo_put", document=None)).content
    assert isinstance(found, TextContent)
    assert found.text == "null"
    assert isinstance(doubt, TextContent)
    assert "nothing but null" in doubt.text


async def test_patch_leaves_out_what_is_absent_and_sends_null(bridge: Bridge, httpbin: str) -> None:
    result = await bridge.json("echo_patch", id="a b", title=None)
    assert result == {
        "method": "PATCH",
        "url": f"{httpbin}/anything/records/a%20b",
        "data": '{"changes":{"title":null,"owner":{}},"by":"bridge"}',
        "type": "application/merge-patch+json",
    }


async def test_delete_sends_its_arguments_in_the_query(bridge: Bridge, httpbin: str) -> None:
    result = await bridge.json("echo_delete", id=7, purge=True)
    url = f"{httpbin}/anything/records/7?purge=true"
    assert result == {"method": "DELETE", "args": {"purge": "true"}, "path": url}


# --- bodies ---


async def test_a_form_is_sent_as_one(bridge: Bridge) -> None:
    result = await bridge.json("post_form", name="Zoë & Co", topping=["bacon", "onion"], comments="a=b\n+1")
    assert result == {
        "form": {"name": "Zoë & Co", "topping": ["bacon", "onion"], "comments": "a=b\n+1"},
        "type": "application/x-www-form-urlencoded",
    }


async def test_files_are_sent_as_parts(bridge: Bridge) -> None:
    picture = base64.b64encode(bytes(range(256))).decode()
    result = await bridge.json("post_multipart", text="Zoë\r\n--x--", filename='a "b".txt', picture=picture)
    assert result == {
        "files": {"text": "Zoë\r\n--x--", "picture": f"data:image/png;base64,{picture}"},
        "form": {},
    }
    result = await bridge.json("post_multipart", text="", picture="", note="line\nline")
    assert result == {"files": {"text": "", "picture": ""}, "form": {"note": "line\nline"}}


async def test_plain_text_is_sent_in_its_frame(bridge: Bridge) -> None:
    result = await bridge.json("post_text", text="Zoë {was} here")
    assert result == {"data": "Dear server,\nZoë {was} here\n", "type": "text/plain; charset=utf-8"}


async def test_bytes_are_sent_as_they_are(bridge: Bridge) -> None:
    content = base64.b64encode(b"\x00\xff\xfe raw").decode()
    assert (
        await bridge.json("post_binary", content=content) == f"data:application/octet-stream;base64,{content}"
    )
    code, text = await bridge.error("post_binary", content="no base64!")
    assert (code, "content" in text) == ("not-base64", True)


# --- statuses ---


@pytest.mark.parametrize("code", [200, 201, 202, 203, 206])
async def test_an_empty_success_is_said_in_a_sentence(bridge: Bridge, code: int) -> None:
    assert str(code) in await bridge.text("get_status", code=code)
    assert str(code) in await bridge.text("post_status", code=code)


async def test_no_content_is_said_in_a_sentence(bridge: Bridge) -> None:
    assert "204" in await bridge.text("get_status", code=204)


@pytest.mark.parametrize(
    "code",
    [300, 301, 304, 307, 400, 401, 402, 403, 404, 406, 409, 410, 418, 422, 429, 500, 501, 502, 503, 504, 599],
)
async def test_every_other_status_is_an_error_with_its_code(bridge: Bridge, code: int) -> None:
    name, text = await bridge.error("get_status", code=code)
    assert name == f"http-{code}"
    assert text


async def test_an_error_says_what_the_tool_file_says(bridge: Bridge) -> None:
    _, text = await bridge.error("get_status", code=404)
    assert text.startswith("Nothing is there. Try 200.")
    _, text = await bridge.error("get_status", code=410)
    assert text.startswith("The request was wrong.")
    _, text = await bridge.error("get_status", code=418)
    assert "teapot ]" not in text


async def test_an_expected_status_is_an_answer(bridge: Bridge) -> None:
    for code in (200, 404, 500, 502):
        assert await bridge.json("find_or_none", code=code) == {"found": code == 200, "status": code}
    name, _ = await bridge.error("find_or_none", code=403)
    assert name == "http-403"


# --- encodings, time and size ---


async def test_a_compressed_reply_is_read(bridge: Bridge) -> None:
    assert await bridge.json("get_gzip") is True


@pytest.mark.parametrize("encoding", ["deflate", "brotli"])
async def test_an_encoding_that_was_not_asked_for_is_refused(bridge: Bridge, encoding: str) -> None:
    code, text = await bridge.error(f"get_{encoding}")
    assert (code, "another encoding than gzip" in text) == ("bad-encoding", True)


async def test_a_slow_reply_is_waited_for_within_the_timeout(bridge: Bridge, httpbin: str) -> None:
    assert await bridge.json("get_delay", seconds=0.1) == f"{httpbin}/delay/0.1"
    assert await bridge.text("get_drip") == "*****"
    assert await bridge.text("get_drip", numbytes=3, duration=0.2, delay=0.1, code=201) == "***"


async def test_a_reply_that_takes_too_long_is_given_up(bridge: Bridge) -> None:
    code, text = await bridge.error("get_delay", seconds=4)
    assert (code, "2" in text) == ("timeout", True)
    code, _ = await bridge.error("get_drip", numbytes=8, duration=4)
    assert code == "timeout"


async def test_calls_beyond_the_limit_wait_their_turn_and_no_longer(bridge: Bridge) -> None:
    codes: list[str] = []

    async def call() -> None:
        result = await bridge.call("get_delay", seconds=1)
        codes.append("ok" if not result.is_error else (result.meta or {})["restbridge/error"])

    async with anyio.create_task_group() as calls:
        for _ in range(3):
            calls.start_soon(call)
    assert sorted(codes) == ["busy", "busy", "ok"]


async def test_a_reply_beyond_its_bound_is_refused(bridge: Bridge) -> None:
    for tool in ("get_bytes", "get_stream_bytes"):
        code, text = await bridge.error(tool, count=4001)
        assert (code, "4" in text) == ("reply-too-large", True)


async def test_of_a_long_list_whole_items_are_kept(bridge: Bridge) -> None:
    items = [{"number": n, "text": "x" * 80} for n in range(50)]
    result = await bridge.call("long_list", items=items)
    assert not result.is_error
    note, _, kept = text_of(result).partition("\n")
    assert "showing 8 of 50 items" in note
    assert json.loads(kept) == items[:8]


# --- redirects ---


async def test_a_redirect_is_not_followed(bridge: Bridge) -> None:
    code, text = await bridge.error("follow_redirect", url="http://169.254.169.254/latest")
    assert code == "http-302"
    assert text


async def test_a_redirect_can_be_the_answer(bridge: Bridge) -> None:
    expected = {"status": 302, "location": "/relative-redirect/1"}
    assert await bridge.json("read_redirect", hops=2) == expected


# --- authentication ---


async def test_basic_authentication_is_sent(bridge: Bridge) -> None:
    assert await bridge.json("basic_user") == {"authenticated": True, "user": "robot"}
    code, _ = await bridge.error("basic_user", user="somebody")
    assert code == "http-401"


async def test_a_bearer_token_is_sent_and_hidden_from_the_model(bridge: Bridge) -> None:
    result = await bridge.json("bearer_token")
    assert result["authenticated"] is True
    assert TOKEN not in result["token"]


async def test_an_api_key_goes_where_it_belongs_and_is_hidden_from_the_model(bridge: Bridge) -> None:
    header = await bridge.json("header_key", q="x")
    query = await bridge.json("query_key", q="x")
    cookie = await bridge.json("cookie_key", q="x")
    hidden = header["key"]
    assert hidden
    assert KEY not in str((header, query, cookie))
    assert (header["args"], header["cookie"]) == ({"q": "x"}, "theme=dark")
    assert (query["args"], query["cookie"]) == ({"q": "x", "api_key": hidden}, "theme=dark")
    assert set(cookie["cookie"].split("; ")) == {"theme=dark", f"session={hidden}"}


# --- content ---


@pytest.mark.parametrize(
    ("format_", "media_type"),
    [("png", "image/png"), ("jpeg", "image/jpeg"), ("webp", "image/webp")],
)
async def test_a_picture_is_an_image(bridge: Bridge, httpbin: str, format_: str, media_type: str) -> None:
    (block,) = (await bridge.call("get_image", format=format_)).content
    assert isinstance(block, ImageContent)
    assert block.mime_type == media_type
    assert base64.b64decode(block.data) == direct(f"{httpbin}/image/{format_}")


async def test_a_drawing_is_text_as_models_cannot_see_it(bridge: Bridge, httpbin: str) -> None:
    assert await bridge.text("get_image", format="svg") == direct(f"{httpbin}/image/svg").decode()


async def test_the_server_chooses_a_picture_by_what_we_accept(bridge: Bridge) -> None:
    (block,) = (await bridge.call("choose_image")).content
    assert isinstance(block, ImageContent)
    assert block.mime_type.startswith("image/")


@pytest.mark.parametrize("tool", ["get_bytes", "get_stream_bytes"])
async def test_bytes_are_a_resource(bridge: Bridge, httpbin: str, tool: str) -> None:
    (block,) = (await bridge.call(tool, count=100, seed=3)).content
    assert isinstance(block, EmbeddedResource)
    assert isinstance(block.resource, BlobResourceContents)
    assert str(block.resource.uri).startswith(f"restbridge://{tool}/")
    assert block.resource.mime_type == "application/octet-stream"
    expected = direct(f"{httpbin}/bytes/100?seed=3")
    assert base64.b64decode(block.resource.blob) == expected


async def test_a_part_of_a_text_is_asked_for(bridge: Bridge) -> None:
    assert await bridge.text("get_range") == "abcde"
    assert await bridge.text("get_range", last=25) == "abcdefghijklmnopqrstuvwxyz"


@pytest.mark.parametrize("page", ["html", "xml", "robots.txt", "encoding/utf8", "deny", "stream/2"])
async def test_a_page_is_given_as_text(bridge: Bridge, httpbin: str, page: str) -> None:
    text = await bridge.text("get_page", page=page)
    if page == "stream/2":
        assert [line[:8] for line in text.splitlines()] == ['{"url": ', '{"url": ']
    else:
        assert text == direct(f"{httpbin}/{page}").decode()


@pytest.mark.parametrize("page", ["html", "xml", "robots.txt", "encoding/utf8", "base64/w6nDqQ=="])
async def test_what_is_text_by_its_type_is_text(bridge: Bridge, httpbin: str, page: str) -> None:
    assert await bridge.text("get_page_auto", page=page) == direct(f"{httpbin}/{page}").decode()


async def test_two_documents_in_one_reply_are_no_json(bridge: Bridge) -> None:
    code, text = await bridge.error("get_page_auto", page="stream/2")
    assert (code, "application/json" in text) == ("not-json", True)


async def test_a_path_cannot_leave_its_place(bridge: Bridge, httpbin: str) -> None:
    for page in ("../status/500", "html/../xml", "%2e%2e/x", ""):
        code, _ = await bridge.error("get_page_auto", page=page)
        assert code in ("unsafe-argument", "invalid-arguments")
    assert (
        await bridge.json("any_path", one="a/b?c", segments=["d e", "é"])
        == f"{httpbin}/anything/a/b%3Fc/d%20e/é"
    )
    assert await bridge.json("any_path", one="x") == f"{httpbin}/anything/x"


async def test_every_style_of_query_arrives(bridge: Bridge) -> None:
    result = await bridge.json("search", words=["a", "b c"], where={"color": "red", "size": "1"})
    assert result["args"] == {
        "comma": "a,b c",
        "space": "a b c",
        "pipe": "a|b c",
        "where[color]": "red",
        "where[size]": "1",
        "range[gte]": ["a", "b c"],
    }


# --- headers and cookies ---


async def test_cookies_are_sent_and_none_is_kept(bridge: Bridge) -> None:
    assert await bridge.json("show_cookies", theme="dark") == {"theme": "dark", "lang": "en"}
    assert (await bridge.json("set_cookie")).startswith("owner=alice;")
    assert await bridge.json("show_cookies") == {"lang": "en"}


async def test_headers_of_the_reply_are_read(bridge: Bridge) -> None:
    assert await bridge.json("response_headers", x_total=["12"]) == {"status": 200, "total": "12"}
    assert await bridge.json("response_headers", x_total=["1", "2"]) == {"status": 200, "total": "1, 2"}


async def test_a_conditional_request_is_answered(bridge: Bridge, httpbin: str) -> None:
    url = f"{httpbin}/etag/v7"
    assert await bridge.json("get_if_changed") == {"status": 200, "etag": "v7", "url": url}
    assert await bridge.json("get_if_changed", etag="v7") == {"status": 304, "etag": "v7", "url": None}


async def test_what_is_fixed_once_for_a_call_is_the_same_everywhere(bridge: Bridge) -> None:
    first, second = await bridge.json("once"), await bridge.json("once")
    assert first["key"] == first["sent"]
    assert second["key"] == second["sent"] != first["key"]
    assert first["at"].endswith("Z")


# --- structure ---


async def test_structure_is_checked_and_sent(bridge: Bridge) -> None:
    result = await bridge.call("get_uuid")
    assert result.structured_content
    assert result.structured_content.keys() == {"uuid"}
    result = await bridge.call("list_slides")
    assert result.structured_content == {"result": ["Wake up to WonderWidgets!", "Overview"]}


async def test_a_reply_that_departs_from_its_schema_is_told_with_what_was_done(bridge: Bridge) -> None:
    result = await bridge.call("drifted", name="x")
    assert (result.is_error, result.structured_content) == (True, None)
    assert result.meta
    assert (result.meta["restbridge/error"], result.meta["restbridge/executed"]) == ("result-drift", True)
    what, data = (block.text for block in result.content if isinstance(block, TextContent))
    assert what.startswith("The request was carried out (200). Do not repeat it.")
    assert "id" in what
    assert json.loads(data) == {"name": "x"}


async def test_an_upstream_can_write_content_blocks_itself(bridge: Bridge) -> None:
    picture = base64.b64encode(b"png").decode()
    image = {"type": "image", "data": picture, "mimeType": "image/png"}
    result = await bridge.call("blocks", blocks=[{"type": "text", "text": "Here:"}, image])
    assert [block.type for block in result.content] == ["text", "image"]
    code, _ = await bridge.error("blocks", blocks=[{"type": "teapot"}])
    assert code == "invalid-blocks"
