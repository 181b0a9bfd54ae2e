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
from bridge.tool.request.nodes import Constant, Whole


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
    ("content_type", "said"),
    [
        ("", "expected a media type"),
        ("json", "expected a media type"),
        ("text/{kind}", "expected a media type"),
        ("text/plain\r\nX-Evil: 1", "expected a media type"),
        ("text/plain\n", "expected a media type"),
        ('text/plain; x="a\nb"', "expected a media type"),
        ("multipart/form-data; boundary=x", "the boundary is chosen for each call"),
        ("text/plain; charset=iso-8859-1", "texts are sent in UTF-8"),
        ('text/plain; charset="latin1"', "texts are sent in UTF-8"),
    ],
)
def test_what_is_no_media_type_or_not_ours_to_write_is_refused(content_type: str, said: str) -> None:
    with pytest.raises(InvalidSpec, match=said):
        check_content_type(content_type)


def test_json_is_known_by_its_suffix() -> None:
    assert media_type("Application/JSON; x=1") == "application/json"
    assert is_json("application/merge-patch+json; charset=utf-8")
    assert not is_json("text/plain")


def test_base64_stands_for_bytes() -> None:
    assert write_bytes("x", "AP8=\n", is_base64=True) == b"\0\xff"
    assert write_bytes("x", 5, is_base64=False) == b"5"
    for text in ("AP8", "A*==", "é"):
        with pytest.raises(InvalidCall, match="argument x is not base64") as caught:
            write_bytes("x", text, is_base64=True)
        assert caught.value.code == "not-base64"


def test_what_json_cannot_say_is_not_sent() -> None:
    with pytest.raises(InvalidCall, match="cannot be written as JSON: a number is NaN") as caught:
        write_json({"a": float("nan")})
    assert caught.value.code == "unwritable-value"


def test_a_constant_in_base64_is_checked_at_load() -> None:
    findings = Findings()
    check_base64({"encoding": "base64"}, Constant("AP8="), findings)
    check_base64({"encoding": "base64"}, Whole("x"), findings)
    check_base64({}, Constant("text"), findings)
    check_base64({"encoding": "base64"}, Constant([]), findings)
    assert not list(findings)
    check_base64({"encoding": "base64"}, Constant("AP8"), findings, "body")
    check_base64({"encoding": "hex"}, Constant("00"), findings, "body")
    assert [(f.route, f.code) for f in findings] == [
        (("body", "value"), "wrong-value"),
        (("body", "encoding"), "wrong-value"),
    ]
