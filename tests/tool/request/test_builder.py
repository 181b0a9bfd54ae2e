# ruff: noqa: RUF001 - look-alikes are among what is tried
import re
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.diagnostics import InvalidSpec
from bridge.errors import InvalidCall
from bridge.exchange import Request
from bridge.spec import RequestSpec
from bridge.tool.request.builder import MAX_URL_BYTES, RequestTemplate
from bridge.tool.schema.arguments import Arguments

BASE = "http://shop.test:8100/api"
SCHEMA: dict[str, Any] = {
    "required": ["id"],
    "properties": {
        "id": {"type": "string"},
        "q": {"type": ["string", "null"]},
        "limit": {"type": "integer", "default": 20},
        "tags": {"type": "array", "items": {"type": "string"}},
        "filter": {"type": "object"},
    },
}
RESERVED = frozenset({"query api-key", "header x-key", "cookie session"})
NASTY = [
    *(
        "",
        ".",
        "..",
        "...",
        "../",
        "../../x",
        "/..",
        "a/../b",
        "a/b",
        "/",
        "//",
        "//evil.test",
        "\\",
        "..\\x",
    ),
    *(
        "%2e",
        "%2E%2e",
        "%252e",
        "%25252e",
        "..%2f",
        "%2f",
        "%5c",
        "..;",
        "..;/x",
        ".;x",
        "a;b",
        "%",
        "%zz",
        "100%",
    ),
    *(
        "?",
        "?admin=1",
        "#",
        "#x",
        "&",
        "&admin=1",
        "a&admin=1",
        "=",
        "+",
        "a b",
        ",",
        ":",
        ":8080",
        "@evil.test",
    ),
    *(
        "http://evil.test/",
        "http:evil",
        "x@evil.test:80/",
        "[::1]",
        "{id}",
        "{{id}}",
        "${env:KEY}",
        "<a>",
        "'\"`|^",
    ),
    *(
        "\r\nHost: evil",
        "a\nb",
        "\0",
        "\t",
        "\x7f",
        "\x85",
        "\u2028",
        "\ufeff",
        " a ",
        "é",
        "．．",
        "／",
        "😀",
    ),
    *("\ud800", "a\udfff", "null", "true", "0", "-1", "1e999", "\u202e", "a" * 5000, "é" * 3000),
]
TEXTS = st.sampled_from(NASTY) | st.text() | st.text(st.sampled_from("./\\%2eEfF5cC;ab?#&=\r\n é"))


def arguments(schema: dict[str, Any]) -> Arguments:
    return Arguments.compile(schema)[0]


def compiled(spec: dict[str, Any], schema: dict[str, Any] = SCHEMA) -> RequestTemplate:
    return RequestTemplate.compile(
        RequestSpec.model_validate({"method": "GET", "url": "/x/{id}"} | spec),
        base_url=BASE,
        arguments=arguments(schema),
        reserved=RESERVED,
        accept="application/json",
    )[0]


def built(spec: dict[str, Any], values: dict[str, Any], schema: dict[str, Any] = SCHEMA) -> Request:
    return compiled(spec, schema).build({"id": "o-1"} | values)


def path_and_query(request: Request) -> str:
    assert request.url.startswith(BASE)
    return request.url.removeprefix(BASE)


def only(**properties: Any) -> dict[str, Any]:
    """A schema of these arguments, all required."""
    return {"required": list(properties), "properties": properties}


TEXT = {"type": "string"}


def test_a_request_is_built_from_all_its_parts() -> None:
    request = built(
        {
            "method": "POST",
            "url": "/orders/{id}{?q}",
            "query": {"page[size]": "{limit}", "sort": "-created"},
            "headers": {"X-Tag": "t-{id}", "X-Fixed": 1, "X-Q": "{q}"},
            "cookies": {"theme": "dark", "q": "{q}"},
            "body": {"tags": "{tags}", "filter": "{filter}"},
        },
        {"limit": 5, "tags": ["a"]},
    )
    assert request == Request(
        method="POST",
        url=f"{BASE}/orders/o-1?page%5Bsize%5D=5&sort=-created",
        headers=(
            ("Accept", "application/json"),
            ("X-Fixed", "1"),
            ("X-Tag", "t-o-1"),
            ("Cookie", "theme=dark"),
            ("Content-Type", "application/json"),
        ),
        content=b'{"tags":["a"]}',
        template="/api/orders/{id}",
    )


def test_the_accept_header_of_the_file_replaces_the_default() -> None:
    spec = {"headers": {"accept": "text/csv"}, "body": None, "method": "PUT"}
    assert built(spec, {}, only(id=TEXT)).headers == (
        ("accept", "text/csv"),
        ("Content-Type", "application/json"),
    )
    assert built({"headers": {"Accept": "{id}"}}, {}, only(id=TEXT)).headers == (("Accept", "o-1"),)


@given(TEXTS)
def test_an_argument_is_one_segment_below_the_base_or_refused(text: str) -> None:
    template = compiled({"url": "/orders/{id}/lines"}, only(id=TEXT))
    try:
        url = template.build({"id": text}).url
    except InvalidCall as refused:
        assert refused.code in {"unsafe-argument", "not-unicode", "url-too-long"}  # noqa: PT017 - no other reason
        return
    match = re.fullmatch(rf"{re.escape(BASE)}/orders/([A-Za-z0-9._~%-]+)/lines", url)
    assert match
    assert unquote(match[1]) == text
    assert urlsplit(url).netloc == "shop.test:8100"
    assert not {".", ".."} & {*unquote(unquote(unquote(url))).replace("\\", "/").split("/")}


@pytest.mark.parametrize(
    ("spec", "schema"),
    [
        ({"url": "/x{?v}"}, only(v=TEXT)),
        ({"url": "/x?v={v}"}, only(v=TEXT)),
        ({"url": "/x"}, only(v=TEXT)),
        ({"url": "/x", "query": {"v": "{v}"}}, only(v=TEXT)),
        ({"url": "/x", "query": {"v": ["{v}"]}}, only(v=TEXT)),
        ({"url": "/x"}, {"additionalProperties": True}),
    ],
)
@given(text=TEXTS)
def test_an_argument_is_one_query_parameter_or_refused(
    spec: dict[str, Any], schema: dict[str, Any], text: str
) -> None:
    template = compiled(spec, schema)
    try:
        url = template.build({"v": text}).url
    except InvalidCall:
        return
    parts = urlsplit(url)
    assert (parts.netloc, parts.path, parts.fragment) == ("shop.test:8100", "/api/x", "")
    assert parse_qsl(parts.query, keep_blank_values=True, strict_parsing=True) == [("v", text)]


@given(TEXTS, TEXTS)
def test_an_argument_cannot_leave_its_header_or_cookie(text: str, other: str) -> None:
    spec = {"url": "/x", "headers": {"X-A": "{v}"}, "cookies": {"a": "{v}", "b": "{w}"}}
    template = compiled(spec, only(v=TEXT, w=TEXT))
    try:
        headers = template.build({"v": text, "w": other}).headers
    except InvalidCall:
        return
    assert headers[1:] == (("X-A", text), ("Cookie", f"a={text}; b={other}"))
    assert not any(character in text + other for character in "\r\n\0; ,")


@pytest.mark.parametrize("text", NASTY)
@pytest.mark.parametrize(
    "url", ["/x/{v}", "/x/a{v}", "/x/{+v}", "/x{/v}", "/x/{v:3}", "/{v}{w}", "/x{?v}", "/x{?v*}", "/{v,w}"]
)
def test_no_hostile_text_changes_origin_prefix_or_number_of_parts(url: str, text: str) -> None:
    template = compiled({"url": url}, only(v=TEXT) if "w" not in url else only(v=TEXT, w=TEXT))
    try:
        request = template.build({"v": text, "w": "."} if "w" in url else {"v": text})
    except InvalidCall:
        return
    assert request.url.startswith(f"{BASE}/")
    assert not re.search(r"[^A-Za-z0-9._~%/?&=,:-]", request.url)
    assert urlsplit(request.url).path.count("/") - 2 in {0, 1, 1 + text.count("/") if "+" in url else 1}


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "OPTIONS"])
def test_unplaced_arguments_go_into_the_query_if_the_method_has_no_body(method: str) -> None:
    schema = only(id=TEXT, q=TEXT, tags=SCHEMA["properties"]["tags"])
    request = built({"method": method}, {"q": "a b", "tags": ["x", "y"]}, schema)
    assert path_and_query(request) == "/x/o-1?q=a%20b&tags=x&tags=y"
    assert request.content is None


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
def test_unplaced_arguments_go_into_the_body_if_the_method_has_one(method: str) -> None:
    request = built({"method": method}, {"q": None, "filter": {"a": 2**70}})
    assert path_and_query(request) == "/x/o-1"
    assert request.content == b'{"q":null,"filter":{"a":1180591620717411303424}}'
    request = built(
        {"method": method, "contentType": "application/x-www-form-urlencoded"},
        {"n": 1},
        only(id=TEXT, n={"type": "integer"}),
    )
    assert (request.content, request.headers[-1][1]) == (b"n=1", "application/x-www-form-urlencoded")


def test_without_unplaced_arguments_there_is_no_body() -> None:
    request = built({"method": "POST"}, {}, only(id=TEXT))
    assert request.content is None
    assert [name for name, _ in request.headers] == ["Accept"]
    assert (
        built(
            {"method": "POST", "body": "{q}"}, {}, only(id=TEXT) | {"properties": {"id": TEXT, "q": TEXT}}
        ).content
        is None
    )


def test_a_delete_may_have_an_explicit_body() -> None:
    request = built({"method": "DELETE", "body": {"reason": "{q}"}}, {"q": "x"}, only(id=TEXT, q=TEXT))
    assert request.content == b'{"reason":"x"}'


def test_undeclared_arguments_go_where_unplaced_ones_go() -> None:
    schema = only(id=TEXT) | {"additionalProperties": True}
    assert (
        path_and_query(built({"query": {"fixed": 1}}, {"a b": [1, 2]}, schema))
        == "/x/o-1?fixed=1&a%20b=1&a%20b=2"
    )
    assert built({"method": "POST"}, {"k": {"l": 1}}, schema).content == b'{"k":{"l":1}}'
    assert built({"method": "POST"}, {}, schema).content == b"{}"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"fixed": 1}, 'argument "fixed" would set a parameter that is already sent'),
        ({"api_key": "stolen"}, 'argument "api_key" would set a parameter that is already sent'),
        ({"k": {"l": 1}}, 'argument "k" holds an array, object or null'),
    ],
)
def test_undeclared_arguments_are_scalars_with_new_names(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidCall, match=message):
        built({"query": {"fixed": 1}}, values, only(id=TEXT) | {"additionalProperties": True})


def test_an_exploded_object_cannot_set_the_parameter_of_the_auth() -> None:
    spec = {"query": {"filter": {"value": "{filter}", "style": "form"}}}
    schema = only(id=TEXT, filter={"type": "object"})
    assert path_and_query(built(spec, {"filter": {"a": 1}}, schema)) == "/x/o-1?a=1"
    with pytest.raises(InvalidCall, match="argument filter would set a parameter"):
        built(spec, {"filter": {"api_key": 1}}, schema)


def test_builtins_are_the_same_in_a_whole_call_and_generated_if_not_given() -> None:
    spec = {
        "method": "POST",
        "url": "/x/{$uuid}?at={$now}",
        "headers": {"Idempotency-Key": "{$uuid}"},
        "body": {"key": "{$uuid}", "at": "{$now}", "text": "{{$uuid}}"},
    }
    template = compiled(spec, {})
    request = template.build({}, {"$uuid": "U", "$now": "N"})
    assert path_and_query(request) == "/x/U?at=N"
    assert request.content == b'{"key":"U","at":"N","text":"{$uuid}"}'
    assert ("Idempotency-Key", "U") in request.headers
    first, second = (template.build({}) for _ in range(2))
    assert dict(first.headers)["Idempotency-Key"] != dict(second.headers)["Idempotency-Key"]
    assert re.fullmatch(r"/x/[0-9a-f-]{36}\?at=\d{4}-\d\d-\d\dT\d\d%3A\d\d%3A\d\dZ", path_and_query(first))


CALLER: dict[str, Any] = {
    "$caller": "ann/x",
    "$caller.email": "a@b",
    "$caller.level": 3,
    "$caller.list": ["x"],
}


def test_nothing_is_sent_without_the_required_values_of_the_caller() -> None:
    spec = {
        "method": "POST",
        "url": "/of/{$caller}?mail={$caller.email}",
        "headers": {"X-Level": "{$caller.level}", "X-Plain": "$caller"},
        "body": {"who": "{$caller}"},
    }
    template = compiled(spec, {})
    request = template.build({}, CALLER)
    assert path_and_query(request) == "/of/ann%2Fx?mail=a%40b"
    assert {("X-Level", "3"), ("X-Plain", "$caller")} <= set(request.headers)
    assert request.content == b'{"who":"ann/x"}'
    for caller, what in (
        ({}, "the caller's identity"),
        (CALLER | {"$caller.email": None}, "the claim email of the caller"),
    ):
        with pytest.raises(InvalidCall, match=f"This tool needs {what}, which is unknown") as refused:
            template.build({}, caller)
        assert refused.value.code == "unknown-caller"
    listed = compiled({"method": "GET", "url": "/x", "headers": {"X-List": "{$caller.list}"}}, {})
    with pytest.raises(InvalidCall, match="the claim list"):
        listed.build({}, CALLER)


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("{{$caller}}", b"{$caller}"),
        ("{{$caller.email}}", b"{$caller.email}"),
        ("query Q($caller: ID) { user(id: $caller) }", b"query Q($caller: ID) { user(id: $caller) }"),
    ],
)
def test_a_text_that_only_looks_like_the_caller_needs_none(text: str, sent: bytes) -> None:
    template = compiled({"method": "POST", "url": "/graphql", "body": {"query": text}}, {})
    assert template.build({}).content == b'{"query":"%s"}' % sent


def test_a_url_over_its_limit_is_refused() -> None:
    schema = only(id=TEXT)
    room = MAX_URL_BYTES - len(f"{BASE}/x/")
    assert len(built({}, {"id": "a" * room}, schema).url) == MAX_URL_BYTES
    with pytest.raises(InvalidCall, match="the URL would have 16385 bytes, the limit is 16384") as caught:
        built({}, {"id": "a" * (room + 1)}, schema)
    assert caught.value.code == "url-too-long"


def test_placement_lists_where_each_argument_goes() -> None:
    template = compiled(
        {
            "method": "POST",
            "url": "/x/{id}/{$uuid}?l={limit}{&tags}",
            "query": {"created[gte]": "{q}"},
            "headers": {"X-Y": "{id} {q}"},
            "cookies": {"c": "{limit}"},
            "body": {"a/b": {"f": "{filter}"}, "q": "{q}"},
        }
    )
    values = {"id": "o", "limit": 20, "tags": [], "filter": {}, "q": None}
    assert template.placement(values) == {
        "id": ("path",),
        "q": ("body /q",),
        "limit": ("query l", "cookie c"),
        "tags": (),
        "filter": ("body /a~1b/f",),
    }
    values = {"id": "o", "limit": 20, "tags": ["a"], "q": "x"}
    assert template.placement(values) == {
        "id": ("path", "header X-Y"),
        "q": ("query created[gte]", "header X-Y", "body /q"),
        "limit": ("query l", "cookie c"),
        "tags": ("query tags",),
        "filter": (),
    }


def test_placement_includes_unplaced_arguments() -> None:
    schema = {"properties": {"a": TEXT, "b": TEXT}, "additionalProperties": True}
    values = {"a": "x", "more": 1}
    expected = {"a": ("query (by default)",), "b": (), "more": ("query (by default)",)}
    assert compiled({"url": "/x"}, schema).placement(values) == expected
    expected = {"a": ("body (by default)",), "b": (), "more": ("body (by default)",)}
    assert compiled({"method": "POST", "url": "/x"}, schema).placement(values) == expected
    whole = compiled({"method": "POST", "url": "/x", "body": "{a}"}, only(a=TEXT))
    assert whole.placement({"a": "x"}) == {"a": ("body",)}


def found(spec: dict[str, Any], schema: dict[str, Any] = SCHEMA, offset: int = 0) -> list[str]:
    """What is found, as ``route:offset: message [code]``."""
    with pytest.raises(InvalidSpec) as caught:
        RequestTemplate.compile(
            RequestSpec.model_validate({"method": "GET", "url": "/x/{id}"} | spec),
            base_url=BASE,
            arguments=arguments(schema),
            reserved=RESERVED,
            accept="*/*",
            url_offset=offset,
        )
    return [
        f"{'.'.join(map(str, f.route))}{'' if f.offset is None else f':{f.offset}'}: {f.message} [{f.code}]"
        for f in caught.value.findings
    ]


def test_one_run_reports_all_findings() -> None:
    lines = found(
        {
            "method": "POST",
            "url": "/x/{idd}/{#id}",
            "query": {"k": "{tag}", "api_key": 1},
            "headers": {"Host": "x", "X-A": "{tags}"},
            "cookies": {"session": "{id}"},
            "body": {"k": "{filtr}"},
            "contentType": "json",
        }
    )
    places = [line.partition(": ")[0] for line in lines]
    assert places == [
        "request.url:9",
        "request.query.k:0",
        "request.query.api_key",
        "request.headers.Host",
        "request.headers.X-A:0",
        "request.cookies.session",
        "request.contentType",
        "request.body.k:0",
    ]


@pytest.mark.parametrize(
    ("spec", "schema", "lines"),
    [
        (
            {"url": "/x/{idd}"},
            SCHEMA,
            ["request.url:3: {idd} names no argument; did you mean {id}? [unknown-argument]"],
        ),
        (
            {"query": {"id": "{id}"}, "url": "/x?id=1"},
            only(id=TEXT),
            [
                "request.query.id: the url already sets the query parameter id; keep one of the two [duplicate-parameter]"
            ],
        ),
        (
            {"url": "/x?api_key={id}"},
            only(id=TEXT),
            [
                "request.url:3: the query parameter api_key is set by the upstream's auth; choose another [reserved-name]"
            ],
        ),
        (
            {"query": {"api_key": "{id}"}, "url": "/x"},
            only(id=TEXT),
            [
                "request.query.api_key: the query parameter api_key is set by the upstream's auth; choose another [reserved-name]"
            ],
        ),
        (
            {},
            only(id=TEXT, api_key=TEXT),
            [
                "inputSchema.properties.api_key: the query parameter api_key is set by the upstream's auth; choose another [reserved-name]"
            ],
        ),
        (
            {"query": {"status": "{id}"}, "url": "/x"},
            only(id=TEXT, status=TEXT),
            [
                "inputSchema.properties.status: argument status is not placed in the request, and the query parameter status is already set; write {status} where it belongs [duplicate-parameter]"
            ],
        ),
        (
            {},
            only(id=TEXT, filter={"type": "object"}),
            [
                'inputSchema.properties.filter: argument filter may be an object, which needs a style in a query; give it another type, or write {value: "{filter}", style: deepObject} in request.query [no-style]'
            ],
        ),
        (
            {"method": "POST", "body": {"k": "v"}},
            only(id=TEXT, note=TEXT),
            [
                "request.body: {note} would never be sent; write {note} where needed, or take out the argument or the body [never-sent]"
            ],
        ),
        (
            {"method": "POST", "body": {"k": "v"}},
            only(id=TEXT) | {"additionalProperties": True},
            [
                "request.body: arguments that inputSchema allows but does not declare would never be sent; set additionalProperties: false, or take the body out [never-sent]"
            ],
        ),
        (
            {"method": "DELETE", "body": {"k": "v"}},
            only(id=TEXT, note=TEXT),
            [
                "request.body: {note} would never be sent; write {note} where needed, or take out the argument or the body [never-sent]"
            ],
        ),
        (
            {"method": "POST", "contentType": "text/csv"},
            only(id=TEXT, note=TEXT),
            [
                "request.contentType: {note} would never be sent, because text/csv has no field names; write {note} into request.body [never-sent]"
            ],
        ),
        (
            {"method": "POST", "contentType": "text/csv"},
            only(id=TEXT) | {"additionalProperties": True},
            [
                "request.contentType: arguments that inputSchema allows but does not declare would never be sent, because text/csv has no field names; set additionalProperties: false [never-sent]"
            ],
        ),
        *[
            (
                {"method": method, "body": {"k": "{id}"}},
                only(id=TEXT),
                [
                    f"request.body: {method} has no body; write request.query, or choose another method [body-not-allowed]"
                ],
            )
            for method in ("GET", "HEAD")
        ],
        (
            {"method": "POST", "contentType": "application/x-www-form-urlencoded"},
            only(id=TEXT, filter={"type": "object"}),
            [
                "inputSchema.properties.filter: argument filter may be an object, but a form carries only scalars and lists of scalars; flatten it, or send application/json [nested-value]"
            ],
        ),
    ],
)
def test_an_invalid_request_is_reported_at_load(
    spec: dict[str, Any], schema: dict[str, Any], lines: list[str]
) -> None:
    assert found(spec, schema) == lines


def test_offsets_count_from_the_start_of_the_file() -> None:
    [line] = found({"url": "/{idd}"}, only(id=TEXT), offset=len("https://api.test"))
    assert line.startswith("request.url:17: ")
