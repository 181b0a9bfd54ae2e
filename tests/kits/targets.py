"""The fuzz targets. Any exception of a target is a crash.

A file compiles or gets diagnostics. Arguments become a URL or raise ``InvalidCall``. A reply becomes a result or
raises ``UnusableReply``.
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
from bridge.tool.request.percent import has_path_traversal
from bridge.tool.request.query import ClaimedNames
from bridge.tool.request.url_template_parser import parse_url_template
from bridge.tool.result.content import Result, parse_json, reply_result, value_result
from bridge.tool.result.errors import upstream_message
from bridge.toolfiles.loader import load
from bridge.toolfiles.place import Content, Directories, Place
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
        parsed = parse_url_template(template.decode())
    except (ValueError, InvalidSpec):
        return
    if not isinstance(arguments, dict):
        return
    try:
        path = parsed.write_path(arguments)
        query = "&".join(parsed.write_query(arguments, ClaimedNames(frozenset(parsed.query_offsets))))
    except InvalidCall:
        return
    url = f"{path}?{query}" if query else path
    assert url.isascii(), url
    assert url.startswith("/"), url
    assert not has_path_traversal(path), url
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
    converters: tuple[Callable[[], Result], ...] = (
        lambda: reply_result(reply, _RESPONSE, tool="x"),
        lambda: value_result(_PROJECTION.apply(parse_json(reply)), _RESPONSE),
        lambda: _decode_gzip(content),
    )
    for convert in converters:
        try:
            json.dumps(convert().content, allow_nan=False).encode()
        except UnusableReply:
            continue
    upstream_message(reply)


def _decode_gzip(content: bytes) -> Result:
    """Decodes the content as gzip, in chunks."""
    decoder = Decoding(20_000, "gzip", 200)
    for start in range(0, len(content), 100):
        decoder.feed(content[start : start + 100])
    return Result([{"type": "text", "text": decoder.finish().decode("latin-1")}])


TARGETS: Final[Mapping[str, Callable[[bytes], None]]] = {
    "files": files,
    "templates": templates,
    "replies": replies,
}
