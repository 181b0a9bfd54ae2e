from bridge.access.throttle import AddressThrottle


class Clock:
    """Seconds, as a test sets them."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> int:
        return round(self.seconds * 10**9)


def waits(throttle: AddressThrottle, address: str, times: int) -> list[float]:
    return [round(throttle.wait(address), 3) for _ in range(times)]


def test_the_burst_is_not_delayed_and_then_delays_grow_to_two_seconds() -> None:
    throttle = AddressThrottle(Clock())
    assert waits(throttle, "10.0.0.1", 43) == [0] * 40 + [0.05, 0.1, 0.15]
    assert waits(throttle, "10.0.0.1", 60)[-20:] == [2.0] * 20
    assert waits(throttle, "10.0.0.2", 1) == [0]


def test_interval_burst_and_max_delay_are_parameters() -> None:
    throttle = AddressThrottle(Clock(), interval=0.1, burst=2, max_delay=0.3)
    assert waits(throttle, "10.0.0.1", 7) == [0, 0, 0.1, 0.2, 0.3, 0.3, 0.3]


def test_a_pause_resets_the_delay() -> None:
    clock = Clock()
    throttle = AddressThrottle(clock)
    waits(throttle, "10.0.0.1", 100)
    clock.seconds += 1
    assert waits(throttle, "10.0.0.1", 1) == [1.05]
    clock.seconds += 10
    assert waits(throttle, "10.0.0.1", 41) == [0] * 40 + [0.05]


def test_an_ipv6_network_counts_as_one_and_so_do_invalid_addresses() -> None:
    throttle = AddressThrottle(Clock())
    for address in ("2001:db8:0:1::1", "::ffff:10.0.0.1", "?"):
        waits(throttle, address, 40)
    assert waits(throttle, "2001:db8:0:1:ffff::2", 1) == [0.05]
    assert waits(throttle, "2001:db8:0:2::1", 1) == [0]
    assert waits(throttle, "10.0.0.1", 1) == [0.05]
    assert waits(throttle, "nowhere", 1) == [0.05]


def test_past_a_thousand_addresses_all_others_count_as_one() -> None:
    clock = Clock()
    throttle = AddressThrottle(clock)
    for number in range(1000):
        waits(throttle, f"10.1.{number // 250}.{number % 250}", 1)
    for number in range(40):
        waits(throttle, f"10.2.0.{number}", 1)
    assert waits(throttle, "10.3.0.1", 1) == [0.05]
    assert waits(throttle, "10.1.0.1", 1) == [0]
    clock.seconds += 10
    assert waits(throttle, "10.3.0.1", 1) == [0]
