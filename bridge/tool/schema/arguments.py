"""Validation of arguments and results against the schemas of the tool file.

At load, ``compile`` checks the schema and what it may cost (see ``costs``), and returns warnings. At a call, there
are two ways, so that nothing blocks the event loop for more than some milliseconds:

| Way | Runs in | Ends with |
|---|---|---|
| ``quick=True`` | the event loop | the valid value, or ``Unchecked`` if it is invalid, large or costly |
| ``quick=False`` | a worker thread | the valid value, or an error with the violations |

Arguments that are not JSON are an error in both ways.
"""

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
from bridge.tool.quoting import excerpt, place, pointer, unknown
from bridge.tool.schema import lint
from bridge.tool.schema.costs import LIMIT_NS, MAX_VISITS, SLOW_NUMBER, Costs, TooCostly
from bridge.tool.schema.patterns import compiled_size, nanoseconds_per_byte
from bridge.tool.schema.structure import (
    TYPES,
    Schema,
    direct_subschemas,
    has_only_integers,
    without_subschemas,
)
from bridge.tool.schema.violations import SENTENCES, Violation, find

MAX_BYTES: Final = 1024**2
MAX_DEPTH: Final = 64
QUICK_BYTES: Final = 32 * 1024
"""Larger values are validated in a worker thread."""
_WALKED_BYTES: Final = 4096
"""The costs of values up to this size may be computed in the event loop."""
_MAX_COSTED_ARGUMENTS: Final = 32
"""How many arguments are tried, one by one, to name the one that is too costly."""
MAX_PATTERN_BYTES: Final = 1280 * 1024
"""The maximum size of all compiled patterns of a schema together. Compiling takes about 10 ns for each byte."""
MIN_TEXT_BYTES: Final = 256
"""A pattern is refused if it cannot check a text of this size in time."""
_USUAL_TEXT_BYTES: Final = 4096
"""A pattern gets a warning if it cannot check a text of this size in time."""
_MAX_CHARACTER_BYTES: Final = 4  # in UTF-8
_MAX_INTEGER_BITS: Final = 13_000  # Python refuses to write an integer of more than 4300 digits
_COMBINATORS: Final = frozenset(
    {"allOf", "anyOf", "oneOf", "$ref", "$dynamicRef", "if", "dependentSchemas", "dependencies"}
)
_UNSUPPORTED: Final = re.compile(r"\(\?<?[=!]|\\[1-9]|\\k<")
_KEYWORD_HINTS: Final[Mapping[Route, str]] = {
    ("required",): "; list the required names, next to properties",
    ("properties",): "; write name: schema for each",
    ("exclusiveMinimum",): "; write the bound itself",
    ("exclusiveMaximum",): "; write the bound itself",
}
"""Advice about a wrong value of a keyword."""
_MAX_POINTER_CHARACTERS: Final = 200
_FASTER_PATTERN: Final = "start it with ^, or lower its counts"
_ROOT: Final = "urn:restbridge:schema"
_NO_DOCUMENTS: Final[dict[str, Json]] = {}


class Unchecked(Exception):
    """Validation may take too long for the event loop; repeat it in a worker thread, without ``quick``."""


# weakref_slot: the compiler shares equal ones through weak references.
@dataclass(frozen=True, slots=True, weakref_slot=True)
class Arguments:
    """The arguments that a tool accepts.

    ``schema`` is the schema that clients get: it has ``type: object`` and allows no other names by default.
    ``properties`` holds the schema of each argument; if a name has several schemas, they are combined in ``anyOf``.
    ``optional`` is sorted. ``is_open`` is whether the schema allows names that are not in ``properties``.
    """

    schema: dict[str, Json]
    properties: Mapping[str, Mapping[str, Json]]
    required: frozenset[str]
    optional: tuple[str, ...]
    defaults: Mapping[str, Json]
    is_open: bool
    _types: Mapping[str, frozenset[str]]
    _normalizer: "_Normalizer | None"
    _validator: "_Validator"

    @classmethod
    def compile(cls, schema: dict[str, Json]) -> tuple[Self, tuple[Finding, ...]]:
        """The arguments and the warnings; raises ``InvalidSpec``. All findings have routes into the schema."""
        findings = Findings()
        source = Schema(_closed(schema))
        costs = _check_schema(source, findings)
        # From here on, the schema is valid: otherwise ``_check_schema`` has raised.
        lint.check_arguments(source, findings)
        _check_defaults(source, costs, findings)
        findings.raise_errors()
        normalizer = _Normalizer.compile(source, ())
        names, required = source.names(), source.required()
        arguments = cls(
            schema=source.root,
            properties={name: _any_of([source.subschemas[r] for r in names[name]]) for name in names},
            required=required,
            optional=tuple(sorted(names.keys() - required)),
            defaults=normalizer.defaults if normalizer else {},
            is_open=_is_open(source),
            _types={name: frozenset().union(*map(source.types, names[name])) for name in names},
            _normalizer=normalizer,
            _validator=_Validator(source.root, costs),
        )
        return arguments, tuple(findings)

    def types(self, name: str) -> frozenset[str]:
        """The JSON types that an argument may have; all types if ``name`` is unknown."""
        return self._types.get(name, TYPES)

    def check(self, arguments: Mapping[str, Json], *, quick: bool = False) -> dict[str, Json]:
        """The arguments to send: with defaults, and with ``5.0`` as ``5`` if the schema expects an integer.

        Raises ``InvalidCall`` with up to five violations (MCP SEP-1303). With ``quick``, raises ``Unchecked``
        if validation may take more than some milliseconds. Do not change the result: it shares values with
        ``arguments`` and the defaults.
        """
        values = self._normalizer.apply(arguments) if self._normalizer else dict(arguments)
        content = codec.encode_fast(values) if quick else _encoded(values)
        if content is None or (quick and not self._validator.is_quick(values, content)):
            raise Unchecked
        _require_json(values, content)
        # A quick check has asked ``is_quick``, which is stricter.
        if not quick:
            self._require_affordable(values, content)
        # Up to draft-07 no keyword forbids other names in a schema with combinators, so names are checked here.
        if self._validator.is_valid(values) and (self.is_open or values.keys() <= self.properties.keys()):
            return values
        if quick:
            raise Unchecked
        raise InvalidCall("invalid-arguments", self._explain(values))

    def _require_affordable(self, values: dict[str, Json], content: bytes) -> None:
        """Raise ``InvalidCall`` if validation could block the interpreter too long, with the argument if it is one."""
        try:
            self._validator.require_affordable(values, content)
        except TooCostly as problem:
            # Names the argument that is too costly alone, so that the model knows which one to shorten.
            for name, value in islice(values.items(), _MAX_COSTED_ARGUMENTS):
                try:
                    self._validator.costs.require({name: value})
                except TooCostly as one:
                    raise _too_large(place((name,)), one.max_length) from problem
            message = "The arguments together have more values than can be checked; nothing was sent. Send less at a time."
            raise InvalidCall("arguments-too-large", message) from problem

    def _explain(self, values: dict[str, Json]) -> str:
        # Not kept since load: only invalid calls need it.
        schema = Schema(self.schema)
        violations = find(schema, _Library(schema), values)
        if not violations:
            # The schema accepts the values: the other names are what ``check`` refused.
            names = sorted(values.keys() - self.properties.keys())
            violations = [Violation((name,), unknown(name, self.properties)) for name in names[:5]]
        lines = [
            f"- {place(violation.path) or 'the arguments'}: {violation.text}" for violation in violations
        ]
        return "\n".join(["The arguments do not fit this tool; nothing was sent. Correct them:", *lines])


@dataclass(frozen=True, slots=True)
class OutputSchema:
    """The schema of a tool's results. Clients get ``schema``, whose type is always object.

    If the type in the tool file is another one, ``wrapped`` is True: results are sent as ``{"result": …}``.
    """

    schema: dict[str, Json]
    wrapped: bool
    _source: dict[str, Json]
    _validator: "_Validator"

    @classmethod
    def compile(cls, schema: dict[str, Json]) -> tuple[Self, tuple[Finding, ...]]:
        """The schema and the warnings; raises ``InvalidSpec``. All findings have routes into the schema."""
        findings = Findings()
        costs = _check_schema(Schema(schema), findings)
        wrapped = schema.get("type") != "object"
        sent = _wrapped(schema) if wrapped else schema
        output = cls(schema=sent, wrapped=wrapped, _source=schema, _validator=_Validator(schema, costs))
        return output, tuple(findings)

    def structured(self, value: Json, *, quick: bool = False) -> dict[str, Json]:
        """The ``structuredContent`` for a projected value; raises ``UnusableReply`` if it violates the schema.

        With ``quick``, raises ``Unchecked`` if validation may take more than some milliseconds.
        """
        content = codec.encode_fast(value) if quick else codec.encode(value)
        if content is None or (quick and not self._validator.is_quick(value, content)):
            raise Unchecked
        try:
            self._validator.require_affordable(value, content)
        except TooCostly as problem:
            message = "The API's reply is too large to be checked against this tool's outputSchema."
            advice = "Request less data at a time."
            raise UnusableReply("result-too-large", message, advice=advice) from problem
        if self._validator.is_valid(value):
            return {"result": value} if self.wrapped else value
        if quick:
            raise Unchecked
        schema = Schema(self._source)
        found = find(schema, _Library(schema), value, max_violations=3)
        violations = "; ".join(f"at {_cut(pointer(each.path)) or 'its root'} {each.text}" for each in found)
        message = f"The API's reply does not match this tool's outputSchema: {violations}. Do not rely on it; tell the user."
        raise UnusableReply("result-drift", message)


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_POINTER_CHARACTERS else f"{text[:_MAX_POINTER_CHARACTERS]}…"


@dataclass(frozen=True, slots=True)
class _Normalizer:
    """Changes an object before validation: fills in defaults, and turns floats like ``5.0`` into integers.

    Only schemas below ``properties`` count, not those behind ``$ref`` or ``allOf``.
    """

    defaults: Mapping[str, Json]
    integers: frozenset[str]
    inner: Mapping[str, "_Normalizer"]

    @classmethod
    def compile(cls, schema: Schema, route: Route) -> "_Normalizer | None":
        """The normalizer of the subschema at ``route``; None if nothing can change."""
        here = schema.subschemas[route]
        names = here.get("properties") if isinstance(here, dict) else None
        if not names:
            return None
        inner = {name: cls.compile(schema, (*route, "properties", name)) for name in names}
        normalizer = cls(
            defaults={n: s["default"] for n, s in names.items() if isinstance(s, dict) and "default" in s},
            integers=frozenset(
                n for n in names if has_only_integers(schema.types((*route, "properties", n)))
            ),
            inner={name: each for name, each in inner.items() if each},
        )
        return normalizer if normalizer.defaults or normalizer.integers or normalizer.inner else None

    def apply(self, value: Mapping[str, Json]) -> dict[str, Json]:
        normalized = dict(value)
        # Defaults come first: the inner normalizers also complete an object that is a default.
        for name, default in self.defaults.items():
            normalized.setdefault(name, default)
        for name in self.integers:
            number = normalized.get(name)
            if isinstance(number, float) and number.is_integer():
                normalized[name] = int(number)
        for name, normalizer in self.inner.items():
            if isinstance(normalized.get(name), dict):
                normalized[name] = normalizer.apply(normalized[name])
        return normalized


class _Library:
    """Validators for the subschemas and keywords of one schema, built when first used."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._dialect = {"$schema": lint.dialect(schema.root)}
        self._by_route: dict[Route, jsonschema_rs.Validator] = {}
        self._by_keyword: dict[tuple[str, str | int], jsonschema_rs.Validator] = {}

    @cached_property
    def _registry(self) -> jsonschema_rs.Registry | None:
        """None if the schema has no references."""
        if not self._schema.has_references:
            return None
        # A registry has no ``offline``: it retrieves what its documents refer to when it is created.
        return jsonschema_rs.Registry([(_ROOT, self._schema.root)], retriever=_NO_DOCUMENTS.__getitem__)

    def is_valid_at(self, route: Route, value: Json) -> bool:
        if route not in self._by_route:
            here = _any_of([self._schema.subschemas[route]])
            if self._registry:
                # From the root, so that references inside find their targets. A pointer in a fragment is
                # percent-encoded (RFC 6901 6).
                here = {"$ref": f"{_ROOT}#{quote(pointer(route))}"}
            self._by_route[route] = _validator({**here, **self._dialect}, self._registry)
        return self._by_route[route].is_valid(value)

    def satisfies(self, keyword: str, operand: Json, value: Json) -> bool:
        # Operands belong to the schema, which lives as long as this, so no id is used twice. A list cannot be
        # hashed, and a long enum would be slow to compare.
        key = keyword, operand if isinstance(operand, str) else id(operand)
        if key not in self._by_keyword:
            self._by_keyword[key] = _validator({**self._dialect, keyword: operand})
        return self._by_keyword[key].is_valid(value)


def _validator(
    schema: dict[str, Json],
    registry: jsonschema_rs.Registry | None = None,
    pattern_bytes: int = MAX_PATTERN_BYTES,
) -> jsonschema_rs.Validator:
    """A validator that matches patterns in linear time, checks formats, and fetches no documents."""
    return jsonschema_rs.validator_for(
        schema,
        registry=registry,
        offline=True,
        validate_formats=True,
        # The default engine, fancy-regex, supports look-around and backtracks.
        pattern_options=jsonschema_rs.RegexOptions(size_limit=pattern_bytes),
    )


class _Validator:
    """The validator of a checked schema, built at the first call, as most of thousands of tools are never called."""

    __slots__ = ("_always_free_bytes", "_built", "_costs", "_free_bytes", "_schema")

    def __init__(self, schema: dict[str, Json], costs: Costs) -> None:
        self._schema = schema
        # Most values need only these two numbers. The costs take far more memory: they are computed again.
        self._free_bytes = costs.free_bytes
        self._always_free_bytes = costs.always_free_bytes
        self._built: jsonschema_rs.Validator | None = None
        self._costs: Costs | None = None

    @property
    def costs(self) -> Costs:
        """Computed at the first use, never in the event loop."""
        if self._costs is None:
            self._costs = Costs(Schema(self._schema), _pattern_ns)
        return self._costs

    def is_quick(self, value: Json, content: bytes) -> bool:
        """Whether ``value``, encoded as ``content``, is certainly validated within some milliseconds."""
        # Building the validator compiles patterns, which can take longer than a check.
        if self._built is None or len(content) > QUICK_BYTES:
            return False
        if self._is_free(content):
            return True
        return self._costs is not None and len(content) <= _WALKED_BYTES and self._costs.is_quick(value)

    def require_affordable(self, value: Json, content: bytes) -> None:
        """Raises ``TooCostly`` if validating ``value``, encoded as ``content``, could block the interpreter too long."""
        if not self._is_free(content):
            self.costs.require(value)

    def _is_free(self, content: bytes) -> bool:
        size = len(content)
        if size <= self._always_free_bytes:
            return True
        return size <= self._free_bytes and not SLOW_NUMBER.search(content)

    def is_valid(self, value: Json) -> bool:
        # Two threads may both build one: either can be kept.
        if self._built is None:
            self._built = _validator(self._schema)
        return self._built.is_valid(value)


def _check_schema(schema: Schema, findings: Findings) -> Costs:
    """The costs of a schema's values; raises ``InvalidSpec`` if the schema is invalid or too costly."""
    lint.check(schema, findings)
    _check_sizes(schema, findings)
    findings.raise_errors()
    try:
        _validator(schema.root)
    except ValueError as problem:  # such as ValidationError
        # Raised for a lone surrogate, which the library cannot read.
        with suppress(UnicodeError):
            _check_subschemas(schema, findings)
        if not findings.errors:
            findings.error(
                "invalid-schema", "the schema cannot be read; check it for text that is not Unicode"
            )
        raise InvalidSpec(*findings) from problem
    costs = Costs(schema, _pattern_ns)
    _check_costs(schema, costs, findings)
    findings.raise_errors()
    return costs


@cache
def _meta(dialect: str | None) -> jsonschema_rs.Validator:
    """A validator for schemas, except for patterns. The meta-schemas are part of the library."""
    # Without validate_formats, any text is a pattern. ``_check_patterns`` asks the engine that is used.
    return jsonschema_rs.validator_for({"$schema": dialect, "$ref": dialect}, offline=True)


def _check_subschemas(schema: Schema, findings: Findings) -> None:
    """Validate each subschema against the meta-schema, without its own subschemas.

    Validated as a whole, the library would report an error deep inside eight times for each level.
    """
    meta = _meta(lint.dialect(schema.root))
    for route, subschema in schema.subschemas.items():
        if not isinstance(subschema, dict):
            continue
        _check_patterns(route, subschema, findings)
        # One for each place: a meta-schema consists of several, and each of them reports the mistake.
        problems: dict[Route, str] = {}
        for error in meta.iter_errors(without_subschemas(subschema)):
            path = _narrowed(subschema, tuple(error.instance_path))
            problems.setdefault(path, _problem(error.kind, _value_at(subschema, path), path))
        for path, problem in problems.items():
            findings.error("invalid-schema", f"{place(path)}: {problem}", *route, *path)


def _narrowed(subschema: dict[str, Json], path: Route) -> Route:
    """The path; if ``type`` is a list, the path of its first wrong item."""
    types = subschema.get("type")
    if path != ("type",) or not isinstance(types, list):
        return path
    wrong = (index for index, name in enumerate(types) if not isinstance(name, str) or name not in TYPES)
    return (*path, *islice(wrong, 1))


def _problem(kind: jsonschema_rs.ValidationErrorKind, value: Json, path: Route) -> str:
    if value is None and path == ("$ref",):
        return "found no value, as # starts a comment in YAML; put the reference in quotes"
    if path[:1] == ("type",):
        return SENTENCES["enum"](sorted(TYPES), value)
    # The meta-schema allows these two types only where it expects a subschema.
    if kind.name == "type" and set(kind.value) == {"boolean", "object"}:
        several = ", or prefixItems for several" if path == ("items",) and isinstance(value, list) else ""
        return f"{excerpt(value)} is not a schema; write one, such as {{type: string}}{several}"
    if kind.name in SENTENCES:
        return SENTENCES[kind.name](kind.value, value) + _KEYWORD_HINTS.get(path[:1], "")
    return f"{excerpt(value)} is not what JSON Schema allows there"


def _value_at(value: Json, path: Route) -> Json:
    for step in path:
        value = value[step]
    return value


def _patterns(schema: Schema) -> Iterator[tuple[str, Route, bool]]:
    """Each pattern, its route, and whether it is a key (of ``patternProperties``)."""
    for route, subschema in schema.subschemas.items():
        if isinstance(subschema, dict):
            for step, pattern in _own_patterns(subschema).items():
                if isinstance(pattern, str):
                    yield pattern, (*route, *step), step[0] == "patternProperties"


def _own_patterns(subschema: dict[str, Json]) -> dict[Route, Json]:
    """The patterns of a subschema without those of its subschemas, by route."""
    patterns: dict[Route, Json] = {("pattern",): subschema["pattern"]} if "pattern" in subschema else {}
    return patterns | {
        step: step[1] for step, _ in direct_subschemas(subschema) if step[0] == "patternProperties"
    }


def _check_patterns(route: Route, subschema: dict[str, Json], findings: Findings) -> None:
    for step, pattern in _own_patterns(subschema).items():
        if isinstance(pattern, str) and not _can_compile(pattern):
            problem, offset = "is not a regular expression; correct it", 0
            if unsupported := _UNSUPPORTED.search(pattern):
                problem = f"uses {unsupported[0]}, but look-around and back-references are not supported; rewrite it without"
                offset = unsupported.start()
            at_key = step[0] == "patternProperties"
            findings.error(
                "bad-pattern", f"the pattern {problem}", *route, *step, offset=offset, at_key=at_key
            )


def _check_sizes(schema: Schema, findings: Findings) -> None:
    """Check the size of the compiled patterns: nothing can interrupt compiling either."""
    total = 0
    distinct = {pattern: (route, at_key) for pattern, route, at_key in _patterns(schema)}
    for pattern, (route, at_key) in distinct.items():
        size = _compiled_size(pattern)
        total += size or 0
        if size is None or total > MAX_PATTERN_BYTES:
            subject = "the pattern takes" if size is None else "the patterns of this schema together take"
            message = rf"{subject} more than {MAX_PATTERN_BYTES / 1024**2:g} MiB when compiled; lower counts, or write [a-z] for \p{{L}}"
            findings.error("costly-pattern", message, *route, at_key=at_key)
            return


def _check_costs(schema: Schema, costs: Costs, findings: Findings) -> None:
    """Check that arguments of usual size can be validated in time."""
    if costs.bound.visits > MAX_VISITS:
        message = f"one value would be validated more than {MAX_VISITS} times, as references multiply; simplify the schema"
        findings.error("schema-too-large", message)
    for pattern, route, at_key in _patterns(schema):
        max_bytes = LIMIT_NS // _pattern_ns(pattern)
        if max_bytes < MIN_TEXT_BYTES:
            message = f"the pattern is slow: it can check {max_bytes} bytes of text in time, expected {MIN_TEXT_BYTES}; {_FASTER_PATTERN}"
            findings.error("costly-pattern", message, *route, at_key=at_key)
        elif max_bytes < _USUAL_TEXT_BYTES:
            message = (
                f"the pattern is slow: texts longer than {max_bytes} bytes are refused; {_FASTER_PATTERN}"
            )
            # maxLength counts characters, and the cost counts bytes.
            characters = max_bytes // _MAX_CHARACTER_BYTES
            if not at_key:
                message += f", or add maxLength: {characters}"
            if at_key or schema.subschemas[route[:-1]].get("maxLength", max_bytes) > characters:
                findings.warn("costly-pattern", message, *route, at_key=at_key)
    if not findings.errors and costs.max_text_bytes < MIN_TEXT_BYTES:
        message = (
            f"the patterns together are slow: they can check {costs.max_text_bytes} bytes of text in time, "
            f"expected {MIN_TEXT_BYTES}; write fewer patterns for one text"
        )
        findings.error("costly-pattern", message)


@lru_cache(maxsize=4096)
def _compiled_size(pattern: str) -> int | None:
    """The size of a compiled pattern in bytes: 0 if the pattern is invalid, None if it is too large."""
    size = compiled_size(pattern, _can_compile, MAX_PATTERN_BYTES)
    # No limit is high enough for an invalid pattern. It is not too large: ``_check_patterns`` reports it.
    if size is None and (_UNSUPPORTED.search(pattern) or not _syntax().is_valid(pattern)):
        return 0
    return size


@cache
def _syntax() -> jsonschema_rs.Validator:
    return _validator({"format": "regex"})


@lru_cache(maxsize=4096)
def _pattern_ns(pattern: str) -> int:
    """The cost of a valid pattern for each byte of text, in nanoseconds."""
    estimate = nanoseconds_per_byte(pattern)
    return estimate if estimate is not None else (_compiled_size(pattern) or MAX_PATTERN_BYTES) // 2


def _can_compile(pattern: str, max_bytes: int = MAX_PATTERN_BYTES) -> bool:
    try:
        _validator({"pattern": pattern}, pattern_bytes=max_bytes)
    except ValueError:
        return False
    return True


def _closed(root: dict[str, Json]) -> dict[str, Json]:
    """The schema for clients: with ``type: object``, and without other names unless the operator allows them."""
    sent = dict(root) if "type" in root else {"type": "object", **root}
    if root.keys().isdisjoint({"additionalProperties", "unevaluatedProperties"}):
        # additionalProperties would refuse the names that allOf or $ref add: it sees only those next to it.
        sent["unevaluatedProperties" if root.keys() & _COMBINATORS else "additionalProperties"] = False
    return sent


def _is_open(schema: Schema) -> bool:
    """Whether the schema allows names that are not in ``properties``."""
    in_place = [schema.subschemas[route] for route in schema.everywhere_in_place()]
    return any(
        isinstance(subschema, dict)
        and (
            "patternProperties" in subschema
            or subschema.get("additionalProperties", False) is not False
            or subschema.get("unevaluatedProperties", False) is not False
        )
        for subschema in in_place
    )


def _any_of(schemas: list[Json]) -> Mapping[str, Json]:
    """One schema object for one or several schemas."""
    if len(schemas) > 1:
        return {"anyOf": schemas}
    if isinstance(schemas[0], bool):
        return {} if schemas[0] else {"not": {}}
    schema: dict[str, Json] = schemas[0]
    return schema


def _check_defaults(schema: Schema, costs: Costs, findings: Findings) -> None:
    """Check the defaults that are filled in: those with only ``properties`` on their route."""
    library = _Library(schema)
    for route, subschema in schema.subschemas.items():
        if set(route[::2]) == {"properties"} and isinstance(subschema, dict) and "default" in subschema:
            normalizer = _Normalizer.compile(schema, route)
            default = subschema["default"]
            value = normalizer.apply(default) if normalizer and isinstance(default, dict) else default
            try:
                costs.require(value, route=route)
            except TooCostly:
                message = "the default is too large to be checked in time; shorten it"
                findings.error("bad-default", message, *route, "default")
                continue
            for violation in find(schema, library, value, max_violations=1, route=route):
                where = f"{place(violation.path)}: " if violation.path else ""
                message = f"the default must match its own schema: {where}{violation.text}"
                findings.error("bad-default", message, *route, "default", *violation.path)


def _wrapped(root: dict[str, Json]) -> dict[str, Json]:
    """The schema of ``{"result": …}`` for a root that is not an object; references keep their targets."""
    # The walk gives the dicts of ``inner`` themselves, so that references are changed in place.
    inner = copy.deepcopy(root)
    for subschema in Schema(inner).subschemas.values():
        for keyword in ("$ref", "$dynamicRef"):
            reference = subschema.get(keyword, "") if isinstance(subschema, dict) else ""
            if reference == "#" or reference.startswith("#/"):
                subschema[keyword] = f"#/properties/result{reference[1:]}"
    dialect = {"$schema": inner.pop("$schema")} if "$schema" in inner else {}
    return {**dialect, "type": "object", "properties": {"result": inner}, "required": ["result"]}


def _encoded(arguments: dict[str, Json]) -> bytes:
    """The arguments as JSON; empty if JSON cannot express them."""
    try:
        return codec.encode(arguments)
    except codec.NotJson:
        return b""


def _require_json(arguments: dict[str, Json], content: bytes) -> None:
    """Raise ``InvalidCall`` if the arguments are not JSON, too large or too deep, before slower checks."""
    if len(content) > MAX_BYTES:
        message = f"The arguments are larger than {MAX_BYTES} bytes; nothing was sent. Send less at a time."
        raise InvalidCall("arguments-too-large", message)
    # Counting is fast. It counts brackets in texts too, so the exact check follows.
    has_many = content.count(b"[") + content.count(b"{") > MAX_DEPTH
    if (
        not content
        # The encoder writes U+FFFD for a lone surrogate. The text may also contain the character itself.
        or "\ufffd".encode() in content
        or (has_many and codec.may_be_deeper(arguments, MAX_DEPTH))
    ):
        for name, value in arguments.items():
            _require_json_value(name, value)


def _too_large(argument: str, max_length: int | None) -> InvalidCall:
    """The error for an argument that cannot be checked in time; ``max_length`` is set if it is a text."""
    problem = "has more values than can be checked"
    if max_length is not None:
        problem = f"is longer than the {max_length} characters that can be checked"
    message = f"{argument} {problem}; nothing was sent. Send less at a time."
    return InvalidCall("arguments-too-large", message)


def _require_json_value(name: str, value: Json) -> None:
    """Raise ``InvalidCall`` if an argument cannot be encoded exactly, or is too deep."""
    # Level by level, as a deep value could exceed Python's stack.
    level = [name, value]
    for _ in range(MAX_DEPTH):
        texts = (text for node in level for text in (node if isinstance(node, dict) else [node]))
        if any(isinstance(text, str) and codec.clean(text) != text for text in texts):
            raise _not_json(name, "contains a lone surrogate, which is not valid Unicode")
        if any(isinstance(node, float) and not math.isfinite(node) for node in level):
            raise _not_json(name, "contains NaN or infinity, which are not JSON numbers")
        if any(isinstance(node, int) and node.bit_length() > _MAX_INTEGER_BITS for node in level):
            raise _not_json(name, "contains an integer with about 4000 or more digits")
        level = [
            inner
            for node in level
            if isinstance(node, dict | list)
            for inner in (node.values() if isinstance(node, dict) else node)
        ]
    if level:
        message = f"{place((name,))} is nested more than {MAX_DEPTH} deep; nothing was sent. Send it flatter."
        raise InvalidCall("arguments-too-large", message)


def _not_json(name: str, problem: str) -> InvalidCall:
    return InvalidCall("invalid-arguments", f"{place((name,))} {problem}; nothing was sent. Correct it.")
