"""A JMESPath syntax tree as functions: made once, and then applied to many documents, each within a budget.

To count every node that is passed would cost as much as passing it. So what a tree takes is counted when
it is made. What depends on the document is charged where that shows, before it is done: lists, the second
half of ``||`` and ``&&``, comparisons and functions.
"""

import heapq
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, TypeAlias

from jmespath.functions import Functions, signature
from jmespath.visitor import TreeInterpreter

from bridge import codec
from bridge.spec import Json

MAX_RESULT: Final = 4_000_000
_MAX_CREATED: Final = 8_000_000

Node: TypeAlias = Any
"""A dict of type, value and children, as jmespath's parser makes it."""

_JSON_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_COMPARE: Final[Mapping[str, Callable[[Json, Json], bool]]] = TreeInterpreter.COMPARATOR_FUNC
_CONSTANT_TIME: Final = frozenset({"length", "type", "to_array", "not_null"})
_SMALL: Final = frozenset(
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
"""Functions whose results are numbers, truth values or a word."""
_RUN: Final = 10_000
"""Items that are sorted at once: nothing can interrupt that."""
_GROWING: Final = frozenset({"join", "to_string"})


class OverBudget(Exception):
    """More steps or more memory would be needed than there are."""


class Budget:
    """What one application may take.

    A step is a node that is passed, an entry that is gone through, or 32 characters of text that are
    compared. Created are the bytes of new lists, objects and texts, about. Parts may be shared, so what is
    small in memory may be huge when it is written or compared: ``written`` measures that.
    """

    __slots__ = ("_created", "_steps")

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._created = _MAX_CREATED

    def charge(self, steps: int, created: int = 0) -> None:
        self._steps -= steps
        self._created -= created
        if self._steps < 0 or self._created < 0:
            raise OverBudget

    def written(self, value: Json) -> int:
        """The bytes of ``value`` as JSON, about; parts that are shared count each time they stand there."""
        return self._written(value, {})

    def _written(self, value: Json, known: dict[int, int]) -> int:
        size = 0
        if isinstance(value, str):
            size = len(value)
        elif isinstance(value, int):
            size = value.bit_length() >> 2
        elif isinstance(value, list | dict):
            size = known.get(id(value), 0)
            if not size:
                self.charge(1 + len(value))
                parts = value.values() if isinstance(value, dict) else value
                names = sum(map(len, value)) if isinstance(value, dict) else 0
                size = 2 + _ENTRY * len(value) + names + sum([self._written(part, known) for part in parts])
                if size > 1000:  # of what is smaller there may be many, and little is shared in it
                    known[id(value)] = size
        if size > MAX_RESULT:
            raise OverBudget
        return size


_ENTRY: Final = 4
"""Bytes that each entry of a list or an object counts as written, beside what it holds."""

Select: TypeAlias = Callable[[Json, Budget], Json]


@dataclass(frozen=True, slots=True)
class Selection:
    """``select``, what that takes, and how large its result can be when it is written.

    Whoever calls it charges ``steps`` and ``created``. The result takes at most ``factor`` times what the
    document takes, and ``extra`` bytes. Of what selects by names alone, these are its ``path``.
    """

    select: Select
    steps: int = 1
    created: int = 0
    factor: float = 1
    extra: float = 0
    path: tuple[str, ...] = ()

    @classmethod
    def of(cls, node: Node) -> "Selection":
        """Of a syntax tree that was checked."""
        return _MAKERS[node["type"]](node)

    def apply(self, document: Json, steps: int, size: int | None) -> Json:
        """``size`` is what the document takes when it is written, if that is known. Raises ``OverBudget``."""
        budget = Budget(steps)
        budget.charge(self.steps, self.created)
        value = self.select(document, budget)
        if size is None or not self.factor * size + self.extra <= MAX_RESULT:
            budget.written(value)
        return value


class _Functions(Functions):
    """The library's own, but for two that say what JSON cannot, and two that hold the interpreter's lock too long."""

    @signature({"types": []})
    def _func_to_number(self, arg: Json) -> Json:
        if isinstance(arg, str):
            try:
                return codec.decode(arg) if _JSON_NUMBER.fullmatch(arg) else None
            except codec.NotJson:
                return None
        return arg if isinstance(arg, int | float) and not isinstance(arg, bool) else None

    @signature({"types": ["array-string", "array-number"]})
    def _func_sort(self, arg: list[Json]) -> list[Json]:
        return _merged([sorted(run) for run in _runs(arg)])

    @signature({"types": ["array"]}, {"types": ["expref"]})
    def _func_sort_by(self, array: list[Json], expref: "_Expression") -> list[Json]:
        sort = Functions.FUNCTION_TABLE["sort_by"]["function"]
        return _merged([sort(self, run, expref) for run in _runs(array)], partial(expref.visit, None))

    @signature({"types": []})
    def _func_to_string(self, arg: Json) -> str:
        return arg if isinstance(arg, str) else codec.encode(arg).decode()


def _runs(items: list[Json]) -> Iterator[list[Json]]:
    return (items[start : start + _RUN] for start in range(0, len(items), _RUN))


def _merged(runs: list[list[Json]], key: Callable[[Json], Any] | None = None) -> list[Json]:
    """Sorted runs as one; what is equal keeps its order."""
    return runs[0] if len(runs) == 1 else list(heapq.merge(*runs, key=key))


_FUNCTIONS: Final = _Functions()
FUNCTIONS: Final[Mapping[str, Mapping[str, Any]]] = _FUNCTIONS.FUNCTION_TABLE
"""All functions by name; what each takes is in ``signature``."""


class _Expression:
    """What ``&`` makes; the library knows it by this name, and by ``visit``."""

    expression = None

    def __init__(self, inner: Selection, budget: Budget) -> None:
        self._inner = inner
        self._budget = budget

    def visit(self, _expression: None, value: Json) -> Json:
        self._budget.charge(self._inner.steps, self._inner.created)
        return self._inner.select(value, self._budget)


# --- what each kind of node does ---


def _identity(_node: Node) -> Selection:
    return Selection(lambda value, _budget: value)


def _field(node: Node) -> Selection:
    name = codec.clean(node["value"])
    return Selection(lambda value, _budget: value.get(name) if type(value) is dict else None, path=(name,))


def _literal(node: Node) -> Selection:
    literal = codec.decode(codec.encode(node["value"]))
    written = Budget(_MAX_CREATED).written(literal)
    return Selection(lambda _value, _budget: literal, factor=0, extra=written)


def _index(node: Node) -> Selection:
    at = node["value"]

    def select(value: Json, _budget: Budget) -> Json:
        if type(value) is not list or not -len(value) <= at < len(value):
            return None
        return value[at]

    return Selection(select)


def _slice(node: Node) -> Selection:
    part = slice(*node["children"])

    def select(value: Json, budget: Budget) -> Json:
        if type(value) is not list:
            return None
        budget.charge(len(value), 60 + 10 * len(value))
        return value[part]

    return Selection(select)


def _chain(node: Node) -> Selection:
    """One after the other, each of what the one before selected."""
    first, *rest = map(Selection.of, node["children"])
    for then in rest:
        first = Selection(
            partial(_then, first.select, then.select),
            first.steps + then.steps,
            first.created + then.created,
            first.factor * then.factor,
            first.extra * then.factor + then.extra,
            (*first.path, *then.path) if first.path and then.path else (),
        )
    return replace(first, steps=first.steps + 1)


def _then(first: Select, then: Select, value: Json, budget: Budget) -> Json:
    return then(first(value, budget), budget)


def _multi_select_dict(node: Node) -> Selection:
    names = [codec.clean(child["value"]) for child in node["children"]]
    inner = [Selection.of(child["children"][0]) for child in node["children"]]
    pairs = [(name, each.select) for name, each in zip(names, inner, strict=True)]

    def select(value: Json, budget: Budget) -> Json:
        return None if value is None else {name: part(value, budget) for name, part in pairs}

    paths = {name: each.path for name, each in zip(names, inner, strict=True) if each.path}
    made = _record(paths, select) if len(paths) == len(names) else select
    return _made_of(inner, made, 100 + 60 * len(names), sum(map(len, names)))


def _record(paths: Mapping[str, tuple[str, ...]], otherwise: Select) -> Select:
    """The same for an object, where all is selected by names alone: most projections make such."""
    shallow = [(name, key) for name, (key, *deeper) in paths.items() if not deeper]
    nested = [(name, key, deeper) for name, (key, *deeper) in paths.items() if deeper]
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
    inner = [Selection.of(child) for child in node["children"]]
    parts = [each.select for each in inner]

    def select(value: Json, budget: Budget) -> Json:
        return None if value is None else [part(value, budget) for part in parts]

    return _made_of(inner, select, 60 + 10 * len(parts), 0)


def _made_of(inner: Sequence[Selection], select: Select, created: int, names: int) -> Selection:
    return Selection(
        select,
        1 + sum(each.steps for each in inner),
        created + sum(each.created for each in inner),
        sum(each.factor for each in inner),
        2 + names + sum(_ENTRY + each.extra for each in inner),
    )


def _projection(node: Node) -> Selection:
    return _of_each(node, lambda base: base if type(base) is list else None)


def _value_projection(node: Node) -> Selection:
    return _of_each(node, lambda base: list(base.values()) if type(base) is dict else None)


def _of_each(node: Node, entries: Callable[[Json], list[Json] | None]) -> Selection:
    base, inner = map(Selection.of, node["children"])

    def select(value: Json, budget: Budget) -> list[Json] | None:
        elements = entries(base.select(value, budget))
        return None if elements is None else _each(inner, elements, budget)

    return _over(base, inner, select)


def _filter_projection(node: Node) -> Selection:
    base, inner, condition = map(Selection.of, node["children"])

    def select(value: Json, budget: Budget) -> list[Json] | None:
        elements = base.select(value, budget)
        if type(elements) is not list:
            return None
        count = len(elements)
        budget.charge(count * condition.steps, 60 + (10 + condition.created) * count)
        test = condition.select
        return _each(inner, [each for each in elements if _is_true(test(each, budget))], budget)

    return _over(base, inner, select)


def _each(inner: Selection, elements: Collection[Json], budget: Budget) -> list[Json]:
    count = len(elements)
    budget.charge(count * inner.steps, 60 + (10 + inner.created) * count)
    select = inner.select
    return [result for element in elements if (result := select(element, budget)) is not None]


def _over(base: Selection, inner: Selection, select: Select) -> Selection:
    """Growth by entries, of which there are as many as what they take allows."""
    factor = inner.factor + (inner.extra + _ENTRY) / _ENTRY
    return Selection(select, base.steps + 1, base.created, base.factor * factor, base.extra * factor + 2)


def _flatten(node: Node) -> Selection:
    base = Selection.of(node["children"][0])

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
    return _choice(node, proceeds=False)


def _and(node: Node) -> Selection:
    return _choice(node, proceeds=True)


def _choice(node: Node, *, proceeds: bool) -> Selection:
    """The first, or the second where the first is true or is not, as ``proceeds`` says."""
    first, second = map(Selection.of, node["children"])

    def select(value: Json, budget: Budget) -> Json:
        chosen = first.select(value, budget)
        if _is_true(chosen) is proceeds:
            budget.charge(second.steps, second.created)
            chosen = second.select(value, budget)
        return chosen

    factor, extra = max(first.factor, second.factor), max(first.extra, second.extra)
    return Selection(select, first.steps + 1, first.created, factor, extra)


def _not(node: Node) -> Selection:
    inner = Selection.of(node["children"][0])
    return replace(inner, select=lambda value, budget: not _is_true(inner.select(value, budget)), factor=0)


def _comparator(node: Node) -> Selection:
    left, right = map(Selection.of, node["children"])
    compare = _COMPARE[node["value"]]
    is_order = node["value"] not in ("eq", "ne")

    def select(value: Json, budget: Budget) -> Json:
        one, other = left.select(value, budget), right.select(value, budget)
        if is_order and not _is_ordered(one, other):
            return None
        if type(one) is str and type(other) is str:
            budget.charge(min(len(one), len(other)) >> 5)
        elif isinstance(one, list | dict) and isinstance(other, list | dict) and len(one) == len(other):
            # 4 steps a pair of entries: one comparison of all of them runs, which nothing can interrupt.
            budget.charge((budget.written(one) + budget.written(other)) >> 1)
        return compare(one, other)

    return Selection(select, left.steps + right.steps + 1, left.created + right.created, factor=0)


def _expref(node: Node) -> Selection:
    inner = Selection.of(node["children"][0])
    return replace(inner, select=lambda _value, budget: _Expression(inner, budget), steps=1, created=0)


def _function_expression(node: Node) -> Selection:
    name = node["value"]
    inner = [Selection.of(child) for child in node["children"]]
    parameters = [each.select for each in inner]

    def select(value: Json, budget: Budget) -> Json:
        arguments = [parameter(value, budget) for parameter in parameters]
        if name not in _CONSTANT_TIME:
            _charge_function(name, arguments, budget)
        result = _FUNCTIONS.call_function(name, arguments)
        if isinstance(result, float) and not math.isfinite(result):
            raise ValueError("the result is past the range of a double")
        return result

    made = _made_of(inner, select, 64, 0)
    if name == "map":
        over = _over(inner[1], inner[0], select)
        return replace(made, factor=over.factor, extra=over.extra)
    if name in _SMALL:
        return replace(made, factor=0, extra=40)
    return replace(made, factor=math.inf) if name in _GROWING else made


def _charge_function(name: str, arguments: list[Json], budget: Budget) -> None:
    """A function goes through what it is given, and may make as much."""
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
            budget.charge(budget.written(parts))  # 4 steps an entry, as in a comparison
        case "to_string", [list() | dict() as whole]:
            budget.charge(0, 4 * budget.written(whole))  # escapes, and a copy as bytes


_MAKERS: Final[Mapping[str, Callable[[Node], Selection]]] = {
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
    """JMESPath, or-expressions: false are empty texts, lists and objects, false and null, but not 0."""
    return bool(value) or (isinstance(value, int | float) and value is not False)


def _is_ordered(left: Json, right: Json) -> bool:
    kinds = {type(left), type(right)}
    return kinds == {str} or kinds <= {int, float}
