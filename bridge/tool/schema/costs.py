"""The maximum cost of validating a value, computed before the validator runs, because nothing can interrupt it.

The validator holds the GIL. While it runs, the event loop waits, even if the validator runs in another thread.
So its cost is bounded twice. Both bounds come from measured costs of each keyword, with a margin:

- At load, for any value: nanoseconds for each value and for each byte. Values up to ``Costs.free_bytes`` need no
  further check. Nearly all arguments are that small.
- At a call, for the given value: a walk in Python. It can run in a thread while the event loop continues.

A *state* of this walk is the set of subschemas that apply to one value, with the number of times each applies.
States are cached, so that each value takes one step. Creating a state takes time and memory: the event loop never
does it, and one walk may use only ``MAX_STATE_PARTS``.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Final, NamedTuple, TypeAlias

from bridge.diagnostics import Route
from bridge.spec import Json
from bridge.tool.schema.structure import Schema

LIMIT_NS: Final = 25_000_000
"""The maximum cost of one validation."""
QUICK_NS: Final = 5_000_000
"""The maximum cost of one validation in the event loop's thread."""
MAX_VISITS: Final = 10_000
"""How often one value may be validated, by all subschemas together."""
MAX_STATE_PARTS: Final = 20_000
"""The maximum size of all states that one walk passes. Creating one part takes about 2 µs and 400 bytes."""

_MAX_CHAIN: Final = 300  # subschemas in a row, because the walk at load is recursive

# Measured costs of the library, in nanoseconds, with a margin.
_VISIT_NS: Final = 15  # each subschema that applies to a value, and each of its keywords
_KEY_NS: Final = 60  # each key of an object
_PATTERN_NS: Final = 100  # each search for a pattern, in addition to the bytes of the text
_FORMAT_NS: Final = 300  # each text with a format, in addition to its bytes
_FORMAT_BYTE_NS: Final = 20
_UNEVALUATED_NS: Final = 350  # each child of a value, for each subschema that may have evaluated it
_UNIQUE_NS: Final = 200  # each value inside a list with uniqueItems
_UNIQUE_FLOAT_NS: Final = 2_000  # the same, if it is a float
_UNIQUE_PAIR_NS: Final = 1_500  # each pair of long integers inside such a list
_SCALAR_NS: Final = 15  # each comparison with a value of the schema
_NESTED_NS: Final = 350  # the same, for an array or object and for each of its members
_FLOAT_NS: Final = 3_000  # the same, for a float or a long integer
_EXPONENT_NS: Final = 120  # and for each power of ten between the float and 1: floats are compared exactly
_LONG_OPERAND_DIGIT_NS: Final = 10  # and for each digit of the long integer
_DIGIT_NS: Final = 200  # each digit of a number, for each number of the schema that it is compared with
_MULTIPLE_DIGIT_NS: Final = 400  # in addition with multipleOf
_FLOAT_BYTE_NS: Final = 6_000  # each byte of a float, for each number of the schema that it is compared with
_HUGE_FLOAT: Final = 1e15
_HUGE_FLOAT_NS: Final = 2_000  # each comparison of a larger float with a bound that is a short integer

_LONG_BITS: Final = 63
"""Longer integers are slow: the library keeps them as strings, and all have the same hash."""
_LONG_DIGITS: Final = 19
_BITS_A_DIGIT: Final = 3.3

_BOUNDS: Final = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_ANY: Final = -1
"""The index that stands for all items that have no schema of their own."""
_UNEVALUATED: Final = frozenset({"unevaluatedProperties", "unevaluatedItems"})
_ANY_KEY: Final = ("additionalProperties", "unevaluatedProperties")
_ANY_ITEM: Final = ("additionalItems", "unevaluatedItems", "contains")

SLOW_NUMBER: Final = re.compile(rb"[0-9](?:[.e]|[0-9]{18})")
"""Finds numbers that are slow to compare (floats and long integers) in JSON from ``codec.encode``."""

Entries: TypeAlias = dict[Route, int]
"""The routes of subschemas, with how often each applies to a value."""
_Key: TypeAlias = tuple[str, str | int]
"""A kind, and a name or an index: the key of a child state."""
_NAMES: Final[_Key] = ("name", "")
_ChildOf: TypeAlias = Callable[..., "_State"]
"""Returns a child state, given a state, a key, and the subschemas that apply to the child."""


class TooCostly(Exception):
    """Validation could take too long. If one text is too long, ``max_length`` is the limit for it, in characters."""

    def __init__(self, max_length: int | None) -> None:
        super().__init__("validation could take too long")
        self.max_length = max_length


class _Own(NamedTuple):
    """The costs of one subschema, without its subschemas, for each value, byte, digit, child and key byte.

    ``numbers`` counts the operands that numbers are compared with exactly. ``bounds`` counts the others.
    """

    value_ns: int = 0
    byte_ns: int = 0
    digit_ns: int = 0
    numbers: int = 0
    bounds: int = 0
    child_ns: int = 0
    key_byte_ns: int = 0
    max_length: int | None = None
    is_unique: bool = False
    times: int = 1
    """How often subschemas in place are evaluated: twice if ``unevaluated…`` evaluates them again."""


class _Bound(NamedTuple):
    """The costs of all subschemas that apply to one value; fields as in ``_Own``, ``visits`` is their number."""

    visits: int = 0
    value_ns: int = 0
    byte_ns: int = 0
    digit_ns: int = 0
    numbers: int = 0
    bounds: int = 0

    def plus(self, other: "_Bound", times: int = 1) -> "_Bound":
        return _Bound(*[mine + times * others for mine, others in zip(self, other, strict=True)])

    def max_with(self, other: "_Bound") -> "_Bound":
        """The maximum of each field."""
        return _Bound(*map(max, self, other))


@dataclass(slots=True, eq=False)
class _State:
    """All subschemas that apply to one value. A state is complete before it is shared, as several threads read it."""

    is_empty: bool
    """Whether no subschema applies to the value or to anything inside it."""
    unique: int
    """The number of enclosing lists with ``uniqueItems``."""
    parts: int
    """The size: the number of subschemas that apply to the value and to its children."""
    value_ns: int = 0
    byte_ns: int = 0
    digit_ns: int = 0
    numbers: int = 0
    bounds: int = 0
    child_ns: int = 0
    key_byte_ns: int = 0
    max_length: int | None = None
    members: dict[str, Entries] = field(default_factory=dict)
    any_member: Entries = field(default_factory=dict)
    names: Entries = field(default_factory=dict)
    positions: dict[int, Entries] = field(default_factory=dict)
    any_item: Entries = field(default_factory=dict)
    unique_inside: int = 0
    children: dict[_Key, "_State"] = field(default_factory=dict)

    def entries_for(self, kind: str, key: str | int) -> Entries:
        """The subschemas of one kind; see ``Costs._inside`` for the kinds."""
        match kind, key:
            case "member", str(name):
                return self.members.setdefault(name, {})
            case "position", int(index):
                return self.positions.setdefault(index, {})
            case "name", _:
                return self.names
            case "any member", _:
                return self.any_member
        return self.any_item


class Costs:
    """The costs of one schema. ``pattern_ns`` returns the cost of a pattern in nanoseconds for each byte."""

    def __init__(self, schema: Schema, pattern_ns: Callable[[str], int]) -> None:
        self._schema = schema
        self._pattern_ns = pattern_ns
        in_place = schema.counts_in_place(route for route in schema.subschemas if self._is_unevaluated(route))
        self._own = {route: self._own_costs(route, in_place.get(route, 0)) for route in schema.subschemas}
        self._bounds: dict[Route, _Bound] = {}
        self._open: set[Route] = set()
        self._cycles: set[tuple[Route, Route]] = set()
        """The references that close a cycle, each with its target."""
        self._states: dict[tuple[frozenset[tuple[Route, int]], int], _State] = {}
        self.cached_parts = 0
        """The size of all cached states."""
        self.bound = self._total_bound()
        self._rank = {route: rank for rank, route in enumerate(self._bounds)}
        """A subschema in place has a lower rank than the subschema that leads to it, except in cycles."""

    @property
    def free_bytes(self) -> int:
        """JSON up to this size is cheap to validate if it contains no ``SLOW_NUMBER``."""
        return int(QUICK_NS / self._byte_ns)

    @property
    def always_free_bytes(self) -> int:
        """JSON up to this size is cheap to validate, whatever it contains."""
        # The shortest number above ``_HUGE_FLOAT`` takes four bytes, as 1e16.
        numbers = self.bound.numbers * _FLOAT_BYTE_NS + self.bound.bounds * _HUGE_FLOAT_NS // 4
        free = int(QUICK_NS / (self._byte_ns + self.bound.digit_ns + numbers))
        has_unique = any(own.is_unique for own in self._own.values())
        # n long integers make n² pairs and take at least 19 * n bytes.
        return min(free, int(_LONG_DIGITS * (QUICK_NS / _UNIQUE_PAIR_NS) ** 0.5)) if has_unique else free

    @property
    def _byte_ns(self) -> float:
        # Every value of a list or object takes at least two bytes, with its comma.
        return max(1, self.bound.value_ns / 2 + self.bound.byte_ns)

    @property
    def max_text_bytes(self) -> int:
        """A text up to this size can be validated at any place."""
        return LIMIT_NS // max(self.bound.byte_ns, 1)

    def _is_unevaluated(self, route: Route) -> bool:
        schema = self._schema.subschemas[route]
        return isinstance(schema, dict) and not schema.keys().isdisjoint(_UNEVALUATED)

    def _own_costs(self, route: Route, unevaluated: int) -> _Own:
        """``unevaluated`` is the number of subschemas that ``unevaluated…`` evaluates for each child, 0 without it."""
        schema = self._schema.subschemas[route]
        if not isinstance(schema, dict):
            return _Own(value_ns=_VISIT_NS)
        value, byte, child = _VISIT_NS * (1 + len(schema)), 0, 0
        # What each value is compared with.
        options = [*schema.get("enum", ()), *([schema["const"]] if "const" in schema else [])]
        value += sum(map(_compared_ns, options))
        operands = [schema[keyword] for keyword in _BOUNDS if keyword in schema]
        bounds = sum(_is_short_integer(operand) for operand in operands)
        numbers = sum(map(_count_numbers, options)) + len(operands) - bounds
        digit = _DIGIT_NS * (numbers + bounds)
        if "multipleOf" in schema:
            operands.append(schema["multipleOf"])
            numbers += 1
            digit += _MULTIPLE_DIGIT_NS
        value += sum(map(_compared_ns, operands))
        # What each byte of a text costs.
        if "format" in schema or "contentEncoding" in schema or "contentMediaType" in schema:
            value, byte = value + _FORMAT_NS, byte + _FORMAT_BYTE_NS
        if "pattern" in schema:
            value, byte = value + _PATTERN_NS, byte + self._pattern_ns(schema["pattern"])
        # What each object costs, and each of its keys.
        value += _VISIT_NS * 2 * len(schema.get("required", ()))
        # Members of dependencies may also be schemas: those are counted as subschemas in place.
        for names in (schema.get("dependentRequired") or schema.get("dependencies") or {}).values():
            value += _VISIT_NS * 2 * (1 + (len(names) if isinstance(names, list) else 0))
        patterns = schema.get("patternProperties", {})
        key_byte = sum(map(self._pattern_ns, patterns))
        if "properties" in schema or patterns or not schema.keys().isdisjoint(_ANY_KEY):
            child += _KEY_NS + _PATTERN_NS * len(patterns)
        child += _UNEVALUATED_NS * unevaluated
        return _Own(
            value,
            byte,
            digit,
            numbers,
            bounds,
            child,
            key_byte,
            schema.get("maxLength"),
            is_unique=schema.get("uniqueItems") is True,
            times=2 if unevaluated else 1,
        )

    def _total_bound(self) -> _Bound:
        """The bound for any value.

        A reference that closes a cycle counts once, because the library caches its result for a value.
        """
        total = self._bound((), 0)
        for _, there in self._cycles:
            total = total.plus(self._bounds[there])
        unique = sum(own.is_unique for own in self._own.values())
        return total.plus(_Bound(value_ns=unique * _UNIQUE_NS + bool(unique) * _UNIQUE_FLOAT_NS))

    def _bound(self, route: Route, depth: int) -> _Bound:
        """The bound for the value at ``route``, or for any one value below it."""
        if route in self._bounds:
            return self._bounds[route]
        if depth > _MAX_CHAIN:
            return _Bound(MAX_VISITS + 1)
        self._open.add(route)
        own = self._own[route]
        whole = _Bound(
            1,
            own.value_ns + own.child_ns,
            own.byte_ns + own.key_byte_ns,
            own.digit_ns,
            own.numbers,
            own.bounds,
        )
        for _, there in self._schema.in_place(route):
            if there in self._open:
                self._cycles.add((route, there))
            else:
                whole = whole.plus(self._bound(there, depth + 1), own.times)
        named = _Bound()
        for kind, _, there in self._inside(route):
            below = self._bound(there, depth + 1)
            # A child is at most one of the named members or positions: the costliest counts.
            # The other kinds apply to every child.
            if kind in ("member", "position"):
                named = named.max_with(below)
            else:
                whole = whole.plus(below)
        if named.visits:
            whole = whole.plus(named)
        self._open.discard(route)
        self._bounds[route] = whole
        return whole

    def _inside(self, route: Route) -> Iterator[tuple[str, str | int, Route]]:
        """The subschemas that apply to children of the value, as kind, key and route.

        ``member`` and ``position`` apply to one child. The other kinds apply to each child.
        """
        schema = self._schema.subschemas[route]
        if isinstance(schema, dict):
            yield from _for_members(schema, route)
            yield from _for_items(schema, route)

    def require(self, value: Json, limit_ns: int = LIMIT_NS, route: Route = ()) -> None:
        """Raises ``TooCostly`` if validating ``value`` against the subschema at ``route`` could exceed ``limit_ns``.

        Also raises it if the walk passes more than ``MAX_STATE_PARTS``. Cached states count too, so that the result
        does not depend on earlier calls.
        """
        if self.cached_parts > MAX_STATE_PARTS:
            # A walk in another thread is not affected: it holds its root, and states hold their children.
            self._states, self.cached_parts = {}, 0
        self._walk(value, limit_ns, self._state({route: 1}, 0), self._child)

    def is_quick(self, value: Json) -> bool:
        """Whether ``value`` is certainly validated within ``QUICK_NS``; False if a state is not cached."""
        root = self._states.get((frozenset({((), 1)}), 0))
        if root is None:
            return False
        try:
            self._walk(value, QUICK_NS, root, _cached_child)
        except TooCostly:
            return False
        return True

    def _walk(self, value: Json, limit_ns: int, root: _State, child_of: _ChildOf) -> None:
        spent_ns, long_integers, parts = 0, 0, 0
        passed = set[_State]()
        # Iterators, as the garbage collector would traverse a long list of pending values, holding the GIL.
        waiting: list[Iterator[tuple[Json, _State]]] = [iter([(value, root)])]
        while waiting:
            here, state = next(waiting[-1], (None, None))
            if state is None:
                waiting.pop()
                continue
            spent_ns += state.value_ns
            if state not in passed:
                passed.add(state)
                parts += state.parts
            if isinstance(here, str):
                spent_ns += state.byte_ns * _bytes(here)
                if spent_ns > limit_ns:
                    raise TooCostly(_max_length(state, limit_ns))
            elif isinstance(here, dict | list):
                spent_ns += state.child_ns * len(here)
                spent_ns += _names_ns(here, state, child_of) if isinstance(here, dict) else 0
                waiting.append(_children(here, state, child_of))
            elif isinstance(here, float):
                spent_ns += _float_ns(here, state)
            elif isinstance(here, int) and not _is_short_integer(here):
                spent_ns += state.digit_ns * _digits(here) + state.numbers * _compared_ns(here)
                # Long integers have one hash, so each is compared with all before it.
                long_integers += bool(state.unique)
                spent_ns += 2 * _UNIQUE_PAIR_NS * long_integers
            if spent_ns > limit_ns or parts > MAX_STATE_PARTS:
                raise TooCostly(None)

    def _child(self, state: _State, key: _Key, *entries: Entries) -> _State:
        """The child state, created if it is not cached."""
        child = state.children.get(key)
        if child is None:
            unique = state.unique + (state.unique_inside if key[0] == "item" else 0)
            merged = {route: times for each in entries for route, times in each.items()}
            child = state.children[key] = self._state(merged, unique)
        return child

    def _state(self, entries: Entries, unique: int) -> _State:
        """The state of a value to which ``entries`` apply from outside; subschemas in place are added."""
        key = frozenset(entries.items()), unique
        state = self._states.get(key)
        if state is None:
            state = self._create_state(entries, unique)
            self._states[key] = state
            self.cached_parts += state.parts
        return state

    def _create_state(self, entries: Entries, unique: int) -> _State:
        counts = self._with_in_place(entries)
        is_empty = not entries and not unique
        state = _State(is_empty, unique, len(entries) + len(counts), value_ns=_UNIQUE_NS * unique)
        for route, times in counts.items():
            own = self._own[route]
            state.value_ns += own.value_ns * times
            state.byte_ns += own.byte_ns * times
            state.digit_ns += own.digit_ns * times
            state.numbers += own.numbers * times
            state.bounds += own.bounds * times
            state.child_ns += own.child_ns * times
            state.key_byte_ns += own.key_byte_ns * times
            state.unique_inside += own.is_unique * times
            if own.max_length is not None:
                previous = own.max_length if state.max_length is None else state.max_length
                state.max_length = min(own.max_length, previous)
            for kind, key, there in self._inside(route):
                state.entries_for(kind, key)[there] = times
                state.parts += 1
        return state

    def _with_in_place(self, entries: Entries) -> Entries:
        """How often each subschema applies to a value: ``entries``, and all subschemas in place below them.

        This takes a step for each reference, not for each path through the references: the number of paths
        multiplies. A reference that closes a cycle is followed once.
        """
        counts = dict(entries)
        waiting = list(entries)
        for here in waiting:
            for _, there in self._schema.in_place(here):
                if there not in counts:
                    counts[there] = 0
                    waiting.append(there)
                counts[there] += (here, there) in self._cycles
        # Each count is complete before it is passed on, as what leads to a subschema has a higher rank.
        for here in sorted(waiting, key=self._rank.__getitem__, reverse=True):
            times = counts[here] * self._own[here].times
            for _, there in self._schema.in_place(here):
                if (here, there) not in self._cycles:
                    counts[there] += times
        return counts


def _cached_child(state: _State, key: _Key, *_entries: Entries) -> _State:
    """The child state; raises ``TooCostly`` if it is not cached. See ``Costs._child``."""
    child = state.children.get(key)
    if child is None:
        raise TooCostly(None)
    return child


def _children(
    value: dict[str, Json] | list[Json], state: _State, child_of: _ChildOf
) -> Iterator[tuple[Json, _State]]:
    """The children of a value to which a subschema applies, with their states."""
    pairs: Iterator[tuple[Json, _State]]
    if isinstance(value, dict):
        pairs = ((member, _member(state, name, child_of)) for name, member in value.items())
        if state.names:  # so that the walk passes their state, too
            pairs = chain([(None, child_of(state, _NAMES, state.names))], pairs)
    elif state.positions:
        pairs = ((item, _item(state, index, child_of)) for index, item in enumerate(value))
    else:
        item_state = _item(state, _ANY, child_of)
        # One state for all items: a long list without subschemas is not even walked.
        pairs = ((item, item_state) for item in value) if not item_state.is_empty else iter(())
    return (pair for pair in pairs if not pair[1].is_empty)


def _names_ns(value: Mapping[str, Json], state: _State, child_of: _ChildOf) -> int:
    if not state.key_byte_ns and not state.names:
        return 0
    length = sum(map(_bytes, value))
    names = child_of(state, _NAMES, state.names)
    return (state.key_byte_ns + names.byte_ns) * length + names.value_ns * len(value)


def _member(state: _State, name: str, child_of: _ChildOf) -> _State:
    if name not in state.members:
        return child_of(state, ("any member", ""), state.any_member)
    return child_of(state, ("member", name), state.members[name], state.any_member)


def _item(state: _State, index: int, child_of: _ChildOf) -> _State:
    if index not in state.positions:
        return child_of(state, ("item", _ANY), state.any_item)
    return child_of(state, ("item", index), state.positions[index], state.any_item)


def _for_members(schema: dict[str, Json], route: Route) -> Iterator[tuple[str, str | int, Route]]:
    for name in schema.get("properties", ()):
        yield "member", name, (*route, "properties", name)
    for pattern in schema.get("patternProperties", ()):
        yield "any member", pattern, (*route, "patternProperties", pattern)
    for keyword in _ANY_KEY:
        if keyword in schema:
            yield "any member", keyword, (*route, keyword)
    if "propertyNames" in schema:
        yield "name", "propertyNames", (*route, "propertyNames")


def _for_items(schema: dict[str, Json], route: Route) -> Iterator[tuple[str, str | int, Route]]:
    for keyword in ("prefixItems", "items"):
        items = schema.get(keyword)
        if isinstance(items, list):
            for index in range(len(items)):
                yield "position", index, (*route, keyword, index)
        elif items is not None:
            yield "any item", keyword, (*route, keyword)
    for keyword in _ANY_ITEM:
        if keyword in schema:
            yield "any item", keyword, (*route, keyword)


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


def _float_ns(value: float, state: _State) -> int:
    bound = _HUGE_FLOAT_NS if abs(value) > _HUGE_FLOAT else _SCALAR_NS
    unique = _UNIQUE_FLOAT_NS if state.unique else 0
    return state.numbers * _compared_ns(value) + state.bounds * bound + unique


def _compared_ns(value: Json) -> int:
    """The cost of comparing another value with this one."""
    if isinstance(value, dict | list):
        children = value.values() if isinstance(value, dict) else value
        return _NESTED_NS + sum(_NESTED_NS + _compared_ns(each) for each in children)
    if isinstance(value, float):
        return _FLOAT_NS + int(_EXPONENT_NS * abs(math.log10(abs(value)))) if value else _FLOAT_NS
    if isinstance(value, int) and not _is_short_integer(value):
        return _FLOAT_NS + _LONG_OPERAND_DIGIT_NS * _digits(value)
    return _SCALAR_NS


def _count_numbers(value: Json) -> int:
    """How many numbers a value contains."""
    if isinstance(value, dict | list):
        return sum(map(_count_numbers, value.values() if isinstance(value, dict) else value))
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_short_integer(value: Json) -> bool:
    return isinstance(value, int) and value.bit_length() <= _LONG_BITS


def _digits(value: int) -> int:
    return int(value.bit_length() / _BITS_A_DIGIT)


def _max_length(state: _State, limit_ns: int) -> int:
    """The maximum length of a text, in characters."""
    affordable = limit_ns // max(state.byte_ns, 1)
    return affordable if state.max_length is None else min(affordable, state.max_length)
