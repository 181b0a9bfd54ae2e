"""The errors of a call. The type says whose fault it is.

BridgeError                  str() may be shown to a model: no secret, no internal address, no stack trace
├── InvalidCall              caller: arguments that do not match the schema, or are unsafe in the request
├── TooMany                  caller: past a rate limit or a concurrency limit
└── UpstreamError            upstream, or the network in between
    ├── NotSent              the request was not sent: unreachable, no free slot, no time left, no audit
    ├── NotAnswered          it was sent, and no complete reply came: connection lost, timeout, not HTTP
    ├── StatusError          the upstream answered with a status that the tool does not accept
    └── UnusableReply        the reply is complete and accepted, but cannot be given to the model
"""

from collections.abc import Mapping
from typing import Final

CODES: Final[Mapping[str, str]] = {
    "address-refused": "The name of the API resolves to a link-local or cloud metadata address.",
    "arguments-too-large": "The arguments are larger than 1 MiB, nested deeper than 64, or too large to be checked in time.",
    "audit-failed": "The audit file cannot be written, and `audit.required` is set: the call was not made.",
    "bad-encoding": "The reply has a content coding that was not requested, or it is damaged.",
    "busy": "Too many calls to this API are running, and no slot became free in time.",
    "circuit-open": "The API failed repeatedly: its circuit breaker is open (`circuit`).",
    "connect-failed": "The connection failed for a reason that has no code of its own.",
    "connect-refused": "Nothing listens on the host and port of the API.",
    "connect-timeout": "No connection was made within `timeout.connect`.",
    "dns-failed": "The name of the API does not resolve to an address.",
    "http-STATUS": "The API answered with this status, which the tool does not accept.",
    "incomplete-reply": "Nothing shows that the reply is complete: it is not JSON, only a number, or empty.",
    "invalid-arguments": "The arguments do not match `inputSchema`.",
    "invalid-blocks": "The result of the projection is not a list of at most 1000 MCP content blocks.",
    "nested-argument": "An argument is an array or object where only text is possible.",
    "no-token": "The token request to the authorization server failed, or its token cannot be used.",
    "not-base64": "An argument that is sent as bytes is not base64.",
    "not-json": "The reply cannot be read as JSON.",
    "not-unicode": "An argument contains half of a surrogate pair.",
    "projection-failed": "The projection does not fit this reply.",
    "projection-too-large": "The projection takes too many steps, or its result is too large.",
    "protocol-error": "The API violates HTTP.",
    "proxy-failed": "The proxy cannot be reached, refuses the connection, or wants other credentials.",
    "reply-cut": "The connection ended before the reply did.",
    "reply-too-large": "The reply is larger than `maxBytes`, or holds too many arrays and objects.",
    "result-drift": "The reply does not match `outputSchema`.",
    "result-too-large": "The result is larger than `response.maxBytes` and cannot be cut, or too large to be checked in time.",
    "timeout": "The call took longer than `timeout`.",
    "tls-failed": "The TLS handshake failed, the server does not use TLS, or it wants another client certificate.",
    "tls-files": "A file named under `tls` cannot be used.",
    "tls-name": "The API's certificate is for another name.",
    "tls-untrusted": "The API's certificate is not trusted, or has expired.",
    "token-refused": "The authorization server gives no token for this call.",
    "too-many-calls": "More calls at once, or requests in a minute, than the bridge's `limits` allow.",
    "unknown-caller": "The request needs the caller's name, claim or token, which is not known.",
    "unsafe-argument": "An argument is not allowed where it would go, such as `..` in a path.",
    "unsafe-request": "A request that servers could parse in two ways was not sent.",
    "unwritable-value": "A number cannot be written in the request.",
    "url-too-long": "The URL would be longer than 16 KiB.",
    "wrong-content": "The reply is not the image or audio that the tool file promises.",
}
"""Error code → its meaning. The codes are stable: programs may rely on them."""


class BridgeError(Exception):
    """Base of all errors of a call. ``code`` is a key of ``CODES``."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class InvalidCall(BridgeError):
    """The arguments cannot be used. Nothing was sent, and the model can correct them."""


class TooMany(BridgeError):
    """The caller is past a limit. Nothing was sent. ``retry_after`` is in seconds.

    ``is_total``: the limit is that of all callers together, not of this one.
    """

    def __init__(self, code: str, message: str, retry_after: int, *, is_total: bool) -> None:
        super().__init__(code, message)
        self.retry_after = retry_after
        self.is_total = is_total


class UpstreamError(BridgeError):
    """The upstream or the network is at fault. ``is_permanent``: a retry would fail in the same way."""

    is_permanent = False


class NotSent(UpstreamError):
    """No byte of the request reached the upstream. A retry is always safe."""


class NotAnswered(UpstreamError):
    """The request was sent, and the reply is missing or incomplete. An unsafe request may have been carried out."""


class StatusError(UpstreamError):
    """The upstream answered with the HTTP status ``status``. ``retry_after`` is in seconds (RFC 9110 10.2.3)."""

    def __init__(self, code: str, message: str, status: int, retry_after: float | None = None) -> None:
        super().__init__(code, message)
        self.status = status
        self.retry_after = retry_after


class UnusableReply(UpstreamError):
    """The upstream answered, but its reply is not what the tool file promises.

    ``status`` is that of a reply that could not be read to its end, None where the caller knows it.
    ``str()`` is ``message`` with ``advice``, which is for a caller that may call again. ``data`` is JSON of what the
    result was to be made of.
    """

    data: str | None = None
    is_empty: bool = False
    """Whether the projection found nothing but null."""

    def __init__(self, code: str, message: str, status: int | None = None, *, advice: str = "") -> None:
        super().__init__(code, f"{message} {advice}".rstrip())
        self.message = message
        self.status = status


class StartError(Exception):
    """A command cannot start. ``str()`` tells the operator why, and what to do."""
