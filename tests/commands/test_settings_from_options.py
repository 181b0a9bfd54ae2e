from pathlib import Path

import pytest

from bridge.address import Address
from bridge.commands.settings_from_options import options
from bridge.settings import Http, ServerTls, Settings
from tests.commands.in_process import parse_settings

FILE = """\
tools: [other.d]
upstreams: other.d
http:
  {listen: 1, workers: 3, hostNames: [other.example.com], stateless: true, insecure: true,
   tls: {certFile: /other.pem, keyFile: /other.key, clientCaFile: /others.pem}}
readOnly: true
log: {format: json}
audit: {file: other.jsonl, required: true}
strict: true
onInvalid: withdraw
poll: 9s
grace: 9s
fastPath: true
"""
OPTIONS = [
    ("mine.d", "tools", (Path("mine.d"),)),
    ("--upstreams mine.d", "upstreams", Path("mine.d")),
    ("--view few", "view", "few"),
    ("--http [::1]:0", "http.listen", Address("::1", 0)),
    ("--tls-cert mine.pem", "http.tls.cert_file", Path("mine.pem")),
    ("--tls-key mine.key", "http.tls.key_file", Path("mine.key")),
    ("--tls-client-ca mine.pem", "http.tls.client_ca_file", Path("mine.pem")),
    ("--workers 2", "http.workers", 2),
    ("--workers auto", "http.workers", "auto"),
    ("--host-name A --host-name b", "http.host_names", ("a", "b")),
    ("--no-stateless", "http.stateless", False),
    ("--no-insecure", "http.insecure", False),
    ("--no-read-only", "read_only", False),
    ("--log-format text", "log.format", "text"),
    ("--audit mine.jsonl", "audit.file", Path("mine.jsonl")),
    ("--no-audit-required", "audit.required", False),
    ("--no-strict", "strict", False),
    ("--on-invalid keep", "on_invalid", "keep"),
    ("--poll 0.5", "poll", 0.5),
    ("--grace 0", "grace", 0.0),
    ("--no-fast-path", "fast_path", False),
]


@pytest.mark.parametrize(("words", "route", "value"), OPTIONS)
def test_an_option_overrides_its_key_and_no_other(
    tmp_path: Path, words: str, route: str, value: object
) -> None:
    path = tmp_path / "restbridge.yaml"
    path.write_text(FILE)
    before, after = (
        parse_settings("--config", str(path)),
        parse_settings("--config", str(path), *words.split()),
    )

    def flat(settings: Settings) -> dict[str, object]:
        assert settings.http
        groups = {
            "http": settings.http,
            "http.tls": settings.http.tls,
            "log": settings.log,
            "audit": settings.audit,
        }
        inner = {f"{name}.{key}": value for name, group in groups.items() for key, value in group or ()}
        return {name: value for name, value in {**dict(settings), **inner}.items() if name not in groups}

    assert flat(after) == flat(before) | {route: value}
    assert flat(before)[route] != value


def test_every_option_is_tried_here() -> None:
    tried = {word.replace("--no-", "--") for words, *_ in OPTIONS for word in words.split()}
    assert {each.opts[0] for each in options()} <= tried


def test_the_environment_overrides_the_settings_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "restbridge.yaml"
    path.write_text(FILE)
    monkeypatch.setenv("RESTBRIDGE_CONFIG", str(path))
    monkeypatch.setenv("RESTBRIDGE_FAST_PATH", "0")
    monkeypatch.setenv("RESTBRIDGE_WORKERS", "auto")
    assert parse_settings().http == Http.model_validate(
        {
            "listen": 1,
            "workers": "auto",
            "hostNames": ["other.example.com"],
            "stateless": True,
            "insecure": True,
            "tls": {
                "certFile": "/other.pem",
                "keyFile": "/other.key",
                "clientCaFile": "/others.pem",
            },
        }
    )
    assert (parse_settings().fast_path, parse_settings("--fast-path").fast_path, parse_settings().poll) == (
        False,
        True,
        9,
    )


def test_without_a_settings_file_options_change_the_defaults() -> None:
    settings = parse_settings("--http", "0", "--workers", "2", "--audit", "x", "--log-format", "json")
    assert settings.http
    assert settings.audit
    assert (settings.http.workers, settings.http.insecure, settings.audit.required) == (2, False, False)
    assert (settings.log.format, settings.tools) == ("json", (Path("tools.d"),))


def test_the_files_of_tls_can_be_given_by_options() -> None:
    settings = parse_settings("--http", "0", "--tls-cert", "a.pem", "--tls-client-ca", "b.pem")
    assert settings.http
    assert settings.http.tls == ServerTls.model_validate({"certFile": "a.pem", "clientCaFile": "b.pem"})
    assert Settings.from_json(settings.to_json()).http == settings.http


def test_options_that_say_the_default_need_nothing() -> None:
    settings = parse_settings("--workers", "1", "--no-insecure", "--no-audit-required")
    assert (settings.http, settings.audit) == (None, None)
