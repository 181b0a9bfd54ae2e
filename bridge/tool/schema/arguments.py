"""Arguments and results, checked against the schemas of the tool file."""

import copy
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from itertools import islice
from typing import Final, Self
from urllib.parse import quote

import jsonschema_rs

from bridge import codec
from bridge.diagnostics import Finding, Findings, InvalidSpec, Route
from bridge.errors import InvalidCall, UnusableReply
from bridge.spec import Json
from bridge.tool.schema import lint
from bridge.tool.schema.costs import LIMIT_NS, MAX_VISITS, SLOW_NUMBER, Costs, TooCostly
from bridge.tool.schema.patterns import compiled_size, nanoseconds_per_byte
from bridge.tool.schema.structure import TYPES, Schema, children, is_integer, without_children
from bridge.tool.schema.violations import SENTENCES, Departure, excerpt, find, place, pointer, unknown

MAX_BYTES: Final = 1024**2
MAX_DEPTH: Final = 64
QUICK_BYTES: Final = 32 * 1024
"""Values past this many bytes are checked in a worker thread."""
_WALKED_BYTES: Final = 4096
"""What is so small can be walked through in the event loop, to see what it costs."""
_NAMED_APART: Final = 32
"""Arguments that are looked at one by one, to say which is too costly."""
MAX_PATTERN: Final = 2 * 1024**2
"""Bytes of a compiled pattern, and of all patterns of a schema: to compile them takes some 10 ns a byte."""
LEAST_TEXT: Final = 256
"""Bytes of text that every pattern must be able to check in time."""
_USUAL_TEXT: Final = 4096
"""Bytes of text below which a pattern's limit is worth a warning."""
_CHARACTER_BYTES: Final = 4
"""What one character takes in UTF-8, at most."""
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
_ADVICE: Final = "begin it with ^, or lower its counts"
_ROOT: Final = "urn:restbridge:schema"
_NOWHERE: Final[dict[str, Json]] = {}


class Unchecked(Exception):
    """The check may take longer than the event loop can wait; nothing is known yet."""


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
        costs = _check_schema(source, findings)
        lint.check_arguments(source, findings)
        _check_defaults(source, costs, findings)
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
            _validator=_Validator(source.root, costs),
        )
        return arguments, tuple(findings)

    def types(self, name: str) -> frozenset[str]:
        """The JSON types that an argument may have; ``number`` comes with ``integer``, unknown is all."""
        return self._types.get(name, TYPES)

    def check(self, arguments: Mapping[str, Json], *, quick: bool = False) -> dict[str, Json]:
        """The arguments as they are sent: defaults filled in, ``5.0`` as ``5`` where an integer is asked.

        Raises ``InvalidCall`` with all that is wrong, up to five departures (MCP SEP-1303). What is
        returned shares its values with ``arguments`` and the defaults, so it must not be changed.
        ``quick``: raises ``Unchecked`` where that takes more than some milliseconds.
        """
        values = self._filling.apply(arguments) if self._filling else dict(arguments)
        content = codec.encode_soon(values) if quick else _written(values)
        if content is None or (quick and not self._validator.is_quick(values, content)):
            raise Unchecked
        _require_json(values, content)
        if not quick:
            self._require_affordable(values, content)
        # Until draft-07 no keyword closes a schema of combinators, so names are looked at here too.
        if self._validator.is_valid(values) and (self.open or values.keys() <= self.properties.keys()):
            return values
        if quick:
            raise Unchecked
        raise InvalidCall("invalid-arguments", self._explained(values))

    def _require_affordable(self, values: dict[str, Json], content: bytes) -> None:
        """Refuse what could hold the interpreter too long, and say which argument it is."""
        try:
            self._validator.require_affordable(values, content)
        except TooCostly as problem:
            for name, value in islice(values.items(), _NAMED_APART):
                try:
                    self._validator.costs.require({name: value})
                except TooCostly as alone:
                    raise _too_large(place((name,)), alone.length) from problem
            message = (
                "The arguments together hold more than can be checked; nothing was sent. Send less at a time."
            )
            raise InvalidCall("arguments-too-large", message) from problem

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
        costs = _check_schema(Schema(schema), findings)
        wrapped = schema.get("type") != "object"
        sent = _wrapped(schema) if wrapped else schema
        output = cls(schema=sent, wrapped=wrapped, _source=schema, _validator=_Validator(schema, costs))
        return output, tuple(findings)

    def structured(self, value: Json, *, quick: bool = False) -> dict[str, Json]:
        """``structuredContent`` for a projected value; raises ``UnusableReply`` where that departs.

        ``quick``: raises ``Unchecked`` where that takes more than some milliseconds.
        """
        content = codec.encode_soon(value) if quick else codec.encode(value)
        if content is None or (quick and not self._validator.is_quick(value, content)):
            raise Unchecked
        try:
            self._validator.require_affordable(value, content)
        except TooCostly as problem:
            message = "The API's reply is too large to be checked against this tool's outputSchema."
            advice = "Ask for less of it at a time."
            raise UnusableReply("result-too-large", message, advice=advice) from problem
        if self._validator.is_valid(value):
            return {"result": value} if self.wrapped else value
        if quick:
            raise Unchecked
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
        self._rules: dict[tuple[str, str | int], jsonschema_rs.Validator] = {}

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

    def keeps(self, keyword: str, operand: Json, value: Json) -> bool:
        key = keyword, operand if isinstance(operand, str) else id(operand)
        if key not in self._rules:
            self._rules[key] = _validator({**self._dialect, keyword: operand})
        return self._rules[key].is_valid(value)


def _validator(
    schema: dict[str, Json], registry: jsonschema_rs.Registry | None = None, size: int = MAX_PATTERN
) -> jsonschema_rs.Validator:
    return jsonschema_rs.validator_for(
        schema,
        registry=registry,
        offline=True,
        validate_formats=True,
        pattern_options=jsonschema_rs.RegexOptions(size_limit=size),
    )


class _Validator:
    """Of a schema that was checked. Built when it is first asked, as most of thousands of tools are never called."""

    __slots__ = ("_always_free", "_built", "_costs", "_free", "_schema")

    def __init__(self, schema: dict[str, Json], costs: Costs) -> None:
        self._schema = schema
        self._free = costs.free
        self._always_free = costs.always_free
        self._built: jsonschema_rs.Validator | None = None
        self._costs: Costs | None = None

    @property
    def costs(self) -> Costs:
        """Made when they are first asked for, never in the event loop."""
        if self._costs is None:
            self._costs = Costs(Schema(self._schema), _pattern_ns)
        return self._costs

    def is_quick(self, value: Json, content: bytes) -> bool:
        """Whether ``value``, written as ``content``, is surely validated within some milliseconds."""
        if self._built is None or len(content) > QUICK_BYTES:
            return False
        if self._is_free(content):
            return True
        return self._costs is not None and len(content) <= _WALKED_BYTES and self._costs.is_quick(value)

    def require_affordable(self, value: Json, content: bytes) -> None:
        """Raises ``TooCostly`` where ``value``, written as ``content``, could hold the interpreter too long."""
        if not self._is_free(content):
            self.costs.require(value)

    def _is_free(self, content: bytes) -> bool:
        size = len(content)
        return size <= self._always_free or (size <= self._free and not SLOW_NUMBER.search(content))

    def is_valid(self, value: Json) -> bool:
        if self._built is None:
            self._built = _validator(self._schema)
        return self._built.is_valid(value)


def _check_schema(schema: Schema, findings: Findings) -> Costs:
    """What values of the schema cost; raises all that is wrong with the schema as such."""
    lint.check(schema, findings)
    _check_sizes(schema, findings)
    findings.raise_errors()
    try:
        _validator(schema.root)
    except ValueError as problem:
        with suppress(UnicodeError):
            _check_positions(schema, findings)
        if not findings.errors:
            findings.error("invalid-schema", "the schema cannot be read; look for text that is not Unicode")
        raise InvalidSpec(*findings) from problem
    costs = Costs(schema, _pattern_ns)
    _check_costs(schema, costs, findings)
    findings.raise_errors()
    return costs


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


def _patterns(schema: Schema) -> Iterator[tuple[str, Route, bool]]:
    """Each pattern with its route, and whether it is a key there."""
    for route, position in schema.positions.items():
        if isinstance(position, dict):
            for step, pattern in _own_patterns(position).items():
                if isinstance(pattern, str):
                    yield pattern, (*route, *step), step[0] == "patternProperties"


def _own_patterns(position: dict[str, Json]) -> dict[Route, Json]:
    patterns: dict[Route, Json] = {("pattern",): position["pattern"]} if "pattern" in position else {}
    return patterns | {step: step[1] for step, _ in children(position) if step[0] == "patternProperties"}


def _check_patterns(route: Route, position: dict[str, Json], findings: Findings) -> None:
    for step, pattern in _own_patterns(position).items():
        if isinstance(pattern, str) and not _is_compiled(pattern):
            problem, offset = "is no regular expression; correct it", 0
            if looking := _LOOKING.search(pattern):
                problem = f"looks around or back with {looking[0]}, which has no bound in time; write it another way"
                offset = looking.start()
            at_key = step[0] == "patternProperties"
            findings.error(
                "bad-pattern", f"the pattern {problem}", *route, *step, offset=offset, at_key=at_key
            )


def _check_sizes(schema: Schema, findings: Findings) -> None:
    """How large the patterns are when they are compiled, which nothing can interrupt either."""
    total = 0
    distinct = {pattern: (route, at_key) for pattern, route, at_key in _patterns(schema)}
    for pattern, (route, at_key) in distinct.items():
        size = _size(pattern)
        total += size or 0
        if size is None or total > MAX_PATTERN:
            what = "the pattern takes" if size is None else "the patterns of this schema together take"
            message = rf"{what} more than {MAX_PATTERN >> 20} MiB when compiled; lower counts, or write [a-z] for \p{{L}}"
            findings.error("costly-pattern", message, *route, at_key=at_key)
            return


def _check_costs(schema: Schema, costs: Costs, findings: Findings) -> None:
    """Whether usual arguments can be validated in time."""
    if costs.bound.visits > MAX_VISITS:
        message = (
            f"one value would be looked at more than {MAX_VISITS} times, as references multiply; simplify"
        )
        findings.error("schema-too-large", message)
    for pattern, route, at_key in _patterns(schema):
        longest = LIMIT_NS // _pattern_ns(pattern)
        if longest < LEAST_TEXT:
            message = f"the pattern is slow: texts of {longest} bytes can be checked, expected {LEAST_TEXT}; {_ADVICE}"
            findings.error("costly-pattern", message, *route, at_key=at_key)
        elif longest < _USUAL_TEXT:
            message = f"the pattern is slow: texts longer than {longest} bytes are refused; {_ADVICE}"
            characters = longest // _CHARACTER_BYTES
            if not at_key:
                message += f", or add maxLength: {characters}"
            if at_key or schema.positions[route[:-1]].get("maxLength", longest) > characters:
                findings.warn("costly-pattern", message, *route, at_key=at_key)
    if not findings.errors and costs.longest < LEAST_TEXT:
        message = (
            f"the patterns together are slow: texts of {costs.longest} bytes can be checked, expected {LEAST_TEXT}; "
            "write fewer patterns for one text"
        )
        findings.error("costly-pattern", message)


@lru_cache(maxsize=4096)
def _size(pattern: str) -> int | None:
    """The bytes of a compiled pattern, 0 for what is no pattern, None where they are too many."""
    size = compiled_size(pattern, _is_compiled, MAX_PATTERN)
    if size is None and (_LOOKING.search(pattern) or not _syntax().is_valid(pattern)):
        return 0
    return size


@cache
def _syntax() -> jsonschema_rs.Validator:
    return _validator({"format": "regex"})


@lru_cache(maxsize=4096)
def _pattern_ns(pattern: str) -> int:
    """What a pattern that compiles costs for each byte of text, in nanoseconds."""
    known = nanoseconds_per_byte(pattern)
    return known if known is not None else (_size(pattern) or MAX_PATTERN) // 2


def _is_compiled(pattern: str, size: int = MAX_PATTERN) -> bool:
    try:
        _validator({"pattern": pattern}, size=size)
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


def _check_defaults(schema: Schema, costs: Costs, findings: Findings) -> None:
    """Those that are filled in: through ``properties`` alone."""
    library = _Library(schema)
    for route, position in schema.positions.items():
        if set(route[::2]) == {"properties"} and isinstance(position, dict) and "default" in position:
            filling = _Filling.compile(schema, route)
            default = position["default"]
            value = filling.apply(default) if filling and isinstance(default, dict) else default
            try:
                costs.require(value, route=route)
            except TooCostly:
                message = "the default is too large to be checked in time; shorten it"
                findings.error("bad-default", message, *route, "default")
                continue
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


def _written(arguments: dict[str, Json]) -> bytes:
    """The arguments as JSON; empty if they are none."""
    try:
        return codec.encode(arguments)
    except codec.NotJson:
        return b""


def _require_json(arguments: dict[str, Json], content: bytes) -> None:
    """Refuse what is no JSON, too large or too deep, before anything slower looks at it."""
    if len(content) > MAX_BYTES:
        message = f"The arguments are larger than {MAX_BYTES} bytes; nothing was sent. Send less at a time."
        raise InvalidCall("arguments-too-large", message)
    has_many = content.count(b"[") + content.count(b"{") > MAX_DEPTH
    if (
        not content
        or "\ufffd".encode() in content
        or (has_many and codec.may_be_deeper(arguments, MAX_DEPTH))
    ):
        for name, value in arguments.items():
            _look_closely(name, value)


def _too_large(what: str, length: int | None) -> InvalidCall:
    """The refusal of what could not be checked in time; ``length`` is what a text may have."""
    problem = "holds more values than can be checked"
    if length is not None:
        problem = f"is longer than the {length} characters that can be checked"
    message = f"{what} {problem}; nothing was sent. Send less at a time."
    return InvalidCall("arguments-too-large", message)


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
