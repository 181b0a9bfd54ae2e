from bridge.exchange import Request
from bridge.upstream.request_head import PreparedRequest
from tests.upstream.sending import upstream


def test_heads_with_long_arguments_are_not_cached() -> None:
    prepared = PreparedRequest(upstream("http://127.0.0.1:1"))
    for size in (10, 10_000, 1_000_000):
        value = "x" * size
        headers = (("X-Note", value),)
        message = prepared.message(
            Request("GET", "http://127.0.0.1:1/ok", headers), needs_new_connection=False
        )
        assert f"X-Note: {value}\r\n".encode() in message[2]
    assert prepared._cached_head.cache_info().currsize == 1


def test_a_tools_header_replaces_the_upstreams_where_a_server_reads_both_names_alike() -> None:
    prepared = PreparedRequest(upstream("http://127.0.0.1:1", headers={"X-Tenant": "acme", "X-Own": "a"}))
    request = Request("GET", "http://127.0.0.1:1/ok", (("X_Tenant", "other"),))
    names = [name for name, _ in prepared.as_sent(request).headers]
    assert names == ["Host", "X_Tenant", "X-Own", "User-Agent", "Accept-Encoding"]
