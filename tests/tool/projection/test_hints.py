import pytest

from bridge.diagnostics import InvalidSpec
from bridge.tool.projection.projection import Projection


@pytest.mark.parametrize(
    ("expression", "offset", "part"),
    [
        (" ", 0, "the expression is empty"),
        ("items[0", 5, "[ is never closed; write ]"),
        ("(items[?a", 6, "[? is never closed; write ]"),
        ("items[].", 8, "ends too early"),
        ("items[?a >", 10, "ends too early"),
        ("items[0}", 7, "[ is not closed by }; write ]"),
        ("items]", 5, "] stands in no brackets; take it out"),
        ("(items)]", 7, "] stands in no brackets; take it out"),
        (")items", 0, ") stands in no brackets; take it out"),
        ("items, total", 5, ", stands in no brackets; take it out"),
        ("{id: id,}", 7, "a comma too many; take it out"),
        ("{id}", 3, "write id: id"),
        ("{a: a, id}", 9, "write id: id"),
        ("[a.]", 3, "something is missing before ]; complete it"),
        ("items[0-5]", 7, "as in [0:5]"),
        (".items", 0, "a path begins with a key; take the dot out"),
        ("a..b", 2, "a path begins with a key; take the dot out"),
        ("items[?a and b]", 9, "write &&"),
        ("items[?a or b]", 9, "write ||"),
        ("items[?a & b]", 9, "write && for and"),
        ("{a: b + c}", 6, "JMESPath does no arithmetic; take + out"),
        ("\u201ca\u201d", 0, "\u201c is no quote here; write ' around a text"),
        ("items[].first-name", 8, 'write "first-name"'),
        ("a-1", 0, 'write "a-1"'),
        ("items[?price > 10]", 15, "write `10`"),
        ("items.0.id", 6, "write [0]"),
        ("items[?a = b]", 9, "write =="),
        ("$.items", 0, "begin with the first key"),
        ("items[?a == 'x]", 12, "' is never closed"),
        ("a ^ b", 2, "^ cannot stand here"),
        ("a 'b'", 2, "' cannot stand here"),
        ("a `1", 2, "` is never closed; close it"),
        ('a | "keys"(c)', 4, "a function has no quotes; write keys()"),
        ("a bcd", 2, "bcd cannot stand here"),
    ],
)
def test_where_an_expression_breaks_it_says_what_to_write(expression: str, offset: int, part: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        Projection.compile(expression)
    (finding,) = caught.value.findings
    assert (finding.code, finding.offset) == ("bad-projection", offset)
    assert part in finding.message
