import json
import os

import pytest
from pydantic import ValidationError

from bridge.address import Address
from bridge.settings import Http, Limits, Settings


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


@pytest.mark.parametrize("text", ["", "port", "host:", "1.2.3.4:65536", "-1", "٣", "::1:80", "8" * 5000])
def test_what_is_no_address_is_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(ValueError, match="write"):
        Address.parse(text)


def test_a_url_is_told_to_be_one() -> None:
    with pytest.raises(ValueError, match="is a URL; leave http:// out"):
        Address.parse("http://127.0.0.1:80")


ODD = {
    "tools": ["-tools", os.fsdecode(b"not UTF-8 \xff")],
    "upstreams": "-up=streams",
    "config": "restbridge.yaml",
    "view": "odd",
    "http": {
        "listen": "[::1]:80",
        "workers": 2,
        "tls": {"certFile": "-cert", "keyFile": "key", "clientCaFile": "ca"},
        "hostNames": ["tools.example.com", "b"],
        "stateless": True,
        "insecure": True,
    },
    "readOnly": True,
    "log": {"format": "json"},
    "audit": {"file": "-audit", "required": True},
    "access": {"resource": "https://tools.example.com/mcp"},
    "owners": {"billing_*": "billing/", '"': "-x"},
    "views": {"odd": {"tools": ["get_*", '"'], "without": ["-x"]}, "other": {"tags": ["é"]}},
    "limits": {"perCaller": {"calls": 3, "results": "1MiB"}, "total": {"rate": 7}, "body": "2kB"},
    "strict": True,
    "onInvalid": "withdraw",
    "poll": "0.30000000000000004s",
    "grace": "0s",
    "fastPath": False,
}


def test_every_setting_survives_the_json_for_a_worker() -> None:
    settings, defaults = Settings.model_validate(ODD), Settings()
    for name in Settings.model_fields:
        assert getattr(settings, name) != getattr(defaults, name)
    for part in (settings.http, settings.log, settings.audit):
        assert part
        assert part.model_fields_set == type(part).model_fields.keys()
    for each in (settings, defaults):
        assert Settings.from_json(each.to_json()) == each
    assert "\n" not in settings.to_json()


def test_a_worker_knows_which_limits_are_written() -> None:
    """Only those apply to callers without a name."""
    limits = Settings.from_json(Settings.model_validate(ODD).to_json()).limits
    assert limits.per_caller.written.model_dump(exclude_none=True) == {"calls": 3, "results": 2**20}


def test_the_json_for_a_worker_has_no_credentials() -> None:
    key = {"name": "ann", "sha256": "0123456789abcdef" * 4}
    issuer = {"issuer": "https://login.example.com", "jwks": "keys.json"}
    settings = Settings.model_validate({"access": {"apiKeys": [key], "jwt": [issuer]}})
    assert json.loads(settings.to_json()) == {"access": {}}
    assert Settings.from_json(settings.to_json()).has_access_control


def test_processes_divide_the_total_limits_rounded_up() -> None:
    limits = Limits.model_validate(
        {"total": {"calls": 9, "streams": None, "rate": 1}, "perCaller": {"calls": 5}}
    )
    part = limits.divided(2)
    assert (part.total.calls, part.total.streams, part.total.rate, part.total.results) == (
        5,
        None,
        1,
        128 * 1024**2,
    )
    assert (part.per_caller, part.body) == (limits.per_caller, limits.body)
    assert limits.divided(1) == limits


@pytest.mark.parametrize("value", [0, 65, True, "two", "0", "65", "9" * 5000, 2.0, None])
def test_a_number_of_workers_is_from_1_to_64_or_auto(value: object) -> None:
    with pytest.raises(ValidationError, match="expected a number from 1 to 64, or auto"):
        Http.model_validate({"listen": 0, "workers": value})


@pytest.mark.parametrize(("value", "workers"), [(1, 1), ("64", 64), ("auto", "auto")])
def test_a_number_of_workers_may_be_written_as_text(value: object, workers: object) -> None:
    assert Http.model_validate({"listen": 0, "workers": value}).workers == workers
