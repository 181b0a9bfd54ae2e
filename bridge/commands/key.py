"""``restbridge key new``: a key for a caller, and what the settings file keeps of it."""

import json
import secrets
from hashlib import sha256
from typing import Any, Final, Literal

_PREFIX: Final = "rb_"
"""By which scanners of repositories and logs can know one."""


def run(name: str, scopes: tuple[str, ...], expires: str | None, format_: Literal["text", "json"]) -> int:
    """Prints a key that nobody can be shown again, and its entry for ``access.apiKeys``."""
    key = _PREFIX + secrets.token_urlsafe(32)
    entry: dict[str, Any] = {"name": name, "sha256": sha256(key.encode()).hexdigest()}
    if scopes:
        entry["scopes"] = list(scopes)
    if expires:
        entry["expires"] = expires
    if format_ == "json":
        print(json.dumps({"key": key, "entry": entry}, indent=2))
    else:
        written = ", ".join(f"{word}: {_yaml(value)}" for word, value in entry.items())
        print(f"The key of {name}, which is kept nowhere:\n\n  {key}\n")
        print(f"Add to the settings file, under access:\n\n  apiKeys:\n    - {{{written}}}")
    return 0


def _yaml(value: str | list[str]) -> str:
    return f"[{', '.join(map(_yaml, value))}]" if isinstance(value, list) else json.dumps(value)
