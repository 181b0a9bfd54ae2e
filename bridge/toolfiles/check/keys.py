"""Which keys of a file are the format's words, and of one that is not, which was meant.

Kept from pydantic are keys that come later, the operator's own (``x-…``), and those without a value.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from types import UnionType
from typing import Annotated, Any, Final, TypeAlias, Union, get_args, get_origin

from bridge.diagnostics import Findings, Route, nearest
from bridge.settingsfile import SettingsFile
from bridge.spec import Json, ToolSpec, UpstreamSpec, Words

_Models: TypeAlias = tuple[type[Words], ...]

_SYNONYMS: Final = {
    **dict.fromkeys(("alg", "algorithm", "algs"), "algorithms"),
    **dict.fromkeys(("address", "bind", "host", "port"), "listen"),
    **dict.fromkeys(("args", "arguments", "input", "parameters"), "inputSchema"),
    **dict.fromkeys(("endpoint", "path", "uri"), "url"),
    **dict.fromkeys(("data", "json", "payload"), "body"),
    **dict.fromkeys(("fields", "projection", "transform"), "jmespath"),
    **dict.fromkeys(("attempts", "count", "maxAttempts"), "max"),
    **dict.fromkeys(("except", "exclude"), "without"),
    "key": "value",
    "output": "outputSchema",
    "params": "query",
    "token": "credentials",
}
"""What other tools call it."""
_FILES: Final[Mapping[type[Words], str]] = {
    ToolSpec: "a tool file",
    UpstreamSpec: "the upstream file, NAME.upstream.yaml",
    SettingsFile: "the settings file, which --config names",
}


@dataclass(frozen=True, slots=True)
class _Shape:
    """Where in a value keys are the format's words: here, or in what a mapping or a list holds."""

    models: _Models
    members: "_Shape | None"
    items: "_Shape | None"


class Keys:
    """Judges the keys of one file, whose root is ``model``.

    ``told`` are the keys of which it was already said that they are misspelt, misplaced or without a value.
    """

    def __init__(self, model: type[Words], findings: Findings) -> None:
        self.told: set[Route] = set()
        self._model = model
        self._findings = findings

    def known(self, value: Mapping[str, Json]) -> dict[str, Json]:
        """The file without the keys that pydantic need not see; what is wrong with those is found."""
        return self._known(self._model, (), value, ())

    def _known(
        self, model: type[Words], others: _Models, value: Mapping[str, Json], route: Route
    ) -> dict[str, Json]:
        """``others`` might stand in the place of the model."""
        shapes = _shapes(model)
        kept = {}
        for key, item in value.items():
            if key.startswith("x-"):
                continue
            if key in model.later:
                message = f"{key} is not supported yet; take it out"
                self._findings.error("not-supported", message, *route, key, at_key=True)
            elif key not in shapes:
                near = _of_another(key, others, value) or (_deeper(key, shapes) if route else "")
                message = f"unknown key {shown(key)}{near or self._hint(key, shapes, route)}"
                self._findings.error("unknown-key", message, *route, key, at_key=True)
            elif item is None:
                self.told.add((*route, key))
                self._findings.error("no-value", no_value(key), *route, key)
            else:
                kept[key] = self._below(shapes[key], item, (*route, key))
        return kept

    def _below(self, shape: _Shape | None, value: Json, route: Route) -> Json:
        """The same for every mapping in ``value`` whose keys are the format's words."""
        if shape is None:
            return value
        if isinstance(value, dict) and (model := _model(shape.models, value)):
            return self._known(model, shape.models, value, route)
        if shape.members and isinstance(value, dict):
            return {key: self._below(shape.members, inner, (*route, key)) for key, inner in value.items()}
        if shape.items and isinstance(value, list):
            return [self._below(shape.items, inner, (*route, index)) for index, inner in enumerate(value)]
        return value

    def _hint(self, key: str, shapes: Mapping[str, _Shape | None], route: Route) -> str:
        """What is meant by an unknown key: a word that belongs elsewhere, or another word."""
        word, home = self._meant(key, shapes, route)
        if (self._model, *route, key) == (UpstreamSpec, "name"):
            return "; an upstream's name is that of its file; take the key out"
        if word is None:
            for model, name in _FILES.items():
                if key in _shapes(model):
                    return f"; it belongs into {name}"
            return "; take it out, or let it begin with x-"
        self.told.add((*home, word))
        if word == key:
            return f"; write it {f'under {home[0]}, indented' if home else 'at the top, not indented'}"
        if home != route:
            return f"; did you mean {word}, {f'under {home[0]}' if home else 'at the top'}?"
        return f"; did you mean {word}?"

    def _meant(self, key: str, shapes: Mapping[str, _Shape | None], route: Route) -> tuple[str | None, Route]:
        """The word that is probably meant, and where it belongs."""
        homes = _homes(self._model)
        if homes.get(key, route) != route:
            return key, homes[key]
        word = _SYNONYMS.get(key)
        if word not in homes and word not in shapes and self._findings.are_few:
            word = nearest(key, shapes) or nearest(key, homes.keys() - {key})
        return word, route if word is None or word in shapes else homes[word]


def no_value(step: str | int) -> str:
    """The message for null where the format wants a value."""
    if isinstance(step, int):
        return "this item has no value; write one, or take it out"
    return f"{shown(step)} has no value; write one, or take the key out"


def shown(value: Json) -> str:
    """A value on one short line, of characters that can be seen."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    written = json.dumps(value, ensure_ascii=False)
    text = "".join([each if each.isprintable() else json.dumps(each)[1:-1] for each in written])
    return text if len(text) <= 60 else f"{text[:60]}…"


@cache
def _homes(root: type[Words]) -> Mapping[str, Route]:
    """Where each word of a kind of file belongs: at its top, or else one level deeper."""
    shapes = _shapes(root)
    homes: dict[str, Route] = dict.fromkeys(shapes, ())
    for name, shape in shapes.items():
        for word in _words(shape) if shape else ():
            homes.setdefault(word, (name,))
    return homes


def _words(shape: _Shape) -> list[str]:
    """Those that stand right in it."""
    return [word for model in shape.models for word in _shapes(model)]


def _of_another(key: str, others: _Models, value: Mapping[str, Json]) -> str:
    """With which fixed words an unknown key would be one, if it goes with some."""
    for model in others:
        if key in _shapes(model):
            words = [f"{name}: {word}" for name, word in _fixed(model).items() if value.get(name) != word]
            return f"; it goes with {', '.join(words)}"
    return ""


def _deeper(key: str, shapes: Mapping[str, _Shape | None]) -> str:
    homes = [name for name, shape in shapes.items() if shape and key in _words(shape)]
    return f"; write it under {' or '.join(homes)}" if homes else ""


@cache
def _shapes(model: type[Words]) -> dict[str, _Shape | None]:
    """Every key of a model; None where nothing below it is a word."""
    return {str(field.alias): _shape(field.annotation) for field in model.model_fields.values()}


def _shape(kind: Any) -> _Shape | None:
    models, members, items = [], None, None
    for alternative in _alternatives(kind):
        arguments = get_args(alternative)
        if arguments and get_origin(alternative) is dict:
            members = _shape(arguments[-1])
        elif arguments:
            items = _shape(arguments[0])
        elif isinstance(alternative, type) and issubclass(alternative, Words):
            models.append(alternative)
    return _Shape(tuple(models), members, items) if models or members or items else None


def _alternatives(kind: Any) -> Iterator[Any]:
    """The members of a union, and of unions in it, without what annotates them."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        yield from _alternatives(arguments[0])
    elif origin in {Union, UnionType}:
        for member in arguments:
            yield from _alternatives(member)
    else:
        yield kind


def _model(models: _Models, value: Mapping[str, Json]) -> type[Words] | None:
    """Which model a mapping is meant to be: of several, the one whose fixed words (``type``) it says."""
    if len(models) > 1:
        models = tuple(model for model in models if _says_words_of(model, value))
    return models[0] if models else None


def _says_words_of(model: type[Words], value: Mapping[str, Json]) -> bool:
    return all(value.get(key) == word for key, word in _fixed(model).items())


def _fixed(model: type[Words]) -> dict[str, str]:
    """The words that say which of several it is, such as ``type``."""
    words = {str(field.alias): get_args(field.annotation) for field in model.model_fields.values()}
    return {key: word[0] for key, word in words.items() if len(word) == 1}
