import socket

import pytest

from bridge.address import Address
from bridge.http.listeners import bind

ANY = Address("127.0.0.1", 0)


def test_responses_do_not_wait_for_acknowledgements() -> None:
    """asyncio sets TCP_NODELAY only if the listening socket has its protocol set."""
    with bind(ANY) as listener:
        assert listener.proto == socket.IPPROTO_TCP


def test_the_error_for_a_port_in_use_says_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as occupied:
        address = Address(*occupied.getsockname())
        with pytest.raises(OSError, match=f"^.*cannot listen on {address}: .*; choose another port$"):
            bind(address)


def test_connections_to_a_reserved_port_reach_the_sockets_that_listen() -> None:
    with bind(ANY, reuse_port=True, listens=False) as reserved:
        address = Address(*reserved.getsockname())
        with bind(address, reuse_port=True) as one, bind(address, reuse_port=True) as other:
            for listener in (one, other):
                listener.settimeout(0)
            clients = [socket.create_connection(reserved.getsockname()) for _ in range(64)]
            accepted = [_accepted(one), _accepted(other)]
            for client in clients:
                client.close()
    assert sum(accepted) == 64
    assert all(accepted)


def _accepted(listener: socket.socket) -> int:
    """Close the connections that wait to be accepted; return their number."""
    count = 0
    try:
        while True:
            listener.accept()[0].close()
            count += 1
    except BlockingIOError:
        return count
