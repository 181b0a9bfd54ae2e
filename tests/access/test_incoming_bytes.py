from dataclasses import dataclass

from bridge.access.incoming_bytes import MAX_BYTES, MAX_BYTES_PER_CALLER, SMALL, IncomingBytes
from bridge.caller import ANONYMOUS, Caller

ANN, BOB = Caller("ann"), Caller("bob")
MIB = 1024**2


@dataclass(eq=False)
class Sending:
    """A connection that counts what it has sent; ``status`` is that of its refusal."""

    arriving: IncomingBytes
    status: int = 0

    def refuse(self, status: int, text: str) -> None:
        assert text
        self.status = status
        self.arriving.forget(self)


def senders(arriving: IncomingBytes, caller: Caller, *sizes: int) -> list[int]:
    """What as many connections of one caller are answered."""
    sending = [Sending(arriving) for _ in sizes]
    for sender, size in zip(sending, sizes, strict=True):
        arriving.hold(sender, caller, size)
    return [sender.status for sender in sending]


def test_a_caller_past_its_share_is_refused_and_others_are_not() -> None:
    arriving = IncomingBytes(4 * MIB)
    assert senders(arriving, ANN, *[4 * MIB] * 3, MIB) == [429, 0, 0, 0]
    assert arriving.total == 9 * MIB <= MAX_BYTES_PER_CALLER
    assert senders(arriving, BOB, 4 * MIB) == [0]


def test_past_the_total_the_largest_request_is_refused() -> None:
    arriving = IncomingBytes(4 * MIB)
    held = [Sending(arriving) for _ in range(14)]
    for sender in held[:10]:
        arriving.hold(sender, ANONYMOUS, 4 * MIB)
    assert senders(arriving, ANN, 7 * MIB, 20 * 1024) == [0, 0]
    arriving.hold(held[10], ANONYMOUS, 2 * MIB)
    assert [sender.status for sender in held] == [503] + [0] * 13
    assert arriving.total <= MAX_BYTES


def test_the_share_of_a_caller_is_never_smaller_than_one_body() -> None:
    assert senders(IncomingBytes(20 * MIB), ANN, 20 * MIB) == [0]


def test_small_requests_are_not_refused_and_finished_ones_are_forgotten() -> None:
    arriving = IncomingBytes(4 * MIB)
    held = [Sending(arriving) for _ in range(MAX_BYTES // SMALL + 1)]
    for sender in held:
        arriving.hold(sender, ANONYMOUS, 1)
        arriving.hold(sender, ANONYMOUS, SMALL)
    assert arriving.total == len(held) * SMALL
    assert not any(sender.status for sender in held)
    for sender in held:
        arriving.hold(sender, ANONYMOUS, 0)
    assert arriving.total == 0
    assert not arriving._sizes
    assert not arriving._totals
