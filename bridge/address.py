"""Where a server listens."""

from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens on ``host``."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def is_in_the_open(url: str) -> bool:
    """Whether what goes to an address could be read and changed on the way: http to another machine."""
    parts = urlsplit(url)
    return parts.scheme == "http" and not is_loopback(parts.hostname or "")


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
