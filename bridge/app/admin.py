"""What a bridge that serves over HTTP tells those who run it."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from itertools import chain
from operator import is_
from typing import Any, NamedTuple

from bridge import __version__
from bridge.app.settings_watcher import LiveSettings
from bridge.caller import Caller
from bridge.diagnostics import first_errors
from bridge.protocol.notifications import Announcer
from bridge.registry import Registry
from bridge.settingsfile import ApiKey, View, is_past
from bridge.telemetry import log_events as report
from bridge.toolfiles.check.parsed import Told
from bridge.toolfiles.directory import Shelf
from bridge.toolfiles.loaded import Loaded, ToolFile, UpstreamFile
from bridge.toolfiles.reloader import Reloader
from bridge.toolfiles.watch.scan import Content, Place


class _Served(NamedTuple):
    """What is in a file, what of it is served in its place, and the names that it holds."""

    content: Content
    good: Content | None
    names: Collection[str]


class Digest:
    """A number, in hexadecimal, of all files and of what they serve, wherever their directories are.

    It covers each file's name and bytes, the bytes of the last good version where that is served, and the names of tools
    that it holds. Of thousands of files it looks at each, but reads again only those that changed since the last time.
    """

    def __init__(self) -> None:
        self._known: dict[Place, tuple[_Served, int]] = {}
        self._last: tuple[Loaded | None, str] = (None, "")

    def of(self, loaded: Loaded) -> str:
        if self._last[0] is not loaded:
            known, self._known = self._known, {}
            for place in chain(loaded.tools, loaded.upstreams):
                served = _served(place, loaded)
                before = known.get(place)
                is_same = before is not None and all(map(is_, before[0], served))
                self._known[place] = before if before and is_same else (served, _number(place, served))
            total = sum(number for _, number in self._known.values())
            self._last = loaded, f"{total % 2**64:016x}"
        return self._last[1]


@dataclass(frozen=True, slots=True)
class Desk:
    """Answers from the rooms of one process."""

    registry: Registry
    shelf: Shelf
    reloader: Reloader
    announcer: Announcer
    live: LiveSettings | None
    views: Mapping[str, View]
    digest: Digest

    def status(self) -> dict[str, Any]:
        """Every file, its state and what is wrong with it; ``digest`` is the same where the same files are served.

        Keys by their names, and until when they count (RFC 3339).
        """
        loaded = self.shelf.loaded
        return {
            "version": __version__,
            "digest": self.digest.of(loaded),
            "tools": len(self.registry.current.tools),
            "views": {
                name: len(self.registry.current.seen_by(Caller(view=view)).tools)
                for name, view in self.views.items()
            },
            "keys": [_key(key) for key in self.live.access.keys] if self.live and self.live.access else [],
            "sessions": self.announcer.sessions,
            "watching": self.reloader.mode,
            "files": [
                {"path": file.place.shown, "state": file.state, "digest": _digest(file)}
                for file in loaded.files
            ],
            "settings": self.live
            and {
                "path": str(self.live.path),
                "state": "kept" if self.live.is_broken else "good",
            },
            **report.listed((*self._problems, *loaded.diagnostics)),
        }

    @property
    def _problems(self) -> Told:
        return self.live.problems if self.live else ()

    async def reload(self) -> dict[str, Any]:
        """Names of tools, and the places of what is broken."""
        if self.live:
            await self.live.refresh()
        event = await self.reloader.reload()
        return {
            "digest": self.digest.of(self.shelf.loaded),
            "added": event.added,
            "changed": event.changed,
            "removed": event.removed,
            "broken": [*first_errors(self._problems), *event.broken],
            "seconds": round(event.seconds, 3),
        }


def _key(key: ApiKey) -> dict[str, Any]:
    expires = key.expires and datetime.fromtimestamp(key.expires, UTC).isoformat()
    return {"name": key.name, "scopes": key.scopes, "expires": expires, "counts": not is_past(key.expires)}


def _served(place: Place, loaded: Loaded) -> "_Served":
    file = loaded.tools.get(place) or loaded.upstreams[place]
    good = file.good.content if file.good and file.state == "kept" else None
    return _Served(file.words.content, good, loaded.names.held.get(place, ()))


def _number(place: Place, served: "_Served") -> int:
    whole = sha256(f"{place.rank}/{place.relative}\0".encode(errors="surrogateescape"))
    for content in (served.content, served.good):
        if isinstance(content, bytes):
            whole.update(content)
        whole.update(b"\0")
    for name in sorted(served.names):
        whole.update(f"{name}\0".encode())
    return int.from_bytes(whole.digest()[:8])


def _digest(file: ToolFile | UpstreamFile) -> str | None:
    """None for a file that could not be read."""
    content = file.words.content
    return sha256(content).hexdigest()[:16] if isinstance(content, bytes) else None
