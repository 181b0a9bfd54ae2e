import pytest

from bridge.http.request_head import MAX_TARGET_BYTES, reject_head

HOST = (b"host", b"localhost:8000")


def status(
    target: bytes = b"/mcp",
    *fields: tuple[bytes, bytes],
    line: bytes = b"POST %s HTTP/1.1\r\n",
    version: str = "1.1",
) -> int | None:
    head = line.replace(b"%s", target) + b"Host: localhost:8000\r\n\r\n"
    rejection = reject_head(head, b"POST", target, version, [HOST, *fields])
    return rejection and rejection.status


@pytest.mark.parametrize(
    "target",
    [
        b"/mcp",
        b"/mcp/a-view_1.x~",
        b"/mcp?a=%2f%00&b=..%2e",
        b"/%C3%A9%20%7B%3A%7D",
        b"//mcp",
        b"/mcp;a=b",
        b"http://localhost:8000/mcp",
        b"HTTPS://LocalHost:8000/mcp?%2f",
    ],
)
def test_a_target_with_one_meaning_is_accepted(target: bytes) -> None:
    assert status(target) is None


@pytest.mark.parametrize(
    "target",
    [
        b"/mcp%2fv1",
        b"/mcp%2Fv1",
        b"/-%5cstatus",
        b"/mcp/%2e%2e/-/status",
        b"/mcp/.%2E/-/status",
        b"/mcp%00",
        b"/mcp%0a",
        b"/mcp%7f",
        b"/%2d/status",
        b"/%6Dcp",
        b"/mcp%252fv1",
        b"/mcp%2",
        b"/mcp%zz",
        b"/mcp#a",
        b"http://localhost:8000/mcp%2fv1",
        b"http://localhost:8000/mcp#a",
        b"http://evil.example/mcp",
        b"http://localhost/mcp",
        b"http://me@localhost:8000/mcp",
        b"http://localhost:8000",
        b"http://localhost:8000?a=/",
        b"ftp://localhost:8000/mcp",
        b"localhost:8000",
        b"*",
        b"mcp",
    ],
)
def test_an_ambiguous_target_is_refused(target: bytes) -> None:
    assert status(target) == 400


@pytest.mark.parametrize("part", [b"a", b"%21"])
def test_the_length_of_a_target_is_limited(part: bytes) -> None:
    max_parts = (MAX_TARGET_BYTES - 1) // len(part)
    assert status(b"/" + part * max_parts) is None
    assert status(b"/" + part * (max_parts + 1)) == 414


@pytest.mark.parametrize("name", [b"host", b"authorization"])
def test_host_and_authorization_may_occur_once(name: bytes) -> None:
    assert status(b"/mcp", *[(name, b"localhost:8000")] * 2) == 400
    assert status(b"/mcp", (b"authorization", b"Bearer x"), (b"x-host", b"y")) is None


def test_an_absolute_target_needs_exactly_one_matching_host_header() -> None:
    assert status(b"http://localhost:8000/mcp", HOST) == 400


@pytest.mark.parametrize("version", ["0.9", "2.0", "3.0"])
def test_other_http_versions_are_not_supported(version: str) -> None:
    assert status(line=b"POST %s HTTP/" + version.encode() + b"\r\n", version=version) == 505


@pytest.mark.parametrize(
    "line",
    [b"POST %s RTSP/1.1\r\n", b"POST  %s HTTP/1.1\r\n", b"POST %s  HTTP/1.1\r\n", b"GET %s HTTP/1.1\r\n"],
)
def test_the_request_line_has_one_form(line: bytes) -> None:
    assert status(line=line) == 400
    assert status(line=line + b"X: POST %s HTTP/1.1\r\n") == 400
    assert status(line=b"\r\n\r\nPOST %s HTTP/1.1\r\n") is None
    assert status(line=b"POST %s HTTP/1.0\r\n", version="1.0") is None


@pytest.mark.parametrize(
    "codings", [[b"gzip, chunked"], [b"identity", b"chunked"], [b"chunked", b"chunked"], [b"identity"], [b""]]
)
def test_only_the_chunked_transfer_coding_is_supported(codings: list[bytes]) -> None:
    assert status(b"/mcp", *((b"transfer-encoding", coding) for coding in codings)) == 501


def test_chunked_bodies_need_http_1_1() -> None:
    chunked = (b"transfer-encoding", b" Chunked\t")
    assert status(b"/mcp", chunked) is None
    assert status(b"/mcp", chunked, line=b"POST %s HTTP/1.0\r\n", version="1.0") == 501
