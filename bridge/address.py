"""Addresses to listen on, and checks of hosts."""

from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit


def is_loopback(host: str) -> bool:
    """Whether a server that listens on ``host`` is reachable only from this machine."""
    try:
        return ip_address(host).is_loopback
    except ValueError:  # a name; others than this one are not looked up
        return host.lower() == "localhost"


def is_plaintext_remote(url: str) -> bool:
    """Whether requests to a URL can be read and changed on the network: http to another machine."""
    parts = urlsplit(url)
    return parts.scheme == "http" and not is_loopback(parts.hostname or "")


@dataclass(frozen=True, slots=True)
class Address:
    """An address to listen on; ``port`` 0 means any free port."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Address":
        """``8000``, ``0.0.0.0:8000`` or ``[::1]:8000``; loopback if there is no host. Raises ``ValueError``."""
        if "://" in text:
            raise ValueError(f"{text!r} is a URL; leave {text.partition('://')[0]}:// out")
        if any(character.isspace() for character in text):
            raise ValueError(
                f"{text!r} is no address; write a port such as 8000, or host:port, without blanks"
            )
        host, _, port = text.rpartition(":")
        if not (port.isascii() and port.isdigit() and len(port) < 10 and int(port) < 65536):
            raise ValueError(f"{text!r} is no address; write a port such as 8000, or host:port")
        if host.startswith("[") and host.endswith("]"):
            return cls(host[1:-1], int(port))
        if ":" in host:  # in ::1:8000 the last part may belong to the address
            raise ValueError(f"{text!r} is no address; write an IPv6 host in brackets: [{host}]:{port}")
        return cls(host or "127.0.0.1", int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
