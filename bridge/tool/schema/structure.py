"""JSON Schema as a structure: where its subschemas stand, what its references mean, which names it has.

Nothing here validates a value. A *route* leads from the root to a subschema; a subschema that looks
at the same value as its parent (``allOf``, ``$ref`` …) is *in place*.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Final
from urllib.parse import unquote

from bridge.diagnostics import Route, invalid
from bridge.spec import Json

MAX_DEPTH: Final = 32
MAX_SUBSCHEMAS: Final = 2000

_HOLDING_ONE: Final = """
    items contains additionalItems additionalProperties unevaluatedItems unevaluatedProperties propertyNames
    not if then else contentSchema
"""
_HOLDING_NAMED: Final = "properties patternProperties dependentSchemas dependencies $defs definitions"
_LOOKING_IN_PLACE: Final = "allOf anyOf oneOf not if then else dependentSchemas dependencies"
_HOLDING_NONE: Final = """
    $schema $id $ref $anchor $dynamicRef $dynamicAnchor $vocabulary $comment
    type enum const multipleOf maximum exclusiveMaximum minimum exclusiveMinimum maxLength minLength pattern
    maxItems minItems uniqueItems maxContains minContains maxProperties minProperties required
    dependentRequired title description default deprecated readOnly writeOnly examples format
    contentEncoding contentMediaType
"""
_ONE: Final = frozenset(_HOLDING_ONE.split())
_LISTS: Final = frozenset(["allOf", "anyOf", "oneOf", "prefixItems", "items"])
_MAPPINGS: Final = frozenset(_HOLDING_NAMED.split())
_IN_PLACE: Final = frozenset(_LOOKING_IN_PLACE.split())

_HOLDING: Final = _ONE | _LISTS | _MAPPINGS

KEYWORDS: Final = _HOLDING | frozenset(_HOLDING_NONE.split())
"""Of the drafts that we read: 06, 07, 2019-09 and 2020-12."""

TYPES: Final = frozenset({"null", "boolean", "object", "array", "number", "string", "integer"})

_ALONE: Final = {word: frozenset({word, "integer"} if word == "number" else {word}) for word in TYPES}
"""What each word alone stands for as ``type``."""
_NO_TYPES: Final = frozenset[str]()
_VALUES: Final = frozenset({"enum", "const"})

_TYPE_OF: Final[Mapping[type, str]] = {
    type(None): "null",
    bool: "boolean",
    dict: "object",
    list: "array",
    int: "integer",
    float: "number",
    str: "string",
}


class Schema:
    """A schema that can be walked, whatever is wrong with it; raises ``InvalidSpec`` past the bounds."""

    __slots__ = ("_anchors", "_in_place", "_required", "_types", "positions", "root")

    def __init__(self, root: dict[str, Json]) -> None:
        self.root = root
        self.positions: dict[Route, Json] = {}
        """Every subschema, an object or a boolean, by its route; the root first."""
        self._in_place: dict[Route, list[tuple[str, Route]]] = {}
        self._anchors: dict[str, Route] = {}
        self._required: dict[Route, frozenset[str]] = {}
        self._types: dict[Route, frozenset[str]] = {}
        waiting: list[tuple[Route, Json]] = [((), root)]
        for route, schema in waiting:
            self.positions[route] = schema
            if isinstance(schema, dict):
                inner = [((*route, *step), child) for step, child in children(schema)]
                waiting += inner
                _require_bounds(len(waiting), inner)
                steps = [(str(there[len(route)]), there) for there, _ in inner]
                if near := [step for step in steps if step[0] in _IN_PLACE]:
                    self._in_place[route] = near
                for keyword in ("$anchor", "$dynamicAnchor"):
                    if keyword in schema:
                        self._anchors.setdefault(str(schema[keyword]), route)
        for route, schema in waiting:
            for keyword in ("$ref", "$dynamicRef"):
                if isinstance(schema, dict) and (target := self.follow(schema.get(keyword))) is not None:
                    self._in_place.setdefault(route, []).append((keyword, target))

    def follow(self, reference: Json) -> Route | None:
        """Where ``#``, ``#/pointer`` or ``#anchor`` leads (RFC 6901); None if that is no subschema."""
        if not isinstance(reference, str) or not reference.startswith("#"):
            return None
        fragment = unquote(reference[1:])
        if fragment and not fragment.startswith("/"):
            return self._anchors.get(fragment)
        route: Route = ()
        value: Json = self.root
        for step in fragment.split("/")[1:]:
            key: str | int = step.replace("~1", "/").replace("~0", "~")
            if isinstance(value, list):
                key = int(step) if step.isdecimal() else -1
            try:
                value = value[key]
            except (LookupError, TypeError):
                return None
            route = (*route, key)
        return route if route in self.positions else None

    @property
    def has_references(self) -> bool:
        return any(keyword.startswith("$") for steps in self._in_place.values() for keyword, _ in steps)

    def in_place(self, route: Route) -> Sequence[tuple[str, Route]]:
        """The subschemas that look at the same value, one step away, with the keyword that leads there."""
        return self._in_place.get(route, ())

    def everywhere_in_place(self, route: Route = ()) -> list[Route]:
        """``route`` and all that looks at the same value, each once, also through cycles."""
        found = {route: None}
        waiting = [route]
        for here in waiting:
            new = dict.fromkeys(there for _, there in self.in_place(here) if there not in found)
            found |= new
            waiting += new
        return waiting

    def counts_in_place(self, routes: Iterable[Route]) -> dict[Route, int]:
        """How many subschemas ``everywhere_in_place`` finds for each of ``routes``.

        Routes are numbered for this: to hash one takes its length, and together these walks are quadratic.
        """
        number = {route: index for index, route in enumerate(self.positions)}
        near = [[number[there] for _, there in self.in_place(route)] for route in self.positions]
        counts = {}
        for route in routes:
            waiting = [number[route]]
            found = set(waiting)
            for here in waiting:
                new = [there for there in near[here] if there not in found]
                found.update(new)
                waiting += new
            counts[route] = len(found)
        return counts

    def names(self, route: Route = ()) -> dict[str, list[Route]]:
        """The properties that are spoken of in place, each with its own schemas; ``not`` included."""
        names: dict[str, list[Route]] = {}
        for here in self.everywhere_in_place(route):
            for name in _mapping(self.positions[here], "properties"):
                names.setdefault(name, []).append((*here, "properties", name))
        return names

    def required(self, route: Route = ()) -> frozenset[str]:
        """The properties that every valid value has, as far as references, allOf, anyOf and oneOf tell."""
        return self._learned(route, self._required, self._learn_required)

    def _learn_required(self, route: Route) -> frozenset[str]:
        schema = self.positions[route]
        if not isinstance(schema, dict):
            return frozenset()
        names = frozenset(schema.get("required", ()))
        for sure, group in self._groups(route):
            inner = [self._required.get(there, frozenset()) for there in group]
            names |= frozenset.union(*inner) if sure else frozenset.intersection(*inner)
        return names

    def types(self, route: Route) -> frozenset[str]:
        """The JSON types that a valid value may have; ``number`` comes with ``integer``."""
        return self._learned(route, self._types, self._learn_types)

    def _learn_types(self, route: Route) -> frozenset[str]:
        schema = self.positions[route]
        if not isinstance(schema, dict):
            return TYPES
        types, word = TYPES, schema.get("type")
        if isinstance(word, str) and route not in self._in_place and _VALUES.isdisjoint(schema):
            return _ALONE.get(word, _NO_TYPES)
        if "type" in schema:
            types &= _with_integer([schema["type"]] if isinstance(schema["type"], str) else schema["type"])
        if not _VALUES.isdisjoint(schema):
            types &= {type_of(value) for value in schema.get("enum", [schema.get("const")])}
        for sure, group in self._groups(route):
            inner = [self._types.get(there, TYPES) for there in group]
            types &= frozenset.intersection(*inner) if sure else frozenset.union(*inner)
        return _shared(types)

    def _learned(
        self, route: Route, known: dict[Route, frozenset[str]], learn: Callable[[Route], frozenset[str]]
    ) -> frozenset[str]:
        """What is ``known`` of a route. It is learned once, after all that looks at the same value.

        Where references close a cycle, nothing is known yet of where the last one leads.
        """
        if route in known:
            return known[route]
        found = {route}
        waiting = [(route, iter(self.in_place(route)))]
        while waiting:
            here, rest = waiting[-1]
            new = next((there for _, there in rest if there not in found and there not in known), None)
            if new is None:
                known[here] = learn(here)
                waiting.pop()
            else:
                found.add(new)
                waiting.append((new, iter(self.in_place(new))))
        return known[route]

    def _groups(self, route: Route) -> Iterator[tuple[bool, list[Route]]]:
        """What holds in place besides: all of a group (True), or one of it."""
        groups: dict[str, list[Route]] = {}
        for keyword, there in self.in_place(route):
            groups.setdefault(keyword, []).append(there)
        for keyword, group in groups.items():
            if keyword in ("$ref", "$dynamicRef", "allOf", "anyOf", "oneOf"):
                yield keyword not in ("anyOf", "oneOf"), group


def children(schema: dict[str, Json]) -> Iterator[tuple[Route, Json]]:
    """The subschemas directly below, with the keys and indices that lead to them."""
    for keyword, value in schema.items():
        if keyword not in _HOLDING:
            continue
        pairs: Iterable[tuple[str | int, Json]] = ()
        if isinstance(value, dict | bool) and keyword in _ONE:
            yield (keyword,), value
        elif isinstance(value, dict) and keyword in _MAPPINGS:
            pairs = value.items()
        elif isinstance(value, list) and keyword in _LISTS:
            pairs = enumerate(value)
        for step, child in pairs:
            if isinstance(child, dict | bool):
                yield (keyword, step), child


def without_children(schema: dict[str, Json]) -> dict[str | int, Json]:
    """A copy in which every subschema directly below is ``true``."""
    alone: dict[str | int, Json] = {
        key: value.copy() if isinstance(value, dict | list) else value for key, value in schema.items()
    }
    for (keyword, *step), _ in children(schema):
        if step:
            alone[keyword][step[0]] = True
        else:
            alone[keyword] = True
    return alone


def is_integer(types: frozenset[str]) -> bool:
    """Whether of all numbers only integers are meant."""
    return "integer" in types and "number" not in types


def type_of(value: Json) -> str:
    """The JSON type of a value; ``integer`` only for what is written as one."""
    return _TYPE_OF[type(value)]


def _require_bounds(count: int, inner: list[tuple[Route, Json]]) -> None:
    if count > MAX_SUBSCHEMAS:
        message = (
            f"the schema has more than {MAX_SUBSCHEMAS} subschemas; use $defs and $ref, or split the tool"
        )
        raise invalid("schema-too-large", message)
    deep = next((route for route, _ in inner if len(route) > 2 * MAX_DEPTH), None)
    if deep:
        message = f"the schema is nested more than {MAX_DEPTH} deep; use $defs and $ref"
        raise invalid("schema-too-large", message, *deep)


@cache
def _shared(types: frozenset[str]) -> frozenset[str]:
    """One object for each of the few sets of types that there are."""
    return types


def _mapping(schema: Json, keyword: str) -> dict[str, Json]:
    value = schema.get(keyword) if isinstance(schema, dict) else None
    return value if isinstance(value, dict) else {}


def _with_integer(types: Iterable[str]) -> frozenset[str]:
    return frozenset(types) | ({"integer"} if "number" in types else set())
