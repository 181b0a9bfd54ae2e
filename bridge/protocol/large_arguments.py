"""Large arguments of a tools/call, which bypass the SDK.

``RequestGuard`` parses them in a thread and puts them into the ASGI scope. The handler takes them from there.
"""

from collections import Counter
from typing import Final

from bridge.spec import Json

LARGE_ARGUMENTS: Final = "restbridge.held"
"""Key of the ASGI scope of a large tools/call: its ``LargeArguments``."""


class LargeArguments:
    """Counts the bytes of a large body for its caller, in ``counts[who]``, until the request ends."""

    def __init__(self, counts: Counter[object], who: object, size: int) -> None:
        self.arguments: dict[str, Json] = {}
        """Empty before the body is parsed, and once they are taken."""
        self._counts, self._who, self._size = counts, who, size
        counts[who] += size

    def take(self) -> dict[str, Json]:
        """The arguments, which this object then no longer keeps alive."""
        arguments, self.arguments = self.arguments, {}
        return arguments

    def end(self) -> None:
        self._counts[self._who] -= self._size
        # A Counter keeps keys whose count is 0: here, every caller that ever sent a large body.
        if not self._counts[self._who]:
            del self._counts[self._who]
