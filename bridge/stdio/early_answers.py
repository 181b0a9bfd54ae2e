"""Early answers: answers the first requests over stdio while the SDK is still being imported.

The import takes a second, and some agents start a process for each tools/list. The tools are loaded before. A thread
answers these requests in their simplest shape, as the SDK would:

| State | Accepted | Next state |
|---|---|---|
| new | ``initialize`` | greeted |
| new, modern | ``server/discover``, ``tools/list`` with a valid ``_meta`` | modern |
| greeted, ready | ``ping`` | the same |
| greeted | ``notifications/initialized`` | ready |
| ready | ``tools/list`` | the same |

Any other line ends the early answers. The rest waits for the SDK's server, which gets a ``Handoff``: the lines to
replay, so that the SDK has the same state, and the bytes that are not handled yet.
"""

import logging
import os
import select
from collections.abc import Callable
from dataclasses import dataclass
from threading import Thread
from typing import Any, Final, Literal

from bridge.codec import NotJson, decode
from bridge.protocol.capabilities import (
    CAPABILITIES,
    INSTRUCTIONS,
    META_PREFIX,
    MODERN_VERSION,
    SAME_SHAPE_VERSIONS,
    SERVER_INFO,
    encode_answer,
    encode_result,
    page,
)
from bridge.protocol.request_id import is_id
from bridge.registry import Snapshot
from bridge.spec import Json

_CHUNK: Final = 65536
_WRITE_SIZE: Final = select.PIPE_BUF
"""Bytes that a writable pipe takes without blocking."""
# Only what is certainly valid: the models that would check the rest are being imported.
_CAPABILITIES: Final[dict[str, frozenset[str]]] = {
    "roots": frozenset({"listChanged"}),
    "sampling": frozenset(),
    "elicitation": frozenset(),
}
_CLIENT_INFO: Final = frozenset({"name", "version", "title"})
_DISCOVERY: Final[dict[str, Any]] = {
    "resultType": "complete",
    "supportedVersions": [MODERN_VERSION],
    "capabilities": CAPABILITIES,
    "instructions": INSTRUCTIONS,
    "ttlMs": 0,
    "cacheScope": "private",
}


@dataclass(frozen=True, slots=True)
class Handoff:
    """The state of the connection when the SDK takes over.

    ``replayed`` are the lines that the SDK must process too. Its answers to the ids of ``answered`` are dropped, because the
    client has got these. ``unread`` are bytes received but not handled. ``unsent`` is the rest of the last answer.
    """

    replayed: tuple[bytes, ...] = ()
    answered: frozenset[str] = frozenset()
    unread: bytes = b""
    unsent: bytes = b""


def exit_process() -> None:  # pragma: no cover - coverage is lost at the exit
    """End the process at once, in the middle of the import. Nothing but the client's descriptors is open."""
    for handler in logging.getLogger().handlers:
        handler.flush()
    os._exit(0)


class EarlyAnswers:
    """Answers from ``start`` to ``stop``. ``on_leave`` is called if the client leaves and no request is unanswered."""

    def __init__(
        self, snapshot: Snapshot, source: int, sink: int, on_leave: Callable[[], None] = exit_process
    ) -> None:
        self._conversation = _Conversation(snapshot)
        self._source = source
        self._sink = sink
        self._on_leave = on_leave
        self._unread = b""
        self._unsent = b""
        # The thread polls the reading end. Closing the other end wakes it up.
        self._stop_reader, self._stop_writer = os.pipe()
        # A daemon: if the start fails, the process must not wait for the client's next line.
        self._thread = Thread(target=self._run, name="early answers", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> Handoff:
        """Stop answering. Returns the state of the connection."""
        os.close(self._stop_writer)
        if self._thread.ident:  # to join a thread that was never started is an error
            self._thread.join()
        os.close(self._stop_reader)
        conversation = self._conversation
        return Handoff(
            tuple(conversation.replayed), frozenset(conversation.answered), self._unread, self._unsent
        )

    def _run(self) -> None:
        try:
            while self._is_ready(self._source, select.POLLIN):
                chunk = os.read(self._source, _CHUNK)
                self._unread += chunk
                # At the end of input, a line without a line feed is for the SDK's server.
                if not self._answer_lines() or (not chunk and self._unread):
                    return
                if not chunk:
                    self._on_leave()
                    return
        except (BrokenPipeError, ConnectionResetError):
            self._on_leave()

    def _answer_lines(self) -> bool:
        """Answer the complete lines. Returns False as soon as one is for the SDK, or it is time to stop."""
        while b"\n" in self._unread:
            line, _, rest = self._unread.partition(b"\n")
            answer = self._conversation.answer(line)
            if answer is None:
                return False
            # From here on the line is answered, even if the client has read only a part of the answer.
            self._unread, self._unsent = rest, answer
            while self._unsent:
                if not self._is_ready(self._sink, select.POLLOUT):
                    return False
                self._unsent = self._unsent[os.write(self._sink, self._unsent[:_WRITE_SIZE]) :]
        return len(self._unread) < _CHUNK  # bounds the memory: no early request is that long

    def _is_ready(self, descriptor: int, event: int) -> bool:
        """Wait for an event of a descriptor. Returns False if ``stop`` was called."""
        poll = select.poll()
        poll.register(self._stop_reader, select.POLLIN)
        poll.register(descriptor, event)
        # Errors and hang-ups are found too. The read or write that follows then reports them.
        return all(found == descriptor for found, _ in poll.poll())


class _Conversation:
    """The state of the protocol, and the answers. ``replayed`` and ``answered`` are for ``Handoff``."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.replayed: list[bytes] = []
        self.answered: list[str] = []
        self._snapshot = snapshot
        self._state: Literal["new", "greeted", "ready", "modern"] = "new"

    def answer(self, line: bytes) -> bytes | None:
        """The answer to a line, empty for a notification or blank line. None if the line is for the SDK."""
        if not line.strip():
            return b""
        try:
            frame = decode(line)
        except NotJson:
            return None
        match frame:
            case {"jsonrpc": "2.0", "method": "notifications/initialized", **rest} if rest in (
                {},
                {"params": {}},
            ):
                return self._initialized(line)
            # Escapes are for the SDK: ``decode`` replaces a lone surrogate, which would change the id.
            case {"jsonrpc": "2.0", "id": id, "method": str(method), **rest} if (
                is_id(id) and b"\\u" not in line and rest.keys() <= {"params"}
            ):
                result = self._result(method, rest.get("params", {}), line, str(id))
                if result is not None:
                    version = MODERN_VERSION if self._state == "modern" else ""
                    return encode_answer(id, encode_result(version, result)) + b"\n"
        return None

    def _initialized(self, line: bytes) -> bytes | None:
        if self._state != "greeted":
            return None
        self._state = "ready"
        self.replayed.append(line)
        return b""

    def _result(self, method: str, params: Json, line: bytes, id: str) -> dict[str, Any] | None:
        match self._state, method, params:
            case "new", "initialize", {
                "protocolVersion": str(version),
                "capabilities": capabilities,
                "clientInfo": client_info,
                **rest,
            } if not rest and version in SAME_SHAPE_VERSIONS and _is_simple_client(capabilities, client_info):
                self._open("greeted", line, id)
                return {
                    "protocolVersion": version,
                    "capabilities": CAPABILITIES,
                    "serverInfo": SERVER_INFO,
                    "instructions": INSTRUCTIONS,
                }
            case "greeted" | "ready", "ping", {**rest} if not rest:
                return {}
            case "ready", "tools/list", {**rest} if not rest:
                return page(self._snapshot.tools, 0)
            case "new" | "modern", "server/discover" | "tools/list", {"_meta": meta, **rest} if (
                not rest and _is_simple_meta(meta)
            ):
                if self._state == "new":
                    self._open("modern", line, id)
                return _DISCOVERY if method == "server/discover" else page(self._snapshot.tools, 0)
        return None

    def _open(self, state: Literal["greeted", "modern"], line: bytes, id: str) -> None:
        self._state = state
        self.replayed.append(line)
        self.answered.append(id)


def _is_simple_meta(meta: Json) -> bool:
    match meta:
        case {  # literals, as a pattern takes no expression
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": capabilities,
            **rest,
        } if rest.keys() <= {f"{META_PREFIX}clientInfo"}:
            # The client info is optional, unlike in ``initialize``.
            client_info = rest.get(f"{META_PREFIX}clientInfo", {"name": "", "version": ""})
            return _is_simple_client(capabilities, client_info)
    return False


def _is_simple_client(capabilities: Json, client_info: Json) -> bool:
    """Whether capabilities and client info are certainly valid for the SDK."""
    return (
        isinstance(capabilities, dict)
        and capabilities.keys() <= _CAPABILITIES.keys()
        and all(
            isinstance(options, dict)
            and options.keys() <= _CAPABILITIES[name]
            and all(type(option) is bool for option in options.values())  # pydantic takes "yes" too
            for name, options in capabilities.items()
        )
        and isinstance(client_info, dict)
        and {"name", "version"} <= client_info.keys() <= _CLIENT_INFO
        and all(type(value) is str for value in client_info.values())
    )
