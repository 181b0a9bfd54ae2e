import base64

import pytest

from bridge.errors import UnusableReply
from bridge.spec import Json
from bridge.tool.result.blocks import read

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
def test_a_block_is_passed_on(block: Json) -> None:
    assert read([block], 1000) == [block]


def test_what_mcp_does_not_know_is_left_out_and_text_is_visible() -> None:
    assert read([{"type": "text", "text": "\x1b[2J", "annotations": None, "html": "x"}], 1000) == [
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
    assert read([link | more], 1000) == [shown]
    passed = link | more | {"title": r"\u001b", "description": r"\u202e"}
    assert read([link | more], 1000, invisible="pass") == [passed]
    resource = {"uri": "\u200b", "mimeType": "\u200b", "text": "\u200b"}
    assert read([{"type": "resource", "resource": resource}], 1000)[0]["resource"] == dict.fromkeys(
        resource, r"\u200b"
    )


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({}, "the whole is not as MCP has it"),
        (None, "the whole is not as MCP has it"),
        ([5], "[0] is not as MCP has it"),
        ([{}], "[0] is not as MCP has it"),
        ([{"type": "teapot"}], "[0] is not as MCP has it"),
        ([{"type": "text", "text": "x"}, {"type": "text"}], "[1].text is missing"),
        ([{"type": "image", "data": "no base64!", "mimeType": "image/png"}], "[0].data is not as MCP has it"),
        ([{"type": "image", "data": "AAA", "mimeType": "image/png"}], "[0].data is not as MCP has it"),
        ([{"type": "image", "data": DATA}], "[0].mimeType is missing"),
        ([{"type": "resource", "resource": {"uri": "a:b"}}], "[0].resource.text is missing"),
        ([{"type": "resource", "resource": {"text": "x"}}], "[0].resource.uri is missing"),
        ([{"type": "text", "text": 5}], "[0].text is not as MCP has it"),
        ([{"type": "text", "text": "x", "annotations": {"priority": 2}}], "[0].annotations.priority is not"),
    ],
)
def test_what_is_no_block_is_an_error_that_says_where(value: Json, problem: str) -> None:
    with pytest.raises(UnusableReply) as caught:
        read(value, 1000)
    assert caught.value.code == "invalid-blocks"
    assert problem in str(caught.value)


def test_text_in_blocks_is_bounded_and_pictures_are_not() -> None:
    large = base64.b64encode(bytes(3000)).decode()
    assert read([{"type": "image", "data": large, "mimeType": "image/png"}], 1000)
    for block in (
        {"type": "text", "text": "x" * 2000},
        {"type": "resource", "resource": {"uri": "a:b", "blob": large}},
    ):
        with pytest.raises(UnusableReply, match=r"kB of content blocks"):
            read([block], 1000)
