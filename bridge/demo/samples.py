"""Copies the tool files of the sample shop, for editing."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

UPSTREAM: Final = "shop.upstream.yaml"
"""The file that identifies a folder with the samples."""

# The wheel holds the samples in this package, a checkout holds them at its top (force-include in pyproject.toml).
_PACKAGED: Final = Path(__file__).parent / "tools.d"
_CHECKOUT: Final = Path(__file__).parents[2] / "tools.d"
_SCHEMAS: Final = "$schema=../schemas/"


def copy(target: Path, schemas: Mapping[str, str]) -> None:
    """Write the samples into ``target``, and the JSON Schemas for editors into ``target/.schemas``.

    ``schemas``: kind of file → JSON Schema as text. Raises ``OSError``.
    """
    source = _PACKAGED if _PACKAGED.is_dir() else _CHECKOUT
    hidden = target / ".schemas"  # folders that start with a dot are not scanned for tools
    hidden.mkdir(parents=True, exist_ok=True)
    for kind, text in schemas.items():
        (hidden / f"{kind}.schema.json").write_text(text, "utf-8")
    for sample in sorted(source.glob("*.yaml")):
        text = sample.read_text("utf-8").replace(_SCHEMAS, "$schema=.schemas/")
        (target / sample.name).write_text(text, "utf-8")
