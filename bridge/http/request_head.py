"""Which request heads are refused because a proxy in front of the bridge could read them differently.

llhttp checks the syntax of fields and the framing (RFC 9112 6). This module checks what llhttp accepts.
"""

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

_LINE_ENDS: Final = {"1.0": b" HTTP/1.0\r\n", "1.1": b" HTTP/1.1\r\n"}
_SIMPLE_PATH: Final = re.compile(rb"/[A-Za-z0-9._~/-]*")
MAX_TARGET_BYTES: Final = 8 * 1024
"""RFC 9112 3 recommends at least 8000. A limit is needed because the time to decode a path grows with its length."""
# http://host/mcp?x, but not https://host without a path, nor a fragment
_ABSOLUTE_FORM: Final = re.compile(rb"https?://([^/?#]*)(/[^#]*)", re.IGNORECASE)
_MAY_BE_ESCAPED: Final = b" !\"#$&'()*+,:;<=>?@[]^`{|}"
"""Printable ASCII without the unreserved characters of RFC 3986, which need no escape, and without ``%`` and slashes.

A proxy that decodes an escaped ``%`` or slash would see another path.
"""
# /mcp%20x and /%C3%A9, but not /%6Dcp (which is /mcp), /%2Fmcp or /%25
_ESCAPED_PATH: Final = re.compile(
    rb"[^%%]*(?:%%(?:[89a-f][0-9a-f]|%s)[^%%]*)*"
    % b"|".join(b"%02x" % character for character in _MAY_BE_ESCAPED),
    re.IGNORECASE,
)
"""A path in which only these characters, and bytes that are not ASCII, are escaped."""


class Rejection(NamedTuple):
    """The response to a refused request."""

    status: int
    text: str


TARGET_TOO_LONG: Final = Rejection(414, f"The request target is longer than {MAX_TARGET_BYTES // 1024} KiB.")
_SINGLETON_FIELDS: Final = {b"host": "Host", b"authorization": "Authorization"}
"""Fields that may occur once. With two lines, a proxy and the bridge could each read another one (RFC 9112 3.2)."""


def reject_head(
    head: bytes, method: bytes, target: bytes, version: str, headers: Sequence[tuple[bytes, bytes]]
) -> Rejection | None:
    """Why a request is refused, or None if it is not.

    ``head`` may begin with empty lines. Names in ``headers`` are in lower case.
    """
    line_end = _LINE_ENDS.get(version)
    if line_end is None:
        return Rejection(505, f"HTTP/{version} is not supported. Use HTTP/1.1.")
    if method == b"CONNECT":
        return Rejection(501, "CONNECT is not supported: this server is not a proxy.")
    if len(target) > MAX_TARGET_BYTES:
        return TARGET_TOO_LONG
    # llhttp also accepts RTSP/1.1, and several spaces.
    if not head.lstrip(b"\r\n").startswith(method + b" " + target + line_end):
        return Rejection(400, "The request line must be METHOD TARGET HTTP/1.1, with single spaces.")
    if rejection := _reject_fields(version, headers):
        return rejection
    return None if _SIMPLE_PATH.fullmatch(target) else _reject_target(target, headers)


def _reject_fields(version: str, headers: Sequence[tuple[bytes, bytes]]) -> Rejection | None:
    names = [name for name, _ in headers]
    for name, display_name in _SINGLETON_FIELDS.items():
        if names.count(name) > 1:
            return Rejection(400, f"The request has more than one {display_name} header.")
    codings = [value for name, value in headers if name == b"transfer-encoding"]
    if codings and (len(codings) > 1 or codings[0].strip(b" \t").lower() != b"chunked" or version == "1.0"):
        # RFC 9112 6.1
        return Rejection(501, "The only supported Transfer-Encoding is chunked, in HTTP/1.1.")
    return None


def _reject_target(target: bytes, headers: Sequence[tuple[bytes, bytes]]) -> Rejection | None:
    """Accept origin-form, and absolute-form that matches Host (RFC 9112 3.2)."""
    path = target
    if not target.startswith(b"/"):
        absolute = _ABSOLUTE_FORM.fullmatch(target)
        if absolute is None:
            return Rejection(400, "The request target must be a path, for example /mcp.")
        hosts = [value.strip(b" \t").lower() for name, value in headers if name == b"host"]
        if hosts != [absolute[1].lower()]:
            return Rejection(400, "The URL in the request line and the Host header name different servers.")
        path = absolute[2]
    elif b"#" in target:
        return Rejection(400, "The request target has a fragment (#). Remove it.")
    # The query is not checked: nothing is routed by it.
    if b"%" in path and not _ESCAPED_PATH.fullmatch(path.partition(b"?")[0]):
        return Rejection(
            400, "The path has a percent-encoded character that needs no encoding, or is not allowed."
        )
    return None
