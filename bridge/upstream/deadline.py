"""The deadline of a call: all inner layers end when its time is up."""

import asyncio

from bridge.exchange import Reply
from bridge.upstream.call import AUTHORIZING, Call, Send
from bridge.upstream.http import failures


async def end_at_deadline(call: Call, call_next: Send) -> Reply:
    """Raises ``NotSent`` or ``NotAnswered`` (timeout), which says what the call was doing."""
    try:
        async with asyncio.timeout_at(call.deadline):
            return await call_next(call)
    except TimeoutError as error:  # of the deadline: inner layers turn other ones into errors of their own
        phase, sent = call.progress.phase, call.progress.sent
        # without a token, it is the authorization server that did not answer
        slow = call.upstream.tokens if phase == AUTHORIZING and call.upstream.tokens else call.upstream
        raise failures.out_of_time(slow, phase, sent=sent) from error
