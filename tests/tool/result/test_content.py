import base64
import json

import pytest

from bridge.codec import FREE_CONTAINERS
from bridge.errors import UnusableReply
from bridge.exchange import Reply
from bridge.redaction import NO_SECRETS, Redactor
from bridge.spec import Json, ResponseSpec
from bridge.tool.result.content import (
    Result,
    document,
    kind_of,
    of_reply,
    of_structured,
    of_value,
    redacted,
    whole,
)

PNG = b"\x89PNG\r\n\x1a\n" + bytes(10)
PICTURES = {
    "image/png": PNG,
    "image/jpeg": b"\xff\xd8\xff\xe0",
    "image/gif": b"GIF89a",
    "image/webp": b"RIFF\x01\x02\x03\x04WEBPVP8",
}


def reply(content: bytes | str, content_type: str = "", *, status: int = 200, complete: bool = True) -> Reply:
    headers = {"content-type": content_type} if content_type else {}
    return Reply(status, headers, content.encode() if isinstance(content, str) else content, complete)


def response(**words: Json) -> ResponseSpec:
    return ResponseSpec.model_validate(words)


def given(answer: Reply, **words: Json) -> dict[str, Json]:
    """The one block that a reply becomes."""
    (block,) = of_reply(answer, response(**words), tool="get_x", narrowing=["limit"]).content
    return block


def refused(answer: Reply, **words: Json) -> UnusableReply:
    with pytest.raises(UnusableReply) as caught:
        of_reply(answer, response(**words), tool="get_x")
    return caught.value


@pytest.mark.parametrize(
    ("content", "content_type", "value"),
    [
        ('{"a": [1, 12345678901234567890123]}', "application/json", {"a": [1, 12345678901234567890123]}),
        ("null", "text/plain", None),
        ("", "application/json", None),
        (" \r\n", "", None),
        (b"\xef\xbb\xbf[1]", "application/json", [1]),
        ('"Zo\xeb"'.encode("latin-1"), "application/json; charset=ISO-8859-1", "Zoë"),
        ('"Zoë"'.encode("utf-16"), 'application/json;charset="utf-16"', "Zoë"),
        ('"Zoë"', "application/json; charset=klingon", "Zoë"),
        (r'"\ud800"', "application/json", "\ufffd"),
    ],
)
def test_a_document_is_read_as_declared(content: bytes | str, content_type: str, value: Json) -> None:
    assert document(reply(content, content_type)) == value


def test_a_reply_that_is_no_json_names_its_type_and_shows_its_beginning() -> None:
    page = "<html>\x1b" + "x" * 1000
    with pytest.raises(UnusableReply) as caught:
        document(reply(page, "text/html; charset=utf-8", status=203))
    assert caught.value.code == "not-json"
    assert str(caught.value).startswith("The API answered 203 with text/html, which cannot be read as JSON: ")
    assert r'It begins with "<html>\u001bxxx' in str(caught.value)
    assert len(str(caught.value)) < 500
    with pytest.raises(UnusableReply, match="with no Content-Type, which"):
        document(reply("x"))


def test_json_of_too_many_objects_is_a_reply_that_is_too_large() -> None:
    error = refused(reply(f"[{','.join(['{}'] * FREE_CONTAINERS)}]", "application/json"))
    assert error.code == "reply-too-large"
    assert str(error) == (
        f"The reply of the API server is too large to be read: it holds more than {FREE_CONTAINERS} arrays and objects."
        " Ask for less, if this tool's arguments can; else tell the user."
    )


def test_a_projection_may_see_status_and_headers() -> None:
    headers = {"content-type": "application/json", "etag": "v7"}
    assert whole(Reply(201, headers, b"[1]")) == {"status": 201, "headers": headers, "body": [1]}
    assert whole(Reply(304, {"etag": "v7"}, b"")) == {"status": 304, "headers": {"etag": "v7"}, "body": None}
    assert whole(reply("words", "text/plain"))["body"] == "words"
    assert whole(reply("[1]"))["body"] == [1]
    assert whole(reply(PNG, "image/png"))["body"] is None
    with pytest.raises(UnusableReply):
        whole(reply("[1", "application/json"))


@pytest.mark.parametrize(
    ("content", "content_type", "kind"),
    [
        ("{}", "application/json; charset=utf-8", "json"),
        ("{}", "application/problem+json", "json"),
        ("{}", "Application/JSON", "json"),
        ("{}\n{}", "application/x-ndjson", "text"),
        ("<p>", "text/html", "text"),
        ("<a/>", "application/xml", "text"),
        ("<svg/>", "image/svg+xml", "text"),
        ("a: 1", "application/yaml", "text"),
        *((content, media_type, "image") for media_type, content in PICTURES.items()),
        ("no picture", "image/png", "resource"),
        (b"II*\0", "image/tiff", "resource"),
        (b"RIFF", "audio/wav", "audio"),
        (b"%PDF", "application/pdf", "resource"),
        ("[1]", "application/octet-stream", "resource"),
        ("[1]", "", "json"),
        ("words", "", "text"),
        ("wo\0rds", "", "resource"),
        (b"\xff\xfe\xfd", "", "resource"),
    ],
)
def test_a_reply_is_what_its_content_type_says(content: bytes | str, content_type: str, kind: str) -> None:
    assert kind_of(reply(content, content_type)) == kind


@pytest.mark.parametrize("status", [200, 204])
@pytest.mark.parametrize("content", ["auto", "json", "image", "blocks"])
def test_an_empty_reply_is_a_sentence(status: int, content: str) -> None:
    block = given(reply("", "application/json", status=status), content=content)
    assert block == {"type": "text", "text": f"The API answered {status} and sent no content."}


def test_json_is_compact_and_clean() -> None:
    answer = reply('{ "name": "Zoë\\u001b\u202e",\n "n": 1.50 }', "application/json")
    assert given(answer) == {"type": "text", "text": r'{"name":"Zoë\u001b\u202e","n":1.5}'}
    assert given(answer, content="text")["text"] == '{ "name": "Zoë\\u001b\\u202e",\n "n": 1.50 }'


@pytest.mark.parametrize(
    ("content", "content_type", "text"),
    [
        ("Zoë\r\n", "text/plain", "Zoë\r\n"),
        (b"Zo\xeb", "text/plain; charset=latin1", "Zoë"),
        (b"Zo\xeb", "text/plain", "Zo\ufffd"),
        ("Zoë".encode("utf-16-be"), "text/plain; charset=UTF-16BE", "Zoë"),
        (b"\xff\xfe\x00\xd8x\x00", "text/plain; charset=utf-16", "\ufffdx"),
        ("\ufeffbom", "text/plain; charset=utf-8", "bom"),
        ("a\x1b[31m", "text/plain; charset=zlib_codec", r"a\u001b[31m"),
    ],
)
def test_text_is_decoded_as_declared_if_that_is_safe(
    content: bytes | str, content_type: str, text: str
) -> None:
    assert given(reply(content, content_type)) == {"type": "text", "text": text}


def test_a_long_text_or_list_is_cut_and_says_so() -> None:
    result = of_reply(
        reply(json.dumps(list(range(1000))), "application/json"),
        response(maxBytes=500),
        tool="get_x",
        narrowing=["limit"],
    )
    assert result.content[0]["text"].startswith("Only a part fits: showing ")
    assert result.meta["restbridge/total"] == 1000
    assert (
        "of 1000 lines; narrow with limit" in given(reply("line\n" * 1000, "text/csv"), maxBytes=500)["text"]
    )


@pytest.mark.parametrize(("media_type", "content"), PICTURES.items())
def test_a_picture_is_what_its_bytes_are_and_not_held_to_the_bound_of_text(
    media_type: str, content: bytes
) -> None:
    block = {"type": "image", "data": base64.b64encode(content).decode(), "mimeType": media_type}
    assert given(reply(content, "image/png"), maxBytes=5) == block
    assert given(reply(content, "application/octet-stream"), content="image") == block


def test_other_pictures_and_sound_are_given_as_declared() -> None:
    assert given(reply("<svg/>", "image/svg+xml"), content="image")["mimeType"] == "image/svg+xml"
    assert given(reply(b"RIFF", "audio/wav")) == {
        "type": "audio",
        "data": "UklGRg==",
        "mimeType": "audio/wav",
    }
    assert given(reply(b"RIFF", "audio/wav"), content="audio")["type"] == "audio"


def test_what_is_no_picture_and_no_sound_cannot_be_given_as_one() -> None:
    error = refused(reply("<html>", "text/html", status=203), content="image")
    assert (error.code, "203 with text/html instead of image" in str(error)) == ("wrong-content", True)
    assert "no Content-Type instead of audio" in str(refused(reply(b"RIFF"), content="audio"))


def test_other_bytes_are_a_resource_under_our_own_address() -> None:
    answer = Reply(200, {"content-type": "application/pdf", "content-location": "http://10.0.0.1/"}, b"%PDF")
    block = given(answer)
    uri = block["resource"].pop("uri")
    assert block == {"type": "resource", "resource": {"mimeType": "application/pdf", "blob": "JVBERg=="}}
    assert uri == given(answer)["resource"]["uri"]
    assert uri.startswith("restbridge://get_x/")
    assert uri != given(reply(b"%PDF-2", "application/pdf"))["resource"]["uri"]
    assert given(reply(b"\0"))["resource"]["mimeType"] == "application/octet-stream"


def test_text_as_a_resource_stays_text_and_is_bounded() -> None:
    block = given(reply("a,b\x1b", "text/csv"), content="resource")
    assert (block["resource"]["mimeType"], block["resource"]["text"]) == ("text/csv", r"a,b\u001b")
    error = refused(reply(b"%PDF" * 100, "application/pdf"), maxBytes=100)
    assert (error.code, "536 bytes of application/pdf" in str(error)) == ("result-too-large", True)


def test_blocks_are_passed_on() -> None:
    blocks: list[Json] = [{"type": "text", "text": "words"}]
    assert of_value(blocks, response(content="blocks")) == Result(blocks)
    assert given(reply(json.dumps(blocks), "application/json"), content="blocks") == blocks[0]
    assert refused(reply("{}", "application/json"), content="blocks").code == "invalid-blocks"


def test_a_projected_text_is_bare_where_text_is_asked() -> None:
    assert of_value("words", response(content="text")).content == [{"type": "text", "text": "words"}]
    assert of_value("words", response()).content == [{"type": "text", "text": '"words"'}]
    assert of_value([1], response(content="text")).content == [{"type": "text", "text": "[1]"}]
    assert of_value(None, response(content="json")).content == [{"type": "text", "text": "null"}]


def test_structured_content_comes_with_the_same_json_as_text_and_is_never_cut() -> None:
    structured = {"result": [1, 2]}
    result = of_structured(structured, response())
    assert (result.content, result.structured) == ([{"type": "text", "text": '{"result":[1,2]}'}], structured)
    with pytest.raises(UnusableReply, match=r"\(result 1\.0 kB\)"):
        of_structured({"result": "x" * 998}, response(maxBytes=500))


def test_a_reply_without_a_length_is_taken_only_if_it_is_json() -> None:
    assert given(reply("[1]", "application/json", complete=False))["text"] == "[1]"
    for content_type in ("text/plain", "image/png", "application/pdf"):
        error = refused(reply(PNG, content_type, complete=False))
        assert error.code == "incomplete-reply"


@pytest.mark.parametrize("content_type", ["", "application/json", "text/plain", "image/png"])
@pytest.mark.parametrize("words", [{}, {"content": "json"}, {"content": "text"}, {"content": "resource"}])
def test_an_empty_reply_without_a_length_may_have_lost_all(content_type: str, words: dict[str, Json]) -> None:
    assert refused(reply("", content_type, complete=False), **words).code == "incomplete-reply"
    for content in ("", " "):
        with pytest.raises(UnusableReply):
            document(reply(content, content_type, complete=False))
    with pytest.raises(UnusableReply):
        whole(reply("", content_type, complete=False))


def test_a_reply_without_secrets_is_the_very_reply() -> None:
    said = Reply(200, {"content-type": "application/json"}, b'{"a":"%41"}')
    assert redacted(said, NO_SECRETS) is said
    assert redacted(said, Redactor(["s3cret-key"])) is said


UTF_16 = "application/octet-stream; charset=utf-16le"


def in_both(secret: str) -> bytes:
    """JSON in UTF-16 that holds a secret, and the bytes of the same secret in UTF-8."""
    begin, end = (part.encode("utf-16le") for part in (f'{{"a":"{secret}","b":"', '"}'))
    return begin + secret.encode() + end


@pytest.mark.parametrize("content", ["auto", "text", "json", "resource"])
@pytest.mark.parametrize(
    "said",
    [
        Reply(200, {"content-type": "application/S3CRET-KEY"}, b"\0"),
        Reply(200, {"content-type": "audio/S3CRET-KEY"}, b"\0"),
        Reply(200, {"content-type": UTF_16}, "a s3cret-key".encode("utf-16le")),
        Reply(200, {"content-type": "image/png; charset=utf-16le"}, "a s3cret-key".encode("utf-16le")),
        Reply(200, {"content-type": UTF_16}, ("a" * 191 + "s3cret-key").encode("utf-16le")),
        Reply(200, {"content-type": UTF_16}, in_both("s3cret-key")),
        Reply(200, {"content-type": "text/plain; charset=utf-16le"}, in_both("s3cret-key")),
        Reply(200, {"content-type": "application/json"}, "\ufeff".encode("utf-16le") + in_both("s3cret-key")),
    ],
)
def test_no_reading_of_a_reply_holds_a_secret(said: Reply, content: str) -> None:
    safe = redacted(said, Redactor(["s3cret-key"]))
    for charset in ("utf-8", "utf-16le"):
        assert "s3cret-k" not in safe.content.decode(charset, "replace")
    try:
        given = str(of_reply(safe, response(content=content), tool="try"))
    except UnusableReply as problem:
        given = str(problem)
    assert "s3cret-k" not in given


def test_a_secret_in_the_name_of_a_header_is_redacted() -> None:
    said = Reply(200, {"x-s3cret-key": "1", "x-other": "2"}, b"")
    assert redacted(said, Redactor(["s3cret-key"])).headers == {"x-[redacted]": "1", "x-other": "2"}


@pytest.mark.parametrize(
    "content",
    [b"12", b"-1.5", b"0", b"1e5", b" 12", b"\xef\xbb\xbf12", "12".encode("utf-16"), b"\xfe\xff\x001\x002"],
)
def test_a_number_without_a_length_may_be_the_beginning_of_another(content: bytes) -> None:
    for content_type in ("application/json", ""):
        assert refused(reply(content, content_type, complete=False)).code == "incomplete-reply"
    with pytest.raises(UnusableReply) as caught:
        whole(reply(content, "application/json", complete=False))
    assert caught.value.code == "incomplete-reply"
    assert isinstance(document(reply(content, "application/json")), int | float)


@pytest.mark.parametrize("content", ["12\n", "[12]", '"12"', "true", "null", '{"a": 1}'])
def test_other_json_shows_its_end(content: str) -> None:
    whole_one, ended = (
        document(reply(content, "application/json", complete=known)) for known in (True, False)
    )
    assert whole_one == ended


def test_a_text_without_a_length_is_not_projected() -> None:
    with pytest.raises(UnusableReply) as caught:
        whole(reply("half a sen", "text/plain", complete=False))
    assert caught.value.code == "incomplete-reply"
