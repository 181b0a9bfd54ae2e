"""The first step of a call: its arguments become the request to send. Nothing is sent here."""

from typing import NamedTuple

from bridge.caller import Inbound
from bridge.exchange import Request
from bridge.spec import Json
from bridge.tool.compiler import Tool
from bridge.tool.request.headers import forwarded_headers


class Plan(NamedTuple):
    """What a call sends. ``arguments`` are checked and hold the defaults."""

    arguments: dict[str, Json]
    request: Request


def prepare(tool: Tool, arguments: dict[str, Json], inbound: Inbound, *, quick: bool = False) -> Plan:
    """Check the arguments and build the request; raises ``InvalidCall``.

    ``quick``: raises ``Unchecked`` where the check takes long.
    """
    checked = tool.arguments.check(arguments, quick=quick)
    request = tool.request.build(checked, inbound.caller.placeholders)
    if names := tool.upstream.spec.forward_headers:
        # After the tool's own headers, which win over those of the caller.
        sent_on = forwarded_headers(names, inbound.headers, request.headers)
        request = request._replace(headers=(*request.headers, *sent_on))
    return Plan(checked, request)
