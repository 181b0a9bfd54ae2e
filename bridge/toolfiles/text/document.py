"""Parses YAML text: a plain value, and the line and column of every part of it.

Only the events of the parsers are used; values are built here. So limits hold while a hostile text is read, and the
meaning of a scalar is defined in one place. A text takes the first path that accepts it:

====================  ====================================================  ==========================
path                  accepts                                               result
====================  ====================================================  ==========================
``fast_reader``       short texts without anything unusual                  value, no positions
C parser              texts without errors other than exceeded limits       value, positions, problems
pure Python parser    everything                                            value, positions, problems
====================  ====================================================  ==========================

The pure parser, that of ruamel.yaml, defines what is valid. It is imported when a text needs it. The C parser, that of
PyYAML, is some twenty times faster, but reads some texts differently: those that match ``_PARSERS_DIFFER`` never reach it.
Both parsers give events whose classes have the same names.
"""

import re
import unicodedata
from bisect import bisect_right
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import yaml

from bridge.characters import deceptive
from bridge.codec import NotJson
from bridge.diagnostics import Diagnostic, Finding, Mark, Severity
from bridge.spec import Json
from bridge.toolfiles.text import fast_reader
from bridge.toolfiles.text.fast_reader import plain
from bridge.toolfiles.text.syntax_hints import (
    UNQUOTED,
    UNREADABLE,
    Problem,
    directive,
    explain,
    valueless_key,
)

MAX_BYTES: Final = 256 * 1024
MAX_DEPTH: Final = 64
MAX_VALUES: Final = 20_000
MAX_ALIASES: Final = 20
MAX_QUOTED: Final = 1000
MAX_PROBLEMS: Final = 20
"""How many problems of one file are reported. Further ones are only counted."""

_CParser: Final[Any] = getattr(yaml, "CSafeLoader", None)
"""None where PyYAML was built without its C extension."""
# A comment is only searched up to the next | or >. To the end of the line, "| #| #| #" would take quadratic time:
# 40 s for 150 kB, which nothing can interrupt.
_PARSERS_DIFFER: Final = re.compile(
    r"""[\t\u2028\u2029%.|>&*"'] (?:
        (?<=[\t\u2028\u2029])
      | (?<=^[%.])                                            # a directive, the end of a document
      | (?<=[|>]) [-+0-9]*\#                                  # a comment that touches the | before it
      | (?<=[|>]) [-+0-9]*[ ]*(?:\#[^|>\r\n]*)?[\r\n][\r\n ]*[ ][\r\n]  # a text that begins with blank lines
      | (?<=[|>]) [-+0-9]*[ ]*\#[^|>\r\n]*[|>]  # perhaps the same: its comment holds an indicator
      | (?<=[&*]) (?<![^\s,:\[\]{}].) [a-zA-Z0-9_-]*[^a-zA-Z0-9_\s,\[\]{}-]  # an unusual name of an anchor
      | (?<=["'])[ ]*:[^\s]                                  # no space after the colon of a quoted key
    )""",
    re.MULTILINE | re.VERBOSE,
)
_MAX_INDICATORS: Final = 50_000
"""The most characters such as ``|`` and ``&`` in a text that is searched with ``_PARSERS_DIFFER``."""
_DIRECTIVE: Final = re.compile("^%", re.MULTILINE)
_LINE: Final = re.compile(r"[^\r\n]+")
_ESCAPED: Final = re.compile(r"\\(?:x..|u.{4}|U.{8}|.)|.")
"""One character of a text in double quotes (YAML 1.2.2, 5.7)."""
_USERINFO: Final = re.compile(r"://[^/\s]*@")
"""Credentials in a URL. They are refused, and no message quotes them."""
_LINE_END: Final = re.compile(r"\r\n|\r|\n")

_EMPTY: Final = "found nothing in the file; expected lines of `key: value`"


@dataclass(slots=True)
class _Node:
    """A value and its position, as indices into the text; ``weight`` is its size with aliases expanded.

    ``children`` maps a key or index to the start of the key or item, and its node.
    """

    value: Json
    start: int
    end: int
    weight: int
    children: "dict[str | int, tuple[int, _Node]]"

    def add(self, step: str | int, index: int, child: "_Node") -> None:
        self.children[step] = (index, child)
        self.weight += child.weight


_NO_CHILDREN: Final[dict[str | int, tuple[int, _Node]]] = {}


class Document:
    """One parsed file. If there are ``problems``, ``value`` holds what could be read before them.

    An alias and its anchor share one value object, so a change of one changes both.
    """

    def __init__(self, path: str, text: str, private: frozenset[str]) -> None:
        self.path = path
        self.value: dict[str, Json] = {}
        self.problems: tuple[Diagnostic, ...] = ()
        self._text = text
        self._private = private
        self._sources: dict[int, str | None] = {}

    @cached_property
    def _root(self) -> _Node:
        """Positions of all values; a valid file without warnings never needs them."""
        return _read(self._text).root

    @cached_property
    def _lines(self) -> list[int]:
        """The index at which each line starts."""
        return [0, *(end.end() for end in _LINE_END.finditer(self._text))]

    @classmethod
    def parse(cls, data: bytes, path: str, private: frozenset[str] = frozenset()) -> "Document":
        """Parse a whole file: UTF-8 with or without BOM, one mapping, at most ``MAX_BYTES``.

        Diagnostics quote no line below the top-level keys in ``private``. If the file has problems and
        ``private`` is not empty, they quote no line at all.
        """
        text, problem = _decode(data)
        document = cls(path, text, private)
        if not problem and (value := _read_simple(text)) is not None:
            document.value = value
            return document
        # Set here, so that the cached property does not read the text a second time.
        document._root, problems = _Node({}, 0, 0, 1, {}), [problem] if problem else []
        if not problem:
            reading = _read(text)
            document._root, problems = reading.root, reading.problems
        document.value = document._root.value
        document.problems = tuple(
            document._diagnostic(problem.index, problem.code, problem.message, quotable=not private)
            for problem in sorted(problems, key=lambda problem: problem.index)
        )
        return document

    def locate(self, finding: Finding) -> Diagnostic:
        """The finding at its position; if the file lacks a part of the route, at the last part that exists."""
        key_index, node = self._root.start, self._root
        is_complete = True
        for step in finding.route:
            if step not in node.children:
                is_complete = False
                break
            key_index, node = node.children[step]
        index = node.start
        if finding.at_key or node.start == node.end:  # a value of no width: "a:" says null
            index = key_index
        elif finding.offset is not None and is_complete and isinstance(node.value, str):
            index = self._index_in(node, finding.offset)
        return self._diagnostic(index, finding.code, finding.message, finding.severity)

    def _index_in(self, node: _Node, offset: int) -> int:
        """The index of the character at ``offset`` of a scalar's value; its start if escapes or folding hide that."""
        start, end, position = node.start, node.end, 0
        if self._text[start] in "|>":  # its text begins on the next line
            start = self._lines[self._line(start)]
        elif self._text[start] in "'\"":
            start, end = start + 1, end - 1
        # The value holds the text of each line. Only what folding and indentation changed is between them.
        for line in _LINE.finditer(self._text, start, end):
            part = line[0].strip()
            at: int = node.value.find(part, position)
            if at < 0:
                continue
            position = at + len(part)
            if offset <= position and not node.value[offset:at].strip():
                return line.start() + line[0].index(part) + max(offset - at, 0)
        # A line with escapes is not in the value. In one line, each escape stands for one character.
        # The last index is that of the closing quote, for what is missing at the end.
        indices = [*(match.start() for match in _ESCAPED.finditer(self._text, start, end)), end]
        if self._text[node.start] == '"' and len(indices) == len(node.value) + 1:
            return indices[offset]
        return node.start

    def _line(self, index: int) -> int:
        return bisect_right(self._lines, index)

    def _diagnostic(
        self, index: int, code: str, message: str, severity: Severity = "error", *, quotable: bool = True
    ) -> Diagnostic:
        line = self._line(index)
        start = self._lines[line - 1]
        source = self._source(line, start) if quotable else None
        return Diagnostic(self.path, Mark(line, index - start + 1), severity, message, code, source)

    def _source(self, line: int, start: int) -> str | None:
        """A line to quote, or None if it may hold a secret. Diagnostics of one line share one object."""
        if line not in self._sources:
            source = _LINE_END.split(self._text[start : start + MAX_QUOTED], maxsplit=1)[0]
            is_private = line in self._private_lines or _USERINFO.search(source)
            self._sources[line] = None if is_private else source
        return self._sources[line]

    @cached_property
    def _private_lines(self) -> set[int]:
        """Lines of the private keys and of the anchors that they refer to."""
        lines: set[int] = set()
        nodes = [child for key, child in self._root.children.items() if key in self._private]
        while nodes:  # it ends: aliases form no cycle, and MAX_VALUES counts their values
            key_index, node = nodes.pop()
            lines.add(self._line(key_index))
            if not node.children:  # end - 1: a block of text ends at the start of the line below it
                lines.update(range(self._line(node.start), self._line(max(node.start, node.end - 1)) + 1))
            nodes += node.children.values()
        return lines


def _decode(data: bytes) -> tuple[str, Problem | None]:
    """The text without a BOM, and the problem if it cannot be read."""
    if len(data) > MAX_BYTES:
        message = f"found {len(data)} bytes, expected at most {MAX_BYTES}; split the file"
        return "", Problem("too-large", message, 0)
    data = data.removeprefix(BOM_UTF8)  # with utf-8-sig the position of an error does not count the mark
    try:
        text = data.decode()
    except UnicodeDecodeError as problem:
        text = data[: problem.start].decode()
        return text, Problem("not-utf8", "found a byte that is not UTF-8; save the file as UTF-8", len(text))
    if found := deceptive(text):
        return text, _deceptive(found[0], found.start())
    return text, None


def _deceptive(character: str, index: int) -> Problem:
    name = f"U+{ord(character):04X} {unicodedata.name(character, '')}".rstrip()
    message = f"found {name}, an invisible or misleading character; remove it"
    return Problem("control-character", message, index)


def _read_simple(text: str) -> dict[str, Json] | None:
    """The value of a simple text without errors; None for any other text."""
    if _CParser is None or len(text) > MAX_VALUES // 2 or _PARSERS_DIFFER.search(text):
        return None  # a value takes at least half a character, as in [:,:]
    try:
        return fast_reader.read(_CParser(text).get_event)
    except (fast_reader.Unusual, yaml.YAMLError, ValueError):
        return None


def _read(text: str) -> "_Reading":
    fast = (
        _CParser is not None
        and sum(map(text.count, "%.|>&*")) <= _MAX_INDICATORS
        and not _PARSERS_DIFFER.search(text)
    )
    return (fast and _read_fast(text)) or _Reading(_events(text).__next__, text)


def _read_fast(text: str) -> "_Reading | None":
    """The reading of the C parser; None if there is any problem except an exceeded limit."""
    try:
        reading = _Reading(_CParser(text).get_event, text)
    except (yaml.YAMLError, ValueError):
        return None
    is_reliable = all(problem.code.startswith("too-") for problem in reading.problems)
    return reading if is_reliable else None


def _events(text: str) -> Iterator[Any]:
    """Events of the pure parser. Each text gets a new parser, because a used one remembers directives."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError  # not documented

    try:
        yield from YAML(typ="safe", pure=True).parse(text)
    except MarkedYAMLError as problem:
        start = problem.context_mark or problem.problem_mark
        index = (problem.problem_mark or start).index
        raise explain(f"{problem.context}; {problem.problem}", text, index, start.index) from problem
    # ruamel.yaml raises AssertionError for "%YAML 1.3", ValueError for "\U00110000", OverflowError for "\UFFFFFFFF".
    except (YAMLError, AssertionError, ValueError, LookupError, ArithmeticError) as problem:
        raise Problem("yaml-syntax", UNREADABLE, 0) from problem


def _kind(event: object) -> str:
    return type(event).__name__


class _Reading:
    """One pass over the events of a text: the root as far as it was read, and the problems.

    The pass ends at the first problem after ``MAX_PROBLEMS``.
    """

    def __init__(self, next_event: Callable[[], Any], text: str) -> None:
        self.root = _Node({}, 0, 0, 1, {})
        self.problems: list[Problem] = []
        self._next = next_event
        self._text = text
        self._anchors: dict[str, _Node] = {}
        self._aliases = 0
        self._weight_left = MAX_VALUES
        try:
            self._documents()
        except Problem as problem:  # it ended the pass; a rule of ours may have noted the same mistake before
            if not any((problem.code, problem.index) == (known.code, known.index) for known in self.problems):
                self.problems.append(problem)

    def _problem(self, code: str, message: str, index: int) -> None:
        self._note(Problem(code, message, index))

    def _note(self, problem: Problem) -> None:
        if len(self.problems) == MAX_PROBLEMS:
            message = (
                f"found more than {MAX_PROBLEMS} problems up to here; fix them first, the rest was not read"
            )
            raise Problem("too-many-problems", message, problem.index)
        self.problems.append(problem)

    def _documents(self) -> None:
        has_document = False
        while (kind := _kind(event := self._next())) != "StreamEndEvent":
            index = event.start_mark.index
            if kind == "DocumentStartEvent":
                if has_document:
                    message = "found a second document; put each tool in its own file"
                    raise Problem("several-documents", message, index)
                has_document = True
                # The parsers give no event for a directive other than %YAML and %TAG.
                if found := _DIRECTIVE.search(self._text, 0, event.end_mark.index):
                    self._note(directive(found.start()))
            elif kind == "MappingStartEvent":
                self._node(event, 1)
            elif kind in ("ScalarEvent", "SequenceStartEvent", "AliasEvent"):
                self._not_a_mapping(event, index)
        if not has_document:
            self._problem("empty-file", _EMPTY, 0)

    def _not_a_mapping(self, event: Any, index: int) -> None:
        if _kind(event) == "ScalarEvent" and not event.style and not event.value:
            raise Problem("empty-file", _EMPTY, 0)
        message = "found no mapping; expected lines of `key: value`"
        raise Problem("not-a-mapping", message, index)

    def _node(self, event: Any, depth: int) -> _Node:
        """The value that starts with ``event``; reads events to its end."""
        start, kind = event.start_mark.index, _kind(event)
        if depth > MAX_DEPTH:
            raise Problem("too-deep", f"nested deeper than {MAX_DEPTH} levels; make it flatter", start)
        if kind == "AliasEvent":
            return self._alias(event, start)
        self._spend(1, start)
        if event.tag is not None:
            self._problem("yaml-tag", "found a YAML tag; remove the word that begins with !", start)
        if kind == "ScalarEvent":
            node = self._scalar(event, start)
        elif kind == "MappingStartEvent":
            node = self._mapping(event, start, depth)
        else:
            node = self._sequence(start, depth)
        if event.anchor is not None:  # only now: an alias inside its own anchor would be a cycle
            self._anchors[event.anchor] = node
        return node

    def _spend(self, weight: int, index: int) -> None:
        self._weight_left -= weight
        if self._weight_left < 0:
            message = (
                f"found more than {MAX_VALUES} values, counting those that aliases repeat; split the file"
            )
            raise Problem("too-many-values", message, index)

    def _alias(self, event: Any, start: int) -> _Node:
        self._aliases += 1
        if self._aliases > MAX_ALIASES:
            message = f"found more than {MAX_ALIASES} aliases; write the values out"
            raise Problem("too-many-aliases", message, start)
        if event.anchor not in self._anchors:
            message = "this alias has no anchor before it; put a text that begins with * in quotes"
            raise Problem("unknown-alias", message, start)
        node = self._anchors[event.anchor]
        self._spend(node.weight, start)
        return node

    def _scalar(self, event: Any, start: int) -> _Node:
        text = event.value
        if event.style and (found := deceptive(text)):
            self._note(_deceptive(found[0], start))
        value = text if event.style else self._plain(text, start)
        # A long text weighs more, as aliases may repeat it.
        return _Node(value, start, event.end_mark.index, 1 + len(text) // 32, _NO_CHILDREN)

    def _plain(self, text: str, start: int) -> Json:
        """The value of an unquoted scalar; None, with a problem, if JSON cannot represent it."""
        try:
            return plain(text)
        except NotJson as problem:
            self._problem("not-json", str(problem), start)
            return None

    def _sequence(self, start: int, depth: int) -> _Node:
        node = _Node([], start, start, 1, {})
        while _kind(event := self._next()) != "SequenceEndEvent":
            child = self._node(event, depth + 1)
            node.add(len(node.value), event.start_mark.index, child)
            node.value.append(child.value)
        node.end = event.end_mark.index
        return node

    def _mapping(self, begin: Any, start: int, depth: int) -> _Node:
        node = _Node({}, start, start, 1, {})
        if depth == 1:  # before it is read: after an error it holds the keys up to there
            self.root = node
        valueless = []
        keys = 0
        while _kind(event := self._next()) != "MappingEndEvent":
            keys += 1
            index, key_end = event.start_mark.index, event.end_mark.index
            key = self._key(event, depth)
            child = self._node(self._next(), depth + 1)
            if key is None:
                continue
            # {a} is valid YAML for {a: null}; {a: } shows that null is meant.
            if begin.flow_style and child.start == child.end and ":" not in self._text[key_end : child.end]:
                valueless.append(index)
            if key in node.children:
                line = 1 + len(_LINE_END.findall(self._text, 0, node.children[key][0]))
                self._problem("duplicate-key", f"this key is already on line {line}; remove one", index)
                continue
            node.add(key, index, child)
            node.value[key] = child.value
        if valueless and len(valueless) == keys:  # only names, as in {id}: a placeholder without quotes
            self._problem("unquoted-placeholder", UNQUOTED, start)
        else:
            for index in valueless:
                self._note(valueless_key(self._text, index))
        node.end = event.end_mark.index
        return node

    def _key(self, event: Any, depth: int) -> str | None:
        """A key as it is written; None, with a problem, if it is not a text."""
        start, known = event.start_mark.index, len(self.problems)
        key: str = ""
        if _kind(event) == "ScalarEvent":
            key, is_plain = event.value, not event.style
            event.style = event.style or "'"  # otherwise it would be read as a keyword or a number
            if not is_plain or key not in {"", "<<"}:
                self._node(event, depth + 1)
                return key
        self._node(event, depth + 1)
        del self.problems[known:]  # one problem for the key is enough, whatever its parts are
        if key == "<<":
            self._problem("merge-key", "found a merge key; write the keys out", start)
        elif self._text.startswith("{", start):
            self._problem("unquoted-placeholder", UNQUOTED, start)
        else:
            self._problem("key-not-text", "expected a text as the key; put it in quotes", start)
        return None
