"""Arguments and results, checked against the schemas of the tool file."""

import copy
import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import islice
from typing import Final, Self
from urllib.parse import quote

import jsonschema_rs

from bridge import codec
from bridge.diagnostics import Finding, Findings, InvalidSpec, Route
from bridge.errors import InvalidCall, UnusableReply
from bridge.spec import Json
from bridge.tool import lint
from bridge.tool.departures import SENTENCES, Departure, excerpt, find, place, pointer, unknown
from bridge.tool.schema import TYPES, Schema, children, is_integer, without_children

MAX_BYTES: Final = 1024**2
MAX_DEPTH: Final = 64
_MAX_BITS: Final = 13_000  # Python writes no integer of more than 4300 digits
_COMBINING: Final = frozenset(
    {"allOf", "anyOf", "oneOf", "$ref", "$dynamicRef", "if", "dependentSchemas", "dependencies"}
)
_LOOKING: Final = re.compile(r"\(\?<?[=!]|\\[1-9]|\\k<")
_HINTS: Final[Mapping[Route, str]] = {
    ("required",): "; list the needed names, beside properties",
    ("properties",): "; write name: schema for each",
    ("exclusiveMinimum",): "; write the bound itself",
    ("exclusiveMaximum",): "; write the bound itself",
}
"""What is usually meant by a wrong value of a keyword."""
_ROOT: Final = "urn:restbridge:schema"
_NOWHERE: Final[dict[str, Json]] = {}


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Arguments:
    """What a tool takes. ``schema`` is as clients see it: closed, and literally ``type: object``.

    ``properties`` holds the schema of every argument that is named anywhere in place at the root, in
    ``anyOf`` where there are several; ``optional`` are those not required, by name; ``open`` is whether other names may be given too.
    """

    schema: dict[str, Json]
    properties: Mapping[str, Mapping[str, Json]]
    required: frozenset[str]
    optional: tuple[str, ...]
    defaults: Mapping[str, Json]
    open: bool
    _types: Mapping[str, frozenset[str]]
    _filling: "_Filling | None"
    _validator: "_Validator"

    @classmethod
    def compile(cls, schema: dict[str, Json]) -> tuple[Self, tuple[Finding, ...]]:
        """The arguments and the warnings; raises ``InvalidSpec`` with routes into the schema."""
        findings = Findings()
        source = Schema(_closed(schema))
        _check_schema(source, findings)
        lint.check_arguments(source, findings)
        _check_defaults(source, findings)
        findings.raise_errors()
        filling = _Filling.compile(source, ())
        names, required = source.names(), source.required()
        arguments = cls(
            schema=source.root,
            properties={name: _together([source.positions[r] for r in names[name]]) for name in names},
            required=required,
            optional=tuple(sorted(names.keys() - required)),
            defaults=filling.defaults if filling else {},
            open=_is_open(source),
            _types={name: frozenset().union(*map(source.types, names[name])) for name in names},
            _filling=filling,
            _validator=_Validator(source.root),
        )
        return arguments, tuple(findings)

    def types(self, name: str) -> frozenset[str]:
        """The JSON types that an argument may have; ``number`` comes with ``integer``, unknown is all."""
        return self._types.get(name, TYPES)

    def check(self, arguments: Mapping[str, Json]) -> dict[str, Json]:
        """The arguments as they are sent: defaults filled in, ``5.0`` as ``5`` where an integer is asked.

        Raises ``InvalidCall`` with all that is wrong, up to five departures (MCP SEP-1303). What is
        returned shares its values with ``arguments`` and the defaults: nobody may change it.
        """
        values = dict(arguments)
        _require_json(values)
        if self._filling:
            values = self._filling.apply(values)
        # Until draft-07 no keyword closes a schema of combinators, so names are looked at here too.
        if self._validator.is_valid(values) and (self.open or values.keys() <= self.properties.keys()):
            return values
        raise InvalidCall("invalid-arguments", self._explained(values))

    def _explained(self, values: dict[str, Json]) -> str:
        schema = Schema(self.schema)
        found = find(schema, _Library(schema), values)
        if not found:
            names = sorted(values.keys() - self.properties.keys())
            found = [Departure((name,), unknown(name, self.properties)) for name in names[:5]]
        lines = [f"- {place(departure.path) or 'the arguments'}: {departure.text}" for departure in found]
        return "\n".join(["The arguments do not fit this tool; nothing was sent. Correct them:", *lines])


@dataclass(frozen=True, slots=True)
class OutputSchema:
    """What a tool promises to answer. ``schema`` is as clients see it, an object also where ``wrapped``."""

    schema: dict[str, Json]
    wrapped: bool
    _source: dict[str, Json]
    _validator: "_Validator"

    @classmethod
    def compile(cls, schema: dict[str, Json]) -> tuple[Self, tuple[Finding, ...]]:
        """The schema and the warnings; raises ``InvalidSpec`` with routes into the schema."""
        findings = Findings()
        _check_schema(Schema(schema), findings)
        wrapped = schema.get("type") != "object"
        sent = _wrapped(schema) if wrapped else schema
        output = cls(schema=sent, wrapped=wrapped, _source=schema, _validator=_Validator(schema))
        return output, tuple(findings)

    def structured(self, value: Json) -> dict[str, Json]:
        """``structuredContent`` for a projected value; raises ``UnusableReply`` where that departs."""
        if self._validator.is_valid(value):
            return {"result": value} if self.wrapped else value
        schema = Schema(self._source)
        found = find(schema, _Library(schema), value, most=3)
        places = "; ".join(f"at {pointer(d.path) or 'its root'} {d.text}" for d in found)
        message = (
            f"The API's reply is not what this tool promises: {places}. Do not rely on it; tell the user."
        )
        raise UnusableReply("result-drift", message)


@dataclass(frozen=True, slots=True)
class _Filling:
    """What is changed in an object before it is checked, through ``properties`` alone."""

    defaults: Mapping[str, Json]
    integers: frozenset[str]
    inner: Mapping[str, "_Filling"]

    @classmethod
    def compile(cls, schema: Schema, route: Route) -> "_Filling | None":
        """None where there is nothing to change."""
        here = schema.positions[route]
        names = here.get("properties") if isinstance(here, dict) else None
        if not names:
            return None
        inner = {name: cls.compile(schema, (*route, "properties", name)) for name in names}
        filling = cls(
            defaults={n: s["default"] for n, s in names.items() if isinstance(s, dict) and "default" in s},
            integers=frozenset(n for n in names if is_integer(schema.types((*route, "properties", n)))),
            inner={name: filling for name, filling in inner.items() if filling},
        )
        return filling if filling.defaults or filling.integers or filling.inner else None

    def apply(self, value: Mapping[str, Json]) -> dict[str, Json]:
        filled = dict(value)
        for name, default in self.defaults.items():
            filled.setdefault(name, default)
        for name in self.integers:
            number = filled.get(name)
            if isinstance(number, float) and number.is_integer():
                filled[name] = int(number)
        for name, filling in self.inner.items():
            if isinstance(filled.get(name), dict):
                filled[name] = filling.apply(filled[name])
        return filled


class _Library:
    """The library's verdicts on one schema: linear patterns, checked formats, nothing fetched."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._dialect = {"$schema": lint.dialect(schema.root)}
        self._at: dict[Route, jsonschema_rs.Validator] = {}

    @cached_property
    def _registry(self) -> jsonschema_rs.Registry | None:
        """None where no subschema means another."""
        if not self._schema.has_references:
            return None
        return jsonschema_rs.Registry([(_ROOT, self._schema.root)], retriever=_NOWHERE.__getitem__)

    def fits(self, route: Route, value: Json) -> bool:
        if route not in self._at:
            here = _together([self._schema.positions[route]])
            if self._registry:
                here = {"$ref": f"{_ROOT}#{quote(pointer(route))}"}
            self._at[route] = _validator({**here, **self._dialect}, self._registry)
        return self._at[route].is_valid(value)

    def keeps(self, rule: dict[str, Json], value: Json) -> bool:
        return _validator({**self._dialect, **rule}).is_valid(value)


def _validator(
    schema: dict[str, Json], registry: jsonschema_rs.Registry | None = None
) -> jsonschema_rs.Validator:
    return jsonschema_rs.validator_for(
        schema,
        registry=registry,
        offline=True,
        validate_formats=True,
        pattern_options=jsonschema_rs.RegexOptions(),
    )


class _Validator:
    """Of a schema that was checked; made when it is first asked, as most of thousands of tools are never called."""

    __slots__ = ("_made", "_schema")

    def __init__(self, schema: dict[str, Json]) -> None:
        self._schema = schema
        self._made: jsonschema_rs.Validator | None = None

    def is_valid(self, value: Json) -> bool:
        if self._made is None:
            self._made = _validator(self._schema)
        return self._made.is_valid(value)


def _check_schema(schema: Schema, findings: Findings) -> None:
    """Raises all that is wrong with the schema as such."""
    lint.check(schema, findings)
    findings.raise_errors()
    try:
        _validator(schema.root)
    except ValueError as problem:
        with suppress(UnicodeError):
            _check_positions(schema, findings)
        if not findings.errors:
            findings.error("invalid-schema", "the schema cannot be read; look for text that is not Unicode")
        raise InvalidSpec(*findings) from problem


@cache
def _meta(dialect: str | None) -> jsonschema_rs.Validator:
    """Validates schemas, patterns apart; the library brings the drafts along."""
    return jsonschema_rs.validator_for({"$schema": dialect, "$ref": dialect}, offline=True)


def _check_positions(schema: Schema, findings: Findings) -> None:
    """Each subschema without those inside it: for them the meta-schema repeats itself eightfold a level."""
    meta = _meta(lint.dialect(schema.root))
    for route, position in schema.positions.items():
        if not isinstance(position, dict):
            continue
        _check_patterns(route, position, findings)
        problems: dict[Route, str] = {}
        for error in meta.iter_errors(without_children(position)):
            path = _narrowed(position, tuple(error.instance_path))
            problems.setdefault(path, _problem(error.kind, _at(position, path), path))
        for path, problem in problems.items():
            findings.error("invalid-schema", f"{place(path)}: {problem}", *route, *path)


def _narrowed(position: dict[str, Json], path: Route) -> Route:
    """The path, on to the one wrong item where ``type`` is a list."""
    types = position.get("type")
    if path != ("type",) or not isinstance(types, list):
        return path
    wrong = (index for index, word in enumerate(types) if not isinstance(word, str) or word not in TYPES)
    return (*path, *islice(wrong, 1))


def _problem(kind: jsonschema_rs.ValidationErrorKind, value: Json, path: Route) -> str:
    if value is None and path == ("$ref",):
        return "found nothing, as YAML takes # for the beginning of a comment; put the reference in quotes"
    if path[:1] == ("type",):
        return SENTENCES["enum"](sorted(TYPES), value)
    if kind.name == "type" and set(kind.value) == {"boolean", "object"}:
        several = ", or prefixItems for several" if path == ("items",) and isinstance(value, list) else ""
        return f"{excerpt(value)} is no schema; write one, such as {{type: string}}{several}"
    if kind.name in SENTENCES:
        return SENTENCES[kind.name](kind.value, value) + _HINTS.get(path[:1], "")
    return f"{excerpt(value)} is not what JSON Schema allows there"


def _at(value: Json, path: Route) -> Json:
    for step in path:
        value = value[step]
    return value


def _check_patterns(route: Route, position: dict[str, Json], findings: Findings) -> None:
    patterns: dict[Route, Json] = {("pattern",): position.get("pattern", "")}
    patterns |= {step: step[1] for step, _ in children(position) if step[0] == "patternProperties"}
    for step, pattern in patterns.items():
        if isinstance(pattern, str) and not _is_linear(pattern):
            problem, offset = "is no regular expression, or too large; correct it", 0
            if looking := _LOOKING.search(pattern):
                problem = f"looks around or back with {looking[0]}, which has no bound in time; write it another way"
                offset = looking.start()
            at_key = step[0] == "patternProperties"
            findings.error(
                "bad-pattern", f"the pattern {problem}", *route, *step, offset=offset, at_key=at_key
            )


def _is_linear(pattern: str) -> bool:
    try:
        _validator({"pattern": pattern})
    except ValueError:
        return False
    return True


def _closed(root: dict[str, Json]) -> dict[str, Json]:
    """The schema as it is sent: literally an object, and closed unless the operator says otherwise."""
    sent = dict(root) if "type" in root else {"type": "object", **root}
    if root.keys().isdisjoint({"additionalProperties", "unevaluatedProperties"}):
        sent["unevaluatedProperties" if root.keys() & _COMBINING else "additionalProperties"] = False
    return sent


def _is_open(schema: Schema) -> bool:
    """Whether names that stand in no ``properties`` may be given."""
    around = [schema.positions[route] for route in schema.everywhere_in_place()]
    return any(
        isinstance(position, dict)
        and (
            "patternProperties" in position
            or position.get("additionalProperties", False) is not False
            or position.get("unevaluatedProperties", False) is not False
        )
        for position in around
    )


def _together(schemas: list[Json]) -> Mapping[str, Json]:
    if len(schemas) > 1:
        return {"anyOf": schemas}
    if isinstance(schemas[0], bool):
        return {} if schemas[0] else {"not": {}}
    only: dict[str, Json] = schemas[0]
    return only


def _check_defaults(schema: Schema, findings: Findings) -> None:
    """Those that are filled in: through ``properties`` alone."""
    library = _Library(schema)
    for route, position in schema.positions.items():
        if set(route[::2]) == {"properties"} and isinstance(position, dict) and "default" in position:
            filling = _Filling.compile(schema, route)
            default = position["default"]
            value = filling.apply(default) if filling and isinstance(default, dict) else default
            for departure in find(schema, library, value, most=1, route=route):
                where = f"{place(departure.path)}: " if departure.path else ""
                message = f"the default is filled in and must fit: {where}{departure.text}"
                findings.error("bad-default", message, *route, "default", *departure.path)


def _wrapped(root: dict[str, Json]) -> dict[str, Json]:
    """``{"result": …}`` for a schema whose root is no object; its references go on meaning the same."""
    inner = copy.deepcopy(root)
    for position in Schema(inner).positions.values():
        for keyword in ("$ref", "$dynamicRef"):
            reference = position.get(keyword, "") if isinstance(position, dict) else ""
            if reference == "#" or reference.startswith("#/"):
                position[keyword] = f"#/properties/result{reference[1:]}"
    dialect = {"$schema": inner.pop("$schema")} if "$schema" in inner else {}
    return {**dialect, "type": "object", "properties": {"result": inner}, "required": ["result"]}


def _require_json(arguments: dict[str, Json]) -> None:
    """Refuse what is no JSON, too large or too deep, before anything slower looks at it."""
    try:
        content = codec.encode(arguments)
    except codec.NotJson:
        content = b""
    if not content or content.count(b"[") + content.count(b"{") > MAX_DEPTH or "\ufffd".encode() in content:
        for name, value in arguments.items():
            _look_closely(name, value)
    if len(content) > MAX_BYTES:
        message = f"The arguments are larger than {MAX_BYTES} bytes; nothing was sent. Send less at a time."
        raise InvalidCall("arguments-too-large", message)


def _look_closely(name: str, value: Json) -> None:
    """Find what writing JSON refuses, mends or does not count."""
    level = [name, value]
    for _ in range(MAX_DEPTH):
        texts = (text for node in level for text in (node if isinstance(node, dict) else [node]))
        if any(isinstance(text, str) and codec.clean(text) != text for text in texts):
            raise _no_json(name, "holds a lone surrogate, which is not valid Unicode")
        if any(isinstance(node, float) and not math.isfinite(node) for node in level):
            raise _no_json(name, "holds NaN or an infinity, which is no JSON number")
        if any(isinstance(node, int) and node.bit_length() > _MAX_BITS for node in level):
            raise _no_json(name, "holds an integer of some 4000 digits")
        level = [
            inner
            for node in level
            if isinstance(node, dict | list)
            for inner in (node.values() if isinstance(node, dict) else node)
        ]
    if level:
        message = f"{place((name,))} is nested more than {MAX_DEPTH} deep; nothing was sent. Send it flatter."
        raise InvalidCall("arguments-too-large", message)


def _no_json(name: str, what: str) -> InvalidCall:
    return InvalidCall("invalid-arguments", f"{place((name,))} {what}; nothing was sent. Correct it.")
