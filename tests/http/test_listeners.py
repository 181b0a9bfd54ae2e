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
