"""A JMESPath syntax tree, compiled to functions once and applied to many documents, each within a budget.

Charging the budget at each node would cost as much as the node's work. So costs are charged in two ways:

- Fixed costs of a tree are summed up when it is compiled: ``Selection.steps`` and ``Selection.created``.
- Costs that depend on the document are charged before the work is done: for lists, for the second operand of
  ``||`` and ``&&``, for comparisons and for functions.
"""

import heapq
import math
import operator
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, TypeAlias

from jmespath.functions import Functions, signature

from bridge import codec
from bridge.spec import Json

MAX_RESULT_BYTES: Final = 4_000_000
_MAX_CREATED_BYTES: Final = 8_000_000

Node: TypeAlias = Any
"""A node of jmespath's parser: a dict of type, value and children."""

_JSON_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_CONSTANT_TIME: Final = frozenset({"length", "type", "to_array", "not_null"})
_SMALL_RESULT: Final = frozenset(
    [
        "abs",
        "avg",
        "ceil",
        "contains",
        "ends_with",
        "floor",
        "length",
        "starts_with",
        "sum",
        "to_number",
        "type",
    ],
)
"""Functions that return a number, a boolean or a type name."""
_MAX_SORTED_ITEMS: Final = 10_000
"""Longer lists are sorted in several runs and merged, because nothing can interrupt ``sorted``."""
_GROWING: Final = frozenset({"join", "to_string"})
"""Functions whose result has no fixed bound."""


class OverBudget(Exception):
    """The projection needs more steps or more memory than its budget."""


class Budget:
    """The steps and the memory that one application of a projection may use.

    A step is a visited node, a visited list entry, or 32 compared characters. ``created`` is the approximate
    number of bytes of new lists, objects and texts. Values may be shared, so a value that is small in memory can
    be huge as JSON: ``json_size`` measures that.
    """

    __slots__ = ("_created", "_steps")

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._created = _MAX_CREATED_BYTES

    def charge(self, steps: int, created: int = 0) -> None:
        self._steps -= steps
        self._created -= created
        if self._steps < 0 or self._created < 0:
            raise OverBudget

    def json_size(self, value: Json) -> int:
        """The approximate size of ``value`` as JSON in bytes. Shared values count each time they occur."""
        return self._json_size(value, {})

    def _json_size(self, value: Json, sizes: dict[int, int]) -> int:
        size = 0
        if isinstance(value, str):
            size = len(value)
        elif isinstance(value, int):
            size = value.bit_length() >> 2
        elif isinstance(value, list | dict):
            # ``value`` holds its parts while they are measured, so no id is used twice.
            size = sizes.get(id(value), 0)
            if not size:
                self.charge(1 + len(value))
                parts = value.values() if isinstance(value, dict) else value
                names = sum(map(len, value)) if isinstance(value, dict) else 0
                size = (
                    2
                    + _ENTRY_BYTES * len(value)
                    + names
                    + sum([self._json_size(part, sizes) for part in parts])
                )
                if size > 1000:  # small values are too many to remember, and cheap to measure again
                    sizes[id(value)] = size
        if size > MAX_RESULT_BYTES:
            raise OverBudget
        return size


_ENTRY_BYTES: Final = 4
"""Counted for each entry of a list or an object, in addition to its value."""

Select: TypeAlias = Callable[[Json, Budget], Json]


@dataclass(frozen=True, slots=True)
class Selection:
    """A compiled syntax tree: ``select`` with its fixed costs and the maximum size of its result.

    The caller of ``select`` charges ``steps`` and ``created``. As JSON, the result has at most ``factor`` times
    the size of the document, plus ``extra`` bytes. ``path`` is set if the tree consists of names only.
    """

    select: Select
    steps: int = 1
    created: int = 0
    factor: float = 1
    extra: float = 0
    path: tuple[str, ...] = ()

    @classmethod
    def compile(cls, node: Node) -> "Selection":
        """``node`` is the root of a tree that was checked."""
        return _COMPILERS[node["type"]](node)

    def apply(self, document: Json, steps: int, size: int | None) -> Json:
        """``size`` is the size of the document by ``json_size``, None if unknown. Raises ``OverBudget``."""
        budget = Budget(steps)
        budget.charge(self.steps, self.created)
        value = self.select(document, budget)
        # ``not <=``, as infinity times 0 is NaN, of which every comparison is false.
        if size is None or not self.factor * size + self.extra <= MAX_RESULT_BYTES:
            budget.json_size(value)  # raises OverBudget
        return value


class _Functions(Functions):
    """The library's functions. Two are replaced as their results may not be JSON, two as they hold the GIL too long."""

    @signature({"types": []})
    def _func_to_number(self, arg: Json) -> Json:
        if isinstance(arg, str):
            try:
                # int() and float() would also accept " 1", "1_0" and "infinity".
                return codec.decode(arg) if _JSON_NUMBER.fullmatch(arg) else None
            except codec.NotJson:
                return None
        return arg if isinstance(arg, int | float) and not isinstance(arg, bool) else None

    @signature({"types": ["array-string", "array-number"]})
    def _func_sort(self, arg: list[Json]) -> list[Json]:
        return _merge([sorted(run) for run in _runs(arg)])

    @signature({"types": ["array"]}, {"types": ["expref"]})
    def _func_sort_by(self, array: list[Json], expref: "_Expression") -> list[Json]:
        # From the table, as the name of the method is private.
        sort = Functions.FUNCTION_TABLE["sort_by"]["function"]
        # Each run has keys of one type. If two runs differ, merging them raises TypeError.
        return _merge([sort(self, run, expref) for run in _runs(array)], partial(expref.visit, None))

    @signature({"types": []})
    def _func_to_string(self, arg: Json) -> str:
        return arg if isinstance(arg, str) else codec.encode(arg).decode()


def _runs(items: list[Json]) -> Iterator[list[Json]]:
    return (items[start : start + _MAX_SORTED_ITEMS] for start in range(0, len(items), _MAX_SORTED_ITEMS))


def _merge(runs: list[list[Json]], key: Callable[[Json], Any] | None = None) -> list[Json]:
    """Sorted runs as one list; equal items keep their order."""
    return runs[0] if len(runs) == 1 else list(heapq.merge(*runs, key=key))


_FUNCTIONS: Final = _Functions()
FUNCTIONS: Final[Mapping[str, Mapping[str, Any]]] = _FUNCTIONS.FUNCTION_TABLE
"""All functions by name; ``signature`` holds the types of the parameters."""


class _Expression:
    """The value of ``&expression``. The library needs this class name, and ``visit``."""

    expression = None

    def __init__(self, inner: Selection, budget: Budget) -> None:
        self._inner = inner
        self._budget = budget

    def visit(self, _expression: None, value: Json) -> Json:
        self._budget.charge(self._inner.steps, self._inner.created)
        return self._inner.select(value, self._budget)


def _identity(_node: Node) -> Selection:
    return Selection(lambda value, _budget: value)


def _field(node: Node) -> Selection:
    # Documents contain U+FFFD in place of a lone surrogate, so names must, too.
    name = codec.clean(node["value"])
    # ``type() is``: decoded JSON has no subclasses, and this runs for each field of each entry.
    return Selection(lambda value, _budget: value.get(name) if type(value) is dict else None, path=(name,))


def _literal(node: Node) -> Selection:
    # As if it came from a reply: without lone surrogates.
    literal = codec.decode(codec.encode(node["value"]))
    # With more steps than any literal needs: an expression has at most 4096 characters.
    written = Budget(_MAX_CREATED_BYTES).json_size(literal)
    return Selection(lambda _value, _budget: literal, factor=0, extra=written)


def _index(node: Node) -> Selection:
    index = node["value"]

    def select(value: Json, _budget: Budget) -> Json:
        if type(value) is not list or not -len(value) <= index < len(value):
            return None
        return value[index]

    return Selection(select)


def _slice(node: Node) -> Selection:
    part = slice(*node["children"])

    def select(value: Json, budget: Budget) -> Json:
        if type(value) is not list:
            return None
        # A list takes about 60 bytes of memory, and 10 for each entry.
        budget.charge(len(value), 60 + 10 * len(value))
        return value[part]

    return Selection(select)


def _chain(node: Node) -> Selection:
    """Applies each child to the result of the child before."""
    first, *rest = map(Selection.compile, node["children"])
    for then in rest:
        first = Selection(
            partial(_then, first.select, then.select),
            first.steps + then.steps,
            first.created + then.created,
            first.factor * then.factor,
            # The result of ``first`` is the document of ``then``.
            first.extra * then.factor + then.extra,
            (*first.path, *then.path) if first.path and then.path else (),
        )
    return replace(first, steps=first.steps + 1)


def _then(first: Select, then: Select, value: Json, budget: Budget) -> Json:
    return then(first(value, budget), budget)


def _multi_select_dict(node: Node) -> Selection:
    names = [codec.clean(child["value"]) for child in node["children"]]
    inner = [Selection.compile(child["children"][0]) for child in node["children"]]
    pairs = [(name, each.select) for name, each in zip(names, inner, strict=True)]

    def select(value: Json, budget: Budget) -> Json:
        # Null gives null, not an object of nulls (JMESPath, multiselect-hash).
        return None if value is None else {name: part(value, budget) for name, part in pairs}

    paths = {name: each.path for name, each in zip(names, inner, strict=True) if each.path}
    best = _record(paths, select) if len(paths) == len(names) else select
    # An object takes about 100 bytes of memory, and 60 for each member.
    return _combine(inner, best, 100 + 60 * len(names), sum(map(len, names)))


def _record(paths: Mapping[str, tuple[str, ...]], otherwise: Select) -> Select:
    """A faster ``select`` for objects if all members are paths of names, as in most projections."""
    shallow = [(name, key) for name, (key, *deeper) in paths.items() if not deeper]
    nested = [(name, key, deeper) for name, (key, *deeper) in paths.items() if deeper]
    # Nested members are found last. This keeps them in the order of the expression.
    order = dict.fromkeys(paths) if nested else {}

    def select(value: Json, budget: Budget) -> Json:
        if type(value) is not dict:
            return otherwise(value, budget)
        get = value.get
        found: dict[str, Json] = order | {name: get(key) for name, key in shallow}
        for name, key, deeper in nested:
            part = get(key)
            for step in deeper:
                part = part.get(step) if type(part) is dict else None
            found[name] = part
        return found

    return select


def _multi_select_list(node: Node) -> Selection:
    inner = [Selection.compile(child) for child in node["children"]]
    parts = [each.select for each in inner]

    def select(value: Json, budget: Budget) -> Json:
        return None if value is None else [part(value, budget) for part in parts]

    return _combine(inner, select, 60 + 10 * len(parts), 0)


def _combine(inner: Sequence[Selection], select: Select, created: int, names: int) -> Selection:
    return Selection(
        select,
        1 + sum(each.steps for each in inner),
        created + sum(each.created for each in inner),
        sum(each.factor for each in inner),
        2 + names + sum(_ENTRY_BYTES + each.extra for each in inner),
    )


def _projection(node: Node) -> Selection:
    return _of_each(node, lambda base: base if type(base) is list else None)


def _value_projection(node: Node) -> Selection:
    return _of_each(node, lambda base: list(base.values()) if type(base) is dict else None)


def _of_each(node: Node, entries: Callable[[Json], list[Json] | None]) -> Selection:
    base, inner = map(Selection.compile, node["children"])

    def select(value: Json, budget: Budget) -> list[Json] | None:
        elements = entries(base.select(value, budget))
        return None if elements is None else _each(inner, elements, budget)

    return _over_entries(base, inner, select)


def _filter_projection(node: Node) -> Selection:
    base, inner, condition = map(Selection.compile, node["children"])

    def select(value: Json, budget: Budget) -> list[Json] | None:
        elements = base.select(value, budget)
        if type(elements) is not list:
            return None
        count = len(elements)
        budget.charge(count * condition.steps, 60 + (10 + condition.created) * count)
        test = condition.select
        return _each(inner, [each for each in elements if _is_true(test(each, budget))], budget)

    return _over_entries(base, inner, select)


def _each(inner: Selection, elements: Collection[Json], budget: Budget) -> list[Json]:
    count = len(elements)
    budget.charge(count * inner.steps, 60 + (10 + inner.created) * count)
    select = inner.select
    return [result for element in elements if (result := select(element, budget)) is not None]


def _over_entries(base: Selection, inner: Selection, select: Select) -> Selection:
    """A selection that applies ``inner`` to each entry of ``base``. Each entry takes ``_ENTRY_BYTES`` or more."""
    factor = inner.factor + (inner.extra + _ENTRY_BYTES) / _ENTRY_BYTES
    return Selection(select, base.steps + 1, base.created, base.factor * factor, base.extra * factor + 2)


def _flatten(node: Node) -> Selection:
    base = Selection.compile(node["children"][0])

    def select(value: Json, budget: Budget) -> list[Json] | None:
        elements = base.select(value, budget)
        if type(elements) is not list:
            return None
        nested = [len(element) for element in elements if type(element) is list]
        count = len(elements) - len(nested) + sum(nested)
        budget.charge(len(elements) + count, 60 + 10 * count)
        if not nested:
            return elements
        flat: list[Json] = []
        for element in elements:
            if type(element) is list:
                flat += element
            else:
                flat.append(element)
        return flat

    return replace(base, select=select, steps=base.steps + 1)


def _or(node: Node) -> Selection:
    return _choice(node, second_if=False)


def _and(node: Node) -> Selection:
    return _choice(node, second_if=True)


def _choice(node: Node, *, second_if: bool) -> Selection:
    """The first operand's value; the second operand's value if the truth of the first is ``second_if``."""
    first, second = map(Selection.compile, node["children"])

    def select(value: Json, budget: Budget) -> Json:
        chosen = first.select(value, budget)
        if _is_true(chosen) is second_if:
            budget.charge(second.steps, second.created)
            chosen = second.select(value, budget)
        return chosen

    factor, extra = max(first.factor, second.factor), max(first.extra, second.extra)
    return Selection(select, first.steps + 1, first.created, factor, extra)


def _not(node: Node) -> Selection:
    inner = Selection.compile(node["children"][0])
    return replace(inner, select=lambda value, budget: not _is_true(inner.select(value, budget)), factor=0)


def _are_equal(left: Json, right: Json) -> bool:
    return isinstance(left, bool) is isinstance(right, bool) and left == right  # in Python, True == 1


_COMPARATORS: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "eq": _are_equal,
    "ne": lambda left, right: not _are_equal(left, right),
    "lt": operator.lt,
    "lte": operator.le,
    "gt": operator.gt,
    "gte": operator.ge,
}


def _comparator(node: Node) -> Selection:
    left, right = map(Selection.compile, node["children"])
    compare = _COMPARATORS[node["value"]]
    is_order = node["value"] not in ("eq", "ne")

    def select(value: Json, budget: Budget) -> Json:
        one, other = left.select(value, budget), right.select(value, budget)
        if is_order and not _is_ordered(one, other):
            return None
        if type(one) is str and type(other) is str:
            budget.charge(min(len(one), len(other)) >> 5)
        # Python compares the entries only if both have the same length.
        elif isinstance(one, list | dict) and isinstance(other, list | dict) and len(one) == len(other):
            # 4 steps for each pair of entries: nothing can interrupt the comparison.
            budget.charge((budget.json_size(one) + budget.json_size(other)) >> 1)
        return compare(one, other)

    return Selection(select, left.steps + right.steps + 1, left.created + right.created, factor=0)


def _expref(node: Node) -> Selection:
    # Its costs are charged for each entry that it visits.
    inner = Selection.compile(node["children"][0])
    return replace(inner, select=lambda _value, budget: _Expression(inner, budget), steps=1, created=0)


def _function_expression(node: Node) -> Selection:
    name = node["value"]
    inner = [Selection.compile(child) for child in node["children"]]
    parameters = [each.select for each in inner]

    def select(value: Json, budget: Budget) -> Json:
        arguments = [parameter(value, budget) for parameter in parameters]
        if name not in _CONSTANT_TIME:
            _charge_function(name, arguments, budget)
        result = _FUNCTIONS.call_function(name, arguments)
        if isinstance(result, int | float):
            codec.encode(result)  # raises ValueError if JSON cannot express it, such as infinity as a sum
        return result

    selection = _combine(inner, select, 64, 0)
    # map(&expression, list): the result grows with the entries of the list.
    if name == "map":
        per_entry = _over_entries(inner[1], inner[0], select)
        return replace(selection, factor=per_entry.factor, extra=per_entry.extra)
    if name in _SMALL_RESULT:
        return replace(selection, factor=0, extra=40)
    return replace(selection, factor=math.inf) if name in _GROWING else selection


def _charge_function(name: str, arguments: list[Json], budget: Budget) -> None:
    """Charge for reading the arguments, and for a result of the same size."""
    texts = 0
    for argument in arguments:
        if isinstance(argument, list):
            texts = sum([len(part) for part in argument if isinstance(part, str)])
            budget.charge(len(argument) + (texts >> 5), 10 * len(argument))
        elif isinstance(argument, dict):
            budget.charge(len(argument), 60 * len(argument))
        elif isinstance(argument, str):
            budget.charge(len(argument) >> 5, len(argument))
    match name, arguments:
        case "join", [str(separator), list(parts)]:
            budget.charge(0, texts + len(separator) * len(parts))
        case "contains", [list(parts), list() | dict()]:
            budget.charge(budget.json_size(parts))  # 4 steps for each entry, as in a comparison
        case "to_string", [list() | dict() as whole]:
            budget.charge(0, 4 * budget.json_size(whole))  # for escapes, and for a copy as bytes


_COMPILERS: Final[Mapping[str, Callable[[Node], Selection]]] = {
    "and_expression": _and,
    "comparator": _comparator,
    "current": _identity,
    "expref": _expref,
    "field": _field,
    "filter_projection": _filter_projection,
    "flatten": _flatten,
    "function_expression": _function_expression,
    "identity": _identity,
    "index": _index,
    "index_expression": _chain,
    "literal": _literal,
    "multi_select_dict": _multi_select_dict,
    "multi_select_list": _multi_select_list,
    "not_expression": _not,
    "or_expression": _or,
    "pipe": _chain,
    "projection": _projection,
    "slice": _slice,
    "subexpression": _chain,
    "value_projection": _value_projection,
}


def _is_true(value: Json) -> bool:
    """False for empty texts, lists and objects, for false and null, but not for 0 (JMESPath, or-expressions)."""
    return bool(value) or (isinstance(value, int | float) and value is not False)


def _is_ordered(left: Json, right: Json) -> bool:
    # JMESPath orders only numbers. Like its library, this orders texts, too.
    kinds = {type(left), type(right)}
    return kinds == {str} or kinds <= {int, float}
