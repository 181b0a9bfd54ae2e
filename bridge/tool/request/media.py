"""Media types of request bodies, and bytes that arguments carry in base64."""

import base64
import re
from typing import Final

from bridge.codec import NotJson, encode, quote
from bridge.diagnostics import Findings, invalid
from bridge.errors import InvalidCall
from bridge.spec import Json
from bridge.tool.quoting import excerpt
from bridge.tool.request.nodes import ConstantNode, Node
from bridge.tool.request.placeholders import to_text, to_utf8

FORM: Final = "application/x-www-form-urlencoded"
MULTIPART: Final = "multipart/form-data"

_TCHARS: Final = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"  # RFC 9110 5.6.2
# ASCII: otherwise \w and \s match characters of other scripts.
_MEDIA_TYPE: Final = re.compile(
    rf'{_TCHARS}/{_TCHARS}(?:\s*;\s*{_TCHARS}=(?:{_TCHARS}|"[\w !#-\[\]-~]*"))*', re.ASCII
)
_OTHER_CHARSET: Final = re.compile(r';\s*charset="?(?!utf-?8\b|us-ascii\b)', re.IGNORECASE)


def media_type(content_type: str) -> str:
    """``type/subtype`` in lower case, without parameters."""
    return content_type.partition(";")[0].strip().lower()


def is_json(content_type: str) -> bool:
    kind = media_type(content_type)
    return kind == "application/json" or kind.endswith("+json")


def check_content_type(content_type: str) -> None:
    """Raise ``InvalidSpec`` for an invalid media type, a charset other than UTF-8, or a boundary."""
    if not _MEDIA_TYPE.fullmatch(content_type):
        message = f"found {quote(content_type)}, expected a media type such as application/json"
        raise invalid("wrong-value", message)
    if media_type(content_type) == MULTIPART and ";" in content_type:
        message = "each call gets its own boundary; write multipart/form-data only"
        raise invalid("wrong-value", message, offset=content_type.index(";"))
    if charset := _OTHER_CHARSET.search(content_type):
        raise invalid(
            "wrong-value", "text is always sent in UTF-8; take out the charset", offset=charset.start()
        )


def write_json(value: Json) -> bytes:
    try:
        return encode(value)
    except NotJson as problem:
        message = f"the arguments cannot be written as JSON: {problem}"
        raise InvalidCall("unwritable-value", message) from problem


def write_bytes(argument: str, value: Json, *, is_base64: bool) -> bytes:
    """A scalar as UTF-8, or decoded from base64 (RFC 4648 4; blanks are skipped).

    ``argument`` is one name or several, for messages. Raises ``InvalidCall``.
    """
    text = to_text(argument, value)
    if not is_base64:
        return to_utf8(argument, text)
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except ValueError as problem:  # binascii.Error, or a character outside ASCII
        message = f"argument {argument} is not base64; encode the bytes as in RFC 4648, with padding"
        raise InvalidCall("not-base64", message) from problem


def check_base64(spec: dict[str, Json], node: Node, findings: Findings, *route: str | int) -> None:
    """Check the key ``encoding`` of a value's spec, and the base64 of a constant value."""
    if spec.get("encoding", "base64") != "base64":
        message = f"found {excerpt(spec['encoding'])}, expected base64, the only encoding"
        findings.error("wrong-value", message, *route, "encoding")
    elif "encoding" in spec and isinstance(node, ConstantNode) and not isinstance(node.value, dict | list):
        try:
            write_bytes("", node.value, is_base64=True)
        except InvalidCall:
            message = "expected base64 (RFC 4648) with padding; encode the value"
            findings.error("wrong-value", message, *route, "value")
