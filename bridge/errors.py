"""The tree of what a call may end in; whose fault it is, is the type.

BridgeError                  str() is a text fit for a model: no secret, no address of ours, no stack
├── InvalidCall              the caller's: arguments against the schema, or unsafe where they go
├── NotSent                  the request did not leave: unreachable, no free slot, no time left
├── NotAnswered              it left, and no whole reply came: cut, out of time, not HTTP
├── StatusError              the upstream answered with a status that the tool does not accept
└── UnusableReply            the reply is whole and accepted, but cannot be given to the model
"""

from typing import ClassVar


class BridgeError(Exception):
    """Base of the tree. ``code`` is kebab-case, stable, and listed in the README."""

    whose: ClassVar[str] = "bridge"

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class InvalidCall(BridgeError):
    """The arguments cannot be used: nothing was sent, and the model can mend them."""

    whose = "caller"


class UpstreamError(BridgeError):
    """The upstream, or the way to it, is at fault."""

    whose = "upstream"


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
    """

    def __init__(self, code: str, message: str, status: int | None = None) -> None:
        super().__init__(code, message)
        self.status = status
