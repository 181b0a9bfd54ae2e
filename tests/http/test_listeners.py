import socket

import pytest

from bridge.address import Address
from bridge.http.listeners import bind

ANY = Address("127.0.0.1", 0)


def test_replies_do_not_wait_for_acknowledgements() -> None:
    """asyncio sets TCP_NODELAY only where the listening socket names its protocol."""
    with bind(ANY) as listener:
        assert listener.proto == socket.IPPROTO_TCP


def test_a_port_that_is_taken_is_told_with_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = Address(*taken.getsockname())
        with pytest.raises(OSError, match=f"^.*cannot listen on {address}: .*; choose another port$"):
            bind(address)


def test_a_port_that_is_kept_is_served_by_those_who_listen() -> None:
    with bind(ANY, shared=True, listens=False) as keeper:
        address = Address(*keeper.getsockname())
        with bind(address, shared=True) as one, bind(address, shared=True) as other:
            for listener in (one, other):
                listener.settimeout(0)
            clients = [socket.create_connection(keeper.getsockname()) for _ in range(64)]
            accepted = [_accepted(one), _accepted(other)]
            for client in clients:
                client.close()
    assert sum(accepted) == 64
    assert all(accepted)


def _accepted(listener: socket.socket) -> int:
    """How many connections wait, which are closed."""
    count = 0
    try:
        while True:
            listener.accept()[0].close()
            count += 1
    except BlockingIOError:
        return count
