"""Secrets in replies, in every form that is covered."""

import html
import json
import re
import tracemalloc
from base64 import b64decode, b64encode, urlsafe_b64encode
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge import codec
from bridge.redaction import NO_SECRETS, Redactor
from bridge.spec import Json

SECRET = 't0kén/s3cret+&"\\ x'
CHARACTERS = st.characters(exclude_categories=("Cc", "Cs"))
TEXTS = st.text(CHARACTERS, max_size=12)
SECRETS = st.text(CHARACTERS, min_size=8, max_size=40)


def in_ascii(secret: str) -> str:
    return json.dumps(secret)[1:-1]


def escaped(text: str) -> str:
    """Every character as JSON may escape it."""
    units = text.encode("utf-16-be")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


def percent(text: str) -> str:
    return "".join(f"%{byte:02X}" for byte in text.encode())


FORMS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "JSON in ASCII": in_ascii,
    "JSON": lambda secret: json.dumps(secret, ensure_ascii=False)[1:-1],
    "JSON in JSON": lambda secret: in_ascii(in_ascii(secret)),
    "JSON of PHP": lambda secret: in_ascii(secret).replace("/", "\\/"),
    "JSON of .NET": lambda secret: in_ascii(secret).replace("+", "\\u002B").replace("&", "\\u0026"),
    "percent": lambda secret: quote(secret, safe=""),
    "percent in lower case": lambda secret: re.sub("%..", lambda code: code[0].lower(), quote(secret)),
    "percent of every byte": lambda secret: "".join(f"%{byte:02x}" for byte in secret.encode()),
    "percent twice": lambda secret: quote(quote(secret)),
    "form": quote_plus,
    "HTML": html.escape,
    "HTML in decimal": lambda secret: "".join(f"&#{ord(each)};" for each in secret),
    "HTML in hexadecimal": lambda secret: "".join(f"&#x{ord(each):X};" for each in secret),
    "HTML by names": lambda secret: html.escape(secret).replace("/", "&sol;").replace("+", "&plus;"),
    "HTML in JSON of Go": lambda secret: in_ascii(html.escape(secret)).replace("&", "\\u0026"),
    "HTML with zeros": lambda secret: "".join(f"&#{ord(each):012d};" for each in secret),
    "HTML with zeros in hexadecimal": lambda secret: "".join(f"&#x{ord(each):020x};" for each in secret),
    "percent of JSON": lambda secret: quote(escaped(secret)),
    "percent of every byte of JSON": lambda secret: percent(escaped(secret)),
    "percent of every byte of percent": lambda secret: percent(percent(secret)),
    "percent of every byte of HTML": lambda secret: percent("".join(f"&#{ord(each)};" for each in secret)),
    "JSON of HTML": lambda secret: escaped("".join(f"&#x{ord(each):x};" for each in secret)),
    "JSON with an escaped backslash": lambda secret: escaped(secret).replace("\\", "\\u005c"),
    "HTML of JSON": lambda secret: escaped(secret).replace("\\", "&#92;"),
    "HTML of JSON by names": lambda secret: escaped(secret).replace("\\", "&bsol;"),
    "hexadecimal": lambda secret: secret.encode().hex(),
    "hexadecimal in upper case": lambda secret: secret.encode().hex().upper(),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_secret_is_redacted(form: str) -> None:
    redactor, written = Redactor(["another secret", SECRET]), FORMS[form](SECRET)
    assert redactor.finds(written.encode())
    assert redactor.text(f"before {written}, after") == "before [redacted], after"
    assert redactor.text(f"a{written}b{written}") == "a[redacted]b[redacted]"


@settings(max_examples=100)
@given(SECRETS)
def test_any_secret_is_redacted_in_forms_of_one_and_of_two_layers(secret: str) -> None:
    redactor = Redactor([secret])
    for form in (
        "plain",
        "JSON in ASCII",
        "JSON",
        "JSON in JSON",
        "percent",
        "percent twice",
        "form",
        "hexadecimal",
    ):
        assert redactor.text(f"\n{FORMS[form](secret)}\n") == "\n[redacted]\n"


@settings(max_examples=100)
@given(st.binary(min_size=8, max_size=40), st.binary(max_size=8), st.binary(max_size=8))
def test_base64_shows_no_more_of_a_secret_than_the_digits_that_it_shares(
    secret: bytes, before: bytes, after: bytes
) -> None:
    text = secret.hex()
    redactor = Redactor([text])
    for encode in (b64encode, urlsafe_b64encode):
        left, mark, right = (
            redactor.text(encode(before + text.encode() + after).decode()).rstrip("=").partition("[redacted]")
        )
        assert mark
        assert len(left) * 6 < len(before) * 8 + 6
        assert len(right) * 6 < len(after) * 8 + 18


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ('{"token": "t0k\\u00e9n/s3cret"}', '{"token": "[redacted]"}'),
        ("?key=t0k%C3%A9n%2Fs3cret&x", "?key=[redacted]&x"),
        ("Basic YWxpY2U6dDBrw6luL3MzY3JldA==", "Basic YWxpY2U6[redacted]A=="),
        ("t0kén/s3cre", "t0kén/s3cre"),
        ("short and nothing", "short and nothing"),
        ("%41 &amp; &nothing; \\u0041 \\/ \\\\ 100%", "%41 &amp; &nothing; \\u0041 \\/ \\\\ 100%"),
        ("\ud800", "\ud800"),
    ],
)
def test_only_the_secret_of_a_text_is_replaced(text: str, redacted: str) -> None:
    assert Redactor(["short", "t0kén/s3cret"]).text(text) == redacted


@pytest.mark.parametrize(
    "written",
    [
        percent(escaped(SECRET).replace("\\", "&bsol;")),
        escaped(SECRET).replace("\\", "\\\\\\\\"),
        escaped(SECRET).replace("\\", "%5C%5C"),
        percent(percent(percent(SECRET))),
    ],
)
def test_any_three_encodings_in_one_another_are_undone(written: str) -> None:
    assert Redactor([SECRET]).text(written) == "[redacted]"


def test_at_most_three_encodings_in_one_another_are_undone() -> None:
    redactor, text = Redactor(["t0ken/s3cret"]), "t0ken/s3cret"
    for _ in range(3):
        text = quote(text, safe="")
        assert redactor.finds(text.encode())
        assert redactor.text(text) == "[redacted]"
    text = quote(text, safe="")
    assert not redactor.finds(text.encode())
    assert redactor.text(text) == text


def test_secrets_that_overlap_are_redacted_as_one() -> None:
    redactor = Redactor(["password", "password-of-alice", "alice-and-bob"])
    assert redactor.text("password-of-alice, password") == "[redacted], [redacted]"
    assert redactor.text("password-of-alice-and-bob") == "[redacted]"


def test_without_a_secret_of_eight_characters_there_is_nothing_to_redact() -> None:
    assert not NO_SECRETS
    assert not Redactor(["1234567"])
    assert Redactor(["12345678"])
    assert NO_SECRETS.text("%41 [redacted]") == "%41 [redacted]"


def test_a_secret_from_a_variable_that_is_not_utf_8_is_redacted_as_its_bytes() -> None:
    secret = b"caf\xe9-s3cret".decode(errors="surrogateescape")
    assert Redactor([secret]).binary(b"a caf\xe9-s3cret") == b"a ***********"


@pytest.mark.parametrize(
    "text",
    [
        "%t0 %7 % &t0ken; &;; & \\u00 \\u12 \\x74 \\",
        '"\\ud83d\\ude00 \\ud83d \\\\u0074 \\\\ \\/"',
        " ".join(f"%{code:02x}" for code in range(0x61, 0x7B)),
    ],
)
def test_what_only_looks_like_an_encoding_of_a_secret_stays(text: str) -> None:
    for secret in ("t0ken/s3cret", "emoji-😀-s3cret", "back\\slash-s3cret"):
        redactor = Redactor([secret])
        assert not redactor.finds(text.encode())
        assert redactor.text(text) == text
        for form in FORMS.values():
            assert redactor.finds(f"{text} {form(secret)} {text}".encode())


# --- numbers ---


@pytest.mark.parametrize(
    ("content", "redacted"),
    [
        (b'{"account_id":20481234,"total":3}', b'{"account_id":"[redacted]","total":3}'),
        (b"[20481234, -20481234]", b'["[redacted]", "[redacted]"]'),
        (b"20481234", b'"[redacted]"'),
        (b"[20481234567,120481234,20481234.5,20481234e1]", None),
        (b'["20481234567", "1x20481234"]', b'["20481234567", "1x[redacted]"]'),
        (b'{"20481234": 1}', b'{"[redacted]": 1}'),
        (
            b'["%2020481234", "\\u002020481234", "\\n20481234"]',
            b'["%20[redacted]", " [redacted]", "\\n[redacted]"]',
        ),
    ],
)
def test_a_secret_of_digits_is_redacted_but_not_within_a_longer_number(
    content: bytes, redacted: bytes | None
) -> None:
    assert Redactor(["20481234"]).json(content) == (redacted or content)


def test_a_secret_that_is_a_fraction_is_redacted_as_a_number() -> None:
    redactor = Redactor(["1234.5678", "-99887766"])
    assert redactor.json(b"[1234.5678,91234.5678,-99887766]") == b'["[redacted]",91234.5678,"[redacted]"]'


# --- JSON ---


def embedded(secret: str, form: Callable[[str], str], before: str, after: str) -> Json:
    text = f"{before}{form(secret)}{after}"
    return {text: [text, {"a": {text: None}}], "number": 1.50, "other": before}


def texts(value: Json) -> list[str]:
    if isinstance(value, dict):
        return [text for pair in value.items() for part in pair for text in texts(part)]
    if isinstance(value, list):
        return [text for part in value for text in texts(part)]
    return [value] if isinstance(value, str) else []


@settings(max_examples=200)
@given(SECRETS, st.sampled_from(sorted(FORMS)), TEXTS, TEXTS)
def test_redacted_json_is_json_in_which_no_text_holds_a_secret(
    secret: str, form: str, before: str, after: str
) -> None:
    secret = f"s{secret}"  # no number
    redactor = Redactor([secret])
    value = embedded(secret, FORMS[form], before, after)
    for content in (codec.encode(value), json.dumps(value).encode()):
        redacted = codec.decode(redactor.json(content))
        assert [text for text in texts(redacted) if redactor.finds(text.encode())] == []
        assert redacted["number"] == 1.5


@pytest.mark.parametrize(
    ("content", "redacted"),
    [
        (rb'["a\npm_s3cret-key"]', rb'["a\npm_s3cret-key"]'),
        (rb'["\u0041npm_s3cret-key"]', b'["A[redacted]"]'),
        (rb'{"a" : 1.50, "b" : [1e2, "npm_s3cret-key"]}', b'{"a" : 1.50, "b" : [1e2, "[redacted]"]}'),
        (b'["\xc3\xa9 npm_s3cret-key"]', rb'["\u00e9 [redacted]"]'),
    ],
)
def test_only_what_a_text_says_is_looked_at_and_all_else_stays_as_it_is_written(
    content: bytes, redacted: bytes
) -> None:
    assert Redactor(["npm_s3cret-key"]).json(content) == redacted


def test_keys_that_would_become_equal_are_numbered() -> None:
    redactor = Redactor(["first-secret", "second-secret", "third-secret"])
    content = json.dumps(
        {"first-secret": 1, "second-secret": {"first-secret": 2}, "[redacted] 2": 3, "third-secret": 4}
    ).encode()
    assert codec.decode(redactor.json(content)) == {
        "[redacted]": 1,
        "[redacted] 3": {"[redacted]": 2},
        "[redacted] 2": 3,
        "[redacted] 4": 4,
    }


class Searched(bytes):
    """Counts how often something is looked for in all of it."""

    searches = 0

    def __contains__(self, part: object) -> bool:
        self.searches += 1
        return super().__contains__(part)  # type: ignore[operator]


def test_many_keys_are_numbered_without_a_search_for_each() -> None:
    redactor, searches = Redactor([SECRET]), []
    for size in (10, 1000):
        content = Searched(json.dumps({f"{SECRET}{number}": number for number in range(size)}).encode())
        assert len(codec.decode(redactor.json(content))) == size
        searches.append(content.searches)
    assert searches[0] == searches[1]


@pytest.mark.parametrize(
    "content", [json.dumps({f"{SECRET}{number}": 0 for number in range(1000)}), json.dumps("%64" * 100_000)]
)
def test_long_work_ends_where_nobody_waits_for_it(content: str) -> None:
    class LeftError(Exception):
        pass

    looks: list[None] = []

    def look() -> None:
        looks.append(None)
        if len(looks) == 10:
            raise LeftError

    with pytest.raises(LeftError):
        Redactor([SECRET]).watched(look).json(content.encode())


def test_the_way_back_from_many_encodings_takes_little_room() -> None:
    content = json.dumps([SECRET, "%64" * 200_000]).encode()
    tracemalloc.start()
    try:
        assert b"[redacted]" in Redactor([SECRET]).json(content)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 30 * len(content)


# --- bytes ---


def test_bytes_keep_their_length() -> None:
    assert Redactor([SECRET]).binary(b"\x00" + SECRET.encode() + b"\xff") == b"\x00" + b"*" * 19 + b"\xff"
    assert Redactor([SECRET]).binary(b"\x00\xff") == b"\x00\xff"


def test_a_text_that_is_base64_as_a_whole_stays_base64_where_that_is_asked_for() -> None:
    redactor, data = Redactor(["s3cret-key"]), b"\x00s3cret-key\xff"
    content = json.dumps([b64encode(data).decode(), "of s3cret-key", "s3cret-key"]).encode()
    kept, *others = codec.decode(redactor.json(content, keeps_base64=True))
    assert b64decode(kept) == b"\x00**********\xff"
    assert others == ["of [redacted]", "[redacted]"]
    assert "[redacted]" in codec.decode(redactor.json(content))[0]


def test_a_secret_that_is_itself_base64_is_redacted_where_base64_is_kept() -> None:
    content = json.dumps(["abcd1234abcd1234"]).encode()
    assert Redactor(["abcd1234abcd1234"]).json(content, keeps_base64=True) == b'["[redacted]"]'


def test_content_with_many_encodings_takes_long() -> None:
    redactor = Redactor([SECRET])
    assert redactor.is_quick(b"%41" * 1000 + b"x" * 100_000)
    assert redactor.is_quick(b"%" * 16 * 1024)
    assert not redactor.is_quick(b"%41\\n&" * 3000)
