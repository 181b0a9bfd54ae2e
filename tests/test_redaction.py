"""Secrets in replies, in every form that is covered."""

import html
import json
import re
import tracemalloc
from base64 import b64decode, b64encode, urlsafe_b64encode
from collections.abc import Callable
from itertools import product
from random import Random
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
def test_any_secret_is_redacted_in_one_and_in_two_layers_of_encoding(secret: str) -> None:
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
def test_redacted_base64_shows_only_digits_shared_with_other_bytes(
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
def test_three_nested_encodings_are_decoded(written: str) -> None:
    assert Redactor([SECRET]).text(written) == "[redacted]"


def some_percent(text: str, random: Random) -> str:
    return "".join(
        random.choice(
            [percent(each), percent(each).lower(), each if each.isascii() and each != "%" else percent(each)]
        )
        for each in text
    )


def some_escapes(text: str, random: Random) -> str:
    return "".join(
        random.choice([escaped(each), in_ascii(each), each if each not in '\\"' else in_ascii(each)])
        for each in text
    )


def some_entities(text: str, random: Random) -> str:
    written = ""
    for each in text:
        ways = [f"&#{ord(each)};", f"&#X{ord(each):X};", f"&#{ord(each):050};", f"&#x{ord(each):050x};"]
        is_read = html.unescape(ways[0]) == each  # some characters have no entity
        written += random.choice([*ways * is_read, *[each] * 3 * (each != "&")])
    return written


KINDS = (some_percent, some_escapes, some_entities)


@pytest.mark.parametrize(
    "kinds", list(product(KINDS, repeat=3)), ids=lambda kinds: " of ".join(k.__name__ for k in kinds)
)
@settings(max_examples=10)
@given(secret=SECRETS | st.just("sk-0123456789abcdef01234567"), random=st.randoms(use_true_random=True))
def test_three_nested_encodings_are_decoded_in_each_order(
    kinds: tuple[Callable[[str, Random], str], ...], secret: str, random: Random
) -> None:
    written = secret
    for encoded in reversed(kinds):
        written = encoded(written, random)
    redactor = Redactor([secret])
    assert redactor.finds(written.encode())
    assert "[redacted]" in redactor.text(f"a {written} b")


@pytest.mark.parametrize(
    "written",
    [
        "\\u005c%5Cu00750073k-0123456789",  # decoded all at once, this would give two backslashes in a row
        "\\u005c&#92;u00750073k-0123456789",
        f"&#{'0' * 5000}115;k-0123456789",
        f"&#x{'0' * 5000}73;k-0123456789",
        "&#115k-0123456789",
        "&#x73&#107-0123456789",
        "sk&#45&#48&#49&#50&#51&#52&#53&#54&#55&#56&#57",
    ],
)
def test_encodings_are_decoded_one_kind_at_a_time_as_usual_parsers_do(written: str) -> None:
    assert Redactor(["sk-0123456789"]).text(f"{written}, {written}") == "[redacted], [redacted]"


def test_a_name_without_a_semicolon_is_an_entity() -> None:
    assert Redactor(["sk&0123456789"]).text("sk&amp0123456789") == "[redacted]"
    assert Redactor(["sk-0123456789"]).text("?a&ampsk-0123456789&page") == "?a[redacted]&page"


def test_an_encoded_character_before_a_number_is_not_mistaken_for_a_digit() -> None:
    redactor = Redactor(["20481234"])
    assert redactor.text("%2020481234 %3220481234 2%30481234") == "%20[redacted] %3220481234 [redacted]"


def test_an_entity_without_a_character_hides_no_secret() -> None:
    assert Redactor(["sk-0123456789"]).text("a&#1;sk&#1;&#2;-01&#3;23456789&#1;b") == "a&#1;[redacted]&#1;b"


def test_a_secret_of_several_lines_is_redacted_in_json_escapes() -> None:
    assert Redactor(["a key\nof lines\r\n"]).text("x a key\\nof lines\\r\\n x") == "x [redacted] x"


def test_at_most_three_nested_encodings_are_decoded() -> None:
    redactor, text = Redactor(["t0ken/s3cret"]), "t0ken/s3cret"
    for _ in range(3):
        text = quote(text, safe="")
        assert redactor.finds(text.encode())
        assert redactor.text(text) == "[redacted]"
    text = quote(text, safe="")
    assert not redactor.finds(text.encode())
    assert redactor.text(text) == text


def test_overlapping_secrets_are_redacted_as_one() -> None:
    redactor = Redactor(["password", "password-of-alice", "alice-and-bob"])
    assert redactor.text("password-of-alice, password") == "[redacted], [redacted]"
    assert redactor.text("password-of-alice-and-bob") == "[redacted]"


def test_secrets_of_less_than_eight_characters_are_not_redacted() -> None:
    assert not NO_SECRETS
    assert not Redactor(["1234567"])
    assert Redactor(["12345678"])
    assert NO_SECRETS.text("%41 [redacted]") == "%41 [redacted]"


def test_a_secret_that_is_not_utf_8_is_redacted_as_bytes() -> None:
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
def test_text_that_only_looks_like_an_encoded_secret_is_kept(text: str) -> None:
    for secret in ("t0ken/s3cret", "emoji-😀-s3cret", "back\\slash-s3cret"):
        redactor = Redactor([secret])
        assert not redactor.finds(text.encode())
        assert redactor.text(text) == text
        for form in FORMS.values():
            assert redactor.finds(f"{text} {form(secret)} {text}".encode())


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
def test_a_secret_of_digits_is_redacted_but_not_inside_a_longer_number(
    content: bytes, redacted: bytes | None
) -> None:
    assert Redactor(["20481234"]).json(content) == (redacted or content)


def test_a_secret_that_is_a_fraction_is_redacted_as_a_number() -> None:
    redactor = Redactor(["1234.5678", "-99887766"])
    assert redactor.json(b"[1234.5678,91234.5678,-99887766]") == b'["[redacted]",91234.5678,"[redacted]"]'


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
def test_redacted_json_is_valid_and_contains_no_secret(
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
        (b'["\xc3\xa9 npm_s3cret-key"]', b'["\xc3\xa9 [redacted]"]'),
        (b'[-1, [-20000001, -2], "%6epm_s3cret-key"]', b'[-1, ["[redacted]", -2], "[redacted]"]'),
        (b'["x], [[]], [", "a", [ ], [[]], ["b"]]', b'["x[redacted]", "a", [ ], [[]], ["b"]]'),
        (b'["start","end", "start\\",\\"end"]', b'["start","end", "[redacted]"]'),
    ],
)
def test_only_strings_are_redacted_and_the_rest_of_the_json_is_unchanged(
    content: bytes, redacted: bytes
) -> None:
    secrets = ["npm_s3cret-key", "20000001", "], [[]], [", 'start","end']
    assert Redactor(secrets).json(content) == redacted


def test_escapes_of_the_json_itself_are_not_counted_as_a_layer() -> None:
    redactor = Redactor(["s3cret-key"])
    text = "\\\\" + "".join(f"\\u{ord(c):04x}" for c in "&#x73;3cret-key").removeprefix("\\")
    assert redactor.finds(text.encode())
    assert codec.decode(redactor.json(codec.encode([text]))) != [text]


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
    """Counts how often the whole content is searched."""

    searches = 0

    def __contains__(self, part: object) -> bool:
        self.searches += 1
        return super().__contains__(part)  # type: ignore[operator]


def test_many_keys_are_numbered_without_a_search_for_each_key() -> None:
    redactor, searches = Redactor([SECRET]), []
    for size in (10, 1000):
        content = Searched(json.dumps({f"{SECRET}{number}": number for number in range(size)}).encode())
        assert len(codec.decode(redactor.json(content))) == size
        searches.append(content.searches)
    assert searches[0] == searches[1]


@pytest.mark.parametrize(
    "content", [json.dumps({f"{SECRET}{number}": 0 for number in range(1000)}), json.dumps("%64" * 100_000)]
)
def test_long_work_ends_at_a_checkpoint_that_raises(content: str) -> None:
    class StoppedError(Exception):
        pass

    checkpoints: list[None] = []

    def checkpoint() -> None:
        checkpoints.append(None)
        if len(checkpoints) == 10:
            raise StoppedError

    with pytest.raises(StoppedError):
        Redactor([SECRET]).watched(checkpoint).json(content.encode())


def test_the_positions_of_many_encodings_take_little_memory() -> None:
    content = json.dumps([SECRET, "%64" * 40_000]).encode()
    tracemalloc.start()
    try:
        assert b"[redacted]" in Redactor([SECRET]).json(content)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 40 * len(content)


def test_redacted_bytes_keep_their_length() -> None:
    assert Redactor([SECRET]).binary(b"\x00" + SECRET.encode() + b"\xff") == b"\x00" + b"*" * 19 + b"\xff"
    assert Redactor([SECRET]).binary(b"\x00\xff") == b"\x00\xff"


def test_a_base64_string_stays_base64_on_request() -> None:
    redactor, data = Redactor(["s3cret-key"]), b"\x00s3cret-key\xff"
    content = json.dumps([b64encode(data).decode(), "of s3cret-key", "s3cret-key"]).encode()
    kept, *others = codec.decode(redactor.json(content, keeps_base64=True))
    assert b64decode(kept) == b"\x00**********\xff"
    assert others == ["of [redacted]", "[redacted]"]
    assert "[redacted]" in codec.decode(redactor.json(content))[0]


def test_a_secret_that_is_base64_is_redacted_even_if_base64_is_kept() -> None:
    content = json.dumps(["abcd1234abcd1234"]).encode()
    assert Redactor(["abcd1234abcd1234"]).json(content, keeps_base64=True) == b'["[redacted]"]'
