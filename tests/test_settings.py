from dataclasses import fields
from pathlib import Path

import pytest

from bridge import cli
from bridge.address import Address
from bridge.settings import Settings
from bridge.settingsfile import Limits, View


@pytest.mark.parametrize(
    ("text", "address", "printed"),
    [
        ("8000", Address("127.0.0.1", 8000), "127.0.0.1:8000"),
        (":8000", Address("127.0.0.1", 8000), "127.0.0.1:8000"),
        ("0.0.0.0:0", Address("0.0.0.0", 0), "0.0.0.0:0"),
        ("[::1]:65535", Address("::1", 65535), "[::1]:65535"),
        ("bridge.example:80", Address("bridge.example", 80), "bridge.example:80"),
    ],
)
def test_an_address_is_a_port_or_host_and_port(text: str, address: Address, printed: str) -> None:
    assert Address.parse(text) == address
    assert str(address) == printed


@pytest.mark.parametrize("text", ["", "port", "host:", "1.2.3.4:65536", "-1", "٣", "::1:80"])
def test_what_is_no_address_is_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(ValueError, match="write"):
        Address.parse(text)


def test_a_url_is_told_to_be_one() -> None:
    with pytest.raises(ValueError, match="is a URL; leave http:// out"):
        Address.parse("http://127.0.0.1:80")


ODD = Settings(
    (Path("-tools"), Path("more tools.d")),
    Path("-up=streams"),
    http=Address("::1", 80),
    host_names=("tools.example.com", "b"),
    stateless=True,
    insecure=True,
    read_only=True,
    view="odd",
    log_format="json",
    audit=Path("-audit"),
    audit_required=True,
    owners={"billing_*": "billing/", '"': "-x"},
    views={"odd": View(tools=("get_*", '"'), without=("-x",)), "other": View(tags=("é",))},
    limits=Limits.model_validate({"perCaller": {"calls": 3, "results": "1MiB"}, "body": "2kB"}),
    strict=True,
    on_invalid="withdraw",
    poll=0.30000000000000004,
    grace=7.5,
    express=False,
)


@pytest.mark.parametrize("settings", [Settings((Path("tools.d"),)), ODD])
def test_every_setting_survives_the_words_that_are_made_of_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESTBRIDGE_EXPRESS", "0" if settings.express else "1")
    told = {field.name for field in fields(Settings)} - {"workers", "guarded", "config"}
    plain = Settings((Path("tools.d"),))
    assert all(getattr(ODD, name) != getattr(plain, name) for name in told)
    read = cli.serve.make_context("serve", settings.words()).params
    words = {name: word for name, word in read.items() if name != "worker"}
    assert cli._of_worker(**words) == settings
