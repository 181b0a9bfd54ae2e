import pytest

from bridge.errors import NotAnswered, NotSent, UpstreamError
from bridge.exchange import Reply, retry_after
from bridge.spec import Retries
from bridge.upstream.retry import Retrying

NOW = 784111777.0
"""Sun, 06 Nov 1994 08:49:37 GMT, the example of RFC 9110 5.6.7."""


def wait(
    outcome: Reply | UpstreamError, attempt: int = 1, left: float = 30, *, repeatable: bool
) -> float | None:
    return Retrying(lambda: 1.0, lambda: NOW).wait(outcome, attempt, Retries(), left, repeatable=repeatable)


def reply(status: int, **headers: str) -> Reply:
    return Reply(status, {name.replace("_", "-"): value for name, value in headers.items()}, b"")


@pytest.mark.parametrize(
    ("outcome", "repeatable", "again"),
    [
        (NotSent("connect-refused", ""), False, True),
        (NotSent("dns-failed", ""), False, True),
        (NotSent("proxy-failed", ""), True, True),
        (NotSent("connect-timeout", ""), True, False),
        (NotSent("tls-untrusted", ""), True, False),
        (NotSent("address-refused", ""), True, False),
        (NotSent("unsafe-request", ""), True, False),
        (NotAnswered("reply-cut", ""), False, False),
        (NotAnswered("reply-cut", ""), True, True),
        (NotAnswered("connect-refused", ""), True, True),
        (NotAnswered("connect-refused", ""), False, False),
        (NotAnswered("protocol-error", ""), True, False),
        (reply(200), True, False),
        (reply(500), True, False),
        (reply(503), True, True),
        (reply(503), False, False),
    ],
)
def test_a_request_is_repeated_only_if_that_is_safe_and_may_help(
    outcome: Reply | UpstreamError, *, repeatable: bool, again: bool
) -> None:
    assert (wait(outcome, repeatable=repeatable) is not None) is again


def test_waits_double_and_have_jitter() -> None:
    refused = NotSent("connect-refused", "")
    shortest, longest = Retrying(lambda: 0.0, lambda: NOW), Retrying(lambda: 1.0, lambda: NOW)
    many = Retries(max=8)
    bounds = [
        (
            shortest.wait(refused, attempt, many, 30, repeatable=True),
            longest.wait(refused, attempt, many, 30, repeatable=True),
        )
        for attempt in (1, 2, 3, 8)
    ]
    assert bounds == [(0.05, 0.1), (0.1, 0.2), (0.2, 0.4), (1.0, 2.0)]
    assert shortest.wait(refused, 9, many, 30, repeatable=True) is None


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("5", 5.0),
        ("99999999999999999999", 86400.0),
        ("Sun, 06 Nov 1994 08:49:47 GMT", 10.0),
        ("Sun, 06 Nov 1994 08:49:27 GMT", 0.0),
        ("", None),
        ("-1", None),
        ("+1", None),
        ("1.5", None),
        ("1e3", None),
        ("٣", None),
        ("²", None),
        ("5, 6", None),
        ("Sun, 06 Nov 1994 08:49:47", None),
        ("Sun, 06 Nov 1994 08:49:47 -0000", None),
        ("Sun, 36 Nov 1994 08:49:47 GMT", None),
        ("Sun, 06 Foo 1994 08:49:47 GMT", None),
        ("Sun, ٠٦ Nov 1994 08:49:47 GMT", None),
        ("1994-11-06T08:49:47Z", None),
    ],
)
def test_retry_after_is_whole_seconds_or_an_http_date(value: str, seconds: float | None) -> None:
    assert retry_after(value, NOW) == seconds


def test_retry_after_is_respected_if_it_ends_before_the_deadline() -> None:
    busy = reply(429, retry_after="5")
    assert wait(busy, repeatable=True) == 5.0
    assert wait(busy, left=5, repeatable=True) is None
    assert wait(reply(429, retry_after="0"), repeatable=True) == 0.1
    assert wait(reply(429, retry_after="soon"), repeatable=True) == 0.1


def test_retries_add_at_most_a_fifth_to_the_load() -> None:
    retrying, sent = Retrying(lambda: 0.0, lambda: NOW), 0
    for _ in range(1000):
        retrying.earn()
        attempt = 1
        while retrying.wait(reply(503), attempt, Retries(), 30, repeatable=True) is not None:
            attempt += 1
        sent += attempt
    assert sent <= 1210
