"""What the pure YAML parser finds fault with, in an operator's words: its own speak of tokens, and quote the file."""

import re
from typing import Final

_ODD_BLANK: Final = re.compile(r"(?:^|[:,-]) *([\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000])", re.MULTILINE)
_ODD_QUOTE: Final = re.compile(r"[:,\[{-] *([\u2018-\u201f\u00ab\u00bb])")
_LONE_KEY: Final = re.compile(r"^ +[\w$-]+\Z", re.MULTILINE)
_PLACEHOLDER: Final = re.compile(r"\{[^{}:\n]*\}\Z")
_TIGHT_KEY: Final = re.compile(r"""[ ]*(?:-[ ]+)?("?)[\w$-]+\1:[^\s/]""")
UNREADABLE: Final = "this cannot be read as YAML; check quotes, colons, brackets and indentation"
UNQUOTED: Final = "a value that begins with { is a mapping in YAML; put it in quotes"
_ALIGN: Final = "this does not line up with what stands above; mend the indentation"
_COLON: Final = "a colon too many; put a text that holds a colon in quotes"
_QUOTE: Final = "this quote is never closed; add the closing quote"
_SPACE: Final = "a space is missing after the colon; write `key: value`"
_FLOW_COMMA: Final = (
    "found a key without a value: a text ended at the comma before it; put that text in quotes"
)
_QUOTE_BRACKETS: Final = "put a text with , [ ] { } in it in quotes"
_BRACKET: Final = "this bracket is never closed; add the closing bracket"
_OPENED: Final = {
    "unexpected end of stream": _QUOTE,
    "unexpected document separator": _QUOTE,
    "but got '<stream end>'": _BRACKET,
    "expected ':'": "expected `key: value`; add the colon, or mend the indentation",
}
"""What ruamel.yaml says where something did not end, and what we say at the place where it began."""
_SYNTAX: Final = {
    "found character '\\t'": "a tab stands here; use spaces",
    "cannot start any token": "a value cannot begin with this character; put the value in quotes",
    "mapping values are not allowed": _COLON,
    "unexpected ':'": _COLON,
    "entries are not allowed": "a list item cannot begin here; put it on a line of its own",
    "keys are not allowed": "a key cannot begin here; put it on a line of its own",
    "unknown escape character": "YAML has no such escape; write \\\\ for a backslash, or use single quotes",
    "hexdecimal numbers": "this escape lacks hexadecimal digits; write \\\\ for a backslash",
    "but found ']'": "this bracket closes nothing; take it out",
    "but found '}'": "this bracket closes nothing; take it out",
    "document end marker": "expected nothing after ... on its line; take it out",
    "expected <block end>": _ALIGN,
    "'<document start>'": _ALIGN,
    "but found '<stream end>'": "the file ends within a bracket; close it",
    "expected the node content": "expected a value here; put a text that begins like this in quotes",
    "scanning an": "expected a name after & or *; put a text that begins with & or * in quotes",
    "more indented follow up": "an empty line at the top of this text holds blanks; take them out",
    "block scalar": "after | and > stand only +, - or a digit; put the text on the next lines, indented",
}
"""What ruamel.yaml says, and what we say."""


class Problem(Exception):
    """Something wrong with a text, at the character at ``index``."""

    def __init__(self, code: str, message: str, index: int) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.index = index


def explain(said: str, text: str, index: int, began: int) -> Problem:
    """The problem in our words; ``began`` is where that begins which was being read at ``index``."""
    if "directive" in said:
        return directive(index)
    opened = next((message for words, message in _OPENED.items() if words in said), None)
    if not opened and "expected ',' or" in said:
        line = text.count("\n", 0, began) + 1
        said = f"expected a comma, or the bracket that closes the one on line {line}; {_QUOTE_BRACKETS}"
    else:
        said = next((message for words, message in _SYNTAX.items() if words in said), UNREADABLE)
    if opened == _OPENED["expected ':'"] and _TIGHT_KEY.match(text, began):
        opened = _SPACE
    return (
        _odd_character(text, index)
        or (Problem("yaml-syntax", opened, began) if opened else None)
        or _unquoted(text[:index].rstrip(" "), text[index : index + 1], index, said)
        or Problem("yaml-syntax", said, index)
    )


def loose_key(text: str, index: int) -> Problem:
    """A key in braces that is followed by no value."""
    message = _SPACE if _TIGHT_KEY.match(text, index) else _FLOW_COMMA
    return _odd_character(text, index) or Problem("flow-comma", message, index)


def _odd_character(text: str, index: int) -> Problem | None:
    """A character up to the end of the line that looks like one that YAML knows."""
    end = text.find("\n", index)
    looked_at = text[: end if end >= 0 else len(text)]
    if blank := _ODD_BLANK.search(looked_at):
        message = f"this blank is U+{ord(blank[1]):04X} and no space; type it anew"
        return Problem("yaml-syntax", message, blank.start(1))
    if quote := _ODD_QUOTE.search(looked_at, text.rfind("\n", 0, index) + 1):
        return Problem("yaml-syntax", "this quote is typographic; write \" or '", quote.start(1))
    return None


def _unquoted(before: str, after: str, index: int, message: str) -> Problem | None:
    """What is seen around the place: a value that lacks quotes, or is indented too deep."""
    if placeholder := _PLACEHOLDER.search(before):
        return Problem("unquoted-placeholder", UNQUOTED, placeholder.start())
    if before.endswith(("'", '"', "]", "}")) and after == ",":
        return Problem("yaml-syntax", "a line ends without a comma in YAML; take the comma out", index)
    if before.endswith(("'", '"')):
        return _behind_a_quote(before, after, index)
    if message == _ALIGN and before.endswith(("]", "}")):
        message = "expected nothing after this bracket; put the whole text in quotes"
        return Problem("yaml-syntax", message, index)
    if message == _COLON and _LONE_KEY.search(before):
        message = "this key is indented deeper than what it follows; line it up with the keys above"
        return Problem("yaml-syntax", message, index)
    return None


def _behind_a_quote(before: str, after: str, index: int) -> Problem:
    """More follows the end of a text in quotes: it lacks quotes as a whole, or its end came a line too late."""
    *above, line = before.split("\n")
    quote = before[-1]
    odd = [number for number, each in enumerate(above) if each.count(quote) % 2]
    if line.count(quote) % 2 and odd:
        opening = "\n".join(above[: odd[-1] + 1]).rfind(quote)
        return Problem("yaml-syntax", _QUOTE, opening)
    if before.endswith("'") and after.isalpha():
        message = "this apostrophe ends the text; write it twice, or put the text in double quotes"
        return Problem("yaml-syntax", message, index - 1)
    return Problem("yaml-syntax", "expected nothing after this quote; put the whole text in quotes", index)


def directive(index: int) -> Problem:
    """A line that begins with ``%``."""
    return Problem("yaml-directive", "found a YAML directive; take the line out", index)
