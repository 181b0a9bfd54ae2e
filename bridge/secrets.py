"""``${env:…}`` and ``${file:…}``: resolved late, never shown."""

from dataclasses import dataclass, field

from bridge.spec import UpstreamSpec


@dataclass(frozen=True, slots=True)
class Upstream:
    """An upstream ready to send to: its spec with every ``${…}`` resolved.

    ``spec.base_url`` is canonical: no trailing slash, lower-case host, no default port. ``name`` is
    the key of what outlives reloads (limits, tokens). ``secrets`` are the values to redact.
    """

    name: str
    spec: UpstreamSpec = field(repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)
