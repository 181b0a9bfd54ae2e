"""Parses URL templates: a text becomes a ``UrlTemplate``. Errors are collected, each with its offset into the text."""

import re
from collections.abc import Iterator
from sys import intern
from typing import Final
from urllib.parse import quote as percent_encode
from urllib.parse import unquote

from bridge.codec import quote
from bridge.diagnostics import Findings
from bridge.tool.request.percent import has_path_traversal
from bridge.tool.request.placeholders import NAME, misplaced_secrets
from bridge.tool.request.query import Parameter
from bridge.tool.request.url_template import Expression, Pair, Part, UrlTemplate, Variable

# A brace that is in neither of the first two has no partner.
_TOKEN: Final = re.compile(r"\{(?P<expression>[^{}]*)\}|(?P<literal>[^{}]+)|[{}]")
# A prefix is below 10000 (RFC 6570 2.4.1).
_VARIABLE: Final = re.compile(rf"(?P<name>{NAME})(?::(?P<prefix>[1-9][0-9]{{0,3}})|(?P<explode>\*))?\Z")
_NOT_IN_URL: Final = re.compile(r"[\x00-\x20\x7f\"#<>\\^`|\ud800-\udfff]|%(?![0-9A-Fa-f]{2})")
_NEEDS_NO_ENCODING: Final = re.compile(r"[A-Za-z0-9_~./-]*")
_SAFE_IN_LITERAL: Final = "%/:?@!$&'()*+,="
"""RFC 3986 pchar, ``/`` and ``?``; all other characters are encoded.

A query encodes ``;`` too, because some servers end a parameter there, as at ``&``.
"""
_ENCODED_CONTROL: Final = re.compile(r"%(?:[01][0-9A-Fa-f]|7[Ff])")
_ABSOLUTE: Final = re.compile(r"[A-Za-z]+://")
_SEGMENT: Final = re.compile(r"[^/?{}]+")
_SUPPORTED_OPERATORS: Final = "+/?&"
_UNSUPPORTED_OPERATORS: Final = {
    "#": "a fragment is never sent; write {{{0}}}",
    ".": "labels are not supported; write .{{{0}}}",
    ";": "path parameters are not supported; write ;{0}={{{0}}}",
    **dict.fromkeys("=,!@|", "RFC 6570 reserves this operator; write {{{0}}}"),
}
"""Operator → message about it. ``{0}`` stands for the variable."""
_OPERATOR_CHARACTERS: Final = frozenset({*_SUPPORTED_OPERATORS, *_UNSUPPORTED_OPERATORS})


def parse_url_template(text: str) -> UrlTemplate:
    """Raises ``InvalidSpec`` with every finding."""
    parser = _Parser()
    parser.findings.extend(misplaced_secrets(text))
    parser.findings.raise_errors()
    parser.parse(text)
    parser.findings.raise_errors()
    return parser.template()


class _Parser:
    """Reads a template from left to right. The state is which lists have entries:

    | ``_pairs`` | ``_form_parameters`` | A literal or ``{name}`` goes into |
    |---|---|---|
    | empty | empty | the path, until a ``?`` begins the first pair |
    | filled | empty | the last pair, until a ``&`` begins the next one |
    | any | filled | nothing may follow but ``{&name}`` |

    Each pair has the offset of the ``?`` or ``&`` before it.
    """

    def __init__(self) -> None:
        self.findings = Findings()
        self._path: list[Part] = []
        self._pairs: list[tuple[int, list[Part]]] = []
        self._form_parameters: list[tuple[Variable, Parameter]] = []
        self._reported: set[str] = set()  # one finding for each forbidden character, not for each occurrence

    def parse(self, text: str) -> None:
        for match in _TOKEN.finditer(text):
            if match["literal"]:
                self._check_characters(match["literal"], match.start())
                self._add_literal(match["literal"], match.start())
            elif match["expression"] is not None:
                self._add_expression(match["expression"], match.start())
            else:
                self._report_brace(text, match.start())
        self._check_path(text)
        self._check_pairs()

    def template(self) -> UrlTemplate:
        pairs = [
            Pair(_pair_name(parts), tuple(parts), is_first=index == 0, offset=offset + 1)
            for index, (offset, parts) in enumerate(self._pairs)
        ]
        return UrlTemplate(tuple(self._path), tuple(pairs), tuple(self._form_parameters))

    def _error(self, message: str, offset: int) -> None:
        self.findings.error("bad-template", message, offset=offset)

    def _report_brace(self, text: str, offset: int) -> None:
        if "{" in self._reported:
            return
        self._reported.add("{")
        if text.startswith("{{", offset):
            message = "found {{, expected one brace; write {name}, or %7B for the character"
        else:
            message = (
                "found an unpaired brace; write an argument as {name}, the character itself as %7B or %7D"
            )
        self._error(message, offset)

    def _check_characters(self, text: str, offset: int) -> None:
        for forbidden in _NOT_IN_URL.finditer(text):
            character = forbidden[0]
            if character in self._reported:
                continue
            self._reported.add(character)
            encoded = percent_encode(character, safe="", errors="replace")
            if character == "#":
                message = f"a fragment is never sent; write {encoded} for the character"
            elif character == "<":
                # <id> is one mistake.
                self._reported.add(">")
                message = "an argument is written {name}, the character itself %3C"
            else:
                message = f"{quote(character)} is not allowed in a URL; write {encoded} for the character"
            self._error(message, offset + forbidden.start())

    def _add_literal(self, text: str, offset: int) -> None:
        if self._form_parameters:
            self._error("only {&…} may follow {?…}; write constants first, as in ?x=1{&q}", offset)
        elif self._pairs:
            self._add_to_pairs(text, offset)
        else:
            path, mark, query = text.partition("?")
            if path:
                self._path.append(_encode_literal(path, also_safe=";"))
            if mark:
                self._pairs.append((offset + len(path), []))
                self._add_to_pairs(query, offset + len(path) + 1)

    def _add_to_pairs(self, text: str, offset: int) -> None:
        """Continue the last pair. Each ``&`` begins a new one."""
        for index, piece in enumerate(text.split("&")):
            if index:
                self._pairs.append((offset - 1, []))
            _, parts = self._pairs[-1]
            if piece:
                parts.append(_encode_literal(piece))
            offset += len(piece) + 1

    def _add_expression(self, body: str, offset: int) -> None:
        operator, names = (body[0], body[1:]) if body[:1] in _OPERATOR_CHARACTERS else ("", body)
        if operator in _UNSUPPORTED_OPERATORS:
            name = names if _VARIABLE.match(names) else "name"
            self._error(f"{{{operator}{name}}}: {_UNSUPPORTED_OPERATORS[operator].format(name)}", offset)
            return
        variables = tuple(filter(None, self._variables(operator, names, offset)))
        if operator in ("?", "&"):
            self._add_form_parameters(operator, variables, offset)
        elif self._form_parameters:
            self._error("only {&…} may follow {?…}; write the path before it", offset)
        elif not self._pairs:
            self._path.append(Expression(operator, variables))
        elif operator == "/":
            self._error("{/…} belongs in the path; in the query write name={name}", offset)
        else:
            _, parts = self._pairs[-1]
            parts.append(Expression(operator, variables))

    def _variables(self, operator: str, names: str, offset: int) -> Iterator[Variable | None]:
        """None for an invalid name, which is reported."""
        if not operator and "," not in names:
            yield self._variable(names, offset)
            return
        offset += 1 + len(operator)
        for name in names.split(","):
            yield self._variable(name, offset)
            offset += len(name) + 1

    def _variable(self, text: str, offset: int) -> Variable | None:
        match = _VARIABLE.match(text)
        if match is None:
            message = f"{quote(text)} is not an argument name; write {{name}}, {{name*}} or {{name:3}}"
            self._error(message, offset)
            return None
        prefix = int(match["prefix"]) if match["prefix"] else None
        return Variable(intern(match["name"]), bool(match["explode"]), prefix, offset)

    def _add_form_parameters(self, operator: str, variables: tuple[Variable, ...], offset: int) -> None:
        expected = "&" if self._pairs or self._form_parameters else "?"
        if operator != expected:
            names = ",".join(variable.name for variable in variables)
            found = "found {&…} without a ? before it" if expected == "?" else "the query has already started"
            self._error(f"{found}; write {{{expected}{names}}}", offset)
        for variable in variables:
            if variable.name.startswith("$"):
                message = f"a builtin cannot name a parameter; write name={{{variable.name}}}"
                self._error(message, variable.offset)
            self._form_parameters.append((variable, Parameter(variable.name, "form", variable.explode)))

    def _check_path(self, text: str) -> None:
        if _ABSOLUTE.match(text):
            self._error("url is appended to the upstream's baseUrl; begin with /, or take upstream out", 0)
        elif text.startswith("//"):
            self._error("found //, which would start a host name; write one /", 0)
        elif not text.startswith("/"):
            self._error("a path begins with /, then a constant or {name}; add the /", 0)
        # With harmless values, so that only the constants can be at fault.
        sample = [
            part if isinstance(part, str) else "/x" if part.operator == "/" else "x" for part in self._path
        ]
        if control := _ENCODED_CONTROL.search(text.partition("?")[0]):
            message = "the path has an encoded control character, at which some servers cut it; take it out"
            self._error(message, control.start())
        elif has_path_traversal("".join(sample)):
            offsets = (part.start() for part in _SEGMENT.finditer(text) if has_path_traversal(f"/{part[0]}"))
            message = "the path has a . or .. segment, plain or encoded; write the resulting path"
            self._error(message, next(offsets, 0))

    def _check_pairs(self) -> None:
        for offset, parts in self._pairs:
            name, mark, _ = parts[0].partition("=") if parts and isinstance(parts[0], str) else ("", "", "")
            if not mark and any(isinstance(part, Expression) for part in parts):
                # Such as ?{name}=1.
                self._error("a parameter's name cannot hold an argument; write name={name}", offset + 1)
            elif not name:
                self._error("found a query parameter without a name; write name=value or take it out", offset)


def _encode_literal(literal: str, *, also_safe: str = "") -> str:
    if _NEEDS_NO_ENCODING.fullmatch(literal):
        return literal
    # A lone surrogate was reported as a forbidden character, and is replaced only to go on.
    return percent_encode(literal, safe=_SAFE_IN_LITERAL + also_safe, errors="replace")


def _pair_name(parts: list[Part]) -> str:
    return unquote(str(parts[0]).partition("=")[0])
