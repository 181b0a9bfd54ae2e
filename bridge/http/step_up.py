"""A call whose token lacks scopes is answered with the scopes that it needs, so that its client can ask for more.

RFC 6750 3.1; MCP 2025-11-25, authorization, step-up flow. It tells a caller that a tool is there, so it is done on request.
"""

from mcp_types import JSONRPCRequest
from starlette.types import Scope

from bridge.access.credentials import Access
from bridge.caller import Inbound
from bridge.http.request_guard import ErrorReply, error_reply
from bridge.http.resource_metadata import Resource
from bridge.protocol.handlers import ToolServer
from bridge.protocol.notifications import caller_in
from bridge.telemetry.log_output import fit


class StepUp:
    """Challenges for the tools of ``server``, while ``access`` says so."""

    def __init__(self, server: ToolServer, access: Access, resource: Resource) -> None:
        self._server = server
        self._access = access
        self._resource = resource

    def challenge(self, message: JSONRPCRequest, scope: Scope) -> ErrorReply | None:
        """What a tools/call is answered whose caller could get the scopes that its tool asks for; else None.

        Keys have the scopes that stand in the settings, and an issuer's tokens those that it may grant: no client can
        get others.
        """
        caller = caller_in(scope)
        if self._access.step_up != "challenge" or caller.issuer is None or caller.scopes is None:
            return None
        tool = self._server.hidden(str((message.params or {}).get("name")), caller)
        if tool is None or not self._access.may_grant(caller.issuer, tool.spec.scopes):
            return None
        self._server.refuse(tool.name, "not-permitted", Inbound(caller, fit(message.id)), tool)
        # What the token has is asked for again: the client's next token has what is named here, and no more.
        needed = caller.scopes & self._server.scopes | set(tool.spec.scopes)
        text = f"{tool.name} takes the scope {' '.join(sorted(tool.spec.scopes))}"
        words = ['realm="restbridge"', 'error="insufficient_scope"', f'error_description="{text}"']
        response = error_reply(403, text, id=message.id)
        response.headers["WWW-Authenticate"] = (
            f"Bearer {', '.join([*words, *self._resource.challenge(needed)])}"
        )
        return response
