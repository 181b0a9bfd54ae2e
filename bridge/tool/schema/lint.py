"""Checks of an operator's schema before it is compiled, beyond what the meta-schema checks."""

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
"""The supported drafts: ``$schema`` without its scheme and final ``#``, and the canonical URI."""

_KEYWORD_HINTS: Final = {"nullable": '; write "null" into type, as in [string, "null"]'}
"""Advice about keywords that only OpenAPI 3.0 has."""
_MAX_STEPS: Final = 10_000
_HEADER_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110 5.6.2
# Not number: programs write floats in several ways (MCP 2026-07-28, transports, custom headers).
_HEADER_TYPES: Final = ("string", "integer", "boolean")
_COMMON_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def dialect(root: dict[str, Json]) -> str | None:
    """The canonical URI of the draft in ``$schema``; 2020-12 if the key is missing (SEP-1613), None if unknown."""
    written = str(root.get("$schema", "https://json-schema.org/draft/2020-12/schema"))
    return DIALECTS.get(re.sub(r"^https?://|#$", "", written))


def check(schema: Schema, findings: Findings) -> None:
    """Check a schema of arguments or results."""
    for route, subschema in schema.subschemas.items():
        if isinstance(subschema, dict):
            _check_identity(route, subschema, findings)
            _check_references(schema, route, subschema, findings)
            _check_keywords(route, subschema, findings)
    steps: dict[Route, int] = {}
    branching = [route for route in schema.subschemas if schema.in_place(route)]
    if any(_steps(schema, route, steps) > _MAX_STEPS for route in branching):
        message = f"one value would be validated more than {_MAX_STEPS} times, as references multiply; simplify the schema"
        findings.error("schema-too-large", message)


def check_arguments(schema: Schema, findings: Findings) -> None:
    """Check what MCP clients and models additionally need of ``inputSchema``."""
    if schema.root.get("type", "object") != "object":
        findings.error("not-an-object", "arguments are always an object; write type: object", "type")
    # Claude Code does: github.com/anthropics/claude-code/issues/95504.
    for keyword in ("anyOf", "oneOf", "allOf"):
        if keyword in schema.root:
            message = (
                f"some clients drop a tool with {keyword} at the root; move it into a property if possible"
            )
            findings.warn("combined-schema", message, keyword, at_key=True)
    names = schema.names()
    for name, routes in names.items():
        _check_name(name, routes[0], findings)
    for index, name in enumerate(_required(schema.root)):
        if isinstance(name, str) and name not in names:
            suggestion = did_you_mean(name, names) if findings.can_suggest else ""
            message = f"{name} is required, but not a property{suggestion or '; add it to properties'}"
            findings.error("unknown-argument", message, "required", index)
    _check_mirrored_headers(schema, findings)
    for route, subschema in schema.subschemas.items():
        # Each second step is a keyword, as in ("properties", "a", "properties", "b").
        if isinstance(subschema, dict) and "default" in subschema and set(route[::2]) != {"properties"}:
            message = (
                "this default is shown to clients but never filled in, as it is not under properties; "
                "move it there, or describe it in description"
            )
            findings.warn("ineffective-default", message, *route, "default", at_key=True)


def _required(root: dict[str, Json]) -> list[Json]:
    """The root's ``required``; empty if the schema also allows names that are not properties."""
    is_closed = root.get("additionalProperties", root.get("unevaluatedProperties")) is False
    names = root.get("required")
    return names if is_closed and "patternProperties" not in root and isinstance(names, list) else []


def _check_identity(route: Route, subschema: dict[str, Json], findings: Findings) -> None:
    if "$schema" in subschema:
        if route:
            message = "found $schema in a subschema, expected it only at the root; remove it"
            findings.error("unknown-dialect", message, *route, "$schema")
        elif dialect(subschema) is None:
            message = "the dialect is not supported; remove $schema for 2020-12, or use 2019-09, draft-07 or draft-06"
            findings.error("unknown-dialect", message, "$schema")
    if "$id" in subschema:
        message = "$id changes the target of references; remove it and refer with #/$defs/…"
        findings.error("schema-id", message, *route, "$id", at_key=True)


def _check_references(schema: Schema, route: Route, subschema: dict[str, Json], findings: Findings) -> None:
    if "$recursiveRef" in subschema:
        message = "$recursiveRef is not supported; use $ref"
        findings.error("unresolved-ref", message, *route, "$recursiveRef", at_key=True)
    for keyword in ("$ref", "$dynamicRef"):
        reference = subschema.get(keyword)
        if not isinstance(reference, str):
            continue
        if not reference.startswith("#"):
            advice = next(
                (
                    f"write {each}"
                    for each in _definitions(schema, findings)
                    # Such as $ref: Pet for #/$defs/Pet.
                    if each.endswith(f"/{reference}")
                ),
                "copy the schema under $defs and write #/$defs/…",
            )
            message = f"other documents are never fetched; {advice}"
            findings.error("external-ref", message, *route, keyword)
        elif schema.follow(reference) is None:
            hint = (
                did_you_mean(reference, _definitions(schema, findings))
                or "; define it under $defs and refer to #/$defs/…"
            )
            findings.error("unresolved-ref", f"{reference} does not point to a schema{hint}", *route, keyword)


def _check_keywords(route: Route, subschema: dict[str, Json], findings: Findings) -> None:
    for keyword, value in subschema.items():
        # $recursiveRef does have an effect: ``_check_references`` reports it as an error.
        if keyword not in KEYWORDS and not keyword.startswith("x-") and keyword != "$recursiveRef":
            hint = _KEYWORD_HINTS.get(keyword) or (
                did_you_mean(keyword, KEYWORDS) if findings.can_suggest else ""
            )
            # Such as quantity: {type: integer} next to properties.
            if isinstance(value, dict) and isinstance(value.get("type"), str):
                hint = "; if it is an argument, move it under properties"
            hint = hint or "; remove it, or prefix it with x-"
            message = f"{keyword} is not a JSON Schema keyword and has no effect{hint}"
            findings.warn("unknown-keyword", message, *route, keyword, at_key=True)
    types = subschema.get("type")
    is_array = types == "array" or (isinstance(types, list) and "array" in types)
    # VS Code does: github.com/microsoft/vscode/issues/284536. What $ref and allOf lead to may have items.
    if is_array and not subschema.keys() & {"items", "prefixItems", "$ref", "allOf"}:
        findings.warn(
            "array-without-items",
            "found an array without items, which some clients reject; add items",
            *route,
        )


def _definitions(schema: Schema, findings: Findings) -> list[str]:
    """References to all definitions, as in ``#/$defs/x``; empty if there are already many findings."""
    if not findings.can_suggest:
        return []
    places = [(name, schema.root.get(name)) for name in ("$defs", "definitions")]
    return [f"#/{name}/{key}" for name, value in places if isinstance(value, dict) for key in value]


def _steps(schema: Schema, route: Route, known: dict[Route, int], depth: int = 0) -> int:
    """How often one value is validated from ``route`` on; a cycle counts once, as the library caches results."""
    if route not in known:
        # Known before its subschemas, so that a cycle ends here.
        known[route] = 1
        inner = (_steps(schema, there, known, depth + 1) for _, there in schema.in_place(route))
        # Far below Python's recursion limit. A longer chain is refused like a costly one.
        known[route] = 1 + sum(inner) if depth < 100 else _MAX_STEPS + 1
    return known[route]


def _check_name(name: str, route: Route, findings: Findings) -> None:
    # $ begins the name of a builtin, and braces enclose the name in a request.
    if not 1 <= len(name) <= 128 or name.startswith("$") or not name.isprintable() or set(name) & set("{}"):
        message = "an argument's name is 1 to 128 printable characters without braces, not beginning with $"
        findings.error("bad-argument-name", message, *route, at_key=True)
    # Anthropic's API refuses all tools if one has such a name: github.com/twilio-labs/mcp/issues/58.
    elif not _COMMON_NAME.fullmatch(name):
        message = "some clients accept only [A-Za-z0-9_.-]{1,64} as argument names; rename it, and map it in query or body"
        findings.warn("unusual-argument-name", message, *route, at_key=True)


def _check_mirrored_headers(schema: Schema, findings: Findings) -> None:
    """Check ``x-mcp-header``: clients drop a tool if one is wrong (MCP 2026-07-28, transports, custom headers)."""
    seen: set[str] = set()
    for route, subschema in schema.subschemas.items():
        if not isinstance(subschema, dict) or "x-mcp-header" not in subschema:
            continue
        header = subschema["x-mcp-header"]
        problem = ""
        if not route or set(route[::2]) != {"properties"}:
            problem = "has no effect here, as clients read it only under properties; move it to a property"
        elif not isinstance(header, str) or not _HEADER_TOKEN.fullmatch(header):
            problem = "is not a header name; use letters, digits and hyphens"
        elif subschema.get("type") not in _HEADER_TYPES:
            problem = "is on a property that is not a string, integer or boolean; remove it"
        elif header.lower() in seen:
            problem = f"uses {header} twice; use another header name"
        if problem:
            findings.error("mcp-header", f"x-mcp-header {problem}", *route, "x-mcp-header")
        seen.add(str(header).lower())
