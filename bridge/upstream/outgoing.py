"""How requests to one upstream leave: with its headers and its credentials."""

from dataclasses import replace
from functools import lru_cache
from typing import Final

import httpx

from bridge.exchange import Header, Request
from bridge.secrets import Upstream
from bridge.spec import BODY_METHODS
from bridge.upstream import auth
from bridge.upstream.transport import USER_AGENT, Progress

_DEFAULTS: Final[tuple[Header, ...]] = (("User-Agent", USER_AGENT), ("Accept-Encoding", "gzip"))
_NO_CONTENT: Final = httpx.ByteStream(b"")


class Outgoing:
    """What is the same in all requests to an upstream, made once.

    httpx is given a stream: it then adds no header of its own, and leaves the URL's path alone.
    """

    def __init__(self, upstream: Upstream) -> None:
        spec = upstream.spec
        self.upstream = upstream
        self._origin = httpx.URL(upstream.origin)
        self._host = upstream.origin.partition("://")[2]
        self._defaults = (*((name, str(value)) for name, value in spec.headers.items()), *_DEFAULTS)
        self._flow = auth.flow(spec.auth)
        self._timeout = {"connect": spec.timeout.connect}
        self._headers = lru_cache(maxsize=64)(self._merged)

    def request(self, request: Request, progress: Progress, *, fresh: bool) -> httpx.Request:
        """For ``Transport``; raises ``LocalProtocolError`` for a URL that is not below the ``baseUrl``."""
        base_url, origin = self.upstream.spec.base_url, self.upstream.origin
        if not request.url.startswith(base_url) or request.url[len(base_url) :][:1] not in ("", "/", "?"):
            raise httpx.LocalProtocolError("unsafe-request")
        target = request.url[len(origin) :]
        has_length = request.content is not None or request.method in BODY_METHODS  # RFC 9110 8.6
        sending = httpx.Request(
            request.method,
            self._origin,
            headers=self._headers(request.headers, len(request.content or b"") if has_length else None),
            stream=httpx.ByteStream(request.content) if request.content else _NO_CONTENT,
            extensions={
                "target": (target if target.startswith("/") else f"/{target}").encode(),
                "progress": progress,
                "timeout": self._timeout,
                "fresh": fresh,
            },
        )
        return next(self._flow.auth_flow(sending))

    def _merged(self, own: tuple[Header, ...], length: int | None) -> httpx.Headers:
        """What frames the request, then the tool's headers over the upstream's over ours."""
        headers = [("Host", self._host)]
        if length is not None:
            headers.append(("Content-Length", str(length)))
        headers += own
        for name, value in self._defaults:
            if all(name.lower() != other.lower() for other, _ in headers):
                headers.append((name, value))
        return httpx.Headers([(name.encode(), value.encode("latin-1")) for name, value in headers])


def as_sent(request: Request, upstream: Upstream) -> Request:
    """The request with all the headers and credentials that it leaves with, for people to read."""
    sending = Outgoing(upstream).request(request, Progress(), fresh=True)
    target: bytes = sending.extensions["target"]
    headers = tuple((name.decode(), value.decode("latin-1")) for name, value in sending.headers.raw)
    return replace(request, url=upstream.origin + target.decode(), headers=headers)
