"""Large bodies are parsed in a worker thread, one at a time. Callers with waiting bodies take turns.

Parsing 4 MiB of JSON can take half a second, which would block the event loop. Parsed JSON takes up to 20 times the memory
of its text. So the total bytes of large bodies are limited, and each body counts until its call ends.

A body of a few KiB also counts as large if it has many values. A long text is parsed a hundred times faster.
"""

from collections import Counter
from typing import Final

from anyio import to_thread
from mcp_types import JSONRPCMessage

from bridge.caller import Caller
from bridge.codec import has_long_digits
from bridge.errors import InvalidCall, NotSent, TooMany
from bridge.protocol.jsonrpc import MAX_OTHER_BYTES, is_call, parse
from bridge.protocol.large_arguments import LargeArguments
from bridge.spec import Limits
from bridge.tool.schema.arguments import MAX_BYTES as MAX_ARGUMENTS_BYTES
from bridge.upstream.slots import Slot, Slots

LARGE_BODY_BYTES: Final = 128 * 1024
"""A body with more bytes is always large."""
_SMALL_BODY_BYTES: Final = 8 * 1024
"""A body with at most this number of bytes is never large."""
_MAX_COSTLY_CHARACTERS: Final = 4096
"""A body between these sizes is large if it has more brackets, braces, commas and escapes. A text of 128 KiB has some 2000."""
_COSTLY_CHARACTERS: Final = (b"[", b"{", b",", b"\\")
MAX_BYTES: Final = 64 * 1024**2
MAX_BYTES_PER_CALLER: Final = 16 * 1024**2
"""Bytes of large bodies until their calls end: of all callers, and of each caller with a name."""
_MAX_CALL_BYTES: Final = MAX_ARGUMENTS_BYTES + MAX_OTHER_BYTES
"""If a tools/call is larger, its arguments are too large."""
_RETRY_AFTER_SECONDS: Final = 5
_MAX_WAIT_SECONDS: Final = 30.0


def is_large(body: bytes) -> bool:
    """Whether parsing a body can take more than one or two milliseconds."""
    if len(body) <= _SMALL_BODY_BYTES:  # most bodies: nothing is counted
        return False
    return (
        len(body) > LARGE_BODY_BYTES
        or sum(map(body.count, _COSTLY_CHARACTERS)) > _MAX_COSTLY_CHARACTERS
        or has_long_digits(body)
    )


class LargeBodies:
    """The large bodies of all callers.

    Calls that are too large are parsed in a separate thread, so that other bodies do not wait for them.
    """

    def __init__(self, max_wait_seconds: float = _MAX_WAIT_SECONDS) -> None:
        self._slots = (Slots(), Slots())
        # Not an argument: the model reads durations as text, such as "30s".
        self._limits = Limits(concurrency=1).model_copy(update={"queue": max_wait_seconds})
        self._bytes: Counter[object] = Counter()

    def hold(self, size: int, caller: Caller) -> LargeArguments:
        """Count a body of ``size`` bytes. Raises ``TooMany`` if that exceeds a limit."""
        caller_key = caller.identity
        # Callers without a name count as one, who may be all there are. For them only the total applies.
        if caller.name is not None and self._bytes[caller_key] + size > MAX_BYTES_PER_CALLER:
            raise _too_many(f"at most {MAX_BYTES_PER_CALLER} for each caller", is_total=False)
        if self._bytes.total() + size > MAX_BYTES:
            raise _too_many(f"at most {MAX_BYTES} in total", is_total=True)
        return LargeArguments(self._bytes, caller_key, size)

    async def parse(self, body: bytes, caller: Caller) -> tuple[JSONRPCMessage, InvalidCall | None]:
        """Parse a body in a worker thread. Return the message, and an error if its arguments are too large.

        Raises ``InvalidMessage`` if the body has no valid message, and ``TooMany`` if it waits longer than ``max_wait_seconds``.
        """
        try:
            async with Slot(self._slots[len(body) > _MAX_CALL_BYTES], self._limits, caller.identity):
                message = await to_thread.run_sync(parse, body)
        except NotSent:
            raise _too_many("this request waited too long", is_total=True) from None
        if not is_call(message) or len(body) <= _MAX_CALL_BYTES:
            return message, None
        text = f"The arguments are larger than {MAX_ARGUMENTS_BYTES} bytes; nothing was sent. Send less at a time."
        return message, InvalidCall("arguments-too-large", text)


def _too_many(why: str, *, is_total: bool) -> TooMany:
    text = f"Too many bytes of large requests: {why}. Try again in {_RETRY_AFTER_SECONDS} seconds."
    return TooMany("too-many-calls", text, _RETRY_AFTER_SECONDS, is_total=is_total)
