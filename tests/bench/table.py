"""Figures on the screen, each as soon as it is there."""

import sys


def title(text: str) -> None:
    print(f"\n{text}", flush=True)  # noqa: T201 - it is what the program is for


def row(what: str, *figures: str) -> None:
    width = 14 if len(figures) > 1 else 22
    cells = "".join(f"  {figure:>{width}}" for figure in figures)
    print(f"  {what:<48}{cells}", file=sys.stdout, flush=True)  # noqa: T201
