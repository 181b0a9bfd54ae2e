"""``restbridge key new``: creates an API key, and its entry for the settings file."""

import json
import secrets
from hashlib import sha256
from typing import Any, Final, Literal

_PREFIX: Final = "rb_"
"""Lets secret scanners of repositories and logs recognise a key."""


def run(name: str, scopes: tuple[str, ...], expires: str | None, format_: Literal["text", "json"]) -> int:
    """Print a new key, which is stored nowhere, and its entry for ``access.apiKeys``."""
    # 256 random bits cannot be guessed from their digest, so a fast hash without a salt is enough.
    key = _PREFIX + secrets.token_urlsafe(32)
    entry: dict[str, Any] = {"name": name, "sha256": sha256(key.encode()).hexdigest()}
    if scopes:
        entry["scopes"] = list(scopes)
    if expires:
        entry["expires"] = expires
    if format_ == "json":
        print(json.dumps({"key": key, "entry": entry}, indent=2))
    else:
        written = ", ".join(f"{field}: {_yaml(value)}" for field, value in entry.items())
        print(f"The key of {name}, which is stored nowhere:\n\n  {key}\n")
        print(f"Add to the settings file, under access:\n\n  apiKeys:\n    - {{{written}}}")
    return 0


def _yaml(value: str | list[str]) -> str:
    # A JSON string is also a double-quoted YAML string.
    return f"[{', '.join(map(_yaml, value))}]" if isinstance(value, list) else json.dumps(value)
