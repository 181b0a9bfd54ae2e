"""How a value violates a schema, in sentences for a model.

The library decides whether a value is valid, in bounded time. Its error objects are not used: each one
copies the whole enum, and their number multiplies with each level of a recursive ``anyOf``. So we search
for the violations:

1. A subschema is visited only if the library says that the value is invalid against it.
2. In it, the library validates the value against one keyword at a time.
3. The search stops after ``max_violations``, or after ``MAX_SECONDS``.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Final, Protocol

from bridge.diagnostics import Route, did_you_mean
from bridge.spec import Json
from bridge.tool.quoting import excerpt, unknown
from bridge.tool.schema.structure import TYPES, Schema, type_of

_MAX_SEARCHED_ITEMS: Final = 10_000
_MAX_SEARCHED_NAMES: Final = 1_000
"""How many items or names of one value are searched. A name costs more, because patterns are compiled for it."""

MAX_SECONDS: Final = 1.0
"""After this time, a search returns the violations found so far."""

_EXAMPLES: Final[Mapping[str, str]] = {
    "date": "2026-01-31",
    "time": "12:30:00Z",
    "date-time": "2026-01-31T12:30:00Z",
    "duration": "P1DT12H",
    "email": "name@example.com",
    "uuid": "123e4567-e89b-12d3-a456-426614174000",
    "uri": "https://example.com/path",
    "ipv4": "192.0.2.1",
}


@dataclass(frozen=True, slots=True)
class Violation:
    """``path`` leads to the wrong value. ``text`` is a sentence: "500 is more than the maximum of 100"."""

    path: Route
    text: str


class SchemaLibrary(Protocol):
    """The part of the JSON Schema library that the search needs."""

    def is_valid_at(self, route: Route, value: Json) -> bool:
        """Whether ``value`` is valid against the subschema at ``route``."""

    def satisfies(self, keyword: str, operand: Json, value: Json) -> bool:
        """Whether ``value`` is valid against one keyword; ``operand`` contains no subschemas."""


def find(
    schema: Schema,
    library: SchemaLibrary,
    value: Json,
    max_violations: int = 5,
    route: Route = (),
    *,
    clock: Callable[[], float] = time.monotonic,
) -> list[Violation]:
    """The first violations of the subschema at ``route``, sorted by path; empty if ``value`` is valid.

    The list is shorter if the search takes longer than ``MAX_SECONDS``.
    """
    search = _Search(schema, library, max_violations, clock)
    with suppress(_OutOfTime):
        search.visit(route, value, ())
    found = search.found or ({Violation((), _INVALID.format(excerpt(value))): None} if search.is_late else {})
    # Python does not order an index and a name, so each step says first which of the two it is.
    return sorted(found, key=lambda each: [(isinstance(step, str), step) for step in each.path])


def _type_names(types: Json) -> str:
    """The names with articles, such as ``a string or null``."""
    names = [types] if isinstance(types, str) else types
    return " or ".join(
        name if name == "null" else f"{'an' if name[0] in 'aio' else 'a'} {name}" for name in names
    )


def _enum(operand: Json, value: Json) -> str:
    shown = ", ".join(excerpt(option, 40) for option in operand[:20])
    more = f" or {len(operand) - 20} others" if len(operand) > 20 else ""
    suggestion = ""
    if isinstance(value, str):
        texts = [option for option in operand[:500] if isinstance(option, str)]
        suggestion = did_you_mean(value[:100], texts)
    return f"{excerpt(value)} is not one of {shown}{more}{suggestion}"


def _format(operand: Json, value: Json) -> str:
    example = f", such as {_EXAMPLES[operand]}" if operand in _EXAMPLES else ""
    return f"{excerpt(value)} is not a valid {operand}{example}"


SENTENCES: Final[Mapping[str, Callable[[Json, Json], str]]] = {
    "type": lambda types, value: f"{excerpt(value)} is not {_type_names(types)}",
    "enum": _enum,
    "const": lambda constant, value: f"{excerpt(value)} is not {excerpt(constant)}",
    "maximum": lambda limit, value: f"{excerpt(value)} is more than the maximum of {limit}",
    "exclusiveMaximum": lambda limit, value: f"{excerpt(value)} is not less than {limit}",
    "minimum": lambda limit, value: f"{excerpt(value)} is less than the minimum of {limit}",
    "exclusiveMinimum": lambda limit, value: f"{excerpt(value)} is not more than {limit}",
    "multipleOf": lambda step, value: f"{excerpt(value)} is not a multiple of {step}",
    "maxLength": lambda limit, value: f"{excerpt(value)} is {len(value)} characters long, more than {limit}",
    "minLength": lambda limit, value: f"{excerpt(value)} is {len(value)} characters long, less than {limit}",
    "pattern": lambda pattern, value: f"{excerpt(value)} does not match the pattern {pattern[:200]}",
    "format": _format,
    "maxItems": lambda limit, value: f"it has {len(value)} items, more than {limit}",
    "minItems": lambda limit, value: f"it has {len(value)} items, less than {limit}",
    "uniqueItems": lambda _, value: f"{excerpt(value)} contains equal items",
    "maxProperties": lambda limit, value: f"it has {len(value)} properties, more than {limit}",
    "minProperties": lambda limit, value: f"it has {len(value)} properties, less than {limit}",
}
"""The text of a violation by keyword. Each function gets the keyword's operand and the value."""


_INVALID: Final = "{0} does not match its schema"
"""The text of a violation whose keyword is not known."""


class _OutOfTime(Exception):
    """The search took longer than ``MAX_SECONDS``."""


class _Search:
    """One search. The methods named in ``_SEARCHES`` search one keyword each.

    These get the keyword's route, its operand, the value, and the value's path.
    """

    def __init__(
        self, schema: Schema, library: SchemaLibrary, max_violations: int, clock: Callable[[], float]
    ) -> None:
        self.found: dict[Violation, None] = {}
        self.is_late = False
        self._clock = clock
        self._end = clock() + MAX_SECONDS
        self._schema = schema
        self._library = library
        self._max_violations = max_violations
        self._visited: set[tuple[Route, Route]] = set()
        self._violation_count = 0
        """Includes those that are not kept: they are known already, or there are too many."""

    def visit(self, route: Route, value: Json, path: Route) -> None:
        """Add the violations at ``route`` and route it."""
        if self._is_full():
            return
        if self._clock() > self._end:
            self.is_late = True
            raise _OutOfTime
        if self._library.is_valid_at(route, value):
            return
        schema = self._schema.subschemas[route]
        # References lead back to the same subschema and value. Counted, so that no vaguer text is added.
        if (route, path) in self._visited:
            self._violation_count += 1
        elif schema is False:
            self._add(path, "must not be given")
        # Alone: for a value of another type, violations of other keywords explain nothing.
        elif "type" in schema and not self._library.satisfies("type", schema["type"], value):
            self._add(path, SENTENCES["type"](schema["type"], value))
        else:
            self._visited.add((route, path))
            self._visit_keywords(route, value, path)

    def _visit_keywords(self, route: Route, value: Json, path: Route) -> None:
        count_before = self._violation_count
        for keyword, operand in self._schema.subschemas[route].items():
            if keyword in SENTENCES:
                if not self._library.satisfies(keyword, operand, value):
                    self._add(path, SENTENCES[keyword](operand, value))
            else:
                for kind, searches in _SEARCHES.items():
                    if isinstance(value, kind) and keyword in searches:
                        searches[keyword](self, (*route, keyword), operand, value, path)
        # The value is invalid because of a keyword that is not searched, such as minContains.
        if self._violation_count == count_before:
            self._add(path, _INVALID.format(excerpt(value)))

    def _is_full(self) -> bool:
        """Whether further violations would be dropped, so that loops over names can stop."""
        return len(self.found) >= self._max_violations

    def _add(self, path: Route, text: str) -> None:
        self._violation_count += 1
        if not self._is_full():
            self.found[Violation(path, text)] = None

    def reference(self, route: Route, operand: Json, value: Json, path: Route) -> None:
        del route
        target = self._schema.follow(operand)
        assert target is not None, "references are resolved at load"
        self.visit(target, value, path)

    def all_of(self, route: Route, operand: Json, value: Json, path: Route) -> None:
        for index in range(len(operand)):
            self.visit((*route, index), value, path)

    def choice(self, route: Route, operand: Json, value: Json, path: Route) -> None:
        branches = [(*route, index) for index in range(len(operand))]
        valid = [branch for branch in branches if self._library.is_valid_at(branch, value)]
        intended = [branch for branch in branches if self._is_intended(branch, value)]
        missing = [self._schema.required(branch) - _names(value) for branch in intended]
        if valid:
            if route[-1] == "oneOf" and len(valid) > 1:
                self._add(
                    path, f"{excerpt(value)} matches {len(valid)} of the allowed forms, expected exactly 1"
                )
        # Such as {"kind": "card", …} if one branch has kind: {const: card}: only its violations help.
        elif len(intended) == 1:
            self.visit(intended[0], value, path)
        # Branches that differ in required: name what each lacks, such as "lacks id or name".
        elif intended and all(missing):
            forms = " or ".join(dict.fromkeys(" and ".join(sorted(names)) for names in missing[:10]))
            self._add(path, f"{excerpt(value)} lacks {forms}")
        else:
            types = frozenset().union(*(self._schema.types(branch) for branch in branches))
            if intended or types == TYPES:
                self._add(path, f"{excerpt(value)} matches none of the allowed forms")
            else:
                self._add(path, f"{excerpt(value)} is not {_type_names(sorted(types))}")

    def _is_intended(self, branch: Route, value: Json) -> bool:
        """Whether the caller probably meant this branch: the type matches, and every constant property."""
        if type_of(value) not in self._schema.types(branch):
            return False
        return all(
            self._library.is_valid_at(route, value[name])
            for name, routes in self._schema.names(branch).items()
            for route in routes
            if name in _names(value) and self._is_constant(route)
        )

    def _is_constant(self, route: Route) -> bool:
        schema = self._schema.subschemas[route]
        return isinstance(schema, dict) and not schema.keys().isdisjoint({"const", "enum"})

    def negation(self, route: Route, _: Json, value: Json, path: Route) -> None:
        if self._library.is_valid_at(route, value):
            self._add(path, f"{excerpt(value)} matches a form that is not allowed")

    def condition(self, route: Route, _: Json, value: Json, path: Route) -> None:
        branch = (*route[:-1], "then" if self._library.is_valid_at(route, value) else "else")
        if branch in self._schema.subschemas:
            self.visit(branch, value, path)

    def required(self, _: Route, operand: Json, value: Json, path: Route) -> None:
        for name in operand:
            if name not in value:
                self._add((*path, name), "is required, but missing")

    def dependent_required(self, route: Route, operand: Json, value: Json, path: Route) -> None:
        for name, names in operand.items():
            if name in value:
                self.required(route, names, value, path)

    def dependent_schemas(self, route: Route, operand: Json, value: Json, path: Route) -> None:
        for name in operand:
            if name in value:
                self.visit((*route, name), value, path)

    def properties(self, route: Route, operand: Json, value: Json, path: Route) -> None:
        for name in operand:
            if name in value:
                self.visit((*route, name), value[name], (*path, name))

    def pattern_properties(self, route: Route, operand: Json, value: Json, path: Route) -> None:
        for name in islice(value, _MAX_SEARCHED_NAMES):
            for pattern in operand:
                if self._library.satisfies("pattern", pattern, name):
                    self.visit((*route, pattern), value[name], (*path, name))

    def property_names(self, route: Route, _: Json, value: Json, path: Route) -> None:
        for name in islice(value, _MAX_SEARCHED_NAMES):
            if not self._library.is_valid_at(route, name):
                self._add((*path, name), "is not an allowed name here")

    def additional_properties(self, route: Route, operand: Json, value: Json, path: Route) -> None:
        siblings = self._schema.subschemas[route[:-1]]
        known = siblings.get("properties", {})
        patterns = siblings.get("patternProperties", ())
        # A generator, so that nothing is searched after the last violation.
        additional = (
            name
            for name in islice(value, _MAX_SEARCHED_NAMES)
            if name not in known
            and not any(self._library.satisfies("pattern", each, name) for each in patterns)
        )
        for name in additional:
            if self._is_full():
                return
            if operand is False:
                self._add((*path, name), unknown(name, known))
            else:
                self.visit(route, value[name], (*path, name))

    def unevaluated_properties(self, route: Route, operand: Json, value: Json, path: Route) -> None:
        in_place = self._schema.everywhere_in_place(route[:-1])
        keywords = frozenset().union(*(_names(self._schema.subschemas[route]) for route in in_place))
        # With these, a name that no ``properties`` has may still be evaluated. Which ones is not searched.
        if operand is False and keywords.isdisjoint({"patternProperties", "additionalProperties"}):
            known = self._schema.names(route[:-1])
            for name in islice(value, _MAX_SEARCHED_NAMES):
                if self._is_full():
                    return
                if name not in known:
                    self._add((*path, name), unknown(name, known))

    def items(self, route: Route, operand: Json, value: Json, path: Route) -> None:
        if isinstance(operand, list):  # up to draft 2019-09
            self.prefix_items(route, operand, value, path)
            return
        # Since 2020-12, items applies only to what follows prefixItems.
        start = len(self._schema.subschemas[route[:-1]].get("prefixItems", ()))
        for index, item in enumerate(value[start:_MAX_SEARCHED_ITEMS], start):
            self.visit(route, item, (*path, index))

    def prefix_items(self, route: Route, operand: Json, value: Json, path: Route) -> None:
        for index, (_, item) in enumerate(zip(operand, value, strict=False)):
            self.visit((*route, index), item, (*path, index))

    def contains(self, route: Route, _: Json, value: Json, path: Route) -> None:
        if not any(self._library.is_valid_at(route, item) for item in value[:_MAX_SEARCHED_ITEMS]):
            self._add(path, f"{excerpt(value)} contains no item of the required form")


_SEARCHES: Final[Mapping[type, Mapping[str, Callable[[_Search, Route, Json, Json, Route], None]]]] = {
    object: {
        "$ref": _Search.reference,
        "$dynamicRef": _Search.reference,
        "allOf": _Search.all_of,
        "anyOf": _Search.choice,
        "oneOf": _Search.choice,
        "not": _Search.negation,
        "if": _Search.condition,
    },
    dict: {
        "required": _Search.required,
        "dependentRequired": _Search.dependent_required,
        "dependentSchemas": _Search.dependent_schemas,
        "properties": _Search.properties,
        "patternProperties": _Search.pattern_properties,
        "propertyNames": _Search.property_names,
        "additionalProperties": _Search.additional_properties,
        "unevaluatedProperties": _Search.unevaluated_properties,
    },
    list: {
        "items": _Search.items,
        "prefixItems": _Search.prefix_items,
        "contains": _Search.contains,
    },
}
"""How keywords that contain schemas or names are searched, by the Python type of the values they apply to."""


def _names(value: Json) -> frozenset[str]:
    return frozenset(value) if isinstance(value, dict) else frozenset()
