"""The algorithm, compared with a list of all events."""

from hypothesis import given
from hypothesis import strategies as st

from bridge.access.gcra import Gcra

RATES = st.builds(Gcra, interval=st.integers(1, 50), burst=st.integers(1, 8))
PAUSES = st.lists(st.integers(0, 120), min_size=1, max_size=60)


def test_a_burst_conforms_and_then_one_event_each_interval() -> None:
    rate, arrival = Gcra(interval=10, burst=3), 0
    waits = []
    for now in (100, 100, 100, 100, 109, 110, 110, 200, 200, 200, 200):
        wait = rate.wait(arrival, now)
        waits.append(wait)
        if not wait:
            arrival = rate.count(arrival, now)
    assert waits == [0, 0, 0, 10, 1, 0, 10, 0, 0, 0, 10]


@given(RATES, PAUSES)
def test_an_event_conforms_exactly_if_no_window_has_more_than_the_burst_and_the_rate(
    rate: Gcra, pauses: list[int]
) -> None:
    """A refused event costs nothing, and the wait is neither too short nor too long."""

    def conforms(now: int) -> bool:
        events = [*conforming, now]
        windows = [(now - since, len(events) - first) for first, since in enumerate(events)]
        return all((count - rate.burst) * rate.interval <= length for length, count in windows)

    arrival, now = 0, 1000
    conforming: list[int] = []
    for pause in pauses:
        now += pause
        wait = rate.wait(arrival, now)
        assert conforms(now + wait)
        assert not wait or not conforms(now + wait - 1)
        if not wait:
            conforming.append(now)
            arrival = rate.count(arrival, now)


@given(RATES, PAUSES, st.integers(1, 5))
def test_an_event_with_a_weight_counts_like_so_many_events(
    rate: Gcra, pauses: list[int], weight: int
) -> None:
    arrival, now = 0, 1000
    for pause in pauses:
        now += pause
        one_by_one, wait = arrival, 0
        for _ in range(weight):
            wait = rate.wait(one_by_one, now)
            one_by_one = rate.count(one_by_one, now)
        assert rate.wait(arrival, now, weight) == wait
        arrival = rate.count(arrival, now, weight)
        assert arrival == one_by_one
