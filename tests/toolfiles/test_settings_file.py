from hashlib import sha256
from pathlib import Path

import pytest

from bridge.address import Address
from bridge.registry import Snapshot
from bridge.resolved_upstream import Upstream
from bridge.secrets import Sources
from bridge.spec import ToolSpec, UpstreamSpec
from bridge.tool.compiler import Tool, compile_tool, compile_upstream
from bridge.toolfiles.place import Owner, Place
from bridge.toolfiles.settings_file import ParsedSettings, check_against_tools, read_settings_file
from bridge.view import View

DIGEST = "0123456789abcdef" * 4
ENTRY = f"{{name: ann, sha256: {DIGEST}"


def read(tmp_path: Path, text: str, **environ: str) -> ParsedSettings:
    path = tmp_path / "restbridge.yaml"
    path.write_text(text)
    return read_settings_file(path, Sources(environ))


def reported(configuration: ParsedSettings) -> list[str]:
    return [str(each).partition("/restbridge.yaml:")[2] for each in configuration.diagnostics]


def test_every_key_of_the_settings_file_is_read(tmp_path: Path) -> None:
    configuration = read(
        tmp_path,
        f"""\
tools: [a, b]
upstreams: c
strict: true
onInvalid: withdraw
poll: 500ms
grace: 0s
fastPath: false
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
    settings = configuration.settings
    assert (settings, configuration.diagnostics) != (None, ())
    assert settings
    assert settings.http
    assert settings.access
    assert (settings.tools, settings.upstreams, settings.strict, settings.on_invalid) == (
        (tmp_path / "a", tmp_path / "b"),
        tmp_path / "c",
        True,
        "withdraw",
    )
    assert (settings.poll, settings.grace, settings.fast_path) == (0.5, 0, False)
    assert (settings.http.listen, settings.http.workers, settings.http.insecure) == (
        Address("127.0.0.1", 8000), 2, True
    )  # fmt: skip
    assert settings.log.format == "json"
    assert settings.views == {"few": View(tools=("get_*",), tags=("x",), without=("get_y",))}
    ann, bob = settings.access.api_keys or ()
    assert (ann.name, ann.sha256, ann.scopes, ann.expires) == ("ann", DIGEST, ("orders:read",), 1801353600.0)
    assert (bob.sha256, bob.expires) == (DIGEST.replace("0", "1"), 1801353600.0)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("tool: [a]\n", '1:1: error: unknown key "tool"; did you mean tools? [unknown-key]'),
        ("baseUrl: x\n", '1:1: error: unknown key "baseUrl"; it belongs in the upstream file, NAME.upstream.yaml [unknown-key]'),
        ("audit: {}\n", "1:8: error: the key file is missing; add it [missing-key]"),
        ("audit: ''\n", '1:8: error: found "", expected a text that is not empty [wrong-value]'),
        ("audit: {file: a, require: true}\n", '1:18: error: unknown key "require"; did you mean required? [unknown-key]'),
        ("views: {a/b: {tags: [x]}}\n", '1:9: error: found "a/b", expected a name of letters, digits, _ and -, at most 64: it stands in a URL [wrong-value]'),
        ("views: {all: {without: [x]}}\n", "1:9: error: this view selects nothing; name tools or tags: the pattern * matches all names [missing-key]"),
        ("express: true\n", '1:1: error: unknown key "express"; did you mean fastPath? [unknown-key]'),
        ("limits: {inAll: {calls: 3}}\n", '1:10: error: unknown key "inAll"; did you mean total? [unknown-key]'),
        ("limits: {calls: 3}\n", '1:10: error: unknown key "calls"; write it under perCaller or total [unknown-key]'),
        ("http: {port: 1, listen: 1}\n", '1:8: error: unknown key "port"; did you mean listen? [unknown-key]'),
        ("views: {some: {tool: [x]}}\n", '1:16: error: unknown key "tool"; did you mean tools? [unknown-key]'),
        ("tools: [5]\n", "1:9: error: found 5, expected a text; put it in quotes [wrong-type]"),
        ("poll: 50ms\n", '1:7: error: found "50ms", expected at least 100ms [wrong-value]'),
        ("http: {listen: true}\n", "1:16: error: found true, expected a port such as 8000, or host:port [wrong-value]"),
        ("http: {listen: a b}\n", "1:16: error: found \"a b\", 'a b' is no address; write a port such as 8000, or host:port, without blanks [wrong-value]"),
        ("access: {}\n", "1:1: error: nobody could call; add apiKeys, as restbridge key new prints them, jwt or certificates [missing-key]"),
        ("access: {jwt: [{issuer: x, jwks: keys}]}\n", "1:10: error: the key resource is missing; add it: clients find there how to get a token (RFC 9728) [missing-key]"),
        ("access: {resource: 'https://x/mcp', jwt: [{issuer: x, jwks: 'http://x/keys'}]}\n", "1:61: error: found http, where anyone on the network could replace the keys; use https, or name a file [bad-url]"),
        ("access: {resource: 'https://x/mcp', jwt: [{issuer: x, jwks: 'https://[fd00:ec2::254]/keys'}]}\n", "1:70: error: [fd00:ec2::254] is an address of AWS for metadata and credentials, which is never contacted; write the API's own host [bad-url]"),
        ("access: {resource: 'https://x/mcp', jwt: [{issuer: x, jwks: 'ftp://x/keys'}]}\n", "1:61: error: expected an address that begins with https:// [bad-url]"),
        ("access: {resource: 'https://x/mcp', jwt: [{issuer: x, jwks: a}, {issuer: x, jwks: a}]}\n", "1:74: error: this issuer is listed above already; merge the two entries [duplicate-key]"),
        ("access: {resource: x, jwt: [{issuer: x, jwks: a, algorithms: [HS256]}]}\n", "1:63: error: expected one of RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512, EdDSA; did you mean RS256? [wrong-value]"),
        ("access: {resource: 'https://x/mcp', jwt: [{issuer: x, jwks: a, maxLifetime: 400d}]}\n", "1:77: error: expected a time such as 30m, 24h or 7d, at most 366d [wrong-value]"),
        ("access: {resource: 'https://x/mcp', jwt: [{issuer: x, jwks: a, maxLifetime: 30}]}\n", "1:77: error: expected a time such as 30m, 24h or 7d, at most 366d [wrong-value]"),
        ("access: {apiKeys: [], stepUp: ask}\n", "1:31: error: expected one of hide, challenge [wrong-value]"),
        ("access: {resource: 'https://x/mcp?a', apiKeys: []}\n", "1:20: error: expected an address without ? and # (RFC 9728 1.2) [bad-url]"),
        ("access: {resource: 'https://x/mcp', jwt: [{issuer: x, jwks: '${env:X}'}]}\n", "1:61: error: expected an address or a path without ${…}: published keys are not secret [wrong-value]"),
        ("access: {resource: x, apiKeys: []}\n", "1:20: error: expected an address that begins with https:// [bad-url]"),
        (f"access: {{apiKeys: [{ENTRY}, expires: soon}}]}}\n", "1:115: error: expected a date such as 2027-01-31, or a time such as 2027-01-31T18:00:00Z [wrong-value]"),
        (f"access: {{apiKeys: [{ENTRY}, scopes: ['a b']}}]}}\n", "1:115: error: expected a scope without blanks, quotes and backslashes, such as orders:read [wrong-value]"),
        (f"access: {{apiKeys: [{ENTRY}}}, {ENTRY.replace('0', '1')}}}]}}\n", "1:114: error: the name ann is used above already; use another [duplicate-key]"),
        ("access: {apiKeys: [{name: ann, sha256: rb_the-key-itself}]}\n", "1:40: error: expected the SHA-256 of the key, 64 hexadecimal digits; restbridge key new prints both [wrong-value]"),
        (f"access: {{apiKeys: [{{name: ann, sha256: {sha256(b'').hexdigest()}}}]}}\n", "1:40: error: this is the digest of an empty key; create a key with restbridge key new [wrong-value]"),
        (f"access: {{apiKeys: [{ENTRY}}}, {ENTRY.replace('ann', 'bob')}}}]}}\n", "1:127: error: the key of ann has the same digest; give each its own key [duplicate-key]"),
        ("access: {apiKeys: [{name: ann, sha256: '${file:relative}'}]}\n", "1:41: error: ${file:…} names no absolute path; write it from the root, as in ${file:/run/secrets/key} [bad-secret]"),
        ("access: {certificates: true}\n", "1:10: error: no client shows a certificate; name the authorities of clients in http.tls.clientCaFile [missing-key]"),
        ("http: {listen: 1, tls: {certFile: a}}\naccess: {certificates: [{name: '*'}]}\n", "2:10: error: no client shows a certificate; name the authorities of clients in http.tls.clientCaFile [missing-key]"),
        ("http: {listen: 1, tls: {keyFile: a}}\n", "1:24: error: the key certFile is missing; add it [missing-key]"),
        ("access: {resource: 'https://x/mcp', jwt: [{issuer: certificate, jwks: a}]}\n", "1:52: error: this name stands for certificates of clients; an issuer has the address in its tokens (iss) [wrong-value]"),
        ("http: {listen: '0.0.0.0: 80'}\n", """1:16: error: found "0.0.0.0: 80", '0.0.0.0: 80' is no address; write a port such as 8000, or host:port, without blanks [wrong-value]"""),
        ("- a\n", "1:1: error: found no mapping; expected lines of `key: value` [not-a-mapping]"),
    ],
)  # fmt: skip
def test_an_error_is_reported_at_its_place_and_never_quotes_a_key(
    tmp_path: Path, text: str, line: str
) -> None:
    configuration = read(tmp_path, text)
    assert configuration.settings is None
    assert reported(configuration) == [line]
    assert "rb_" not in repr(configuration.diagnostics)


def test_patterns_of_a_view_that_match_nothing_are_reported_at_their_place(tmp_path: Path) -> None:
    path = tmp_path / "restbridge.yaml"
    path.write_text(
        """\
views:
  few: {tools: [get_*, "get[", old_name], tags: [red, blue, get_a]}
  none: {tools: ["*_a"], without: [get_a, red, nope]}
"""
    )
    fields = {"description": "x", "inputSchema": {}, "request": {"method": "GET", "url": "http://x/y"}}
    spec = ToolSpec.model_validate(fields | {"tags": ["red"], "aliases": ["old_name"]})
    tool, _ = compile_tool("get_a", spec, None, Sources({}))
    configuration = read_settings_file(path, Sources({}))
    warnings = check_against_tools(path, configuration, Snapshot([tool]))
    assert [str(each).partition("/restbridge.yaml:")[2] for each in warnings] == [
        '2:24: warning: no tool has the name "get[" [unused-view]',
        '2:32: warning: no tool has the name "old_name"; old_name is an alias of get_a: write that [unused-view]',
        '2:55: warning: no tool has the tag "blue" [unused-view]',
        '2:61: warning: no tool has the tag "get_a"; get_a is a tool: write it under tools [unused-view]',
        "3:3: warning: no tool is in this view [unused-view]",
        '3:43: warning: no tool has the name "red"; red is a tag: write it under tags [unused-view]',
        '3:48: warning: no tool has the name "nope" [unused-view]',
    ]
    broken = read(tmp_path, "tols: [a]\n")
    assert check_against_tools(path, broken, Snapshot([tool])) == ()


def test_owners_without_a_tool_or_a_file_cause_warnings(tmp_path: Path) -> None:
    configuration = read(tmp_path, 'owners: {"pay_*": billing/, get_*: nowhere}\n')
    fields = {"description": "x", "request": {"method": "GET", "url": "http://x/y"}}
    tool, _ = compile_tool("get_a", ToolSpec.model_validate(fields), None, Sources({}))
    warnings = check_against_tools(
        tmp_path / "restbridge.yaml",
        configuration,
        Snapshot([tool]),
        (Owner("pay_*", "tools.d", "billing"), Owner("get_*", "tools.d", "nowhere")),
        [Place(0, "billing/get_a.yaml", "tools.d")],
    )
    assert [str(each).partition("/restbridge.yaml:")[2] for each in warnings] == [
        '1:10: warning: no tool has the name "pay_*"; correct the pattern [unused-owner]',
        "1:36: warning: there are no tool files in tools.d/nowhere; name the folder that has them [unused-owner]",
    ]


def test_callers_with_the_same_name_or_without_a_token_cause_warnings(tmp_path: Path) -> None:
    auth = {"type": "oauth2", "flow": "tokenExchange", "tokenUrl": "https://x/token", "clientId": "x"}
    upstream = compile_upstream(
        "api", UpstreamSpec.model_validate({"baseUrl": "https://x", "auth": auth}), Sources({})
    )

    def tool(name: str, url: str, upstream: Upstream | None = None) -> Tool:
        fields = {"description": "x", "request": {"method": "GET", "url": url}}
        return compile_tool(name, ToolSpec.model_validate(fields), upstream, Sources({}))[0]

    who = tool("who", "https://x/{$caller}")
    both = tool("both", "https://x/{$caller.iss}/{$caller}")
    exchanging = tool("mine", "/x", upstream)
    one = "{issuer: a, jwks: 'https://a/'}"
    jwt, two = f"jwt: [{one}]", f"jwt: [{one}, {{issuer: b, jwks: 'https://b/'}}]"
    keys = f"apiKeys: [{ENTRY}}}]"
    unclear = (
        "the tool who sends {$caller}, and with %s two callers may have the same name; send {$caller.iss} too"
    )
    exchange = "the tool mine exchanges the token of its caller, and no caller can present one; add jwt"
    for access, told in (
        (jwt, []),
        (f"{jwt}, {keys}", [unclear % "two kinds of credentials"]),
        (two, [unclear % "two issuers"]),
        (f"{keys}, certificates: true", [unclear % "two kinds of credentials", exchange]),
        (keys, [exchange]),
    ):
        path = tmp_path / "restbridge.yaml"
        http = "http: {listen: 1, tls: {certFile: a, clientCaFile: b}}"
        found = read(tmp_path, f"access: {{resource: 'https://x/mcp', {access}}}\n{http}\n")
        warnings = check_against_tools(path, found, Snapshot([who, both, exchanging]))
        assert [warning.message for warning in warnings] == told
        assert all(str(warning).endswith("[unclear-caller]") for warning in warnings)


@pytest.mark.parametrize(
    ("text", "warnings"),
    [
        ("http: {listen: 1}\n", []),
        ("http: {listen: '0.0.0.0:1', insecure: true}\n", []),
        ("http: {listen: '0.0.0.0:1', tls: {certFile: a, clientCaFile: b}}\n", []),
        (
            "http: {listen: '0.0.0.0:1'}\n",
            [
                "1:16: warning: other machines can reach this address without a key or token: serve refuses it; add access, or insecure [open-address]"
            ],
        ),
        (
            "access: {apiKeys: []}\n",
            [
                "1:1: warning: nobody can call: there is no key, no issuer and no entry of certificates [unused-credential]"
            ],
        ),
        (
            "access: {resource: 'https://x/mcp', jwt: [{issuer: a, jwks: nowhere.json}]}\n",
            [
                "1:61: warning: the file FOLDER/nowhere.json does not exist; until it does, the tokens of this issuer are refused [unused-credential]"
            ],
        ),
    ],
)
def test_settings_that_let_anyone_or_no_one_call_cause_warnings(
    tmp_path: Path, text: str, warnings: list[str]
) -> None:
    found = read(tmp_path, text)
    assert found.diagnostics == ()
    told = check_against_tools(tmp_path / "restbridge.yaml", found, Snapshot())
    assert [
        str(each).partition("restbridge.yaml:")[2].replace(str(tmp_path), "FOLDER") for each in told
    ] == warnings


def test_settings_that_no_longer_have_an_effect_cause_warnings(tmp_path: Path) -> None:
    text = """\
limits: {perCaller: {calls: 5, sessions: 5}, total: {sessions: 9}}
http: {listen: 1, stateless: true}
"""
    found = read(tmp_path, text)
    assert found.settings
    assert found.settings.limits.per_caller.calls == 5
    assert reported(found) == [
        f"{place}: warning: {key} has no effect: the server no longer keeps sessions; remove it [unused-setting]"
        for place, key in (("1:32", "sessions"), ("1:54", "sessions"), ("2:19", "stateless"))
    ]
    without = "limits: {perCaller: {calls: 5}}\nhttp: {listen: 1, stateless: false}\n"
    assert reported(read(tmp_path, without)) == []


def test_a_grant_that_matches_no_scope_causes_a_warning(tmp_path: Path) -> None:
    fields = {
        "description": "x",
        "request": {"method": "GET", "url": "https://x/"},
        "scopes": ["orders:read"],
    }
    tool = compile_tool("a", ToolSpec.model_validate(fields), None, Sources({}))[0]
    issuer = "{issuer: a, jwks: 'https://a/', grants: ['orders:*', 'restbridge:*', 'order:*']}"
    found = read(tmp_path, f"access: {{resource: 'https://x/mcp', jwt: [{issuer}]}}\n")
    (warning,) = check_against_tools(tmp_path / "restbridge.yaml", found, Snapshot([tool]))
    assert str(warning).endswith(
        '1:112: warning: no tool asks for a scope that matches "order:*" [unused-credential]'
    )


def test_a_key_without_effect_causes_a_warning(tmp_path: Path) -> None:
    text = f"access: {{apiKeys: [{ENTRY}, scopes: [x, 'restbridge:operat'], expires: 2020-01-01}}]}}\n"
    configuration = read(tmp_path, text)
    assert configuration.settings
    assert [each.partition(": warning: ")[2] for each in reported(configuration)] == [
        "restbridge has no scope restbridge:operat; its scopes are restbridge:operate and restbridge:metrics [unused-credential]",
        "the key of ann has expired [unused-credential]",
    ]


def test_a_missing_settings_file_is_reported(tmp_path: Path) -> None:
    configuration = read_settings_file(tmp_path / "restbridge.yaml", Sources({}))
    assert configuration.settings is None
    assert reported(configuration) == [
        "1:1: error: found no such file; name the file that holds the settings [unreadable]"
    ]


def test_an_invalid_digest_disables_only_its_own_key(tmp_path: Path) -> None:
    text = f'access: {{apiKeys: [{{name: bob, sha256: "${{env:BOB}}"}}, {ENTRY}}}]}}\n'
    configuration = read(tmp_path, text, BOB="nonsense")
    (warning,) = reported(configuration)
    assert warning == (
        "1:40: warning: its value is not a SHA-256 of 64 hexadecimal digits; until it is, this key is disabled "
        "[unset-secret]"
    )
    assert configuration.settings
    assert configuration.settings.access
    assert [key.name for key in configuration.settings.access.api_keys or ()] == ["ann"]


def test_a_name_of_two_keys_is_an_error_also_where_a_secret_is_not_set(tmp_path: Path) -> None:
    text = f'access:\n  apiKeys:\n    - {{name: ann, sha256: "${{env:ANN}}"}}\n    - {ENTRY}}}\n'
    assert any("the name ann is used above already" in line for line in reported(read(tmp_path, text)))


def test_a_missing_digest_disables_only_its_own_key(tmp_path: Path) -> None:
    configuration = read(
        tmp_path, f'access:\n  apiKeys:\n    - {{name: bob, sha256: "${{env:BOB}}"}}\n    - {ENTRY}}}\n'
    )
    (warning,) = reported(configuration)
    assert warning == (
        "3:28: warning: the variable BOB is not set, or empty; set it: until then nobody has this key "
        "[unset-secret]"
    )
    assert configuration.settings
    assert configuration.settings.access
    assert [key.name for key in configuration.settings.access.api_keys or ()] == ["ann"]
