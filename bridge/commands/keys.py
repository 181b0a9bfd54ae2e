"""The keys of callers while a process serves: read again whenever the settings file or their digests change."""

import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import anyio
from anyio import to_thread

from bridge.secrets import Sources
from bridge.server.access import Access, is_over
from bridge.settingsfile import ApiKey, SettingsFile
from bridge.toolfiles.configuration import Configuration, read_configuration

_log: Final = logging.getLogger("bridge")


class Keys:
    """``access`` lets in whose keys the settings file at ``path`` has, as it is looked at every ``poll`` seconds.

    What is wrong with the file is told, and the keys that counted before count on. Must be made where the
    event loop runs.
    """

    def __init__(self, path: Path, poll: float) -> None:
        self._path = path
        self._poll = poll
        self._asked = anyio.Event()
        self._reading = anyio.Lock()
        self._last = _read(path)
        self._words = self._last.words
        self.access = Access(_keys(self._words))

    async def run(self) -> None:
        """Ends when it is cancelled."""
        _log.info("keys: %d count", _counting(_keys(self._words)))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.access.run)
            while True:
                with anyio.move_on_after(self._poll):
                    await self._asked.wait()
                self._asked = anyio.Event()
                await self.refresh()

    def ask(self) -> None:
        """Have ``run`` look soon."""
        self._asked.set()

    async def refresh(self) -> None:
        """Look now."""
        async with self._reading:
            found = await to_thread.run_sync(_read, self._path)
            if found != self._last:
                self._last = found
                self._take(found)

    def _take(self, found: Configuration) -> None:
        for diagnostic in found.diagnostics:
            _log.log(logging.ERROR if diagnostic.severity == "error" else logging.WARNING, "%s", diagnostic)
        if found.words is None:
            _log.info("%s: the keys that it last had count on", self._path)
            return
        before, self._words = self._words, found.words
        self.access.replace(_keys(self._words))
        if _rest(before) != _rest(self._words):
            _log.warning("%s: what changed there beside keys takes effect at the next start", self._path)
        old, new = ({key.name: key for key in _keys(words)} for words in (before, self._words))
        told = {
            "+": sorted(new.keys() - old.keys()),
            "~": sorted(name for name in new.keys() & old.keys() if new[name] != old[name]),
            "-": sorted(old.keys() - new.keys()),
        }
        names = " ".join(sign + ", ".join(each) for sign, each in told.items() if each)
        _log.info("keys: %d count%s", _counting(new.values()), f" ({names})" if names else "")


def _read(path: Path) -> Configuration:
    """With no memory of secrets: a digest that is taken away counts no more."""
    return read_configuration(path, Sources(os.environ))


def _keys(words: SettingsFile | None) -> tuple[ApiKey, ...]:
    """None where access control was taken out: that takes a restart."""
    return words.access.api_keys if words and words.access else ()


def _counting(keys: Iterable[ApiKey]) -> int:
    return sum(not is_over(key) for key in keys)


def _rest(words: SettingsFile | None) -> SettingsFile | None:
    return words and words.model_copy(update={"access": None})
