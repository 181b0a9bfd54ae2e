"""How this process runs: what was typed, what the settings file says, and what was left out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from bridge.address import Address
from bridge.settingsfile import Limits, LogFormat, SettingsFile, View

OnInvalid = Literal["keep", "withdraw"]

_STRUCTURED: Final = ("views", "limits", "owners")
"""What the settings file alone can say."""


def read_structured(told: str) -> dict[str, Any]:
    """The settings that ``Settings.words`` tells so, by their names."""
    words = SettingsFile.model_validate_json(told)
    return {name: getattr(words, name) for name in _STRUCTURED}


@dataclass(frozen=True, slots=True)
class Settings:
    """How every command finds and reads tool files, and how ``serve`` serves them.

    With ``upstreams``, upstream files count there alone. ``poll`` is in seconds, as is the
    ``grace`` that calls in flight have when it stops. ``express``: plain calls
    may pass the SDK by. ``read_only``: only tools of safe methods are served; with a ``view`` only those in it;
    ``views`` are all that there are, by name; ``owners``: patterns of names → the folder that has them; ``limits`` bound callers. ``audit_required``: a call that
    cannot be recorded in the ``audit`` file is not made. ``http`` is where to serve HTTP, instead
    of stdio, also as ``host_names``; ``guarded``: callers must show who they are, as the settings file at
    ``config`` says; ``stateless``: no sessions are kept.
    """

    directories: tuple[Path, ...]
    upstreams: Path | None = None
    config: Path | None = None
    strict: bool = False
    on_invalid: OnInvalid = "keep"
    poll: float = 2.0
    grace: float = 5.0
    express: bool = True
    read_only: bool = False
    view: str | None = None
    log_format: LogFormat = "text"
    audit: Path | None = None
    audit_required: bool = False
    views: Mapping[str, View] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    owners: Mapping[str, str] = field(default_factory=dict)
    http: Address | None = None
    host_names: tuple[str, ...] = ()
    insecure: bool = False
    stateless: bool = False
    workers: int = 1
    guarded: bool = False

    @property
    def offered(self) -> Mapping[str, View]:
        """The views that have a path of their own: none beside one that is chosen."""
        return {} if self.view else self.views

    def words(self) -> list[str]:
        """How a worker is told them, so that nothing is left to its environment, and of its settings file the keys alone."""
        guarded = "--guarded" if self.guarded else "--no-guarded"
        config = [] if self.config is None else [f"--config={self.config}"]
        upstreams = [] if self.upstreams is None else [f"--upstreams={self.upstreams}"]
        audit = [] if self.audit is None else [f"--audit={self.audit}"]
        view = [] if self.view is None else [f"--view={self.view}"]
        structured = SettingsFile(**{name: getattr(self, name) for name in _STRUCTURED})
        told = structured.model_dump_json(by_alias=True, include=set(_STRUCTURED))
        http = [] if self.http is None else [f"--http={self.http}"]
        strict = "--strict" if self.strict else "--no-strict"
        express = "--express" if self.express else "--no-express"
        audit_required = "--audit-required" if self.audit_required else "--no-audit-required"
        insecure = "--insecure" if self.insecure else "--no-insecure"
        stateless = "--stateless" if self.stateless else "--no-stateless"
        read_only = "--read-only" if self.read_only else "--no-read-only"
        chosen = [
            guarded,
            read_only,
            strict,
            f"--on-invalid={self.on_invalid}",
            f"--poll={self.poll!r}",
            f"--grace={self.grace!r}",
            f"--log-format={self.log_format}",
            f"--structured={told}",
            express,
            stateless,
            insecure,
            audit_required,
        ]
        names = [f"--host-name={name}" for name in self.host_names]
        return [*config, *upstreams, *view, *audit, *http, *names, *chosen, "--", *map(str, self.directories)]
