from bridge.access.throttle import Guesses


class Clock:
    """Seconds, as a test sets them."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def waits(guesses: Guesses, address: str, times: int) -> list[float]:
    return [round(guesses.wait(address), 3) for _ in range(times)]


def test_the_first_ones_are_free_and_then_each_waits_longer_up_to_two_seconds() -> None:
    guesses = Guesses(Clock())
    assert waits(guesses, "10.0.0.1", 43) == [0] * 40 + [0.05, 0.1, 0.15]
    assert waits(guesses, "10.0.0.1", 60)[-20:] == [2.0] * 20
    assert waits(guesses, "10.0.0.2", 1) == [0]


def test_how_often_how_many_and_how_long_can_be_said() -> None:
    guesses = Guesses(Clock(), every=0.1, at_once=2, longest=0.3)
    assert waits(guesses, "10.0.0.1", 7) == [0, 0, 0.1, 0.2, 0.3, 0.3, 0.3]


def test_whoever_pauses_begins_anew() -> None:
    clock = Clock()
    guesses = Guesses(clock)
    waits(guesses, "10.0.0.1", 100)
    clock.now += 1
    assert waits(guesses, "10.0.0.1", 1) == [1.05]
    clock.now += 10
    assert waits(guesses, "10.0.0.1", 41) == [0] * 40 + [0.05]


def test_a_network_of_ipv6_is_one_and_so_is_what_is_no_address() -> None:
    guesses = Guesses(Clock())
    for address in ("2001:db8:0:1::1", "::ffff:10.0.0.1", "?"):
        waits(guesses, address, 40)
    assert waits(guesses, "2001:db8:0:1:ffff::2", 1) == [0.05]
    assert waits(guesses, "2001:db8:0:2::1", 1) == [0]
    assert waits(guesses, "10.0.0.1", 1) == [0.05]
    assert waits(guesses, "nowhere", 1) == [0.05]


def test_of_more_than_a_thousand_addresses_all_others_are_one_until_some_pause() -> None:
    clock = Clock()
    guesses = Guesses(clock)
    for number in range(1000):
        waits(guesses, f"10.1.{number // 250}.{number % 250}", 1)
    for number in range(40):
        waits(guesses, f"10.2.0.{number}", 1)
    assert waits(guesses, "10.3.0.1", 1) == [0.05]
    assert waits(guesses, "10.1.0.1", 1) == [0]
    clock.now += 10
    assert waits(guesses, "10.3.0.1", 1) == [0]
