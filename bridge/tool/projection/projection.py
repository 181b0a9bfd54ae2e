"""JMESPath projections of replies: checked at load, applied within a budget of steps and memory."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Final, Self

import jmespath
from jmespath.exceptions import JMESPathTypeError, ParseError
from jmespath.lexer import Lexer  # not documented; only tokens have positions, which a diagnostic needs

from bridge import codec
from bridge.diagnostics import Finding, Findings, InvalidSpec, did_you_mean, invalid
from bridge.errors import UnusableReply
from bridge.spec import Json
from bridge.tool.projection.hints import CLOSING, OPENING, Token, explain
from bridge.tool.projection.interpreter import FUNCTIONS, Node, OverBudget, Selection
from bridge.tool.quoting import excerpt
from bridge.wording import count

MAX_CHARACTERS: Final = 4096
MAX_NESTING: Final = 50
MAX_STEPS: Final = 1_000_000
QUICK_STEPS: Final = 10_000
"""The budget in the event loop: these steps take at most about ten milliseconds."""
_MAX_TREE_DEPTH: Final = 100
_MAX_RESULT_DEPTH: Final = codec.MAX_DEPTH + MAX_NESTING
"""The nesting of arrays and objects in a result. ``codec.encode`` allows more."""

_COMPARATORS: Final = frozenset({"eq", "ne", "lt", "lte", "gt", "gte"})
_NAMES: Final = frozenset({"quoted_identifier", "unquoted_identifier"})
_TOKEN: Final = re.compile(
    r"""(?P<quoted>'(?:\\.|[^'\\])*+'|"(?:\\.|[^"\\])*+"|`(?:\\.|[^`\\])*+`)|[^'"`]++""", re.DOTALL
)
_UNQUOTED: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SHORT_TEXT: Final = re.compile(r"[\w .:-]{1,40}")
_TEXT_PARAMETERS: Final = {("join", 0), ("contains", 1), ("starts_with", 1), ("ends_with", 1)}
_TYPE_NAMES: Final[Mapping[str, str]] = {
    "array-number": "a list of numbers",
    "array-string": "a list of texts",
    "array": "a list",
    "object": "an object",
    "string": "a text",
    "number": "a number",
    "expref": "an expression such as &name",
}


class Unfinished(Exception):
    """The caller's limit of steps, below ``MAX_STEPS``, was reached; repeat with ``MAX_STEPS`` in a worker thread."""


@dataclass(frozen=True, slots=True)
class Projection:
    """A JMESPath expression, ready to apply. ``warnings`` have an offset into the expression, but no route."""

    expression: str
    warnings: tuple[Finding, ...]

    @classmethod
    def compile(cls, expression: str) -> Self:
        """Raises ``InvalidSpec`` with the code bad-projection, and with the offset if it is known."""
        return cls(expression, _warnings(expression))

    def apply(self, document: Json, steps: int = MAX_STEPS, *, size: int | None = None) -> Json:
        """The result for a decoded document; None if the expression selects nothing.

        ``size`` is the number of bytes that the document was decoded from, None if unknown. The result shares
        values with the document. Raises ``UnusableReply``; raises ``Unfinished`` if ``steps`` is below
        ``MAX_STEPS`` and does not suffice.
        """
        try:
            # The interpreter estimates up to three times the real size: 14 bytes for [[[]]], which has 6.
            value = _selection(self.expression).apply(document, steps, None if size is None else 3 * size)
        except OverBudget as problem:
            if steps < MAX_STEPS:
                raise Unfinished from problem
            message = "The API's reply is too large for this tool's projection."
            advice = "Request less data at a time."
            raise UnusableReply("projection-too-large", message, advice=advice) from problem
        # Before ValueError, of which it is a subclass.
        except JMESPathTypeError as problem:
            raise _failed(_wrong_type(problem)) from problem
        # ValueError: the sum of 1e308 and 1e308 is infinite. TypeError: max_by() has keys 1 and 'x'.
        # ArithmeticError: 10**400 plus 1.5 is no float. RecursionError: the document is deep.
        except (ValueError, TypeError, ArithmeticError, RecursionError) as problem:
            raise _failed("its values cannot be compared or used in a function") from problem
        # Each bracket of the expression adds at most one level to those of the document.
        if sum(map(self.expression.count, "[{")) > MAX_NESTING and not codec.is_shallow(
            value, _MAX_RESULT_DEPTH
        ):
            raise _failed(f"its result is nested more than {_MAX_RESULT_DEPTH} deep")
        return value


@lru_cache(maxsize=4096)
def _warnings(expression: str) -> tuple[Finding, ...]:
    """The warnings of an expression; raises ``InvalidSpec``. Cached, as many tools share an expression."""
    if len(expression) > MAX_CHARACTERS:
        raise _bad(f"the expression is longer than {MAX_CHARACTERS} characters; shorten it")
    # Before the library reads them: github.com/jmespath/jmespath.py/issues/229.
    _require_json_literals(expression)
    tokens: list[Token] = []
    try:
        for token in Lexer().tokenize(expression):
            tokens.append(token)  # noqa: PERF402 - keeps the tokens before a syntax error
        # Before the parser, which calls itself for each bracket.
        _require_shallow(tokens)
        tree = jmespath.compile(expression).parsed
    except ParseError as problem:
        raise _bad(*explain(expression, problem.lex_position, tokens)) from problem
    except (ValueError, LookupError, TypeError, RecursionError) as problem:
        raise _bad("the expression cannot be read; see https://jmespath.org and simplify it") from problem
    findings = Findings()
    _check_tree(tree, tokens, findings)
    _warn_of_names(tokens, findings)
    findings.raise_errors()
    return tuple(findings)


@lru_cache(maxsize=4096)
def _selection(expression: str) -> Selection:
    """The compiled expression. It is built at the first call, as most of thousands of tools are never called."""
    return Selection.compile(jmespath.compile(expression).parsed)


def is_nothing(selected: Json) -> bool:
    """Whether a result holds only null, or objects of null: usually the expression's names are not in the reply."""
    items = selected if isinstance(selected, list) and selected else [selected]
    return all(item is None or _has_only_nulls(item) for item in items)


def _has_only_nulls(item: Json) -> bool:
    return isinstance(item, dict) and bool(item) and all(value is None for value in item.values())


def _bad(message: str, offset: int | None = None) -> InvalidSpec:
    return invalid("bad-projection", message, offset=offset)


def _require_json_literals(expression: str) -> None:
    """Raise ``InvalidSpec`` for literals that are not JSON: the library silently reads `x` as 'x', and NaN as a number."""
    end = 0
    while token := _TOKEN.match(expression, end):  # ends at an unclosed quote, which the parser reports
        end = token.end()
        if token[0][0] == "`":
            text = token[0][1:-1].replace("\\`", "`")
            try:
                codec.decode(text)
            except codec.NotJson as problem:
                advice = f"'{text}' for a text" if _SHORT_TEXT.fullmatch(text) else 'texts in "double quotes"'
                message = f"expected JSON between backticks, but {problem}; write {advice}"
                raise _bad(message, token.start()) from problem


def _require_shallow(tokens: Sequence[Token]) -> None:
    depth = 0
    for token in tokens:
        depth += (token["type"] in OPENING) - (token["type"] in CLOSING)
        if depth > MAX_NESTING:
            raise _bad(f"the expression is nested more than {MAX_NESTING} deep; simplify it", token["start"])


def _check_tree(tree: Node, tokens: Sequence[Token], findings: Findings) -> None:
    """Report expressions that parse but can never be applied."""
    waiting: list[tuple[Node, int, bool]] = [(tree, 0, False)]
    for node, depth, is_parameter in waiting:
        children = node["children"]
        match node["type"]:
            # Its children are numbers, not nodes.
            case "slice":
                if children[2] == 0:
                    message = "found 0 as the step of a slice; write 1, or remove it"
                    findings.error("bad-projection", message, offset=_offset_of(tokens, _is_zero_step))
                continue
            case "expref" if not is_parameter:
                message = "& is valid only in parameters of functions like sort_by(); remove it"
                findings.error("bad-projection", message, offset=_offset_of(tokens, _is_misplaced))
        in_call = node["type"] == "function_expression"
        waiting += [(child, depth + 1, in_call) for child in children if depth <= _MAX_TREE_DEPTH]
    # The last node is one of the deepest. a || b || … is a deep tree without any brackets.
    if waiting[-1][1] > _MAX_TREE_DEPTH:
        findings.error("bad-projection", "the expression has too many steps in a row; simplify it")
        return
    opened = [at for at, token in enumerate(tokens) if token["type"] == "lparen" and _is_call(tokens, at)]
    starts = {(there, index): tokens[at]["start"] for there, index, at in _parameters(tokens)}
    # Both are in the order of the expression, one for each call.
    for call, at in zip(_calls(tree), opened, strict=True):
        offsets = [starts[at, index] for index in range(len(call["children"]))]
        _check_call(call, tokens[at - 1]["start"], offsets, findings)


def _offset_of(tokens: Sequence[Token], matches: Callable[[Token, Token], bool]) -> int | None:
    """The offset of the first matching token; ``matches`` gets the previous token and the token."""
    return next((token["start"] for before, token in pairwise(tokens) if matches(before, token)), None)


def _is_zero_step(before: Token, token: Token) -> bool:
    return (before["type"], token["type"], token["value"]) == ("colon", "number", 0)


def _is_misplaced(before: Token, token: Token) -> bool:
    return token["type"] == "expref" and before["type"] not in ("lparen", "comma")


def _is_call(tokens: Sequence[Token], at: int) -> bool:
    """Whether the ``(`` at ``at`` follows a function name."""
    return at > 0 and tokens[at - 1]["type"] in ("unquoted_identifier", "rparen")  # also (length)(a)


def _calls(node: Node) -> Iterator[Node]:
    """The calls in the order of the expression."""
    if node["type"] == "function_expression":
        yield node
    children = node["children"]
    if node["type"] == "filter_projection":
        # In a[?b].c, the tree has c before b.
        children = [children[0], children[2], children[1]]
    if node["type"] != "slice":
        for child in children:
            yield from _calls(child)


def _check_call(call: Node, offset: int, offsets: Sequence[int], findings: Findings) -> None:
    """``offset`` is the start of the call, ``offsets`` are the starts of its parameters."""
    name, parameters = call["value"], call["children"]
    if name not in FUNCTIONS:
        hint = did_you_mean(name, FUNCTIONS) or "; see https://jmespath.org"
        findings.error("bad-projection", f"{name}() is not a JMESPath function{hint}", offset=offset)
        return
    signature = FUNCTIONS[name]["signature"]
    is_variadic = signature[-1].get("variadic", False)
    if len(parameters) < len(signature) or (len(parameters) > len(signature) and not is_variadic):
        expected = f"{'at least ' * is_variadic}{len(signature)}"
        message = f"{name}() has {count(len(parameters), 'parameter')}, expected {expected}"
        findings.error("bad-projection", message, offset=offset)
        return
    for index, parameter in enumerate(parameters):
        is_expression = "expref" in signature[min(index, len(signature) - 1)]["types"]
        if is_expression != (parameter["type"] == "expref"):
            expected = "an expression; put & before it" if is_expression else "a value; remove the &"
            message = f"parameter {index + 1} of {name}() must be {expected}"
            findings.error("bad-projection", message, offset=offsets[index])


def _warn_of_names(tokens: Sequence[Token], findings: Findings) -> None:
    """Warn of keys that were probably meant as values; JMESPath silently selects nothing."""
    for at, token in enumerate(tokens):
        if token["type"] in _COMPARATORS:
            # The expression was parsed, so both operands exist. The last token is eof, also as tokens[-1].
            left, right = tokens[at - 1], tokens[at + 1]
            two_names = {left["type"], right["type"]} <= _NAMES
            # In a.true == b and a == true.b, true is certainly a key.
            if tokens[at - 2]["type"] != "dot":
                _warn_of_name(left, findings, quoted=two_names and bool(_UNQUOTED.fullmatch(left["value"])))
            if tokens[at + 2]["type"] not in ("dot", "flatten", "filter", "lparen", "lbracket"):
                _warn_of_name(right, findings, quoted=True)
    for opened, index, at in _parameters(tokens):
        named = (tokens[opened - 1]["value"], index) if opened and _is_call(tokens, opened) else None
        if named in _TEXT_PARAMETERS and tokens[at + 1]["type"] in ("comma", "rparen"):
            _warn_of_name(tokens[at], findings, quoted=True)


def _warn_of_name(token: Token, findings: Findings, *, quoted: bool) -> None:
    word = token["value"]
    if quoted and token["type"] == "quoted_identifier":
        message = f"\"{word}\" in double quotes is a key, not a text; write '{word}' for the text"
        findings.warn("quoted-identifier", message, offset=token["start"])
    if token["type"] == "unquoted_identifier" and word in ("true", "false", "null"):
        findings.warn(
            "bare-literal", f"{word} is a key here; write `{word}` for the value", offset=token["start"]
        )


def _parameters(tokens: Sequence[Token]) -> Iterator[tuple[int, int, int]]:
    """Each element in brackets: the index of the opening token, its position from 0, and the index of its first token."""
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


def _wrong_type(problem: JMESPathTypeError) -> str:
    expected = " or ".join(_TYPE_NAMES.get(name, name) for name in problem.expected_types)
    return f"{problem.function_name}() needs {expected}, but got {excerpt(problem.current_value)}"


def _failed(reason: str) -> UnusableReply:
    message = (
        f"The API's reply does not fit this tool's projection: {reason}. Tell the user to have it corrected."
    )
    return UnusableReply("projection-failed", message)
