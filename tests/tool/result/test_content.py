import base64
import json

import pytest

from bridge.codec import FREE_CONTAINERS
from bridge.errors import UnusableReply
from bridge.exchange import Reply
from bridge.redaction import NO_SECRETS, Redactor
from bridge.spec import Json, ResponseSpec
from bridge.tool.projection.projection import QUICK_STEPS, Unfinished
from bridge.tool.result.content import (
    Result,
    content_kind,
    parse_json,
    redact_reply,
    reply_document,
    reply_result,
    strip_reply,
    structured_result,
    value_result,
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


def response(**spec: Json) -> ResponseSpec:
    return ResponseSpec.model_validate(spec)


def given(answer: Reply, **spec: Json) -> dict[str, Json]:
    """The one block that a reply becomes."""
    (block,) = reply_result(answer, response(**spec), tool="get_x", narrowing=["limit"]).content
    return block


def refused(answer: Reply, **spec: Json) -> UnusableReply:
    with pytest.raises(UnusableReply) as caught:
        reply_result(answer, response(**spec), tool="get_x")
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
def test_a_document_is_decoded_in_its_declared_charset(
    content: bytes | str, content_type: str, value: Json
) -> None:
    assert parse_json(reply(content, content_type)) == value


def test_an_error_for_invalid_json_shows_its_type_and_its_first_characters() -> None:
    page = "<html>\x1b" + "x" * 1000
    with pytest.raises(UnusableReply) as caught:
        parse_json(reply(page, "text/html; charset=utf-8", status=203))
    assert caught.value.code == "not-json"
    assert str(caught.value).startswith("The API answered 203 with text/html, which cannot be read as JSON: ")
    assert r'It begins with "<html>\u001bxxx' in str(caught.value)
    assert len(str(caught.value)) < 500
    with pytest.raises(UnusableReply, match="with no valid Content-Type, which"):
        parse_json(reply("x"))


@pytest.mark.parametrize("kind", ["text", "application", "image"])
def test_a_content_type_that_is_too_long_is_ignored(kind: str) -> None:
    longest, longer = (kind.ljust(length, "x").replace("x", "/", 1) for length in (255, 256))
    assert reply("{}", f"{longest}; a={longest}").media_type == longest
    assert reply("{}", longer).media_type == ""
    assert "with no valid Content-Type, which" in str(refused(reply("<", longer), content="json"))
    resource = given(reply("x", longer), content="resource")["resource"]
    assert resource["mimeType"] == "application/octet-stream"


def test_json_of_too_many_objects_is_a_reply_that_is_too_large() -> None:
    error = refused(reply(f"[{','.join(['{}'] * FREE_CONTAINERS)}]", "application/json"))
    assert error.code == "reply-too-large"
    assert str(error) == (
        f"The reply of the API server is too large to read: it contains more than {FREE_CONTAINERS} arrays and objects."
        " Ask for less, if this tool's arguments can; otherwise tell the user."
    )


def test_a_projection_may_see_status_and_headers() -> None:
    headers = {"content-type": "application/json", "etag": "v7"}
    assert reply_document(Reply(201, headers, b"[1]")) == {"status": 201, "headers": headers, "body": [1]}
    assert reply_document(Reply(304, {"etag": "v7"}, b"")) == {
        "status": 304,
        "headers": {"etag": "v7"},
        "body": None,
    }
    assert reply_document(reply("words", "text/plain"))["body"] == "words"
    assert reply_document(reply("[1]"))["body"] == [1]
    assert reply_document(reply(PNG, "image/png"))["body"] is None
    with pytest.raises(UnusableReply):
        reply_document(reply("[1", "application/json"))


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
def test_the_kind_of_a_reply_follows_its_content_type(
    content: bytes | str, content_type: str, kind: str
) -> None:
    assert content_kind(reply(content, content_type)) == kind


@pytest.mark.parametrize("status", [200, 204])
@pytest.mark.parametrize("content", ["auto", "json", "image", "blocks"])
def test_an_empty_reply_becomes_a_sentence(status: int, content: str) -> None:
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
def test_text_is_decoded_in_its_declared_charset_if_that_is_safe(
    content: bytes | str, content_type: str, text: str
) -> None:
    assert given(reply(content, content_type)) == {"type": "text", "text": text}


def test_a_long_text_or_list_is_cut_and_says_so() -> None:
    result = reply_result(
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
def test_a_picture_has_the_type_of_its_bytes_and_no_text_limit(media_type: str, content: bytes) -> None:
    block = {"type": "image", "data": base64.b64encode(content).decode(), "mimeType": media_type}
    assert given(reply(content, "image/png"), maxBytes=5) == block
    assert given(reply(content, "application/octet-stream"), content="image") == block


def test_other_pictures_and_sound_have_their_declared_type() -> None:
    assert given(reply("<svg/>", "image/svg+xml"), content="image")["mimeType"] == "image/svg+xml"
    assert given(reply(b"RIFF", "audio/wav")) == {
        "type": "audio",
        "data": "UklGRg==",
        "mimeType": "audio/wav",
    }
    assert given(reply(b"RIFF", "audio/wav"), content="audio")["type"] == "audio"


def test_other_content_cannot_be_a_picture_or_sound() -> None:
    error = refused(reply("<html>", "text/html", status=203), content="image")
    assert (error.code, "203 with text/html instead of image" in str(error)) == ("wrong-content", True)
    assert "no valid Content-Type instead of audio" in str(refused(reply(b"RIFF"), content="audio"))


def test_other_bytes_are_a_resource_with_a_uri_of_the_bridge() -> None:
    answer = Reply(200, {"content-type": "application/pdf", "content-location": "http://10.0.0.1/"}, b"%PDF")
    block = given(answer)
    uri = block["resource"].pop("uri")
    assert block == {"type": "resource", "resource": {"mimeType": "application/pdf", "blob": "JVBERg=="}}
    assert uri == given(answer)["resource"]["uri"]
    assert uri.startswith("restbridge://get_x/")
    assert uri != given(reply(b"%PDF-2", "application/pdf"))["resource"]["uri"]
    assert given(reply(b"\0"))["resource"]["mimeType"] == "application/octet-stream"


def test_a_text_resource_stays_text_and_is_limited() -> None:
    block = given(reply("a,b\x1b", "text/csv"), content="resource")
    assert (block["resource"]["mimeType"], block["resource"]["text"]) == ("text/csv", r"a,b\u001b")
    error = refused(reply(b"%PDF" * 100, "application/pdf"), maxBytes=100)
    assert (error.code, "536 bytes of application/pdf" in str(error)) == ("result-too-large", True)


def test_blocks_are_passed_on() -> None:
    blocks: list[Json] = [{"type": "text", "text": "words"}]
    assert value_result(blocks, response(content="blocks")) == Result(blocks)
    assert given(reply(json.dumps(blocks), "application/json"), content="blocks") == blocks[0]
    assert refused(reply("{}", "application/json"), content="blocks").code == "invalid-blocks"


def test_a_projected_string_has_no_quotes_if_the_content_is_text() -> None:
    assert value_result("words", response(content="text")).content == [{"type": "text", "text": "words"}]
    assert value_result("words", response()).content == [{"type": "text", "text": '"words"'}]
    assert value_result([1], response(content="text")).content == [{"type": "text", "text": "[1]"}]
    assert value_result(None, response(content="json")).content == [{"type": "text", "text": "null"}]


def test_structured_content_comes_with_the_same_json_as_text_and_is_never_cut() -> None:
    structured = {"result": [1, 2]}
    result = structured_result(structured, response())
    assert (result.content, result.structured) == ([{"type": "text", "text": '{"result":[1,2]}'}], structured)
    with pytest.raises(UnusableReply, match=r"\(result 1\.0 kB\)"):
        structured_result({"result": "x" * 998}, response(maxBytes=500))


def test_a_reply_without_a_length_is_accepted_only_if_it_is_json() -> None:
    assert given(reply("[1]", "application/json", complete=False))["text"] == "[1]"
    for content_type in ("text/plain", "image/png", "application/pdf"):
        error = refused(reply(PNG, content_type, complete=False))
        assert error.code == "incomplete-reply"


@pytest.mark.parametrize("content_type", ["", "application/json", "text/plain", "image/png"])
@pytest.mark.parametrize("spec", [{}, {"content": "json"}, {"content": "text"}, {"content": "resource"}])
def test_an_empty_reply_without_a_length_is_incomplete(content_type: str, spec: dict[str, Json]) -> None:
    assert refused(reply("", content_type, complete=False), **spec).code == "incomplete-reply"
    for content in ("", " "):
        with pytest.raises(UnusableReply):
            parse_json(reply(content, content_type, complete=False))
    with pytest.raises(UnusableReply):
        reply_document(reply("", content_type, complete=False))


def test_a_reply_without_secrets_is_the_same_object() -> None:
    original = Reply(200, {"content-type": "application/json"}, b'{"a":"%41"}')
    assert redact_reply(original, NO_SECRETS) is original
    assert redact_reply(original, Redactor(["s3cret-key"])) is original


UTF_16 = "application/octet-stream; charset=utf-16le"


def in_both(secret: str) -> bytes:
    """JSON in UTF-16 that holds a secret, and the bytes of the same secret in UTF-8."""
    start, end = (part.encode("utf-16le") for part in (f'{{"a":"{secret}","b":"', '"}'))
    return start + secret.encode() + end


@pytest.mark.parametrize("content", ["auto", "text", "json", "resource"])
@pytest.mark.parametrize(
    "original",
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
def test_no_decoding_of_a_reply_contains_a_secret(original: Reply, content: str) -> None:
    safe = redact_reply(original, Redactor(["s3cret-key"]))
    for charset in ("utf-8", "utf-16le"):
        assert "s3cret-k" not in safe.content.decode(charset, "replace")
    try:
        given = str(reply_result(safe, response(content=content), tool="try"))
    except UnusableReply as problem:
        given = str(problem)
    assert "s3cret-k" not in given


def test_a_secret_in_the_name_of_a_header_is_redacted() -> None:
    original = Reply(200, {"x-s3cret-key": "1", "x-other": "2"}, b"")
    assert redact_reply(original, Redactor(["s3cret-key"])).headers == {"x-[redacted]": "1", "x-other": "2"}


@pytest.mark.parametrize(
    "content",
    [b"12", b"-1.5", b"0", b"1e5", b" 12", b"\xef\xbb\xbf12", "12".encode("utf-16"), b"\xfe\xff\x001\x002"],
)
def test_a_number_without_a_length_is_incomplete(content: bytes) -> None:
    for content_type in ("application/json", ""):
        assert refused(reply(content, content_type, complete=False)).code == "incomplete-reply"
    with pytest.raises(UnusableReply) as caught:
        reply_document(reply(content, "application/json", complete=False))
    assert caught.value.code == "incomplete-reply"
    assert isinstance(parse_json(reply(content, "application/json")), int | float)


@pytest.mark.parametrize("content", ["12\n", "[12]", '"12"', "true", "null", '{"a": 1}'])
def test_other_json_without_a_length_is_complete(content: str) -> None:
    whole_one, ended = (
        parse_json(reply(content, "application/json", complete=known)) for known in (True, False)
    )
    assert whole_one == ended


def test_a_text_without_a_length_is_not_projected() -> None:
    with pytest.raises(UnusableReply) as caught:
        reply_document(reply("half a sen", "text/plain", complete=False))
    assert caught.value.code == "incomplete-reply"


def test_a_long_reply_is_not_stripped_on_the_fast_path() -> None:
    for text in ("\u200b" * 10_000, r'["\u200b"]' * 2000):
        with pytest.raises(Unfinished):
            strip_reply(reply(text, "text/plain"), steps=QUICK_STEPS)
    short = reply("a\u200b", "text/plain; charset=utf-8")
    assert strip_reply(short, steps=QUICK_STEPS) == reply("a", "text/plain")


@pytest.mark.parametrize("text", ['[ "Zoë"]', r'[ "\u00eb"]', '[ "☀\ufe0f"]'])
def test_json_without_invisible_characters_is_unchanged(text: str) -> None:
    answer = reply(text, "application/json; charset=utf-8")
    assert strip_reply(answer) == answer


def test_ascii_without_escapes_is_unchanged() -> None:
    plain = reply("a" * 100_000, "text/plain; charset=utf-8")
    assert strip_reply(plain, steps=QUICK_STEPS) == plain
    wide = reply("a\u200b".encode("utf-16-le"), "text/plain; charset=utf-16le")
    assert strip_reply(wide) == reply("a", "text/plain")


def test_a_text_resource_is_limited_before_and_after_escaping() -> None:
    for length, size in ((2000, "2.0 kB"), (500, "3.0 kB")):
        error = refused(reply("\x7f" * length, "text/plain"), content="resource", maxBytes="1kB")
        assert str(error).startswith(f"The result is {size} of text/plain, ")
