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
    """What every command that reads tool files is given.

    With ``upstreams``, upstream files count there alone. ``poll`` is in seconds. ``express``: plain calls
    may pass the SDK by.
    """

    directories: tuple[Path, ...]
    upstreams: Path | None = None
    strict: bool = False
    on_invalid: OnInvalid = "keep"
    poll: float = 2.0
    express: bool = True

    def words(self) -> list[str]:
        """How ``restbridge serve`` is told them; nothing is left to the environment."""
        upstreams = [] if self.upstreams is None else [f"--upstreams={self.upstreams}"]
        strict = ["--strict"] if self.strict else []
        express = "--express" if self.express else "--no-express"
        chosen = [f"--on-invalid={self.on_invalid}", f"--poll={self.poll!r}", express]
        return [*upstreams, *strict, *chosen, "--", *map(str, self.directories)]
