"""The tool files of the sample shop, ready to be copied and edited."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

UPSTREAM: Final = "shop.upstream.yaml"
"""The file that tells a folder of samples from any other."""

_PACKAGED: Final = Path(__file__).parent / "tools.d"
_CHECKOUT: Final = Path(__file__).parents[2] / "tools.d"
_SCHEMAS: Final = "$schema=../schemas/"


def copy(target: Path, schemas: Mapping[str, str]) -> None:
    """Write the samples into ``target``, and beside them what editors need, in ``.schemas``.

    ``schemas`` are the texts by kind of file. Raises ``OSError``.
    """
    source = _PACKAGED if _PACKAGED.is_dir() else _CHECKOUT
    hidden = target / ".schemas"  # a folder with a dot is not looked at for tools
    hidden.mkdir(parents=True, exist_ok=True)
    for kind, text in schemas.items():
        (hidden / f"{kind}.schema.json").write_text(text, "utf-8")
    for sample in sorted(source.glob("*.yaml")):
        text = sample.read_text("utf-8").replace(_SCHEMAS, "$schema=.schemas/")
        (target / sample.name).write_text(text, "utf-8")
