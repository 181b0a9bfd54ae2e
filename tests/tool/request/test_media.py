import pytest

from bridge.diagnostics import Findings, InvalidSpec
from bridge.errors import InvalidCall
from bridge.tool.request.media import (
    check_base64,
    check_content_type,
    is_json,
    media_type,
    write_bytes,
    write_json,
)
from bridge.tool.request.nodes import ArgumentNode, ConstantNode


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "application/vnd.api+json",
        "text/plain; charset=UTF-8",
        'a/b;x="y z"; q=1',
        "multipart/form-data",
    ],
)
def test_media_types_are_accepted(content_type: str) -> None:
    check_content_type(content_type)


@pytest.mark.parametrize(
    ("content_type", "message"),
    [
        ("", "expected a media type"),
        ("json", "expected a media type"),
        ("text/{kind}", "expected a media type"),
        ("text/plain\r\nX-Evil: 1", "expected a media type"),
        ("text/plain\n", "expected a media type"),
        ('text/plain; x="a\nb"', "expected a media type"),
        ("multipart/form-data; boundary=x", "each call gets its own boundary"),
        ("text/plain; charset=iso-8859-1", "text is always sent in UTF-8"),
        ('text/plain; charset="latin1"', "text is always sent in UTF-8"),
    ],
)
def test_an_invalid_media_type_charset_or_boundary_is_refused(content_type: str, message: str) -> None:
    with pytest.raises(InvalidSpec, match=message):
        check_content_type(content_type)


def test_json_is_recognised_by_its_suffix() -> None:
    assert media_type("Application/JSON; x=1") == "application/json"
    assert is_json("application/merge-patch+json; charset=utf-8")
    assert not is_json("text/plain")


def test_base64_is_decoded_to_bytes() -> None:
    assert write_bytes("x", "AP8=\n", is_base64=True) == b"\0\xff"
    assert write_bytes("x", 5, is_base64=False) == b"5"
    for text in ("AP8", "A*==", "é"):
        with pytest.raises(InvalidCall, match="argument x is not base64") as caught:
            write_bytes("x", text, is_base64=True)
        assert caught.value.code == "not-base64"


def test_values_that_json_cannot_express_are_refused() -> None:
    with pytest.raises(InvalidCall, match="cannot be written as JSON: a number is NaN") as caught:
        write_json({"a": float("nan")})
    assert caught.value.code == "unwritable-value"


def test_a_constant_in_base64_is_checked_at_load() -> None:
    findings = Findings()
    check_base64({"encoding": "base64"}, ConstantNode("AP8="), findings)
    check_base64({"encoding": "base64"}, ArgumentNode("x"), findings)
    check_base64({}, ConstantNode("text"), findings)
    check_base64({"encoding": "base64"}, ConstantNode([]), findings)
    assert not list(findings)
    check_base64({"encoding": "base64"}, ConstantNode("AP8"), findings, "body")
    check_base64({"encoding": "hex"}, ConstantNode("00"), findings, "body")
    assert [(f.route, f.code) for f in findings] == [
        (("body", "value"), "wrong-value"),
        (("body", "encoding"), "wrong-value"),
    ]
