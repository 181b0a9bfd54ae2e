"""YAML text as a plain value, and the line and column of every part of it.

Both parsers of ruamel.yaml are used as sources of events alone, and values are built here: so bounds
hold while a hostile text is being read, and what a scalar means is said in one place. The verdict is
the pure parser's. The C parser is some twenty times faster but reads another YAML: whatever it finds
fault with, or is known to read otherwise (``_READ_OTHERWISE``), goes to the pure one.
"""

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceEndEvent,
    StreamEndEvent,
)
from ruamel.yaml.main import CParser  # type: ignore[attr-defined] # it says None where there is no extension

from bridge.characters import deceptive
from bridge.codec import NotJson
from bridge.diagnostics import Diagnostic, Finding, Mark, Severity
from bridge.spec import Json
from bridge.toolfiles.text import fast_reader as quick
from bridge.toolfiles.text.fast_reader import plain
from bridge.toolfiles.text.syntax_hints import UNQUOTED, UNREADABLE, Problem, directive, explain, loose_key

MAX_BYTES: Final = 256 * 1024
MAX_DEPTH: Final = 64
MAX_VALUES: Final = 20_000
MAX_ALIASES: Final = 20
MAX_QUOTED: Final = 1000
MAX_PROBLEMS: Final = 20
"""Of one file: what more is wrong with it is counted, and not reported one by one."""

_READ_OTHERWISE: Final = re.compile(
    r"""[\t\u2028\u2029%.|>&*] (?:
        (?<=[\t\u2028\u2029])
      | (?<=^[%.])                                            # a directive, the end of a document
      | (?<=[|>]) [-+0-9]*\#                                  # a comment that touches the | before it
      | (?<=[|>]) [-+0-9]*[ ]*(?:\#.*)?[\r\n][\r\n ]*[ ][\r\n]  # a text that begins with blank lines
      | (?<=[&*]) (?<![^\s,:\[\]{}].) [a-zA-Z0-9_-]*[^a-zA-Z0-9_\s,\[\]{}-]  # an odd name of an anchor
    )""",
    re.MULTILINE | re.VERBOSE,
)
_DIRECTIVE: Final = re.compile("^%", re.MULTILINE)
_LINE: Final = re.compile(r"[^\r\n]+")
_ESCAPED: Final = re.compile(r"\\(?:x..|u.{4}|U.{8}|.)|.")
"""One character of a text in double quotes (YAML 1.2.2, 5.7)."""
_USERINFO: Final = re.compile(r"://[^/\s]*@")
"""Credentials where they are refused: nothing quotes them."""
_LINE_END: Final = re.compile(r"\r\n|\r|\n")

_EMPTY: Final = "found nothing in the file; expected lines of `key: value`"


@dataclass(slots=True)
class _Node:
    """A value and its place, as indices into the text; ``weight`` is its size with aliases expanded.

    ``children`` holds, by key or index, where the key or the item begins and what stands there.
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
    """One file, parsed; of a file with ``problems``, ``value`` holds what could be read of it.

    What an alias stands for is the anchor's very value: whoever changes one changes both.
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
        """Where everything stands, which is not asked of a file that is right."""
        return _read(self._text).root

    @cached_property
    def _lines(self) -> list[int]:
        """Where each line begins."""
        return [0, *(end.end() for end in _LINE_END.finditer(self._text))]

    @classmethod
    def parse(cls, data: bytes, path: str, private: frozenset[str] = frozenset()) -> "Document":
        """Read a whole file: UTF-8 with or without BOM, one mapping, at most ``MAX_BYTES``.

        Diagnostics quote no line of what stands under the top-level keys in ``private``, and none at
        all where that cannot be told.
        """
        text, problem = _decode(data)
        document = cls(path, text, private)
        if not problem and (value := _read_quickly(text)) is not None:
            document.value = value
            return document
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
        """The finding at its place; where the file lacks the end of the route, at what it has of it."""
        key_index, node = self._root.start, self._root
        whole = True
        for step in finding.route:
            if step not in node.children:
                whole = False
                break
            key_index, node = node.children[step]
        index = node.start
        if finding.at_key or node.start == node.end:
            index = key_index
        elif finding.offset is not None and whole and isinstance(node.value, str):
            index = self._into(node, finding.offset)
        return self._diagnostic(index, finding.code, finding.message, finding.severity)

    def _into(self, node: _Node, offset: int) -> int:
        """Where the character at ``offset`` of a text stands, line by line as far as it is spelt as it is."""
        start, end, position = node.start, node.end, 0
        if self._text[start] in "|>":
            start = self._lines[self._line(start)]
        elif self._text[start] in "'\"":
            start, end = start + 1, end - 1
        for line in _LINE.finditer(self._text, start, end):
            part = line[0].strip()
            at: int = node.value.find(part, position)
            if at < 0:
                continue
            position = at + len(part)
            if offset <= position and not node.value[offset:at].strip():
                return line.start() + line[0].index(part) + max(offset - at, 0)
        escaped = [match.start() for match in _ESCAPED.finditer(self._text, start, end)]
        if self._text[node.start] == '"' and len(escaped) == len(node.value):
            return escaped[offset]
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
        """A line as it may be quoted; all diagnostics of a line hold one text."""
        if line not in self._sources:
            source = _LINE_END.split(self._text[start : start + MAX_QUOTED], maxsplit=1)[0]
            is_private = line in self._private_lines or _USERINFO.search(source)
            self._sources[line] = None if is_private else source
        return self._sources[line]

    @cached_property
    def _private_lines(self) -> set[int]:
        """Lines of the private keys, and of whatever their aliases stand for."""
        lines: set[int] = set()
        nodes = [child for key, child in self._root.children.items() if key in self._private]
        while nodes:
            key_index, node = nodes.pop()
            lines.add(self._line(key_index))
            if not node.children:
                lines.update(range(self._line(node.start), self._line(max(node.start, node.end - 1)) + 1))
            nodes += node.children.values()
        return lines


def _decode(data: bytes) -> tuple[str, Problem | None]:
    """The text without a BOM, and why it cannot be read, if so."""
    if len(data) > MAX_BYTES:
        message = f"found {len(data)} bytes, expected at most {MAX_BYTES}; split the file"
        return "", Problem("too-large", message, 0)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        text = data[: problem.start].decode("utf-8-sig")
        return text, Problem("not-utf8", "found a byte that is not UTF-8; save the file as UTF-8", len(text))
    if found := deceptive(text):
        return text, _deceptive(found[0], found.start())
    return text, None


def _deceptive(character: str, index: int) -> Problem:
    name = unicodedata.name(character, "")
    told = f"found U+{ord(character):04X}{' ' * bool(name)}{name}"
    message = f"{told}, an invisible or misleading character; take it out"
    return Problem("control-character", message, index)


def _read_quickly(text: str) -> dict[str, Json] | None:
    """The value, if it is plain that nothing is wrong with the text."""
    if CParser is None or len(text) > MAX_VALUES // 2 or _READ_OTHERWISE.search(text):
        return None  # a value takes half a character at least, as in [:,:]
    try:
        return quick.read(CParser(text).get_event)
    except (quick.Unusual, YAMLError, ValueError):
        return None


def _read(text: str) -> "_Reading":
    fast = CParser is not None and not _READ_OTHERWISE.search(text)
    return (fast and _read_fast(text)) or _Reading(_events(text).__next__, text)


def _read_fast(text: str) -> "_Reading | None":
    """What the C parser reads without finding fault, but with bounds; else None."""
    try:
        reading = _Reading(CParser(text).get_event, text)
    except (YAMLError, ValueError):
        return None
    is_sure = all(problem.code.startswith("too-") for problem in reading.problems)
    return reading if is_sure else None


def _events(text: str) -> Iterator[Any]:
    """The pure parser's; a new one for each text, for a used one remembers directives."""
    try:
        yield from YAML(typ="safe", pure=True).parse(text)
    except MarkedYAMLError as problem:
        began = problem.context_mark or problem.problem_mark
        index = (problem.problem_mark or began).index
        raise explain(f"{problem.context}; {problem.problem}", text, index, began.index) from problem
    except (YAMLError, AssertionError, ValueError, LookupError, ArithmeticError) as problem:
        raise Problem("yaml-syntax", UNREADABLE, 0) from problem


class _Reading:
    """One pass over the events of a text: the root as far as it was read, and what is wrong.

    It ends at the first problem past ``MAX_PROBLEMS``.
    """

    def __init__(self, next_event: Callable[[], Any], text: str) -> None:
        self.root = _Node({}, 0, 0, 1, {})
        self.problems: list[Problem] = []
        self._next = next_event
        self._text = text
        self._anchors: dict[str, _Node] = {}
        self._aliases = 0
        self._room = MAX_VALUES
        try:
            self._documents()
        except Problem as problem:
            if not any((problem.code, problem.index) == (known.code, known.index) for known in self.problems):
                self.problems.append(problem)

    def _problem(self, code: str, message: str, index: int) -> None:
        self._note(Problem(code, message, index))

    def _note(self, problem: Problem) -> None:
        if len(self.problems) == MAX_PROBLEMS:
            message = f"found more than {MAX_PROBLEMS} problems up to here; fix them, then the rest is read"
            raise Problem("too-many-problems", message, problem.index)
        self.problems.append(problem)

    def _documents(self) -> None:
        begun = False
        while not isinstance(event := self._next(), StreamEndEvent):
            index = event.start_mark.index
            if isinstance(event, DocumentStartEvent):
                if begun:
                    message = "a second document begins here; put each tool in a file of its own"
                    raise Problem("several-documents", message, index)
                begun = True
                if found := _DIRECTIVE.search(self._text, 0, event.end_mark.index):
                    self._note(directive(found.start()))
            elif isinstance(event, MappingStartEvent):
                self._node(event, 1)
            elif isinstance(event, NodeEvent):
                self._not_a_mapping(event, index)
        if not begun:
            self._problem("empty-file", _EMPTY, 0)

    def _not_a_mapping(self, event: Any, index: int) -> None:
        if isinstance(event, ScalarEvent) and not event.style and not event.value:
            raise Problem("empty-file", _EMPTY, 0)
        message = "found no mapping; expected lines of `key: value`"
        raise Problem("not-a-mapping", message, index)

    def _node(self, event: Any, depth: int) -> _Node:
        """The value that begins with ``event``, to its end."""
        start, kind = event.start_mark.index, type(event)
        if depth > MAX_DEPTH:
            raise Problem("too-deep", f"nested deeper than {MAX_DEPTH} levels; make it flatter", start)
        if kind is AliasEvent:
            return self._alias(event, start)
        self._spend(1, start)
        if event.tag is not None:
            self._problem("yaml-tag", "found a YAML tag; take out the word that begins with !", start)
        if kind is ScalarEvent:
            node = self._scalar(event, start)
        elif kind is MappingStartEvent:
            node = self._mapping(event, start, depth)
        else:
            node = self._sequence(start, depth)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _spend(self, weight: int, index: int) -> None:
        self._room -= weight
        if self._room < 0:
            message = f"found more than {MAX_VALUES} values, aliases written out; split the file"
            raise Problem("too-many-values", message, index)

    def _alias(self, event: Any, start: int) -> _Node:
        self._aliases += 1
        if self._aliases > MAX_ALIASES:
            message = f"found more than {MAX_ALIASES} aliases; write the values out"
            raise Problem("too-many-aliases", message, start)
        if event.anchor not in self._anchors:
            message = "no anchor of this name ends above; put a text that begins with * in quotes"
            raise Problem("unknown-alias", message, start)
        node = self._anchors[event.anchor]
        self._spend(node.weight, start)
        return node

    def _scalar(self, event: Any, start: int) -> _Node:
        text = event.value
        if event.style and (found := deceptive(text)):
            self._note(_deceptive(found[0], start))
        value = text if event.style else self._plain(text, start)
        return _Node(value, start, event.end_mark.index, 1 + len(text) // 32, _NO_CHILDREN)

    def _plain(self, text: str, start: int) -> Json:
        """What an unquoted text means, as far as JSON can say it."""
        try:
            return plain(text)
        except NotJson as problem:
            self._problem("not-json", str(problem), start)
            return None

    def _sequence(self, start: int, depth: int) -> _Node:
        node = _Node([], start, start, 1, {})
        while not isinstance(event := self._next(), SequenceEndEvent):
            child = self._node(event, depth + 1)
            node.add(len(node.value), event.start_mark.index, child)
            node.value.append(child.value)
        node.end = event.end_mark.index
        return node

    def _mapping(self, begin: Any, start: int, depth: int) -> _Node:
        node = _Node({}, start, start, 1, {})
        if depth == 1:
            self.root = node
        loose = []
        keys = 0
        while not isinstance(event := self._next(), MappingEndEvent):
            keys += 1
            index, key_end = event.start_mark.index, event.end_mark.index
            key = self._key(event, depth)
            child = self._node(self._next(), depth + 1)
            if key is None:
                continue
            if begin.flow_style and child.start == child.end and ":" not in self._text[key_end : child.end]:
                loose.append(index)
            if key in node.children:
                line = 1 + len(_LINE_END.findall(self._text, 0, node.children[key][0]))
                self._problem("duplicate-key", f"this key stands on line {line} already; keep one", index)
                continue
            node.add(key, index, child)
            node.value[key] = child.value
        if loose and len(loose) == keys:
            self._problem("unquoted-placeholder", UNQUOTED, start)
        else:
            for index in loose:
                self._note(loose_key(self._text, index))
        node.end = event.end_mark.index
        return node

    def _key(self, event: Any, depth: int) -> str | None:
        """A key as it is written; None where it is no text."""
        start, known = event.start_mark.index, len(self.problems)
        key: str = ""
        if isinstance(event, ScalarEvent):
            key, is_plain = event.value, not event.style
            event.style = event.style or "'"  # else it would be read as a word or a number
            if not is_plain or key not in {"", "<<"}:
                self._node(event, depth + 1)
                return key
        self._node(event, depth + 1)
        del self.problems[known:]
        if key == "<<":
            self._problem("merge-key", "found a merge key; write the keys out", start)
        elif self._text.startswith("{", start):
            self._problem("unquoted-placeholder", UNQUOTED, start)
        else:
            self._problem("key-not-text", "expected a text as the key; put it in quotes", start)
        return None
