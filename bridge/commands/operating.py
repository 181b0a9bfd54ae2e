"""What a bridge that serves over HTTP tells those who run it."""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from bridge import __version__
from bridge.caller import Caller
from bridge.commands import report
from bridge.commands.live import LiveSettings
from bridge.registry import Registry
from bridge.server.announce import Announcer
from bridge.settingsfile import View
from bridge.toolfiles.loaded import Loaded, ToolFile, UpstreamFile
from bridge.toolfiles.reloader import Reloader
from bridge.toolfiles.shelf import Shelf


@dataclass(frozen=True, slots=True)
class Desk:
    """Answers from the rooms of one process."""

    registry: Registry
    shelf: Shelf
    reloader: Reloader
    announcer: Announcer
    live: LiveSettings | None
    views: Mapping[str, View]

    def status(self) -> dict[str, Any]:
        """Every file, its state and what is wrong with it; ``digest`` is the same where the same files are served."""
        loaded = self.shelf.loaded
        return {
            "version": __version__,
            "digest": digest(loaded),
            "tools": len(self.registry.current.tools),
            "views": {
                name: len(self.registry.current.seen_by(Caller(view=view)).tools)
                for name, view in self.views.items()
            },
            "sessions": self.announcer.sessions,
            "watching": self.reloader.mode,
            "files": [
                {"path": file.place.shown, "state": file.state, "digest": _digest(file)}
                for file in loaded.files
            ],
            "problems": [report.as_json(diagnostic) for diagnostic in loaded.diagnostics],
        }

    async def reload(self) -> dict[str, Any]:
        """Names of tools, and the places of what is broken."""
        if self.live:
            await self.live.refresh()
        event = await self.reloader.reload()
        return {
            "digest": digest(self.shelf.loaded),
            "added": event.added,
            "changed": event.changed,
            "removed": event.removed,
            "broken": event.broken,
            "seconds": round(event.seconds, 3),
        }


def digest(loaded: Loaded) -> str:
    """Of the names and the bytes of all files, wherever their directories are."""
    whole = sha256()
    for file in loaded.files:
        whole.update(
            f"{file.place.rank}/{file.place.relative}\0{_digest(file)}\n".encode(errors="surrogateescape")
        )
    return whole.hexdigest()[:16]


def _digest(file: ToolFile | UpstreamFile) -> str | None:
    """None for a file that could not be read."""
    content = file.words.content
    return sha256(content).hexdigest()[:16] if isinstance(content, bytes) else None
