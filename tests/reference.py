"""The reference pages of ``docs/``, made from the code: ``python -m tests.reference`` writes them."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import click

from bridge import diagnostics, errors
from bridge.cli import restbridge
from bridge.commands.schema import Kind, Schema, schema
from bridge.spec import Json, Limits, ToolSpec, UpstreamSpec
from bridge.tool.projection.interpreter import FUNCTIONS
from bridge.tool.projection.projection import Projection
from tests.test_house import FLOORS, IMPORTS

ROOT: Final = Path(__file__).parents[1]
PAGES: Final = ROOT / "docs" / "reference"
_BAD: Final = ROOT / "tests" / "toolfiles" / "bad"
MADE: Final = "<!-- Written by python -m tests.reference from the code. Do not edit. -->"
_FILES: Final[Mapping[str, Kind]] = {
    "tool-file": "tool",
    "upstream-file": "upstream",
    "settings-file": "settings",
}
_INTRO: Final[Mapping[Kind, str]] = {
    "tool": """\
A tool file describes one tool: the request that a call becomes, and what of the reply the model gets.
It lies in a tools directory and is named `NAME.yaml`.

These keys are reserved for later, and refused until then: {later}.""",
    "upstream": """\
An upstream file describes one API: its address, its credentials, and what holds for all tools that use it.
It is named `NAME.upstream.yaml`. Tool files refer to it with `upstream: NAME`.

These are reserved for later, and refused until then: {later}, `addresses: public`.""",
    "settings": """\
The settings file says how one bridge runs: its directories, who may call, limits, log and audit.
Name it with `--config FILE` or `RESTBRIDGE_CONFIG`. Options on the command line override it. Every key is optional.

Paths are relative to the folder of the settings file. `access` is reloaded when the file changes, except `resource`.
Everything else needs a restart. So does adding `access` for the first time.""",
}


_LATER: Final[Mapping[Kind, frozenset[str]]] = {
    "tool": ToolSpec.later,
    "upstream": UpstreamSpec.later | {f"limits.{key}" for key in Limits.later},
    "settings": frozenset(),
}

_EXIT_CODES: Final[Mapping[str, str]] = {
    "0": "Success.",
    "1": "A file has errors (`check`, `list`, `serve --strict`), a call failed (`call`), or would be refused (`explain`).",
    "2": "Wrong use, a directory or tool that does not exist, or an address in use.",
    "3": "An internal error. `restbridge --verbose …` shows where.",
    "130": "Interrupted. `serve` and `demo` finish open calls and end with 0.",
}


def pages() -> dict[str, str]:
    """File name → text of each page."""
    return {
        **{f"{name}.md": _file_page(name, kind) for name, kind in _FILES.items()},
        "cli.md": _cli_page(),
        "diagnostics.md": _diagnostics_page(),
        "error-codes.md": _error_codes_page(),
        "functions.md": _functions_page(),
        "../internals/architecture.md": _architecture_page(),
    }


_ARCHITECTURE: Final = """\
The code is arranged in rooms: folders and single modules of `bridge/`. An import goes down only, to a room on a lower floor.
No two rooms of one floor import each other, and no imports form a circle. `tests/test_house.py` checks that.

The picture shows which room imports which. An import that also follows from two others is left out. `values` stands for the
modules of floors 1 to {floors}, which nearly all rooms use: {ground}."""
_WALKS: Final = """\
## A call

1. A transport reads a message: `stdio/transport.py`, or `http/connection.py` and the checks behind it.
2. `protocol/fast_path.py` recognizes a plain `tools/call` or `tools/list`. Everything else goes to the MCP SDK. Both paths meet in `protocol/handlers.py`.
3. `handlers` takes the current snapshot from `registry` once, finds the tool, and calls `invoke`.
4. `invoke` runs three steps: `tool/prepare.py` checks the arguments and builds the request, `upstream/client.py` sends it, and `tool/evaluate.py` makes the result of the reply.
5. `invoke` emits `CallFinished`. The modules of `telemetry/` listen: log, metrics, audit, traces.

## A reload

1. `toolfiles/reloader.py` wakes up because a file changed, at a poll, or on request.
2. `toolfiles/watch/` finds the files that changed, and waits until they are complete.
3. `toolfiles/loader.py` compiles the changed files in a worker thread. Each gives a tool or diagnostics.
4. `registry` replaces the snapshot in one step.
5. If the tools that clients see changed, `protocol/notifications.py` notifies them.
6. `SnapshotReplaced` is emitted. `app/reload_log.py` and the modules of `telemetry/` listen."""
_THEORY: Final = """\
## Read more in the code

Where a thing is spread over functions or files, the docstring of a module explains it: its steps, its states, and the reasons.

| Topic | Explained in |
| --- | --- |
| Who gets a name that several files claim | [toolfiles/resolution.py](../../bridge/toolfiles/resolution.py), [toolfiles/names.py](../../bridge/toolfiles/names.py) |
| When a changed file is read | [toolfiles/watch/debounce.py](../../bridge/toolfiles/watch/debounce.py), [toolfiles/reloader.py](../../bridge/toolfiles/reloader.py) |
| The lists of tools that callers see | [registry.py](../../bridge/registry.py), [protocol/tool_list_cache.py](../../bridge/protocol/tool_list_cache.py) |
| Notifications | [protocol/notifications.py](../../bridge/protocol/notifications.py), [http/notification_stream.py](../../bridge/http/notification_stream.py) |
| Clients of 2025-11-25 and before over HTTP, without sessions | [http/handshake.py](../../bridge/http/handshake.py), [protocol/session_id.py](../../bridge/protocol/session_id.py), [http/reply_stream.py](../../bridge/http/reply_stream.py) |
| Requests in flight, and how they are cancelled | [protocol/in_flight.py](../../bridge/protocol/in_flight.py) |
| Connections of clients, and their checks | [http/connection.py](../../bridge/http/connection.py), [http/request_guard.py](../../bridge/http/request_guard.py) |
| Keys and tokens of callers | [access/credentials.py](../../bridge/access/credentials.py) |
| TLS of the server | [http/tls.py](../../bridge/http/tls.py), [http/handshakes.py](../../bridge/http/handshakes.py), [http/paced_transport.py](../../bridge/http/paced_transport.py), [app/tls_watcher.py](../../bridge/app/tls_watcher.py) |
| The fast path: calls and lists without the SDK | [http/fast_path_middleware.py](../../bridge/http/fast_path_middleware.py), [stdio/transport.py](../../bridge/stdio/transport.py), [protocol/fast_path.py](../../bridge/protocol/fast_path.py) |
| Answers before the SDK is imported | [stdio/early_answers.py](../../bridge/stdio/early_answers.py), [stdio/transport.py](../../bridge/stdio/transport.py) |
| Projections, and what they may cost | [tool/projection/interpreter.py](../../bridge/tool/projection/interpreter.py) |
| What checking a schema may cost | [tool/schema/costs.py](../../bridge/tool/schema/costs.py) |
| Sending a request: retries, tokens, slots, circuit breaker | [upstream/client.py](../../bridge/upstream/client.py), [upstream/oauth.py](../../bridge/upstream/oauth.py) |
| Connections to APIs | [upstream/http/connecting.py](../../bridge/upstream/http/connecting.py), [upstream/http/connection.py](../../bridge/upstream/http/connection.py), [upstream/http/failures.py](../../bridge/upstream/http/failures.py) |
| Redaction | [redaction.py](../../bridge/redaction.py), [escapes.py](../../bridge/escapes.py) |
| Workers | [app/workers.py](../../bridge/app/workers.py) |
| Upgrade without closing the port | [app/workers.py](../../bridge/app/workers.py), [app/handover.py](../../bridge/app/handover.py) |
| Messages between workers | [app/siblings.py](../../bridge/app/siblings.py) |
| Spreading connections over workers | [http/acceptor.py](../../bridge/http/acceptor.py) |"""
_GROUND_FLOORS: Final = 4
"""Floors whose rooms are drawn as one."""


def _architecture_page() -> str:
    ground = sorted(set().union(*FLOORS[:_GROUND_FLOORS]))
    named = ", ".join(f"`{name}`" for name in ground)
    return _page(
        "Architecture",
        _ARCHITECTURE.format(floors=_GROUND_FLOORS, ground=named),
        _drawing(set(ground)),
        _WALKS,
        _THEORY,
    )


def _drawing(ground: set[str]) -> str:
    """A flow chart of Mermaid: a box for each floor, and arrows for imports that do not follow from others."""

    def room(name: str) -> str:
        top = name.split("/", maxsplit=1)[0]
        return "values" if top in ground or top == "__init__" else top

    below: dict[str, set[str]] = {}
    for name, imported in IMPORTS.items():
        below.setdefault(room(name), set()).update(map(room, imported))
    reached: dict[str, set[str]] = {"values": set()}
    lines = ["```mermaid", "flowchart TD"]
    arrows = []
    for floor in FLOORS[_GROUND_FLOORS:]:
        for name in sorted(floor):
            direct = below[name] - {name}
            farther = set().union(*(reached[each] for each in direct))
            reached[name] = direct | farther
            arrows += [f"  {name} --> {each}" for each in sorted(direct - farther)]
    for number, floor in reversed(list(enumerate(FLOORS[_GROUND_FLOORS:], _GROUND_FLOORS + 1))):
        lines += [
            f"  subgraph floor{number} [floor {number}]",
            *(f"    {name}" for name in sorted(floor)),
            "  end",
        ]
    return "\n".join([*lines, *arrows, "```"])


def main() -> None:
    PAGES.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (PAGES / name).write_text(text, "utf-8")


def _page(title: str, *parts: str) -> str:
    return "\n\n".join((f"# {title}", MADE, *parts)) + "\n"


def _table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


# --- files: from their JSON Schemas ---


def _file_page(name: str, kind: Kind) -> str:
    root = schema(kind)
    parts = [
        _INTRO[kind].format(later=", ".join(f"`{key}`" for key in sorted(_LATER[kind]))),
        f"Editors take the same from [`schemas/{kind}.schema.json`](../../schemas/{kind}.schema.json).",
    ]
    parts.append("## Keys of the file")
    parts.append(_keys(root))
    for title, definition in root["$defs"].items():
        if "properties" in definition and title != "JsonSchema":
            parts += [f"## {title}", definition.get("description", ""), _keys(definition)]
    return _page(name.replace("-", " ").capitalize(), *filter(None, parts))


def _keys(definition: Schema) -> str:
    required = definition.get("required", ())

    def rows() -> Iterator[tuple[str, ...]]:
        for name, value in definition["properties"].items():
            must = "yes" if name in required else ""
            yield f"`{name}`", _value(value), must, value.get("description", "")

    return _table(("Key", "Value", "Required", "Meaning"), rows())


def _value(node: Schema) -> str:
    """What a value may be, in a few words."""
    match node:
        case {"$ref": ref}:
            name = ref.rpartition("/")[2]
            words = name if name == "JsonSchema" else f"[{name}](#{name.lower()})"
        case {"const": value}:
            words = f"`{value}`"
        case {"enum": values}:
            words = ", ".join(f"`{value}`" for value in values)
        case {"anyOf": forms} | {"oneOf": forms}:
            words = " or ".join(dict.fromkeys(map(_value, forms)))
        case {"type": "array", "items": dict(items)}:
            words = f"list of {_value(items)}"
        case {"type": "object", "additionalProperties": dict(values)}:
            words = f"mapping of names to {_value(values)}"
        case {"type": list(types)}:
            words = " or ".join(types)
        case _:
            words = node.get("type", "any")
    return words


# --- command line: from click ---


def _cli_page() -> str:
    parts = ["Every command answers `--help`. Options of `restbridge` itself stand before the command."]
    parts += ["## Exit codes", _table(("Code", "Meaning"), iter(_EXIT_CODES.items()))]
    root = click.Context(restbridge, info_name="restbridge", **restbridge.context_settings)
    parts += [_help(root), *_commands(restbridge, root)]
    return _page("Command line", *parts)


def _commands(group: click.Group, parent: click.Context) -> Iterator[str]:
    for name, command in group.commands.items():
        context = click.Context(command, parent, info_name=name)
        yield f"## {context.command_path}"
        yield _help(context)
        if isinstance(command, click.Group):
            yield from _commands(command, context)


def _help(context: click.Context) -> str:
    context.max_content_width = context.terminal_width = 110
    return f"```text\n{context.get_help().rstrip()}\n```"


# --- codes: from their tables, and the corpus of wrong files ---


def _diagnostics_page() -> str:
    parts = [
        "`restbridge check` names one of these codes at the end of each line. Codes whose text begins with “A warning” do not make the check fail."
    ]
    for code, meaning in diagnostics.CODES.items():
        parts += [f"## {code}", meaning]
        if case := _shortest(code):
            parts.append(f"`tools.d/{case.name}` and what `check` prints for it:")
            parts.append(f"```yaml\n{case.read_text('utf-8').rstrip()}\n```")
            parts.append(f"```text\n{case.with_name(case.name + '.txt').read_text('utf-8').rstrip()}\n```")
    return _page("Diagnostics", *parts)


def _shortest(code: str) -> Path | None:
    """The shortest wrong file that earns this code and no other, if one is a file that can be shown."""

    def fits(case: Path) -> bool:
        lines = case.with_name(case.name + ".txt").read_text("utf-8").splitlines()
        return all(line.endswith(f"[{code}]") for line in lines) and case.read_bytes().isascii()

    cases = filter(fits, (_BAD / code).glob("*.yaml"))
    return min(cases, key=lambda case: (case.stat().st_size, case.name), default=None)


def _error_codes_page() -> str:
    intro = "A result that is an error has its code under `_meta`, as `restbridge/error`. The log, metrics and the audit name the same code."
    return _page(
        "Error codes of calls",
        intro,
        _table(("Code", "Meaning"), ((f"`{code}`", text) for code, text in errors.CODES.items())),
    )


# --- functions of projections: from the interpreter, which makes the results of the examples ---

_DOCUMENT: Final[Mapping[str, Json]] = {
    "total": 3,
    "name": "Disk is full",
    "size": "12.5",
    "owner": None,
    "tags": ["web", "disk"],
    "counts": [3, 1, 2],
    "hosts": [{"id": "a", "load": 0.5, "up": True}, {"id": "b", "load": 0.2, "up": False}],
    "limits": {"cpu": 2, "memory": 4},
}
_SYNTAX: Final[Mapping[str, str]] = {
    "limits.cpu": "A key of an object in an object",
    "tags[0]": "An entry of a list, from 0. `[-1]` is the last.",
    "counts[:2]": "The first two entries",
    "hosts[].id": "A key of each object in a list. `[]` also flattens lists in the list. `[*]` does not.",
    "limits.*": "All values of an object",
    "hosts[?up].id": "Entries for which a condition is true",
    "hosts[?id == 'b'].load": "Entries with a text. Texts stand in `'`.",
    "hosts[?load > `0.3`].id": "Entries with a number. Numbers stand in backticks.",
    "hosts[?up && load < `1` || !up].id": "And, or, not",
    "{title: name, first: tags[0]}": "An object with names of your choice",
    "[name, total]": "A list",
    "hosts[] | [0].id": "`|` ends a list projection: `[0]` is the first of the result.",
    'limits."cpu"': 'A key in `"`. Keys with a hyphen, a dot or a blank need that.',
    "owner || 'nobody'": "Another value where the first one is `null`, empty or absent",
    "missing": "What is absent is `null`, not an error.",
}
_FUNCTION_EXAMPLES: Final[Mapping[str, tuple[str, str]]] = {
    "abs": ("The number without its sign", "abs(`-3`)"),
    "avg": ("The average of the numbers. `null` for an empty list", "avg(counts)"),
    "ceil": ("The next whole number, upwards", "ceil(`1.2`)"),
    "contains": ("Whether a list has an entry, or a text has a part", "contains(tags, 'disk')"),
    "ends_with": ("Whether a text ends with another one", "ends_with(name, 'full')"),
    "floor": ("The next whole number, downwards", "floor(`1.8`)"),
    "join": ("The texts of a list as one, with a text between", "join(', ', tags)"),
    "keys": ("The names of an object", "keys(limits)"),
    "length": ("The number of characters, entries or keys", "length(hosts)"),
    "map": ("An expression for each entry. Unlike `[]`, it keeps `null`.", "map(&owner, hosts)"),
    "max": ("The largest of the numbers or texts", "max(counts)"),
    "max_by": ("The entry for which the expression is largest", "max_by(hosts, &load).id"),
    "merge": ("One object of several. The last one wins.", "merge(limits, {cpu: `8`})"),
    "min": ("The smallest of the numbers or texts", "min(counts)"),
    "min_by": ("The entry for which the expression is smallest", "min_by(hosts, &load).id"),
    "not_null": ("The first value that is not `null`", "not_null(owner, name)"),
    "reverse": ("The list or text backwards", "reverse(counts)"),
    "sort": ("The numbers or texts in order", "sort(counts)"),
    "sort_by": ("The entries in the order of an expression", "sort_by(hosts, &load)[].id"),
    "starts_with": ("Whether a text begins with another one", "starts_with(name, 'Disk')"),
    "sum": ("The sum of the numbers", "sum(counts)"),
    "to_array": ("A list stays. Any other value becomes a list of one entry.", "to_array(name)"),
    "to_number": ("The number that a text holds, else `null`", "to_number(size)"),
    "to_string": ("A text stays. Any other value becomes its JSON.", "to_string(limits)"),
    "type": ("The JSON type: string, number, boolean, array, object or null", "type(size)"),
    "values": ("The values of an object", "values(limits)"),
}
_TYPES: Final[Mapping[str, str]] = {
    "array-number": "list of numbers",
    "array-string": "list of texts",
    "array": "list",
    "string": "text",
    "expref": "`&expression`",
}
_PROJECTIONS: Final = """\
`response.jmespath` of a tool file is a [JMESPath](https://jmespath.org) expression. It selects what the model gets of the reply.
This page has the syntax and all functions. All of them are those of the standard.

The examples are applied to this reply:"""
_PITFALLS: Final = """\
## What often goes wrong

| You write | What happens | Write instead |
| --- | --- | --- |
| `[?id == "b"]` | In `"` stands a key, not a text: nothing is found. `check` warns. | `[?id == 'b']` |
| `[?load > 1]` | An error of `check`: a number needs backticks. | ``[?load > `1`]`` |
| `x-request-id` | An error of `check`: a hyphen needs quotes. | `"x-request-id"` |
| `hosts[].id[0]` | `[0]` is applied to each entry. | `hosts[].id \\| [0]` |
| `avg(missing)` | An error when the tool is called (`projection-failed`), because `null` is no list. | ``avg(missing \\|\\| `[]`)`` |

An expression has at most 4 KiB, and its result 4 MB. In YAML, put it in quotes."""


def _functions_page() -> str:
    assert _FUNCTION_EXAMPLES.keys() == FUNCTIONS.keys()
    rows = ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in _DOCUMENT.items())
    document = f"{{\n{rows}\n}}"
    syntax = ((_code(example), meaning, _result(example)) for example, meaning in _SYNTAX.items())
    functions = (
        (f"`{name}`", _parameters(name), meaning, _code(example), _result(example))
        for name, (meaning, example) in _FUNCTION_EXAMPLES.items()
    )
    return _page(
        "JMESPath",
        _PROJECTIONS,
        f"```text\n{document}\n```",
        "## Syntax",
        _table(("Expression", "What it selects", "Result"), syntax),
        "## Functions",
        _table(("Function", "Parameters", "Result", "Example", "Gives"), functions),
        _PITFALLS,
    )


def _parameters(name: str) -> str:
    def words(parameter: Mapping[str, Json]) -> str:
        types = [_TYPES.get(each, each) for each in parameter["types"]] or ["any value"]
        return " or ".join(types) + (", …" if parameter.get("variadic") else "")

    return "; ".join(map(words, FUNCTIONS[name]["signature"]))


def _code(expression: str) -> str:
    return f"`` {expression} ``" if "`" in expression else f"`{expression}`"


def _result(expression: str) -> str:
    return f"`{json.dumps(Projection.compile(expression).apply(dict(_DOCUMENT)))}`"


if __name__ == "__main__":
    main()
