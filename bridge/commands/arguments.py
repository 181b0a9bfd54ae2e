"""Parses the arguments of a tool on the command line: NAME=TEXT, NAME:=JSON, NAME=@FILE."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import click

from bridge import codec
from bridge.spec import Json
from bridge.tool.schema.arguments import Arguments

_EXAMPLES: Final[Mapping[str, str]] = {
    "array": """:='["a", "b"]'""",
    "object": """:='{"a": 1}'""",
    "boolean": "=true",
    "integer": "=5",
}


def parse(typed: Iterable[str], arguments: Arguments) -> dict[str, Json]:
    """Name → value; raises ``click.UsageError`` for an argument that cannot be parsed.

    TEXT is a string if the schema allows a string there, otherwise JSON. Values are not validated here, but by the call.
    """
    values: dict[str, Json] = {}
    for argument in typed:
        name, equals, text = argument.partition("=")  # at the first one: q=a=b is q and a=b
        if not equals or not name.removesuffix(":"):
            hint = "write NAME=TEXT, NAME:=JSON or NAME=@FILE"
            if Path(argument).is_dir():  # serve, check and list take directories there
                hint = f"to take the tools of that directory, write --tools {argument}"
            raise click.UsageError(f"{argument!r} is not an argument; {hint}")
        is_json = name.endswith(":")
        name = name.removesuffix(":")
        if name in values:
            raise click.UsageError(f"{name} is given twice; write a list as {name}:='[…]'")
        types = arguments.types(name)
        values[name] = _json(name, text) if is_json else _typed(name, _content(name, text), types)
    return values


def _json(name: str, text: str) -> Json:
    try:
        return codec.decode(text)
    except codec.NotJson as problem:
        raise click.UsageError(f"{name} is not JSON: {problem}; write {name}=TEXT for a string") from None


def _content(name: str, text: str) -> str:
    if not text.startswith("@"):
        return text
    try:
        return Path(text[1:]).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else "it is not UTF-8"
        raise click.UsageError(f"{name}: cannot read {text[1:]}: {reason}") from None


def _typed(name: str, text: str, types: frozenset[str]) -> Json:
    if "string" in types:
        return text
    try:
        return codec.decode(text)
    except codec.NotJson:
        # In the order of _EXAMPLES. A number may be an integer, so only null is left without an entry.
        example = next((_EXAMPLES[kind] for kind in _EXAMPLES if kind in types), "=null")
        message = f"{name} is not a string; write for example {name}{example}"
        raise click.UsageError(message) from None
