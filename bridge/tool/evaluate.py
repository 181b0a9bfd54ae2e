"""The last step of a call: a reply becomes the result for the model, without secrets and within its bounds.

1. Invisible characters are taken out, if the tool file says so.
2. Secrets are redacted, in all of the reply.
3. A status that the tool does not accept becomes an error.
4. Where the result is JSON, the reply is decoded, projected and validated. If the projection has functions, its result
   is redacted too.
5. The result is limited to ``response.maxBytes``, with the invisible characters that are left as escapes.
"""

from collections.abc import Callable
from typing import Final, Literal, NamedTuple

from bridge.errors import BridgeError, NotAnswered, StatusError, UnusableReply
from bridge.exchange import Reply, Request, retry_after
from bridge.redaction import Redactor
from bridge.spec import Json
from bridge.tool.compiler import Tool
from bridge.tool.projection.projection import MAX_STEPS, QUICK_STEPS, Unfinished, is_nothing
from bridge.tool.result import bounds, content
from bridge.tool.result.content import Result
from bridge.tool.result.errors import error_result, status_error

_QUICK_CHECKPOINTS: Final = 12
"""Parts of a redactor's work that a quick evaluation may do, each of up to a millisecond."""


class Evaluation(NamedTuple):
    """``is_empty``: the projection found nothing but null."""

    result: Result
    is_empty: bool = False


def evaluate(
    tool: Tool,
    request: Request,
    reply: Reply,
    *,
    now: float,
    checkpoint: Callable[[], None] = lambda: None,
    quick: bool = False,
) -> Evaluation:
    """The reply as the tool file wants it seen; raises ``StatusError`` or ``UnusableReply``.

    ``now``, in seconds since 1970, is for a Retry-After header with a date. ``checkpoint`` is called every few
    milliseconds of redaction; what it raises ends the work. ``quick``: raises ``Unfinished`` or ``Unchecked`` where the
    evaluation takes long.
    """
    steps = QUICK_STEPS if quick else MAX_STEPS
    response = tool.spec.response
    redactor = _redactor(tool, reply).watched(_few_checkpoints() if quick else checkpoint)
    if response.invisible == "strip":  # first: what is left could be a secret
        reply = content.strip_reply(reply, steps=steps)
    # Before errors quote the reply, and before a projection can cut a secret in two.
    reply = content.redact_reply(reply, redactor, keeps_base64=response.content == "blocks")
    if not accepts(tool, reply.status):
        raise status_error(
            reply,
            tool.spec.errors,
            tool.error_projections,
            request,
            retry_after=retry_after(reply.headers.get("retry-after", ""), now),
            redactor=redactor,
            invisible=response.invisible,
            steps=steps,
        )
    return _evaluate_accepted(tool, reply, redactor, quick=quick, steps=steps)


def _evaluate_accepted(
    tool: Tool, reply: Reply, redactor: Redactor, *, quick: bool, steps: int
) -> Evaluation:
    """The evaluation of a redacted reply with an accepted status."""
    response = tool.spec.response
    # A reply to HEAD never has content (RFC 9110 9.3.2): its status and headers are the result.
    is_whole = response.from_ == "reply" or tool.spec.request.method == "HEAD"
    narrowing = tool.arguments.optional
    # What is neither projected nor validated need not be JSON.
    if not is_whole and not tool.output and (not tool.projection or not reply.content):
        result = content.reply_result(reply, response, tool=tool.name, narrowing=narrowing, redactor=redactor)
        return Evaluation(result)
    value, is_empty = _projected(tool, reply, redactor, is_whole=is_whole, steps=steps)
    if tool.output is None:
        result = content.value_result(value, response, narrowing=narrowing, redactor=redactor)
    else:
        structured = _structured(tool, value, is_empty=is_empty, quick=quick)
        result = content.structured_result(structured, response, narrowing=narrowing)
    if is_empty:
        result = content.add_empty_note(result, reply.status, safe=tool.read_only)
    return Evaluation(result, is_empty)


def _projected(
    tool: Tool, reply: Reply, redactor: Redactor, *, is_whole: bool, steps: int
) -> tuple[Json, bool]:
    """The value of a redacted reply, projected if the tool has a projection, and whether that found nothing."""
    value = content.reply_document(reply) if is_whole else content.parse_json(reply)
    if not tool.projection:
        return value, False
    value = content.apply_projection(
        tool.projection,
        value,
        redactor,
        steps=steps,
        # With status and headers, the document is larger than the content.
        size=None if is_whole else len(reply.content),
        keeps_base64=tool.spec.response.content == "blocks",
    )
    return value, is_nothing(value)


def _structured(tool: Tool, value: Json, *, is_empty: bool, quick: bool) -> dict[str, Json]:
    """The value as ``structuredContent``; raises ``UnusableReply`` with the value as text."""
    # Called only for a tool with an outputSchema.
    assert tool.output
    try:
        return tool.output.structured(value, quick=quick)
    except UnusableReply as error:
        response = tool.spec.response
        # The model sees the value next to the error, which says what is wrong in it.
        error.data, _ = bounds.json_if_within(value, response.max_bytes, response.invisible)
        error.is_empty = is_empty
        raise


def failure(tool: Tool, error: BridgeError, reply: Reply | None) -> Result:
    """The result of a call that failed, before or after its ``reply``."""
    return error_result(
        error,
        executed=_executed(tool, error, reply),
        data=error.data if isinstance(error, UnusableReply) else None,
        redactor=_redactor(tool, reply),
        invisible=tool.spec.response.invisible,
    )


def accepts(tool: Tool, status: int) -> bool:
    """Whether an HTTP status is a success for the tool."""
    return any(low <= status <= high for low, high in tool.spec.response.valid_status)


def _few_checkpoints() -> Callable[[], None]:
    """Raises ``Unfinished`` once a redactor has done more than other calls can wait for."""
    left = iter(range(_QUICK_CHECKPOINTS))

    def checkpoint() -> None:
        if next(left, None) is None:
            raise Unfinished

    return checkpoint


def _redactor(tool: Tool, reply: Reply | None) -> Redactor:
    """Removes the upstream's secrets, and the tokens that this call was made with."""
    return tool.upstream.redactor(*(reply.secrets if reply else ()))


def _executed(tool: Tool, error: BridgeError, reply: Reply | None) -> int | Literal["unknown"] | None:
    """The status which shows that an unsafe request was carried out, although the call failed.

    A server that failed may have failed half-way, and a gateway does not know (RFC 9110 15.6).
    """
    if tool.read_only:
        return None
    match error:
        case UnusableReply():
            status = reply.status if reply else error.status
            return status if status and accepts(tool, status) else "unknown"
        case NotAnswered() | StatusError(status=408 | 500 | 502 | 504):
            return "unknown"
    return None
