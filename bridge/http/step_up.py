"""Step-up: a call whose token lacks scopes gets a challenge that names them, so its client can request a new token.

RFC 6750 3.1; MCP 2025-11-25, authorization, step-up flow. The challenge reveals that a hidden tool exists, so it is opt-in.
"""

from mcp_types import JSONRPCRequest
from starlette.types import Scope

from bridge.access.credentials import CredentialStore
from bridge.caller import Inbound
from bridge.codec import log_safe
from bridge.http.replies import ErrorReply, error_reply
from bridge.http.resource_metadata import Resource
from bridge.protocol.caller_context import caller_in
from bridge.protocol.handlers import ToolServer


class StepUp:
    """Challenges for the tools of ``server``, as long as the settings of ``access`` ask for it."""

    def __init__(self, server: ToolServer, access: CredentialStore, resource: Resource) -> None:
        self._server = server
        self._access = access
        self._resource = resource

    def challenge(self, message: JSONRPCRequest, scope: Scope) -> ErrorReply | None:
        """The 403 reply to a tools/call if its caller could get the scopes of the tool, otherwise None.

        Scopes of an API key are fixed by the settings. An issuer grants only the scopes of its ``grants``.
        """
        caller = caller_in(scope)
        if self._access.step_up != "challenge" or caller.issuer is None or caller.scopes is None:
            return None
        tool = self._server.hidden_tool(str((message.params or {}).get("name")), caller)
        if tool is None or not self._access.may_grant(caller.issuer, tool.spec.scopes):
            return None
        self._server.report_refusal(tool.name, "not-permitted", Inbound(caller, log_safe(message.id)), tool)
        # The next token has only the scopes that are named here, so the present ones are named too.
        needed = caller.scopes & self._server.scopes | set(tool.spec.scopes)
        text = f"{tool.name} needs the scope {' '.join(sorted(tool.spec.scopes))}"
        params = ['realm="restbridge"', 'error="insufficient_scope"', f'error_description="{text}"']
        response = error_reply(403, text, id=message.id)
        response.headers["WWW-Authenticate"] = (
            f"Bearer {', '.join([*params, *self._resource.challenge(needed)])}"
        )
        return response
