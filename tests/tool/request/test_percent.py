from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import InvalidCall
from bridge.tool.request.percent import encode, encode_form, encode_path, encode_segment, has_path_traversal

TEXTS = st.text(st.sampled_from("./\\%2eEfF5cC;ab ?#é")) | st.text()


def refused(text: str, why: str, code: str = "unsafe-argument") -> None:
    with pytest.raises(InvalidCall, match=why) as caught:
        encode_segment("id", text)
    assert caught.value.code == code
    assert str(caught.value).startswith("argument id ")


@pytest.mark.parametrize(
    ("text", "encoded"),
    [
        ("o-1001", "o-1001"),
        ("a.b_c~d", "a.b_c~d"),
        ("...", "..."),
        ("a/b", "a%2Fb"),
        ("a b", "a%20b"),
        ("50%", "50%25"),
        ("100%41", "100%2541"),
        ("é😀", "%C3%A9%F0%9F%98%80"),
        ("?#;@:&=+$,!*'()[]", "%3F%23%3B%40%3A%26%3D%2B%24%2C%21%2A%27%28%29%5B%5D"),
        ("//evil", "%2F%2Fevil"),
        ("http://evil", "http%3A%2F%2Fevil"),
        ("a\\b", "a%5Cb"),
        ("..a", "..a"),
    ],
)
def test_a_value_is_one_segment_in_which_only_unreserved_bytes_are_literal(text: str, encoded: str) -> None:
    assert encode_segment("id", text) == encoded


@pytest.mark.parametrize(
    "text",
    [
        ".",
        "..",
        "../x",
        "a/..",
        "a/./b",
        "..\\x",
        "a\\..",
        "..;",
        "x/..;a/b",
        "/..",
        ".. ",
        " ..",
        "\uff0e\uff0e",
        "\u2025\uff0fx",
    ],
)
def test_dot_segments_are_refused(text: str) -> None:
    refused(text, "holds a . or .. segment")


@pytest.mark.parametrize(
    "text",
    [
        "%2e",
        "%2E%2e",
        "%252e%252e",
        "..%2f",
        "a%2fb",
        "a%5cb",
        "%252f",
        "a/%2e%2e",
        "%00",
        "%250d%250a",
        "%2e%3bx",
    ],
)
def test_values_that_decode_to_more_than_one_segment_are_refused(text: str) -> None:
    refused(text, "looks percent-encoded")


@pytest.mark.parametrize("text", ["a\nb", "a\r", "\0", "a\tb", "\x7f"])
def test_control_characters_are_refused(text: str) -> None:
    refused(text, "control character")


def test_empty_values_and_lone_surrogates_are_refused() -> None:
    refused("", "is empty")
    refused("\ud800", "not valid Unicode", "not-unicode")


@given(TEXTS)
def test_a_segment_decodes_to_its_value_and_never_to_another_path(text: str) -> None:
    try:
        segment = encode_segment("id", text)
    except InvalidCall:
        return
    assert segment.isascii()
    assert "/" not in segment
    assert unquote(segment) == text
    decoded = segment
    for _ in range(3):
        decoded = unquote(decoded)
        parts = decoded.replace("\\", "/").split("/")
        assert not {".", ".."} & set(parts)
        assert len(parts) == len(text.replace("\\", "/").split("/"))


@given(TEXTS)
def test_a_path_keeps_its_slashes_and_nothing_else(text: str) -> None:
    try:
        path = encode_path("path", text)
    except InvalidCall:
        return
    assert unquote(path) == text
    assert path.count("/") == text.count("/")
    assert not has_path_traversal(f"/{path}")


@pytest.mark.parametrize("text", ["/a", "a/", "a//b", "/"])
def test_a_path_has_no_empty_segments(text: str) -> None:
    with pytest.raises(InvalidCall, match="has an empty segment"):
        encode_path("path", text)


@pytest.mark.parametrize(
    ("path", "leads"),
    [
        ("/a/b", False),
        ("/.well-known/x", False),
        ("/a%2Fb", False),
        ("/a/..", True),
        ("/a/%2e%2E/b", True),
        ("/a/%252e", True),
        ("/a/%25252e%25252e", True),
        ("/a/b%252fc", True),
        ("/a/..%20/b", True),
        ("/a/%2e%c2%a0.", True),
        ("/a/..%00", True),
        ("/a%0Ab", True),
        ("/a/..%ef%bc%8fb", True),
        ("/a/%ef%bc%8e%ef%bc%8e", True),
        ("/a/%e2%80%a5;x", True),
        ("/a/%c0%ae%C0%AE", True),
        ("/a/%e0%80%ae.", True),
        ("/a/%f0%80%80%ae", True),
        ("/a/%c0%a52e", True),
        ("/a/..%c1%9cb", True),
        ("/a/%25c0%25ae", True),
        ("/a/%c1%81", False),
        ("/caf%e9", False),
        ("/a/%ef%bc%8e%20%e2%84%85", False),
    ],
)
def test_a_whole_path_is_checked_as_servers_may_decode_it(path: str, leads: bool) -> None:  # noqa: FBT001 - a table
    assert has_path_traversal(path) is leads


def test_control_characters_are_refused_in_a_query_and_allowed_in_a_form() -> None:
    assert encode("q", "a&b=c d+é") == "a%26b%3Dc%20d%2B%C3%A9"
    assert encode("q", "") == ""
    with pytest.raises(InvalidCall, match="argument q holds a line break"):
        encode("q", "a\nb")
    assert encode_form("q", "a\nb") == "a%0Ab"
    with pytest.raises(InvalidCall, match="not valid Unicode"):
        encode_form("q", "\udfff")
