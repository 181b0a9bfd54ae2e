from base64 import urlsafe_b64encode
from typing import Any

import pytest
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS

from bridge.codec import encode
from bridge.protocol.session_id import Session, elicitation_modes, new_session_id, read_session_id

SESSION = Session("2025-11-25", ("form", "url"), "0123456789abcdef", 1_800_000_000)
CLAIMS: dict[str, Any] = {"v": "2025-11-25", "c": ["form"], "d": "0123456789abcdef", "t": 5}
RANDOM = "x" * 22


def forged(claims: object, random: str = RANDOM) -> str:
    data = claims if isinstance(claims, bytes) else encode(claims)
    return f"rb1.{urlsafe_b64encode(data).rstrip(b'=').decode()}.{random}"


@pytest.mark.parametrize("version", HANDSHAKE_PROTOCOL_VERSIONS)
@pytest.mark.parametrize("modes", [(), ("form",), ("url",), ("form", "url")])
@pytest.mark.parametrize("opened_at", [0, 1_800_000_000, 2**40])
def test_an_id_says_what_the_client_is(version: str, modes: tuple[str, ...], opened_at: int) -> None:
    session = Session(version, modes, "0123456789abcdef", opened_at)
    id = new_session_id(session)
    assert read_session_id(id) == session
    assert len(id) < 200
    assert id.isascii()
    assert id.isprintable()  # MCP 2025-11-25, session management


def test_two_clients_that_are_the_same_have_different_ids() -> None:
    assert new_session_id(SESSION) != new_session_id(SESSION)


def test_an_id_needs_no_secret() -> None:
    """Each request is authenticated by itself, so a client may claim what it could also say in ``initialize``."""
    assert read_session_id(forged(CLAIMS)) == Session("2025-11-25", ("form",), "0123456789abcdef", 5)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "c9bf1f6c0c5f4a4c8b1c7bd5a3a4d7c1",  # of the SDK
        "rb1.e30",
        f"rb1..{RANDOM}",
        f"rb2{forged(CLAIMS)[3:]}",
        f" {forged(CLAIMS)}",
        f"{forged(CLAIMS)}\n",
        forged(CLAIMS, "short"),
        forged(CLAIMS, RANDOM + "x"),
        forged(CLAIMS, "é" * 22),
        f"rb1.A.{RANDOM}",  # not Base64
        forged(b"{"),
        forged(b"\xff"),
        forged(b'{"v":"2025-11-25","c":[],"d":"0123456789abcdef","t":NaN}'),
        forged([]),
        forged({}),
        forged(CLAIMS | {"x": 1}),
        forged(CLAIMS | {"v": "2026-07-28"}),  # a modern client has no session
        forged(CLAIMS | {"v": "1999-01-01"}),
        forged(CLAIMS | {"v": 1}),
        forged(CLAIMS | {"c": "form"}),
        forged(CLAIMS | {"c": ["other"]}),
        forged(CLAIMS | {"c": ["url", "form"]}),
        forged(CLAIMS | {"c": ["form", "form"]}),
        forged(CLAIMS | {"c": [1]}),
        forged(CLAIMS | {"d": "0123456789ABCDEF"}),
        forged(CLAIMS | {"d": "0123"}),
        forged(CLAIMS | {"d": 1}),
        forged(CLAIMS | {"t": -1}),
        forged(CLAIMS | {"t": 2**40 + 1}),
        forged(CLAIMS | {"t": True}),
        forged(CLAIMS | {"t": 1.5}),
        forged(CLAIMS | {"t": "1"}),
        forged(b" " * 200 + encode(CLAIMS)),
    ],
)
def test_an_id_that_is_not_one_of_ours_is_none(text: str) -> None:
    assert read_session_id(text) is None


@pytest.mark.parametrize(
    ("capabilities", "modes"),
    [
        ({}, ()),
        ({"roots": {}}, ()),
        ({"elicitation": {}}, ("form",)),
        ({"elicitation": {"form": {}}}, ("form",)),
        ({"elicitation": {"url": {}}}, ("url",)),
        ({"elicitation": {"url": {}, "form": {}}}, ("form", "url")),
        ({"elicitation": {"other": {}}}, ()),
        ({"elicitation": None}, ()),
    ],
)
def test_the_modes_of_elicitation_that_a_client_supports(
    capabilities: dict[str, Any], modes: tuple[str, ...]
) -> None:
    assert elicitation_modes(capabilities) == modes


def test_a_session_has_the_capabilities_that_its_id_names() -> None:
    assert SESSION.capabilities == {"elicitation": {"form": {}, "url": {}}}
    assert Session("2025-11-25", (), "", 0).capabilities == {}
