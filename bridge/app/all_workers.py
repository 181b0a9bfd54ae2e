"""Status and reload of all workers, through the one that answers the operator."""

import os
import time
from datetime import UTC, datetime
from typing import Any, Final

import anyio

from bridge import __version__
from bridge.app.admin import AdminService
from bridge.app.siblings import Siblings
from bridge.spec import Json

STATUS_SECONDS: Final = 2.0
RELOAD_SECONDS: Final = 30.0
"""For the other workers. A reload waits for files that are being saved, and may compile thousands."""
_ALONE: Final = "1"
"""The name of a process without siblings."""


class AllWorkers:
    """Answers operators for this process and its siblings. A sibling that does not answer in time is named.

    ``restarts`` is how often a process in the place of this one was restarted.
    """

    def __init__(
        self,
        admin: AdminService,
        siblings: Siblings,
        restarts: int = 0,
        *,
        status_seconds: float = STATUS_SECONDS,
        reload_seconds: float = RELOAD_SECONDS,
    ) -> None:
        self._admin = admin
        self._siblings = siblings
        self._restarts = restarts
        self._status_seconds = status_seconds
        self._reload_seconds = reload_seconds
        self._name = siblings.name or _ALONE
        self._started = datetime.fromtimestamp(int(time.time()), UTC).isoformat()
        siblings.answer("status", self._own_status)
        siblings.answer("reload", self._own_reload)

    async def status(self) -> dict[str, Any]:
        """The status of this process, and under ``workers`` the state of each."""
        own = await self._own_status(None)
        others = await self._siblings.ask("status", None, self._status_seconds)
        return {**self._admin.status(), "workers": _listed({self._name: own, **others})}

    async def reload(self) -> dict[str, Any]:
        """What the reload of this process changed, and under ``workers`` how each reloaded.

        It waits until all have done it, or their time is up.
        """
        answers: dict[str, Json] = {}

        async def reload_others() -> None:
            answers.update(await self._siblings.ask("reload", None, self._reload_seconds))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(reload_others)
            own = await self._admin.reload()
        answers[self._name] = _summary(own)
        return {**own, "workers": _listed(answers)}

    async def _own_status(self, _: Json) -> Json:
        admin = self._admin
        return {
            "pid": os.getpid(),
            "version": __version__,
            "started": self._started,
            "restarts": self._restarts,
            "digest": admin.served_digest,
            "generation": admin.registry.generation,
            "tools": len(admin.registry.current.tools),
            **{key: admin.usage()[key] for key in ("calls", "streams")},
            "messagesLost": self._siblings.lost,
            "messagesIgnored": self._siblings.ignored,
        }

    async def _own_reload(self, _: Json) -> Json:
        return _summary(await self._admin.reload())


def _summary(reloaded: dict[str, Any]) -> Json:
    return {key: reloaded[key] for key in ("digest", "broken", "seconds")}


def _listed(answers: dict[str, Json]) -> list[Json]:
    """An entry for each worker, sorted by name: ``answered`` is false if it did not answer in time."""
    return [
        {"name": name, "answered": answer is not None, **(answer or {})}
        for name, answer in sorted(answers.items())
    ]
