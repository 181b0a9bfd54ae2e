"""Error texts for the model: what happened, with which request, and what to do."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Final, Literal
from urllib.parse import urlsplit

from bridge import codec
from bridge.errors import BridgeError, NotAnswered, StatusError, UnusableReply
from bridge.exchange import Reply, Request
from bridge.redaction import NO_SECRETS, Redactor
from bridge.spec import ErrorSpec, Invisible, Json
from bridge.tool.projection.projection import MAX_STEPS, Projection
from bridge.tool.result.bounds import visible
from bridge.tool.result.content import Result, apply_projection, content_kind, parse_json, text

_MAX_MESSAGE_CHARS: Final = 500
_REASON_KEYS: Final = ("error_description", "reason", "description")
"""Keys that explain an ``error`` code, as in OAuth (RFC 6749 5.2), CouchDB or RabbitMQ."""

_SENTENCES: Final[Mapping[str, tuple[str, str]]] = {
    "304": ("The API answered that nothing was modified", "It sent nothing else; tell the user."),
    "3xx": ("The API answered with a redirect", "It is not followed; tell the user."),
    "400": ("The API did not understand the request", "Check the arguments."),
    "401": ("The API did not accept this tool's credentials", "Calling again will not help; tell the user."),
    "403": ("Permission denied for this operation", "Calling again will not help; tell the user."),
    "404": ("Resource not found", "Check what the arguments name: look it up, or ask the user."),
    "409": ("The request conflicts with the state of the resource", "Read it again before you decide."),
    "410": ("The resource is gone", "Do not request it again."),
    "422": ("The API did not accept these values", "Correct the arguments."),
    "429": ("Too many requests", "Try again later."),
    "4xx": ("The API refused the request", "Check the arguments; if they are right, tell the user."),
    "503": ("The API is not available now", "Try again later."),
    "5xx": ("The API failed", "Try again later; if it goes on, tell the user."),
    "default": ("The API answered with a status that this tool does not accept", "Tell the user."),
}
"""Status → what happened, and what to do. Used if the tool file has no message."""


def status_error(
    reply: Reply,
    errors: Mapping[str, ErrorSpec],
    projections: Mapping[str, Projection],
    request: Request,
    retry_after: float | None = None,
    *,
    redactor: Redactor = NO_SECRETS,
    invisible: Invisible = "show",
    steps: int = MAX_STEPS,
) -> StatusError:
    """The error for a status outside ``response.validStatus``.

    ``errors`` is searched for 404, then 4xx, then default; without a match a standard sentence is used.
    ``projections`` holds the compiled ``jmespath`` of ``errors`` under the same keys. ``retry_after`` is in seconds.
    The text names the request's path, never its host or query. ``steps`` limits a projection, which raises
    ``Unfinished`` after them. The reply is already redacted; ``redactor`` is for the result of the projection.
    """
    status = reply.status
    keys = (str(status), f"{status // 100}xx", "default")
    key = next((key for key in keys if key in errors), None)
    spec = errors[key] if key is not None else ErrorSpec()
    upstream_text = _selected_message(reply, spec, projections.get(key or ""), redactor, steps)
    message = _one_line(upstream_text, invisible)
    if spec.message is not None:
        sentences = [_with_full_stop(spec.message)]
    else:
        sentences = _standard_sentences(reply, request, keys)
    if retry_after is not None:
        seconds = math.ceil(retry_after)
        sentences.append(f"The API asks to wait {seconds} second{'s' * (seconds != 1)}.")
    if message:
        sentences.append(f"The API says: {message}")
    return StatusError(f"http-{status}", " ".join(sentences), status, retry_after)


def _standard_sentences(reply: Reply, request: Request, keys: Sequence[str]) -> list[str]:
    """What happened, where a redirect leads, and what to do. ``keys`` are tried in ``_SENTENCES``, in this order."""
    what, advice = next(_SENTENCES[key] for key in keys if key in _SENTENCES)
    path = urlsplit(request.url).path[:200]
    destination = _destination(reply)
    leads = [f"It leads to {destination}."] if destination else []
    return [f"{what}: {request.method} {path} was answered {reply.status}.", *leads, advice]


def _destination(reply: Reply) -> str | None:
    """The Location of a redirect without its query, which may contain secrets."""
    location = reply.headers.get("location", "") if reply.status // 100 == 3 else ""
    return _one_line(re.split("[?#]", location, maxsplit=1)[0])


def upstream_message(reply: Reply) -> str | None:
    """The upstream's error message, at most 500 characters with invisible ones escaped; None if there is none.

    From JSON it takes the first of: ``detail`` or ``title`` (RFC 9457), ``error.message``, ``message``,
    ``error`` with its explanation, ``errors``. A text/plain body is the message itself.
    """
    return _one_line(_upstream_message(reply))


def _upstream_message(reply: Reply) -> Json:
    if reply.media_type == "text/plain":
        return text(reply)
    if content_kind(reply) != "json":
        return None
    try:
        return _message_in(parse_json(reply))
    except UnusableReply:
        return None


def error_result(
    error: BridgeError,
    *,
    executed: int | Literal["unknown"] | None = None,
    data: str | None = None,
    redactor: Redactor = NO_SECRETS,
    invisible: Invisible = "show",
) -> Result:
    """An isError result.

    ``executed`` is for unsafe requests: the status if the API executed the request, or ``unknown``.
    ``data`` is the result as JSON, if there is one despite the error; it is already redacted.
    ``redactor`` is for the error's own text.
    """
    message = _visible(str(error), redactor, invisible)
    meta: dict[str, Json] = {"restbridge/error": error.code}
    if isinstance(error, StatusError):
        meta["restbridge/status"] = error.status
    if executed == "unknown":
        message = f"{_with_full_stop(message)} It may have been carried out; check before repeating."
    elif isinstance(error, NotAnswered):
        message = f"{_with_full_stop(message)} It changed nothing."
    elif executed is not None:
        what = _visible(error.message, redactor, invisible) if isinstance(error, UnusableReply) else message
        message = f"The request was carried out ({executed}). Do not repeat it. {what}"
        meta["restbridge/executed"] = True
    content = [message]
    if data is not None:
        content.append(data)
    return Result([{"type": "text", "text": part} for part in content], is_error=True, meta=meta)


def _visible(message: str, redactor: Redactor, invisible: Invisible) -> str:
    return visible(redactor.text(codec.clean(message)), invisible)


def _with_full_stop(sentence: str) -> str:
    return sentence if sentence.endswith((".", "!", "?", "…")) else f"{sentence}."


def _selected_message(
    reply: Reply, error: ErrorSpec, projection: Projection | None, redactor: Redactor, steps: int
) -> Json:
    if not error.upstream:
        return None
    if projection is None:
        return _upstream_message(reply)
    try:
        return apply_projection(projection, parse_json(reply), redactor, steps=steps)
    except UnusableReply:
        return None


def _message_in(body: Json) -> Json:
    if not isinstance(body, dict):
        return body if isinstance(body, str) else None
    error = body.get("error")
    nested = error.get("message") if isinstance(error, dict) else None
    reason = next((body[key] for key in _REASON_KEYS if isinstance(body.get(key), str)), None)
    code = f"{error}: {reason}" if isinstance(error, str) and reason else error or reason
    # In the order of how well they explain: {"title": "Bad Request", "detail": "age is negative"}.
    candidates = (
        body.get("detail"),
        body.get("title"),
        nested,
        body.get("message"),
        code,
        body.get("errors"),
    )
    return next(filter(None, candidates), None)


def _one_line(message: Json, invisible: Invisible = "show") -> str | None:
    """The message in one line, cut to 500 characters; a list or object is shown as JSON."""
    if message is None:
        return None
    written = message if isinstance(message, str) else codec.encode(message).decode()
    # No line of that length has more words, so a long message is not split to its end.
    start = " ".join(written.split(maxsplit=_MAX_MESSAGE_CHARS)[:_MAX_MESSAGE_CHARS])
    # One more than the limit shows whether the line has to be cut.
    line = visible(start[: _MAX_MESSAGE_CHARS + 1], invisible)
    return line if len(line) <= _MAX_MESSAGE_CHARS else f"{line[:_MAX_MESSAGE_CHARS]}…"
