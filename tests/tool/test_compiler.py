import pytest

from bridge.diagnostics import InvalidSpec
from bridge.errors import InvalidCall
from bridge.resolved_upstream import Upstream
from bridge.secrets import Sources
from bridge.spec import Json, ToolSpec, UpstreamSpec
from bridge.tool.compiler import Tool, compile_tool, compile_upstream

ENVIRON = {"KEY": "k-123", "HTTPS_PROXY": "http://proxy.example:3128"}


def upstream(auth: Json = None, **keys: Json) -> Upstream:
    content = {"baseUrl": "http://api.example/v1/", "auth": auth or {"type": "none"}, **keys}
    return compile_upstream("api", UpstreamSpec.model_validate(content), Sources(ENVIRON))


def tool(method: str = "GET", over: Upstream | None = None, **keys: Json) -> Tool:
    request = {"method": method, "url": "/x", **keys.pop("request", {})}
    spec = ToolSpec.model_validate({"description": "Try it.", "request": request, **keys})
    if over is None and request["url"].startswith("/"):
        over = upstream()
    return compile_tool("try", spec, over, Sources(ENVIRON))[0]


def findings(problem: pytest.ExceptionInfo[InvalidSpec]) -> list[tuple[str, str]]:
    return [(f.code, "/".join(map(str, f.route))) for f in problem.value.findings]


@pytest.mark.parametrize(
    ("method", "keys", "hints"),
    [
        ("GET", {}, (True, False, True, True)),
        ("HEAD", {}, (True, False, True, True)),
        ("OPTIONS", {}, (True, False, True, True)),
        ("POST", {}, (False, True, False, True)),
        ("PATCH", {}, (False, True, False, True)),
        ("PUT", {}, (False, True, True, True)),
        ("DELETE", {}, (False, True, True, True)),
        ("POST", {"idempotent": True}, (False, True, True, True)),
        ("PUT", {"idempotent": False}, (False, True, False, True)),
        ("POST", {"annotations": {"readOnlyHint": True, "openWorldHint": False}}, (True, True, False, False)),
        ("GET", {"annotations": {"readOnlyHint": False}}, (False, False, True, True)),
    ],
)
def test_hints_are_explicit_and_derived_from_the_method(
    method: str, keys: Json, hints: tuple[bool, ...]
) -> None:
    compiled = tool(method, **keys)
    names = ("readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint")
    assert tuple(compiled.definition["annotations"][name] for name in names) == hints
    assert compiled.read_only is hints[0]


@pytest.mark.parametrize(
    ("method", "keys", "repeatable"),
    [
        ("GET", {}, True),
        ("PUT", {}, True),
        ("DELETE", {}, True),
        ("PUT", {"idempotent": False}, False),
        ("POST", {}, False),
        ("POST", {"idempotent": True}, True),
        ("POST", {"annotations": {"idempotentHint": True}}, False),
        ("POST", {"request": {"headers": {"Idempotency-Key": "{$uuid}"}}}, True),
    ],
)
def test_only_idempotent_calls_are_repeatable(method: str, keys: Json, *, repeatable: bool) -> None:
    assert tool(method, **keys).repeatable is repeatable


DELETES: Json = {"headers": {"X-HTTP-Method-Override": "DELETE"}}


@pytest.mark.parametrize(
    ("method", "request_", "read_only"),
    [
        ("PUT", {}, False),
        ("PATCH", {}, False),
        ("DELETE", {}, False),
        ("POST", {}, True),
        ("POST", DELETES, False),
        ("POST", {"headers": {"X_HTTP_Method_Override": "DELETE"}}, False),
        ("POST", {"query": {"_method": "put"}}, False),
        ("POST", {"body": {"_method": "PATCH"}}, False),
        ("POST", {"headers": {"X-HTTP-Method": "GET"}}, True),
        ("POST", {"body": ["_method"]}, True),
    ],
)
def test_a_hint_does_not_make_a_changing_method_read_only(
    method: str, request_: Json, *, read_only: bool
) -> None:
    compiled = tool(method, request=request_, annotations={"readOnlyHint": True})
    assert compiled.read_only is read_only
    assert compiled.repeatable is (method in ("PUT", "DELETE"))


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"])
def test_a_safe_or_idempotent_method_cannot_be_overridden(method: str) -> None:
    with pytest.raises(InvalidSpec) as problem:
        tool(method, request=DELETES)
    assert findings(problem) == [("reserved-name", "request/headers/X-HTTP-Method-Override")]
    assert tool("POST", request=DELETES).request.build({}).headers[1:] == (
        ("X-HTTP-Method-Override", "DELETE"),
    )
    if method == "PUT":
        return
    schema: Json = {"additionalProperties": True, "properties": {"filter": {"type": "object"}}}
    compiled = tool(method, request={"url": "/x{?filter*}"}, inputSchema=schema).request
    values: list[Json] = [{"_method": "DELETE"}, {"filter": {"_method": "DELETE"}}]
    for value in values:
        with pytest.raises(InvalidCall, match="already sent or reserved"):
            compiled.build(value)


def test_the_definition_has_the_values_of_the_file() -> None:
    compiled = tool(
        name="better",
        title="Better",
        deprecated="Use best.",
        inputSchema={"properties": {"q": {"type": "string"}}},
        outputSchema={"type": "array", "items": {"type": "string"}},
        icons=[{"src": "https://a.example/i.png", "mimeType": "image/png"}],
        _meta={"team": "shop"},
    )
    assert compiled.definition == {
        "name": "better",
        "title": "Better",
        "description": "Use best. Try it.",
        "inputSchema": {
            "type": "object",
            "properties": {"q": {"type": "string"}},
            "additionalProperties": False,
        },
        "outputSchema": compiled.output.schema if compiled.output else None,
        "annotations": compiled.definition["annotations"],
        "icons": [{"src": "https://a.example/i.png", "mimeType": "image/png"}],
        "_meta": {"team": "shop"},
    }


def test_the_fingerprint_is_that_of_the_definition() -> None:
    fingerprint = tool().fingerprint
    assert 0 < fingerprint < 2**64
    for same in (tool(timeout="3s"), tool(tags=["a"], scopes=["b"], aliases=["old"]), tool(over=upstream())):
        assert same.fingerprint == fingerprint
    properties = {"a": {"type": "string"}}
    for other in (tool("POST"), tool(title="Try"), tool(inputSchema={"properties": properties})):
        assert other.fingerprint != fingerprint


def test_a_tools_own_settings_override_the_upstreams_key_by_key() -> None:
    over = upstream(timeout={"total": "9s", "connect": "2s"}, retries={"max": 5}, maxBytes="1MiB")
    spec = tool(
        over=over, timeout={"connect": "1s"}, retries={"statuses": [503]}, maxBytes="2kB"
    ).upstream.spec
    assert (spec.timeout.total, spec.timeout.connect) == (9, 1)
    assert (spec.retries.max, spec.retries.statuses, spec.max_bytes) == (5, (503,), 2000)
    assert over.spec.timeout.connect == 2


def test_a_tool_cannot_set_a_header_of_its_upstream_unless_it_is_overridable() -> None:
    over = upstream(
        headers={"X-Tenant": "acme", "Accept-Language": "en"},
        forwardHeaders=["X-Role"],
        overridable=["accept-language", "X-Role"],
    )
    headers = {"accept-language": "de", "x-role": "reader", "X-Own": "x"}
    sent = tool(over=over, request={"headers": headers}).request.build({}).headers
    assert dict(sent) == headers | {"Accept": "application/json, */*;q=0.5"}
    with pytest.raises(InvalidSpec) as problem:
        tool(over=over, request={"headers": {"x-TENANT": "other"}})
    assert findings(problem) == [("reserved-name", "request/headers/x-TENANT")]
    (finding,) = problem.value.findings
    assert finding.message == (
        "the upstream api sets x-TENANT; remove it here, or add it to overridable there"
    )


def test_a_tool_cannot_set_a_header_that_servers_read_as_one_of_the_upstream() -> None:
    over = upstream(
        auth={"type": "apiKey", "in": "header", "name": "X-Api-Key", "value": "correct-horse"},
        headers={"X-Tenant": "acme"},
        forwardHeaders=["X-Request-Id", "X-Role"],
        overridable=["X_Role"],
    )
    names = ["X_Tenant", "x.tenant", "X_Api_Key", "X_Request_Id", "Content_Length", "Transfer_Encoding"]
    for name in [*names, "X_HTTP_Method_Override"]:
        with pytest.raises(InvalidSpec) as problem:
            tool(over=over, request={"headers": {name: "mine"}})
        assert findings(problem) == [("reserved-name", f"request/headers/{name}")]
    assert tool(over=over, request={"headers": {"x_role": "reader"}}).request.build({}).headers[1:] == (
        ("x_role", "reader"),
    )


def test_a_tool_cannot_replace_the_path_or_the_host_by_a_header() -> None:
    names = ["X-Original-URL", "X_Rewrite_URL", "X-Original-Method", "X-Host", "Forwarded", "X-Real-IP"]
    names += ["True-Client-IP", "CF_Connecting_IP", "X-Forwarded", "X-Envoy-Original-Path"]
    for name in [*names, "X-Forwarded-Host", "X-Forwarded-Prefix", "x-forwarded-for"]:
        with pytest.raises(InvalidSpec) as problem:
            tool(request={"headers": {name: "mine"}})
        assert findings(problem) == [("reserved-name", f"request/headers/{name}")]
    over = upstream(headers={"X-Forwarded-Host": "shop.example"}, overridable=["X-Forwarded-Host"])
    sent = tool(over=over, request={"headers": {"X-Forwarded-Host": "a.example"}}).request.build({}).headers
    assert sent[1:] == (("X-Forwarded-Host", "a.example"),)


def test_a_tool_with_a_safe_method_has_no_body() -> None:
    schema: Json = {"properties": {"b": {"type": "object"}}}
    for kind in ("application/json", "application/x-www-form-urlencoded", "text/plain"):
        with pytest.raises(InvalidSpec) as problem:
            tool("OPTIONS", request={"body": "{b}", "contentType": kind}, inputSchema=schema)
        assert findings(problem) == [("body-not-allowed", "request/body")]


def test_an_api_key_is_sent_once_even_if_servers_read_another_header_as_it() -> None:
    in_query = upstream(auth={"type": "apiKey", "in": "query", "name": "api_key", "value": "correct-horse"})
    for request in ({"query": {"api.key": 1}}, {"url": "/x?API_KEY=1"}):
        with pytest.raises(InvalidSpec) as problem:
            tool(over=in_query, request=request)
        assert [code for code, _ in findings(problem)] == ["reserved-name"]
    with pytest.raises(InvalidCall, match="already sent or reserved"):
        tool(over=in_query, inputSchema={"additionalProperties": True}).request.build({"api[key": 1})
    in_cookie = upstream(auth={"type": "apiKey", "in": "cookie", "name": "sid", "value": "correct-horse"})
    with pytest.raises(InvalidSpec) as problem:
        tool(over=in_cookie, request={"cookies": {"SID": "mine"}})
    assert findings(problem) == [("reserved-name", "request/cookies/SID")]


def test_an_accept_of_the_upstream_is_not_replaced_by_the_default() -> None:
    over = upstream(headers={"accept": "application/vnd.example+json"})
    assert tool(over=over).request.build({}).headers == ()
    assert tool(over=over, response={"content": "text"}).request.build({}).headers == ()


def test_the_limits_of_a_tool_are_at_most_those_of_its_upstream() -> None:
    keys: Json = {"timeout": {"total": "20m", "connect": "1m"}, "maxBytes": "128MiB", "retries": {"max": 2}}
    assert tool(over=upstream(**keys), **keys).upstream.spec.timeout.total == 1200
    limits: Json = {"timeout": "20m", "maxBytes": "128MiB", "resultBytes": "32MiB", "retries": 2}
    tool(over=upstream(max=limits), **keys, response={"maxBytes": "32MiB"})
    with pytest.raises(InvalidSpec) as problem:
        tool(over=upstream(), **keys, response={"maxBytes": "32MiB"})
    assert [(each.message, each.route) for each in problem.value.findings] == [
        (
            "found 1200s, expected at most 600s; lower it, or raise max.timeout in the file of an upstream that the tool names",
            ("timeout", "total"),
        ),
        (
            "found 128MiB, expected at most 8MiB; lower it, or raise max.maxBytes in the file of an upstream that the tool names",
            ("maxBytes",),
        ),
        (
            "found 32MiB, expected at most 8MiB; lower it, or raise max.resultBytes in the file of an upstream that the tool names",
            ("response", "maxBytes"),
        ),
    ]


def test_a_maximum_below_the_defaults_of_an_upstream_lowers_them() -> None:
    limits: Json = {"timeout": "3s", "maxBytes": "1MiB", "retries": 0}
    over = upstream(max=limits)
    assert (over.spec.timeout.total, over.spec.timeout.connect) == (3, 3)
    assert (over.spec.max_bytes, over.spec.retries.max) == (1024**2, 0)
    with pytest.raises(InvalidSpec) as problem:
        tool(over=over, timeout="4s", maxBytes="1025KiB", retries={"max": 1})
    assert [each.message.partition(";")[0] for each in problem.value.findings] == [
        "found 4s, expected at most 3s",
        "found 1025KiB, expected at most 1MiB",
        "found 1, expected at most 0",
    ]
    explicit = upstream(max=limits, timeout={"total": "10s"}, maxBytes="2MiB", retries={"max": 1})
    assert (explicit.spec.timeout.total, explicit.spec.timeout.connect) == (10, 3)
    tool(over=explicit, timeout="10s", maxBytes="2MiB", retries={"max": 1})


def test_a_tool_requires_its_own_scopes_and_those_of_its_upstream() -> None:
    over = upstream(scopes=["shop", "read"])
    assert tool(over=over, scopes=["read", "orders"]).scopes == ("shop", "read", "orders")
    assert tool(over=over).scopes == ("shop", "read")
    assert tool(scopes=["orders"]).scopes == ("orders",)


def test_a_tool_without_an_upstream_sends_to_the_origin_of_its_url() -> None:
    compiled = tool(request={"url": "https://API.example:443/x{?q}"}, inputSchema={"properties": {"q": {}}})
    assert compiled.upstream.name == compiled.upstream.origin == "https://api.example"
    assert compiled.request.build({"q": 1}).url == "https://api.example/x?q=1"
    assert compiled.upstream.spec.proxy == "http://proxy.example:3128"


def test_a_tool_cannot_set_the_header_or_parameter_of_the_api_key() -> None:
    over = upstream({"type": "apiKey", "in": "query", "name": "key", "value": "${env:KEY}"})
    with pytest.raises(InvalidSpec) as problem:
        tool(over=over, request={"query": {"key": "mine"}})
    assert findings(problem) == [("reserved-name", "request/query/key")]


@pytest.mark.parametrize(
    ("keys", "found"),
    [
        ({"aliases": ["old", "try"]}, [("duplicate-name", "aliases/1")]),
        ({"outputSchema": {}, "response": {"content": "text"}}, [("content-conflict", "response/content")]),
        ({"response": {"content": "image", "jmespath": "a"}}, [("content-conflict", "response/content")]),
        ({"response": {"content": "audio", "from": "reply"}}, [("content-conflict", "response/content")]),
        ({"response": {"jmespath": "a["}}, [("bad-projection", "response/jmespath")]),
        (
            {"errors": {"404": {"message": "No.", "jmespath": "a["}}},
            [("bad-projection", "errors/404/jmespath")],
        ),
        ({"request": {"url": "ftp://a.example/x"}}, [("bad-url", "request/url")]),
        (
            {"request": {"url": "/{b}"}, "inputSchema": {"properties": {"a": {"typ": "string"}}}},
            [
                ("unknown-keyword", "inputSchema/properties/a/typ"),
                ("unknown-argument", "request/url"),
            ],
        ),
    ],
)
def test_an_invalid_tool_is_an_error_at_the_route_of_the_mistake(
    keys: Json, found: list[tuple[str, str]]
) -> None:
    with pytest.raises(InvalidSpec) as problem:
        tool(**keys)
    assert findings(problem)[: len(found)] == found


def test_projections_of_errors_and_of_the_reply_are_compiled() -> None:
    compiled = tool(response={"jmespath": "a"}, errors={"404": {"message": "No.", "jmespath": "b"}})
    assert compiled.projection
    assert compiled.projection.apply({"a": 1}) == 1
    assert compiled.error_projections["404"].apply({"b": 2}) == 2


def test_tools_with_equal_schemas_share_the_compiled_arguments() -> None:
    schema = {"properties": {"q": {"type": "string"}}}
    one, other = tool(inputSchema=schema), tool("POST", inputSchema={**schema})
    assert one.arguments is other.arguments
    reordered = {"properties": {"q": {"type": "string"}}, "type": "object"}
    assert tool(inputSchema=reordered).definition["inputSchema"] == {
        **reordered,
        "additionalProperties": False,
    }
    assert tool(inputSchema=reordered).arguments is not one.arguments


def test_warnings_of_a_schema_are_reported_for_each_tool() -> None:
    keys = {"description": "Try it.", "request": {"method": "GET", "url": "/x"}}
    spec = ToolSpec.model_validate({**keys, "inputSchema": {"properties": {"é": {"type": "string"}}}})
    for name in ("one", "other"):
        _, warnings = compile_tool(name, spec, upstream(), Sources(ENVIRON))
        assert [warning.code for warning in warnings] == ["unusual-argument-name"]


def test_contradictions_are_warnings() -> None:
    spec = ToolSpec.model_validate(
        {
            "description": "Try.",
            "request": {"method": "GET", "url": "/x"},
            "response": {"jmespath": '[?s == "x"]'},
            "outputSchema": {"tittle": "x"},
        }
    )
    _, warnings = compile_tool("try", spec, upstream(), Sources(ENVIRON))
    assert {(w.code, w.route[0], w.severity) for w in warnings} == {
        ("quoted-identifier", "response", "warning"),
        ("unknown-keyword", "outputSchema", "warning"),
    }


@pytest.mark.parametrize(
    ("keys", "found"),
    [
        ({"baseUrl": "http://a.example/?q=1"}, [("bad-url", "baseUrl")]),
        ({"headers": {"Host": "b.example"}}, [("reserved-name", "headers/Host")]),
        ({"headers": {"X-A": "1", "x-a": "2"}}, [("duplicate-header", "headers/x-a")]),
        (
            {"headers": {"X-A": "1"}, "forwardHeaders": ["X_A", "X_HTTP_Method", "X-Original-URL"]},
            [
                ("duplicate-header", "forwardHeaders/0"),
                ("reserved-name", "forwardHeaders/1"),
                ("reserved-name", "forwardHeaders/2"),
            ],
        ),
        (
            {
                "auth": {"type": "apiKey", "in": "header", "name": "X-Key", "value": "k"},
                "headers": {"x-key": "mine"},
            },
            [("reserved-name", "headers/x-key")],
        ),
        (
            {"auth": {"type": "apiKey", "in": "header", "name": "X Key", "value": "k"}},
            [("bad-name", "auth/name")],
        ),
        (
            {"auth": {"type": "apiKey", "in": "cookie", "name": "a=b", "value": "k"}},
            [("bad-name", "auth/name")],
        ),
        (
            {"auth": {"type": "http", "scheme": "basic", "username": "a:b", "password": "p"}},
            [("wrong-value", "auth/username")],
        ),
        ({"tls": {"keyFile": "/key.pem"}}, [("missing-key", "tls")]),
    ],
)
def test_an_invalid_upstream_is_an_error_at_the_route_of_the_mistake(
    keys: Json, found: list[tuple[str, str]]
) -> None:
    content = {"baseUrl": "http://api.example", "auth": {"type": "none"}, **keys}
    sources = Sources({}, read=lambda _: "pem")
    with pytest.raises(InvalidSpec) as problem:
        compile_upstream("api", UpstreamSpec.model_validate(content), sources)
    assert findings(problem) == found


def test_the_urls_of_an_upstream_are_canonical_after_variables_are_resolved() -> None:
    content = {"baseUrl": "${env:URL}", "auth": {"type": "apiKey", "in": "query", "name": "k", "value": "v"}}
    spec = UpstreamSpec.model_validate(content)
    compiled = compile_upstream("api", spec, Sources({"URL": "HTTP://Api.Example:80/v1/"}))
    assert compiled.spec.base_url == "http://api.example/v1"
    assert compiled.authority == "api.example:80"


@pytest.mark.parametrize(("base_url", "offset"), [("http://a.example:0", 17), ("${env:URL}", None)])
def test_an_offset_refers_to_the_written_text_not_to_the_resolved_text(
    base_url: str, offset: int | None
) -> None:
    spec = UpstreamSpec.model_validate({"baseUrl": base_url, "auth": {"type": "none"}})
    with pytest.raises(InvalidSpec) as problem:
        compile_upstream("api", spec, Sources({"URL": "http://a.example:0"}))
    assert [f.offset for f in problem.value.findings] == [offset]
