"""JMESPath projections of replies, within a budget of steps and memory."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Final, Self

from jmespath.exceptions import JMESPathTypeError, ParseError
from jmespath.lexer import Lexer
from jmespath.parser import Parser

from bridge import codec
from bridge.diagnostics import Finding, Findings, InvalidSpec, did_you_mean, invalid
from bridge.errors import UnusableReply
from bridge.spec import Json
from bridge.tool.projection.hints import CLOSING, OPENING, Token, explain
from bridge.tool.projection.interpreter import FUNCTIONS, Node, OverBudget, Selection
from bridge.tool.schema.violations import excerpt

MAX_LENGTH: Final = 4096
MAX_NESTING: Final = 50
MAX_STEPS: Final = 1_000_000
QUICK_STEPS: Final = 10_000
"""At most some ten milliseconds: what may be done where others wait meanwhile."""
_MAX_TREE: Final = 100

_COMPARING: Final = frozenset({"eq", "ne", "lt", "lte", "gt", "gte"})
_NAMES: Final = frozenset({"quoted_identifier", "unquoted_identifier"})
_QUOTED: Final = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|`(?:\\.|[^`\\])*`""", re.DOTALL)
_PLAIN: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_WORDS: Final = re.compile(r"[\w .:-]{1,40}")
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


@dataclass(frozen=True, slots=True)
class Projection:
    """A JMESPath expression, ready to apply; ``warnings`` have no route, but an offset into it."""

    expression: str
    warnings: tuple[Finding, ...]

    @classmethod
    def compile(cls, expression: str) -> Self:
        """Raises ``InvalidSpec`` with the code bad-projection, and the offset where it is known."""
        return cls(expression, _warnings(expression))

    def apply(self, document: Json, steps: int = MAX_STEPS, *, size: int | None = None) -> Json:
        """What the expression selects of a decoded document, None for nothing.

        ``size`` is the bytes that the document was decoded from, if it was. The result shares its parts
        with the document. Raises ``UnusableReply``, and ``Unfinished`` where more than ``steps`` are needed.
        """
        try:
            # What is measured is more than the text: of [[[]]] 14 bytes, at most three times as much.
            return _selection(self.expression).apply(document, steps, None if size is None else 3 * size)
        except OverBudget as problem:
            if steps < MAX_STEPS:
                raise Unfinished from problem
            message = "The API's reply is too large for this tool's projection."
            advice = "Ask for less of it at a time."
            raise UnusableReply("projection-too-large", message, advice=advice) from problem
        except JMESPathTypeError as problem:
            raise _failed(_wrong_kind(problem)) from problem
        except (ValueError, TypeError, ArithmeticError, RecursionError) as problem:
            raise _failed("its values cannot be compared or computed with") from problem


@lru_cache(maxsize=4096)
def _warnings(expression: str) -> tuple[Finding, ...]:
    """What is doubted in an expression; raises what is wrong with it. Many tools share one."""
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
    return tuple(findings)


@lru_cache(maxsize=4096)
def _selection(expression: str) -> Selection:
    """Made when it is first applied, and kept while it is: most of thousands of tools are never called."""
    return Selection.of(Parser().parse(expression).parsed)


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


def _check_tree(tree: Node, tokens: Sequence[Token], findings: Findings) -> None:
    """What parses, but could never be applied."""
    waiting: list[tuple[Node, int, bool]] = [(tree, 0, False)]
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


def _calls(node: Node) -> Iterator[Node]:
    """The calls in the order in which they are written."""
    if node["type"] == "function_expression":
        yield node
    children = node["children"]
    if node["type"] == "filter_projection":
        children = [children[0], children[2], children[1]]
    if node["type"] != "slice":
        for child in children:
            yield from _calls(child)


def _check_call(call: Node, offset: int, offsets: Sequence[int], findings: Findings) -> None:
    """``offset`` is where the call begins, ``offsets`` where its parameters do."""
    name, given = call["value"], call["children"]
    if name not in FUNCTIONS:
        hint = did_you_mean(name, FUNCTIONS) or "; see https://jmespath.org"
        findings.error("bad-projection", f"{name}() is no function of JMESPath{hint}", offset=offset)
        return
    takes = FUNCTIONS[name]["signature"]
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


def _wrong_kind(problem: JMESPathTypeError) -> str:
    needs = " or ".join(_KINDS.get(kind, kind) for kind in problem.expected_types)
    return f"{problem.function_name}() needs {needs} and got {excerpt(problem.current_value)}"


def _failed(reason: str) -> UnusableReply:
    message = (
        f"The API's reply does not fit this tool's projection: {reason}. Tell the user to have it corrected."
    )
    return UnusableReply("projection-failed", message)
