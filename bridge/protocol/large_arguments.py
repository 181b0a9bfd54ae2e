"""Large arguments of a tools/call, which bypass the SDK.

``RequestGuard`` parses them in a thread and puts them into the ASGI scope. The handler takes them from there.
"""

from collections import Counter
from typing import Final

from bridge.spec import Json

LARGE_ARGUMENTS: Final = "restbridge.held"
"""Key of the ASGI scope of a large tools/call: its ``LargeArguments``."""


class LargeArguments:
    """Counts the bytes of a large body for its caller, in ``counts[who]``.

    They count until the request ends, or until the call ends that took the arguments.
    """

    def __init__(self, counts: Counter[object], who: object, size: int) -> None:
        self.arguments: dict[str, Json] | None = None
        """None before the body is parsed, once they are taken, and once the request has ended."""
        self._is_taken = False
        self._counts, self._who, self._size = counts, who, size
        counts[who] += size

    def take(self) -> dict[str, Json] | None:
        """The arguments, or None if the request has ended. The call must call ``end_call`` when it is done."""
        self._is_taken = True
        arguments, self.arguments = self.arguments, None
        return arguments

    def end_request(self) -> None:
        """End the request. A call that took the arguments goes on and still counts."""
        if not self._is_taken:
            self.arguments = None
            self.end_call()

    def end_call(self) -> None:
        self._counts[self._who] -= self._size
        # A Counter keeps keys whose count is 0: here, every caller that ever sent a large body.
        if not self._counts[self._who]:
            del self._counts[self._who]
