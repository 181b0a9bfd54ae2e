"""Checks the keys of a file, and suggests a key for an unknown one.

pydantic does not see unknown keys, keys that are not supported yet, keys that begin with ``x-``, and keys without
a value.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from types import UnionType
from typing import Annotated, Any, Final, TypeAlias, Union, get_args, get_origin

from bridge.diagnostics import Findings, Route, nearest, printable
from bridge.settings import SettingsFile
from bridge.spec import Json, SpecModel, ToolSpec, UpstreamSpec

_Models: TypeAlias = tuple[type[SpecModel], ...]

_SYNONYMS: Final = {
    **dict.fromkeys(("alg", "algorithm", "algs"), "algorithms"),
    **dict.fromkeys(("address", "bind", "host", "port"), "listen"),
    **dict.fromkeys(("args", "arguments", "input", "parameters"), "inputSchema"),
    **dict.fromkeys(("endpoint", "path", "uri"), "url"),
    **dict.fromkeys(("data", "json", "payload"), "body"),
    **dict.fromkeys(("fields", "projection", "transform"), "jmespath"),
    **dict.fromkeys(("attempts", "count", "maxAttempts"), "max"),
    **dict.fromkeys(("except", "exclude"), "without"),
    "express": "fastPath",
    "inAll": "total",
    "key": "value",
    "output": "outputSchema",
    "params": "query",
    "token": "credentials",
}
"""Names in other tools, and the name of the same key here."""
_FILES: Final[Mapping[type[SpecModel], str]] = {
    ToolSpec: "a tool file",
    UpstreamSpec: "the upstream file, NAME.upstream.yaml",
    SettingsFile: "the settings file, which --config names",
}


@dataclass(frozen=True, slots=True)
class _Shape:
    """Which models describe the keys of a value, of the members of a mapping, and of the items of a list."""

    models: _Models
    members: "_Shape | None"
    items: "_Shape | None"


class Keys:
    """Checks the keys of one file, whose root is ``model``.

    ``reported`` are the keys that already have a finding: misspelt, misplaced or without a value.
    """

    def __init__(self, model: type[SpecModel], findings: Findings) -> None:
        self.reported: set[Route] = set()
        self._model = model
        self._findings = findings

    def known(self, value: Mapping[str, Json]) -> dict[str, Json]:
        """The file without the keys that pydantic must not see; adds findings for these."""
        return self._known(self._model, (), value, ())

    def _known(
        self, model: type[SpecModel], others: _Models, value: Mapping[str, Json], route: Route
    ) -> dict[str, Json]:
        """``others`` are the models that could be in the place of ``model``."""
        shapes = _shapes(model)
        kept = {}
        for key, item in value.items():
            if key.startswith("x-"):  # for other programs, as in OpenAPI
                continue
            if key in model.later:
                message = f"{key} is not supported yet; remove it"
                self._findings.error("not-supported", message, *route, key, at_key=True)
            elif key not in shapes:
                # At the top, ``_hint`` also finds the keys one level deeper.
                near = _of_other_model(key, others, value) or (_deeper(key, shapes) if route else "")
                message = f"unknown key {shown(key)}{near or self._hint(key, shapes, route)}"
                self._findings.error("unknown-key", message, *route, key, at_key=True)
            elif item is None:  # "url:" without a value; pydantic would call it a wrong type
                self.reported.add((*route, key))
                self._findings.error("no-value", no_value(key), *route, key)
            else:
                kept[key] = self._below(shapes[key], item, (*route, key))
        return kept

    def _below(self, shape: _Shape | None, value: Json, route: Route) -> Json:
        """The same for every mapping in ``value`` that a model describes."""
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
        """The advice for an unknown key: another place for it, or another key."""
        meant, parent = self._meant(key, shapes, route)
        if (self._model, *route, key) == (UpstreamSpec, "name"):
            return "; an upstream has the name of its file; remove the key"
        if meant is None:  # perhaps a key of another kind of file
            for model, name in _FILES.items():
                if key in _shapes(model):
                    return f"; it belongs in {name}"
            return "; remove it, or let it begin with x-"
        self.reported.add((*parent, meant))  # if it is required, it is not also reported as missing
        if meant == key:
            return f"; write it {f'under {parent[0]}, indented' if parent else 'at the top, not indented'}"
        if parent != route:
            return f"; did you mean {meant}, {f'under {parent[0]}' if parent else 'at the top'}?"
        return f"; did you mean {meant}?"

    def _meant(self, key: str, shapes: Mapping[str, _Shape | None], route: Route) -> tuple[str | None, Route]:
        """The key that is probably meant, and the route of its parent."""
        parents = _parents(self._model)
        if parents.get(key, route) != route:  # spelt right, but one level too high or too low
            return key, parents[key]
        meant = _SYNONYMS.get(key)
        if meant not in parents and meant not in shapes and self._findings.can_suggest:
            meant = nearest(key, shapes) or nearest(key, parents)
        return meant, route if meant is None or meant in shapes else parents[meant]


def no_value(step: str | int) -> str:
    """The message for null instead of a value."""
    if isinstance(step, int):
        return "this item has no value; write one, or remove the item"
    return f"{shown(step)} has no value; write one, or remove the key"


def shown(value: Json) -> str:
    """A value on one short line of printable characters."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    text = printable(json.dumps(value, ensure_ascii=False))
    return text if len(text) <= 60 else f"{text[:60]}…"


@cache
def _parents(root: type[SpecModel]) -> Mapping[str, Route]:
    """The route of each key's parent: the top of the file or, for other keys, one level deeper."""
    shapes = _shapes(root)
    parents: dict[str, Route] = dict.fromkeys(shapes, ())
    for name, shape in shapes.items():
        for key in _keys(shape) if shape else ():
            parents.setdefault(key, (name,))
    return parents


def _keys(shape: _Shape) -> list[str]:
    """The keys of a mapping of this shape."""
    return [key for model in shape.models for key in _shapes(model)]


def _of_other_model(key: str, others: _Models, value: Mapping[str, Json]) -> str:
    """The advice if the unknown key belongs to another model: the values that select that model."""
    for model in others:
        if key in _shapes(model):
            selectors = [
                f"{name}: {fixed}" for name, fixed in _fixed(model).items() if value.get(name) != fixed
            ]
            return f"; it goes with {', '.join(selectors)}"
    return ""


def _deeper(key: str, shapes: Mapping[str, _Shape | None]) -> str:
    parents = [name for name, shape in shapes.items() if shape and key in _keys(shape)]
    return f"; write it under {' or '.join(parents)}" if parents else ""


@cache
def _shapes(model: type[SpecModel]) -> dict[str, _Shape | None]:
    """Every key of a model; None if no model describes its value."""
    return {str(field.alias): _shape(field.annotation) for field in model.model_fields.values()}


def _shape(kind: Any) -> _Shape | None:
    models, members, items = [], None, None
    for alternative in _alternatives(kind):
        arguments = get_args(alternative)
        if arguments and get_origin(alternative) is dict:
            members = _shape(arguments[-1])
        elif arguments:  # tuple[X, ...]; a Literal, too, but its values have no shape
            items = _shape(arguments[0])
        elif isinstance(alternative, type) and issubclass(alternative, SpecModel):
            models.append(alternative)
    return _Shape(tuple(models), members, items) if models or members or items else None


def _alternatives(kind: Any) -> Iterator[Any]:
    """The members of a union and of nested unions, without annotations."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        yield from _alternatives(arguments[0])
    elif origin in {Union, UnionType}:
        for member in arguments:
            yield from _alternatives(member)
    else:
        yield kind


def _model(models: _Models, value: Mapping[str, Json]) -> type[SpecModel] | None:
    """The model that describes a mapping: of several, the one whose fixed values (such as ``type``) it has."""
    if len(models) > 1:
        models = tuple(model for model in models if _has_fixed_values_of(model, value))
    return models[0] if models else None


def _has_fixed_values_of(model: type[SpecModel], value: Mapping[str, Json]) -> bool:
    return all(value.get(key) == fixed for key, fixed in _fixed(model).items())


def _fixed(model: type[SpecModel]) -> dict[str, str]:
    """The keys with a single allowed value, such as ``type``, which select this model."""
    allowed = {str(field.alias): get_args(field.annotation) for field in model.model_fields.values()}
    return {key: values[0] for key, values in allowed.items() if len(values) == 1}
