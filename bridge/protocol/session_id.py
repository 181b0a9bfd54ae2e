"""``Mcp-Session-Id``: sessions of the handshake era that no process keeps.

The id says itself what a process needs to know of the client:

    rb1.BASE64URL({"v": VERSION, "c": [MODE, ...], "d": DIGEST, "t": SECONDS}).RANDOM

| Part | Meaning |
|---|---|
| ``v`` | protocol version of the handshake |
| ``c`` | modes of elicitation that the client supports |
| ``d`` | digest of the list of tools that the client would have got then |
| ``t`` | time of the handshake, in seconds since 1970 |
| ``RANDOM`` | 128 bits, so that no two clients have the same id |

So every worker and every replica can serve the client, also after a restart. The id is no secret and needs no signature: each
request is authenticated by itself, and a forged id claims only what its client could also say in ``initialize``.
"""

import re
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS

from bridge.codec import NotJson, decode, encode
from bridge.spec import Json

SESSION_HEADER: Final = "mcp-session-id"
_MAX_LENGTH: Final = 200
"""Clients and proxies limit the size of all headers together: Node to 16 KiB, proxies to 4 or 8."""
_ID: Final = re.compile(r"rb1\.([A-Za-z0-9_-]+)\.[A-Za-z0-9_-]{22}")
_DIGEST: Final = re.compile(r"[0-9a-f]{16}")
_MODES: Final = ("form", "url")
_MAX_TIME: Final = 2**40


@dataclass(frozen=True, slots=True)
class Session:
    """A client of the handshake era, as its id describes it. ``opened_at`` is in seconds since 1970."""

    version: str
    modes: tuple[str, ...]
    digest: str
    opened_at: int

    @property
    def capabilities(self) -> dict[str, Json]:
        """The capabilities of the client that matter here, as in ``initialize``."""
        return {"elicitation": {mode: {} for mode in self.modes}} if self.modes else {}


def elicitation_modes(capabilities: Mapping[str, Json]) -> tuple[str, ...]:
    """The modes of elicitation that a client supports. An empty object is ``form`` (MCP 2025-11-25, elicitation)."""
    elicitation = capabilities.get("elicitation")
    if not isinstance(elicitation, dict):
        return ()
    return tuple(mode for mode in _MODES if mode in elicitation or (mode == "form" and not elicitation))


def new_session_id(session: Session) -> str:
    """A new id for a client. Two calls never return the same."""
    claims = {"v": session.version, "c": session.modes, "d": session.digest, "t": session.opened_at}
    encoded = urlsafe_b64encode(encode(claims)).rstrip(b"=").decode()
    return f"rb1.{encoded}.{secrets.token_urlsafe(16)}"


@lru_cache(maxsize=1024)
def read_session_id(text: str) -> Session | None:
    """The session with this id, or None if the id is not one of ours."""
    match = _ID.fullmatch(text) if len(text) <= _MAX_LENGTH else None
    if match is None:
        return None
    encoded = match[1]
    try:
        claims = decode(urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))
    except (NotJson, ValueError):
        return None
    match claims:
        case {"v": str(version), "c": list(modes), "d": str(digest), "t": int(opened_at), **rest} if (
            not rest
            and version in HANDSHAKE_PROTOCOL_VERSIONS
            and modes == [mode for mode in _MODES if mode in modes]
            and _DIGEST.fullmatch(digest)
            and type(opened_at) is int
            and 0 <= opened_at <= _MAX_TIME
        ):
            return Session(version, tuple(modes), digest, opened_at)
    return None
