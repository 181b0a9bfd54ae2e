"""What of the settings file counts while a process serves: it is read again whenever it, or a digest in it, changes."""

import logging
import os
from pathlib import Path
from typing import Final

import anyio
from anyio import to_thread

from bridge.access.credentials import Access
from bridge.access.jwt import Fetch
from bridge.diagnostics import first_errors
from bridge.events import Ear, ignore
from bridge.secrets import Sources
from bridge.settingsfile import Access as AccessWords
from bridge.settingsfile import SettingsFile
from bridge.telemetry import log_events as report
from bridge.toolfiles.check.parsed import Told
from bridge.toolfiles.settings_file import Configuration, read_configuration

_log: Final = logging.getLogger("bridge")


class LiveSettings:
    """The settings file at ``path``, looked at every ``poll`` seconds.

    If callers are ``guarded``, ``access`` lets in whom it names, whose issuers' keys ``fetch`` reads, and tells ``emit``
    of other keys; all else in it takes a restart. What is wrong with the file is told, and what counted before counts
    on; nothing is told if ``silent``. Must be made where the event loop runs.
    """

    def __init__(
        self, path: Path, poll: float, fetch: Fetch, emit: Ear, *, guarded: bool, silent: bool
    ) -> None:
        self.path = path
        self._poll = poll
        self._silent = silent
        self._asked = anyio.Event()
        self._reading = anyio.Lock()
        self._last = _read(path)
        self._words = self._begun = self._last.words
        self.access = Access(_access(self._words), fetch, ignore if silent else emit) if guarded else None
        self._readable = anyio.Event()
        if self._words:
            self._readable.set()

    @property
    def resource(self) -> str | None:
        """The address of the endpoint, as it stood there at the start."""
        return _access(self._begun).resource

    async def run(self) -> None:
        """Ends when it is cancelled."""
        async with anyio.create_task_group() as tasks:
            if self.access:
                if _access(self._words).api_keys is not None:
                    emit: Ear = ignore if self._silent else report.ear
                    emit(self.access.told(expired=self.access.expired))
                tasks.start_soon(self.access.run)
                tasks.start_soon(self._freshen, self.access)
            while True:
                with anyio.move_on_after(self._poll):
                    await self._asked.wait()
                is_asked, self._asked = self._asked.is_set(), anyio.Event()
                await self.refresh(at_once=is_asked)

    async def _freshen(self, access: Access) -> None:
        while True:
            await access.freshen()
            await anyio.sleep(self._poll)

    async def readable(self) -> None:
        """Wait until the file has once been without errors, or for ``release``: before that, it says nobody's key."""
        if self.access and not self._readable.is_set():
            place = ", ".join(first_errors(self.problems))
            _log.warning("%s: an error, and nobody's key is known: waiting until it is mended", place)
            await self._readable.wait()

    def release(self) -> None:
        """Let nobody wait for the file any more."""
        self._readable.set()

    @property
    def problems(self) -> Told:
        """What is wrong with the file as it is now."""
        return self._last.diagnostics

    @property
    def is_broken(self) -> bool:
        """Whether it has errors, and what it said before holds."""
        return self._last.words is None

    def ask(self) -> None:
        """Have ``run`` look soon."""
        self._asked.set()

    async def refresh(self, *, at_once: bool = True) -> None:
        """Look now; ``at_once`` at the keys of issuers, too."""
        async with self._reading:
            found = await to_thread.run_sync(_read, self.path)
            if found != self._last or (at_once and found.words is None):
                if self.is_broken and found.words:
                    self._tell(logging.INFO, "%s: it has no errors any more", self.path)
                self._last = found
                self._take(found)
        if self.access and at_once:
            await self.access.freshen(at_once=True)

    def _take(self, found: Configuration) -> None:
        for diagnostic in found.diagnostics:
            if not self._silent:
                report.logged(diagnostic)
        if found.words is None:
            on = "; the keys that counted before count on" if self.access else ""
            self._tell(logging.WARNING, "%s: what it last said still holds%s", self.path, on)
            return
        self._readable.set()
        before, self._words = self._words, found.words
        known = [_rest(words, self.access) for words in (before, self._begun)]
        if _rest(self._words, self.access) not in known:
            beside = " beside keys" if self.access else ""
            text = "%s: what changed there%s takes effect at the next start"
            self._tell(logging.WARNING, text, self.path, beside)
        if self.access:
            old, new = _access(before), _access(self._words)
            if new.resource != self.resource:
                # Whom tokens must be for follows from it, and so is another one from the next start on; until then
                # issuers count as they stood there, if they still do.
                named = {issuer.issuer for issuer in new.jwt or ()}
                kept = tuple(issuer for issuer in old.jwt or () if issuer.issuer in named)
                new = new.model_copy(update={"jwt": kept})
                self._words = self._words.model_copy(update={"access": new})
            self.access.replace(new)

    def _tell(self, level: int, text: str, *words: object) -> None:
        if not self._silent:
            _log.log(level, text, *words)


def _read(path: Path) -> Configuration:
    """With no memory of secrets: a digest that is taken away counts no more."""
    return read_configuration(path, Sources(os.environ))


def _access(words: SettingsFile | None) -> AccessWords:
    """Nobody's where access control was taken out: that takes a restart."""
    return (words and words.access) or AccessWords()


def _rest(words: SettingsFile | None, access: Access | None) -> SettingsFile | None:
    """What takes a restart."""
    if words is None or access is None:
        return words
    return words.model_copy(update={"access": AccessWords(resource=_access(words).resource)})
