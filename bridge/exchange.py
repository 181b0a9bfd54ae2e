"""One HTTP request and its reply, as values: ``tool`` builds requests, and ``upstream`` sends them."""

import re
from collections.abc import Iterable
from email.utils import parsedate_to_datetime
from typing import Final, NamedTuple, TypeAlias

MAX_MEDIA_TYPE_LENGTH: Final = 255
"""Characters of a media type: two names of 127, and a slash (RFC 6838 4.2)."""
_SEPARATOR: Final = re.compile(r"[^a-z0-9]")

Header = tuple[str, str]
RawHeaders: TypeAlias = Iterable[tuple[bytes, bytes]]
"""The headers of a client's request, with names in lower case."""


def name_key(name: str) -> str:
    """The same key for names of headers, cookies or parameters that some server treats as equal.

    Equal are ``X_Key`` and ``X-Key`` for CGI and WSGI (RFC 3875 4.1.18), ``api.key`` and ``api_key`` for PHP, and ``key``
    and ``Key`` for ASP.NET.
    """
    return _SEPARATOR.sub("-", name.lower())


class Request(NamedTuple):
    """A request ready to send; nothing in it is encoded further.

    ``url`` is absolute and percent-encoded ASCII, below the upstream's ``baseUrl``. ``headers``
    are those of the tool file; those of the upstream and its auth are added when it is sent.
    ``template`` is the path with the names of arguments instead of their values.
    """

    method: str
    url: str
    headers: tuple[Header, ...] = ()
    content: bytes | None = None
    template: str = ""


class Reply(NamedTuple):
    """A complete reply: its content is decoded from Content-Encoding, and within ``maxBytes``.

    Header names are lower case; values of a repeated header are joined with ``, `` (RFC 9110 5.3).
    ``complete`` is False if the end of the connection ended the body, which may then be cut.
    ``secrets`` are the access tokens of this call, to be redacted.
    """

    status: int
    headers: dict[str, str]
    content: bytes
    complete: bool = True
    secrets: tuple[str, ...] = ()

    @property
    def media_type(self) -> str:
        """The Content-Type without parameters, in lower case; empty if there is none, or it is too long."""
        media_type = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        return media_type if len(media_type) <= MAX_MEDIA_TYPE_LENGTH else ""


_MAX_RETRY_AFTER_SECONDS: Final = 86400.0


# IMF-fixdate, the form that senders must use (RFC 9110 5.6.7). parsedate_to_datetime also takes dates without a zone,
# which would count as local time. (?a): otherwise \d is also a digit of other scripts.
_HTTP_DATE: Final = re.compile(r"(?a)[A-Z][a-z]{2}, \d{2} [A-Z][a-z]{2} \d{4} \d{2}:\d{2}:\d{2} GMT")


def retry_after(value: str, now: float) -> float | None:
    """The seconds of a Retry-After header (RFC 9110 10.2.3), 0 to a day; None if it is not valid."""
    if value.isascii() and value.isdigit():  # isdigit alone is true of "²"; float of many digits is infinite
        return min(float(value), _MAX_RETRY_AFTER_SECONDS)
    if not _HTTP_DATE.fullmatch(value):
        return None
    try:
        return min(max(0.0, parsedate_to_datetime(value).timestamp() - now), _MAX_RETRY_AFTER_SECONDS)
    except ValueError:  # such as Feb 30
        return None
