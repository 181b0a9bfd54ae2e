"""Logs reloads and the problems that they find."""

import logging
from collections.abc import Callable, Mapping
from typing import Final

from bridge.diagnostics import Diagnostic
from bridge.events import Event, SnapshotReplaced
from bridge.telemetry.log_events import log_diagnostic, log_event
from bridge.toolfiles.loaded import Loaded
from bridge.view import View

_log: Final = logging.getLogger(__name__)

MAX_LOGGED: Final = 100
"""Problems, and files whose last good version is still served, that are logged after one reload."""


class ReloadReporter:
    """Logs each reload, each problem once, and views that have become empty. ``is_silent``: logs nothing.

    ``loaded`` returns the result of the last reload. After one reload at most ``MAX_LOGGED`` problems are logged, and the
    number of the others.
    """

    def __init__(
        self, loaded: Callable[[], Loaded], views: Mapping[str, View], *, is_silent: bool = False
    ) -> None:
        self._loaded = loaded
        self._views = views
        self.is_silent = is_silent
        self._known: frozenset[Diagnostic] = frozenset()
        self._empty: frozenset[str] = frozenset()

    def on_event(self, event: Event) -> None:
        if isinstance(event, SnapshotReplaced) and not self.is_silent:
            log_event(event)
            self._log_problems(self._loaded())

    def _log_problems(self, loaded: Loaded) -> None:
        diagnostics = loaded.diagnostics
        new = [diagnostic for diagnostic in diagnostics if diagnostic not in self._known]
        for diagnostic in new[:MAX_LOGGED]:
            log_diagnostic(diagnostic)
        if left_out := new[MAX_LOGGED:]:
            _log.warning("%d more problems are not logged; run restbridge check to see them", len(left_out))
        # As for problems: a file whose problems were all logged before has had this line, too.
        kept = [file.place for file in loaded.kept if not self._known.issuperset(file.diagnostics)]
        for place in kept[:MAX_LOGGED]:
            _log.info("%s: its last good version is still served", place.shown)
        if more_kept := kept[MAX_LOGGED:]:
            _log.info("%d more files: their last good versions are still served", len(more_kept))
        # Only those of this reload: a problem that was fixed and comes back is logged again.
        self._known = frozenset(diagnostics)
        tools = loaded.snapshot.tools
        empty = [
            name
            for name, view in self._views.items()
            if not any(view.shows(tool.name, tool.spec.tags) for tool in tools)
        ]
        for name in empty:
            if name not in self._empty:
                _log.warning("view %s: it has no tools", name)
        self._empty = frozenset(empty)
