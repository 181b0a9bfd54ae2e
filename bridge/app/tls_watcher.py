"""Reads the files of ``http.tls`` again while the server runs.

| The files | What new connections get | What is logged |
|---|---|---|
| cannot be used at the start | nothing: the server does not start | the error |
| can no longer be used | the last good certificate | the error, a warning |
| can be used again | the certificate in them | one line |
| hold another certificate | the new one | one line |
| hold a certificate that expires soon, or has expired | this certificate | a warning, once for each |

They are read every ``poll`` seconds. No file events are used: Kubernetes replaces a mounted secret by a link to another folder.
"""

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, Literal, TypeAlias

import anyio
from anyio import to_thread

from bridge.diagnostics import Diagnostic, Mark
from bridge.errors import StartError
from bridge.http.tls import ServerTls, TlsFiles, TlsState, UnusableFile
from bridge.settings import ServerTls as TlsConfig
from bridge.telemetry.log_events import log_diagnostic

_log: Final = logging.getLogger(__name__)

_EXPIRES_SOON_SECONDS: Final = 7 * 86400
_EXPIRES_SOON_SHARE: Final = 0.2
"""Of the lifetime. Certificates of a few days are renewed late in days, and early in their life."""

_Age: TypeAlias = Literal["fresh", "expires soon", "expired"]


def files_of(config: TlsConfig) -> TlsFiles:
    """The files that the settings name."""
    return TlsFiles(config.cert_file, config.key_file, config.client_ca_file)


def load(files: TlsFiles) -> tuple[str, TlsState]:
    """The digest of the files, and what is made of them; raises ``StartError``."""
    try:
        return files.digest(), TlsState.load(files)
    except UnusableFile as error:
        raise StartError(f"http.tls: the file {error.path} {error}") from None


class TlsWatcher:
    """The TLS of the server, made of ``files``. Raises ``StartError`` if they cannot be used.

    Must be created in the event loop. ``is_silent``: nothing is logged. ``now`` is in seconds since 1970.
    """

    def __init__(
        self, files: TlsFiles, poll: float, *, is_silent: bool, now: Callable[[], float] = time.time
    ) -> None:
        self._files = files
        self._poll = poll
        self._is_silent = is_silent
        self._now = now
        self._requested = anyio.Event()
        self._reading = anyio.Lock()
        self._digest, state = load(files)
        self.tls = ServerTls(state)
        self.problem: Diagnostic | None = None
        """Why the last good certificate is used, not the one in the files."""
        self._age: _Age = "fresh"
        self._check_age()

    @property
    def expires(self) -> str:
        """When the certificate expires (RFC 3339)."""
        return datetime.fromtimestamp(self.tls.state.expires, UTC).isoformat()

    async def run(self) -> None:
        """Read the files every ``poll`` seconds, or on request. Runs until it is cancelled."""
        while True:
            with anyio.move_on_after(self._poll):
                await self._requested.wait()
            self._requested = anyio.Event()
            await self.refresh()

    def request_reload(self) -> None:
        """Have ``run`` read the files now."""
        self._requested.set()

    async def refresh(self) -> None:
        """Read the files now."""
        async with self._reading:  # otherwise an older read might be applied last
            try:
                # Before they are loaded: a file that is written meanwhile has another digest at the next poll.
                digest = await to_thread.run_sync(self._files.digest)
                if digest != self._digest or self.problem:
                    self._apply(await to_thread.run_sync(TlsState.load, self._files), digest)
            except UnusableFile as error:
                self._report(error)
        self._check_age()

    def _apply(self, state: TlsState, digest: str) -> None:
        if digest != self._digest:
            self.tls.replace(state)
            self._digest, self._age = digest, "fresh"
            self._log_line(logging.INFO, "certificate %s: replaced; the new one expires at %s", self.expires)
        else:
            self._log_line(logging.INFO, "certificate %s: its files no longer have errors")
        self.problem = None

    def _report(self, error: UnusableFile) -> None:
        message = f"this file of http.tls {error}"
        problem = Diagnostic(str(error.path), Mark(1, 1), "error", message, "unusable-certificate")
        if problem != self.problem and not self._is_silent:
            log_diagnostic(problem)
            _log.warning("certificate %s: the last good one stays in use", self._files.cert)
        self.problem = problem

    def _check_age(self) -> None:
        """Warn of a certificate that expires soon or has expired, once for each."""
        state, before = self.tls.state, self._age
        left = state.expires - self._now()
        soon = min(_EXPIRES_SOON_SECONDS, _EXPIRES_SOON_SHARE * (state.expires - state.starts))
        self._age = "expired" if left <= 0 else "expires soon" if left < soon else "fresh"
        if self._age in ("fresh", before):
            return
        verb, advice = (
            ("expired", "clients refuse it; replace it") if left <= 0 else ("expires", "renew it before")
        )
        self._log_line(logging.WARNING, f"certificate %s: it {verb} at %s; {advice}", self.expires)

    def _log_line(self, level: int, text: str, *values: str) -> None:
        if not self._is_silent:
            _log.log(level, text, self._files.cert, *values)
