import pytest

from bridge.diagnostics import Findings, Route
from bridge.spec import Json
from bridge.tool.schema import lint
from bridge.tool.schema.structure import Schema

CHAIN = {f"d{n}": {"$ref": f"#/$defs/d{n + 1}"} for n in range(120)} | {"d120": {}}
DOUBLING = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(20)} | {"d20": {}}


def found(schema: dict[str, Json]) -> list[tuple[str, str, Route]]:
    findings = Findings()
    lint.check(Schema(schema), findings)
    lint.check_arguments(Schema(schema), findings)
    return [(finding.severity, finding.code, finding.route) for finding in findings]


@pytest.mark.parametrize(
    ("schema", "code", "route"),
    [
        ({"$schema": "https://example.com/mine"}, "unknown-dialect", ("$schema",)),
        ({"$schema": "http://json-schema.org/draft-04/schema#"}, "unknown-dialect", ("$schema",)),
        ({"not": {"$schema": "x"}}, "unknown-dialect", ("not", "$schema")),
        ({"$id": "https://example.com/"}, "schema-id", ("$id",)),
        ({"items": {"$id": "a"}}, "schema-id", ("items", "$id")),
        ({"$ref": "https://example.com/"}, "external-ref", ("$ref",)),
        ({"$ref": "file:///etc/passwd"}, "external-ref", ("$ref",)),
        ({"not": {"$dynamicRef": "other#x"}}, "external-ref", ("not", "$dynamicRef")),
        ({"$ref": "#/$defs/x"}, "unresolved-ref", ("$ref",)),
        ({"$recursiveRef": "#"}, "unresolved-ref", ("$recursiveRef",)),
        ({"$ref": "#/$defs/d0", "$defs": CHAIN}, "schema-too-large", ()),
        ({"$ref": "#/$defs/d0", "$defs": DOUBLING}, "schema-too-large", ()),
        ({"type": "array", "items": {}}, "not-an-object", ("type",)),
        ({"type": ["object", "null"]}, "not-an-object", ("type",)),
        ({"properties": {"": {}}}, "bad-argument-name", ("properties", "")),
        ({"properties": {"a{b}": {}}}, "bad-argument-name", ("properties", "a{b}")),
        ({"properties": {"$uuid": {}}}, "bad-argument-name", ("properties", "$uuid")),
        ({"properties": {"a\x07": {}}}, "bad-argument-name", ("properties", "a\x07")),
        ({"properties": {"a" * 129: {}}}, "bad-argument-name", ("properties", "a" * 129)),
        (
            {"items": {"type": "string", "x-mcp-header": "A"}},
            "mcp-header",
            ("items", "x-mcp-header"),
        ),
        ({"x-mcp-header": "A"}, "mcp-header", ("x-mcp-header",)),
        (
            {"properties": {"a": {"type": "string", "x-mcp-header": "A b"}}},
            "mcp-header",
            ("properties", "a", "x-mcp-header"),
        ),
        (
            {"properties": {"a": {"type": "string", "x-mcp-header": 5}}},
            "mcp-header",
            ("properties", "a", "x-mcp-header"),
        ),
        (
            {"properties": {"a": {"type": "number", "x-mcp-header": "A"}}},
            "mcp-header",
            ("properties", "a", "x-mcp-header"),
        ),
        (
            {"properties": {n: {"type": "string", "x-mcp-header": f"x{n}".upper()} for n in ("a", "A")}},
            "mcp-header",
            ("properties", "A", "x-mcp-header"),
        ),
    ],
)
def test_a_schema_that_no_client_or_library_can_use_is_an_error(
    schema: dict[str, Json], code: str, route: Route
) -> None:
    assert found(schema) == [("error", code, route)]


@pytest.mark.parametrize(
    ("schema", "code", "route"),
    [
        ({"properties": {"a": {"minLenght": 3}}}, "unknown-keyword", ("properties", "a", "minLenght")),
        ({"nullable": True}, "unknown-keyword", ("nullable",)),
        ({"anyOf": [{}]}, "combined-schema", ("anyOf",)),
        ({"oneOf": [{}]}, "combined-schema", ("oneOf",)),
        ({"allOf": [{}]}, "combined-schema", ("allOf",)),
        ({"properties": {"a": {"type": "array"}}}, "array-without-items", ("properties", "a")),
        ({"properties": {"a": {"type": ["array", "null"]}}}, "array-without-items", ("properties", "a")),
        ({"properties": {"created[gte]": {}}}, "unusual-argument-name", ("properties", "created[gte]")),
    ],
)
def test_a_schema_that_some_clients_cannot_use_is_a_warning(
    schema: dict[str, Json], code: str, route: Route
) -> None:
    assert found(schema) == [("warning", code, route)]


@pytest.mark.parametrize(
    "schema",
    [
        {"$schema": "https://json-schema.org/draft/2020-12/schema"},
        {"$schema": "http://json-schema.org/draft-07/schema#"},
        {"x-mine": 1, "properties": {"nullable": {}, "id": {"const": {"$id": "x"}}}},
        {"properties": {"a": {"type": "array", "$ref": "#/$defs/x"}}, "$defs": {"x": {"items": {}}}},
        {"properties": {"a": {"properties": {"b": {"type": "integer", "x-mcp-header": "B"}}}}},
        {"properties": {"a": {"$ref": "#"}}, "$defs": []},
    ],
)
def test_other_schemas_have_no_findings(schema: dict[str, Json]) -> None:
    assert found(schema) == []


def test_a_similar_reference_or_keyword_is_suggested() -> None:
    findings = Findings()
    lint.check(Schema({"$ref": "#/$defs/Ordr", "$defs": {"Order": {"minLenght": 1}}}), findings)
    first, second = (finding.message for finding in findings)
    assert first.endswith("did you mean #/$defs/Order?")
    assert second.endswith("did you mean minLength?")


def test_suggestions_are_made_only_for_the_first_mistakes() -> None:
    names = [f"name{number}" for number in range(30)]
    wrong: list[dict[str, Json]] = [
        {"properties": {"name": {}}, "required": names, "additionalProperties": False},
        {"$defs": {"name": {}}, "allOf": [{"$ref": f"#/$defs/{name}"} for name in names]},
        {"allOf": [{f"minimum{number}": 1} for number in range(30)]},
    ]
    for schema in wrong:
        findings = Findings()
        lint.check(Schema(schema), findings)
        lint.check_arguments(Schema(schema), findings)
        assert sum("; did you mean " in finding.message for finding in findings) in {19, 20}
