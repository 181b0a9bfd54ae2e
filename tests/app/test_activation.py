import os
import socket

import pytest

from bridge.address import Address
from bridge.app.activation import activated_listener, address_of
from bridge.errors import StartError
from bridge.http.listeners import bind


def passed(listener: socket.socket, number: str = "1") -> tuple[dict[str, str], int]:
    """What systemd tells this process, and the descriptor of the socket."""
    told = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": number, "LISTEN_FDNAMES": "x.socket", "HOME": "/"}
    return told, listener.dup().detach()


def test_the_socket_of_systemd_is_taken_and_its_variables_are_removed() -> None:
    with bind(Address("127.0.0.1", 0)) as listener:
        environment, descriptor = passed(listener)
        os.set_inheritable(descriptor, True)  # noqa: FBT003 - its own name is clear
        taken = activated_listener(environment, descriptor)
        assert taken
        with taken:
            assert address_of(taken) == Address(*listener.getsockname())
            assert not taken.get_inheritable()
    assert environment == {"HOME": "/"}


def test_the_socket_of_another_process_is_left_alone() -> None:
    assert activated_listener({}) is None
    assert activated_listener({"LISTEN_PID": "1", "LISTEN_FDS": "1"}) is None


def test_several_sockets_are_refused() -> None:
    with bind(Address("127.0.0.1", 0)) as listener:
        environment, descriptor = passed(listener, "2")
        os.close(descriptor)
        with pytest.raises(StartError, match="systemd passed 2 sockets, expected one"):
            activated_listener(environment, descriptor)


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        (socket.AF_UNIX, socket.SOCK_STREAM),
        (socket.AF_INET, socket.SOCK_DGRAM),
        (socket.AF_INET, socket.SOCK_STREAM),
    ],
)
def test_a_socket_that_does_not_listen_on_a_tcp_port_is_refused(
    family: socket.AddressFamily, kind: socket.SocketKind
) -> None:
    with socket.socket(family, kind) as wrong:
        environment, descriptor = passed(wrong)
        with pytest.raises(StartError, match="does not listen on a TCP port; write ListenStream="):
            activated_listener(environment, descriptor)
