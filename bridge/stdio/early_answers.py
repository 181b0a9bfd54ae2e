"""The first answers over stdio, given while the SDK is still being imported.

That takes a second, the tools are loaded before it, and some agents start a process for each list. What a
client says first is nearly always the same: ``initialize`` or ``server/discover``, ``ping``, ``tools/list``.
In their plainest shape these are answered here, as the SDK would, by a thread. From the first line that is
anything else, all waits for the SDK, which is then told what it has missed of the connection.
"""

import logging
import os
import select
from collections.abc import Callable
from dataclasses import dataclass
from threading import Thread
from typing import Any, Final, Literal

from bridge.codec import NotJson, decode, encode
from bridge.protocol.capabilities import ALIKE, CAPABILITIES, INSTRUCTIONS, SERVER_INFO, TTL, page
from bridge.protocol.request_id import is_id
from bridge.registry import Snapshot
from bridge.spec import Json

MODERN: Final = "2026-07-28"

_META: Final = "io.modelcontextprotocol/"
_CHUNK: Final = 65536
_ATOM: Final = select.PIPE_BUF
"""Bytes that a pipe takes at once when it says that it takes any."""
_CAPABILITIES: Final[dict[str, frozenset[str]]] = {
    "roots": frozenset({"listChanged"}),
    "sampling": frozenset(),
    "elicitation": frozenset(),
}
_WHO: Final = frozenset({"name", "version", "title"})


@dataclass(frozen=True, slots=True)
class Before:
    """What was said before the SDK was there.

    ``heard`` are lines that it has to hear, whose ``answered`` requests have had their answers. ``unread``
    was read and not looked at, ``unsent`` is the rest of an answer that the client has not taken yet.
    """

    heard: tuple[bytes, ...] = ()
    answered: frozenset[str] = frozenset()
    unread: bytes = b""
    unsent: bytes = b""


def leave() -> None:  # pragma: no cover - nobody is left to count it
    """End the process, whatever it is at; nothing is open but the client's descriptors."""
    for handler in logging.getLogger().handlers:
        handler.flush()
    os._exit(0)


class FirstAnswers:
    """Answers from ``start`` to ``stop``; ``leave`` is called where the client leaves and nothing waits."""

    def __init__(self, snapshot: Snapshot, source: int, sink: int, leave: Callable[[], None] = leave) -> None:
        self._talk = _Talk(snapshot)
        self._source = source
        self._sink = sink
        self._leave = leave
        self._unread = b""
        self._unsent = b""
        self._stopped, self._stop = os.pipe()
        self._thread = Thread(target=self._run, name="first answers", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> Before:
        """Say no more; answers where the connection stands."""
        os.close(self._stop)
        if self._thread.ident:
            self._thread.join()
        os.close(self._stopped)
        talk = self._talk
        return Before(tuple(talk.heard), frozenset(talk.answered), self._unread, self._unsent)

    def _run(self) -> None:
        try:
            while self._is_ready(self._source, select.POLLIN):
                chunk = os.read(self._source, _CHUNK)
                self._unread += chunk
                if not self._answer_lines() or (not chunk and self._unread):
                    return
                if not chunk:
                    self._leave()
                    return
        except (BrokenPipeError, ConnectionResetError):
            self._leave()

    def _answer_lines(self) -> bool:
        """Whether every line so far could be answered."""
        while b"\n" in self._unread:
            line, _, rest = self._unread.partition(b"\n")
            answer = self._talk.answer(line)
            if answer is None:
                return False
            self._unread, self._unsent = rest, answer
            while self._unsent:
                if not self._is_ready(self._sink, select.POLLOUT):
                    return False
                self._unsent = self._unsent[os.write(self._sink, self._unsent[:_ATOM]) :]
        return len(self._unread) < _CHUNK

    def _is_ready(self, descriptor: int, event: int) -> bool:
        """Wait for a descriptor, or until this is to stop."""
        waiting = select.poll()
        waiting.register(self._stopped, select.POLLIN)
        waiting.register(descriptor, event)
        return all(found == descriptor for found, _ in waiting.poll())


class _Talk:
    """What is answered to whom; ``heard`` and ``answered`` are for ``Before``."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.heard: list[bytes] = []
        self.answered: list[str] = []
        self._snapshot = snapshot
        self._state: Literal["new", "greeted", "ready", "modern"] = "new"

    def answer(self, line: bytes) -> bytes | None:
        """The answer to a line, empty where there is none; None if it is not ours to answer."""
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
            case {"jsonrpc": "2.0", "id": id, "method": str(method), **rest} if (
                is_id(id) and b"\\u" not in line and rest.keys() <= {"params"}
            ):
                result = self._result(method, rest.get("params", {}), line, str(id))
                if result is not None:
                    return b'{"jsonrpc":"2.0","id":%s,"result":%s}\n' % (encode(id), encode(result))
        return None

    def _initialized(self, line: bytes) -> bytes | None:
        if self._state != "greeted":
            return None
        self._state = "ready"
        self.heard.append(line)
        return b""

    def _result(self, method: str, params: Json, line: bytes, id: str) -> dict[str, Any] | None:
        match self._state, method, params:
            case "new", "initialize", {
                "protocolVersion": str(version),
                "capabilities": capabilities,
                "clientInfo": who,
                **rest,
            } if not rest and version in ALIKE and _is_plain(capabilities, who):
                self._set_up("greeted", line, id)
                return {
                    "protocolVersion": version,
                    "capabilities": CAPABILITIES,
                    "serverInfo": SERVER_INFO,
                    "instructions": INSTRUCTIONS,
                }
            case "greeted" | "ready", "ping", {**rest} if not rest:
                return {}
            case "ready", "tools/list", {**rest} if not rest:
                listing = page(self._snapshot.tools, 0)
                del listing["resultType"]
                return listing
            case "new" | "modern", "server/discover" | "tools/list", {"_meta": meta, **rest} if (
                not rest and _is_plain_envelope(meta)
            ):
                if self._state == "new":
                    self._set_up("modern", line, id)
                return _modern(self._discovery() if method == "server/discover" else self._listing())
        return None

    def _set_up(self, state: Literal["greeted", "modern"], line: bytes, id: str) -> None:
        self._state = state
        self.heard.append(line)
        self.answered.append(id)

    def _listing(self) -> dict[str, Any]:
        return page(self._snapshot.tools, 0) | {"ttlMs": TTL}

    def _discovery(self) -> dict[str, Any]:
        return {
            "resultType": "complete",
            "supportedVersions": [MODERN],
            "capabilities": CAPABILITIES,
            "instructions": INSTRUCTIONS,
            "ttlMs": 0,
        }


def _modern(result: dict[str, Any]) -> dict[str, Any]:
    return result | {"cacheScope": "private", "_meta": {f"{_META}serverInfo": SERVER_INFO}}


def _is_plain_envelope(meta: Json) -> bool:
    match meta:
        case {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": capabilities,
            **rest,
        } if rest.keys() <= {f"{_META}clientInfo"}:
            who = rest.get(f"{_META}clientInfo", {"name": "", "version": ""})
            return _is_plain(capabilities, who)
    return False


def _is_plain(capabilities: Json, who: Json) -> bool:
    """Whether a client says what it can and who it is in words that are right without a doubt."""
    return (
        isinstance(capabilities, dict)
        and capabilities.keys() <= _CAPABILITIES.keys()
        and all(
            isinstance(words, dict)
            and words.keys() <= _CAPABILITIES[name]
            and all(type(word) is bool for word in words.values())
            for name, words in capabilities.items()
        )
        and isinstance(who, dict)
        and {"name", "version"} <= who.keys() <= _WHO
        and all(type(word) is str for word in who.values())
    )
