"""Which request heads are refused because a proxy in front could read them differently.

llhttp checks the syntax of fields and the framing (RFC 9112 6). It lets pass what is checked here.
"""

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

_LINES: Final = {"1.0": b"%s %s HTTP/1.0\r\n", "1.1": b"%s %s HTTP/1.1\r\n"}
_PLAIN: Final = re.compile(rb"/[A-Za-z0-9._~/-]*")
_NOT_ASCII: Final = 0x80
_ABSOLUTE: Final = re.compile(rb"https?://([^/?#]*)(/[^#]*)", re.IGNORECASE)
_ESCAPE: Final = re.compile(rb"%([0-9a-f]{2})?", re.IGNORECASE)
_ESCAPABLE: Final = frozenset(b" !\"#$&'()*+,:;<=>?@[]^`{|}")
"""Without RFC 3986's unreserved characters, which need no escape, and without what a second reading could take for more."""


class Rejection(NamedTuple):
    """The status and the text of the answer."""

    status: int
    text: str


def reject_head(
    head: bytes, method: bytes, target: bytes, version: str, headers: Sequence[tuple[bytes, bytes]]
) -> Rejection | None:
    """Why a request is refused, or None; ``head`` holds its bytes, ``headers`` have lower-case names."""
    line = _LINES.get(version)
    if line is None:
        return Rejection(505, f"HTTP/{version} is not supported. Use HTTP/1.1.")
    if method == b"CONNECT":
        return Rejection(501, "CONNECT is not supported: this server is no proxy.")
    # llhttp also takes RTSP/1.1, and several blanks.
    if line % (method, target) not in head:
        return Rejection(400, "The request line must read METHOD TARGET HTTP/1.1, with one space between.")
    codings = [value for name, value in headers if name == b"transfer-encoding"]
    if codings and (len(codings) > 1 or codings[0].strip(b" \t").lower() != b"chunked" or version == "1.0"):
        # RFC 9112 6.1
        return Rejection(501, "The only Transfer-Encoding that is supported is chunked, in HTTP/1.1.")
    return None if _PLAIN.fullmatch(target) else _reject_target(target, headers)


def _reject_target(target: bytes, headers: Sequence[tuple[bytes, bytes]]) -> Rejection | None:
    """RFC 9112 3.2: origin-form, or absolute-form that agrees with Host."""
    path = target
    if not target.startswith(b"/"):
        absolute = _ABSOLUTE.fullmatch(target)
        if absolute is None:
            return Rejection(400, "The target of the request must be a path, for example /mcp.")
        hosts = [value.strip(b" \t").lower() for name, value in headers if name == b"host"]
        if hosts != [absolute[1].lower()]:
            return Rejection(400, "The URL in the request line and the Host header name different servers.")
        path = absolute[2]
    elif b"#" in target:
        return Rejection(400, "The target of the request holds a fragment (#). Leave it out.")
    if b"%" in path:
        for escaped in _ESCAPE.findall(path.partition(b"?")[0]):
            if not escaped or (int(escaped, 16) < _NOT_ASCII and int(escaped, 16) not in _ESCAPABLE):
                return Rejection(
                    400, "The path escapes a character that needs no escape, or must not be in it."
                )
    return None
