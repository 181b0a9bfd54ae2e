"""The requests of one client that have no answer yet: their ids, and the scopes that cancel them.

A session over HTTP has one ``RequestsInFlight``, and the connection over stdio has one. A POST without a session has none:
nothing else can name its request.

| Event | HTTP with a session | stdio |
|---|---|---|
| a request has the id of one in flight | refused with 409 | refused |
| ``notifications/cancelled`` | the call is cancelled, and its POST gets an error | the call is cancelled, and gets no answer |
| the client leaves | the call goes on: the client may come back | all calls are cancelled |
| the session ends | its calls are cancelled | |

The SDK does the same with the requests that it answers itself.
"""

import anyio
from mcp_types import INVALID_REQUEST, JSONRPCMessage, JSONRPCNotification, JSONRPCRequest, RequestId

from bridge.protocol.jsonrpc import InvalidMessage


class RequestsInFlight:
    """Every request of a client, whether the fast path or the SDK answers it. The ids 1 and "1" are the same, as in the SDK."""

    def __init__(self) -> None:
        self._scopes: dict[str, anyio.CancelScope] = {}

    def __len__(self) -> int:
        return len(self._scopes)

    def __contains__(self, id: object) -> bool:
        return str(id) in self._scopes

    def holds(self, id: RequestId, scope: anyio.CancelScope) -> bool:
        """Whether the request of ``add`` is still in flight, not a later one with its id."""
        return self._scopes.get(str(id)) is scope

    def add(self, id: RequestId) -> anyio.CancelScope:
        """Returns the scope for a call on the fast path. Raises ``InvalidMessage`` if the id is in flight already."""
        if id in self:
            # The SDK would send the first answer to the second request, and none to the first.
            raise InvalidMessage(INVALID_REQUEST, "A request with this id is still in flight", id)
        scope = self._scopes[str(id)] = anyio.CancelScope()
        return scope

    def remove(self, id: object) -> None:
        self._scopes.pop(str(id), None)  # over stdio, an answer may cross the notification that cancels it

    def apply(self, message: JSONRPCMessage) -> object:
        """Add a request, or cancel the one that a notification names, and return the cancelled id.

        Raises ``InvalidMessage`` like ``add``.
        """
        match message:
            case JSONRPCRequest(id=id):
                self.add(id)
            case JSONRPCNotification(method="notifications/cancelled", params={"requestId": id}) if (
                id in self
            ):
                # Without effect on a request that the SDK answers: the SDK gets the notification too.
                self._scopes[str(id)].cancel()
                return id
        return None

    def cancel_all(self) -> None:
        for scope in self._scopes.values():
            scope.cancel()
