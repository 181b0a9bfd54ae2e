import pytest

from bridge.caller import NO_CALLER, Caller, Inbound
from bridge.errors import InvalidCall
from bridge.secrets import Sources
from bridge.spec import ToolSpec, UpstreamSpec
from bridge.tool.compiler import Tool, compile_tool, compile_upstream
from bridge.tool.prepare import prepare


def tool() -> Tool:
    upstream = compile_upstream(
        "shop",
        UpstreamSpec.model_validate(
            {"baseUrl": "http://shop", "auth": {"type": "none"}, "forwardHeaders": ["X-Trace"]}
        ),
        Sources({}),
    )
    spec = ToolSpec.model_validate(
        {
            "description": "Get a product.",
            "upstream": "shop",
            "inputSchema": {
                "properties": {"id": {"type": "integer"}, "lang": {"type": "string", "default": "en"}},
                "required": ["id"],
            },
            "request": {
                "method": "GET",
                "url": "/products/{id}{?lang}",
                "headers": {"X-Caller": "{$caller}"},
            },
        }
    )
    compiled, _ = compile_tool("get_product", spec, upstream, Sources({}))
    return compiled


def test_a_plan_has_the_checked_arguments_with_defaults_and_the_request() -> None:
    inbound = Inbound(Caller("ann"), None, ((b"x-trace", b"t1"), (b"x-other", b"no")))
    plan = prepare(tool(), {"id": 7}, inbound)
    assert plan.arguments == {"id": 7, "lang": "en"}
    assert plan.request.url == "http://shop/products/7?lang=en"
    assert plan.request.headers[-2:] == (("X-Caller", "ann"), ("X-Trace", "t1"))


def test_arguments_that_do_not_fit_are_refused_before_anything_is_built() -> None:
    with pytest.raises(InvalidCall, match="id"):
        prepare(tool(), {"id": "x"}, NO_CALLER)
