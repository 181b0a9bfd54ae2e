"""What is refused or doubted in an operator's schema, before it is compiled."""

import re
from typing import Final

from bridge.diagnostics import Findings, Route, did_you_mean
from bridge.spec import Json
from bridge.tool.schema.structure import KEYWORDS, Schema

DIALECTS: Final = {
    "json-schema.org/draft/2020-12/schema": "https://json-schema.org/draft/2020-12/schema",
    "json-schema.org/draft/2019-09/schema": "https://json-schema.org/draft/2019-09/schema",
    "json-schema.org/draft-07/schema": "http://json-schema.org/draft-07/schema#",
    "json-schema.org/draft-06/schema": "http://json-schema.org/draft-06/schema#",
}
"""The drafts that we read: what ``$schema`` may say, but for scheme and ``#``, and their proper names."""

_HINTS: Final = {"nullable": '; write "null" into type, as in [string, "null"]'}
"""Of OpenAPI 3.0's own keywords."""
_MAX_STEPS: Final = 10_000
_HEADER_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110 5.6.2
_HEADER_TYPES: Final = ("string", "integer", "boolean")
_COMMON_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def dialect(root: dict[str, Json]) -> str | None:
    """The proper name of the draft that ``$schema`` asks for; 2020-12 if it is not there (SEP-1613)."""
    written = str(root.get("$schema", "https://json-schema.org/draft/2020-12/schema"))
    return DIALECTS.get(re.sub(r"^https?://|#$", "", written))


def check(schema: Schema, findings: Findings) -> None:
    """Everything about a schema of arguments or of results that its meta-schema does not tell."""
    for route, position in schema.positions.items():
        if isinstance(position, dict):
            _check_identity(route, position, findings)
            _check_references(schema, route, position, findings)
            _check_keywords(route, position, findings)
    steps: dict[Route, int] = {}
    branching = [route for route in schema.positions if schema.in_place(route)]
    if any(_steps(schema, route, steps) > _MAX_STEPS for route in branching):
        message = (
            f"one value would be looked at more than {_MAX_STEPS} times, as references multiply; simplify"
        )
        findings.error("schema-too-large", message)


def check_arguments(schema: Schema, findings: Findings) -> None:
    """What clients and models ask of ``inputSchema`` besides."""
    if schema.root.get("type", "object") != "object":
        findings.error("not-an-object", "arguments are one object; write type: object", "type")
    for keyword in ("anyOf", "oneOf", "allOf"):
        if keyword in schema.root:
            message = f"some clients drop a tool with {keyword} at the top; put it into a property if you can"
            findings.warn("combined-schema", message, keyword, at_key=True)
    names = schema.names()
    for name, routes in names.items():
        _check_name(name, routes[0], findings)
    for index, name in enumerate(_required(schema.root)):
        if isinstance(name, str) and name not in names:
            near = did_you_mean(name, names) if findings.are_few else ""
            message = f"{name} is required, and no property{near or '; add it to properties'}"
            findings.error("unknown-argument", message, "required", index)
    _check_mirrored_headers(schema, findings)
    for route, position in schema.positions.items():
        if isinstance(position, dict) and "default" in position and set(route[::2]) != {"properties"}:
            message = (
                "this default is shown to clients and never filled in, as only those under properties are"
            )
            findings.warn(
                "idle-default",
                f"{message}; say in a description what is assumed",
                *route,
                "default",
                at_key=True,
            )


def _required(root: dict[str, Json]) -> list[Json]:
    """The names that the root requires, where no caller could give one that is no property."""
    is_closed = root.get("additionalProperties", root.get("unevaluatedProperties")) is False
    names = root.get("required")
    return names if is_closed and "patternProperties" not in root and isinstance(names, list) else []


def _check_identity(route: Route, position: dict[str, Json], findings: Findings) -> None:
    if "$schema" in position:
        if route:
            message = "$schema stands inside the schema, and counts at its root alone; take it out"
            findings.error("unknown-dialect", message, *route, "$schema")
        elif dialect(position) is None:
            message = "the dialect is not known; take $schema out for 2020-12, or name 2019-09, draft-07 or draft-06"
            findings.error("unknown-dialect", message, "$schema")
    if "$id" in position:
        message = "$id changes what references mean; take it out and refer with #/$defs/…"
        findings.error("schema-id", message, *route, "$id", at_key=True)


def _check_references(schema: Schema, route: Route, position: dict[str, Json], findings: Findings) -> None:
    if "$recursiveRef" in position:
        message = "$recursiveRef is not supported; write $ref"
        findings.error("unresolved-ref", message, *route, "$recursiveRef", at_key=True)
    for keyword in ("$ref", "$dynamicRef"):
        reference = position.get(keyword)
        if not isinstance(reference, str):
            continue
        if not reference.startswith("#"):
            advice = next(
                (
                    f"write {each}"
                    for each in _definitions(schema, findings)
                    if each.endswith(f"/{reference}")
                ),
                "copy it under $defs and write #/$defs/…",
            )
            message = f"a reference to another document is never fetched; {advice}"
            findings.error("external-ref", message, *route, keyword)
        elif schema.follow(reference) is None:
            hint = (
                did_you_mean(reference, _definitions(schema, findings))
                or "; write it under $defs and refer to #/$defs/…"
            )
            findings.error("unresolved-ref", f"{reference} leads to no schema{hint}", *route, keyword)


def _check_keywords(route: Route, position: dict[str, Json], findings: Findings) -> None:
    for keyword, value in position.items():
        if keyword not in KEYWORDS and not keyword.startswith("x-") and keyword != "$recursiveRef":
            hint = _HINTS.get(keyword) or (did_you_mean(keyword, KEYWORDS) if findings.are_few else "")
            if isinstance(value, dict) and isinstance(value.get("type"), str):
                hint = "; put an argument under properties, or let it begin with x-"
            hint = hint or "; take it out, or let it begin with x-"
            message = f"{keyword} is no keyword of JSON Schema and does nothing{hint}"
            findings.warn("unknown-keyword", message, *route, keyword, at_key=True)
    types = position.get("type")
    is_array = types == "array" or (isinstance(types, list) and "array" in types)
    if is_array and not position.keys() & {"items", "prefixItems", "$ref", "allOf"}:
        findings.warn(
            "array-without-items",
            "an array without items, which some clients refuse; say what its items are",
            *route,
        )


def _definitions(schema: Schema, findings: Findings) -> list[str]:
    """A reference to each, as it is written; none once there are many findings."""
    if not findings.are_few:
        return []
    places = [(name, schema.root.get(name)) for name in ("$defs", "definitions")]
    return [f"#/{name}/{key}" for name, value in places if isinstance(value, dict) for key in value]


def _steps(schema: Schema, route: Route, known: dict[Route, int], depth: int = 0) -> int:
    """How often one value is looked at from here; a cycle counts once, as the library remembers."""
    if route not in known:
        known[route] = 1
        inner = (_steps(schema, there, known, depth + 1) for _, there in schema.in_place(route))
        known[route] = 1 + sum(inner) if depth < 100 else _MAX_STEPS + 1
    return known[route]


def _check_name(name: str, route: Route, findings: Findings) -> None:
    if not 1 <= len(name) <= 128 or name.startswith("$") or not name.isprintable() or set(name) & set("{}"):
        message = "an argument's name is 1 to 128 printable characters without braces, not beginning with $"
        findings.error("bad-argument-name", message, *route, at_key=True)
    elif not _COMMON_NAME.fullmatch(name):
        message = "some clients refuse argument names but [A-Za-z0-9_.-]{1,64}; rename it, and map it in query or body"
        findings.warn("unusual-argument-name", message, *route, at_key=True)


def _check_mirrored_headers(schema: Schema, findings: Findings) -> None:
    """``x-mcp-header`` mirrors an argument into a header; a wrong one makes clients drop the tool.

    MCP 2026-07-28, transports, custom headers.
    """
    seen: set[str] = set()
    for route, position in schema.positions.items():
        if not isinstance(position, dict) or "x-mcp-header" not in position:
            continue
        header = position["x-mcp-header"]
        problem = ""
        if not route or set(route[::2]) != {"properties"}:
            problem = "stands where clients do not look; put it on a property of properties alone"
        elif not isinstance(header, str) or not _HEADER_TOKEN.fullmatch(header):
            problem = "is no header name; write letters, digits and hyphens"
        elif position.get("type") not in _HEADER_TYPES:
            problem = "stands on a property that is no string, integer or boolean; take it out"
        elif header.lower() in seen:
            problem = f"names {header} a second time; name another"
        if problem:
            findings.error("mcp-header", f"x-mcp-header {problem}", *route, "x-mcp-header")
        seen.add(str(header).lower())
