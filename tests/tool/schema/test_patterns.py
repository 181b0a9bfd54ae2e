import pytest

from bridge.tool.schema.patterns import compiled_size, nanoseconds_per_byte


@pytest.mark.parametrize(
    ("pattern", "cost"),
    [
        ("", 10),
        (r"\S", 10),
        ("^[A-Za-z0-9+/]*={0,2}$", 10),
        (r"(?i)^[^@\s]+@[^@\s]+$", 10),
        (r"^\d+(\.\d{1,2})?$", 10),
        # Anchored, and of fixed length: one active position.
        ("^[a-z0-9]{8}-[a-z0-9]{4}$", 40),
        (r"^(?P<year>\d{4})-(?:0[1-9]|1[0-2])-\d{2}$", 70),
        (r"^.{1,500}$", 70),
        (r"^\w{1,2000}$", 370),
        ("^[a-z]{50,}?$", 70),
        ("^(?:ab|cd){20}$", 70),
        # After a part of variable length, the next part can start anywhere.
        ("^a*[ab]{20}$", 670),
        ("^(?:a|bc){20}$", 2440),
        # Not anchored: it can start anywhere.
        ("a[ab]{20}c", 670),
        ("^a|b{20}", 700),
        ("(^)*[ab]{20}", 640),
        (r"(\w{1,200}){1,20}\d", 120_340),
        (r"[\]a-]{20}", 610),
        (r"\u00e9{20}\x41\cA\u{1F600}", 700),
    ],
)
def test_a_pattern_costs_as_much_as_its_active_positions(pattern: str, cost: int) -> None:
    assert nanoseconds_per_byte(pattern) == cost


@pytest.mark.parametrize(
    "pattern",
    [
        "a{,3}",
        "[a-z&&[^b]]",
        "(?=a)",
        "(?m)^a",
        "(a",
        "a)",
        "*a",
        r"\1",
        r"\x{41}",
        "a**",
        "[a",
        "a{x}",
        pytest.param(f"a{{{'9' * 5000}}}", id="too many digits for an int"),
        "(" * 2000,
    ],
)
def test_a_pattern_with_unsupported_syntax_has_no_estimate(pattern: str) -> None:
    assert nanoseconds_per_byte(pattern) is None


@pytest.mark.parametrize(
    ("size", "found"), [(100, 768), (900, 1024), (1100, 1536), (1600, 2048), (5000, None)]
)
def test_a_compiled_size_is_rounded_up_by_a_third_at_most(size: int, found: int | None) -> None:
    assert compiled_size("x", lambda _, limit: limit >= size, 4096) == found
