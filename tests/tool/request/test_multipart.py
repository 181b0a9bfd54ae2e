from email import message_from_bytes
from email.message import Message
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.diagnostics import Findings
from bridge.errors import InvalidCall
from bridge.tool.request.multipart import MultipartBody, compile_multipart, compile_unplaced
from bridge.tool.schema.arguments import Arguments

ARGUMENTS = Arguments.compile(
    {
        "properties": {
            "a": {"type": "string"},
            "name": {"type": "string"},
            "n": {"type": ["integer", "null"]},
            "list": {"type": "array", "items": {"type": "string"}},
            "object": {"type": "object"},
        },
    }
)[0]


def compiled(written: Any) -> MultipartBody:
    findings = Findings()
    body = compile_multipart(written, ARGUMENTS, findings)
    assert not list(findings)
    return body


def parts(built: tuple[bytes, str]) -> list[Message]:
    content, content_type = built
    message = message_from_bytes(f"Content-Type: {content_type}\r\n\r\n".encode() + content)
    return message.get_payload() if message.is_multipart() else []  # type: ignore[return-value]


def test_parts_are_written_as_in_rfc_7578() -> None:
    body = compiled(
        {
            "title": "Report {a}",
            "file": {
                "value": "aGk=",
                "encoding": "base64",
                "filename": "{a}.png",
                "contentType": "image/png",
            },
            "raw": {"value": "{a}", "filename": "a.bin"},
            "meta": {"value": {"n": "{n}"}, "contentType": "application/json"},
            "tags": "{list}",
            "gone": "{n}",
        }
    )
    content, content_type = body.build({"a": "é", "list": ["x", "y"], "n": None}, {})
    boundary = content_type.removeprefix("multipart/form-data; boundary=")
    head = "Content-Disposition: form-data; name="
    written = [
        f'{head}"title"\r\n\r\nReport é',
        f'{head}"file"; filename="é.png"\r\nContent-Type: image/png\r\n\r\nhi',
        f'{head}"raw"; filename="a.bin"\r\nContent-Type: application/octet-stream\r\n\r\né',
        f'{head}"meta"\r\nContent-Type: application/json\r\n\r\n{{"n":null}}',
        f'{head}"tags"\r\n\r\nx',
        f'{head}"tags"\r\n\r\ny',
    ]
    lines = [f"--{boundary}\r\n{part}\r\n" for part in written]
    assert content.decode() == "".join([*lines, f"--{boundary}--\r\n"])


def test_an_absent_argument_makes_no_part() -> None:
    body = compiled({"a": "{a}", "f": {"value": "{n}", "filename": "{a}"}, "l": "{list}"})
    assert parts(body.build({}, {})) == []
    [part] = parts(body.build({"n": 1, "list": []}, {}))
    assert part.get_filename() is None


def test_unplaced_arguments_become_parts() -> None:
    findings = Findings()
    body = compile_unplaced(("a", "list", "object"), ARGUMENTS, findings, "inputSchema", "properties")
    assert [(f.code, f.route) for f in findings] == [
        ("nested-value", ("inputSchema", "properties", "object"))
    ]
    built = parts(body.build({"a": "x"}, {'m"ore': 2}))
    assert [(part.get_param("name", header="content-disposition"), part.get_payload()) for part in built] == [
        ("a", "x"),
        ("m%22ore", "2"),
    ]


@given(st.text(), st.text(st.sampled_from('a"\\;=\r\n-é')) | st.text())
def test_no_value_or_file_name_becomes_another_part_or_header(value: str, filename: str) -> None:
    body = compiled({"f": {"value": "{a}", "filename": "{name}"}})
    try:
        built = body.build({"a": value, "name": filename}, {})
    except InvalidCall as refused:
        assert refused.code in {"unsafe-argument", "not-unicode"}  # noqa: PT017 - no third reason
        return
    head, _, rest = built[0].partition(b"\r\n\r\n")
    boundary = built[1].removeprefix("multipart/form-data; boundary=").encode()
    assert rest == value.encode() + b"\r\n--" + boundary + b"--\r\n"
    assert head.count(b"\r\n") == 2
    assert head.count(b'"') == 4


def test_no_part_contains_the_boundary() -> None:
    body = compiled({"a": "{a}"})
    _, content_type = body.build({"a": "x"}, {})
    boundary = content_type.removeprefix("multipart/form-data; boundary=")
    [part] = parts(body.build({"a": f"x\r\n--{boundary}--\r\n"}, {}))
    assert part.get_payload() == f"x\r\n--{boundary}--\r\n"


@pytest.mark.parametrize("name", ["a\r\nX: 1", "\0"])
def test_names_with_control_characters_are_refused(name: str) -> None:
    with pytest.raises(InvalidCall, match="the name of a part would contain a control character") as caught:
        compiled({}).build({}, {name: 1})
    assert caught.value.code == "unsafe-argument"


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("x", ["body: expected multipart as a mapping of names to parts; write {name: part} [wrong-value]"]),
        ({"f": "{aa}"}, ["body.f: {aa} names no argument; did you mean {a}? [unknown-argument]"]),
        (
            {"f": {"value": "{object}", "filename": "{list}", "contentType": "png"}},
            [
                'body.f.contentType: found "png", expected a media type such as application/json [wrong-value]',
                "body.f.filename: argument list may be an array or object, which cannot be written as text; give it another type in inputSchema, such as string [not-text]",
                "body.f.value: argument object may be an object, but a form carries only scalars and lists of scalars; flatten it, or write {value: …, contentType: application/json} in request.body [nested-value]",
            ],
        ),
        (
            {"f": {"content": "x", "filename": 1, "contentType": 2, "encoding": "hex"}},
            [
                'body.f.content: unknown key "content"; did you mean contentType? [unknown-key]',
                'body.f: the key value is missing; add it with what to send, such as "{argument}" [missing-key]',
                "body.f.contentType: found 2, expected a text [wrong-value]",
                "body.f.filename: found 1, expected a text [wrong-value]",
                'body.f.encoding: found "hex", expected base64, the only encoding [wrong-value]',
            ],
        ),
        ({"a\n": "x"}, ["body.a\n: a part name cannot contain control characters; take them out [bad-name]"]),
    ],
)
def test_invalid_parts_are_reported_at_load(written: Any, found: list[str]) -> None:
    findings = Findings()
    compile_multipart(written, ARGUMENTS, findings, "body")
    assert [f"{'.'.join(map(str, f.route))}: {f.message} [{f.code}]" for f in findings] == found


def test_parts_list_the_places_of_their_arguments() -> None:
    body = compiled({"f": {"value": "{a}", "filename": "{n}.txt"}, "g": {"value": "x", "filename": "y"}})
    leaves = [(*route, *names) for route, names, _ in body.leaves()]
    assert leaves == [("f", "a"), ("f", "filename", "n")]
