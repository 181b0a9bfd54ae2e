"""Reloads the settings file while the server runs. Only ``access`` (keys and issuers) takes effect without a restart.

| The file | What is in effect | What is logged |
|---|---|---|
| has errors at the start | no key is valid; the server waits until the errors are fixed | a warning |
| gets errors | the last good version | the errors, a warning |
| has no longer errors | the file | one line |
| changes in ``access`` | the new keys and issuers; ``resource`` needs a restart | the changed keys |
| changes elsewhere | the settings at the start | a warning to restart |

It is read every ``poll`` seconds, as also the digests of keys that it refers to may change.
"""

import logging
import os
from pathlib import Path
from typing import Final

import anyio
from anyio import to_thread

from bridge.access.credentials import CredentialStore
from bridge.access.jwt import Fetch
from bridge.diagnostics import first_errors
from bridge.events import Listener, ignore
from bridge.secrets import Sources
from bridge.settings import Access as AccessConfig
from bridge.settings import SettingsFile
from bridge.telemetry.log_events import log_diagnostic, log_event
from bridge.toolfiles.check.parsed import Diagnostics
from bridge.toolfiles.settings_file import ParsedSettings, read_settings_file

_log: Final = logging.getLogger(__name__)


class SettingsWatcher:
    """Reads the settings file at ``path`` every ``poll`` seconds. Must be created in the event loop.

    ``has_access_control``: callers must authenticate; then ``credentials`` holds theirs. ``fetch`` reads the
    keys of issuers, ``emit`` receives ``KeysChanged``. ``is_silent``: nothing is logged.
    """

    def __init__(
        self,
        path: Path,
        poll: float,
        fetch: Fetch,
        emit: Listener,
        *,
        has_access_control: bool,
        is_silent: bool,
    ) -> None:
        self.path = path
        self._poll = poll
        self._is_silent = is_silent
        self._requested = anyio.Event()
        self._reading = anyio.Lock()
        self._last = _read(path)
        self._current = self._at_start = self._last.settings
        self.credentials = (
            # A silent worker reloads the same keys as the others: the change is emitted once, not by each.
            CredentialStore(_access(self._current), fetch, ignore if is_silent else emit)
            if has_access_control
            else None
        )
        self._first_read = anyio.Event()
        if self._current:
            self._first_read.set()

    @property
    def resource(self) -> str | None:
        """The URL of the endpoint (``access.resource``), as it was at the start; None without access control."""
        return _access(self._at_start).resource if self.credentials else None

    async def run(self) -> None:
        """Reload the file and the keys of issuers. Runs until it is cancelled."""
        async with anyio.create_task_group() as tasks:
            if self.credentials:
                # Logged only. For the audit and the metrics nothing has changed.
                if _access(self._current).api_keys is not None:
                    emit: Listener = ignore if self._is_silent else log_event
                    emit(self.credentials.keys_changed(expired=self.credentials.expired))
                tasks.start_soon(self.credentials.run)
                tasks.start_soon(self._refresh_issuers, self.credentials)
            while True:
                with anyio.move_on_after(self._poll):
                    await self._requested.wait()
                # Before the file is read: a request from now on is for the next round.
                is_requested, self._requested = self._requested.is_set(), anyio.Event()
                await self.refresh(at_once=is_requested)

    async def _refresh_issuers(self, credentials: CredentialStore) -> None:
        # A task of its own: an issuer that does not answer must not delay a poll, which may revoke a key.
        while True:
            await credentials.refresh_issuers()
            await anyio.sleep(self._poll)

    async def wait_until_read(self) -> None:
        """Wait for the first version without errors, or for ``release``. Until then no key is known."""
        if self.credentials and not self._first_read.is_set():
            place = ", ".join(first_errors(self.problems))
            _log.warning("%s: it has errors, so no key is known; waiting until they are fixed", place)
            await self._first_read.wait()

    def release(self) -> None:
        """End ``wait_until_read``."""
        self._first_read.set()

    @property
    def problems(self) -> Diagnostics:
        """The problems of the current file."""
        return self._last.diagnostics

    @property
    def is_broken(self) -> bool:
        """Whether the file has errors. Then its last good version is in effect."""
        return self._last.settings is None

    def request_reload(self) -> None:
        """Have ``run`` read the file and the keys of issuers now."""
        self._requested.set()

    async def refresh(self, *, at_once: bool = True) -> None:
        """Read the file now. ``at_once``: read the keys of issuers now, too."""
        # One at a time: otherwise an older read, by run or by an operator, might be applied last.
        async with self._reading:
            found = await to_thread.run_sync(_read, self.path)
            # On request, the errors are logged again even if they are still the same.
            if found != self._last or (at_once and found.settings is None):
                if self.is_broken and found.settings:
                    self._log(logging.INFO, "%s: it no longer has errors", self.path)
                self._last = found
                self._apply(found)
        if self.credentials and at_once:
            await self.credentials.refresh_issuers(at_once=True)

    def _apply(self, found: ParsedSettings) -> None:
        for diagnostic in found.diagnostics:
            if not self._is_silent:
                log_diagnostic(diagnostic)
        if found.settings is None:
            keys = "; the same keys stay valid" if self.credentials else ""
            self._log(logging.WARNING, "%s: its last good version stays in effect%s", self.path, keys)
            return
        self._first_read.set()
        before, self._current = self._current, found.settings
        # No second warning for the same settings, and none when an edit is undone.
        known = [_fixed_part(file, self.credentials) for file in (before, self._at_start)]
        if _fixed_part(self._current, self.credentials) not in known:
            what = " other than keys" if self.credentials else ""
            self._log(logging.WARNING, "%s: settings%s have changed; restart to apply them", self.path, what)
        if self.credentials:
            old, new = _access(before), _access(self._current)
            if new.resource != self.resource:
                # The default audience of tokens is the resource, and that changes only at a restart. Until then
                # issuers keep their old entries, unless they were removed.
                named = {issuer.issuer for issuer in new.jwt or ()}
                kept = tuple(issuer for issuer in old.jwt or () if issuer.issuer in named)
                new = new.model_copy(update={"jwt": kept})
                self._current = self._current.model_copy(update={"access": new})
            self.credentials.replace(new)

    def _log(self, level: int, text: str, *values: object) -> None:
        if not self._is_silent:
            _log.log(level, text, *values)


def _read(path: Path) -> ParsedSettings:
    """Read without a cache of secrets, so that a key is revoked when its digest is removed."""
    return read_settings_file(path, Sources(os.environ))


def _access(file: SettingsFile | None) -> AccessConfig:
    """Without ``access`` no key is valid: to remove access control takes a restart."""
    return (file and file.access) or AccessConfig()


def _fixed_part(file: SettingsFile | None, credentials: CredentialStore | None) -> SettingsFile | None:
    """The settings that take effect only at a restart."""
    if file is None or credentials is None:
        return file
    return file.model_copy(update={"access": AccessConfig(resource=_access(file).resource)})
