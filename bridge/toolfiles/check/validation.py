"""Validates a parsed value: it becomes a spec, or findings.

``keys`` checks the keys first and removes what pydantic must not see. Then pydantic checks types and values, and
``_Translation`` turns its errors into findings.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from bridge.diagnostics import Finding, Findings, InvalidSpec, Route, did_you_mean
from bridge.spec import NAME_PATTERN, Json, SpecModel, ToolSpec, UpstreamSpec
from bridge.toolfiles.check.keys import Keys, no_value, shown

PRIVATE: Final = frozenset({"auth", "headers", "proxy"})
"""Keys of an upstream file whose values may hold secrets. No message quotes them."""

_M = TypeVar("_M", bound=SpecModel)

_NAME: Final = re.compile(NAME_PATTERN)
_NAME_RULE: Final = "expected 1 to 128 of A-Z, a-z, 0-9, _, . and -"
# Planned for ``addresses`` of an upstream. A tuple, not a set: what a file holds there may be unhashable.
_LATER_VALUES: Final = ("public",)
_MISSING: Final = {
    "apiKeys": "add it, as a list of what restbridge key new prints",
    "auth": "add it, as {type: none} if the API needs no credentials",
    "description": "add it: the model chooses a tool by it",
    "type": "add it: http, apiKey, oauth2 or none",
    "flow": "add it: clientCredentials or tokenExchange",
    "scheme": "add it: bearer or basic",
    "in": "add it: header, query or cookie",
}
_EXAMPLES: Final[Mapping[str | int, str]] = {
    "aliases": "[old_name]",
    "cookies": '{theme: "{theme}"}',
    "errors": "{404: No order has that number.}",
    "forwardHeaders": "[X-Tenant]",
    "headers": '{X-Region: "{region}"}',
    "limits": "{concurrency: 8}",
    "query": '{limit: "{limit}"}',
    "retries": "{max: 2}",
    "tags": "[support]",
    "validStatus": "[2xx, 404]",
    "auth": "{type: http, scheme: bearer, credentials: …} or {type: none}",
    "request": "{method: GET, url: /orders}",
    "response": '{jmespath: "items[].id"}',
}
"""Examples of a mapping or a list, for messages about a value of another type."""
_MEANT_AUTH: Final = {
    "bearer": "type: http, scheme: bearer",
    "basic": "type: http, scheme: basic",
    **{place: f"type: apiKey, in: {place}" for place in ("header", "query", "cookie")},
}
"""What was probably meant by a value that is not a type of auth."""
_OTHER_SCHEME: Final = (
    '; for another scheme, write {type: apiKey, in: header, name: Authorization, value: "SCHEME ${env:NAME}"}'
)
_TYPES: Final = {
    "string_type": "a text",
    "float_type": "a number",
    "int_type": "a whole number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}
"""What pydantic expected; the order is that of alternatives in a message."""
_SHORT_FORMS: Final = {"Timeout": "a duration such as 30s", "ErrorSpec": "a text"}
"""The short form that may replace a whole mapping."""
_BOUNDS: Final = {
    "greater_than_equal": "expected at least {ge}",
    "less_than_equal": "expected at most {le}",
    "string_too_short": "expected a text that is not empty",
    "string_too_long": "expected at most {max_length} characters",
    "too_short": "expected at least one item",
}


def validate_tool(stem: str, value: Mapping[str, Json]) -> tuple[ToolSpec, tuple[Finding, ...]]:
    """Returns the spec of a tool file and warnings; ``stem`` is the file's name without ``.yaml``.

    Raises ``InvalidSpec`` with every finding.
    """
    findings = Findings()
    if "baseUrl" in value and "request" not in value:
        message = "baseUrl makes this an upstream file; rename it to NAME.upstream.yaml"
        raise InvalidSpec(Finding("unknown-key", message, ("baseUrl",), at_key=True))
    if "name" not in value:
        _check_file_name(stem, "add the key name, or rename the file", findings)
    spec = validate(ToolSpec, value, findings)
    name, route = (spec.name, ("name",)) if spec.name else (stem, ())
    if len(name) > 64:
        message = f"found a name of {len(name)} characters, and some clients take 64 at most; shorten it"
        findings.warn("long-name", message, *route)
    if "." in name:
        findings.warn("dotted-name", "found a name with a dot, which some clients refuse; use _ or -", *route)
    if len(spec.description) > 1024:
        message = f"found a description of {len(spec.description)} characters, which some clients cut at 1024"
        findings.warn("long-description", f"{message}; shorten it", "description")
    return spec, tuple(findings)


def validate_upstream(name: str, value: Mapping[str, Json]) -> tuple[UpstreamSpec, tuple[Finding, ...]]:
    """Returns the spec of an upstream file and warnings; each ``${…}`` stays unresolved."""
    findings = Findings()
    _check_file_name(name, "rename the file", findings)
    return validate(UpstreamSpec, value, findings, PRIVATE), tuple(findings)


def _check_file_name(name: str, remedy: str, findings: Findings) -> None:
    if not _NAME.fullmatch(name):  # with match, $ would also match before a line break at the end
        findings.error("bad-name", f"the file's name says {shown(name)}, {_NAME_RULE}; {remedy}")


def validate(
    model: type[_M],
    value: Mapping[str, Json],
    findings: Findings,
    private: frozenset[str] = frozenset(),
    folder: Path | None = None,
) -> _M:
    """Returns the spec; raises ``InvalidSpec`` with all of ``findings``, earlier ones included.

    Paths of the settings file are relative to ``folder``.
    """
    keys = Keys(model, findings)
    checked = keys.known(value)
    spec = None
    try:
        spec = model.model_validate(checked, context=folder)
    except ValidationError as problem:
        _Translation(checked, keys, private, findings).add(problem)
    findings.raise_errors()
    assert spec is not None  # each of pydantic's errors is a finding, or about a key that has one
    return spec


class _Translation:
    """Turns pydantic's errors into findings, without its texts and without values below a private key."""

    def __init__(
        self, value: dict[str, Json], keys: Keys, private: frozenset[str], findings: Findings
    ) -> None:
        self._value = value
        self._keys = keys
        self._private = private
        self._findings = findings
        self._types: dict[Route, list[ErrorDetails]] = {}

    def add(self, problem: ValidationError) -> None:
        # pydantic reports each alternative of a union by itself: those of one value become one finding.
        for error in problem.errors(include_url=False):
            route = self._route(error["loc"])
            if error["type"] in _TYPES:
                self._types.setdefault(route, []).append(error)
            else:
                self._add(error, route)
        for route, errors in self._types.items():
            self._wrong_type(route, errors)

    def _route(self, location: Route) -> Route:
        """The location without the steps that pydantic adds: tags of unions, error_types of alternatives."""
        route: list[str | int] = []
        value: Json = self._value
        for step in location:
            below = dict(enumerate(value)) if isinstance(value, list) else value
            if isinstance(below, dict) and step in below:
                value = below[step]
                route.append(step)
        return tuple(route)

    def _add(self, error: ErrorDetails, route: Route) -> None:
        found, context = error["input"], error.get("ctx", {})
        match error["type"]:
            case "missing":
                self._missing(str(error["loc"][-1]), route)
            case "union_tag_not_found":  # pydantic puts the name in quotes
                self._missing(context["discriminator"].strip("'"), route)
            case "union_tag_invalid":
                key = context["discriminator"].strip("'")
                self._wrong_literal(found[key], context["expected_tags"], (*route, key))
            case "literal_error":
                self._wrong_literal(found, context["expected"], route)
            case "value_error":
                at_key = error["loc"][-1] == "[key]"  # pydantic's step to a mapping's key
                self._error("wrong-value", found, str(context["error"]), route, at_key=at_key)
            case "string_pattern_mismatch" if route[-1] == "src":
                self._error("wrong-value", found, "expected https://… or data:image/…", route)
            case "string_pattern_mismatch":
                self._error("bad-name", found, _NAME_RULE, route)
            case "too_short" if found:
                pass  # each refused item has its own error
            case kind:
                expected = _BOUNDS.get(kind, "expected another value").format(**context)
                self._error("wrong-value", found, expected, route)

    def _missing(self, key: str, route: Route) -> None:
        if (*route, key) not in self._keys.reported:
            message = f"the key {key} is missing; {_MISSING.get(key, 'add it')}"
            self._findings.error("missing-key", message, *route)

    def _wrong_literal(self, found: Json, expected: str, route: Route) -> None:
        """A value that is not in ``expected``, which pydantic writes as: 'a', 'b' or 'c'."""
        options = [word for word in re.findall(r"[^\s',]+", expected) if word != "or"]
        message = f"expected {'one of ' * (len(options) > 1)}{', '.join(options)}"
        if found in _LATER_VALUES:
            self._findings.error("not-supported", f"{found} is not supported yet; {message}", *route)
        else:
            meant = _MEANT_AUTH.get(str(found)) if route == ("auth", "type") else None
            near = did_you_mean(found, options) if isinstance(found, str) else ""
            if route == ("auth", "scheme"):
                near = near or _OTHER_SCHEME
            hint = f"; write {meant}" if meant else near
            self._error("wrong-value", found, message + hint, route)

    def _wrong_type(self, route: Route, errors: list[ErrorDetails]) -> None:
        error_types = {error["type"] for error in errors}
        if "float_type" in error_types:  # "a number" says it all
            error_types.discard("int_type")
        found, context = errors[0]["input"], errors[0].get("ctx", {})
        short = _SHORT_FORMS.get(context.get("class_name", ""))
        names = [*([short] if short else []), *(name for kind, name in _TYPES.items() if kind in error_types)]
        if names[-1] in ("a mapping", "a list") and route[-1] in _EXAMPLES:
            names[-1] = f"{names[-1]} such as {_EXAMPLES[route[-1]]}"
        quotable = isinstance(found, int | float) or (isinstance(found, dict | list) and names == ["a text"])
        hint = "; put it in quotes" if "a text" in names and quotable else ""
        self._error("wrong-type", found, f"expected {' or '.join(names)}{hint}", route)

    def _error(self, code: str, found: Json, expected: str, route: Route, *, at_key: bool = False) -> None:
        if found is None:  # in a list or below a free key, which ``Keys`` does not check for null
            self._findings.error("no-value", no_value(route[-1]), *route)
            return
        message = expected if route[0] in self._private else f"found {shown(found)}, {expected}"
        self._findings.error(code, message, *route, at_key=at_key)
