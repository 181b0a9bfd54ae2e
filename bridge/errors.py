"""The tree of what a call may end in; whose fault it is, is the type.

BridgeError                  str() is a text fit for a model: no secret, no address of ours, no stack
├── InvalidCall              the caller's: arguments against the schema, or unsafe where they go
├── TooMany                  the caller's: more at once, or in a while, than it may
├── NotSent                  the request did not leave: unreachable, no free slot, no time left, no audit
├── NotAnswered              it left, and no whole reply came: cut, out of time, not HTTP
├── StatusError              the upstream answered with a status that the tool does not accept
└── UnusableReply            the reply is whole and accepted, but cannot be given to the model
"""

from collections.abc import Mapping
from typing import Final

CODES: Final[Mapping[str, str]] = {
    "address-refused": "The API's name leads to a link-local or cloud metadata address.",
    "arguments-too-large": "The arguments are larger than 1 MiB, nested deeper than 64, or too large to be checked in time.",
    "audit-failed": "The audit file cannot be written, and `audit.required` is set: the call was not made.",
    "bad-encoding": "The reply is compressed in a way that was not asked for, or damaged.",
    "busy": "Too many calls to this API are running, and none ended in time.",
    "circuit-open": "The API failed again and again, and is left alone for a while (`circuit`).",
    "connect-failed": "No connection, for another reason than those below.",
    "connect-refused": "Nobody listens at the API's host and port.",
    "connect-timeout": "No connection within `timeout.connect`.",
    "dns-failed": "The API's name leads to no address.",
    "http-STATUS": "The API answered with this status, which the tool does not take for a success.",
    "incomplete-reply": "Nothing shows that a reply is whole: it is not JSON, a number alone, or empty.",
    "invalid-arguments": "The arguments do not fit `inputSchema`.",
    "invalid-blocks": "The projection was to answer MCP content blocks, and did not.",
    "nested-argument": "An array or object stands where only text can.",
    "no-token": "The authorization server cannot be asked for a token just now, or gives one of no use.",
    "not-base64": "An argument that is sent as bytes is no base64.",
    "not-json": "The reply cannot be read as JSON.",
    "not-unicode": "An argument holds half a surrogate pair.",
    "projection-failed": "The projection does not fit this reply.",
    "projection-too-large": "The projection would take too many steps, or make too much.",
    "protocol-error": "The API does not speak HTTP as it should.",
    "proxy-failed": "The proxy cannot be reached, or refused, or wants other credentials.",
    "reply-cut": "The connection ended before the reply did.",
    "reply-too-large": "The reply is larger than `maxBytes`, or holds too many arrays and objects.",
    "result-drift": "The reply departs from `outputSchema`.",
    "result-too-large": "The result is larger than `response.maxBytes` and cannot be cut, or too large to be checked in time.",
    "timeout": "The call took longer than `timeout`.",
    "tls-failed": "TLS failed, is not spoken there, or the server wants another client certificate.",
    "tls-files": "A file named under `tls` cannot be used.",
    "tls-name": "The API's certificate is for another name.",
    "tls-untrusted": "The API's certificate is not trusted, or has expired.",
    "token-refused": "The authorization server gives no token for this call.",
    "too-many-calls": "More calls at once, or requests in a minute, than the bridge's `limits` allow.",
    "unknown-caller": "The request needs the name, a claim or a token of who calls, and that is not known.",
    "unsafe-argument": "An argument cannot stand where it would go, such as `..` in a path.",
    "unsafe-request": "A request that could be read in two ways was not sent.",
    "unwritable-value": "A number that cannot be written.",
    "url-too-long": "The URL would be longer than 16 KiB.",
    "wrong-content": "The reply is not the image or audio that it should be.",
}
"""What a call may end in. The codes are stable: programs may rely on them."""


class BridgeError(Exception):
    """Base of the tree. ``code`` is kebab-case, stable, and listed in the README."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class InvalidCall(BridgeError):
    """The arguments cannot be used: nothing was sent, and the model can mend them."""


class TooMany(BridgeError):
    """Nothing was sent; after ``retry_after`` seconds there may be room. ``in_all``: others have what there is, too."""

    def __init__(self, code: str, message: str, retry_after: int, *, in_all: bool) -> None:
        super().__init__(code, message)
        self.retry_after = retry_after
        self.in_all = in_all


class UpstreamError(BridgeError):
    """The upstream, or the way to it, is at fault. ``is_lasting``: another attempt would fail in the same way."""

    is_lasting = False


class NotSent(UpstreamError):
    """Not a byte of the request reached the upstream: repeating it is always safe."""


class NotAnswered(UpstreamError):
    """The request left, the reply did not come whole: an unsafe request may have been carried out."""


class StatusError(UpstreamError):
    """The upstream refused. ``status`` is the HTTP status; ``retry_after`` is in seconds."""

    def __init__(self, code: str, message: str, status: int, retry_after: float | None = None) -> None:
        super().__init__(code, message)
        self.status = status
        self.retry_after = retry_after


class UnusableReply(UpstreamError):
    """The upstream answered, but its reply is not what the tool file promises.

    ``status`` is that of a reply that could not be read to its end, None where the caller knows it.
    ``str()`` is ``message`` with ``advice``, which is for whoever may call again.
    """

    def __init__(self, code: str, message: str, status: int | None = None, *, advice: str = "") -> None:
        super().__init__(code, f"{message} {advice}".rstrip())
        self.message = message
        self.status = status
