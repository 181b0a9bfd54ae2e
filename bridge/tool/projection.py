"""JMESPath projections of replies, within a budget of steps and memory."""

import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, Self

from jmespath.exceptions import JMESPathTypeError, ParseError
from jmespath.functions import Functions, signature
from jmespath.lexer import Lexer
from jmespath.parser import Parser
from jmespath.visitor import Options, TreeInterpreter

from bridge import codec
from bridge.diagnostics import Finding, Findings, InvalidSpec, did_you_mean, invalid
from bridge.errors import UnusableReply
from bridge.spec import Json
from bridge.tool.departures import excerpt
from bridge.tool.slips import CLOSING, OPENING, Token, explain

MAX_LENGTH: Final = 4096
MAX_NESTING: Final = 50
MAX_STEPS: Final = 1_000_000
QUICK_STEPS: Final = 10_000
"""At most some ten milliseconds: what may be done where others wait meanwhile."""
MAX_RESULT: Final = 4_000_000
_MAX_CREATED: Final = 8_000_000
_MAX_TREE: Final = 100

_Node = Any  # a dict of type, value, children

_COMPARING: Final = frozenset({"eq", "ne", "lt", "lte", "gt", "gte"})
_NAMES: Final = frozenset({"quoted_identifier", "unquoted_identifier"})
_QUOTED: Final = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|`(?:\\.|[^`\\])*`""", re.DOTALL)
_PLAIN: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_WORDS: Final = re.compile(r"[\w .:-]{1,40}")
_JSON_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_CONSTANT_TIME: Final = frozenset({"length", "type", "to_array", "not_null"})
_TEXT_PARAMETERS: Final = {("join", 0), ("contains", 1), ("starts_with", 1), ("ends_with", 1)}
_KINDS: Final[Mapping[str, str]] = {
    "array-number": "a list of numbers",
    "array-string": "a list of texts",
    "array": "a list",
    "object": "an object",
    "string": "a text",
    "number": "a number",
    "expref": "an expression such as &name",
}


class Unfinished(Exception):
    """More steps are needed than the caller allowed, though no more than ``MAX_STEPS`` may be."""


class _OverBudget(Exception):
    pass


@dataclass(frozen=True, slots=True)
class Projection:
    """A JMESPath expression, ready to apply; ``warnings`` have no route, but an offset into it."""

    expression: str
    warnings: tuple[Finding, ...]
    _tree: _Node

    @classmethod
    def compile(cls, expression: str) -> Self:
        """Raises ``InvalidSpec`` with the code bad-projection, and the offset where it is known."""
        if len(expression) > MAX_LENGTH:
            raise _bad(f"the expression is longer than {MAX_LENGTH} characters; project less")
        _require_json_literals(expression)
        tokens: list[Token] = []
        try:
            for token in Lexer().tokenize(expression):
                tokens.append(token)  # noqa: PERF402 - what was read before an error tells what is meant
            _require_shallow(tokens)
            tree = Parser().parse(expression).parsed
        except ParseError as problem:
            raise _bad(*explain(expression, problem.lex_position, tokens)) from problem
        except (ValueError, LookupError, TypeError, RecursionError) as problem:
            raise _bad("the expression cannot be read; see https://jmespath.org and simplify it") from problem
        findings = Findings()
        _check_tree(tree, tokens, findings)
        _doubt_names(tokens, findings)
        findings.raise_errors()
        return cls(expression, tuple(findings), tree)

    def apply(self, document: Json, steps: int = MAX_STEPS) -> Json:
        """What the expression selects of a decoded document, None for nothing.

        The result shares its parts with the document. Raises ``UnusableReply``, and ``Unfinished``
        where more than ``steps`` are needed.
        """
        interpreter = _Interpreter(steps)
        try:
            value = interpreter.visit(self._tree, document)
            interpreter.written(value)
        except _OverBudget as problem:
            if steps < MAX_STEPS:
                raise Unfinished from problem
            message = "The API's reply is too large for this tool's projection."
            advice = "Ask for less of it at a time."
            raise UnusableReply("projection-too-large", message, advice=advice) from problem
        except JMESPathTypeError as problem:
            raise _failed(_wrong_kind(problem)) from problem
        except (ValueError, TypeError, ArithmeticError, RecursionError) as problem:
            raise _failed("its values cannot be compared or computed with") from problem
        return value


def is_nothing(selected: Json) -> bool:
    """Whether a projection found nothing but null, or made objects of it, as one does whose names are not the reply's."""
    items = selected if isinstance(selected, list) and selected else [selected]
    return all(item is None or _is_hollow(item) for item in items)


def _is_hollow(item: Json) -> bool:
    return isinstance(item, dict) and bool(item) and all(value is None for value in item.values())


def _bad(message: str, offset: int | None = None) -> InvalidSpec:
    return invalid("bad-projection", message, offset=offset)


def _require_json_literals(expression: str) -> None:
    """The library takes `x` for 'x' with a warning to nobody, and NaN for a number."""
    for quoted in _QUOTED.finditer(expression):
        text = quoted[0][1:-1].replace("\\`", "`")
        if quoted[0][0] == "`":
            try:
                codec.decode(text)
            except codec.NotJson as problem:
                advice = f"'{text}' for a text" if _WORDS.fullmatch(text) else 'texts in "double quotes"'
                message = f"expected JSON between backticks, but {problem}; write {advice}"
                raise _bad(message, quoted.start()) from problem


def _require_shallow(tokens: Sequence[Token]) -> None:
    depth = 0
    for token in tokens:
        depth += (token["type"] in OPENING) - (token["type"] in CLOSING)
        if depth > MAX_NESTING:
            raise _bad(f"the expression is nested more than {MAX_NESTING} deep; simplify it", token["start"])


def _check_tree(tree: _Node, tokens: Sequence[Token], findings: Findings) -> None:
    """What parses, but could never be applied; texts are made clean on the way."""
    waiting: list[tuple[_Node, int, bool]] = [(tree, 0, False)]
    for node, depth, is_parameter in waiting:
        children = node["children"]
        match node["type"]:
            case "slice":
                if children[2] == 0:
                    message = "a slice's step is not 0; write 1, or leave it out"
                    findings.error("bad-projection", message, offset=_where(tokens, _is_zero_step))
                continue
            case "expref" if not is_parameter:
                message = "& makes an expression for sort_by(), map() and the like alone; take it out"
                findings.error("bad-projection", message, offset=_where(tokens, _is_misplaced))
            case "literal":
                node["value"] = codec.decode(codec.encode(node["value"]))
            case "field" | "key_val_pair":
                node["value"] = codec.clean(node["value"])
        in_call = node["type"] == "function_expression"
        waiting += [(child, depth + 1, in_call) for child in children if depth <= _MAX_TREE]
    if waiting[-1][1] > _MAX_TREE:
        findings.error("bad-projection", "the expression has too many steps in a row; simplify it")
        return
    opened = [at for at, token in enumerate(tokens) if token["type"] == "lparen" and _is_call(tokens, at)]
    starts = {(there, index): tokens[at]["start"] for there, index, at in _parameters(tokens)}
    for call, at in zip(_calls(tree), opened, strict=True):
        offsets = [starts[at, index] for index in range(len(call["children"]))]
        _check_call(call, tokens[at - 1]["start"], offsets, findings)


def _where(tokens: Sequence[Token], is_it: Callable[[Token, Token], bool]) -> int | None:
    """The offset of the first token that is it, as the one before it tells."""
    return next((token["start"] for before, token in pairwise(tokens) if is_it(before, token)), None)


def _is_zero_step(before: Token, token: Token) -> bool:
    return (before["type"], token["type"], token["value"]) == ("colon", "number", 0)


def _is_misplaced(before: Token, token: Token) -> bool:
    return token["type"] == "expref" and before["type"] not in ("lparen", "comma")


def _is_call(tokens: Sequence[Token], at: int) -> bool:
    """Whether a ``(`` follows what it calls."""
    return at > 0 and tokens[at - 1]["type"] in ("unquoted_identifier", "rparen")


def _calls(node: _Node) -> Iterator[_Node]:
    """The calls in the order in which they are written."""
    if node["type"] == "function_expression":
        yield node
    children = node["children"]
    if node["type"] == "filter_projection":
        children = [children[0], children[2], children[1]]
    if node["type"] != "slice":
        for child in children:
            yield from _calls(child)


def _check_call(call: _Node, offset: int, offsets: Sequence[int], findings: Findings) -> None:
    """``offset`` is where the call begins, ``offsets`` where its parameters do."""
    name, given = call["value"], call["children"]
    table = _Functions.FUNCTION_TABLE
    if name not in table:
        hint = did_you_mean(name, table) or "; see https://jmespath.org"
        findings.error("bad-projection", f"{name}() is no function of JMESPath{hint}", offset=offset)
        return
    takes = table[name]["signature"]
    variadic = takes[-1].get("variadic", False)
    if len(given) < len(takes) or (len(given) > len(takes) and not variadic):
        expected = f"{'at least ' * variadic}{len(takes)} parameter{'s' * (len(takes) > 1)}"
        message = f"{name}() is given {len(given)}, expected {expected}"
        findings.error("bad-projection", message, offset=offset)
        return
    for index, parameter in enumerate(given):
        is_expression = "expref" in takes[min(index, len(takes) - 1)]["types"]
        if is_expression != (parameter["type"] == "expref"):
            what = "an expression; put & before it" if is_expression else "a value; take the & off"
            message = f"parameter {index + 1} of {name}() is {what}"
            findings.error("bad-projection", message, offset=offsets[index])


def _doubt_names(tokens: Sequence[Token], findings: Findings) -> None:
    """Keys that were probably meant as values; JMESPath silently selects nothing."""
    for at, token in enumerate(tokens):
        if token["type"] in _COMPARING:
            left, right = tokens[at - 1], tokens[at + 1]
            two_names = {left["type"], right["type"]} <= _NAMES
            if tokens[at - 2]["type"] != "dot":
                _doubt_name(left, findings, quoted=two_names and bool(_PLAIN.fullmatch(left["value"])))
            if tokens[at + 2]["type"] not in ("dot", "flatten", "filter", "lparen", "lbracket"):
                _doubt_name(right, findings, quoted=True)
    for opened, index, at in _parameters(tokens):
        named = (tokens[opened - 1]["value"], index) if opened and _is_call(tokens, opened) else None
        if named in _TEXT_PARAMETERS and tokens[at + 1]["type"] in ("comma", "rparen"):
            _doubt_name(tokens[at], findings, quoted=True)


def _doubt_name(token: Token, findings: Findings, *, quoted: bool) -> None:
    word = token["value"]
    if quoted and token["type"] == "quoted_identifier":
        message = f"\"{word}\" in double quotes is a key, not a text; write '{word}' for the text"
        findings.warn("quoted-identifier", message, offset=token["start"])
    if token["type"] == "unquoted_identifier" and word in ("true", "false", "null"):
        findings.warn(
            "bare-literal", f"{word} is a key here; write `{word}` for the value", offset=token["start"]
        )


def _parameters(tokens: Sequence[Token]) -> Iterator[tuple[int, int, int]]:
    """What stands in brackets: of which opening token, its index from 0, and the token with which it begins."""
    calls: list[tuple[int, int]] = []
    for at, token in enumerate(tokens):
        if token["type"] in OPENING:
            calls.append((at, 0))
        elif token["type"] in CLOSING:
            calls.pop()
        elif token["type"] == "comma":
            calls[-1] = (calls[-1][0], calls[-1][1] + 1)
        if token["type"] in ("lparen", "comma"):
            yield *calls[-1], at + 1


class _Functions(Functions):
    """The library's own, but for two that say what JSON cannot."""

    @signature({"types": []})
    def _func_to_number(self, arg: Json) -> Json:
        if isinstance(arg, str):
            try:
                return codec.decode(arg) if _JSON_NUMBER.fullmatch(arg) else None
            except codec.NotJson:
                return None
        return arg if isinstance(arg, int | float) and not isinstance(arg, bool) else None

    @signature({"types": []})
    def _func_to_string(self, arg: Json) -> str:
        return arg if isinstance(arg, str) else codec.encode(arg).decode()


class _Interpreter(TreeInterpreter):
    """Counts what it does and, before it makes anything large, what that will take.

    A step is a node that is visited, an entry that is gone through, or 32 characters of text that
    pass. Created are the bytes of new lists, objects and texts, about. Parts may be shared, so what
    is small in memory may be huge when it is written or compared: ``written`` measures that.
    """

    def __init__(self, steps: int) -> None:
        self._own = _Functions()
        super().__init__(Options(custom_functions=self._own))
        self._steps = steps
        self._created = _MAX_CREATED

    def visit(self, node: _Node, *args: Any, **kwargs: Any) -> Any:
        value = _VISITS[node["type"]](self, node, *args, **kwargs)
        self._steps -= 1 + (len(value) >> 5) if type(value) is str else 1
        if self._steps < 0:
            raise _OverBudget
        return value

    def visit_multi_select_dict(self, node: _Node, value: Json) -> Json:
        self._create(100 + 60 * len(node["children"]))
        return super().visit_multi_select_dict(node, value)

    def visit_multi_select_list(self, node: _Node, value: Json) -> Json:
        self._create(60 + 10 * len(node["children"]))
        return super().visit_multi_select_list(node, value)

    def visit_projection(self, node: _Node, value: Json) -> list[Json] | None:
        elements = self.visit(node["children"][0], value)
        return self._each(node, elements) if isinstance(elements, list) else None

    def visit_value_projection(self, node: _Node, value: Json) -> list[Json] | None:
        elements = self.visit(node["children"][0], value)
        return self._each(node, elements.values()) if isinstance(elements, dict) else None

    def visit_filter_projection(self, node: _Node, value: Json) -> list[Json] | None:
        elements = self.visit(node["children"][0], value)
        if not isinstance(elements, list):
            return None
        self._create(60 + 10 * len(elements))
        condition = node["children"][2]
        return self._each(node, [e for e in elements if _is_true(self.visit(condition, e))])

    def _each(self, node: _Node, elements: Collection[Json]) -> list[Json]:
        self._create(60 + 10 * len(elements))
        right = node["children"][1]
        return [result for element in elements if (result := self.visit(right, element)) is not None]

    def visit_flatten(self, node: _Node, value: Json) -> list[Json] | None:
        elements = self.visit(node["children"][0], value)
        if not isinstance(elements, list):
            return None
        count = sum(len(element) if isinstance(element, list) else 1 for element in elements)
        self._spend(len(elements) + count)
        self._create(60 + 10 * count)
        lists = (element if isinstance(element, list) else [element] for element in elements)
        return [inner for element in lists for inner in element]

    def visit_slice(self, node: _Node, value: Json) -> list[Json] | None:
        if isinstance(value, list):
            self._spend(len(value))
            self._create(60 + 10 * len(value))
        sliced: list[Json] | None = super().visit_slice(node, value)
        return sliced

    def visit_comparator(self, node: _Node, value: Json) -> Json:
        left, right = (self.visit(child, value) for child in node["children"])
        compare = self.COMPARATOR_FUNC[node["value"]]
        if node["value"] in ("eq", "ne"):
            if isinstance(left, list | dict) and isinstance(right, list | dict) and len(left) == len(right):
                self._spend((self.written(left) + self.written(right)) >> 3)
            return compare(left, right)
        return compare(left, right) if _is_ordered(left, right) else None

    def visit_function_expression(self, node: _Node, value: Json) -> Json:
        arguments = [self.visit(child, value) for child in node["children"]]
        self._create(64)
        if node["value"] not in _CONSTANT_TIME:
            self._charge(node["value"], arguments)
        result = self._own.call_function(node["value"], arguments)
        if isinstance(result, float) and not math.isfinite(result):
            raise ValueError("the result is past the range of a double")
        return result

    def _charge(self, function: str, arguments: list[Json]) -> None:
        """A function goes through what it is given, and may make as much."""
        texts = 0
        for argument in arguments:
            if isinstance(argument, list):
                texts = sum([len(part) for part in argument if isinstance(part, str)])
                self._spend(len(argument) + (texts >> 5))
                self._create(10 * len(argument))
            elif isinstance(argument, dict):
                self._spend(len(argument))
                self._create(60 * len(argument))
            elif isinstance(argument, str):
                self._create(len(argument))
        match function, arguments:
            case "join", [str(separator), list(parts)]:
                self._create(texts + len(separator) * len(parts))
            case "contains", [list(parts), list() | dict()]:
                self._spend(self.written(parts) >> 3)
            case "to_string", [list() | dict() as whole]:
                self._create(4 * self.written(whole))  # escapes, and a copy as bytes

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
                self._spend(1 + len(value))
                parts = value.values() if isinstance(value, dict) else value
                names = sum(map(len, value)) if isinstance(value, dict) else 0
                size = 2 + 4 * len(value) + names + sum([self._written(part, known) for part in parts])
                if size > 1000:  # of what is smaller there may be many, and little is shared in it
                    known[id(value)] = size
        if size > MAX_RESULT:
            raise _OverBudget
        return size

    def _spend(self, steps: int) -> None:
        self._steps -= steps
        if self._steps < 0:
            raise _OverBudget

    def _create(self, size: int) -> None:
        self._created -= size
        if self._created < 0:
            raise _OverBudget


_VISITS: Final[Mapping[str, Callable[..., Any]]] = {
    name.removeprefix("visit_"): getattr(_Interpreter, name)
    for name in dir(_Interpreter)
    if name.startswith("visit_")
}


def _is_true(value: Json) -> bool:
    """JMESPath, or-expressions: false are empty texts, lists and objects, false and null, but not 0."""
    return bool(value) or (isinstance(value, int | float) and value is not False)


def _is_ordered(left: Json, right: Json) -> bool:
    kinds = {type(left), type(right)}
    return kinds == {str} or kinds <= {int, float}


def _wrong_kind(problem: JMESPathTypeError) -> str:
    needs = " or ".join(_KINDS.get(kind, kind) for kind in problem.expected_types)
    return f"{problem.function_name}() needs {needs} and got {excerpt(problem.current_value)}"


def _failed(reason: str) -> UnusableReply:
    message = (
        f"The API's reply does not fit this tool's projection: {reason}. Tell the user to have it corrected."
    )
    return UnusableReply("projection-failed", message)
