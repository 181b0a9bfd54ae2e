"""Where a value departs from a schema, in sentences for a model.

The library says yes or no in bounded time, but its own errors do not hold: they copy every enum into
every error and multiply with each level of a recursive ``anyOf``. So the search is ours: it goes down
only where the library says no, stops at the first few departures, and asks it about one rule at a time.
"""

import re
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Final, Protocol

from bridge import codec
from bridge.diagnostics import Route, did_you_mean
from bridge.spec import Json
from bridge.tool.schema.structure import TYPES, Schema, type_of

_MOST_ITEMS: Final = 10_000
_MOST_NAMES: Final = 1_000
"""How many of one value are searched; a name costs more, as patterns are compiled for it."""

MAX_SECONDS: Final = 1.0
"""How long a search goes on before it says what it found so far."""

_PLAIN_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,99}")
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
class Departure:
    """``text`` goes on after the place of the value: "500 is more than the maximum of 100"."""

    path: Route
    text: str


class Judge(Protocol):
    """The library, as far as the search needs it."""

    def fits(self, route: Route, value: Json) -> bool:
        """Whether ``value`` is valid against the subschema at ``route``."""

    def keeps(self, keyword: str, operand: Json, value: Json) -> bool:
        """Whether ``value`` is valid against one keyword that holds no subschemas."""


def find(
    schema: Schema,
    judge: Judge,
    value: Json,
    most: int = 5,
    route: Route = (),
    *,
    clock: Callable[[], float] = time.monotonic,
) -> list[Departure]:
    """Up to ``most`` departures of a value from the subschema at ``route``; nothing if it is valid.

    They are fewer if the search takes longer than ``MAX_SECONDS`` by ``clock``.
    """
    search = _Search(schema, judge, most, clock)
    with suppress(_OutOfTime):
        search.visit(route, value, ())
    found = search.found or (
        {Departure((), _AS_A_WHOLE.format(excerpt(value))): None} if search.is_late else {}
    )
    return sorted(found, key=lambda found: [(isinstance(step, str), step) for step in found.path])


def unknown(name: str, known: Collection[str]) -> str:
    """What a departure says of a name that is not among ``known``."""
    takes = f" (known: {', '.join(sorted(known)[:30])})" if known else ""
    return f"is not known{takes}{did_you_mean(name[:100], known)}"


def place(path: Route) -> str:
    """A path as a model reads it: ``lines[0].quantity``; empty for the whole."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += f".{step if _PLAIN_NAME.fullmatch(step) else codec.quote(step, 100)}"
    return text.removeprefix(".")


def pointer(path: Route) -> str:
    """A path as a JSON pointer (RFC 6901)."""
    return "".join(f"/{str(step).replace('~', '~0').replace('/', '~1')}" for step in path)


def excerpt(value: Json, limit: int = 100) -> str:
    """Some ``limit`` characters of a value as JSON; of a large one only the beginning is written at all."""
    text = codec.encode(_beginning(value, limit)).decode()
    return text if len(text) <= limit else f"{text[:limit]}…"


def _beginning(value: Json, limit: int, depth: int = 3) -> Json:
    if isinstance(value, str):
        return value[:limit]
    if isinstance(value, list):
        return [_beginning(item, limit, depth - 1) for item in value[:20]] if depth else "…"
    if isinstance(value, dict):
        few = islice(value.items(), 20)
        return {name[:limit]: _beginning(item, limit, depth - 1) for name, item in few} if depth else "…"
    return value


def _named(types: Json) -> str:
    """``a string or null``."""
    names = [types] if isinstance(types, str) else types
    return " or ".join(
        name if name == "null" else f"{'an' if name[0] in 'aio' else 'a'} {name}" for name in names
    )


def _enum(operand: Json, value: Json) -> str:
    shown = ", ".join(excerpt(option, 40) for option in operand[:20])
    more = f" or {len(operand) - 20} others" if len(operand) > 20 else ""
    near = ""
    if isinstance(value, str):
        near = did_you_mean(value[:100], [option for option in operand[:500] if isinstance(option, str)])
    return f"{excerpt(value)} is not one of {shown}{more}{near}"


def _format(operand: Json, value: Json) -> str:
    example = f", such as {_EXAMPLES[operand]}" if operand in _EXAMPLES else ""
    return f"{excerpt(value)} is not a valid {operand}{example}"


SENTENCES: Final[Mapping[str, Callable[[Json, Json], str]]] = {
    "type": lambda types, value: f"{excerpt(value)} is not {_named(types)}",
    "enum": _enum,
    "const": lambda only, value: f"{excerpt(value)} is not {excerpt(only)}",
    "maximum": lambda limit, value: f"{excerpt(value)} is more than the maximum of {limit}",
    "exclusiveMaximum": lambda limit, value: f"{excerpt(value)} is not less than {limit}",
    "minimum": lambda limit, value: f"{excerpt(value)} is less than the minimum of {limit}",
    "exclusiveMinimum": lambda limit, value: f"{excerpt(value)} is not more than {limit}",
    "multipleOf": lambda step, value: f"{excerpt(value)} is no multiple of {step}",
    "maxLength": lambda limit, value: f"{excerpt(value)} is {len(value)} characters long, more than {limit}",
    "minLength": lambda limit, value: f"{excerpt(value)} is {len(value)} characters long, less than {limit}",
    "pattern": lambda pattern, value: f"{excerpt(value)} does not match the pattern {pattern[:200]}",
    "format": _format,
    "maxItems": lambda limit, value: f"it has {len(value)} items, more than {limit}",
    "minItems": lambda limit, value: f"it has {len(value)} items, less than {limit}",
    "uniqueItems": lambda _, value: f"{excerpt(value)} holds an item twice",
    "maxProperties": lambda limit, value: f"it has {len(value)} properties, more than {limit}",
    "minProperties": lambda limit, value: f"it has {len(value)} properties, less than {limit}",
}
"""What a broken rule is, by its keyword, from what the schema says and what the value is."""


_AS_A_WHOLE: Final = "{0} does not fit its schema as a whole"


class _OutOfTime(Exception):
    """The search took too long."""


class _Search:
    def __init__(self, schema: Schema, judge: Judge, most: int, clock: Callable[[], float]) -> None:
        self.found: dict[Departure, None] = {}
        self.is_late = False
        self._clock = clock
        self._until = clock() + MAX_SECONDS
        self._schema = schema
        self._judge = judge
        self._most = most
        self._seen: set[tuple[Route, Route]] = set()
        self._told = 0

    def visit(self, route: Route, value: Json, path: Route) -> None:
        """Tell what departs at ``route`` or below it, if anything does and there is room."""
        if self._is_full():
            return
        if self._clock() > self._until:
            self.is_late = True
            raise _OutOfTime
        if self._judge.fits(route, value):
            return
        schema = self._schema.positions[route]
        if (route, path) in self._seen:
            self._told += 1
        elif schema is False:
            self._tell(path, "must not be given")
        elif "type" in schema and not self._judge.keeps("type", schema["type"], value):
            self._tell(path, SENTENCES["type"](schema["type"], value))
        else:
            self._seen.add((route, path))
            self._look(route, value, path)

    def _look(self, route: Route, value: Json, path: Route) -> None:
        told = self._told
        for keyword, operand in self._schema.positions[route].items():
            if keyword in SENTENCES:
                if not self._judge.keeps(keyword, operand, value):
                    self._tell(path, SENTENCES[keyword](operand, value))
            else:
                for kind, searches in _SEARCHES.items():
                    if isinstance(value, kind) and keyword in searches:
                        searches[keyword](self, (*route, keyword), operand, value, path)
        if self._told == told:
            self._tell(path, _AS_A_WHOLE.format(excerpt(value)))

    def _is_full(self) -> bool:
        """Whether no more is said: what goes on to compare names would do so for nothing."""
        return len(self.found) >= self._most

    def _tell(self, path: Route, text: str) -> None:
        self._told += 1
        if not self._is_full():
            self.found[Departure(path, text)] = None

    def reference(self, below: Route, operand: Json, value: Json, path: Route) -> None:
        del below
        target = self._schema.follow(operand)
        assert target is not None, "references are resolved at load"
        self.visit(target, value, path)

    def all_of(self, below: Route, operand: Json, value: Json, path: Route) -> None:
        for index in range(len(operand)):
            self.visit((*below, index), value, path)

    def choice(self, below: Route, operand: Json, value: Json, path: Route) -> None:
        branches = [(*below, index) for index in range(len(operand))]
        fitting = [branch for branch in branches if self._judge.fits(branch, value)]
        near = [branch for branch in branches if self._is_near(branch, value)]
        missing = [self._schema.required(branch) - _names(value) for branch in near]
        if fitting:
            if below[-1] == "oneOf" and len(fitting) > 1:
                self._tell(path, f"{excerpt(value)} fits {len(fitting)} forms of which it may fit only one")
        elif len(near) == 1:
            self.visit(near[0], value, path)
        elif near and all(missing):
            forms = " or ".join(dict.fromkeys(" and ".join(sorted(names)) for names in missing[:10]))
            self._tell(path, f"{excerpt(value)} lacks {forms}")
        else:
            types = frozenset().union(*(self._schema.types(branch) for branch in branches))
            forms = "any of the forms that are allowed" if near or types == TYPES else _named(sorted(types))
            self._tell(path, f"{excerpt(value)} is not {forms}")

    def _is_near(self, branch: Route, value: Json) -> bool:
        """Whether a branch was probably meant: its type is right, and each constant that tells it apart."""
        if type_of(value) not in self._schema.types(branch):
            return False
        return all(
            self._judge.fits(route, value[name])
            for name, routes in self._schema.names(branch).items()
            for route in routes
            if name in _names(value) and self._is_constant(route)
        )

    def _is_constant(self, route: Route) -> bool:
        schema = self._schema.positions[route]
        return isinstance(schema, dict) and not schema.keys().isdisjoint({"const", "enum"})

    def negation(self, below: Route, _: Json, value: Json, path: Route) -> None:
        if self._judge.fits(below, value):
            self._tell(path, f"{excerpt(value)} is of a kind that is not allowed")

    def condition(self, below: Route, _: Json, value: Json, path: Route) -> None:
        branch = (*below[:-1], "then" if self._judge.fits(below, value) else "else")
        if branch in self._schema.positions:
            self.visit(branch, value, path)

    def required(self, _: Route, operand: Json, value: Json, path: Route) -> None:
        for name in operand:
            if name not in value:
                self._tell((*path, name), "is required, and missing")

    def dependent_required(self, below: Route, operand: Json, value: Json, path: Route) -> None:
        for name, names in operand.items():
            if name in value:
                self.required(below, names, value, path)

    def dependent_schemas(self, below: Route, operand: Json, value: Json, path: Route) -> None:
        for name in operand:
            if name in value:
                self.visit((*below, name), value, path)

    def properties(self, below: Route, operand: Json, value: Json, path: Route) -> None:
        for name in operand:
            if name in value:
                self.visit((*below, name), value[name], (*path, name))

    def pattern_properties(self, below: Route, operand: Json, value: Json, path: Route) -> None:
        for name in islice(value, _MOST_NAMES):
            for pattern in operand:
                if self._judge.keeps("pattern", pattern, name):
                    self.visit((*below, pattern), value[name], (*path, name))

    def property_names(self, below: Route, _: Json, value: Json, path: Route) -> None:
        for name in islice(value, _MOST_NAMES):
            if not self._judge.fits(below, name):
                self._tell((*path, name), "is not a name that is allowed here")

    def additional_properties(self, below: Route, operand: Json, value: Json, path: Route) -> None:
        siblings = self._schema.positions[below[:-1]]
        known = siblings.get("properties", {})
        patterns = siblings.get("patternProperties", ())
        rest = (
            name
            for name in islice(value, _MOST_NAMES)
            if name not in known and not any(self._judge.keeps("pattern", each, name) for each in patterns)
        )
        for name in rest:
            if self._is_full():
                return
            if operand is False:
                self._tell((*path, name), unknown(name, known))
            else:
                self.visit(below, value[name], (*path, name))

    def unevaluated_properties(self, below: Route, operand: Json, value: Json, path: Route) -> None:
        around = self._schema.everywhere_in_place(below[:-1])
        keywords = frozenset().union(*(_names(self._schema.positions[route]) for route in around))
        if operand is False and keywords.isdisjoint({"patternProperties", "additionalProperties"}):
            known = self._schema.names(below[:-1])
            for name in islice(value, _MOST_NAMES):
                if self._is_full():
                    return
                if name not in known:
                    self._tell((*path, name), unknown(name, known))

    def items(self, below: Route, operand: Json, value: Json, path: Route) -> None:
        if isinstance(operand, list):  # until 2019-09
            self.prefix_items(below, operand, value, path)
            return
        after = len(self._schema.positions[below[:-1]].get("prefixItems", ()))
        for index, item in enumerate(value[after:_MOST_ITEMS], after):
            self.visit(below, item, (*path, index))

    def prefix_items(self, below: Route, operand: Json, value: Json, path: Route) -> None:
        for index, (_, item) in enumerate(zip(operand, value, strict=False)):
            self.visit((*below, index), item, (*path, index))

    def contains(self, below: Route, _: Json, value: Json, path: Route) -> None:
        if not any(self._judge.fits(below, item) for item in value[:_MOST_ITEMS]):
            self._tell(path, f"{excerpt(value)} has no item of the kind that it must contain")


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
"""How keywords that hold schemas or names are searched, by the kind of value that they speak of."""


def _names(value: Json) -> frozenset[str]:
    return frozenset(value) if isinstance(value, dict) else frozenset()
