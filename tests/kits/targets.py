"""What is fuzzed. Whatever a target raises is a crash.

Files become specs or findings, arguments a request or a refusal, replies a result or an error, nothing else.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from bridge.diagnostics import InvalidSpec
from bridge.errors import InvalidCall, UnusableReply
from bridge.exchange import Reply
from bridge.secrets import Sources
from bridge.spec import ResponseSpec
from bridge.tool.projection.projection import Projection
from bridge.tool.request.percent import leads_elsewhere
from bridge.tool.request.url_template import Template
from bridge.tool.result.content import Result, document, of_reply, of_value
from bridge.tool.result.errors import upstream_message
from bridge.toolfiles.loader import load
from bridge.toolfiles.watch.scan import Content, Directories, Place
from bridge.upstream.http.decoding import Content as Decoding

_RESPONSE: Final = ResponseSpec.model_validate({"maxBytes": "20kB"})
_PROJECTION: Final = Projection.compile("items[?n > `1`].{id: id, n: n} || keys(@) || @")


def files(data: bytes) -> None:
    for relative in ("a.yaml", "a.upstream.yaml"):
        contents: dict[Place, Content] = {Place(0, relative, "tools.d"): data}
        loaded = load(Directories(("tools.d",)), contents, Sources({}))
        assert all(file.diagnostics or file.state in ("good", "disabled") for file in loaded.files)
        for diagnostic in loaded.diagnostics:
            assert str(diagnostic).isprintable(), diagnostic


def templates(data: bytes) -> None:
    template, _, values = data.partition(b"\0")
    try:
        arguments: Any = json.loads(values)
        parsed = Template.parse(template.decode())
    except (ValueError, InvalidSpec):
        return
    if not isinstance(arguments, dict):
        return
    try:
        url = parsed.expand(arguments)
    except InvalidCall:
        return
    path = url.partition("?")[0]
    assert url.isascii(), url
    assert url.startswith("/"), url
    assert not leads_elsewhere(path), url
    assert not re.search(r"[\x00-\x20\x7f#]", url), url


_TYPES: Final = [
    "application/json",
    "text/plain; charset=utf-16",
    "",
    "application/json; charset=latin1",
    "image/png",
]


def replies(data: bytes) -> None:
    kind, content = data[:1], data[1:]
    if not kind:
        return
    reply = Reply(200, {"content-type": _TYPES[kind[0] % len(_TYPES)]}, content)
    makes: tuple[Callable[[], Result], ...] = (
        lambda: of_reply(reply, _RESPONSE, tool="x"),
        lambda: of_value(_PROJECTION.apply(document(reply)), _RESPONSE),
        lambda: _unpacked(content),
    )
    for make in makes:
        try:
            json.dumps(make().content, allow_nan=False).encode()
        except UnusableReply:
            continue
    upstream_message(reply)


def _unpacked(content: bytes) -> Result:
    """The reply as gzip."""
    reading = Decoding(20_000, "gzip", 200)
    for start in range(0, len(content), 100):
        reading.feed(content[start : start + 100])
    return Result([{"type": "text", "text": reading.finish().decode("latin-1")}])


TARGETS: Final[Mapping[str, Callable[[bytes], None]]] = {
    "files": files,
    "templates": templates,
    "replies": replies,
}
