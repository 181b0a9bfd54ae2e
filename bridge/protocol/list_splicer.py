"""Splices encoded tools into the SDK's answer to a tools/list over HTTP.

The handler gives the SDK an empty list of tools, which it encodes quickly. The bytes of ``ToolListCache`` take its place.
"""

from typing import Final

from starlette.types import Message, Send

TOOL_LIST_SPLICER: Final = "restbridge.listed"
"""Key of the ASGI scope of a tools/list: its ``ToolListSplicer``."""
_HEAD: Final = b'"tools":['
_TAIL: Final = b"]"


class ToolListSplicer:
    """An ASGI ``send`` that replaces the empty list of tools by ``tools``, encoded without brackets."""

    def __init__(self, send: Send) -> None:
        self.tools = b""
        self._send = send
        self._start: Message | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message  # its Content-Length depends on the body
            return
        body: bytes = message["body"]
        # The SDK sends a result in one message, as compact JSON. In a text such as the id, the quotes of
        # these characters are escaped: \"tools\":[]
        head, found, tail = body.partition(_HEAD + _TAIL)
        parts = (head + _HEAD, self.tools, _TAIL + tail) if found and self.tools else (body,)
        if self._start:
            await self._send(_longer(self._start, sum(map(len, parts)) - len(body)))
            self._start = None
        # In parts: to join a long list would take as long as to send it.
        for part in parts[:-1]:
            await self._send({"type": "http.response.body", "body": part, "more_body": True})
        await self._send({**message, "body": parts[-1]})


def _longer(start: Message, more: int) -> Message:
    """``start`` with its Content-Length increased by ``more``."""
    # An event stream has none.
    headers = [
        (name, b"%d" % (int(value) + more)) if name == b"content-length" else (name, value)
        for name, value in start["headers"]
    ]
    return {**start, "headers": headers}
