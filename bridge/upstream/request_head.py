"""How requests to one upstream leave: with its headers and its credentials."""

from functools import lru_cache
from typing import Final, NamedTuple

import httpx

from bridge.exchange import Header, Request, name_key
from bridge.secrets import Upstream
from bridge.spec import BODY_METHODS
from bridge.upstream.auth import fixed as auth
from bridge.upstream.http.transport import USER_AGENT, Message

_DEFAULTS: Final[tuple[Header, ...]] = (("User-Agent", USER_AGENT), ("Accept-Encoding", "gzip"))

_MAX_CACHED_HEADERS: Final = 4096
"""Characters of a request's own headers up to which its head is cached: callers can fill headers with arguments."""


class _Head(NamedTuple):
    """What is the same in many requests: ``query`` is what the auth adds to it, ``lines`` are the headers as sent."""

    headers: tuple[Header, ...]
    lines: bytes
    query: str


class Outgoing:
    """What is the same in all requests to an upstream, made once."""

    def __init__(self, upstream: Upstream) -> None:
        spec = upstream.spec
        self._upstream = upstream
        self._base_url = spec.base_url
        self._host = upstream.origin.partition("://")[2]
        self._defaults = (*((name, str(value)) for name, value in spec.headers.items()), *_DEFAULTS)
        self._flow = auth.flow(spec.auth)
        self._head = lru_cache(maxsize=64)(self._written)

    def message(self, request: Request, *, fresh: bool) -> Message:
        """Raises ``LocalProtocolError`` for a URL that is not below the ``baseUrl``, or breaks its line."""
        spec, head = self._upstream.spec, self._head_of(request)
        target = self._target(request.url, head.query)
        return Message(
            request.method.encode(),
            target.encode(),
            head.lines,
            request.content or b"",
            fresh,
            spec.timeout.connect,
            spec.max_bytes,
        )

    def as_sent(self, request: Request) -> Request:
        """The request with all the headers and credentials that it leaves with, for people to read."""
        head = self._head_of(request)
        url = self._upstream.origin + self._target(request.url, head.query)
        return request._replace(url=url, headers=head.headers)

    def _head_of(self, request: Request) -> _Head:
        has_length = request.content is not None or request.method in BODY_METHODS  # RFC 9110 8.6
        length = len(request.content or b"") if has_length else None
        is_short = sum(len(value) for _, value in request.headers) <= _MAX_CACHED_HEADERS
        return (self._head if is_short else self._written)(request.headers, length)

    def _target(self, url: str, query: str) -> str:
        base_url = self._base_url
        is_below = url.startswith(base_url) and url[len(base_url) :][:1] in ("", "/", "?")
        if not is_below or not url.isascii() or not url.isprintable() or " " in url:
            raise httpx.LocalProtocolError("unsafe-request")
        target = url[len(self._upstream.origin) :]
        if not target.startswith("/"):
            target = f"/{target}"
        return f"{target}{'&' if '?' in target else '?'}{query}" if query else target

    def _written(self, own: tuple[Header, ...], length: int | None) -> _Head:
        """What frames the request, then the tool's headers over the upstream's over ours, and the auth's over all."""
        headers = [("Host", self._host)]
        if length is not None:
            headers.append(("Content-Length", str(length)))
        headers += own
        taken = {name_key(name) for name, _ in headers}
        for name, value in self._defaults:
            if (key := name_key(name)) not in taken:
                taken.add(key)
                headers.append((name, value))
        raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
        # given a stream, httpx adds no header of its own
        request = httpx.Request("GET", self._upstream.origin, headers=raw, stream=httpx.ByteStream(b""))
        request = next(self._flow.auth_flow(request))
        sent = request.headers.raw
        lines = b"".join([b"%s: %s\r\n" % header for header in sent])
        if not len(sent) == lines.count(b"\n") == lines.count(b"\r") or b"\0" in lines:
            raise httpx.LocalProtocolError("unsafe-request")
        read = tuple((name.decode(), value.decode("latin-1")) for name, value in sent)
        return _Head(read, lines, request.extensions.get("query", ""))
