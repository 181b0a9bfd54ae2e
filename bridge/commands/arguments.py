"""The arguments of a tool as they are typed: NAME=TEXT, NAME:=JSON, NAME=@FILE."""

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


def read(words: Iterable[str], arguments: Arguments) -> dict[str, Json]:
    """The values by name; raises ``click.UsageError`` for a word that cannot be read.

    A text stays one where the schema allows a string, and is JSON elsewhere. Whether the values fit
    the schema is for the call to say.
    """
    values: dict[str, Json] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name.removesuffix(":"):
            hint = "write NAME=TEXT, NAME:=JSON or NAME=@FILE"
            if Path(word).is_dir():
                hint = f"to take the tools of that directory, write --tools {word}"
            raise click.UsageError(f"{word!r} is no argument; {hint}")
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
        raise click.UsageError(f"{name} is not JSON: {problem}; write {name}=TEXT for a text") from None


def _content(name: str, text: str) -> str:
    if not text.startswith("@"):
        return text
    try:
        return Path(text[1:]).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        why = problem.strerror if isinstance(problem, OSError) else "it is not UTF-8"
        raise click.UsageError(f"{name}: cannot read {text[1:]}: {why}") from None


def _typed(name: str, text: str, types: frozenset[str]) -> Json:
    if "string" in types:
        return text
    try:
        return codec.decode(text)
    except codec.NotJson:
        example = next((_EXAMPLES[kind] for kind in _EXAMPLES if kind in types), "=null")
        message = f"{name} is no text here; write it as in {name}{example}"
        raise click.UsageError(message) from None
