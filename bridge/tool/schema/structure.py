"""The structure of a JSON Schema: its subschemas, the targets of its references, the names of its properties.

Nothing here validates a value. A *route* is the keys and indices from the root to a subschema. A subschema is
*in place* if it applies to the same value as its parent (JSON Schema 2020-12, core, 10.2). Others apply to children
of the value.

| Schema | Route of the subschema | Applies to |
|---|---|---|
| ``{"properties": {"a": {…}}}`` | ``("properties", "a")`` | a child |
| ``{"allOf": [{…}]}`` | ``("allOf", 0)`` | the same value: in place |
| ``{"$ref": "#/$defs/x", "$defs": {"x": {…}}}`` | ``("$defs", "x")`` | the same value, because of ``$ref`` |

Walks over subschemas use a list that grows while a ``for`` reads it. They cannot recurse: a chain of references may be
longer than Python's stack.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Final
from urllib.parse import unquote

from bridge.diagnostics import Route, invalid
from bridge.spec import Json

MAX_DEPTH: Final = 32
"""Levels of subschemas. Bounded are the steps of a route, at two for each level, as in ``properties/a``."""
MAX_SUBSCHEMAS: Final = 2000


def _keywords(names: str) -> frozenset[str]:
    return frozenset(names.split())


_WITH_SUBSCHEMA: Final = _keywords("""
    items contains additionalItems additionalProperties unevaluatedItems unevaluatedProperties propertyNames
    not if then else contentSchema
""")
"""Keywords whose value may be a subschema."""
_WITH_LIST: Final = _keywords("allOf anyOf oneOf prefixItems items")
"""Keywords whose value may be a list of subschemas."""
_WITH_MAPPING: Final = _keywords(
    "properties patternProperties dependentSchemas dependencies $defs definitions"
)
"""Keywords whose value may be a mapping of names to subschemas."""
_WITH_SUBSCHEMAS: Final = _WITH_SUBSCHEMA | _WITH_LIST | _WITH_MAPPING
_WITHOUT_SUBSCHEMAS: Final = _keywords("""
    $schema $id $ref $anchor $dynamicRef $dynamicAnchor $vocabulary $comment
    type enum const multipleOf maximum exclusiveMaximum minimum exclusiveMinimum maxLength minLength pattern
    maxItems minItems uniqueItems maxContains minContains maxProperties minProperties required
    dependentRequired title description default deprecated readOnly writeOnly examples format
    contentEncoding contentMediaType
""")
KEYWORDS: Final = _WITH_SUBSCHEMAS | _WITHOUT_SUBSCHEMAS
"""All keywords of the supported drafts: 06, 07, 2019-09 and 2020-12."""

_REFERENCES: Final = ("$ref", "$dynamicRef")
_IN_PLACE: Final = _keywords("allOf anyOf oneOf not if then else dependentSchemas dependencies")
_ALL_APPLY: Final = frozenset({*_REFERENCES, "allOf"})
"""A valid value matches all subschemas in place below these keywords."""
_ONE_APPLIES: Final = frozenset({"anyOf", "oneOf"})
"""A valid value matches at least one subschema below these. The other keywords in place promise nothing."""
_INDEX: Final = re.compile(r"[0-9]{1,9}")  # int() refuses more than 4300 digits

TYPES: Final = frozenset({"null", "boolean", "object", "array", "number", "string", "integer"})
_ALLOWED_BY_TYPE: Final = {
    name: frozenset({name, "integer"} if name == "number" else {name}) for name in TYPES
}
"""The types allowed by ``type: name``. Integers are numbers, too."""
_NO_TYPES: Final = frozenset[str]()
_VALUE_KEYWORDS: Final = frozenset({"enum", "const"})

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
    """A schema that can be walked even if it is invalid.

    Raises ``InvalidSpec`` if it is deeper than ``MAX_DEPTH`` or has more than ``MAX_SUBSCHEMAS``.
    """

    __slots__ = ("_anchors", "_in_place", "_required", "_types", "root", "subschemas")

    def __init__(self, root: dict[str, Json]) -> None:
        self.root = root
        self.subschemas: dict[Route, Json] = {}
        """Every subschema (an object or a boolean) by its route; the root comes first."""
        self._in_place: dict[Route, list[tuple[str, Route]]] = {}
        self._anchors: dict[str, Route] = {}
        self._required: dict[Route, frozenset[str]] = {}
        self._types: dict[Route, frozenset[str]] = {}
        self._add_subschemas()
        # In a second walk, as a reference may point to a subschema that comes later.
        self._add_references()

    def _add_subschemas(self) -> None:
        waiting: list[tuple[Route, Json]] = [((), self.root)]
        for route, schema in waiting:
            self.subschemas[route] = schema
            if not isinstance(schema, dict):
                continue
            inner = [((*route, *steps), subschema) for steps, subschema in direct_subschemas(schema)]
            waiting += inner
            _check_bounds(len(waiting), inner)
            # The step after ``route`` is the keyword: ``allOf`` in ``(*route, "allOf", 0)``.
            with_keywords = [(str(there[len(route)]), there) for there, _ in inner]
            if in_place := [each for each in with_keywords if each[0] in _IN_PLACE]:
                self._in_place[route] = in_place
            for keyword in ("$anchor", "$dynamicAnchor"):
                if keyword in schema:
                    self._anchors.setdefault(str(schema[keyword]), route)

    def _add_references(self) -> None:
        for route, schema in self.subschemas.items():
            for keyword in _REFERENCES:
                if isinstance(schema, dict) and (target := self.follow(schema.get(keyword))) is not None:
                    self._in_place.setdefault(route, []).append((keyword, target))

    def follow(self, reference: Json) -> Route | None:
        """The target of ``#``, ``#/pointer`` (RFC 6901) or ``#anchor``; None if that is not a subschema."""
        if not isinstance(reference, str) or not reference.startswith("#"):
            return None
        # A pointer in a fragment is percent-encoded (RFC 6901 6).
        fragment = unquote(reference[1:])
        if fragment and not fragment.startswith("/"):
            return self._anchors.get(fragment)
        route: Route = ()
        value: Json = self.root
        for step in fragment.split("/")[1:]:
            # In this order, so that ~01 becomes ~1 and not a slash (RFC 6901 4).
            key: str | int = step.replace("~1", "/").replace("~0", "~")
            if isinstance(value, list) and _INDEX.fullmatch(step):
                key = int(step)
            try:
                value = value[key]
            except (LookupError, TypeError):  # no such key or index; a name in a list; a step into a scalar
                return None
            route = (*route, key)
        return route if route in self.subschemas else None

    @property
    def has_references(self) -> bool:
        return any(keyword.startswith("$") for steps in self._in_place.values() for keyword, _ in steps)

    def in_place(self, route: Route) -> Sequence[tuple[str, Route]]:
        """The subschemas that apply to the same value, one step away, each with the keyword that leads to it."""
        return self._in_place.get(route, ())

    def everywhere_in_place(self, route: Route = ()) -> list[Route]:
        """``route`` and all subschemas that apply to the same value, each once, even if references form a cycle."""
        found = {route: None}
        waiting = [route]
        for here in waiting:
            new = dict.fromkeys(there for _, there in self.in_place(here) if there not in found)
            found |= new
            waiting += new
        return waiting

    def counts_in_place(self, routes: Iterable[Route]) -> dict[Route, int]:
        """The number of subschemas that ``everywhere_in_place`` finds for each of ``routes``."""
        # Each of n walks may visit n subschemas. Numbers in place of routes save time, as a long tuple is slow to hash.
        number = {route: index for index, route in enumerate(self.subschemas)}
        in_place = [[number[there] for _, there in self.in_place(route)] for route in self.subschemas]
        counts = {}
        for route in routes:
            waiting = [number[route]]
            found = set(waiting)
            for here in waiting:
                new = [there for there in in_place[here] if there not in found]
                found.update(new)
                waiting += new
            counts[route] = len(found)
        return counts

    def names(self, route: Route = ()) -> dict[str, list[Route]]:
        """The names of all ``properties`` of the subschemas in place, each with the routes to its own subschemas.

        Names below ``not`` are among them.
        """
        names: dict[str, list[Route]] = {}
        for here in self.everywhere_in_place(route):
            for name in _mapping(self.subschemas[here], "properties"):
                names.setdefault(name, []).append((*here, "properties", name))
        return names

    def required(self, route: Route = ()) -> frozenset[str]:
        """The properties that every valid value has, derived through references, allOf, anyOf and oneOf."""
        return self._derive(route, self._required, self._derive_required)

    def _derive_required(self, route: Route) -> frozenset[str]:
        schema = self.subschemas[route]
        if not isinstance(schema, dict):
            return frozenset()
        names = frozenset(schema.get("required", ()))
        for all_apply, group in self._groups(route):
            inner = [self._required.get(there, frozenset()) for there in group]
            names |= frozenset.union(*inner) if all_apply else frozenset.intersection(*inner)
        return names

    def types(self, route: Route) -> frozenset[str]:
        """The JSON types that a valid value may have; ``number`` always comes with ``integer``."""
        return self._derive(route, self._types, self._derive_types)

    def _derive_types(self, route: Route) -> frozenset[str]:
        schema = self.subschemas[route]
        if not isinstance(schema, dict):
            return TYPES
        type_name = schema.get("type")
        if isinstance(type_name, str) and route not in self._in_place and _VALUE_KEYWORDS.isdisjoint(schema):
            return _ALLOWED_BY_TYPE.get(
                type_name, _NO_TYPES
            )  # the most common schema, such as {"type": "string"}
        types = TYPES
        if "type" in schema:
            types &= _with_integer([type_name] if isinstance(type_name, str) else schema["type"])
        if not _VALUE_KEYWORDS.isdisjoint(schema):
            # If there are both, the types of enum are a superset of what is valid. That is enough here.
            types &= {type_of(value) for value in schema.get("enum", [schema.get("const")])}
        for all_apply, group in self._groups(route):
            inner = [self._types.get(there, TYPES) for there in group]
            types &= frozenset.intersection(*inner) if all_apply else frozenset.union(*inner)
        return _shared(types)

    def _derive(
        self, route: Route, known: dict[Route, frozenset[str]], derive: Callable[[Route], frozenset[str]]
    ) -> frozenset[str]:
        """``known[route]``. If it is not known, it is derived, but first those of all subschemas in place below it.

        A cycle of references has no first one. There, ``derive`` meets a subschema that is not known yet, and takes it
        for one that allows every value.
        """
        if route in known:
            return known[route]
        found = {route}
        waiting = [(route, iter(self.in_place(route)))]
        while waiting:
            here, targets = waiting[-1]
            new = next((there for _, there in targets if there not in found and there not in known), None)
            if new is None:
                known[here] = derive(here)
                waiting.pop()
            else:
                found.add(new)
                waiting.append((new, iter(self.in_place(new))))
        return known[route]

    def _groups(self, route: Route) -> Iterator[tuple[bool, list[Route]]]:
        """The subschemas in place by keyword, with True for a group of which all apply, and False if only one must."""
        groups: dict[str, list[Route]] = {}
        for keyword, there in self.in_place(route):
            groups.setdefault(keyword, []).append(there)
        for keyword, group in groups.items():
            if keyword in _ALL_APPLY:
                yield True, group
            elif keyword in _ONE_APPLIES:
                yield False, group


def direct_subschemas(schema: dict[str, Json]) -> Iterator[tuple[Route, Json]]:
    """The subschemas one level down, each after the steps that lead to it: a keyword, and for some a name or index."""
    for keyword, value in schema.items():
        if keyword not in _WITH_SUBSCHEMAS:
            continue
        members: Iterable[tuple[str | int, Json]] = ()
        # The value decides, too: items may be a schema or a list of them. What is neither is not walked, and
        # the meta-schema reports it.
        if isinstance(value, dict | bool) and keyword in _WITH_SUBSCHEMA:
            yield (keyword,), value
        elif isinstance(value, dict) and keyword in _WITH_MAPPING:
            members = value.items()
        elif isinstance(value, list) and keyword in _WITH_LIST:
            members = enumerate(value)
        for step, subschema in members:
            # Others are the lists of names that dependencies may have up to draft-07.
            if isinstance(subschema, dict | bool):
                yield (keyword, step), subschema


def without_subschemas(schema: dict[str, Json]) -> dict[str | int, Json]:
    """A copy in which every direct subschema is replaced by ``true``."""
    # Lists and mappings are copied too: they belong to the schema, and are changed below.
    copy: dict[str | int, Json] = {
        key: value.copy() if isinstance(value, dict | list) else value for key, value in schema.items()
    }
    for (keyword, *step), _ in direct_subschemas(schema):
        if step:
            copy[keyword][step[0]] = True
        else:
            copy[keyword] = True
    return copy


def has_only_integers(types: frozenset[str]) -> bool:
    """Whether integers are allowed, and no other numbers."""
    return "integer" in types and "number" not in types


def type_of(value: Json) -> str:
    """The JSON type of a value; ``5.0`` is a ``number``, not an ``integer``."""
    return _TYPE_OF[type(value)]


def _check_bounds(count: int, inner: list[tuple[Route, Json]]) -> None:
    """Raise ``InvalidSpec`` if there are too many subschemas, or too deep ones."""
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
    """An equal set that is shared, to save memory: few distinct sets occur."""
    return types


def _mapping(schema: Json, keyword: str) -> dict[str, Json]:
    value = schema.get(keyword) if isinstance(schema, dict) else None
    return value if isinstance(value, dict) else {}


def _with_integer(types: Iterable[str]) -> frozenset[str]:
    return frozenset(types) | ({"integer"} if "number" in types else set())
