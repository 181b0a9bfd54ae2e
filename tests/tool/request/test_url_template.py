from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.diagnostics import Findings, InvalidSpec
from bridge.errors import InvalidCall
from bridge.tool.request.url_template import Template
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
"""RFC 6570 3.2; its examples below stand after ``/~``, as a path begins with a slash."""


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
        # 3.2.3, reserved expansion, of which we keep slashes alone
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
def test_the_examples_of_rfc_6570_expand_as_it_says(template: str, expanded: str) -> None:
    assert Template.parse(f"/~{template}").expand(RFC_6570) == f"/~{expanded}"


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
        ("{keys:1}", "undefined", "argument keys holds an array, object or null where only text can stand"),
    ],
)
def test_where_an_argument_could_leave_its_place_we_depart_from_rfc_6570(
    template: str, rfc: str, ours: str
) -> None:
    parsed = Template.parse(f"/~{template}")
    try:
        expanded = parsed.expand(RFC_6570)
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
    assert Template.parse(template).expand(values) == expanded


@pytest.mark.parametrize(
    ("template", "values", "said"),
    [
        ("/{a}{b}", {"a": "%2", "b": "e"}, "the arguments in the path together would lead elsewhere"),
        ("/.{a}", {"a": "."}, "argument a holds a . or .. segment"),
        ("/%25{a}", {"a": "2e"}, "the arguments in the path together"),
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
def test_what_cannot_be_expanded_is_refused(template: str, values: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidCall, match=said):
        Template.parse(template).expand(values)


VALUES = st.text(st.sampled_from("./\\%2eEfF5cC;ab?#&=é")) | st.text() | st.integers()


@given(VALUES, VALUES)
def test_arguments_never_leave_their_segment_or_parameter(first: Any, second: Any) -> None:
    template = Template.parse("/p/{a}-{b}/q{?a,b}")
    try:
        expanded = template.expand({"a": first, "b": second})
    except InvalidCall:
        return
    parts = urlsplit(expanded)
    begin, segment, end = parts.path.lstrip("/").split("/")
    assert (begin, unquote(segment), end) == ("p", f"{first}-{second}", "q")
    assert parse_qsl(parts.query, keep_blank_values=True) == [("a", str(first)), ("b", str(second))]


def test_a_semicolon_begins_no_parameter_of_the_query() -> None:
    template = Template.parse("/a;v=1/x?a=1;_method=DELETE&b;c=2{&q}")
    assert template.expand({"q": "1;2"}) == "/a;v=1/x?a=1%3B_method=DELETE&b%3Bc=2&q=1%3B2"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("x/{id}", ["0: a path begins with / and a constant or {name} after it; put the / there"]),
        ("{id}/x", ["0: a path begins with /"]),
        ("{/id}", ["0: a path begins with /"]),
        ("//evil/{id}", ["0: // would begin a host, which no url names; write one /"]),
        ("http://x/", ["0: url is appended to the upstream's baseUrl; begin with /, or take upstream out"]),
        ("/a/../b", ["3: the path has a . or .. segment"]),
        ("/a/..{/id}", ["3: the path has a . or .. segment"]),
        ("/a/%2e%2E", ["3: the path has a . or .. segment"]),
        ("/a/..%20/b", ["3: the path has a . or .. segment"]),
        ("/a/..%ef%bc%8fb", ["3: the path has a . or .. segment"]),
        ("/%c0%ae%c0%ae/b", ["1: the path has a . or .. segment"]),
        ("/a/..%00/b", ["5: the path has an encoded control character, where some servers cut it"]),
        ("/a%7F{?q}", ["2: the path has an encoded control character"]),
        ("/a b c d", ['2: " " cannot stand in a URL; write %20']),
        ("/a b#c", ['2: " " cannot stand in a URL; write %20', "4: a fragment is never sent; write %23"]),
        ("/a?q=<%zz>", ["5: an argument is {name}", '6: "%" cannot stand in a URL; write %25']),
        ("/{id", ["1: this brace has no partner"]),
        ("/id}", ["3: this brace has no partner"]),
        ("/{{id}}", ["1: an argument stands in one pair of braces"]),
        ("/{}", ['1: "" is no argument\'s name']),
        ("/{ id }", ['1: " id " is no argument\'s name; write {name}, {name*} or {name:3}']),
        ("/{id:0}", ['1: "id:0" is no']),
        ("/{id:3*}", ['1: "id:3*" is no']),
        ("/{a,,b}", ['4: "" is no']),
        ("/{+ a}", ['3: " a" is no']),
        ("/{#x}", ["1: {#x}: a fragment is never sent; write {x}"]),
        ("/{#}", ["1: {#name}: a fragment is never sent; write {name}"]),
        ("/{.x}", ["1: {.x}: labels are not supported; write .{x}"]),
        ("/{;x}", ["1: {;x}: path parameters are not supported; write ;x={x}"]),
        *[(f"/{{{sign}x}}", [f"1: {{{sign}x}}: RFC 6570 reserves this operator"]) for sign in "=,!@|"],
        ("/x{&q}", ["2: there is no ? before it; write {?q}"]),
        ("/x?a=1{?q,r}", ["6: the query has begun before it; write {&q,r}"]),
        ("/x{?q}{?r}", ["6: the query has begun before it; write {&r}"]),
        ("/x{?q}&a=1", ["6: nothing may follow {?…} but {&…}; write constants first, as in ?x=1{&q}"]),
        (
            "/x{?q}/{id}",
            ["6: nothing may follow", "7: nothing may follow {?…} but {&…}; write the path before it"],
        ),
        ("/x{?$now}", ["4: a builtin is no parameter's name; write name={$now}"]),
        ("/x?a={/id}", ["5: {/…} belongs into the path; in the query write name={name}"]),
        ("/x?{q}", ["3: a parameter's name cannot hold an argument; write name={name}"]),
        ("/x?{q}=1", ["3: a parameter's name cannot hold an argument"]),
        ("/x?", ["2: a query parameter without a name"]),
        ("/x?a=1&", ["6: a query parameter without a name"]),
        ("/x?a=1&&b=2", ["6: a query parameter without a name"]),
        ("/x?=1", ["2: a query parameter without a name"]),
        ("/x?a{id}=1", ["3: a parameter's name cannot hold an argument; write name={name}"]),
    ],
)
def test_what_is_no_template_is_found_at_its_place(text: str, found: list[str]) -> None:
    with pytest.raises(InvalidSpec) as caught:
        Template.parse(text)
    findings = [f"{f.offset}: {f.message}" for f in caught.value.findings]
    assert len(findings) == len(found)
    for finding, beginning in zip(findings, found, strict=True):
        assert finding.startswith(beginning)
    assert {f.code for f in caught.value.findings} == {"bad-template"}


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
                "3: {q} may be absent, and the path needs it; add it to required, give it a default, or write {/q} without the slash before it [optional-in-path]"
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
                "3: {q} may be absent, and the path needs it; add it to required, or give it a default [optional-in-path]"
            ],
        ),
        (
            "/x/{id,q}{/page}",
            [
                "7: {q} may be absent, and the path needs it; add it to required, or give it a default [optional-in-path]"
            ],
        ),
        ("/x?q=1{&q}", ["8: the query parameter q is written twice; take one out [duplicate-parameter]"]),
        ("/x{?q,q}", ["6: the query parameter q is written twice; take one out [duplicate-parameter]"]),
    ],
)
def test_a_template_is_held_against_its_arguments(text: str, found: list[str]) -> None:
    findings = Findings()
    with findings.at():
        Template.parse(text).check(ARGUMENTS)
    assert [f"{f.offset}: {f.message} [{f.code}]" for f in findings] == found


def test_a_secret_in_a_url_would_be_sent_as_it_is_written() -> None:
    with pytest.raises(InvalidSpec) as caught:
        Template.parse("/x?key=${env:KEY}")
    [finding] = caught.value.findings
    assert (finding.code, finding.offset) == ("bad-secret", 7)


def test_a_template_tells_its_arguments_and_parameters() -> None:
    template = Template.parse("/{a}/{$uuid}?b%5B%5D={c}&d{&e*}")
    assert template.names == {"a", "c", "e"}
    assert template.query_offsets == {"b[]": 13, "d": 25, "e": 28}
