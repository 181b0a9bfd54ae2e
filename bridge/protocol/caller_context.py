"""Where a request keeps its ``Caller``: in its ASGI scope, and in a context variable."""

from contextvars import ContextVar
from typing import Final, TypeAlias

from anyio.abc import TaskGroup
from mcp.server.context import ServerRequestContext
from starlette.requests import Request
from starlette.types import Scope

from bridge.caller import ANONYMOUS, Caller

Context: TypeAlias = ServerRequestContext[TaskGroup, Request]
"""The lifespan context is a task group that ends with the transport."""

_CALLER: Final = "restbridge.caller"
"""Key of the ASGI scope."""

CURRENT_CALLER: Final[ContextVar[Caller]] = ContextVar("caller", default=ANONYMOUS)
"""The caller, for hooks that the SDK calls without the request."""


def caller_of(ctx: Context) -> Caller:
    # Over stdio there is no HTTP request. The only client is the parent of this process.
    return caller_in(ctx.request.scope) if ctx.request else ANONYMOUS


def caller_in(scope: Scope) -> Caller:
    caller: Caller = scope.get(_CALLER, ANONYMOUS)
    return caller


def set_caller(caller: Caller, scope: Scope) -> None:
    scope[_CALLER] = caller
    CURRENT_CALLER.set(caller)
