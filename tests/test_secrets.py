import os
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import pytest

from bridge.diagnostics import InvalidSpec
from bridge.resolved_upstream import Upstream
from bridge.secrets import Sources, read_file, resolve
from bridge.spec import ApiKeyAuth, BasicAuth, BearerAuth, Json, UpstreamSpec

ENVIRON = {
    "TOKEN": "t0ken-t0ken",
    "PASSWORD": "pass/word+1",
    "HOST": "api.test",
    "NESTED": "${env:TOKEN}",
    "EMPTY": "",
    "BROKEN": "canary-canary\r\nX-Injected: 1",
    "BLANK": "canary canary",
    "UMLAUT": "canary-ü",
    "TRAILING": "canary-canary ",
}
FILES = {
    "/run/token": "file-t0ken\n",
    "/run/crlf": "file-t0ken\r\n",
    "/run/two": "canary-canary\n\n",
    "/run/empty": "\n",
    "/run/ca.pem": "-----BEGIN CERTIFICATE-----\n",
}
BEARER = {"type": "http", "scheme": "bearer", "credentials": "${env:TOKEN}"}


def read(path: str) -> str:
    if path == "/run/binary":
        raise ValueError("is not UTF-8 text")
    if path not in FILES:
        raise FileNotFoundError(2, "No such file or directory", path)
    return FILES[path]


def resolved(environ: Mapping[str, str] = ENVIRON, **keys: Json) -> Upstream:
    written = {"baseUrl": "https://api.test", "auth": {"type": "none"}, **keys}
    return resolve("shop", UpstreamSpec.model_validate(written), Sources(environ, read))


def bearer(credentials: str) -> str:
    auth = resolved(auth={**BEARER, "credentials": credentials}).spec.auth
    assert isinstance(auth, BearerAuth)
    return auth.credentials


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("plain", "plain"),
        ("${env:TOKEN}", "t0ken-t0ken"),
        ("a-${env:TOKEN}-${env:TOKEN}-z", "a-t0ken-t0ken-t0ken-t0ken-z"),
        ("${env:UNSET:-default}", "default"),
        ("${env:EMPTY:-default}", "default"),
        ("${env:TOKEN:-default}", "t0ken-t0ken"),
        ("${env:UNSET:-a:-b}", "a:-b"),
        ("${file:/run/token}", "file-t0ken"),
        ("${file:/run/crlf}", "file-t0ken"),
        ("$${env:TOKEN}", "${env:TOKEN}"),
        ("$$${env:TOKEN}", "$${env:TOKEN}"),
        ("$TOKEN$", "$TOKEN$"),
        ("${env:NESTED}", "${env:TOKEN}"),
        ("${env:UNSET:-$${env:TOKEN}", "$${env:TOKEN"),
    ],
)
def test_a_reference_is_replaced_once(text: str, value: str) -> None:
    assert bearer(text) == value


def test_references_are_resolved_in_every_text_of_an_upstream_file() -> None:
    upstream = resolved(
        baseUrl="https://${env:HOST}/v1",
        auth={"type": "apiKey", "in": "header", "name": "X-${env:HOST}", "value": "${env:TOKEN}"},
        headers={"X-Host": "at ${env:HOST}", "X-Plain": "plain", "X-Number": 7, "X-Flag": True},
        tls={"caFile": "/run/${env:UNSET:-ca.pem}"},
        proxy="http://${env:HOST}:3128",
    )
    spec = upstream.spec
    assert spec.base_url == "https://api.test/v1"
    assert isinstance(spec.auth, ApiKeyAuth)
    assert (spec.auth.name, spec.auth.value) == ("X-api.test", "t0ken-t0ken")
    assert spec.headers == {"X-Host": "at api.test", "X-Plain": "plain", "X-Number": "7", "X-Flag": "true"}
    assert spec.tls.ca_file == "/run/ca.pem"
    assert spec.proxy == "http://api.test:3128"
    assert upstream.files == ("/run/ca.pem",)


@pytest.mark.parametrize(
    ("keys", "code", "message", "route", "offset"),
    [
        (
            {"auth": {**BEARER, "credentials": "Key ${env:UNSET}"}},
            "unset-secret",
            "the variable UNSET is not set, or empty; set it: until then the tools of this upstream are not served",
            ("auth", "credentials"),
            4,
        ),
        (
            {"baseUrl": "https://${env:EMPTY}"},
            "unset-secret",
            "the variable EMPTY is not set, or empty; set it: until then the tools of this upstream are not served",
            ("baseUrl",),
            8,
        ),
        (
            {"headers": {"X-Key": "${file:/run/absent}"}},
            "unset-secret",
            "the file /run/absent cannot be read (No such file or directory); create it, readable for this process",
            ("headers", "X-Key"),
            0,
        ),
        (
            {"tls": {"keyFile": "/run/absent"}},
            "unset-secret",
            "the file /run/absent cannot be read (No such file or directory); create it, readable for this process",
            ("tls", "keyFile"),
            None,
        ),
        (
            {"auth": {**BEARER, "credentials": "${env:BROKEN}"}},
            "bad-secret",
            "the variable BROKEN holds a control character, such as a line break; take it out",
            ("auth", "credentials"),
            0,
        ),
        (
            {"auth": {**BEARER, "credentials": "${env:UNSET:-a\tb}"}},
            "bad-secret",
            "the default of UNSET holds a control character, such as a line break; take it out",
            ("auth", "credentials"),
            0,
        ),
        (
            {"auth": {**BEARER, "credentials": "ab${canary}cd"}},
            "bad-secret",
            "${…} names no source of secrets; write ${env:NAME} or ${file:/path}",
            ("auth", "credentials"),
            2,
        ),
        (
            {"auth": {**BEARER, "credentials": "${file:/run/two}"}},
            "bad-secret",
            "the file /run/two holds a control character, such as a line break; take it out",
            ("auth", "credentials"),
            0,
        ),
        (
            {"auth": {**BEARER, "credentials": "${file:/run/binary}"}},
            "bad-secret",
            "the file /run/binary is not UTF-8 text; correct it",
            ("auth", "credentials"),
            0,
        ),
        (
            {"auth": {**BEARER, "credentials": "${file:/run/empty}"}},
            "bad-secret",
            "expected only the token, ASCII without blanks and without the word Bearer; correct the value",
            ("auth", "credentials"),
            None,
        ),
        (
            {"auth": {**BEARER, "credentials": "${env:BLANK}"}},
            "bad-secret",
            "expected only the token, ASCII without blanks and without the word Bearer; correct the value",
            ("auth", "credentials"),
            None,
        ),
        (
            {"auth": {"type": "apiKey", "in": "header", "name": "X", "value": "${env:TRAILING}"}},
            "bad-secret",
            "expected a text of ASCII characters without blanks at its ends; correct the value",
            ("auth", "value"),
            None,
        ),
        (
            {"auth": {"type": "apiKey", "in": "cookie", "name": "X", "value": "${env:BLANK}"}},
            "bad-secret",
            "expected a cookie's value, ASCII without blanks, quotes, comma, semicolon and backslash; correct the value",
            ("auth", "value"),
            None,
        ),
        (
            {"auth": {"type": "apiKey", "in": "query", "name": "X", "value": "canary\n"}},
            "bad-secret",
            "expected a text without control characters; correct the value",
            ("auth", "value"),
            None,
        ),
        (
            {"auth": {"type": "http", "scheme": "basic", "username": "u", "password": "${env:UNSET:-}"}},
            "bad-secret",
            "expected a text without control characters; correct the value",
            ("auth", "password"),
            None,
        ),
        (
            {"headers": {"X-Key": "${env:UMLAUT}"}},
            "bad-secret",
            "expected a text of ASCII characters without blanks at its ends; correct the value",
            ("headers", "X-Key"),
            None,
        ),
        (
            {"headers": {"X-Key": "ab ${env:TOKEN"}},
            "bad-secret",
            "${ is never closed; write } after the name, or $${ for the text ${",
            ("headers", "X-Key"),
            3,
        ),
        (
            {"headers": {"X-Key": "${ENV:TOKEN}"}},
            "bad-secret",
            "${…} names no source of secrets; write ${env:NAME} or ${file:/path}; did you mean env?",
            ("headers", "X-Key"),
            0,
        ),
        (
            {"headers": {"X-Key": "${TOKEN}"}},
            "bad-secret",
            "${TOKEN} names no source of secrets; write ${env:TOKEN}",
            ("headers", "X-Key"),
            0,
        ),
        (
            {"headers": {"X-Key": "${env:1-X}"}},
            "bad-secret",
            "${env:…} names no variable; write letters, digits and _, as in ${env:API_KEY}, and a default as in ${env:API_KEY:-none}",
            ("headers", "X-Key"),
            0,
        ),
        (
            {"headers": {"X-Key": "${file:secrets/key}"}},
            "bad-secret",
            "${file:…} names no absolute path; write it from the root, as in ${file:/run/secrets/key}",
            ("headers", "X-Key"),
            0,
        ),
        *(
            (
                {"proxy": proxy},
                "bad-proxy",
                "the proxy is not of the form http://[user:password@]host:port; write it so",
                ("proxy",),
                None,
            )
            for proxy in (
                "https://proxy.test",
                "socks5://proxy.test",
                "proxy.test:3128",
                "http://",
                "http://proxy.test:0",
                "http://proxy.test:99999",
                "http://proxy.test/path",
                "http://proxy.test?x",
                "http://proxy.test#x",
                "http://proxy .test",
                "http://[::1",
            )
        ),
        *(
            (
                {"proxy": proxy},
                "bad-proxy",
                "the proxy has a cloud metadata address, which is never contacted; write another",
                ("proxy",),
                None,
            )
            for proxy in (
                "http://user:canary@169.254.169.254:3128",
                "http://[::ffff:169.254.169.254]",
                "http://%31%36%39.254.169.254",
                "http://0251.254.169.254",
            )
        ),
    ],
)
def test_a_bad_reference_is_a_finding_with_its_route_and_offset(
    *, keys: Json, code: str, message: str, route: tuple[str, ...], offset: int | None
) -> None:
    with pytest.raises(InvalidSpec) as caught:
        resolved(**keys)
    (finding,) = caught.value.findings
    assert (finding.code, finding.message, finding.route) == (code, message, route)
    assert finding.offset == offset
    assert "canary" not in finding.message


def test_one_run_reports_every_error() -> None:
    with pytest.raises(InvalidSpec) as caught:
        resolved(
            baseUrl="${env:A}",
            auth={**BEARER, "credentials": "${env:B}${env:C}"},
            tls={"caFile": "${env:D}"},
            proxy="${env:E}",
        )
    assert [finding.message[:14] for finding in caught.value.findings] == [
        f"the variable {name}" for name in "ABCDE"
    ]


def test_secrets_are_auth_values_references_in_headers_and_proxy_credentials() -> None:
    auth = {"type": "http", "scheme": "basic", "username": "alice-user", "password": "${env:PASSWORD}"}
    upstream = resolved(
        auth=auth, headers={"X-A": "Key ${env:TOKEN}", "X-B": "open"}, proxy="http://us%65r:p%40ss@proxy.test"
    )
    assert isinstance(upstream.spec.auth, BasicAuth)
    assert set(upstream.secrets) == {
        "pass/word+1",
        "YWxpY2UtdXNlcjpwYXNzL3dvcmQrMQ==",
        "t0ken-t0ken",
        "user",
        "p@ss",
        "us%65r:p%40ss",
        "dXNlcjpwQHNz",
    }


@pytest.mark.parametrize("form", ["Basic {pair}", "{quoted}", "{quoted_twice}", "{secret}"])
def test_a_client_secret_is_redacted_in_every_encoding(form: str) -> None:
    secret = "s3cr/et+with%odd=chars99"
    auth = {
        "type": "oauth2",
        "flow": "clientCredentials",
        "tokenUrl": "https://login.test/token",
        "clientId": "the bridge",
        "clientSecret": secret,
    }
    quoted = quote(secret, safe="")
    text = form.format(
        pair=b64encode(f"the%20bridge:{quoted}".encode()).decode(),
        quoted=quoted,
        quoted_twice=quote(quoted, safe=""),
        secret=secret,
    )
    assert resolved(auth=auth).redactor().text(f"from {text} here") == (
        f"from {'Basic ' * form.startswith('Basic')}[redacted] here"
    )


def test_the_base_url_and_the_name_of_a_key_are_not_secret() -> None:
    auth = {"type": "apiKey", "in": "query", "name": "${env:HOST}", "value": "${env:TOKEN}"}
    assert resolved(auth=auth, baseUrl="https://${env:HOST}").secrets == ("t0ken-t0ken",)


def test_a_repr_shows_no_secret() -> None:
    upstream = resolved(auth=BEARER, headers={"X": "${env:PASSWORD}"}, proxy="http://user:secret@proxy.test")
    assert repr(upstream) == "Upstream(name='shop', files=(), certificates='', role='API')"
    for shown in (repr(upstream.spec), str(upstream.spec)):
        assert "t0ken" not in shown
        assert "pass/word" not in shown
        assert "secret" not in shown


@pytest.mark.parametrize(
    ("base_url", "environ", "proxy"),
    [
        ("http://api.test", {}, None),
        ("http://api.test", {"HTTP_PROXY": "http://p.test:3128"}, "http://p.test:3128"),
        ("http://api.test", {"HTTPS_PROXY": "http://p.test:3128"}, None),
        ("https://api.test", {"HTTPS_PROXY": " http://p.test:3128/ "}, "http://p.test:3128"),
        ("https://api.test", {"HTTPS_PROXY": "p.test:3128"}, "http://p.test:3128"),
        (
            "https://api.test",
            {"https_proxy": "http://a.test", "HTTPS_PROXY": "http://b.test"},
            "http://a.test",
        ),
        ("http://localhost:8100", {"HTTP_PROXY": "http://p.test"}, None),
        ("http://127.0.0.1:8100", {"HTTP_PROXY": "http://p.test"}, None),
        ("http://[::1]:8100", {"HTTP_PROXY": "http://p.test"}, None),
        ("http://[::1", {"HTTP_PROXY": "http://p.test"}, None),
        *(
            ("http://a.api.test:81", {"HTTP_PROXY": "http://p.test", "NO_PROXY": direct}, None)
            for direct in ("*", "api.test", ".api.test", "*.api.test", "x, A.API.TEST", "api.test:81")
        ),
        *(
            ("http://a.api.test:81", {"HTTP_PROXY": "http://p.test", "no_proxy": other}, "http://p.test")
            for other in ("pi.test", "api.test:80", "b.a.api.test", "10.0.0.0/8", ",", "a.api.test.x")
        ),
        *(
            ("http://10.1.2.3", {"HTTP_PROXY": "http://p.test", "NO_PROXY": direct}, None)
            for direct in ("10.1.2.3", "10.0.0.0/8", "10.1.2.3:80")
        ),
        ("http://[fd00::7]", {"HTTP_PROXY": "http://p.test", "NO_PROXY": "[fd00::7]"}, None),
        (
            "http://10.1.2.3",
            {"HTTP_PROXY": "http://p.test", "NO_PROXY": "10.1.2.4,11.0.0.0/8"},
            "http://p.test",
        ),
    ],
)
def test_the_proxy_of_the_environment_applies_unless_no_proxy_excludes_the_host(
    base_url: str, environ: dict[str, str], proxy: str | None
) -> None:
    assert resolved(environ, baseUrl=base_url).spec.proxy == proxy


@pytest.mark.parametrize(("written", "proxy"), [("", None), ("http://mine.test", "http://mine.test")])
def test_the_proxy_of_the_file_overrides_the_environment(written: str, proxy: str | None) -> None:
    upstream = resolved({"HTTPS_PROXY": "http://p.test"}, proxy=written)
    assert upstream.spec.proxy == proxy


def test_an_invalid_proxy_of_the_environment_is_reported() -> None:
    with pytest.raises(InvalidSpec) as caught:
        resolved({"HTTPS_PROXY": "socks5://user:canary@p.test"})
    (finding,) = caught.value.findings
    assert (finding.code, finding.route) == ("bad-proxy", ("baseUrl",))
    assert finding.message.startswith("HTTP_PROXY or HTTPS_PROXY of the environment")
    assert "canary" not in finding.message


def test_a_short_name_of_a_metadata_service_is_never_sent_to_a_proxy() -> None:
    environ = {"HTTP_PROXY": "http://p.test"}
    assert resolved(environ, baseUrl="http://metadata", proxy="").spec.proxy is None
    assert resolved({}, baseUrl="http://metadata").spec.proxy is None
    assert resolved(environ, baseUrl="http://[", proxy="http://p.test").spec.proxy == "http://p.test"
    with pytest.raises(InvalidSpec) as caught:
        resolved(environ, baseUrl="http://metadata")
    (finding,) = caught.value.findings
    assert (finding.code, finding.route) == ("bad-url", ("baseUrl",))


def test_the_credentials_of_a_proxy_of_the_environment_are_secret() -> None:
    assert "s3cret-s3cret" in resolved({"HTTPS_PROXY": "http://u:s3cret-s3cret@p.test"}).secrets


@pytest.mark.parametrize(
    ("base_url", "origin", "authority"),
    [
        ("http://api.test/v1/x", "http://api.test", "api.test:80"),
        ("https://api.test", "https://api.test", "api.test:443"),
        ("https://api.test:8443/v1", "https://api.test:8443", "api.test:8443"),
        ("http://[::1]", "http://[::1]", "[::1]:80"),
        ("http://[::1]:81/x", "http://[::1]:81", "[::1]:81"),
    ],
)
def test_an_upstream_has_an_origin_and_an_authority(base_url: str, origin: str, authority: str) -> None:
    upstream = resolved(baseUrl=base_url)
    assert (upstream.origin, upstream.authority) == (origin, authority)


def test_the_last_text_of_a_deleted_file_is_used(tmp_path: Path) -> None:
    path = tmp_path / "token"
    sources = Sources({})
    with pytest.raises(FileNotFoundError):
        sources.file(str(path))
    path.write_text("one")
    assert sources.file(str(path)) == "one"
    path.write_text("two")
    assert sources.file(str(path)) == "two"
    path.unlink()
    assert sources.file(str(path)) == "two"
    assert sources.files == (str(path),)


def test_the_certificates_digest_changes_with_the_files() -> None:
    contents = {"/ca.pem": "one", "/key.pem": "key"}
    spec = UpstreamSpec.model_validate(
        {
            "baseUrl": "https://api.test",
            "auth": {"type": "none"},
            "tls": {"caFile": "/ca.pem", "keyFile": "/key.pem"},
        }
    )
    sources = Sources({}, contents.__getitem__)
    before = resolve("shop", spec, sources)
    assert before.certificates == resolve("shop", spec, sources).certificates
    contents["/ca.pem"] = "two"
    assert before.certificates != resolve("shop", spec, sources).certificates


def test_only_a_small_regular_text_file_is_read(tmp_path: Path) -> None:
    good, large, binary, pipe = (tmp_path / name for name in ("good", "large", "binary", "pipe"))
    good.write_text("tökén\n")
    large.write_bytes(bytes(1024**2 + 1))
    binary.write_bytes(b"\xff")
    os.mkfifo(pipe)
    assert read_file(str(good)) == "tökén\n"
    for path, wrong in ((large, "larger than 1 MiB"), (binary, "not UTF-8"), (pipe, "not a regular file")):
        with pytest.raises(ValueError, match=wrong):
            read_file(str(path))
    with pytest.raises(OSError, match="directory"):
        read_file(str(tmp_path))
