import pytest

from bridge.diagnostics import InvalidSpec
from bridge.tool.projection.projection import Projection


@pytest.mark.parametrize(
    ("expression", "offset", "part"),
    [
        (" ", 0, "the expression is empty"),
        ("items[0", 5, "[ is never closed; write ]"),
        ("(items[?a", 6, "[? is never closed; write ]"),
        ("items[].", 8, "the expression is incomplete"),
        ("items[?a >", 10, "the expression is incomplete"),
        ("items[0}", 7, "[ cannot be closed by }; write ]"),
        ("items]", 5, "] is outside any brackets; remove it"),
        ("(items)]", 7, "] is outside any brackets; remove it"),
        (")items", 0, ") is outside any brackets; remove it"),
        ("items, total", 5, ", is outside any brackets; remove it"),
        ("{id: id,}", 7, "found an extra comma; remove it"),
        ("{id}", 3, "write id: id"),
        ("{a: a, id}", 9, "write id: id"),
        ("[a.]", 3, "something is missing before ]; complete it"),
        ("items[0-5]", 7, "as in [0:5]"),
        (".items", 0, "found a dot, expected a key before it; remove the dot"),
        ("a..b", 2, "found a dot, expected a key before it; remove the dot"),
        ("items[?a and b]", 9, "write &&"),
        ("items[?a or b]", 9, "write ||"),
        ("items[?a & b]", 9, "write && for and"),
        ("{a: b + c}", 6, "JMESPath has no arithmetic; remove +"),
        ("\u201ca\u201d", 0, "\u201c is not a quote in JMESPath; put texts in '"),
        ("items[].first-name", 8, 'write "first-name"'),
        ("a-1", 0, 'write "a-1"'),
        ("items[?price > 10]", 15, "write `10`"),
        ("items.0.id", 6, "write [0]"),
        ("items[?a = b]", 9, "write =="),
        ("$.items", 0, "start with the first key"),
        ("items[?a == 'x]", 12, "' is never closed"),
        ("a ^ b", 2, "^ is not valid here"),
        ("a 'b'", 2, "' is not valid here"),
        ("a `1", 2, "` is never closed; close it"),
        ('a | "keys"(c)', 4, "found a function name in quotes; write keys()"),
        ("a bcd", 2, "bcd is not valid here"),
    ],
)
def test_a_syntax_error_says_what_to_write(expression: str, offset: int, part: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        Projection.compile(expression)
    (finding,) = caught.value.findings
    assert (finding.code, finding.offset) == ("bad-projection", offset)
    assert part in finding.message
