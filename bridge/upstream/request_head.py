"""The heads of requests to one upstream, with its headers and its credentials."""

from functools import lru_cache
from typing import Final, NamedTuple

import httpx

from bridge.exchange import Header, Request, name_key
from bridge.resolved_upstream import Upstream
from bridge.spec import BODY_METHODS
from bridge.upstream.auth import fixed
from bridge.upstream.http.connecting import USER_AGENT
from bridge.upstream.http.transport import Message

# only gzip, as ``Content`` decodes nothing else
_DEFAULTS: Final[tuple[Header, ...]] = (("User-Agent", USER_AGENT), ("Accept-Encoding", "gzip"))

_MAX_CACHED_HEADERS: Final = 4096
"""Heads of requests with more characters in the tool's headers are not cached: arguments of callers can be long."""


class _Head(NamedTuple):
    """A head without its request line: ``lines`` are the headers as sent, ``query`` is what the auth adds to the query."""

    headers: tuple[Header, ...]
    lines: bytes
    query: str


class PreparedRequest:
    """Prepares requests to one upstream; heads are cached by the headers and the length of the request."""

    def __init__(self, upstream: Upstream) -> None:
        spec = upstream.spec
        self._upstream = upstream
        self._base_url = spec.base_url
        self._host = upstream.origin.partition("://")[2]
        self._defaults = (*((name, str(value)) for name, value in spec.headers.items()), *_DEFAULTS)
        self._flow = fixed.flow(spec.auth)
        # not a decorator of the method: that cache would be shared by all upstreams, and keep them
        self._cached_head = lru_cache(maxsize=64)(self._build_head)

    def message(self, request: Request, *, needs_new_connection: bool) -> Message:
        """Raises ``LocalProtocolError`` for a URL outside of the ``baseUrl``, or with a character that would break the head."""
        spec, head = self._upstream.spec, self._head_of(request)
        target = self._target(request.url, head.query)
        return Message(
            request.method.encode(),
            target.encode(),
            head.lines,
            request.content or b"",
            needs_new_connection,
            spec.timeout.connect,
            spec.max_bytes,
        )

    def as_sent(self, request: Request) -> Request:
        """The request with all headers and credentials as it is sent, for people to read."""
        head = self._head_of(request)
        url = self._upstream.origin + self._target(request.url, head.query)
        return request._replace(url=url, headers=head.headers)

    def _head_of(self, request: Request) -> _Head:
        has_length = request.content is not None or request.method in BODY_METHODS  # RFC 9110 8.6
        length = len(request.content or b"") if has_length else None
        is_short = sum(len(value) for _, value in request.headers) <= _MAX_CACHED_HEADERS
        return (self._cached_head if is_short else self._build_head)(request.headers, length)

    def _target(self, url: str, query: str) -> str:
        base_url = self._base_url
        # "https://shop.test/v10" is not below "https://shop.test/v1", nor is "https://shop.test.evil/v1"
        is_below = url.startswith(base_url) and url[len(base_url) :][:1] in ("", "/", "?")
        # a blank is printable for Python, but ends the target in a request line
        if not is_below or not url.isascii() or not url.isprintable() or " " in url:
            raise httpx.LocalProtocolError("unsafe-request")
        target = url[len(self._upstream.origin) :]
        if not target.startswith("/"):  # empty, or a query (RFC 9112 3.2.1)
            target = f"/{target}"
        return f"{target}{'&' if '?' in target else '?'}{query}" if query else target

    def _build_head(self, tool_headers: tuple[Header, ...], length: int | None) -> _Head:
        """Host and Content-Length, then other headers: auth overrides the tool's, which override the upstream's, then ours."""
        headers = [("Host", self._host)]  # first, as RFC 9110 7.2 recommends
        if length is not None:
            headers.append(("Content-Length", str(length)))
        headers += tool_headers
        used = {name_key(name) for name, _ in headers}
        for name, value in self._defaults:
            if (key := name_key(name)) not in used:
                used.add(key)
                headers.append((name, value))
        raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
        # Credentials depend neither on method nor on URL. With a stream, httpx adds no headers.
        request = httpx.Request("GET", self._upstream.origin, headers=raw, stream=httpx.ByteStream(b""))
        request = next(self._flow.auth_flow(request))
        sent = request.headers.raw
        lines = b"".join([b"%s: %s\r\n" % header for header in sent])
        # each header is one line, so that no value adds a header or a request
        if not len(sent) == lines.count(b"\n") == lines.count(b"\r") or b"\0" in lines:
            raise httpx.LocalProtocolError("unsafe-request")
        read = tuple((name.decode(), value.decode("latin-1")) for name, value in sent)
        return _Head(read, lines, request.extensions.get("query", ""))
