import math
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bridge.diagnostics import Finding, Mark, Route
from bridge.spec import Json
from bridge.toolfiles.text import document
from bridge.toolfiles.text.document import MAX_BYTES, MAX_PROBLEMS, Document


def parse(text: str) -> Document:
    return Document.parse(text.encode(), "a.yaml")


def value(text: str) -> Json:
    """What a text means that stands alone behind a key."""
    parsed = parse(f"key: {text}\n")
    assert not parsed.problems
    return parsed.value["key"]


def codes(parsed: Document) -> list[str]:
    return [problem.code for problem in parsed.problems]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("null", None),
        ("", None),
        ("true", True),
        ("false", False),
        ("0", 0),
        ("-12", -12),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        ("-1.5E-3", -0.0015),
        ("123456789012345678901234567890", 123456789012345678901234567890),
    ],
)
def test_keywords_and_numbers_are_those_of_json(text: str, expected: Json) -> None:
    assert value(text) == expected
    assert type(value(text)) is type(expected)


@pytest.mark.parametrize(
    "text",
    [
        *("yes", "no", "on", "off", "Yes", "True", "TRUE", "False", "Null", "NULL", "~", "y", "n"),
        *("012", "0o7", "0x1F", "0b1", "1_000", "+1", ".5", "1.", "1e", "1:30", "190:20:30", "-x"),
        *("2026-08-01", "2026-08-01T12:00:00Z", "12:30", "=", "inf", "nan", "NaN", "Infinity", "\uff11"),
    ],
)
def test_every_other_scalar_is_text(text: str) -> None:
    assert value(text) == text


@pytest.mark.parametrize("text", ["1", "null", "true", ".nan", "1e999", ""])
def test_a_quoted_scalar_is_text(text: str) -> None:
    assert value(f'"{text}"') == value(f"'{text}'") == text
    assert parse(f"key: |-\n  {text}\n").value["key"] == text


def test_a_key_is_its_source_text() -> None:
    parsed = parse("404: a\n012: b\nnull: c\ntrue: d\n1.50: e\n'': f\n2026-01-01: g\n\"<<\": h\n.nan: i\n")
    assert list(parsed.value) == ["404", "012", "null", "true", "1.50", "", "2026-01-01", "<<", ".nan"]
    assert not parsed.problems


def test_an_alias_has_the_value_of_its_anchor() -> None:
    parsed = parse("a: &a {b: [1, &c two]}\nd: [*a, *c]\n&k key: v\ne: *k\n")
    assert not parsed.problems
    assert parsed.value["d"] == [{"b": [1, "two"]}, "two"]
    assert parsed.value["e"] == "key"


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_byte_order_mark_and_windows_line_ends_are_accepted(start: bytes, end: str) -> None:
    text = end.join(["a: 1", "b: |", "  x", "  y", "c: {d: e}", ""])
    parsed = Document.parse(start + text.encode(), "a.yaml")
    assert parsed.value == {"a": 1, "b": "x\ny\n", "c": {"d": "e"}}
    found = parsed.locate(Finding("code", "", ("c", "d")))
    assert (found.mark.line, found.mark.column, found.source) == (5, 8, "c: {d: e}")


PLACES = """\
# comment
description: Get a thing.
request:
  method: GET
  url: "/x/{id}"
  'headers': {X-A: "\\t{a}", X-B: 'it''s', X-C: ''}
list:
- a
- b: c
block: |
  one {two}

    three {four}
folded: >-
  one
  two
empty:
shared: &s {k: v}
again: *s
quoted: "b c
   d"
wrapped: "\\u00e9 f
  g"
"""


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
def test_a_byte_that_is_not_utf8_is_reported_at_its_place(start: bytes) -> None:
    parsed = Document.parse(start + b"\xc3\xa9: b\n\xc3\xa9aa\xff", "a")
    assert [(found.code, found.mark) for found in parsed.problems] == [("not-utf8", Mark(2, 4))]


@pytest.mark.parametrize(
    ("route", "expected"),
    [
        ((), (2, 1)),
        (("description",), (2, 14)),
        (("request",), (4, 3)),
        (("request", "url"), (5, 8)),
        (("request", "headers", "X-A"), (6, 20)),
        (("list", 0), (8, 3)),
        (("list", 1, "b"), (9, 6)),
        (("empty",), (17, 1)),
        (("again", "k"), (18, 16)),
        (("request", "missing"), (4, 3)),
        (("list", 7), (8, 1)),
        (("missing", "more"), (2, 1)),
    ],
)
def test_a_route_leads_to_a_line_and_a_column(route: Route, expected: tuple[int, int]) -> None:
    mark = parse(PLACES).locate(Finding("code", "", route)).mark
    assert (mark.line, mark.column) == expected


@pytest.mark.parametrize(
    ("route", "expected"),
    [
        (("request",), (3, 1)),
        (("request", "headers"), (6, 3)),
        (("request", "headers", "X-B"), (6, 29)),
        (("list", 1), (9, 3)),
        (("again",), (19, 1)),
    ],
)
def test_a_finding_about_a_key_points_at_the_key(route: Route, expected: tuple[int, int]) -> None:
    mark = parse(PLACES).locate(Finding("code", "", route, at_key=True)).mark
    assert (mark.line, mark.column) == expected


@pytest.mark.parametrize(
    ("route", "part", "expected"),
    [
        (("description",), "thing", (2, 20)),
        (("request", "url"), "{id}", (5, 12)),
        (("block",), "{two}", (11, 7)),
        (("block",), "three", (13, 5)),
        (("block",), "{four}", (13, 11)),
        (("request", "headers", "X-A"), "{a}", (6, 23)),
        (("request", "headers", "X-B"), "s", (6, 34)),
        (("folded",), "one", (15, 3)),
        (("folded",), " two", (15, 6)),
        (("folded",), "two", (16, 3)),
        (("quoted",), "b", (20, 10)),
        (("quoted",), "d", (21, 4)),
        (("wrapped",), "é f", (22, 10)),
        (("wrapped",), "g", (23, 3)),
    ],
)
def test_an_offset_points_at_the_character_in_the_file(
    route: Route, part: str, expected: tuple[int, int]
) -> None:
    parsed = parse(PLACES)
    text = parsed.value
    for step in route:
        text = text[str(step)]
    mark = parsed.locate(Finding("code", "", route, offset=str(text).index(part))).mark
    assert (mark.line, mark.column) == expected


def test_an_offset_at_the_end_of_an_escaped_text_points_at_its_quote() -> None:
    finding = Finding("code", "", ("a",), offset=2)
    assert parse('a: "b\\u0063"\n').locate(finding).mark == Mark(1, 12)


@pytest.mark.parametrize(("route", "column"), [(("description", "x"), 14), (("request",), 3)])
def test_an_offset_counts_only_in_an_existing_text(route: Route, column: int) -> None:
    assert parse(PLACES).locate(Finding("code", "", route, offset=3)).mark.column == column


def test_columns_count_characters() -> None:
    mark = parse('{"é😀": 1, b: 2}\n').locate(Finding("code", "", ("b",))).mark
    assert (mark.line, mark.column) == (1, 14)


def test_values_read_before_a_syntax_error_are_kept() -> None:
    parsed = parse("enabled: false\nother: {a: 1\n")
    assert codes(parsed) == ["yaml-syntax"]
    assert parsed.value["enabled"] is False


def test_several_problems_are_found_in_one_pass() -> None:
    parsed = parse("a: !t .nan\na: 1\n{b}: c\nd: {e: f, g}\n")
    assert codes(parsed) == [
        "yaml-tag",
        "not-json",
        "duplicate-key",
        "unquoted-placeholder",
        "flow-comma",
    ]


def test_a_problem_holds_its_line_of_source() -> None:
    assert parse("a: 1\nb: [}\n").problems[0].source == "b: [}"


PRIVATE = """\
baseUrl: http://x
x-key: &key s3cret
auth:
  type: http
  credentials: *key
headers: {X-Key: "a
  s3cret b"}
tls: {}
"""


def test_no_line_that_may_hold_a_secret_is_quoted() -> None:
    parsed = Document.parse(PRIVATE.encode(), "a.yaml", frozenset({"auth", "headers", "proxy"}))
    quoted = {parsed.locate(Finding("code", "", (key,), at_key=True)).source for key in parsed.value}
    assert quoted == {"baseUrl: http://x", None, "tls: {}"}
    assert parsed.locate(Finding("code", "", ("auth", "type"))).source is None
    assert parsed.locate(Finding("code", "", ("auth", "credentials"))).source is None


def test_no_line_of_a_file_with_problems_and_private_keys_is_quoted() -> None:
    parsed = Document.parse(b"baseUrl: x\nbaseUrl: y\n", "a.yaml", frozenset({"auth"}))
    assert [problem.source for problem in parsed.problems] == [None]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("a: " + "x" * MAX_BYTES, "too-large"),
        ("a: " + "[" * 3000, "too-deep"),
        ("a: " + "{" * 3000, "too-deep"),
        ("? " * 3000, "too-deep"),
        ("- " * 3000, "not-a-mapping"),
        ("a:\n" + "\n".join(" " * n + "b:" for n in range(1, 300)), "too-deep"),
        ("a: [" + "0," * 20_001 + "]", "too-many-values"),
        ("a: [" + "[]," * 60_000 + "]", "too-many-values"),
        ("".join(f"k{n}: 1\n" for n in range(20_001)), "too-many-values"),
        ("a: &a [" + "0," * 5000 + "]\nb: [*a, *a, *a, *a]", "too-many-values"),
        ("a: &a " + "x" * 200_000 + "\nb: [*a, *a, *a, *a]", "too-many-values"),
        ("a: &a [" + "*a," * 30 + "]", "unknown-alias"),
        ("a: [" + "| #" * 40_000, "yaml-syntax"),
        ("#\t\na: " + "[\n" * 70, "too-deep"),
        ("#\t\na: [" + "0," * 20_001 + "]", "too-many-values"),
    ],
    ids=lambda text: text[:12],
)
def test_a_hostile_file_is_refused_while_it_is_read(text: str, code: str) -> None:
    assert code in codes(parse(text))  # a tab in a comment sends it to the pure parser


@pytest.mark.parametrize(
    "text",
    [
        "a: [" + ".inf," * 9000 + "]",
        "a: [" + "!x v," * 9000 + "]",
        "a: {b: c, " + "d," * 9000 + "}",
        "a: 1\n" * 9000,
        "#\t\n" + "".join(f"k{n}: !x v\n" for n in range(9000)),
        'a: ["' + "\U0001f600" * 1000 + '", ' + '"\\u200b",' * 9000 + "]",
    ],
    ids=lambda text: text[:12],
)
def test_a_file_full_of_problems_is_read_up_to_the_limit(text: str) -> None:
    parsed = parse(text)
    assert len(parsed.problems) == MAX_PROBLEMS + 1
    assert codes(parsed).count("too-many-problems") == 1
    of_lines = {problem.mark.line: problem.source for problem in parsed.problems}
    assert all(problem.source is of_lines[problem.mark.line] for problem in parsed.problems)


def test_a_large_text_is_read() -> None:
    assert len(value("x" * (MAX_BYTES - 100))) == MAX_BYTES - 100


FRAGMENTS = (
    *(
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        ": ",
        " :",
        "- ",
        "-",
        "? ",
        "?",
        "#",
        " # c",
        "&a ",
        "&",
        "*a",
        "*",
        "!",
    ),
    *(
        "!!str ",
        "|\n  ",
        "|-\n ",
        ">\n\n  ",
        "|2\n",
        ">#",
        "'",
        '"',
        "\\",
        "\\n",
        "\\u00e9",
        "\n",
        "\n ",
        "\n  ",
    ),
    *("\n\n", " ", "%", "%YAML 1.1\n", "---\n", "\n---\n", "\n...\n", "...", "@", "`", "~", "null", "true"),
    *(".nan", "1e5", "012", "<<: ", "a", "b: c\n", "é", "😀", "\r\n", "\r", "{a}", "{{b}}", "a: b: c", "x,y"),
    *("'a'", '"b"', "?a", ":a", "a?", "a#", "\n- ", "http://x/y?z=1&b=2", "\u2028", "\xa0", "\ufeff", "\t"),
)
PIECES = st.text("ab0:-?#,[]{}&*!|>'\"%~.\\ \n", max_size=6)
VALUES = st.recursive(
    st.one_of(PIECES, *(PIECES.map(form.format) for form in ("'{}'", '"{}"', "|\n  {}"))),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]"),
        st.lists(st.tuples(PIECES, inner).map(": ".join), max_size=3).map(
            lambda members: f"{{{', '.join(members)}}}"
        ),
    ),
    max_leaves=4,
)
TEXTS = st.one_of(
    st.lists(st.tuples(st.sampled_from(["a", "'b'", "c d", "404"]), VALUES).map(": ".join), max_size=3).map(
        "\n".join
    ),
    st.lists(st.sampled_from(FRAGMENTS), max_size=14).map("".join),
    st.lists(st.sampled_from(FRAGMENTS), max_size=5).map(lambda parts: f"{PLACES}{''.join(parts)}\n"),
    st.tuples(st.integers(0, len(PLACES)), st.sampled_from(FRAGMENTS)).map(
        lambda cut: PLACES[: cut[0]] + cut[1] + PLACES[cut[0] :]
    ),
)


def routes(node: Json, route: Route = ()) -> list[Route]:
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [route, *(deep for step, item in items for deep in routes(item, (*route, step)))]


def everything(parsed: Document) -> Json:
    """Everything in a document: value, problems, and every position."""
    findings = [
        Finding("code", "", route, at_key=at_key)
        for route in routes(parsed.value)
        for at_key in (False, True)
    ]
    places = [] if parsed.problems else [parsed.locate(finding) for finding in findings]
    return parsed.value, parsed.problems, places


@example("{url: http://x/y}\n")
@example("{x: y?z}\n")
@example("a:\tb\n")
@example("a: |#c\n  d\n")
@example("a: >-\n \n  d\n")
@example("a: | # b | c\n \n  d\n")
@example("a: b\n...\n\n...\n")
@example("&a?b: c\n")
@example("a: ['b':c]\n")
@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_both_parsers_give_the_same_result(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        both = everything(parse(text))
        patch.setattr(document, "_CParser", None)
        assert everything(parse(text)) == both


@settings(max_examples=100, deadline=None)
@given(TEXTS)
def test_parsing_never_raises_and_the_value_is_json(text: str) -> None:
    def is_json(node: Json) -> bool:
        if isinstance(node, float):
            return math.isfinite(node)
        items = [*node.values(), *node] if isinstance(node, dict) else node if isinstance(node, list) else []
        return isinstance(node, dict | list | str | int | None) and all(map(is_json, items))

    parsed = parse(text)
    assert parsed.problems or is_json(parsed.value)
    assert all(problem.mark.line <= text.count("\n") + text.count("\r") + 1 for problem in parsed.problems)


def test_a_text_with_very_many_indicators_is_read_by_the_pure_parser() -> None:
    text = "|" * 60_000
    assert value(f"'{text}'") == text


@pytest.mark.slow
def test_a_valid_text_is_read_without_importing_the_pure_parser() -> None:
    code = (
        "import sys\n"
        "from bridge.toolfiles.text.document import Document\n"
        "assert Document.parse(b'a: [&b {url: http://x/y}, *b]', 'a').value\n"
        "assert 'ruamel.yaml' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(document.__file__).parents[3])


@pytest.mark.slow
def test_without_the_extension_the_pure_parser_reads() -> None:
    code = (
        "import sys; sys.modules['yaml._yaml'] = None\n"
        "from bridge.toolfiles.text.document import Document\n"
        "import yaml\n"
        "assert not hasattr(yaml, 'CSafeLoader')\n"
        "assert Document.parse(b'a: [1, {b: c}]', 'a').value == {'a': [1, {'b': 'c'}]}\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(document.__file__).parents[3])
