import json
import tracemalloc

import pytest

from bridge.errors import InvalidCall, NotAnswered, StatusError, UnusableReply
from bridge.exchange import Reply, Request
from bridge.spec import ErrorSpec, Json
from bridge.tool.projection.projection import Projection
from bridge.tool.result.errors import error_result, status_error, upstream_message

REQUEST = Request("GET", "http://10.0.0.7:8100/api/orders/o-1?key=secret")


def reply(status: int, body: Json = None, content_type: str = "application/json") -> Reply:
    content = b"" if body is None else body.encode() if isinstance(body, str) else json.dumps(body).encode()
    return Reply(status, {"content-type": content_type}, content)


def error_for(
    answer: Reply, errors: dict[str, Json] | None = None, retry_after: float | None = None
) -> StatusError:
    specs = {key: ErrorSpec.model_validate(spec) for key, spec in (errors or {}).items()}
    projections = {key: Projection.compile(spec.jmespath) for key, spec in specs.items() if spec.jmespath}
    return status_error(answer, specs, projections, REQUEST, retry_after)


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (404, "Resource not found: GET /api/orders/o-1 was answered 404. Check what the arguments name"),
        (403, "Permission denied for this operation: GET /api/orders/o-1 was answered 403. Calling again"),
        (401, "The API did not accept this tool's credentials: "),
        (409, "The request conflicts with the state of the resource: "),
        (422, "The API did not accept these values: "),
        (429, "Too many requests: "),
        (418, "The API refused the request: "),
        (503, "The API is not available now: "),
        (599, "The API failed: GET /api/orders/o-1 was answered 599. Try again later"),
        (302, "The API answered with a redirect: "),
        (304, "The API answered that nothing was modified: "),
        (206, "The API answered with a status that this tool does not accept: "),
    ],
)
def test_a_status_error_names_the_request_and_what_to_do(status: int, text: str) -> None:
    error = error_for(reply(status))
    assert str(error).startswith(text)
    assert (error.code, error.status, error.retry_after) == (f"http-{status}", status, None)
    assert "10.0.0.7" not in str(error)
    assert "secret" not in str(error)


def test_a_redirect_error_names_the_location_without_its_query() -> None:
    error = error_for(Reply(301, {"location": "https://api.example/orders/?token=secret"}, b""))
    assert "was answered 301. It leads to https://api.example/orders/. It is not followed" in str(error)


@pytest.mark.parametrize(
    ("status", "text"),
    [(404, "Not there."), (410, "Client error."), (500, "Something else!"), (302, "Something else!")],
)
def test_the_tool_file_comes_first_and_an_exact_status_before_its_class(status: int, text: str) -> None:
    errors = {
        "default": {"message": "Something else!"},
        "4xx": {"message": "Client error"},
        "404": {"message": "Not there."},
    }
    assert str(error_for(reply(status), errors)) == text


def test_the_upstreams_message_is_quoted_unless_the_file_disables_it() -> None:
    answer = reply(404, {"detail": "no order o-1"})
    assert str(error_for(answer)).endswith(" The API says: no order o-1")
    assert str(error_for(answer, {"404": {"message": "No."}})) == "No. The API says: no order o-1"
    assert str(error_for(answer, {"404": {"message": "No.", "upstream": False}})) == "No."


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("problems[0].text", "No. The API says: bad id"),
        ("problems", 'No. The API says: [{"text":"bad id"}]'),
        ("nothing", "No."),
        ("sum(problems)", "No."),
    ],
)
def test_the_file_may_choose_what_is_quoted(expression: str, text: str) -> None:
    answer = reply(404, {"problems": [{"text": "bad id"}], "detail": "not this"})
    assert str(error_for(answer, {"4xx": {"message": "No.", "jmespath": expression}})) == text


def test_the_file_may_choose_what_is_quoted_after_a_default_sentence() -> None:
    error = error_for(reply(404, {"reason": "no order"}), {"404": {"jmespath": "reason"}})
    assert str(error).startswith("Resource not found: GET /api/orders/o-1 was answered 404.")
    assert str(error).endswith("The API says: no order")


def test_the_error_says_how_long_to_wait() -> None:
    error = error_for(reply(429), retry_after=4.2)
    assert "The API asks to wait 5 seconds." in str(error)
    assert error.retry_after == 4.2
    assert error_result(error).meta == {"restbridge/error": "http-429", "restbridge/status": 429}


@pytest.mark.parametrize(
    ("body", "content_type", "message"),
    [
        ({"title": "Gone", "detail": "sold"}, "application/problem+json", "sold"),
        ({"title": "Gone", "message": "no"}, "application/json", "Gone"),
        ({"error": {"message": "nested", "code": 3}, "message": "outer"}, "application/json", "nested"),
        ({"message": "outer", "error": "Not Found"}, "application/json", "outer"),
        ({"error": "Not Found"}, "application/json", "Not Found"),
        ({"error": "bad_request", "reason": "no queue"}, "application/json", "bad_request: no queue"),
        ({"error": "e", "error_description": "why", "reason": 1}, "application/json", "e: why"),
        ({"reason": "no quorum"}, "application/json", "no quorum"),
        ({"error": {"code": 3}}, "application/json", '{"code":3}'),
        ({"errors": ["a", "b"]}, "application/json", '["a","b"]'),
        (
            {"detail": [{"loc": ["body", "n"], "msg": "too big"}]},
            "application/json",
            '[{"loc":["body","n"],"msg":"too big"}]',
        ),
        ('"silence not found"', "application/json", "silence not found"),
        ({"other": 1}, "application/json", None),
        ([1], "application/json", None),
        ("", "application/json", None),
        ("{broken", "application/json", None),
        ("404 page not found\n", "text/plain", "404 page not found"),
        ("<html>", "text/html", None),
        ({"detail": "a\x1b[31m\n\u202eb"}, "application/json", r"a\u001b[31m \u202eb"),
        ({"detail": "x" * 1000}, "application/json", "x" * 500 + "…"),
    ],
)
def test_the_upstreams_message_is_extracted_limited_and_visible(
    body: Json, content_type: str, message: str | None
) -> None:
    assert upstream_message(reply(400, body, content_type)) == message


def test_only_the_start_of_a_long_message_is_processed() -> None:
    answer = reply(500, " \n a" * 500_000, "text/plain")
    tracemalloc.start()
    try:
        assert upstream_message(answer) == "a " * 250 + "…"
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_an_error_is_a_result_with_its_code() -> None:
    result = error_result(InvalidCall("invalid-arguments", "limit: \ud800 is\x1b wrong"))
    assert result.is_error
    assert result.structured is None
    assert result.content == [{"type": "text", "text": "limit: \ufffd is\\u001b wrong"}]
    assert result.meta == {"restbridge/error": "invalid-arguments"}


def test_an_executed_request_is_mentioned_first() -> None:
    result = error_result(UnusableReply("result-drift", "It departs."), executed=201, data='{"id":1}')
    assert [block["text"] for block in result.content] == [
        "The request was carried out (201). Do not repeat it. It departs.",
        '{"id":1}',
    ]
    assert result.meta == {"restbridge/error": "result-drift", "restbridge/executed": True}


def test_a_possibly_executed_request_is_mentioned() -> None:
    result = error_result(NotAnswered("cut", "The reply was cut."), executed="unknown")
    assert result.content[0]["text"] == (
        "The reply was cut. It may have been carried out; check before repeating."
    )
    assert "restbridge/executed" not in result.meta
