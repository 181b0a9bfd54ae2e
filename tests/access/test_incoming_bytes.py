from dataclasses import dataclass

from bridge.access.incoming_bytes import MAX_BYTES, MAX_BYTES_PER_CALLER, SMALL, Arriving
from bridge.caller import ANYBODY, Caller
from bridge.http.request_head import Rejection

ANN, BOB = Caller("ann"), Caller("bob")
MIB = 1024**2


@dataclass(eq=False)
class Sending:
    """A connection that counts what it has sent; ``status`` is that of its refusal."""

    arriving: Arriving
    status: int = 0

    def refuse(self, rejection: Rejection) -> None:
        self.status = rejection.status
        self.arriving.forget(self)


def senders(arriving: Arriving, caller: Caller, *sizes: int) -> list[int]:
    """What as many connections of one caller are answered."""
    sending = [Sending(arriving) for _ in sizes]
    for sender, size in zip(sending, sizes, strict=True):
        arriving.hold(sender, caller, size)
    return [sender.status for sender in sending]


def test_a_caller_has_a_share_and_others_are_not_refused_for_it() -> None:
    arriving = Arriving(4 * MIB)
    assert senders(arriving, ANN, *[4 * MIB] * 3, MIB) == [429, 0, 0, 0]
    assert arriving.total == 9 * MIB <= MAX_BYTES_PER_CALLER
    assert senders(arriving, BOB, 4 * MIB) == [0]


def test_the_largest_is_refused_where_all_have_sent_too_much() -> None:
    arriving = Arriving(4 * MIB)
    held = [Sending(arriving) for _ in range(14)]
    for sender in held[:10]:
        arriving.hold(sender, ANYBODY, 4 * MIB)
    assert senders(arriving, ANN, 7 * MIB, 20 * 1024) == [0, 0]
    arriving.hold(held[10], ANYBODY, 2 * MIB)
    assert [sender.status for sender in held] == [503] + [0] * 13
    assert arriving.total <= MAX_BYTES


def test_what_one_request_may_have_is_never_more_than_a_share() -> None:
    assert senders(Arriving(20 * MIB), ANN, 20 * MIB) == [0]


def test_small_requests_are_not_refused_and_what_ends_is_forgotten() -> None:
    arriving = Arriving(4 * MIB)
    held = [Sending(arriving) for _ in range(MAX_BYTES // SMALL + 1)]
    for sender in held:
        arriving.hold(sender, ANYBODY, 1)
        arriving.hold(sender, ANYBODY, SMALL)
    assert arriving.total == len(held) * SMALL
    assert not any(sender.status for sender in held)
    for sender in held:
        arriving.hold(sender, ANYBODY, 0)
    assert arriving.total == 0
    assert not arriving._sizes
    assert not arriving._totals
