import base64

import pytest
from pydantic import ValidationError

from bridge.errors import UnusableReply
from bridge.spec import Json
from bridge.tool.result.blocks import _BLOCK, MAX_BLOCKS, parse_blocks

DATA = base64.b64encode(b"bytes").decode()


@pytest.mark.parametrize(
    "block",
    [
        {"type": "text", "text": "words"},
        {
            "type": "text",
            "text": "",
            "annotations": {"audience": ["user"], "priority": 0.5, "lastModified": "x"},
        },
        {"type": "image", "data": DATA, "mimeType": "image/png", "_meta": {"a": 1}},
        {"type": "audio", "data": DATA, "mimeType": "audio/wav"},
        {"type": "resource", "resource": {"uri": "a:b", "text": "words", "mimeType": "text/plain"}},
        {"type": "resource", "resource": {"uri": "a:b", "blob": DATA}},
        {"type": "resource_link", "uri": "a:b", "name": "n", "title": "t", "description": "d", "size": 5},
    ],
)
def test_a_valid_block_is_passed_on(block: Json) -> None:
    assert parse_blocks([block], 1000) == [block]


def test_members_unknown_to_mcp_are_left_out_and_text_is_visible() -> None:
    assert parse_blocks([{"type": "text", "text": "\x1b[2J", "annotations": None, "html": "x"}], 1000) == [
        {"type": "text", "text": r"\u001b[2J"}
    ]


def test_every_text_of_a_block_is_visible() -> None:
    link = {
        "type": "resource_link",
        "uri": "a:\u200b",
        "name": "\u200b",
        "title": "\x1b",
        "description": "\u202e",
    }
    more = {"mimeType": "\u2060", "annotations": {"lastModified": "\u00ad"}, "_meta": {"\u3164": ["\ufe0f"]}}
    shown = {
        "type": "resource_link",
        "uri": r"a:\u200b",
        "name": r"\u200b",
        "title": r"\u001b",
        "description": r"\u202e",
        "mimeType": r"\u2060",
        "annotations": {"lastModified": r"\u00ad"},
        "_meta": {r"\u3164": [r"\ufe0f"]},
    }
    assert parse_blocks([link | more], 1000) == [shown]
    passed = link | more | {"title": r"\u001b", "description": r"\u202e"}
    assert parse_blocks([link | more], 1000, invisible="pass") == [passed]
    resource = {"uri": "\u200b", "mimeType": "\u200b", "text": "\u200b"}
    assert parse_blocks([{"type": "resource", "resource": resource}], 1000)[0]["resource"] == dict.fromkeys(
        resource, r"\u200b"
    )


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({}, "expected an array"),
        (None, "expected an array"),
        ([5], "[0] does not match the MCP schema"),
        ([{}], "[0] does not match the MCP schema"),
        ([{"type": "teapot"}], "[0] does not match the MCP schema"),
        ([{"type": "text", "text": "x"}, {"type": "text"}], "[1].text is missing"),
        (
            [{"type": "image", "data": "no base64!", "mimeType": "image/png"}],
            "[0].data does not match the MCP schema",
        ),
        (
            [{"type": "image", "data": "AAA", "mimeType": "image/png"}],
            "[0].data does not match the MCP schema",
        ),
        ([{"type": "image", "data": DATA}], "[0].mimeType is missing"),
        ([{"type": "resource", "resource": {"uri": "a:b"}}], "[0].resource.text is missing"),
        ([{"type": "resource", "resource": {"text": "x"}}], "[0].resource.uri is missing"),
        ([{"type": "text", "text": "x", "_meta": [5]}], "[0] does not match the MCP schema"),
        ([{"type": "text", "text": 5}], "[0].text does not match the MCP schema"),
        (
            [{"type": "text", "text": "x", "annotations": {"priority": 2}}],
            "[0].annotations.priority does not match",
        ),
    ],
)
def test_an_invalid_block_is_an_error_with_its_position(value: Json, problem: str) -> None:
    with pytest.raises(UnusableReply) as caught:
        parse_blocks(value, 1000)
    assert caught.value.code == "invalid-blocks"
    assert problem in str(caught.value)


def test_the_number_of_blocks_is_limited() -> None:
    assert len(parse_blocks([{"type": "text", "text": ""}] * MAX_BLOCKS, 100_000)) == MAX_BLOCKS
    with pytest.raises(UnusableReply, match="it has 1001 items, at most 1000 are allowed"):
        parse_blocks([{"type": "text", "text": ""}] * (MAX_BLOCKS + 1), 100_000)


@pytest.mark.parametrize(
    "value",
    [
        [0] * MAX_BLOCKS,
        [{"type": "text", "text": "x", "annotations": {"audience": ["user", *[0] * 100_000]}}],
    ],
)
def test_validation_stops_after_the_first_errors(value: Json) -> None:
    with pytest.raises(UnusableReply) as caught:
        parse_blocks(value, 1000)
    problem = caught.value.__cause__
    assert isinstance(problem, ValidationError)
    assert problem.error_count() == 1


def test_meta_is_not_copied_by_the_check() -> None:
    block = {"type": "text", "text": "x", "_meta": {"a": [1]}}
    assert _BLOCK.validate_python(block).meta is block["_meta"]


def test_a_block_without_the_data_of_a_picture_is_limited_in_bytes() -> None:
    large = base64.b64encode(bytes(3000)).decode()
    image = {"type": "image", "data": large, "mimeType": "image/png"}
    assert parse_blocks([image], 1000)
    for block in (
        {"type": "text", "text": "x" * 2000},
        {"type": "text", "text": "é" * 600},
        {"type": "text", "text": "\x7f" * 200},
        {"type": "resource", "resource": {"uri": "a:b", "blob": large}},
        image | {"mimeType": "x" * 2000},
        image | {"_meta": {"a": [0] * 600}},
        image | {"annotations": {"lastModified": "x" * 2000}},
    ):
        with pytest.raises(UnusableReply, match=r"kB of content blocks"):
            parse_blocks([block], 1000)
