"""An upstream whose secrets are resolved."""

from dataclasses import dataclass, field
from functools import lru_cache

from bridge.diagnostics import Finding
from bridge.redaction import Redactor
from bridge.spec import UpstreamSpec


@dataclass(frozen=True, slots=True)
class Upstream:
    """An upstream ready to send to: its spec with every ``${…}`` resolved.

    ``spec.base_url`` is canonical: no trailing slash, lower-case host, no default port. ``name`` is the key of the
    state that outlives reloads (slots, tokens). ``secrets`` are the values to redact. ``files`` are the files that were
    read. ``certificates`` is a digest of the content of the ``tls`` files. ``warnings`` are about files that are gone.
    ``role`` is the kind of server, for messages. ``tokens`` is the authorization server, if calls need a token; its
    ``base_url`` is the whole token URL.
    """

    name: str
    spec: UpstreamSpec = field(repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)
    files: tuple[str, ...] = ()
    certificates: str = ""
    warnings: tuple[Finding, ...] = field(default=(), repr=False, compare=False)
    role: str = "API"
    tokens: "Upstream | None" = field(default=None, repr=False)
    origin: str = field(init=False, repr=False)
    authority: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Derive ``origin`` (scheme://host[:port]) and ``authority`` (host:port, for messages)."""
        origin = "/".join(self.spec.base_url.split("/", 3)[:3])
        scheme, _, host = origin.partition("://")
        has_port = ":" in host.rpartition("]")[2]
        # Derived once, and past ``frozen``: with slots there is no cached_property.
        object.__setattr__(self, "origin", origin)
        object.__setattr__(
            self, "authority", host if has_port else f"{host}:{443 if scheme == 'https' else 80}"
        )

    @property
    def server(self) -> str:
        """The server, for messages: ``API server at api.example.com:443``."""
        return f"{self.role} server at {self.authority}"

    def redactor(self, *others: str) -> Redactor:
        """Redacts this upstream's secrets, and others, in its replies."""
        return _redactor(self.secrets + others)


# Building one takes some 20 µs, a tenth of a call. Tokens of callers are part of the key, so the cache has a bound.
@lru_cache(maxsize=256)
def _redactor(secrets: tuple[str, ...]) -> Redactor:
    return Redactor(secrets)
