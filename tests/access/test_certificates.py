"""Callers that are known by the certificate of their client."""

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from cryptography import x509

from bridge.access import credentials
from bridge.access.certificates import MAX_NAME_CHARACTERS, ClientCertificate
from bridge.access.credentials import CredentialStore, NotAuthenticated
from bridge.events import CallFinished, Event, KeysChanged, Listener, ignore
from bridge.http.tls import ServerTls, TlsFiles, TlsState
from bridge.settings import Access as AccessConfig
from tests.access.test_credentials import entry, session_of
from tests.http.test_tls import HOST, client_of
from tests.serving.messages import call
from tests.serving.served import Served
from tests.serving.session import Session
from tests.upstream.certificates import Authority

pytestmark = pytest.mark.anyio

SPIFFE = "spiffe://example.org/agents/ann"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def config_of(certificates: object, **fields: object) -> AccessConfig:
    return AccessConfig.model_validate({"certificates": certificates, **fields})


def store_of(certificates: object, emit: Listener = ignore, **fields: object) -> CredentialStore:
    async def fetch(place: str) -> bytes:
        raise OSError(place)

    return CredentialStore(config_of(certificates, **fields), fetch, emit)


@asynccontextmanager
async def serving(served: Served, authority: Authority, access: CredentialStore) -> AsyncIterator[str]:
    tls = ServerTls(TlsState.load(TlsFiles(*authority.issue(HOST), authority.file)))
    async with served.http(access=access, tls=tls) as url:
        yield url


def peer(expires: float = 1e10, **fields: Any) -> Mapping[str, Any]:
    """A certificate, as Python's TLS shows it."""
    moment = time.strftime("%b %d %H:%M:%S %Y GMT", time.gmtime(expires))
    return {"notAfter": moment, **fields}


SUBJECT = ((("organizationName", "Example"),), (("commonName", "common"),))


@pytest.mark.parametrize(
    ("names", "name"),
    [
        ([("DNS", "a.example"), ("URI", "spiffe://one"), ("URI", "spiffe://two")], "spiffe://one"),
        ([("IP Address", "10.0.0.1"), ("DNS", "a.example"), ("DNS", "b.example")], "a.example"),
        ([("email", "ann@example.org")], "common"),
        ([], "common"),
        ([("URI", "x" * MAX_NAME_CHARACTERS)], "x" * MAX_NAME_CHARACTERS),
        ([("URI", "x" * (MAX_NAME_CHARACTERS + 1)), ("DNS", "")], "common"),
    ],
)
def test_the_name_is_the_first_uri_else_dns_name_else_the_common_name(
    names: list[tuple[str, str]], name: str
) -> None:
    certificate = ClientCertificate.of(peer(subject=SUBJECT, subjectAltName=tuple(names)))
    assert certificate == ClientCertificate(name, 1e10)


def test_a_certificate_may_have_no_name() -> None:
    assert ClientCertificate.of(peer(subject=SUBJECT[:1])).name is None


async def test_the_certificate_names_the_caller_and_its_scopes(served: Served, authority: Authority) -> None:
    served.scopes = {"echo": ["read"], "change": ["write"]}
    served.show("echo", "change", "any")
    access = store_of([{"name": "spiffe://example.org/*", "scopes": ["read"]}, {"name": "ci.example"}])
    ann = authority.issue("ann", names=[x509.DNSName("x"), x509.UniformResourceIdentifier(SPIFFE)])
    async with serving(served, authority, access) as url:
        async with client_of(authority, ann) as web:
            allowed = await Session(web, url).ask_modern(call("echo"))
        async with client_of(authority, authority.issue("ci.example")) as web:
            refused = await Session(web, url).ask_modern(call("echo"))
            answer = await Session(web, url).ask_modern(call("any"))
        async with client_of(authority, authority.issue("other.example")) as web:
            reply = await web.post(url, **Session(web, url).modern(call("any")))
    assert allowed["result"]["isError"] is False
    assert refused["error"]["message"] == "Unknown tool: echo"
    assert answer["result"]["isError"] is False
    assert reply.status_code == 401
    assert reply.json()["error"]["message"] == "The name of this client certificate is not accepted here"
    calls = [event for event in served.events if isinstance(event, CallFinished)]
    assert [(event.caller, event.issuer, event.outcome) for event in calls] == [
        (SPIFFE, "certificate", "ok"),
        ("ci.example", "certificate", "not-permitted"),
        ("ci.example", "certificate", "ok"),
    ]


async def test_a_key_on_a_connection_with_a_certificate_decides_alone(
    served: Served, authority: Authority
) -> None:
    keys = [entry("ann").model_dump(by_alias=True)]
    access = store_of(certificates=True, apiKeys=keys)
    async with (
        serving(served, authority, access) as url,
        client_of(authority, authority.issue("ann")) as web,
    ):
        with_key, without = session_of("ann", web, url), Session(web, url)
        for session in (with_key, without):
            await session.open()
            assert (await session.ask(call("any")))["result"]["isError"] is False
        wrong = session_of("nobody", web, url)
        assert (await web.post(url, **wrong.modern(call("any")))).status_code == 401
    calls = [event for event in served.events if isinstance(event, CallFinished)]
    assert [(event.caller, event.issuer) for event in calls] == [("ann", None), ("ann", "certificate")]


@pytest.mark.parametrize("certificates", [None, False, []])
async def test_without_the_setting_a_certificate_names_nobody(certificates: object) -> None:
    access = store_of(certificates)
    with pytest.raises(NotAuthenticated, match=r"^No credentials"):
        await access.authenticate([], ClientCertificate("ann", 1e10))


async def test_a_certificate_that_cannot_be_accepted_is_refused_with_the_reason() -> None:
    access = store_of([{"name": "a*"}])
    for certificate, text, name in (
        (ClientCertificate(None, 1e10), "has no name", None),
        (ClientCertificate("ann", 1.0), "has expired", "ann"),
        (ClientCertificate("bob", 1e10), "is not accepted here", "bob"),
    ):
        with pytest.raises(NotAuthenticated, match=text) as refused:
            await access.authenticate([], certificate)
        assert refused.value.key_name == name


async def test_a_change_of_the_entries_ends_what_certificates_opened() -> None:
    events: list[Event] = []
    entries = [{"name": "ann", "scopes": ["read"]}, {"name": "bob"}]
    access = store_of(entries, events.append)
    ann = await access.authenticate([], ClientCertificate("ann", 1e10))
    bob = await access.authenticate([], ClientCertificate("bob", 1e10))
    assert await access.authenticate([], ClientCertificate("ann", 1e10)) is ann
    access.replace(config_of([{"name": "ann", "scopes": ["read"]}, {"name": "b*"}]))
    assert (ann.is_ended, bob.is_ended) == (False, False)
    access.replace(config_of([{"name": "ann"}, {"name": "b*"}]))
    assert (ann.is_ended, bob.is_ended) == (True, False)
    access.replace(config_of([{"name": "ann"}]))
    assert bob.is_ended
    changes = [event for event in events if isinstance(event, KeysChanged)]
    assert [(each.added, each.changed, each.removed, each.certificates) for each in changes] == [
        (("certificate b*",), (), ("certificate bob",), 2),
        ((), ("certificate ann",), (), 2),
        ((), (), ("certificate b*",), 1),
    ]


async def test_a_certificate_ends_when_it_expires() -> None:
    access = store_of(certificates=True)
    known = await access.authenticate([], ClientCertificate("ann", time.time() + 3600))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(access.run)
        await anyio.wait_all_tasks_blocked()
        soon = await access.authenticate([], ClientCertificate("ann", time.time() + 0.2))
        await access.authenticate([], ClientCertificate("bob", 1e10))
        with anyio.fail_after(30):
            await soon.lease.ended.wait()
        tasks.cancel_scope.cancel()
    assert not known.is_ended
    assert [each.name for each in access._certificates] == ["ann", "bob"]


async def test_the_number_of_known_certificates_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "MAX_KNOWN_CERTIFICATES", 2)
    access = store_of(certificates=True)
    busy = await access.authenticate([], ClientCertificate("busy", 1e10))
    busy.active_requests = 1
    for name in ("ann", "bob"):
        await access.authenticate([], ClientCertificate(name, 1e10))
    assert [each.name for each in access._certificates] == ["busy", "bob"]
