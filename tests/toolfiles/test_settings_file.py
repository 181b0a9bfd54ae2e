from hashlib import sha256
from pathlib import Path

import pytest

from bridge.address import Address
from bridge.registry import Snapshot
from bridge.secrets import Sources, Upstream
from bridge.settingsfile import View
from bridge.spec import ToolSpec, UpstreamSpec
from bridge.tool.compiler import Tool, compile_tool, compile_upstream
from bridge.toolfiles.settings_file import Configuration, beside_tools, read_configuration
from bridge.toolfiles.watch.scan import Owner, Place

DIGEST = "0123456789abcdef" * 4
ENTRY = f"{{name: ann, sha256: {DIGEST}"


def read(tmp_path: Path, text: str, **environ: str) -> Configuration:
    path = tmp_path / "restbridge.yaml"
    path.write_text(text)
    return read_configuration(path, Sources(environ))


def told(configuration: Configuration) -> list[str]:
    return [str(each).partition("/restbridge.yaml:")[2] for each in configuration.diagnostics]


def test_every_key_says_how_to_serve(tmp_path: Path) -> None:
    configuration = read(
        tmp_path,
        f"""\
tools: [a, b]
upstreams: c
strict: true
onInvalid: withdraw
poll: 500ms
express: false
views: {{few: {{tools: [get_*], tags: [x], without: [get_y]}}}}
http: {{listen: 8000, workers: 2, insecure: true}}
access:
  apiKeys:
    - {ENTRY}, scopes: [orders:read], expires: 2027-01-31}}
    - {{name: bob, sha256: "${{env:BOB}}", expires: "2027-01-31T01:00:00+01:00"}}
log: {{format: json}}
x-team: ours
""",
        BOB=DIGEST.upper().replace("0", "1"),
    )
    words = configuration.words
    assert (words, configuration.diagnostics) != (None, ())
    assert words
    assert words.http
    assert words.access
    assert (words.tools, words.upstreams, words.strict, words.on_invalid) == (
        ("a", "b"),
        "c",
        True,
        "withdraw",
    )
    assert (words.poll, words.express) == (0.5, False)
    assert (words.http.listen, words.http.workers, words.http.insecure) == (
        Address("127.0.0.1", 8000), 2, True
    )  # fmt: skip
    assert words.log.format == "json"
    assert words.views == {"few": View(tools=("get_*",), tags=("x",), without=("get_y",))}
    ann, bob = words.access.api_keys or ()
    assert (ann.name, ann.sha256, ann.scopes, ann.expires) == ("ann", DIGEST, ("orders:read",), 1801353600.0)
    assert (bob.sha256, bob.expires) == (DIGEST.replace("0", "1"), 1801353600.0)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("tool: [a]\n", '1:1: error: unknown key "tool"; did you mean tools? [unknown-key]'),
        ("baseUrl: x\n", '1:1: error: unknown key "baseUrl"; it belongs into the upstream file, NAME.upstream.yaml [unknown-key]'),
        ("audit: {}\n", "1:8: error: the key file is missing; add it [missing-key]"),
        ("audit: ''\n", '1:8: error: found "", expected a text that is not empty [wrong-value]'),
        ("audit: {file: a, require: true}\n", '1:18: error: unknown key "require"; did you mean required? [unknown-key]'),
        ("views: {a/b: {tags: [x]}}\n", '1:9: error: found "a/b", expected a name of letters, digits, _ and -, at most 64: it stands in a URL [wrong-value]'),
        ("views: {all: {without: [x]}}\n", "1:9: error: nothing is in this view; name tools or tags: a pattern of all names is * [missing-key]"),
        ("limits: {calls: 3}\n", '1:10: error: unknown key "calls"; write it under perCaller or inAll [unknown-key]'),
        ("http: {port: 1, listen: 1}\n", '1:8: error: unknown key "port"; did you mean listen? [unknown-key]'),
        ("views: {some: {tool: [x]}}\n", '1:16: error: unknown key "tool"; did you mean tools? [unknown-key]'),
        ("poll: 50ms\n", '1:7: error: found "50ms", expected at least 100ms [wrong-value]'),
        ("http: {listen: true}\n", "1:16: error: found true, expected a port such as 8000, or host:port [wrong-value]"),
        ("http: {listen: a b}\n", "1:16: error: found \"a b\", 'a b' is no address; write a port such as 8000, or host:port, without blanks [wrong-value]"),
        ("access: {}\n", "1:1: error: nobody could call; name apiKeys, as restbridge key new prints them, or jwt [missing-key]"),
        ("access: {jwt: [{issuer: x, jwks: keys}]}\n", "1:10: error: the key resource is missing; add it: clients learn there where to get a token (RFC 9728) [missing-key]"),
        ("access: {resource: 'https://x/mcp', jwt: [{issuer: x, jwks: 'http://x/keys'}]}\n", "1:61: error: over http anybody on the way could change the keys; use https, or name a file [bad-url]"),
        ("access: {resource: 'https://x/mcp', jwt: [{issuer: x, jwks: 'https://[fd00:ec2::254]/keys'}]}\n", "1:70: error: [fd00:ec2::254] is an address of AWS for metadata and credentials, which is never contacted; write the API's own host [bad-url]"),
        ("access: {resource: 'https://x/mcp', jwt: [{issuer: x, jwks: 'ftp://x/keys'}]}\n", "1:61: error: expected an address that begins with https:// [bad-url]"),
        ("access: {resource: 'https://x/mcp', jwt: [{issuer: x, jwks: a}, {issuer: x, jwks: a}]}\n", "1:74: error: this issuer stands above already; join the two [duplicate-key]"),
        ("access: {resource: x, jwt: [{issuer: x, jwks: a, algorithms: [HS256]}]}\n", "1:63: error: expected one of RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512, EdDSA; did you mean RS256? [wrong-value]"),
        ("access: {resource: 'https://x/mcp', jwt: [{issuer: x, jwks: a, maxLifetime: 400d}]}\n", "1:77: error: expected a time such as 30m, 24h or 7d, at most 366d [wrong-value]"),
        ("access: {resource: 'https://x/mcp', jwt: [{issuer: x, jwks: a, maxLifetime: 30}]}\n", "1:77: error: expected a time such as 30m, 24h or 7d, at most 366d [wrong-value]"),
        ("access: {apiKeys: [], stepUp: ask}\n", "1:31: error: expected one of hide, challenge [wrong-value]"),
        ("access: {resource: 'https://x/mcp?a', apiKeys: []}\n", "1:20: error: expected an address without ? and # (RFC 9728 1.2) [bad-url]"),
        ("access: {resource: 'https://x/mcp', jwt: [{issuer: x, jwks: '${env:X}'}]}\n", "1:61: error: expected an address or a path, written out: what is published is no secret [wrong-value]"),
        ("access: {resource: x, apiKeys: []}\n", "1:20: error: expected an address that begins with https:// [bad-url]"),
        (f"access: {{apiKeys: [{ENTRY}, expires: soon}}]}}\n", "1:115: error: expected a date such as 2027-01-31, or a time such as 2027-01-31T18:00:00Z [wrong-value]"),
        (f"access: {{apiKeys: [{ENTRY}, scopes: ['a b']}}]}}\n", "1:115: error: expected a scope without blanks, quotes and backslashes, such as orders:read [wrong-value]"),
        (f"access: {{apiKeys: [{ENTRY}}}, {ENTRY.replace('0', '1')}}}]}}\n", "1:114: error: the name ann stands above already; take another [duplicate-key]"),
        ("access: {apiKeys: [{name: ann, sha256: rb_the-key-itself}]}\n", "1:40: error: expected the SHA-256 of the key, 64 hexadecimal digits; restbridge key new prints both [wrong-value]"),
        (f"access: {{apiKeys: [{{name: ann, sha256: {sha256(b'').hexdigest()}}}]}}\n", "1:40: error: this is the digest of an empty key; make one with restbridge key new [wrong-value]"),
        (f"access: {{apiKeys: [{ENTRY}}}, {ENTRY.replace('ann', 'bob')}}}]}}\n", "1:127: error: this is the digest of the key of ann, too; give each its own key [duplicate-key]"),
        ("access: {apiKeys: [{name: ann, sha256: '${file:relative}'}]}\n", "1:41: error: ${file:…} names no absolute path; write it from the root, as in ${file:/run/secrets/key} [bad-secret]"),
        ("http: {listen: '0.0.0.0: 80'}\n", """1:16: error: found "0.0.0.0: 80", '0.0.0.0: 80' is no address; write a port such as 8000, or host:port, without blanks [wrong-value]"""),
        ("- a\n", "1:1: error: found no mapping; expected lines of `key: value` [not-a-mapping]"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_at_its_place_and_never_quotes_a_key(
    tmp_path: Path, text: str, line: str
) -> None:
    configuration = read(tmp_path, text)
    assert configuration.words is None
    assert told(configuration) == [line]
    assert "rb_" not in repr(configuration.diagnostics)


def test_what_a_view_names_in_vain_is_told_at_its_place(tmp_path: Path) -> None:
    path = tmp_path / "restbridge.yaml"
    path.write_text(
        """\
views:
  few: {tools: [get_*, "get[", old_name], tags: [red, blue, get_a]}
  none: {tools: ["*_a"], without: [get_a, red, nope]}
"""
    )
    words = {"description": "x", "inputSchema": {}, "request": {"method": "GET", "url": "http://x/y"}}
    spec = ToolSpec.model_validate(words | {"tags": ["red"], "aliases": ["old_name"]})
    tool, _ = compile_tool("get_a", spec, None, Sources({}))
    configuration = read_configuration(path, Sources({}))
    warnings = beside_tools(path, configuration, Snapshot([tool]))
    assert [str(each).partition("/restbridge.yaml:")[2] for each in warnings] == [
        '2:24: warning: no tool has the name "get[" [idle-view]',
        '2:32: warning: no tool has the name "old_name"; old_name is an alias of get_a: write that [idle-view]',
        '2:55: warning: no tool has the tag "blue" [idle-view]',
        '2:61: warning: no tool has the tag "get_a"; get_a is a tool, and goes under tools [idle-view]',
        "3:3: warning: no tool is in this view [idle-view]",
        '3:43: warning: no tool has the name "red"; red is a tag, and goes under tags [idle-view]',
        '3:48: warning: no tool has the name "nope" [idle-view]',
    ]
    broken = read(tmp_path, "tols: [a]\n")
    assert beside_tools(path, broken, Snapshot([tool])) == ()


def test_owners_of_no_tool_or_no_file_are_warned_of(tmp_path: Path) -> None:
    configuration = read(tmp_path, 'owners: {"pay_*": billing/, get_*: nowhere}\n')
    words = {"description": "x", "request": {"method": "GET", "url": "http://x/y"}}
    tool, _ = compile_tool("get_a", ToolSpec.model_validate(words), None, Sources({}))
    warnings = beside_tools(
        tmp_path / "restbridge.yaml",
        configuration,
        Snapshot([tool]),
        (Owner("pay_*", "billing"), Owner("get_*", "nowhere")),
        [Place(0, "billing/get_a.yaml", "tools.d")],
    )
    assert [str(each).partition("/restbridge.yaml:")[2] for each in warnings] == [
        '1:10: warning: no tool has the name "pay_*"; correct the pattern [unused-owner]',
        "1:36: warning: no tool file is in nowhere; name its folder [unused-owner]",
    ]


def test_callers_who_cannot_be_told_apart_or_show_no_token_are_warned_of(tmp_path: Path) -> None:
    auth = {"type": "oauth2", "flow": "tokenExchange", "tokenUrl": "https://x/token", "clientId": "x"}
    upstream = compile_upstream(
        "api", UpstreamSpec.model_validate({"baseUrl": "https://x", "auth": auth}), Sources({})
    )

    def tool(name: str, url: str, upstream: Upstream | None = None) -> Tool:
        words = {"description": "x", "request": {"method": "GET", "url": url}}
        return compile_tool(name, ToolSpec.model_validate(words), upstream, Sources({}))[0]

    who = tool("who", "https://x/{$caller}")
    both = tool("both", "https://x/{$caller.iss}/{$caller}")
    exchanging = tool("mine", "/x", upstream)
    one = "{issuer: a, jwks: 'https://a/'}"
    jwt, two = f"jwt: [{one}]", f"jwt: [{one}, {{issuer: b, jwks: 'https://b/'}}]"
    keys = f"apiKeys: [{ENTRY}}}]"
    unclear = "the tool who sends {$caller}, and of %s two callers may have one name; send {$caller.iss}, too"
    for access, told in (
        (jwt, []),
        (f"{jwt}, {keys}", [unclear % "a key and a token"]),
        (two, [unclear % "two issuers"]),
        (
            keys,
            ["the tool mine is called in the name of who shows a token, and here nobody can; name jwt"],
        ),
    ):
        path = tmp_path / "restbridge.yaml"
        found = read(tmp_path, f"access: {{resource: 'https://x/mcp', {access}}}\n")
        warnings = beside_tools(path, found, Snapshot([who, both, exchanging]))
        assert [warning.message for warning in warnings] == told
        assert all(str(warning).endswith("[unclear-caller]") for warning in warnings)


@pytest.mark.parametrize(
    ("text", "warnings"),
    [
        ("http: {listen: 1}\n", []),
        ("http: {listen: '0.0.0.0:1', insecure: true}\n", []),
        (
            "http: {listen: '0.0.0.0:1'}\n",
            [
                "1:16: warning: others can reach this address, and nobody is asked who calls: serve refuses it; add access, or insecure [open-address]"
            ],
        ),
        (
            "access: {apiKeys: []}\n",
            ["1:1: warning: nobody can call: there is no key, and no issuer [idle-access]"],
        ),
        (
            "access: {resource: 'https://x/mcp', jwt: [{issuer: a, jwks: nowhere.json}]}\n",
            [
                "1:61: warning: no file is there: FOLDER/nowhere.json; until one is, no token of this issuer counts [idle-access]"
            ],
        ),
    ],
)
def test_what_cannot_be_called_is_warned_of(tmp_path: Path, text: str, warnings: list[str]) -> None:
    found = read(tmp_path, text)
    assert found.diagnostics == ()
    told = beside_tools(tmp_path / "restbridge.yaml", found, Snapshot())
    assert [
        str(each).partition("restbridge.yaml:")[2].replace(str(tmp_path), "FOLDER") for each in told
    ] == warnings


def test_a_grant_that_matches_no_scope_is_warned_of(tmp_path: Path) -> None:
    words = {"description": "x", "request": {"method": "GET", "url": "https://x/"}, "scopes": ["orders:read"]}
    tool = compile_tool("a", ToolSpec.model_validate(words), None, Sources({}))[0]
    issuer = "{issuer: a, jwks: 'https://a/', grants: ['orders:*', 'restbridge:*', 'order:*']}"
    found = read(tmp_path, f"access: {{resource: 'https://x/mcp', jwt: [{issuer}]}}\n")
    (warning,) = beside_tools(tmp_path / "restbridge.yaml", found, Snapshot([tool]))
    assert str(warning).endswith(
        '1:112: warning: no tool asks for a scope that matches "order:*" [idle-access]'
    )


def test_a_key_that_is_there_in_vain_is_warned_of(tmp_path: Path) -> None:
    text = f"access: {{apiKeys: [{ENTRY}, scopes: [x, 'restbridge:operat'], expires: 2020-01-01}}]}}\n"
    configuration = read(tmp_path, text)
    assert configuration.words
    assert [each.partition(": warning: ")[2] for each in told(configuration)] == [
        "restbridge has no scope restbridge:operat, but restbridge:operate and restbridge:metrics [idle-access]",
        "the key of ann has expired [idle-access]",
    ]


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    configuration = read_configuration(tmp_path / "restbridge.yaml", Sources({}))
    assert configuration.words is None
    assert told(configuration) == [
        "1:1: error: found no such file; name the file that holds the settings [unreadable]"
    ]


def test_what_stands_for_no_digest_shuts_out_nobody_else(tmp_path: Path) -> None:
    text = f'access: {{apiKeys: [{{name: bob, sha256: "${{env:BOB}}"}}, {ENTRY}}}]}}\n'
    configuration = read(tmp_path, text, BOB="nonsense")
    (warning,) = told(configuration)
    assert warning == (
        "1:40: warning: what it stands for is no SHA-256, 64 hexadecimal digits; until it is, nobody has this "
        "key [unset-secret]"
    )
    assert configuration.words
    assert configuration.words.access
    assert [key.name for key in configuration.words.access.api_keys or ()] == ["ann"]


def test_a_key_whose_digest_is_not_there_shuts_out_nobody_else(tmp_path: Path) -> None:
    configuration = read(
        tmp_path, f'access:\n  apiKeys:\n    - {{name: bob, sha256: "${{env:BOB}}"}}\n    - {ENTRY}}}\n'
    )
    (warning,) = told(configuration)
    assert warning == (
        "3:28: warning: the variable BOB is not set, or empty; set it, for until then nobody has this key "
        "[unset-secret]"
    )
    assert configuration.words
    assert configuration.words.access
    assert [key.name for key in configuration.words.access.api_keys or ()] == ["ann"]
