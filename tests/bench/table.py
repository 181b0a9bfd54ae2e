"""Prints tables of figures, row by row."""

import sys


def title(text: str) -> None:
    print(f"\n{text}", flush=True)  # noqa: T201 - the output of the program


def row(label: str, *figures: str) -> None:
    width = 14 if len(figures) > 1 else 22
    cells = "".join(f"  {figure:>{width}}" for figure in figures)
    print(f"  {label:<48}{cells}", file=sys.stdout, flush=True)  # noqa: T201
