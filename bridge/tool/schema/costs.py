"""What it costs at most to validate a value: bounded before the validator runs, as nothing can interrupt it.

The validator holds the interpreter's lock, so while it runs the event loop waits, in whatever thread it runs.
So its work is bounded twice, from what each keyword was measured to cost and with a margin:

- At load, for any value: nanoseconds for each value and for each byte. Arguments below ``Costs.free`` bytes are
  validated without another look; nearly all are.
- At a call, for this value: a walk in Python, which a thread can do while the event loop goes on. A *state* is the
  set of subschemas that look at one value, with how often each does; states are kept, so a value takes one step.
  To make a state takes time and memory: the event loop never does it, and what one walk may need has a limit.
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
"""What one validation may cost."""
QUICK_NS: Final = 5_000_000
"""What it may cost in the event loop's own thread."""
MAX_VISITS: Final = 10_000
"""How often one value may be looked at."""
MAX_PARTS: Final = 20_000
"""The parts of all states that one walk may pass. A part takes about 2 µs to make, and 400 bytes."""

_MAX_CHAIN: Final = 300
_VISIT_NS: Final = 15
_KEY_NS: Final = 60
_PATTERN_NS: Final = 100
_SCALAR_NS: Final = 15
_FLOAT_NS: Final = 3_000
_EXPONENT_NS: Final = 120
"""For each decimal place by which a float is away from 1, as it is compared exactly."""
_NESTED_NS: Final = 350
_UNIQUE_NS: Final = 200
_UNIQUE_FLOAT_NS: Final = 2_000
_UNIQUE_PAIR_NS: Final = 1_500
_UNEVALUATED_NS: Final = 350
_FORMAT_NS: Final = 300
_FORMAT_BYTE_NS: Final = 20
_LONG_BITS: Final = 63
"""Integers past these bits are slow: they are read as texts, and all have one hash."""
_LONG_DIGITS: Final = 19
_BITS_A_DIGIT: Final = 3.3
_DIGIT_NS: Final = 200
_MULTIPLE_DIGIT_NS: Final = 400
_LONG_OPERAND_DIGIT_NS: Final = 10
_HUGE_FLOAT: Final = 1e15
_HUGE_FLOAT_NS: Final = 2_000
_FLOAT_BYTE_NS: Final = 6_000
"""For each byte of a float, and for each number it is compared with."""

_BOUNDS: Final = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_ANY: Final = -1
"""The index of all items that have no schema of their own."""
_UNEVALUATED: Final = frozenset({"unevaluatedProperties", "unevaluatedItems"})
_ANY_KEY: Final = ("additionalProperties", "unevaluatedProperties")
_ANY_ITEM: Final = ("additionalItems", "unevaluatedItems", "contains")

SLOW_NUMBER: Final = re.compile(rb"[0-9](?:[.e]|[0-9]{18})")
"""Numbers that are slow to compare, floats and long integers, as JSON is written here."""

Entries: TypeAlias = dict[Route, int]
"""Subschemas, and how often each looks at a value."""
_Key: TypeAlias = tuple[str, str | int]
"""A kind and a name or an index: under these a state knows the states below."""
_NAMES: Final[_Key] = ("name", "")
_Inner: TypeAlias = Callable[..., "_State"]
"""Finds the state below: takes a state, a key, and the subschemas that look there."""


class TooCostly(Exception):
    """Validation could take too long. ``length``: the most characters of the one text that is too long, if it is one."""

    def __init__(self, length: int | None) -> None:
        super().__init__("validation could take too long")
        self.length = length


class _Own(NamedTuple):
    """What one subschema costs, without those inside it, in nanoseconds.

    ``numbers`` are those with which a number is compared exactly, ``bounds`` the others.
    """

    value: int = 0
    byte: int = 0
    digit: int = 0
    numbers: int = 0
    bounds: int = 0
    child: int = 0
    key_byte: int = 0
    max_length: int | None = None
    is_unique: bool = False
    times: int = 1
    """How often what looks at the same value in place is asked: twice where ``unevaluated…`` asks again."""


class _Bound(NamedTuple):
    """What looks at one value: how often, and its cost for the value, for each byte of text, and for each digit."""

    visits: int = 0
    value: int = 0
    byte: int = 0
    digit: int = 0
    numbers: int = 0
    bounds: int = 0

    def plus(self, other: "_Bound", times: int = 1) -> "_Bound":
        return _Bound(*[one + times * more for one, more in zip(self, other, strict=True)])

    def or_(self, other: "_Bound") -> "_Bound":
        """The larger of the two in every respect."""
        return _Bound(*map(max, self, other))


@dataclass(slots=True, eq=False)
class _State:
    """All that looks at one value. It is complete before it is shared: threads read it at the same time."""

    is_idle: bool
    """Whether nothing looks at the value, nor at what is in it."""
    unique: int
    """In how many lists it stands whose items must differ."""
    parts: int
    """How large it is: the subschemas that look at the value, and those for what is in it."""
    value: int = 0
    byte: int = 0
    digit: int = 0
    numbers: int = 0
    bounds: int = 0
    child: int = 0
    key_byte: int = 0
    max_length: int | None = None
    members: dict[str, Entries] = field(default_factory=dict)
    any_member: Entries = field(default_factory=dict)
    names: Entries = field(default_factory=dict)
    positions: dict[int, Entries] = field(default_factory=dict)
    any_item: Entries = field(default_factory=dict)
    unique_inside: int = 0
    known: dict[_Key, "_State"] = field(default_factory=dict)

    def entries_for(self, kind: str, key: str | int) -> Entries:
        """Where the subschemas of one kind are kept; see ``Costs._inside``."""
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
    """The costs of one schema; ``pattern_ns`` says what a pattern costs for each byte."""

    def __init__(self, schema: Schema, pattern_ns: Callable[[str], int]) -> None:
        self._schema = schema
        self._pattern_ns = pattern_ns
        around = schema.counts_in_place(route for route in schema.positions if self._is_unevaluated(route))
        self._own = {route: self._own_costs(route, around.get(route, 0)) for route in schema.positions}
        self._bounds: dict[Route, _Bound] = {}
        self._open: set[Route] = set()
        self._cycles: set[tuple[Route, Route]] = set()
        self._states: dict[tuple[frozenset[tuple[Route, int]], int], _State] = {}
        self.kept = 0
        """The parts of the states that are kept."""
        self.bound = self._whole_bound()
        self._rank = {route: rank for rank, route in enumerate(self._bounds)}
        """Subschemas that look at the same value have a lower rank than what leads to them, cycles apart."""

    # --- at load ---

    @property
    def free(self) -> int:
        """The bytes of JSON that are cheap to validate if they hold no ``SLOW_NUMBER``."""
        return int(QUICK_NS / self._byte_ns)

    @property
    def always_free(self) -> int:
        """The bytes of JSON that are cheap to validate, whatever they hold."""
        numbers = self.bound.numbers * _FLOAT_BYTE_NS + self.bound.bounds * _HUGE_FLOAT_NS // 4
        free = int(QUICK_NS / (self._byte_ns + self.bound.digit + numbers))
        has_unique = any(own.is_unique for own in self._own.values())
        return min(free, int(_LONG_DIGITS * (QUICK_NS / _UNIQUE_PAIR_NS) ** 0.5)) if has_unique else free

    @property
    def _byte_ns(self) -> float:
        # Every value of a list or object takes two bytes at least, with its comma.
        return max(1, self.bound.value / 2 + self.bound.byte)

    @property
    def longest(self) -> int:
        """The bytes of text that can be validated in any place."""
        return LIMIT_NS // max(self.bound.byte, 1)

    def _is_unevaluated(self, route: Route) -> bool:
        schema = self._schema.positions[route]
        return isinstance(schema, dict) and not schema.keys().isdisjoint(_UNEVALUATED)

    def _own_costs(self, route: Route, around: int) -> _Own:
        """``around``: the subschemas that ``unevaluated…`` asks about each child, 0 where it is not used."""
        schema = self._schema.positions[route]
        if not isinstance(schema, dict):
            return _Own(value=_VISIT_NS)
        value, byte, child = _VISIT_NS * (1 + len(schema)), 0, 0
        options = [*schema.get("enum", ()), *([schema["const"]] if "const" in schema else [])]
        value += sum(map(_compared_ns, options))
        operands = [schema[keyword] for keyword in _BOUNDS if keyword in schema]
        bounds = sum(_is_short_integer(operand) for operand in operands)
        numbers = sum(map(_numbers, options)) + len(operands) - bounds
        digit = _DIGIT_NS * (numbers + bounds)
        if "multipleOf" in schema:
            operands.append(schema["multipleOf"])
            numbers += 1
            digit += _MULTIPLE_DIGIT_NS
        value += sum(map(_compared_ns, operands))
        if "format" in schema or "contentEncoding" in schema or "contentMediaType" in schema:
            value, byte = value + _FORMAT_NS, byte + _FORMAT_BYTE_NS
        if "pattern" in schema:
            value, byte = value + _PATTERN_NS, byte + self._pattern_ns(schema["pattern"])
        value += _VISIT_NS * 2 * len(schema.get("required", ()))
        for names in (schema.get("dependentRequired") or schema.get("dependencies") or {}).values():
            value += _VISIT_NS * 2 * (1 + (len(names) if isinstance(names, list) else 0))
        patterns = schema.get("patternProperties", {})
        key_byte = sum(map(self._pattern_ns, patterns))
        if "properties" in schema or patterns or not schema.keys().isdisjoint(_ANY_KEY):
            child += _KEY_NS + _PATTERN_NS * len(patterns)
        child += _UNEVALUATED_NS * around
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
            times=2 if around else 1,
        )

    def _whole_bound(self) -> _Bound:
        """What looks at any one value.

        A reference that closes a cycle looks at it once, as the library remembers what it said of a value.
        """
        total = self._bound((), 0)
        for _, there in self._cycles:
            total = total.plus(self._bounds[there])
        unique = sum(own.is_unique for own in self._own.values())
        return total.plus(_Bound(value=unique * _UNIQUE_NS + bool(unique) * _UNIQUE_FLOAT_NS))

    def _bound(self, route: Route, depth: int) -> _Bound:
        """What looks at one value that stands on one way down from ``route``."""
        if route in self._bounds:
            return self._bounds[route]
        if depth > _MAX_CHAIN:
            return _Bound(MAX_VISITS + 1)
        self._open.add(route)
        own = self._own[route]
        whole = _Bound(1, own.value + own.child, own.byte + own.key_byte, own.digit, own.numbers, own.bounds)
        for _, there in self._schema.in_place(route):
            if there in self._open:
                self._cycles.add((route, there))
            else:
                whole = whole.plus(self._bound(there, depth + 1), own.times)
        named = _Bound()
        for kind, _, there in self._inside(route):
            below = self._bound(there, depth + 1)
            if kind in ("member", "position"):
                named = named.or_(below)
            else:
                whole = whole.plus(below)
        if named.visits:
            whole = whole.plus(named)
        self._open.discard(route)
        self._bounds[route] = whole
        return whole

    def _inside(self, route: Route) -> Iterator[tuple[str, str | int, Route]]:
        """The subschemas for what is in the value: ``member`` and ``position`` are for one, the others for each."""
        schema = self._schema.positions[route]
        if isinstance(schema, dict):
            yield from _for_members(schema, route)
            yield from _for_items(schema, route)

    # --- at a call ---

    def require(self, value: Json, most: int = LIMIT_NS, route: Route = ()) -> None:
        """Raises ``TooCostly`` where to validate ``value`` could take longer than ``most`` nanoseconds.

        ``route`` leads to the subschema that it is validated against. What needs more than ``MAX_PARTS`` is too
        costly whatever is kept, so that equal values are treated equally.
        """
        if self.kept > MAX_PARTS:
            self._states, self.kept = {}, 0
        self._walk(value, most, self._state({route: 1}, 0), self._inner)

    def is_quick(self, value: Json) -> bool:
        """Whether ``value`` is surely validated within ``QUICK_NS``; no, where a state would have to be made."""
        root = self._states.get((frozenset({((), 1)}), 0))
        if root is None:
            return False
        try:
            self._walk(value, QUICK_NS, root, _known)
        except TooCostly:
            return False
        return True

    def _walk(self, value: Json, most: int, root: _State, inner: _Inner) -> None:
        spent, long_integers, parts = 0, 0, 0
        passed = set[_State]()
        # Iterators, not a list of what waits: the collector would go through that, and hold the interpreter.
        waiting: list[Iterator[tuple[Json, _State]]] = [iter([(value, root)])]
        while waiting:
            here, state = next(waiting[-1], (None, None))
            if state is None:
                waiting.pop()
                continue
            spent += state.value
            if state not in passed:
                passed.add(state)
                parts += state.parts
            if isinstance(here, str):
                spent += state.byte * _bytes(here)
                if spent > most:
                    raise TooCostly(_longest(state, most))
            elif isinstance(here, dict | list):
                spent += state.child * len(here)
                spent += _spent_on_names(here, state, inner) if isinstance(here, dict) else 0
                waiting.append(_below(here, state, inner))
            elif isinstance(here, float):
                spent += _float_ns(here, state)
            elif isinstance(here, int) and not _is_short_integer(here):
                spent += state.digit * _digits(here) + state.numbers * _compared_ns(here)
                long_integers += bool(state.unique)
                spent += 2 * _UNIQUE_PAIR_NS * long_integers
            if spent > most or parts > MAX_PARTS:
                raise TooCostly(None)

    def _inner(self, state: _State, key: _Key, *entries: Entries) -> _State:
        """The state below, made where it is not known yet."""
        inner = state.known.get(key)
        if inner is None:
            unique = state.unique + (state.unique_inside if key[0] == "item" else 0)
            together = {route: times for each in entries for route, times in each.items()}
            inner = state.known[key] = self._state(together, unique)
        return inner

    def _state(self, entries: Entries, unique: int) -> _State:
        """What looks at a value if ``entries`` do, which are reached from outside."""
        key = frozenset(entries.items()), unique
        state = self._states.get(key)
        if state is None:
            state = self._made(entries, unique)
            self._states[key] = state
            self.kept += state.parts
        return state

    def _made(self, entries: Entries, unique: int) -> _State:
        looks = self._looks(entries)
        is_idle = not entries and not unique
        state = _State(is_idle, unique, len(entries) + len(looks), value=_UNIQUE_NS * unique)
        for route, times in looks.items():
            own = self._own[route]
            state.value += own.value * times
            state.byte += own.byte * times
            state.digit += own.digit * times
            state.numbers += own.numbers * times
            state.bounds += own.bounds * times
            state.child += own.child * times
            state.key_byte += own.key_byte * times
            state.unique_inside += own.is_unique * times
            if own.max_length is not None:
                known = own.max_length if state.max_length is None else state.max_length
                state.max_length = min(own.max_length, known)
            for kind, key, there in self._inside(route):
                state.entries_for(kind, key)[there] = times
                state.parts += 1
        return state

    def _looks(self, entries: Entries) -> Entries:
        """How often each subschema looks at a value, those that ``entries`` lead to included.

        It takes a step for each reference, not one for each way through them: ways multiply.
        A reference that closes a cycle is followed once.
        """
        looks = dict(entries)
        waiting = list(entries)
        for here in waiting:
            for _, there in self._schema.in_place(here):
                if there not in looks:
                    looks[there] = 0
                    waiting.append(there)
                looks[there] += (here, there) in self._cycles
        for here in sorted(waiting, key=self._rank.__getitem__, reverse=True):
            times = looks[here] * self._own[here].times
            for _, there in self._schema.in_place(here):
                if (here, there) not in self._cycles:
                    looks[there] += times
        return looks


def _known(state: _State, key: _Key, *_entries: Entries) -> _State:
    """The state below, if it was made before; see ``Costs._inner``."""
    inner = state.known.get(key)
    if inner is None:
        raise TooCostly(None)
    return inner


def _below(
    value: dict[str, Json] | list[Json], state: _State, inner: _Inner
) -> Iterator[tuple[Json, _State]]:
    """What is in a value and looked at."""
    pairs: Iterator[tuple[Json, _State]]
    if isinstance(value, dict):
        pairs = ((member, _member(state, name, inner)) for name, member in value.items())
        if state.names:  # so that their state is one of those that are passed
            pairs = chain([(None, inner(state, _NAMES, state.names))], pairs)
    elif state.positions:
        pairs = ((item, _item(state, index, inner)) for index, item in enumerate(value))
    else:
        item_state = _item(state, _ANY, inner)
        pairs = ((item, item_state) for item in value) if not item_state.is_idle else iter(())
    return (pair for pair in pairs if not pair[1].is_idle)


def _spent_on_names(value: Mapping[str, Json], state: _State, inner: _Inner) -> int:
    if not state.key_byte and not state.names:
        return 0
    length = sum(map(_bytes, value))
    names = inner(state, _NAMES, state.names)
    return (state.key_byte + names.byte) * length + names.value * len(value)


def _member(state: _State, name: str, inner: _Inner) -> _State:
    if name not in state.members:
        return inner(state, ("any member", ""), state.any_member)
    return inner(state, ("member", name), state.members[name], state.any_member)


def _item(state: _State, index: int, inner: _Inner) -> _State:
    if index not in state.positions:
        return inner(state, ("item", _ANY), state.any_item)
    return inner(state, ("item", index), state.positions[index], state.any_item)


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
    """What a value costs where another is compared with it."""
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        return _NESTED_NS + sum(_NESTED_NS + _compared_ns(each) for each in inner)
    if isinstance(value, float):
        return _FLOAT_NS + int(_EXPONENT_NS * abs(math.log10(abs(value)))) if value else _FLOAT_NS
    if isinstance(value, int) and not _is_short_integer(value):
        return _FLOAT_NS + _LONG_OPERAND_DIGIT_NS * _digits(value)
    return _SCALAR_NS


def _numbers(value: Json) -> int:
    """The numbers in a value."""
    if isinstance(value, dict | list):
        return sum(map(_numbers, value.values() if isinstance(value, dict) else value))
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_short_integer(value: Json) -> bool:
    return isinstance(value, int) and value.bit_length() <= _LONG_BITS


def _digits(value: int) -> int:
    return int(value.bit_length() / _BITS_A_DIGIT)


def _longest(state: _State, most: int) -> int:
    """The characters of a text that a state allows."""
    longest = most // max(state.byte, 1)
    return longest if state.max_length is None else min(longest, state.max_length)
