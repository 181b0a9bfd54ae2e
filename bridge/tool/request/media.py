"""Content types of what is sent, and bytes as JSON carries them: in base64."""

import base64
import re
from typing import Final

from bridge.codec import NotJson, encode, quote
from bridge.diagnostics import Findings, invalid
from bridge.errors import InvalidCall
from bridge.spec import Json
from bridge.tool.request.nodes import Constant, Node
from bridge.tool.request.placeholders import to_text, to_utf8
from bridge.tool.schema.violations import excerpt

FORM: Final = "application/x-www-form-urlencoded"
MULTIPART: Final = "multipart/form-data"

_WORD: Final = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"  # RFC 9110 5.6.2
_MEDIA_TYPE: Final = re.compile(
    rf'{_WORD}/{_WORD}(?:\s*;\s*{_WORD}=(?:{_WORD}|"[\w !#-\[\]-~]*"))*', re.ASCII
)
_OTHER_CHARSET: Final = re.compile(r';\s*charset="?(?!utf-?8\b|us-ascii\b)', re.IGNORECASE)


def media_type(content_type: str) -> str:
    """The type without its parameters, lower case."""
    return content_type.partition(";")[0].strip().lower()


def is_json(content_type: str) -> bool:
    kind = media_type(content_type)
    return kind == "application/json" or kind.endswith("+json")


def check_content_type(content_type: str) -> None:
    """Raise ``InvalidSpec`` for what is no media type, or one that is not ours to write."""
    if not _MEDIA_TYPE.fullmatch(content_type):
        message = f"found {quote(content_type)}, expected a media type such as application/json"
        raise invalid("wrong-value", message)
    if media_type(content_type) == MULTIPART and ";" in content_type:
        message = "the boundary is chosen for each call; write multipart/form-data alone"
        raise invalid("wrong-value", message, offset=content_type.index(";"))
    if charset := _OTHER_CHARSET.search(content_type):
        raise invalid("wrong-value", "texts are sent in UTF-8; take the charset out", offset=charset.start())


def write_json(value: Json) -> bytes:
    try:
        return encode(value)
    except NotJson as problem:
        message = f"the arguments cannot be written as JSON: {problem}"
        raise InvalidCall("unwritable-value", message) from problem


def write_bytes(arguments: str, value: Json, *, is_base64: bool) -> bytes:
    """A scalar as UTF-8, or the bytes that its base64 stands for (RFC 4648 4; blanks are skipped)."""
    text = to_text(arguments, value)
    if not is_base64:
        return to_utf8(arguments, text)
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except ValueError as problem:
        message = f"argument {arguments} is not base64; encode the bytes as RFC 4648 has it, with its padding"
        raise InvalidCall("not-base64", message) from problem


def check_base64(words: dict[str, Json], node: Node, findings: Findings, *route: str | int) -> None:
    """``encoding: base64``, and a constant that is to be decoded."""
    if words.get("encoding", "base64") != "base64":
        message = f"found {excerpt(words['encoding'])}, expected base64, the one encoding there is"
        findings.error("wrong-value", message, *route, "encoding")
    elif "encoding" in words and isinstance(node, Constant) and not isinstance(node.value, dict | list):
        try:
            write_bytes("", node.value, is_base64=True)
        except InvalidCall:
            message = "expected base64 (RFC 4648) with its padding; encode the value"
            findings.error("wrong-value", message, *route, "value")
