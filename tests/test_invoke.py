"""Calls, start to end, against an upstream that answers what the test says."""

import asyncio
import threading
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, fields, replace
from typing import Self

import anyio
import pytest
from anyio import to_thread

from bridge.caller import NO_CALLER
from bridge.codec import decode, encode
from bridge.errors import NotSent
from bridge.events import CallFinished, CallStarted, Event, Listener
from bridge.invoke import fetch, invoke
from bridge.redaction import Redactor
from bridge.resolved_upstream import Upstream
from bridge.secrets import Sources
from bridge.spec import Json, ToolSpec, UpstreamSpec
from bridge.tool.compiler import Tool, compile_tool, compile_upstream
from bridge.tool.result.content import Result
from bridge.upstream.client import Client

pytestmark = pytest.mark.anyio

KEY = "a-very-secret-key"
ITEM = {"type": "object", "required": ["id"], "properties": {"id": {"type": "integer"}}}


@dataclass
class Bridge:
    """Calls tools whose upstream answers ``reply``, and keeps what is emitted."""

    client: Client
    reply: bytes = b""
    events: list[Event] = field(default_factory=list)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    heads: list[bytes] = field(default_factory=list)
    url: str = ""
    key: str = KEY

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.heads.append(await reader.readuntil(b"\r\n\r\n"))
        self.asked.set()
        if self.reply:
            writer.write(self.reply)
        else:
            await reader.read()
        writer.close()

    def says(self, body: Json = None, status: int = 200, *headers: str) -> None:
        content = body if isinstance(body, bytes) else encode(body)
        given = headers or ("Content-Type: application/json",)
        lines = [f"HTTP/1.1 {status} Said", f"Content-Length: {len(content)}", "Connection: close", *given]
        self.reply = "\r\n".join([*lines, "", ""]).encode() + content

    async def call(
        self, arguments: dict[str, Json] | None = None, emit: Listener | None = None, **words: Json
    ) -> Result:
        """Call a tool of these words."""
        return await invoke(self.tool(**words), arguments or {}, self.client, emit or self.events.append)

    def tool(self, **words: Json) -> Tool:
        """A tool of these words, under GET /x where they say nothing else."""
        auth = {"type": "http", "scheme": "bearer", "credentials": self.key}
        upstream = UpstreamSpec.model_validate({"baseUrl": self.url, "auth": auth})
        written = {"description": "Try.", "request": {"method": "GET", "url": "/x"}, **words}
        spec = ToolSpec.model_validate(written)
        sources = Sources({})
        tool, _ = compile_tool("try", spec, compile_upstream("api", upstream, sources), sources)
        return tool

    @property
    def finished(self) -> CallFinished:
        last = self.events[-1]
        assert isinstance(last, CallFinished)
        return last


@pytest.fixture
async def bridge() -> AsyncIterator[Bridge]:
    bridge = Bridge(Client())
    async with await asyncio.start_server(bridge.answer, "127.0.0.1") as server:
        bridge.url = "http://{}:{}".format(*server.sockets[0].getsockname()[:2])
        yield bridge
        await bridge.client.aclose()


def words(result: Result) -> str:
    text = result.content[0]["text"]
    assert isinstance(text, str)
    return text


POST = {"method": "POST", "url": "/x"}


async def test_a_reply_is_given_as_compact_json(bridge: Bridge) -> None:
    bridge.says(b'{ "a": [1, 2],\n "b": "\xc3\xbc" }')
    result = await bridge.call()
    assert (words(result), result.is_error, result.meta) == ('{"a":[1,2],"b":"ü"}', False, {})
    assert bridge.finished.outcome == "ok"
    assert (bridge.finished.tool, bridge.finished.upstream, bridge.finished.status) == ("try", "api", 200)


async def test_a_projection_picks_what_the_model_sees(bridge: Bridge) -> None:
    bridge.says({"items": [{"id": 1, "secret": 2}]})
    result = await bridge.call(response={"jmespath": "items[].id"})
    assert words(result) == "[1]"


async def test_a_projection_may_see_the_whole_reply(bridge: Bridge) -> None:
    bridge.says({"id": 7}, 201, "Content-Type: application/json", "Location: /x/7")
    response = {"from": "reply", "jmespath": "[status, headers.location, body.id]"}
    assert words(await bridge.call(request=POST, response=response)) == '[201,"/x/7",7]'


async def test_head_answers_with_status_and_headers(bridge: Bridge) -> None:
    bridge.says(b"", 200, "X-Total-Count: 12")
    request = {"method": "HEAD", "url": "/x"}
    result = await bridge.call(request=request, response={"jmespath": 'headers."x-total-count"'})
    assert words(result) == '"12"'


async def test_an_empty_reply_is_a_sentence_also_under_a_projection(bridge: Bridge) -> None:
    bridge.reply = b"HTTP/1.1 204 Done\r\nConnection: close\r\n\r\n"
    result = await bridge.call(response={"jmespath": "id"})
    assert "204" in words(result)
    assert not result.is_error


async def test_an_output_schema_gives_structured_content_and_the_same_text(bridge: Bridge) -> None:
    bridge.says({"id": 1})
    result = await bridge.call(outputSchema=ITEM)
    assert (result.structured, words(result)) == ({"id": 1}, '{"id":1}')


async def test_an_empty_reply_is_null_to_an_output_schema(bridge: Bridge) -> None:
    bridge.reply = b"HTTP/1.1 204 Done\r\nConnection: close\r\n\r\n"
    result = await bridge.call(outputSchema={"type": ["object", "null"]})
    assert result.structured == {"result": None}


async def test_a_reply_that_departs_from_its_schema_is_an_error_with_the_data(bridge: Bridge) -> None:
    bridge.says({"id": "one"})
    result = await bridge.call(outputSchema=ITEM)
    assert result.meta["restbridge/error"] == bridge.finished.outcome == "result-drift"
    assert result.content[1]["text"] == '{"id":"one"}'
    bridge.says({"id": "\x7f" * 40_000})  # less than maxBytes as it came, more as it would be shown
    assert len((await bridge.call(outputSchema=ITEM)).content) == 1
    assert "restbridge/executed" not in result.meta


async def test_arguments_that_do_not_fit_are_not_sent(bridge: Bridge) -> None:
    result = await bridge.call({"limit": "many"}, inputSchema={"properties": {"limit": {"type": "integer"}}})
    assert result.meta == {"restbridge/error": "invalid-arguments"}
    assert bridge.heads == []
    assert bridge.finished.status is None


async def test_a_status_is_told_in_the_words_of_the_tool_file(bridge: Bridge) -> None:
    bridge.says({"detail": "no such thing"}, 404)
    result = await bridge.call(errors={"404": "Look elsewhere."})
    assert words(result) == "Look elsewhere. The API says: no such thing"
    assert bridge.finished.outcome == "http-404"


async def test_a_status_that_is_valid_here_is_a_success(bridge: Bridge) -> None:
    bridge.says({"known": False}, 404)
    result = await bridge.call(response={"validStatus": ["2xx", 404]})
    assert (words(result), result.is_error) == ('{"known":false}', False)


async def test_a_wait_that_the_api_asks_for_is_passed_on(bridge: Bridge) -> None:
    bridge.says({}, 429, "Retry-After: 99999999999999999999999")
    result = await bridge.call(retries={"max": 0})
    assert "86400 seconds" in words(result)


@pytest.mark.parametrize(
    ("body", "response"),
    [
        (b"<p>", {}),
        (b"[1,", {"content": "json"}),
        (b'{"a":1}', {"jmespath": "sort(a)"}),
        (b"[%s,%s]" % (b"9" * 4300, b"9" * 4300), {"jmespath": "sum(@)"}),
        (encode(["x" * 90] * 40), {"jmespath": "join('', @)", "maxBytes": "1kB"}),
    ],
)
async def test_what_fails_after_an_unsafe_request_was_done_says_so(
    bridge: Bridge, body: bytes, response: Json
) -> None:
    bridge.says(body, 201)
    result = await bridge.call(request=POST, response=response)
    assert result.is_error
    assert words(result).startswith("The request was carried out (201). Do not repeat it.")
    assert result.meta["restbridge/executed"] is True


async def test_a_reply_too_large_to_be_read_leaves_an_unsafe_request_done(bridge: Bridge) -> None:
    bridge.says(b"x" * 2000, 201)
    result = await bridge.call(request=POST, maxBytes="1kB")
    assert result.meta == {"restbridge/error": "reply-too-large", "restbridge/executed": True}


async def test_after_an_unsafe_request_nobody_is_told_how_to_call_again(bridge: Bridge) -> None:
    bridge.says(b"x" * 2000, 201)
    asked = await bridge.call(request=POST, maxBytes="1kB")
    assert words(asked).endswith("The reply of the API server is larger than maxBytes allows: 1000 bytes.")
    bridge.says(b"x" * 2000, 200)
    assert words(await bridge.call(maxBytes="1kB")).endswith(
        "Ask for less, if this tool's arguments can; otherwise tell the user."
    )


async def test_a_failure_too_large_to_be_read_leaves_it_open(bridge: Bridge) -> None:
    bridge.says(b"x" * 2000, 500)
    result = await bridge.call(request=POST, maxBytes="1kB")
    assert "restbridge/executed" not in result.meta
    assert words(result).endswith("It may have been carried out; check before repeating.")


@pytest.mark.parametrize("status", [408, 500, 502, 504])
async def test_a_failure_or_a_gateway_leaves_open_what_became_of_an_unsafe_request(
    bridge: Bridge, status: int
) -> None:
    bridge.says({}, status)
    result = await bridge.call(request=POST)
    assert words(result).endswith("It may have been carried out; check before repeating.")


async def test_a_refusal_of_an_unsafe_request_says_nothing_of_being_carried_out(bridge: Bridge) -> None:
    bridge.says({}, 422)
    assert "carried out" not in words(await bridge.call(request=POST))


async def test_a_reply_that_is_cut_leaves_open_what_became_of_an_unsafe_request(bridge: Bridge) -> None:
    bridge.reply = b"HTTP/1.1 201 Created\r\nContent-Length: 5\r\n\r\n{"
    result = await bridge.call(request=POST)
    assert result.meta["restbridge/error"] == "reply-cut"
    assert words(result).endswith("It may have been carried out; check before repeating.")


async def test_an_empty_reply_without_a_length_says_that_an_unsafe_request_was_carried_out(
    bridge: Bridge,
) -> None:
    bridge.reply = b"HTTP/1.1 201 Created\r\n\r\n"
    result = await bridge.call(request=POST)
    assert result.meta == {"restbridge/error": "incomplete-reply", "restbridge/executed": True}
    assert words(result).startswith(
        "The request was carried out (201). Do not repeat it. The API's reply may be incomplete"
    )


async def test_of_a_safe_request_that_was_not_answered_it_is_said_that_it_changed_nothing(
    bridge: Bridge,
) -> None:
    bridge.reply = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{"
    assert words(await bridge.call()).endswith("It changed nothing.")


async def test_a_safe_request_says_nothing_of_being_carried_out(bridge: Bridge) -> None:
    bridge.says(b"[1,")
    result = await bridge.call()
    assert result.meta == {"restbridge/error": "not-json"}
    assert "carried out" not in words(result)


async def test_a_post_that_is_said_to_change_nothing_is_safe(bridge: Bridge) -> None:
    bridge.says(b"[1,")
    result = await bridge.call(request=POST, annotations={"readOnlyHint": True})
    assert "carried out" not in words(result)


async def test_a_secret_that_the_api_repeats_is_not_passed_on(bridge: Bridge) -> None:
    bridge.says({"detail": f"bad key {KEY}"}, 401)
    assert words(await bridge.call()).endswith("bad key [redacted]")
    bridge.says({"id": 1, "key": KEY})
    result = await bridge.call(outputSchema=ITEM)
    assert result.structured == {"id": 1, "key": "[redacted]"} == decode(words(result))
    bridge.says(KEY.encode(), 200, "Content-Type: text/plain")
    result = await bridge.call(response={"content": "resource"})
    assert result.content[0]["resource"]["text"] == "[redacted]"
    bridge.says(b"\x89PNG\r\n\x1a\n", 200, "Content-Type: image/png")
    result = await bridge.call()
    assert result.content[0]["type"] == "image"


async def test_of_a_secret_that_is_cut_in_two_no_part_is_passed_on(bridge: Bridge) -> None:
    for before in range(440, 500, 10):
        bridge.says({"detail": f"{'x' * before} {KEY} and more {'y' * 100}"}, 401)
        assert KEY[:8] not in words(await bridge.call())
    bridge.says(b"", 302, f"Location: https://x.example/{'x' * 465}{KEY}")
    assert KEY[:8] not in words(await bridge.call())
    for before in range(60, 100, 5):
        bridge.says(f"{'x' * before}{KEY}{'y' * 200}".encode(), 200, "Content-Type: text/plain")
        assert KEY[:8] not in words(await bridge.call(response={"maxBytes": 100}))


def in_base64(text: str) -> str:
    return b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("block", "redacted"),
    [
        ({"type": "text", "text": KEY}, {"text": "[redacted]"}),
        (
            {"type": "text", "text": "x", "_meta": {KEY: [KEY, 1]}},
            {"_meta": {"[redacted]": ["[redacted]", 1]}},
        ),
        (
            {"type": "text", "text": "x", "annotations": {"lastModified": KEY}},
            {"annotations": {"lastModified": "[redacted]"}},
        ),
        (
            {
                "type": "resource_link",
                "uri": f"a:{KEY}",
                "name": KEY,
                "title": KEY,
                "description": KEY,
                "mimeType": KEY,
            },
            {
                "uri": "a:[redacted]",
                **dict.fromkeys(("name", "title", "description", "mimeType"), "[redacted]"),
            },
        ),
        (
            {"type": "resource", "resource": {"uri": KEY, "mimeType": KEY, "text": KEY}},
            {"resource": {"uri": "[redacted]", "mimeType": "[redacted]", "text": "[redacted]"}},
        ),
        (
            {"type": "resource", "resource": {"uri": "a:b", "blob": in_base64(f"%PDF {KEY}!")}},
            {"resource": {"uri": "a:b", "blob": in_base64(f"%PDF {'*' * len(KEY)}!")}},
        ),
        (
            {"type": "image", "data": in_base64(KEY.encode().hex()), "mimeType": "image/png"},
            {"data": in_base64("*" * 2 * len(KEY))},
        ),
        (
            {"type": "audio", "data": in_base64(f"12{KEY}"), "mimeType": KEY},
            {"data": in_base64(f"12{'*' * len(KEY)}"), "mimeType": "[redacted]"},
        ),
    ],
)
async def test_no_part_of_a_block_holds_a_secret(bridge: Bridge, block: Json, redacted: Json) -> None:
    bridge.says([block])
    for projection in ({}, {"jmespath": "@"}, {"jmespath": "to_array(@)"}):
        result = await bridge.call(response={"content": "blocks", **projection})
        assert result.content == [block | redacted]


@pytest.mark.parametrize("kind", ["image/png", "audio/wav", "application/pdf"])
async def test_bytes_are_searched_for_secrets_before_they_become_base64(bridge: Bridge, kind: str) -> None:
    bridge.says(b"\x89PNG\r\n\x1a\n" + KEY.encode() + b"\xff", 200, f"Content-Type: {kind}")
    block = (await bridge.call()).content[0]
    data = b64decode(block.get("data") or block["resource"]["blob"])
    assert data == b"\x89PNG\r\n\x1a\n" + b"*" * len(KEY) + b"\xff"


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("reverse(key)", f'"{"[redacted]"[::-1]}"'),
        ("starts_with(key, 'a-very')", "false"),
        ("contains(key, 'secret')", "false"),
        ("length(key)", "10"),
        ("join('', parts)", '"[redacted]"'),
        ("{all: join('', parts), \"more\": more}", '{"all":"[redacted]","more":1.5}'),
        ("reverse(backwards)", '"[redacted]"'),
        ("to_number(digits)", "null"),
    ],
)
async def test_a_projection_sees_no_secret_and_makes_none(bridge: Bridge, expression: str, text: str) -> None:
    said = {
        "key": KEY,
        "parts": [KEY[:5], KEY[5:]],
        "backwards": KEY[::-1],
        "more": 1.5,
        "digits": in_base64(KEY),
    }
    bridge.says(said)
    assert words(await bridge.call(response={"jmespath": expression})) == text
    bridge.says(said, 404)
    told = words(await bridge.call(errors={"404": {"message": "No.", "jmespath": expression}}))
    assert told == f"No. The API says: {text.strip(chr(34))}" if text != "null" else told == "No."


async def test_what_a_projection_makes_of_secrets_is_still_json_or_an_error(bridge: Bridge) -> None:
    bridge.says(decode("[" * 199 + "]" * 199))
    deep = f"[[@], join('', ['{KEY[:5]}', '{KEY[5:]}'])]"
    result = await bridge.call(response={"jmespath": deep})
    assert result.meta == {"restbridge/error": "projection-failed"}
    assert "nested more than 200 deep" in words(result)


async def test_headers_and_cookies_of_a_reply_hold_no_secret(bridge: Bridge) -> None:
    bridge.says({"a": 1}, 200, "Content-Type: application/json", f"Set-Cookie: key={KEY}", f"Link: <{KEY}>")
    response = {"from": "reply", "jmespath": '[headers."set-cookie", headers.link, body.a]'}
    assert decode(words(await bridge.call(response=response))) == ["key=[redacted]", "<[redacted]>", 1]
    bridge.says(b"", 302, f"Location: /{KEY}/x")
    assert "It leads to /[redacted]/x." in words(await bridge.call())
    bridge.says(b"\x00", 200, f"Content-Type: x/{KEY}")
    assert (await bridge.call()).content[0]["resource"]["mimeType"] == "x/[redacted]"


@pytest.mark.parametrize(
    ("content", "headers", "text"),
    [
        (f'{{"key": "{KEY}"}}'.encode("utf-16"), "application/json", '{"key":"[redacted]"}'),
        (
            f'{{"key": "{KEY}", "é": 1}}'.encode("latin-1"),
            "application/json; charset=latin1",
            '{"key":"[redacted]","é":1}',
        ),
        (f"{KEY} é".encode("utf-16-le"), "text/plain; charset=utf-16le", "[redacted] é"),
        (f"{KEY} {KEY}".encode(), "text/plain; charset=utf-16", None),
        (f"{KEY} \xff".encode("latin-1"), "text/plain", "[redacted] \ufffd"),
        (f'{{"a": 1, "a": "{KEY}"'.encode(), "text/x-log", '{"a": 1, "a": "[redacted]"'),
    ],
)
async def test_a_secret_is_redacted_in_whatever_charset_the_reply_is(
    bridge: Bridge, content: bytes, headers: str, text: str | None
) -> None:
    bridge.says(content, 200, f"Content-Type: {headers}")
    given = words(await bridge.call())
    assert text is None or given == text
    assert KEY not in given.encode("utf-16-le", "surrogatepass").decode("latin-1")


async def test_what_is_no_json_is_quoted_without_secrets(bridge: Bridge) -> None:
    bridge.says(f'{{"a": 1, "a": "{"x" * 170} {KEY}"}}'.encode())
    assert KEY[:6] not in words(await bridge.call())
    bridge.says(f'{{"{KEY}": 1, "{KEY}": 2}}'.encode())
    assert 'the key "[redacted]" more than once' in words(await bridge.call())


async def test_a_secret_that_is_a_number_leaves_json_json(bridge: Bridge) -> None:
    bridge.key = "20481234"
    bridge.says({"account_id": 20481234, "longer": 12048123456789012345678})
    assert words(await bridge.call()) == '{"account_id":"[redacted]","longer":12048123456789012345678}'
    assert words(await bridge.call(response={"jmespath": "to_string(account_id)"})) == '"[redacted]"'
    bridge.says({"a": "2048"})
    assert (
        words(await bridge.call(response={"jmespath": "to_number(join('', [a, '1234']))"})) == '"[redacted]"'
    )


async def test_a_number_that_is_redacted_departs_from_its_schema_and_is_no_fault(bridge: Bridge) -> None:
    bridge.key = "20481234"
    bridge.says({"id": 20481234}, 201)
    result = await bridge.call(request=POST, outputSchema=ITEM)
    assert words(result).startswith("The request was carried out (201). Do not repeat it.")
    assert result.meta["restbridge/error"] == "result-drift"
    assert result.content[1]["text"] == '{"id":"[redacted]"}'


async def test_secrets_in_a_large_reply_are_replaced_beside_the_event_loop(bridge: Bridge) -> None:
    bridge.says([KEY] * 3000)
    assert decode(words(await bridge.call())) == ["[redacted]"] * 3000
    bridge.says(["%41" * 6000, KEY])
    assert decode(words(await bridge.call())) == ["%41" * 6000, "[redacted]"]


HIDDEN = "pay\u200bload \x1b"


@pytest.mark.parametrize(
    ("invisible", "shown"),
    [("show", r"pay\u200bload \u001b"), ("strip", r"payload \u001b"), ("pass", "pay\u200bload \\u001b")],
)
async def test_invisible_characters_of_a_result_are_as_the_tool_file_says(
    bridge: Bridge, invisible: str, shown: str
) -> None:
    response = {"invisible": invisible}
    bridge.says(HIDDEN.encode(), 200, "Content-Type: text/plain")
    assert words(await bridge.call(response=response)) == shown
    resource = (await bridge.call(response={"content": "resource", **response})).content[0]["resource"]
    assert resource["text"] == shown
    bridge.says({HIDDEN: [HIDDEN]})
    assert words(await bridge.call(response=response)) == f'{{"{shown}":["{shown}"]}}'
    assert words(await bridge.call(response={"jmespath": "@", **response})) == f'{{"{shown}":["{shown}"]}}'
    bridge.says({"detail": HIDDEN}, 404)
    assert words(await bridge.call(errors={"404": "No."}, response=response)) == f"No. The API says: {shown}"
    bridge.says([{"type": "text", "text": HIDDEN, "_meta": {HIDDEN: 1}}])
    blocks = await bridge.call(response={"content": "blocks", **response})
    assert blocks.content == [{"type": "text", "text": shown, "_meta": {shown: 1}}]


async def test_structured_content_keeps_its_characters_unless_they_are_taken_out(bridge: Bridge) -> None:
    bridge.says({"a": HIDDEN})
    for invisible in ("show", "pass"):
        result = await bridge.call(outputSchema={"type": "object"}, response={"invisible": invisible})
        assert result.structured == {"a": HIDDEN} == decode(words(result))
    result = await bridge.call(outputSchema={"type": "object"}, response={"invisible": "strip"})
    assert result.structured == {"a": "payload \x1b"} == decode(words(result))


@pytest.mark.parametrize(
    ("content", "kind", "text"),
    [
        (encode("\u200b".join(KEY)), "application/json", '"[redacted]"'),
        (encode("\u200b".join(KEY)).decode().encode("utf-16"), "application/json", '"[redacted]"'),
        ("\u200b".join(f"{KEY}é").encode("utf-16"), "text/plain; charset=utf-16", "[redacted]é"),
        (b"a\xe2\x80\x8bb", "", "ab"),
        (b'{"a": 1.50}', "application/json", '{"a":1.5}'),
    ],
)
async def test_what_is_taken_out_leaves_no_secret_behind(
    bridge: Bridge, content: bytes, kind: str, text: str
) -> None:
    bridge.says(content, 200, *([f"Content-Type: {kind}"] if kind else ["X-Kind: none"]))
    assert words(await bridge.call(response={"invisible": "strip"})) == text


async def test_characters_are_taken_out_of_headers_and_not_out_of_bytes(bridge: Bridge) -> None:
    bridge.says(b"\xe2\x80\x8b\xff", 200, "Content-Type: application/pdf", "X-Note: a\u200bb")
    resource = (await bridge.call(response={"invisible": "strip"})).content[0]["resource"]
    assert b64decode(resource["blob"]) == b"\xe2\x80\x8b\xff"
    response = {"invisible": "strip", "from": "reply", "jmespath": 'headers."x-note"'}
    assert words(await bridge.call(response=response)) == '"ab"'


async def test_a_large_reply_is_read_beside_the_event_loop(bridge: Bridge) -> None:
    bridge.says([{"id": number, "text": "x" * 100} for number in range(5000)])
    result = await bridge.call(response={"jmespath": "[-1].id"})
    assert words(result) == "4999"


@pytest.mark.parametrize("status", [200, 404])
async def test_a_projection_that_takes_long_goes_on_beside_the_event_loop(
    bridge: Bridge, status: int
) -> None:
    bridge.says(list(range(5000)), status)
    slow = {"jmespath": "[].[@, @, @, @][] | length(@)"}
    result = await bridge.call(response=slow, errors={"404": {"message": "None.", **slow}})
    assert words(result) == {200: "20000", 404: "None. The API says: 20000"}[status]


async def test_a_projection_that_finds_nothing_says_so(bridge: Bridge) -> None:
    bridge.says({"order": {"id": 7}})
    result = await bridge.call(response={"jmespath": "{id: id, lines: lines[].{id: id}}"})
    assert [block["text"] for block in result.content] == [
        '{"id":null,"lines":null}',
        "The API answered 200, and this tool's projection found nothing but null in the reply.",
    ]
    assert (result.is_error, result.meta) == (False, {"restbridge/empty": True})
    assert (bridge.finished.outcome, bridge.finished.empty) == ("ok", True)


async def test_an_empty_projection_is_recorded_also_where_the_result_does_not_fit_its_schema(
    bridge: Bridge,
) -> None:
    bridge.says({"order": {"id": 7}})
    await bridge.call(response={"jmespath": "lines"}, outputSchema=ITEM)
    assert (bridge.finished.outcome, bridge.finished.empty) == ("result-drift", True)


async def test_after_an_unsafe_request_a_projection_that_finds_nothing_says_that_it_was_done(
    bridge: Bridge,
) -> None:
    bridge.says({"order": {"id": 7}}, 201)
    result = await bridge.call(
        request=POST, response={"jmespath": "id"}, outputSchema={"type": ["integer", "null"]}
    )
    assert result.structured == {"result": None} == decode(words(result))
    assert result.content[1]["text"].startswith("The request was carried out (201). Do not repeat it.")


async def test_a_tools_own_limits_count_under_its_name(bridge: Bridge) -> None:
    bridge.says({})
    result = await bridge.call(limits={"concurrency": 1})
    assert words(result) == "{}"


async def test_a_call_that_takes_too_long_ends_with_its_deadline(bridge: Bridge) -> None:
    result = await bridge.call(timeout="100ms", request=POST)
    assert result.meta["restbridge/error"] == bridge.finished.outcome == "timeout"
    assert words(result).endswith("It may have been carried out; check before repeating.")


async def test_a_fault_of_our_own_is_raised_and_told_as_one(bridge: Bridge) -> None:
    await bridge.client.aclose()
    bridge.client.send = None  # type: ignore[method-assign,assignment]
    with pytest.raises(TypeError):
        await bridge.call()
    assert bridge.finished.outcome == "fault"


async def test_a_call_that_is_cancelled_is_told_to_the_ear(bridge: Bridge) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(bridge.call)
        with anyio.fail_after(30):
            await bridge.asked.wait()
        tasks.cancel_scope.cancel()
    assert (bridge.finished.outcome, bridge.finished.status) == ("cancelled", None)


async def test_a_call_that_may_change_something_is_announced_once_before_its_request_is_sent(
    bridge: Bridge,
) -> None:
    bridge.says(None, 503)
    asked: list[int] = []

    def listen(event: Event) -> None:
        bridge.events.append(event)
        if isinstance(event, CallStarted):
            asked.append(len(bridge.heads))

    retries = {"max": 1}
    result = await bridge.call(emit=listen, request={"method": "PUT", "url": "/x"}, retries=retries)
    started = next(event for event in bridge.events if isinstance(event, CallStarted))
    assert (len(bridge.heads), asked, result.is_error) == (2, [0], True)
    assert (started.tool, started.method, started.upstream) == ("try", "PUT", "api")
    assert bridge.finished.call == started.call


async def test_other_calls_are_not_announced(bridge: Bridge) -> None:
    bridge.says({})
    await bridge.call()
    await bridge.call({"n": 1}, request=POST)
    assert [(type(event), event.call) for event in bridge.events if isinstance(event, CallFinished)] == (
        [(CallFinished, None)] * 2
    )
    assert len(bridge.events) == 2


def refuse(event: Event) -> None:
    if isinstance(event, CallStarted):
        raise NotSent("audit-failed", "The call was not made.")


async def test_a_listener_can_prevent_a_call(bridge: Bridge) -> None:
    result = await bridge.call(emit=refuse, request=POST)
    assert (words(result), result.meta) == ("The call was not made.", {"restbridge/error": "audit-failed"})
    assert bridge.heads == []


@pytest.mark.parametrize(("status", "outcome"), [(200, "ok"), (404, "http-404")])
async def test_a_raw_reply_is_given_whatever_its_status(bridge: Bridge, status: int, outcome: str) -> None:
    bridge.says(b"raw", status)
    reply = await fetch(bridge.tool(request=POST), {}, bridge.client, bridge.events.append, NO_CALLER)
    assert (reply.status, reply.content) == (status, b"raw")
    assert (bridge.finished.outcome, bridge.finished.status) == (outcome, status)
    assert [type(event) for event in bridge.events] == [CallStarted, CallFinished]


async def test_a_raw_reply_that_is_not_waited_for_is_cancelled(bridge: Bridge) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(fetch, bridge.tool(), {}, bridge.client, bridge.events.append, NO_CALLER)
        await bridge.asked.wait()
        tasks.cancel_scope.cancel()
    assert bridge.finished.outcome == "cancelled"


async def test_large_arguments_are_checked_beside_the_event_loop(bridge: Bridge) -> None:
    bridge.says({"ok": True})
    many = {"properties": {"ids": {"type": "array", "items": {"type": "integer"}}}}
    result = await bridge.call({"ids": list(range(20_000))}, inputSchema=many, request=POST)
    assert words(result) == '{"ok":true}'


async def test_the_deadline_of_a_call_holds_while_its_arguments_are_checked(bridge: Bridge) -> None:
    many = {"properties": {"ids": {"type": "array", "items": {"type": "integer", "minimum": 0}}}}
    result = await bridge.call({"ids": [0] * 200_000}, inputSchema=many, request=POST, timeout="1ms")
    assert result.meta["restbridge/error"] == bridge.finished.outcome == "timeout"
    assert "time ran out while checking the arguments" in words(result)
    assert bridge.heads == []


class Held(Redactor):
    """Waits for ``go``, looks whether it may go on, and finds nothing."""

    def __init__(self) -> None:
        super().__init__([KEY])
        self.began, self.go, self.went_on, self.ended = (threading.Event() for _ in range(4))

    def finds(self, content: bytes) -> bool:
        for _ in range(1000):  # more than is done on the event loop
            self.checkpoint()
        self.began.set()
        self.go.wait()
        try:
            self.checkpoint()
            self.went_on.set()
        finally:
            self.ended.set()
        return not content


class Noted(Redactor):
    """Keeps in which thread replies are read."""

    def __init__(self) -> None:
        super().__init__([KEY])
        self.threads: list[int] = []

    def finds(self, content: bytes) -> bool:
        self.threads.append(threading.get_ident())
        return super().finds(content)


def reading(tool: Tool, redactor: Redactor) -> Tool:
    """The tool, with another redactor of its replies."""
    given = {each.name: getattr(tool.upstream, each.name) for each in fields(Upstream) if each.init}
    upstream = type("Reading", (Upstream,), {"redactor": lambda *_: redactor})(**given)
    return replace(tool, upstream=upstream)


def held_reading(tool: Tool) -> tuple[Tool, Held]:
    """The tool, and what holds the thread that reads a reply to it."""
    held = Held()
    return reading(tool, held), held


@pytest.mark.parametrize("row", [b"0,", b"[],", b"{},", b'"",'])
async def test_a_reply_of_many_values_is_read_beside_the_event_loop(bridge: Bridge, row: bytes) -> None:
    noted = Noted()
    tool = reading(bridge.tool(), noted)
    for many in (1_000, 20_000):
        bridge.says(b"[" + row * many + b"0]")
        await invoke(tool, {}, bridge.client, bridge.events.append)
    first, second = noted.threads
    assert first == threading.get_ident() != second


class Counted(Redactor):
    """Counts how often each thread looks whether it may go on."""

    def __init__(self) -> None:
        super().__init__([KEY])
        self.looks = Counter[int]()

    def watched(self, look: Callable[[], None]) -> Self:
        def counted() -> None:
            self.looks[threading.get_ident()] += 1
            look()

        return super().watched(counted)


@pytest.mark.parametrize(
    ("content", "headers", "response"),
    [
        ([KEY] * 500, [], {}),
        (["%41%2541" * 100, KEY] * 15, [], {}),
        ([], [f"X-{number}: {'%41' * 100}" for number in range(200)], {}),
        ([], [f"X-{KEY}-{number}: a" for number in range(50)], {}),
        (["%41" * 900] * 2, [], {"jmespath": f"join(',', [{','.join(['@[]'] * 9)}][])"}),
        (
            [{"type": "image", "mimeType": "image/png", "data": in_base64("%41" * 15_000)}],
            [],
            {"content": "blocks"},
        ),
    ],
)
async def test_where_others_wait_a_redactor_does_a_little_and_a_thread_does_the_rest(
    bridge: Bridge, content: Json, headers: list[str], response: Json
) -> None:
    bridge.says(content, 200, "Content-Type: application/json", *headers)
    counted = Counted()
    tool = reading(bridge.tool(response=response), counted)
    result = await invoke(tool, {}, bridge.client, bridge.events.append)
    assert "restbridge/error" not in result.meta
    here = counted.looks.pop(threading.get_ident())
    assert here <= 17 < sum(counted.looks.values())


@pytest.mark.slow
async def test_the_deadline_of_a_call_holds_while_its_reply_is_read(bridge: Bridge) -> None:
    bridge.says([1], 201)
    tool, held = held_reading(bridge.tool(request=POST, timeout="2s"))
    result = await invoke(tool, {}, bridge.client, bridge.events.append)
    assert held.began.is_set()
    held.go.set()
    assert result.meta["restbridge/error"] == "timeout"
    assert "carried out" in words(result)


@pytest.mark.parametrize("cancelled", ["cancelled", ""])
async def test_a_reply_is_read_no_further_once_nobody_waits_for_it(bridge: Bridge, cancelled: str) -> None:
    bridge.says([1])
    tool, held = held_reading(bridge.tool())
    async with anyio.create_task_group() as calls:
        calls.start_soon(invoke, tool, {}, bridge.client, bridge.events.append)
        assert await to_thread.run_sync(held.began.wait, 60)
        if cancelled:
            calls.cancel_scope.cancel()
        else:
            held.go.set()
    held.go.set()
    assert await to_thread.run_sync(held.ended.wait, 60)
    assert held.went_on.is_set() is not bool(cancelled)
    assert bridge.finished.outcome == (cancelled or "ok")


async def test_a_reply_that_is_dear_to_check_is_checked_beside_the_event_loop(bridge: Bridge) -> None:
    bridge.says([0.5] * 2000)
    result = await bridge.call(outputSchema={"type": "array", "items": {"multipleOf": 0.5}})
    assert result.structured == {"result": [0.5] * 2000}
    bridge.says([0.5] * 30_000)
    result = await bridge.call(outputSchema={"type": "array", "items": {"multipleOf": 0.5}})
    assert result.meta["restbridge/error"] == "result-too-large"
