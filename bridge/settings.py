"""How this process runs: what was typed, what the settings file says, and what was left out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from pydantic import TypeAdapter

from bridge.address import Address
from bridge.settingsfile import LogFormat, View

OnInvalid = Literal["keep", "withdraw"]

_VIEWS: Final = TypeAdapter(dict[str, View])


def read_views(told: str) -> dict[str, View]:
    """As ``Settings.words`` tells them."""
    return _VIEWS.validate_json(told)


@dataclass(frozen=True, slots=True)
class Settings:
    """How every command finds and reads tool files, and how ``serve`` serves them.

    With ``upstreams``, upstream files count there alone. ``poll`` is in seconds. ``express``: plain calls
    may pass the SDK by. ``read_only``: only tools of safe methods are served; with a ``view`` only those in it;
    ``views`` are all that there are, by name. ``http`` is where to serve HTTP, instead of stdio; ``guarded``:
    callers must show who they are, as the settings file at ``config`` says.
    """

    directories: tuple[Path, ...]
    upstreams: Path | None = None
    config: Path | None = None
    strict: bool = False
    on_invalid: OnInvalid = "keep"
    poll: float = 2.0
    express: bool = True
    read_only: bool = False
    view: str | None = None
    log_format: LogFormat = "text"
    views: Mapping[str, View] = field(default_factory=dict)
    http: Address | None = None
    insecure: bool = False
    workers: int = 1
    guarded: bool = False

    def words(self) -> list[str]:
        """How a worker is told them, so that nothing is left to its environment, and of its settings file the keys alone."""
        guarded = "--guarded" if self.guarded else "--no-guarded"
        config = [] if self.config is None else [f"--config={self.config}"]
        upstreams = [] if self.upstreams is None else [f"--upstreams={self.upstreams}"]
        view = [] if self.view is None else [f"--view={self.view}"]
        views = [f"--views={_VIEWS.dump_json(dict(self.views)).decode()}"] if self.views else []
        http = [] if self.http is None else [f"--http={self.http}"]
        strict = "--strict" if self.strict else "--no-strict"
        express = "--express" if self.express else "--no-express"
        insecure = "--insecure" if self.insecure else "--no-insecure"
        read_only = "--read-only" if self.read_only else "--no-read-only"
        chosen = [
            guarded,
            read_only,
            strict,
            f"--on-invalid={self.on_invalid}",
            f"--poll={self.poll!r}",
            f"--log-format={self.log_format}",
            express,
            insecure,
        ]
        return [*config, *upstreams, *view, *views, *http, *chosen, "--", *map(str, self.directories)]
