"""``restbridge explain``: prints the request that a call would send, and where each argument goes."""

import json
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import replace
from typing import Final, Literal, assert_never

from bridge.caller import Caller, Inbound
from bridge.commands import arguments, diagnostics_report, loading
from bridge.errors import InvalidCall
from bridge.exchange import Request
from bridge.resolved_upstream import Upstream
from bridge.settings import Settings
from bridge.spec import (
    ApiKeyAuth,
    Auth,
    BasicAuth,
    BearerAuth,
    ClientCredentialsAuth,
    NoAuth,
    OAuth2,
    TokenExchangeAuth,
)
from bridge.tool.prepare import prepare
from bridge.upstream.request_head import PreparedRequest

HIDDEN: Final = "[hidden]"
_MARK: Final = "--restbridge-hidden--"
"""Placeholder for a secret while the request is built. Every encoding except base64 leaves it unchanged."""
# Basic credentials are the base64 of user:password (RFC 7617), so the placeholder has this form there.
_BASIC_MARK: Final = b64encode(f"{_MARK}:{_MARK}".encode()).decode()


def run(
    settings: Settings, name: str, typed: tuple[str, ...], format_: Literal["text", "json"], caller: Caller
) -> int:
    """Print the request of ``caller`` and the place of each argument; answers 1 if the call would be refused."""
    tool = loading.find(settings, name)
    try:
        plan = prepare(tool, arguments.parse(typed, tool.arguments), Inbound(caller))
        # Before the request is built: afterwards a secret may be encoded, and would not be found.
        request = _shown(PreparedRequest(_hidden(tool.upstream)).as_sent(plan.request))
    except InvalidCall as refusal:
        print(refusal)
        return 1
    placement, token = tool.request.placement(plan.arguments), _token(tool.upstream)
    if format_ == "json":
        whole = _as_json(request) | ({"token": token} if token else {}) | {"arguments": placement}
        print(json.dumps(whole, ensure_ascii=False, indent=2))
    else:
        print(*_request_lines(request), "", *_placement_lines(placement), sep="\n")
        if token:
            print(f"token ← {token['tokenUrl']} ({token['flow']})")
    return 0


def _hidden(upstream: Upstream) -> Upstream:
    """The upstream with a placeholder instead of each secret."""
    headers = {name: _without(str(value), upstream.secrets) for name, value in upstream.spec.headers.items()}
    update = {"auth": _marked(upstream.spec.auth), "headers": headers}
    return replace(upstream, spec=upstream.spec.model_copy(update=update))


def _without(text: str, secrets: tuple[str, ...]) -> str:
    for secret in secrets:
        text = text.replace(secret, _MARK)
    return text


def _marked(auth: Auth) -> Auth:
    match auth:
        case BearerAuth():
            return auth.model_copy(update={"credentials": _MARK})
        case BasicAuth():
            return auth.model_copy(update={"username": _MARK, "password": _MARK})
        case ApiKeyAuth():
            return auth.model_copy(update={"value": _MARK})
        case OAuth2():  # nothing is sent, so there is no token
            return BearerAuth(type="http", scheme="bearer", credentials=_MARK)
        case NoAuth():
            return auth
        case _:
            assert_never(auth)


def _token(upstream: Upstream) -> dict[str, str] | None:
    """Where the token is requested if no valid one is cached."""
    match upstream.spec.auth:
        case ClientCredentialsAuth() | TokenExchangeAuth() as auth:
            return {"flow": auth.flow, "tokenUrl": _unmarked(_without(auth.token_url, upstream.secrets))}
    return None


def _shown(request: Request) -> Request:
    headers = tuple((name, _unmarked(value)) for name, value in request.headers)
    return request._replace(url=_unmarked(request.url), headers=headers)


def _unmarked(text: str) -> str:
    return text.replace(_BASIC_MARK, HIDDEN).replace(_MARK, HIDDEN)


def _request_lines(request: Request) -> Iterator[str]:
    yield f"{request.method} {request.url}"
    yield from (f"{name}: {value}" for name, value in request.headers)
    if request.content is not None:
        yield f"\n{diagnostics_report.body(request.content)}"


def _placement_lines(placement: dict[str, tuple[str, ...]]) -> Iterator[str]:
    for name, places in placement.items():
        yield f"{name} → {', '.join(places) or 'not sent'}"


def _as_json(request: Request) -> dict[str, object]:
    return {
        "method": request.method,
        "url": request.url,
        "headers": dict(request.headers),
        "body": None if request.content is None else diagnostics_report.body(request.content),
    }
