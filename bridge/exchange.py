"""One HTTP request and its reply, as plain values: what ``tool`` builds and ``upstream`` sends."""

from dataclasses import dataclass

Header = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Request:
    """A request ready to send; nothing in it is encoded again.

    ``url`` is absolute and percent-encoded ASCII, below the upstream's ``baseUrl``. ``headers``
    holds what the tool file says; the upstream's own headers and its auth are added when sent.
    """

    method: str
    url: str
    headers: tuple[Header, ...] = ()
    content: bytes | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole reply: content is complete, decoded from its Content-Encoding, within its bounds.

    Header names are lower case; values of a repeated header are joined with ``, `` (RFC 9110 5.3).
    ``complete`` is False where the body ended with its connection: nothing shows that it is whole.
    """

    status: int
    headers: dict[str, str]
    content: bytes
    complete: bool = True

    @property
    def media_type(self) -> str:
        """The Content-Type without its parameters, lower case; empty where there is none."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()
