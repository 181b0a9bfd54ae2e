from contextlib import suppress
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from bridge.diagnostics import Finding, Findings, InvalidSpec, nearest
from bridge.spec import Json, Method, SpecModel, ToolSpec, UpstreamSpec
from bridge.toolfiles.check.validation import PRIVATE, validate, validate_tool, validate_upstream

REQUEST = {"method": "GET", "url": "/x"}
TOOL = {"description": "Get a thing.", "request": REQUEST}
UPSTREAM = {"baseUrl": "http://localhost", "auth": {"type": "none"}}


def found(value: dict[str, Json], *, name: str = "get_thing") -> list[Finding]:
    """The findings for a tool, or for an upstream if it has a baseUrl."""
    try:
        if "baseUrl" in value:
            return list(validate_upstream(name, value)[1])
        return list(validate_tool(name, value)[1])
    except InvalidSpec as problem:
        return list(problem.findings)


def test_similar_keys_are_suggested_for_the_first_unknown_keys_only() -> None:
    many = [finding.message for finding in found(TOOL | {f"descriptio{n}": "" for n in range(30)})]
    assert sum("did you mean description?" in message for message in many) == 20
    assert sum("remove it, or let it begin with x-" in message for message in many) == 10


def test_long_words_are_not_compared() -> None:
    assert nearest("descriptionn", ["description" * 100, "description"]) == "description"
    assert nearest("description" * 100, ["description" * 100]) is None


def test_a_valid_file_becomes_a_spec() -> None:
    spec, warnings = validate_tool("get_thing", TOOL)
    assert (spec.description, spec.request.method, spec.name) == ("Get a thing.", "GET", None)
    assert not warnings
    assert validate_upstream("shop", UPSTREAM)[0].base_url == "http://localhost"


def test_keys_that_begin_with_x_are_ignored_among_keys_of_the_format() -> None:
    assert not found(
        TOOL
        | {"x-owner": None, "request": REQUEST | {"x-why": {}}, "retries": {"x-a": 1}}
        | {"icons": [{"src": "https://x/a.png", "x-b": 1}], "errors": {"404": {"message": "No.", "x-c": 1}}}
        | {"timeout": {"x-d": 1}}
    )
    assert not found(UPSTREAM | {"auth": {"type": "none", "x-ticket": 12}})


def test_keys_that_begin_with_x_are_kept_among_keys_of_the_operator() -> None:
    inner = {"x-a": "b"}
    spec, _ = validate_tool(
        "get_thing",
        TOOL
        | {"request": REQUEST | {"headers": inner, "query": inner, "cookies": inner, "body": inner}}
        | {"inputSchema": inner, "_meta": inner},
    )
    kept = (spec.request.headers, spec.request.query, spec.request.cookies, spec.request.body)
    assert (*kept, spec.input_schema, spec.meta) == (inner,) * 6


def test_null_is_allowed_inside_query_body_schemas_and_meta() -> None:
    inner = {"a": None, "b": [None]}
    request = REQUEST | {"query": inner, "body": inner}
    assert not found(TOOL | {"request": request, "inputSchema": inner, "outputSchema": inner, "_meta": inner})


@pytest.mark.parametrize("value", [None, [], {}, "x", 5, 1.5, True])
@pytest.mark.parametrize("key", [str(field.alias) for field in ToolSpec.model_fields.values()])
def test_an_invalid_value_is_reported_at_its_key(key: str, value: Json) -> None:
    for finding in found(TOOL | {key: value}):
        assert finding.route[:1] == (key,)
        assert finding.message


def test_no_message_quotes_a_possible_secret() -> None:
    secret = "hunter2hunter2"
    for value in (secret, 5, [secret], {"type": secret}, {"type": "http", "scheme": secret}, {secret: 1}):
        for key in PRIVATE:
            for finding in found(UPSTREAM | {key: value}):
                assert secret not in finding.message or finding.code == "unknown-key"


def test_an_error_type_without_a_message_of_its_own_is_reported_too() -> None:
    class Later(SpecModel):
        even: int = Field(multiple_of=2)

    with pytest.raises(InvalidSpec, match="found 3, expected another value"):
        validate(Later, {"even": 3}, Findings())


@pytest.mark.parametrize(
    "more",
    [
        {"timeout": "30s\n"},
        {"maxBytes": "1kB\n"},
        {"scopes": ["a\n"]},
        {"response": {"validStatus": ["2xx\n"]}},
        {"errors": {"404\n": "x"}},
    ],
)
def test_a_value_with_a_line_break_at_its_end_is_refused(more: dict[str, Json]) -> None:
    (finding,) = found(TOOL | more)
    assert finding.code == "wrong-value"


def test_no_key_and_no_value_breaks_the_line_of_its_message() -> None:
    for finding in found(TOOL | {"a\nb": 1, "enabled": "a\nb", "errors": {"404\n": None, "4\n": "x"}}):
        assert finding.message.isprintable()


@pytest.mark.parametrize("word", get_args(Method))
def test_a_value_in_the_wrong_case_gets_a_suggestion(word: str) -> None:
    (finding,) = found(TOOL | {"request": {"method": word.lower(), "url": "/x"}})
    assert finding.message.endswith(f"did you mean {word}?")


def keys(model: type[SpecModel]) -> list[str]:
    return [str(field.alias) for field in model.model_fields.values()]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [*keys(ToolSpec), *keys(UpstreamSpec), "method", "url", "type", "scheme", "404", "x-a", "a"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=120, deadline=None)
@given(st.dictionaries(st.sampled_from([*keys(ToolSpec), *keys(UpstreamSpec), "b"]), JSON, max_size=6))
def test_any_value_becomes_a_spec_or_findings(value: dict[str, Json]) -> None:
    for judge in (validate_tool, validate_upstream):
        with suppress(InvalidSpec):
            judge("name", value)
