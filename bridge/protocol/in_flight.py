"""The requests of one client that have no answer yet: their ids, and the scopes that cancel them.

The connection over stdio has one ``RequestsInFlight``. Over HTTP, a client is named by its caller and its session id, and
``SessionsInFlight`` has a ``RequestsInFlight`` for each client with a request in this process. A POST without a session has
none: nothing else can name its request.

| Event | HTTP with a session | stdio |
|---|---|---|
| a request has the id of one in flight | refused | refused |
| ``notifications/cancelled`` | the call is cancelled; an error ends its stream, if that has begun | the call is cancelled, and gets no answer |
| the client leaves | the call goes on: the client may come back | all calls are cancelled |
| the client ends its session | its calls are cancelled | |

A cancellation over HTTP may reach another worker than its request, or overtake it. So one that finds no request is passed
on to ``forward``, and kept for ``_KEPT_SECONDS``. A request that arrives in that time is cancelled at once.
"""

import time
from collections.abc import Callable
from typing import Final, NamedTuple

import anyio
from mcp_types import INVALID_REQUEST, JSONRPCMessage, JSONRPCNotification, JSONRPCRequest, RequestId

from bridge.caller import Caller
from bridge.protocol.jsonrpc import InvalidMessage
from bridge.protocol.request_id import is_id

_KEPT_SECONDS: Final = 2.0
_MAX_KEPT: Final = 1000
"""Cancellations that are kept at most. Beyond that, the oldest is dropped."""


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
        """Returns the scope of the request. Raises ``InvalidMessage`` if the id is in flight already."""
        if id in self:
            # The SDK would send the first answer to the second request, and none to the first.
            raise InvalidMessage(INVALID_REQUEST, "A request with this id is still in flight", id)
        scope = self._scopes[str(id)] = anyio.CancelScope()
        return scope

    def remove(self, id: object) -> None:
        self._scopes.pop(str(id), None)  # over stdio, an answer may cross the notification that cancels it

    def apply(self, message: JSONRPCMessage) -> RequestId | None:
        """Add a request, or cancel the one that a notification names, and return the cancelled id.

        Raises ``InvalidMessage`` like ``add``.
        """
        if isinstance(message, JSONRPCRequest):
            self.add(message.id)
        elif (id := cancelled_request(message)) is not None and id in self:
            # Without effect on a request that the SDK answers: the SDK gets the notification too.
            self.cancel(id)
            return id
        return None

    def cancel(self, id: object) -> None:
        self._scopes[str(id)].cancel()

    def cancel_all(self) -> None:
        for scope in self._scopes.values():
            scope.cancel()


def cancelled_request(message: JSONRPCMessage) -> RequestId | None:
    """The id of the request that a notification cancels, or None. An id that no request can have is not kept in memory."""
    match message:
        case JSONRPCNotification(method="notifications/cancelled", params={"requestId": id}) if is_id(id):
            return id
    return None


class ClientKey(NamedTuple):
    """A client over HTTP. A forged session id names no request of another caller."""

    issuer: str | None
    caller: str | None
    session_id: str


class SessionsInFlight:
    """The requests in flight of all clients with a session, in this process.

    ``forward`` gets what may concern another process: the client, and the id as text of a cancelled request that is not here,
    or None for the end of a session.
    """

    def __init__(
        self,
        forward: Callable[[ClientKey, str | None], None] = lambda _client, _id: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.forward = forward
        self._clock = clock
        self._clients: dict[ClientKey, RequestsInFlight] = {}
        self._cancelled: dict[tuple[ClientKey, str], float] = {}
        """Cancellations without a request, and when they end. The oldest is the first."""

    def holds(self, client: ClientKey, id: RequestId) -> bool:
        return id in self._clients.get(client, ())

    def add(self, client: ClientKey, id: RequestId) -> anyio.CancelScope:
        """As that of ``RequestsInFlight``. The scope is cancelled if the cancellation has overtaken the request."""
        requests = self._clients.get(client)
        if requests is None:
            requests = self._clients[client] = RequestsInFlight()
        scope = requests.add(id)
        if self._cancelled and self._cancelled.pop((client, str(id)), 0.0) > self._clock():
            scope.cancel()
        return scope

    def remove(self, client: ClientKey, id: RequestId) -> None:
        requests = self._clients[client]
        requests.remove(id)
        if not requests:
            del self._clients[client]

    def cancel(self, client: ClientKey, id: RequestId) -> None:
        """Cancel a request, here or wherever ``forward`` leads."""
        if not self.cancel_here(client, id):
            self.forward(client, str(id))

    def cancel_here(self, client: ClientKey, id: RequestId) -> bool:
        """Cancel a request of this process. If there is none, keep the cancellation, and return False."""
        requests = self._clients.get(client, RequestsInFlight())
        if id in requests:
            requests.cancel(id)
            return True
        self._cancelled.pop((client, str(id)), None)  # otherwise it would keep its place before older ones
        now = self._clock()
        while self._cancelled and (
            len(self._cancelled) >= _MAX_KEPT or next(iter(self._cancelled.values())) <= now
        ):
            del self._cancelled[next(iter(self._cancelled))]
        self._cancelled[client, str(id)] = now + _KEPT_SECONDS
        return False

    def end(self, client: ClientKey) -> None:
        """Cancel the requests of a client that ends its session, here and wherever ``forward`` leads."""
        self.end_here(client)
        self.forward(client, None)

    def end_here(self, client: ClientKey) -> None:
        """Cancel the client's requests of this process."""
        self._clients.get(client, RequestsInFlight()).cancel_all()


def client_key(caller: Caller, session_id: str) -> ClientKey:
    return ClientKey(caller.issuer, caller.name, session_id)
