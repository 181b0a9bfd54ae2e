"""``restbridge explain-code``: explains a diagnostic code or an error code, with an example."""

from difflib import get_close_matches
from pathlib import Path
from typing import Final

import click

from bridge import diagnostics, errors

# The wheel has a copy of the page next to this module; a checkout has only the page.
_PACKAGED: Final = Path(__file__).parent / "diagnostics.md"
_CHECKOUT: Final = Path(__file__).parents[2] / "docs" / "reference" / "diagnostics.md"


def run(code: str) -> int:
    """Print the entry of a code; raises ``click.ClickException`` for a code that does not exist."""
    if new := diagnostics.RENAMED.get(code):
        print(f"{code} is now called {new}.\n")
        code = new
    error_code = _error_code(code)
    if code in diagnostics.CODES:
        print(_entry(code))
    if error_code:
        print(f"{code} (error code of a call)\n\n{errors.CODES[error_code]}")
    if code not in diagnostics.CODES and not error_code:
        raise click.ClickException(_unknown(code))
    return 0


def _error_code(code: str) -> str | None:
    """The key of ``errors.CODES`` for a code. All HTTP statuses have one key."""
    name = "http-STATUS" if code.removeprefix("http-").isdigit() else code
    return name if name in errors.CODES else None


def _entry(code: str) -> str:
    page = (_PACKAGED if _PACKAGED.is_file() else _CHECKOUT).read_text("utf-8")
    entry = page.partition(f"\n## {code}\n")[2].partition("\n## ")[0].strip()
    # Without the fences of Markdown, which are of no use in a terminal.
    lines = [line for line in entry.splitlines() if line not in ("```", "```yaml", "```text")]
    return f"{code} (diagnostic of check)\n\n" + "\n".join(lines)


def _unknown(code: str) -> str:
    known = [*diagnostics.CODES, *errors.CODES]
    close = get_close_matches(code, known, 3)
    advice = f"did you mean {' or '.join(close)}?" if close else "see docs/reference/diagnostics.md"
    return f"There is no code {code!r}; {advice}"
