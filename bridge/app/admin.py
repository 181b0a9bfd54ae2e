"""Status and reload for operators, over HTTP."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from itertools import chain
from operator import is_
from typing import Any, Final, NamedTuple

from bridge import __version__
from bridge.app.settings_watcher import SettingsWatcher
from bridge.app.tls_watcher import TlsWatcher
from bridge.caller import Caller
from bridge.clock import is_expired
from bridge.diagnostics import Diagnostic, as_json, first_errors
from bridge.events import QuotaKind
from bridge.registry import Registry
from bridge.settings import ApiKey
from bridge.toolfiles.check.parsed import Diagnostics
from bridge.toolfiles.directory import ToolDirectory
from bridge.toolfiles.loaded import Loaded, ToolFile, UpstreamFile
from bridge.toolfiles.place import Content, Place
from bridge.toolfiles.reloader import Reloader
from bridge.view import View


class _ServedFile(NamedTuple):
    """The content of a file, its last good content if that is served instead, and the names of its tools."""

    content: Content
    good: Content | None
    names: Collection[str]


class Digest:
    """A digest, in hexadecimal, of all files and of what they serve. It does not depend on where the directories are.

    It covers each file's name and bytes, the bytes of the last good version if that is served, and the names of its tools.
    Only files that have changed since the last call are hashed again.
    """

    def __init__(self) -> None:
        self._known: dict[Place, tuple[_ServedFile, int]] = {}
        self._last: tuple[Loaded | None, str] = (None, "")

    def of(self, loaded: Loaded) -> str:
        if self._last[0] is not loaded:
            known, self._known = self._known, {}  # files that were removed are dropped
            for place in chain(loaded.tools, loaded.upstreams):
                served = _served(place, loaded)
                before = known.get(place)
                # By identity: a load keeps the objects of unchanged files. Comparing bytes costs like a hash.
                is_same = before is not None and all(map(is_, before[0], served))
                self._known[place] = before if before and is_same else (served, _hash(place, served))
            # A sum does not depend on the order of the files, so they need not be sorted.
            total = sum(number for _, number in self._known.values())
            self._last = loaded, f"{total % 2**64:016x}"
        return self._last[1]


@dataclass(frozen=True, slots=True)
class AdminService:
    """Answers operators from the state of this process."""

    registry: Registry
    tool_directory: ToolDirectory
    reloader: Reloader
    settings_watcher: SettingsWatcher | None
    tls_watcher: TlsWatcher | None
    views: Mapping[str, View]
    digest: Digest
    usage: Callable[[], Mapping[QuotaKind, int]]

    @property
    def served_digest(self) -> str:
        """The digest of all files and of what they serve."""
        return self.digest.of(self.tool_directory.loaded)

    def status(self) -> dict[str, Any]:
        """The state of every file, problems, and keys with their expiry (RFC 3339).

        ``digest`` is the same in all replicas that serve the same files.
        """
        loaded = self.tool_directory.loaded
        return {
            "version": __version__,
            "digest": self.served_digest,
            "tools": len(self.registry.current.tools),
            "views": {
                name: len(self.registry.current.seen_by(Caller(view=view)).tools)
                for name, view in self.views.items()
            },
            "keys": [_key(key) for key in self._keys],
            "streams": self.usage()["streams"],
            "watching": self.reloader.mode,
            "files": [
                {"path": file.place.shown, "state": file.state, "digest": _digest(file)}
                for file in loaded.files
            ],
            "settings": self.settings_watcher
            and {
                "path": str(self.settings_watcher.path),
                "state": "kept" if self.settings_watcher.is_broken else "good",
            },
            "certificate": self.tls_watcher
            and {
                "expires": self.tls_watcher.expires,
                "state": "kept" if self.tls_watcher.problem else "good",
            },
            **listed((*self._problems, *loaded.diagnostics)),
        }

    @property
    def _keys(self) -> Sequence[ApiKey]:
        watcher = self.settings_watcher
        return watcher.credentials.keys if watcher and watcher.credentials else ()

    @property
    def _problems(self) -> Diagnostics:
        """Those of the settings file and the certificate."""
        tls = self.tls_watcher and self.tls_watcher.problem
        problems = self.settings_watcher.problems if self.settings_watcher else ()
        return (*problems, tls) if tls else problems

    async def reload(self) -> dict[str, Any]:
        """Reload all files; answers names of tools, and ``path:line:column`` of errors."""
        if self.settings_watcher:
            await self.settings_watcher.refresh()
        if self.tls_watcher:
            await self.tls_watcher.refresh()
        event = await self.reloader.reload()
        return {
            "digest": self.served_digest,
            "added": event.added,
            "changed": event.changed,
            "removed": event.removed,
            "broken": [*first_errors(self._problems), *event.broken],
            "seconds": round(event.seconds, 3),
        }


def _key(key: ApiKey) -> dict[str, Any]:
    expires = key.expires and datetime.fromtimestamp(key.expires, UTC).isoformat()
    return {"name": key.name, "scopes": key.scopes, "expires": expires, "counts": not is_expired(key.expires)}


def _served(place: Place, loaded: Loaded) -> "_ServedFile":
    file = loaded.tools.get(place) or loaded.upstreams[place]
    good = file.good.content if file.good and file.state == "kept" else None
    return _ServedFile(file.parsed.content, good, loaded.names.held.get(place, ()))


def _hash(place: Place, served: "_ServedFile") -> int:
    digest = sha256(f"{place.rank}/{place.relative}\0".encode(errors="surrogateescape"))
    for content in (served.content, served.good):
        if isinstance(content, bytes):
            digest.update(content)
        digest.update(b"\0")
    for name in sorted(served.names):
        digest.update(f"{name}\0".encode())
    return int.from_bytes(digest.digest()[:8])


def _digest(file: ToolFile | UpstreamFile) -> str | None:
    """None for a file that could not be read."""
    content = file.parsed.content
    return sha256(content).hexdigest()[:16] if isinstance(content, bytes) else None


MAX_LISTED_PROBLEMS: Final = 1000
"""In the answer of ``/-/status``."""


def listed(diagnostics: Sequence[Diagnostic]) -> dict[str, Any]:
    """At most ``MAX_LISTED_PROBLEMS`` problems as JSON, and the number of the others."""
    return {
        "problems": [as_json(diagnostic) for diagnostic in diagnostics[:MAX_LISTED_PROBLEMS]],
        "problemsNotListed": max(len(diagnostics) - MAX_LISTED_PROBLEMS, 0),
    }
