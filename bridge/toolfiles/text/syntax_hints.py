"""Messages for YAML syntax errors. Those of ruamel.yaml speak of tokens, and quote the file."""

import re
from typing import Final

_UNUSUAL_BLANK: Final = re.compile(
    r"(?:^|[:,-]) *([\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000])", re.MULTILINE
)
_TYPOGRAPHIC_QUOTE: Final = re.compile(r"[:,\[{-] *([\u2018-\u201f\u00ab\u00bb])")
_LONE_KEY: Final = re.compile(r"^ +[\w$-]+\Z", re.MULTILINE)
_PLACEHOLDER: Final = re.compile(r"\{[^{}:\n]*\}\Z")
_TIGHT_KEY: Final = re.compile(r"""[ ]*(?:-[ ]+)?("?)[\w$-]+\1:[^\s/]""")
UNREADABLE: Final = "this cannot be read as YAML; check quotes, colons, brackets and indentation"
UNQUOTED: Final = "a value that begins with { is a mapping in YAML; put it in quotes"
_ALIGN: Final = "this does not line up with the lines above; fix the indentation"
_COLON: Final = "found a second colon; put a text that contains a colon in quotes"
_QUOTE: Final = "this quote is never closed; add the closing quote"
_SPACE: Final = "a space is missing after the colon; write `key: value`"
_FLOW_COMMA: Final = (
    "found a key without a value: a text ended at the comma before it; put that text in quotes"
)
_QUOTE_BRACKETS: Final = "put a text that contains , [ ] { } in quotes"
_BRACKET: Final = "this bracket is never closed; add the closing bracket"
_OPENED: Final = {
    "unexpected end of stream": _QUOTE,
    "unexpected document separator": _QUOTE,
    "but got '<stream end>'": _BRACKET,
    "expected ':'": "expected `key: value`; add the colon, or fix the indentation",
}
"""Parts of ruamel.yaml's messages about something that never ends, and our message for the place where it starts."""
# The first part that is found counts: "found character '\t' that cannot start any token" has two.
_SYNTAX: Final = {
    "found character '\\t'": "found a tab; use spaces",
    "cannot start any token": "a value cannot begin with this character; put the value in quotes",
    "mapping values are not allowed": _COLON,
    "unexpected ':'": _COLON,
    "entries are not allowed": "a list item cannot begin here; put it on a line of its own",
    "keys are not allowed": "a key cannot begin here; put it on a line of its own",
    "unknown escape character": "YAML has no such escape; write \\\\ for a backslash, or use single quotes",
    "hexdecimal numbers": "this escape lacks hexadecimal digits; write \\\\ for a backslash",
    "but found ']'": "this bracket closes nothing; remove it",
    "but found '}'": "this bracket closes nothing; remove it",
    "document end marker": "expected nothing after ... on its line; remove it",
    "expected <block end>": _ALIGN,
    "'<document start>'": _ALIGN,
    "but found '<stream end>'": "the file ends within a bracket; close it",
    "expected the node content": "expected a value here; put a text that begins like this in quotes",
    "scanning an": "expected a name after & or *; put a text that begins with & or * in quotes",
    "more indented follow up": "an empty line at the start of this text contains blanks; remove them",
    "block scalar": "expected only +, - or a digit after | or >; put the text on the next lines, indented",
}
"""Parts of ruamel.yaml's messages, and our messages."""


class Problem(Exception):
    """A problem of a text, at the character at ``index``."""

    def __init__(self, code: str, message: str, index: int) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.index = index


def explain(parser_message: str, text: str, index: int, start: int) -> Problem:
    """The problem for a parser's message; ``start`` is the start of the construct that was read at ``index``."""
    if "directive" in parser_message:
        return directive(index)
    opened = next((message for part, message in _OPENED.items() if part in parser_message), None)
    if not opened and "expected ',' or" in parser_message:
        line = text.count("\n", 0, start) + 1
        message = f"expected a comma, or the bracket that closes the one on line {line}; {_QUOTE_BRACKETS}"
    else:
        message = next((ours for part, ours in _SYNTAX.items() if part in parser_message), UNREADABLE)
    if opened == _OPENED["expected ':'"] and _TIGHT_KEY.match(text, start):
        opened = _SPACE
    # The most likely cause first. What is never closed is reported where it begins, not where the parser gave up.
    return (
        _lookalike(text, index)
        or (Problem("yaml-syntax", opened, start) if opened else None)
        or _unquoted(text[:index].rstrip(" "), text[index : index + 1], index, message)
        or Problem("yaml-syntax", message, index)
    )


def valueless_key(text: str, index: int) -> Problem:
    """The problem of a key in braces without a value."""
    message = _SPACE if _TIGHT_KEY.match(text, index) else _FLOW_COMMA
    return _lookalike(text, index) or Problem("flow-comma", message, index)


def _lookalike(text: str, index: int) -> Problem | None:
    """A blank or quote up to the end of the line that only looks like one of YAML's."""
    # The parser may fail only lines below such a blank, as "a:\u00a0b" is a text. A quote spoils its own line.
    end = text.find("\n", index)
    searched = text[: end if end >= 0 else len(text)]
    if blank := _UNUSUAL_BLANK.search(searched):
        message = f"found the blank U+{ord(blank[1]):04X}, expected a space; type it again"
        return Problem("yaml-syntax", message, blank.start(1))
    if quote := _TYPOGRAPHIC_QUOTE.search(searched, text.rfind("\n", 0, index) + 1):
        return Problem("yaml-syntax", "found a typographic quote; write \" or '", quote.start(1))
    return None


def _unquoted(before: str, after: str, index: int, message: str) -> Problem | None:
    """The problem if the text around ``index`` shows a value without quotes, or indented too deep."""
    if placeholder := _PLACEHOLDER.search(before):
        return Problem("unquoted-placeholder", UNQUOTED, placeholder.start())
    if before.endswith(("'", '"', "]", "}")) and after == ",":
        return Problem("yaml-syntax", "found a comma at the end of a line; remove it", index)
    if before.endswith(("'", '"')):
        return _after_quote(before, after, index)
    if message == _ALIGN and before.endswith(("]", "}")):
        message = "expected nothing after this bracket; put the whole text in quotes"
        return Problem("yaml-syntax", message, index)
    if message == _COLON and _LONE_KEY.search(before):
        message = "this key is indented deeper than what it follows; line it up with the keys above"
        return Problem("yaml-syntax", message, index)
    return None


def _after_quote(before: str, after: str, index: int) -> Problem:
    """The problem of a text that goes on after its closing quote, or whose closing quote is on a later line."""
    *above, line = before.split("\n")
    quote = before[-1]
    # If a line above has an odd number of quotes too, its last one was never closed: the parser took the opening
    # quote of this line for the closing one.
    unbalanced = [number for number, each in enumerate(above) if each.count(quote) % 2]
    if line.count(quote) % 2 and unbalanced:
        opening = "\n".join(above[: unbalanced[-1] + 1]).rfind(quote)
        return Problem("yaml-syntax", _QUOTE, opening)
    if before.endswith("'") and after.isalpha():
        message = "this apostrophe ends the text; write it twice, or put the text in double quotes"
        return Problem("yaml-syntax", message, index - 1)
    return Problem("yaml-syntax", "expected nothing after this quote; put the whole text in quotes", index)


def directive(index: int) -> Problem:
    """The problem of a line that begins with ``%``."""
    return Problem("yaml-directive", "found a YAML directive; remove the line", index)
