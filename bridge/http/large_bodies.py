"""Large bodies are parsed in a worker thread, one at a time. Callers whose bodies wait take turns.

To parse 4 MiB of JSON can take half a second, in which nothing else would be answered. What waits is bounded in bytes.
A body of some KiB is large, too, where it holds many values: a long text is parsed a hundred times faster.
"""

from collections import Counter
from typing import Final

from anyio import to_thread
from mcp_types import JSONRPCMessage

from bridge.caller import Caller
from bridge.codec import encode, has_long_digits
from bridge.errors import InvalidCall, NotSent, TooMany
from bridge.protocol.jsonrpc import is_call, parse
from bridge.spec import Limits
from bridge.tool.schema.arguments import MAX_BYTES
from bridge.upstream.slots import Slots, Turn

LARGE_BODY: Final = 128 * 1024
"""Bytes of a body past which it is large, whatever it holds."""
_SMALL_BODY: Final = 8 * 1024
"""Bytes of a body up to which it is not, whatever it holds."""
_MAX_MARKS: Final = 4096
"""Brackets, braces, commas and escapes that a body between these two may have. A text of 128 KiB has some 2000."""
_MARKS: Final = (b"[", b"{", b",", b"\\")
MAX_WAITING_BYTES: Final = 64 * 1024**2
MAX_WAITING_BYTES_PER_CALLER: Final = 16 * 1024**2
"""Bytes of large bodies that wait to be parsed; the second holds where callers have names."""
_RETRY_AFTER_SECONDS: Final = 5
_PATIENCE_SECONDS: Final = 30.0


def is_large(body: bytes) -> bool:
    """Whether to parse a body can take more than one or two milliseconds."""
    if len(body) <= _SMALL_BODY:
        return False
    return len(body) > LARGE_BODY or sum(map(body.count, _MARKS)) > _MAX_MARKS or has_long_digits(body)


class LargeBodies:
    """The large bodies that wait, of all callers; each waits ``patience`` seconds at most."""

    def __init__(self, patience: float = _PATIENCE_SECONDS) -> None:
        self._slots = Slots()
        self._limits = Limits(concurrency=1).model_copy(update={"queue": patience})
        self._bytes: Counter[object] = Counter()

    async def parse(self, body: bytes, caller: Caller) -> tuple[JSONRPCMessage, InvalidCall | None]:
        """The message in a body, and what is wrong with its arguments, if they are too large.

        Raises ``Refused`` where there is no message, and ``TooMany`` where too many bytes wait.
        """
        who, size = caller.identity, len(body)
        if caller.name is not None and self._bytes[who] + size > MAX_WAITING_BYTES_PER_CALLER:
            raise _too_many(f"{MAX_WAITING_BYTES_PER_CALLER} for each caller", in_all=False)
        if self._bytes.total() + size > MAX_WAITING_BYTES:
            raise _too_many(f"{MAX_WAITING_BYTES} in all", in_all=True)
        self._bytes[who] += size
        try:
            async with Turn(self._slots, self._limits, who):
                return await to_thread.run_sync(_parsed, body)
        except NotSent:
            raise _too_many("none was parsed in time", in_all=True) from None
        finally:
            self._bytes[who] -= size
            if not self._bytes[who]:
                del self._bytes[who]


def _parsed(body: bytes) -> tuple[JSONRPCMessage, InvalidCall | None]:
    message = parse(body)
    if not is_call(message) or len(encode((message.params or {}).get("arguments"))) <= MAX_BYTES:
        return message, None
    text = f"The arguments are larger than {MAX_BYTES} bytes; nothing was sent. Send less at a time."
    return message, InvalidCall("arguments-too-large", text)


def _too_many(most: str, *, in_all: bool) -> TooMany:
    text = f"Too many bytes of large requests: at most {most}. Try again in {_RETRY_AFTER_SECONDS} seconds."
    return TooMany("too-many-calls", text, _RETRY_AFTER_SECONDS, in_all=in_all)
