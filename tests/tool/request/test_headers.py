from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.diagnostics import Findings, InvalidSpec
from bridge.errors import InvalidCall
from bridge.tool.request.headers import (
    FieldTemplate,
    check_cookie,
    check_header,
    compile_fields,
    forwarded_headers,
)
from bridge.tool.request.placeholders import Text
from bridge.tool.schema.arguments import Arguments

ARGUMENTS = Arguments.compile(
    {"properties": {"a": {"type": "string"}, "n": {"type": "integer"}, "l": {"type": "array", "items": {}}}}
)[0]
NO_TEXT = "may be an array or object, which cannot be written as text; give it another type in inputSchema, such as string"
RESERVED = frozenset({"header x-key", "cookie key"})


def found(written: dict[str, Any], *, is_cookie: bool = False) -> list[str]:
    findings = Findings()
    compile_fields(written, ARGUMENTS, RESERVED, findings, "headers", is_cookie=is_cookie)
    return [f"{f.route[-1]}: {f.message} [{f.code}]{' at key' if f.at_key else ''}" for f in findings]


@pytest.mark.parametrize(
    ("text", "values", "value"),
    [
        ("v {a}", {"a": "x"}, "v x"),
        ("{n}", {"n": 7}, "7"),
        ("{a}", {"a": "café"}, "café"),
        ("{a}", {"a": ""}, ""),
        ("{a}", {"a": None}, None),
        ("{a}", {}, None),
        ("1", {}, "1"),
    ],
)
def test_a_header_is_rendered_from_its_text(text: str, values: dict[str, Any], value: str | None) -> None:
    assert FieldTemplate("X-A", Text.parse(text)).write(values) == value


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("a\r\nX-Evil: 1", "holds a line break, tab or other control character; take it out"),
        ("a\nb", "holds a line break"),
        ("\0", "holds a line break"),
        ("a\tb", "holds a line break"),
        ("\x7f", "holds a line break"),
        ("\x85", "holds a line break"),
        (" a", "begins or ends with a blank; take it off"),
        ("a ", "begins or ends with a blank"),
        ("\xa0a", "begins or ends with a blank"),
        ("€", "holds a character outside Latin-1; write it in ASCII"),
    ],
)
def test_invalid_header_values_are_refused(value: str, message: str) -> None:
    with pytest.raises(
        InvalidCall, match=f"argument a cannot be sent in the header X-A: the value {message}"
    ) as caught:
        FieldTemplate("X-A", Text.parse("{a}")).write({"a": value})
    assert caught.value.code == "unsafe-argument"


@pytest.mark.parametrize("value", ["a b", " a", "a;b", "a,b", 'a"b', "a\\b", "a\u2003b"])
def test_invalid_cookie_values_are_refused(value: str) -> None:
    with pytest.raises(
        InvalidCall, match="argument a cannot be sent in the cookie c: the value holds a blank or one of"
    ):
        FieldTemplate("c", Text.parse("{a}"), is_cookie=True).write({"a": value})


def test_a_lone_surrogate_in_a_header_is_refused() -> None:
    with pytest.raises(InvalidCall) as caught:
        FieldTemplate("X-A", Text.parse("{a}")).write({"a": "\ud800"})
    assert caught.value.code == "not-unicode"


@pytest.mark.slow
@given(st.text() | st.text(st.sampled_from("a \t\r\n\0é€;")), st.booleans())
def test_a_header_has_one_line_and_fits_latin_1(value: str, is_cookie: Any) -> None:
    try:
        written = FieldTemplate("f", Text.parse("{a}"), is_cookie).write({"a": value})
    except InvalidCall:
        return
    assert written == value == value.strip()
    assert value.encode("latin-1").translate(None, b"\r\n\0\t\x7f") == value.encode("latin-1")
    assert not is_cookie or not {*' ;,"\\'} & {*value}


@pytest.mark.parametrize(
    "name",
    [
        *("Host", "host", "Content-Length", "Transfer-Encoding", "Connection", "Keep-Alive", "Authorization"),
        *("Cookie", "Proxy-Authorization", "Proxy-Foo", "TE", "Trailer", "Upgrade", "Expect", "Content-Type"),
        *("X-KEY", "x_key", "X.Key", "Content_Length", "Transfer_Encoding", "Proxy_Authorization"),
    ],
)
def test_a_file_cannot_set_reserved_headers(name: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        check_header(name, "x", RESERVED)
    assert caught.value.findings[0].code == "reserved-name"


@pytest.mark.parametrize("name", ["", "X A", "X:A", "X-Ä", "X\n", "(x)"])
def test_a_header_or_cookie_name_is_a_token(name: str) -> None:
    for check in (check_header, check_cookie):
        with pytest.raises(InvalidSpec) as caught:
            check(name, "x", RESERVED)
        assert caught.value.findings[0].code == "bad-name"


def test_only_the_auth_may_set_authorization() -> None:
    check_header("Authorization", "Token x", frozenset(), credentials=True)
    with pytest.raises(InvalidSpec, match="Host cannot be set here"):
        check_header("Host", "x", frozenset(), credentials=True)


def test_a_callers_header_is_forwarded_under_its_exact_name_unless_the_tool_sets_it() -> None:
    sent = [(b"x-real-name", b"bob"), (b"x_real_name", b"eve"), (b"x-role", b"admin")]
    assert list(forwarded_headers(["X-Real-Name", "X-Role"], sent, [("X_Role", "reader")])) == [
        ("X-Real-Name", "bob")
    ]


def test_a_message_never_shows_the_value() -> None:
    with pytest.raises(InvalidSpec) as caught:
        check_header("X-A", "hunter2\n", frozenset())
    assert "hunter2" not in str(caught.value)


def test_headers_of_a_file_are_compiled() -> None:
    findings = Findings()
    written: dict[str, Any] = {"X-A": "v {a}", "X-B": True, "X-C": 1.5}
    fields = compile_fields(written, ARGUMENTS, RESERVED, findings)
    assert not list(findings)
    assert [(field.name, field.write({"a": "x"})) for field in fields] == [
        ("X-A", "v x"),
        ("X-B", "true"),
        ("X-C", "1.5"),
    ]


@pytest.mark.parametrize(
    ("written", "lines"),
    [
        (
            {"Content-Type": "text/plain"},
            [
                "Content-Type: Content-Type cannot be set here: tool files set it as request.contentType; take it out [reserved-name] at key"
            ],
        ),
        (
            {"X-Key": "{a}"},
            ["X-Key: X-Key is set by the upstream's auth; take it out [reserved-name] at key"],
        ),
        (
            {"X-A": "a", "x-a": "b"},
            ["x-a: x-a is already set here as X-A; keep one [duplicate-header] at key"],
        ),
        (
            {"X-A": "a", "X_A": "b"},
            ["X_A: X_A is already set here as X-A; keep one [duplicate-header] at key"],
        ),
        ({"X-A": " {a}"}, ["X-A: the value begins or ends with a blank; take it off [wrong-value]"]),
        (
            {"X-A": "{a}€"},
            ["X-A: the value holds a character outside Latin-1; write it in ASCII [wrong-value]"],
        ),
        (
            {"X A": "{aa}{l}"},
            [
                "X A: {aa} names no argument; did you mean {a}? [unknown-argument]",
                f"X A: argument l {NO_TEXT} [not-text]",
                'X A: "X A" is not a header name; write letters, digits and hyphens [bad-name] at key',
            ],
        ),
    ],
)
def test_invalid_headers_are_reported_at_load(written: dict[str, Any], lines: list[str]) -> None:
    assert found(written) == lines


def test_invalid_cookies_are_reported_at_load() -> None:
    assert found({"key": "x", "c": "a b", "C": "{a}"}, is_cookie=True) == [
        "key: key is set by the upstream's auth; take it out [reserved-name] at key",
        'c: the value holds a blank or one of ; , " \\; encode it [wrong-value]',
    ]
