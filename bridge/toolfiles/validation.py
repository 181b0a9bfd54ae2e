"""A plain value from a file becomes a spec, or findings in the operator's words.

pydantic judges types and values. Keys are judged here before it sees them: which are known, which
come later, which are the operator's own (``x-…``), and which stand there without a value.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from types import UnionType
from typing import Annotated, Any, Final, TypeVar, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from bridge.diagnostics import Finding, Findings, Route, did_you_mean
from bridge.spec import NAME_PATTERN, Json, ToolSpec, UpstreamSpec, Words

PRIVATE: Final = frozenset({"auth", "headers", "proxy"})
"""Keys of an upstream file below which a value may be a secret, so that nothing quotes one."""

_W = TypeVar("_W", bound=Words)

_NAME: Final = re.compile(NAME_PATTERN.removesuffix("$") + r"\Z")
_NAME_RULE: Final = "expected 1 to 128 of A-Z, a-z, 0-9, _, . and -"
_LATER_VALUES: Final = ("oauth2", "public")
_MISSING: Final = {
    "auth": "add it, as {type: none} where the API takes calls from anybody",
    "description": "add it, for the model chooses a tool by it",
}
_TYPES: Final = {
    "string_type": "a text",
    "float_type": "a number",
    "int_type": "a whole number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}
"""What pydantic expected, in the order in which alternatives are told."""
_SHORT_FORMS: Final = {"Timeout": "a duration such as 30s", "ErrorSpec": "a text"}
"""What may stand for the whole mapping."""
_BOUNDS: Final = {
    "greater_than_equal": "expected at least {ge}",
    "less_than_equal": "expected at most {le}",
    "string_too_short": "expected a text that is not empty",
    "string_too_long": "expected at most {max_length} characters",
    "too_short": "expected at least one item",
}


def validate_tool(stem: str, value: Mapping[str, Json]) -> tuple[ToolSpec, tuple[Finding, ...]]:
    """The spec of a tool file, and warnings; ``stem`` is the file's name without ``.yaml``.

    Raises ``InvalidSpec`` with every finding.
    """
    findings = Findings()
    if "name" not in value:
        _check_file_name(stem, "add the key name, or rename the file", findings)
    spec = _validate(ToolSpec, value, findings)
    name, route = (spec.name, ("name",)) if spec.name else (stem, ())
    if len(name) > 64:
        message = f"a name of {len(name)} characters, where some clients take 64 at most; shorten it"
        findings.warn("long-name", message, *route)
    if "." in name:
        findings.warn("dotted-name", "a name with a dot, which some clients refuse; use _ or -", *route)
    if len(spec.description) > 1024:
        message = f"a description of {len(spec.description)} characters, where some clients cut at 1024"
        findings.warn("long-description", f"{message}; shorten it", "description")
    return spec, tuple(findings)


def validate_upstream(name: str, value: Mapping[str, Json]) -> tuple[UpstreamSpec, tuple[Finding, ...]]:
    """The same for an upstream file; its ``${…}`` stay unresolved."""
    findings = Findings()
    _check_file_name(name, "rename the file", findings)
    return _validate(UpstreamSpec, value, findings, PRIVATE), tuple(findings)


def _check_file_name(name: str, remedy: str, findings: Findings) -> None:
    if not _NAME.match(name):
        findings.error("bad-name", f"the file's name says {_shown(name)}, {_NAME_RULE}; {remedy}")


def _validate(
    model: type[_W], value: Mapping[str, Json], findings: Findings, private: frozenset[str] = frozenset()
) -> _W:
    """The spec; raises ``InvalidSpec`` with what ``findings`` held before and what is found now."""
    words = _known_keys(model, value, (), findings)
    spec = None
    try:
        spec = model.model_validate(words)
    except ValidationError as problem:
        _Translation(words, private, findings).add(problem)
    findings.raise_errors()
    assert spec is not None
    return spec


# --- keys ---


@dataclass(frozen=True, slots=True)
class _Shape:
    """Where in a value keys are the format's words: here, or in what a mapping or a list holds."""

    models: tuple[type[Words], ...]
    below: "_Shape | None"


@cache
def _shapes(model: type[Words]) -> dict[str, _Shape | None]:
    """Every key of a model; None where nothing below it is a word."""
    return {str(field.alias): _shape(field.annotation) for field in model.model_fields.values()}


def _shape(kind: Any) -> _Shape | None:
    models, below = [], None
    for alternative in _alternatives(kind):
        arguments = get_args(alternative)
        if arguments:
            below = _shape(arguments[-1] if get_origin(alternative) is dict else arguments[0])
        elif isinstance(alternative, type) and issubclass(alternative, Words):
            models.append(alternative)
    return _Shape(tuple(models), below) if models or below else None


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


def _known_keys(
    model: type[Words], value: Mapping[str, Json], route: Route, findings: Findings
) -> dict[str, Json]:
    """The mapping without the keys that pydantic need not see; what is wrong with those is found."""
    shapes = _shapes(model)
    kept = {}
    for key, item in value.items():
        if key.startswith("x-"):
            continue
        if key in model.later:
            message = f"{key} is not supported yet; take it out"
            findings.error("not-supported", message, *route, key, at_key=True)
        elif key not in shapes:
            hint = did_you_mean(key, shapes) or "; take it out, or let it begin with x-"
            findings.error("unknown-key", f"unknown key {_shown(key)}{hint}", *route, key, at_key=True)
        elif item is None:
            findings.error("no-value", _no_value(key), *route, key)
        else:
            kept[key] = _known_keys_below(shapes[key], item, (*route, key), findings)
    return kept


def _known_keys_below(shape: _Shape | None, value: Json, route: Route, findings: Findings) -> Json:
    """The same for every mapping in ``value`` whose keys are the format's words."""
    if shape is None:
        return value
    if isinstance(value, dict) and (model := _model(shape.models, value)):
        return _known_keys(model, value, route, findings)
    if shape.below and isinstance(value, dict):
        return {k: _known_keys_below(shape.below, v, (*route, k), findings) for k, v in value.items()}
    if shape.below and isinstance(value, list):
        return [_known_keys_below(shape.below, v, (*route, i), findings) for i, v in enumerate(value)]
    return value


def _model(models: tuple[type[Words], ...], value: Mapping[str, Json]) -> type[Words] | None:
    """Which model a mapping is meant to be: of several, the one whose fixed words (``type``) it says."""
    if len(models) > 1:
        models = tuple(model for model in models if _says_words_of(model, value))
    return models[0] if models else None


def _says_words_of(model: type[Words], value: Mapping[str, Json]) -> bool:
    fixed = {field.alias: get_args(field.annotation) for field in model.model_fields.values()}
    return all(len(words) != 1 or value.get(str(key)) in words for key, words in fixed.items())


# --- values ---


class _Translation:
    """pydantic's errors as findings: none of its texts, and no value below a private key."""

    def __init__(self, words: dict[str, Json], private: frozenset[str], findings: Findings) -> None:
        self._words = words
        self._private = private
        self._findings = findings
        self._empty = {finding.route for finding in findings if finding.code == "no-value"}
        self._types: dict[Route, list[ErrorDetails]] = {}

    def add(self, problem: ValidationError) -> None:
        for error in problem.errors(include_url=False):
            route = self._route(error["loc"])
            if error["type"] in _TYPES:
                self._types.setdefault(route, []).append(error)
            else:
                self._add(error, route)
        for route, errors in self._types.items():
            self._wrong_type(route, errors)

    def _route(self, location: Route) -> Route:
        """The location without steps that the file lacks: tags of unions, kinds of alternatives."""
        route: list[str | int] = []
        value: Json = self._words
        for step in location:
            below = dict(enumerate(value)) if isinstance(value, list) else value
            if isinstance(below, dict) and step in below:
                value = below[step]
                route.append(step)
        return tuple(route)

    def _add(self, error: ErrorDetails, route: Route) -> None:
        found, context = error["input"], error.get("ctx", {})
        match error["type"]:
            case "missing":
                self._missing(str(error["loc"][-1]), route)
            case "union_tag_not_found":
                self._missing(context["discriminator"].strip("'"), route)
            case "union_tag_invalid":
                key = context["discriminator"].strip("'")
                self._wrong_word(found[key], context["expected_tags"], (*route, key))
            case "literal_error":
                self._wrong_word(found, context["expected"], route)
            case "value_error":
                at_key = error["loc"][-1] == "[key]"
                self._error("wrong-value", found, str(context["error"]), route, at_key=at_key)
            case "string_pattern_mismatch" if route[-1] == "src":
                self._error("wrong-value", found, "expected https://… or data:image/…", route)
            case "string_pattern_mismatch":
                self._error("bad-name", found, _NAME_RULE, route)
            case "too_short" if found:
                pass  # its items were refused, and that is told of each
            case kind:
                expected = _BOUNDS.get(kind, "expected another value").format(**context)
                self._error("wrong-value", found, expected, route)

    def _missing(self, key: str, route: Route) -> None:
        if (*route, key) not in self._empty and not self._is_misspelt(key, route):
            message = f"the key {key} is missing; {_MISSING.get(key, 'add it')}"
            self._findings.error("missing-key", message, *route)

    def _is_misspelt(self, key: str, route: Route) -> bool:
        """Whether the key was met in another spelling, and that was told."""
        told = f"did you mean {key}?"
        return any(f.route[:-1] == route and f.message.endswith(told) for f in self._findings)

    def _wrong_word(self, found: Json, expected: str, route: Route) -> None:
        """A word that is not among those that ``expected`` lists as pydantic does: 'a', 'b' or 'c'."""
        words = [word for word in re.findall(r"[^\s',]+", expected) if word != "or"]
        told = f"expected {'one of ' * (len(words) > 1)}{', '.join(words)}"
        if found in _LATER_VALUES:
            self._findings.error("not-supported", f"{found} is not supported yet; {told}", *route)
        else:
            hint = did_you_mean(found, words) if isinstance(found, str) else ""
            self._error("wrong-value", found, told + hint, route)

    def _wrong_type(self, route: Route, errors: list[ErrorDetails]) -> None:
        kinds = {error["type"] for error in errors}
        if "float_type" in kinds:
            kinds.discard("int_type")
        found, context = errors[0]["input"], errors[0].get("ctx", {})
        short = _SHORT_FORMS.get(context.get("class_name", ""))
        names = [*([short] if short else []), *(name for kind, name in _TYPES.items() if kind in kinds)]
        hint = "; put it in quotes" if "a text" in names and isinstance(found, int | float) else ""
        self._error("wrong-type", found, f"expected {' or '.join(names)}{hint}", route)

    def _error(self, code: str, found: Json, expected: str, route: Route, *, at_key: bool = False) -> None:
        if found is None:
            self._findings.error("no-value", _no_value(route[-1]), *route)
            return
        told = expected if route[0] in self._private else f"found {_shown(found)}, {expected}"
        self._findings.error(code, told, *route, at_key=at_key)


def _no_value(step: str | int) -> str:
    if isinstance(step, int):
        return "this item has no value; write one, or take it out"
    return f"{_shown(step)} has no value; write one, or take the key out"


def _shown(value: Json) -> str:
    """A value on one short line."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:60]}…"
