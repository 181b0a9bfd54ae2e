"""One HTTP request and its reply, as plain values: what ``tool`` builds and ``upstream`` sends."""

import re
from collections.abc import Iterable
from typing import Final, NamedTuple, TypeAlias

_SIGN: Final = re.compile(r"[^a-z0-9]")

Header = tuple[str, str]
RawHeaders: TypeAlias = Iterable[tuple[bytes, bytes]]
"""Of a caller's own request, with names in lower case."""


def name_key(name: str) -> str:
    """What is equal for names of headers, cookies or parameters that some server reads as one.

    CGI and WSGI read ``X_Key`` and ``X-Key`` alike (RFC 3875 4.1.18), PHP ``api.key`` and ``api_key``, ASP.NET ``key`` and ``Key``.
    """
    return _SIGN.sub("-", name.lower())


class Request(NamedTuple):
    """A request ready to send; nothing in it is encoded again.

    ``url`` is absolute and percent-encoded ASCII, below the upstream's ``baseUrl``. ``headers``
    holds what the tool file says; the upstream's own headers and its auth are added when sent.
    ``template`` is the path with the names of arguments in place of their values.
    """

    method: str
    url: str
    headers: tuple[Header, ...] = ()
    content: bytes | None = None
    template: str = ""


class Reply(NamedTuple):
    """A whole reply: content is complete, decoded from its Content-Encoding, within its bounds.

    Header names are lower case; values of a repeated header are joined with ``, `` (RFC 9110 5.3).
    ``complete`` is False where the body ended with its connection: nothing shows that it is whole.
    ``secrets`` are the credentials that were got for this one call, should it hold one of them.
    """

    status: int
    headers: dict[str, str]
    content: bytes
    complete: bool = True
    secrets: tuple[str, ...] = ()

    @property
    def media_type(self) -> str:
        """The Content-Type without its parameters, lower case; empty where there is none."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()
