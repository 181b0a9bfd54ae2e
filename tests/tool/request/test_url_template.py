from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.diagnostics import Findings
from bridge.errors import InvalidCall
from bridge.tool.request.query import ClaimedNames
from bridge.tool.request.url_template import UrlTemplate
from bridge.tool.request.url_template_parser import parse_url_template
from bridge.tool.schema.arguments import Arguments

RFC_6570 = {
    "dom": "example.com",
    "dub": "me/too",
    "hello": "Hello World!",
    "half": "50%",
    "var": "value",
    "who": "fred",
    "base": "http://example.com/home/",
    "path": "/foo/bar",
    "list": ["red", "green", "blue"],
    "keys": {"semi": ";", "dot": ".", "comma": ","},
    "v": "6",
    "x": "1024",
    "y": "768",
    "empty": "",
    "empty_keys": {},
    "undef": None,
}
"""RFC 6570 3.2. The examples below follow ``/~``, because a path begins with a slash."""


def expand(template: UrlTemplate, values: Mapping[str, Any]) -> str:
    query = "&".join(template.write_query(values, ClaimedNames(frozenset(template.query_offsets))))
    return template.write_path(values) + (f"?{query}" if query else "")


@pytest.mark.parametrize(
    ("template", "expanded"),
    [
        # 3.2.2, simple expansion
        ("{var}", "value"),
        ("{hello}", "Hello%20World%21"),
        ("{half}", "50%25"),
        ("{x,y}", "1024,768"),
        ("{x,hello,y}", "1024,Hello%20World%21,768"),
        ("{var:3}", "val"),
        ("{var:30}", "value"),
        ("{list}", "red,green,blue"),
        ("{list*}", "red,green,blue"),
        ("map?q={x,y}", "map?q=1024,768"),
        # 3.2.3, reserved expansion, of which only slashes are kept
        ("{+var}", "value"),
        ("{+half}", "50%25"),
        ("{+list}", "red,green,blue"),
        ("{+list*}", "red,green,blue"),
        ("{base}index", "http%3A%2F%2Fexample.com%2Fhome%2Findex"),
        ("here?ref={+path}", "here?ref=/foo/bar"),
        # 3.2.6, path segments
        ("{/who}", "/fred"),
        ("{/who,who}", "/fred/fred"),
        ("{/half,who}", "/50%25/fred"),
        ("{/who,dub}", "/fred/me%2Ftoo"),
        ("{/var}", "/value"),
        ("{/var,undef}", "/value"),
        ("{/undef}", ""),
        ("{/empty_keys}", ""),
        ("{/var,x}/here", "/value/1024/here"),
        ("{/var:1,var}", "/v/value"),
        ("{/list}", "/red,green,blue"),
        ("{/list*}", "/red/green/blue"),
        ("{/list*,path:4}", "/red/green/blue/%2Ffoo"),
        # 3.2.8, form-style query
        ("{?who}", "?who=fred"),
        ("{?half}", "?half=50%25"),
        ("{?x,y}", "?x=1024&y=768"),
        ("{?x,y,empty}", "?x=1024&y=768&empty="),
        ("{?x,y,undef}", "?x=1024&y=768"),
        ("{?undef,empty_keys}", ""),
        ("{?var:3}", "?var=val"),
        ("{?list}", "?list=red,green,blue"),
        ("{?list*}", "?list=red&list=green&list=blue"),
        ("{?keys}", "?keys=semi,%3B,dot,.,comma,%2C"),
        ("{?keys*}", "?semi=%3B&dot=.&comma=%2C"),
        # 3.2.9, form-style query continuation
        ("?fixed=yes{&who}", "?fixed=yes&who=fred"),
        ("?fixed=yes{&x,y,empty}", "?fixed=yes&x=1024&y=768&empty="),
        ("?fixed=yes{&x,y,undef}", "?fixed=yes&x=1024&y=768"),
        ("?fixed=yes{&var:3}", "?fixed=yes&var=val"),
        ("?fixed=yes{&list}", "?fixed=yes&list=red,green,blue"),
        ("?fixed=yes{&list*}", "?fixed=yes&list=red&list=green&list=blue"),
        ("?fixed=yes{&keys}", "?fixed=yes&keys=semi,%3B,dot,.,comma,%2C"),
        ("?fixed=yes{&keys*}", "?fixed=yes&semi=%3B&dot=.&comma=%2C"),
        ("{?undef}{&x}", "?x=1024"),
    ],
)
def test_the_examples_of_rfc_6570_expand_as_specified(template: str, expanded: str) -> None:
    assert expand(parse_url_template(f"/~{template}"), RFC_6570) == f"/~{expanded}"


@pytest.mark.parametrize(
    ("template", "rfc", "ours"),
    [
        ("{+hello}", "Hello%20World!", "Hello%20World%21"),  # every byte but unreserved is encoded
        ("{+x,hello,y}", "1024,Hello%20World!,768", "1024,Hello%20World%21,768"),
        ("O{empty}X", "OX", "argument empty is empty where the path needs a value"),
        ("O{undef}X", "OX", "argument undef is missing or empty"),
        ("O{+undef}X", "OX", "argument undef is missing or empty"),
        ("{+base}index", "http://example.com/home/index", "argument base has an empty segment"),
        ("{+path}/here", "/foo/bar/here", "argument path has an empty segment"),
        ("{/var,empty}", "/value/", "argument empty is empty where the path needs a value"),
        ("{keys}", "semi,%3B,dot,.,comma,%2C", "argument keys holds a . or .. segment"),
        ("{keys*}", "semi=%3B,dot=.,comma=%2C", "argument keys holds a . or .. segment"),
        ("{/keys*}", "/semi=%3B/dot=./comma=%2C", "argument keys holds a . or .. segment"),
        (
            "{keys:1}",
            "undefined",
            "argument keys holds an array, object or null where only a scalar is allowed",
        ),
    ],
)
def test_expansions_of_rfc_6570_that_could_change_the_path_are_encoded_or_refused(
    template: str, rfc: str, ours: str
) -> None:
    parsed = parse_url_template(f"/~{template}")
    try:
        expanded = expand(parsed, RFC_6570)
    except InvalidCall as problem:
        expanded = f"/~{problem}"
    assert expanded.startswith(f"/~{ours}")
    assert expanded != f"/~{rfc}"


@pytest.mark.parametrize(
    ("template", "values", "expanded"),
    [
        ("/", {}, "/"),
        ("/a//b/", {}, "/a//b/"),
        ("/größe[x]?q[y]=ü&debug&a=b=c?", {}, "/gr%C3%B6%C3%9Fe%5Bx%5D?q%5By%5D=%C3%BC&debug&a=b=c?"),
        ("/a%2Fb/{id}.json", {"id": "x"}, "/a%2Fb/x.json"),
        ("/{user-id}", {"user-id": 7}, "/7"),
        ("/{created.at}", {"created.at": 1.5}, "/1.5"),
        ("/{k*}", {"k": {"a": 1, "b": None, "c": True}}, "/a=1,c=true"),
        ("/{k}", {"k": {"a": "b"}}, "/a,b"),
        ("/x{/l}", {"l": [None]}, "/x"),
        ("/x?a={a}&b=1&c=x{c}y{d}", {"a": None, "c": 1, "d": [2, 3]}, "/x?b=1&c=x1y2,3"),
        ("/x?t={$now}{&q}", {"$now": "2026-01-31T12:00:00Z"}, "/x?t=2026-01-31T12%3A00%3A00Z"),
        ("/x{?a*}", {"a": {"k": "v w"}}, "/x?k=v%20w"),
    ],
)
def test_templates_expand(template: str, values: dict[str, Any], expanded: str) -> None:
    assert expand(parse_url_template(template), values) == expanded


@pytest.mark.parametrize(
    ("template", "values", "message"),
    [
        ("/{a}{b}", {"a": "%2", "b": "e"}, "the arguments together would change the path"),
        ("/.{a}", {"a": "."}, "argument a holds a . or .. segment"),
        ("/%25{a}", {"a": "2e"}, "the arguments together would change the path"),
        ("/{a}", {"a": []}, "argument a is missing or empty"),
        ("/{a}", {"a": [["x"]]}, "argument a holds an array"),
        ("/x{?a}", {"a": [{"b": 1}]}, "argument a holds an array"),
        ("/x{?a*}{&b}", {"a": {"b": 1}}, "argument a would set a parameter that is already sent"),
        (
            "/x{?a*,b*}",
            {"a": {"k": 1}, "b": {"k": 2}},
            "argument b would set a parameter that is already sent",
        ),
        ("/x{?a}", {"a": "\n"}, "argument a holds a line break"),
        ("/x?a={+a}", {"a": "x/\0"}, "argument a holds a line break"),
        ("/x{?a}", {"a": "\ud800"}, "argument a is not valid Unicode"),
    ],
)
def test_unsafe_or_missing_values_are_refused(template: str, values: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidCall, match=message):
        expand(parse_url_template(template), values)


VALUES = st.text(st.sampled_from("./\\%2eEfF5cC;ab?#&=é")) | st.text() | st.integers()


@given(VALUES, VALUES)
def test_arguments_never_leave_their_segment_or_parameter(first: Any, second: Any) -> None:
    template = parse_url_template("/p/{a}-{b}/q{?a,b}")
    try:
        expanded = expand(template, {"a": first, "b": second})
    except InvalidCall:
        return
    parts = urlsplit(expanded)
    start, segment, end = parts.path.lstrip("/").split("/")
    assert (start, unquote(segment), end) == ("p", f"{first}-{second}", "q")
    assert parse_qsl(parts.query, keep_blank_values=True) == [("a", str(first)), ("b", str(second))]


ARGUMENTS = Arguments.compile(
    {
        "required": ["id"],
        "properties": {
            "id": {"type": "string"},
            "page": {"type": "integer", "default": 1},
            "q": {"type": "string"},
        },
    }
)[0]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("/{id}/{page}{/q}?id={id}&page={page}{&q}", []),
        ("/{idd}", ["1: {idd} names no argument; did you mean {id}? [unknown-argument]"]),
        ("/x{?colour}", ["4: {colour} names no argument; declare it in inputSchema [unknown-argument]"]),
        (
            "/x/{q}",
            [
                "3: {q} may be absent, but the path needs it; add it to required, give it a default, or write {/q} without the slash before it [optional-in-path]"
            ],
        ),
        (
            "/x?q={q}",
            [
                "5: {q} may be absent, which would leave q= behind; write {?q} in place of the pair [optional-in-query]"
            ],
        ),
        (
            "/x?a=1&q={q}",
            [
                "9: {q} may be absent, which would leave q= behind; write {&q} in place of the pair [optional-in-query]"
            ],
        ),
        (
            "/x?search=is:{q}%20now",
            [
                '13: {q} may be absent, which would leave search= behind; write it under request.query as search: "is:{q} now" [optional-in-query]'
            ],
        ),
        (
            "/x/{q}.json",
            [
                "3: {q} may be absent, but the path needs it; add it to required, or give it a default [optional-in-path]"
            ],
        ),
        (
            "/x/{id,q}{/page}",
            [
                "7: {q} may be absent, but the path needs it; add it to required, or give it a default [optional-in-path]"
            ],
        ),
        ("/x?q=1{&q}", ["8: the query parameter q is written twice; take one out [duplicate-parameter]"]),
        ("/x{?q,q}", ["6: the query parameter q is written twice; take one out [duplicate-parameter]"]),
    ],
)
def test_the_variables_of_a_template_are_checked_against_the_arguments(text: str, found: list[str]) -> None:
    findings = Findings()
    with findings.at():
        parse_url_template(text).check(ARGUMENTS)
    assert [f"{f.offset}: {f.message} [{f.code}]" for f in findings] == found


def test_a_template_knows_its_query_parameters() -> None:
    template = parse_url_template("/{a}/{$uuid}?b%5B%5D={c}&d{&e*}")
    assert template.query_offsets == {"b[]": 13, "d": 25, "e": 28}
