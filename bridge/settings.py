"""How this process runs: what was typed, and what was left out."""

from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Literal

OnInvalid = Literal["keep", "withdraw"]


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens on ``host``."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen; ``port`` 0 is any free one."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Address":
        """``8000``, ``0.0.0.0:8000`` or ``[::1]:8000``; loopback where no host is given. Raises ``ValueError``."""
        if "://" in text:
            raise ValueError(f"{text!r} is a URL; leave {text.partition('://')[0]}:// out")
        if any(character.isspace() for character in text):
            raise ValueError(
                f"{text!r} is no address; write a port such as 8000, or host:port, without blanks"
            )
        host, _, port = text.rpartition(":")
        if not (port.isascii() and port.isdigit() and int(port) < 65536):
            raise ValueError(f"{text!r} is no address; write a port such as 8000, or host:port")
        if host.startswith("[") and host.endswith("]"):
            return cls(host[1:-1], int(port))
        if ":" in host:
            raise ValueError(f"{text!r} is no address; write an IPv6 host in brackets: [{host}]:{port}")
        return cls(host or "127.0.0.1", int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Settings:
    """How every command finds and reads tool files, and how ``serve`` serves them.

    With ``upstreams``, upstream files count there alone. ``poll`` is in seconds. ``express``: plain calls
    may pass the SDK by. ``read_only``: only tools of safe methods are served. ``http`` is where to serve HTTP, instead of stdio; ``guarded``: callers must show who
    they are, as the settings file at ``config`` says.
    """

    directories: tuple[Path, ...]
    upstreams: Path | None = None
    config: Path | None = None
    strict: bool = False
    on_invalid: OnInvalid = "keep"
    poll: float = 2.0
    express: bool = True
    read_only: bool = False
    http: Address | None = None
    insecure: bool = False
    workers: int = 1
    guarded: bool = False

    def words(self) -> list[str]:
        """How a worker is told them, so that nothing is left to its environment, and of its settings file the keys alone."""
        guarded = "--guarded" if self.guarded else "--no-guarded"
        config = [] if self.config is None else [f"--config={self.config}"]
        upstreams = [] if self.upstreams is None else [f"--upstreams={self.upstreams}"]
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
            express,
            insecure,
        ]
        return [*config, *upstreams, *http, *chosen, "--", *map(str, self.directories)]
