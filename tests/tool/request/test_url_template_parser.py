import pytest

from bridge.diagnostics import InvalidSpec
from bridge.tool.request.url_template_parser import parse_url_template
from tests.tool.request.test_url_template import expand


def test_a_semicolon_in_the_query_is_encoded() -> None:
    template = parse_url_template("/a;v=1/x?a=1;_method=DELETE&b;c=2{&q}")
    assert expand(template, {"q": "1;2"}) == "/a;v=1/x?a=1%3B_method=DELETE&b%3Bc=2&q=1%3B2"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("x/{id}", ["0: a path begins with /, then a constant or {name}; add the /"]),
        ("{id}/x", ["0: a path begins with /"]),
        ("{/id}", ["0: a path begins with /"]),
        ("//evil/{id}", ["0: found //, which would start a host name; write one /"]),
        ("http://x/", ["0: url is appended to the upstream's baseUrl; begin with /, or take upstream out"]),
        ("/a/../b", ["3: the path has a . or .. segment"]),
        ("/a/..{/id}", ["3: the path has a . or .. segment"]),
        ("/a/%2e%2E", ["3: the path has a . or .. segment"]),
        ("/a/..%20/b", ["3: the path has a . or .. segment"]),
        ("/a/..%ef%bc%8fb", ["3: the path has a . or .. segment"]),
        ("/%c0%ae%c0%ae/b", ["1: the path has a . or .. segment"]),
        ("/a/..%00/b", ["5: the path has an encoded control character, at which some servers cut it"]),
        ("/a%7F{?q}", ["2: the path has an encoded control character"]),
        ("/a b c d", ['2: " " is not allowed in a URL; write %20']),
        ("/a b#c", ['2: " " is not allowed in a URL; write %20', "4: a fragment is never sent; write %23"]),
        ("/a?q=<%zz>", ["5: an argument is written {name}", '6: "%" is not allowed in a URL; write %25']),
        ("/{id", ["1: found an unpaired brace"]),
        ("/id}", ["3: found an unpaired brace"]),
        ("/{{id}}", ["1: found {{, expected one brace"]),
        ("/{}", ['1: "" is not an argument name']),
        ("/{ id }", ['1: " id " is not an argument name; write {name}, {name*} or {name:3}']),
        ("/{id:0}", ['1: "id:0" is no']),
        ("/{id:3*}", ['1: "id:3*" is no']),
        ("/{a,,b}", ['4: "" is no']),
        ("/{+ a}", ['3: " a" is no']),
        ("/{#x}", ["1: {#x}: a fragment is never sent; write {x}"]),
        ("/{#}", ["1: {#name}: a fragment is never sent; write {name}"]),
        ("/{.x}", ["1: {.x}: labels are not supported; write .{x}"]),
        ("/{;x}", ["1: {;x}: path parameters are not supported; write ;x={x}"]),
        *[(f"/{{{sign}x}}", [f"1: {{{sign}x}}: RFC 6570 reserves this operator"]) for sign in "=,!@|"],
        ("/x{&q}", ["2: found {&…} without a ? before it; write {?q}"]),
        ("/x?a=1{?q,r}", ["6: the query has already started; write {&q,r}"]),
        ("/x{?q}{?r}", ["6: the query has already started; write {&r}"]),
        ("/x{?q}&a=1", ["6: only {&…} may follow {?…}; write constants first, as in ?x=1{&q}"]),
        (
            "/x{?q}/{id}",
            ["6: only {&…} may follow", "7: only {&…} may follow {?…}; write the path before it"],
        ),
        ("/x{?$now}", ["4: a builtin cannot name a parameter; write name={$now}"]),
        ("/x?a={/id}", ["5: {/…} belongs in the path; in the query write name={name}"]),
        ("/x?{q}", ["3: a parameter's name cannot hold an argument; write name={name}"]),
        ("/x?{q}=1", ["3: a parameter's name cannot hold an argument"]),
        ("/x?", ["2: found a query parameter without a name"]),
        ("/x?a=1&", ["6: found a query parameter without a name"]),
        ("/x?a=1&&b=2", ["6: found a query parameter without a name"]),
        ("/x?=1", ["2: found a query parameter without a name"]),
        ("/x?a{id}=1", ["3: a parameter's name cannot hold an argument; write name={name}"]),
    ],
)
def test_each_template_error_has_its_offset(text: str, found: list[str]) -> None:
    with pytest.raises(InvalidSpec) as caught:
        parse_url_template(text)
    findings = [f"{f.offset}: {f.message}" for f in caught.value.findings]
    assert len(findings) == len(found)
    for finding, beginning in zip(findings, found, strict=True):
        assert finding.startswith(beginning)
    assert {f.code for f in caught.value.findings} == {"bad-template"}


def test_a_secret_reference_in_a_url_is_an_error() -> None:
    with pytest.raises(InvalidSpec) as caught:
        parse_url_template("/x?key=${env:KEY}")
    [finding] = caught.value.findings
    assert (finding.code, finding.offset) == ("bad-secret", 7)
