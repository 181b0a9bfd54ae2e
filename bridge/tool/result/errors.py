"""How a call that failed is told: what happened, with what, and what to do."""

import math
import re
from collections.abc import Mapping
from typing import Final, Literal
from urllib.parse import urlsplit

from bridge import codec
from bridge.errors import BridgeError, NotAnswered, StatusError, UnusableReply
from bridge.exchange import Reply, Request
from bridge.redaction import NO_SECRETS, Redactor
from bridge.spec import ErrorSpec, Invisible, Json
from bridge.tool.projection.projection import MAX_STEPS, Projection
from bridge.tool.result.bounds import visible
from bridge.tool.result.content import Result, document, kind_of, projected, text

_LONGEST_MESSAGE: Final = 500
_REASONS: Final = ("error_description", "reason", "description")
"""What explains an ``error`` that is a mere code, as in OAuth (RFC 6749 5.2), CouchDB or RabbitMQ."""

_SENTENCES: Final[Mapping[str, tuple[str, str]]] = {
    "304": ("The API answered that nothing was modified", "It sent nothing else; tell the user."),
    "3xx": ("The API answered with a redirect", "It is not followed; tell the user."),
    "400": ("The API did not understand the request", "Check the arguments."),
    "401": ("The API did not accept this tool's credentials", "Calling again will not help; tell the user."),
    "403": ("Permission denied for this operation", "Calling again will not help; tell the user."),
    "404": ("Resource not found", "Check what the arguments name: look it up, or ask the user."),
    "409": ("The request conflicts with the state of the resource", "Read it again before you decide."),
    "410": ("The resource is gone", "Do not ask for it again."),
    "422": ("The API did not accept these values", "Correct the arguments."),
    "429": ("Too many requests", "Try again later."),
    "4xx": ("The API refused the request", "Check the arguments; if they are right, tell the user."),
    "503": ("The API is not available now", "Try again later."),
    "5xx": ("The API failed", "Try again later; if it goes on, tell the user."),
    "default": ("The API's answer is none that this tool takes for a success", "Tell the user."),
}
"""What happened and what to do, where the tool file has no sentence of its own."""


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
    """The error for a status that is no success: 404 before 4xx before default, ours where all lack.

    ``projections`` holds the compiled ``jmespath`` of ``errors`` under the same keys; ``retry_after``
    is in seconds. The text names the request's path, never its host or query. ``steps`` bounds a
    projection, which may be ``Unfinished``. The reply has no secrets; ``redactor`` is for what a projection
    puts together.
    """
    status = reply.status
    keys = (str(status), f"{status // 100}xx", "default")
    key = next((key for key in keys if key in errors), None)
    spec = errors[key] if key is not None else ErrorSpec()
    said = _selected(reply, spec, projections.get(key or ""), redactor, steps)
    message = _bounded(said, invisible)
    if spec.message is not None:
        sentences = [_ended(spec.message)]
    else:
        what, advice = next(_SENTENCES[key] for key in keys if key in _SENTENCES)
        path = urlsplit(request.url).path[:200]
        sentences = [f"{what}: {request.method} {path} was answered {status}.", advice]
        if destination := _destination(reply):
            sentences.insert(1, f"It leads to {destination}.")
    if retry_after is not None:
        seconds = math.ceil(retry_after)
        sentences.append(f"The API asks to wait {seconds} second{'s' * (seconds != 1)}.")
    if message:
        sentences.append(f"The API says: {message}")
    return StatusError(f"http-{status}", " ".join(sentences), status, retry_after)


def _destination(reply: Reply) -> str | None:
    """Where a redirect leads, without its query, which may hold what nobody else should see."""
    location = reply.headers.get("location", "") if reply.status // 100 == 3 else ""
    return _bounded(re.split("[?#]", location, maxsplit=1)[0])


def upstream_message(reply: Reply) -> str | None:
    """What the upstream says went wrong, at most 500 characters of visible text; None if it says nothing.

    Of JSON: ``detail`` or ``title`` (RFC 9457), else ``error.message``, ``message``, ``error`` with what
    explains it, ``errors``; a plain text is the message itself.
    """
    return _bounded(_upstream_message(reply))


def _upstream_message(reply: Reply) -> Json:
    if reply.media_type == "text/plain":
        return text(reply)
    if kind_of(reply) != "json":
        return None
    try:
        return _message(document(reply))
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
    """An isError result. ``executed`` is for unsafe requests: the status of one that was carried out.

    Of a safe one that was not answered it is said that it changed nothing.

    ``data`` is JSON of what came in spite of the error. ``redactor`` is for the error's own text: the data has no
    secrets.
    """
    words = _shown(str(error), redactor, invisible)
    meta: dict[str, Json] = {"restbridge/error": error.code}
    if isinstance(error, StatusError):
        meta["restbridge/status"] = error.status
    if executed == "unknown":
        words = f"{_ended(words)} It may have been carried out; check before repeating."
    elif isinstance(error, NotAnswered):
        words = f"{_ended(words)} It changed nothing."
    elif executed is not None:
        what = _shown(error.message, redactor, invisible) if isinstance(error, UnusableReply) else words
        words = f"The request was carried out ({executed}). Do not repeat it. {what}"
        meta["restbridge/executed"] = True
    content = [words]
    if data is not None:
        content.append(data)
    return Result([{"type": "text", "text": part} for part in content], is_error=True, meta=meta)


def _shown(message: str, redactor: Redactor, invisible: Invisible) -> str:
    return visible(redactor.text(codec.clean(message)), invisible)


def _ended(sentence: str) -> str:
    return sentence if sentence.endswith((".", "!", "?", "…")) else f"{sentence}."


def _selected(
    reply: Reply, error: ErrorSpec, projection: Projection | None, redactor: Redactor, steps: int
) -> Json:
    if not error.upstream:
        return None
    if projection is None:
        return _upstream_message(reply)
    try:
        return projected(projection, document(reply), redactor, steps=steps)
    except UnusableReply:
        return None


def _message(body: Json) -> Json:
    if not isinstance(body, dict):
        return body if isinstance(body, str) else None
    error = body.get("error")
    nested = error.get("message") if isinstance(error, dict) else None
    why = next((body[key] for key in _REASONS if isinstance(body.get(key), str)), None)
    code = f"{error}: {why}" if isinstance(error, str) and why else error or why
    words = (body.get("detail"), body.get("title"), nested, body.get("message"), code, body.get("errors"))
    return next((word for word in words if word), None)


def _bounded(message: Json, invisible: Invisible = "show") -> str | None:
    """One line; of a value that is no text its JSON, as some frameworks answer lists of problems."""
    if message is None:
        return None
    words = message if isinstance(message, str) else codec.encode(message).decode()
    begin = " ".join(words.split())[: _LONGEST_MESSAGE + 1]
    line = visible(begin, invisible)
    return line if len(line) <= _LONGEST_MESSAGE else f"{line[:_LONGEST_MESSAGE]}…"
